"""Cache: what an instruction made of which inputs, and the layer that a directory of changes becomes.

Between `layers`, `snapshots` and `builder`. A key is a digest of everything that a step's result depends on: the layers
below it (by chain_id), the instruction with its variables replaced, and the contents that it copies. So an entry is
never stale, only unused. One file an entry, below DATA/cache/build; a layer that is gone makes its entry a miss.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, cast

from minicontainer import files
from minicontainer.errors import Error
from minicontainer.image import layer_blobs, layers, snapshots
from minicontainer.image.store import Store
from minicontainer.oci.image import Descriptor

VERSION = 2  # of the meaning of a key: raise it when the same inputs would make another layer


class Layer(NamedTuple):
    """What a step made: `diff_id` is empty when it changed no file. Without a descriptor its blob is not made yet."""

    diff_id: str
    created: str
    descriptor: Descriptor | None = None


class Entry(NamedTuple):
    """A step that is remembered: its file, what it made, and when it was last used."""

    path: str
    layer: Layer
    used: float


class Cache:
    """The layers of earlier builds in the data directory `data`."""

    def __init__(self, data: str, store: Store, epoch: int | None = None) -> None:
        self.data, self.store, self.epoch = data, store, epoch
        self.directory = f"{data}/cache/build/steps"
        os.makedirs(self.directory, mode=0o700, exist_ok=True)

    def inputs(self, diff_ids: Sequence[str], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """All that a step depends on, by names that `reasons` tells people, as JSON has it."""
        below = layers.chain_id(diff_ids) if diff_ids else ""
        whole: dict[str, Any] = json.loads(json.dumps({"layers below": below, "source date": self.epoch, **inputs}))
        return whole

    def key(self, inputs: Mapping[str, Any]) -> str:
        """The digest of what a step depends on."""
        return hashlib.sha256(json.dumps([VERSION, inputs]).encode()).hexdigest()

    def get(self, key: str) -> Layer | None:
        path = f"{self.directory}/{key}"
        layer = _read(path)
        if layer is None:
            return None
        if layer.descriptor and not self.store.has(layer.descriptor.digest):
            layer = layer._replace(descriptor=None)
        directory = snapshots.diff_directory(self.data, layer.diff_id) if layer.diff_id else ""
        if layer.diff_id and not layer.descriptor and not os.path.isdir(directory):
            return None
        with suppress(FileNotFoundError):  # pruned just now: what was read is still right
            os.utime(path)  # when it was used, for `storage`
        return layer

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


def entries(data: str) -> list[Entry]:
    """Every step that is remembered, the longest unused first."""
    found = []
    directory = f"{data}/cache/build/steps"
    with suppress(FileNotFoundError):
        for name in os.listdir(directory):
            path = f"{directory}/{name}"
            with suppress(FileNotFoundError):
                if layer := _read(path):
                    found.append(Entry(path=path, layer=layer, used=os.stat(path).st_mtime))
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def _read(path: str) -> Layer | None:
    """What the file says; None when there is none, or when a power cut has left it half: files are not synced here."""
    try:
        with open(path, "rb") as file:
            entry = json.load(file)
        descriptor = Descriptor.from_json(entry["descriptor"]) if entry["descriptor"] else None
        return Layer(diff_id=entry["diff_id"], created=entry["created"], descriptor=descriptor)
    except (FileNotFoundError, ValueError, KeyError, TypeError, Error):
        return None


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
