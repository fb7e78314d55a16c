"""Changesets: the entries of a layer made into files, in the directory of that layer alone.

Stands between `archives` (what an entry is) and `layers`. Ruled by image-spec, layer.md, and by the kernel's
overlayfs.rst, whose form the directories have: a whiteout is a character device 0:0, and an opaque directory has the
xattr trusted.overlay.opaque.

A layer is hostile input. Every path is walked from the directory's own descriptor, component by component, without
letting the kernel follow a symbolic link: a link in the middle is read and walked from the root of the layer, as it
would be in the container. The last component is never followed. So nothing outside the directory is ever named.
"""

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from minicontainer.files import remove_tree
from minicontainer.image import archives
from minicontainer.image.archives import Content, InvalidLayer, Member
from minicontainer.linux import procfs, syscalls
from minicontainer.linux.flags import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS

WHITEOUT, OPAQUE, METADATA = b".wh.", b".wh..wh..opq", b".wh..wh."  # layer.md; the last is aufs' own, to be ignored
LINKS = 40  # symbolic links followed in one path: path_resolution(7)
PATH_MAX = 4096  # so that what is made can be named
OPEN_PARENTS = 64  # directories held open while a layer is unpacked
SPECIAL = (b"", b".", b"..")
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What the kernel says of a name or a size that no file can have, not of the disk: such a layer is wrong everywhere
REFUSED_BY_KERNEL = (errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG, errno.EMLINK, errno.ENOTDIR, errno.ENOENT)
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Path = tuple[bytes, ...]


class Limits(NamedTuple):
    """How much a layer may be before it is refused."""

    unpacked: int = 64 << 30  # bytes of the archive
    ratio: int = 200  # of these to those of the blob, from a gigabyte on
    entries: int = 10_000_000
    name: int = PATH_MAX  # bytes
    depth: int = 500  # of directories, so that what is made can be removed with a descriptor for each level


def unpack(members: Iterable[tuple[Member, Content]], directory: str, limits: Limits = Limits()) -> list[Path]:
    """Make what the entries of a changeset say, and return the directories that it only implies (`tmp` of `tmp/x`)."""
    applier = _Applier(directory, limits)
    try:
        for number, (member, content) in enumerate(members, 1):
            if number > limits.entries:
                raise InvalidLayer(
                    member.name, f"more than {limits.entries} entries; the limit `entries` can be raised"
                )
            try:
                applier.apply(member, content)
            except OSError as error:
                if error.errno not in REFUSED_BY_KERNEL:
                    error.filename = error.filename or directory  # a full disk: say which
                    raise
                raise InvalidLayer(member.name, error.strerror or str(error)) from error
        return applier.finish()
    finally:
        applier.close()


class _Applier:
    """The state of one changeset: the root's descriptor, those of parents, and what is due at the end."""

    def __init__(self, directory: str, limits: Limits) -> None:
        self._limits = limits
        self._root = os.open(directory, DIRECTORY)
        os.fchmod(self._root, 0o700)  # what it has of its maker's directory, set-group-ID say, goes
        self._owner = (os.geteuid(), os.getegid())  # that new files get by themselves
        self._plain_modes = 0o777 & ~_umask()  # that open(2) leaves as they are
        self._parents: dict[bytes, tuple[int, Path]] = {}  # by the path that entries name: descriptor, real path
        self._forgotten: list[int] = []
        self._whiteouts: set[Path] = set()
        self._directories: dict[Path, Member | None] = {(): None}  # None: implied

    def close(self) -> None:
        self._forget_parents()
        self._close_forgotten()
        os.close(self._root)

    def apply(self, member: Member, content: Content) -> None:
        self._close_forgotten()
        head, _, name = member.name.removeprefix(b"./").rpartition(b"/")
        known = self._parents.get(head) if name not in SPECIAL else None
        if known is None:
            path = archives.components(member.name)
            if not path:
                if member.form != stat.S_IFDIR:
                    raise InvalidLayer(member.name, "the root is not a directory")
                self._describe((), self._root, member)
                return
            known, head, name = self._parent(path[:-1], member), b"/".join(path[:-1]), path[-1]
        parent, real = known
        if name.startswith(WHITEOUT):
            self._sign(parent, real, name, member)
        elif member.form == stat.S_IFREG:
            self._make_file(parent, real, name, member, content)
        elif member.form == stat.S_IFDIR:
            path = (*real, name)
            directory = self._remember(head + b"/" + name if head else name, self._make_directory(parent, path), path)
            self._describe(path, directory, member)
        elif member.form == 0:
            self._link(parent, (*real, name), member)
        else:
            self._make_other(parent, (*real, name), member)

    def finish(self) -> list[Path]:
        """Modes and times of directories, the deepest first: a content's arrival changes the time of what holds it."""
        for path in sorted(self._directories, key=len, reverse=True):
            member = self._directories[path]
            directory = open_real(self._root, path)
            try:
                if member is not None:
                    set_xattrs(directory, member)
                os.fchmod(directory, 0o755 if member is None else member.mode & 0o7777)
                os.utime(directory, ns=(0, 0) if member is None else (member.mtime, member.mtime))
            finally:
                os.close(directory)
        return [path for path, member in self._directories.items() if member is None]

    # Walking

    def _parent(self, path: Path, member: Member) -> tuple[int, Path]:
        """The directory at `path`, made when absent, and its path without symbolic links."""
        key = b"/".join(path)
        if len(member.name) > self._limits.name:
            reason = f"a name of {len(member.name)} bytes; the limit `name` is {self._limits.name}"
            raise InvalidLayer(member.name, reason)
        if key not in self._parents:
            self._remember(key, *self._walk(path))
        return self._parents[key]

    def _remember(self, key: bytes, directory: int, real: Path) -> int:
        """Keep a directory open for what comes next, under the path by which entries name it."""
        if key in self._parents:
            self._forgotten.append(self._parents.pop(key)[0])
        if len(self._parents) >= OPEN_PARENTS:
            self._forgotten.append(self._parents.pop(next(iter(self._parents)))[0])
        self._parents[key] = (directory, real)
        return directory

    def _forget_parents(self) -> None:
        """A directory or a link was replaced: a path may lead elsewhere from now on. An entry still uses its own."""
        self._forgotten += [descriptor for descriptor, _ in self._parents.values()]
        self._parents.clear()

    def _close_forgotten(self) -> None:
        while self._forgotten:
            os.close(self._forgotten.pop())

    def _walk(self, path: Path, make: bool = True) -> tuple[int, Path]:
        """Open the directory at `path`, following symbolic links inside the layer as the container would."""
        pending, real, links = list(reversed(path)), list[bytes](), 0
        above = self._parents.get(b"/".join(path[:-1]))
        if above is not None:  # where the path without its last component leads is known
            pending, real = pending[:1], list(above[1])
        directory = os.dup(above[0] if above else self._root)
        try:
            while pending:
                part = pending.pop()
                if part in (b"", b"."):
                    continue
                if part == b"..":
                    real = real[:-1]
                    directory = _swap(directory, open_real(self._root, tuple(real)))
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
        return self._make_directory(parent, path)

    # Making

    def _sign(self, parent: int, real: Path, name: bytes, member: Member) -> None:
        """What an entry says by its name: a whiteout, an opaque marker, or something of aufs, which is ignored."""
        if name == OPAQUE:
            os.setxattr(parent, procfs.overlay_opaque(), b"y")
        elif not name.startswith(METADATA):
            self._white_out(parent, (*real, name.removeprefix(WHITEOUT)), member)

    def _white_out(self, parent: int, path: Path, member: Member) -> None:
        """Hide what lower layers have at `path`; an entry of the layer itself stays, whichever comes first."""
        if path[-1] in SPECIAL:
            raise InvalidLayer(member.name, "a whiteout of nothing")
        self._whiteouts.add(path)
        try:
            os.mknod(path[-1], stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:
            with suppress(NotADirectoryError):
                _make_opaque(parent, path[-1])

    def _make_directory(self, parent: int, path: Path) -> int:
        """Make or keep the directory, and open it. One that takes the place of a whiteout shows nothing from below."""
        if path[-1].startswith(WHITEOUT):
            raise InvalidLayer(b"/".join(path), "a directory with the name of a whiteout")
        if len(path) > self._limits.depth or sum(map(len, path)) + len(path) > PATH_MAX:
            raise InvalidLayer(
                b"/".join(path), f"a path too deep or too long; the limit `depth` is {self._limits.depth}"
            )
        try:
            os.mkdir(path[-1], 0o700, dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(path[-1], dir_fd=parent, follow_symlinks=False).st_mode):
                return os.open(path[-1], DIRECTORY, dir_fd=parent)
            self._remove(parent, path)
            os.mkdir(path[-1], 0o700, dir_fd=parent)
            if path in self._whiteouts:
                _make_opaque(parent, path[-1])
        self._directories[path] = None
        return os.open(path[-1], DIRECTORY, dir_fd=parent)

    def _describe(self, path: Path, directory: int, member: Member) -> None:
        os.fchown(directory, member.uid, member.gid)
        self._directories[path] = member

    def _make_file(self, parent: int, real: Path, name: bytes, member: Member, content: Content) -> None:
        """A file; the last entry of a name wins."""
        mode = member.mode & 0o7777
        try:
            descriptor = os.open(name, NEW_FILE, mode & 0o777, dir_fd=parent)
        except FileExistsError:
            self._remove(parent, (*real, name))
            descriptor = os.open(name, NEW_FILE, mode & 0o777, dir_fd=parent)
        try:
            size = _write(descriptor, content)
            if size != member.size:
                os.ftruncate(descriptor, member.size)
            if (member.uid, member.gid) != self._owner:
                os.fchown(descriptor, member.uid, member.gid)
                os.fchmod(descriptor, mode)  # after chown, which takes setuid away: chown(2)
            elif mode & ~self._plain_modes:
                os.fchmod(descriptor, mode)
            if member.xattrs:
                set_xattrs(descriptor, member)  # after chown as well, which takes security.capability away
            os.utime(descriptor, ns=(member.mtime, member.mtime))
        finally:
            os.close(descriptor)

    def _make_other(self, parent: int, path: Path, member: Member) -> None:
        """A symbolic link, device or FIFO; the last entry of a name wins."""
        make = _make_symlink if member.form == stat.S_IFLNK else _make_node
        try:
            make(parent, path[-1], member)
        except FileExistsError:
            self._remove(parent, path)
            make(parent, path[-1], member)

    def _link(self, parent: int, path: Path, member: Member) -> None:
        target = archives.components(member.link)
        said = f"a hard link to {os.fsdecode(member.link)!r}"
        if not target:
            raise InvalidLayer(member.name, "a hard link to the root")
        try:
            directory, real = self._walk(target[:-1], make=False)
        except FileNotFoundError:
            raise InvalidLayer(member.name, f"{said}, which the layer does not have") from None
        try:
            source = (*real, target[-1])
            found = _status(target[-1], directory)
            if found is None or stat.S_ISDIR(found.st_mode) or (source in self._whiteouts and is_whiteout(found)):
                raise InvalidLayer(member.name, f"{said}, which is no file of the layer")
            if source == path:
                return
            if _status(path[-1], parent) is not None:
                self._remove(parent, path)
            os.link(target[-1], path[-1], src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(directory)

    def _remove(self, parent: int, path: Path) -> None:
        """Make room for an entry of a name that the layer has used before."""
        try:
            os.unlink(path[-1], dir_fd=parent)
        except (IsADirectoryError, PermissionError):
            # the name in the opened directory, not followed: nothing else writes here while the layer is made
            remove_tree(f"/proc/self/fd/{parent}/{os.fsdecode(path[-1])}")
            for below in [known for known in self._directories if known[: len(path)] == path]:
                del self._directories[below]
        self._forget_parents()


def open_real(root: int, path: Path) -> int:
    """Open a path that had no symbolic links; should it have got one since, that is NotADirectoryError."""
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
    try:
        return syscalls.openat2(root, b"/".join(path) or b".", DIRECTORY, resolve=resolve)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), b"/".join(path)) from error
        raise


def _umask() -> int:
    """The mask that new files get, without changing it for a moment, as umask(2) would: proc_pid_status(5)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next((int(line.split()[1], 8) for line in file if line.startswith("Umask:")), 0o777)


def _make_opaque(parent: int, name: bytes) -> None:
    directory = os.open(name, DIRECTORY, dir_fd=parent)
    try:
        os.setxattr(directory, procfs.overlay_opaque(), b"y")
    finally:
        os.close(directory)


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


def _write(descriptor: int, content: Content) -> int:
    """Write the pieces where they belong; how far the file then reaches."""
    end = 0
    for offset, piece in content:
        if offset != end:
            os.lseek(descriptor, offset, os.SEEK_SET)
        end = offset + len(piece)
        written = os.write(descriptor, piece)
        while written < len(piece):
            written += os.write(descriptor, piece[written:])
    return end


def _make_symlink(parent: int, name: bytes, member: Member) -> None:
    os.symlink(member.link, name, dir_fd=parent)
    os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
    set_xattrs(f"/proc/self/fd/{parent}/{os.fsdecode(name)}", member)
    os.utime(name, ns=(member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)


def _make_node(parent: int, name: bytes, member: Member) -> None:
    if not (0 <= member.major < 1 << 12 and 0 <= member.minor < 1 << 20):
        raise InvalidLayer(member.name, f"device {member.major}:{member.minor} is out of range")
    device = 0 if member.form == stat.S_IFIFO else os.makedev(member.major, member.minor)
    if device and procfs.in_user_namespace():
        return  # nobody can make it there, and no container could open it
    os.mknod(name, member.form | 0o600, device, dir_fd=parent)
    os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
    os.chmod(name, member.mode & 0o7777, dir_fd=parent)  # follows links, and this is none: mknod has just made it
    set_xattrs(f"/proc/self/fd/{parent}/{os.fsdecode(name)}", member)
    os.utime(name, ns=(member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)


def set_xattrs(target: int | str, member: Member) -> None:
    """Set what the member has but overlayfs' own, on a descriptor or on a path whose last component is not followed."""
    for name, value in member.xattrs:
        if name.startswith(archives.PRIVATE_XATTRS):
            continue
        try:
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=False)
        except (OSError, ValueError) as error:
            # user.* is for files and directories alone, and not every file system keeps every kind: xattr(7)
            number = error.errno if isinstance(error, OSError) else errno.EINVAL
            if number in (errno.ENOTSUP, errno.EPERM) and name != "security.capability":
                continue
            if number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            reason = os.strerror(number or errno.EINVAL)
            raise InvalidLayer(member.name, f"xattr {name!r} of {len(value)} bytes: {reason}") from error


def is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0
