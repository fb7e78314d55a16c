"""Id maps: a user namespace for nothing but its mapping, by which a mount shows other owners than are on disk.

Stands between `creation` and mount_setattr(2). Ruled by runtime-spec config.md (Mounts), mount_setattr(2)
(MOUNT_ATTR_IDMAP), user_namespaces(7). A mount with ids of its own needs no user namespace of the container's.
"""

import os
import signal
from collections.abc import Iterable

from minicontainer.linux.flags import CLONE_NEWUSER
from minicontainer.linux.syscalls import clone3
from minicontainer.oci.runtime import IdMapping
from minicontainer.runtime import cgroups


def lines(mappings: Iterable[IdMapping]) -> str:
    """/proc/PID/uid_map: user_namespaces(7)"""
    return "".join(f"{one.container_id} {one.host_id} {one.size}\n" for one in mappings)


def user_namespace(uid_mappings: Iterable[IdMapping], gid_mappings: Iterable[IdMapping]) -> int:
    """A descriptor of a new user namespace; the process that it was born with is gone when this returns."""
    child = clone3(CLONE_NEWUSER)
    if child == 0:
        while True:
            signal.pause()
    try:
        cgroups.write(f"/proc/{child}/gid_map", lines(gid_mappings))
        cgroups.write(f"/proc/{child}/uid_map", lines(uid_mappings))
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
