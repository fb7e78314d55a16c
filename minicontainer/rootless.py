"""Rootless: a plain user as root of a user namespace of their own, with the ids that /etc/subuid and /etc/subgid give.

Stands above `containers`; the command line enters before anything else is done, the engine asks what can be had there.
Ruled by user_namespaces(7), subuid(5), newuidmap(1). Inside, id 0 is the person, 1 to 65536 are their subordinate ids.
All of one person's containers are in one such namespace, so that a later command reaches them: who is alive in it is
how it is found, and with the last of them it is gone.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress

from minicontainer import containers, files, subordinate_ids
from minicontainer.containers import Home, Options
from minicontainer.errors import Error
from minicontainer.linux import flags, procfs, syscalls
from minicontainer.network import slirp
from minicontainer.runtime import cgroups, sealing, states

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
            subordinate_ids.enter(as_root=True)
        files.write(f"{inside}/{os.getpid()}", str(procfs.start_time(os.getpid())).encode())
    os.setgroups(())
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    subordinate_ids.own_mounts()
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
