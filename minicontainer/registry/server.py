"""Server: the other side of the distribution API, over the same store that images are kept in.

Mounted below /v2/ by `commands` and by miniecs' server. Ruled by distribution-spec. Content is kept once; what
a repository has of it is a *link*, an empty file. Manifests are named in the store's index: `repository:tag`, and
`repository@digest` for each. What reads or writes content runs in threads; nothing is held in memory but a chunk for
each transfer. What was acknowledged is on the disk; what nothing names is removed at the next start.
"""

import asyncio
import json
import os
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from aiohttp import BasicAuth, web

from minicontainer import files
from minicontainer.errors import Error, ImageNotFound
from minicontainer.image.store import DOCUMENT_LIMIT, Store, Writer
from minicontainer.oci import image
from minicontainer.oci.image import Descriptor, Index, InvalidImage, Manifest
from minicontainer.oci.reference import is_digest, is_repository, is_tag

CHUNK = 1 << 20
DAY = 86400.0
UPLOAD_SECONDS = 3600.0  # an upload that nobody has touched for so long is forgotten
UPLOAD_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
VERSION = {"Docker-Distribution-API-Version": "registry/2.0"}

Authorize = Callable[[str, str], bool]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STATUSES = {  # distribution-spec, Error Codes: the status that goes with each
    "BLOB_UNKNOWN": 404,
    "BLOB_UPLOAD_INVALID": 400,
    "BLOB_UPLOAD_UNKNOWN": 404,
    "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 400,
    "MANIFEST_INVALID": 400,
    "MANIFEST_UNKNOWN": 404,
    "NAME_INVALID": 400,
    "NAME_UNKNOWN": 404,
    "PAGINATION_NUMBER_INVALID": 400,
    "RANGE_INVALID": 416,
    "SIZE_INVALID": 413,
    "TAG_INVALID": 400,
    "UNAUTHORIZED": 401,
    "UNSUPPORTED": 405,
}  # fmt: skip


class Refused(Exception):
    """An answer with an error of the specification."""

    def __init__(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.code, self.headers = code, dict(headers or {})


class Upload:
    """A blob on its way in: where it stands, and when it was last touched."""

    def __init__(self, writer: Writer, repository: str) -> None:
        self.writer, self.repository = writer, repository
        self.lock = asyncio.Lock()
        self.touched = time.monotonic()


def routes(root: str, authorize: Authorize | None, realm: str = "registry") -> web.Application:
    """The application to be mounted at /v2/, its content below the directory `root`.

    `authorize` is called with a user and a password in the event loop, and must not block; without it all may do all.
    """
    registry = Registry(root)
    guards = [_authorizing(authorize, realm)] if authorize else []
    application = web.Application(middlewares=[_answer_errors, *guards])
    name, upload = "/{name:.+}", "/{name:.+}/blobs/uploads/{upload}"
    application.add_routes(
        [
            web.get("/", registry.ping),
            web.get("/_catalog", registry.catalog),
            web.get(f"{name}/tags/list", registry.tags),
            web.get(f"{name}/referrers/{{digest}}", registry.referrers),
            web.post(f"{name}/blobs/uploads/", registry.start_upload),
            web.get(upload, registry.upload_status, allow_head=False),
            web.patch(upload, registry.append),
            web.put(upload, registry.finish_upload),
            web.delete(upload, registry.cancel_upload),
            web.get(f"{name}/blobs/{{digest}}", registry.get_blob),
            web.delete(f"{name}/blobs/{{digest}}", registry.delete_blob),
            web.get(f"{name}/manifests/{{reference}}", registry.get_manifest),
            web.put(f"{name}/manifests/{{reference}}", registry.put_manifest),
            web.delete(f"{name}/manifests/{{reference}}", registry.delete_manifest),
        ]
    )
    application.on_cleanup.append(registry.close)
    return application


class Registry:
    """The repositories below one directory."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._store = Store(root)
        self._uploads: dict[str, Upload] = {}

    async def close(self, _application: web.Application) -> None:
        for upload in self._uploads.values():
            upload.writer.suspend()

    def collect(self) -> tuple[int, int]:
        """Before anybody is served: remove what nobody can want any more; how many blobs, how many bytes.

        That is content which no repository has, of a repository what none of its manifests has named for a day, and
        uploads that nobody has gone on with for an hour.
        """
        for _, path in self._files_below("_uploads"):
            if time.time() - os.stat(path).st_mtime > UPLOAD_SECONDS:
                os.unlink(path)
        named = self._named_by_manifests()
        linked = set()
        for name, digest, path in list(self._all_links()):
            if digest in named.get(name, ()) or time.time() - os.stat(path).st_mtime < DAY:
                linked.add(digest)
            else:
                os.unlink(path)
        sizes = {digest: self._store.size(digest) for digest in self._store.digests()}
        gone = self._store.collect(also=lambda: linked)
        return len(gone), sum(sizes.get(digest, 0) for digest in gone)

    def _all_links(self) -> Iterator[tuple[str, str, str]]:
        for name, path in self._files_below("_blobs"):
            algorithm, digits = path.split("/")[-2:]
            yield name, f"{algorithm}:{digits}", path

    def _files_below(self, kind: str) -> Iterator[tuple[str, str]]:
        """The files of a kind with their repositories."""
        top = f"{self._root}/repositories"
        for directory, _, names in os.walk(top):
            name, found, _ = f"{directory}/".removeprefix(f"{top}/").rpartition(f"/{kind}/")
            for file in names if found else ():
                yield name, f"{directory}/{file}"

    def _named_by_manifests(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for entry, descriptor in self._store.names():
            needed = found.setdefault(re.split("[@:]", entry)[0], set())
            needed.update(child.digest for child in self._store.children(descriptor))
        return found

    async def ping(self, _request: web.Request) -> web.Response:
        return web.json_response({})

    # Blobs

    async def get_blob(self, request: web.Request) -> web.StreamResponse:
        """GET and HEAD, whole or a Range: aiohttp's file response does both, by sendfile."""
        digest = self._linked(request)
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        return web.FileResponse(self._store.blob_path(digest), headers=headers)

    async def delete_blob(self, request: web.Request) -> web.Response:
        digest = self._linked(request)
        os.unlink(self._link(_name(request), digest))
        return web.Response(status=202)

    async def start_upload(self, request: web.Request) -> web.Response:
        name, digest = _name(request), request.query.get("mount", "")
        source = request.query.get("from", "")
        if digest and is_digest(digest) and is_repository(source) and self._has(source, digest):
            await asyncio.to_thread(self._make_link, name, digest)
            return self._created(f"{name}/blobs/{digest}", digest)
        if "digest" in request.query:
            _digest(request.query["digest"])  # before there is an upload that nobody would ever finish
        self._forget_idle()
        identity = str(uuid.uuid4())
        path = self._upload_path(name, identity)
        await asyncio.to_thread(files.make_directories, os.path.dirname(path), self._root)
        upload = self._uploads[identity] = Upload(self._store.writer(path=path), name)
        if "digest" in request.query:
            return await self._finish(request, identity, upload)
        return self._accepted(identity, upload)

    async def upload_status(self, request: web.Request) -> web.Response:
        identity, upload = self._upload(request)
        return self._accepted(identity, upload, status=204)

    async def append(self, request: web.Request) -> web.Response:
        identity, upload = self._upload(request)
        async with upload.lock:
            await self._receive(request, identity, upload)
        return self._accepted(identity, upload)

    async def finish_upload(self, request: web.Request) -> web.Response:
        identity, upload = self._upload(request)
        return await self._finish(request, identity, upload)

    async def cancel_upload(self, request: web.Request) -> web.Response:
        identity, upload = self._upload(request)
        del self._uploads[identity]
        upload.writer.abort()
        return web.Response(status=204)

    async def _finish(self, request: web.Request, identity: str, upload: Upload) -> web.Response:
        digest = _digest(request.query.get("digest", ""))
        async with upload.lock:
            await self._receive(request, identity, upload)
            self._uploads.pop(identity, None)
            try:
                await asyncio.to_thread(upload.writer.commit, digest)
            except Error as error:
                raise Refused("DIGEST_INVALID", str(error)) from error
            finally:
                upload.writer.abort()
        await asyncio.to_thread(self._make_link, upload.repository, digest)
        return self._created(f"{upload.repository}/blobs/{digest}", digest)

    async def _receive(self, request: web.Request, identity: str, upload: Upload) -> None:
        """Append the body; a chunk that says where it belongs must belong at the end of what is here."""
        span = request.headers.get("Content-Range", "")
        if span:
            numbers = re.fullmatch(r"(?:bytes )?(\d+)-(\d+)(?:/.*)?", span)
            if numbers is None:
                raise Refused("BLOB_UPLOAD_INVALID", f"Content-Range {span!r} is not first-last")
            if int(numbers[1]) != upload.writer.size:
                reason = f"the chunk begins at {numbers[1]}, the upload stands at {upload.writer.size}"
                raise Refused("RANGE_INVALID", reason, self._where(identity, upload))
            if request.content_length not in (None, int(numbers[2]) - int(numbers[1]) + 1):
                raise Refused("BLOB_UPLOAD_INVALID", f"Content-Range {span!r} and Content-Length differ")
        chunk = bytearray()
        async for data in request.content.iter_any():
            chunk += data
            if len(chunk) >= CHUNK:
                await asyncio.to_thread(upload.writer.write, bytes(chunk))
                chunk.clear()
        if chunk:
            await asyncio.to_thread(upload.writer.write, bytes(chunk))
        upload.touched = time.monotonic()

    def _upload(self, request: web.Request) -> tuple[str, Upload]:
        """The upload; one that a server before this one began is gone on with."""
        identity, name = request.match_info["upload"], _name(request)
        if identity not in self._uploads and UPLOAD_ID.fullmatch(identity):
            path = self._upload_path(name, identity)
            if os.path.exists(path):
                self._uploads[identity] = Upload(self._store.writer(path=path), name)
        upload = self._uploads.get(identity)
        if upload is None or upload.repository != name:
            raise Refused("BLOB_UPLOAD_UNKNOWN", f"no upload {identity} is under way")
        return identity, upload

    def _upload_path(self, name: str, identity: str) -> str:
        return f"{self._root}/repositories/{name}/_uploads/{identity}"

    def _forget_idle(self) -> None:
        now = time.monotonic()
        for identity, upload in list(self._uploads.items()):
            if now - upload.touched > UPLOAD_SECONDS and not upload.lock.locked():
                del self._uploads[identity]
                upload.writer.abort()

    def _accepted(self, identity: str, upload: Upload, status: int = 202) -> web.Response:
        return web.Response(status=status, headers=self._where(identity, upload))

    def _where(self, identity: str, upload: Upload) -> dict[str, str]:
        last = max(0, upload.writer.size - 1)
        location = f"/v2/{upload.repository}/blobs/uploads/{identity}"
        return {"Location": location, "Range": f"0-{last}", "Docker-Upload-UUID": identity}

    def _created(self, path: str, digest: str) -> web.Response:
        return web.Response(status=201, headers={"Location": f"/v2/{path}", "Docker-Content-Digest": digest})

    # Manifests

    async def get_manifest(self, request: web.Request) -> web.Response:
        """GET and HEAD by tag or digest, with the bytes and the media type that were put."""
        descriptor = self._manifest(_name(request), request.match_info["reference"])
        data = await asyncio.to_thread(self._store.read, descriptor.digest)
        headers = {"Docker-Content-Digest": descriptor.digest, "Content-Type": descriptor.media_type}
        return web.Response(body=data, headers=headers)

    async def put_manifest(self, request: web.Request) -> web.Response:
        name, reference = _name(request), request.match_info["reference"]
        data = await _document(request)
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
        tags = request.query.getall("tag", []) if is_digest(reference) else [reference]
        for tag in tags:
            if not is_tag(tag):
                raise Refused("TAG_INVALID", f"{tag!r} is not a tag")
        named = self._check(name, data, media_type)
        with self._store.session():
            digest = await asyncio.to_thread(self._put, data, reference)
            descriptor = Descriptor(media_type=media_type, digest=digest, size=len(data))
            for entry in (f"{name}@{digest}", *(f"{name}:{tag}" for tag in tags)):
                await asyncio.to_thread(self._store.tag, entry, descriptor)
        response = self._created(f"{name}/manifests/{digest}", digest)
        if is_digest(reference):
            response.headers.extend(("OCI-Tag", tag) for tag in tags)
        if named.get("subject"):
            response.headers["OCI-Subject"] = named["subject"]
        return response

    def _put(self, data: bytes, reference: str) -> str:
        """Keep the document under the digest asked for, or its sha256 for a tag."""
        algorithm = reference.partition(":")[0] if is_digest(reference) else "sha256"
        with self._store.writer(algorithm) as writer:
            writer.write(data)
            try:
                return writer.commit(reference if is_digest(reference) else None)[0]
            except Error as error:
                raise Refused("DIGEST_INVALID", str(error)) from error

    def _check(self, name: str, data: bytes, media_type: str) -> dict[str, str]:
        """A manifest is taken when it is what its type says and this repository has all that it names."""
        document = image.parse(data, "manifest")
        if media_type in image.MANIFESTS:
            manifest = Manifest.from_json(document, media_type)
            needed = [blob for blob in (manifest.config, *manifest.layers) if not blob.urls]
            missing = [blob.digest for blob in needed if not self._has(name, blob.digest)]
        elif media_type in image.INDEXES:
            children = Index.from_json(document, media_type).manifests
            names = dict(self._store.names())
            missing = [child.digest for child in children if f"{name}@{child.digest}" not in names]
        else:
            raise Refused("MANIFEST_INVALID", f"Content-Type {media_type!r} is not a manifest's that we know")
        if missing:
            raise Refused("MANIFEST_BLOB_UNKNOWN", f"{name} does not have {', '.join(missing)}")
        subject = document.get("subject")
        return {"subject": Descriptor.from_json(subject).digest} if subject else {}

    async def delete_manifest(self, request: web.Request) -> web.Response:
        """A tag goes alone; a manifest by digest goes with all its tags."""
        name, reference = _name(request), request.match_info["reference"]
        descriptor = self._manifest(name, reference)
        doomed = [f"{name}:{reference}"]
        if is_digest(reference):
            doomed = [
                entry
                for entry, found in self._store.names()
                if found.digest == descriptor.digest and entry.startswith((f"{name}:", f"{name}@"))
            ]
        for entry in doomed:
            await asyncio.to_thread(self._store.untag, entry)
        return web.Response(status=202)

    async def referrers(self, request: web.Request) -> web.Response:
        name, digest = _name(request), _digest(request.match_info["digest"])
        kind = request.query.get("artifactType", "")
        found = await asyncio.to_thread(self._referrers, name, digest)
        manifests = [entry for entry in found if not kind or entry.get("artifactType") == kind]
        body = {"schemaVersion": 2, "mediaType": image.INDEX, "manifests": manifests}
        headers = {"OCI-Filters-Applied": "artifactType"} if kind else {}
        return web.Response(text=json.dumps(body), content_type=image.INDEX, headers=headers)

    def _referrers(self, name: str, digest: str) -> list[dict[str, Any]]:
        found = []
        for entry, descriptor in self._store.names():
            if entry.startswith(f"{name}@"):
                document = image.parse(self._store.read(descriptor.digest), descriptor.digest)
                if (document.get("subject") or {}).get("digest") == digest:
                    config = (document.get("config") or {}).get("mediaType", "")
                    kind = document.get("artifactType") or config
                    extra = {"artifactType": kind} if kind else {}
                    extra |= {"annotations": document["annotations"]} if document.get("annotations") else {}
                    found.append(descriptor._replace(annotations={}).to_json() | extra)
        return found

    # Names

    async def tags(self, request: web.Request) -> web.Response:
        name = _name(request)
        entries = [entry for entry, _ in self._store.names() if entry.startswith((f"{name}:", f"{name}@"))]
        if not entries and not os.path.isdir(self._links(name)):
            raise Refused("NAME_UNKNOWN", f"no repository {name}")
        tags = sorted(entry.removeprefix(f"{name}:") for entry in entries if entry.startswith(f"{name}:"))
        return _page(request, f"/v2/{name}/tags/list", tags, lambda some: {"name": name, "tags": some})

    async def catalog(self, request: web.Request) -> web.Response:
        names = sorted({re.split("[@:]", entry)[0] for entry, _ in self._store.names()})
        return _page(request, "/v2/_catalog", names, lambda some: {"repositories": some})

    def _manifest(self, name: str, reference: str) -> Descriptor:
        separator = "@" if is_digest(reference) else ":"
        found = dict(self._store.names()).get(f"{name}{separator}{reference}")
        if found is None:
            raise Refused("MANIFEST_UNKNOWN", f"{name} has no manifest {reference}")
        return found

    def _linked(self, request: web.Request) -> str:
        name, digest = _name(request), _digest(request.match_info["digest"])
        if not self._has(name, digest):
            raise Refused("BLOB_UNKNOWN", f"{name} has no blob {digest}")
        return digest

    def _has(self, name: str, digest: str) -> bool:
        return os.path.exists(self._link(name, digest)) and self._store.has(digest)

    def _links(self, name: str) -> str:
        return f"{self._root}/repositories/{name}/_blobs"  # no component of a name begins with "_"

    def _link(self, name: str, digest: str) -> str:
        return f"{self._links(name)}/{digest.replace(':', '/')}"

    def _make_link(self, name: str, digest: str) -> None:
        """On the disk when this returns: who is told that a blob is there may delete its own."""
        path = self._link(name, digest)
        if not os.path.exists(path):
            files.make_directories(os.path.dirname(path), self._root)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
            files.sync_directory(os.path.dirname(path))


def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    if not is_repository(name):
        raise Refused("NAME_INVALID", f"{name[:80]!r} is not the name of a repository")
    return name


def _digest(text: str) -> str:
    if not is_digest(text):
        raise Refused("DIGEST_INVALID", f"{text!r} is not a digest")
    return text


async def _document(request: web.Request) -> bytes:
    data = bytearray()
    async for chunk in request.content.iter_any():
        data += chunk
        if len(data) > DOCUMENT_LIMIT:
            raise Refused("SIZE_INVALID", f"a manifest is at most {DOCUMENT_LIMIT} bytes")
    return bytes(data)


def _page(request: web.Request, path: str, names: list[str], shape: Callable[[list[str]], Any]) -> web.Response:
    """Names in order after `last`, at most `n` of them, with a link to the rest."""
    last, number = request.query.get("last", ""), request.query.get("n", "")
    if number and not number.isdecimal():
        raise Refused("PAGINATION_NUMBER_INVALID", f"n is {number!r}, not a number")
    rest = [name for name in names if name > last] if last else names
    some = rest[: int(number)] if number else rest
    headers = {}
    if some and len(some) < len(rest):
        headers["Link"] = f'<{path}?n={number}&last={some[-1]}>; rel="next"'
    return web.json_response(shape(some), headers=headers)


# Around every handler


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except Refused as error:
        response = _refusal(error.code, str(error), error.headers)
    except InvalidImage as error:
        response = _refusal("MANIFEST_INVALID", str(error), {})
    except ImageNotFound as error:
        response = _refusal("MANIFEST_UNKNOWN", str(error), {})
    except web.HTTPNotFound:
        response = _refusal("NAME_INVALID", f"{request.path} is no address of the distribution API", {}, 404)
    except web.HTTPMethodNotAllowed as error:
        response = _refusal(
            "UNSUPPORTED", f"{error.method} {request.path}", {"Allow": ", ".join(error.allowed_methods)}
        )
    if not response.prepared:
        response.headers.update(VERSION)
    return response


def _refusal(code: str, message: str, headers: Mapping[str, str], status: int = 0) -> web.Response:
    body = {"errors": [{"code": code, "message": message}]}
    return web.json_response(body, status=status or STATUSES[code], headers=dict(headers))


def _authorizing(authorize: Authorize, realm: str) -> Any:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = _basic(request.headers.get("Authorization", ""))
        if given is not None and authorize(given.login, given.password):
            return await handler(request)
        raise Refused(
            "UNAUTHORIZED", "a user and a password are wanted", {"WWW-Authenticate": f'Basic realm="{realm}"'}
        )

    return middleware


def _basic(header: str) -> BasicAuth | None:
    """What the client says it is; a header that is not Basic authentication is as good as none."""
    try:
        return BasicAuth.decode(header, encoding="utf-8")
    except ValueError:
        return None
