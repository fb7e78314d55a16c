"""The registry beside the checks of the public distribution-spec suite: a real `miniecs server`, asked by plain HTTP.

Each part is a workflow of that suite (pull, push, content discovery, content management), and each kind of data that it
pushes goes all the way: in, by every name it has; back, byte by byte; out again.
"""

import base64
import hashlib
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from minicontainer.image.store import DOCUMENT_LIMIT
from minicontainer.oci import image
from tests.control_plane import ControlPlane, control_plane, eventually

EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
TEXT = b"forty-two bytes of no importance whatever."
BIG = bytes(range(256)) * 12_000  # three chunks of the server's


class Said(NamedTuple):
    """An answer: what came back, and whether it is shaped as the specification wants."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str:
        """The error code of the answer, which must have the specification's shape."""
        assert self.headers["Content-Type"].startswith("application/json")
        [error] = json.loads(self.body)["errors"]
        assert error["message"]
        return str(error["code"])

    @property
    def refusal(self) -> tuple[int, str]:
        return self.status, self.code

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def sha(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


def described(content: bytes, media_type: str = image.LAYER, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha(content), "size": len(content)} | more


def manifest_of(config: bytes, *layers: bytes, config_type: str = image.CONFIG, **more: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": image.MANIFEST,
        "config": described(config, config_type),
        "layers": [described(layer) for layer in layers],
    }
    return encoded(document | more)


def index_of(*children: bytes, kind: str = image.MANIFEST, **more: Any) -> bytes:
    manifests = [described(child, kind) for child in children]
    return encoded({"schemaVersion": 2, "mediaType": image.INDEX, "manifests": manifests} | more)


class Repository:
    """One repository of the server, and a connection to it that is kept."""

    def __init__(self, host: str, authorization: str, name: str) -> None:
        self.host, self.authorization, self.name = host, authorization, name
        self.base = f"/v2/{name}"
        self.connection = http.client.HTTPConnection(host, timeout=20)

    def __call__(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Said:
        named = {"Authorization": self.authorization}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path if path.startswith("/") else f"{self.base}/{path}", body, named)
        response = self.connection.getresponse()
        return Said(response.status, response.headers, response.read())

    def other(self, name: str) -> "Repository":
        return Repository(self.host, self.authorization, f"{self.name}/{name}")

    def begin(self) -> str:
        started = self("POST", "blobs/uploads/")
        assert (started.status, started.body) == (202, b"")
        location = started.headers["Location"]
        assert location.startswith(f"{self.base}/blobs/uploads/")
        return str(location)

    def finish(self, location: str, data: bytes, body: bytes | None = None, **headers: str) -> Said:
        return self("PUT", f"{location}?digest={sha(data)}", body, **headers)

    def blob(self, data: bytes, algorithm: str = "sha256") -> str:
        digest = sha(data, algorithm)
        assert self("PUT", f"{self.begin()}?digest={digest}", data).status == 201
        return digest

    def manifest(self, data: bytes, *, tag: str = "", kind: str = image.MANIFEST) -> str:
        said = self("PUT", f"manifests/{tag or sha(data)}", data, Content_Type=kind)
        assert said.status == 201, said.body
        assert said.headers["Docker-Content-Digest"] == sha(data)
        assert said.headers["Location"] == f"{self.base}/manifests/{sha(data)}"
        return sha(data)

    def image(self, *layers: bytes, tag: str = "", **more: Any) -> bytes:
        """Push config, layers and manifest, and answer the manifest."""
        for blob in (EMPTY, *layers):
            self.blob(blob)
        data = manifest_of(EMPTY, *layers, **more)
        self.manifest(data, tag=tag)
        return data

    def referrers(self, digest: str, query: str = "") -> list[dict[str, Any]]:
        said = self("GET", f"referrers/{digest}{query}")
        assert (said.status, said.headers["Content-Type"].partition(";")[0]) == (200, image.INDEX)
        assert (said.json["schemaVersion"], said.json["mediaType"]) == (2, image.INDEX)
        return list(said.json["manifests"])

    def tags(self, query: str = "") -> list[str]:
        said = self("GET", f"tags/list{query}")
        assert (said.status, said.json["name"]) == (200, self.name)
        return list(said.json["tags"])


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("spec") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def token(plane: ControlPlane) -> str:
    [given] = plane.client("ecr").get_authorization_token()["authorizationData"]
    return f"Basic {given['authorizationToken']}"


@pytest.fixture
def repository(plane: ControlPlane, token: str, request: pytest.FixtureRequest) -> Repository:
    """A repository for each test."""
    number = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return Repository(plane.listen, token, f"spec/{request.node.originalname.removeprefix('test_')}/{number}")


# --- the front door


def test_the_api_says_that_it_is_there(repository: Repository) -> None:
    said = repository("GET", "/v2/")
    assert (said.status, said.json) == (200, {})
    assert said.headers["Docker-Distribution-API-Version"] == "registry/2.0"


def test_an_access_key_and_its_secret_are_as_good_as_a_token(plane: ControlPlane, repository: Repository) -> None:
    words = ":".join(plane.credentials).encode()
    repository.authorization = f"Basic {base64.b64encode(words).decode()}"
    assert repository("GET", "/v2/").status == 200


@pytest.mark.parametrize(
    "authorization",
    ["", "Basic", "Basic !!!", "Basic QVdTOg==", "Basic QVdTOndyb25n", "Bearer x", "AWS4-HMAC-SHA256 Credential=x"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/"),
        ("GET", "/v2/_catalog"),
        ("GET", "/v2/a/tags/list"),
        ("GET", f"/v2/a/blobs/{sha(TEXT)}"),
        ("POST", "/v2/a/blobs/uploads/"),
        ("PUT", "/v2/a/manifests/1"),
        ("DELETE", f"/v2/a/manifests/{sha(TEXT)}"),
        ("GET", f"/v2/a/referrers/{sha(TEXT)}"),
    ],
)
def test_who_says_nothing_right_is_let_in_nowhere(
    repository: Repository, method: str, path: str, authorization: str
) -> None:
    repository.authorization = authorization
    said = repository(method, path)
    assert said.refusal == (401, "UNAUTHORIZED")
    assert said.headers["WWW-Authenticate"].startswith("Basic realm=")


def test_a_refused_upload_does_not_confuse_the_connection(repository: Repository) -> None:
    right, repository.authorization = repository.authorization, "Basic QVdTOndyb25n"
    assert repository("POST", f"blobs/uploads/?digest={sha(BIG)}", BIG).status == 401
    repository.authorization = right
    assert repository("GET", "/v2/").status == 200


def test_a_repository_that_is_empty_has_no_tags_and_no_referrers(repository: Repository) -> None:
    assert repository("GET", "tags/list").refusal == (404, "NAME_UNKNOWN")
    assert repository.referrers(sha(TEXT)) == []
    repository.blob(TEXT)
    assert repository.tags() == []


# --- push: blobs


def test_blob_by_post_then_put(repository: Repository) -> None:
    said = repository.finish(repository.begin(), TEXT, TEXT, Content_Type="application/octet-stream")
    assert (said.status, said.headers["Docker-Content-Digest"]) == (201, sha(TEXT))
    assert said.headers["Location"] == f"{repository.base}/blobs/{sha(TEXT)}"
    assert repository("GET", said.headers["Location"]).body == TEXT


def test_blob_by_a_single_post(repository: Repository) -> None:
    said = repository("POST", f"blobs/uploads/?digest={sha(TEXT)}", TEXT)
    assert (said.status, said.headers["Location"]) == (201, f"{repository.base}/blobs/{sha(TEXT)}")
    assert repository("GET", f"blobs/{sha(TEXT)}").body == TEXT


@pytest.mark.parametrize("size", [7, len(TEXT), 41])
def test_blob_in_chunks_then_an_empty_put(repository: Repository, size: int) -> None:
    location = repository.begin()
    for first in range(0, len(TEXT), size):
        chunk = TEXT[first : first + size]
        last = first + len(chunk) - 1
        said = repository("PATCH", location, chunk, Content_Range=f"{first}-{last}")
        assert (said.status, said.headers["Range"]) == (202, f"0-{last}")
        location = said.headers["Location"]
    assert repository.finish(location, TEXT).status == 201
    assert repository("GET", f"blobs/{sha(TEXT)}").body == TEXT


def test_blob_in_chunks_the_last_one_with_the_put(repository: Repository) -> None:
    location = repository("PATCH", repository.begin(), TEXT[:30], Content_Range="0-29").headers["Location"]
    said = repository.finish(location, TEXT, TEXT[30:], Content_Range=f"30-{len(TEXT) - 1}")
    assert said.status == 201
    assert repository("GET", f"blobs/{sha(TEXT)}").body == TEXT


def test_blob_as_a_stream_of_unknown_length(repository: Repository) -> None:
    connection, location = repository.connection, repository.begin()
    pieces = (BIG[first : first + 100_000] for first in range(0, len(BIG), 100_000))
    connection.request("PATCH", location, pieces, {"Authorization": repository.authorization}, encode_chunked=True)
    response = connection.getresponse()
    assert (response.status, response.headers["Range"], response.read()) == (202, f"0-{len(BIG) - 1}", b"")
    assert repository.finish(location, BIG).status == 201
    assert repository("GET", f"blobs/{sha(BIG)}").body == BIG


def test_chunks_out_of_order_are_refused_and_the_upload_stands_where_it_stood(repository: Repository) -> None:
    location = repository.begin()
    early = repository("PATCH", location, TEXT[10:20], Content_Range="10-19")
    assert early.refusal == (416, "RANGE_INVALID")
    assert repository("PATCH", location, TEXT[:10], Content_Range="0-9").status == 202
    for first, last in ((0, 9), (5, 14), (11, 20)):
        said = repository("PATCH", location, TEXT[first : last + 1], Content_Range=f"{first}-{last}")
        assert (*said.refusal, said.headers["Range"]) == (416, "RANGE_INVALID", "0-9")
        assert said.headers["Location"] == location
    late = repository.finish(location, TEXT, TEXT[20:], Content_Range=f"20-{len(TEXT) - 1}")
    assert late.refusal == (416, "RANGE_INVALID")
    assert repository.finish(location, TEXT, TEXT[10:], Content_Range=f"10-{len(TEXT) - 1}").status == 201
    assert repository("GET", f"blobs/{sha(TEXT)}").body == TEXT


@pytest.mark.parametrize("span", ["0", "a-b", "0-8", "0-10", "-9"])
def test_a_chunk_that_says_nonsense_of_itself_is_refused(repository: Repository, span: str) -> None:
    location = repository.begin()
    assert repository("PATCH", location, TEXT[:10], Content_Range=span).refusal == (400, "BLOB_UPLOAD_INVALID")
    assert repository("PATCH", location, TEXT[:10], Content_Range="0-9").status == 202


def test_an_upload_tells_where_it_stands(repository: Repository) -> None:
    location = repository.begin()
    assert repository("GET", location).status == 204
    repository("PATCH", location, TEXT[:12], Content_Range="0-11")
    said = repository("GET", location)
    assert (said.status, said.headers["Range"], said.headers["Location"]) == (204, "0-11", location)


def test_an_upload_goes_on_after_a_broken_connection(repository: Repository) -> None:
    location = repository.begin()
    host, _, port = repository.host.rpartition(":")
    head = f"PATCH {location} HTTP/1.1\r\nHost: {repository.host}\r\nAuthorization: {repository.authorization}\r\n"
    with socket.create_connection((host, int(port))) as broken:
        broken.sendall(f"{head}Content-Length: {len(BIG)}\r\nContent-Range: 0-{len(BIG) - 1}\r\n\r\n".encode())
        broken.sendall(BIG[: 5 << 19])

    def stands() -> int:
        said = repository("GET", location)
        assert said.status == 204
        return int(said.headers["Range"].partition("-")[2])

    eventually(stands)
    time.sleep(0.1)  # what was on its way has come, or never will
    first = stands() + 1
    assert 1 << 20 <= first <= 5 << 19
    assert repository("PATCH", location, BIG[first:], Content_Range=f"{first}-{len(BIG) - 1}").status == 202
    assert repository.finish(location, BIG).status == 201
    assert repository("GET", f"blobs/{sha(BIG)}").body == BIG


def test_a_cancelled_upload_is_gone(repository: Repository) -> None:
    location = repository.begin()
    repository("PATCH", location, TEXT)
    assert repository("DELETE", location).status == 204
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        said = repository(method, f"{location}?digest={sha(TEXT)}")
        assert said.refusal == (404, "BLOB_UPLOAD_UNKNOWN"), method
    assert repository("HEAD", f"blobs/{sha(TEXT)}").status == 404


def test_an_upload_belongs_to_its_repository(repository: Repository) -> None:
    stolen = repository.begin().replace(repository.name, f"{repository.name}/thief")
    assert repository("PATCH", stolen, TEXT).refusal == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize(
    "digest",
    ["", "x", "sha256:", "sha256:abc", f"sha256:{'A' * 64}", f"sha256:{'g' * 64}", f"md5:{'0' * 32}", f"{'0' * 64}"],
)
def test_what_is_no_digest_is_refused_wherever_it_stands(
    plane: ControlPlane, repository: Repository, digest: str
) -> None:
    staging = plane.data / "registry" / "staging"
    before = sorted(os.listdir(staging))
    assert repository("POST", f"blobs/uploads/?digest={digest}", TEXT).refusal == (400, "DIGEST_INVALID")
    assert sorted(os.listdir(staging)) == before
    assert repository("PUT", f"{repository.begin()}?digest={digest}", TEXT).refusal == (400, "DIGEST_INVALID")
    if digest:
        assert repository("GET", f"blobs/{digest}").refusal == (400, "DIGEST_INVALID")
        assert repository("DELETE", f"blobs/{digest}").refusal == (400, "DIGEST_INVALID")
        assert repository("GET", f"referrers/{digest}").refusal == (400, "DIGEST_INVALID")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_content_of_another_digest_is_refused_and_not_kept(repository: Repository, algorithm: str) -> None:
    wrong = sha(b"other", algorithm)
    assert repository("POST", f"blobs/uploads/?digest={wrong}", TEXT).refusal == (400, "DIGEST_INVALID")
    location = repository.begin()
    repository("PATCH", location, TEXT)
    assert repository("PUT", f"{location}?digest={wrong}").refusal == (400, "DIGEST_INVALID")
    for digest in (wrong, sha(TEXT)):
        assert repository("HEAD", f"blobs/{digest}").status == 404
    assert repository("GET", location).refusal == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("data", [b"", b"\0", TEXT, BIG], ids=["empty", "one byte", "short", "large"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_blob_of_any_size_by_either_algorithm(repository: Repository, data: bytes, algorithm: str) -> None:
    digest = repository.blob(data, algorithm)
    for method, body in (("GET", data), ("HEAD", b"")):
        said = repository(method, f"blobs/{digest}")
        assert (said.status, said.body, said.headers["Content-Length"]) == (200, body, str(len(data)))
        assert said.headers["Docker-Content-Digest"] == digest
    assert repository("DELETE", f"blobs/{digest}").status == 202
    assert repository("HEAD", f"blobs/{digest}").status == 404


def test_blob_is_mounted_from_where_it_is(repository: Repository) -> None:
    digest, there = repository.blob(TEXT), repository.other("there")
    said = there("POST", f"blobs/uploads/?mount={digest}&from={repository.name}")
    assert (said.status, said.headers["Location"]) == (201, f"{there.base}/blobs/{digest}")
    assert there("GET", f"blobs/{digest}").body == TEXT
    assert repository("DELETE", f"blobs/{digest}").status == 202
    assert there("GET", f"blobs/{digest}").body == TEXT


@pytest.mark.parametrize("query", ["", "&from=spec/nowhere", "&from=../../..", "&from="])
def test_mount_that_cannot_be_becomes_an_upload(repository: Repository, query: str) -> None:
    repository.blob(TEXT)
    said = repository.other("there")("POST", f"blobs/uploads/?mount={sha(TEXT)}{query}")
    assert said.status == 202
    there = repository.other("there")
    assert there("HEAD", f"blobs/{sha(TEXT)}").status == 404
    assert there.finish(said.headers["Location"], TEXT, TEXT).status == 201


# --- pull: blobs


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-0", 0, 0), ("bytes=5-9", 5, 9), ("bytes=30-", 30, 41), ("bytes=-4", 38, 41), ("bytes=40-99", 40, 41)],
)
def test_range_of_a_blob(repository: Repository, asked: str, first: int, last: int) -> None:
    said = repository("GET", f"blobs/{repository.blob(TEXT)}", Range=asked)
    assert (said.status, said.body) == (206, TEXT[first : last + 1])
    assert said.headers["Content-Range"] == f"bytes {first}-{last}/{len(TEXT)}"


@pytest.mark.parametrize("asked", ["bytes=42-", "bytes=100-200"])
def test_range_behind_the_end(repository: Repository, asked: str) -> None:
    said = repository("GET", f"blobs/{repository.blob(TEXT)}", Range=asked)
    assert (said.status, said.headers["Content-Range"]) == (416, f"bytes */{len(TEXT)}")


def test_what_is_not_there_is_said_by_its_code(repository: Repository) -> None:
    assert repository("GET", f"blobs/{sha(TEXT)}").refusal == (404, "BLOB_UNKNOWN")
    assert repository("DELETE", f"blobs/{sha(TEXT)}").refusal == (404, "BLOB_UNKNOWN")
    for reference in ("latest", sha(TEXT)):
        assert repository("GET", f"manifests/{reference}").refusal == (404, "MANIFEST_UNKNOWN")
        assert repository("DELETE", f"manifests/{reference}").refusal == (404, "MANIFEST_UNKNOWN")
    for path in (f"blobs/{sha(TEXT)}", f"manifests/{sha(TEXT)}", "manifests/latest"):
        said = repository("HEAD", path)
        assert (said.status, said.body) == (404, b"")


# --- manifests: every kind of data, all the way


@pytest.fixture(scope="module")
def shelf(plane: ControlPlane, token: str) -> Repository:
    """A repository that has what the manifests of all kinds name."""
    return Repository(plane.listen, token, "spec/kinds")


@pytest.fixture(scope="module")
def kinds(shelf: Repository) -> dict[str, tuple[str, bytes]]:
    """One manifest of each kind, with what it names already pushed: (media type, document)."""
    repository = shelf
    for blob in (EMPTY, TEXT, b"", BIG):
        repository.blob(blob)
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    repository.blob(encoded(config))
    plain, other = repository.image(TEXT), repository.image(TEXT, BIG)
    subject = described(plain, image.MANIFEST)
    nested = index_of(plain, other, annotations={"org.example": "inner"})
    repository.manifest(nested, kind=image.INDEX)
    inline = [described(TEXT, data=base64.b64encode(TEXT).decode())]
    untyped = {key: value for key, value in json.loads(manifest_of(EMPTY, TEXT)).items() if key != "mediaType"}
    custom: dict[str, Any] = {"org.example": {"deep": [1, None]}, "x": 1}
    absent = described(b"not pushed", FOREIGN, urls=["https://example.org/layer"])
    return {
        "image": (image.MANIFEST, manifest_of(encoded(config), TEXT, BIG)),
        "no media type": (image.MANIFEST, encoded(untyped)),
        "index": (image.INDEX, index_of(plain, other)),
        "nested index": (image.INDEX, index_of(nested, kind=image.INDEX)),
        "empty index": (image.INDEX, index_of()),
        "artifact": (image.MANIFEST, manifest_of(EMPTY, TEXT, config_type=EMPTY_TYPE, artifactType="a/b")),
        "artifact without layers": (image.MANIFEST, manifest_of(EMPTY, config_type=EMPTY_TYPE, artifactType="a/b")),
        "artifact list": (image.INDEX, index_of(plain, artifactType="a/list")),
        "empty blob": (image.MANIFEST, manifest_of(EMPTY, b"")),
        "subject": (image.MANIFEST, manifest_of(EMPTY, TEXT, subject=subject)),
        "missing subject": (image.MANIFEST, manifest_of(EMPTY, subject=described(b"nowhere", image.MANIFEST))),
        "index with subject": (image.INDEX, index_of(plain, subject=subject)),
        "data field": (image.MANIFEST, manifest_of(EMPTY, layers=inline)),
        "custom fields": (image.MANIFEST, manifest_of(EMPTY, TEXT, **custom)),
        "annotations": (image.MANIFEST, manifest_of(EMPTY, annotations={"org.example": "ä"})),
        "non-distributable": (image.MANIFEST, manifest_of(EMPTY, layers=[absent])),
        "odd spacing": (image.MANIFEST, manifest_of(EMPTY, TEXT).replace(b",", b" ,\n\t") + b"\n"),
        "large": (image.MANIFEST, manifest_of(EMPTY, annotations={"x": "y" * (DOCUMENT_LIMIT - 1000)})),
    }  # fmt: skip


KINDS = (
    "image", "no media type", "index", "nested index", "empty index", "artifact", "artifact without layers",
    "artifact list", "empty blob", "subject", "missing subject", "index with subject", "data field", "custom fields",
    "annotations", "non-distributable", "odd spacing", "large",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_of_each_kind_comes_back_as_it_was(
    shelf: Repository, kinds: dict[str, tuple[str, bytes]], kind: str
) -> None:
    media_type, data = kinds[kind]
    shelf.manifest(data, kind=media_type)
    shelf.manifest(data, tag="it", kind=media_type)
    for reference in ("it", sha(data)):
        said = shelf("GET", f"manifests/{reference}", Accept=media_type)
        assert (said.status, said.body, said.headers["Content-Type"]) == (200, data, media_type)
        head = shelf("HEAD", f"manifests/{reference}", Accept=media_type)
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(data)))
        assert said.headers["Docker-Content-Digest"] == head.headers["Docker-Content-Digest"] == sha(data)
    assert shelf("DELETE", f"manifests/{sha(data)}").status == 202
    for reference in ("it", sha(data)):
        assert shelf("GET", f"manifests/{reference}").refusal == (404, "MANIFEST_UNKNOWN")
    assert "it" not in shelf.tags()


@pytest.mark.parametrize("kind", ["subject", "missing subject", "index with subject"])
def test_the_answer_to_a_manifest_names_its_subject(
    shelf: Repository, kinds: dict[str, tuple[str, bytes]], kind: str
) -> None:
    media_type, data = kinds[kind]
    said = shelf("PUT", f"manifests/{sha(data)}", data, Content_Type=media_type)
    assert (said.status, said.headers["OCI-Subject"]) == (201, json.loads(data)["subject"]["digest"])
    plain = shelf("PUT", "manifests/plain", manifest_of(EMPTY), Content_Type=image.MANIFEST)
    assert plain.headers["OCI-Subject"] is None


def test_manifest_by_sha512(repository: Repository) -> None:
    repository.blob(EMPTY)
    digest = repository.blob(TEXT, "sha512")
    data = manifest_of(EMPTY, layers=[{"mediaType": image.LAYER, "digest": digest, "size": len(TEXT)}])
    name = sha(data, "sha512")
    said = repository("PUT", f"manifests/{name}", data, Content_Type=image.MANIFEST)
    assert (said.status, said.headers["Docker-Content-Digest"]) == (201, name)
    assert repository("GET", f"manifests/{name}").body == data
    referrer = manifest_of(EMPTY, subject={"mediaType": image.MANIFEST, "digest": name, "size": len(data)})
    repository.manifest(referrer)
    assert [entry["digest"] for entry in repository.referrers(name)] == [sha(referrer)]
    assert repository("DELETE", f"manifests/{name}").status == 202


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_manifest_by_digest_with_the_tags_it_is_to_have(repository: Repository, algorithm: str) -> None:
    repository.blob(EMPTY)
    data = manifest_of(EMPTY, annotations={"for": "tags"})
    name = sha(data, algorithm)
    said = repository("PUT", f"manifests/{name}?tag=1.0&tag=latest", data, Content_Type=image.MANIFEST)
    assert (said.status, said.headers.get_all("OCI-Tag")) == (201, ["1.0", "latest"])
    assert repository.tags() == ["1.0", "latest"]
    for tag in ("1.0", "latest"):
        assert repository("GET", f"manifests/{tag}").headers["Docker-Content-Digest"] == name
    bad = repository("PUT", f"manifests/{name}?tag=good&tag=-bad", data, Content_Type=image.MANIFEST)
    assert bad.refusal == (400, "TAG_INVALID")
    assert repository.tags() == ["1.0", "latest"]


BAD_MANIFESTS: dict[str, tuple[str, bytes, tuple[int, str]]] = {
    "nothing": (image.MANIFEST, b"", (400, "MANIFEST_INVALID")),
    "no JSON": (image.MANIFEST, b"{", (400, "MANIFEST_INVALID")),
    "no UTF-8": (image.MANIFEST, b'{"schemaVersion": "\xff"}', (400, "MANIFEST_INVALID")),
    "an empty object": (image.MANIFEST, b"{}", (400, "MANIFEST_INVALID")),
    "an array": (image.MANIFEST, b"[]", (400, "MANIFEST_INVALID")),
    "a number": (image.MANIFEST, b"1", (400, "MANIFEST_INVALID")),
    "deep nesting": (image.MANIFEST, b"[" * 100_000, (400, "MANIFEST_INVALID")),
    "another version": (image.MANIFEST, manifest_of(EMPTY, schemaVersion=1), (400, "MANIFEST_INVALID")),
    "an index by its type": (image.INDEX, manifest_of(EMPTY), (400, "MANIFEST_INVALID")),
    "a manifest by its type": (image.MANIFEST, index_of(), (400, "MANIFEST_INVALID")),
    "both": (image.MANIFEST, manifest_of(EMPTY, manifests=[]), (400, "MANIFEST_INVALID")),
    "an unknown type": ("text/plain", manifest_of(EMPTY, mediaType="text/plain"), (400, "MANIFEST_INVALID")),
    "no type": ("", manifest_of(EMPTY), (400, "MANIFEST_INVALID")),
    "a bad digest": (
        image.MANIFEST, manifest_of(EMPTY, layers=[described(TEXT) | {"digest": "sha256:x"}]), (400, "MANIFEST_INVALID")
    ),
    "a digest with a way out": (
        image.MANIFEST, manifest_of(EMPTY, layers=[described(TEXT) | {"digest": "../../x"}]), (400, "MANIFEST_INVALID")
    ),
    "a negative size": (
        image.MANIFEST, manifest_of(EMPTY, layers=[described(TEXT) | {"size": -1}]), (400, "MANIFEST_INVALID")
    ),
    "a bad subject": (image.MANIFEST, manifest_of(EMPTY, subject={"digest": "x"}), (400, "MANIFEST_INVALID")),
    "a subject that is text": (image.MANIFEST, manifest_of(EMPTY, subject="x"), (400, "MANIFEST_INVALID")),
    "layers that are none": (image.MANIFEST, manifest_of(EMPTY, layers="x"), (400, "MANIFEST_INVALID")),
    "annotations that are none": (image.MANIFEST, manifest_of(EMPTY, annotations={"a": 1}), (400, "MANIFEST_INVALID")),
    "an unknown config": (image.MANIFEST, manifest_of(b"unknown"), (400, "MANIFEST_BLOB_UNKNOWN")),
    "an unknown layer": (image.MANIFEST, manifest_of(EMPTY, b"unknown"), (400, "MANIFEST_BLOB_UNKNOWN")),
    "a sparse index": (image.INDEX, index_of(b"unknown"), (400, "MANIFEST_BLOB_UNKNOWN")),
    "too much": (image.MANIFEST, b" " * (DOCUMENT_LIMIT + 1), (413, "SIZE_INVALID")),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_MANIFESTS)
def test_a_bad_manifest_is_refused_by_its_code_and_not_kept(repository: Repository, what: str) -> None:
    repository.blob(EMPTY)
    kind, data, refusal = BAD_MANIFESTS[what]
    for reference in ("it", sha(data)):
        assert repository("PUT", f"manifests/{reference}", data, Content_Type=kind).refusal == refusal
        assert repository("GET", f"manifests/{reference}").refusal == (404, "MANIFEST_UNKNOWN")


def test_a_manifest_that_has_another_digest_is_refused(repository: Repository) -> None:
    repository.blob(EMPTY)
    for digest in (sha(b"other"), sha(b"other", "sha512")):
        said = repository("PUT", f"manifests/{digest}", manifest_of(EMPTY), Content_Type=image.MANIFEST)
        assert said.refusal == (400, "DIGEST_INVALID")


@pytest.mark.parametrize("tag", ["-x", ".x", "a" * 129, "%C3%A4", "a%20b", "a:b", "sha256:abc"])
def test_a_tag_that_is_none_is_refused(repository: Repository, tag: str) -> None:
    repository.blob(EMPTY)
    status, code = repository("PUT", f"manifests/{tag}", manifest_of(EMPTY), Content_Type=image.MANIFEST).refusal
    assert (status, code) in ((400, "TAG_INVALID"), (400, "DIGEST_INVALID"))


def test_content_is_a_repositorys_own(repository: Repository) -> None:
    data, thief = repository.image(TEXT, tag="it"), repository.other("thief")
    for path in (f"blobs/{sha(TEXT)}", f"manifests/{sha(data)}", "manifests/it"):
        assert thief("GET", path).status == 404
    said = thief("PUT", "manifests/it", data, Content_Type=image.MANIFEST)
    assert said.refusal == (400, "MANIFEST_BLOB_UNKNOWN")


@pytest.mark.parametrize("name", ["UPPER", "a//b", "-a", "a/../b", "%2e%2e", "a" * 300, "_a", "a__b_", "a%00b"])
def test_a_name_that_is_none_is_refused(repository: Repository, name: str) -> None:
    for method, path in (("POST", "blobs/uploads/"), ("GET", "tags/list"), ("PUT", "manifests/1")):
        status, code = repository(method, f"/v2/{name}/{path}", EMPTY, Content_Type=image.MANIFEST).refusal
        assert (status, code) in ((400, "NAME_INVALID"), (404, "NAME_INVALID"))


# --- content discovery


def test_a_tag_moves_and_the_manifest_stays(repository: Repository) -> None:
    old = repository.image(TEXT, tag="latest")
    new = repository.image(BIG, tag="latest")
    assert repository("GET", "manifests/latest").body == new
    assert repository("GET", f"manifests/{sha(old)}").body == old
    assert repository.tags() == ["latest"]


def test_tags_in_lexical_order_in_pages(repository: Repository) -> None:
    names = ["10", "2", "A", "_x", "a", "a-1", "a.1", "b"]
    data = repository.image()
    for name in reversed(names):
        repository.manifest(data, tag=name)
    assert repository.tags() == sorted(names)
    assert repository.tags("?n=100") == sorted(names)
    assert repository.tags("?n=0") == []
    assert repository.tags("?last=a") == ["a-1", "a.1", "b"]
    assert repository.tags("?last=a0") == ["b"]  # a name that is no tag is a place all the same
    assert repository.tags("?n=2&last=A") == ["_x", "a"]
    assert repository.tags("?last=b") == []
    for wrong in ("x", "-1", "1.5"):
        assert repository("GET", f"tags/list?n={wrong}").refusal == (400, "PAGINATION_NUMBER_INVALID")


def test_following_the_links_shows_every_tag_once(repository: Repository) -> None:
    data = repository.image()
    names = [f"v{number}" for number in range(7)]
    for name in names:
        repository.manifest(data, tag=name)
    for number in (1, 2, 3, 6, 7, 8):
        seen, path = [], f"{repository.base}/tags/list?n={number}"
        while path:
            said = repository("GET", path)
            assert len(said.json["tags"]) <= number
            seen += said.json["tags"]
            path = (said.headers["Link"] or "").partition(">")[0].removeprefix("<")
        assert seen == names


def test_the_catalog_names_every_repository_page_by_page(repository: Repository) -> None:
    for name in ("one", "two"):
        repository.other(name).image(tag="1")
    seen, path = [], "/v2/_catalog?n=1"
    while path:
        said = repository("GET", path)
        seen += said.json["repositories"]
        path = (said.headers["Link"] or "").partition(">")[0].removeprefix("<")
    assert [name for name in seen if name.startswith(repository.name)] == [
        f"{repository.name}/one",
        f"{repository.name}/two",
    ]
    assert seen == sorted(set(seen))


def test_referrers_say_what_they_are(repository: Repository) -> None:
    subject = repository.image(TEXT, tag="it")
    about = described(subject, image.MANIFEST)
    notes = {"org.example": "signed"}
    by_type = manifest_of(EMPTY, config_type=EMPTY_TYPE, artifactType="a/sbom", annotations=notes, subject=about)
    by_config = manifest_of(EMPTY, config_type="a/config", subject=about)
    index = index_of(subject, artifactType="a/list", subject=about)
    untyped = index_of(subject, subject=about)
    for data, kind in (
        (by_type, image.MANIFEST),
        (by_config, image.MANIFEST),
        (index, image.INDEX),
        (untyped, image.INDEX),
    ):
        repository.manifest(data, kind=kind)
    found = {entry["digest"]: entry for entry in repository.referrers(sha(subject))}
    assert found == {
        sha(by_type): described(by_type, image.MANIFEST, artifactType="a/sbom", annotations=notes),
        sha(by_config): described(by_config, image.MANIFEST, artifactType="a/config"),
        sha(index): described(index, image.INDEX, artifactType="a/list"),
        sha(untyped): described(untyped, image.INDEX),
    }


def test_referrers_by_their_type(repository: Repository) -> None:
    subject = repository.image(TEXT)
    about = described(subject, image.MANIFEST)
    for kind in ("a/one", "a/two", "a/two+json"):
        repository.manifest(manifest_of(EMPTY, config_type=EMPTY_TYPE, artifactType=kind, subject=about))
    assert repository("GET", f"referrers/{sha(subject)}").headers["OCI-Filters-Applied"] is None
    for kind, asked in (("a/one", "a/one"), ("a/two+json", "a%2Ftwo%2Bjson")):
        said = repository("GET", f"referrers/{sha(subject)}?artifactType={asked}")
        assert said.headers["OCI-Filters-Applied"] == "artifactType"
        assert [entry["artifactType"] for entry in said.json["manifests"]] == [kind]
    assert repository.referrers(sha(subject), "?artifactType=a/none") == []


def test_referrers_may_come_before_their_subject_and_stay_after_it(repository: Repository) -> None:
    subject = manifest_of(EMPTY, TEXT)
    repository.blob(EMPTY)
    referrer = manifest_of(EMPTY, subject=described(subject, image.MANIFEST))
    repository.manifest(referrer)
    assert [entry["digest"] for entry in repository.referrers(sha(subject))] == [sha(referrer)]
    repository.blob(TEXT)
    repository.manifest(subject)
    assert repository("DELETE", f"manifests/{sha(subject)}").status == 202
    assert [entry["digest"] for entry in repository.referrers(sha(subject))] == [sha(referrer)]
    assert repository("DELETE", f"manifests/{sha(referrer)}").status == 202
    assert repository.referrers(sha(subject)) == []


# --- content management


def test_a_tag_is_deleted_alone(repository: Repository) -> None:
    data = repository.image(TEXT, tag="one")
    repository.manifest(data, tag="two")
    assert repository("DELETE", "manifests/one").status == 202
    assert repository("DELETE", "manifests/one").refusal == (404, "MANIFEST_UNKNOWN")
    assert repository.tags() == ["two"]
    assert repository("GET", f"manifests/{sha(data)}").body == data


def test_a_deleted_manifest_can_come_again(repository: Repository) -> None:
    data = repository.image(TEXT, tag="it")
    assert repository("DELETE", f"manifests/{sha(data)}").status == 202
    assert repository.tags() == []
    repository.manifest(data, tag="it")
    assert repository("GET", "manifests/it").body == data


def test_a_blob_is_deleted_at_once_and_can_come_again(repository: Repository) -> None:
    for _ in range(3):
        repository.blob(TEXT)
        assert repository("GET", f"blobs/{sha(TEXT)}").body == TEXT
        assert repository("DELETE", f"blobs/{sha(TEXT)}").status == 202
        assert repository("GET", f"blobs/{sha(TEXT)}").refusal == (404, "BLOB_UNKNOWN")


def test_methods_that_are_none_of_an_address_are_refused(repository: Repository) -> None:
    for method, path in (("POST", "manifests/1"), ("PUT", "tags/list"), ("PATCH", f"blobs/{sha(TEXT)}")):
        said = repository(method, path, EMPTY)
        assert said.refusal == (405, "UNSUPPORTED")
        assert "GET" in said.headers["Allow"]


def test_what_was_pushed_is_there_after_a_crash(plane: ControlPlane, repository: Repository) -> None:
    data = repository.image(TEXT, BIG, tag="it")
    plane.kill()
    plane.start()
    again = Repository(plane.listen, repository.authorization, repository.name)
    assert again("GET", "manifests/it").body == data
    assert again("GET", f"blobs/{sha(BIG)}").body == BIG
    assert again.tags() == ["it"]
