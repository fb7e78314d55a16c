"""Machine: `info`, what there is here and what this computer lets us do.

Stands between `cli` and `engine`. Ruled by docker's `info`: its words, as far as they mean something here.
"""

import os
import platform
import sys
from typing import Any

from minicontainer import engine, reports
from minicontainer.arguments import Parsed
from minicontainer.containers import RUNNING, Home
from minicontainer.linux import procfs
from minicontainer.runtime import cgroups

NAMES = {  # docker's words in JSON: those for people
    "Containers": "Containers",
    "ContainersRunning": " Running",
    "ContainersPaused": " Paused",
    "ContainersStopped": " Stopped",
    "Images": "Images",
    "Driver": "Storage Driver",
    "LoggingDriver": "Logging Driver",
    "CgroupDriver": "Cgroup Driver",
    "CgroupVersion": "Cgroup Version",
    "Rootless": "Rootless",
    "KernelVersion": "Kernel Version",
    "OperatingSystem": "Operating System",
    "Architecture": "Architecture",
    "NCPU": "CPUs",
    "MemTotal": "Total Memory",
    "Name": "Name",
    "RootDir": "Root Dir",
}


def info(home: Home, parsed: Parsed) -> int:
    known = facts(home)
    if parsed.format:
        reports.show([known], NAMES, parsed.format, sys.stdout)
        return 0
    shown = {**known, "MemTotal": reports.size(known["MemTotal"])}
    print("".join(f"{name}: {str(shown[key]).lower() if key == 'Rootless' else shown[key]}\n"
                  for key, name in NAMES.items()), end="")  # fmt: skip
    return 0


def facts(home: Home) -> dict[str, Any]:
    """The containers and images of this home, and the computer that they are on."""
    held = engine.list_containers(home)
    running = [container for container in held if container.status == RUNNING]
    paused = [container for container in running if cgroups.is_frozen(container.cgroups)]
    return {
        "Containers": len(held),
        "ContainersRunning": len(running) - len(paused),
        "ContainersPaused": len(paused),
        "ContainersStopped": len(held) - len(running),
        "Images": len({descriptor.digest for _, descriptor, _, _ in engine.images(home)}),
        "Driver": "overlay",
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if cgroups.hierarchies().version2 else "1",
        "Rootless": procfs.in_user_namespace(),
        "KernelVersion": platform.release(),
        "OperatingSystem": _operating_system(),
        "Architecture": platform.machine(),
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "Name": platform.node(),
        "RootDir": home.data,
    }


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
