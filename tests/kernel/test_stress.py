"""Many containers at once, made, started, killed and deleted by the command line, whose processes are killed at random.

STRESS=2000,50 in the environment: how many, and how many at once.
"""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minicontainer.linux import procfs
from minicontainer.oci.runtime import Status
from minicontainer.runtime import cgroups, creation, operations, sealing, states
from tests import bundles

pytestmark = pytest.mark.kernel()

CYCLES, AT_ONCE = map(int, os.environ.get("STRESS", "100,10").split(","))
ROOT = str(Path(__file__).parents[2])


class Cycle:
    """One container's life, as an engine leads it that loses a command now and then."""

    def __init__(self, directory: Path, number: int) -> None:
        self.chance = random.Random(number)
        self.name = f"stress-{os.getpid()}-{number}"
        self.directory = directory

    def run(self) -> str:
        self._call("create", "--bundle", str(self.directory), self.name)
        self._call("start", self.name)
        self._call("kill", self.name, "KILL")
        for _ in range(20):  # a delete may be killed too; the last one is left alone
            self._call("delete", "--force", self.name)
        last = self._command("delete", "--force", self.name)
        return subprocess.run(last, env=self._environment(), capture_output=True, text=True, check=False).stderr

    def _call(self, *arguments: str) -> None:
        """A command of which one in four is killed, at any time of its life."""
        with subprocess.Popen(
            self._command(*arguments), env=self._environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            if self.chance.random() < 0.25:
                try:
                    process.wait(self.chance.uniform(0, 0.2))
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
        if arguments[0] == "delete" and process.returncode == 0:
            self._call = lambda *_: None  # type: ignore[method-assign]  # it is gone: no need to ask again

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "minicontainer.runtime.cli", "--root", str(self.directory / "states"), *arguments]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": ROOT}


def _ours(name: str) -> list[int]:
    """Processes in a cgroup of ours."""
    found = []
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            text = Path(f"/proc/{entry}/cgroup").read_text()
        except OSError:
            continue
        alive = procfs.start_time(int(entry)) is not None  # who is left to another to be reaped is no leak of ours
        if name in text and alive:
            found.append(int(entry))
    return found


def _mounts() -> set[str]:
    """The mount points; the sealed interpreter's is made once and stays."""
    return {mount.target for mount in procfs.mountinfo()} - {sealing.SEALED}


def test_nothing_is_left_of_many_lives_cut_short(tmp_path: Path) -> None:
    bundles.bundle(tmp_path, "sleep", "600")
    mounts = _mounts()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = list(pool.map(lambda number: Cycle(tmp_path, number).run(), range(CYCLES)))
    assert [text for text in said if text] == []
    assert states.containers(str(tmp_path / "states")) == []
    assert [path.name for path in (tmp_path / "states").iterdir() if not path.name.startswith(".")] == []
    name = f"stress-{os.getpid()}-"
    found = cgroups.hierarchies()
    for directory in cgroups.resolve(found, "x").values():
        assert [one for one in os.listdir(os.path.dirname(directory)) if one.startswith(name)] == []
    deadline = time.monotonic() + 30  # what was killed may still be on its way out
    while _ours(name) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _ours(name) == []
    assert _mounts() - mounts == set()


def test_a_state_is_true_whatever_was_killed(tmp_path: Path) -> None:
    """After a start that was killed the container is created, running or stopped, and says which."""
    root, name = str(tmp_path / "states"), f"stress-state-{os.getpid()}"
    for turn in range(10):
        made = creation.create(root, name, bundles.bundle(tmp_path, "sleep", "600"))
        command = [sys.executable, "-m", "minicontainer.runtime.cli", "--root", root, "start", name]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(turn * 0.02)
            except subprocess.TimeoutExpired:
                process.kill()
        status = states.state(root, name).status
        assert status in (Status.CREATED, Status.RUNNING)
        if status is Status.CREATED:
            operations.start(root, name)
        assert states.state(root, name).status is Status.RUNNING
        operations.delete(root, name, force=True)
        os.waitpid(made.pid, 0)
