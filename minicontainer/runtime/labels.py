"""Labels: the AppArmor profile and the SELinux context of a process and of its files, as a plan.

Stands between the spec and `init`, which loads it only for a process that has one. Ruled by runtime-spec config.md
(apparmorProfile, selinuxLabel), config-linux.md (mountLabel), proc_pid_attr(5). A process can label only itself, and
does so through the host's /proc, which its creator has opened: what the container calls /proc may be anything.
"""

import errno
import os
from collections.abc import Callable, Iterator

from minicontainer.errors import Error
from minicontainer.oci.runtime import Process
from minicontainer.plan import Plan, Step

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_SELINUX = "/sys/fs/selinux/enforce"


def has_apparmor() -> bool:
    try:
        with open(_APPARMOR, encoding="ascii") as file:
            return file.read(1) == "Y"
    except OSError:
        return False


def complaints(process: Process) -> Iterator[str]:
    """A wall that was asked for and would not be there, by its field."""
    if process.apparmor_profile not in ("", "unconfined") and not has_apparmor():
        yield f"process.apparmorProfile {process.apparmor_profile!r}: this host has no AppArmor; try: unconfined"
    if process.selinux_label:
        yield from complaints_of_context("process.selinuxLabel", process.selinux_label)


def complaints_of_context(field: str, context: str) -> Iterator[str]:
    if not os.path.exists(_SELINUX):
        yield f"{field} {context!r}: this host has no SELinux; try: without it"


def asked(process: Process, proc: int) -> Callable[[], Plan[None]]:
    """The steps of a process that shall have labels; `proc` is the host's /proc. What the host has is seen now."""
    profile = process.apparmor_profile if has_apparmor() else ""
    return lambda: _steps(profile, process.selinux_label, proc)


def _steps(profile: str, context: str, proc: int) -> Plan[None]:
    """Before the session keyring is made, which has a context, too."""
    if context:
        yield Step(set_context, (proc, "keycreate", context), "its keyring is one that this context may use")
        yield Step(set_context, (proc, "exec", context), "the SELinux context from execve on")
    if profile:
        yield Step(change_profile, (proc, profile), "the AppArmor profile from execve on")


def change_profile(proc: int, profile: str) -> None:
    """aa_change_onexec(3)"""
    try:
        write_attribute(proc, "apparmor/exec", f"exec {profile}")
    except FileNotFoundError:
        raise Error(
            f"process.apparmorProfile {profile!r} is not loaded on this host; try: apparmor_parser -r ITS-FILE"
        ) from None


def set_context(proc: int, attribute: str, context: str) -> None:
    """setexeccon(3), setkeycreatecon(3)"""
    try:
        write_attribute(proc, attribute, context)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise Error(
            f"process.selinuxLabel {context!r} is no context of this host's policy; try: USER:ROLE:TYPE:LEVEL"
        ) from None


def write_attribute(proc: int, name: str, value: str) -> None:
    """Write a security attribute of this thread: proc_pid_attr(5)."""
    attribute = os.open(f"thread-self/attr/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(attribute, value.encode())
    finally:
        os.close(attribute)
