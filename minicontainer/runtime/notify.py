"""Notify: the listener of a container's seccomp filter, handed to the agent that answers for the kernel.

Stands between `creation` and the agent's socket; loaded only for a profile that asks for it. Ruled by runtime-spec
config-linux.md (Seccomp, The Container Process State), seccomp_unotify(2), pidfd_getfd(2).
"""

import os
import socket

from minicontainer import json_documents
from minicontainer.errors import Error
from minicontainer.linux.syscalls import pidfd_getfd
from minicontainer.oci.runtime import Seccomp, State, Status
from minicontainer.runtime import hooks


def hand_over(pid: int, number: int, profile: Seccomp, state: State, status: Status) -> None:
    """Take the descriptor `number` of the process `pid`, and send it to the agent with the container process state."""
    process = os.pidfd_open(pid)
    listener = -1
    try:
        listener = pidfd_getfd(process, number)
        send(listener, pid, profile, state, status)
    finally:
        os.close(process)
        if listener >= 0:
            os.close(listener)


def send(listener: int, pid: int, profile: Seccomp, state: State, status: Status) -> None:
    """One state for each connection, which is closed then."""
    path = profile.listener_path
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
            socket.send_fds(connection, [document(pid, profile, state, status)], [listener])
        except OSError as error:
            raise Error(f"linux.seccomp.listenerPath {path}: {(error.strerror or str(error)).lower()}") from error


def document(pid: int, profile: Seccomp, state: State, status: Status) -> bytes:
    """The container process state; that of the container names the first process, also for a further one."""
    json = {
        "ociVersion": state.oci_version,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": profile.listener_metadata,
        "state": json_documents.loads(hooks.document(state, status, state.pid or pid)),
    }
    return json_documents.dumps(json)
