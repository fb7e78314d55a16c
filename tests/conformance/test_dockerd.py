"""Docker's daemon, its containerd and their shim, unchanged, with us as the runtime: as with runc.

The daemon is in a room of its own. Each container it starts has a hook (its network), so hooks are tried here too.
"""

import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests import rooms
from tests.rooms import Room, Said

pytestmark = pytest.mark.engine("dockerd", "docker", "runc")

RUNTIMES = ("ours", "runc")
Command = tuple[str, ...]


class Docker(NamedTuple):
    room: Room

    def __call__(self, *arguments: str) -> Said:
        return self.room.call("docker", "--host", f"unix://{self.room.directory}/socket", *arguments)

    def same(self, *commands: Command) -> list[Said]:
        """What each command says with us, which is what it says with runc; RT in it stands for the runtime."""
        said = {name: [self._plain(self(*(word.replace("RT", name) for word in command)), name) for command in commands]
                for name in RUNTIMES}  # fmt: skip
        assert said["ours"] == said["runc"]
        return said["ours"]

    def _plain(self, said: Said, runtime: str) -> Said:
        """Without what differs between any two runs, and without the runtime's name; errors may come in any order."""
        text = re.sub(r"\b[0-9a-f]{64}\b", "ID", said.text)
        text = re.sub(rf"\b({runtime}|runc) create failed", "create failed", text.replace(f"box-{runtime}", "NAME"))
        text = re.sub(r"(?m)^ *\d+ +(sh|sleep)$", r"PID \1", text)
        # docker's own client says so of a container that could not start, or does not: it depends on who is quicker.
        text = re.sub(r'(?m)^time="[^"]*" level=error msg="error waiting for container: .*\n?', "", text)
        return Said(said.status, "\n".join(sorted(text.splitlines())))


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    directory = tmp_path_factory.mktemp("docker")
    (directory / "volume").mkdir()
    with rooms.room(directory) as room:
        made = Docker(room)
        daemon = ["dockerd", "--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec"]
        daemon += ["--host", f"unix://{directory}/socket", "--pidfile", f"{directory}/pid", "--storage-driver", "vfs"]
        daemon += ["--iptables=false", "--ip6tables=false", "--bridge=none", "--add-runtime", f"ours={rooms.OURS}"]
        room.start(*daemon, "--exec-opt", "native.cgroupdriver=cgroupfs")
        deadline = time.monotonic() + 60
        while made("version").status:
            assert time.monotonic() < deadline, (directory / "daemon.log").read_text()
            time.sleep(0.1)
        said = made("import", str(rooms.root_archive(directory)), "box")
        assert said.status == 0, said.text
        yield made


def _run(*arguments: str) -> Command:
    return ("run", "--rm", "--network", "none", "--runtime", "RT", *arguments)


def _sh(script: str, *flags: str) -> Command:
    return _run(*flags, "box", "sh", "-c", script)


ALIKE: dict[str, list[Command]] = {
    "output and exit status": [_sh("echo out; exit 7"), _run("-t", "box", "sh", "-c", "tty; test -t 0")],
    "a program that is not there, or cannot be executed": [
        _run("box", "/nonexistent"),
        _run("box", "nonexistent"),
        _run("box", "/etc/passwd"),
    ],
    "a read-only root, tmpfs and shm": [
        _sh("touch /x", "--read-only"),
        _sh("grep scratch /proc/self/mountinfo | cut -d' ' -f4-6,7-", "--tmpfs", "/scratch:size=64k,mode=700"),
        _sh("grep shm /proc/self/mountinfo | cut -d' ' -f6-", "--shm-size=1m"),
    ],
    "capabilities and security options": [
        _run("--cap-drop", "all", "--cap-add", "net_raw", "box", "grep", "Cap", "/proc/self/status"),
        _run("--security-opt", "no-new-privileges", "box", "grep", "-E", "NoNew|Seccomp", "/proc/self/status"),
        _run("--security-opt", "seccomp=unconfined", "box", "grep", "-E", "NoNew|Seccomp", "/proc/self/status"),
    ],
    "the profile of a security module": [
        _run("box", "cat", "/proc/self/attr/current"),
        _run("--security-opt", "apparmor=unconfined", "box", "cat", "/proc/self/attr/current"),
    ],
    "devices": [
        _run("--device", "/dev/kmsg:/dev/message:r", "box", "stat", "-c", "%F %a %t:%T", "/dev/message"),
        _run("--device-cgroup-rule", "c 1:11 r", "box", "true"),
    ],
    "limits of the process and kernel settings": [
        _sh("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj", "--ulimit=nofile=100:200", "--oom-score-adj=321"),
        _sh("cat /proc/sys/net/ipv4/ip_forward", "--sysctl=net.ipv4.ip_forward=1"),
        _run("--sysctl=kernel.hostname=x", "box", "true"),
    ],
    "users, groups, directories, names": [
        _sh("id; pwd; echo $HOME", "--user=1000:1000", "--group-add=5", "--workdir=/tmp/new"),
        _sh("hostname; echo $A", "--hostname=foo", "--env=A=b"),
    ],
    "namespaces of the host": [
        _sh("test $$ -gt 1 && echo host", "--pid=host"),
        _sh("hostname; ip addr | head -1", "--uts=host", "--ipc=host"),
        _run("--cgroupns=private", "box", "sh", "-c", "cat /proc/self/cgroup"),
    ],
    "limits of the cgroup": [
        _run("--memory=64m", "--cpus=0.5", "--pids-limit=20", "--cpuset-cpus=0", "box", "cat", *rooms.limit_files()),
        _run("--memory=16m", "--memory-swap=16m", "box", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_a_container_is_what_it_is_with_runc(docker: Docker, name: str) -> None:
    docker.same(*ALIKE[name])


@pytest.mark.parametrize("options", rooms.VOLUME_OPTIONS)
def test_a_volume_of_any_propagation(docker: Docker, options: str) -> None:
    volume = rooms.shared_volume(docker.room)
    docker.same(_run("-v", f"{volume}:/v:{options}", "box", "sh", "-c", rooms.LOOK_AT_VOLUME))


def test_a_life_with_exec_logs_pause_kill_and_stop(docker: Docker) -> None:
    script = "trap 'echo got it; exit 3' TERM; echo begun; touch /ready; while :; do sleep 600 & wait $!; done"
    name = "box-RT"
    ready = ("exec", name, "sh", "-c", "until test -e /ready; do sleep 0.05; done; rm /ready")
    limits = [*rooms.limit_files(), f"/sys/fs/cgroup/{'cpu.weight' if rooms.version2() else 'cpu/cpu.shares'}"]
    steps = [
        ("run", "-d", "--name", name, "--network", "none", "--runtime", "RT", "box", "sh", "-c", script),
        ready,
        ("exec", name, "sh", "-c", "echo hi; exit 4"),
        ("exec", "-t", name, "sh", "-c", "tty; test -t 0 && echo terminal"),
        ("exec", "--user=1000:1000", "--workdir=/etc", "--env=X=y", name, "sh", "-c", "id; pwd; echo $X"),
        ("exec", name, "/nonexistent"),
        ("exec", name, "/etc/passwd"),
        ("stats", "--no-stream", "--format", "{{.Name}}", name),
        ("pause", name),
        ("exec", name, "true"),
        ("inspect", "--format", "{{.State.Status}}", name),
        ("unpause", name),
        ("update", "--memory=50m", "--memory-swap=60m", "--cpus=0.3", "--pids-limit=33", "--cpu-shares=99", name),
        ("exec", name, "cat", *limits),
        ("update", "--memory=90m", "--memory-swap=100m", name),
        ("exec", name, "cat", *limits),
        ("top", name, "-o", "pid,comm"),
        ("kill", name),
        ("wait", name),
        ("exec", name, "true"),
        ("start", name),
        ready,
        ("restart", "-t", "20", name),
        ready,
        ("stop", "-t", "20", name),
        ("logs", name),
        ("rm", "-f", name),
    ]
    said = dict(zip(steps, docker.same(*steps), strict=True))
    assert said["wait", name].text == "137"
    assert said["logs", name].text.split("\n").count("got it") == 2


def test_a_health_check_a_copy_and_an_init(docker: Docker) -> None:
    health = ("--health-cmd", "test -e /bin/sh", "--health-interval", "100ms")
    name = "box-ours"
    assert (
        docker(
            "run", "-d", "--name", name, "--network", "none", "--runtime", "ours", *health, "box", "sleep", "90"
        ).status
        == 0
    )
    deadline = time.monotonic() + 60
    while docker("inspect", "--format", "{{.State.Health.Status}}", name).text.strip() != "healthy":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert docker("cp", "/etc/hostname", f"{name}:/etc/copied").status == 0
    assert docker("exec", name, "cat", "/etc/copied").status == 0
    assert docker("rm", "-f", name).status == 0


def test_a_network_of_another_container_is_shared(docker: Docker) -> None:
    first = ("run", "-d", "--name", "box-RT", "--network", "none", "--runtime", "RT", "box", "sleep", "90")
    look = ("run", "--rm", "--network", "container:box-RT", "--ipc", "container:box-RT", "--pid", "container:box-RT")
    docker.same(
        (*first[:5], "none", "--ipc", "shareable", *first[6:]),
        (*look, "--runtime", "RT", "box", "sh", "-c", "ip addr | grep -c : ; test -e /proc/1/status && echo seen"),
        ("rm", "-f", "box-RT"),
    )


def test_nothing_is_left_of_all_this(docker: Docker) -> None:
    assert docker("ps", "-aq").text == ""
    left = docker.room.call("sh", "-c", "find /sys/fs/cgroup -mindepth 3 -type d -path '*/docker/*'").text
    assert left == ""
