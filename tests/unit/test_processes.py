"""What a process gives up by prctl(2), proved by /proc/self/status of a child that gave it up."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from minicontainer.linux import processes, procfs, syscalls
from minicontainer.linux.flags import PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET

PR_GET_DUMPABLE, PR_GET_SECUREBITS = 3, 27
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_SETPCAP: sudo ./dev test")


def _in_child(look: Callable[[], object]) -> str:
    """What `look` returns in a child, as text."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, str(look()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def test_no_new_privs_is_in_the_status() -> None:
    def look() -> str:
        processes.set_no_new_privs()
        return procfs.status()["NoNewPrivs"]

    assert _in_child(look) == "1"


def test_dumpable_is_off_and_proc_belongs_to_root_then() -> None:
    def look() -> int:
        processes.set_dumpable(0)
        return syscalls.prctl(PR_GET_DUMPABLE)

    assert _in_child(look) == "0"


def test_a_child_dies_with_its_parent() -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        if os.fork() == 0:
            processes.set_pdeathsig(signal.SIGKILL)
            os.write(write, b"armed")
            signal.pause()
        signal.pause()
    os.close(write)
    assert os.read(read, 5) == b"armed"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(read, 1) == b"", "the end of the file: the grandchild's copy of the pipe is closed"
    os.close(read)


def test_a_name_is_what_ps_shows() -> None:
    def look() -> str:
        processes.set_name("runtime init")
        return Path("/proc/self/comm").read_text().strip()

    assert _in_child(look) == "runtime init"


@needs_root
def test_the_bounding_set_ends_empty_up_to_what_this_kernel_knows() -> None:
    def look() -> str:
        for capability in range(procfs.cap_last_cap() + 1):
            processes.capbset_drop(capability)
        return procfs.status()["CapBnd"]

    assert int(_in_child(look), 16) == 0


@needs_root
def test_a_capability_that_python_prctl_does_not_know_is_dropped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its list is that of the headers it was built with: an older one is played here."""
    monkeypatch.setattr(processes, "_KNOWN", frozenset(range(38)))

    def look() -> str:
        processes.capbset_drop(40)
        return procfs.status()["CapBnd"]

    assert not int(_in_child(look), 16) >> 40 & 1


@needs_root
def test_keeping_capabilities_is_the_only_secure_bit_and_can_be_taken_back() -> None:
    def look() -> tuple[int, int]:
        processes.set_securebits(processes.SECBIT_KEEP_CAPS)
        before = syscalls.prctl(PR_GET_SECUREBITS)
        processes.set_keepcaps(0)
        return before, syscalls.prctl(PR_GET_SECUREBITS)

    assert _in_child(look) == str((1 << 4, 0))


@needs_root
def test_an_ambient_capability_is_raised_and_cleared() -> None:
    def look() -> tuple[int, int]:
        effective, permitted, _ = syscalls.capget()
        syscalls.capset(effective, permitted, 1)
        processes.cap_ambient_raise(0)
        raised = syscalls.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 0)
        processes.cap_ambient_clear_all()
        return raised, syscalls.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 0)

    assert _in_child(look) == "(1, 0)"


def test_a_refusal_is_the_kernels() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        processes.capbset_drop(63)
