"""Ports: take ports of the machine for a container, and say who has one that is taken.

Stands beside `bridge`, which publishes what is taken here; the supervisor holds it. Ruled by bind(2), proc_net(5).
"""

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress

from minicontainer.containers import Port
from minicontainer.errors import Error
from minicontainer.values import NamedTuple

DYNAMIC_PORTS = range(32768, 61000)
PROTOCOLS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class PortTaken(Error):
    """Someone else has the host port."""


class Binding(NamedTuple):
    """A host port that is ours while `held` is open."""

    port: Port
    held: socket.socket

    def __repr__(self) -> str:
        return f"{self.port.host_port}:{self.port.container_port}/{self.port.protocol}"


def bind(ports: Sequence[Port], hold: bool = True) -> list[Binding]:
    """Take the host ports, all or none; 0 becomes a free one. Without `hold` they are only seen to be free.

    Raises:
        PortTaken: one of them is another's; the text names the process.
    """
    bindings: list[Binding] = []
    try:
        for port in ports:
            bindings.append(_bind_dynamic(port) if port.host_port == 0 else _bind(port))  # noqa: PERF401  # kept on error
    except BaseException:
        hold = False
        raise
    finally:
        for binding in () if hold else bindings:
            binding.held.close()
    return bindings


def _bind_dynamic(port: Port) -> Binding:
    tried = DYNAMIC_PORTS[int.from_bytes(os.urandom(4)) % len(DYNAMIC_PORTS) :]
    for host_port in (*tried, *DYNAMIC_PORTS):
        with suppress(PortTaken):
            return _bind(port._replace(host_port=host_port))
    raise PortTaken(f"no free host port from {DYNAMIC_PORTS[0]} to {DYNAMIC_PORTS[-1]} for {port.container_port}")


def _bind(port: Port) -> Binding:
    held = socket.socket(socket.AF_INET, PROTOCOLS[port.protocol] | socket.SOCK_CLOEXEC)
    try:
        if port.protocol == "tcp":
            # A connection of the container before us may still be in TIME_WAIT: that is no reason to refuse.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((port.host_ip or "0.0.0.0", port.host_port))
        if port.protocol == "tcp":
            held.listen(1)  # not to accept: so that others, and ss(8), see the port taken
        return Binding(port=port, held=held)
    except OSError as error:
        held.close()
        where = f"{port.host_ip or '0.0.0.0'}:{port.host_port}/{port.protocol}"
        if error.errno == errno.EADDRINUSE:
            holder = port_holder(port.host_port, port.protocol) or "a process of another user namespace"
            raise PortTaken(f"port {where} is taken by {holder}; try: another host port, or stop it") from None
        fix = f"try: a port from 1024 on, or sudo sysctl net.ipv4.ip_unprivileged_port_start={port.host_port}"
        said = f"cannot bind {where}: {(error.strerror or '').lower()}"
        raise Error(f"{said}; {fix}" if error.errno == errno.EACCES else said) from error


def port_holder(port: int, protocol: str = "tcp") -> str:
    """The process that has the port bound, as "pid 12 (command line)", or nothing if it cannot be told."""
    inodes = {f"socket:[{inode}]" for inode in _socket_inodes(port, protocol)}
    for pid in filter(str.isdecimal, os.listdir("/proc") if inodes else ()):
        with suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{descriptor}") in inodes:
                        return f"pid {pid} ({_command_line(pid)})"
    return ""


def _socket_inodes(port: int, protocol: str) -> Iterator[str]:
    for table in (protocol, f"{protocol}6"):
        with suppress(FileNotFoundError), open(f"/proc/net/{table}", encoding="ascii") as file:
            for line in list(file)[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port and (protocol == "udp" or fields[3] == "0A"):
                    yield fields[9]


def _command_line(pid: str) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return words if len(words) <= 80 else f"{words[:77]}..."
