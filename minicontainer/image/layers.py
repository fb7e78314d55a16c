"""Layers: apply a changeset to a directory, and make one from an overlay's upper directory.

Stands between `store` (blobs) and `snapshots` (mounts), on `tar` and `changesets`. Ruled by image-spec, layer.md.
"""

import errno
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from minicontainer.image import archives, changesets, tar
from minicontainer.image.archives import InvalidLayer, Reader
from minicontainer.image.changesets import DIRECTORY, OPAQUE, WHITEOUT, Path, is_whiteout, open_real
from minicontainer.linux import procfs, syscalls
from minicontainer.linux.flags import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from minicontainer.oci import image

PIECE = 1 << 16  # bytes that tarfile gathers: it copies what it has with each entry that comes
MEDIA_TYPES = frozenset(image.LAYERS) | {
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
}


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
    """Unpack a changeset, an uncompressed tar `stream`, in the empty `directory`, and see to what it only implies.

    Raises:
        InvalidLayer: the changeset is not one; what is unpacked so far is in the directory and nowhere else.
    """
    imply(directory, changesets.unpack(tar.members(stream), directory), lowers)


def imply(directory: str, paths: Sequence[Path], lowers: Sequence[str]) -> None:
    """Give directories that no entry describes what the topmost layer below has: overlay shows those of the topmost.

    `lowers` are the unpacked layers below, the topmost first.
    """
    root = os.open(directory, DIRECTORY)
    try:
        for path in paths if lowers else ():
            found = next((status for lower in lowers if (status := status_in(lower, path))), None)
            if found is not None and stat.S_ISDIR(found.st_mode):
                target = open_real(root, path)
                try:
                    os.fchown(target, found.st_uid, found.st_gid)
                    os.fchmod(target, stat.S_IMODE(found.st_mode))
                    os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns))
                finally:
                    os.close(target)
    finally:
        os.close(root)


def status_in(lower: str, path: Path) -> os.stat_result | None:
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


# Diff


def diff(upper: str, write: BinaryIO) -> None:
    """Write the changeset that an overlay's upper directory holds, as an uncompressed tar, in the order of the names.

    The same directory gives the same bytes. Ids are those on disk; overlay's own xattrs are left out; sockets as well,
    which no archive can hold. The root itself is not in it, as in docker's.

    Raises:
        InvalidLayer: a file has a name that would be taken for a whiteout.
    """
    archive = tarfile.open(fileobj=write, mode="w|", format=tarfile.PAX_FORMAT, bufsize=PIECE, encoding="utf-8")
    first_names: dict[tuple[int, int], str] = {}
    top = os.open(upper, DIRECTORY)
    try:
        for directory, name, path, found in walk_upper(top):
            _add(archive, directory, name, path, found, first_names)
        archive.close()
    except BaseException:
        archive.fileobj.closed = True  # type: ignore[attr-defined]  # or what it holds is written when it is thrown away
        raise
    finally:
        os.close(top)


def walk_upper(directory: int, prefix: bytes = b"") -> Iterator[tuple[int, bytes, bytes, os.stat_result]]:
    """Each entry below with the descriptor of its directory, its name, its path and status; parents come first."""
    with os.scandir(directory) as entries:
        names = sorted(os.fsencode(entry.name) for entry in entries)
    for name in names:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        yield directory, name, prefix + name, found
        if stat.S_ISDIR(found.st_mode):
            child = os.open(name, DIRECTORY, dir_fd=directory)
            try:
                yield from walk_upper(child, prefix + name + b"/")
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
    if is_whiteout(found):  # before hard links are looked for: overlay links all its whiteouts to one inode
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
    if stat.S_ISDIR(found.st_mode) and procfs.overlay_opaque() in os.listxattr(full):
        archive.addfile(archives.marker(path + b"/" + OPAQUE))
