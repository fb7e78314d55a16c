"""The same bundles on us and on runc: what a program in them sees must be the same."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import bundles
from tests.bundles import Json

pytestmark = pytest.mark.kernel()

AMBIENT = ["CAP_KILL", "CAP_NET_RAW", "CAP_CHECKPOINT_RESTORE"]
OURS = [sys.executable, "-m", "minicontainer.runtime.main"]
ROOT = str(Path(__file__).parents[2])
LOOK = """
grep -E "Cap|NoNew|Secc|Groups|Sig(Ign|Blk)|Umask|Uid|Gid" /proc/self/status
cat /proc/self/limits /proc/self/oom_score_adj
cut -d" " -f4-6,7- /proc/self/mountinfo | grep -v /sys/fs/cgroup | sort
for path in /proc/kcore /proc/keys /proc/acpi /sys/firmware /proc/sys /proc/bus; do ls -ld $path; done 2>&1
ls -ld / /dev /dev/* /dev/pts/* /proc /sys
cat /proc/self/cgroup; env | sort; hostname; ip addr
echo x > /proc/sys/kernel/hostname; touch /x /dev/x; mknod /dev/disk b 254 0
"""


def _plain(config: Json) -> None:
    config["process"]["cwd"] = "/bin"


def _shared_cgroup_namespace(config: Json) -> None:
    config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "cgroup"]


def _user(config: Json) -> None:
    config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5, 6], "umask": 0o77}
    config["process"]["noNewPrivileges"] = False
    config["process"]["oomScoreAdj"] = 500
    config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]


def _readonly(config: Json) -> None:
    config["root"]["readonly"] = True
    config["linux"]["rootfsPropagation"] = "rprivate"
    config["mounts"] += [
        {"destination": "/etc/host", "type": "bind", "source": "/etc/hostname", "options": ["bind", "ro", "nosuid"]},
        {"destination": "/tmp/deep", "type": "tmpfs", "source": "tmpfs", "options": ["size=4k", "nodev", "noatime"]},
    ]


def _ambient(config: Json) -> None:
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    config["process"]["capabilities"] = dict.fromkeys(sets, AMBIENT)
    config["process"]["user"] = {"uid": 7, "gid": 8}


def _everything(config: Json) -> None:
    every = [f"CAP_{name}" for name in ("SYS_ADMIN", "SYS_PTRACE", "MKNOD", "NET_ADMIN", "SYS_CHROOT", "DAC_OVERRIDE")]
    config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), every)
    config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}


def _seccomp(config: Json) -> None:
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    config["process"]["args"][2] += "mkdir /y"


def _user_namespace(config: Json) -> None:
    bundles.user_namespace(config)


def _call(runtime: list[str], directory: Path, *arguments: str) -> tuple[int, str]:
    """Run a command of a runtime: its status and all that it says; a file takes it, as a container may outlive it."""
    with (directory / "said").open("w+") as said:
        done = subprocess.run(
            [*runtime, "--root", str(directory / "states"), *arguments],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, "PYTHONPATH": ROOT},
            check=False,
        )
        said.seek(0)
        return done.returncode, said.read()


def _seen(runtime: list[str], directory: Path, name: str) -> tuple[int, list[str]]:
    """What `run` says, less what differs between any two runs: device numbers, dates, counts of entries."""
    status, said = _call(runtime, directory, "run", name)
    said = re.sub(r"\b0:\d+\b|\w{3} +\d+ \d\d:\d\d", "_", said)
    said = re.sub(r"(?m)^(d.{9}) +\d+", r"\1", said)
    said = re.sub(r"(?m)^(.* root) +65534(.* /dev/mqueue)$", r"\1     0    \2", said)  # runc leaves its group unmapped
    # Sorted: runc copies output and errors through pipes of its own, in any order.
    # How long a directory is depends on its file system, and on what ran in it before.
    lengthless = re.sub(r"(?m)^(d\S+\s+\S+\s+\S+\s+)\d+", r"\1", said.replace(",nr_inodes=1", ""))
    return status, sorted(lengthless.splitlines())


@pytest.mark.parametrize(
    "edit",
    [_plain, _shared_cgroup_namespace, _user, _readonly, _ambient, _everything, _seccomp, _user_namespace],
    ids=lambda edit: edit.__name__.strip("_"),
)
def test_a_program_sees_the_same_as_under_runc(tmp_path: Path, edit: Callable[[Json], None]) -> None:
    assert shutil.which("runc"), "runc is what we compare with: apt-get install runc"
    bundles.bundle(tmp_path, "sh", "-c", LOOK, edit=edit)
    (tmp_path / "rootfs/bin/sort").symlink_to("busybox")
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o711)  # runc has to reach the rootfs as the container's root
    tmp_path.chmod(0o711)
    name = f"beside-{os.getpid()}"
    theirs = _seen(["runc"], tmp_path, name)
    ours = _seen(OURS, tmp_path, name)
    assert ours == theirs


@pytest.mark.parametrize("program", ["/nonexistent", "nonexistent", "/etc/passwd"])
def test_a_program_that_cannot_run_is_worded_alike(tmp_path: Path, program: str) -> None:
    bundles.bundle(tmp_path, program)
    name = f"beside-{os.getpid()}"
    status, said = _seen(["runc"], tmp_path, name)
    wanted = re.search(r"exec: .*", "\n".join(said).replace("\\", ""))
    assert wanted is not None
    our_status, our_words = _seen(OURS, tmp_path, name)
    assert our_status == status
    assert our_words[0].endswith(wanted[0].strip('"')) or wanted[0].rstrip('"') in our_words[0]


def test_the_same_statuses_and_the_same_state(tmp_path: Path) -> None:
    bundles.bundle(tmp_path, "sleep", "60")
    name = f"beside-{os.getpid()}"

    def steps(runtime: list[str]) -> list[object]:
        found: list[object] = []
        for arguments in (
            ["create", name],
            ["state", name],
            ["delete", "nothing"],
            ["start", name],
            ["start", name],
            ["delete", name],
            ["exec", name, "sh", "-c", "exit 5"],
            ["exec", name, "/nonexistent"],
            ["pause", name],
            ["state", name],
            ["exec", name, "true"],
            ["resume", name],
            ["kill", name, "KILL"],
            ["delete", "--force", name],
            ["delete", "--force", name],
            ["state", name],
            ["list", "-q"],
        ):
            status, said = _call(runtime, tmp_path, *arguments)
            state = json.loads(said) if arguments[0] == "state" and status == 0 else {}
            found.append((arguments[0], status, state.get("status"), state.get("bundle"), "pid" in state))
        return found

    assert steps(OURS) == steps(["runc"])
