"""`minicontainer registry serve` as a process: users, TLS, memory while a large layer passes, what a start removes."""

import hashlib
import http.client
import io
import json
import os
import random
import signal
import ssl
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from minicontainer.containers import Home
from minicontainer.errors import Error
from minicontainer.image import images, snapshots
from minicontainer.image.store import Store
from minicontainer.oci.image import LAYER, Descriptor, ImageConfig, Platform
from minicontainer.registry import client, users
from minicontainer.registry.server import Registry
from tests.registries import PROGRAM, serving

LARGE, GROWTH = 300 << 20, 64 << 20  # bytes of a layer, and what the server may grow by while it passes


def build(store: Store, name: str, content: bytes = b"layer") -> Descriptor:
    digest, size = store.put(content)
    config = ImageConfig(architecture="amd64", diff_ids=(digest,))
    descriptor = store.put_image([Descriptor(LAYER, digest, size)], config)
    store.tag(name, descriptor)
    return descriptor


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def test_a_line_of_htpasswd_is_taken(tmp_path: Path) -> None:
    """By bcrypt: the test vector of crypt_blowfish, whose password is U*U."""
    kept = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
    (tmp_path / "users").write_text(f"me:{kept}\nyou:{kept.replace('$2a', '$2y')}\n")
    found = users.Users(str(tmp_path / "users"))
    assert found.authorize("me", "U*U") and found.authorize("you", "U*U")
    for name, password in (("me", "U*V"), ("me", ""), ("me", "U*U\0"), ("me", kept), ("nobody", "U*U"), ("", "")):
        assert not found.authorize(name, password)


def test_users_come_in_by_their_password_and_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    said = subprocess.run(
        [PROGRAM, "registry", "user", "me"], input="secret\n", capture_output=True, text=True, check=True
    )
    (tmp_path / "users").write_text(f"# who\n\n{said.stdout}")
    store = Store(str(tmp_path / "oci"))
    descriptor = build(store, "web")
    with serving(tmp_path / "data", "--users", str(tmp_path / "users")) as (host, _):
        for who in (None, ("me", "wrong"), ("you", "secret")):
            with pytest.raises(Error, match="401"):
                client.push(store, "web", f"{host}/web:1", credentials=who)
        client.push(store, "web", f"{host}/web:1", credentials=("me", "secret"))
        out = run("skopeo", "inspect", "--tls-verify=false", "--creds", "me:secret", f"docker://{host}/web:1")
        assert json.loads(out)["Digest"] == descriptor.digest


@pytest.mark.parametrize(
    "text",
    ["me:secret", "me:scrypt$x", "me:bcrypt$YQ==$YQ==", "me", "me:scrypt$!$!", "me:$apr1$x$y", "me:$2y$05$short"],
)
def test_a_file_of_users_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "users").write_text(f"{users.line('a', 'b')}\n{text}\n")
    with pytest.raises(Error, match=f"^{tmp_path}/users, line 2: neither NAME:scrypt"):
        users.Users(str(tmp_path / "users"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--listen", "nonsense"], "HOST:PORT is expected"),
        (["--listen", "127.0.0.1:99999"], "HOST:PORT is expected"),
        (["--tls-cert", "/nowhere"], "--tls-cert and --tls-key go together"),
        (["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "are not a certificate and its key"),
        (["--users", "/nowhere"], "/nowhere: No such file"),
    ],
)
def test_what_is_wrong_with_its_flags_is_one_line(tmp_path: Path, flags: list[str], said: str) -> None:
    command = [PROGRAM, "registry", "serve", "--data", str(tmp_path), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 125
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_it_speaks_tls_to_who_trusts_its_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:r.localhost.example,IP:127.0.0.1", "-days", "2"]
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", key, "-out", certificate, *subject)  # fmt: skip
    with serving(tmp_path / "data", "--tls-cert", certificate, "--tls-key", key) as (host, _):
        port = int(host.rpartition(":")[2])
        context = ssl.create_default_context(cafile=certificate)
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=20)
        connection.request("GET", "/v2/")
        assert connection.getresponse().status == 200
        connection.close()


def _resident(pid: int) -> int:
    """The most that the process has had in memory, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1]) << 10


def test_memory_is_flat_while_a_large_layer_passes_both_ways(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "oci"))
    with store.writer() as writer:
        for _ in range(LARGE >> 20):
            writer.write(bytes(1 << 20))
        digest, size = writer.commit()
    config = ImageConfig(architecture="amd64", diff_ids=(digest,))
    store.tag("large", store.put_image([Descriptor(LAYER, digest, size)], config))
    with serving(tmp_path / "data") as (host, pid):
        build(store, "small")
        client.push(store, "small", f"{host}/small:1")
        before = _resident(pid)
        client.push(store, "large", f"{host}/large:1")
        client.pull(Store(str(tmp_path / "back")), f"{host}/large:1")
        assert _resident(pid) - before < GROWTH


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_a_round_trip_by_skopeo_keeps_every_digest(tmp_path: Path, form: str) -> None:
    store = Store(str(tmp_path / "oci"))
    build(store, "web", os.urandom(200_000))
    with serving(tmp_path / "data") as (host, _):
        there = f"docker://{host}/a/b:1"
        copy = ["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"]
        run(*copy, "--format", form, f"oci:{store.root}:web", there)
        first = json.loads(run("skopeo", "inspect", "--tls-verify=false", there))["Digest"]
        run(*copy, "--preserve-digests", there, f"docker://{host}/c:1")
        mine = Store(str(tmp_path / "mine"))
        pulled = client.pull(mine, f"{host}/c:1")
        assert pulled.digest == first
        client.push(mine, f"{host}/c:1", f"{host}/d:1")
        assert json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{host}/d:1"))["Digest"] == first


def test_a_start_removes_what_nothing_names_any_more_and_keeps_the_rest(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "oci"))
    descriptor = build(store, "web", b"kept")
    build(store, "gone", b"given up")
    with serving(tmp_path / "data") as (host, _):
        client.push(store, "web", f"{host}/web:1")
        client.push(store, "gone", f"{host}/gone:1")
        connection = http.client.HTTPConnection(host, timeout=20)
        gone = store.resolve("gone").digest
        connection.request("DELETE", f"/v2/gone/manifests/{gone}")
        assert connection.getresponse().status == 202
    data = Store(str(tmp_path / "data"))
    assert Registry(data.root).collect()[0] == 1  # the manifest alone: its blobs came today
    old = time.time() - 2 * 86400
    for directory, _, names in os.walk(tmp_path / "data/repositories"):
        for name in names:
            os.utime(f"{directory}/{name}", (old, old))
    abandoned, begun = (tmp_path / "data/repositories/web/_uploads" / name for name in ("old", "new"))
    begun.parent.mkdir(exist_ok=True)
    for path, touched in ((abandoned, old), (begun, time.time())):
        path.write_text("half")
        os.utime(path, (touched, touched))
    with serving(tmp_path / "data") as (host, _):
        assert (abandoned.exists(), begun.exists()) == (False, True)
        assert not data.has("sha256:" + hashlib.sha256(b"given up").hexdigest())
        assert client.pull(Store(str(tmp_path / "back")), f"{host}/web:1").digest == descriptor.digest


def test_sha512_is_a_digest_like_another(tmp_path: Path) -> None:
    blob = b"content" * 1000
    digest = "sha512:" + hashlib.sha512(blob).hexdigest()
    with serving(tmp_path / "data") as (host, _):
        connection = http.client.HTTPConnection(host, timeout=20)
        connection.request("POST", f"/v2/a/blobs/uploads/?digest={digest}", blob)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (201, b"")
        connection.request("GET", f"/v2/a/blobs/{digest}", headers={"Range": "bytes=7-13"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (206, b"content")
        connection.close()


def _layers(store: Store, count: int) -> Descriptor:
    """An image of layers that hold a file each."""
    layers, diff_ids = [], []
    for number in range(count):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            member = tarfile.TarInfo(f"d/f{number}")
            member.size = 100_000
            archive.addfile(member, io.BytesIO(os.urandom(member.size)))
        digest, size = store.put(buffer.getvalue())
        layers.append(Descriptor(LAYER, digest, size))
        diff_ids.append(digest)
    descriptor = store.put_image(layers, ImageConfig(Platform.here().architecture, diff_ids=tuple(diff_ids)))
    store.tag("many", descriptor)
    return descriptor


@pytest.mark.kernel("overlay")
def test_layers_are_unpacked_while_others_come(tmp_path: Path) -> None:
    run("ip", "link", "set", "lo", "up")
    store = Store(str(tmp_path / "oci"))
    descriptor = _layers(store, 7)
    home = Home(data=str(tmp_path / "home"), run=str(tmp_path / "home/run"))
    events: list[tuple[str, str]] = []
    with serving(tmp_path / "data") as (host, _):
        client.push(store, "many", f"{host}/many:1")
        images.pull(
            home, f"{host}/many:1", unpack=True, progress=lambda event, digest, *_: events.append((event, digest))
        )
        layers = store.manifest(descriptor).layers
        assert {digest for event, digest in events if event == "unpack"} == {layer.digest for layer in layers}
        first = next(index for index, event in enumerate(events) if event[0] == "unpack")
        assert first > 0
        mine = images.open_store(home)
        lowers = snapshots.unpack(home.data, mine, mine.manifest(descriptor), mine.config(mine.manifest(descriptor)))
        assert [os.listdir(f"{lower}/d") for lower in lowers] == [[f"f{number}"] for number in reversed(range(7))]
    assert os.listdir(f"{home.data}/staging") == []
    assert Path(f"/proc/self/task/{os.getpid()}/children").read_text() == ""


@pytest.mark.kernel("overlay")
def test_a_layer_that_is_not_what_its_config_says_leaves_no_image(tmp_path: Path) -> None:
    run("ip", "link", "set", "lo", "up")
    store = Store(str(tmp_path / "oci"))
    good = store.manifest(_layers(store, 3))
    config = store.config(good)
    store.tag("bad", store.put_image(good.layers, config._replace(diff_ids=config.diff_ids[::-1])))
    home = Home(data=str(tmp_path / "home"), run=str(tmp_path / "home/run"))
    with serving(tmp_path / "data") as (host, _):
        client.push(store, "bad", f"{host}/bad:1")
        with pytest.raises(Error, match="has another digest"):
            images.pull(home, f"{host}/bad:1", unpack=True)
    assert images.open_store(home).names() == []
    assert list(Path(home.data).glob("layers/*/*/diff")) == []
    images.open_store(home).collect()
    assert list(images.open_store(home).digests()) == []


@pytest.mark.kernel("overlay")
def test_kill_9_at_any_point_of_a_pull_leaves_a_store_that_is_whole(tmp_path: Path) -> None:
    run("ip", "link", "set", "lo", "up")
    store = Store(str(tmp_path / "oci"))
    _layers(store, 5)
    home = Home(data=str(tmp_path / "home"), run=str(tmp_path / "home/run"))
    chance = random.Random(int.from_bytes(os.urandom(4), "big"))
    with serving(tmp_path / "data") as (host, _):
        client.push(store, "many", f"{host}/many:1")
        for _ in range(int(os.environ.get("POINTS", "10"))):
            child = os.fork()
            if child == 0:
                try:
                    images.pull(home, f"{host}/many:1", unpack=True)
                finally:
                    os._exit(0)
            time.sleep(chance.uniform(0, 0.25))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            mine = images.open_store(home)
            for digest in mine.digests():
                with mine.open(digest) as file:
                    assert f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest
            for name, _ in mine.names():
                assert mine.collect() == [], name
        descriptor = images.pull(home, f"{host}/many:1", unpack=True)
    images.repair(home)
    manifest = images.open_store(home).manifest(descriptor)
    lowers = snapshots.unpack(home.data, mine, manifest, mine.config(manifest))
    assert sorted(os.listdir(f"{lower}/d")[0] for lower in lowers) == [f"f{number}" for number in range(5)]
    assert os.listdir(f"{home.data}/staging") == os.listdir(f"{home.data}/oci/staging") == []
