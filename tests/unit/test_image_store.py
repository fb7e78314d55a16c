"""The store: whole blobs, names, garbage, and many processes at a time."""

import fcntl
import hashlib
import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicontainer.errors import Error, ImageNotFound
from minicontainer.image.store import DOCUMENT_LIMIT, Store
from minicontainer.oci import image
from minicontainer.oci.image import LAYER, Descriptor, ImageConfig, InvalidImage, Platform


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "oci"))


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def build(store: Store, name: str, content: bytes = b"layer", **fields: Any) -> Descriptor:
    digest, size = store.put(content)
    layer = Descriptor(media_type=LAYER, digest=digest, size=size)
    config = ImageConfig(**({"architecture": Platform.here().architecture, "diff_ids": (digest,)} | fields))
    descriptor = store.put_image([layer], config)
    store.tag(name, descriptor)
    return descriptor


def test_a_new_store_is_an_empty_oci_layout(store: Store) -> None:
    layout = json.loads(Path(store.root, "oci-layout").read_text())
    assert layout == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(Path(store.root, "index.json").read_text())
    assert (index["schemaVersion"], index["manifests"]) == (2, [])
    assert Store(store.root).names() == []


def test_a_blob_is_kept_under_its_digest(store: Store) -> None:
    digest, size = store.put(b"hello")
    assert (digest, size) == (sha256(b"hello"), 5)
    assert store.has(digest)
    assert store.size(digest) == 5
    assert store.read(digest) == b"hello"
    assert Path(store.blob_path(digest)).stat().st_mode & 0o777 == 0o644
    assert store.put(b"hello") == (digest, size)
    assert os.listdir(store.staging) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_what_is_written_in_pieces_has_the_digest_of_the_whole(store: Store, pieces: list[bytes]) -> None:
    with store.writer() as writer:
        for piece in pieces:
            writer.write(piece)
        digest, size = writer.commit(sha256(b"".join(pieces)), sum(map(len, pieces)))
    assert Path(store.blob_path(digest)).read_bytes() == b"".join(pieces)
    assert size == sum(map(len, pieces))


def test_content_of_another_digest_or_size_is_not_kept(store: Store) -> None:
    for digest, size in ((sha256(b"other"), None), (sha256(b"content"), 3), (None, 8)):
        with store.writer() as writer, pytest.raises(Error):
            writer.write(b"content")
            writer.commit(digest, size)
    assert list(store.digests()) == []
    assert os.listdir(store.staging) == []


def test_a_writer_that_is_not_committed_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.writer() as writer:
        writer.write(b"x")
        raise ZeroDivisionError
    assert os.listdir(store.staging) == []
    with pytest.raises(ValueError, match="aborted"):
        writer.write(b"y")
    with pytest.raises(ValueError, match="aborted"):
        writer.commit()


def test_a_piece_that_was_written_in_part_does_not_count(store: Store) -> None:
    """A disk that is full for a moment: who goes on from the size that was told has the whole."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with store.writer() as writer:
        writer.write(b"x" * 600)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                writer.write(b"y" * 600)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert writer.size == 600
        writer.write(b"y" * 600)
        digest, _ = writer.commit()
    assert store.read(digest) == b"x" * 600 + b"y" * 600


def test_other_algorithms_are_verified_too(store: Store) -> None:
    wanted = "sha512:" + hashlib.sha512(b"x").hexdigest()
    with store.writer("sha512") as writer:
        writer.write(b"x")
        assert writer.commit(wanted)[0] == wanted
    with store.writer() as writer:
        writer.write(b"x")
        assert writer.commit(wanted)[0] == wanted
    assert store.read(wanted) == b"x"


@pytest.mark.parametrize(
    "digest", ["sha256:../../x", "x", "sha256:" + "A" * 64, "md5:" + "a" * 32, "", "../x:" + "a" * 64]
)
def test_a_digest_is_never_a_way_out(store: Store, digest: str) -> None:
    with pytest.raises(InvalidImage):
        store.blob_path(digest)
    with pytest.raises(InvalidImage):
        store.open(digest)


def test_an_absent_blob_is_one_line_with_a_way_out(store: Store) -> None:
    with pytest.raises(Error, match="pull the image again"):
        store.open(sha256(b"nothing"))


def test_a_document_is_verified_when_it_is_read(store: Store) -> None:
    digest, _ = store.put(b"{}")
    Path(store.blob_path(digest)).write_bytes(b"[]")
    with pytest.raises(InvalidImage, match="another digest"):
        store.read(digest)
    large, _ = store.put(b" " * (DOCUMENT_LIMIT + 1))
    with pytest.raises(InvalidImage, match="at most"):
        store.read(large)


def test_an_image_is_found_by_name_reference_and_id(store: Store) -> None:
    descriptor = build(store, "docker.io/library/web:latest")
    config = store.manifest(descriptor).config.digest
    digits = descriptor.digest.removeprefix("sha256:")
    for name in (
        "web",
        "web:latest",
        "docker.io/library/web",
        descriptor.digest,
        digits,
        digits[:8],
        config,
        config[7:19],
    ):
        assert store.resolve(name).digest == descriptor.digest, name
    assert store.resolve(f"web@{descriptor.digest}").digest == descriptor.digest
    for name in ("other", "web:2", "ffff", "sha256:" + "f" * 64, digits[:3], "Not A Name"):
        with pytest.raises(ImageNotFound):
            store.resolve(name)


def test_the_start_of_several_ids_is_ambiguous(store: Store) -> None:
    for number in range(2):
        digest = f"sha256:abcd{str(number) * 60}"
        store.tag(f"x:{number}", Descriptor(media_type=image.MANIFEST, digest=digest, size=1))
    with pytest.raises(Error, match="ambiguous"):
        store.resolve("abcd")
    assert store.resolve("abcd1").digest.endswith("1")


def test_a_name_moves_and_goes(store: Store) -> None:
    first, second = build(store, "a:1", b"1"), build(store, "a:2", b"2")
    store.tag("a:1", second)
    assert [(name, found.digest) for name, found in store.names()] == [("a:1", second.digest), ("a:2", second.digest)]
    store.untag("a:2")
    store.untag("a:2")
    assert [name for name, _ in store.names()] == ["a:1"]
    store.tag("", first)
    store.tag("", first)
    assert len(store.entries()) == 2
    assert store.resolve(first.digest).digest == first.digest
    store.remove(first.digest)
    assert len(store.entries()) == 1


def test_garbage_is_what_no_name_needs(store: Store) -> None:
    kept, gone = build(store, "a:1", b"1"), build(store, "a:2", b"2")
    loose, _ = store.put(b"loose")
    also, _ = store.put(b"also")
    store.untag("a:2")
    garbage = store.collect(also=lambda: [also])
    assert set(garbage) == {gone.digest, store_config(gone, store, garbage), sha256(b"2"), loose}
    assert store.manifest(kept).layers[0].digest == sha256(b"1")
    assert store.has(also)
    assert store.collect() == [also]


def store_config(gone: Descriptor, store: Store, garbage: list[str]) -> str:
    """The digest of the config of an image that is gone: the one that is left over."""
    (config,) = set(garbage) - {gone.digest, sha256(b"2"), sha256(b"loose")}
    return config


def test_what_a_dead_writer_left_is_garbage_and_a_living_one_s_is_not(store: Store) -> None:
    dead = Path(store.staging, "dead")
    dead.write_bytes(b"half")
    with store.writer() as writer:
        writer.write(b"alive")
        store.collect()
        assert not dead.exists()
        digest, _ = writer.commit()
    assert store.has(digest)


def test_garbage_waits_for_sessions_and_a_session_dies_with_its_process(store: Store) -> None:
    child = os.fork()
    if child == 0:
        with store.session():
            store.put(b"not named yet")
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    with open(f"{store.root}/.session.lock", "rb") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert store.collect() == [sha256(b"not named yet")]


def test_many_processes_name_images_at_a_time_and_none_is_lost(store: Store) -> None:
    descriptor = build(store, "seed:1")
    children = []
    for process in range(4):
        if (child := os.fork()) == 0:
            for number in range(10):
                Store(store.root).tag(f"p{process}:{number}", descriptor)
                Store(store.root).put(f"{number}".encode())
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(store.names()) == 41
    assert os.listdir(store.staging) == []


def test_a_killed_writer_leaves_a_store_that_works(store: Store) -> None:
    for _ in range(5):
        if (child := os.fork()) == 0:
            number = 0
            while True:
                build(store, "web:1", os.urandom(50_000), author=str(number))
                number += 1
        time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for digest in store.digests():
            with store.open(digest) as file:
                assert sha256(file.read()) == digest
        for _, descriptor in store.names():
            assert store.config(store.manifest(descriptor)).architecture
    store.collect()
    assert os.listdir(store.staging) == []


def test_an_index_leads_to_the_manifest_for_this_machine(store: Store) -> None:
    descriptor = build(store, "web:1")
    other = Descriptor(media_type=image.MANIFEST, digest=sha256(b"x"), size=1, platform=Platform(architecture="s390x"))
    index = image.Index(manifests=(other, descriptor))
    digest, size = store.put(image.encode(index))
    whole = Descriptor(media_type=image.INDEX, digest=digest, size=size)
    store.tag("multi:1", whole)
    assert store.manifest(whole) == store.manifest(descriptor)
    assert other.digest in store.reachable()
    with pytest.raises(Error, match=r"not for linux/riscv64; it is for .*linux/s390x"):
        store.manifest(whole, Platform(architecture="riscv64"))


def test_an_index_that_names_itself_forever_is_refused(store: Store) -> None:
    descriptor = Descriptor(media_type=image.INDEX, digest=sha256(b"{}"), size=2)
    for _ in range(6):
        digest, size = store.put(image.encode(image.Index(manifests=(descriptor,))))
        descriptor = Descriptor(media_type=image.INDEX, digest=digest, size=size)
    with pytest.raises(InvalidImage, match="an index in an index"):
        store.manifest(descriptor)


def test_a_size_or_type_that_differs_is_refused(store: Store) -> None:
    descriptor = build(store, "web:1")
    with pytest.raises(InvalidImage, match="its descriptor says"):
        store.manifest(descriptor._replace(size=1))
    with pytest.raises(InvalidImage):
        store.manifest(descriptor._replace(media_type=image.INDEX))
    with pytest.raises(InvalidImage, match="not the media type"):
        store.manifest(descriptor._replace(media_type="text/plain"))
    manifest = store.manifest(descriptor)
    with pytest.raises(InvalidImage, match="not the config of a container image"):
        store.config(manifest._replace(config=manifest.config._replace(media_type="application/json")))
