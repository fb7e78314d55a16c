"""Checks of a config.json before anything is made: what it asks for must be possible, and is refused by name if not.

Stands between the spec as a value and the runtime. Ruled by runtime-spec config.md and config-linux.md. Pure.
"""

from collections.abc import Callable, Iterator

from minicontainer.errors import Error
from minicontainer.linux.flags import (
    CAPABILITIES,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    RLIMITS,
)
from minicontainer.oci.runtime import Capabilities, Hooks, Linux, Mount, Process, Resources, Spec

NAMESPACES = {  # type in config.json: flag of clone(2), name in /proc/PID/ns
    "user": (CLONE_NEWUSER, "user"),
    "mount": (CLONE_NEWNS, "mnt"),
    "pid": (CLONE_NEWPID, "pid"),
    "network": (CLONE_NEWNET, "net"),
    "ipc": (CLONE_NEWIPC, "ipc"),
    "uts": (CLONE_NEWUTS, "uts"),
    "cgroup": (CLONE_NEWCGROUP, "cgroup"),
    "time": (CLONE_NEWTIME, "time"),
}  # fmt: skip
CLOCKS = {"monotonic", "boottime"}
PROPAGATIONS = {
    f"{recursive}{kind}" for recursive in ("", "r") for kind in ("private", "shared", "slave", "unbindable")
}
# Kernel settings that belong to a namespace: sysctl of proc_sys(5), and the namespace that has its own.
SYSCTLS = {
    "kernel.msgmax": "ipc",
    "kernel.msgmnb": "ipc",
    "kernel.msgmni": "ipc",
    "kernel.sem": "ipc",
    "kernel.shmall": "ipc",
    "kernel.shmmax": "ipc",
    "kernel.shmmni": "ipc",
    "kernel.shm_rmid_forced": "ipc",
    "kernel.domainname": "uts",
}  # fmt: skip
_SYSCTL_TREES = {"fs.mqueue.": "ipc", "net.": "network"}


def check(spec: Spec, has_console: bool) -> None:
    """Raise an Error that names the first thing in `spec` that cannot be had."""
    scheduling = _scheduling(spec.process, spec.linux)
    if spec.oci_version.split(".")[0] != "1" or spec.oci_version.count(".") < 2:
        raise Error(
            f"config.json: ociVersion {spec.oci_version!r} is not of the versions 1.x.y that this runtime knows"
        )
    for complaint in (
        *_process(spec.process, has_console),
        *scheduling,
        *_linux(spec),
        *_mounts(spec),
        *_hooks(spec.hooks),
    ):
        raise Error(f"config.json: {complaint}")


def warn(process: Process, tell: Callable[[str], None] | None) -> None:
    if tell is not None:
        for text in warnings(process):
            tell(text)


def warnings(process: Process) -> Iterator[str]:
    """What cannot be had and is left out, as the specification wants it: capabilities that are unknown here."""
    for name, asked in (process.capabilities or Capabilities())._asdict().items():
        for place, capability in enumerate(asked):
            if capability not in CAPABILITIES:
                yield f"process.capabilities.{name}[{place}]: {capability!r} is unknown and left out"


def check_process(process: Process, has_console: bool) -> None:
    """The same for a further process."""
    for complaint in (*_process(process, has_console), *_scheduling(process, Linux())):
        raise Error(f"process: {complaint}")


def _scheduling(process: Process, linux: Linux) -> Iterator[str]:
    asked = (process.scheduler, process.io_priority, linux.personality, linux.memory_policy)
    if asked != (None, None, None, None):
        from minicontainer.runtime import scheduling  # few containers ask for any of it

        yield from scheduling.complaints(process, linux)


def _process(process: Process, has_console: bool) -> Iterator[str]:
    if not process.args:
        yield "process.args is empty; try: a command"
    if not process.cwd.startswith("/"):
        yield f"process.cwd {process.cwd!r} is not an absolute path"
    for place, variable in enumerate(process.env):
        if variable.find("=") < 1:
            yield f"process.env[{place}]: invalid environment variable {variable!r}; try: NAME=VALUE"
    if process.terminal and not has_console:
        yield "process.terminal needs a socket that takes the terminal; try: --console-socket, or terminal false"
    if has_console and not process.terminal:
        yield "a console socket is given, and process.terminal is false"
    if process.apparmor_profile or process.selinux_label:
        from minicontainer.runtime import labels  # few hosts have them

        yield from labels.complaints(process)
    for limit in process.rlimits:
        if limit.type not in RLIMITS:
            yield f"process.rlimits: {limit.type} is unknown; try: RLIMIT_NOFILE"
        elif limit.soft > limit.hard:
            yield f"process.rlimits: {limit.type} is {limit.soft}, which is above its own hard limit {limit.hard}"
    if len({limit.type for limit in process.rlimits}) != len(process.rlimits):
        yield "process.rlimits names one limit twice"


def _linux(spec: Spec) -> Iterator[str]:
    linux = spec.linux
    kinds = [namespace.type for namespace in linux.namespaces]
    yield from (f"linux.namespaces: {kind!r} is not supported by this runtime" for kind in set(kinds) - set(NAMESPACES))
    if len(set(kinds)) != len(kinds):
        yield "linux.namespaces names one kind twice"
    mount = linux.namespace("mount")
    if mount is None or mount.path:
        yield "linux.namespaces must ask for a new mount namespace: the rootfs is mounted there"
    if (spec.hostname or spec.domainname) and linux.namespace("uts") is None:
        yield "hostname and domainname need a uts namespace"
    user = linux.namespace("user")
    if user and not user.path and not (linux.uid_mappings and linux.gid_mappings):
        yield "a new user namespace needs linux.uidMappings and linux.gidMappings"
    if not user and (linux.uid_mappings or linux.gid_mappings):
        yield "linux.uidMappings and linux.gidMappings need a user namespace"
    if linux.rootfs_propagation and linux.rootfs_propagation not in PROPAGATIONS:
        yield f"linux.rootfsPropagation {linux.rootfs_propagation!r} is unknown; try: rslave"
    if linux.mount_label:
        from minicontainer.runtime import labels  # few hosts have them

        yield from labels.complaints_of_context("linux.mountLabel", linux.mount_label)
    yield from (
        f"linux.devices: {device.path} is of no known type" for device in linux.devices if device.type not in "cubp"
    )
    for place, namespace in enumerate(linux.namespaces):
        if namespace.path and not namespace.path.startswith("/"):
            yield f"linux.namespaces[{place}].path: {namespace.path!r} is not an absolute path"
    for field, paths in (("maskedPaths", linux.masked_paths), ("readonlyPaths", linux.readonly_paths)):
        for place, path in enumerate(paths):
            if not path.startswith("/"):
                yield f"linux.{field}[{place}]: {path!r} is not an absolute path"
    if linux.net_devices:
        from minicontainer.runtime import net_devices  # few containers ask for it

        yield from net_devices.complaints(linux)
    yield from _sysctls(linux)
    yield from _clocks(linux)
    yield from _resources(linux.resources)


def _resources(resources: Resources) -> Iterator[str]:
    for place, device in enumerate(resources.block_io.weight_device):
        if device.weight is None and device.leaf_weight is None:
            yield f"linux.resources.blockIO.weightDevice[{place}] has neither weight nor leafWeight"
    for name, limit in resources.rdma.items():
        if limit.hca_handles is None and limit.hca_objects is None:
            yield f"linux.resources.rdma.{name} has neither hcaHandles nor hcaObjects"


def _clocks(linux: Linux) -> Iterator[str]:
    time = linux.namespace("time")
    if linux.time_offsets and (time is None or time.path):
        yield "linux.timeOffsets needs a new time namespace"
    yield from (f"linux.timeOffsets: the clock {name!r} is unknown" for name in set(linux.time_offsets) - CLOCKS)


def _sysctls(linux: Linux) -> Iterator[str]:
    for name in linux.sysctl:
        dotted = name.replace("/", ".")
        trees = [kind for tree, kind in _SYSCTL_TREES.items() if dotted.startswith(tree)]
        kind = SYSCTLS.get(dotted) or next(iter(trees), "")
        if not kind or ".." in name:
            yield f'sysctl "{name}" is not in a separate kernel namespace'
        elif linux.namespace(kind) is None:
            yield f'sysctl "{name}" is not allowed without a {kind} namespace of the container\'s own'


def _mounts(spec: Spec) -> Iterator[str]:
    for mount in spec.mounts:
        if "remount" in mount.options:
            yield f"mounts: {mount.destination} is to be remounted: this runtime makes mounts only; try: one mount"
        yield from _idmap(mount)


def _hooks(hooks: Hooks) -> Iterator[str]:
    for kind, given in hooks._asdict().items():
        for place, hook in enumerate(given):
            if not hook.path.startswith("/"):
                yield f"hooks.{kind}[{place}].path: {hook.path!r} is not an absolute path"
            if hook.timeout is not None and hook.timeout <= 0:
                yield f"hooks.{kind}[{place}].timeout: {hook.timeout} is not above zero"


def _idmap(mount: Mount) -> Iterator[str]:
    given = (mount.uid_mappings, mount.gid_mappings)
    if given == ((), ()):
        return
    if () in given:
        yield f"mounts: {mount.destination} needs both uidMappings and gidMappings, or none"
    if not {"bind", "rbind"} & {mount.type, *mount.options}:
        yield f"mounts: {mount.destination} has id mappings and is not a bind mount"
