"""Spawner: the engine for a resident program that has an event loop and threads, and so cannot fork.

Stands between `engine` and miniecs' task engine. A process is forked from the program before it has either; it has
all imported and one thread. For each call it forks a worker, which calls `engine` and sends the pickled result: many
calls at once, and what the engine forks is forked from a process that may fork: fork(2), NOTES; pthreads(7).
"""

import asyncio
import fcntl
import gc
import os
import pickle
import signal
import socket
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self

from minicontainer import containers, engine
from minicontainer.containers import Container, Home
from minicontainer.errors import Error
from minicontainer.linux import syscalls

MESSAGE = 1 << 17  # bytes of a request at most: a datagram
ABANDONABLE = frozenset(("exec", "wait", "read_logs"))  # what ends when nobody waits for it any more


class Gone(Error):
    """There is no process of the engine's to ask."""


class Abandoned(BaseException):
    """The caller of this worker's call has gone away."""


class Spawner:
    """The caller's side: nothing here blocks."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.control, self.pid = control, pid

    @classmethod
    def start(cls, home: Home) -> Self:
        """Fork the process that will call the engine. To be called before there are threads or an event loop."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                _serve(home, theirs)
            finally:
                os._exit(0)
        theirs.close()
        ours.setblocking(False)
        return cls(ours, pid)

    async def call(self, function: str, /, **arguments: Any) -> Any:
        """engine.<function>(home, **arguments): its result, or what it raised."""
        request = pickle.dumps((function, arguments))
        if len(request) > MESSAGE:
            raise Error(f"{function}: {len(request)} bytes of arguments are more than {MESSAGE}")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with ours:
            ours.setblocking(False)
            with theirs:
                await self._send(request, theirs.fileno())
            answer = await _receive(ours)
        if not answer:
            raise Gone(f"the engine's worker was killed during {function}")
        failed, outcome = pickle.loads(answer)
        if failed:
            raise outcome
        return outcome

    async def watch(self, container: Container, /) -> None:
        """Wait until the container has ended and all it held is released; at once if it has."""
        try:
            descriptor = os.pidfd_open(container.supervisor_pid) if container.supervisor_pid else -1
        except ProcessLookupError:
            return
        if descriptor < 0:
            return
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        try:
            if not containers.alive(container):
                return
            loop.add_reader(descriptor, _set, ended)
            await ended
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """End the process: it leaves at the end of its input. Containers and their supervisors stay."""
        self.control.close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    async def _send(self, request: bytes, reply: int) -> None:
        while True:
            try:
                socket.send_fds(self.control, [request], [reply])
                return
            except BlockingIOError:  # as many requests wait as the socket holds
                await asyncio.sleep(0.005)
            except (BrokenPipeError, ConnectionResetError):
                raise Gone("the engine's process was killed; try: start the agent again") from None


def _set(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_result(None)


async def _receive(reply: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    parts = []
    while part := await loop.sock_recv(reply, 1 << 16):
        parts.append(part)
    return b"".join(parts)


# --- in the forked process -------------------------------------------------------------------------------------------


def _serve(home: Home, control: socket.socket) -> None:
    """Fork a worker for each request, until the program that asks is gone."""
    _detach(control.fileno())
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, MESSAGE, 1)
        if not request:
            return
        if os.fork() == 0:
            control.close()
            _work(home, request, descriptors[0])
        for descriptor in descriptors:
            os.close(descriptor)


def _detach(kept: int) -> None:
    """Keep nothing of the program's but the socket and the standard descriptors, and do not die of its Ctrl-C."""
    gc.collect()  # now: the program's garbage has files whose numbers are others' soon
    gc.freeze()  # so that a worker's collector does not copy the pages that all share
    if kept > 3:
        syscalls.close_range(3, kept - 1)
    syscalls.close_range(kept + 1, 0x7FFFFFFF)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers are not waited for: their answer is what counts
    signal.set_wakeup_fd(-1)


def _work(home: Home, request: bytes, reply: int) -> None:
    """One call, in a worker of its own."""
    answer = b""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        function, arguments = pickle.loads(request)
        if function in ABANDONABLE:
            _end_when_abandoned(reply)
        result = getattr(engine, function)(home, **arguments)
        answer = pickle.dumps((False, list(result) if isinstance(result, Iterator) else result))
    except Exception as error:  # noqa: BLE001 - the edge of a process: the caller raises it again
        answer = pickle.dumps((True, _picklable(error)))
    finally:
        with suppress(OSError), socket.socket(fileno=reply) as connection:
            connection.sendall(answer)
        os._exit(0)


def _end_when_abandoned(reply: int) -> None:
    """Ask the kernel for SIGIO when the other end is closed: fcntl(2), F_SETOWN."""

    def abandoned(*_: object) -> None:
        raise Abandoned

    signal.signal(signal.SIGIO, abandoned)
    fcntl.fcntl(reply, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(reply, fcntl.F_SETFL, fcntl.fcntl(reply, fcntl.F_GETFL) | os.O_ASYNC)


def _picklable(error: Exception) -> Exception:
    if not isinstance(error, Error | OSError):
        error.add_note(f"in the engine's worker: {traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever a third party's exception does when it is pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
