"""Image archives: images of the store as one tar stream, and back: what `save` and `load` do.

Stands above the store. Ruled by image-spec image-layout.md, and docker's own format (manifest.json beside it): what is
written here is both at once, as docker does since 25, so that docker, podman and skopeo read it by either name.
"""

import io
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO, Any, NamedTuple

from minicontainer.errors import Error
from minicontainer.image.archives import Content, InvalidLayer, Reader, decompressed
from minicontainer.image.store import DOCUMENT_LIMIT, Store
from minicontainer.image.tar import members
from minicontainer.oci import image
from minicontainer.oci.image import Descriptor, Index, Manifest, Platform
from minicontainer.oci.reference import Reference

CHUNK = 1 << 20
CONTAINERD_NAME = "io.containerd.image.name"


class InvalidArchive(Error):
    """What is to be loaded is no archive of images."""


class Entry(NamedTuple):
    """One image of a docker archive: manifest.json's words, by the names of the archive's members."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...]


# --- save ------------------------------------------------------------------------------------------------------------


def save(store: Store, names: Iterable[str], out: IO[bytes], platform: Platform | None = None) -> None:
    """Write the images, each with all it names, or of those for several the one for a platform, as one plain tar."""
    chosen = [_named(store, name, platform) for name in names]
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(archive, "index.json", image.encode(Index(manifests=tuple(chosen))))
        for digest in dict.fromkeys(digest for one in chosen for digest in _needed(store, one)):
            member = tarfile.TarInfo(_member_name(digest))
            member.size = store.size(digest)
            with store.open(digest) as blob:
                archive.addfile(member, blob)
        _add(archive, "manifest.json", json.dumps([_docker_entry(store, one) for one in chosen]).encode())


def save_layout(store: Store, names: Iterable[str], directory: str, platform: Platform | None = None) -> None:
    """Write the images as an OCI layout on disk, which other programs read in place."""
    chosen = [_named(store, name, platform) for name in names]
    if os.path.isdir(directory) and os.listdir(directory) and not os.path.exists(f"{directory}/oci-layout"):
        raise InvalidArchive(f"{directory} has files and is no OCI layout; try: another directory")
    target = Store(directory)
    with target.session():
        for one in chosen:
            for digest in _needed(store, one):
                with store.open(digest) as blob, target.writer(digest.partition(":")[0]) as writer:
                    while data := blob.read(CHUNK):
                        writer.write(data)
                    writer.commit(digest)
            target.tag(one.annotations.get(image.REF_NAME, ""), one._replace(annotations={}))
    with suppress(OSError):  # another process writes there, too
        os.rmdir(target.staging)


def _named(store: Store, name: str, platform: Platform | None) -> Descriptor:
    """The descriptor under the name that was asked for; an id has none."""
    descriptor = store.resolve(name)
    if platform:
        descriptor = store.manifest_descriptor(descriptor, platform)
    known = dict(store.names())
    full = name if name in known else str(Reference.parse(name))
    if full not in known:
        return descriptor._replace(annotations={})
    return descriptor._replace(annotations={image.REF_NAME: full, CONTAINERD_NAME: full})


def _needed(store: Store, descriptor: Descriptor) -> Iterator[str]:
    """The digests of an image, children first; of an index only what is here."""
    for child in store.children(descriptor):
        if store.has(child.digest):
            yield from _needed(store, child)
    yield descriptor.digest


def _docker_entry(store: Store, descriptor: Descriptor) -> dict[str, Any]:
    manifest = store.manifest(descriptor)
    name = descriptor.annotations.get(image.REF_NAME)
    return {
        "Config": _member_name(manifest.config.digest),
        "RepoTags": [Reference.parse(name).familiar()] if name else None,
        "Layers": [_member_name(layer.digest) for layer in manifest.layers],
    }


def _member_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


# --- load ------------------------------------------------------------------------------------------------------------


def load(store: Store, stream: Reader, platform: Platform | None = None) -> list[str]:
    """Read images into the store, or of those for several the one for a platform: their names, or else their digests.

    Raises:
        InvalidArchive: it holds no image, or less of one than it says; no image gets a name.
    """
    with store.session():
        try:
            blobs, links, documents = _take(store, decompressed(stream))
        except InvalidLayer as error:
            raise InvalidArchive(f"this archive is broken or cut short: {error}") from error
        if "index.json" in documents and "oci-layout" in blobs:
            found = _oci(store, documents["index.json"])
        elif "manifest.json" in documents:
            found = [_docker(store, entry, blobs, links) for entry in _entries(documents["manifest.json"])]
        else:
            raise InvalidArchive("this is no archive of images: it has neither index.json nor manifest.json")
        if platform:
            found = [(store.manifest_descriptor(descriptor, platform), names) for descriptor, names in found]
        for descriptor, names in found:
            for name in names or [""]:
                store.tag(name, descriptor)
        return [name for descriptor, names in found for name in (names or [descriptor.digest])]


def _take(store: Store, stream: Reader) -> tuple[dict[str, Descriptor], dict[str, str], dict[str, bytes]]:
    """Every file as a blob by its name, symbolic links by theirs, and the two documents that say what they are."""
    blobs: dict[str, Descriptor] = {}
    links: dict[str, str] = {}
    documents: dict[str, bytes] = {}
    for member, content in members(stream):
        name, target = os.fsdecode(member.name).removeprefix("./"), os.fsdecode(member.link)
        if member.form == stat.S_IFLNK:
            links[name] = _joined(name, target)
        elif member.form == 0:
            links[name] = target.removeprefix("./")
        elif member.form == stat.S_IFREG:
            if name in ("index.json", "manifest.json"):
                if member.size > DOCUMENT_LIMIT:
                    raise InvalidArchive(f"{name} of {member.size} bytes is more than {DOCUMENT_LIMIT}")
                documents[name] = b"".join(piece for _, piece in content)
            else:
                blobs[name] = _blob(store, content)
    return blobs, links, documents


def _joined(name: str, target: str) -> str:
    """Where a symbolic link of the archive leads: docker's old format has them between layers."""
    parts = name.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _blob(store: Store, content: Content) -> Descriptor:
    first = b""
    with store.writer() as writer:
        for _, piece in content:
            first = first or bytes(piece[:4])
            writer.write(piece)
        digest, size = writer.commit()
    media_type = image.LAYER_GZIP if first[:2] == b"\x1f\x8b" else image.LAYER
    media_type = image.LAYER_ZSTD if first[:4] == b"\x28\xb5\x2f\xfd" else media_type
    return Descriptor(media_type=media_type, digest=digest, size=size)


def _oci(store: Store, document: bytes) -> list[tuple[Descriptor, list[str]]]:
    found = []
    for descriptor in Index.from_json(image.parse(document, "index.json")).manifests:
        _require(store, descriptor)
        name = descriptor.annotations.get(CONTAINERD_NAME) or descriptor.annotations.get(image.REF_NAME, "")
        found.append((descriptor._replace(annotations={}), [str(Reference.parse(name))] if name else []))
    return found


def _require(store: Store, descriptor: Descriptor) -> None:
    """All of the image for this machine is there; what an index names for others may be missing."""
    if not store.has(descriptor.digest):
        raise InvalidArchive(f"the archive names {descriptor.digest} and does not have it")
    manifest = store.manifest(descriptor)
    for part in (manifest.config, *manifest.layers):
        if not store.has(part.digest):
            raise InvalidArchive(f"the archive names {part.digest} and does not have it")


def _entries(document: bytes) -> Iterator[Entry]:
    try:
        for entry in json.loads(document):
            yield Entry(entry["Config"], tuple(entry["Layers"]), tuple(entry.get("RepoTags") or ()))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArchive(f"manifest.json is not docker's: {error}") from error


def _docker(
    store: Store, entry: Entry, blobs: dict[str, Descriptor], links: dict[str, str]
) -> tuple[Descriptor, list[str]]:
    def blob(name: str) -> Descriptor:
        for _ in range(8):  # a chain of links is not an image
            if name in blobs:
                return blobs[name]
            name = links.get(name, "")
        raise InvalidArchive(f"manifest.json names {name or entry.config} and the archive does not have it")

    config = blob(entry.config)._replace(media_type=image.CONFIG)
    manifest = Manifest(config=config, layers=tuple(blob(name) for name in entry.layers))
    store.config(manifest)  # it must be a config, before anything gets a name
    digest, size = store.put(image.encode(manifest))
    names = [str(Reference.parse(name)) for name in entry.names]
    return Descriptor(media_type=image.MANIFEST, digest=digest, size=size), names
