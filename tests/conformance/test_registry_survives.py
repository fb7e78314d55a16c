"""The registry after kill -9, and under many clients at a time: what was acknowledged is there, whole."""

import hashlib
import os
import signal
import subprocess
import threading
from pathlib import Path

from minicontainer.errors import Error
from minicontainer.image.store import Store
from minicontainer.oci.image import LAYER, Descriptor, ImageConfig
from minicontainer.registry import client as registry
from minicontainer.registry.credentials import Credentials
from minicontainer.registry.distribution import Registry
from tests import registries

WHO = Credentials(user=registries.USER, password=registries.PASSWORD)
CREDS = f"{registries.USER}:{registries.PASSWORD}"


def build(store: Store, name: str, size: int = 300_000) -> Descriptor:
    digest, size = store.put(os.urandom(size))
    config = ImageConfig(architecture="amd64", diff_ids=(digest,))
    descriptor = store.put_image([Descriptor(media_type=LAYER, digest=digest, size=size)], config)
    store.tag(name, descriptor)
    return descriptor


def test_what_was_acknowledged_before_kill_9_is_there_afterwards(tmp_path: Path) -> None:
    root, store = str(tmp_path / "registry"), Store(str(tmp_path / "oci"))
    pushed: dict[str, str] = {}
    for life in range(3):
        with registries.running(root) as server:
            timer = threading.Timer(0.4, os.kill, (server.pid, signal.SIGKILL))
            timer.start()
            try:
                for number in range(1000):
                    tag = f"{life}-{number}"
                    descriptor = build(store, tag)
                    registry.push(store, tag, f"{server.host}/web:{tag}", credentials=WHO)
                    pushed[tag] = descriptor.digest
            except Error:
                timer.join()
    assert len(pushed) > 3
    with registries.running(root) as server:
        for tag, digest in pushed.items():
            fresh = Store(str(tmp_path / "fresh"))
            assert registry.pull(fresh, f"{server.host}/web:{tag}", credentials=WHO).digest == digest
    for digest in Store(root).digests():
        with Store(root).open(digest) as file:
            assert "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() == digest


def test_many_clients_push_and_pull_at_a_time(tmp_path: Path) -> None:
    with registries.running(str(tmp_path / "registry")) as server:
        names = [f"{server.host}/team{number}/web:1" for number in range(6)]
        children = []
        for number, name in enumerate(names):
            if (child := os.fork()) == 0:
                status = 1
                try:
                    store = Store(str(tmp_path / f"oci{number}"))
                    descriptor = build(store, "web", 3_000_000)
                    registry.push(store, "web", name, credentials=WHO)
                    back = registry.pull(Store(str(tmp_path / "shared")), name, credentials=WHO)
                    status = 0 if back.digest == descriptor.digest else 2
                finally:
                    os._exit(status)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(names)
        shared = Store(str(tmp_path / "shared"))
        assert sorted(name for name, _ in shared.names()) == sorted(names)
        assert shared.collect() == []
        for name in names:
            there = f"docker://{name}"
            copy = [
                "skopeo",
                "copy",
                "-q",
                "--src-tls-verify=false",
                f"--src-creds={CREDS}",
                there,
                f"dir:{tmp_path}/dir",
            ]
            assert subprocess.run(copy, check=False).returncode == 0


def test_an_upload_goes_on_after_the_server_was_killed_or_stopped(tmp_path: Path) -> None:
    root, data = str(tmp_path / "registry"), os.urandom(900_000)
    location, parts = "", [data[:300_000], data[300_000:600_000], data[600_000:]]
    for number, how in enumerate((signal.SIGKILL, signal.SIGTERM)):
        with registries.running(root) as server, Registry(server.host, WHO) as client:
            if not location:
                start = client.request("POST", "/v2/web/blobs/uploads/", accept=(202,))
                start.read()
                location = start.headers["Location"]
            patched = client.request("PATCH", location, body=parts[number], accept=(202,))
            patched.read()
            assert patched.headers["Range"] == f"0-{300_000 * (number + 1) - 1}"
            client.hang_up()
            os.kill(server.pid, how)
    with registries.running(root) as server, Registry(server.host, WHO) as client:
        other = client.request("GET", location.replace("/web/", "/other/"), accept=(404,))
        other.read()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        client.request("PUT", f"{location}?digest={digest}", body=parts[2], accept=(201,)).read()
        assert client.request("GET", f"/v2/web/blobs/{digest}").read() == data
        client.request("GET", location, accept=(404,)).read()
        assert os.listdir(f"{root}/repositories/web/_uploads") == []


def test_a_client_that_goes_away_leaves_an_upload_that_can_be_gone_on_with(tmp_path: Path) -> None:
    with registries.running(str(tmp_path / "registry")) as server, Registry(server.host, WHO) as client:
        start = client.request("POST", "/v2/web/blobs/uploads/", accept=(202,))
        start.read()
        location = start.headers["Location"]
        half, whole = b"x" * 500_000, b"x" * 1_000_000
        patched = client.request("PATCH", location, body=half, accept=(202,))
        patched.read()
        client.hang_up()
        status = client.request("GET", location, accept=(204,))
        assert status.headers["Range"] == f"0-{len(half) - 1}"
        status.read()
        digest = "sha256:" + hashlib.sha256(whole).hexdigest()
        put = client.request("PUT", f"{location}?digest={digest}", body=half, accept=(201,))
        put.read()
        assert client.request("GET", f"/v2/web/blobs/{digest}").read() == whole
