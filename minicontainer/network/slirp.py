"""Slirp: a network for a container without root: slirp4netns carries its packets as its person's own connections.

Stands beside `bridge`, which needs root; the supervisor attaches and releases. Ruled by slirp4netns(1). The program
makes a tap in the container's network namespace and speaks TCP/IP there; outside it opens sockets like any program of
the person. It dies with the supervisor.
"""

import os
import shutil
import signal

from minicontainer.errors import Error
from minicontainer.linux.processes import set_pdeathsig

TOOL, DEVICE = "slirp4netns", "/dev/net/tun"
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


def attach(namespace: int) -> int:
    """Give a network namespace an interface: the pid of the program that carries it.

    Raises:
        Error: the program ended before the interface was there.
    """
    program = shutil.which(TOOL)
    if not program:
        raise Error(missing())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            set_pdeathsig(signal.SIGKILL)
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            for descriptor in (namespace, write):
                os.set_inheritable(descriptor, True)
            where = ("--netns-type=path", f"/proc/self/fd/{namespace}", "tap0")
            os.execv(program, [TOOL, *FLAGS, f"--ready-fd={write}", *where])
        finally:
            os._exit(127)
    os.close(write)
    try:
        if not os.read(read, 1):
            release(child)
            raise Error(f"{TOOL} gives the container no network; try: --network none")
    finally:
        os.close(read)
    return child


def release(program: int) -> None:
    """End the program."""
    os.kill(program, signal.SIGKILL)
    os.waitpid(program, 0)
