"""NOTIFY_SOCKET: that a container is ready is told to who started it, and nothing else that it says."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicontainer.runtime import operations, states
from tests import bundles
from tests.bundles import Json

pytestmark = pytest.mark.kernel()

RUNTIME = [sys.executable, "-m", "minicontainer.runtime.main"]
SAY = """
import os, socket, time
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto({said!r}, os.environ["NOTIFY_SOCKET"])
{then}
"""
SLEEP = "time.sleep(100)"


class Unit:
    """A service manager's end, and a container to start."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.name = directory, f"ready-{os.getpid()}"
        self.root = str(directory / "states")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(directory / "manager"))
        self.socket.settimeout(60)

    def bundle(self, said: bytes, then: str = SLEEP) -> None:
        def edit(config: Json) -> None:
            for path in ("/usr", "/lib", "/lib64"):
                config["mounts"].append(
                    {"destination": path, "type": "bind", "source": os.path.realpath(path), "options": ["rbind", "ro"]}
                )

        bundles.bundle(self.directory, "/usr/bin/python3", "-c", SAY.format(said=said, then=then), edit=edit)

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "NOTIFY_SOCKET": str(self.directory / "manager")}
        command = [*RUNTIME, "--root", self.root, *arguments]
        null = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=self.directory, env=environment, stdin=null, stdout=null)

    def call(self, *arguments: str) -> int:
        return self.begin(*arguments).wait(60)

    def hears(self) -> list[bytes]:
        """What it is told up to the barrier, which it lets go."""
        heard: list[bytes] = []
        while True:
            message, descriptors, _, _ = socket.recv_fds(self.socket, 4096, 1)
            for descriptor in descriptors:
                os.close(descriptor)
            heard.append(message)
            if message == b"BARRIER=1":
                return heard


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    made = Unit(tmp_path)
    yield made
    operations.delete(made.root, made.name, force=True)
    made.socket.close()


def test_start_ends_when_the_container_is_ready_and_its_pid_is_told(unit: Unit) -> None:
    unit.bundle(b"STATUS=warm\nREADY=1\nMAINPID=1")
    assert unit.call("create", unit.name) == 0
    with unit.begin("start", unit.name) as starting:
        pid = states.state(unit.root, unit.name).pid
        assert unit.hears() == [b"READY=1\n", b"MAINPID=%d\n" % pid, b"BARRIER=1"]
        assert starting.wait(60) == 0


def test_what_is_not_that_it_is_ready_is_not_passed_on(unit: Unit) -> None:
    unit.bundle(b"STOPPING=1", then="")
    assert unit.call("run", "--detach", unit.name) == 0  # which ends with the container
    unit.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        unit.socket.recv(100)


def test_a_run_in_the_foreground_tells_too(unit: Unit) -> None:
    unit.bundle(b"READY=1", then="raise SystemExit(7)")
    with unit.begin("run", unit.name) as running:
        assert unit.hears()[0] == b"READY=1\n"
        assert running.wait(60) == 7
