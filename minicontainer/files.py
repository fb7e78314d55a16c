"""Files: write all or nothing, lock a directory, remove a tree.

Stands on the ground; every module that keeps something on disk uses it. Ruled by rename(2), fsync(2), flock(2).
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def write(path: str, data: bytes, mode: int = 0o600, durable: bool = False) -> None:
    """Replace the file `path` by `data`: a reader sees the old content or the new, never a half.

    With `durable`, the content and the name are on the disk when this returns.

    Raises:
        OSError: a full disk, say; the old content is still there.
    """
    temporary = f"{path}.{os.getpid()}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename = error.filename or path
        raise
    if durable:
        sync_directory(os.path.dirname(path) or ".")


def reserve(path: str, size: int) -> None:
    """Have a file take `size` bytes of the disk, for whoever removes it on the day that the disk is full."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size < size:
            os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    """Names made, renamed or removed in `path` are on the disk when this returns: fsync(2), NOTES."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: str, root: str) -> None:
    """Make `path`, below the directory `root`, with all on the way; on the disk when this returns."""
    missing = []
    while path != root and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        os.makedirs(directory, exist_ok=True)
        sync_directory(os.path.dirname(directory))


@contextmanager
def lock(path: str, shared: bool = False) -> Iterator[int]:
    """Hold flock(2) on `path` (made if absent), by this descriptor. It dies with its holder, also after kill -9."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def is_locked(path: str) -> bool:
    """Whether somebody holds the lock of a file; it dies with its holder. An absent file has none: flock(2)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove_tree(path: str) -> None:
    """Remove a directory and all below it, following no symbolic link; an absent one is no error."""
    with suppress(FileNotFoundError):
        _remove_children(os.fsencode(path))
        os.rmdir(path)


def _remove_children(path: bytes) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        pending = [(directory, _names(directory))]
        while pending:
            parent, names = pending[-1]
            if not names:
                pending.pop()
                if pending:
                    os.close(parent)
                    os.rmdir(pending[-1][1].pop(), dir_fd=pending[-1][0])
                continue
            try:
                os.unlink(names[-1], dir_fd=parent)
                names.pop()
            except FileNotFoundError:
                names.pop()
            except (IsADirectoryError, PermissionError):
                child = os.open(names[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                pending.append((child, _names(child)))
    finally:
        os.close(directory)


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


class Descriptors:
    """What is open for a while; closed at the end, whatever happens."""

    def __init__(self) -> None:
        self._opened: set[int] = set()

    def add(self, descriptor: int) -> int:
        self._opened.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        self._opened.discard(descriptor)
        os.close(descriptor)

    def __enter__(self) -> "Descriptors":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._opened:
            os.close(descriptor)
