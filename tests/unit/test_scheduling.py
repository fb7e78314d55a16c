"""Scheduling: words of config.json as the numbers of the kernel's headers."""

import pytest

from minicontainer.errors import Error
from minicontainer.oci.runtime import IoPriority, Linux, MemoryPolicy, Personality, Process, Scheduler
from minicontainer.runtime import scheduling


def _described(process: Process, linux: Linux = Linux()) -> list[str]:
    return [step.describe() for step in scheduling.steps(process, linux)]


def test_a_policy_with_flags_and_times_is_one_call() -> None:
    flags = ("SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM", "SCHED_FLAG_RECLAIM")
    deadline = Scheduler(policy="SCHED_DEADLINE", flags=flags, runtime=1, deadline=2, period=3)
    assert _described(Process(args=("a",), scheduler=deadline)) == ["sched_setattr(6, 3, 0, 0, 1, 2, 3)"]


def test_an_io_priority_is_a_class_and_a_number() -> None:
    priority = IoPriority(io_class="IOPRIO_CLASS_RT", priority=4)
    assert _described(Process(args=("a",), io_priority=priority)) == [f"ioprio_set(0, {1 << 13 | 4})"]


def test_nothing_asked_is_nothing_done() -> None:
    assert _described(Process(args=("a",))) == []
    assert _described(Process(args=("a",)), Linux(personality=Personality(domain="LINUX32"))) == ["personality(8)"]


def test_a_memory_policy_is_a_mode_with_its_flags_and_a_mask_of_nodes() -> None:
    policy = MemoryPolicy("MPOL_INTERLEAVE", "0-1,70", ("MPOL_F_STATIC_NODES", "MPOL_F_STATIC_NODES"))
    assert _described(Process(args=("a",)), Linux(memory_policy=policy)) == [
        f"set_mempolicy({3 | 1 << 15}, {0b11 | 1 << 70})"
    ]


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (MemoryPolicy("MPOL_BIND"), "linux.memoryPolicy.nodes is missing"),
        (MemoryPolicy("MPOL_LOCAL", "0"), "MPOL_LOCAL takes none"),
        (MemoryPolicy("MPOL_BIND", "0-x"), "linux.memoryPolicy.nodes: '0-x' is not a list of memory nodes"),
    ],
)
def test_nodes_are_given_to_the_modes_that_have_some(policy: MemoryPolicy, text: str) -> None:
    (said,) = scheduling.complaints(Process(args=("a",)), Linux(memory_policy=policy))
    assert text in said


@pytest.mark.parametrize(("text", "found"), [("0", {0}), ("0-2,5", {0, 1, 2, 5}), ("3-3, 1", {1, 3})])
def test_a_list_of_cpus(text: str, found: set[int]) -> None:
    assert scheduling.cpus(text) == found


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "0-b", "0-4000000000"])
def test_what_is_no_list_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(Error, match="is not a list of CPUs"):
        scheduling.cpus(text)


def test_complaints_name_their_field() -> None:
    process = Process(
        args=("a",),
        scheduler=Scheduler(policy="SCHED_OTHER", flags=("SCHED_FLAG_RECLAIM", "X")),
        io_priority=IoPriority(io_class="Y", priority=8),
    )
    linux = Linux(personality=Personality(domain="Z"), memory_policy=MemoryPolicy("MPOL_LUCK", "0", ("MPOL_F_X",)))
    assert [text.partition(" ")[0].rstrip(":") for text in scheduling.complaints(process, linux)] == [
        "process.scheduler.flags[1]",
        "process.ioPriority.class",
        "process.ioPriority.priority",
        "linux.personality.domain",
        "linux.memoryPolicy.mode",
        "linux.memoryPolicy.flags[0]",
    ]
