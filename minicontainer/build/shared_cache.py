"""Shared cache: the steps of a build for builds on other machines: --cache-to and --cache-from.

Above `cache`, whose keys mean the same everywhere: they are of contents, not of paths. A shared cache is an OCI
image layout, or an image in a registry: its layers are those of the steps, its config says which key gave which. Or it
is inline: the config of the built image says so of its own layers. What comes is verified like every blob; who may
write to the place can give other layers, as with an image.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from minicontainer.arguments import UsageError
from minicontainer.build.cache import Cache, Layer
from minicontainer.build.options import fields
from minicontainer.errors import Error
from minicontainer.image.store import Store
from minicontainer.oci import image
from minicontainer.oci.image import Descriptor, Manifest
from minicontainer.oci.reference import Reference, is_digest

CONFIG = "application/vnd.minicontainer.buildcache.v1+json"
NAME = "buildcache"  # of the entry in a layout
INLINE_KEY = "io.minicontainer.buildcache.v1"  # of the config of an image


class Place(NamedTuple):
    """Where a shared cache is: a directory, a reference in a registry, or the image itself."""

    type: str
    where: str


def place(flag: str, text: str) -> Place:
    """`type=local,src=DIR`, `type=local,dest=DIR`, `type=registry,ref=REF`, `type=inline`, or a reference alone."""
    if "=" not in text:
        return Place("registry", str(Reference.parse(text)))
    given = fields(flag, text, ("type", "src", "dest", "ref", "mode"))
    kind = given.get("type", "registry")
    if kind == "inline" and flag == "--cache-to":
        return INLINE
    where = given.get("ref", "") if kind == "registry" else given.get("dest", given.get("src", ""))
    if kind not in ("local", "registry") or not where:
        raise UsageError(f"{flag} {text}: type=local with a directory, or type=registry,ref=REFERENCE is expected")
    return Place(kind, str(Reference.parse(where)) if kind == "registry" else os.path.abspath(where))


INLINE = Place("inline", "")
INLINE_ARGUMENT = "BUILDKIT_INLINE_CACHE"  # the build argument that asks BuildKit for the same, when it is 1


class Imported(NamedTuple):
    """A shared cache that is here: its layout, and what each key gave."""

    store: Store
    steps: Mapping[str, Layer]

    def take(self, key: str, into: Store) -> Layer | None:
        """The layer of that key, its blob in the store; None when the cache has none."""
        layer = self.steps.get(key)
        if layer is None or layer.descriptor is None:
            return layer
        if not into.has(layer.descriptor.digest):
            with self.store.open(layer.descriptor.digest) as blob, into.writer() as writer:
                shutil.copyfileobj(blob, writer, 1 << 20)
                writer.commit(layer.descriptor.digest, layer.descriptor.size)
        return layer


def fetch(one: Place, scratch: str) -> Imported | None:
    """The shared cache; None when nothing is there yet, as before the first build.

    Raises:
        Error: it is there, and is none.
    """
    if one.type == "local":
        if not os.path.exists(f"{one.where}/index.json"):
            return None
        store, name = Store(one.where), NAME
    else:
        from minicontainer.registry import client  # HTTP and TLS cost 50 ms

        store, name = Store(tempfile.mkdtemp(dir=scratch)), one.where
        with suppress(Error):  # not there, or not to be reached: a build goes on without
            client.pull(store, one.where)
    if name not in dict(store.names()):
        return None
    manifest = store.manifest(dict(store.names())[name])
    if manifest.config.media_type in image.CONFIGS:
        steps = store.config(manifest).other.get(INLINE_KEY)
        return None if steps is None else Imported(store, _steps(steps, manifest, one.where))
    if manifest.config.media_type != CONFIG:
        raise Error(f"{one.where}: is not a build cache, but {manifest.config.media_type}")
    return Imported(store, _steps(json.loads(store.read(manifest.config.digest)), manifest, one.where))


def _steps(document: object, manifest: Manifest, where: str) -> dict[str, Layer]:
    """Parsed once, here: what is not as it should be is an error that names the place."""
    blobs = {descriptor.digest: descriptor for descriptor in manifest.layers}
    found = {}
    try:
        for key, entry in document["steps"].items():  # type: ignore[index]  # as JSON it may be anything
            diff_id, created, digest = entry["diff_id"], str(entry["created"]), entry["layer"]
            if diff_id and not (is_digest(diff_id) and digest in blobs):
                raise ValueError(diff_id)
            found[str(key)] = Layer(diff_id, created, blobs[digest] if diff_id else None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Error(f"{where}: the build cache is damaged: {error}; try: another --cache-to") from None
    return found


def send(one: Place, cache: Cache, taken: Mapping[str, Layer], scratch: str) -> None:
    """Write the steps that a build took."""
    store = Store(one.where if one.type == "local" else tempfile.mkdtemp(dir=scratch))
    steps, blobs = {}, dict[str, Descriptor]()
    for key, layer in taken.items():
        descriptor = cache.blob(layer) if layer.diff_id else None
        steps[key] = _entry(layer, descriptor)
        if descriptor:
            blobs[descriptor.digest] = descriptor
            _copy(cache.store, store, descriptor)
    digest, size = store.put(json.dumps({"steps": steps}).encode())
    manifest = Manifest(config=Descriptor(CONFIG, digest, size), layers=tuple(blobs.values()))
    digest, size = store.put(image.encode(manifest))
    name = NAME if one.type == "local" else one.where
    store.tag(name, Descriptor(image.MANIFEST, digest, size))
    if one.type == "local":
        store.collect()  # what the steps before needed
        return
    from minicontainer.registry import client  # as in `fetch`

    client.push(store, name, one.where)


def inline(layers: Mapping[str, Descriptor], taken: Mapping[str, Layer]) -> dict[str, object]:
    """What the config of an image says besides: the steps that gave its `layers` (by diff_id), or gave none."""
    kept = {key: layer for key, layer in taken.items() if not layer.diff_id or layer.diff_id in layers}
    return {INLINE_KEY: {"steps": {key: _entry(layer, layers.get(layer.diff_id)) for key, layer in kept.items()}}}


def _entry(layer: Layer, blob: Descriptor | None) -> dict[str, str]:
    return {"diff_id": layer.diff_id, "created": layer.created, "layer": blob.digest if blob else ""}


def _copy(source: Store, target: Store, descriptor: Descriptor) -> None:
    if not target.has(descriptor.digest):
        with source.open(descriptor.digest) as blob, target.writer() as writer:
            shutil.copyfileobj(blob, writer, 1 << 20)
            writer.commit(descriptor.digest, descriptor.size)
