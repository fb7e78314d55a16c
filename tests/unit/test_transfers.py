"""Transfers: several blobs at once; one that fails stops the others; what is told is told by one thread."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.image.store import Store
from minicontainer.oci.image import LAYER, Descriptor, Platform
from minicontainer.registry.distribution import Registry, RegistryError
from minicontainer.registry.transfers import AT_ONCE, Transfer, each


def blob(number: int) -> Descriptor:
    data = b"%d" % number
    return Descriptor(LAYER, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


@pytest.fixture
def transfer(tmp_path: Path) -> Iterator[Transfer]:
    with Registry("127.0.0.1:1") as registry:
        yield Transfer(Store(str(tmp_path)), registry, "web", lambda *_: None)


def test_every_blob_goes_once_however_often_it_is_named(transfer: Transfer) -> None:
    gone: list[str] = []
    arrived: list[str] = []
    blobs = [blob(number % 7) for number in range(20)]
    each(
        transfer, blobs, lambda _, one: gone.append(one.digest), lambda one: arrived.append(one.digest) if one else None
    )
    assert sorted(gone) == sorted({one.digest for one in blobs})
    assert sorted(arrived) == sorted(gone)


def test_nothing_to_do_is_done(transfer: Transfer) -> None:
    each(transfer, [], lambda *_: None)


def test_blobs_go_at_the_same_time_and_are_told_by_the_caller(transfer: Transfer) -> None:
    together = threading.Barrier(AT_ONCE)
    told: set[int] = set()
    before = threading.active_count()

    def go(own: Transfer, one: Descriptor) -> None:
        together.wait(20)
        own.progress("download", one.digest, 1, 1)

    transfer.progress = lambda *_: told.add(threading.get_ident())
    each(transfer, [blob(number) for number in range(AT_ONCE)], go)
    assert told == {threading.get_ident()}
    assert threading.active_count() == before


def test_the_first_failure_ends_all(transfer: Transfer) -> None:
    begun: list[str] = []

    def go(own: Transfer, one: Descriptor) -> None:
        begun.append(one.digest)
        if len(begun) == 2:
            raise Error("no")
        while True:  # until it is interrupted
            own.registry.pause(1)
            own.registry.request("GET", "/")

    before = time.monotonic()
    with pytest.raises(Error, match=r"^no$|nobody listens|interrupted"):
        each(transfer, [blob(number) for number in range(50)], go)
    assert len(begun) <= AT_ONCE + 2
    assert time.monotonic() - before < 30


def test_who_is_told_may_fail_too(transfer: Transfer) -> None:
    def arrived(_: Descriptor | None) -> None:
        raise RegistryError("there", "is no room")

    with pytest.raises(RegistryError, match="registry there: is no room"):
        each(transfer, [blob(1)], lambda *_: None, arrived)


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/arm64", Platform("arm64")),
        ("linux/aarch64", Platform("arm64")),
        ("linux/arm/v7", Platform("arm", "linux", "v7")),
        ("x86_64", Platform("amd64")),
        ("Windows/AMD64", Platform("amd64", "windows")),
    ],
)
def test_platforms_are_read_as_people_write_them(text: str, platform: Platform) -> None:
    assert Platform.parse(text) == platform


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux/arm 64", "../x"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(Error, match="is not OS/ARCHITECTURE"):
        Platform.parse(text)
