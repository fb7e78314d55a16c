"""Build cache: what an instruction made of which inputs, and the layer that a directory of changes becomes.

Between `layers`, `snapshots` and `build`. A key is a digest of everything that a step's result depends on: the layers
below it (by chain_id), the instruction with its variables replaced, and the contents that it copies. So an entry is
never stale, only unused. One file an entry, below DATA/cache/build; a layer that is gone makes its entry a miss.
"""

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple, cast

from minicontainer import files, layer_blobs, layers, snapshots
from minicontainer.errors import Error
from minicontainer.oci.image import Descriptor
from minicontainer.store import Store

VERSION = 1  # of the meaning of a key: raise it when the same inputs would make another layer


class Layer(NamedTuple):
    """What a step made: `diff_id` is empty when it changed no file. Without a descriptor its blob is not made yet."""

    diff_id: str
    created: str
    descriptor: Descriptor | None = None


class Cache:
    """The layers of earlier builds in the data directory `data`."""

    def __init__(self, data: str, store: Store, epoch: int | None = None) -> None:
        self.data, self.store, self.epoch = data, store, epoch
        self.directory = f"{data}/cache/build/steps"
        os.makedirs(self.directory, mode=0o700, exist_ok=True)

    def key(self, diff_ids: Sequence[str], inputs: Sequence[Any]) -> str:
        """The digest of what a step depends on."""
        below = layers.chain_id(diff_ids) if diff_ids else ""
        return hashlib.sha256(json.dumps([VERSION, self.epoch, below, inputs]).encode()).hexdigest()

    def get(self, key: str) -> Layer | None:
        try:
            with open(f"{self.directory}/{key}", "rb") as file:
                entry = json.load(file)
        except FileNotFoundError:
            return None
        descriptor = Descriptor.from_json(entry["descriptor"]) if entry["descriptor"] else None
        if descriptor and not self.store.has(descriptor.digest):
            descriptor = None
        layer = Layer(diff_id=entry["diff_id"], created=entry["created"], descriptor=descriptor)
        here = not layer.diff_id or descriptor or os.path.isdir(snapshots.diff_directory(self.data, layer.diff_id))
        return layer if here else None

    def put(self, key: str, layer: Layer) -> None:
        descriptor = layer.descriptor.to_json() if layer.descriptor else None
        entry = {"diff_id": layer.diff_id, "created": layer.created, "descriptor": descriptor}
        files.write(f"{self.directory}/{key}", json.dumps(entry).encode())

    def commit(self, upper: str, created: str, keep_blob: bool) -> Layer:
        """Make the changes in `upper` a layer, and `upper` its unpacked directory."""
        if not os.listdir(upper):
            return Layer(diff_id="", created=created)
        if self.epoch is not None:
            clamp_times(upper, self.epoch)
        descriptor, diff_id = layer_blobs.commit(self.store, upper) if keep_blob else (None, _diff_id(upper))
        snapshots.adopt(self.data, diff_id, upper)
        return Layer(diff_id=diff_id, created=created, descriptor=descriptor)

    def blob(self, layer: Layer) -> Descriptor:
        """The layer's blob, made now from its unpacked directory if it is not in the store."""
        if layer.descriptor:
            return layer.descriptor
        descriptor, diff_id = layer_blobs.commit(self.store, snapshots.diff_directory(self.data, layer.diff_id))
        if diff_id != layer.diff_id:
            raise Error(f"layer {layer.diff_id} has changed on disk; try: --no-cache")
        return descriptor


def _diff_id(upper: str) -> str:
    """For a layer that only other stages need: no blob is made of it."""
    summing = _Summing()
    layers.diff(upper, cast(BinaryIO, summing))
    return f"sha256:{summing.hash.hexdigest()}"


class _Summing:
    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return len(data)


def clamp_times(directory: str, epoch: int) -> None:
    """Nothing in the directory is younger than `epoch`: reproducible-builds.org, SOURCE_DATE_EPOCH."""
    for parent, directories, names in os.walk(directory, topdown=False):
        for name in [*directories, *names]:
            path = os.path.join(parent, name)
            if os.lstat(path).st_mtime > epoch:
                os.utime(path, (epoch, epoch), follow_symlinks=False)
    if os.stat(directory).st_mtime > epoch:
        os.utime(directory, (epoch, epoch))


def drop_unchanged(upper: str, lowers: Sequence[str], paths: Sequence[str]) -> None:
    """Take `paths` out of the changes: mount points that a run made. A directory above that is as below goes too."""
    for path in paths:
        _remove_empty(f"{upper}/{path}")
        parent = os.path.dirname(path)
        while parent and _is_as_below(upper, lowers, parent):
            os.rmdir(f"{upper}/{parent}")
            parent = os.path.dirname(parent)


def _remove_empty(path: str) -> None:
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(path)
        elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
            os.unlink(path)
    except OSError:  # not there, or the command put something into it: then it stays
        return


def _is_as_below(upper: str, lowers: Sequence[str], path: str) -> bool:
    """Whether the directory in `upper` is empty and only there because something in it was."""
    try:
        ours = os.lstat(f"{upper}/{path}")
        if not stat.S_ISDIR(ours.st_mode) or os.listdir(f"{upper}/{path}"):
            return False
    except FileNotFoundError:
        return False
    for lower in lowers:
        try:
            theirs = os.lstat(f"{lower}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        return (ours.st_mode, ours.st_uid, ours.st_gid) == (theirs.st_mode, theirs.st_uid, theirs.st_gid)
    return False
