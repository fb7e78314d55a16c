"""Events: what a container uses and what happens to it, in runc's JSON, which its callers read.

Stands on states and cgroups. Ruled by the kernel's admin-guide/cgroup-v1 and cgroup-v2.rst. The files are read when
they are asked for; the kernel wakes who waits when memory runs out, and its count says how many it has killed.
"""

import os
import select
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from minicontainer.errors import Error
from minicontainer.linux.flags import IN_MODIFY
from minicontainer.linux.syscalls import inotify_add_watch, inotify_init
from minicontainer.oci.runtime import Status
from minicontainer.runtime import cgroups, operations, states
from minicontainer.values import Any

# Version 1 wakes us before it kills: so long, in seconds, its count is looked at again and again.
_AFTER, _LOOK = 2.0, 0.05
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
Event = dict[str, Any]


def seconds(text: str) -> float:
    """A duration as runc's callers write it: 5s, 500ms, 1m."""
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdecimal() and float(number) > 0:
            return float(number) * factor
    raise Error(f"--interval {text!r} is no duration above zero; try: 5s")


def stats(root: str, container_id: str) -> Event:
    current = operations.in_cgroup(operations.live(root, container_id, Status.CREATED, Status.RUNNING, Status.PAUSED))
    return {"type": "stats", "id": container_id, "data": usage(current.cgroups)}


def follow(root: str, container_id: str, interval: float) -> Iterator[Event]:
    """An event for each interval and for each kill, until the container has stopped."""
    current = operations.in_cgroup(operations.live(root, container_id, Status.CREATED, Status.RUNNING, Status.PAUSED))
    with ExitStack() as opened:
        process = opened.enter_context(_closed(os.pidfd_open(current.pid)))
        memory = opened.enter_context(_closed(_memory(current.cgroups, opened)))
        kills, due, awake = cgroups.oom_kills(current.cgroups), time.monotonic(), 0.0
        waiter = select.poll()
        for descriptor in (process, memory):
            waiter.register(descriptor, select.POLLIN)  # -1, where there is nothing to be told of, is left out
        while True:
            now = cgroups.oom_kills(current.cgroups)
            yield from ({"type": "oom", "id": container_id} for _ in range(now - kills))
            kills = max(now, kills)
            try:
                if states.state(root, container_id).status is Status.STOPPED:
                    return
            except states.NoSuchContainer:
                return
            if time.monotonic() >= due:
                due += interval
                yield stats(root, container_id)
            wake = min(due, time.monotonic() + _LOOK) if time.monotonic() < awake else due
            if memory in dict(waiter.poll(max(wake - time.monotonic(), 0) * 1000)):
                os.read(memory, 4096)
                awake = time.monotonic() + _AFTER


@contextmanager
def _closed(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _memory(directories: Mapping[str, str], opened: ExitStack) -> int:
    """A descriptor that can be read when memory runs out: cgroup-v1/memory.rst, 10. OOM Control; inotify(7)."""
    if set(directories) == {cgroups.UNIFIED}:
        descriptor = inotify_init()
        with suppress(FileNotFoundError):  # the memory controller is not enabled here
            inotify_add_watch(descriptor, f"{directories[cgroups.UNIFIED]}/memory.events", IN_MODIFY)
        return descriptor
    if "memory" not in directories:
        return -1
    descriptor = os.eventfd(0, os.EFD_CLOEXEC)
    control = os.open(f"{directories['memory']}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, control)
    cgroups.write(f"{directories['memory']}/cgroup.event_control", f"{descriptor} {control}")
    return descriptor


def usage(directories: Mapping[str, str]) -> Event:
    if set(directories) == {cgroups.UNIFIED}:
        return _version2(directories[cgroups.UNIFIED])
    return _version1(directories)


def _version1(directories: Mapping[str, str]) -> Event:
    account, cpu, memory = (directories.get(name, "") for name in ("cpuacct", "cpu", "memory"))
    throttled = cgroups.flat(f"{cpu}/cpu.stat")
    ticks = os.sysconf("SC_CLK_TCK")
    split = {name: count * (10**9 // ticks) for name, count in cgroups.flat(f"{account}/cpuacct.stat").items()}
    raw = cgroups.flat(f"{memory}/memory.stat")
    return {
        "cpu": {
            "usage": {
                "total": _number(f"{account}/cpuacct.usage"),
                "percpu": [int(one) for one in _text(f"{account}/cpuacct.usage_percpu").split()],
                "kernel": split.get("system", 0),
                "user": split.get("user", 0),
            },
            "throttling": _throttling(throttled, "throttled_time", 1),
        },
        "memory": {
            "cache": raw.get("cache", 0),
            "usage": _memory_1(memory, "memory"),
            "swap": _memory_1(memory, "memory.memsw"),
            "kernel": _memory_1(memory, "memory.kmem"),
            "kernelTCP": _memory_1(memory, "memory.kmem.tcp"),
            "raw": raw,
        },
        "pids": _pids(directories.get("pids", "")),
        "blkio": {
            "ioServiceBytesRecursive": _operations(directories, "blkio.throttle.io_service_bytes_recursive"),
            "ioServicedRecursive": _operations(directories, "blkio.throttle.io_serviced_recursive"),
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _version2(directory: str) -> Event:
    cpu, raw = cgroups.flat(f"{directory}/cpu.stat"), cgroups.flat(f"{directory}/memory.stat")
    return {
        "cpu": {
            "usage": {
                "total": cpu.get("usage_usec", 0) * 1000,
                "kernel": cpu.get("system_usec", 0) * 1000,
                "user": cpu.get("user_usec", 0) * 1000,
            },
            "throttling": _throttling(cpu, "throttled_usec", 1000),
        },
        "memory": {
            "cache": raw.get("file", 0),
            "usage": _memory_2(directory, "memory"),
            "swap": _memory_2(directory, "memory.swap"),
            "kernel": {"failcnt": 0},
            "kernelTCP": {"failcnt": 0},
            "raw": raw,
        },
        "pids": _pids(directory),
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _throttling(found: Mapping[str, int], name: str, factor: int) -> Event:
    values = {
        "periods": found.get("nr_periods", 0),
        "throttledPeriods": found.get("nr_throttled", 0),
        "throttledTime": found.get(name, 0) * factor,
    }
    return {key: value for key, value in values.items() if value}


def _memory_1(directory: str, prefix: str) -> Event:
    files = {"limit": "limit_in_bytes", "usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"}
    return {name: _number(f"{directory}/{prefix}.{file}") for name, file in files.items()}


def _memory_2(directory: str, prefix: str) -> Event:
    limit = _text(f"{directory}/{prefix}.max")
    highest = (1 << 64) - 1  # how runc says that there is none
    return {
        "limit": int(limit) if limit.isdecimal() else highest,
        "usage": _number(f"{directory}/{prefix}.current"),
        "max": _number(f"{directory}/{prefix}.peak"),
        "failcnt": cgroups.flat(f"{directory}/{prefix}.events").get("max", 0),
    }


def _pids(directory: str) -> Event:
    limit = _text(f"{directory}/pids.max")
    found = {"current": _number(f"{directory}/pids.current")}
    return found | ({"limit": int(limit)} if limit.isdecimal() else {})


def _operations(directories: Mapping[str, str], file: str) -> list[Event]:
    found = []
    for line in _text(f"{directories.get('blkio', '')}/{file}").splitlines():
        device, _, rest = line.partition(" ")
        if ":" in device:
            major, minor = map(int, device.split(":"))
            operation, value = rest.split()
            found.append({"major": major, "minor": minor, "op": operation, "value": int(value)})
    return found


def _number(path: str) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else 0


def _text(path: str) -> str:
    with suppress(FileNotFoundError):
        return cgroups.read(path)
    return ""
