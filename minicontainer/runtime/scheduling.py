"""Scheduling: policy, I/O priority, CPUs and personality of a process, as a plan.

Stands between the spec and `init`, which loads it only for a process that asks for one of these. Ruled by runtime-spec
config.md (Linux Process), config-linux.md (Personality), sched_setattr(2), ioprio_set(2), personality(2).
"""

import os
from collections.abc import Iterator

from minicontainer.errors import Error
from minicontainer.linux.syscalls import ioprio_set, personality, sched_setattr
from minicontainer.oci.runtime import CpuAffinity, IoPriority, Personality, Process, Scheduler
from minicontainer.plan import Plan, Step

POLICIES = {  # linux/sched.h
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
FLAGS = {  # linux/sched.h
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}  # linux/ioprio.h
DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}  # linux/personality.h


def steps(process: Process, domain: Personality | None) -> Plan[None]:
    """While the process still has the privileges that some of it needs."""
    if process.scheduler is not None:
        why = "how the kernel chooses this process and its children among those that wait for a CPU"
        yield Step(sched_setattr, _attributes(process.scheduler), why)
    if process.io_priority is not None:
        why = "which of its requests to a disk come first"
        yield Step(ioprio_set, (0, _io_priority(process.io_priority)), why)
    if domain is not None:
        yield Step(personality, (DOMAINS[domain.domain],), "which machine uname(2) says this is")


def complaints(process: Process, domain: Personality | None) -> Iterator[str]:
    """What cannot be mapped to the kernel's interface, by its field."""
    scheduler, priority = process.scheduler, process.io_priority
    if scheduler is not None:
        if scheduler.policy not in POLICIES:
            yield f"process.scheduler.policy {scheduler.policy!r} is unknown; try: SCHED_OTHER"
        for place, flag in enumerate(scheduler.flags):
            if flag not in FLAGS:
                yield f"process.scheduler.flags[{place}]: {flag!r} is unknown"
    if priority is not None and priority.io_class not in IO_CLASSES:
        yield f"process.ioPriority.class {priority.io_class!r} is unknown; try: IOPRIO_CLASS_BE"
    if priority is not None and not 0 <= priority.priority <= 7:
        yield f"process.ioPriority.priority {priority.priority} is not between 0 and 7"
    if domain is not None and domain.domain not in DOMAINS:
        yield f"linux.personality.domain {domain.domain!r} is unknown; try: LINUX or LINUX32"
    if domain is not None and domain.flags:
        yield "linux.personality.flags: none is supported"


def _attributes(given: Scheduler) -> tuple[int, ...]:
    flags = sum(FLAGS[name] for name in set(given.flags))
    times = (given.runtime, given.deadline, given.period)
    return (POLICIES[given.policy], flags, given.nice, given.priority, *times)


def _io_priority(given: IoPriority) -> int:
    return IO_CLASSES[given.io_class] << 13 | given.priority  # IOPRIO_PRIO_VALUE


def cpus(text: str) -> set[int]:
    """The CPUs of a list as in cpuset(7): 0-2,5."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise Error(f"process.execCPUAffinity: {text!r} is not a list of CPUs; try: 0-3,7")
        found.update(range(int(first), int(last or first) + 1))
    return found


def affinity(asked: CpuAffinity) -> tuple[Step, ...]:
    """Of a process that is to join a container: before it is in its cgroup, and from then on."""
    initial, final = asked
    every = ",".join(map(str, os.sched_getaffinity(0)))
    return (
        Step(run_on, (initial or every,), "the CPUs it runs on before it is in the container's cgroup"),
        Step(run_on, (final or initial or every,), "and those from then on"),
    )


def run_on(text: str) -> None:
    """sched_setaffinity(2) of the calling process."""
    os.sched_setaffinity(0, cpus(text))
