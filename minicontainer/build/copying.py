"""Copying: put what COPY and ADD name into a rootfs.

Between `context` (what is taken) and `builder`. Runs in a forked child that has a mount namespace of its own and has
made the rootfs its root, so every link of the image is resolved inside it. Ruled by the Dockerfile reference, COPY and
ADD; where that is silent, by what BuildKit does.
"""

import bz2  # noqa: F401  tarfile imports these when it meets such an archive, which is too late after chroot(2)
import gzip  # noqa: F401
import io
import json
import lzma
import os
import stat
import tarfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple, NoReturn, cast

from minicontainer.build import file_modes
from minicontainer.build.context import Entry, Source, Tree
from minicontainer.errors import Error
from minicontainer.image.archives import decompressed
from minicontainer.linux.flags import CLONE_NEWNS, MS_PRIVATE, MS_REC
from minicontainer.linux.syscalls import mount, unshare

CHUNK = 1 << 20
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Copy(NamedTuple):
    """Where the sources go and as whose. `keep_owner`: from a stage or an image, whose files have owners."""

    destination: str
    is_directory: bool = False
    owner: str = ""
    mode: str = ""
    keep_owner: bool = False
    extract: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


class Owner(NamedTuple):
    uid: int
    gid: int


def isolated(function: Callable[[], list[str]]) -> list[str]:
    """Call `function` in a child with a mount namespace of its own; what it returns, or the Error it met.

    Raises:
        Error: the function raised Error or OSError; the text is what it said.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reader)
        _run_and_exit(function, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    kind, said = json.loads(answer or b'["bug", ["the child died"]]')
    match kind:
        case "done":
            return list(said)
        case "error":
            raise Error(said[0])
        case _:
            raise RuntimeError(f"in a child of the build:\n{said[0]}")


def _run_and_exit(function: Callable[[], list[str]], writer: int) -> NoReturn:
    try:
        unshare(CLONE_NEWNS)
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        answer = ["done", function()]
    except Error as error:
        answer = ["error", [str(error)]]
    except OSError as error:
        answer = ["error", [f"{error.strerror}: {os.fsdecode(error.filename or '')}".removesuffix(": ")]]
    except BaseException:  # noqa: BLE001 - the edge of a process: the parent raises it again
        answer = ["bug", [traceback.format_exc()]]
    os.write(writer, json.dumps(answer).encode())
    os._exit(0)


def place(taken: list[tuple[Tree, Source]], copy: Copy) -> list[str]:
    """Write the sources; the caller's root is the rootfs. Returns what the user should be told."""
    owner, notices = _owner(copy.owner)
    destination = os.path.realpath(copy.destination)
    if copy.is_directory:
        make_directories(destination, owner)
    elif len(taken) > 1 and not os.path.isdir(destination):
        raise Error(f"{len(taken)} sources match: the destination must be a directory: {copy.destination}/")
    for tree, source in taken:
        if (
            copy.extract
            and not source.is_directory
            and not source.is_packed
            and _extract(tree, source, destination, owner)
        ):
            continue
        target = _target(source, destination)
        make_directories(os.path.dirname(target), owner)
        _place(tree, source, target, copy, None if copy.keep_owner and not copy.owner else owner)
    return notices


def make_workdir(path: str, user: str) -> list[str]:
    """The directory of WORKDIR: if it has to be made, it is the user's."""
    owner, notices = _owner(user)
    make_directories(os.path.realpath(path), owner)
    return notices


def make_directories(path: str, owner: Owner) -> None:
    """The directory and those above it that are missing; those that are there stay as they are."""
    missing = []
    while not os.path.isdir(path):
        if os.path.lexists(path):
            raise Error(f"{path} is not a directory")
        missing.append(path)
        path = os.path.dirname(path)
    for path in reversed(missing):
        os.mkdir(path, 0o755)
        os.chmod(path, 0o755)  # whatever the caller's umask
        os.chown(path, owner.uid, owner.gid)


def _target(source: Source, destination: str) -> str:
    """A directory's content goes into the destination; a file becomes it, or goes into it when it is a directory."""
    if source.is_directory or not os.path.isdir(destination):
        return destination
    return os.path.join(destination, source.name)


def _place(tree: Tree, source: Source, top: str, copy: Copy, owner: Owner | None) -> None:
    later: list[tuple[str, Entry]] = []  # the times of directories, which writing in them changes
    for entry in source.entries:
        target = os.path.join(top, entry.target) if entry.target else top
        if stat.S_ISDIR(entry.mode):
            if not entry.target:  # what is copied is its content: the destination is made as any other, as in BuildKit
                _check_directory(target)
                make_directories(target, owner or Owner(0, 0))
                continue
            _place_directory(target)
            _attributes(target, entry, copy.mode, owner)
            later.append((target, entry))
            continue
        _make_room(target)
        _place_file(tree, entry, target)
        _attributes(target, entry, copy.mode, owner)
        os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
    for target, entry in reversed(later):
        os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))


def _place_directory(target: str) -> None:
    _check_directory(target)
    if not os.path.isdir(target):
        os.mkdir(target)


def _check_directory(target: str) -> None:
    if os.path.lexists(target) and not stat.S_ISDIR(os.lstat(target).st_mode):
        raise Error(f"cannot copy to non-directory: {target}")


def _make_room(target: str) -> None:
    try:
        if stat.S_ISDIR(os.lstat(target).st_mode):
            raise Error(f"cannot replace directory {target} with a file")
        os.unlink(target)
    except FileNotFoundError:
        return


def _place_file(tree: Tree, entry: Entry, target: str) -> None:
    if stat.S_ISLNK(entry.mode):
        os.symlink(entry.link, target)
    elif stat.S_ISREG(entry.mode):
        _copy_content(tree.open(entry), target)
    elif stat.S_ISFIFO(entry.mode):
        os.mkfifo(target)
    else:
        raise Error(f"{entry.source} is a device: it cannot be copied")


def _copy_content(source: int, path: str) -> None:
    try:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while os.sendfile(target, source, None, CHUNK):  # None: from where the file stands
                continue
        except OSError as error:
            error.filename = path  # a full disk: say where
            raise
        finally:
            os.close(target)
    finally:
        os.close(source)


def _attributes(target: str, entry: Entry, mode: str, owner: Owner | None) -> None:
    uid, gid = (entry.uid, entry.gid) if owner is None else owner
    os.chown(target, uid, gid, follow_symlinks=False)
    if not stat.S_ISLNK(entry.mode):  # after chown(2), which clears the setuid bit
        own = stat.S_IMODE(entry.mode)
        os.chmod(target, file_modes.changed(mode, own, stat.S_ISDIR(entry.mode)) if mode else own)


# --- owners ----------------------------------------------------------------------------------------------------------


def _owner(text: str) -> tuple[Owner, list[str]]:
    """`user`, `user:group` as numbers or names of the image; an unknown name is root, as in BuildKit, with a notice."""
    if not text:
        return Owner(0, 0), []
    user, _, group = text.partition(":")
    uid, own_group, notices = _lookup("/etc/passwd", user)
    if not group:
        return Owner(uid, own_group if not user.isdigit() else uid), notices
    gid, _, more = _lookup("/etc/group", group)
    return Owner(uid, gid), notices + more


def _lookup(path: str, name: str) -> tuple[int, int, list[str]]:
    """(number, the fourth field when it is a number, notices) of a line in the image's passwd or group file."""
    if name.isdigit():
        return int(name), 0, []
    if os.path.isfile(path):
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.rstrip("\n").split(":")
                if fields[0] == name and len(fields) > 3 and fields[2].isdigit():
                    return int(fields[2]), int(fields[3]) if fields[3].isdigit() else 0, []
    return 0, 0, [f"{name} is not in the image's {path}: root is meant"]


# --- archives --------------------------------------------------------------------------------------------------------


def _extract(tree: Tree, source: Source, destination: str, owner: Owner) -> bool:
    """Unpack a local archive, known by its content, into the destination; False when it is none."""
    with open(tree.open(source.entries[0]), "rb") as file:
        is_zstd = file.read(4) == ZSTD_MAGIC
        file.seek(0)
        return unpack(file, source.name, destination, owner, is_zstd)


def load_zstd(taken: list[tuple[Tree, Source]], copy: Copy) -> None:
    """Before chroot(2): a library that an archive needs cannot be loaded after it."""
    for tree, source in taken if copy.extract else ():
        if not source.is_directory and stat.S_ISREG(source.entries[0].mode):
            with open(tree.open(source.entries[0]), "rb") as file:
                if file.read(4) == ZSTD_MAGIC:
                    decompressed(io.BytesIO(ZSTD_MAGIC))


def unpack(file: IO[bytes], name: str, destination: str, owner: Owner = Owner(0, 0), is_zstd: bool = False) -> bool:
    """Unpack an archive into the destination, which is in the caller's root; False when it is none."""
    try:
        if is_zstd:
            archive = tarfile.open(fileobj=cast(IO[bytes], decompressed(file)), mode="r|")
        else:
            archive = tarfile.open(fileobj=file, mode="r:*")
    except tarfile.TarError:
        return False
    with archive:
        make_directories(destination, owner)
        archive.extraction_filter = staticmethod(lambda member, _: member)  # we are in the rootfs: nothing escapes
        try:
            archive.extractall(destination, members=_members(archive, destination), numeric_owner=True)
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise Error(f"{name}: the archive is damaged: {error}") from None
    return True


def _members(archive: tarfile.TarFile, destination: str) -> Iterator[tarfile.TarInfo]:
    """The members with their names below the destination, each with room made for it."""
    for member in archive:
        member.name = os.path.normpath(f"/{member.name}").lstrip("/") or "."
        if member.islnk():
            member.linkname = os.path.normpath(f"/{member.linkname}").lstrip("/")
        target = os.path.join(destination, member.name)
        if os.path.lexists(target) and not (member.isdir() and os.path.isdir(target)):
            _make_room(target)
        yield member
