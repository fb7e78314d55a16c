"""engine: real containers; what /proc, the cgroups and the disk say, and that nothing is left."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minicontainer import containers, engine, inspection
from minicontainer.containers import Home, Options, Port, Ulimit, Volume
from minicontainer.errors import CommandNotExecutable, CommandNotFound, ContainerNotFound, Error, NameInUse
from minicontainer.linux import nftables, procfs
from minicontainer.network import bridge, nftables_rules, ports
from minicontainer.oci.image import ContainerConfig
from tests import images

BUSY = "while :; do sleep 0.05; done"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with images.busybox_home(tmp_path / "data") as made:
        yield made


def options(*command: str, **more: Any) -> Options:
    return Options(image="busybox", command=command, **{"network": "none", **more})


def run(home: Home, *command: str, **more: Any) -> tuple[int, str]:
    """The exit status, and all that was printed."""
    parts: list[bytes] = []
    code = engine.run(home, options(*command, **more), output=parts.append)
    return code, b"".join(parts).decode()


def shell(home: Home, script: str, **more: Any) -> tuple[int, str]:
    return run(home, "sh", "-c", script, **more)


def background(home: Home, script: str = BUSY, **more: Any) -> engine.Container:
    return engine.start(home, engine.create(home, options("sh", "-c", script, **more)).id)


def leftovers(home: Home) -> list[str]:
    """What a container could leave: files, mounts, cgroups, links, tables, processes."""
    found = [f"{home.data}/{name}/{one}" for name in ("containers", "names", "ids") for one in _list(home, name)]
    found += [path for path in _list(home, "run/runtime") if not path.startswith(".")]
    found += [mount.target for mount in procfs.mountinfo() if mount.target.startswith(home.data)]
    found += [name for _, name in socket.if_nameindex() if name != "lo"]
    found += [str(table) for table in nftables.query("list tables")]
    return found


def _list(home: Home, name: str) -> list[str]:
    return os.listdir(f"{home.data}/{name}")


def eventually(true: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.01)


def fetch(port: int) -> bytes:
    """What the server answers, or nothing when it does not listen yet."""
    try:
        with socket.create_connection(("127.0.0.1", port), 3) as connection:
            connection.sendall(b"GET /passwd HTTP/1.0\r\n\r\n")
            return connection.makefile("rb").read()
    except ConnectionRefusedError:
        return b""


# --- a container and its walls ---------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_a_command_runs_and_its_status_and_output_come_back(home: Home) -> None:
    assert shell(home, "echo out; echo err >&2; exit 7") == (7, "out\nerr\n")
    assert leftovers(home) == []


@pytest.mark.kernel("overlay")
def test_root_in_the_container_is_nobody_on_the_machine(home: Home) -> None:
    one = background(home)
    status = procfs.status(one.pid)
    base = one.id_base
    assert base >= 1 << 20
    assert status["Uid"].split() == [str(base)] * 4
    assert Path(f"/proc/{one.pid}/uid_map").read_text().split() == ["0", str(base), "65536"]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert bin(int(status["CapBnd"], 16)).count("1") == 11
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    for kind in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup"):
        assert os.readlink(f"/proc/{one.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    engine.remove(home, one.id, force=True)


@pytest.mark.kernel("overlay")
def test_what_a_container_writes_is_its_own_and_belongs_to_its_root_on_disk(home: Home) -> None:
    one = engine.create(home, options("sh", "-c", "echo changed >/etc/passwd; touch /new; chown 5:6 /new"))
    engine.start(home, one.id)
    assert engine.wait(home, one.id) == 0
    new = os.stat(f"{one.upper}/new")
    assert (new.st_uid, new.st_gid) == (5, 6)
    assert shell(home, "cat /etc/passwd; ls /new")[1].startswith(images.PASSWD)
    engine.start(home, one.id)  # again, on what it wrote
    assert engine.wait(home, one.id) == 0
    engine.remove(home, one.id)


@pytest.mark.kernel("overlay")
def test_the_mounts_are_seen_by_the_supervisor_alone(home: Home) -> None:
    one = background(home)
    assert not [mount for mount in procfs.mountinfo() if mount.target.startswith(home.data)]
    assert [mount for mount in procfs.mountinfo(one.supervisor_pid) if mount.target == f"{one.bundle}/rootfs"]
    assert os.listdir(f"{one.bundle}/rootfs") == []
    engine.remove(home, one.id, force=True)
    assert leftovers(home) == []


@pytest.mark.kernel("overlay")
def test_the_supervisor_keeps_nothing_of_its_callers(home: Home) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    one = background(home)
    os.close(writer)
    assert os.read(reader, 1) == b""  # the end of file: nobody else has it
    assert os.getsid(one.supervisor_pid) != os.getsid(0)
    engine.remove(home, one.id, force=True)


@pytest.mark.kernel("overlay")
def test_limits_are_the_cgroups(home: Home) -> None:
    one = background(home, memory=64 << 20, cpus=0.5, cpu_shares=256, pids_limit=50)
    limits = engine.cgroups.limits(one.cgroups)
    assert limits.memory == 64 << 20
    usage = engine.statistics(home, one.id)
    assert usage.memory_bytes > 0
    assert usage.pids >= 1
    engine.remove(home, one.id, force=True)
    assert not any(os.path.exists(path) for path in one.cgroups.values())


@pytest.mark.kernel("overlay")
def test_the_command_line_of_limits_within(home: Home) -> None:
    limits = (Ulimit("nofile", 100, 200), Ulimit("core", 0, 0))
    assert shell(home, "ulimit -n; ulimit -Hn; ulimit -c", ulimits=limits) == (0, "100\n200\n0\n")


@pytest.mark.kernel("overlay")
def test_who_uses_too_much_memory_is_killed_and_that_is_told(home: Home) -> None:
    one = background(home, "dd if=/dev/zero of=/dev/null bs=100M count=1", memory=20 << 20)
    assert engine.wait(home, one.id) == 137
    ended = engine.inspect(home, one.id)
    assert ended.oom_killed
    assert (ended.status, ended.exit_code) == ("exited", 137)
    engine.remove(home, one.id)


@pytest.mark.kernel("overlay")
def test_several_containers_share_the_limit_of_a_group(home: Home) -> None:
    group = f"ecs/test-{os.getpid()}"
    made = engine.make_group(home, group, memory=100 << 20, cpus=0.5)
    one = background(home, cgroup_parent=group)
    assert all(Path(one.cgroups[name]).parent == Path(path) for name, path in made.items() if name in one.cgroups)
    assert engine.cgroups.limits(made).memory == 100 << 20
    engine.remove(home, one.id, force=True)
    engine.remove_group(home, group)
    engine.remove_group(home, group)
    assert not any(os.path.exists(path) for path in made.values())


@pytest.mark.kernel("overlay")
def test_volumes_are_the_machines_files_under_the_containers_ids(home: Home, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("text")
    volumes = (Volume(str(shared), "/rw"), Volume(str(shared), "/ro", read_only=True))
    code, said = shell(home, "stat -c %u:%g /rw/file; touch /rw/new; touch /ro/new2", volumes=volumes)
    assert said.splitlines()[0] == "0:0"
    assert code != 0
    assert "Read-only file system" in said
    assert sorted(os.listdir(shared)) == ["file", "new"]
    assert (shared / "new").stat().st_uid == 0


@pytest.mark.kernel("overlay")
def test_a_read_only_container_writes_to_its_tmpfs_alone(home: Home) -> None:
    code, said = shell(home, "touch /tmp/x && touch /x", read_only=True, tmpfs=("/tmp",))
    assert code != 0
    assert "/x: Read-only file system" in said


@pytest.mark.kernel("overlay")
def test_user_environment_and_directory(home: Home) -> None:
    script = "id -u; id -G; pwd; echo $HOME $A $IMAGE"
    _, said = shell(home, script, user="web", workdir="/home", env=("A=b",))
    assert said.splitlines() == ["1000", "1000 1001", "/home", "/home/web b busybox"]


@pytest.mark.kernel("overlay")
def test_a_callers_umask_is_not_the_containers(home: Home) -> None:
    os.umask(0o077)
    status, said = shell(home, "ls -ld / /sys/fs/cgroup; id -u; ls /bin >/dev/null", user="1000:1000")
    assert (status, [line[:10] for line in said.splitlines()]) == (0, ["drwxr-xr-x", "drwxr-xr-x", "1000"])


@pytest.mark.kernel("overlay")
def test_the_hosts_user_namespace_when_it_is_asked_for(home: Home) -> None:
    one = background(home, userns="host")
    assert os.readlink(f"/proc/{one.pid}/ns/user") == os.readlink("/proc/self/ns/user")
    engine.remove(home, one.id, force=True)


@pytest.mark.kernel("overlay")
def test_layers_that_are_no_images_are_run_and_their_changes_kept(home: Home, tmp_path: Path) -> None:
    lowers = engine.create(home, options("true")).lowers
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    layers = engine.Layers(lowers, f"{tmp_path}/upper", f"{tmp_path}/work", ContainerConfig(env=("A=layers",)))
    said: list[bytes] = []
    wanted = Options(image="", command=("sh", "-c", "echo $A; touch /made"), network="none")
    assert engine.run(home, wanted, layers=layers, output=said.append) == 0
    assert b"".join(said) == b"layers\n"
    assert os.path.exists(f"{tmp_path}/upper/made")


# --- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    ("command", "error", "code"),
    [
        (("/nonesuch",), CommandNotFound, 127),
        (("nonesuch",), CommandNotFound, 127),
        (("/etc/passwd",), CommandNotExecutable, 126),
        (("/etc",), CommandNotExecutable, 126),
    ],
)
def test_a_command_that_cannot_run(home: Home, command: tuple[str, ...], error: type[Error], code: int) -> None:
    with pytest.raises(error) as raised:
        run(home, *command)
    assert raised.value.exit_code == code
    assert leftovers(home) == []


@pytest.mark.kernel("overlay")
def test_an_image_that_is_nowhere(home: Home) -> None:
    with pytest.raises(Error, match=r"127\.0\.0\.1:1"):
        engine.create(home, Options(image="127.0.0.1:1/nonesuch:1", command=("true",)))
    assert leftovers(home) == []


@pytest.mark.kernel("overlay")
def test_a_user_that_the_image_does_not_know_leaves_nothing(home: Home) -> None:
    with pytest.raises(Error, match="user stranger is not in the image's /etc/passwd"):
        run(home, "true", user="stranger")
    assert leftovers(home) == []


@pytest.mark.kernel("overlay")
def test_a_missing_volume_leaves_nothing(home: Home) -> None:
    with pytest.raises((Error, OSError), match="/nonesuch"):
        run(home, "true", volumes=(Volume("/nonesuch", "/v"),))
    assert leftovers(home) == []


@pytest.mark.kernel("overlay")
def test_a_name_is_held_until_the_container_is_removed(home: Home) -> None:
    first = engine.create(home, options("true", name="web"))
    with pytest.raises(NameInUse):
        engine.create(home, options("true", name="web"))
    assert len(engine.list_containers(home)) == 1
    engine.remove(home, "web")
    second = engine.create(home, options("true", name="web"))
    assert first.id != second.id


@pytest.mark.kernel("overlay")
def test_what_runs_is_not_started_again_nor_removed_without_force(home: Home) -> None:
    one = background(home)
    with pytest.raises(Error, match="is running already"):
        engine.start(home, one.id)
    with pytest.raises(Error, match="is running; try: minicontainer stop"):
        engine.remove(home, one.id)
    engine.remove(home, one.id, force=True)
    with pytest.raises(ContainerNotFound):
        engine.inspect(home, one.id)


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_stop_asks_first(home: Home) -> None:
    one = background(home, f"trap 'echo bye; exit 3' TERM; echo ready; {BUSY}")
    eventually(lambda: "ready" in [record.text.strip() for record in engine.read_logs(home, one.id)])
    engine.stop(home, one.id)
    ended = engine.inspect(home, one.id)
    assert (ended.status, ended.exit_code) == ("exited", 3)
    assert [record.text for record in engine.read_logs(home, one.id)][-1] == "bye\n"
    engine.stop(home, one.id)  # twice is no error


@pytest.mark.kernel("overlay")
def test_stop_does_not_wait_for_who_cannot_feel_the_signal(home: Home) -> None:
    one = background(home)
    began = time.monotonic()
    engine.stop(home, one.id, timeout=10)
    assert time.monotonic() - began < 5
    assert engine.inspect(home, one.id).exit_code == 137


@pytest.mark.kernel("overlay")
def test_stop_kills_who_does_not_listen(home: Home) -> None:
    one = background(home, f"trap 'echo no' TERM; {BUSY}")
    eventually(lambda: engine.handles(one.pid, signal.SIGTERM))
    began = time.monotonic()
    engine.stop(home, one.id, timeout=1)
    assert 1 <= time.monotonic() - began < 5
    assert engine.inspect(home, one.id).exit_code == 137


@pytest.mark.kernel("overlay")
def test_kill_sends_the_signal_by_name_or_number(home: Home) -> None:
    one = background(home, f"trap 'exit 9' USR1; {BUSY}")
    eventually(lambda: engine.handles(one.pid, signal.SIGUSR1))
    engine.kill(home, one.id, "usr1")
    assert engine.wait(home, one.id) == 9
    with pytest.raises(Error, match="is not running"):
        engine.kill(home, one.id, 9)
    with pytest.raises(Error, match="signal NONSENSE is not known"):
        engine.signal_number("NONSENSE")


@pytest.mark.kernel("overlay")
def test_who_waits_learns_the_status_also_when_the_container_is_removed_meanwhile(home: Home) -> None:
    one = engine.create(home, options("sh", "-c", "sleep 0.3; exit 5", remove=True))
    engine.start(home, one.id)
    assert engine.wait(home, one.id) == 5
    eventually(lambda: leftovers(home) == [])


@pytest.mark.kernel("overlay")
def test_on_failure_is_tried_again_and_not_forever(home: Home) -> None:
    one = background(home, "echo try; exit 3", restart="on-failure:2")
    assert engine.wait(home, one.id) == 3
    assert [record.text for record in engine.read_logs(home, one.id)] == ["try\n"] * 3
    assert engine.inspect(home, one.id).restarts == 2


@pytest.mark.kernel("overlay")
def test_always_goes_on_until_it_is_stopped(home: Home) -> None:
    one = background(home, "echo try", restart="always")
    eventually(lambda: len(list(engine.read_logs(home, one.id))) >= 3)
    engine.stop(home, one.id)
    assert not containers.alive(engine.inspect(home, one.id))
    engine.remove(home, one.id)
    assert leftovers(home) == []


# --- after kill -9 ---------------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_after_kill_9_of_a_supervisor_the_next_look_sees_the_truth_and_nothing_is_left(home: Home) -> None:
    one = background(home, network="bridge", ports=(Port(80, 8080),))
    os.kill(one.supervisor_pid, signal.SIGKILL)
    eventually(lambda: procfs.start_time(one.pid) is None)
    ended = engine.inspect(home, one.id)
    assert (ended.status, ended.exit_code, ended.error) == ("exited", 137, "the supervisor was killed")
    assert not any(os.path.exists(path) for path in one.cgroups.values())
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert nftables.query("list tables") == []
    again = engine.start(home, one.id)
    assert again.status == "running"
    engine.remove(home, one.id, force=True)
    assert leftovers(home) == []


@pytest.mark.kernel("overlay")
def test_of_two_with_bridges_one_that_was_killed_does_not_harm_the_other(home: Home) -> None:
    one, two = (background(home, network="bridge", ports=(Port(80),)) for _ in range(2))
    os.kill(one.supervisor_pid, signal.SIGKILL)
    eventually(lambda: procfs.start_time(one.pid) is None)
    assert engine.inspect(home, one.id).status == "exited"
    assert [item.address for item in nftables_rules.published()] == [two.network.address]
    assert engine.inspect(home, two.id).status == "running"
    for container in (one, two):
        engine.remove(home, container.id, force=True)
    assert leftovers(home) == []


@pytest.mark.kernel("overlay")
def test_repair_takes_away_what_any_of_us_left_half_made(home: Home) -> None:
    one = background(home, remove=True)
    os.kill(one.supervisor_pid, signal.SIGKILL)
    eventually(lambda: procfs.start_time(one.pid) is None)
    os.mkdir(home.container("f" * 64))  # of a create that was killed
    os.symlink("f" * 64, f"{home.data}/names/half")
    os.makedirs(f"{home.data}/removed/x")  # of a remove that was killed
    engine.repair(home)
    assert leftovers(home) == []
    assert not os.path.exists(f"{home.data}/removed/x")


@pytest.mark.kernel("overlay")
def test_a_status_that_the_supervisor_wrote_before_it_was_killed_counts(home: Home) -> None:
    one = background(home)
    Path(one.bundle, "exit").write_text("4\n")
    os.kill(one.supervisor_pid, signal.SIGKILL)
    eventually(lambda: procfs.start_time(one.pid) is None)
    assert engine.inspect(home, one.id).exit_code == 4


# --- exec, logs, network ---------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_a_further_process_has_the_same_walls(home: Home) -> None:
    one = background(home, user="web", env=("A=b",))
    reader, writer = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    code = engine.exec(
        home, one.id, ("sh", "-c", "id -u; echo $A; grep -E 'Seccomp:|NoNewPrivs' /proc/self/status; exit 6"),
        streams=(null, writer, writer),
    )  # fmt: skip
    os.close(writer)
    with open(reader) as pipe:
        assert pipe.read().split() == ["1000", "b", "NoNewPrivs:", "1", "Seccomp:", "2"]
    assert code == 6
    assert engine.exec(home, one.id, ("true",)) == 0
    with pytest.raises(CommandNotFound):
        engine.exec(home, one.id, ("nonesuch",))
    engine.remove(home, one.id, force=True)
    with pytest.raises(ContainerNotFound):
        engine.exec(home, one.id, ("true",))


@pytest.mark.kernel("overlay")
def test_logs_are_followed_until_the_end(home: Home) -> None:
    one = background(home, "for i in 1 2 3; do echo $i; sleep 0.1; done; echo e >&2")
    followed = [(record.stream, record.text) for record in engine.read_logs(home, one.id, follow=True)]
    assert followed == [("stdout", "1\n"), ("stdout", "2\n"), ("stdout", "3\n"), ("stderr", "e\n")]
    assert [record.text for record in engine.read_logs(home, one.id, tail=2)] == ["3\n", "e\n"]


@pytest.mark.kernel("overlay")
def test_ctrl_c_while_a_container_starts_does_not_wait_for_its_end(home: Home) -> None:
    """The signal comes again until it was felt: Python drops what is raised while it collects an object."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    began = time.monotonic()
    for moment in range(8):
        one = engine.create(home, options("sleep", "300"))
        signal.setitimer(signal.ITIMER_REAL, 0.002 + 0.02 * moment, 1.0)
        with pytest.raises(KeyboardInterrupt):
            engine.start_attached(home, one.id)
            while True:
                time.sleep(0.05)
        signal.setitimer(signal.ITIMER_REAL, 0)
        engine.remove(home, one.id, force=True)
    assert time.monotonic() - began < 250
    eventually(lambda: leftovers(home) == [])


@pytest.mark.kernel("overlay")
def test_a_lot_of_output_comes_whole(home: Home) -> None:
    code, said = shell(home, f"i=0; while [ $i -lt 2000 ]; do echo $i-{'x' * 100}; i=$((i+1)); done")
    assert code == 0
    assert said.count("\n") == 2000


@pytest.mark.kernel("overlay")
def test_a_published_port_answers_and_is_free_again(home: Home) -> None:
    bridge.add_address("127.0.0.1/8")
    one = engine.start(home, engine.create(home, options("httpd", "-f", "-p", "80", "-h", "/etc", network="bridge",
                                                         ports=(Port(80, 8080), Port(80)))).id)  # fmt: skip
    assert one.ports[1].host_port in ports.DYNAMIC_PORTS
    for port in one.ports:
        eventually(lambda port=port: b"root:x:0:0" in fetch(port.host_port))
    with pytest.raises(ports.PortTaken, match="8080/tcp is taken by pid"):
        run(home, "true", network="bridge", ports=(Port(80, 8080),))
    engine.remove(home, one.id, force=True)
    assert leftovers(home) == []
    socket.create_server(("0.0.0.0", 8080)).close()


@pytest.mark.kernel("overlay")
def test_a_container_knows_its_name_and_address(home: Home) -> None:
    one = background(home, network="bridge", hostname="web")
    root = f"/proc/{one.pid}/root/etc"
    assert f"{one.network.address}\tweb" in Path(root, "hosts").read_text()
    assert Path(root, "hostname").read_text() == "web\n"
    engine.remove(home, one.id, force=True)


@pytest.mark.kernel("overlay")
def test_the_hosts_network_and_none_need_no_nftables(home: Home) -> None:
    assert shell(home, "ip a | grep -c 'lo:'", network="none") == (0, "1\n")
    # By a process of its own: the supervisor is its child, and this one may have used the packet filter before.
    command = [sys.executable, "-m", "minicontainer.cli", "--root", home.data]
    for name in ("host", "none"):
        subprocess.run(
            [*command, "run", "--detach", "--name", name, "--network", name, "busybox", "sleep", "60"], check=True
        )
        one = engine.inspect(home, name)
        shared = os.readlink(f"/proc/{one.pid}/ns/net") == os.readlink("/proc/self/ns/net")
        maps = Path(f"/proc/{one.supervisor_pid}/maps").read_text()
        engine.remove(home, one.id, force=True)
        assert shared == (name == "host")
        assert "libnftables" not in maps


@pytest.mark.kernel("overlay")
def test_many_at_once(home: Home) -> None:
    made: list[engine.Container] = [engine.create(home, options("sleep", "60", network="bridge")) for _ in range(6)]
    children = []
    for one in made:
        if (child := os.fork()) == 0:
            engine.start(home, one.id)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    running = engine.list_containers(home)
    assert {one.status for one in running} == {"running"}
    assert len({one.network.address for one in running}) == len({one.id_base for one in running}) == 6
    for one in running:
        engine.remove(home, one.id, force=True)
    assert leftovers(home) == []


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_an_image_that_a_container_needs_is_not_removed(home: Home) -> None:
    one = engine.create(home, options("true"))
    with pytest.raises(Error, match=f"image busybox is used by container {one.name}; try: minicontainer rm"):
        engine.remove_image(home, "busybox")
    engine.tag(home, "busybox", "other:1")
    assert engine.remove_image(home, "other:1") == ["Untagged: other:1"]
    engine.remove(home, one.id)
    assert len(engine.remove_image(home, "busybox")) == 4
    assert engine.images(home) == []
    assert os.listdir(f"{home.data}/layers/sha256") == []


@pytest.mark.kernel("overlay")
def test_layers_of_a_container_whose_image_was_forced_away_stay(home: Home) -> None:
    one = engine.create(home, options("echo", "still"))
    engine.remove_image(home, "busybox", force=True)
    engine.start(home, one.id)
    assert engine.wait(home, one.id) == 0
    engine.remove(home, one.id)
    engine.remove_unused(home)
    assert os.listdir(f"{home.data}/layers/sha256") == []


@pytest.mark.kernel("overlay")
def test_inspection_and_engine_agree_on_what_killed_means(home: Home) -> None:
    assert engine.KILLED == inspection.KILLED == 137
    assert threading.active_count() == 1  # nothing of this makes threads: a container is forked from here


@pytest.mark.kernel("overlay")
def test_a_container_is_removed_by_force_while_it_is_being_started(home: Home) -> None:
    made = engine.create(home, options("sleep", "60"))
    if (child := os.fork()) == 0:
        try:
            engine.start(home, made.id)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 30
    while not containers.alive(engine.inspect(home, made.id)) and time.monotonic() < deadline:
        continue
    engine.remove(home, made.id, force=True)
    os.waitpid(child, 0)
    assert engine.list_containers(home) == []
