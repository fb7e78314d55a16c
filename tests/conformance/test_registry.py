"""Our registry and our store beside skopeo, a client of both that others have written."""

import gzip
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicontainer.image.store import Store
from minicontainer.oci.image import LAYER, LAYER_GZIP, ContainerConfig, Descriptor, History, ImageConfig
from minicontainer.registry import client
from minicontainer.registry.credentials import Credentials
from tests import registries

WHO = Credentials(user=registries.USER, password=registries.PASSWORD)
CREDS = f"{registries.USER}:{registries.PASSWORD}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[registries.Running]:
    with registries.running(str(tmp_path / "registry")) as running:
        yield running


def skopeo(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done


def archive(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        made.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def build(store: Store, name: str, *, compress: bool = True) -> Descriptor:
    """An image of two layers, named in the store."""
    layers, diff_ids = [], []
    for number in range(2):
        plain = archive(f"f{number}", os.urandom(700_000))
        with store.writer() as writer:  # only for its digest
            writer.write(plain)
            diff_ids.append(writer.commit()[0])
        digest, size = store.put(gzip.compress(plain, mtime=0) if compress else plain)
        layers.append(Descriptor(media_type=LAYER_GZIP if compress else LAYER, digest=digest, size=size))
    config = ImageConfig(
        architecture="amd64",
        created="2024-01-02T03:04:05Z",
        config=ContainerConfig(env=("A=1",), cmd=("/f0",), labels={"who": "we"}, exposed_ports=("80/tcp",)),
        diff_ids=tuple(diff_ids),
        history=(History(created_by="one"), History(created_by="two")),
    )
    descriptor = store.put_image(layers, config)
    store.tag(name, descriptor)
    return descriptor


def test_skopeo_reads_our_store_in_place(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "oci"))
    build(store, "docker.io/library/web:latest")
    seen = json.loads(skopeo("inspect", f"oci:{store.root}:docker.io/library/web:latest").stdout)
    assert seen["Labels"] == {"who": "we"}
    assert seen["Env"] == ["A=1"]
    assert len(seen["Layers"]) == 2


def test_skopeo_writes_our_store_in_place(tmp_path: Path) -> None:
    source, target = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    build(source, "docker.io/library/web:latest")
    skopeo("copy", f"oci:{source.root}:docker.io/library/web:latest", f"oci:{target.root}:docker.io/library/copied:1")
    found = target.resolve("copied:1")
    assert target.config(target.manifest(found)).config.cmd == ("/f0",)
    assert target.collect() == []


def test_skopeo_pushes_to_our_registry_and_pulls_from_it(server: registries.Running, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "oci"))
    descriptor = build(store, "web")
    there = f"docker://{server.host}/team/web:1"
    skopeo("copy", "--dest-tls-verify=false", f"--dest-creds={CREDS}", f"oci:{store.root}:web", there)
    seen = json.loads(skopeo("inspect", "--tls-verify=false", f"--creds={CREDS}", there).stdout)
    assert (seen["Digest"], seen["RepoTags"]) == (descriptor.digest, ["1"])
    back = Store(str(tmp_path / "back"))
    skopeo("copy", "--src-tls-verify=false", f"--src-creds={CREDS}", there, f"oci:{back.root}:web")
    assert back.resolve("web").digest == descriptor.digest
    assert skopeo("inspect", "--tls-verify=false", f"--creds={CREDS}", f"{there}2", check=False).returncode != 0
    refused = skopeo("inspect", "--tls-verify=false", "--creds=AWS:wrong", there, check=False)
    assert "authentication required" in refused.stderr or "unauthorized" in refused.stderr.lower()


def test_docker_types_and_deletion_by_skopeo(server: registries.Running, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "oci"))
    build(store, "web")
    there = f"docker://{server.host}/web:v2s2"
    skopeo("copy", "--format=v2s2", "--dest-tls-verify=false", f"--dest-creds={CREDS}", f"oci:{store.root}:web", there)
    descriptor = client.pull(store, f"{server.host}/web:v2s2", credentials=WHO)
    assert descriptor.media_type == "application/vnd.docker.distribution.manifest.v2+json"
    assert store.config(store.manifest(descriptor)).config.env == ("A=1",)
    skopeo("delete", "--tls-verify=false", f"--creds={CREDS}", there)
    assert skopeo("inspect", "--tls-verify=false", f"--creds={CREDS}", there, check=False).returncode != 0


def test_what_we_push_skopeo_pulls_and_the_other_way_round(server: registries.Running, tmp_path: Path) -> None:
    store, other = Store(str(tmp_path / "oci")), Store(str(tmp_path / "other"))
    descriptor = build(store, "docker.io/library/web:latest")
    events: list[tuple[str, str, int, int]] = []
    name = f"{server.host}/deep/er/web:2"
    client.push(store, "web", name, credentials=WHO, progress=lambda *event: events.append(event))
    assert {event for event, *_ in events} == {"upload"}
    assert all(done == total for event, _, done, total in events[-1:])
    events.clear()
    client.push(store, "web", f"{server.host}/deep/er/web:3", credentials=WHO, progress=lambda *e: events.append(e))
    assert {event for event, *_ in events} == {"exists"}
    skopeo("copy", "--src-tls-verify=false", f"--src-creds={CREDS}", f"docker://{name}", f"oci:{other.root}:x")
    assert other.resolve("x").digest == descriptor.digest
    mine = Store(str(tmp_path / "mine"))
    assert client.pull(mine, name, credentials=WHO).digest == descriptor.digest
    assert mine.resolve(name).digest == descriptor.digest
    assert mine.collect() == []


def test_an_index_is_pulled_for_our_platform(server: registries.Running, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "oci"))
    descriptor = build(store, "web")
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor.to_json() | {"platform": {"architecture": "amd64", "os": "linux"}}],
    }
    digest, size = store.put(json.dumps(index).encode())
    store.tag("multi", Descriptor(media_type=index["mediaType"], digest=digest, size=size))  # type: ignore[arg-type]
    client.push(store, "multi", f"{server.host}/multi:1", credentials=WHO)
    fresh = Store(str(tmp_path / "fresh"))
    assert client.pull(fresh, f"{server.host}/multi:1", credentials=WHO).digest == digest
    assert fresh.manifest_descriptor(fresh.resolve(f"{server.host}/multi:1")).digest == descriptor.digest
    assert fresh.collect() == []
    skopeo(
        "copy",
        "--all",
        "--src-tls-verify=false",
        f"--src-creds={CREDS}",
        f"docker://{server.host}/multi:1",
        f"oci:{tmp_path}/all:m",
    )
