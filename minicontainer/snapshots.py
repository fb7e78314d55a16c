"""Snapshots: an image's layers as directories, each unpacked once.

Stands above `store`. Ruled by image-spec, layer.md. A layer is unpacked by its diff_id to `layers/sha256/HEX/diff`:
first into a staging directory, which is renamed when all is verified and on the disk. So a `diff` that is there is
whole, whatever died meanwhile, and a container of an image that is unpacked needs nothing of tar, gzip or digests.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from minicontainer import files, overlays
from minicontainer.oci.image import Descriptor, ImageConfig, InvalidImage, Manifest
from minicontainer.store import Store

Progress = Callable[[str, str, int, int], None]  # event, digest, bytes done, bytes in all


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
    if missing:
        _unpack(data_root, store, directories, missing, progress)
    return _visible(_without_repeats(directories[::-1]))


def _unpack(
    data_root: str,
    store: Store,
    directories: list[str],
    missing: Mapping[str, tuple[Descriptor, str]],
    progress: Progress | None,
) -> None:
    from minicontainer import layer_blobs  # why here: most containers are of an image that is unpacked

    with ExitStack() as locks:
        for directory in sorted(missing):  # in one order everywhere, so that no two wait for each other
            locks.enter_context(_layer_lock(directory))
        for directory, (descriptor, diff_id) in missing.items():
            if not os.path.exists(directory):  # another process may have made it while we waited
                below = directories[: directories.index(directory)][::-1]
                staging = f"{data_root}/staging/{diff_id.replace(':', '-')}"
                layer_blobs.unpack(store, descriptor, diff_id, directory, staging, _without_repeats(below), progress)


def diff_directory(data_root: str, diff_id: str) -> str:
    return f"{data_root}/layers/{diff_id.replace(':', '/')}/diff"


def adopt(data_root: str, diff_id: str, upper: str) -> None:
    """Let the upper directory that a layer was made of be its unpacked layer; it is gone from where it was."""
    target = diff_directory(data_root, diff_id)
    with _layer_lock(target):
        if os.path.exists(target):
            files.remove_tree(upper)
            return
        from minicontainer import layer_blobs  # why here: a build alone adopts

        layer_blobs.sync(upper)
        os.rename(upper, target)
        files.sync_directory(os.path.dirname(target))


@contextmanager
def _layer_lock(directory: str) -> Iterator[None]:
    parent = os.path.dirname(directory)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    with files.lock(f"{parent}/lock"):
        yield


def _without_repeats(topmost_first: Sequence[str]) -> tuple[str, ...]:
    """A layer that is in the chain twice hides its lower self wholly; overlay refuses the same directory twice."""
    return tuple(dict.fromkeys(topmost_first))


def _visible(topmost_first: tuple[str, ...]) -> tuple[str, ...]:
    """The chain down to a layer that is opaque at its root: overlay looks for that mark below the root alone."""
    for number, directory in enumerate(topmost_first):
        if overlays.OPAQUE in os.listxattr(directory):
            return topmost_first[: number + 1]
    return topmost_first
