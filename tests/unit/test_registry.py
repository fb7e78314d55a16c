"""The client beside registries that misbehave, and beside ours: what is sent to whom, and what people are told."""

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from minicontainer.errors import Error, ImageNotFound
from minicontainer.image.store import Store
from minicontainer.oci import image
from minicontainer.oci.image import LAYER, Descriptor, ImageConfig, Platform
from minicontainer.registry import client, credentials, distribution
from minicontainer.registry.credentials import Credentials
from minicontainer.registry.distribution import RegistryError
from tests import registries

WHO = Credentials(user=registries.USER, password=registries.PASSWORD)
Answering = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request to a registry of the test's own making."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        return

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving(answer: Answering) -> Iterator[str]:
    """A registry that answers as the test says; its host."""
    kind = type(
        "Kind",
        (Request,),
        {f"do_{method}": lambda self: answer(self) for method in ("GET", "HEAD", "PUT", "POST", "PATCH")},
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setattr(distribution, "FIRST_WAIT", 0.001)  # who asks again waits first


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "oci"))


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Image:
    """What a registry holds of one image: path below /v2/web to bytes."""

    def __init__(self, layer: bytes = b"layer" * 1000) -> None:
        config = image.encode(ImageConfig(architecture=Platform.here().architecture, diff_ids=(sha256(layer),)))
        made = image.Manifest(
            config=Descriptor(media_type=image.CONFIG, digest=sha256(config), size=len(config)),
            layers=(Descriptor(media_type=LAYER, digest=sha256(layer), size=len(layer)),),
        )
        self.layer, self.manifest = layer, image.encode(made)
        self.blobs = {f"/v2/web/blobs/{sha256(blob)}": blob for blob in (config, layer)}

    def answer(self, request: Request) -> None:
        if request.path == "/v2/web/manifests/1":
            request.answer(200, self.manifest, Content_Type=image.MANIFEST)
        elif request.path in self.blobs:
            request.answer(200, self.blobs[request.path])
        else:
            request.answer(404)


def build(store: Store, name: str = "docker.io/library/web:latest", content: bytes = b"layer") -> Descriptor:
    digest, size = store.put(content)
    layer = Descriptor(media_type=LAYER, digest=digest, size=size)
    config = ImageConfig(architecture=Platform.here().architecture, diff_ids=(digest,))
    descriptor = store.put_image([layer], config)
    store.tag(name, descriptor)
    return descriptor


def test_an_image_is_pulled_and_then_nothing_is_fetched_twice(store: Store) -> None:
    held, events = Image(), list[str]()
    with serving(held.answer) as host:
        for _ in range(2):
            descriptor = client.pull(store, f"{host}/web:1", progress=lambda event, *_: events.append(event))
    assert descriptor.digest == sha256(held.manifest)
    assert store.resolve(f"{host}/web:1").digest == descriptor.digest
    assert events[-2:] == ["exists", "exists"]
    assert store.collect() == []


def test_progress_tells_how_far_a_blob_has_come(store: Store) -> None:
    held, events = Image(b"x" * 1_000_000), list[tuple[str, str, int, int]]()
    with serving(held.answer) as host:
        client.pull(store, f"{host}/web:1", progress=lambda *event: events.append(event))
    layer = [(done, total) for event, digest, done, total in events if digest == sha256(held.layer)]
    assert layer[0] == (0, 1_000_000)
    assert layer[-1] == (1_000_000, 1_000_000)
    assert len(layer) > 3
    assert sorted(layer) == layer


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_gone_on_with(store: Store, ranges: bool) -> None:
    held, asked = Image(bytes(range(256)) * 4000), list[str]()

    def answer(request: Request) -> None:
        blob = held.blobs.get(request.path, b"")
        if len(blob) < 100_000:
            held.answer(request)
            return
        span = request.headers.get("Range", "")
        asked.append(span)
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and ranges else 0
        cut = blob[start : start + 400_000] if (len(asked) < 3 and ranges) or len(asked) == 1 else blob[start:]
        request.answer(206 if start else 200, cut, Content_Length=str(len(blob) - start))
        request.close_connection = True

    with serving(answer) as host:
        client.pull(store, f"{host}/web:1")
    assert asked[0] == ""
    assert asked[1].startswith("bytes=")
    assert store.open(sha256(held.layer)).read() == held.layer


@pytest.mark.parametrize("wrong", ["content", "longer", "shorter", "manifest digest", "type", "json", "huge"])
def test_what_is_not_what_was_announced_is_refused_and_nothing_is_named(store: Store, wrong: str) -> None:
    held = Image()

    def answer(request: Request) -> None:
        blob = held.blobs.get(request.path)
        if wrong in ("content", "longer", "shorter") and blob == held.layer:
            spoilt = {"content": b"X" + blob[1:], "longer": blob + b"x", "shorter": blob[:-1]}[wrong]
            request.answer(200, spoilt)
        elif "/manifests/" in request.path and blob is None:
            kind = "text/html" if wrong == "type" else image.MANIFEST
            body = {"json": b"<html>", "huge": b" " * (5 << 20)}.get(wrong, held.manifest)
            request.answer(200, body, Content_Type=kind)
        else:
            held.answer(request)

    with serving(answer) as host:
        name = f"{host}/web@sha256:{'0' * 64}" if wrong == "manifest digest" else f"{host}/web:1"
        with pytest.raises(Error) as raised:
            client.pull(store, name)
    assert "\n" not in str(raised.value)
    assert store.names() == []


def test_credentials_do_not_follow_a_redirect_to_another_host(store: Store) -> None:
    held, leaked = Image(), list[str | None]()

    def storage(request: Request) -> None:
        leaked.append(request.headers.get("Authorization"))
        request.answer(200, held.layer)

    def answer(request: Request) -> None:
        if request.headers.get("Authorization") != WHO.basic:
            request.answer(401, WWW_Authenticate='Basic realm="x"')
        elif held.blobs.get(request.path) == held.layer:
            request.answer(307, Location=f"http://{other}/signed?token=1")
        else:
            held.answer(request)

    with serving(storage) as other, serving(answer) as host:
        client.pull(store, f"{host}/web:1", credentials=WHO)
    assert leaked == [None]


def test_endless_redirects_end(store: Store) -> None:
    endless = serving(lambda request: request.answer(302, Location=request.path))
    with endless as host, pytest.raises(RegistryError, match="redirects"):
        client.pull(store, f"{host}/web:1")


def test_a_token_is_fetched_where_the_registry_says(store: Store) -> None:
    held, asked = Image(), list[tuple[str, str | None]]()

    def realm(request: Request) -> None:
        asked.append((request.path, request.headers.get("Authorization")))
        request.answer(200, json.dumps({"token": "good"}).encode())

    def answer(request: Request) -> None:
        if request.headers.get("Authorization") == "Bearer good":
            held.answer(request)
        else:
            challenge = f'Bearer realm="http://{tokens}/token",service="the registry",scope="repository:web:pull"'
            request.answer(401, WWW_Authenticate=challenge)

    with serving(realm) as tokens, serving(answer) as host:
        client.pull(store, f"{host}/web:1", credentials=WHO)
    assert asked == [("/token?service=the+registry&scope=repository%3Aweb%3Apull", WHO.basic)]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, b"{}", "no token for AWS"),
        (200, b"{}", "holds no token"),
        (200, b"<", "holds no token"),
        (200, b"[]", "no token"),
    ],
)
def test_a_realm_without_a_token_is_one_line(store: Store, status: int, body: bytes, says: str) -> None:
    def answer(request: Request) -> None:
        if request.path.startswith("/token"):
            request.answer(status, body)
        else:
            request.answer(401, WWW_Authenticate=f'Bearer realm="http://{request.headers["Host"]}/token"')

    with serving(answer) as host, pytest.raises(RegistryError, match=says):
        client.pull(store, f"{host}/web:1", credentials=WHO)


@pytest.mark.parametrize(
    ("status", "headers", "body", "says"),
    [
        (401, {"WWW_Authenticate": "Negotiate"}, b"", "kind of authentication"),
        (401, {"WWW_Authenticate": 'Basic realm="x"'}, b"", "wants a user and a password; try: login"),
        (403, {}, b'{"errors":[{"code":"DENIED","message":"no\\nway"}]}', r"DENIED: no way"),
        (500, {}, b"oops", "500"),
        (429, {}, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', "TOOMANYREQUESTS"),
    ],
)
def test_a_refusal_is_one_line_in_the_registry_s_words(
    store: Store, status: int, headers: dict[str, str], body: bytes, says: str
) -> None:
    refusing = serving(lambda request: request.answer(status, body, **headers))
    with refusing as host, pytest.raises(RegistryError, match=says) as raised:
        client.pull(store, f"{host}/web:1")
    assert "\n" not in str(raised.value)
    assert host in str(raised.value)


def test_a_missing_tag_is_an_image_that_is_not_found(store: Store) -> None:
    with serving(Image().answer) as host, pytest.raises(ImageNotFound, match=f"{host}/web:2"):
        client.pull(store, f"{host}/web:2")


def test_an_unreachable_registry_is_one_line(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(RegistryError, match=f"nobody listens at http://127.0.0.1:{port}; is it running"):
        client.pull(store, f"127.0.0.1:{port}/web:1")
    with pytest.raises(RegistryError, match="no address for"):
        client.pull(store, "no-such-host.invalid/web:1")


def test_a_server_that_speaks_no_tls_is_told_from_one_that_is_away(store: Store) -> None:
    with serving(Image().answer) as host:
        port = host.rpartition(":")[2]
        connection = distribution.Registry("x")
        connection._top = f"https://127.0.0.1:{port}"
        with pytest.raises(RegistryError, match="does not speak TLS; try: --plain-http"):
            connection.request("GET", "/v2/")


def test_which_registries_are_spoken_to_without_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(map(distribution.is_plain, ["127.0.0.1:5000", "127.8.9.1", "localhost", "localhost:5000", "[::1]:5000"]))
    assert not any(map(distribution.is_plain, ["example.org", "10.0.0.1:5000", "docker.io", "localhost.example.org"]))
    monkeypatch.setenv("MINICONTAINER_INSECURE_REGISTRIES", "10.0.0.1:5000,other:1")
    assert distribution.is_plain("10.0.0.1:5000")
    assert not distribution.is_plain("10.0.0.1:5001")


def test_a_login_is_proved_and_then_used(tmp_path: Path, store: Store) -> None:
    descriptor = build(store)
    with registries.running(str(tmp_path / "registry")) as server:
        with pytest.raises(RegistryError, match="does not let AWS in"):
            client.login(server.host, ("AWS", "wrong"))
        assert credentials.load(server.host) is None
        with pytest.raises(RegistryError, match="try: login"):
            client.push(store, "web", f"{server.host}/web:1")
        client.login(server.host, WHO)
        client.push(store, "web", f"{server.host}/web:1")
        assert client.pull(store, f"{server.host}/web:1").digest == descriptor.digest
        assert client.logout(server.host)
        with pytest.raises(RegistryError, match="try: login"):
            client.pull(store, f"{server.host}/web:1")


def test_a_kept_connection_that_the_other_end_closed_is_opened_again(store: Store) -> None:
    held = Image()

    def answer(request: Request) -> None:
        held.answer(request)
        request.close_connection = True  # without saying so: the client keeps what is dead

    with serving(answer) as host:
        client.pull(store, f"{host}/web:1")


def test_pushing_what_is_not_there_is_an_image_that_is_not_found(store: Store) -> None:
    with pytest.raises(ImageNotFound):
        client.push(store, "nothing", "127.0.0.1:1/web:1")


def test_basic_is_as_in_its_rfc() -> None:
    assert base64.b64decode(WHO.basic.removeprefix("Basic ")).decode() == f"{registries.USER}:{registries.PASSWORD}"


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINICONTAINER_CONFIG", str(tmp_path / "config.toml"))
    return tmp_path / "config.toml"


@pytest.mark.parametrize(
    ("status", "header"), [(429, "0"), (503, "Mon, 01 Jan 2024 00:00:00 GMT"), (500, ""), (502, "")]
)
def test_a_registry_in_trouble_is_asked_again(store: Store, status: int, header: str) -> None:
    held, refused = Image(), list[str]()

    def answer(request: Request) -> None:
        if len(refused) < 3:
            refused.append(request.path)
            request.answer(status, b"busy", **({"Retry_After": header} if header else {}))
        else:
            held.answer(request)

    with serving(answer) as host:
        client.pull(store, f"{host}/web:1")
    assert len(refused) == 3


def test_a_page_of_html_is_no_registry(store: Store) -> None:
    page = serving(lambda request: request.answer(200, b"<html>please log in", Content_Type="text/html; charset=utf-8"))
    with page as host, pytest.raises(RegistryError, match="came as HTML: is that a registry"):
        client.pull(store, f"{host}/web:1")
    page = serving(lambda request: request.answer(403, b"<html>blocked", Content_Type="text/html"))
    with page as host, pytest.raises(RegistryError, match="in HTML, as a proxy"):
        client.pull(store, f"{host}/web:1")


def test_mirrors_are_asked_first_and_their_failures_told(store: Store, settings_file: Path) -> None:
    held, origin = Image(), Image()
    told: list[str] = []
    nothing = serving(lambda request: request.answer(404))
    with nothing as empty, serving(held.answer) as mirror, serving(origin.answer) as host:
        settings_file.write_text(f'[registry."{host}"]\nmirrors = ["{empty}", "127.0.0.1:1", "{mirror}"]\n')
        descriptor = client.pull(
            store, f"{host}/web:1", progress=lambda event, what, *_: told.append(f"{event} {what}")
        )
    assert store.resolve(f"{host}/web:1").digest == descriptor.digest
    assert [line.split(" ")[1] for line in told if line.startswith("mirror")] == [
        f"{empty}:registry",
        "127.0.0.1:1:registry",
    ]


def test_a_registry_that_the_settings_call_insecure_speaks_no_tls(settings_file: Path) -> None:
    settings_file.write_text('[registry."plain.example:5000"]\ninsecure = true\n')
    assert distribution.is_plain("plain.example:5000")
    assert not distribution.is_plain("plain.example")


def test_authorities_that_cannot_be_read_are_one_line(store: Store, settings_file: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    settings_file.write_text(f'[registry."r.example"]\nca = "{tmp_path}/ca.pem"\n')
    with pytest.raises(RegistryError, match=r"its authorities in .*ca.pem cannot be read"):
        client.pull(store, "r.example/web:1")


def test_a_registry_that_brings_nothing_more_is_given_up(store: Store) -> None:
    held = Image(bytes(100_000))

    def answer(request: Request) -> None:
        if held.blobs.get(request.path) == held.layer:
            request.answer(200, held.layer[:500], Content_Length="100000")
            request.close_connection = True
        else:
            held.answer(request)

    with (
        serving(answer) as host,
        pytest.raises(RegistryError, match="500 of 100000 bytes came, and no more in 5 tries"),
    ):
        client.pull(store, f"{host}/web:1")
    assert store.names() == []


def test_an_index_says_what_it_is_for(store: Store) -> None:
    held = Image()
    other = {"architecture": "s390x", "os": "linux"}
    entry = {
        "mediaType": image.MANIFEST,
        "digest": sha256(held.manifest),
        "size": len(held.manifest),
        "platform": other,
    }
    index = json.dumps({"schemaVersion": 2, "mediaType": image.INDEX, "manifests": [entry]}).encode()

    def answer(request: Request) -> None:
        if request.path == "/v2/web/manifests/1":
            request.answer(200, index, Content_Type=image.INDEX)
        elif request.path == f"/v2/web/manifests/{sha256(held.manifest)}":
            request.answer(200, held.manifest, Content_Type=image.MANIFEST)
        else:
            held.answer(request)

    with serving(answer) as host:
        with pytest.raises(Error, match=f"{host}/web:1 is not for linux/.*; it is for linux/s390x"):
            client.pull(store, f"{host}/web:1")
        wanted = client.pull(store, f"{host}/web:1", platform=Platform("s390x"))
        assert wanted.digest == sha256(held.manifest)
        whole = client.pull(store, f"{host}/web:1", all_platforms=True)
        assert whole.digest == sha256(index)
    assert store.has(sha256(held.layer))
    assert store.collect() == []


def test_a_blob_that_another_repository_has_is_mounted(tmp_path: Path, store: Store) -> None:
    events: list[str] = []
    with registries.running(str(tmp_path / "registry")) as server:
        build(store, f"{server.host}/one:1")
        client.push(store, f"{server.host}/one:1", f"{server.host}/one:1", credentials=WHO)
        client.push(
            store,
            f"{server.host}/one:1",
            f"{server.host}/two:1",
            credentials=WHO,
            progress=lambda e, *_: events.append(e),
        )
    assert events == ["mount", "mount"]


def test_an_upload_that_breaks_is_gone_on_with(store: Store) -> None:
    descriptor = build(store, content=bytes(range(256)) * 8000)
    layer = store.manifest(descriptor).layers[0]
    kept, spans = bytearray(), list[str]()

    def answer(request: Request) -> None:
        size = int(request.headers.get("Content-Length", 0))
        location = {"Location": "/v2/web/blobs/uploads/1"}
        match request.command:
            case "HEAD":
                request.answer(404 if layer.digest in request.path else 200)
            case "POST":
                request.answer(202, **location)
            case "GET":
                request.answer(204, Range=f"0-{len(kept) - 1}", **location)
            case "PATCH":
                spans.append(request.headers["Content-Range"])
                kept.extend(request.rfile.read(size))
                request.answer(202, **location)
            case "PUT" if "manifests" in request.path:
                request.rfile.read(size)
                request.answer(201)
            case "PUT" if not kept:
                kept.extend(request.rfile.read(700_000))
                request.close_connection = True
                request.connection.shutdown(socket.SHUT_RDWR)
            case "PUT":
                kept.extend(request.rfile.read(size))
                request.answer(201)

    with serving(answer) as host:
        client.push(store, "web", f"{host}/web:1")
    assert spans == [f"700000-{layer.size - 1}"]
    assert sha256(bytes(kept)) == layer.digest


def test_a_token_in_place_of_a_password_is_refreshed_by_post(store: Store) -> None:
    held, asked = Image(), list[str]()

    def realm(request: Request) -> None:
        asked.append(request.command + " " + request.rfile.read(int(request.headers["Content-Length"])).decode())
        request.answer(200, json.dumps({"access_token": "good"}).encode())

    def answer(request: Request) -> None:
        if request.headers.get("Authorization") == "Bearer good":
            held.answer(request)
        else:
            request.answer(401, WWW_Authenticate=f'Bearer realm="http://{tokens}/token",service="s"')

    with serving(realm) as tokens, serving(answer) as host:
        client.pull(store, f"{host}/web:1", credentials=("<token>", "kept"))
    assert asked[0].startswith("POST grant_type=refresh_token&refresh_token=kept&client_id=minicontainer&service=s")
