"""Plans: what is printed is what runs."""

import errno
import os
import pty
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from minicontainer.errors import Error
from minicontainer.linux import processes, syscalls
from minicontainer.linux.flags import AT_FDCWD, AT_RECURSIVE, MS_NODEV, MS_NOEXEC, MS_NOSUID, OPEN_TREE_CLONE
from minicontainer.plan import Explain, Plan, Step, StepFailed, Stopped, explain_on, run


def test_a_step_describes_its_call_with_the_kernel_s_names() -> None:
    step = Step(syscalls.mount, ("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None), "why")
    assert step.describe() == 'mount("proc", "/proc", "proc", MS_NOSUID|MS_NODEV|MS_NOEXEC, NULL)'
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


def test_a_call_by_way_of_a_function_of_ours_is_written_as_in_its_manual_page() -> None:
    for call, arguments, written in (
        (processes.set_no_new_privs, (), "prctl(PR_SET_NO_NEW_PRIVS, 1)"),
        (processes.set_pdeathsig, (signal.SIGKILL,), "prctl(PR_SET_PDEATHSIG, SIGKILL)"),
        (processes.capbset_drop, (21,), "prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN)"),
        (syscalls.capset, (0x1FF, 0, 0), "capset(0x1ff, 0x0, 0x0)"),
        (syscalls.seccomp_load, (b"\0" * 8, 0), "seccomp(SECCOMP_SET_MODE_FILTER, 0, <8 bytes>)"),
    ):
        assert Step(call, arguments, "why").describe() == written
    environment = {"PATH": "/bin", "HOME": "/"}
    assert Step(print, (environment,), "why").describe() == 'print(["PATH=/bin", "HOME=/"])'


def test_a_reason_that_holds_for_several_steps_is_said_once() -> None:
    def plan() -> Plan[None]:
        yield Step(os.getpid, (), "to know it")
        yield Step(os.getppid, (), "to know it")
        yield Step(os.getuid, (), "another")

    reader, writer = os.pipe()
    run(plan(), Explain(writer))
    os.close(writer)
    assert os.read(reader, 1000).split() == b"getpid() to know it getppid() getuid() another".split()
    os.close(reader)


def _seen(step: Step, columns: int, **environ: str) -> list[str]:
    """What a terminal of so many columns is given of a step."""
    master, slave = pty.openpty()
    try:
        os.set_blocking(master, False)
        import fcntl
        import struct
        import termios

        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        explain_on(slave, "init", environ=environ).show(step)
        return os.read(master, 100_000).decode().splitlines()
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("columns", [60, 80, 100, 250])
def test_on_a_terminal_no_line_is_longer_than_it_and_ids_are_short(columns: int) -> None:
    path = f"/containers/{'ab' * 32}/" + "x/" * 40
    step = Step(syscalls.mount, ("overlay", path, "overlay", 0, f"lowerdir={path}:{path}"), "a reason of words " * 9)
    lines = _seen(step, columns, NO_COLOR="1")
    assert max(map(len, lines)) < columns
    text = "".join(line.strip() for line in lines)
    assert "abababababab…/" in text
    assert all(line.startswith(" " * 12) for line in lines[1:])
    assert "\x1b" not in text


def test_colours_are_for_terminals_whose_owner_likes_them() -> None:
    step = Step(os.getpid, (), "why")
    assert "\x1b[1mgetpid()\x1b[0m" in _seen(step, 80)[0]
    reader, writer = os.pipe()
    assert not explain_on(writer).colour
    os.close(reader)
    os.close(writer)


def test_stepping_needs_a_terminal_and_q_ends_it() -> None:
    reader, writer = os.pipe()
    with pytest.raises(Error, match="--explain"):
        explain_on(writer, pause=True)
    os.close(reader)
    os.close(writer)
    ran: list[int] = []

    def plan() -> Plan[None]:
        yield Step(ran.append, (1,), "it is done")
        yield Step(ran.append, (2,), "it is not")

    master, slave = pty.openpty()
    os.write(master, b"\nq\n")
    with pytest.raises(Stopped, match=r"before append\(2\)"):
        run(plan(), explain_on(slave, pause=True))
    assert ran == [1]
    os.close(master)
    os.close(slave)
