"""Transfers: the blobs of an image on their way between the store and a repository, several at once.

Stands between `distribution` (requests) and `client` (what is pulled and pushed). Ruled by distribution-spec,
"Pulling blobs" and "Pushing blobs". What is here, or there, already is not sent again; every byte that comes is hashed
on its way into the store; a connection that breaks is gone on with where it broke.
"""

import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO
from urllib.parse import urlencode

from minicontainer.image.store import Store, Writer
from minicontainer.oci.image import Descriptor
from minicontainer.registry.distribution import Answer, Interrupted, Registry, RegistryError

CHUNK = 1 << 18
ATTEMPTS = 5  # connections for one blob that bring nothing new, one after the other
AT_ONCE = 4
TURN_SECONDS = 0.05
JOIN_SECONDS = 5.0  # for threads that were interrupted; they hold nothing that does not die with the process

Progress = Callable[[str, str, int, int], None]  # event (download, upload, exists), digest, bytes done, bytes in all
Arrived = Callable[[Descriptor | None], None]  # called with each blob that is here, and with None now and then


class Transfer:
    """One repository, spoken to by one thread."""

    def __init__(
        self, store: Store, registry: Registry, repository: str, progress: Progress, actions: str = "pull"
    ) -> None:
        self.store, self.registry, self.progress = store, registry, progress
        self.repository, self.actions = repository, actions
        self.top, self.scope = f"/v2/{repository}", f"repository:{repository}:{actions}"

    def another(self, progress: Progress) -> "Transfer":
        """The same by connections of its own, for another thread."""
        return Transfer(self.store, self.registry.another(), self.repository, progress, self.actions)

    # Pull

    def fetch(self, blob: Descriptor) -> None:
        """Bring a blob into the store.

        Raises:
            Error: it is not there, or not what was announced; nothing of it is kept.
        """
        if self.store.has(blob.digest) and self.store.size(blob.digest) == blob.size:
            self.progress("exists", blob.digest, blob.size, blob.size)
            return
        with self.store.writer(blob.digest.partition(":")[0]) as writer:
            failed = 0
            while writer.size < blob.size or not blob.size:
                before, broken = writer.size, None
                try:
                    self._receive(blob, writer)
                except Interrupted as error:
                    broken = error
                if writer.size >= blob.size:
                    break
                failed = failed + 1 if writer.size == before else 0
                if failed >= ATTEMPTS:
                    reason = (
                        f"blob {blob.digest}: {writer.size} of {blob.size} bytes came, and no more in {failed} tries"
                    )
                    raise broken or RegistryError(self.registry.host, reason)
                self.registry.pause(failed + 1)
            writer.commit(blob.digest, blob.size)

    def _receive(self, blob: Descriptor, writer: Writer) -> None:
        """Read the blob from where `writer` stands, as far as the connection lasts."""
        headers = {"Range": f"bytes={writer.size}-"} if writer.size else {}
        url = f"{self.top}/blobs/{blob.digest}"
        answer = self.registry.request("GET", url, headers, accept=(200, 206), scope=self.scope)
        if answer.media_type == "text/html":
            raise RegistryError(self.registry.host, f"blob {blob.digest} came as a page of HTML: is that a registry?")
        skip = writer.size if answer.status == 200 else 0  # a registry may not know Range, and send all again
        self.progress("download", blob.digest, writer.size, blob.size)
        for data in answer.chunks(CHUNK):
            writer.write(data[skip:])
            skip = max(0, skip - len(data))
            self.progress("download", blob.digest, writer.size, blob.size)
            if writer.size > blob.size:
                raise RegistryError(self.registry.host, f"blob {blob.digest} is larger than the {blob.size} announced")
        if writer.size < blob.size:
            self.registry.hang_up()

    # Push

    def send(self, blob: Descriptor, sources: Sequence[str] = ()) -> None:
        """Bring a blob into the repository; from one of the `sources`, other repositories there, if one has it."""
        url = f"{self.top}/blobs/{blob.digest}"
        answer = self.registry.request("HEAD", url, accept=(200, 404), scope=self.scope)
        answer.read()
        if answer.status == 200:
            self.progress("exists", blob.digest, blob.size, blob.size)
            return
        location = self._start(blob, sources)
        if not location:
            self.progress("mount", blob.digest, blob.size, blob.size)
            return
        offset, failed = 0, 0
        while True:
            try:
                self._upload(blob, location, offset)
                return
            except Interrupted:
                failed += 1
                if failed >= ATTEMPTS:
                    raise
                self.registry.pause(failed)
                location, offset = self._standing(blob, location)

    def _start(self, blob: Descriptor, sources: Sequence[str]) -> str:
        """Where an upload goes; nothing when the registry has the blob by a mount."""
        for source in sources:
            query = urlencode({"mount": blob.digest, "from": source})
            scope = f"{self.scope} repository:{source}:pull"
            answer = self._post(f"{self.top}/blobs/uploads/?{query}", (201, 202, 401, 403, 404), scope)
            if answer.status == 201:
                return ""
            if answer.status == 202:  # it does not, and has begun an upload instead
                return self._location(answer)
        return self._location(self._post(f"{self.top}/blobs/uploads/", (202,), self.scope))

    def _post(self, url: str, accept: tuple[int, ...], scope: str) -> Answer:
        answer = self.registry.request("POST", url, {"Content-Length": "0"}, accept=accept, scope=scope)
        answer.read()
        return answer

    def _location(self, answer: Answer) -> str:
        location = answer.headers.get("Location")
        if not location:
            raise RegistryError(self.registry.host, "it starts an upload and does not say where")
        return location

    def _upload(self, blob: Descriptor, location: str, offset: int) -> None:
        """Send the rest of a blob: all in one request, or after a break as a further chunk."""

        def content() -> BinaryIO:
            file = self.store.open(blob.digest)
            return _Counted(file, offset, blob, self.progress)  # type: ignore[return-value]  # only read and close

        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size - offset)}
        self.progress("upload", blob.digest, offset, blob.size)
        if offset:
            span = {"Content-Range": f"{offset}-{blob.size - 1}"}
            answer = self.registry.request("PATCH", location, headers | span, content, accept=(202,), scope=self.scope)
            answer.read()
            location = answer.headers.get("Location") or location
            headers = {"Content-Length": "0"}
        target = f"{location}{'&' if '?' in location else '?'}{urlencode({'digest': blob.digest})}"
        body = None if offset else content
        self.registry.request("PUT", target, headers, body, accept=(201,), scope=self.scope).read()

    def _standing(self, blob: Descriptor, location: str) -> tuple[str, int]:
        """Where an upload goes on, and from which byte: what the registry has of it, or a new one from the start."""
        answer = self.registry.request("GET", location, accept=(204, 404), scope=self.scope)
        answer.read()
        span = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("Range", ""))
        if answer.status == 404 or span is None or int(span[1]) == 0:
            return self._start(blob, ()), 0
        return answer.headers.get("Location") or location, min(int(span[1]) + 1, blob.size)

    # Documents

    def send_document(self, descriptor: Descriptor, tag: str) -> None:
        data = self.store.read(descriptor.digest)
        headers = {"Content-Type": descriptor.media_type}
        url = f"{self.top}/manifests/{tag}"
        self.registry.request("PUT", url, headers, data, accept=(201,), scope=self.scope).read()


class _Counted:
    """A file, read from an offset, that tells how far it has been read."""

    def __init__(self, file: BinaryIO, offset: int, blob: Descriptor, progress: Progress) -> None:
        self._file, self._blob, self._progress, self._done = file, blob, progress, offset
        file.seek(offset)

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._done += len(data)
        self._progress("upload", self._blob.digest, self._done, self._blob.size)
        return data

    def close(self) -> None:
        self._file.close()


# Several at once


def each(
    transfer: Transfer,
    blobs: Iterable[Descriptor],
    go: Callable[[Transfer, Descriptor], None],
    arrived: Arrived = lambda _: None,
) -> None:
    """Do `go` with every blob, in a few threads; `arrived` and the progress are called in this one.

    Raises:
        Error, OSError: what the first that failed has raised; the others are interrupted.
    """
    waiting: queue.SimpleQueue[Descriptor] = queue.SimpleQueue()
    events: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
    wanted = list({blob.digest: blob for blob in blobs}.values())
    for blob in wanted:
        waiting.put(blob)

    def run(own: Transfer) -> None:
        try:
            while True:
                blob = waiting.get_nowait()
                go(own, blob)
                events.put(("arrived", (blob,)))
        except queue.Empty:
            own.registry.hang_up()
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: raised again by who waits for it
            events.put(("failed", (error,)))
        events.put(("ended", ()))

    twins = [transfer.another(lambda *said: events.put(("progress", said))) for _ in wanted[:AT_ONCE]]
    threads = [threading.Thread(target=run, args=(twin,), daemon=True) for twin in twins]
    try:
        for thread in threads:
            thread.start()
        _hear(events, len(threads), transfer.progress, arrived)
    finally:
        for twin in twins:
            twin.registry.abort()
        for thread in threads:
            thread.join(JOIN_SECONDS)


def _hear(
    events: "queue.SimpleQueue[tuple[str, tuple[Any, ...]]]", running: int, progress: Progress, arrived: Arrived
) -> None:
    last = time.monotonic()
    while running:
        with suppress(queue.Empty):
            kind, said = events.get(timeout=TURN_SECONDS)
            match kind:
                case "progress":
                    progress(*said)
                case "arrived":
                    arrived(*said)
                case "failed":
                    raise said[0]
                case "ended":
                    running -= 1
        if time.monotonic() - last > TURN_SECONDS:
            last = time.monotonic()
            arrived(None)
