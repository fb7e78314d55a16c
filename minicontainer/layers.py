"""Layers: apply a changeset to a directory, and make one from an overlay's upper directory.

Stands between `store` (blobs) and `snapshots` (mounts). Ruled by image-spec, layer.md, and by the kernel's
overlayfs.rst, whose form the directories have: a whiteout is a character device 0:0, and an opaque directory has the
xattr trusted.overlay.opaque.

A layer is hostile input. Every path is walked from the directory's own descriptor, component by component, without
letting the kernel follow a symbolic link: a link in the middle is read and walked from the root of the layer, as it
would be in the container. The last component is never followed. So nothing outside the directory is ever named.
"""

import errno
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, cast

from minicontainer import archives
from minicontainer.archives import InvalidLayer, Reader
from minicontainer.files import remove_tree
from minicontainer.linux import syscalls
from minicontainer.linux.flags import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from minicontainer.oci import image
from minicontainer.overlays import OPAQUE as OPAQUE_XATTR

CHUNK = 1 << 20
WHITEOUT, OPAQUE, METADATA = b".wh.", b".wh..wh..opq", b".wh..wh."  # layer.md; the last is aufs' own, to be ignored
LINKS = 40  # symbolic links followed in one path: path_resolution(7)
DEPTH, PATH_MAX = 500, 4096  # so that what is made can be named, and removed with a descriptor for each level
MEDIA_TYPES = frozenset(image.LAYERS) | {
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
}
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Path = tuple[bytes, ...]


def chain_id(diff_ids: Sequence[str]) -> str:
    """What identifies a stack of layers: config.md, Layer ChainID."""
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
    return chain


def decompress(media_type: str, stream: Reader) -> Reader:
    """The tar stream in a blob. What it begins with decides on the compression: images in the wild mislabel it."""
    if media_type not in MEDIA_TYPES:
        raise InvalidLayer(media_type, "is not the media type of a layer")
    return archives.decompressed(stream)


# Apply


def apply(stream: Reader, directory: str, lowers: Sequence[str] = ()) -> None:
    """Unpack a changeset, an uncompressed tar `stream`, in the empty `directory`.

    `lowers` are the unpacked layers below, the topmost first: a directory that the changeset only implies (`tmp/x`
    without `tmp`) gets its owner and mode from them, for overlay shows those of the topmost layer.

    Raises:
        InvalidLayer: the changeset is not one; what is unpacked so far is in the directory and nowhere else.
    """
    applier = _Applier(directory, lowers)
    try:
        for archive, member in archives.members(stream):
            applier.apply(archive, member)
        applier.finish()
    except tarfile.TarError as error:
        raise InvalidLayer(os.path.basename(directory), str(error)) from error
    finally:
        applier.close()


class _Attributes(NamedTuple):
    """What is left to set on a directory when its contents are there."""

    mode: int
    times: tuple[int, int]


class _Applier:
    """The state of one `apply`: the root's descriptor, the directory of the last entry, and what is due at the end."""

    def __init__(self, directory: str, lowers: Sequence[str]) -> None:
        self._root = os.open(directory, DIRECTORY)
        self._lowers = lowers
        self._last: tuple[Path, int, Path] = ((), self._root, ())  # as named, its descriptor, its real path
        self._whiteouts: set[Path] = set()
        self._directories: dict[Path, _Attributes] = {}
        self._imply((), self._root)

    def close(self) -> None:
        self._forget_last()
        os.close(self._root)

    def apply(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = archives.components(member.name)
        if not path:
            if not member.isdir():
                raise InvalidLayer(member.name, "the root is not a directory")
            self._set_directory((), self._root, member)
            return
        parent, real = self._parent(path[:-1])
        name = path[-1]
        if name == OPAQUE:
            os.setxattr(parent, OPAQUE_XATTR, b"y")
        elif name.startswith(METADATA):
            return
        elif name.startswith(WHITEOUT):
            self._white_out(parent, (*real, name.removeprefix(WHITEOUT)), member)
        elif member.isdir():
            self._set_directory((*real, name), self._make_directory(parent, (*real, name)), member)
        else:
            self._make_other(archive, member, parent, (*real, name))

    def finish(self) -> None:
        """Modes and times of directories, the deepest first: a content's arrival changes the time of what holds it."""
        for path in sorted(self._directories, key=len, reverse=True):
            with suppress(FileNotFoundError, NotADirectoryError):  # replaced by a later entry of the layer
                directory = self._open_real(path)
                try:
                    os.fchmod(directory, self._directories[path].mode)
                    os.utime(directory, ns=self._directories[path].times)
                finally:
                    os.close(directory)

    # Walking

    def _parent(self, path: Path) -> tuple[int, Path]:
        """The directory at `path`, made when absent, and its path without symbolic links."""
        if self._last[0] != path:
            self._forget_last()
            directory, real = self._walk(path)
            self._last = (path, directory, real)
        return self._last[1], self._last[2]

    def _forget_last(self) -> None:
        if self._last[1] != self._root:
            os.close(self._last[1])
        self._last = ((), self._root, ())

    def _walk(self, path: Path, make: bool = True) -> tuple[int, Path]:
        """Open the directory at `path`, following symbolic links inside the layer as the container would."""
        pending, real, links = list(reversed(path)), list[bytes](), 0
        directory = os.dup(self._root)
        try:
            while pending:
                part = pending.pop()
                if part in (b"", b"."):
                    continue
                if part == b"..":
                    real = real[:-1]
                    directory = _swap(directory, self._open_real(tuple(real)))
                    continue
                target = _read_link(part, directory)
                if target is None:
                    directory = _swap(directory, self._enter(directory, (*real, part), make))
                    real.append(part)
                    continue
                links += 1
                if links > LINKS:
                    raise InvalidLayer(b"/".join(path), os.strerror(errno.ELOOP))
                pending += reversed(target.split(b"/"))
                if target.startswith(b"/"):
                    real = []
                    directory = _swap(directory, os.dup(self._root))
        except BaseException:
            os.close(directory)
            raise
        return directory, tuple(real)

    def _enter(self, parent: int, path: Path, make: bool) -> int:
        try:
            return os.open(path[-1], DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
        except NotADirectoryError:
            if not make or path not in self._whiteouts:
                raise InvalidLayer(b"/".join(path), "has entries below it and is not a directory") from None
        directory = self._make_directory(parent, path)
        self._imply(path, directory)
        return directory

    def _imply(self, path: Path, directory: int) -> None:
        """Attributes of a directory that no entry describes (yet): those of the topmost layer below that has it."""
        owner, attributes = (0, 0), _Attributes(mode=0o755, times=(0, 0))
        for lower in self._lowers:
            found = _status_in(lower, path)
            if found is not None:
                if stat.S_ISDIR(found.st_mode):
                    owner = (found.st_uid, found.st_gid)
                    attributes = _Attributes(stat.S_IMODE(found.st_mode), (found.st_mtime_ns, found.st_mtime_ns))
                break
        os.fchown(directory, *owner)
        self._directories[path] = attributes

    def _open_real(self, path: Path) -> int:
        """Open a path that had no symbolic links; should it have got one since, that is NotADirectoryError."""
        resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
        try:
            return syscalls.openat2(self._root, b"/".join(path) or b".", DIRECTORY, resolve=resolve)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), b"/".join(path)) from error
            raise

    # Making

    def _white_out(self, parent: int, path: Path, member: tarfile.TarInfo) -> None:
        """Hide what lower layers have at `path`; an entry of the layer itself stays, whichever comes first."""
        if path[-1] in (b"", b".", b".."):
            raise InvalidLayer(member.name, "a whiteout of nothing")
        self._whiteouts.add(path)
        try:
            os.mknod(path[-1], stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:
            with suppress(NotADirectoryError):
                self._make_opaque(parent, path[-1])

    def _make_opaque(self, parent: int, name: bytes) -> None:
        directory = os.open(name, DIRECTORY, dir_fd=parent)
        try:
            os.setxattr(directory, OPAQUE_XATTR, b"y")
        finally:
            os.close(directory)

    def _make_directory(self, parent: int, path: Path) -> int:
        """Make or keep the directory, and open it. One that takes the place of a whiteout shows nothing from below."""
        found = _status(path[-1], parent)
        if path[-1].startswith(WHITEOUT):
            raise InvalidLayer(b"/".join(path), "a directory with the name of a whiteout")
        if len(path) > DEPTH or sum(map(len, path)) + len(path) > PATH_MAX:
            raise InvalidLayer(b"/".join(path), "a path too deep or too long")
        if found is None or not stat.S_ISDIR(found.st_mode):
            if found is not None:
                self._remove(parent, path)
            os.mkdir(path[-1], 0o700, dir_fd=parent)
            if path in self._whiteouts:
                self._make_opaque(parent, path[-1])
        return os.open(path[-1], DIRECTORY, dir_fd=parent)

    def _set_directory(self, path: Path, directory: int, member: tarfile.TarInfo) -> None:
        try:
            os.fchown(directory, member.uid, member.gid)
            archives.set_xattrs(directory, member)
            self._directories[path] = _Attributes(mode=member.mode & 0o7777, times=archives.times(member))
        finally:
            if directory != self._root:
                os.close(directory)

    def _make_other(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, path: Path) -> None:
        """A file, link, device or FIFO; the last entry of a name wins."""
        if member.islnk():
            self._link(parent, path, member)
            return
        self._remove(parent, path)
        name = path[-1]
        if member.issym():
            os.symlink(os.fsencode(member.linkname), name, dir_fd=parent)
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            archives.set_xattrs(f"/proc/self/fd/{parent}/{os.fsdecode(name)}", member)
            os.utime(name, ns=archives.times(member), dir_fd=parent, follow_symlinks=False)
        elif member.ischr() or member.isblk() or member.isfifo():
            _make_node(parent, name, member)
        else:
            _make_file(archive, member, parent, name)

    def _link(self, parent: int, path: Path, member: tarfile.TarInfo) -> None:
        target = archives.components(member.linkname)
        if not target:
            raise InvalidLayer(member.name, "a hard link to the root")
        try:
            directory, real = self._walk(target[:-1], make=False)
        except FileNotFoundError:
            raise InvalidLayer(
                member.name, f"a hard link to {member.linkname!r}, which the layer does not have"
            ) from None
        try:
            source = (*real, target[-1])
            found = _status(target[-1], directory)
            if found is None or stat.S_ISDIR(found.st_mode) or (source in self._whiteouts and _is_whiteout(found)):
                raise InvalidLayer(member.name, f"a hard link to {member.linkname!r}, which is no file of the layer")
            if source == path:
                return
            self._remove(parent, path)
            os.link(target[-1], path[-1], src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(directory)

    def _remove(self, parent: int, path: Path) -> None:
        """Make room for an entry of a name that the layer has used before."""
        try:
            os.unlink(path[-1], dir_fd=parent)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            # the name in the opened directory, not followed: nothing else writes here while the layer is made
            remove_tree(f"/proc/self/fd/{parent}/{os.fsdecode(path[-1])}")
            for below in [known for known in self._directories if known[: len(path)] == path]:
                del self._directories[below]


def _swap(old: int, new: int) -> int:
    os.close(old)
    return new


def _read_link(name: bytes, directory: int) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except (FileNotFoundError, OSError) as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):  # not a link; not there
            return None
        raise


def _status(name: bytes, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _status_in(lower: str, path: Path) -> os.stat_result | None:
    """What an unpacked layer has at a real path; nothing when a component on the way is not a directory."""
    top = os.open(lower, DIRECTORY)
    try:
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        found = syscalls.openat2(top, b"/".join(path) or b".", flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    finally:
        os.close(top)
    try:
        return os.fstat(found)
    finally:
        os.close(found)


def _make_file(archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=parent)
    try:
        content = cast(
            io.RawIOBase, cast(Any, archive.extractfile(member)).raw
        )  # a stream cannot seek back for a buffer
        sparse: list[tuple[int, int]] | None = getattr(member, "sparse", None)
        for offset, size in sparse if sparse is not None else [(0, member.size)]:
            content.seek(offset)
            os.lseek(descriptor, offset, os.SEEK_SET)
            _copy(content, descriptor, size, member)
        if sparse is not None:
            os.ftruncate(descriptor, member.size)
        os.fchown(descriptor, member.uid, member.gid)
        os.fchmod(descriptor, member.mode & 0o7777)  # after chown, which takes setuid away: chown(2)
        archives.set_xattrs(descriptor, member)  # after chown as well, which takes security.capability away
        os.utime(descriptor, ns=archives.times(member))
    finally:
        os.close(descriptor)


def _copy(content: io.RawIOBase, descriptor: int, size: int, member: tarfile.TarInfo) -> None:
    while size:
        data = content.read(min(size, CHUNK))
        if not data:
            raise InvalidLayer(member.name, "the archive ends in the middle of the file")
        size -= len(data)
        while data:
            data = data[os.write(descriptor, data) :]


def _make_node(parent: int, name: bytes, member: tarfile.TarInfo) -> None:
    kind = stat.S_IFIFO if member.isfifo() else stat.S_IFCHR if member.ischr() else stat.S_IFBLK
    if not (0 <= member.devmajor < 1 << 12 and 0 <= member.devminor < 1 << 20):
        raise InvalidLayer(member.name, f"device {member.devmajor}:{member.devminor} is out of range")
    device = 0 if member.isfifo() else os.makedev(member.devmajor, member.devminor)
    os.mknod(name, kind | 0o600, device, dir_fd=parent)
    os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
    os.chmod(name, member.mode & 0o7777, dir_fd=parent)  # follows links, and this is none: mknod has just made it
    archives.set_xattrs(f"/proc/self/fd/{parent}/{os.fsdecode(name)}", member)
    os.utime(name, ns=archives.times(member), dir_fd=parent, follow_symlinks=False)


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


# Diff


def diff(upper: str, write: BinaryIO) -> None:
    """Write the changeset that an overlay's upper directory holds, as an uncompressed tar, in the order of the names.

    The same directory gives the same bytes. Ids are those on disk; overlay's own xattrs are left out; sockets as well,
    which no archive can hold. The root itself is not in it, as in docker's.

    Raises:
        InvalidLayer: a file has a name that would be taken for a whiteout.
    """
    archive = tarfile.open(fileobj=write, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK, encoding="utf-8")
    first_names: dict[tuple[int, int], str] = {}
    top = os.open(upper, DIRECTORY)
    try:
        for directory, name, path, found in _walk_upper(top):
            _add(archive, directory, name, path, found, first_names)
    finally:
        os.close(top)
    archive.close()


def _walk_upper(directory: int, prefix: bytes = b"") -> Iterator[tuple[int, bytes, bytes, os.stat_result]]:
    """Each entry below with the descriptor of its directory, its name, its path and status; parents come first."""
    with os.scandir(directory) as entries:
        names = sorted(os.fsencode(entry.name) for entry in entries)
    for name in names:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        yield directory, name, prefix + name, found
        if stat.S_ISDIR(found.st_mode):
            child = os.open(name, DIRECTORY, dir_fd=directory)
            try:
                yield from _walk_upper(child, prefix + name + b"/")
            finally:
                os.close(child)


def _add(
    archive: tarfile.TarFile,
    directory: int,
    name: bytes,
    path: bytes,
    found: os.stat_result,
    first_names: dict[tuple[int, int], str],
) -> None:
    if stat.S_ISSOCK(found.st_mode):
        return
    if _is_whiteout(found):  # before hard links are looked for: overlay links all its whiteouts to one inode
        parent, slash, last = path.rpartition(b"/")
        archive.addfile(archives.marker(parent + slash + WHITEOUT + last))
        return
    if name.startswith(WHITEOUT):
        raise InvalidLayer(path, "a layer cannot hold the name: it would be a whiteout")
    member = archives.member(path, found)
    inode = (found.st_dev, found.st_ino)
    if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
        if inode in first_names:
            member.type, member.linkname, member.size = tarfile.LNKTYPE, first_names[inode], 0
            archive.addfile(member)
            return
        first_names[inode] = member.name
    full = f"/proc/self/fd/{directory}/{os.fsdecode(name)}"
    member.pax_headers = {**member.pax_headers, **archives.pax_xattrs(full)}
    if stat.S_ISLNK(found.st_mode):
        member.linkname = os.readlink(full)
    if stat.S_ISREG(found.st_mode):
        with open(full, "rb") as content:
            archive.addfile(member, content)
    else:
        archive.addfile(member)
    if stat.S_ISDIR(found.st_mode) and OPAQUE_XATTR in os.listxattr(full):
        archive.addfile(archives.marker(path + b"/" + OPAQUE))
