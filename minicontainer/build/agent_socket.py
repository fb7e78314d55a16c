"""Agent socket: a socket for `RUN --mount=type=ssh`, joined to the caller's ssh-agent.

Why not the agent's own socket: an agent answers only its own user and root (ssh-agent(1)), and the ids of a RUN are
neither. So a child of the build, which is gone with it, listens for the RUN and hands on bytes, both ways.
"""

import os
import selectors
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from minicontainer.linux.processes import set_pdeathsig

CHUNK = 1 << 16


@contextmanager
def joined(path: str, agent: str, mode: int, uid: int, gid: int) -> Iterator[None]:
    """The socket `path`, owned as asked, is joined to the socket `agent`."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        listener.listen()
        if (child := os.fork()) == 0:
            try:
                set_pdeathsig(signal.SIGKILL)
                _serve(listener, agent)
            finally:
                os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.unlink(path)


def _serve(listener: socket.socket, agent: str) -> None:
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listener:
                _accept(listener, agent, waiting)
            else:
                _hand_on(key, waiting)


def _accept(listener: socket.socket, agent: str, waiting: selectors.BaseSelector) -> None:
    ours, _ = listener.accept()
    theirs = socket.socket(socket.AF_UNIX)
    try:
        theirs.connect(agent)
    except OSError:
        ours.close()
        return
    waiting.register(ours, selectors.EVENT_READ, theirs)
    waiting.register(theirs, selectors.EVENT_READ, ours)


def _hand_on(key: selectors.SelectorKey, waiting: selectors.BaseSelector) -> None:
    one, other = key.fileobj, key.data
    assert isinstance(one, socket.socket) and isinstance(other, socket.socket)
    data = b""
    with suppress(OSError):
        data = one.recv(CHUNK)
        other.sendall(data)
    if not data:
        for end in (one, other):
            with suppress(KeyError, ValueError):
                waiting.unregister(end)
            end.close()
