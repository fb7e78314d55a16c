"""Cgroups: one interface over version 1, version 2 and a host with both.

Stands between the spec's resources and the kernel's files. Ruled by cgroups(7), the kernel's admin-guide/cgroup-v1 and
cgroup-v2.rst, runtime-spec config-linux.md (Control groups). What to write is decided by `resources` and `devices`; few
files are written, since every start waits for them. A path is a mapping of controllers to directories: one directory
for each hierarchy of version 1, one with the empty name for version 2.
"""

import errno
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from minicontainer.errors import Error
from minicontainer.linux import procfs
from minicontainer.oci.runtime import Resources, Spec
from minicontainer.plan import Plan, Step
from minicontainer.runtime.devices import line, program, rules_of, transition
from minicontainer.runtime.resources import MAX, Setting, controllers, settings
from minicontainer.values import Any, NamedTuple

_DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")  # config-linux.md, Cgroup ownership
_GONE = (errno.ENOENT, errno.ENODEV)  # of a cgroup that was removed, before its file was opened, or after
UNIFIED = ""  # the name of version 2 among the controllers


class Hierarchies(NamedTuple):
    """Where the kernel shows cgroups: the mount point of each controller, and the caller's own cgroup below it."""

    mounts: Mapping[str, str]
    own: Mapping[str, str]
    version2: bool  # version 2 alone: the controllers are there


class Usage(NamedTuple):
    memory_bytes: int
    cpu_ns: int
    pids: int


class Limits(NamedTuple):
    """What the kernel enforces; None is no limit."""

    memory: int | None
    cpu_quota: int | None
    cpu_period: int
    pids: int | None


# Where


def hierarchies() -> Hierarchies:
    """The hierarchies of this host as the caller sees them."""
    mounts: dict[str, str] = {}
    roots: dict[str, str] = {}
    for entry in procfs.mountinfo():
        names: Iterable[str] = ()
        if entry.fstype == "cgroup2":
            names = (UNIFIED,)
        elif entry.fstype == "cgroup":
            names = [name for name in entry.super_options.split(",") if name not in ("rw", "ro", "xattr")]
        for name in names:
            mounts.setdefault(name, entry.target)
            roots.setdefault(name, entry.root)
    own = {}
    for membership in procfs.cgroups():
        for name in membership.controllers or (UNIFIED,):
            if name in mounts:
                own[name] = membership.path.removeprefix(roots[name].rstrip("/")) or "/"
    if not own:
        raise Error("no cgroup file system is mounted; try: mount -t cgroup2 none /sys/fs/cgroup")
    return Hierarchies(mounts=mounts, own=own, version2=set(own) == {UNIFIED})


def resolve(found: Hierarchies, path: str) -> dict[str, str]:
    """The directory of `path` in each hierarchy: an absolute path from its root, another below the caller's own cgroup.

    On version 2 a cgroup with processes has no children with controllers: there it is beside the caller's own.
    """
    if not path or ".." in path.split("/"):
        raise Error(f"the cgroup path {path!r} leads nowhere; try: a path without '..'")
    directories = {}
    for controller, own in found.own.items():
        base = os.path.dirname(own) if found.version2 else own
        relative = path if path.startswith("/") else f"{base}/{path}"
        directories[controller] = os.path.normpath(f"{found.mounts[controller]}/{relative}")
    return directories


def own_directories(found: Hierarchies) -> dict[str, str]:
    """The cgroup of the caller in each hierarchy."""
    return {controller: f"{found.mounts[controller]}{own}" for controller, own in found.own.items()}


def below(directories: Mapping[str, str], paths: Iterable[str]) -> dict[str, str]:
    """The directories of cgroups below these, each as PATH or CONTROLLER:PATH."""
    found = dict(directories)
    for given in paths:
        controllers, colon, path = given.rpartition(":")
        names = controllers.split(",") if colon else list(found)
        if ".." in path.split("/") or not set(names) <= set(found):
            raise Error(f"--cgroup {given!r} names no cgroup of the container; try: a path below it")
        found |= {name: os.path.normpath(f"{directories[name]}/{path}") for name in names}
    return found


# Make, join, measure, remove


def make(directories: Mapping[str, str], resources: Resources, version2: bool, devices: bool = True) -> Plan[None]:
    """Make a cgroup and set its limits, before a process is in it."""
    for controller, directory in directories.items():
        yield Step(make_directory, (directory,), "a directory here is a cgroup: its files will hold the limits")
        if controller == "cpuset" and not version2:
            yield Step(inherit_cpuset, (directory,), "a new cpuset is empty, and an empty one lets no process in")
    wanted = settings(resources, version2)
    if version2:
        yield from hand_down(directories, wanted)
    if devices and "devices" in directories:
        for rule in rules_of(resources):
            path = f"{directories['devices']}/devices.{'allow' if rule.allow else 'deny'}"
            yield Step(write, (path, line(rule)), "config.json: linux.resources.devices")
    yield from limit(directories, wanted, version2)
    if devices and version2 and not procfs.in_user_namespace():  # no device can be made there anyway
        arguments = (directories[UNIFIED], program(rules_of(resources)))
        yield Step(attach_devices, arguments, "only these devices may be opened or made")


def hand_down(directories: Mapping[str, str], wanted: Iterable[Setting]) -> Plan[None]:
    names = tuple(sorted(controllers(wanted)))
    yield Step(enable, (directories[UNIFIED], names), "its parents hand these controllers down")


def limit(directories: Mapping[str, str], wanted: Iterable[Setting], version2: bool) -> Plan[None]:
    """Write the settings of a cgroup that is there."""
    for setting in wanted:
        where = directories.get(UNIFIED if version2 else setting.controller)
        if where is None:
            raise Error(f"{setting.file} is asked for, and this host has no {setting.controller} cgroup controller")
        file, value = setting.file, setting.value
        if setting.otherwise is not None and not os.path.exists(f"{where}/{file}"):
            file, value = setting.otherwise
        yield Step(write, (f"{where}/{file}", value), f"what config.json says in linux.resources.{setting.controller}")


def change_devices(directories: Mapping[str, str], resources: Resources, version2: bool) -> Plan[None]:
    """Put new device rules in place of the old ones, with no moment in between at which more or less is allowed."""
    if version2:
        arguments = (directories[UNIFIED], program(rules_of(resources)))
        yield Step(attach_devices, arguments, "these devices and no others: one program takes the other's place")
    elif "devices" in directories:
        current = read(f"{directories['devices']}/devices.list").splitlines()
        for allow, text in transition(current, rules_of(resources)):
            path = f"{directories['devices']}/devices.{'allow' if allow else 'deny'}"
            yield Step(write, (path, text), "what is new is allowed before what is old is denied")


def owner(spec: Spec) -> int | None:
    """The host's id of the user who is to own the cgroup of version 2: config-linux.md, Cgroup ownership.

    None unless it is mounted to be written to, in a cgroup namespace of its own.
    """
    namespace, uid = spec.linux.namespace("cgroup"), spec.process.user.uid
    place = ("cgroup", "/sys/fs/cgroup")
    writes = any((one.source, one.destination) == place and "ro" not in one.options for one in spec.mounts)
    if namespace is None or namespace.path or not writes:
        return None
    for one in spec.linux.uid_mappings:
        if one.container_id <= uid < one.container_id + one.size:
            return one.host_id + uid - one.container_id
    return uid


def delegate(directory: str, uid: int) -> Plan[None]:
    """Give a cgroup of version 2 to a user who may make others below it: cgroups(7), Cgroup delegation."""
    yield Step(os.chown, (directory, uid, -1), "who sees this cgroup as its root, and may write there, may divide it")
    try:
        names = read("/sys/kernel/cgroup/delegate").split()
    except FileNotFoundError:
        names = list(_DELEGATED)
    for path in (f"{directory}/{name}" for name in names):
        if os.path.exists(path):
            yield Step(os.chown, (path, uid, -1), "of its files only these: the limits stay the host's")


def make_directory(path: str) -> None:
    """mkdir with parents; again, when a neighbour's removal took the parent away in between."""
    for _ in range(100):
        with suppress(FileNotFoundError, FileExistsError):
            if not os.path.isdir(parent := os.path.dirname(path)):
                make_directory(parent)
            os.mkdir(path, 0o755)
            os.chmod(
                path, 0o755
            )  # whatever the umask: to mount its view, the container's root walks down to its cgroup
            return
        if os.path.isdir(path):
            return
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(descriptor)


def read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 16).decode().strip()
    finally:
        os.close(descriptor)


def inherit_cpuset(directory: str) -> None:
    """Give each empty cpuset from the top downwards what its parent has."""
    parent = os.path.dirname(directory)
    if not os.path.exists(f"{parent}/cpuset.cpus"):
        return
    files = ("cpuset.cpus", "cpuset.mems")
    if not all(read(f"{parent}/{file}") for file in files):  # both: who makes the parent just now writes one by one
        inherit_cpuset(parent)
    for file in files:
        if not read(f"{directory}/{file}"):
            write(f"{directory}/{file}", read(f"{parent}/{file}"))


def enable(directory: str, controllers: Iterable[str]) -> None:
    """Enable controllers for the children of each parent that lacks them: cgroup-v2.rst, Enabling and Disabling."""
    parent = os.path.dirname(directory)
    if not os.path.exists(f"{parent}/cgroup.subtree_control"):
        return
    missing = set(controllers) - set(read(f"{parent}/cgroup.subtree_control").split())
    if missing:
        enable(parent, controllers)
        for controller in sorted(missing & set(read(f"{parent}/cgroup.controllers").split())):
            write(f"{parent}/cgroup.subtree_control", f"+{controller}")


def attach_devices(directory: str, program: bytes) -> None:
    """Attach a device program to a cgroup of version 2, in place of those that it has: bpf(2), BPF_F_REPLACE."""
    from minicontainer.linux import syscalls  # 3 ms, for version 2

    cgroup, loaded = os.open(directory, os.O_RDONLY | os.O_CLOEXEC), syscalls.bpf_load_device_program(program)
    old = syscalls.bpf_device_programs(cgroup)
    try:
        syscalls.bpf_attach_device_program(cgroup, loaded, old[0] if len(old) == 1 else -1)
        for one in old if len(old) > 1 else ():  # each of them must allow: the new one holds already
            syscalls.bpf_detach_device_program(cgroup, one)
    finally:
        for descriptor in (cgroup, loaded, *old):
            os.close(descriptor)


def join(directories: Mapping[str, str], pid: int) -> Plan[None]:
    """Put a process into the cgroup; version 2 has it already, from clone3."""
    for controller, directory in directories.items():
        if controller != UNIFIED:
            yield Step(write, (f"{directory}/cgroup.procs", str(pid)), "from now on its limits hold for the process")


def processes(directories: Mapping[str, str]) -> set[int]:
    """The pids in the cgroup and in those below it."""
    for directory in directories.values():
        found: set[int] = set()
        for path in _tree(directory):
            with suppress(FileNotFoundError, OSError):
                found.update(map(int, read(f"{path}/cgroup.procs").split()))
        return found
    return set()


def signal_all(directories: Mapping[str, str], number: int) -> None:
    """Send a signal to every process in the cgroup; SIGKILL at once to all, where the kernel can."""
    killer = f"{directories.get(UNIFIED, '')}/cgroup.kill"
    if number == signal.SIGKILL and UNIFIED in directories and os.path.exists(killer):
        write(killer, "1")
        return
    for pid in processes(directories):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def freeze(directories: Mapping[str, str], frozen: bool) -> None:
    """Stop or continue all processes of the cgroup at once, and wait until it is so."""
    if UNIFIED in directories:
        directory, file, value = directories[UNIFIED], "cgroup.freeze", str(int(frozen))
    elif "freezer" in directories:
        directory, file, value = directories["freezer"], "freezer.state", "FROZEN" if frozen else "THAWED"
    else:
        raise Error("this host has no freezer cgroup controller, which pause needs")
    try:
        write(f"{directory}/{file}", value)
    except OSError as error:
        if frozen or error.errno not in _GONE:
            raise
        return  # a signal has ended it, and its cgroup is gone
    for _ in range(1000):
        if is_frozen(directories) == frozen:
            return
        time.sleep(0.002)
    raise Error(f"the cgroup {directory} does not become {'frozen' if frozen else 'thawed'}")


def is_frozen(directories: Mapping[str, str]) -> bool:
    try:
        if UNIFIED in directories:
            return "frozen 1" in read(f"{directories[UNIFIED]}/cgroup.events").splitlines()
        if "freezer" in directories:
            return read(f"{directories['freezer']}/freezer.state") == "FROZEN"
    except OSError as error:
        if error.errno not in _GONE:
            raise
    return False


def remove(directories: Mapping[str, str], parents: int = 0) -> None:
    """Remove the cgroup and those below it, and up to `parents` levels above it that are empty."""
    for directory in directories.values():
        for path in _tree(directory):
            _remove_one(path)
        for _ in range(parents):
            directory = os.path.dirname(directory)
            try:
                os.rmdir(directory)
            except OSError:  # in use by another container
                break


def _remove_one(path: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            # A process that was killed stays in its cgroup until it is gone for good.
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def _tree(directory: str) -> Iterator[str]:
    """The cgroups below `directory` and itself, children first."""
    for path, _, _ in os.walk(directory, topdown=False):
        yield path


def create_group(path: str, resources: Resources) -> dict[str, str]:
    """Make a cgroup for others to live in: what a task of several containers may use in all."""
    found = hierarchies()
    directories = resolve(found, path)
    for step in make(directories, resources, found.version2, devices=False):
        step.execute()
    return directories


def remove_group(path: str) -> None:
    remove(resolve(hierarchies(), path), parents=levels(path))


def levels(path: str) -> int:
    """How many parents of a cgroup with this path we make: none of an absolute path, which another engine owns."""
    return 0 if path.startswith("/") else len(os.path.normpath(path).split("/")) - 1


def stats(directories: Mapping[str, str]) -> Usage:
    if set(directories) == {UNIFIED}:
        directory = directories[UNIFIED]
        return Usage(
            memory_bytes=int(read(f"{directory}/memory.current")),
            cpu_ns=flat(f"{directory}/cpu.stat").get("usage_usec", 0) * 1000,
            pids=int(read(f"{directory}/pids.current")),
        )
    return Usage(
        memory_bytes=_version1_files("Memory", directories["memory"]).usage_in_bytes,
        cpu_ns=_version1_files("CpuAcct", directories["cpuacct"]).usage,
        pids=int(read(f"{directories['pids']}/pids.current")),
    )


def limits(directories: Mapping[str, str]) -> Limits:
    if set(directories) == {UNIFIED}:
        directory = directories[UNIFIED]
        quota, period = read(f"{directory}/cpu.max").split()
        limit, pids = _limit(read(f"{directory}/memory.max")), read(f"{directory}/pids.max")
        return Limits(memory=limit, cpu_quota=_limit(quota), cpu_period=int(period), pids=_limit(pids))
    memory, cpu = _version1_files("Memory", directories["memory"]), _version1_files("Cpu", directories["cpu"])
    return Limits(
        memory=_limit(str(memory.limit_in_bytes)),
        cpu_quota=cpu.cfs_quota_us,
        cpu_period=cpu.cfs_period_us,
        pids=_limit(read(f"{directories['pids']}/pids.max")),
    )


def _version1_files(controller: str, directory: str) -> Any:
    """The files of a controller as cgroupspy reads them: of one directory, so that it walks no tree. It has no pids."""
    from cgroupspy import controllers, nodes  # why here: 20 ms, and only statistics want it; no start does

    return getattr(controllers, f"{controller}Controller")(nodes.Node(directory))


def _limit(text: str) -> int | None:
    """Version 1 says "no limit" with the highest number of whole pages."""
    return None if text == MAX or int(text) < 0 or int(text) >= 1 << 62 else int(text)


def oom_kills(directories: Mapping[str, str]) -> int:
    """How often the kernel killed a process of this cgroup for its memory."""
    if set(directories) == {UNIFIED}:
        return flat(f"{directories[UNIFIED]}/memory.events").get("oom_kill", 0)
    return flat(f"{directories['memory']}/memory.oom_control").get("oom_kill", 0) if "memory" in directories else 0


def flat(path: str) -> dict[str, int]:
    """A file of lines "name value"; an absent file has none."""
    try:
        return {name: int(value) for name, value in (line.split() for line in read(path).splitlines())}
    except FileNotFoundError:
        return {}
