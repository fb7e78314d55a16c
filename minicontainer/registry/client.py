"""Client: pull and push over the distribution API.

Stands between `transfers` (blobs on their way) and `images`. Ruled by distribution-spec, "Pull" and "Push". An index is
kept as it came: the name stands for it, and of the manifests that it names those for one platform are brought, or all.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from minicontainer.errors import Error, ImageNotFound
from minicontainer.image.store import DOCUMENT_LIMIT, Store
from minicontainer.oci import image
from minicontainer.oci.image import Descriptor, ImageConfig, Manifest, Platform
from minicontainer.oci.reference import Reference
from minicontainer.registry import credentials as known
from minicontainer.registry import settings
from minicontainer.registry.credentials import Credentials
from minicontainer.registry.distribution import NotThere, Registry, RegistryError
from minicontainer.registry.transfers import Arrived, Progress, Transfer, each

ACCEPT = ", ".join((*image.MANIFESTS, *image.INDEXES))
NESTED = 4  # an index may name an index; a chain of them is not an image

# Makes ready to take each layer as it comes, when manifest and config are here.
Unpacking = Callable[[Manifest, ImageConfig], AbstractContextManager[Arrived]]


def pull(
    store: Store,
    reference: Reference | str,
    *,
    plain_http: bool = False,
    credentials: tuple[str, str] | None = None,
    progress: Progress | None = None,
    platform: Platform | None = None,
    all_platforms: bool = False,
    unpacking: Unpacking | None = None,
) -> Descriptor:
    """Fetch an image into the store, for this machine's platform or another or all, under the reference's full name.

    Mirrors that the settings name are asked first. With a `platform` the name stands for that manifest alone.

    Raises:
        ImageNotFound: the registry does not have it.
        RegistryError: the registry cannot be reached, or refuses us.
    """
    name = _parsed(reference)
    for mirror in settings.registry(name.registry).mirrors:
        try:
            with _registry(name._replace(registry=mirror), False, None) as registry, store.session():
                pulling = _Pull(store, registry, name, progress or _silent)
                return pulling.pull(platform, all_platforms, unpacking)
        except RegistryError as error:
            (progress or _silent)("mirror", f"{mirror}:{error}", 0, 0)
    with _registry(name, plain_http, credentials) as registry, store.session():
        try:
            return _Pull(store, registry, name, progress or _silent).pull(platform, all_platforms, unpacking)
        except NotThere as error:
            raise MissingImage(name, str(error)) from error


def push(
    store: Store,
    source_name: str,
    reference: Reference | str,
    *,
    plain_http: bool = False,
    credentials: tuple[str, str] | None = None,
    progress: Progress | None = None,
    platform: Platform | None = None,
) -> Descriptor:
    """Send an image of the store, with all that it names, and give it the reference's name in the registry.

    Of an index that is here in parts, the manifest for one platform is sent.
    """
    name = _parsed(reference)
    descriptor = store.resolve(source_name)
    if platform or not _is_whole(store, descriptor):
        descriptor = store.manifest_descriptor(descriptor, platform)
    with _registry(name, plain_http, credentials) as registry, store.session():
        transfer = Transfer(store, registry, name.repository, progress or _silent, actions="pull,push")
        documents = list(_documents(store, descriptor))
        sources = _sources(store, name)
        each(
            transfer,
            [blob for document in documents for blob in store.children(document) if not _is_document(blob)],
            lambda own, blob: own.send(blob, sources.get(blob.digest, ())),
        )
        for document in documents:
            transfer.send_document(
                document, (name.tag or name.digest) if document is documents[-1] else document.digest
            )
    return descriptor


def login(registry: str, credentials: tuple[str, str], *, plain_http: bool = False) -> None:
    """Prove the credentials at the registry, and keep them where docker does."""
    who = Credentials(*credentials)
    with Registry(registry, who, plain_http) as connection:
        connection.request("GET", "/v2/").read()
    known.save(registry, who)


def logout(registry: str) -> bool:
    """Forget the credentials; whether there were any."""
    return known.erase(registry)


class MissingImage(ImageNotFound):
    def __init__(self, name: Reference, said: str) -> None:
        Error.__init__(self, f"image {name} is not in its registry, or not for us: {said}; look at its name and tag")


class _Pull:
    """One image on its way from a repository into the store."""

    def __init__(self, store: Store, registry: Registry, name: Reference, progress: Progress) -> None:
        self._store, self._registry, self._name = store, registry, name
        self._transfer = Transfer(store, registry, name.repository, progress)

    def pull(self, platform: Platform | None, all_platforms: bool, unpacking: Unpacking | None) -> Descriptor:
        descriptor = self.fetch_manifest(self._name.digest or self._name.tag)
        if all_platforms:
            manifests = list(self._all(descriptor, NESTED))
        else:
            manifests = [self._choose(descriptor, platform or Platform.here())]
        for manifest in manifests:
            self._fetch_blobs(manifest, None if all_platforms else unpacking)
        if platform and not all_platforms:
            descriptor = manifests[0]
        self._store.tag(str(self._name), descriptor._replace(annotations={}))
        return descriptor

    def _fetch_blobs(self, descriptor: Descriptor, unpacking: Unpacking | None) -> None:
        manifest = self._store.manifest(descriptor)
        if unpacking is None:
            each(self._transfer, (manifest.config, *manifest.layers), Transfer.fetch)
            return
        self._transfer.fetch(manifest.config)
        with unpacking(manifest, self._store.config(manifest)) as arrived:
            each(self._transfer, manifest.layers, Transfer.fetch, arrived)

    def fetch_manifest(self, tag_or_digest: str, expected: Descriptor | None = None) -> Descriptor:
        """Bring a manifest or an index into the store; what was asked for by digest must have it."""
        url = f"{self._transfer.top}/manifests/{tag_or_digest}"
        answer = self._registry.request("GET", url, {"Accept": ACCEPT}, scope=self._transfer.scope)
        data = answer.read()
        if len(data) > DOCUMENT_LIMIT:
            self._registry.hang_up()
            raise RegistryError(self._registry.host, f"manifest {tag_or_digest} is larger than {DOCUMENT_LIMIT} bytes")
        media_type = answer.media_type
        if media_type == "text/html":
            raise RegistryError(self._registry.host, f"manifest {tag_or_digest} came as HTML: is that a registry?")
        if expected is not None and media_type != expected.media_type:
            raise RegistryError(self._registry.host, f"manifest {tag_or_digest} came as {media_type!r}")
        if media_type not in (*image.MANIFESTS, *image.INDEXES):
            raise RegistryError(self._registry.host, f"{tag_or_digest} is a {media_type!r}, not an image that we know")
        digest = tag_or_digest if ":" in tag_or_digest else "sha256:" + hashlib.sha256(data).hexdigest()
        with self._store.writer(digest.partition(":")[0]) as writer:
            writer.write(data)
            writer.commit(digest, expected.size if expected else None)
        descriptor = Descriptor(media_type=media_type, digest=digest, size=len(data))
        self._store.children(descriptor)  # it is what its type says, or nothing more is asked for
        return descriptor

    def _here(self, descriptor: Descriptor) -> Descriptor:
        if not self._store.has(descriptor.digest):
            self.fetch_manifest(descriptor.digest, descriptor)
        return descriptor

    def _choose(self, descriptor: Descriptor, platform: Platform) -> Descriptor:
        """Go from an index to the manifest for a platform."""
        for _ in range(NESTED):
            if descriptor.media_type in image.MANIFESTS:
                return descriptor
            descriptor = self._here(self._store.chosen(descriptor, platform, str(self._name)))
        raise RegistryError(self._registry.host, f"{self._name} is an index in an index in an index")

    def _all(self, descriptor: Descriptor, depth: int) -> Iterator[Descriptor]:
        """The manifests of all platforms; what an index names besides, an attestation say, is brought too."""
        if descriptor.media_type in image.MANIFESTS:
            yield descriptor
        elif descriptor.media_type in image.INDEXES and depth:
            for child in self._store.children(descriptor):
                yield from self._all(self._here(child), depth - 1)


def _is_document(descriptor: Descriptor) -> bool:
    return descriptor.media_type in (*image.MANIFESTS, *image.INDEXES)


def _is_whole(store: Store, descriptor: Descriptor) -> bool:
    """Whether all is here that an image names, directly or by what it names."""
    if not store.has(descriptor.digest):
        return False
    return not _is_document(descriptor) or all(
        _is_whole(store, child) for child in store.children(descriptor) if not child.urls
    )


def _documents(store: Store, descriptor: Descriptor) -> Iterator[Descriptor]:
    """Manifests and indexes of an image, children first: a registry takes one only when it has what that names."""
    for child in store.children(descriptor):
        if _is_document(child):
            yield from _documents(store, child)
    yield descriptor


def _sources(store: Store, name: Reference) -> Mapping[str, list[str]]:
    """By blob, other repositories of that registry which have it, as far as the names in the store tell."""
    found: dict[str, list[str]] = {}
    for other, descriptor in store.names():
        reference = _parsed(other) if "/" in other else None
        if reference and reference.registry == name.registry and reference.repository != name.repository:
            for document in _documents(store, descriptor) if _is_whole(store, descriptor) else ():
                for blob in store.children(document):
                    found.setdefault(blob.digest, []).append(reference.repository)
    return found


def _parsed(reference: Reference | str) -> Reference:
    return reference if isinstance(reference, Reference) else Reference.parse(reference)


def _registry(name: Reference, plain_http: bool, credentials: tuple[str, str] | None) -> Registry:
    who = Credentials(*credentials) if credentials else known.load(name.registry)
    return Registry(name.registry, who, plain_http)


def _silent(event: str, digest: str, done: int, total: int) -> None:
    """Nobody watches."""
