"""A disk that fills up, at whatever byte: one line says so, nothing is half made, the space comes back; then it works.

A few sizes in every run, chosen by chance; 200 of each with POINTS=200.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from minicontainer import engine
from minicontainer.containers import Home
from minicontainer.linux import syscalls
from minicontainer.registry import client
from tests import images, registries
from tests.kernel.test_image_commands import check, large

pytestmark = pytest.mark.kernel("overlay")

POINTS = int(os.environ.get("POINTS", "4"))
SLACK = 64 << 10  # bytes that directories, locks and records may take in the end


class Disk:
    """A file system of its own in the test's mount namespace, with a home on it, that is as full as one likes."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        syscalls.mount("tmpfs", str(place), "tmpfs", 0, "size=64m")
        self.place = place
        self.home = Home(data=str(place / "home"), run=str(place / "run"))

    @property
    def free(self) -> int:
        status = os.statvfs(self.place)
        return status.f_bfree * status.f_bsize

    def leave(self, size: int) -> None:
        """Fill it until only so many bytes are free."""
        with open(self.place / "filler", "wb") as file:
            while self.free > size:
                with suppress(OSError):  # what runs has written meanwhile
                    os.posix_fallocate(file.fileno(), 0, file.seek(0, os.SEEK_END) + self.free - size)

    def empty(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.place / "filler")

    def say(self, *words: str) -> tuple[int, str]:
        """The exit status of a command, and the lines on its stderr."""
        command = [sys.executable, "-m", "minicontainer.cli", "--root", self.home.data, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        return done.returncode, done.stderr

    def names(self) -> list[str]:
        return [name for name, _ in engine.open_store(self.home).names()]


def sizes(most: int) -> Iterator[int]:
    """Where the disk is full, in bytes: from the first on to what is needed in all."""
    chance = random.Random(int.from_bytes(os.urandom(4), "big"))
    yield from (0, 4096)
    yield from sorted(chance.randrange(most) for _ in range(POINTS - 2))


def said_so(said: str, where: str) -> None:
    """One line, which says what and where."""
    lines = [line for line in said.splitlines() if line.startswith("minicontainer: ")]
    assert len(lines) == 1 and "Traceback" not in said, said
    assert "No space left on device" in said and where in lines[0], said


def comes_in(disk: Disk, name: str, *command: str) -> None:
    """What brings an image, on a disk that is full ever later: it says so and leaves nothing, or has brought it."""
    assert disk.names() == []  # the store is made
    before = disk.free
    for size in sizes(12 << 20):
        disk.leave(size)
        code, said = disk.say(*command)
        if code == 0:  # what is left was enough
            disk.say("rmi", name)
        else:
            said_so(said, str(disk.place))
            assert disk.names() == []
        check(disk.home)
        disk.empty()
        disk.say("image", "prune", "--all", "--force")
        assert disk.free > before - SLACK
    assert disk.say(*command)[0] == 0
    check(disk.home)
    assert len(disk.names()) == 1


def test_while_an_image_is_pulled(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    large(tmp_path)
    store = engine.open_store(Home(data=str(tmp_path / "source"), run=str(tmp_path / "source/run")))
    with registries.serving(tmp_path / "served") as (host, _):
        name = f"{host}/large:1"
        client.push(store, "docker.io/library/large:1", name)
        comes_in(disk, name, "pull", name)


def test_while_an_image_is_loaded(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk")
    _, archive = large(tmp_path)
    comes_in(disk, "large:1", "load", "-i", str(archive))


def test_while_an_image_is_built(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk")
    images.busybox(disk.home.data)
    context = tmp_path / "context"
    context.mkdir()
    for number in range(8):
        (context / f"file{number}").write_bytes(os.urandom(300 << 10))
    (context / "Dockerfile").write_text(
        "FROM busybox AS one\nCOPY . /files\nRUN dd if=/dev/urandom of=/made bs=1k count=2048\n"
        "FROM busybox\nCOPY --from=one /files /files\nRUN echo done >/done\n"
    )
    command = ("build", "--network", "none", "--quiet", "-t", "built", str(context))
    assert disk.say(*command)[0] == 0  # what it stands on is unpacked
    disk.say("rmi", "built")
    disk.say("builder", "prune", "--all", "--force")
    before, named = disk.free, disk.names()
    for size in sizes(14 << 20):
        disk.leave(size)
        code, said = disk.say(*command)
        if code == 0:
            disk.say("rmi", "built")
        else:
            said_so(said, "Dockerfile:")
            assert disk.names() == named
        disk.empty()
        assert engine.list_containers(disk.home) == []
        assert disk.say("builder", "prune", "--all", "--force")[0] == 0
        assert disk.free > before - SLACK
    assert disk.say(*command)[0] == 0
    assert disk.say("run", "--rm", "--network", "none", "built", "ls", "/files/file7", "/done")[0] == 0


def test_what_is_removed_needs_no_space(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk")
    _, archive = large(tmp_path)
    images.busybox(disk.home.data)
    before = disk.free
    for size in sizes(16 << 10):
        for words in (("image", "prune", "--all", "--force"), ("rmi", "large:1"), ("system", "prune", "-af")):
            images.busybox(disk.home.data)
            assert disk.say("load", "-i", str(archive))[0] == 0
            disk.leave(size)
            assert disk.say(*words) == (0, "")
            assert disk.free > size + (6 << 20)
            disk.empty()
            check(disk.home)
            assert "docker.io/library/large:1" not in disk.names()
    assert disk.free > before - SLACK


# --- what runs -------------------------------------------------------------------------------------------------------


def test_a_container_goes_on_and_its_end_is_known(tmp_path: Path) -> None:
    """What it says meanwhile is lost, and no half of it is left."""
    disk = Disk(tmp_path / "disk")
    images.busybox(disk.home.data)
    script = "trap 'echo end; exit 3' TERM; echo begin; while :; do sleep 0.05; echo $(seq 200); done"
    options = engine.Options(image="busybox", command=("sh", "-c", script), network="none", name="one")
    engine.start(disk.home, engine.create(disk.home, options).id)
    log = Path(engine.inspect(disk.home, "one").bundle, "log.jsonl")
    for size in (5000, 0):
        disk.leave(size)
        before = -1
        while log.stat().st_size != before:
            before = log.stat().st_size
            time.sleep(0.2)
        assert log.read_bytes().endswith(b"}\n")
        disk.empty()
    disk.leave(0)
    assert engine.inspect(disk.home, "one").status == engine.RUNNING
    engine.stop(disk.home, "one")
    assert engine.wait(disk.home, "one") == 3
    disk.empty()
    assert engine.inspect(disk.home, "one").exit_code == 3
    assert next(engine.read_logs(disk.home, "one")).text == "begin\n"
    disk.leave(0)
    assert disk.say("rm", "one") == (0, "")


def test_what_cannot_be_started_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk")
    images.busybox(disk.home.data)
    for size in (0, 4096, 8192, 16384, 32768, 65536):
        disk.leave(size)
        code, said = disk.say("run", "--rm", "--network", "none", "busybox", "true")
        assert code == 0 or (code == 125 and said.count("\n") == 1 and "No space left on device" in said), said
        disk.empty()
        assert engine.list_containers(disk.home) == []
        assert os.listdir(f"{disk.home.data}/containers") == []
    assert disk.say("run", "--rm", "--network", "none", "busybox", "true") == (0, "")


@pytest.mark.parametrize(
    "words", [("images",), ("save", "busybox"), ("export", "one"), ("logs", "one"), ("cp", "one:/bin", "-")]
)
def test_what_cannot_be_printed_is_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    disk = Disk(tmp_path / "disk")
    images.busybox(disk.home.data)
    disk.say("run", "--name", "one", "--network", "none", "busybox", "echo", "hello")
    for buffered in ("", "1"):
        assert not_printed("minicontainer.cli", "--root", disk.home.data, *words, PYTHONUNBUFFERED=buffered) in (1, 125)


@pytest.mark.parametrize("module", ["minicontainer.runtime.main list", "miniecs token generate"])
def test_what_other_commands_cannot_print_is_one_line_too(module: str) -> None:
    assert not_printed(*module.split(), PYTHONUNBUFFERED="") == 1


def not_printed(module: str, *words: str, **environment: str) -> int:
    """The exit status of a command that says in one line that its standard output is full."""
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", module, *words]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=os.environ | environment
        )
    program, space, said = done.stderr.partition(": ")
    assert program in ("minicontainer", "minicontainer-runtime", "miniecs") and space, done.stderr
    assert "No space left on device" in said and said.endswith("\n") and said.count("\n") == 1, done.stderr
    return done.returncode
