"""Sealing: no container can write to the interpreter that its runtime is made of.

Stands on the system calls, alone, so that it costs little: it runs before the rest is loaded. Ruled by open_tree(2),
mount_setattr(2), execveat(2). A container's root may name the program that a process in it was started from, by
/proc/PID/exe, and write to it when the process has ended (CVE-2019-5736). A user namespace keeps it out, as the file
belongs to nobody there; otherwise the mount that the interpreter was started from has to be read-only. Starting it a
second time costs as much as a whole container: so the mount is kept, and the command starts from there the next time.
"""

import fcntl
import os
from contextlib import suppress

from minicontainer.linux.flags import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    CLONE_NEWNS,
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_PRIVATE,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)
from minicontainer.linux.syscalls import mount_setattr, move_mount, open_tree, umount, unshare

SEALED = "/run/sealed-minicontainer/python3"  # `dev` writes it into the command, which asks whether it is there
_RUNNING = "/proc/self/exe"


def interpreter_is_sealed() -> bool:
    """Whether /proc/self/exe of this process is on a read-only mount."""
    return bool(os.statvfs(_RUNNING).f_flag & os.ST_RDONLY)


def seal_interpreter(arguments: list[str], path: str = SEALED, running: str = _RUNNING) -> None:
    """Start this program again, with `arguments` (sys.orig_argv), from a read-only mount of the interpreter `running`.

    The mount is kept at `path`. Returns if the interpreter is sealed already, or belongs to somebody that this user,
    who is not root, cannot become.
    """
    if interpreter_is_sealed() or (os.geteuid() and not os.access(running, os.W_OK)):
        return
    try:
        tree = open_tree(AT_FDCWD, running, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
    except PermissionError:  # who has a user namespace and no mount namespace of its own gets one
        unshare(CLONE_NEWNS)
        here = os.readlink(running)  # what /proc/self/exe leads to is of the mount namespace that was left
        tree = open_tree(AT_FDCWD, here, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
    mount_setattr(tree, "", AT_EMPTY_PATH, MOUNT_ATTR_RDONLY, propagation=MS_PRIVATE)
    with suppress(OSError):  # a mount that cannot be kept lives as long as the program
        keep(tree, path)
    os.execve(tree, arguments, os.environ)


def keep(tree: int, path: str) -> None:
    """Attach the mount `tree` of the running interpreter at `path`, in place of that of an older one."""
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if os.path.samefile(path, _RUNNING):
            return  # another start was quicker
        with suppress(OSError):  # there is none yet
            umount(path, MNT_DETACH)
        _tell_where_the_library_is(directory)
        move_mount(tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(lock)


def _tell_where_the_library_is(directory: str) -> None:
    """A file beside the interpreter by which it finds its library, as in a virtual environment: site, pyvenv.cfg."""
    with open(f"{directory}/pyvenv.cfg", "w", encoding="utf-8") as file:
        file.write(f"home = {os.path.dirname(os.path.realpath(_RUNNING))}\n")
