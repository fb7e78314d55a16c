"""What config.json says of a process and of its clocks, owners and system calls, as it is seen from inside."""

import array
import ctypes
import fcntl
import json
import os
import socket
import struct
import threading
from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.linux.syscalls import sched_setattr
from minicontainer.oci.runtime import CpuAffinity, Process
from minicontainer.runtime import creation, operations, states
from tests import bundles
from tests.bundles import Json, sh

pytestmark = pytest.mark.kernel()
BOTH = pytest.mark.parametrize("no_new_privileges", [True, False])


def test_the_personality_is_another_machine_s(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["personality"] = {"domain": "LINUX32"}

    bundles.bundle(tmp_path, "true")
    (tmp_path / "rootfs/bin/uname").symlink_to("busybox")
    assert sh(tmp_path, "uname -m", edit=edit) == "i686\n"


def test_memory_is_on_the_nodes_of_the_policy(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}

    if os.path.exists("/proc/self/numa_maps"):
        assert " bind=static:0 " in sh(tmp_path, "head -n 1 /proc/self/numa_maps", edit=edit)
    else:  # a kernel that knows no nodes
        with pytest.raises(Error, match="set_mempolicy"):
            bundles.run(tmp_path, "true", edit=edit)


def test_the_policy_and_the_priorities_are_the_kernel_s(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
        config["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}

    root, name = str(tmp_path / "states"), f"policy-{os.getpid()}"
    made = creation.create(root, name, bundles.bundle(tmp_path, "sleep", "60", edit=edit))
    try:
        assert os.sched_getscheduler(made.pid) == os.SCHED_BATCH
        assert os.getpriority(os.PRIO_PROCESS, made.pid) == 7
        assert ctypes.CDLL(None).syscall(252, 1, made.pid) == 2 << 13 | 6  # ioprio_get
    finally:
        operations.delete(root, name, force=True)


@pytest.mark.parametrize(
    ("process", "text"),
    [
        ({"scheduler": {"policy": "SCHED_LUCK"}}, "process.scheduler.policy 'SCHED_LUCK'"),
        ({"scheduler": {"policy": "SCHED_OTHER", "flags": ["X"]}}, r"process.scheduler.flags\[0\]"),
        ({"ioPriority": {"class": "IOPRIO_CLASS_X"}}, "process.ioPriority.class"),
        ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 9}}, "between 0 and 7"),
    ],
)
def test_what_the_kernel_does_not_know_is_refused_by_its_field(tmp_path: Path, process: Json, text: str) -> None:
    with pytest.raises(Error, match=text):
        bundles.run(tmp_path, "true", edit=lambda config: config["process"].update(process))


def test_an_exec_runs_on_the_cpus_it_is_given(tmp_path: Path) -> None:
    root, name = str(tmp_path / "states"), f"cpus-{os.getpid()}"
    creation.create(root, name, bundles.bundle(tmp_path, "sleep", "60"))
    operations.start(root, name)
    reader, writer = os.pipe()
    try:
        process = Process(
            args=("grep", "Cpus_allowed_list", "/proc/self/status"),
            env=("PATH=/bin",),
            exec_cpu_affinity=CpuAffinity(initial="0", final="0"),
        )
        pid = creation.execute(root, name, process, stdio=(reader, writer, writer))
        os.close(writer)
        assert bundles.read_all(reader).split() == ["Cpus_allowed_list:", "0"]
        os.waitpid(pid, 0)
    finally:
        operations.delete(root, name, force=True)


@pytest.mark.parametrize("user", [False, True])
def test_a_time_namespace_has_clocks_of_its_own(tmp_path: Path, user: bool) -> None:
    def edit(config: Json) -> None:
        if user:
            bundles.user_namespace(config)
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 10_000_000}, "monotonic": {"secs": 5}}

    said = sh(tmp_path, "cat /proc/uptime; readlink /proc/self/ns/time; cat /proc/self/timens_offsets", edit=edit)
    uptime, namespace, *offsets = said.splitlines()
    assert float(uptime.split()[0]) > 10_000_000
    assert namespace != os.readlink("/proc/self/ns/time")
    assert [line.split() for line in offsets] == [["monotonic", "5", "0"], ["boottime", "10000000", "0"]]


def test_an_exec_joins_the_time_namespace(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["namespaces"].append({"type": "time"})

    root, name = str(tmp_path / "states"), f"time-{os.getpid()}"
    made = creation.create(root, name, bundles.bundle(tmp_path, "sleep", "60", edit=edit))
    operations.start(root, name)
    reader, writer = os.pipe()
    try:
        process = Process(args=("readlink", "/proc/self/ns/time"), env=("PATH=/bin",))
        pid = creation.execute(root, name, process, stdio=(reader, writer, writer))
        os.close(writer)
        assert bundles.read_all(reader).strip() == os.readlink(f"/proc/{made.pid}/ns/time")
        os.waitpid(pid, 0)
    finally:
        operations.delete(root, name, force=True)


def test_offsets_need_a_time_namespace_and_a_clock(tmp_path: Path) -> None:
    with pytest.raises(Error, match="needs a new time namespace"):
        bundles.run(tmp_path, "true", edit=lambda config: config["linux"].update(timeOffsets={"boottime": {}}))

    def edit(config: Json) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"lunar": {"secs": 1}}

    with pytest.raises(Error, match="the clock 'lunar' is unknown"):
        bundles.run(tmp_path, "true", edit=edit)


def test_a_mount_has_ids_of_its_own_without_a_user_namespace(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, 7, 8)
    mapping = [{"containerID": 0, "hostID": 1000, "size": 100}]

    def edit(config: Json) -> None:
        config["mounts"].append(
            {
                "destination": "/volume",
                "type": "bind",
                "source": str(volume),
                "options": ["bind"],
                "uidMappings": mapping,
                "gidMappings": mapping,
            }
        )

    assert sh(tmp_path, "stat -c '%u %g' /volume", edit=edit) == "1007 1008\n"


# Seccomp, with an agent that answers for the kernel

_SECCOMP_IOCTL_NOTIF_RECV, _SECCOMP_IOCTL_NOTIF_SEND = 0xC0502100, 0xC0182101


def _answer(path: Path, answers: list[Json], value: int) -> threading.Thread:
    """An agent: one connection, its state and its listener; the first call that comes is answered with `value`."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        with listening, listening.accept()[0] as connection:
            text, (listener,), _, _ = socket.recv_fds(connection, 1 << 16, 1)
            assert connection.recv(1) == b""  # one state for each connection
            answers.append(json.loads(text))
        notification = array.array("B", bytes(80))
        fcntl.ioctl(listener, _SECCOMP_IOCTL_NOTIF_RECV, notification)
        identity = struct.unpack_from("=Q", notification)[0]
        fcntl.ioctl(listener, _SECCOMP_IOCTL_NOTIF_SEND, struct.pack("=QqiI", identity, value, 0, 0))
        os.close(listener)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def _profile(socket_path: Path) -> Json:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(socket_path),
        "listenerMetadata": "opaque",
        "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}],
    }


@BOTH
def test_an_agent_answers_for_the_kernel(tmp_path: Path, no_new_privileges: bool) -> None:
    answers: list[Json] = []

    def edit(config: Json) -> None:
        config["linux"]["seccomp"] = _profile(tmp_path / "agent")
        config["process"]["noNewPrivileges"] = no_new_privileges

    # The agent is a thread, and what makes a container has one alone: a child makes it.
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.read(read, 1)
        root, name = str(tmp_path / "states"), "agent"
        made = bundles.bundle(tmp_path, "sh", "-c", "exit $(($PPID == 4711 ? 42 : 1))", edit=edit)
        state = creation.create(root, name, made)
        operations.start(root, name)
        status = os.waitstatus_to_exitcode(os.waitpid(state.pid, 0)[1])
        operations.delete(root, name, force=True)
        os._exit(status)
    thread = _answer(tmp_path / "agent", answers, 4711)
    os.write(write, b"1")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    thread.join(20)
    assert status == 42
    (state,) = answers
    assert (state["ociVersion"], state["fds"], state["metadata"]) == ("1.0.2", ["seccompFd"], "opaque")
    assert state["pid"] == state["state"]["pid"] > 1
    assert (state["state"]["id"], state["state"]["status"]) == ("agent", "creating")


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "cannot be for the default action"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]},
            "nor for write",
        ),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}]},
            "needs listenerPath",
        ),
    ],
)
def test_a_listener_that_cannot_be_is_refused(tmp_path: Path, profile: Json, text: str) -> None:
    with pytest.raises(Error, match=text):
        bundles.run(tmp_path, "true", edit=lambda config: config["linux"].update(seccomp=profile))


def test_an_agent_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"listenerPath .*no such file"):
        bundles.run(tmp_path, "true", edit=lambda config: config["linux"].update(seccomp=_profile(tmp_path / "none")))
    assert states.containers(str(tmp_path / "states")) == []


def test_without_a_rule_that_notifies_the_listener_is_not_asked_for(tmp_path: Path) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such/socket"}
    assert bundles.run(tmp_path, "true", edit=lambda config: config["linux"].update(seccomp=profile)).status == 0


def test_a_deadline_that_cannot_be_kept_is_the_kernel_s_no() -> None:
    with pytest.raises(OSError):
        sched_setattr(6, runtime=2_000_000_000, deadline=1_000_000_000, period=1_000_000_000)
