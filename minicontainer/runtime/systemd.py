"""Systemd: a container's cgroup as a transient scope, so that systemd knows whose it is and leaves it alone.

Stands between `resources` and those who make cgroups; loaded only with --systemd-cgroup. Ruled by systemd's
org.freedesktop.systemd1(5), systemd.scope(5), systemd.resource-control(5), and by the cgroup path of runc: its three
parts are slice, prefix and name. systemd makes the scope and is told its limits; what goes on below is ours, Delegate=.
"""

import ast
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from minicontainer.errors import Error
from minicontainer.linux import procfs
from minicontainer.linux.dbus import Connection, DBusError
from minicontainer.linux.processes import set_pdeathsig
from minicontainer.oci.runtime import DeviceRule, Resources, Spec
from minicontainer.plan import Plan, Step
from minicontainer.runtime.devices import rules_of
from minicontainer.runtime.resources import MAX, settings

_SOCKET = "/run/systemd/private"
_OBJECT, _INTERFACE = "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
_MANAGER = (_OBJECT, _INTERFACE)
_INFINITY = (1 << 64) - 1
_NUMBERS = {  # file of a controller: the property that says the same, a number
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "memory.low": "MemoryLow",
    "memory.limit_in_bytes": "MemoryLimit",
    "cpu.weight": "CPUWeight",
    "cpu.shares": "CPUShares",
    "blkio.weight": "BlockIOWeight",
    "pids.max": "TasksMax",
}  # fmt: skip
_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}  # on version 2 alone
_ANNOTATION = "org.systemd.property."  # and a property's name: what others want of the scope, as runc has it
_TYPES = {"int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t", "double": "d"}
Property = tuple[str, tuple[str, Any]]


def unit_of(path: str, container_id: str) -> tuple[str, str]:
    """The slice and the scope of a cgroup path: SLICE:PREFIX:NAME, or nothing."""
    above = "user.slice" if personal() else "system.slice"
    parts = (path or f"{above}:minicontainer:{container_id}").split(":")
    if len(parts) != 3 or not parts[2]:
        raise Error(f"expected cgroupsPath to be of format slice:prefix:name for systemd cgroups, got {path!r} instead")
    parent, prefix, name = parts
    if name.endswith(".slice"):
        raise Error(f"linux.cgroupsPath {path!r} names a slice, and a container is a scope; try: another name")
    return parent or above, f"{f'{prefix}-' if prefix else ''}{name}.scope"


def personal() -> bool:
    """Whether it is a person's own systemd that makes the scope: without the host's root, nobody else's would."""
    return os.geteuid() != 0 or procfs.in_user_namespace()


def place(parent: str, scope: str) -> str:
    """Where the scope is from the root of the cgroups: a person's systemd has a part of them."""
    if not personal():
        return directory(parent, scope)
    with _connection() as systemd:
        ((_, above),) = systemd.call(
            _OBJECT, "org.freedesktop.DBus.Properties", "Get", "ss", _INTERFACE, "ControlGroup"
        )
    return f"{above}{directory(parent, scope)}"


def directory(parent: str, scope: str) -> str:
    """Where the scope is from the cgroup of its systemd: a-b.slice is below a.slice, systemd.slice(5)."""
    stem = parent.removesuffix(".slice")
    if stem == parent or "/" in parent + scope or (stem != "-" and not all(stem.split("-"))):
        raise Error(f"linux.cgroupsPath: {parent!r} is no slice of systemd; try: system.slice")
    words = [] if stem == "-" else stem.split("-")
    above = ["-".join(words[: place + 1]) + ".slice" for place in range(len(words))]
    return "/" + "/".join([*above, scope])


def start(parent: str, scope: str, container_id: str, spec: Spec, version2: bool) -> Plan[int]:
    """Have the scope made: the pid of a process that keeps it until the container's first one is there."""
    keeper = yield Step(keep, (), "systemd makes no scope without a process: this one waits in it, and then goes")
    given = [
        ("Description", ("s", f"minicontainer container {container_id}")),
        ("Slice", ("s", parent)),
        ("PIDs", ("au", [keeper])),
        ("Delegate", ("b", True)),
        ("DefaultDependencies", ("b", False)),
        ("CollectMode", ("s", "inactive-or-failed")),
        *((name, ("b", True)) for name in _accounting(version2)),
        *properties(spec.linux.resources, version2),
        *_devices(rules_of(spec.linux.resources)),
        *annotated(spec.annotations),
    ]
    try:
        why = "a transient unit for the container: systemd makes its cgroup, and will not touch what is in it"
        yield Step(start_scope, (scope, given), why)
    except BaseException:
        os.kill(keeper, signal.SIGKILL)
        os.waitpid(keeper, 0)
        raise
    return int(keeper)


def change(scope: str, resources: Resources, version2: bool) -> Plan[None]:
    """Tell systemd of new limits, so that it does not put the old ones back."""
    given = [*properties(resources, version2), *(_devices(rules_of(resources)) if resources.devices else ())]
    if given:
        yield Step(set_properties, (scope, given), "what systemd knows must be what holds: it would put its own back")


def keep() -> int:
    pid = os.fork()
    if pid == 0:
        set_pdeathsig(signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        while True:
            signal.pause()
    return pid


def start_scope(scope: str, given: list[Property]) -> None:
    with _connection() as systemd:
        systemd.call(*_MANAGER, "Subscribe")
        try:
            _done(systemd, scope, "StartTransientUnit", "ssa(sv)a(sa(sv))", scope, "replace", given, [])
        except DBusError as error:
            raise Error(f"systemd does not start {scope}: {error}") from None


def set_properties(scope: str, given: list[Property]) -> None:
    with _connection() as systemd:
        try:
            systemd.call(*_MANAGER, "SetUnitProperties", "sba(sv)", scope, True, given)
        except DBusError as error:
            raise Error(f"systemd does not change {scope}: {error}") from None


def stop(scope: str) -> None:
    """End the scope, if it is still there."""
    with _connection() as systemd:
        systemd.call(*_MANAGER, "Subscribe")
        try:
            _done(systemd, scope, "StopUnit", "ss", scope, "replace")
        except DBusError as error:
            if not error.name.endswith(".NoSuchUnit"):
                raise Error(f"systemd does not stop {scope}: {error}") from None


def _connection() -> Connection:
    path = f"{os.environ.get('XDG_RUNTIME_DIR', '/run/user/UID')}/systemd/private" if personal() else _SOCKET
    try:
        return Connection(path, procfs.outer_uid(os.geteuid()))
    except (OSError, DBusError) as error:
        text = "systemd not running on this host, cannot use systemd cgroups manager"
        raise Error(f"{text}: {path}: {error}; try: the cgroupfs driver of your engine") from None


def _done(systemd: Connection, scope: str, method: str, signature: str, *values: Any) -> None:
    """Call a method that begins a job, and wait until the job is done."""
    (job,) = systemd.call(*_MANAGER, method, signature, *values)
    for _, path, _, result in systemd.signals("JobRemoved"):
        if path == job:
            if result != "done":
                raise Error(f"systemd's job for {scope} ended as {result}")
            return


def _accounting(version2: bool) -> tuple[str, ...]:
    return ("MemoryAccounting", "CPUAccounting", "TasksAccounting", "IOAccounting" if version2 else "BlockIOAccounting")


def properties(resources: Resources, version2: bool) -> list[Property]:
    """The limits in systemd's words, as far as it has words for them; the others are written by us alone."""
    found: list[Property] = []
    values = {setting.file: setting.value for setting in settings(resources, version2)}
    for file, name in _NUMBERS.items():
        if file in values:
            text = values[file]
            found.append((name, ("t", _INFINITY if text in (MAX, "-1") else int(text))))
    if version2:
        found += [(name, ("ay", _bits(values[file]))) for file, name in _SETS.items() if file in values]
        quota, _, period = values.get("cpu.max", "").partition(" ")
    else:
        quota, period = values.get("cpu.cfs_quota_us", ""), values.get("cpu.cfs_period_us", "")
    if period:
        found.append(("CPUQuotaPeriodUSec", ("t", int(period))))
    if quota:
        found.append(("CPUQuotaPerSecUSec", ("t", _per_second(quota, int(period or 100_000)))))
    return found


def annotated(annotations: Mapping[str, str]) -> Iterator[Property]:
    """Properties that annotations ask for; their values are written as in GVariant's text format."""
    for key, text in annotations.items():
        if not key.startswith(_ANNOTATION):
            continue
        name = key.removeprefix(_ANNOTATION)
        kind, value = _variant(key, text.strip())
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            raise Error(f"annotations.{key}: {name!r} is no property of systemd")
        if name.endswith("Sec") and name[-4:-3].islower():  # as unit files have it; on the bus they are microseconds
            if kind not in _TYPES.values():
                raise Error(f"annotations.{key}: {text!r} is no number of seconds")
            name, kind, value = f"{name[:-3]}USec", "t", int(value * 1_000_000)
        yield name, (kind, value)


def _variant(key: str, text: str) -> tuple[str, Any]:
    word, _, rest = text.partition(" ")
    with suppress(ValueError, SyntaxError):
        if text in ("true", "false"):
            return "b", text == "true"
        value = ast.literal_eval(rest if word in _TYPES else text)
        if word in _TYPES and type(value) in (int, float):
            return _TYPES[word], value
        match value:
            case str():
                return "s", value
            case int() if not isinstance(value, bool):
                return "i", value
            case [*words] if words and all(isinstance(one, str) for one in words):
                return "as", words
    raise Error(f"annotations.{key}: {text!r} is no value of a property; try: 'text', true, uint64 5 or ['a', 'b']")


def _per_second(quota: str, period: int) -> int:
    """systemd rounds down to hundredths: rounded up here, since the exact value is written to the file afterwards."""
    if quota in (MAX, "-1"):
        return _INFINITY
    return -(-int(quota) * 1_000_000 // period // 10_000) * 10_000


def _bits(text: str) -> bytes:
    """A list of numbers like 0-2,5 as a mask, the lowest byte first."""
    mask = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.strip().isdecimal() or (last and not last.strip().isdecimal()):
            raise Error(f"linux.resources.cpu: {text!r} is not a list of numbers; try: 0-3,7")
        for number in range(int(first), int(last or first) + 1):
            mask |= 1 << number
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def _devices(rules: Iterable[DeviceRule]) -> Iterator[Property]:
    """The same rules for systemd, which keeps a list of its own beside ours: what is allowed, and nothing else."""
    allowed: dict[tuple[str, str], None] = {}
    for rule in rules:
        if rule.type in ("a", ""):
            allowed = {(f"{kind}-*", "rwm"): None for kind in ("char", "block")} if rule.allow else {}
            continue
        for name in _names(rule):
            if rule.allow:
                allowed[name, rule.access] = None
            else:
                allowed.pop((name, rule.access), None)
    yield "DevicePolicy", ("s", "strict")
    yield "DeviceAllow", ("a(ss)", [])  # an empty list takes away what was there
    yield "DeviceAllow", ("a(ss)", list(allowed))


def _names(rule: DeviceRule) -> Iterator[str]:
    kind = "block" if rule.type == "b" else "char"
    major, minor = (None if number is None or number < 0 else number for number in (rule.major, rule.minor))
    if major is None:
        yield f"{kind}-*"  # systemd has no word for a minor number of every device
    elif minor is None:
        yield from (f"{kind}-{name}" for name in _drivers(kind, major))
    else:
        yield f"/dev/{kind}/{major}:{minor}"


def _drivers(kind: str, major: int) -> list[str]:
    """What /proc/devices calls a major number; systemd knows devices of every minor number by that alone."""
    found, here = [], False
    with open("/proc/devices", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if line.endswith("devices:\n"):
                here = words[0].lower().startswith(kind)
            elif here and len(words) == 2 and words[0] == str(major):
                found.append(words[1])
    return found
