"""One container from create to removal, as the kernel tells it. Small: it holds in the cgroup v2 world as well."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minicontainer import containers, engine
from minicontainer.containers import Container, Home, Options
from minicontainer.linux import procfs
from minicontainer.runtime import cgroups
from tests import images

SLEEP = ("sleep", "60")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with images.busybox_home(tmp_path / "data") as made:
        yield made


def background(home: Home, *command: str, **more: Any) -> Container:
    options = Options(image="busybox", command=command, network="none", **more)
    return engine.start(home, engine.create(home, options).id)


def output(home: Home, *command: str, **more: Any) -> tuple[int, str]:
    parts: list[bytes] = []
    options = Options(image="busybox", command=command, network="none", **more)
    return engine.run(home, options, output=parts.append), b"".join(parts).decode()


def eventually(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.01)


def directories(container: Container) -> list[str]:
    """Its cgroups, one for each hierarchy; where all is v2 it is one."""
    return sorted(set(container.cgroups.values()))


@pytest.mark.kernel("overlay")
def test_it_runs_in_namespaces_of_its_own_and_its_status_comes_back(home: Home) -> None:
    assert output(home, "sh", "-c", "echo $$; id -u; hostname | wc -c; exit 7") == (7, "1\n0\n13\n")
    assert engine.list_containers(home) == []


@pytest.mark.kernel("overlay")
def test_the_kernel_holds_the_limits_that_were_asked_for(home: Home) -> None:
    one = background(home, *SLEEP, memory=64 << 20, cpus=0.5, pids_limit=20)
    limits = cgroups.limits(one.cgroups)
    assert limits.memory == 64 << 20
    members = {Path(directory, "cgroup.procs").read_text() for directory in directories(one)}
    assert members == {f"{one.pid}\n"}
    usage = engine.statistics(home, one.id)
    assert 0 < usage.memory_bytes < 64 << 20
    assert usage.pids == 1
    engine.remove(home, one.id, force=True)
    assert not any(os.path.exists(directory) for directory in directories(one))


@pytest.mark.kernel("overlay")
def test_the_limit_of_processes_is_felt(home: Home) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo all"
    code, said = output(home, "sh", "-c", script, pids_limit=4)
    assert code != 0 or "all" not in said
    assert "can't fork" in said


@pytest.mark.kernel("overlay")
def test_who_needs_more_memory_than_it_may_is_killed_and_that_is_recorded(home: Home) -> None:
    one = background(home, "dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1", memory=20 << 20)
    assert engine.wait(home, one.id) == 137
    ended = engine.inspect(home, one.id)
    assert (ended.status, ended.exit_code, ended.oom_killed, ended.pid) == ("exited", 137, True, 0)
    engine.remove(home, one.id)


@pytest.mark.kernel("overlay")
def test_a_further_process_is_in_the_same_namespaces_and_cgroups(home: Home) -> None:
    one = background(home, *SLEEP)
    pid = engine.execute(home, one.id, SLEEP)
    eventually(lambda: procfs.status(pid)["Name"] == "sleep")
    for kind in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{one.pid}/ns/{kind}")
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{one.pid}/cgroup").read_text()
    for field in ("CapBnd", "CapEff", "NoNewPrivs", "Seccomp", "Uid"):
        assert procfs.status(pid)[field] == procfs.status(one.pid)[field]
    os.kill(pid, signal.SIGKILL)
    assert engine.exit_status(pid) == 137  # a pid namespace does not end before all in it are reaped
    engine.remove(home, one.id, force=True)


@pytest.mark.kernel("overlay")
def test_the_status_of_a_further_process_and_what_it_writes_come_back(home: Home) -> None:
    one = background(home, *SLEEP)
    reader, writer = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    assert engine.exec(home, one.id, ("sh", "-c", "echo in; exit 3"), streams=(null, writer, writer)) == 3
    os.close(writer)
    assert os.read(reader, 100) == b"in\n"
    engine.remove(home, one.id, force=True)


@pytest.mark.kernel("overlay")
def test_after_kill_9_of_its_supervisor_it_is_dead_and_the_next_look_cleans_up(home: Home) -> None:
    one = background(home, *SLEEP, memory=64 << 20)
    os.kill(one.supervisor_pid, signal.SIGKILL)
    eventually(lambda: not containers.alive(one))
    ended = engine.inspect(home, one.id)
    assert (ended.status, ended.exit_code, ended.error) == ("exited", 137, "the supervisor was killed")
    eventually(lambda: procfs.start_time(one.pid) != one.start_time)
    assert not any(os.path.exists(directory) for directory in directories(one))
    assert os.listdir(f"{one.bundle}/rootfs") == []
    engine.start(home, one.id)  # and it may run again
    engine.stop(home, one.id, timeout=0)
    engine.remove(home, one.id)
    assert os.listdir(f"{home.data}/containers") == os.listdir(f"{home.data}/names") == []


@pytest.mark.kernel("overlay")
def test_stop_and_remove_are_as_good_twice(home: Home) -> None:
    one = background(home, *SLEEP)
    for _ in range(2):
        engine.stop(home, one.id, timeout=0)
    assert engine.inspect(home, one.id).exit_code == 137
    engine.remove(home, one.id)
    with pytest.raises(engine.ContainerNotFound):
        engine.remove(home, one.id)
    assert not any(os.path.exists(directory) for directory in directories(one))
