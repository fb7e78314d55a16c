"""Rooms for engines: a machine made of namespaces, in which podman, containerd or dockerd find nothing of the host's.

A room has mounts, processes, a network, cgroups and a /run of its own. Its first process is what all others die with,
so nothing that an engine leaves behind outlives a test.
"""

import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from minicontainer.linux import procfs
from minicontainer.oci.runtime import Resources
from minicontainer.plan import run
from minicontainer.runtime import cgroups

ROOT = Path(__file__).parents[1]
OURS = str(ROOT / ".venv/bin/minicontainer-runtime")
BUSYBOX = Path("/bin/busybox")
APPLETS = (
    "cat cut dd echo env false grep head hostname id ip kill ls mkdir mknod mount ps rm sh sleep sort stat touch "
    "true tty wc"
)
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home/web:/bin/sh\n"
# What engines write to outside the directories that they are told: covered, so that the host's own is left alone.
_COVERED = ("/run", "/var/lib/containers", "/var/lib/cni", "/etc/cni", "/dev/shm", "/var/lib/docker", "/etc/docker")
# Where a container reads its limits: memory, memory and swap, processors, processes, and which processors.
_LIMITS = {
    False: ("memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes", "cpu/cpu.cfs_quota_us",
            "pids/pids.max", "cpuset/cpuset.cpus"),
    True: ("memory.max", "memory.swap.max", "cpu.max", "pids.max", "cpuset.cpus"),
}  # fmt: skip
_FIRST = """
set -e
hostname room
ip link set lo up
for directory in {covered}; do mkdir -p $directory; mount -t tmpfs none $directory; done
{hierarchies}
echo ready
while :; do sleep 1000 & wait $!; done
"""


VOLUME_OPTIONS = ("ro", "private", "rprivate", "slave", "rslave", "shared", "rshared")  # that every engine knows
LOOK_AT_VOLUME = "grep ' /v ' /proc/self/mountinfo | cut -d' ' -f4-6,7 | sed 's/:[0-9]*//'; touch /v/x"


def version2() -> bool:
    """Whether this computer has cgroups of version 2 alone."""
    return cgroups.hierarchies().version2


def limit_files() -> list[str]:
    return [f"/sys/fs/cgroup/{name}" for name in _LIMITS[version2()]]


class Said(NamedTuple):
    status: int
    text: str


class Room(NamedTuple):
    """A machine of its own, by its first process."""

    first: int
    directory: Path
    joins: str  # shell commands by which a process enters the room's cgroups

    def call(self, *command: str, **environment: str) -> Said:
        """Run a command in the room: its status and all that it says."""
        done = subprocess.run(
            [*self._enter(), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            timeout=60,
            check=False,
        )
        return Said(done.returncode, done.stdout.decode(errors="replace").replace("\r", ""))

    def start(self, *command: str, **environment: str) -> None:
        """Start a daemon in the room; what it says goes to a file `daemon.log`."""
        with (self.directory / "daemon.log").open("ab") as log:
            subprocess.Popen([*self._enter(), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                             env=os.environ | environment)  # fmt: skip

    def _enter(self) -> list[str]:
        spaces = "--mount --net --ipc --uts --pid --cgroup"
        return ["sh", "-c", f'{self.joins}exec nsenter --target {self.first} {spaces} -- "$@"', "enter"]


@contextmanager
def room(directory: Path) -> Iterator[Room]:
    """A room on a host with cgroup version 1, version 2, or both."""
    found = cgroups.hierarchies()
    directories = cgroups.resolve(found, f"minicontainer-room-{os.getpid()}")
    run(cgroups.make(directories, Resources(), found.version2, devices=False))
    inner = "/first" if found.version2 else ""  # of version 2: a cgroup with processes has no children with controllers
    made = [path for path in _COVERED if not os.path.isdir(path)]
    begins, joins = (
        "".join(f"echo $$ >{path}{below}/cgroup.procs; " for path in directories.values()) for below in ("", inner)
    )
    script = directory / "first.sh"
    script.write_text(_FIRST.format(covered=" ".join(_COVERED), hierarchies="\n".join(_hierarchies())))
    unshare = "unshare --mount --net --ipc --uts --pid --cgroup --fork --kill-child --mount-proc --propagation private"
    with subprocess.Popen(
        ["sh", "-c", f"{begins} exec {unshare} sh {script}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(directory / "room.log").open("wb"),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", (directory / "room.log").read_text()
            if inner:
                _divide(directories[cgroups.UNIFIED], inner)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield Room(first=int(children[0]), directory=directory, joins=joins)
        finally:
            process.kill()
            process.wait()
            cgroups.signal_all(directories, signal.SIGKILL)
            cgroups.remove(directories)
            for path in made:  # what had to be there to be covered
                with suppress(OSError):
                    os.removedirs(path)


def _divide(path: str, inner: str) -> None:
    """The cgroup that a room sees as its root, for children with every controller: its processes go into one."""
    os.mkdir(f"{path}{inner}")
    while pids := cgroups.read(f"{path}/cgroup.procs").split():  # again: one may have forked before it was moved
        for pid in pids:
            with suppress(ProcessLookupError):
                cgroups.write(f"{path}{inner}/cgroup.procs", pid)
    every = " ".join(f"+{name}" for name in cgroups.read(f"{path}/cgroup.controllers").split())
    cgroups.write(f"{path}/cgroup.subtree_control", every)


def _hierarchies() -> Iterator[str]:
    """Shell commands that mount each cgroup hierarchy of the host where the host has it."""
    entries = [entry for entry in procfs.mountinfo() if entry.fstype in ("cgroup", "cgroup2")]
    if any(entry.fstype == "cgroup" for entry in entries):
        yield "mount -t tmpfs none /sys/fs/cgroup"
    else:
        yield "umount --lazy /sys/fs/cgroup"  # it is mounted there once
    for entry in entries:
        options = ",".join(name for name in entry.super_options.split(",") if name not in ("rw", "ro", "xattr"))
        given = f"-o {options}" if entry.fstype == "cgroup" else ""
        yield f"mkdir -p {entry.target}; mount -t {entry.fstype} {given} none {entry.target}"


def root_archive(directory: Path) -> Path:
    """A tar of a root file system with busybox, for `import`."""
    rootfs, archive = directory / "rootfs", directory / "rootfs.tar"
    (rootfs / "bin").mkdir(parents=True)
    (rootfs / "etc").mkdir()
    shutil.copy(BUSYBOX, rootfs / "bin/busybox")
    for name in APPLETS.split():
        (rootfs / "bin" / name).symlink_to("busybox")
    (rootfs / "etc/passwd").write_text(PASSWD)
    (rootfs / "etc/empty").write_text("")
    with tarfile.open(archive, "w") as file:
        file.add(rootfs, ".")
    return archive


def shared_volume(room: Room) -> Path:
    """The room's volume, as a mount of its own that mounts can pass to and from."""
    volume = room.directory / "volume"
    room.call("sh", "-c", f"mountpoint -q {volume} || mount --bind {volume} {volume}; mount --make-shared {volume}")
    return volume
