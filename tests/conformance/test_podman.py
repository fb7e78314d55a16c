"""Podman and its conmon, unchanged, with us as the runtime: what it says is what it says with runc."""

import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests import rooms
from tests.rooms import Room, Said

pytestmark = pytest.mark.engine("podman", "runc")

# Limits of its own, since those of this machine may be lower than what podman asks for by default.
SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
RUN = ("run", "--rm", "--network", "none")
MAPS = ("--uidmap=0:100000:5000", "--gidmap=0:100000:5000")
WHO = "id; cat /proc/self/uid_map /proc/self/gid_map; touch /x; stat -c %u:%g /x; grep Cap /proc/self/status"
RUNTIMES = {"ours": rooms.OURS, "runc": "runc"}


class Podman(NamedTuple):
    room: Room

    def __call__(self, runtime: str, *arguments: str) -> Said:
        place = self.room.directory
        command = ["podman", "--root", f"{place}/root", "--runroot", f"{place}/runroot", "--tmpdir", f"{place}/tmp"]
        command += ["--storage-driver", "vfs", "--runtime", RUNTIMES[runtime]]
        return self.room.call(*command, *arguments, CONTAINERS_CONF=f"{place}/containers.conf")

    def same(self, *commands: tuple[str, ...]) -> list[Said]:
        """What each command says with us, which is what it says with runc."""
        said = {runtime: [self._heard(runtime, command) for command in commands] for runtime in RUNTIMES}
        assert said["ours"] == said["runc"]
        return said["ours"]

    def _heard(self, runtime: str, command: tuple[str, ...]) -> Said:
        """Again, when the container had ended before podman listened: on a slow machine, with any runtime."""
        said = self(runtime, *command)
        if "failed to connect to container's attach socket" in said.text:
            said = self(runtime, *command)
        return self._plain(said)

    def _plain(self, said: Said) -> Said:
        """Without what differs between any two runs and the runtime's own name; errors may come in any order."""
        text = re.sub(r"\b([0-9a-f]{64}|[0-9a-f]{12})\b", "ID", said.text)
        text = re.sub(r'time="[^"]*"', "TIME", text)
        text = text.replace("error during container init: ", "")  # runc says so from 1.3 on
        text = re.sub(rf"({re.escape(rooms.OURS)}|minicontainer-runtime|runc)(: |\s)", "", text)
        # Of a container that ends with the first of its pod, or just before it is told to: podman asks in any order.
        text = re.sub(r'(?m)^(kill failed: |TIME level=error msg=")container not running.*\n?', "", text)
        return Said(said.status, "\n".join(sorted(text.splitlines())))


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    directory = tmp_path_factory.mktemp("podman")
    (directory / "containers.conf").write_text(SETTINGS)
    (directory / "volume").mkdir()
    (directory / "subid").write_text("containers:300000:1000000\n")  # whose ids `--userns=auto` takes
    with rooms.room(directory) as room:
        for table in ("/etc/subuid", "/etc/subgid"):
            assert room.call("mount", "--bind", f"{directory}/subid", table).status == 0
        made = Podman(room)
        said = made("ours", "import", str(rooms.root_archive(directory)), "box")
        assert said.status == 0, said.text
        yield made


def _run(*arguments: str) -> tuple[str, ...]:
    return (*RUN, *arguments)


def _sh(script: str, *flags: str) -> tuple[str, ...]:
    return _run(*flags, "box", "sh", "-c", script)


ALIKE: dict[str, list[tuple[str, ...]]] = {
    "output and exit status": [_sh("echo out; echo err >&2; exit 7"), _run("-t", "box", "sh", "-c", "tty; test -t 0")],
    "a program that is not there, or cannot be executed": [
        _run("box", "/nonexistent"),
        _run("box", "nonexistent"),
        _run("box", "/etc/passwd"),
    ],
    "a read-only root": [_sh("touch /x", "--read-only"), _sh("touch /tmp/x && touch /run/x", "--read-only")],
    "capabilities": [
        _run("--cap-drop", "all", "--cap-add", "net_raw", "box", "grep", "Cap", "/proc/self/status"),
        _run("--user", "1000", "--cap-add", "net_raw", "box", "grep", "Cap", "/proc/self/status"),
        _run("--privileged", "box", "grep", "-E", "Cap|Seccomp", "/proc/self/status"),
    ],
    "security options": [
        _run("--security-opt", "no-new-privileges", "box", "grep", "-E", "NoNew|Seccomp", "/proc/self/status"),
        _run("--security-opt", "seccomp=unconfined", "box", "grep", "-E", "NoNew|Seccomp", "/proc/self/status"),
        _sh("ls /bin; cat /proc/kcore | head -c 1 | wc -c", "--security-opt", "mask=/etc"),
    ],
    "the profile of a security module": [
        _run("box", "cat", "/proc/self/attr/current"),
        _run("--security-opt", "apparmor=unconfined", "box", "cat", "/proc/self/attr/current"),
        _run("--privileged", "box", "cat", "/proc/self/attr/current"),
    ],
    "devices": [
        _run("--device", "/dev/kmsg:/dev/message:r", "box", "stat", "-c", "%F %a %t:%T", "/dev/message"),
        _run("--device-cgroup-rule", "c 1:11 r", "box", "true"),
        _run("box", "sh", "-c", "mknod /tmp/mem c 1 1; : </tmp/mem"),
    ],
    "tmpfs": [
        _sh("grep scratch /proc/self/mountinfo | cut -d' ' -f4-6,7-", "--tmpfs", "/scratch:size=64k,mode=700"),
        _run("--tmpfs", "/etc", "box", "ls", "/etc"),
    ],
    "user namespaces": [
        _sh("id -u; cat /proc/self/uid_map; touch /x; stat -c %u /x", *MAPS),
        _sh("id -u; grep Cap /proc/self/status", *MAPS, "--user=1000:1000"),
    ],
    "user namespaces by their names": [  # keep-id and nomap: podman itself has them for people without root alone
        _sh(WHO, f"--userns={name}") for name in ("auto", "auto:size=2000", "host", "private", "keep-id", "nomap")
    ],
    "user namespaces of several ranges": [
        _sh(WHO, "--uidmap=0:100000:5000", "--uidmap=5000:200000:1000", "--gidmap=0:100000:6000"),
        _sh(WHO, "--gidmap=0:100000:5000"),
        _sh(WHO, "--uidmap=0:100000:5000", "--user=1000"),
        _sh(WHO, "--uidmap=1:100000:5000"),
        _sh(WHO, "--subuidname=containers", "--subgidname=containers"),
    ],
    "limits of the process": [
        _sh("ulimit -n; ulimit -Hn; ulimit -c", "--ulimit=nofile=100:200", "--ulimit=core=0", "--ulimit=nproc=9:99"),
    ],
    "kernel settings": [
        _run("--sysctl=net.ipv4.ip_forward=1", "--sysctl=kernel.msgmax=4096", "box", "cat",
             "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/msgmax"),
        _run("--sysctl=kernel.hostname=x", "box", "true"),
    ],
    "users, groups, directories": [
        _sh("id; pwd; echo $HOME; umask", "--user=1000:1000", "--group-add=5", "--workdir=/etc", "--umask=077"),
        _sh("cat /proc/self/oom_score_adj; hostname; echo $A", "--oom-score-adj=321", "--hostname=foo", "--env=A=b"),
    ],
    "namespaces of the host": [
        _sh("test $$ -gt 1 && echo host", "--pid=host"),
        _sh("hostname; ip addr | head -1", "--uts=host", "--ipc=host"),
        _run("--cgroupns=private", "box", "sh", "-c", "cat /proc/self/cgroup"),
    ],
    "limits of the cgroup": [
        _sh("cat /proc/self/cgroup | wc -l", "--memory=64m", "--memory-reservation=30m", "--cpu-shares=77"),
        _run("--memory=16m", "--memory-swap=16m", "box", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M"),
        _sh("for i in 1 2 3 4 5; do sleep 1 & done", "--pids-limit=4"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_a_container_is_what_it_is_with_runc(podman: Podman, name: str) -> None:
    podman.same(*ALIKE[name])


@pytest.mark.parametrize("options", [*rooms.VOLUME_OPTIONS, "unbindable", "runbindable", "nosuid,noexec,nodev"])
def test_a_volume_of_any_propagation(podman: Podman, options: str) -> None:
    volume = rooms.shared_volume(podman.room)
    podman.same(_run("-v", f"{volume}:/v:{options}", "box", "sh", "-c", rooms.LOOK_AT_VOLUME))


def test_limits_bind(podman: Podman) -> None:
    memory, _, *files = rooms.limit_files()
    found = podman.room.call("sh", "-c", "ls /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.controllers").text
    cpuset = ["0"] if "cpuset" in found.split() else []  # user-mode-linux has none
    if not cpuset:
        files.pop()
    flags = ("--memory=64m", "--cpus=0.5", "--pids-limit=20", *(f"--cpuset-cpus={one}" for one in cpuset))
    (said,) = podman.same(_run(*flags, "box", "cat", memory, *files))
    quota = ["50000", "100000"] if rooms.version2() else ["50000"]
    assert sorted(said.text.split()) == sorted(["67108864", *quota, "20", *cpuset])


SCRIPT = "trap 'echo got it; exit 3' TERM; echo begun; touch /ready; while :; do sleep 0.05; done"
LIFE: list[tuple[str, ...]] = [
    ("run", "-d", "--name", "life", "--network", "none", "box", "sh", "-c", SCRIPT),
    ("exec", "life", "sh", "-c", "until test -e /ready; do sleep 0.05; done"),
    ("exec", "life", "sh", "-c", "echo hi; exit 4"),
    ("exec", "-t", "life", "sh", "-c", "tty; test -t 0 && echo terminal"),
    ("exec", "--user=1000:1000", "--workdir=/etc", "--env=X=y", "life", "sh", "-c", "id; pwd; echo $X"),
    ("exec", "--workdir=/not/there", "life", "true"),
    ("exec", "--privileged", "life", "grep", "Cap", "/proc/self/status"),
    ("exec", "life", "/nonexistent"),
    ("exec", "life", "/etc/passwd"),
    ("exec", "-d", "life", "true"),
    ("stats", "--no-stream", "--format", "{{.Name}}", "life"),
    ("update", "--memory=50m", "--memory-swap=60m", "--cpus=0.3", "--pids-limit=33", "--cpu-shares=99", "life"),
    ("exec", "life", "cat", *rooms.limit_files()),
    ("pause", "life"),
    ("exec", "life", "true"),
    ("inspect", "--format", "{{.State.Status}}", "life"),
    ("unpause", "life"),
    ("stop", "-t", "20", "life"),
    ("wait", "life"),
    ("logs", "life"),
    ("start", "life"),
    ("restart", "-t", "1", "life"),
    ("kill", "life"),
    ("wait", "life"),
    ("rm", "-f", "life"),
]


def live(podman: Podman, steps: list[tuple[str, ...]]) -> None:
    said = dict(zip(steps, podman.same(*steps), strict=True))
    assert said["logs", "life"].text.split("\n") == ["begun", "got it"]
    assert said["wait", "life"].text == "137"


def test_a_life_with_exec_logs_stats_pause_kill_and_stop(podman: Podman) -> None:
    live(podman, LIFE)


def test_a_health_check_a_copy_and_a_commit(podman: Podman) -> None:
    health = ("--health-cmd", "test -e /bin/sh", "--health-interval", "disable")
    podman.same(
        ("run", "-d", "--name", "well", "--network", "none", *health, "box", "sleep", "100"),
        ("healthcheck", "run", "well"),
        ("cp", "/etc/hostname", "well:/etc/copied"),
        ("exec", "well", "cat", "/etc/copied"),
        ("commit", "-q", "well"),
        ("rm", "-f", "-t", "0", "well"),
    )


def test_created_initialised_and_started_one_after_the_other(podman: Podman) -> None:
    podman.same(
        ("create", "--name", "steps", "--network", "none", "box", "echo", "hello"),
        ("init", "steps"),
        ("inspect", "--format", "{{.State.Status}}", "steps"),
        ("start", "-a", "steps"),
        ("rm", "steps"),
    )


def _pod(*flags: str) -> tuple[str, ...]:
    """`pod create`; its first container is of the image that is there, so that none has to be built."""
    first = ("--infra-image", "box", "--infra-command", "/bin/sleep 600")
    # On version 2 the cgroup that podman itself makes for a pod lets no device in: no container starts there with runc.
    apart = ("--share-parent=false",) if rooms.version2() else ()
    return ("pod", "create", "--name", "pod", "--network", "none", *first, *flags, *apart)


LOOK_AROUND = """
hostname; ip addr | grep -c :; ps | grep -c '[s]leep 600'
readlink /proc/1/exe; ls /dev/shm; cat /proc/self/uid_map
"""


@pytest.mark.parametrize("flags", [
    ("--share=net,ipc,uts,pid",),
    ("--share=net", "--share-parent=false"),
    ("--share=uts,ipc",),
    ("--userns=auto", "--share=net,ipc,uts,pid"),
    ("--uidmap=0:100000:5000", "--share=ipc"),
], ids=lambda flags: flags[0].strip("-"))  # fmt: skip
def test_containers_of_a_pod_share_what_it_says(podman: Podman, flags: tuple[str, ...]) -> None:
    # A bridge takes what user-mode-linux has not.
    own = () if any("net" in flag for flag in flags) else ("--network", "none")
    begin = "touch /dev/shm/mine; exec sleep 600"
    steps = [
        _pod(*flags),
        ("run", "-d", "--pod", "pod", "--name", "one", *own, "box", "sh", "-c", begin),
        ("exec", "one", "sh", "-c", "until test -e /dev/shm/mine; do sleep 0.05; done"),
        ("run", "--rm", "--pod", "pod", *own, "box", "sh", "-c", LOOK_AROUND),
        ("exec", "one", "sh", "-c", LOOK_AROUND),
        ("pod", "top", "pod", "comm"),
        ("pod", "pause", "pod"),
        ("pod", "unpause", "pod"),
        ("pod", "kill", "pod"),
        ("pod", "start", "pod"),
        ("pod", "stop", "-t", "0", "pod"),
    ]
    said = {}
    for runtime in RUNTIMES:
        said[runtime] = [podman._plain(podman(runtime, *step)) for step in steps]
        deadline = time.monotonic() + 60
        while podman(runtime, "pod", "rm", "-f", "-t", "0", "pod").status:  # podman itself may be tidying up just now
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert said["ours"] == said["runc"]
    assert [one.status for one in said["ours"]] == [0] * len(steps)


def test_nothing_is_left_of_all_this(podman: Podman) -> None:
    assert podman("ours", "ps", "-aq").text == ""
    assert podman.room.call("sh", "-c", "ls /run/minicontainer/runtime").text == ""
    left = podman.room.call("sh", "-c", "find /sys/fs/cgroup -type d -name 'libpod-*'").text
    assert left == ""
