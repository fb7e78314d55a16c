"""Images as files and on the disk: commit, diff, export, import, unpack, save, prune, and what survives a crash."""

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from minicontainer import cli, disk_usage, engine
from minicontainer.containers import Home
from minicontainer.errors import Error
from minicontainer.image import image_archives, images, snapshots
from minicontainer.linux import syscalls
from minicontainer.linux.flags import MS_REMOUNT
from minicontainer.oci.image import LAYER, Descriptor, ImageConfig
from tests import images as made

POINTS = int(os.environ.get("POINTS", "20"))  # moments of a kill -9; 200, and as many sizes of a full disk: POINTS=200
SIZES = [1024, 4096, 9216] if POINTS < 200 else random.Random(POINTS).sample(range(300, 12 << 10), POINTS)


def say(home: Home, *words: str, code: int = 0) -> str:
    """What a command prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert cli.main(["--root", home.data, *words]) == code, err.getvalue()
    return out.getvalue() + err.getvalue()


def ran(home: Home, *command: str) -> str:
    """A container that has ended; its id."""
    options = engine.Options(image="busybox", command=command, network="none")
    container = engine.create(home, options)
    engine.start(home, container.id)
    engine.wait(home, container.id)
    return container.id


@pytest.mark.kernel("overlay")
def test_a_container_is_told_committed_and_run_again(tmp_path: Path) -> None:
    home = made.busybox(tmp_path)
    ended = ran(home, "sh", "-c", "echo new > /new; echo x >> /etc/passwd; rm -r /tmp; mkdir -p /d/e")
    told = say(home, "diff", ended).splitlines()
    assert {"A /new", "A /d", "A /d/e", "C /etc", "C /etc/passwd", "D /tmp"} <= set(told)
    assert told == sorted(told, key=lambda line: line[2:])
    new = say(
        home, "commit", "-a", "me", "-m", "why", "-c", 'CMD ["cat", "/new"]', "-c", "ENV A=b", ended, "made:1"
    ).strip()
    [shown] = json.loads(say(home, "image", "inspect", "made:1"))
    assert (shown["Id"], shown["Author"], shown["Config"]["Cmd"]) == (new, "me", ["cat", "/new"])
    assert "A=b" in shown["Config"]["Env"]
    assert say(home, "history", "--format", "json", "made:1").count('"Comment": "why"') == 1
    before = say(home, "images", "-q")
    assert "one of CMD, ENTRYPOINT" in say(home, "commit", "-c", "RUN x", ended, code=125)
    assert say(home, "images", "-q") == before


@pytest.mark.kernel("overlay")
def test_an_export_is_imported_and_an_image_unpacked_to_the_same_files(tmp_path: Path) -> None:
    home = made.busybox(tmp_path)
    ended = ran(home, "sh", "-c", "echo new > /new; rm -r /tmp")
    archive = tmp_path / "files.tar"
    say(home, "export", "-o", str(archive), ended)
    with tarfile.open(archive) as opened:
        names = opened.getnames()
    assert "new" in names and "tmp" not in names and "bin/busybox" in names
    say(home, "import", "-c", 'ENTRYPOINT ["/bin/cat"]', str(archive), "flat:1")
    say(home, "commit", ended, "made:1")
    for image in ("flat:1", "made:1"):
        say(home, "unpack", image, str(tmp_path / image))
    say(home, "save", "--format", "oci-dir", "-o", str(tmp_path / "layout"), "made:1", "flat:1")
    visible = [name for name in os.listdir(tmp_path / "layout") if name[0] != "."]
    assert sorted(visible) == ["blobs", "index.json", "oci-layout"]
    say(home, "save", "--format", "oci-dir", "-o", str(tmp_path / "layout"), "busybox")  # one more, into the same
    say(home, "unpack", f"oci:{tmp_path}/layout:docker.io/library/made:1", str(tmp_path / "again"))
    trees = [subprocess.check_output(["find", ".", "-printf", "%p %m %U %G %s %l\n"], cwd=tmp_path / name).splitlines()
             for name in ("flat:1", "made:1", "again")]  # fmt: skip
    assert sorted(trees[0]) == sorted(trees[1]) == sorted(trees[2])
    assert sorted(os.listdir(tmp_path)).count("again") == 1
    assert not [name for name in os.listdir(tmp_path) if ".new" in name]
    assert "not an empty directory" in say(home, "unpack", "made:1", str(tmp_path / "again"), code=125)
    assert "has 3 images; try: oci:" in say(home, "unpack", f"oci:{tmp_path}/layout", str(tmp_path / "x"), code=125)
    assert "is not an OCI layout" in say(home, "unpack", "oci:/nowhere", str(tmp_path / "x"), code=125)


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("content", [b"", b"this is no archive", b"\x1f\x8b broken"])
def test_what_is_no_archive_is_not_imported(tmp_path: Path, content: bytes) -> None:
    home = made.busybox(tmp_path)
    (tmp_path / "x").write_bytes(content)
    say(home, "import", str(tmp_path / "x"), "x:1", code=125)
    assert say(home, "images", "x") == "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE\n"


@pytest.mark.kernel("overlay")
def test_images_go_by_name_by_id_and_by_force(tmp_path: Path) -> None:
    home = made.busybox(tmp_path)
    say(home, "tag", "busybox", "copy:2")
    digits = say(home, "images", "-q").split()[0]
    assert "has several names: busybox:latest, copy:2" in say(home, "rmi", digits, code=1)
    assert say(home, "rmi", "copy:2", "nothing:1", code=1).splitlines() == [
        "Untagged: copy:2",
        "minicontainer: image nothing:1 not found; try: minicontainer pull nothing:1",
    ]
    container = ran(home, "true")
    assert "is used by container" in say(home, "rmi", digits, code=1)
    engine.remove(home, container)
    said = say(home, "rmi", digits).splitlines()
    assert said[0] == "Untagged: busybox:latest"
    assert {line.partition(":")[0] for line in said[1:]} == {"Deleted"}
    assert os.listdir(f"{home.data}/layers/sha256") == []


@pytest.mark.kernel("overlay")
def test_space_is_told_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))  # nobody says yes
    home = made.busybox(tmp_path)
    ended = ran(home, "sh", "-c", "head -c 3000000 /dev/zero > /big")
    rows = {row["Type"]: row for row in map(json.loads, say(home, "system", "df", "--format", "json").splitlines())}
    assert (rows["Images"]["TotalCount"], rows["Images"]["Active"], rows["Containers"]["Size"][0]) == ("1", "1", "3")
    say(home, "commit", ended)  # an image without a name
    assert [line.split()[:2] for line in say(home, "images").splitlines()[1:]] == [
        ["busybox", "latest"],
        ["<none>"] * 2,
    ]
    assert "Deleted Images:\nDeleted: sha256:" in say(home, "image", "prune", "-f")
    assert say(home, "images", "-q") != ""
    assert "y/N" in say(home, "system", "prune")
    said = say(home, "system", "prune", "--all", "--force")
    assert f"Deleted Containers:\n{ended}\n" in said
    assert "Untagged: busybox:latest" in said
    assert said.splitlines()[-1].startswith("Total reclaimed space: ")
    assert [one.size for one in disk_usage.usage(home)] == [0, 0, 0, 0]
    with pytest.raises(Error, match="until=24h or label="):
        disk_usage.prune_images(home, False, ["size=3"])


@pytest.mark.kernel("overlay")
def test_a_layout_on_disk_is_loaded_and_saved_for_one_platform(tmp_path: Path) -> None:
    home = made.busybox(tmp_path)
    say(home, "save", "--format", "oci-dir", "-o", str(tmp_path / "layout"), "--platform", "linux/amd64", "busybox")
    say(home, "rmi", "busybox")
    assert say(home, "load", "-i", str(tmp_path / "layout")) == "Loaded image: busybox:latest\n"
    assert "is not OS/ARCHITECTURE" in say(home, "save", "--platform", "a/b/c/d", "busybox", code=125)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "is no OCI layout" in say(
        home, "save", "--format", "oci-dir", "-o", str(tmp_path / "full"), "busybox", code=125
    )


# --- what survives ---------------------------------------------------------------------------------------------------


def large(data: Path, count: int = 3, size: int = 2 << 20) -> tuple[Home, Path]:
    """A home with nothing in it, and an archive of an image of some megabytes."""
    source = Home(data=str(data / "source"), run=str(data / "source/run"))
    store = engine.open_store(source)
    layers, diff_ids = [], []
    for number in range(count):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name in ("one", "two"):
                member = tarfile.TarInfo(f"{name}{number}")
                member.size = size // 2
                archive.addfile(member, io.BytesIO(os.urandom(member.size)))
        digest, length = store.put(buffer.getvalue())
        layers.append(Descriptor(LAYER, digest, length))
        diff_ids.append(digest)
    store.tag("docker.io/library/large:1", store.put_image(layers, ImageConfig("amd64", diff_ids=tuple(diff_ids))))
    with open(data / "large.tar", "wb") as file:
        image_archives.save(store, ["large:1"], file)
    return Home(data=str(data / "home"), run=str(data / "home/run")), data / "large.tar"


def load_and_unpack(home: Home, archive: Path) -> None:
    store = engine.open_store(home)
    with open(archive, "rb") as file:
        image_archives.load(store, file)
    manifest = store.manifest(store.resolve("large:1"))
    snapshots.unpack(home.data, store, manifest, store.config(manifest))


def check(home: Home) -> None:
    """Whatever has a name is whole."""
    store = engine.open_store(home)
    for digest in store.digests():
        with store.open(digest) as file:
            assert f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest
    for _, descriptor in store.names():
        manifest = store.manifest(descriptor)
        assert all(store.has(part.digest) for part in (manifest.config, *manifest.layers))
    for diff in Path(home.data).glob("layers/*/*/diff"):
        assert sum(path.stat().st_size for path in diff.iterdir()) == 2 << 20


def killed(work: Callable[[], object], after: float) -> None:
    """Do it in a process that is killed a little later, if it has not ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.kernel("overlay")
def test_kill_9_at_any_point_of_load_unpack_and_prune_leaves_a_store_that_is_whole(tmp_path: Path) -> None:
    home, archive = large(tmp_path)
    chance = random.Random(int.from_bytes(os.urandom(4), "big"))
    for _ in range(POINTS):
        killed(lambda: load_and_unpack(home, archive), chance.uniform(0, 0.15))
        check(home)
        killed(lambda: disk_usage.prune_images(home, unused=True), chance.uniform(0, 0.02))
        check(home)
    images.repair(home)
    assert os.listdir(f"{home.data}/oci/staging") == []
    load_and_unpack(home, archive)
    check(home)
    assert len(list(Path(home.data).glob("layers/*/*/diff"))) == 3
    disk_usage.prune_images(home, unused=True)
    assert list(engine.open_store(home).digests()) == []
    assert [*Path(home.data).glob("layers/*/*/diff"), *os.listdir(f"{home.data}/staging")] == []


@pytest.mark.kernel("overlay")
def test_what_a_dead_command_left_is_said_by_the_next(tmp_path: Path) -> None:
    home, archive = large(tmp_path)
    store = engine.open_store(home)
    killed(lambda: (store.writer().write(b"half"), time.sleep(60)), 0.3)
    os.makedirs(f"{home.data}/staging/sha256-{'0' * 64}/half")
    said = say(home, "load", "-i", str(archive))
    assert "removed what was left half done: 1 blob, 1 layer\n" in said
    assert "half done" not in say(home, "load", "-i", str(archive))


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("kilobytes", SIZES)
def test_a_full_disk_is_one_line_and_the_space_comes_back(tmp_path: Path, kilobytes: int) -> None:
    """While the blobs are written, or while they are unpacked."""
    _, archive = large(tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    syscalls.mount("tmpfs", str(disk), "tmpfs", 0, f"size={kilobytes}k")
    home = Home(data=str(disk / "home"), run=str(disk / "run"))
    before = {name for name, _ in engine.open_store(home).names()}
    with pytest.raises(OSError, match="No space left on device") as full:
        load_and_unpack(home, archive)
    assert str(full.value.filename).startswith(str(disk))
    check(home)
    if kilobytes < 5000:  # it did not even come in
        assert {name for name, _ in engine.open_store(home).names()} == before
    assert list(Path(home.data).glob("staging/*")) == []
    engine.open_store(home).collect()
    if kilobytes < 5000:
        assert os.statvfs(disk).f_bfree * os.statvfs(disk).f_bsize > kilobytes * 1024 * 0.8
    syscalls.mount("tmpfs", str(disk), "tmpfs", MS_REMOUNT, "size=64m")
    load_and_unpack(home, archive)
    check(home)
