"""The registry's server, request by request, as distribution-spec words it."""

import hashlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from minicontainer.image.store import DOCUMENT_LIMIT
from minicontainer.oci import image
from minicontainer.registry.credentials import Credentials
from tests import registries

BASIC = Credentials(user=registries.USER, password=registries.PASSWORD).basic
BLOB = b"some content"


class Said(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["errors"][0]["code"])


class Client:
    def __init__(self, host: str) -> None:
        self._connection = http.client.HTTPConnection(host, timeout=20)

    def __call__(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Said:
        named = {"Authorization": BASIC} | {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body, named)
        response = self._connection.getresponse()
        return Said(response.status, response.headers, response.read())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Running]:
    with registries.running(str(tmp_path_factory.mktemp("registry"))) as running:
        yield running


@pytest.fixture
def ask(server: registries.Running) -> Client:
    return Client(server.host)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def put_blob(ask: Client, name: str, blob: bytes = BLOB) -> str:
    location = ask("POST", f"/v2/{name}/blobs/uploads/").headers["Location"]
    assert ask("PUT", f"{location}?digest={sha256(blob)}", blob).status == 201
    return sha256(blob)


def put_manifest(ask: Client, name: str, tag: str, **fields: Any) -> str:
    config = put_blob(ask, name, b"{}")
    document = {
        "schemaVersion": 2,
        "mediaType": image.MANIFEST,
        "config": {"mediaType": image.CONFIG, "digest": config, "size": 2},
        "layers": [],
    } | fields
    data = json.dumps(document).encode()
    said = ask("PUT", f"/v2/{name}/manifests/{tag}", data, Content_Type=image.MANIFEST)
    assert said.status == 201, said.body
    assert said.headers["Docker-Content-Digest"] == sha256(data)
    return sha256(data)


def test_the_version_is_answered_to_who_may_know(server: registries.Running, ask: Client) -> None:
    said = ask("GET", "/v2/")
    assert (said.status, said.headers["Docker-Distribution-API-Version"]) == (200, "registry/2.0")
    for wrong in ("", "Basic !!", "Bearer x", "Basic QVdTOndyb25n"):
        refused = ask("GET", "/v2/", Authorization=wrong)
        assert (refused.status, refused.code) == (401, "UNAUTHORIZED")
        assert refused.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert ask("PUT", "/v2/x/manifests/1", b"{}", Authorization=wrong).status == 401


def test_a_blob_comes_by_post_and_put(ask: Client) -> None:
    start = ask("POST", "/v2/a/b/blobs/uploads/")
    assert start.status == 202
    done = ask("PUT", f"{start.headers['Location']}?digest={sha256(BLOB)}", BLOB)
    assert (done.status, done.headers["Location"]) == (201, f"/v2/a/b/blobs/{sha256(BLOB)}")
    got = ask("GET", done.headers["Location"])
    assert (got.status, got.body, got.headers["Docker-Content-Digest"]) == (200, BLOB, sha256(BLOB))
    head = ask("HEAD", done.headers["Location"])
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(BLOB)), b"")


def test_a_blob_comes_by_one_post(ask: Client) -> None:
    said = ask("POST", f"/v2/one/blobs/uploads/?digest={sha256(BLOB)}", BLOB)
    assert said.status == 201
    assert ask("GET", said.headers["Location"]).body == BLOB
    assert ask("POST", f"/v2/one/blobs/uploads/?digest={sha256(b'')}", b"").status == 201
    assert ask("GET", f"/v2/one/blobs/{sha256(b'')}").body == b""


def test_a_blob_comes_in_chunks_in_order(ask: Client) -> None:
    location = ask("POST", "/v2/chunks/blobs/uploads/").headers["Location"]
    first = ask("PATCH", location, BLOB[:5], Content_Range="0-4")
    assert (first.status, first.headers["Range"]) == (202, "0-4")
    for begin, end in ((0, 4), (6, len(BLOB) - 1)):
        refused = ask("PATCH", location, BLOB[begin : end + 1], Content_Range=f"{begin}-{end}")
        assert (refused.status, refused.code, refused.headers["Range"]) == (416, "RANGE_INVALID", "0-4")
    assert ask("PATCH", location, b"xx", Content_Range="5-9").code == "BLOB_UPLOAD_INVALID"
    assert ask("PATCH", location, b"xx", Content_Range="five").code == "BLOB_UPLOAD_INVALID"
    status = ask("GET", location)
    assert (status.status, status.headers["Range"]) == (204, "0-4")
    done = ask("PUT", f"{location}?digest={sha256(BLOB)}", BLOB[5:], Content_Range=f"5-{len(BLOB) - 1}")
    assert done.status == 201
    assert ask("GET", f"/v2/chunks/blobs/{sha256(BLOB)}").body == BLOB


def test_a_blob_comes_as_a_stream(ask: Client) -> None:
    location = ask("POST", "/v2/stream/blobs/uploads/").headers["Location"]
    large = bytes(range(256)) * 20_000
    assert ask("PATCH", location, large).headers["Range"] == f"0-{len(large) - 1}"
    assert ask("PUT", f"{location}?digest={sha256(large)}").status == 201
    assert ask("GET", f"/v2/stream/blobs/{sha256(large)}").body == large


def test_an_upload_with_a_wrong_digest_is_refused_and_gone(ask: Client) -> None:
    location = ask("POST", "/v2/bad/blobs/uploads/").headers["Location"]
    assert ask("PUT", f"{location}?digest=sha256:1", BLOB).code == "DIGEST_INVALID"
    assert ask("PUT", location, BLOB).code == "DIGEST_INVALID"
    assert ask("PUT", f"{location}?digest={sha256(b'other')}", BLOB).code == "DIGEST_INVALID"
    assert ask("GET", location).code == "BLOB_UPLOAD_UNKNOWN"
    assert ask("HEAD", f"/v2/bad/blobs/{sha256(b'other')}").status == 404


def test_an_upload_is_cancelled_and_belongs_to_its_repository(ask: Client) -> None:
    location = ask("POST", "/v2/mine/blobs/uploads/").headers["Location"]
    assert ask("GET", location.replace("mine", "yours")).code == "BLOB_UPLOAD_UNKNOWN"
    assert ask("DELETE", location).status == 204
    assert ask("PATCH", location, b"x").code == "BLOB_UPLOAD_UNKNOWN"
    assert ask("PUT", "/v2/mine/blobs/uploads/none?digest=x").code == "BLOB_UPLOAD_UNKNOWN"


def test_sha512_is_taken_too(ask: Client) -> None:
    digest = "sha512:" + hashlib.sha512(BLOB).hexdigest()
    assert ask("POST", f"/v2/long/blobs/uploads/?digest={digest}", BLOB).status == 201
    assert ask("GET", f"/v2/long/blobs/{digest}").body == BLOB


def test_a_range_of_a_blob(ask: Client) -> None:
    digest = put_blob(ask, "ranges")
    part = ask("GET", f"/v2/ranges/blobs/{digest}", Range="bytes=5-7")
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, BLOB[5:8], f"bytes 5-7/{len(BLOB)}")
    assert ask("GET", f"/v2/ranges/blobs/{digest}", Range="bytes=5-").body == BLOB[5:]
    assert ask("GET", f"/v2/ranges/blobs/{digest}", Range="bytes=500-").status == 416


def test_a_blob_is_mounted_from_another_repository(ask: Client) -> None:
    digest = put_blob(ask, "from")
    assert ask("HEAD", f"/v2/to/blobs/{digest}").status == 404
    mounted = ask("POST", f"/v2/to/blobs/uploads/?mount={digest}&from=from")
    assert (mounted.status, mounted.headers["Location"]) == (201, f"/v2/to/blobs/{digest}")
    assert ask("GET", f"/v2/to/blobs/{digest}").body == BLOB
    assert ask("POST", f"/v2/to/blobs/uploads/?mount={sha256(b'none')}&from=from").status == 202
    assert ask("POST", f"/v2/other/blobs/uploads/?mount={digest}").status == 202
    assert ask("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=../..").status == 202


def test_a_blob_is_deleted_from_one_repository_alone(ask: Client) -> None:
    digest = put_blob(ask, "del/one")
    put_blob(ask, "del/two")
    assert ask("DELETE", f"/v2/del/one/blobs/{digest}").status == 202
    assert ask("DELETE", f"/v2/del/one/blobs/{digest}").code == "BLOB_UNKNOWN"
    assert ask("GET", f"/v2/del/two/blobs/{digest}").body == BLOB


def test_a_manifest_is_got_as_it_was_put(ask: Client) -> None:
    digest = put_manifest(ask, "man", "1")
    for reference in ("1", digest):
        got = ask("GET", f"/v2/man/manifests/{reference}")
        assert (got.status, sha256(got.body), got.headers["Content-Type"]) == (200, digest, image.MANIFEST)
        head = ask("HEAD", f"/v2/man/manifests/{reference}")
        assert (head.headers["Docker-Content-Digest"], int(head.headers["Content-Length"])) == (digest, len(got.body))
    for missing in ("2", sha256(b"x")):
        assert ask("GET", f"/v2/man/manifests/{missing}").code == "MANIFEST_UNKNOWN"
    assert ask("GET", f"/v2/other/manifests/{digest}").code == "MANIFEST_UNKNOWN"


def test_a_manifest_that_is_none_is_refused(ask: Client) -> None:
    config = put_blob(ask, "wrong", b"{}")
    good = {
        "schemaVersion": 2,
        "mediaType": image.MANIFEST,
        "config": {"mediaType": image.CONFIG, "digest": config, "size": 2},
        "layers": [],
    }

    def put(document: Any, kind: str = image.MANIFEST, reference: str = "1") -> Said:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        return ask("PUT", f"/v2/wrong/manifests/{reference}", data, Content_Type=kind)

    for bad in (b"", b"{", {}, [], {"schemaVersion": 1}, good | {"mediaType": image.INDEX}, good | {"manifests": []}):
        assert put(bad).code == "MANIFEST_INVALID", bad
    assert put(good, kind="application/json").code == "MANIFEST_INVALID"
    assert put(good, kind="").code == "MANIFEST_INVALID"
    layer = {"mediaType": image.LAYER, "digest": sha256(b"none"), "size": 1}
    assert put(good | {"layers": [layer]}).code == "MANIFEST_BLOB_UNKNOWN"
    index = {"schemaVersion": 2, "manifests": [layer | {"mediaType": image.MANIFEST}]}
    assert put(index, kind=image.INDEX).code == "MANIFEST_BLOB_UNKNOWN"
    assert put(good, reference="-bad").code == "TAG_INVALID"
    assert put(good, reference=sha256(b"other")).code == "DIGEST_INVALID"
    assert put(b" " * (DOCUMENT_LIMIT + 1)).code == "SIZE_INVALID"
    assert put(good).status == 201


def test_layers_that_are_elsewhere_need_not_be_here(ask: Client) -> None:
    foreign = {"mediaType": image.LAYER, "digest": sha256(b"elsewhere"), "size": 1, "urls": ["https://example.org/x"]}
    put_manifest(ask, "foreign", "1", layers=[foreign])


def test_a_tag_goes_alone_and_a_manifest_with_its_tags(ask: Client) -> None:
    digest = put_manifest(ask, "gone", "a")
    put_manifest(ask, "gone", "b")
    assert ask("DELETE", "/v2/gone/manifests/a").status == 202
    assert ask("GET", "/v2/gone/manifests/a").status == 404
    assert ask("GET", f"/v2/gone/manifests/{digest}").status == 200
    assert ask("DELETE", f"/v2/gone/manifests/{digest}").status == 202
    assert ask("GET", "/v2/gone/manifests/b").status == 404
    assert ask("DELETE", f"/v2/gone/manifests/{digest}").code == "MANIFEST_UNKNOWN"


def test_tags_are_listed_in_order_page_by_page(ask: Client) -> None:
    for tag in ("c", "a", "B", "b"):
        put_manifest(ask, "tags", tag)
    put_manifest(ask, "tags/inner", "z")

    def listed(query: str = "") -> list[str]:
        return list(json.loads(ask("GET", f"/v2/tags/tags/list{query}").body)["tags"])

    assert listed() == ["B", "a", "b", "c"]
    assert listed("?n=2") == ["B", "a"]
    assert listed("?n=2&last=a") == ["b", "c"]
    assert listed("?last=b") == ["c"]
    assert listed("?n=0") == []
    assert ask("GET", "/v2/tags/tags/list?n=2").headers["Link"] == '</v2/tags/tags/list?n=2&last=a>; rel="next"'
    assert ask("GET", "/v2/tags/tags/list?n=2&last=a").headers["Link"] is None
    assert ask("GET", "/v2/tags/tags/list?n=x").status == 400
    assert ask("GET", "/v2/none/tags/list").code == "NAME_UNKNOWN"
    assert "tags/inner" in json.loads(ask("GET", "/v2/_catalog").body)["repositories"]


def test_referrers_are_the_manifests_with_that_subject(ask: Client) -> None:
    subject = put_manifest(ask, "refer", "1")
    about = {"mediaType": image.MANIFEST, "digest": subject, "size": 1}
    note = put_manifest(ask, "refer", "note", subject=about, artifactType="x/note", annotations={"a": "b"})
    listed = json.loads(ask("GET", f"/v2/refer/referrers/{subject}").body)["manifests"]
    assert [(entry["digest"], entry["artifactType"], entry["annotations"]) for entry in listed] == [
        (note, "x/note", {"a": "b"})
    ]
    filtered = ask("GET", f"/v2/refer/referrers/{subject}?artifactType=y")
    assert (json.loads(filtered.body)["manifests"], filtered.headers["OCI-Filters-Applied"]) == ([], "artifactType")
    assert json.loads(ask("GET", f"/v2/refer/referrers/{note}").body)["manifests"] == []
    assert ask("GET", "/v2/refer/referrers/x").code == "DIGEST_INVALID"


@pytest.mark.parametrize("name", ["UPPER", "a//b", "a/../b", "%2e%2e/x", "x" * 300, "a%00b"])
def test_names_that_are_none_are_refused(ask: Client, name: str) -> None:
    said = ask("POST", f"/v2/{name}/blobs/uploads/")
    assert said.status in (400, 404)
    assert said.code in ("NAME_INVALID", "BLOB_UPLOAD_UNKNOWN")


def test_other_addresses_and_methods_are_refused_in_the_same_shape(ask: Client) -> None:
    assert ask("GET", "/v2/nothing").code == "NAME_INVALID"
    refused = ask("POST", "/v2/a/manifests/1", b"{}")
    assert (refused.status, refused.code) == (405, "UNSUPPORTED")
    assert ask("GET", "/v2/a/blobs/..%2f..%2fetc").code in ("DIGEST_INVALID", "NAME_INVALID")


def test_memory_stays_flat_while_a_large_blob_passes(server: registries.Running, ask: Client, tmp_path: Path) -> None:
    def peak() -> int:
        status = Path(f"/proc/{server.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])

    def pieces(number: int) -> Iterator[bytes]:
        return (b"%07d " % part * 131_072 for part in range(number))

    digest, before = hashlib.sha256(), peak()
    for piece in pieces(96):
        digest.update(piece)
    location = ask("POST", "/v2/large/blobs/uploads/").headers["Location"]
    assert ask("PATCH", location, pieces(96)).status == 202  # type: ignore[arg-type]  # http.client sends any iterable
    assert ask("PUT", f"{location}?digest=sha256:{digest.hexdigest()}").status == 201
    assert len(ask("GET", f"/v2/large/blobs/sha256:{digest.hexdigest()}").body) == 96 << 20
    assert peak() - before < 32 << 10
