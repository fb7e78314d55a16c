"""Layer blobs: a compressed layer of the store to a directory, verified; and an upper directory to such a layer.

Stands between `layers` (tar and directories) and `snapshots`, which imports it when there is something to unpack.
Ruled by image-spec, layer.md.
"""

import gzip
import hashlib
import os
import queue
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

from minicontainer import files
from minicontainer.image import changesets, layers
from minicontainer.image.archives import InvalidLayer, Reader
from minicontainer.image.changesets import Limits, Path
from minicontainer.image.store import Store, Writer
from minicontainer.image.tar import members
from minicontainer.linux import syscalls
from minicontainer.oci.image import LAYER_GZIP, Descriptor, InvalidImage

Progress = Callable[[str, str, int, int], None]  # event, digest, bytes done, bytes in all

CHUNK = 1 << 20
CHUNKS_AHEAD = 4
RATIO_COUNTS_FROM = 1 << 30  # bytes: below, no ratio hurts
COMPRESSION = 6  # gzip's level: what everybody's layers have


def unpack(
    store: Store,
    descriptor: Descriptor,
    diff_id: str,
    staging: str,
    progress: Progress | None = None,
    limits: Limits = Limits(),
) -> list[Path]:
    """Unpack a layer into the fresh directory `staging`; the directories that it only implies.

    Its lock is held. Reading, decompressing and hashing go on in threads while this one makes files.

    Raises:
        Error: blob digest, size, diff_id or media type are not what was announced, or it is no layer.
    """
    files.remove_tree(staging)  # of one who died: we hold the layer's lock
    os.makedirs(staging, mode=0o700)
    with ExitStack() as undo:
        undo.callback(files.remove_tree, staging)
        with store.open(descriptor.digest) as file:
            blob = _Hashing(file, descriptor.digest, progress, descriptor.size)
            try:
                implied, tar = _unpack(blob, descriptor, diff_id, staging, limits)
            except InvalidLayer as error:
                _verify(blob, descriptor)  # what is corrupt is no layer either: then that is the reason
                raise InvalidImage(descriptor.digest, str(error)) from error
            _verify(blob, descriptor, tar)
        undo.pop_all()
    return implied


def _unpack(
    blob: "_Hashing", descriptor: Descriptor, diff_id: str, staging: str, limits: Limits
) -> tuple[list[Path], "_Hashing"]:
    """Make the files, and return the directories that are only implied, and the tar that was read through."""
    with ExitStack() as threads:
        plain = _Bounded(layers.decompress(descriptor.media_type, blob), blob, limits)
        tar = _Hashing(threads.enter_context(_Ahead(plain)), diff_id)
        stream = threads.enter_context(_Ahead(tar))
        implied = changesets.unpack(members(stream), staging, limits)
        stream.drain()
    return implied, tar


def _verify(blob: "_Hashing", descriptor: Descriptor, tar: "_Hashing | None" = None) -> None:
    blob.drain()  # what stands behind the end of a compressed stream belongs to the digest too
    if blob.size != descriptor.size:
        raise InvalidImage(descriptor.digest, f"the layer has {blob.size} bytes, its descriptor says {descriptor.size}")
    for hashed, what in ((blob, "layer"), (tar, "diff_id")):
        if hashed and hashed.digest() != hashed.expected:
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
        while self.read(CHUNK):
            continue

    def digest(self) -> str:
        return f"{self._hash.name}:{self._hash.hexdigest()}"


class _Bounded:
    """Reads a decompressed stream as far as a layer may reach: a few bytes can hold the zeros of a whole disk."""

    def __init__(self, file: Reader, blob: _Hashing, limits: Limits) -> None:
        self._file, self._blob, self._limits, self._size = file, blob, limits, 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._size += len(data)
        if self._size > self._limits.unpacked:
            reason = f"more than {self._limits.unpacked} bytes unpacked; the limit `unpacked` can be raised"
            raise InvalidImage(self._blob.expected, reason)
        if self._size > RATIO_COUNTS_FROM and self._size > self._limits.ratio * self._blob.size:
            reason = f"{self._blob.size} bytes hold more than {self._size}; the limit `ratio` is {self._limits.ratio}"
            raise InvalidImage(self._blob.expected, reason)
        return data


class _Ahead:
    """A stream read in a thread of its own, a few chunks before they are asked for."""

    def __init__(self, file: Reader) -> None:
        self._file = file
        self._chunks: queue.Queue[bytes | BaseException] = queue.Queue(CHUNKS_AHEAD)
        self._wanted, self._ended = True, False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        data: bytes | BaseException = b"more"
        while self._wanted and data and not isinstance(data, BaseException):
            try:
                data = self._file.read(CHUNK)
            except BaseException as error:  # noqa: BLE001 - the edge of a thread: raised again by who reads
                data = error
            self._chunks.put(data)

    def read(self, size: int = -1, /) -> bytes:
        """The next chunk, whatever `size`."""
        del size
        if self._ended:
            return b""
        data = self._chunks.get()
        if isinstance(data, BaseException):
            self._ended = True
            raise data
        self._ended = not data
        return data

    def drain(self) -> None:
        while self.read():
            continue

    def __enter__(self) -> "_Ahead":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the thread end, whatever it stands at."""
        self._wanted = False
        while self._thread.is_alive():
            with suppress(queue.Empty):
                self._chunks.get(timeout=0.01)


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
        tar = Summing(writer)
        layers.diff(upper, tar)  # type: ignore[arg-type]  # only `write` is called, and BinaryIO has forty methods
        diff_id = tar.close()
        return finished(writer), diff_id


def finished(writer: Writer) -> Descriptor:
    """The layer that was written, in the store from now on."""
    digest, size = writer.commit()
    return Descriptor(media_type=LAYER_GZIP, digest=digest, size=size)


class Summing:
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
