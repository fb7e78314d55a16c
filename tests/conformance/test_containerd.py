"""Containerd and its runc shim, unchanged, by `ctr run --runc-binary`: as with runc."""

import json
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests import rooms
from tests.rooms import Room, Said

pytestmark = pytest.mark.engine("containerd", "ctr", "runc")

RUNTIMES = {"ours": rooms.OURS, "runc": "/usr/sbin/runc"}
Command = tuple[str, ...]


class Ctr(NamedTuple):
    room: Room

    def __call__(self, *arguments: str) -> Said:
        return self.room.call("ctr", "--address", f"{self.room.directory}/socket", *arguments)

    def same(self, *commands: Command) -> list[Said]:
        """What each command says with us, which is what it says with runc."""
        said = {name: [self._heard(command) for command in self._with(name, commands)] for name in RUNTIMES}
        assert said["ours"] == said["runc"]
        return said["ours"]

    def _with(self, runtime: str, commands: tuple[Command, ...]) -> Iterator[Command]:
        binary = ("--runc-binary", RUNTIMES[runtime], "--runc-root", f"{self.room.directory}/{runtime}")
        for first, *rest in commands:
            yield (first, *binary, *rest) if first == "run" else (first, *rest)

    def _heard(self, command: Command) -> Said:
        """A container that has said nothing runs again: ctr may lose what a short one says, with runc as with us."""
        said = self(*command)
        if command[0] == "run" and not {"-d", "--detach"} & set(command) and said == Said(0, ""):
            said = self(*command)
        return self._plain(said)

    def _plain(self, said: Said) -> Said:
        text = re.sub(r"\b(runc )?create failed", "create failed", said.text)
        return Said(said.status, "\n".join(sorted(text.splitlines())))


@pytest.fixture(scope="module")
def ctr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctr]:
    directory = tmp_path_factory.mktemp("containerd")
    rooms.root_archive(directory)
    (directory / "volume").mkdir()
    with rooms.room(directory) as room:
        made = Ctr(room)
        places = ["--root", f"{directory}/data", "--state", f"{directory}/state", "--address", f"{directory}/socket"]
        room.start("containerd", *places)
        deadline = time.monotonic() + 60
        while made("version").status:
            assert time.monotonic() < deadline, (directory / "daemon.log").read_text()
            time.sleep(0.1)
        yield made


def _run(ctr: Ctr, *flags: str) -> Command:
    """`ctr run` of the root file system as it is: no image is needed for what a runtime does."""
    return ("run", "--rm", *flags, "--rootfs", f"{ctr.room.directory}/rootfs", "box")


def test_output_exit_status_and_what_cannot_run(ctr: Ctr) -> None:
    ctr.same(
        (*_run(ctr), "/bin/sh", "-c", "echo out; exit 7"),
        (*_run(ctr), "/nonexistent"),
        (*_run(ctr), "/etc/passwd"),
    )


@pytest.mark.parametrize(
    "flags",
    [
        ("--memory-limit=67108864",),
        ("--cpu-quota=50000", "--cpu-period=100000"),
        ("--no-pivot",),
        ("--read-only",),
        ("--cap-add=CAP_NET_RAW", "--cap-drop=CAP_CHOWN"),
        ("--seccomp",),
        ("--apparmor-default-profile=ctr-default",),
        ("--device=/dev/kmsg",),
        ("--rlimit-nofile=99",),
        ("--user=1000:1000", "--cwd=/etc", "--env=A=b", "--hostname=foo"),
        ("--uidmap=0:100000:5000", "--gidmap=0:100000:5000"),
        ("--privileged",),
    ],
    ids=lambda flags: flags[0].lstrip("-").partition("=")[0],
)
def test_a_container_is_what_it_is_with_runc(ctr: Ctr, flags: tuple[str, ...]) -> None:
    look = "id; pwd; echo $A; hostname; cat /proc/self/attr/current; "
    look += "ulimit -n; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; touch /x; ls /dev"
    ctr.same((*_run(ctr, *flags), "/bin/sh", "-c", look))


def test_a_life_with_exec_pause_and_kill(ctr: Ctr) -> None:
    box = _run(ctr)
    detached = ("run", "-d", *box[2:], "/bin/sleep", "600")
    steps = [
        detached,
        ("task", "exec", "--exec-id", "one", "box", "/bin/sh", "-c", "echo hi; exit 4"),
        ("task", "exec", "--exec-id", "two", "--cwd", "/etc", "box", "/bin/sh", "-c", "pwd"),
        ("task", "exec", "--exec-id", "three", "box", "/nonexistent"),
        ("task", "pause", "box"),
        ("task", "resume", "box"),
        ("task", "kill", "--signal", "SIGKILL", "box"),
    ]
    for runtime in RUNTIMES:
        said = [ctr._plain(ctr(*command)) for command in ctr._with(runtime, tuple(steps))]
        assert [one.status for one in said] == [0, 4, 0, 1, 0, 0, 0], said
        assert (said[1].text, said[2].text) == ("hi", "/etc")
        deadline = time.monotonic() + 30
        while "STOPPED" not in ctr("task", "ls").text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "exit code 137" in ctr("task", "delete", "box").text
        assert ctr("container", "delete", "box").status == 0


def test_metrics_and_processes_are_told(ctr: Ctr) -> None:
    box = _run(ctr)
    (detached,) = ctr._with("ours", (("run", "-d", *box[2:], "/bin/sleep", "600"),))
    assert ctr(*detached).status == 0
    try:
        assert len(ctr("task", "ps", "box").text.splitlines()) == 2
        found = json.loads(ctr("task", "metrics", "--format", "json", "box").text)
        assert found["pids"]["current"] == 1
    finally:
        ctr("task", "kill", "--signal", "SIGKILL", "box")
        ctr("task", "delete", "--force", "box")
        ctr("container", "delete", "box")


def test_nothing_is_left_of_all_this(ctr: Ctr) -> None:
    assert len(ctr("task", "ls").text.splitlines()) == 1
    left = ctr.room.call("sh", "-c", "find /sys/fs/cgroup -type d -name box").text
    assert left == ""
