"""Snapshots: an image's layers as directories, and a chain of them as an overlay for one container.

Stands above `store` and `layers`. Ruled by image-spec, layer.md, the kernel's overlayfs.rst, and mount_setattr(2) for
idmapped mounts. A layer is unpacked once, by its diff_id, to `layers/sha256/HEX/diff`: first into a staging directory,
which is renamed when all is verified and on the disk. So a `diff` that is there is whole, whatever died meanwhile.
"""

import gzip
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from minicontainer import files, layers
from minicontainer.archives import Reader
from minicontainer.errors import Error
from minicontainer.linux import syscalls
from minicontainer.linux.flags import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    CLONE_NEWUSER,
    MNT_DETACH,
    MOUNT_ATTR_IDMAP,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)
from minicontainer.oci.image import LAYER_GZIP, Descriptor, ImageConfig, InvalidImage, Manifest
from minicontainer.oci.runtime import IdMapping
from minicontainer.store import Store, Writer

Progress = Callable[[str, str, int, int], None]  # event, digest, bytes done, bytes in all
Mapping = Sequence[IdMapping]

CHUNK = 1 << 20
OPTIONS_LIMIT = 4000  # mount(2) takes a page of options
# The upper must say by itself what it changes, for `layers.diff`; and nothing in a layer may redirect: overlayfs.rst
OPTIONS = "index=off,metacopy=off,redirect_dir=nofollow"
COMPRESSION = 6  # gzip's level: what everybody's layers have


# Unpack


def unpack(
    data_root: str, store: Store, manifest: Manifest, config: ImageConfig, progress: Progress | None = None
) -> tuple[str, ...]:
    """The directories of the image's layers, the topmost first, each unpacked if it was not.

    Blob digest, blob size and diff_id are verified of each layer that is unpacked.

    Raises:
        Error: a layer is not what its descriptor or the config says; nothing of it is kept.
    """
    if len(manifest.layers) != len(config.diff_ids):
        counts = f"{len(manifest.layers)} layers and {len(config.diff_ids)} diff_ids"
        raise InvalidImage(manifest.config.digest, f"it has {counts}")
    directories = [diff_directory(data_root, diff_id) for diff_id in config.diff_ids]
    missing = {
        directory: (descriptor, diff_id)
        for directory, descriptor, diff_id in zip(directories, manifest.layers, config.diff_ids, strict=True)
        if not os.path.exists(directory)
    }
    with ExitStack() as locks:
        for directory in sorted(missing):  # in one order everywhere, so that no two wait for each other
            locks.enter_context(_layer_lock(directory))
        for directory, (descriptor, diff_id) in missing.items():
            if not os.path.exists(directory):  # another process may have made it while we waited
                below = directories[: directories.index(directory)][::-1]
                _unpack_layer(data_root, store, descriptor, diff_id, _without_repeats(below), progress)
    return _visible(_without_repeats(directories[::-1]))


def diff_directory(data_root: str, diff_id: str) -> str:
    return f"{data_root}/layers/{diff_id.replace(':', '/')}/diff"


def adopt(data_root: str, diff_id: str, upper: str) -> None:
    """Let the upper directory that a layer was made of be its unpacked layer; it is gone from where it was."""
    target = diff_directory(data_root, diff_id)
    with _layer_lock(target):
        if os.path.exists(target):
            files.remove_tree(upper)
            return
        _sync(upper)
        os.rename(upper, target)
        files.sync_directory(os.path.dirname(target))


@contextmanager
def _layer_lock(directory: str) -> Iterator[None]:
    parent = os.path.dirname(directory)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    with files.lock(f"{parent}/lock"):
        yield


def _unpack_layer(
    data_root: str, store: Store, descriptor: Descriptor, diff_id: str, below: Sequence[str], progress: Progress | None
) -> None:
    target = diff_directory(data_root, diff_id)
    staging = f"{data_root}/staging/{diff_id.replace(':', '-')}"
    files.remove_tree(staging)  # of one who died: we hold the layer's lock
    os.makedirs(staging, mode=0o700)
    with ExitStack() as undo:
        undo.callback(files.remove_tree, staging)
        with store.open(descriptor.digest) as file:
            _apply_verified(file, staging, descriptor, diff_id, below, progress)
        _sync(staging)
        os.rename(staging, target)
        files.sync_directory(os.path.dirname(target))
        undo.pop_all()


def _apply_verified(
    file: BinaryIO,
    directory: str,
    descriptor: Descriptor,
    diff_id: str,
    below: Sequence[str],
    progress: Progress | None,
) -> None:
    blob = _Hashing(file, descriptor.digest, progress, descriptor.size)
    tar = _Hashing(layers.decompress(descriptor.media_type, blob), diff_id)
    layers.apply(tar, directory, below)
    tar.drain()
    blob.drain()
    if blob.size != descriptor.size:
        raise InvalidImage(descriptor.digest, f"the layer has {blob.size} bytes, its descriptor says {descriptor.size}")
    for hashed, what in ((blob, "layer"), (tar, "diff_id")):
        if hashed.digest() != hashed.expected:
            raise InvalidImage(hashed.expected, f"the {what} has another digest, {hashed.digest()}")


class _Hashing:
    """Reads through, and knows the digest of what came by."""

    def __init__(self, file: Reader, expected: str, progress: Progress | None = None, total: int = 0) -> None:
        self.expected, self.size = expected, 0
        self._file, self._hash = file, hashlib.new(expected.partition(":")[0])
        self._progress, self._total = progress, total

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        self.size += len(data)
        if self._progress and data:
            self._progress("unpack", self.expected, self.size, self._total)
        return data

    def drain(self) -> None:
        """What stands behind the end of an archive or a compressed stream belongs to the digest too."""
        while self.read(CHUNK):
            continue

    def digest(self) -> str:
        return f"{self._hash.name}:{self._hash.hexdigest()}"


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(descriptor)
    finally:
        os.close(descriptor)


def _without_repeats(topmost_first: Sequence[str]) -> tuple[str, ...]:
    """A layer that is in the chain twice hides its lower self wholly; overlay refuses the same directory twice."""
    return tuple(dict.fromkeys(topmost_first))


def _visible(topmost_first: tuple[str, ...]) -> tuple[str, ...]:
    """The chain down to a layer that is opaque at its root: overlay looks for that mark below the root alone."""
    for number, directory in enumerate(topmost_first):
        if layers.OVERLAY_OPAQUE in os.listxattr(directory):
            return topmost_first[: number + 1]
    return topmost_first


# Commit


def commit(store: Store, upper: str) -> tuple[Descriptor, str]:
    """Make a layer of an overlay's upper directory: its blob in the store, its diff_id. The same in, the same out."""
    with store.writer() as writer:
        tar = _Summing(writer)
        layers.diff(upper, tar)  # type: ignore[arg-type]  # only `write` is called, and BinaryIO has forty methods
        diff_id = tar.close()
        digest, size = writer.commit()
    return Descriptor(media_type=LAYER_GZIP, digest=digest, size=size), diff_id


class _Summing:
    """Compresses into a blob, and knows the digest of what was not compressed yet."""

    def __init__(self, writer: Writer) -> None:
        self._hash = hashlib.sha256()
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=writer, mtime=0)  # type: ignore[call-overload]  # as above

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._gzip.write(data)
        return len(data)

    def close(self) -> str:
        self._gzip.close()
        return f"sha256:{self._hash.hexdigest()}"


# Mount


def mount(lowers: Sequence[str], upper: str, work: str, target: str, mapping: tuple[Mapping, Mapping] | None) -> None:
    """Mount the overlay of `lowers` (the topmost first) and `upper` on `target`.

    With a `mapping` (of users, of groups) the files appear owned by the mapped ids, and what is written through the
    overlay is on disk under the ids of the container. `upper` and `work` are in one directory, which is in one mount,
    and the caller is in a mount namespace of its own: the idmapped mounts cover the real directories for a moment.
    """
    _inherit_root(lowers[0], upper)
    if mapping is None:
        _mount_overlay(lowers, upper, work, target)
        return
    with ExitStack() as undo:
        destination = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, destination)
        user_namespace = userns_fd(*mapping)
        undo.callback(os.close, user_namespace)
        covered = (os.path.commonpath(lowers), os.path.dirname(upper))
        for directory, tree in _idmapped(covered, user_namespace, undo):
            syscalls.move_mount(tree, "", AT_FDCWD, directory, MOVE_MOUNT_F_EMPTY_PATH)
            undo.callback(syscalls.umount, directory, MNT_DETACH)
        with _as_root_of(*mapping):
            _mount_overlay(lowers, upper, work, target)
        if not any(os.path.commonpath((directory, target)) == directory for directory in covered):
            return
        overlay = syscalls.open_tree(AT_FDCWD, target, OPEN_TREE_CLOEXEC)
        undo.callback(os.close, overlay)
        # the target, too, is covered by the idmapped mount that is about to go: move the overlay on the real one
        syscalls.move_mount(overlay, "", destination, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def _inherit_root(lower: str, upper: str) -> None:
    """Before the first mount: an overlay's root looks as that of its upper does, which is to look as the image's."""
    if not os.listdir(upper):
        found = os.stat(lower)
        os.chown(upper, found.st_uid, found.st_gid)
        os.chmod(upper, found.st_mode & 0o7777)
        os.utime(upper, ns=(found.st_atime_ns, found.st_mtime_ns))


def _mount_overlay(lowers: Sequence[str], upper: str, work: str, target: str) -> None:
    data = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work},{OPTIONS}"
    with ExitStack() as undo:
        if len(data) > OPTIONS_LIMIT or any(mark in path for path in (*lowers, upper, work) for mark in ":,\\"):
            short = [_short(path, undo) for path in (*lowers, upper, work)]
            data = f"lowerdir={':'.join(short[:-2])},upperdir={short[-2]},workdir={short[-1]},{OPTIONS}"
        syscalls.mount("overlay", target, "overlay", 0, data)


def _short(path: str, undo: ExitStack) -> str:
    """A name of a few bytes, without marks that overlay's options know, as long as the descriptor is open."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    undo.callback(os.close, descriptor)
    return f"/proc/self/fd/{descriptor}"


def _idmapped(directories: Sequence[str], user_namespace: int, undo: ExitStack) -> list[tuple[str, int]]:
    """Clones of the mounts below the directories, with the ids of the user namespace; not attached anywhere yet."""
    trees = []
    for directory in dict.fromkeys(directories):
        tree = syscalls.open_tree(AT_FDCWD, directory, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
        undo.callback(os.close, tree)
        syscalls.mount_setattr(tree, "", AT_EMPTY_PATH, attr_set=MOUNT_ATTR_IDMAP, userns_fd=user_namespace)
        trees.append((directory, tree))
    return trees


@contextmanager
def _as_root_of(uid_mappings: Mapping, gid_mappings: Mapping) -> Iterator[None]:
    """Overlay keeps the credentials of who mounts it for its own work in `work`, where only mapped ids may write.

    So the mounter is the container's root by id, with the capabilities of ours, which seteuid(2) takes away.
    """
    effective, permitted, inheritable = syscalls.capget()
    os.setegid(_host_root(gid_mappings))
    try:
        os.seteuid(_host_root(uid_mappings))
        try:
            syscalls.capset(effective, permitted, inheritable)
            yield
        finally:
            os.seteuid(0)  # gives the effective capabilities back: capabilities(7)
    finally:
        os.setegid(0)


def _host_root(mappings: Mapping) -> int:
    for mapping in mappings:
        if mapping.container_id == 0:
            return mapping.host_id
    raise Error("the id mapping has no root: a container's id 0 must be mapped")


def userns_fd(uid_mappings: Mapping, gid_mappings: Mapping) -> int:
    """A user namespace with these mappings, made by a child that is gone when this returns."""
    reader, writer = os.pipe()
    try:
        child = syscalls.clone3(CLONE_NEWUSER)
        if child == 0:
            os.close(writer)
            os.read(reader, 1)  # until the parent has closed its end, or is dead
            os._exit(0)
        try:
            _write_mapping(child, "uid_map", uid_mappings)
            _write_mapping(child, "gid_map", gid_mappings)
            return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(writer)
            writer = -1
            os.waitpid(child, 0)
    finally:
        os.close(reader)
        if writer != -1:
            os.close(writer)


def _write_mapping(pid: int, name: str, mappings: Mapping) -> None:
    lines = "".join(f"{mapping.container_id} {mapping.host_id} {mapping.size}\n" for mapping in mappings)
    with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
        file.write(lines)  # in one write, as user_namespaces(7) wants
