"""Trees: a file or a directory below a descriptor as a tar stream, and such a stream made files again.

Stands below `container_copies`, whose two processes are the two ends. Every path is resolved by openat2(2) below the
descriptor, every file is made by its directory's descriptor and its last name: no link leads elsewhere, whoever puts
one there meanwhile. Ruled by docker's `cp`, openat2(2) and tarfile's stream mode.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO, NamedTuple

from minicontainer.errors import Error
from minicontainer.linux.syscalls import openat2

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CHUNK = 1 << 20
LINKS = 40  # that a path may lead through: path_resolution(7)
TYPES = {stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE,
         stat.S_IFIFO: tarfile.FIFOTYPE}  # fmt: skip


class Top(NamedTuple):
    """Where paths begin. `resolve` are the RESOLVE flags of openat2(2)."""

    descriptor: int
    resolve: int = 0

    def open(self, path: str, flags: int) -> int:
        return openat2(self.descriptor, path, flags | os.O_CLOEXEC, resolve=self.resolve)


class How(NamedTuple):
    """How files are made: `owners` as in the archive, or the process's own; `mode` is the bits that they may have."""

    owners: bool = False
    mode: int = 0o7777


# --- to a stream -----------------------------------------------------------------------------------------------------


def is_contents(path: str) -> bool:
    """`DIR/.`: what is in it, and not it."""
    return os.path.basename(path) in (".", "..")


def send(top: Top, path: str, out: BinaryIO, follow: bool = False) -> None:
    """A path as an archive whose names begin with its last name, or with `.` for its contents.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    follow = follow or path.endswith("/") or is_contents(path)
    name = "." if is_contents(path) else os.path.basename(path.rstrip("/")) or "."
    with ExitStack() as undo, tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        found = top.open(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
        undo.callback(os.close, found)
        status = os.fstat(found)
        if stat.S_ISLNK(status.st_mode):
            archive.addfile(_described(name, status, os.readlink("", dir_fd=found)))
        elif stat.S_ISDIR(status.st_mode):
            _send_directory(archive, name, status, top.open(path, os.O_RDONLY | os.O_DIRECTORY))
        else:
            _send_file(archive, name, top.open(path, os.O_RDONLY | os.O_NONBLOCK))


def _send_directory(archive: tarfile.TarFile, name: str, status: os.stat_result, opened: int) -> None:
    """All below it, without recursion: a container makes directories as deep as it likes."""
    seen: dict[tuple[int, int], str] = {}  # files with several names
    archive.addfile(_described(name, status))
    open_ones = [(name, opened, iter(sorted(os.listdir(opened))))]
    try:
        while open_ones:
            above, parent, names = open_ones[-1]
            if (entry := next(names, None)) is None:
                os.close(open_ones.pop()[1])
                continue
            whole = f"{above}/{entry}"
            status = os.stat(entry, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                archive.addfile(_described(whole, status))
                inner = os.open(entry, DIRECTORY, dir_fd=parent)
                open_ones.append((whole, inner, iter(sorted(os.listdir(inner)))))
            elif (first := seen.get((status.st_dev, status.st_ino))) is not None:
                archive.addfile(_hard_link(whole, first))
            else:
                if status.st_nlink > 1:
                    seen[status.st_dev, status.st_ino] = whole
                _send_entry(archive, whole, entry, parent, status)
    finally:
        for _, descriptor, _ in open_ones:
            os.close(descriptor)


def _send_entry(archive: tarfile.TarFile, whole: str, entry: str, parent: int, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        _send_file(archive, whole, os.open(entry, flags, dir_fd=parent))
    elif stat.S_ISLNK(status.st_mode):
        archive.addfile(_described(whole, status, os.readlink(entry, dir_fd=parent)))
    elif not stat.S_ISSOCK(status.st_mode):  # a socket is nothing without its process
        archive.addfile(_described(whole, status))


def _send_file(archive: tarfile.TarFile, name: str, descriptor: int) -> None:
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        archive.addfile(_described(name, status), file if stat.S_ISREG(status.st_mode) else None)


def _described(name: str, status: os.stat_result, link: str = "") -> tarfile.TarInfo:
    kind = TYPES.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        raise Error(f"{name} is a device or a socket, which is not copied")
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, stat.S_IMODE(status.st_mode)
    info.uid, info.gid, info.mtime = status.st_uid, status.st_gid, status.st_mtime_ns / 10**9
    info.size = status.st_size if kind == tarfile.REGTYPE else 0
    return info


def _hard_link(name: str, first: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.LNKTYPE, first
    return info


# --- and back --------------------------------------------------------------------------------------------------------


def receive(top: Top, path: str, stream: BinaryIO, how: How) -> None:
    """What `send` wrote, at `path`: in it where that is a directory, else under its name.

    Raises:
        Error: the archive is none, or ends early; or it cannot be there.
    """
    with _archive(stream) as archive:
        first = archive.next()
        if first is None:
            raise Error("nothing came")
        parent, name = _place(top, path, first)
        try:
            _make_all(archive, first, parent, name, how)
        finally:
            os.close(parent)


def receive_archive(top: Top, path: str, stream: BinaryIO, how: How) -> None:
    """An archive of somebody else's: its entries into the directory `path`."""
    with _archive(stream) as archive:
        directory = top.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _make_all(archive, archive.next(), directory, None, how)
        finally:
            os.close(directory)


@contextmanager
def _archive(stream: BinaryIO) -> Iterator[tarfile.TarFile]:
    """A stream as an archive; what tarfile raises becomes an error of ours, and what is behind the end is read too."""
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            yield archive
    except tarfile.TarError as error:
        raise Error(f"an archive is expected, and whole: {error}") from None
    while stream.read(CHUNK):
        continue


def _place(top: Top, path: str, first: tarfile.TarInfo) -> tuple[int, str]:
    """(the directory, the name in it) that the first entry becomes; "." is the directory itself."""
    for _ in range(LINKS):
        with suppress(NotADirectoryError, FileNotFoundError):
            directory = top.open(path, os.O_RDONLY | os.O_DIRECTORY)
            return directory, first.name
        if path.endswith("/") and not first.isdir():
            raise Error(f"{path} is no directory; try: without the / at its end")
        above, name = os.path.split(path.rstrip("/"))
        parent = top.open(above or "/", os.O_RDONLY | os.O_DIRECTORY)
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return parent, name
        if not stat.S_ISLNK(status.st_mode):
            if first.isdir():
                os.close(parent)
                raise Error(f"{path} is a file, and a directory cannot take its place")
            return parent, name
        path = os.path.join(above, os.readlink(name, dir_fd=parent))
        os.close(parent)
    raise Error(f"{path}: too many links")


def _make_all(archive: tarfile.TarFile, first: tarfile.TarInfo | None, parent: int, name: str | None, how: How) -> None:
    """Each entry below `parent`; the first component of every name becomes `name`, if there is one."""
    root = first.name.split("/")[0] if first is not None and name is not None else None
    directories = []
    while first is not None:
        parts = _parts(first.name, root, name)
        if first.isdir():
            directories.append((parts, first))
        link = _parts(first.linkname, root, name) if first.islnk() else ()
        try:
            _make(archive, first, parent, parts, link, how)
        except OSError as error:
            raise Error(f"{first.name}: {error.strerror}") from None
        first = archive.next()
    for parts, entry in reversed(directories):  # the deepest first: what is made in one changes its time
        with _opened(parent, parts) as directory:
            if parts:
                _dress(directory, entry, how)


def _parts(text: str, root: str | None, name: str | None) -> tuple[str, ...]:
    parts = text.split("/")
    if root is not None and name is not None:
        if parts[0] != root:
            raise Error(f"{text!r} is not below {root!r}, as all of this archive are")
        parts[0] = name
    if ".." in parts:
        raise Error(f"{text!r} leads out of the directory that the archive is for")
    return tuple(part for part in parts if part not in ("", "."))


@contextmanager
def _opened(parent: int, parts: tuple[str, ...]) -> Iterator[int]:
    """The directory of these names below another; what is missing is made, and no link is followed."""
    descriptor = os.dup(parent)
    try:
        for part in parts:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=descriptor)
            inner = os.open(part, DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _make(
    archive: tarfile.TarFile, entry: tarfile.TarInfo, top: int, parts: tuple[str, ...], link: tuple[str, ...], how: How
) -> None:
    if not parts:
        return  # the directory that is there
    with _opened(top, parts[:-1]) as parent:
        name = parts[-1]
        if entry.isreg():
            _make_file(archive, entry, parent, name, how)
            return
        _clear(parent, name, entry.isdir())
        if entry.isdir():
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
        elif entry.issym():
            os.symlink(entry.linkname, name, dir_fd=parent)
            _own(parent, name, entry, how)
        elif entry.islnk():
            with _opened(top, link[:-1]) as other:
                os.link(link[-1], name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
        elif entry.isfifo():
            os.mkfifo(name, entry.mode & how.mode, dir_fd=parent)
            _own(parent, name, entry, how)
        else:
            raise Error(f"{entry.name} is a device, which is not copied")


def _clear(parent: int, name: str, for_directory: bool) -> None:
    """Nothing is in the way: a file or a link goes, a directory stays for a directory."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
        elif not for_directory:
            raise Error(f"{name} is a directory, and a file cannot take its place")


def _make_file(archive: tarfile.TarFile, entry: tarfile.TarInfo, parent: int, name: str, how: How) -> None:
    """Beside it, and then under its name; a file that something is mounted on is written as it is."""
    content = archive.extractfile(entry)
    half = f".{name[:200]}.{os.getpid()}.new"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(half, flags, 0o600, dir_fd=parent)
    try:
        with open(descriptor, "w+b") as file:
            for piece in _pieces(content):
                file.write(piece)
            file.flush()
            _dress(descriptor, entry, how)
            try:
                os.rename(half, name, src_dir_fd=parent, dst_dir_fd=parent)
            except IsADirectoryError:
                raise Error(f"{name} is a directory, and a file cannot take its place") from None
            except OSError as error:
                if error.errno != errno.EBUSY:  # something is mounted on it: /etc/hosts of a container, say
                    raise
                file.seek(0)
                there = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                with open(there, "wb") as mounted:
                    for piece in _pieces(file):
                        mounted.write(piece)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(half, dir_fd=parent)


def _pieces(file: object) -> Iterator[bytes]:
    read = getattr(file, "read", None)
    while read is not None and (piece := read(CHUNK)):
        yield piece


def _dress(descriptor: int, entry: tarfile.TarInfo, how: How) -> None:
    """Owner first: chown(2) takes the set-user-ID bit away."""
    if how.owners:
        os.fchown(descriptor, entry.uid, entry.gid)
    os.fchmod(descriptor, entry.mode & how.mode)
    time = int(entry.mtime * 10**9)
    os.utime(descriptor, ns=(time, time))


def _own(parent: int, name: str, entry: tarfile.TarInfo, how: How) -> None:
    if how.owners:
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    time = int(entry.mtime * 10**9)
    os.utime(name, ns=(time, time), dir_fd=parent, follow_symlinks=False)
