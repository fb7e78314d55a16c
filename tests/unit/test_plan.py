"""Plans: what is printed is what runs."""

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from minicontainer.linux import syscalls
from minicontainer.linux.flags import AT_FDCWD, AT_RECURSIVE, MS_NODEV, MS_NOEXEC, MS_NOSUID, OPEN_TREE_CLONE
from minicontainer.plan import Explain, Plan, Step, StepFailed, run


def test_a_step_describes_its_call_with_the_kernel_s_names() -> None:
    step = Step(syscalls.mount, ("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None), "why")
    assert step.describe() == 'mount("proc", "/proc", "proc", MS_NOSUID|MS_NODEV|MS_NOEXEC, None)'
    step = Step(syscalls.open_tree, (AT_FDCWD, "/a", OPEN_TREE_CLONE | AT_RECURSIVE), "why")
    assert step.describe() == 'open_tree(AT_FDCWD, "/a", OPEN_TREE_CLONE|AT_RECURSIVE)'
    assert Step(syscalls.umount, (".", 0), "why").describe() == 'umount(".", 0)'
    assert Step(syscalls.prctl, (4, 0), "why").describe() == "prctl(PR_SET_DUMPABLE, 0)"
    assert Step(os.write, (3, b"abc"), "why").describe() == "write(3, <3 bytes>)"
    step = Step(os.open, ("/x", os.O_WRONLY | os.O_CLOEXEC), "why")
    assert step.describe() == 'open("/x", O_WRONLY|O_CLOEXEC)'
    assert Step(os.open, ("/x", os.O_RDONLY | os.O_CLOEXEC), "why").describe() == 'open("/x", O_CLOEXEC)'


def test_a_step_is_one_line_and_shows_no_form_of_python_s() -> None:
    assert Step(print, ("0 65536 10\n",), "why").describe() == 'print("0 65536 10\\n")'
    assert Step(print, (("mode=755", "size=1k"),), "why").describe() == 'print(["mode=755", "size=1k"])'


def test_results_are_sent_back_into_the_plan() -> None:
    def plan() -> Plan[int]:
        first = yield Step(int, ("5",), "a number")
        second = yield Step(max, (first, 3), "the greater")
        return second * 2

    assert run(plan()) == 10


def test_steps_are_shown_before_they_run() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, False)

    def plan() -> Plan[None]:
        yield Step(os.getpid, (), "to know it")

    run(plan(), Explain(writer, "init"))
    os.close(writer)
    assert os.read(reader, 1000).split(None, 2) == [b"init", b"getpid()", b"to know it\n"]
    os.close(reader)


def test_a_failing_step_says_what_and_why_and_ends_the_plan() -> None:
    ran: list[str] = []

    def refuse(path: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", path)

    def plan() -> Iterator[Any]:
        yield Step(ran.append, ("first",), "it works")
        yield Step(refuse, ("/x",), "to see it fail")
        yield Step(ran.append, ("never",), "it is not reached")

    with pytest.raises(StepFailed, match=r'refuse\("/x"\): operation not permitted: to see it fail'):
        run(plan())  # type: ignore[arg-type]  # an iterator is enough
    assert ran == ["first"]
