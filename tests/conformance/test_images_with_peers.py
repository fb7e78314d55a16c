"""Images go to and fro between ours, umoci, skopeo and podman, with the same files and the same digests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minicontainer import engine
from minicontainer.containers import Home
from minicontainer.linux import syscalls
from tests import images as made
from tests.conformance.test_layers_with_peers import census, sample

PROGRAM = f"{Path(sys.executable).parent}/minicontainer"


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def ours(home: Home, *words: str) -> str:
    return run(PROGRAM, "--root", home.data, *words)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with an image of one of each thing that a layer may hold."""
    (tmp_path / "source").mkdir()
    sample(tmp_path / "source")
    home = Home(data=str(tmp_path / "home"), run=str(tmp_path / "home/run"))
    xattrs = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--format=posix"]
    run("tar", "-C", f"{tmp_path}/source", *xattrs, "-cf", f"{tmp_path}/source.tar", ".")
    ours(home, "import", "-c", "CMD true", f"{tmp_path}/source.tar", "sample:1")
    return home


@pytest.mark.kernel("overlay")
def test_umoci_unpacks_what_we_save_to_the_tree_that_we_unpack(home: Home, tmp_path: Path) -> None:
    ours(home, "save", "--format", "oci-dir", "-o", f"{tmp_path}/layout", "sample:1")
    ours(home, "unpack", "sample:1", f"{tmp_path}/mine")
    entries = json.loads((tmp_path / "layout/index.json").read_text())
    entries["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = "one"  # umoci knows plain tags
    (tmp_path / "layout/index.json").write_text(json.dumps(entries))
    run("umoci", "unpack", "--image", f"{tmp_path}/layout:one", f"{tmp_path}/theirs")
    mine, theirs = census(tmp_path / "mine"), census(tmp_path / "theirs/rootfs")
    assert mine == census(tmp_path / "source")
    assert mine == theirs


@pytest.mark.kernel("overlay")
def test_what_umoci_packs_we_unpack(home: Home, tmp_path: Path) -> None:
    layout = f"{tmp_path}/theirs"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:web")
    run("umoci", "unpack", "--image", f"{layout}:web", f"{tmp_path}/bundle")
    rootfs = tmp_path / "bundle/rootfs"
    for number in range(2):  # two layers, the second with a whiteout
        if number:
            os.unlink(rootfs / "dangling")
            (rootfs / "more").write_text("more")
        else:
            sample(rootfs)
        run("umoci", "repack", "--image", f"{layout}:web", f"{tmp_path}/bundle")
    ours(home, "unpack", f"oci:{layout}:web", f"{tmp_path}/mine")
    coarse = {
        name: (*what[:4], *what[5:]) for name, what in census(tmp_path / "mine").items()
    }  # it keeps no nanoseconds
    assert coarse == {name: (*what[:4], *what[5:]) for name, what in census(rootfs).items()}
    assert "dangling" not in coarse and "more" in coarse


@pytest.mark.kernel("overlay")
def test_archives_go_through_skopeo_both_ways_with_their_digests(home: Home, tmp_path: Path) -> None:
    digest = engine.image(home, "sample:1").digest
    ours(home, "save", "-o", f"{tmp_path}/both.tar", "sample:1")
    copy = ["skopeo", "copy", "--insecure-policy"]
    run(*copy, f"oci-archive:{tmp_path}/both.tar", f"oci-archive:{tmp_path}/theirs.tar:sample:2")
    run(*copy, f"docker-archive:{tmp_path}/both.tar", f"docker-archive:{tmp_path}/docker.tar:sample:3")
    ours(home, "rmi", "sample:1")
    assert ours(home, "load", "-i", f"{tmp_path}/theirs.tar") == "Loaded image: sample:2\n"
    assert engine.image(home, "sample:2").digest == digest
    assert ours(home, "load", "-i", f"{tmp_path}/docker.tar") == "Loaded image: sample:3\n"
    ours(home, "unpack", "sample:3", f"{tmp_path}/mine")
    assert census(tmp_path / "mine") == census(tmp_path / "source")


@pytest.mark.kernel("overlay")
def test_podman_loads_what_we_save_and_we_load_what_it_saves(tmp_path: Path) -> None:
    home = made.busybox(tmp_path)
    syscalls.mount("tmpfs", "/mnt", "tmpfs", 0, "size=64m")  # ours alone: podman wants a short path
    storage = ["podman", "--root", "/mnt/podman", "--runroot", "/mnt/run", "--storage-driver", "vfs"]
    ours(home, "save", "-o", f"{tmp_path}/one.tar", "busybox")
    assert "busybox" in run(*storage, "load", "-i", f"{tmp_path}/one.tar")
    for form in ("docker-archive", "oci-archive"):
        run(*storage, "save", "--format", form, "-o", f"{tmp_path}/{form}.tar", "busybox")
        ours(home, "rmi", "busybox")
        assert "busybox" in ours(home, "load", "-i", f"{tmp_path}/{form}.tar")
        assert ours(home, "images", "-q") != ""
