"""Processes: what one gives up or asks for by prctl(2), through python-prctl.

Stands on the system calls; knows nothing of containers. Ruled by prctl(2), capabilities(7). python-prctl carries what
it knows. It has no ambient set, and its capabilities are those of the headers that it was built with: the kernel's may
be more. These go to the call itself.
"""

import prctl

from minicontainer.linux import syscalls
from minicontainer.linux.flags import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
)

SECBIT_KEEP_CAPS: int = prctl.SECBIT_KEEP_CAPS
_KNOWN = frozenset(prctl.ALL_CAPS)


def set_dumpable(flag: int) -> None:
    """PR_SET_DUMPABLE: whether others may trace it and read its /proc."""
    prctl.set_dumpable(flag)


def set_pdeathsig(signal: int) -> None:
    """PR_SET_PDEATHSIG: the signal that it gets when its parent dies; 0 for none."""
    prctl.set_pdeathsig(signal)


def set_no_new_privs() -> None:
    """PR_SET_NO_NEW_PRIVS: no execve gives more than it has, for ever."""
    prctl.set_no_new_privs(1)


def set_securebits(bits: int) -> None:
    """PR_SET_SECUREBITS: how the kernel treats the user root; all bits at once."""
    prctl.set_securebits(bits)


def set_keepcaps(flag: int) -> None:
    """PR_SET_KEEPCAPS: whether leaving the user root leaves the permitted capabilities."""
    prctl.set_keepcaps(flag)


def set_name(name: str) -> None:
    """PR_SET_NAME: what ps(1) calls it, fifteen bytes."""
    prctl.set_name(name)


def capbset_drop(capability: int) -> None:
    """PR_CAPBSET_DROP: no program that it runs can have this capability."""
    if capability in _KNOWN:
        prctl.capbset_drop(capability)
    else:
        syscalls.prctl(PR_CAPBSET_DROP, capability)


def cap_ambient_clear_all() -> None:
    """PR_CAP_AMBIENT_CLEAR_ALL: no capability outlives the execve of a plain program."""
    syscalls.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def cap_ambient_raise(capability: int) -> None:
    """PR_CAP_AMBIENT_RAISE: this one does; it has to be permitted and inheritable."""
    syscalls.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)
