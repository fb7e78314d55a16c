"""Doctor: what the light lab needs of this computer, looked at before anything is made.

Stands on `nodes`; `lab` shows all of it, and `up` refuses to begin with the first that is missing. Each finding says
what is there, and what to do. Deciding is apart from looking, so that a test can show it any computer.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vagrant.nodes import Node

MACHINE_MIB = 300  # what a machine takes of this computer's memory: 200 under user-mode-linux, 300 under QEMU
IMAGE_MIB = 3000  # of disk, while the image is made
PROGRAMS = {
    "uml": ("linux.uml", "mmdebstrap", "mke2fs", "ssh", "ip", "nsenter"),
    "qemu": ("qemu-system-x86_64", "qemu-img", "mmdebstrap", "mke2fs", "ssh", "ip", "nsenter"),
}
PACKAGES = {
    "linux.uml": "user-mode-linux", "mke2fs": "e2fsprogs", "ssh": "openssh-client", "ip": "iproute2",
    "nsenter": "util-linux", "qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils",
}  # fmt: skip


class Computer(NamedTuple):
    """What was found."""

    architecture: str
    python: tuple[int, int]
    programs: frozenset[str]
    memory: int  # MiB that are free
    shared_memory: int  # MiB free in /dev/shm, where user-mode-linux keeps its machines' memory
    disk: int  # MiB free where the image is made
    has_tun: bool


class Finding(NamedTuple):
    what: str
    found: str
    fix: str = ""  # nothing to do, if it is empty


def look(cache: Path) -> Computer:
    """This computer."""
    known = {name for names in PROGRAMS.values() for name in names}
    place = next(path for path in (cache, *cache.parents) if path.exists())
    return Computer(
        architecture=platform.machine(),
        python=sys.version_info[:2],
        programs=frozenset(name for name in known if shutil.which(name)),
        memory=_available_memory(),
        shared_memory=shutil.disk_usage("/dev/shm").free >> 20 if os.path.isdir("/dev/shm") else 0,
        disk=min(shutil.disk_usage(path).free for path in (place, Path("/var/tmp"))) >> 20,
        has_tun=os.path.exists("/dev/net/tun"),
    )


def findings(computer: Computer, machines: list[Node], backend: str, image_is_made: bool) -> Iterator[Finding]:
    """Everything that matters, in the order in which it would fail."""
    is_ours = computer.architecture == "x86_64" and computer.python == (3, 11)
    kind = f"{computer.architecture}, Python {'.'.join(map(str, computer.python))}"
    yield Finding("computer", kind, "" if is_ours else "use Debian 12 on x86-64, or Vagrant: docs/how-to/vagrant.md")
    missing = [name for name in PROGRAMS[backend] if name not in computer.programs]
    packages = " ".join(PACKAGES.get(name, name) for name in missing)
    yield Finding(
        "programs", "all" if not missing else f"no {', '.join(missing)}", packages and f"apt-get install {packages}"
    )
    fix = "" if computer.has_tun else "modprobe tun; in a container: --device /dev/net/tun"
    yield Finding("/dev/net/tun", "there" if computer.has_tun else "not there", fix)
    needed = len(machines) * MACHINE_MIB
    yield Finding(
        "memory", f"{computer.memory} MiB free, {len(machines)} machines take some {needed}",
        "" if computer.memory >= needed else "end what takes it, or: ./dev lab up --workers 1",
    )  # fmt: skip
    if backend == "uml":
        whole = sum(node.memory for node in machines)
        yield Finding(
            "/dev/shm", f"{computer.shared_memory} MiB free, the machines' memory is {whole}",
            "" if computer.shared_memory >= whole else f"mount -o remount,size={whole + 256}M /dev/shm",
        )  # fmt: skip
    if not image_is_made:
        enough = computer.disk >= IMAGE_MIB
        fix = "" if enough else "make room in this checkout's file system and in /var/tmp"
        yield Finding("disk", f"{computer.disk} MiB free, making the image takes {IMAGE_MIB}", fix)


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    return 0
