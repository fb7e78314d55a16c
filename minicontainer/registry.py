"""Registry: pull and push over the distribution API.

Stands between `distribution` (requests) and `store` (blobs and names). Ruled by distribution-spec, "Pull" and "Push".
What is here, or there, already is not sent again; every byte that comes is hashed on its way into the store.
"""

import hashlib
from collections.abc import Callable
from typing import BinaryIO

from minicontainer import credentials as known
from minicontainer.credentials import Credentials
from minicontainer.distribution import NotThere, Registry, RegistryError
from minicontainer.errors import Error, ImageNotFound
from minicontainer.oci import image
from minicontainer.oci.image import Descriptor, Index, Platform
from minicontainer.oci.reference import Reference
from minicontainer.store import DOCUMENT_LIMIT, Store, Writer

CHUNK = 1 << 18
ATTEMPTS = 4  # connections for one blob, each going on where the last broke
ACCEPT = ", ".join((*image.MANIFESTS, *image.INDEXES))

Progress = Callable[[str, str, int, int], None]  # event (download, upload, exists), digest, bytes done, bytes in all


def pull(
    store: Store,
    reference: Reference | str,
    *,
    plain_http: bool = False,
    credentials: tuple[str, str] | None = None,
    progress: Progress | None = None,
    platform: Platform | None = None,
) -> Descriptor:
    """Fetch an image for one platform into the store, under the reference's full name.

    Raises:
        ImageNotFound: the registry does not have it.
        RegistryError: the registry cannot be reached, or refuses us.
    """
    name = _parsed(reference)
    with _registry(name, plain_http, credentials) as registry, store.session():
        transfer = _Transfer(store, registry, name.repository, progress or _silent)
        try:
            descriptor = transfer.fetch_manifest(name.digest or name.tag)
        except NotThere as error:
            raise MissingImage(name, str(error)) from error
        descriptor = transfer.choose(descriptor, platform or Platform.here())
        for blob in store.children(descriptor):
            transfer.fetch_blob(blob)
        store.tag(str(name), descriptor)
    return descriptor


def push(
    store: Store,
    source_name: str,
    reference: Reference | str,
    *,
    plain_http: bool = False,
    credentials: tuple[str, str] | None = None,
    progress: Progress | None = None,
) -> Descriptor:
    """Send an image of the store, with all that it names, and give it the reference's name in the registry."""
    name = _parsed(reference)
    descriptor = store.resolve(source_name)
    with _registry(name, plain_http, credentials) as registry, store.session():
        transfer = _Transfer(store, registry, name.repository, progress or _silent, actions="pull,push")
        transfer.send(descriptor, name.tag or name.digest)
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


class _Transfer:
    """One image on its way between the store and a repository."""

    def __init__(
        self, store: Store, registry: Registry, repository: str, progress: Progress, actions: str = "pull"
    ) -> None:
        self._store, self._registry, self._progress = store, registry, progress
        self._top = f"/v2/{repository}"
        self._scope = f"repository:{repository}:{actions}"

    # Pull

    def fetch_manifest(self, tag_or_digest: str, expected: Descriptor | None = None) -> Descriptor:
        """Bring a manifest or an index into the store; what was asked for by digest must have it."""
        url = f"{self._top}/manifests/{tag_or_digest}"
        answer = self._registry.request("GET", url, {"Accept": ACCEPT}, scope=self._scope)
        data = answer.read()
        if len(data) > DOCUMENT_LIMIT:
            raise RegistryError(self._registry.host, f"manifest {tag_or_digest} is larger than {DOCUMENT_LIMIT} bytes")
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        if expected is not None and media_type != expected.media_type:
            raise RegistryError(self._registry.host, f"manifest {tag_or_digest} came as {media_type!r}")
        if media_type not in (*image.MANIFESTS, *image.INDEXES):
            raise RegistryError(self._registry.host, f"{tag_or_digest} is a {media_type!r}, not an image that we know")
        digest = tag_or_digest if ":" in tag_or_digest else "sha256:" + hashlib.sha256(data).hexdigest()
        with self._store.writer(digest.partition(":")[0]) as writer:
            writer.write(data)
            writer.commit(digest, expected.size if expected else None)
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def choose(self, descriptor: Descriptor, platform: Platform) -> Descriptor:
        """Go from an index to the manifest for a platform, which is then what the name stands for here."""
        while descriptor.media_type in image.INDEXES:
            index = Index.from_json(
                image.parse(self._store.read(descriptor.digest), descriptor.digest), descriptor.media_type
            )
            chosen = index.choose(platform)
            if chosen is None:
                offered = ", ".join(sorted({str(entry.platform) for entry in index.manifests})) or "nothing"
                raise Error(f"the image is not for {platform}; it is for {offered}")
            if not self._store.has(chosen.digest):
                self.fetch_manifest(chosen.digest, chosen)
            descriptor = chosen
        return descriptor

    def fetch_blob(self, blob: Descriptor) -> None:
        if self._store.has(blob.digest) and self._store.size(blob.digest) == blob.size:
            self._progress("exists", blob.digest, blob.size, blob.size)
            return
        with self._store.writer(blob.digest.partition(":")[0]) as writer:
            for _ in range(ATTEMPTS):
                self._receive(blob, writer)
                if writer.size >= blob.size:
                    break
            writer.commit(blob.digest, blob.size)

    def _receive(self, blob: Descriptor, writer: Writer) -> None:
        """Read the blob from where `writer` stands, as far as the connection lasts."""
        headers = {"Range": f"bytes={writer.size}-"} if writer.size else {}
        url = f"{self._top}/blobs/{blob.digest}"
        answer = self._registry.request("GET", url, headers, accept=(200, 206), scope=self._scope)
        skip = writer.size if answer.status == 200 else 0  # a registry may not know Range, and send all again
        self._progress("download", blob.digest, writer.size, blob.size)
        for data in answer.chunks(CHUNK):
            writer.write(data[skip:])
            skip = max(0, skip - len(data))
            self._progress("download", blob.digest, writer.size, blob.size)
            if writer.size > blob.size:
                raise RegistryError(self._registry.host, f"blob {blob.digest} is larger than the {blob.size} announced")
        if writer.size < blob.size:
            self._registry.hang_up()

    # Push

    def send(self, descriptor: Descriptor, tag: str) -> None:
        """Children first: a registry takes a manifest only when it has what it names."""
        for child in self._store.children(descriptor):
            if child.media_type in (*image.MANIFESTS, *image.INDEXES):
                self.send(child, child.digest)
            else:
                self._send_blob(child)
        data = self._store.read(descriptor.digest)
        url = f"{self._top}/manifests/{tag}"
        headers = {"Content-Type": descriptor.media_type}
        self._registry.request("PUT", url, headers, data, accept=(201,), scope=self._scope).read()

    def _send_blob(self, blob: Descriptor) -> None:
        url = f"{self._top}/blobs/{blob.digest}"
        answer = self._registry.request("HEAD", url, accept=(200, 404), scope=self._scope)
        answer.read()
        if answer.status == 200:
            self._progress("exists", blob.digest, blob.size, blob.size)
            return
        start = self._registry.request("POST", f"{self._top}/blobs/uploads/", accept=(202,), scope=self._scope)
        start.read()
        location = start.headers.get("Location")
        if not location:
            raise RegistryError(self._registry.host, "it starts an upload and does not say where")
        target = f"{location}{'&' if '?' in location else '?'}digest={blob.digest}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        self._progress("upload", blob.digest, 0, blob.size)
        self._registry.request(
            "PUT", target, headers, lambda: self._counted(blob), accept=(201,), scope=self._scope
        ).read()

    def _counted(self, blob: Descriptor) -> BinaryIO:
        return _Counted(self._store.open(blob.digest), blob, self._progress)  # type: ignore[return-value]  # read, close


class _Counted:
    """A file that tells how far it has been read."""

    def __init__(self, file: BinaryIO, blob: Descriptor, progress: Progress) -> None:
        self._file, self._blob, self._progress, self._done = file, blob, progress, 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._done += len(data)
        self._progress("upload", self._blob.digest, self._done, self._blob.size)
        return data

    def close(self) -> None:
        self._file.close()


def _parsed(reference: Reference | str) -> Reference:
    return reference if isinstance(reference, Reference) else Reference.parse(reference)


def _registry(name: Reference, plain_http: bool, credentials: tuple[str, str] | None) -> Registry:
    who = Credentials(*credentials) if credentials else known.load(name.registry)
    return Registry(name.registry, who, plain_http)


def _silent(event: str, digest: str, done: int, total: int) -> None:
    """Nobody watches."""
