"""Readiness: what a container says to NOTIFY_SOCKET, told to who started it.

Loaded only when the caller has a NOTIFY_SOCKET, as a unit of systemd with Type=notify has. Ruled by sd_notify(3). The
container gets a socket of its own, and of what it says there only that it is ready is passed on: no message of its own
making reaches systemd.
"""

import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from minicontainer.oci.runtime import Mount, Spec
from minicontainer.runtime import states

_DIRECTORY, _NAME, _INSIDE = "notify", "notify.sock", "/run/notify"
_OPTIONS = ("bind", "nosuid", "noexec", "nodev", "ro")
_BARRIER = 30_000  # milliseconds that systemd may take to read what is sent, as with runc


def with_socket(spec: Spec, directory: str) -> Spec:
    """The spec of a container that finds a socket; `directory` is the container's own, among the states."""
    source = f"{directory}/{_DIRECTORY}"
    os.mkdir(source, 0o755)
    mount = Mount(destination=_INSIDE, type="bind", source=source, options=_OPTIONS)
    env = (*spec.process.env, f"NOTIFY_SOCKET={_INSIDE}/{_NAME}")
    return spec._replace(mounts=(*spec.mounts, mount), process=spec.process._replace(env=env))


@contextmanager
def passed_on(root: str, container_id: str, detached: bool) -> Iterator[None]:
    """Around the start of a container: wait until it says that it is ready, or has ended, and pass that on.

    Who is not detached waits for its end anyway: then a process of its own does it.
    """
    with ExitStack() as opened:
        listener = _listener(f"{root}/{container_id}/{_DIRECTORY}")
        if listener is None:  # it was created without
            yield
            return
        opened.enter_context(listener)
        yield
        pid = states.state(root, container_id).pid
        if not pid:
            return
        if detached:
            _pass_on(listener, pid)
        elif os.fork() == 0:
            try:
                _pass_on(listener, pid)
            finally:
                os._exit(0)


def _listener(directory: str) -> socket.socket | None:
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = f"/proc/self/fd/{descriptor}/{_NAME}"  # shorter than the path, of which a socket takes 107 bytes
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o777)  # whoever the container's user is
    finally:
        os.close(descriptor)
    return listener


def _pass_on(listener: socket.socket, pid: int) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    waiter = select.poll()
    waiter.register(listener, select.POLLIN)
    waiter.register(process, select.POLLIN)
    try:
        while listener.fileno() in dict(waiter.poll()):
            lines = listener.recv(4096).split(b"\n")
            ready = next((line for line in lines if line.startswith(b"READY=")), None)
            if ready is not None:
                _tell(ready, pid)
                return
    finally:
        os.close(process)


def _tell(ready: bytes, pid: int) -> None:
    """That it is ready, and which process to look after; then wait until both are read: sd_notify_barrier(3)."""
    path = os.environ["NOTIFY_SOCKET"]
    address = f"\0{path[1:]}" if path[0] == "@" else path
    read, write = os.pipe2(os.O_CLOEXEC)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host, open(read, "rb") as barrier:
        host.connect(address)
        host.send(ready + b"\n")
        host.send(f"MAINPID={pid}\n".encode())
        socket.send_fds(host, [b"BARRIER=1"], [write])
        os.close(write)
        waiter = select.poll()
        waiter.register(barrier, select.POLLIN)
        waiter.poll(_BARRIER)
