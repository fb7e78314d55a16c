"""Images go to and fro between ours, docker, containerd and buildah: by archives, and by a registry of ours."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from minicontainer import engine
from minicontainer.containers import Home
from tests import rooms
from tests.conformance.test_layers_with_peers import census, sample
from tests.rooms import Room

pytestmark = pytest.mark.engine("dockerd", "docker", "containerd", "ctr", "buildah")

PROGRAM = f"{Path(sys.executable).parent}/minicontainer"
HOST = "127.0.0.1:5000"


class World(NamedTuple):
    """A room with the daemons and a registry; our home has an image of one of each thing that a layer may hold."""

    room: Room
    home: Home

    def call(self, *command: str) -> str:
        said = self.room.call(*command)
        assert said.status == 0, f"{' '.join(command)}: {said.text}"
        return said.text.strip()

    def ours(self, *words: str, home: str = "") -> str:
        return self.call(PROGRAM, "--root", home or self.home.data, *words)

    def docker(self, *words: str) -> str:
        return self.call("docker", "--host", f"unix://{self.room.directory}/docker.socket", *words)

    def ctr(self, *words: str) -> str:
        return self.call("ctr", "--address", f"{self.room.directory}/containerd.socket", *words)

    def buildah(self, *words: str) -> str:
        root = ("--root", f"{self.room.directory}/b", "--runroot", f"{self.room.directory}/r")
        return self.call("buildah", *root, "--storage-driver", "vfs", *words)

    def files(self, name: str, home: Path) -> dict[str, object]:
        """What the image of this name in another home of ours unpacks to."""
        self.ours("unpack", name, f"{home}/files", home=str(home))
        return dict(census(home / "files"))

    def digests(self, name: str, home: str = "") -> tuple[str, list[str]]:
        """The manifest's digest, and those of the layers as they are on the disk."""
        found = json.loads(self.ours("image", "inspect", name, home=home))[0]
        return found["Digest"], found["RootFS"]["Layers"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("engines")
    (directory / "source").mkdir()
    sample(directory / "source")
    with rooms.room(directory) as room:
        made = World(room, Home(data=str(directory / "home"), run=str(directory / "home/run")))
        room.start(
            "dockerd", "--data-root", f"{directory}/docker", "--exec-root", f"{directory}/exec",
            "--host", f"unix://{directory}/docker.socket", "--pidfile", f"{directory}/pid",
            "--storage-driver", "vfs", "--iptables=false", "--ip6tables=false", "--bridge=none",
        )  # fmt: skip
        places = ["--root", f"{directory}/containerd", "--state", f"{directory}/state"]
        room.start("containerd", *places, "--address", f"{directory}/containerd.socket")
        room.start(PROGRAM, "registry", "serve", "--listen", HOST, "--data", f"{directory}/registry")
        deadline = time.monotonic() + 60
        for command in (made.docker, made.ctr):
            while True:
                try:
                    command("version")
                    break
                except AssertionError:
                    assert time.monotonic() < deadline, (directory / "daemon.log").read_text()
                    time.sleep(0.1)
        kept = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--format=posix"]
        made.call("tar", "-C", f"{directory}/source", *kept, "-cf", f"{directory}/source.tar", ".")
        made.ours("import", "-c", "CMD true", f"{directory}/source.tar", "sample:1")
        made.ours("tag", "sample:1", f"{HOST}/sample:1")
        made.ours("push", f"{HOST}/sample:1")
        yield made


def test_what_docker_loads_of_us_we_load_of_it(world: World, tmp_path: Path) -> None:
    world.ours("save", "-o", f"{tmp_path}/ours.tar", "sample:1")
    world.docker("load", "-i", f"{tmp_path}/ours.tar")
    [theirs] = json.loads(world.docker("image", "inspect", "sample:1"))
    [mine] = json.loads(world.ours("image", "inspect", "sample:1"))
    assert (theirs["Id"], theirs["RootFS"]["Layers"]) == (mine["Id"], mine["RootFS"]["Layers"])
    world.docker("save", "-o", f"{tmp_path}/theirs.tar", "sample:1")
    world.ours("load", "-i", f"{tmp_path}/theirs.tar", home=str(tmp_path / "other"))
    assert world.digests("sample:1", str(tmp_path / "other"))[1] == world.digests("sample:1")[1]
    assert world.files("sample:1", tmp_path / "other") == census(Path(world.room.directory, "source"))


def test_docker_pulls_what_we_push_and_we_pull_what_it_pushes(world: World, tmp_path: Path) -> None:
    world.docker("pull", f"{HOST}/sample:1")
    digest, layers = world.digests("sample:1")
    [theirs] = json.loads(world.docker("image", "inspect", f"{HOST}/sample:1"))
    assert theirs["RepoDigests"] == [f"{HOST}/sample@{digest}"] and theirs["RootFS"]["Layers"] == layers
    world.docker("tag", f"{HOST}/sample:1", f"{HOST}/docker/sample:2")
    world.docker("push", f"{HOST}/docker/sample:2")
    world.ours("pull", f"{HOST}/docker/sample:2", home=str(tmp_path / "other"))
    pushed = json.loads(world.docker("image", "inspect", f"{HOST}/docker/sample:2"))[0]["RepoDigests"]
    found, others = world.digests(f"{HOST}/docker/sample:2", str(tmp_path / "other"))
    assert f"{HOST}/docker/sample@{found}" in pushed and others == layers
    assert world.files(f"{HOST}/docker/sample:2", tmp_path / "other") == census(Path(world.room.directory, "source"))


def test_containerd_keeps_every_digest_both_ways(world: World, tmp_path: Path) -> None:
    world.ours("save", "--format", "oci-archive", "-o", f"{tmp_path}/ours.tar", f"{HOST}/sample:1")
    world.ctr("images", "import", f"{tmp_path}/ours.tar")
    digest, layers = world.digests("sample:1")
    assert digest in world.ctr("images", "list", f"name=={HOST}/sample:1")
    world.ctr("images", "export", f"{tmp_path}/theirs.tar", f"{HOST}/sample:1")
    world.ours("load", "-i", f"{tmp_path}/theirs.tar", home=str(tmp_path / "other"))
    assert world.digests(f"{HOST}/sample:1", str(tmp_path / "other")) == (digest, layers)
    world.ctr("images", "tag", f"{HOST}/sample:1", f"{HOST}/ctr/sample:2")
    world.ctr("images", "push", "--plain-http", f"{HOST}/ctr/sample:2")
    world.ours("pull", f"{HOST}/ctr/sample:2", home=str(tmp_path / "other"))
    assert world.digests(f"{HOST}/ctr/sample:2", str(tmp_path / "other")) == (digest, layers)
    world.ctr("images", "rm", "--sync", f"{HOST}/sample:1", f"{HOST}/ctr/sample:2")
    world.ctr("images", "pull", "--plain-http", f"{HOST}/sample:1")
    assert digest in world.ctr("images", "list", f"name=={HOST}/sample:1")
    assert world.files(f"{HOST}/ctr/sample:2", tmp_path / "other") == census(Path(world.room.directory, "source"))


def test_buildah_keeps_the_files_both_ways(world: World, tmp_path: Path) -> None:
    world.buildah("pull", "--tls-verify=false", f"docker://{HOST}/sample:1")
    world.buildah("push", "--tls-verify=false", f"{HOST}/sample:1", f"docker://{HOST}/buildah/sample:2")
    world.buildah("push", f"{HOST}/sample:1", f"oci-archive:{tmp_path}/theirs.tar:sample:3")
    other = tmp_path / "other"
    world.ours("pull", f"{HOST}/buildah/sample:2", home=str(other))
    world.ours("load", "-i", f"{tmp_path}/theirs.tar", home=str(other))
    layers = world.digests("sample:1")[1]
    for name in (f"{HOST}/buildah/sample:2", "sample:3"):
        assert world.digests(name, str(other))[1] == layers
    world.ours("save", "--format", "oci-archive", "-o", f"{tmp_path}/ours.tar", "sample:1")
    world.buildah("pull", f"oci-archive:{tmp_path}/ours.tar")
    assert world.files("sample:3", other) == census(Path(world.room.directory, "source"))


def test_our_store_is_whole_after_all_this(world: World) -> None:
    assert engine.image(world.home, "sample:1").digest == world.digests("sample:1")[0]
    assert world.ours("system", "df") != ""
