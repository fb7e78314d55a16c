"""Slirp: a network for a container without root: slirp4netns carries its packets as its person's own connections.

Stands beside `bridge`, which needs root; the supervisor attaches and releases. Ruled by slirp4netns(1). The program
makes a tap in the container's network namespace and speaks TCP/IP there; outside it opens sockets like any program of
the person, and listens on the published ports. It dies with the supervisor.
"""

import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import ExitStack

from minicontainer import json_documents
from minicontainer.errors import Error
from minicontainer.linux.processes import set_pdeathsig
from minicontainer.values import TYPE_CHECKING

if TYPE_CHECKING:
    from minicontainer.network.ports import Binding

TOOL, DEVICE = "slirp4netns", "/dev/net/tun"
REQUESTS = "slirp"  # the socket on which the program is told the ports
NAME_SERVER = "10.0.2.3"  # of the program's own, which asks the host's
FLAGS = ("--configure", "--mtu=65520", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp")


def missing() -> str:
    """What a container without root lacks for a network, with its fix; nothing if there is all."""
    if not shutil.which(TOOL):
        return f"{TOOL} is not installed; try: sudo apt-get install {TOOL}"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} is not open to you; try: sudo chmod 666 {DEVICE}"
    return ""


def namespace(pid: int) -> int:
    """A descriptor of the process's network namespace: a person gets it only before the process closes its /proc."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def attach(namespace: int, bindings: "Sequence[Binding]", place: str) -> int:
    """Give a network namespace an interface and its published ports: the pid of the program that carries them.

    The descriptor of the namespace is closed; `place` is a directory for the socket of requests.

    Raises:
        Error: the program ended before the interface was there, or another program was quicker to take a port.
    """
    program = shutil.which(TOOL)
    if not program:
        raise Error(missing())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(place)  # the name of a socket is 107 bytes at most: from here it is short
            _execute(program, namespace, write)
        finally:
            os._exit(127)
    with ExitStack() as undo:
        undo.callback(release, child)
        os.close(write)
        os.close(namespace)
        with os.fdopen(read, "rb") as ready:
            if not ready.read(1):
                raise Error(f"{TOOL} gives the container no network; try: --network none")
        for binding in bindings:
            _publish(place, binding)
        os.unlink(f"{place}/{REQUESTS}")
        undo.pop_all()
    return child


def _execute(program: str, namespace: int, ready: int) -> None:
    set_pdeathsig(signal.SIGKILL)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for descriptor in (namespace, ready):
        os.set_inheritable(descriptor, True)
    where = ("--netns-type=path", f"/proc/self/fd/{namespace}", "tap0")
    os.execv(program, [TOOL, *FLAGS, f"--ready-fd={ready}", f"--api-socket={REQUESTS}", *where])


def _publish(place: str, binding: "Binding") -> None:
    import socket  # why here: `rootless` loads this module for every command, and few publish a port

    port = binding.port
    arguments = {"proto": port.protocol, "host_addr": port.host_ip or "0.0.0.0",
                 "host_port": port.host_port, "guest_port": port.container_port}  # fmt: skip
    directory = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as requests:
            requests.connect(f"/proc/self/fd/{directory}/{REQUESTS}")
            requests.sendall(json_documents.dumps({"execute": "add_hostfwd", "arguments": arguments}))
            requests.shutdown(socket.SHUT_WR)
            answer = json_documents.loads(requests.makefile("rb").read())
    finally:
        os.close(directory)
    if "error" in answer:
        said = answer["error"].get("desc", "")
        raise Error(f"{TOOL} cannot publish {binding!r}: {said}; try: another host port")


def release(program: int) -> None:
    """End the program."""
    os.kill(program, signal.SIGKILL)
    os.waitpid(program, 0)
