"""The lab: machines that have their own address, processes and host name; a pulled plug; nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from miniecs.census import census
from miniecs.errors import Error
from miniecs.lab import Lab, sweep

pytestmark = pytest.mark.cluster


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab with a control plane."""
    lab = Lab(tmp_path / "lab").up()
    try:
        lab.start_server()
        yield lab
    finally:
        lab.down()


def inside(lab: Lab, name: str, *command: str) -> str:
    enter = ["nsenter", "--target", str(lab.machines[name].pid), "--all"]
    return subprocess.run([*enter, *command], capture_output=True, text=True, check=True).stdout


def test_a_machine_has_its_own_name_address_and_processes(lab: Lab) -> None:
    machine = lab.start_machine("one", cpu=512, memory=128)
    assert inside(lab, "one", "hostname") == "one\n"
    assert machine.address in inside(lab, "one", "ip", "-br", "address", "show", "eth0")
    assert "unshare" not in inside(lab, "one", "cat", "/proc/1/cmdline")
    assert machine.name in {Path(directory).name for directory in machine.cgroups}


def test_machines_have_different_addresses_and_reach_each_other(lab: Lab) -> None:
    first, second = lab.start_machine("one", cpu=512, memory=128), lab.start_machine("two", cpu=512, memory=128)
    assert first.address != second.address
    assert f"{second.address} dev eth0" in inside(lab, "one", "ip", "route", "get", second.address)
    listening = ["nsenter", "--target", str(second.pid), "--net", sys.executable, "-c", ECHO, second.address]
    with subprocess.Popen(listening, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout and server.stdout.readline() == "ready\n"
        inside(lab, "one", sys.executable, "-c", f"import socket; socket.create_connection(('{second.address}', 9))")
        server.wait(timeout=10)


ECHO = "import socket, sys; s = socket.create_server((sys.argv[1], 9)); print('ready', flush=True); s.accept()"


def test_pulling_the_plug_ends_every_process_of_the_machine_and_removes_its_cgroups(lab: Lab) -> None:
    machine = lab.start_machine("one", cpu=512, memory=128)
    started = subprocess.Popen(
        ["nsenter", "--target", str(machine.pid), "--all", "sh", "-c", "setsid sleep 1000 & wait"]
    )
    time.sleep(0.3)
    lab.power_off("one")
    assert started.wait(timeout=10) != 0
    assert [directory for directory in machine.cgroups if directory.exists()] == []


def test_the_bridge_keeps_its_hardware_address_when_a_machine_goes(lab: Lab) -> None:
    """Else the machines that are left send to an address that is no more, for seconds."""
    address = Path(f"/sys/class/net/{lab.bridge}/address")
    first = address.read_text()
    for name in ("one", "two", "three"):
        lab.start_machine(name, cpu=512, memory=128)
        assert address.read_text() == first
    lab.power_off("two")
    assert address.read_text() == first


def test_a_dead_agent_is_started_again(lab: Lab) -> None:
    lab.start_machine("one", cpu=512, memory=128)
    deadline, first = time.monotonic() + 20, 0
    while not first:
        try:
            first = lab.agent_pid("one")
        except Error:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    os.kill(first, signal.SIGKILL)
    while True:
        try:
            if lab.agent_pid("one") != first:
                break
        except Error:
            assert time.monotonic() < deadline, lab.log("one")
        time.sleep(0.05)


def test_a_lab_that_is_taken_down_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "lab"
    before = census(data)
    lab = Lab(data).up()
    lab.start_server()
    lab.start_machine("one", cpu=512, memory=128)
    during = census(data).beyond(before)
    assert during["links"] and during["cgroups"] and during["processes"] and during["namespaces"]
    lab.down()
    lab.down()
    assert not any(census(data).beyond(before, lab.bridge).values())


KILLED = """
import sys, time
from pathlib import Path
from miniecs.lab import Lab
lab = Lab(Path(sys.argv[1]), attended=sys.argv[2] == "attended").up()
lab.start_server()
lab.start_machine("one", cpu=512, memory=128)
print("up", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("kind", ["attended", "unattended"])
def test_what_a_killed_lab_leaves_is_swept(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "lab"
    before = census(data)
    with subprocess.Popen([sys.executable, "-c", KILLED, str(data), kind], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout and child.stdout.readline() == "up\n"
        child.kill()
    record = json.loads((data / "lab.json").read_text())
    assert len(record["processes"]) == 2
    sweep(data)
    sweep(data)
    deadline = time.monotonic() + 5
    while any(census(data).beyond(before, record["bridge"]).values()) and time.monotonic() < deadline:
        time.sleep(0.05)  # the kernel ends a namespace's processes a moment after its first
    assert not any(census(data).beyond(before, record["bridge"]).values())


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab").up()
    try:
        lab.start_server()
        other = Lab(tmp_path / "other")
        other.data.mkdir()
        other.bridge, other.subnet = lab.bridge, lab.subnet
        with pytest.raises(Error, match="ended at once") as caught:
            other.start_server()
        assert "miniecs" in str(caught.value)
    finally:
        lab.down()
