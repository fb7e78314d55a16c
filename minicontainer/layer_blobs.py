"""Layer blobs: a compressed layer of the store to a directory, verified; and an upper directory to such a layer.

Stands between `layers` (tar and directories) and `snapshots`, which imports it when there is something to unpack.
Ruled by image-spec, layer.md.
"""

import gzip
import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import BinaryIO

from minicontainer import files, layers
from minicontainer.archives import Reader
from minicontainer.linux import syscalls
from minicontainer.oci.image import LAYER_GZIP, Descriptor, InvalidImage
from minicontainer.store import Store, Writer

Progress = Callable[[str, str, int, int], None]  # event, digest, bytes done, bytes in all

CHUNK = 1 << 20
COMPRESSION = 6  # gzip's level: what everybody's layers have


def unpack(
    store: Store,
    descriptor: Descriptor,
    diff_id: str,
    target: str,
    staging: str,
    below: Sequence[str],
    progress: Progress | None,
) -> None:
    """Unpack a layer to `target`, by way of `staging`; its lock is held. `below`: its parents, the topmost first."""
    files.remove_tree(staging)  # of one who died: we hold the layer's lock
    os.makedirs(staging, mode=0o700)
    with ExitStack() as undo:
        undo.callback(files.remove_tree, staging)
        with store.open(descriptor.digest) as file:
            _apply_verified(file, staging, descriptor, diff_id, below, progress)
        sync(staging)
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


def sync(directory: str) -> None:
    """All of the file system is on the disk when this returns."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(descriptor)
    finally:
        os.close(descriptor)


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
