"""Scheduling: policy, I/O priority, CPUs, memory nodes and personality of a process, as a plan.

Stands between the spec and `init`, which loads it only for a process that asks for one of these. Ruled by runtime-spec
config.md (Linux Process), config-linux.md (Personality, Memory policy), sched_setattr(2), ioprio_set(2),
set_mempolicy(2), personality(2).
"""

import os
from collections.abc import Iterator

from minicontainer.errors import Error
from minicontainer.linux.syscalls import ioprio_set, personality, sched_setattr, set_mempolicy
from minicontainer.oci.runtime import CpuAffinity, IoPriority, Linux, MemoryPolicy, Process, Scheduler
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
MODES = {  # linux/mempolicy.h
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
MODE_FLAGS = {"MPOL_F_NUMA_BALANCING": 1 << 13, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_STATIC_NODES": 1 << 15}
_WITHOUT_NODES = {"MPOL_DEFAULT", "MPOL_LOCAL"}
_MOST = 8192  # CPUs: CONFIG_NR_CPUS at its highest; nodes are fewer
DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}  # linux/personality.h


def steps(process: Process, linux: Linux) -> Plan[None]:
    """While the process still has the privileges that some of it needs."""
    if process.scheduler is not None:
        why = "how the kernel chooses this process and its children among those that wait for a CPU"
        yield Step(sched_setattr, _attributes(process.scheduler), why)
    if process.io_priority is not None:
        why = "which of its requests to a disk come first"
        yield Step(ioprio_set, (0, _io_priority(process.io_priority)), why)
    if linux.memory_policy is not None:
        why = "on which memory nodes its pages are looked for first, and those of its children"
        yield Step(set_mempolicy, _policy(linux.memory_policy), why)
    if linux.personality is not None:
        yield Step(personality, (DOMAINS[linux.personality.domain],), "which machine uname(2) says this is")


def complaints(process: Process, linux: Linux) -> Iterator[str]:
    """What cannot be mapped to the kernel's interface, by its field."""
    scheduler, priority, domain = process.scheduler, process.io_priority, linux.personality
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
    if linux.memory_policy is not None:
        yield from _complaints_of_policy(linux.memory_policy)


def _complaints_of_policy(policy: MemoryPolicy) -> Iterator[str]:
    if policy.mode not in MODES:
        yield f"linux.memoryPolicy.mode {policy.mode!r} is unknown; try: MPOL_INTERLEAVE"
    for place, flag in enumerate(policy.flags):
        if flag not in MODE_FLAGS:
            yield f"linux.memoryPolicy.flags[{place}]: {flag!r} is unknown; try: MPOL_F_STATIC_NODES"
    try:
        _nodes(policy)
    except Error as error:
        yield str(error)
    if policy.nodes and policy.mode in _WITHOUT_NODES:
        yield f"linux.memoryPolicy.nodes {policy.nodes!r}: {policy.mode} takes none"
    if not policy.nodes and policy.mode not in {*_WITHOUT_NODES, "MPOL_PREFERRED"}:
        yield f"linux.memoryPolicy.nodes is missing: {policy.mode} needs some; try: 0"


def _policy(given: MemoryPolicy) -> tuple[int, int]:
    return MODES[given.mode] | sum(MODE_FLAGS[name] for name in set(given.flags)), _nodes(given)


def _nodes(policy: MemoryPolicy) -> int:
    """A bit for each node."""
    found = numbers(policy.nodes, "linux.memoryPolicy.nodes", "memory nodes") if policy.nodes else set()
    return sum(1 << node for node in found)


def _attributes(given: Scheduler) -> tuple[int, ...]:
    flags = sum(FLAGS[name] for name in set(given.flags))
    times = (given.runtime, given.deadline, given.period)
    return (POLICIES[given.policy], flags, given.nice, given.priority, *times)


def _io_priority(given: IoPriority) -> int:
    return IO_CLASSES[given.io_class] << 13 | given.priority  # IOPRIO_PRIO_VALUE


def numbers(text: str, field: str, what: str) -> set[int]:
    """The numbers of a list as in cpuset(7): 0-2,5."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) >= _MOST:
            raise Error(f"{field}: {text!r} is not a list of {what}; try: 0-3,7")
        found.update(range(int(first), int(last or first) + 1))
    return found


def cpus(text: str) -> set[int]:
    return numbers(text, "process.execCPUAffinity", "CPUs")


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
