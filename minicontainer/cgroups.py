"""Cgroups: one interface over version 1, version 2 and a host with both.

Stands between the spec's resources and the kernel's files. Ruled by cgroups(7), the kernel's admin-guide/cgroup-v1 and
cgroup-v2.rst, runtime-spec config-linux.md (Control groups). What to write is decided by pure functions; few files are
written, since every start waits for them. A path is a mapping of controllers to directories: one directory for each
hierarchy of version 1, one with the empty name for version 2.
"""

import errno
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from minicontainer.errors import Error
from minicontainer.linux import procfs
from minicontainer.oci.runtime import DeviceRule, Resources
from minicontainer.plan import Plan, Step
from minicontainer.values import Any, NamedTuple

UNIFIED = ""  # the name of version 2 among the controllers
MAX = "max"
_BLOCK, _CHARACTER = 1, 2  # BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR
_ACCESS = {"m": 1, "r": 2, "w": 4}
# Every container may make nodes, and use these devices: config-linux.md, Default Devices.
_DEFAULT_RULES = (
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    *(DeviceRule(allow=True, type="c", major=1, minor=minor) for minor in (3, 5, 7, 8, 9)),
    DeviceRule(allow=True, type="c", major=5, minor=0),
    DeviceRule(allow=True, type="c", major=5, minor=2),
    DeviceRule(allow=True, type="c", major=136),
)


class Setting(NamedTuple):
    """A value for a file of a controller."""

    controller: str
    file: str
    value: str


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


# What


def settings(resources: Resources, version2: bool) -> list[Setting]:
    """What to write where, in order, for these resources."""
    return _version2(resources) if version2 else _version1(resources)


def _version1(resources: Resources) -> list[Setting]:
    memory, cpu, pids = resources.memory, resources.cpu, resources.pids
    if resources.unified:
        raise Error("linux.resources.unified needs cgroup version 2, and this host has version 1")
    asked = (
        ("memory", "memory.limit_in_bytes", memory.limit),
        ("memory", "memory.memsw.limit_in_bytes", memory.swap or None),
        ("memory", "memory.soft_limit_in_bytes", memory.reservation or None),
        ("memory", "memory.swappiness", memory.swappiness),
        ("memory", "memory.oom_control", 1 if memory.disable_oom_killer else None),
        ("cpu", "cpu.shares", cpu.shares or None),
        ("cpu", "cpu.cfs_period_us", cpu.period or None),
        ("cpu", "cpu.cfs_quota_us", cpu.quota or None),
        ("cpu", "cpu.cfs_burst_us", cpu.burst),
        ("cpuset", "cpuset.cpus", cpu.cpus or None),
        ("cpuset", "cpuset.mems", cpu.mems or None),
        ("pids", "pids.max", _pids(pids.limit) if pids else None),
    )
    return [Setting(controller, file, str(value)) for controller, file, value in asked if value is not None]


def _version2(resources: Resources) -> list[Setting]:
    memory, cpu, pids = resources.memory, resources.cpu, resources.pids
    if memory.disable_oom_killer:
        raise Error("linux.resources.memory.disableOOMKiller needs cgroup version 1, and this host has version 2")
    swap = swap_max(memory.limit, memory.swap)
    quota = f"{_maximum(cpu.quota)} {cpu.period or 100_000}" if cpu.quota or cpu.period else None
    asked = (
        ("memory", "memory.max", _maximum(memory.limit) if memory.limit else None),
        ("memory", "memory.swap.max", swap),
        ("memory", "memory.low", memory.reservation or None),
        ("cpu", "cpu.weight", weight(cpu.shares) if cpu.shares else None),
        ("cpu", "cpu.max", quota),
        ("cpu", "cpu.max.burst", cpu.burst),
        ("cpuset", "cpuset.cpus", cpu.cpus or None),
        ("cpuset", "cpuset.mems", cpu.mems or None),
        ("pids", "pids.max", _pids(pids.limit) if pids else None),
        *((name.partition(".")[0], _file_name(name), value) for name, value in resources.unified.items()),
    )
    return [Setting(controller, file, str(value)) for controller, file, value in asked if value is not None]


def _file_name(name: str) -> str:
    if "/" in name or "." not in name:
        raise Error(f"linux.resources.unified: {name!r} is not the name of a cgroup file")
    return name


def _pids(limit: int) -> str:
    return str(limit) if limit > 0 else MAX


def _maximum(value: int | None) -> str:
    return str(value) if value is not None and value > 0 else MAX


def weight(shares: int) -> int:
    """cpu.shares of version 1, 2 to 262144, as cpu.weight of version 2, 1 to 10000: config-linux.md, CPU."""
    return 1 + (max(shares, 2) - 2) * 9999 // 262_142


def swap_max(limit: int | None, swap: int | None) -> str | None:
    """Version 1 limits memory and swap together, version 2 swap alone."""
    if not swap:
        return None
    if swap < 0:
        return MAX
    if limit is None or limit < 0 or swap < limit:
        raise Error(f"linux.resources.memory.swap {swap} is memory and swap together, and less than the limit {limit}")
    return str(swap - limit)


def device_rules(resources: Resources) -> tuple[DeviceRule, ...]:
    """A container may use nothing, then what its rules say, then what every container may use."""
    asked = resources.devices
    first = () if asked and asked[0].type == "a" else (DeviceRule(allow=False),)
    return (*first, *asked, *_DEFAULT_RULES)


def device_settings(rules: Iterable[DeviceRule]) -> list[Setting]:
    """The rules for version 1: admin-guide/cgroup-v1/devices.rst."""
    lines = []
    for rule in rules:
        number = ":".join("*" if part is None or part < 0 else str(part) for part in (rule.major, rule.minor))
        text = "a" if rule.type in ("a", "") else f"{rule.type} {number} {rule.access}"
        lines.append(Setting("devices", "devices.allow" if rule.allow else "devices.deny", text))
    return lines


def device_program(rules: Iterable[DeviceRule]) -> bytes:
    """The rules for version 2, as eBPF: the last rule that matches decides. struct bpf_cgroup_dev_ctx, linux/bpf.h."""
    program = [
        _instruction(0x61, 2, 1, 0, 0),  # r2 = access << 16 | type
        _instruction(0xBF, 3, 2, 0, 0),
        _instruction(0x77, 3, 0, 0, 16),  # r3 = access
        _instruction(0x57, 2, 0, 0, 0xFFFF),  # r2 = type
        _instruction(0x61, 4, 1, 4, 0),  # r4 = major
        _instruction(0x61, 5, 1, 8, 0),  # r5 = minor
    ]
    for rule in reversed(list(rules)):
        program += _device_rule(rule)
        if rule.type in ("a", "") and set(rule.access or "rwm") == set("rwm"):
            return b"".join(program)  # it matches all, and the kernel refuses code that cannot be reached
    program += [_instruction(0xB7, 0, 0, 0, 0), _instruction(0x95, 0, 0, 0, 0)]  # nothing matched: return 0
    return b"".join(program)


def _device_rule(rule: DeviceRule) -> list[bytes]:
    access = sum(_ACCESS[letter] for letter in rule.access or "rwm")
    body = [_instruction(0xB7, 0, 0, 0, int(rule.allow)), _instruction(0x95, 0, 0, 0, 0)]  # return allow
    tests: list[tuple[int, int, int]] = []  # opcode, register, value: skip the rest when it holds
    if rule.type in ("b", "c", "u"):
        tests.append((0x55, 2, _BLOCK if rule.type == "b" else _CHARACTER))
        tests += [(0x55, 4, rule.major)] if rule.major is not None and rule.major >= 0 else []
        tests += [(0x55, 5, rule.minor)] if rule.minor is not None and rule.minor >= 0 else []
    if access != 7 and rule.allow:  # all that is asked must be allowed: none of the other bits
        mask = [_instruction(0xBF, 0, 3, 0, 0), _instruction(0x57, 0, 0, 0, ~access & 7)]
        body = [*mask, _instruction(0x55, 0, 0, len(body), 0), *body]
    elif access != 7:  # one bit that is denied is enough
        mask = [_instruction(0xBF, 0, 3, 0, 0), _instruction(0x57, 0, 0, 0, access)]
        body = [*mask, _instruction(0x15, 0, 0, len(body), 0), *body]
    for opcode, register, value in reversed(tests):
        body = [_instruction(opcode, register, 0, len(body), value), *body]
    return body


def _instruction(opcode: int, target: int, source: int, offset: int, immediate: int) -> bytes:
    """One eBPF instruction: Documentation/bpf/instruction-set.rst."""
    return bytes((opcode, source << 4 | target)) + offset.to_bytes(2, "little") + immediate.to_bytes(4, "little")


# Make, join, measure, remove


def make(directories: Mapping[str, str], resources: Resources, version2: bool, devices: bool = True) -> Plan[None]:
    """Make a cgroup and set its limits, before a process is in it."""
    for controller, directory in directories.items():
        yield Step(make_directory, (directory,), "a directory here is a cgroup: its files will hold the limits")
        if controller == "cpuset" and not version2:
            yield Step(inherit_cpuset, (directory,), "a new cpuset is empty, and an empty one lets no process in")
    wanted = settings(resources, version2)
    if version2:
        names = {setting.controller for setting in wanted} | {"cpu", "memory", "pids"}
        yield Step(enable, (directories[UNIFIED], tuple(sorted(names))), "its parents hand these controllers down")
    if devices and "devices" in directories:
        wanted += device_settings(device_rules(resources))
    for setting in wanted:
        where = directories.get(UNIFIED if version2 else setting.controller)
        if where is None:
            raise Error(f"{setting.file} is asked for, and this host has no {setting.controller} cgroup controller")
        why = f"what config.json says in linux.resources.{setting.controller}"
        yield Step(write, (f"{where}/{setting.file}", setting.value), why)
    if devices and version2:
        arguments = (directories[UNIFIED], device_program(device_rules(resources)))
        yield Step(attach_devices, arguments, "only these devices may be opened or made")


def make_directory(path: str) -> None:
    """mkdir with parents; again, when a neighbour's removal took the parent away in between."""
    for _ in range(100):
        with suppress(FileNotFoundError, FileExistsError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.mkdir(path, 0o755)
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
    from minicontainer.linux.syscalls import bpf_attach_device_program, bpf_load_device_program  # 3 ms, for version 2

    cgroup, loaded = os.open(directory, os.O_RDONLY | os.O_CLOEXEC), bpf_load_device_program(program)
    try:
        bpf_attach_device_program(cgroup, loaded)
    finally:
        os.close(cgroup)
        os.close(loaded)


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
    write(f"{directory}/{file}", value)
    for _ in range(1000):
        if is_frozen(directories) == frozen:
            return
        time.sleep(0.002)
    raise Error(f"the cgroup {directory} does not become {'frozen' if frozen else 'thawed'}")


def is_frozen(directories: Mapping[str, str]) -> bool:
    with suppress(FileNotFoundError):
        if UNIFIED in directories:
            return "frozen 1" in read(f"{directories[UNIFIED]}/cgroup.events").splitlines()
        if "freezer" in directories:
            return read(f"{directories['freezer']}/freezer.state") == "FROZEN"
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
            cpu_ns=_flat(f"{directory}/cpu.stat").get("usage_usec", 0) * 1000,
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
        return _flat(f"{directories[UNIFIED]}/memory.events").get("oom_kill", 0)
    return _flat(f"{directories['memory']}/memory.oom_control").get("oom_kill", 0) if "memory" in directories else 0


def _flat(path: str) -> dict[str, int]:
    """A file of lines "name value"; an absent file has none."""
    try:
        return {name: int(value) for name, value in (line.split() for line in read(path).splitlines())}
    except FileNotFoundError:
        return {}
