"""supervisor: what it keeps, what it says, and what is left when it, its caller or its container is killed anywhere."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minicontainer import containers, engine, supervisor
from minicontainer.containers import Container, Home, Options, Port
from minicontainer.errors import CommandNotFound, Error
from minicontainer.linux import nftables, procfs
from minicontainer.plan import Explain
from minicontainer.supervisor import Streams
from tests import images

LOOP = "while :; do sleep 0.05; done"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with images.busybox_home(tmp_path / "data") as made:
        yield made


def made(home: Home, script: str, **more: Any) -> Container:
    options = Options(image="busybox", command=("sh", "-c", script), **{"network": "none", **more})
    return engine.create(home, options)


def started(home: Home, script: str = LOOP, **more: Any) -> Container:
    return engine.start(home, made(home, script, **more).id)


def eventually(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.01)


def gone(one: Container) -> bool:
    return not containers.alive(one)


def record(one: Container) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(one.bundle, "container.json").read_bytes())
    return found


def printed(home: Home, one: Container) -> list[str]:
    return [line.text.rstrip("\n") for line in engine.read_logs(home, one.id)]


# --- the record ------------------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_the_record_names_processes_that_proc_has(home: Home) -> None:
    one = started(home)
    found = record(one)
    assert found["status"] == "running"
    assert procfs.start_time(found["pid"]) == found["start_time"]
    assert procfs.start_time(found["supervisor_pid"]) == found["supervisor_start_time"]
    assert procfs.status(found["pid"])["PPid"] == str(found["supervisor_pid"])
    assert all(os.path.isdir(path) for path in found["cgroups"].values())
    assert found["created"] <= found["started_at"] <= time.time()
    engine.remove(home, one.id, force=True)


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 200", 200), ("kill -KILL $$; exit 4", 4)])
def test_the_end_is_recorded_once_in_both_places(home: Home, script: str, code: int) -> None:
    one = started(home, script)
    assert engine.wait(home, one.id) == code
    found = record(one)
    assert (found["status"], found["exit_code"], found["pid"], found["error"]) == ("exited", code, 0, "")
    assert found["finished_at"] >= found["started_at"]
    assert Path(one.bundle, "exit").read_text() == f"\n{code}\n"
    engine.remove(home, one.id)


@pytest.mark.kernel("overlay")
def test_a_container_that_is_started_again_forgets_how_it_ended(home: Home) -> None:
    one = started(home, "test -e /mark && exit 5; touch /mark; exit 3")
    assert engine.wait(home, one.id) == 3
    again = engine.start(home, one.id)
    assert engine.wait(home, one.id) == 5
    assert Path(one.bundle, "exit").read_text() == "\n5\n"
    assert again.pid != one.pid
    engine.remove(home, one.id)


@pytest.mark.kernel("overlay")
def test_who_is_killed_by_a_signal_has_128_and_its_number(home: Home) -> None:
    one = started(home)
    os.kill(one.pid, signal.SIGKILL)
    assert engine.wait(home, one.id) == 137
    ended = engine.inspect(home, one.id)
    assert not ended.oom_killed
    engine.remove(home, one.id)


# --- what it holds ---------------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_it_is_a_session_of_its_own_with_nothing_open_but_what_it_needs(home: Home) -> None:
    one = started(home)
    pid = one.supervisor_pid
    assert os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    targets = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)} == {"/dev/null"}
    files = [target for target in targets if target.startswith("/") and target != "/dev/null"]
    assert files == [f"{one.bundle}/log.jsonl"]
    assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    engine.remove(home, one.id, force=True)


@pytest.mark.kernel("overlay")
def test_it_has_one_thread_and_no_signal_ignored_or_blocked(home: Home) -> None:
    one = started(home)
    status = procfs.status(one.supervisor_pid)
    assert status["Threads"] == "1"
    assert int(status["SigBlk"], 16) == 0
    engine.remove(home, one.id, force=True)


@pytest.mark.kernel("overlay")
def test_it_does_not_keep_a_file_system_of_the_machine_busy(home: Home, tmp_path: Path) -> None:
    subprocess.run(["mount", "--make-rshared", "/"], check=True)  # as machines have it; a test's world is private
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
    one = started(home)
    subprocess.run(["umount", str(place)], check=True)
    assert str(place) not in [mount.target for mount in procfs.mountinfo(one.supervisor_pid)]
    engine.remove(home, one.id, force=True)


# --- stdio -----------------------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_a_lot_of_output_is_all_there_in_order_and_twice(home: Home) -> None:
    one = made(home, "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done")
    reader, writer = os.pipe()
    begun = engine.start_attached(home, one.id, streams=Streams(stdout=writer))
    os.close(writer)
    with open(reader, "rb") as pipe:
        copied = pipe.read().decode().splitlines()
    with begun.channel:
        assert supervisor.exit_code(begun.channel) == 0
    wanted = [f"line {number}" for number in range(3000)]
    assert copied == wanted
    assert printed(home, one) == wanted
    engine.wait(home, one.id)
    engine.remove(home, one.id)


@pytest.mark.kernel("overlay")
def test_a_caller_that_reads_no_more_does_not_stop_the_log(home: Home) -> None:
    one = made(home, "sleep 0.2; i=0; while [ $i -lt 50 ]; do echo line $i; i=$((i+1)); done")
    reader, writer = os.pipe()
    begun = engine.start_attached(home, one.id, streams=Streams(stdout=writer))
    os.close(writer)
    os.close(reader)
    begun.channel.close()  # and it does not wait either
    assert engine.wait(home, one.id) == 0
    assert len(printed(home, one)) == 50
    engine.remove(home, one.id)


@pytest.mark.kernel("overlay")
def test_output_of_a_child_that_outlives_the_first_process_is_not_waited_for_long(home: Home) -> None:
    one = started(home, "(sleep 60; echo late) & echo early")
    began = time.monotonic()
    assert engine.wait(home, one.id) == 0
    assert time.monotonic() - began < 5
    assert printed(home, one) == ["early"]
    engine.remove(home, one.id)


@pytest.mark.kernel("overlay")
def test_both_streams_are_told_apart(home: Home) -> None:
    one = started(home, "echo out; echo err >&2")
    engine.wait(home, one.id)
    assert {(line.stream, line.text) for line in engine.read_logs(home, one.id)} == {
        ("stdout", "out\n"),
        ("stderr", "err\n"),
    }
    engine.remove(home, one.id)


@pytest.mark.kernel("overlay")
def test_each_step_is_shown_with_who_does_it(home: Home) -> None:
    one = made(home, "true", network="bridge")
    reader, writer = os.pipe()
    engine.start(home, one.id, explain=Explain(descriptor=writer))
    engine.wait(home, one.id)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        lines = [line for line in pipe if line[0] != " "]
    who = {line.split()[0] for line in lines}
    assert who == {"supervisor", "init"}
    order = ['mount("overlay"', "clone3(", "pivot_root(", "attach(", "seccomp(", "execve("]
    places = [next(number for number, line in enumerate(lines) if call in line) for call in order]
    assert places[0] < places[1] < places[2]
    assert places[4] < places[5]
    assert "execve(" in [line for line in lines if line.startswith("init")][-1]
    engine.remove(home, one.id)


# --- restarts --------------------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_a_restart_is_a_new_process_on_the_same_files_by_the_same_supervisor(home: Home) -> None:
    one = started(home, "echo x >>/count; wc -l </count; exit 1", restart="on-failure:2")
    assert engine.wait(home, one.id) == 1
    ended = engine.inspect(home, one.id)
    assert printed(home, one) == ["1", "2", "3"]
    assert (ended.restarts, ended.supervisor_pid) == (2, one.supervisor_pid)
    engine.remove(home, one.id)


@pytest.mark.kernel("overlay")
def test_success_ends_on_failure(home: Home) -> None:
    one = started(home, "echo once", restart="on-failure")
    assert engine.wait(home, one.id) == 0
    assert (printed(home, one), engine.inspect(home, one.id).restarts) == (["once"], 0)
    engine.remove(home, one.id)


@pytest.mark.kernel("overlay")
def test_a_restarted_container_keeps_its_published_port(home: Home) -> None:
    one = started(home, "sleep 0.1; exit 1", restart="always", network="bridge", ports=(Port(80, 8080),))
    eventually(lambda: engine.inspect(home, one.id).restarts >= 1)
    assert [port.host_port for port in engine.inspect(home, one.id).ports] == [8080]
    engine.remove(home, one.id, force=True)
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert nftables.query("list tables") == []


@pytest.mark.kernel("overlay")
def test_remove_by_force_ends_one_that_waits_for_its_restart(home: Home) -> None:
    one = started(home, "exit 1", restart="always")
    eventually(lambda: engine.inspect(home, one.id).restarts >= 2)
    engine.remove(home, one.id, force=True)
    eventually(lambda: gone(one))
    assert os.listdir(f"{home.data}/containers") == []


# --- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_a_caller_that_is_killed_takes_nothing_with_it(home: Home) -> None:
    one = made(home, LOOP)
    child = os.fork()
    if child == 0:
        engine.start(home, one.id)
        signal.pause()
    eventually(lambda: record(one)["status"] == "running")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    time.sleep(0.1)
    assert engine.inspect(home, one.id).status == "running"
    engine.remove(home, one.id, force=True)


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("moment", range(0, 60, 6))
def test_killed_at_any_moment_of_the_start_it_leaves_nothing_behind(home: Home, moment: int) -> None:
    one = made(home, "sleep 60", network="bridge", ports=(Port(80, 8080),), name="web")
    child = os.fork()
    if child == 0:
        try:
            engine.start(home, one.id)
        finally:
            os._exit(0)
    eventually(lambda: record(one)["supervisor_pid"])
    pid = record(one)["supervisor_pid"]
    time.sleep(moment / 1000)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(child, 0)
    eventually(lambda: procfs.start_time(pid) != record(one)["supervisor_start_time"])
    ended = engine.inspect(home, one.id)
    assert (ended.status, ended.exit_code) == ("exited", 137)
    inside = one.id
    eventually(lambda: not [path for path in ended.cgroups.values() if os.path.exists(path)])
    eventually(lambda: not [path for path in Path("/proc").glob("[0-9]*/cgroup") if inside in _text(path)])
    engine.remove(home, "web")
    engine.repair(home)
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert nftables.query("list tables") == []
    assert [os.listdir(f"{home.data}/{name}") for name in ("containers", "names", "ids")] == [[], [], []]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has just gone
        return ""


@pytest.mark.kernel("overlay")
def test_a_failed_start_leaves_the_container_as_it_was_to_be_tried_again(home: Home) -> None:
    one = engine.create(home, Options(image="busybox", command=("/later",), network="bridge", ports=(Port(80, 8080),)))
    for _ in range(2):
        with pytest.raises(CommandNotFound):
            engine.start(home, one.id)
        failed = engine.inspect(home, one.id)
        assert (failed.status, failed.exit_code, failed.pid) == ("exited", 127, 0)
        assert not any(os.path.exists(path) for path in failed.cgroups.values())
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
    Path(one.upper, "later").write_bytes(b"#!/bin/sh\nexit 6\n")
    os.chmod(f"{one.upper}/later", 0o755)
    engine.start(home, one.id)
    assert engine.wait(home, one.id) == 6
    engine.remove(home, one.id)


@pytest.mark.kernel("overlay")
def test_a_second_start_meanwhile_is_refused(home: Home) -> None:
    one = started(home)
    with pytest.raises(Error, match=f"^container {one.name} is running already$"):
        engine.start(home, one.id)
    assert engine.inspect(home, one.id).pid == one.pid
    engine.remove(home, one.id, force=True)


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("user", ["", "web", "7:8"])
def test_a_program_may_open_its_own_output_again(home: Home, user: str) -> None:
    """As nginx does, whose logs are links to /dev/stdout."""
    one = started(home, "echo out > /dev/stdout; echo err > /dev/stderr; echo end > /proc/self/fd/1", user=user)
    engine.wait(home, one.id)
    assert sorted(record.text for record in engine.read_logs(home, one.id)) == ["end\n", "err\n", "out\n"]
