"""Registries of ours on a free port of loopback, each in a process of its own, for the tests that speak to one."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

PROGRAM = f"{Path(sys.executable).parent}/minicontainer"
USER, PASSWORD = "AWS", "secret:with colon"


class Running(NamedTuple):
    """Where the registry listens, and who it is."""

    host: str
    root: str
    pid: int


@contextmanager
def serving(data: Path, *flags: str) -> Iterator[tuple[str, int]]:
    """`minicontainer registry serve`: its address and its process."""
    command = [PROGRAM, "registry", "serve", "--listen", "127.0.0.1:0", "--data", str(data), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip().partition("://")[2], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        process.stdout.close()


@contextmanager
def running(root: str) -> Iterator[Running]:
    """Serve the repositories in `root` until the end of the block."""
    listener = socket.create_server(("127.0.0.1", 0))
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(root, listener), daemon=True)
    process.start()
    assert process.pid is not None
    listener.close()
    try:
        yield Running(host=host, root=root, pid=process.pid)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.join()


def _serve(root: str, listener: socket.socket) -> None:
    from minicontainer.registry import server

    application = web.Application()
    application.add_subapp("/v2/", server.routes(root, lambda user, password: (user, password) == (USER, PASSWORD)))
    web.run_app(application, sock=listener, print=None, access_log=None, handle_signals=True)
