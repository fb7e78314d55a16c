"""OCI layouts: an image of another layout's directory into the store, for `--build-context name=oci-layout://PATH`
and for `load`.

Above the store, which is such a layout itself. Ruled by image-spec, image-layout.md: its blobs are verified by the way.
"""

from minicontainer.errors import Error
from minicontainer.image.store import DOCUMENT_LIMIT, Store
from minicontainer.oci import image
from minicontainer.oci.image import Descriptor, Index, Platform
from minicontainer.oci.reference import Reference

SCHEME = "oci-layout://"
CHUNK = 1 << 20


def take(store: Store, name: str) -> Descriptor:
    """The image `PATH[:TAG][@DIGEST]`, copied; without a tag or digest that of `latest`, or the only one there is.

    Raises:
        Error: there is no such layout, or no such image in it.
    """
    path, _, digest = name.removeprefix(SCHEME).partition("@")
    directory, colon, tag = path.rpartition(":")
    if not colon or "/" in tag:
        directory, tag = path, ""
    entries = _entries(directory)
    chosen = _choose(entries, tag, digest)
    if chosen is None:
        names = ", ".join(sorted(entry.annotations.get(image.REF_NAME, entry.digest) for entry in entries)) or "nothing"
        raise Error(f"{name}: no such image in the layout; it has {names}")
    _copy(store, directory, chosen)
    return chosen._replace(annotations={})


def load(store: Store, directory: str, platform: Platform | None = None) -> list[str]:
    """All images of a layout's directory into the store, as `image_archives.load` has them: names, or else digests."""
    found = []
    with store.session():
        for entry in _entries(directory):
            _copy(store, directory, entry)
            name = entry.annotations.get(image.REF_NAME, "")
            full = str(Reference.parse(name)) if name else ""
            chosen = store.manifest_descriptor(entry, platform) if platform else entry
            found.append((full, chosen._replace(annotations={})))
        for name, entry in found:
            store.tag(name, entry)
    return [name or entry.digest for name, entry in found]


def _entries(directory: str) -> tuple[Descriptor, ...]:
    try:
        with open(f"{directory}/index.json", "rb") as file:
            return Index.from_json(image.parse(file.read(DOCUMENT_LIMIT), f"{directory}/index.json")).manifests
    except (FileNotFoundError, NotADirectoryError):
        raise Error(f"{directory}: is not an OCI layout: there is no index.json") from None


def _choose(entries: tuple[Descriptor, ...], tag: str, digest: str) -> Descriptor | None:
    if digest:
        return next((entry for entry in entries if entry.digest == digest), None)
    named = [entry for entry in entries if _has_tag(entry, tag or "latest")]
    if named or tag:
        return next(iter(named), None)
    return entries[0] if len({entry.digest for entry in entries}) == 1 else None


def _has_tag(entry: Descriptor, tag: str) -> bool:
    name = entry.annotations.get(image.REF_NAME, "")
    return name == tag or name.rpartition("/")[2].endswith(f":{tag}")


def _copy(store: Store, directory: str, descriptor: Descriptor) -> None:
    """The blob and all that it names; a manifest that is not in the layout, for another platform, is passed over."""
    if not store.has(descriptor.digest):
        with open(f"{directory}/blobs/{descriptor.digest.replace(':', '/')}", "rb") as file, store.writer() as writer:
            while data := file.read(CHUNK):
                writer.write(data)
            writer.commit(descriptor.digest, descriptor.size)
    for child in store.children(descriptor):
        try:
            _copy(store, directory, child)
        except FileNotFoundError:
            if descriptor.media_type not in image.INDEXES:
                raise Error(f"{directory}: blob {child.digest} is not in the layout") from None
