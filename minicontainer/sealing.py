"""Sealing: no container can write to the interpreter that its runtime is made of.

Stands on the system calls, alone, so that it costs little: it runs before the rest is loaded. Ruled by open_tree(2),
mount_setattr(2), execveat(2). A container's root may name the program that a process in it was started from, by
/proc/PID/exe, and write to it when the process has ended (CVE-2019-5736). A user namespace keeps it out, as the file
belongs to nobody there; otherwise the mount that the interpreter was started from has to be read-only.
"""

import os

from minicontainer.linux.flags import AT_EMPTY_PATH, AT_FDCWD, MOUNT_ATTR_RDONLY, OPEN_TREE_CLOEXEC, OPEN_TREE_CLONE
from minicontainer.linux.syscalls import mount_setattr, open_tree


def interpreter_is_sealed() -> bool:
    """Whether /proc/self/exe of this process is on a read-only mount."""
    return bool(os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY)


def seal_interpreter(arguments: list[str]) -> None:
    """Start this program again, with `arguments` (sys.orig_argv), from a read-only mount of the interpreter.

    The mount is attached nowhere: it lives as long as the program. Returns if the interpreter is sealed already.
    """
    if interpreter_is_sealed():
        return
    tree = open_tree(AT_FDCWD, "/proc/self/exe", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
    mount_setattr(tree, "", AT_EMPTY_PATH, MOUNT_ATTR_RDONLY)
    os.execve(tree, arguments, os.environ)
