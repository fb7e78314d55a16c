"""Images: pull, push, name, list and remove them: what `engine` offers of images.

Stands between the store with its registry and `engine`, which knows the containers that need an image.
"""

import os
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress

from minicontainer import containers, files
from minicontainer.containers import Container, Home
from minicontainer.errors import Error
from minicontainer.image import snapshots
from minicontainer.image.store import NotForPlatform, Store
from minicontainer.oci.image import REF_NAME, Descriptor, ImageConfig, Manifest, Platform
from minicontainer.oci.reference import Reference


def open_store(home: Home) -> Store:
    containers.prepare(home)
    return Store(f"{home.data}/oci", keeps_reserve=True)


def image(home: Home, reference: str) -> Descriptor:
    """The image's descriptor.

    Raises:
        ImageNotFound: it is not here.
    """
    return open_store(home).resolve(reference)


def pull(
    home: Home,
    reference: str,
    *,
    plain_http: bool | None = None,
    credentials: tuple[str, str] | None = None,
    progress: Callable[..., None] | None = None,
    unpack: bool = False,
    platform: Platform | None = None,
    all_platforms: bool = False,
) -> Descriptor:
    """Get an image from its registry; with `unpack` also its layers, each as soon as it is here, ready to run."""
    # HTTP and TLS cost 50 ms, and a container of an image that is here needs none
    from minicontainer.registry import client

    store = open_store(home)

    def unpacking(manifest: Manifest, config: ImageConfig) -> AbstractContextManager[Callable[..., None]]:
        return snapshots.unpacking(home.data, store, manifest, config, progress)

    for_us = platform is None or platform.fits(Platform.here())
    return client.pull(
        store,
        Reference.parse(reference),
        plain_http=bool(plain_http),
        credentials=credentials,
        progress=progress,
        platform=platform,
        all_platforms=all_platforms,
        unpacking=unpacking if unpack and for_us else None,
    )


def push(
    home: Home,
    source: str,
    reference: str = "",
    *,
    plain_http: bool | None = None,
    credentials: tuple[str, str] | None = None,
    progress: Callable[..., None] | None = None,
    platform: Platform | None = None,
) -> Descriptor:
    """Send an image to the registry that its name, or `reference`, says."""
    from minicontainer.registry import client  # as in `pull`

    return client.push(
        open_store(home),
        source,
        Reference.parse(reference or source),
        plain_http=bool(plain_http),
        credentials=credentials,
        progress=progress,
        platform=platform,
    )


def images(home: Home) -> list[tuple[str, Descriptor, Manifest, ImageConfig]]:
    """Every image for this machine, by its names; one that has none by an empty one."""
    store = open_store(home)
    found = []
    unnamed = [("", entry) for entry in store.entries() if not entry.annotations.get(REF_NAME)]
    for name, descriptor in [*store.names(), *unnamed]:
        with suppress(Error):  # an image for other machines has no manifest for this one
            manifest = store.manifest(descriptor)
            found.append((name, descriptor, manifest, store.config(manifest)))
    return found


def tag(home: Home, source: str, name: str) -> None:
    """Give an image a further name."""
    store = open_store(home)
    store.tag(str(Reference.parse(name)), store.resolve(source)._replace(annotations={}))


def remove(home: Home, reference: str, held: Collection[Container], force: bool = False) -> list[str]:
    """Take a name away from an image, and with its last name its content: what was removed, in docker's words.

    By its id an image goes with all its names, of which there may be one, unless `force` is given.

    Raises:
        Error: a container needs it, or it has several names.
    """
    store = open_store(home)
    descriptor = store.resolve(reference)
    names = [name for name, other in store.names() if other.digest == descriptor.digest]
    given = [name for name in names if name in (reference, _spelled(reference))]
    if len(names) > 1 and not given and not force:
        shown = ", ".join(Reference.parse(name).familiar() for name in names)
        raise Error(f"image {reference} has several names: {shown}; try: rmi with one of them, or rmi --force")
    going = given or names
    if set(going) == set(names) and not force:
        _refuse_if_used(store, descriptor, reference, held)
    last = set(going) == set(names)
    lines = forget(store, descriptor.digest) if last else [_untagged(store, name) for name in going]
    return lines + [f"Deleted: {digest}" for digest in sweep(home, held)]


def _refuse_if_used(store: Store, descriptor: Descriptor, reference: str, held: Collection[Container]) -> None:
    with suppress(NotForPlatform):  # it is for other machines: no container has it
        digest = store.manifest(descriptor).config.digest
        for container in held:
            if container.image_id == digest:
                raise Error(
                    f"image {reference} is used by container {container.name}; "
                    f"try: minicontainer rm {container.name}, or rmi --force"
                )


def _untagged(store: Store, name: str) -> str:
    store.untag(name)
    return f"Untagged: {Reference.parse(name).familiar() if '/' in name else name}"


def forget(store: Store, digest: str) -> list[str]:
    """Take all names of an image away, and its place in the index: what was removed. `sweep` frees its content."""
    lines = [_untagged(store, name) for name, other in store.names() if other.digest == digest]
    store.remove(digest)
    return lines


def sweep(home: Home, held: Collection[Container]) -> list[str]:
    """Free what no image, no container and no remembered step of a build needs: the blobs that went."""
    from minicontainer.build import cache  # why here: a container's start frees nothing

    def blobs_of_steps() -> list[str]:
        steps = cache.entries(home.data)
        return [entry.layer.descriptor.digest for entry in steps if entry.layer.descriptor]

    def layers_of_steps() -> list[str]:
        return [entry.layer.diff_id for entry in cache.entries(home.data) if entry.layer.diff_id]

    removed = open_store(home).collect(also=blobs_of_steps)
    _remove_unused_layers(home, held, also=layers_of_steps)
    return removed


def repair(home: Home) -> str:
    """Remove what pulls, loads and removals that died have left half done: what that was, or nothing."""
    store = open_store(home)
    blobs, layers = store.remove_stale(), 0
    for name in os.listdir(f"{home.data}/staging") if os.path.isdir(f"{home.data}/staging") else ():
        if name.startswith("gone-") or (name.startswith("sha256-") and not _is_being_made(home, name)):
            files.remove_tree(f"{home.data}/staging/{name}")
            layers += 1
    parts = [f"{blobs} {'blob' if blobs == 1 else 'blobs'}"] if blobs else []
    parts += [f"{layers} {'layer' if layers == 1 else 'layers'}"] if layers else []
    return f"removed what was left half done: {', '.join(parts)}" if parts else ""


def _is_being_made(home: Home, staging: str) -> bool:
    return files.is_locked(f"{home.data}/layers/{staging.replace('-', '/')}/lock")


def _spelled(reference: str) -> str:
    with suppress(Error):
        return str(Reference.parse(reference))
    return reference


def _remove_unused_layers(home: Home, held: Collection[Container], also: Callable[[], list[str]]) -> None:
    """Remove unpacked layers that no image and no container needs, except those of the diff_ids that `also` gives."""
    directory = f"{home.data}/layers/sha256"
    with files.lock(f"{open_store(home).root}/.session.lock"):  # alone: nobody unpacks an image whose name is to come
        needed = {diff_id.split(":")[1] for _, _, _, config in images(home) for diff_id in config.diff_ids}
        needed |= {diff_id.split(":")[1] for diff_id in also()}
        for container in held:
            needed |= {os.path.basename(os.path.dirname(path)) for path in container.lowers}
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
            if name not in needed:
                gone = f"{home.data}/staging/gone-{name}"
                os.makedirs(f"{home.data}/staging", mode=0o700, exist_ok=True)
                os.rename(f"{directory}/{name}", gone)
                files.remove_tree(gone)
