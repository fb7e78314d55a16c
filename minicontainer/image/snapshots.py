"""Snapshots: an image's layers as directories, each unpacked once.

Stands above `store`. Ruled by image-spec, layer.md. A layer is unpacked by its diff_id to `layers/sha256/HEX/diff`:
first into a staging directory, which is renamed when all is verified and on the disk. So a `diff` that is there is
whole, whatever died meanwhile, and a container of an image that is unpacked needs nothing of tar, gzip or digests.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from minicontainer import files
from minicontainer.image.store import Store
from minicontainer.linux import procfs
from minicontainer.oci.image import Descriptor, ImageConfig, InvalidImage, Manifest

Progress = Callable[[str, str, int, int], None]  # event, digest, bytes done, bytes in all


def unpack(
    data_root: str, store: Store, manifest: Manifest, config: ImageConfig, progress: Progress | None = None
) -> tuple[str, ...]:
    """The directories of the image's layers, the topmost first, each unpacked if it was not.

    Blob digest, blob size and diff_id are verified of each layer that is unpacked.

    Raises:
        Error: a layer is not what its descriptor or the config says; nothing of it is kept.
    """
    directories = _directories(data_root, manifest, config)
    if not all(map(os.path.exists, directories)):
        with unpacking(data_root, store, manifest, config, progress) as arrived:
            for descriptor in manifest.layers:
                arrived(descriptor)
    return _visible(_without_repeats(directories[::-1]))


def _directories(data_root: str, manifest: Manifest, config: ImageConfig) -> list[str]:
    if len(manifest.layers) != len(config.diff_ids):
        counts = f"{len(manifest.layers)} layers and {len(config.diff_ids)} diff_ids"
        raise InvalidImage(manifest.config.digest, f"it has {counts}")
    return [diff_directory(data_root, diff_id) for diff_id in config.diff_ids]


@contextmanager
def unpacking(
    data_root: str, store: Store, manifest: Manifest, config: ImageConfig, progress: Progress | None = None
) -> Iterator[Callable[[Descriptor | None], None]]:
    """Unpack layers as they come: call what this gives with each layer whose blob is in the store, and now and then.

    The layers are made side by side, each into a staging directory. At the end all are put on the disk at once and
    get their names, the lowest first, so that a layer with a name has all of its parents.
    """
    # why here: most images are unpacked
    from minicontainer.image import layer_blobs, layer_workers, layers
    from minicontainer.registry import settings  # as above

    directories = _directories(data_root, manifest, config)
    missing = {
        directory: (descriptor, diff_id)
        for directory, descriptor, diff_id in zip(directories, manifest.layers, config.diff_ids, strict=True)
        if not os.path.exists(directory)
    }
    workers = layer_workers.Workers(store, len(missing), settings.limits(), progress)
    with ExitStack() as undo, workers:  # these end first: what is removed is not made again by who still unpacks
        locks = {directory: undo.enter_context(_layer_lock(directory)) for directory in sorted(missing)}
        for directory in list(missing):
            if os.path.exists(directory):  # another process has made it while we waited
                del missing[directory]
        stagings = {directory: _staging(data_root, missing[directory][1]) for directory in missing}
        left = set(missing)

        def arrived(blob: Descriptor | None) -> None:
            for directory, (descriptor, diff_id) in missing.items() if blob else ():
                if blob and descriptor.digest == blob.digest and directory in left:
                    left.discard(directory)
                    undo.callback(files.remove_tree, stagings[directory])
                    workers.submit(layer_workers.Job(descriptor, diff_id, stagings[directory], locks[directory]))
            workers.turn()

        yield arrived
        implied = workers.finish()
        workers.close()
        for number, directory in enumerate(directories):
            if directory in missing:
                below = [stagings.get(lower, lower) for lower in directories[:number]][::-1]
                layers.imply(stagings[directory], implied[missing[directory][1]], _without_repeats(below))
        if missing:
            layer_blobs.sync(f"{data_root}/staging")
        for directory in _without_repeats(directories):
            if directory in missing:
                os.rename(stagings[directory], directory)
                files.sync_directory(os.path.dirname(directory))


def _staging(data_root: str, diff_id: str) -> str:
    return f"{data_root}/staging/{diff_id.replace(':', '-')}"


def diff_directory(data_root: str, diff_id: str) -> str:
    return f"{data_root}/layers/{diff_id.replace(':', '/')}/diff"


def adopt(data_root: str, diff_id: str, upper: str) -> None:
    """Let the upper directory that a layer was made of be its unpacked layer; it is gone from where it was."""
    target = diff_directory(data_root, diff_id)
    with _layer_lock(target):
        if os.path.exists(target):
            files.remove_tree(upper)
            return
        from minicontainer.image import layer_blobs  # why here: a build alone adopts

        layer_blobs.sync(upper)
        os.rename(upper, target)
        files.sync_directory(os.path.dirname(target))


@contextmanager
def _layer_lock(directory: str) -> Iterator[int]:
    parent = os.path.dirname(directory)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    with files.lock(f"{parent}/lock") as descriptor:
        yield descriptor


def _without_repeats(topmost_first: Sequence[str]) -> tuple[str, ...]:
    """A layer that is in the chain twice hides its lower self wholly; overlay refuses the same directory twice."""
    return tuple(dict.fromkeys(topmost_first))


def _visible(topmost_first: tuple[str, ...]) -> tuple[str, ...]:
    """The chain down to a layer that is opaque at its root: overlay looks for that mark below the root alone."""
    for number, directory in enumerate(topmost_first):
        if procfs.overlay_opaque() in os.listxattr(directory):
            return topmost_first[: number + 1]
    return topmost_first
