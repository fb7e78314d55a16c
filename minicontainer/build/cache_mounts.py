"""Cache mounts: the directories of `RUN --mount=type=cache`, kept from one build to the next.

Beside `cache`, which keeps layers: these are no part of any image. One directory a cache, with copies in it
numbered from 0: DATA/cache/build/mounts/KEY/N. Who uses a copy holds its lock, shared or alone as `sharing` asks; a
lock is a flock(2), which dies with its holder. Pruning takes only what nobody holds.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from minicontainer import files


class CacheMount(NamedTuple):
    """A cache that is there: what it is called, its directory, and when it was last used."""

    id: str
    directory: str
    used: float


def key(id: str, *first: object) -> str:  # noqa: A002 - the Dockerfile's word
    """The directory's name: by the id, and by what the cache begins with, so that no two beginnings are mixed."""
    return hashlib.sha256(json.dumps([id, *first]).encode()).hexdigest()[:32]


@contextmanager
def held(data: str, key: str, id: str, sharing: str, fill: Callable[[str], None]) -> Iterator[str]:  # noqa: A002
    """The directory of a cache as long as it is used; `fill` makes its content when it is new."""
    parent = f"{_root(data)}/{key}"
    lock, directory = _lock(parent, sharing)
    try:
        if not os.path.isdir(directory):
            with files.lock(f"{parent}/filling"):
                if not os.path.isdir(directory):
                    _fill(directory, fill)
        files.write(f"{parent}/id", id.encode())
        os.utime(parent)  # when it was used
        yield directory
    finally:
        os.close(lock)


def _fill(directory: str, fill: Callable[[str], None]) -> None:
    files.remove_tree(f"{directory}.new")  # of one who died: we hold the lock
    os.mkdir(f"{directory}.new")
    fill(f"{directory}.new")
    os.rename(f"{directory}.new", directory)


def _lock(parent: str, sharing: str) -> tuple[int, str]:
    """A held lock and its copy: `shared` and `locked` take copy 0, `private` the first that nobody uses."""
    number = 0
    while True:
        os.makedirs(parent, mode=0o700, exist_ok=True)
        try:
            lock = os.open(f"{parent}/{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # it was pruned just now
            continue
        try:
            alone = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
            fcntl.flock(lock, alone | (fcntl.LOCK_NB if sharing == "private" else 0))
        except BlockingIOError:
            os.close(lock)
            number += 1
            continue
        except BaseException:
            os.close(lock)
            raise
        if _is_still(lock, f"{parent}/{number}.lock"):
            return lock, f"{parent}/{number}"
        os.close(lock)  # it was pruned while we waited: begin again


def _is_still(lock: int, path: str) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock), os.stat(path))
    return False


def caches(data: str) -> list[CacheMount]:
    """What is there, the longest unused first."""
    found = []
    with suppress(FileNotFoundError):
        for name in os.listdir(_root(data)):
            parent = f"{_root(data)}/{name}"
            with suppress(FileNotFoundError), open(f"{parent}/id", encoding="utf-8") as file:
                found.append(CacheMount(id=file.read(), directory=parent, used=os.stat(parent).st_mtime))
    return sorted(found, key=lambda cache: (cache.used, cache.directory))


def remove(cache: CacheMount) -> bool:
    """Remove a cache; False when somebody uses it."""
    locks: list[int] = []
    try:
        for name in os.listdir(cache.directory):
            if name.endswith(".lock"):
                locks.append(os.open(f"{cache.directory}/{name}", os.O_RDWR | os.O_CLOEXEC))
                fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(cache.directory)
        return True
    except BlockingIOError:
        return False
    finally:
        for lock in locks:
            os.close(lock)


def _root(data: str) -> str:
    return f"{data}/cache/build/mounts"
