"""Store: blobs by digest, names to digests, garbage. It is an OCI image layout on disk; skopeo reads it in place.

Stands above `oci/image`; `registry` fills it, `snapshots` unpacks from it, `build` writes to it, and the registry
server of miniecs keeps its own. Ruled by image-spec, image-layout.md. Many processes use one store at a time:

- a blob is written to a staging file that its writer locks, then renamed to its digest: there whole, or not at all;
- `index.json` is replaced under a lock, and read without one;
- garbage is collected only when nobody is in a `session`: what a pull or a build has written and not yet named is safe.

Each lock is a flock(2), which dies with its holder.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType

from minicontainer import files
from minicontainer.errors import Error, ImageNotFound
from minicontainer.oci import image
from minicontainer.oci.image import Descriptor, ImageConfig, Index, InvalidImage, Manifest, Platform
from minicontainer.oci.reference import InvalidReference, Reference, is_digest
from minicontainer.values import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

DOCUMENT_LIMIT = 4 << 20  # distribution-spec: a registry takes manifests of 4 MiB at least; more is not a document
CHUNK = 1 << 20
RESERVE = 16 << 10  # bytes at least: an index is some hundred for each image
SHORTEST_ID = 4  # digits of an id that a person may type


class NotForPlatform(Error):
    """An index has no manifest for the platform that is wanted."""


class Writer:
    """A blob being written: hashed as it goes, in the store only after `commit`.

    It lies in the staging directory, where it dies with its writer, or at a `path` of its own, where another goes on.
    """

    def __init__(self, store: "Store", algorithm: str, path: str = "") -> None:
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self._store = store
        os.makedirs(store.staging, mode=0o700, exist_ok=True)  # a layout that others made has none
        self._path = path or f"{store.staging}/{os.urandom(12).hex()}"
        self._file: BinaryIO | None = open(self._opened(), "ab", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        self._is_hashed = not self.size  # what was there before is hashed at the end

    def _opened(self) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # says to `remove_stale` that the writer lives
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)  # it was faster, and has taken the file for a dead one's

    def write(self, data: bytes | memoryview) -> int:
        if self._file is None:
            raise ValueError("the blob is committed or aborted")
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:  # a full disk: say which; what was written of this piece does not count
            os.ftruncate(self._file.fileno(), self.size)
            error.filename = self._store.root
            raise
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    def commit(self, expected: str | None = None, size: int | None = None) -> tuple[str, int]:
        """Verify, make durable, and give the blob its name.

        Raises:
            Error: the content is not of the `expected` digest or `size`; nothing is kept.
        """
        if self._file is None:
            raise ValueError("the blob is committed or aborted")
        algorithm = expected.partition(":")[0] if expected else self._algorithm
        if not self._is_hashed or algorithm != self._algorithm:
            self._hash = self._store.hash_of(self._path, algorithm)
        digest = f"{self._hash.name}:{self._hash.hexdigest()}"
        if size is not None and self.size != size:
            self.abort()
            raise Error(f"blob {expected or digest}: {self.size} bytes came, {size} were announced")
        if expected is not None and digest != expected:
            self.abort()
            raise Error(f"blob {expected}: the content has another digest, {digest}")
        self._keep(digest)
        return digest, self.size

    def _keep(self, digest: str) -> None:
        assert self._file is not None
        target = self._store.blob_path(digest)
        if os.path.exists(target):
            self.abort()
            return
        os.fchmod(self._file.fileno(), 0o644)
        os.fsync(self._file.fileno())
        files.make_directories(os.path.dirname(target), self._store.root)
        os.rename(self._path, target)
        files.sync_directory(os.path.dirname(target))
        self._file.close()
        self._file = None

    def suspend(self) -> None:
        """Leave the file to who goes on with it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def abort(self) -> None:
        """Forget what was written; no error when it is committed or aborted already."""
        if self._file is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            self._file.close()
            self._file = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class Store:
    """An OCI image layout in the directory `root`, made when absent.

    One that `keeps_reserve` has some room on the disk for the day that it is full.
    """

    def __init__(self, root: str, keeps_reserve: bool = False) -> None:
        self.root = root
        self._keeps_reserve = keeps_reserve
        self.staging = f"{root}/staging"
        self._index_path = f"{root}/index.json"
        self._cached: tuple[tuple[int, int, int], tuple[Descriptor, ...]] | None = None
        if not os.path.exists(self._index_path):
            self._make()

    def _make(self) -> None:
        os.makedirs(f"{self.root}/blobs/sha256", exist_ok=True)
        os.makedirs(self.staging, mode=0o700, exist_ok=True)
        with self._index_lock():
            if not os.path.exists(self._index_path):
                files.write(f"{self.root}/oci-layout", b'{"imageLayoutVersion":"1.0.0"}', mode=0o644, durable=True)
                self._write_index(image.encode(Index(manifests=())), takes_away=False)

    # Blobs

    def blob_path(self, digest: str) -> str:
        if not is_digest(digest):
            raise InvalidImage("digest", f"{digest!r} is not one that we can verify")
        return f"{self.root}/blobs/{digest.replace(':', '/')}"

    def has(self, digest: str) -> bool:
        return os.path.exists(self.blob_path(digest))

    def size(self, digest: str) -> int:
        return os.stat(self.blob_path(digest)).st_size

    def open(self, digest: str) -> "BinaryIO":
        try:
            return open(self.blob_path(digest), "rb")
        except FileNotFoundError:
            raise Error(f"blob {digest} is not in the store {self.root}; try: pull the image again") from None

    def read(self, digest: str) -> bytes:
        """A document whole, with its digest verified; what is larger than a document may be is refused unread."""
        with self.open(digest) as file:
            data = file.read(DOCUMENT_LIMIT + 1)
        if len(data) > DOCUMENT_LIMIT:
            raise InvalidImage(digest, f"a document is at most {DOCUMENT_LIMIT} bytes")
        if hashlib.new(digest.partition(":")[0], data).hexdigest() != digest.partition(":")[2]:
            raise InvalidImage(
                digest, "its content on disk has another digest; try: remove the image and pull it again"
            )
        return data

    def writer(self, algorithm: str = "sha256", path: str = "") -> Writer:
        return Writer(self, algorithm, path)

    def put(self, data: bytes) -> tuple[str, int]:
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def hash_of(self, path: str, algorithm: str) -> "hashlib._Hash":
        with open(path, "rb") as file:
            return hashlib.file_digest(file, algorithm)

    # Names

    def entries(self) -> tuple[Descriptor, ...]:
        """The descriptors of index.json; the name of one is its annotation `org.opencontainers.image.ref.name`."""
        found = os.stat(self._index_path)
        identity = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._cached is None or self._cached[0] != identity:
            with open(self._index_path, "rb") as file:
                self._cached = identity, Index.from_json(image.parse(file.read(), self._index_path)).manifests
        return self._cached[1]

    def names(self) -> list[tuple[str, Descriptor]]:
        named = ((entry.annotations.get(image.REF_NAME, ""), entry) for entry in self.entries())
        return sorted((pair for pair in named if pair[0]), key=lambda pair: pair[0])

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Name the image; a name that was another's moves. An empty name keeps the image without one."""
        entry = descriptor._replace(annotations={image.REF_NAME: name} if name else {})
        self._change(lambda entries: [*(e for e in entries if not _same(e, name, descriptor.digest)), entry])

    def untag(self, name: str) -> None:
        """Take the name away; an absent one is no error."""
        self._change(lambda entries: [entry for entry in entries if entry.annotations.get(image.REF_NAME) != name])

    def remove(self, digest: str) -> None:
        """Take away all names of an image; `collect` then frees its blobs."""
        self._change(lambda entries: [entry for entry in entries if entry.digest != digest])

    def _change(self, change: Callable[[tuple[Descriptor, ...]], list[Descriptor]]) -> None:
        with self._index_lock():
            before = self.entries()
            after = tuple(change(before))
            if after != before:
                self._write_index(image.encode(Index(manifests=after)), takes_away=len(after) < len(before))

    def _write_index(self, data: bytes, takes_away: bool) -> None:
        """What gives space back works on a full disk too: there is a reserve for it, for twice as much."""
        reserve = f"{self.root}/reserve"
        try:
            files.write(self._index_path, data, mode=0o644, durable=True)
        except OSError as error:
            if not takes_away or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            with suppress(FileNotFoundError):
                os.unlink(reserve)
            files.write(self._index_path, data, mode=0o644, durable=True)
        if self._keeps_reserve:
            with suppress(OSError):  # not today: there will be another change
                files.reserve(reserve, max(RESERVE, 2 * len(data)))

    def resolve(self, name_or_id: str) -> Descriptor:
        """The image by a name in the store, a reference, or (the start of) the digest of its manifest or config.

        Raises:
            ImageNotFound: nothing has that name or id.
            Error: the id is the start of several.
        """
        names = dict(self.names())
        if name_or_id in names:
            return names[name_or_id]
        with suppress(InvalidReference):
            reference = Reference.parse(name_or_id)
            found = names.get(str(reference)) or (self._by_digest(reference.digest) if reference.digest else None)
            if found:
                return found
        return self._by_id(name_or_id)

    def _by_digest(self, digest: str) -> Descriptor | None:
        return next((entry for entry in self.entries() if entry.digest == digest), None)

    def _by_id(self, text: str) -> Descriptor:
        digits = text.removeprefix("sha256:")
        if len(digits) < SHORTEST_ID or set(digits) - set("0123456789abcdef"):
            raise ImageNotFound(text)
        found = {}
        for entry in self.entries():
            if any(digest.startswith(f"sha256:{digits}") for digest in (entry.digest, self._config_digest(entry))):
                found[entry.digest] = entry
        if len(found) > 1:
            raise Error(f"image id {text} is ambiguous: it starts {', '.join(sorted(found))}; try: more digits")
        if not found:
            raise ImageNotFound(text)
        return next(iter(found.values()))

    def _config_digest(self, entry: Descriptor) -> str:
        try:
            return self.manifest(entry).config.digest
        except Error:  # not an image, or for another platform: it has no config that could be its id
            return ""

    # Images

    def manifest(self, descriptor: Descriptor, platform: Platform | None = None) -> Manifest:
        """The manifest that `descriptor` names, through an index when it is one."""
        found = self.manifest_descriptor(descriptor, platform)
        return Manifest.from_json(image.parse(self._document(found), found.digest), found.media_type)

    def manifest_descriptor(self, descriptor: Descriptor, platform: Platform | None = None) -> Descriptor:
        for _ in range(4):  # an index may name an index; a chain of them is not an image
            if descriptor.media_type in image.MANIFESTS:
                return descriptor
            descriptor = self.chosen(descriptor, platform or Platform.here())
        raise InvalidImage(descriptor.digest, "an index in an index in an index")

    def chosen(self, descriptor: Descriptor, platform: Platform, name: str = "") -> Descriptor:
        """What an index names for a platform."""
        if descriptor.media_type not in image.INDEXES:
            raise InvalidImage(descriptor.digest, f"{descriptor.media_type} is not the media type of a manifest")
        index = Index.from_json(image.parse(self._document(descriptor), descriptor.digest), descriptor.media_type)
        chosen = index.choose(platform)
        if chosen is None:
            offered = ", ".join(sorted({str(entry.platform) for entry in index.manifests})) or "nothing"
            raise NotForPlatform(f"image {name or descriptor.digest} is not for {platform}; it is for {offered}")
        return chosen

    def config(self, manifest: Manifest) -> ImageConfig:
        if manifest.config.media_type not in image.CONFIGS:
            raise InvalidImage(
                manifest.config.digest, f"{manifest.config.media_type} is not the config of a container image"
            )
        return ImageConfig.from_json(image.parse(self._document(manifest.config), manifest.config.digest))

    def _document(self, descriptor: Descriptor) -> bytes:
        data = self.read(descriptor.digest)
        if len(data) != descriptor.size:
            raise InvalidImage(descriptor.digest, f"it has {len(data)} bytes, its descriptor says {descriptor.size}")
        return data

    def put_image(self, layers: Sequence[Descriptor], config: ImageConfig) -> Descriptor:
        """Write config and manifest for `layers`, whose blobs are here already. The caller names the result."""
        digest, size = self.put(image.encode(config))
        manifest = Manifest(config=Descriptor(media_type=image.CONFIG, digest=digest, size=size), layers=tuple(layers))
        digest, size = self.put(image.encode(manifest))
        platform = Platform(architecture=config.architecture, os=config.os, variant=config.variant)
        return Descriptor(media_type=image.MANIFEST, digest=digest, size=size, platform=platform)

    # Garbage

    def session(self) -> AbstractContextManager[int]:
        """While any process is in a session, nothing is collected: hold it from the first blob until the name."""
        return files.lock(f"{self.root}/.session.lock", shared=True)

    def collect(self, also: Callable[[], Iterable[str]] = tuple) -> list[str]:
        """Remove the blobs that no named image needs, and what dead writers left. Waits for sessions.

        `also` gives what is to stay besides; it is asked when nobody is in a session any more.
        """
        with files.lock(f"{self.root}/.session.lock"):
            needed = self.reachable() | set(also())
            garbage = sorted(digest for digest in self.digests() if digest not in needed)
            for digest in garbage:
                os.unlink(self.blob_path(digest))
            self.remove_stale()
        return garbage

    def digests(self) -> Iterator[str]:
        """Every blob in the store."""
        for algorithm in os.listdir(f"{self.root}/blobs"):
            for name in os.listdir(f"{self.root}/blobs/{algorithm}"):
                if is_digest(digest := f"{algorithm}:{name}"):
                    yield digest

    def reachable(self) -> set[str]:
        """The digests that the images of the index need."""
        return self.needed_by(self.entries())

    def needed_by(self, entries: Iterable[Descriptor]) -> set[str]:
        """The digests that these images need, their own with them."""
        seen: set[str] = set()
        pending = list(entries)
        while pending:
            descriptor = pending.pop()
            if descriptor.digest in seen:
                continue
            seen.add(descriptor.digest)
            if descriptor.media_type in (*image.INDEXES, *image.MANIFESTS) and self.has(descriptor.digest):
                pending += self.children(descriptor)
        return seen

    def children(self, descriptor: Descriptor) -> tuple[Descriptor, ...]:
        """What an index or a manifest names; nothing for other content."""
        if descriptor.media_type in image.INDEXES:
            return Index.from_json(
                image.parse(self._document(descriptor), descriptor.digest), descriptor.media_type
            ).manifests
        if descriptor.media_type in image.MANIFESTS:
            manifest = Manifest.from_json(
                image.parse(self._document(descriptor), descriptor.digest), descriptor.media_type
            )
            return (manifest.config, *manifest.layers)
        return ()

    def remove_stale(self) -> int:
        """Remove what writers that died have left half written: how many."""
        count = 0
        for name in os.listdir(self.staging) if os.path.isdir(self.staging) else ():
            path = f"{self.staging}/{name}"
            with suppress(FileNotFoundError, BlockingIOError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its writer is dead when this is granted
                os.unlink(path)
                count += 1
        return count

    @contextmanager
    def _index_lock(self) -> Iterator[None]:
        with files.lock(f"{self.root}/.index.lock"):
            yield


def _same(entry: Descriptor, name: str, digest: str) -> bool:
    """Whether a new entry of that name and digest takes this one's place."""
    held = entry.annotations.get(image.REF_NAME, "")
    return held == name and (held != "" or entry.digest == digest)
