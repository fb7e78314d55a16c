"""Listeners: sockets that listen, and who has the port if it is taken.

Stands on `errors`. Ruled by socket(7), proc_net(5) and proc_pid_fd(5).
"""

import errno
import ipaddress
import os
import socket
from contextlib import suppress
from pathlib import Path

from miniecs.errors import Error

LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp


def listen(address: str) -> socket.socket:
    """A listening socket on `HOST:PORT` (`[HOST]:PORT` for IPv6); port 0 takes any.

    Raises:
        Error: no such address here, or the port is taken: the text names the process that holds it.
    """
    host, port = parse(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(1024)
        opened.setblocking(False)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise Error(f"port {port} of {host} is taken by {holder(port)}; try: another --listen") from None
        raise Error(
            f"cannot listen on {address}: {os.strerror(error.errno or 0)}; try: --listen 127.0.0.1:{port}"
        ) from None
    return opened


def parse(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        host = "127.0.0.1" if host == "localhost" else ""
    if not host or not colon or not port.isdecimal() or int(port) > 65535:
        raise Error(f"{address!r} is no address to listen on; try: --listen 127.0.0.1:8600")
    return host, int(port)


def url(opened: socket.socket) -> str:
    """Where this machine reaches it: what listens on every address, on the loopback's."""
    host, port = opened.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def holder(port: int) -> str:
    """The process that listens on a TCP port of this network namespace, as a person would name it."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    for pid in sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int):
        with suppress(OSError):  # it ended, or it is not ours to look into
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{descriptor}") in wanted:
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    return f"process {pid} ({command.strip()[:120]})"
    return "a process that only root can see" if os.geteuid() else "a process of another process namespace"


def _inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError):
            for row in Path(table).read_text().splitlines()[1:]:
                fields = row.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found
