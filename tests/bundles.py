"""OCI bundles for tests: a busybox rootfs, a config.json as other engines write it, and a way to run one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minicontainer.runtime import creation, operations

OURS, RUNC = (sys.executable, "-m", "minicontainer.runtime.main"), ("runc",)
BUSYBOX = Path("/bin/busybox")
APPLETS = (
    "cat cut dd echo env false grep head hostname id ip kill ls mkdir mknod mount readlink sh sleep stat stty touch "
    "true tty wc"
)
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home/web:/bin/sh\n"
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"]
MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/sys/firmware"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
BASE = 200_000  # where the ids of a user namespace begin on the host

Json = dict[str, Any]
# What a security module has to hold for: edits of `process`.
PROCESSES: dict[str, Json] = {
    "root": {},
    "privileges may grow": {"noNewPrivileges": False},
    "a plain user": {"user": {"uid": 1000, "gid": 1000}},
    "no capability": {"capabilities": {}},
}
Edit = Callable[[Json], None]


class Outcome(NamedTuple):
    status: int
    text: str


def config(*args: str) -> Json:
    """A config.json like that of `runc spec`."""
    sets = ("bounding", "effective", "permitted")
    flags = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": list(args),
            "cwd": "/",
            "env": ["PATH=/usr/bin:/bin", "TERM=xterm"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": dict.fromkeys(sets, CAPABILITIES),
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*flags, "mode=1777"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": flags},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*flags, "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": MASKED,
            "readonlyPaths": READONLY,
        },
    }


def user_namespace(json: Json) -> None:
    """An edit: 65536 ids of the container's own."""
    mapping = [{"containerID": 0, "hostID": BASE, "size": 65536}]
    json["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    json["linux"]["namespaces"].append({"type": "user"})


def bundle(directory: Path, *args: str, edit: Edit | None = None) -> str:
    """A bundle in `directory`; its rootfs belongs to the container's root."""
    binaries = directory / "rootfs/bin"
    if not binaries.exists():
        binaries.mkdir(parents=True)
        shutil.copy(BUSYBOX, binaries / "busybox")
        for name in APPLETS.split():
            (binaries / name).symlink_to("busybox")
        (directory / "rootfs/etc").mkdir()
        (directory / "rootfs/etc/passwd").write_text(PASSWD)
    json_of = config(*args)
    if edit is not None:
        edit(json_of)
    (directory / "config.json").write_text(json.dumps(json_of))
    owner = BASE if any(one["type"] == "user" for one in json_of["linux"]["namespaces"]) else 0
    for path in (directory / "rootfs", *(directory / "rootfs").rglob("*")):
        os.lchown(path, owner, owner)
    return str(directory)


def run(directory: Path, *args: str, edit: Edit | None = None, **given: Any) -> Outcome:
    """Create, start, wait, delete: the exit status and what the program said."""
    made = bundle(directory, *args, edit=edit)
    root, name = str(directory / "states"), f"test-{os.getpid()}"
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        state = creation.create(root, name, made, stdio=(null, writer, writer), **given)
        operations.start(root, name)
        os.close(writer)
        writer = -1
        text = read_all(reader)
        status = os.waitstatus_to_exitcode(os.waitpid(state.pid, 0)[1])
    finally:
        operations.delete(root, name, force=True)
        for descriptor in (reader, null, writer):
            if descriptor >= 0:
                os.close(descriptor)
    return Outcome(status, text)


def sh(directory: Path, script: str, edit: Edit | None = None, **given: Any) -> str:
    """What a shell script in a container says; it must end with status 0."""
    outcome = run(directory, "sh", "-c", script, edit=edit, **given)
    assert outcome.status == 0, outcome
    return outcome.text


def call(runtime: Sequence[str], directory: Path, *arguments: str) -> Outcome:
    """What a runtime's command says and its exit status; its containers' states are in `directory`, where it runs."""
    command = [*runtime, "--root", str(directory / "states"), *arguments]
    with (directory / "said").open("w+") as said:  # no pipe: a container that goes on would hold it open
        done = subprocess.run(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False)
        said.seek(0)
        return Outcome(done.returncode, said.read())


def read_all(descriptor: int) -> str:
    parts = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    return b"".join(parts).decode()
