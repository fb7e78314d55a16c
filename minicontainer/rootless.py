"""Rootless: a plain user as root of a user namespace of their own, with the ids that /etc/subuid and /etc/subgid give.

Stands above `containers`; the command line enters before anything else is done, the engine asks what can be had there.
Ruled by user_namespaces(7), subuid(5), newuidmap(1). Inside, id 0 is the person, 1 to 65536 are their subordinate ids.
All of one person's containers are in one such namespace, so that a later command reaches them: who is alive in it is
how it is found, and with the last of them it is gone.
"""

import errno
import os
import pwd
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress

from minicontainer import containers, files
from minicontainer.containers import ID_RANGE, Home, Options
from minicontainer.errors import Error
from minicontainer.linux import flags, procfs, syscalls
from minicontainer.network import slirp
from minicontainer.runtime import cgroups, sealing, states

# A setting of the kernel, the value that forbids user namespaces to people, and the command that allows them.
FORBIDDEN = (
    ("kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1",
     "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ("user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=10000"),
)  # fmt: skip
DELEGATION = "systemd-run --user --scope --property Delegate=yes minicontainer run ..., on a host with cgroup version 2"


def enter(place: Home) -> None:
    """Become root of the person's user namespace: that of their containers, or a new one.

    Raises:
        Error: something that it takes is missing; the line says what, and how to get it.
    """
    containers.prepare(place)
    inside = f"{place.run}/inside"
    os.makedirs(inside, mode=0o700, exist_ok=True)
    with files.lock(f"{place.run}/enter.lock"):
        if not any(map(_joined, _members(place, inside))):
            _make(_name())
        files.write(f"{inside}/{os.getpid()}", str(procfs.start_time(os.getpid())).encode())
    os.setgroups(())
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    try:
        syscalls.unshare(flags.CLONE_NEWNS)
    except OSError as error:
        raise _refused(error) from None
    syscalls.mount(None, "/", None, flags.MS_REC | flags.MS_SLAVE)
    interpreter = os.path.realpath("/proc/self/exe")
    if os.access(interpreter, os.W_OK):  # root inside is the person outside, who may write to it: `sealing`
        sealing.seal_interpreter(sys.orig_argv, running=interpreter)


def _members(place: Home, inside: str) -> Iterator[int]:
    """The living processes of the person's namespace: commands that are at work, and supervisors."""
    for name in os.listdir(inside):
        with suppress(FileNotFoundError):
            with open(f"{inside}/{name}", encoding="ascii") as file:
                began = file.read()
            if name.isdecimal() and str(procfs.start_time(int(name))) == began:
                yield int(name)
            else:  # it has ended, or was killed while it wrote
                os.unlink(f"{inside}/{name}")
    for container_id in containers.ids(place):
        with suppress(Error):
            container = containers.read(place, container_id)
            if containers.alive(container):
                yield container.supervisor_pid


def _joined(pid: int) -> bool:
    """Enter the user namespace of a process; false if it has just ended."""
    try:
        descriptor = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return False
    try:
        syscalls.setns(descriptor, flags.CLONE_NEWUSER)
    finally:
        os.close(descriptor)
    return True


def _name() -> str:
    """Who this is: by name, or by number where /etc/passwd does not know them."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _make(person: str) -> None:
    """A new user namespace. Its maps are written by set-user-ID programs, from outside: a helper starts them."""
    maps = []
    for tool, table, own in (("newuidmap", "/etc/subuid", os.getuid()), ("newgidmap", "/etc/subgid", os.getgid())):
        first, count = subordinate(person, os.getuid(), _read(table), table)
        if not (program := shutil.which(tool)):
            raise Error(
                f"{tool} is not installed, and containers of {person} need it; try: sudo apt-get install uidmap"
            )
        maps.append((program, ["0", str(own), "1", "1", str(first), str(min(count, ID_RANGE))]))
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
        raise _refused(error) from None
    finally:
        os.close(go[1])
        said = os.read(done[0], 1000).decode()
        os.close(done[0])
        os.waitpid(helper, 0)
    if said != "mapped":
        raise Error(f"{said or 'the helper died'} did not map the ids of {person}; try: sudo chmod u+s {said}")


def _map(maps: list[tuple[str, list[str]]], go: tuple[int, int], done: tuple[int, int]) -> None:
    """In the helper: wait for the namespace, map its ids, and say "mapped", or which program failed."""
    os.close(go[1])
    os.close(done[0])
    pid = str(os.getppid())
    if os.read(go[0], 1):
        failed = next((program for program, ids in maps if os.spawnv(os.P_WAIT, program, [program, pid, *ids])), "")
        os.write(done[1], failed.encode() or b"mapped")


def subordinate(person: str, uid: int, text: str, table: str) -> tuple[int, int]:
    """The first range of a person in /etc/subuid or /etc/subgid, by name or number: its first id, and how many.

    Raises:
        Error: there is none, or too few for an image.
    """
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if name in (person, str(uid)) and first.isdecimal() and count.isdecimal():
            if int(count) < ID_RANGE - 1:
                raise Error(f"{table} gives {person} {count} ids, and images may need {ID_RANGE}; {_more(person)}")
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


def _refused(error: OSError) -> Error:
    for name, value, command in FORBIDDEN:
        if _read(f"/proc/sys/{name}").strip() == value:
            return Error(
                f"this host forbids user namespaces to people ({name.replace('/', '.')} is {value}); try: {command}"
            )
    return Error(
        f"this host makes no user namespace for people ({errno.errorcode.get(error.errno or 0, error)}); try: sudo"
    )


# --- what can be had there -------------------------------------------------------------------------------------------


def fit(options: Options) -> Options:
    """The options as a person without root can have them; as they are for root.

    Raises:
        Error: one of them cannot be had.
    """
    if not procfs.in_user_namespace():
        return options
    if options.userns == "host":
        raise Error("--userns host needs the host's root; try: without it, or sudo")
    here = set(states.writable(cgroups.resolve(cgroups.hierarchies(), "minicontainer/here")))
    version2 = cgroups.UNIFIED in here and cgroups.hierarchies().version2
    asked = {"memory": options.memory, "cpu": options.cpus or options.cpu_shares}
    for controller, value in asked.items():
        if value and not version2 and controller not in here:
            raise Error(f"a limit of {controller} needs a cgroup of your own; try: {DELEGATION}")
    options = options._replace(pids_limit=options.pids_limit if version2 or "pids" in here else 0)
    if options.network != "bridge":
        return options
    if missing := slirp.missing():
        if options.ports or options.publish_all:
            raise Error(f"ports need a network that publishes them: {missing}")
        return options._replace(network="none")
    return options._replace(network="slirp", dns=options.dns or (slirp.NAME_SERVER,))
