"""A bundle becomes a process: what /proc says inside, and what is left outside."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicontainer.errors import CommandNotExecutable, CommandNotFound, Error
from minicontainer.linux import procfs
from minicontainer.oci.runtime import Process, Status, User
from minicontainer.plan import Explain
from minicontainer.runtime import creation, operations, states
from tests import bundles
from tests.bundles import Json, sh

pytestmark = [pytest.mark.kernel(), pytest.mark.usefixtures("nothing_left")]
KINDS = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """A test that fails half-way must leave no container either."""
    yield
    root = str(tmp_path / "states")
    for state in states.containers(root):
        operations.delete(root, state.id, force=True)


def test_the_exit_status_and_the_output_are_the_program_s(tmp_path: Path) -> None:
    assert bundles.run(tmp_path, "sh", "-c", "echo hello; exit 7") == (7, "hello\n")


def test_each_namespace_is_new(tmp_path: Path) -> None:
    def user(config: Json) -> None:
        bundles.user_namespace(config)

    inside = sh(tmp_path, "for n in mnt pid net ipc uts cgroup user; do ls -l /proc/self/ns/$n; done", edit=user)
    outside = {os.readlink(f"/proc/self/ns/{name}") for name in KINDS}
    found = {line.split(" -> ")[1] for line in inside.splitlines()}
    assert len(found) == 7
    assert not found & outside


def test_the_process_is_pid_1_of_few(tmp_path: Path) -> None:
    assert sh(tmp_path, "echo $$; ls -d /proc/[0-9]* | wc -l 2>/dev/null || ls -d /proc/[0-9]*").startswith("1\n")


def test_capabilities_are_those_of_the_spec_and_no_other(tmp_path: Path) -> None:
    status = bundles.run(tmp_path, "cat", "/proc/self/status").text
    wanted = f"{1 << 0 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10:016x}"
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert [fields[f"Cap{name}"] for name in ("Prm", "Eff", "Bnd")] == [wanted] * 3
    assert [fields[f"Cap{name}"] for name in ("Inh", "Amb")] == ["0" * 16] * 2
    assert fields["NoNewPrivs"] == "1"
    assert fields["SigIgn"] == fields["SigBlk"] == "0" * 16


def test_a_user_without_capabilities_has_none(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5, 6], "umask": 0o77}

    said = sh(tmp_path, "id; echo $HOME; umask; grep CapEff /proc/self/status", edit=edit)
    assert said == "uid=1000(web) gid=1000 groups=5,6\n/home/web\n0077\nCapEff:\t0000000000000000\n"


def test_ambient_capabilities_outlive_execve_of_a_user(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["process"]["user"] = {"uid": 1000, "gid": 1000}
        sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
        config["process"]["capabilities"] = {name: ["CAP_NET_BIND_SERVICE"] for name in sets}

    said = sh(tmp_path, "grep -E 'CapEff|CapAmb' /proc/self/status", edit=edit)
    assert said == "CapEff:\t0000000000000400\nCapAmb:\t0000000000000400\n"


def test_no_descriptor_leaks_into_the_program(tmp_path: Path) -> None:
    leak = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(leak, True)
    root, name = str(tmp_path / "states"), f"fds-{os.getpid()}"
    made = creation.create(root, name, bundles.bundle(tmp_path, "sleep", "60"))
    operations.start(root, name)
    try:
        assert sorted(os.listdir(f"/proc/{made.pid}/fd")) == ["0", "1", "2"]
    finally:
        operations.delete(root, name, force=True)


def test_preserved_descriptors_reach_the_program(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.dup2(writer, 3, inheritable=True)
    sh(tmp_path, "echo through >&3", preserve_fds=1)
    assert os.read(reader, 100) == b"through\n"


def test_masked_paths_look_empty_and_readonly_paths_refuse(tmp_path: Path) -> None:
    said = sh(
        tmp_path,
        "cat /proc/keys /proc/timer_list; ls /proc/acpi /sys/firmware; "
        "echo x > /proc/sys/kernel/hostname || echo refused; cat /dev/mem 2>&1 || true",
    )
    assert "refused" in said
    assert "Read-only file system" in said
    assert "refused" in said.splitlines()[-2]


def test_what_a_link_leads_to_is_masked_or_read_only_not_the_link(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["maskedPaths"] = ["/bare", "/all"]
        config["linux"]["readonlyPaths"] = ["/kept", "/away"]

    for name in ("secrets", "keep"):
        (tmp_path / "rootfs" / name).mkdir(parents=True)
        (tmp_path / "rootfs" / name / "file").write_text("told\n")
    (tmp_path / "rootfs/one").write_text("told\n")
    for link, leads in (("bare", "/one"), ("all", "/secrets"), ("kept", "keep"), ("away", "/../../nowhere")):
        (tmp_path / "rootfs" / link).symlink_to(leads)
    look = "cat /one /bare; ls /secrets /all; echo x > /keep/file || readlink /all"
    assert sh(tmp_path, f"{look} 2>&1", edit=edit).split() == [
        "/all:", "/secrets:", "sh:", "can't", "create", "/keep/file:", "Read-only", "file", "system", "/secrets",
    ]  # fmt: skip


def test_devices_are_there_and_no_other_can_be_used(tmp_path: Path) -> None:
    said = sh(
        tmp_path,
        "echo x > /dev/null; cat /dev/zero > /dev/full || true; ls /dev; readlink /dev/ptmx 2>/dev/null; "
        "mknod /dev/disk b 254 0 2>&1 || true",
    )
    for name in ("fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "tty", "urandom", "zero"):
        assert name in said.split()
    assert "Operation not permitted" in said


def test_bind_mounts_carry_their_options(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "below").mkdir(parents=True)
    (shared / "file").write_text("from the host\n")

    def edit(config: Json) -> None:
        config["mounts"] += [
            {"destination": "/ro", "type": "bind", "source": str(shared), "options": ["rbind", "rro", "nosuid"]},
            {"destination": "/rw/new/place", "type": "none", "source": str(shared), "options": ["bind", "noexec"]},
            {"destination": "/etc/one", "type": "bind", "source": str(shared / "file"), "options": ["bind", "ro"]},
        ]

    said = sh(
        tmp_path,
        "cat /ro/file /etc/one; touch /ro/below/x || echo refused; touch /rw/new/place/y; "
        "grep -E ' /(ro|rw|etc)' /proc/self/mountinfo | cut -d' ' -f5,6",
        edit=edit,
    )
    assert said.startswith("from the host\nfrom the host\n")
    assert "refused" in said
    assert "/ro ro,nosuid,relatime\n/rw/new/place rw,noexec,relatime\n/etc/one ro,relatime" in said
    assert (shared / "y").exists()


def test_an_id_mapped_volume_has_the_container_s_ids(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "roots").write_text("")

    def edit(config: Json) -> None:
        bundles.user_namespace(config)
        config["mounts"].append(
            {"destination": "/volume", "type": "bind", "source": str(volume), "options": ["rbind", "ridmap"]}
        )

    said = sh(tmp_path, "touch /volume/mine; stat -c '%u %n' /volume/*; cat /proc/self/uid_map", edit=edit)
    assert said.split() == ["0", "/volume/mine", "0", "/volume/roots", "0", str(bundles.BASE), "65536"]
    assert (volume / "mine").stat().st_uid == 0


def test_with_a_user_namespace_devices_are_borrowed(tmp_path: Path) -> None:
    said = sh(tmp_path, "echo x > /dev/null; ls -l /dev/null; id -u; hostname", edit=bundles.user_namespace)
    assert said.startswith("crw-rw-rw-")
    assert said.endswith("\n0\nbox\n")


def test_a_symbolic_link_in_the_image_leads_nowhere_outside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    bundles.bundle(tmp_path, "true")
    (tmp_path / "rootfs/trap").symlink_to("../../../../../../../../" + str(outside).lstrip("/"))
    (tmp_path / "rootfs/dangling").symlink_to("/not/there")

    def edit(config: Json) -> None:
        for destination in ("/trap/x", "/dangling"):
            config["mounts"].append({"destination": destination, "type": "tmpfs", "source": "tmpfs"})

    said = sh(tmp_path, "grep -c tmpfs /proc/self/mountinfo; ls -d /not/there", edit=edit)
    assert "/not/there" in said
    assert list(outside.iterdir()) == []


def test_proc_is_not_mounted_through_a_link_nor_covered(tmp_path: Path) -> None:
    bundles.bundle(tmp_path, "true")
    (tmp_path / "rootfs/fake").mkdir()
    (tmp_path / "rootfs/proc").symlink_to("fake")
    with pytest.raises(Error, match="symbolic link"):
        sh(tmp_path, "true")
    (tmp_path / "rootfs/proc").unlink()

    def edit(config: Json) -> None:
        config["mounts"].append({"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"})

    with pytest.raises(Error, match="inside /proc"):
        sh(tmp_path, "true", edit=edit)


def test_a_readonly_root_and_tmpfs(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["root"]["readonly"] = True
        config["mounts"].append(
            {"destination": "/bin2", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "tmpcopyup", "mode=750"]}
        )

    bundles.bundle(tmp_path, "true")
    (tmp_path / "rootfs/bin2").mkdir()
    (tmp_path / "rootfs/bin2/kept").write_text("kept")
    said = sh(tmp_path, "touch /x || echo refused; touch /bin2/x || echo refused; cat /bin2/kept", edit=edit)
    assert said.count("refused") == 2
    assert said.endswith("kept")


def test_rlimits_sysctl_and_oom_score(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]
        config["process"]["oomScoreAdj"] = 321
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"}

    said = sh(
        tmp_path,
        "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
        edit=edit,
    )
    assert said.split() == ["64", "128", "321", "1", "4096"]


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_caller_may_have_more_descriptors_open_than_the_container_may(
    tmp_path: Path, no_new_privileges: bool
) -> None:
    def edit(config: Json) -> None:
        config["process"]["noNewPrivileges"] = no_new_privileges
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 16, "hard": 16}]

    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    try:
        assert sh(tmp_path, "ulimit -n", edit=edit) == "16\n"
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_loopback_is_up_in_a_new_network_namespace(tmp_path: Path) -> None:
    assert "LOOPBACK,UP" in sh(tmp_path, "ip link show lo")


def test_a_namespace_is_joined_by_path(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        kinds = {"network": f"/proc/{os.getpid()}/ns/net", "uts": f"/proc/{os.getpid()}/ns/uts"}
        for namespace in config["linux"]["namespaces"]:
            namespace["path"] = kinds.get(namespace["type"], "")
        del config["hostname"]

    said = sh(tmp_path, "ls -l /proc/self/ns/net /proc/self/ns/uts; echo $$", edit=edit)
    assert os.readlink("/proc/self/ns/net") in said
    assert os.readlink("/proc/self/ns/uts") in said
    assert said.endswith("\n1\n")


def test_namespaces_of_another_container_are_joined_with_its_user_namespace(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    root = str(tmp_path / "states")
    first = creation.create(
        root, f"pod-{os.getpid()}", bundles.bundle(tmp_path / "one", "sleep", "60", edit=bundles.user_namespace)
    )

    def edit(config: Json) -> None:
        bundles.user_namespace(config)
        del config["linux"]["uidMappings"], config["linux"]["gidMappings"]
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] in ("user", "ipc", "pid"):
                namespace["path"] = f"/proc/{first.pid}/ns/{namespace['type']}"

    try:
        said = sh(tmp_path / "two", "echo $$; id -u; ls -l /proc/self/ns/user", edit=edit)
        assert said.split()[1] == "0"
        assert int(said.split()[0]) > 1
        assert os.readlink(f"/proc/{first.pid}/ns/user") in said
    finally:
        operations.delete(root, first.id, force=True)


@pytest.mark.parametrize(
    ("program", "kind", "text"),
    [
        ("/nonexistent", CommandNotFound, 'exec: "/nonexistent": stat /nonexistent: no such file or directory'),
        ("nonexistent", CommandNotFound, 'exec: "nonexistent": executable file not found in $PATH'),
        ("/etc/passwd", CommandNotExecutable, 'exec: "/etc/passwd": permission denied'),
        ("/etc", CommandNotExecutable, "permission denied"),
    ],
)
def test_a_program_that_cannot_run_is_told_at_create(
    tmp_path: Path, program: str, kind: type[Error], text: str
) -> None:
    with pytest.raises(kind, match="exec") as caught:
        bundles.run(tmp_path, program)
    assert text in str(caught.value)
    assert not (tmp_path / "states" / f"test-{os.getpid()}").exists()


def test_a_program_that_the_kernel_refuses_is_told_at_start(tmp_path: Path) -> None:
    bundles.bundle(tmp_path, "true")
    broken = tmp_path / "rootfs/broken"
    broken.write_text("#!/no/interpreter\n")
    broken.chmod(0o755)
    with pytest.raises(CommandNotFound, match="no such file"):
        bundles.run(tmp_path, "/broken")


def test_status_follows_the_truth(tmp_path: Path) -> None:
    root, name = str(tmp_path / "states"), f"life-{os.getpid()}"
    made = creation.create(root, name, bundles.bundle(tmp_path, "sleep", "60"), pid_file=str(tmp_path / "pid"))
    assert (tmp_path / "pid").read_text() == str(made.pid)
    assert states.state(root, name).status is Status.CREATED
    assert [state.id for state in states.containers(root)] == [name]
    operations.start(root, name)
    assert states.state(root, name).status is Status.RUNNING
    with pytest.raises(states.WrongStatus, match="already running"):
        operations.start(root, name)
    with pytest.raises(states.WrongStatus, match="not stopped"):
        operations.delete(root, name)
    with pytest.raises(Error, match="already exists"):
        creation.create(root, name, str(tmp_path))
    operations.pause(root, name)
    assert states.state(root, name).status is Status.PAUSED
    operations.resume(root, name)
    operations.kill(root, name, signal.SIGKILL)
    os.waitpid(made.pid, 0)
    assert states.state(root, name).status is Status.STOPPED
    with pytest.raises(states.WrongStatus, match="not running"):
        operations.kill(root, name, signal.SIGTERM)
    operations.delete(root, name)
    with pytest.raises(states.NoSuchContainer):
        operations.delete(root, name)
    operations.delete(root, name, force=True)


def test_a_zombie_is_stopped(tmp_path: Path) -> None:
    root, name = str(tmp_path / "states"), f"zombie-{os.getpid()}"
    made = creation.create(root, name, bundles.bundle(tmp_path, "true"))
    operations.start(root, name)
    os.waitid(os.P_PID, made.pid, os.WEXITED | os.WNOWAIT)
    assert states.state(root, name).status is Status.STOPPED
    os.waitpid(made.pid, 0)
    operations.delete(root, name)


def test_delete_leaves_no_cgroup_mount_or_process(tmp_path: Path) -> None:
    before = procfs.mountinfo()
    root, name = str(tmp_path / "states"), f"gone-{os.getpid()}"
    made = creation.create(root, name, bundles.bundle(tmp_path, "sh", "-c", "sleep 60 & sleep 60"))
    operations.start(root, name)
    directories = list(made.cgroups.values())
    assert all(map(os.path.isdir, directories))
    operations.delete(root, name, force=True)
    assert not any(map(os.path.exists, directories))
    assert not (tmp_path / "states" / name).exists()
    assert [mount.target for mount in procfs.mountinfo()] == [mount.target for mount in before]
    os.waitpid(made.pid, 0)


def test_what_is_half_made_is_unmade(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["mounts"].append({"destination": "/x", "type": "nosuchfs", "source": "x"})

    name = f"test-{os.getpid()}"
    with pytest.raises(Error, match="nosuchfs"):
        bundles.run(tmp_path, "true", edit=edit)
    assert not (tmp_path / "states" / name).exists()
    assert name not in str([path.name for path in Path("/sys/fs/cgroup").glob("*/*")])


def test_after_the_creator_is_killed_delete_cleans_up(tmp_path: Path) -> None:
    root, name = str(tmp_path / "states"), f"orphan-{os.getpid()}"
    made = bundles.bundle(tmp_path, "sleep", "60")
    creator = os.fork()
    if creator == 0:
        original = creation.cgroups.join

        def die(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        creation.cgroups.join = die  # type: ignore[assignment]  # the moment at which the creator is killed
        assert original
        creation.create(root, name, made)
        os._exit(1)
    os.waitpid(creator, 0)
    assert states.state(root, name).status is Status.CREATING
    directories = states.state(root, name).cgroups
    operations.delete(root, name, force=True)
    assert not any(map(os.path.exists, directories.values()))
    assert not (tmp_path / "states" / name).exists()


def test_the_child_dies_with_its_supervisor(tmp_path: Path) -> None:
    root, name = str(tmp_path / "states"), f"bound-{os.getpid()}"
    made = bundles.bundle(tmp_path, "sleep", "60")
    supervisor = os.fork()
    if supervisor == 0:
        creation.create(root, name, made, parent_death_signal=signal.SIGKILL)
        operations.start(root, name)
        signal.pause()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if states.state(root, name).status is Status.RUNNING:
                break
        except states.NoSuchContainer:
            pass
        time.sleep(0.01)
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    while time.monotonic() < deadline and states.state(root, name).status is not Status.STOPPED:
        time.sleep(0.01)
    assert states.state(root, name).status is Status.STOPPED
    operations.delete(root, name)


def _execute(root: str, name: str, process: Process) -> tuple[int, str]:
    reader, writer = os.pipe()
    pid = creation.execute(root, name, process, stdio=(reader, writer, writer))
    os.close(writer)
    said = bundles.read_all(reader)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


@pytest.mark.parametrize("edit", [None, bundles.user_namespace])
def test_a_further_process_shares_namespaces_and_cgroup(tmp_path: Path, edit: bundles.Edit | None) -> None:
    root, name = str(tmp_path / "states"), f"exec-{os.getpid()}"
    made = creation.create(root, name, bundles.bundle(tmp_path, "sleep", "60", edit=edit))
    operations.start(root, name)
    try:
        user = User(uid=1000, gid=1000, additional_gids=(7,))
        script = "id; for n in mnt pid net ipc uts cgroup user; do ls -l /proc/self/ns/$n; done; exit 5"
        process = Process(args=("sh", "-c", script), env=("PATH=/bin",), user=user, no_new_privileges=True)
        status, said = _execute(root, name, process)
        assert status == 5
        assert said.startswith("uid=1000(web) gid=1000 groups=7\n")
        for kind in KINDS:
            assert os.readlink(f"/proc/{made.pid}/ns/{kind}") in said
        with pytest.raises(CommandNotFound):
            _execute(root, name, Process(args=("/nope",)))
        operations.pause(root, name)
        with pytest.raises(states.WrongStatus, match="paused"):
            _execute(root, name, process)
    finally:
        operations.delete(root, name, force=True)


def test_a_terminal_of_its_own_is_sent_through_the_socket(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["process"] |= {"terminal": True, "consoleSize": {"height": 33, "width": 99}}

    root, name = str(tmp_path / "states"), f"tty-{os.getpid()}"
    made = bundles.bundle(tmp_path, "sh", "-c", "tty; stty size; ls -l /dev/console; test -c /dev/console", edit=edit)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "console"))
        listening.listen()
        state = creation.create(root, name, made, console_socket=str(tmp_path / "console"))
        connection, _ = listening.accept()
        _, (master,), _, _ = socket.recv_fds(connection, 100, 1)
        connection.close()
    operations.start(root, name)
    said = b""
    try:
        while part := os.read(master, 1000):
            said += part
    except OSError:  # EIO: nobody has the other side any more
        assert os.waitstatus_to_exitcode(os.waitpid(state.pid, 0)[1]) == 0
    operations.delete(root, name)
    assert said.startswith(b"/dev/pts/0\r\n33 99\r\n")


def test_each_step_is_explained_also_from_inside(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    explained = tmp_path / "explained"
    descriptor = os.open(explained, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    bundles.run(tmp_path, "true", explain=Explain(descriptor, "runtime"))
    os.close(reader)
    text = " ".join(explained.read_text().split())
    assert "runtime clone3(CLONE_NEWNS|CLONE_NEWUTS|CLONE_NEWIPC|CLONE_NEWPID|CLONE_NEWNET" in text
    assert 'init pivot_root(".", ".")' in text
    assert 'init new_mount("proc", "proc", [], 0)' in text
    assert "prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN)" in text


def test_a_descriptor_of_the_process_is_sent_to_who_asks_for_it(tmp_path: Path) -> None:
    bundles.bundle(tmp_path, "sleep", "60")
    name, command = f"pidfd-{os.getpid()}", ["--root", str(tmp_path / "states")]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.settimeout(60)
        given = ["--pidfd-socket", str(tmp_path / "socket")]
        try:
            pid = os.fork()
            if pid == 0:
                os._exit(_cli(*command, "create", "--bundle", str(tmp_path), *given, name))
            with listener.accept()[0] as connection:
                word, [descriptor], _, _ = socket.recv_fds(connection, 100, 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert word == b"standard"
            seen = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
            assert f"Pid:\t{states.state(str(tmp_path / 'states'), name).pid}\n" in seen
            os.close(descriptor)
        finally:
            operations.delete(str(tmp_path / "states"), name, force=True)
    gone = ["create", "--bundle", str(tmp_path), "--pidfd-socket", "/nowhere", name]
    assert _cli(*command, *gone) == 1
    assert states.containers(str(tmp_path / "states")) == []


def _cli(*arguments: str) -> int:
    command = [sys.executable, "-m", "minicontainer.runtime.main", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    return done.returncode


def test_too_little_memory_to_start_in_is_told_as_such(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["resources"]["memory"] = {"limit": 4096}

    with pytest.raises(Error, match="OOM-killed"):
        bundles.run(tmp_path, "true", edit=edit)


def test_a_destination_may_go_back_and_be_missing(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["mounts"] += [
            {"destination": "/a/../b/c", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "d/../../e", "type": "tmpfs", "source": "tmpfs"},
        ]

    said = sh(tmp_path, "cut -d' ' -f5 /proc/self/mountinfo", edit=edit)
    assert {"/b/c", "/e"} <= set(said.split())


def test_a_file_does_not_go_over_a_directory_nor_the_reverse(tmp_path: Path) -> None:
    for destination, source in (("/etc", "/etc/hostname"), ("/etc/passwd", "/etc")):

        def edit(config: Json, destination: str = destination, source: str = source) -> None:
            config["mounts"].append({"destination": destination, "type": "bind", "source": source, "options": ["bind"]})

        with pytest.raises(Error, match=f"{destination} is a (file|directory), and a (file|directory) is to be"):
            bundles.run(tmp_path, "true", edit=edit)


def test_a_field_that_is_not_honoured_is_refused_by_name(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["intelRdt"] = {"closID": "x"}

    with pytest.raises(Error, match=r"linux\.intelRdt is not supported"):
        bundles.run(tmp_path, "true", edit=edit)


def test_the_record_is_what_the_specification_says(tmp_path: Path) -> None:
    root, name = str(tmp_path / "states"), f"record-{os.getpid()}"
    creation.create(root, name, bundles.bundle(tmp_path, "true"))
    recorded = json.loads((tmp_path / "states" / name / "state.json").read_text())
    operations.delete(root, name, force=True)
    assert {"ociVersion", "id", "status", "pid", "bundle"} <= set(recorded)
