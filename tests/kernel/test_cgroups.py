"""Cgroups as the kernel shows them; the same tests hold on version 1 with 2 beside it, and on version 2 alone."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.linux import procfs
from minicontainer.linux.syscalls import bpf_load_device_program
from minicontainer.oci.runtime import Cpu, DeviceRule, Memory, Pids, Resources
from minicontainer.plan import run
from minicontainer.runtime import cgroups, creation, devices, operations, states
from tests import bundles
from tests.bundles import Json

pytestmark = pytest.mark.kernel()

MIB = 1 << 20


@contextmanager
def group(resources: Resources, with_devices: bool = False) -> Iterator[dict[str, str]]:
    """A cgroup of this test's own, below a parent of its own."""
    path = f"minicontainer-tests-{os.getpid()}/one"
    found = cgroups.hierarchies()
    directories = cgroups.resolve(found, path)
    try:
        run(cgroups.make(directories, resources, found.version2, with_devices))
        yield directories
    finally:
        cgroups.signal_all(directories, signal.SIGKILL)
        cgroups.remove(directories, cgroups.levels(path))


def _inside(directories: dict[str, str], script: str) -> int:
    """The exit code of a shell script that runs in the cgroup."""
    child = os.fork()
    if child == 0:
        for directory in directories.values():
            cgroups.write(f"{directory}/cgroup.procs", "0")
        os.execv("/bin/busybox", ["sh", "-c", script])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_limits_are_what_the_kernel_says() -> None:
    resources = Resources(memory=Memory(limit=32 * MIB), cpu=Cpu(quota=20_000, period=50_000), pids=Pids(limit=9))
    with group(resources) as directories:
        assert cgroups.limits(directories) == (32 * MIB, 20_000, 50_000, 9)
        assert cgroups.stats(directories).pids == 0
    assert not any(map(os.path.exists, directories.values()))
    assert not any(os.path.exists(os.path.dirname(directory)) for directory in directories.values())


def test_without_limits_there_are_none() -> None:
    with group(Resources()) as directories:
        assert cgroups.limits(directories)._replace(cpu_period=0) == (None, None, 0, None)


def test_a_cpuset_whose_parent_is_being_made_by_another_lets_a_process_in() -> None:
    found = cgroups.hierarchies()
    if "cpuset" in found.own:  # of version 1: there an empty one lets nobody in
        parent = os.path.dirname(cgroups.resolve(found, f"minicontainer-tests-{os.getpid()}/one")["cpuset"])
        os.mkdir(parent)
        cgroups.write(f"{parent}/cpuset.cpus", cgroups.read(f"{os.path.dirname(parent)}/cpuset.cpus"))
    with group(Resources()) as directories:
        assert _inside(directories, "exit 3") == 3


def test_a_process_is_counted_signalled_and_gone() -> None:
    with group(Resources()) as directories:
        child = os.fork()
        if child == 0:
            signal.pause()
        run(cgroups.join(directories, child))
        if set(directories) == {cgroups.UNIFIED}:  # clone3 does it for a container
            cgroups.write(f"{directories[cgroups.UNIFIED]}/cgroup.procs", str(child))
        assert cgroups.processes(directories) == {child}
        assert cgroups.stats(directories).pids == 1
        cgroups.signal_all(directories, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert cgroups.processes(directories) == set()


def test_a_frozen_process_stands_still() -> None:
    with group(Resources()) as directories:
        child = os.fork()
        if child == 0:
            while True:
                os.getpid()
        for directory in directories.values():
            cgroups.write(f"{directory}/cgroup.procs", str(child))
        cgroups.freeze(directories, True)
        assert cgroups.is_frozen(directories)
        before = procfs._stat(child)
        time.sleep(0.05)
        after = procfs._stat(child)
        assert before is not None and after is not None
        assert before[11] == after[11]  # utime
        cgroups.freeze(directories, False)
        assert not cgroups.is_frozen(directories)
        cgroups.signal_all(directories, signal.SIGKILL)
        os.waitpid(child, 0)


def test_memory_above_the_limit_is_killed_and_counted() -> None:
    with group(Resources(memory=Memory(limit=8 * MIB, swap=8 * MIB))) as directories:
        assert cgroups.oom_kills(directories) == 0
        assert _inside(directories, "dd if=/dev/zero of=/dev/null bs=64M count=1") in (-signal.SIGKILL, 1)
        assert cgroups.oom_kills(directories) >= 1


def test_more_processes_than_allowed_are_refused() -> None:
    with group(Resources(pids=Pids(limit=3))) as directories:
        script = "for i in 1 2 3 4 5 6; do sleep 1 & done 2>/dev/null; wait"
        assert _inside(directories, script) != 0


def test_devices_that_are_not_allowed_cannot_be_opened(tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", 0o666 | 0o020000, os.makedev(1, 3))
    os.mknod(tmp_path / "mem", 0o666 | 0o020000, os.makedev(1, 1))
    with group(Resources(), with_devices=True) as directories:
        assert _inside(directories, f"echo x > {tmp_path}/null") == 0
        assert _inside(directories, f"cat {tmp_path}/mem 2>/dev/null | head -c 1 | grep -q .") != 0
        assert _inside(directories, f": < {tmp_path}/mem") != 0


def test_the_kernel_takes_the_device_program() -> None:
    rules = (DeviceRule(allow=True, type="b", access="r"), DeviceRule(allow=False, type="a", access="w"))
    for resources in (Resources(), Resources(devices=rules), Resources(devices=(DeviceRule(allow=True),))):
        os.close(bpf_load_device_program(devices.program(devices.rules_of(resources))))
    os.close(bpf_load_device_program(devices.program(rules)))


def test_a_task_s_group_holds_its_containers(tmp_path: Path) -> None:
    task = f"minicontainer-task-{os.getpid()}"
    directories = cgroups.create_group(task, Resources(memory=Memory(limit=64 * MIB)))

    def edit(config: Json) -> None:
        config["linux"]["cgroupsPath"] = f"{task}/container"
        config["linux"]["resources"]["memory"] = {"limit": 16 * MIB}

    root = str(tmp_path / "states")
    try:
        made = creation.create(root, task, bundles.bundle(tmp_path, "sleep", "60", edit=edit))
        assert all(os.path.dirname(path) == directories[name] for name, path in made.cgroups.items())
        assert cgroups.limits(made.cgroups).memory == 16 * MIB
        assert cgroups.limits(directories).memory == 64 * MIB
        operations.delete(root, task, force=True)
        assert not any(map(os.path.exists, made.cgroups.values()))
    finally:
        cgroups.remove_group(task)
    assert not any(map(os.path.exists, directories.values()))
    cgroups.remove_group(task)


def test_the_container_sees_its_cgroup_as_the_root(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["mounts"].append(
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]}
        )

    said = bundles.sh(tmp_path, "cat /proc/self/cgroup; ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/x || echo ro", edit)
    assert all(line.endswith(":/") for line in said.splitlines() if line[0].isdigit())
    assert said.endswith("ro\n")
    names = set(said.split())
    assert "memory" in names or "cgroup.procs" in names


def test_a_callers_umask_does_not_keep_the_container_from_its_view() -> None:
    os.umask(0o077)
    with group(Resources()) as directories:
        for directory in {path for one in directories.values() for path in (one, os.path.dirname(one))}:
            assert os.stat(directory).st_mode & 0o777 == 0o755, directory


def test_a_container_s_oom_kill_is_counted(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["resources"]["memory"] = {"limit": 16 * MIB, "swap": 16 * MIB}

    root, name = str(tmp_path / "states"), f"oom-{os.getpid()}"
    made = creation.create(
        root, name, bundles.bundle(tmp_path, *["dd", "if=/dev/zero", "of=/dev/null", "bs=64M"], edit=edit)
    )
    operations.start(root, name)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(made.pid, 0)[1]) == -signal.SIGKILL
        assert operations.oom_kills(states.state(root, name)) >= 1
    finally:
        operations.delete(root, name, force=True)


def test_a_cgroup_with_processes_is_not_shared(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["cgroupsPath"] = f"shared-{os.getpid()}"

    root = str(tmp_path / "states")
    made = bundles.bundle(tmp_path, "sleep", "60", edit=edit)
    first = f"first-{os.getpid()}"
    creation.create(root, first, made)
    try:
        with pytest.raises(Error, match="has processes already"):
            creation.create(root, f"second-{os.getpid()}", made)
    finally:
        operations.delete(root, first, force=True)


@pytest.mark.parametrize("readonly", [False, True])
def test_who_may_write_its_cgroup_owns_it_on_version_2(tmp_path: Path, readonly: bool) -> None:
    def edit(config: Json) -> None:
        bundles.user_namespace(config)
        options = ["nosuid", *(["ro"] if readonly else [])]
        config["mounts"].append(
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}
        )

    root, name = str(tmp_path / "states"), f"owner-{os.getpid()}"
    made = creation.create(root, name, bundles.bundle(tmp_path, "sleep", "60", edit=edit))
    try:
        given = set(made.cgroups) == {cgroups.UNIFIED} and not readonly
        for directory in made.cgroups.values():
            assert os.stat(directory).st_uid == (bundles.BASE if given else 0)
            assert os.stat(f"{directory}/cgroup.procs").st_uid == (bundles.BASE if given else 0)
            for limit in ("pids.max", "memory.max", "memory.limit_in_bytes"):
                path = f"{directory}/{limit}"
                assert not os.path.exists(path) or os.stat(path).st_uid == 0
    finally:
        operations.delete(root, name, force=True)
