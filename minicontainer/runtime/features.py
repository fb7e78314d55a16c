"""Features: what this runtime can do, and a config.json to begin with.

Stands beside the tables that say so; pure but for the user's ids. Ruled by runtime-spec features.md, features-linux.md
and config.md.
"""

import os

from minicontainer.linux.flags import CAPABILITIES
from minicontainer.oci.runtime import NEWEST_VERSION, OCI_VERSION, Hooks
from minicontainer.runtime import checks, scheduling, seccomp
from minicontainer.runtime.mount_options import ATTRIBUTES, OWN_OPTIONS, PROPAGATION, WITHOUT_EFFECT
from minicontainer.values import Any

_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_OF_THE_FILE_SYSTEM = ("dirsync", "lazytime", "mand", "sync")  # fsconfig(2) takes them as they are
_HOST_DETAILS = ("acpi", "asound", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi")


def features() -> dict[str, Any]:
    assert len(_HOOKS) == len(Hooks._fields)
    options = {
        *ATTRIBUTES,
        *(f"r{name}" for name in ATTRIBUTES),
        *PROPAGATION,
        *OWN_OPTIONS,
        *WITHOUT_EFFECT,
        *_OF_THE_FILE_SYSTEM,
    }
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": NEWEST_VERSION,
        "hooks": list(_HOOKS),
        "mountOptions": sorted(options),
        "linux": {
            "namespaces": sorted(checks.NAMESPACES),
            "capabilities": list(CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(seccomp.ACTIONS),
                "operators": sorted(f"SCMP_CMP_{name}" for name in seccomp.COMPARE),
                "archs": sorted({name for names in seccomp.ARCHITECTURES.values() for name in names}),
                "knownFlags": sorted(seccomp.FLAGS),
                "supportedFlags": sorted(seccomp.FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "memoryPolicy": {"modes": sorted(scheduling.MODES), "flags": sorted(scheduling.MODE_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {},
    }


def default_config(rootless: bool) -> dict[str, Any]:
    """A shell on a terminal in namespaces of its own, with the privileges of a plain daemon."""
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    linux: dict[str, Any] = {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": [*(f"/proc/{name}" for name in _HOST_DETAILS), "/sys/firmware"],
        "readonlyPaths": [f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger")],
    }
    if rootless:
        del linux["resources"]
        linux["namespaces"] = [{"type": kind} for kind in kinds if kind != "network"] + [{"type": "user"}]
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "minicontainer",
        "mounts": _mounts(rootless),
        "linux": linux,
    }


def _mounts(rootless: bool) -> list[dict[str, Any]]:
    def mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": source, "options": list(options)}

    safe = ("nosuid", "noexec", "nodev")
    group = () if rootless else ("gid=5",)
    sys = (
        mount("/sys", "none", "/sys", "rbind", *safe, "ro")
        if rootless
        else mount("/sys", "sysfs", "sysfs", *safe, "ro")
    )
    return [
        mount("/proc", "proc", "proc"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "devpts", *safe[:2], "newinstance", "ptmxmode=0666", "mode=0620", *group),
        mount("/dev/shm", "tmpfs", "shm", *safe, "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", *safe),
        sys,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", *safe, "relatime", "ro"),
    ]
