"""Subordinate ids: a user namespace for a person without root, with the ids that /etc/subuid and /etc/subgid give.

Stands on the system calls, below `rootless` and the OCI runtime's entry. Ruled by user_namespaces(7), subuid(5),
newuidmap(1).
"""

import errno
import os
import pwd
import shutil

from minicontainer.errors import Error
from minicontainer.linux import flags, syscalls

_ENOUGH = 65536  # ids: what images use
# A setting of the kernel, the value that forbids user namespaces to people, and the command that allows them.
FORBIDDEN = (
    ("kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1",
     "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ("user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=10000"),
)  # fmt: skip


def enter(as_root: bool) -> None:
    """Into a new user namespace, with every capability in it: as its root, or with the ids that are outside.

    Its maps are written by set-user-ID programs, from outside: a helper starts them.

    Raises:
        Error: something that it takes is missing; the line says what, and how to get it.
    """
    person, maps = _name(), []
    for tool, table, own in (("newuidmap", "/etc/subuid", os.getuid()), ("newgidmap", "/etc/subgid", os.getgid())):
        first, count = subordinate(person, os.getuid(), _read(table), table)
        if not (program := shutil.which(tool)):
            raise Error(
                f"{tool} is not installed, and containers of {person} need it; try: sudo apt-get install uidmap"
            )
        ids = (0, own, 1, 1, first, min(count, _ENOUGH)) if as_root else (own, own, 1, first, first, count)
        maps.append((program, [str(number) for number in ids]))
    go, done = os.pipe(), os.pipe()
    helper = os.fork()
    if helper == 0:
        try:
            _map(maps, go, done)
        finally:
            os._exit(1)
    os.close(go[0])
    os.close(done[1])
    try:
        syscalls.unshare(flags.CLONE_NEWUSER)
        os.write(go[1], b"m")
    except OSError as error:
        raise refused(error) from None
    finally:
        os.close(go[1])
        said = os.read(done[0], 1000).decode()
        os.close(done[0])
        os.waitpid(helper, 0)
    if said != "mapped":
        raise Error(f"{said or 'the helper died'} did not map the ids of {person}; try: sudo chmod u+s {said}")


def own_mounts() -> None:
    """Into a mount namespace of this user namespace, which shows nothing of it to the one that it is left for."""
    try:
        syscalls.unshare(flags.CLONE_NEWNS)
    except OSError as error:
        raise refused(error) from None
    syscalls.mount(None, "/", None, flags.MS_REC | flags.MS_SLAVE)


def _name() -> str:
    """Who this is: by name, or by number where /etc/passwd does not know them."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _map(maps: list[tuple[str, list[str]]], go: tuple[int, int], done: tuple[int, int]) -> None:
    """In the helper: wait for the namespace, map its ids, and say "mapped", or which program failed."""
    os.close(go[1])
    os.close(done[0])
    pid = str(os.getppid())
    if os.read(go[0], 1):
        failed = next((program for program, ids in maps if os.spawnv(os.P_WAIT, program, [program, pid, *ids])), "")
        os.write(done[1], failed.encode() or b"mapped")


def subordinate(person: str, uid: int, text: str, table: str) -> tuple[int, int]:
    """The first range of a person in /etc/subuid or /etc/subgid, by name or number: its first id, and how many of it.

    Raises:
        Error: there is none, or too few for an image.
    """
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if name in (person, str(uid)) and first.isdecimal() and count.isdecimal():
            if int(count) < _ENOUGH - 1:
                raise Error(f"{table} gives {person} {count} ids, and images may need {_ENOUGH}; {_more(person)}")
            return int(first), int(count)
    raise Error(f"{table} gives no range of ids to {person}; {_more(person)}")


def _more(person: str) -> str:
    return f"try: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {person}"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def refused(error: OSError) -> Error:
    for name, value, command in FORBIDDEN:
        if _read(f"/proc/sys/{name}").strip() == value:
            return Error(
                f"this host forbids user namespaces to people ({name.replace('/', '.')} is {value}); try: {command}"
            )
    return Error(
        f"this host makes no user namespace for people ({errno.errorcode.get(error.errno or 0, error)}); try: sudo"
    )
