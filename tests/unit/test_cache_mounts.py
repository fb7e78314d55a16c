"""cache_mounts: kept between builds, filled once, locked as asked, and removed when nobody uses it."""

import os
import threading
from pathlib import Path

import pytest

from minicontainer.build import cache_mounts


def fill(directory: str) -> None:
    Path(directory, "filled").touch()


def test_a_cache_is_filled_once_and_kept(tmp_path: Path) -> None:
    data, key = str(tmp_path), cache_mounts.key("id")
    with cache_mounts.held(data, key, "id", "shared", fill) as directory:
        Path(directory, "mine").touch()
    with cache_mounts.held(data, key, "id", "locked", pytest.fail) as again:
        assert again == directory
        assert sorted(os.listdir(again)) == ["filled", "mine"]


def test_another_beginning_is_another_cache() -> None:
    keys = [
        cache_mounts.key("id"),
        cache_mounts.key("id", "stage"),
        cache_mounts.key("id", "", 0o755),
        cache_mounts.key("x"),
    ]
    assert len(set(keys)) == 4
    assert cache_mounts.key("id", "stage") == keys[1]


def test_a_cache_that_could_not_be_filled_is_not_there(tmp_path: Path) -> None:
    def broken(directory: str) -> None:
        fill(directory)
        raise OSError("disk full")

    data, key = str(tmp_path), cache_mounts.key("id")
    with pytest.raises(OSError, match="disk full"), cache_mounts.held(data, key, "id", "shared", broken):
        raise AssertionError("it was given out")
    with cache_mounts.held(data, key, "id", "shared", fill) as directory:
        assert os.listdir(directory) == ["filled"]


def test_private_caches_are_each_ones_own_and_used_again(tmp_path: Path) -> None:
    data, key = str(tmp_path), cache_mounts.key("id")
    with (
        cache_mounts.held(data, key, "id", "private", fill) as one,
        cache_mounts.held(data, key, "id", "private", fill) as two,
    ):
        assert [os.path.basename(path) for path in (one, two)] == ["0", "1"]
    with cache_mounts.held(data, key, "id", "private", pytest.fail) as again:
        assert again == one


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [
        ("shared", "shared", False),
        ("shared", "locked", True),
        ("locked", "shared", True),
        ("locked", "locked", True),
        ("locked", "private", False),
    ],
)
def test_who_waits_for_whom(tmp_path: Path, first: str, second: str, waits: bool) -> None:
    data, key, entered = str(tmp_path), cache_mounts.key("id"), threading.Event()

    def enter() -> None:
        with cache_mounts.held(data, key, "id", second, fill):
            entered.set()

    thread = threading.Thread(target=enter, daemon=True)
    with cache_mounts.held(data, key, "id", first, fill):
        thread.start()
        assert entered.wait(0.2 if waits else 20) is not waits
    assert entered.wait(20)
    thread.join(20)


def test_a_cache_in_use_is_not_removed(tmp_path: Path) -> None:
    data, key = str(tmp_path), cache_mounts.key("id")
    with cache_mounts.held(data, key, "the id", "shared", fill):
        [cache] = cache_mounts.caches(data)
        assert (cache.id, cache_mounts.remove(cache)) == ("the id", False)
    assert cache_mounts.remove(cache)
    assert cache_mounts.caches(data) == []
    with cache_mounts.held(data, key, "id", "shared", fill) as directory:
        assert os.listdir(directory) == ["filled"]


def test_the_longest_unused_comes_first(tmp_path: Path) -> None:
    data = str(tmp_path)
    for number, name in enumerate("abc"):
        with cache_mounts.held(data, cache_mounts.key(name), name, "shared", fill) as directory:
            pass
        os.utime(os.path.dirname(directory), (number, number))
    assert [cache.id for cache in cache_mounts.caches(data)] == ["a", "b", "c"]
    with cache_mounts.held(data, cache_mounts.key("a"), "a", "shared", fill):
        pass
    assert [cache.id for cache in cache_mounts.caches(data)] == ["b", "c", "a"]
