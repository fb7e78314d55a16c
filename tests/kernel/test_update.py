"""Update and events: limits change while a program runs, and what it uses is told; on both versions of cgroups."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from minicontainer.errors import Error
from minicontainer.oci.runtime import resources_from_json
from minicontainer.runtime import cgroups, creation, events, operations, states, update
from tests import bundles
from tests.bundles import Json

pytestmark = pytest.mark.kernel()
MIB = 1 << 20
NAMES = map("update-{}".format, itertools.count())


class Box:
    """A container that sleeps."""

    def __init__(self, directory: Path, edit: bundles.Edit | None = None, *command: str) -> None:
        self.root, self.name = str(directory / "states"), f"{next(NAMES)}-{os.getpid()}"
        made = bundles.bundle(directory, *(command or ("sleep", "600")), edit=edit)
        self.made = creation.create(self.root, self.name, made)
        operations.start(self.root, self.name)

    def change(self, json: Json) -> None:
        update.change(self.root, self.name, resources_from_json(json))

    def limits(self) -> cgroups.Limits:
        return cgroups.limits(self.made.cgroups)

    def __enter__(self) -> "Box":
        return self

    def __exit__(self, *_: object) -> None:
        operations.delete(self.root, self.name, force=True)


def _box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_limits_change_while_it_runs_and_the_rest_stays(tmp_path: Path) -> None:
    with _box(tmp_path) as box:
        box.change({"memory": {"limit": 64 * MIB}, "pids": {"limit": 30}, "cpu": {"quota": 50_000, "period": 100_000}})
        assert box.limits() == (64 * MIB, 50_000, 100_000, 30)
        box.change({"pids": {"limit": 40}})
        assert box.limits() == (64 * MIB, 50_000, 100_000, 40)
        box.change({"pids": {"limit": -1}, "memory": {"limit": -1}, "cpu": {"quota": -1}})
        assert box.limits()[0::3] == (None, None)


def test_a_shorter_period_and_a_longer_one(tmp_path: Path) -> None:
    with _box(tmp_path) as box:
        for quota, period in ((200_000, 100_000), (5_000, 10_000), (500_000, 1_000_000), (1_000, 1_000)):
            box.change({"cpu": {"quota": quota, "period": period}})
            assert box.limits()[1:3] == (quota, period)


def test_memory_and_swap_go_up_and_down_together(tmp_path: Path) -> None:
    with _box(tmp_path) as box:
        for limit in (50, 90, 30, 200):
            box.change({"memory": {"limit": limit * MIB, "swap": (limit + 10) * MIB}})
            assert box.limits().memory == limit * MIB
        box.change({"memory": {"limit": -1}})
        assert box.limits().memory is None


def test_a_paused_container_is_updated_and_stays_paused(tmp_path: Path) -> None:
    with _box(tmp_path) as box:
        operations.pause(box.root, box.name)
        box.change({"pids": {"limit": 12}})
        assert box.limits().pids == 12
        assert states.state(box.root, box.name).status == "paused"


def test_a_limit_below_what_is_used_is_refused_if_it_is_to_be_checked(tmp_path: Path) -> None:
    with _box(tmp_path) as box:
        with pytest.raises(Error, match="bytes that are in use, and checkBeforeUpdate is set"):
            box.change({"memory": {"limit": 4096, "checkBeforeUpdate": True}})
        assert box.limits().memory is None


def test_what_is_recorded_is_what_holds(tmp_path: Path) -> None:
    with _box(tmp_path) as box:
        box.change({"memory": {"limit": 64 * MIB}})
        box.change({"cpu": {"shares": 512}})
        recorded = states.recorded_spec(box.root, box.name).linux.resources
        assert (recorded.memory.limit, recorded.cpu.shares) == (64 * MIB, 512)


def test_a_stopped_container_is_not_updated(tmp_path: Path) -> None:
    with _box(tmp_path) as box:
        operations.kill(box.root, box.name, signal.SIGKILL)
        os.waitpid(box.made.pid, 0)
        with pytest.raises(states.WrongStatus, match="stopped"):
            box.change({"pids": {"limit": 5}})


def _opens(box: Box, device: str) -> bool:
    """Whether a process in the container's cgroup can open a device node."""
    if (child := os.fork()) == 0:
        for directory in box.made.cgroups.values():
            cgroups.write(f"{directory}/cgroup.procs", "0")
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_NONBLOCK))
        except PermissionError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_device_rules_change_and_what_both_allow_is_never_denied(tmp_path: Path) -> None:
    node, null = str(tmp_path / "kmsg"), str(tmp_path / "null")
    os.mknod(node, 0o600 | 0o020000, os.makedev(1, 11))
    os.mknod(null, 0o600 | 0o020000, os.makedev(1, 3))
    with _box(tmp_path) as box:
        assert (_opens(box, node), _opens(box, null)) == (False, True)
        # A process that opens what is always allowed, without an end: a gap would make it fail.
        watcher = os.fork()
        if watcher == 0:
            for directory in box.made.cgroups.values():
                cgroups.write(f"{directory}/cgroup.procs", "0")
            while True:
                os.close(os.open(null, os.O_RDONLY))
        allow = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rwm"}
        for _ in range(20):
            box.change({"devices": [{"allow": False}, allow]})
            assert _opens(box, node)
            box.change({"devices": [{"allow": False}]})
            assert not _opens(box, node)
        assert os.waitpid(watcher, os.WNOHANG) == (0, 0), "the watcher was refused what both lists allow"
        os.kill(watcher, signal.SIGKILL)
        os.waitpid(watcher, 0)


def test_a_hundred_programs_for_devices_are_one(tmp_path: Path) -> None:
    """On version 2 each update puts its program in place of the one before."""
    with _box(tmp_path) as box:
        if set(box.made.cgroups) != {cgroups.UNIFIED}:
            return
        from minicontainer.linux.syscalls import bpf_device_programs

        for _ in range(100):
            box.change({"devices": [{"allow": False}]})
        directory = os.open(box.made.cgroups[cgroups.UNIFIED], os.O_RDONLY)
        assert len(bpf_device_programs(directory)) == 1


def test_unified_keys_are_for_version_2(tmp_path: Path) -> None:
    with _box(tmp_path) as box:
        if set(box.made.cgroups) != {cgroups.UNIFIED}:
            with pytest.raises(Error, match="needs cgroup version 2"):
                box.change({"unified": {"memory.high": "1000000"}})
            return
        box.change({"unified": {"memory.high": str(64 * MIB), "pids.max": "77"}})
        assert cgroups.read(f"{box.made.cgroups['']}/memory.high") == str(64 * MIB)
        assert box.limits().pids == 77
        with pytest.raises(Error, match="no such file"):
            box.change({"unified": {"nosuch.key": "1"}})


# Events


def test_stats_have_runc_s_shape(tmp_path: Path) -> None:
    with _box(tmp_path) as box:
        box.change({"pids": {"limit": 33}, "memory": {"limit": 64 * MIB}})
        found: dict[str, Any] = json.loads(json.dumps(events.stats(box.root, box.name)))
        assert (found["type"], found["id"]) == ("stats", box.name)
        data = found["data"]
        assert set(data) >= {"cpu", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"}
        assert data["pids"] == {"current": 1, "limit": 33}
        assert data["memory"]["usage"]["limit"] == 64 * MIB
        assert data["memory"]["usage"]["usage"] > 0
        assert data["cpu"]["usage"]["total"] > 0


def test_a_kill_for_memory_is_an_event_and_the_end_ends_it(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["resources"]["memory"] = {"limit": 16 * MIB, "swap": 16 * MIB}

    with Box(tmp_path, edit, "sh", "-c", "read line; dd if=/dev/zero of=/dev/null bs=64M; exit 0") as box:
        told: list[Any] = []
        thread = threading.Thread(target=lambda: told.extend(events.follow(box.root, box.name, 0.2)))
        thread.start()
        os.waitpid(box.made.pid, 0)  # its input is empty
        thread.join(30)
        assert not thread.is_alive()
        assert {event["type"] for event in told} <= {"stats", "oom"}
        assert told, "at least the first line"


def test_a_kill_for_memory_is_told_when_it_happens_not_at_the_next_interval(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["resources"]["memory"] = {"limit": 16 * MIB, "swap": 16 * MIB}

    script = "until [ -e /go ]; do sleep .1; done; dd if=/dev/zero of=/dev/null bs=64M; exec sleep 100"
    signal.alarm(120)  # rather than for ever
    with Box(tmp_path, edit, "sh", "-c", script) as box:
        told = events.follow(box.root, box.name, 3600)
        assert next(told)["type"] == "stats"
        (tmp_path / "rootfs/go").touch()
        assert next(told) == {"type": "oom", "id": box.name}
        operations.kill(box.root, box.name, signal.SIGKILL)
        os.waitpid(box.made.pid, 0)
        assert list(told) == []
    signal.alarm(0)


@pytest.mark.parametrize(("text", "found"), [("5s", 5.0), ("500ms", 0.5), ("1m", 60.0), ("1.5s", 1.5)])
def test_an_interval(text: str, found: float) -> None:
    assert events.seconds(text) == found


@pytest.mark.parametrize("text", ["", "5", "s", "0s", "-1s", "1.2.3s"])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(Error, match="is no duration"):
        events.seconds(text)


# The command line


def _call(box: Box, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "minicontainer.runtime.cli", "--root", box.root, *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def test_update_takes_flags_a_file_and_the_standard_input(tmp_path: Path) -> None:
    with _box(tmp_path) as box:
        assert _call(box, "update", "--pids-limit", "21", "--memory", str(64 * MIB), box.name).returncode == 0
        assert box.limits()[0::3] == (64 * MIB, 21)
        given = json.dumps({"pids": {"limit": 22}, "memory": {"kernel": 5}})
        assert _call(box, "update", "--resources", "-", box.name, given=given).returncode == 0
        assert box.limits().pids == 22
        (tmp_path / "resources").write_text(json.dumps({"pids": {"limit": 23}}))
        assert _call(box, "update", f"--resources={tmp_path}/resources", box.name).returncode == 0
        assert box.limits().pids == 23
        for arguments, said in (
            (("--memory", "abc"), "invalid value for memory: invalid size: 'abc'"),
            (("--pids-limit", "abc"), "--pids-limit 'abc' is not a number"),
            (("--l3-cache-schema", "L3:0=f"), "Intel RDT is not supported"),
            (("--resources", "/no/such/file"), "/no/such/file"),
        ):
            done = _call(box, "update", *arguments, box.name)
            assert (done.returncode, said in done.stderr) == (1, True), done.stderr
        done = _call(box, "update", "-r", "-", box.name, given='{"memory": {"limit": "x"}}')
        assert "resources.memory.limit is 'x'" in done.stderr


def test_processes_as_a_table_and_as_json(tmp_path: Path) -> None:
    with _box(tmp_path) as box:
        assert json.loads(_call(box, "ps", "-f", "json", box.name).stdout) == [box.made.pid]
        title, line = _call(box, "ps", box.name).stdout.splitlines()
        assert "PID" in title.split() and line.endswith("sleep 600")
        title, line = _call(box, "ps", box.name, "-o", "pid,comm").stdout.splitlines()
        assert line.split() == [str(box.made.pid), "sleep"]
        assert "no column PID" in _call(box, "ps", box.name, "-o", "comm").stderr


def test_an_exec_goes_into_a_cgroup_below(tmp_path: Path) -> None:
    with _box(tmp_path) as box:
        for directory in box.made.cgroups.values():
            if "cpuset" not in directory or set(box.made.cgroups) == {cgroups.UNIFIED}:
                os.mkdir(f"{directory}/sub")
            else:
                cgroups.make_directory(f"{directory}/sub")
                cgroups.inherit_cpuset(f"{directory}/sub")
        done = _call(box, "exec", "--cgroup", "sub", box.name, "cat", "/proc/self/cgroup")
        assert done.returncode == 0, done.stderr
        assert all(line.endswith("/sub") for line in done.stdout.splitlines()), done.stdout
        assert _call(box, "exec", "--cgroup", "../x", box.name, "true").returncode == 255
        assert "nosuch" in _call(box, "exec", "--cgroup", "nosuch", box.name, "true").stderr


def test_sockets_of_systemd_reach_the_program(tmp_path: Path) -> None:
    script = 'echo "$LISTEN_FDS $LISTEN_PID $$"; ls /proc/self/fd | wc -l'
    made = bundles.bundle(tmp_path, "sh", "-c", script)
    name = f"listen-{os.getpid()}"
    os.dup2(os.open("/dev/null", os.O_RDONLY), 3, inheritable=True)
    command = [sys.executable, "-m", "minicontainer.runtime.cli", "--root", str(tmp_path / "states"), "run"]
    shell = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *command, "--bundle", made, name], capture_output=True, text=True, pass_fds=[3]
    )
    assert done.stdout.split()[:3] == ["1", "1", "1"], done.stderr
