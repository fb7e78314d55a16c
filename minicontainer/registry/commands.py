"""Commands: a registry of one's own, on the same data path as that of miniecs.

Stands between `cli` and `server`. Ruled by distribution-spec.
"""

import asyncio
import getpass
import os
import signal
import socket
import ssl
import sys

from aiohttp import web

from minicontainer import reports
from minicontainer.arguments import Parsed, UsageError
from minicontainer.containers import Home
from minicontainer.errors import Error
from minicontainer.registry.server import Registry, routes
from minicontainer.registry.users import Users, line

DEFAULT_LISTEN = "127.0.0.1:5000"


def registry_serve(home: Home, parsed: Parsed) -> int:
    """Serve until SIGTERM or SIGINT."""
    data = parsed.data or f"{home.data}/registry"
    os.makedirs(data, mode=0o700, exist_ok=True)
    users = Users(parsed.users) if parsed.users else None
    encrypted = _encrypted(parsed.tls_cert, parsed.tls_key)
    listener = _listen(parsed.listen or DEFAULT_LISTEN)
    blobs, size = Registry(data).collect()
    if blobs:
        print(f"removed {blobs} blobs that nothing names, {reports.size(size)}", file=sys.stderr)
    application = web.Application()
    application.add_subapp("/v2/", routes(data, users.authorize if users else None))
    host, port = listener.getsockname()[:2]
    if users is None and not host.startswith(("127.", "::1")):
        print("warning: everybody who reaches this address may read and write; try: --users FILE", file=sys.stderr)
    print(f"http{'s' if encrypted else ''}://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    asyncio.run(_serve(application, listener, encrypted))
    return 0


async def _serve(application: web.Application, listener: socket.socket, encrypted: ssl.SSLContext | None) -> None:
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=5)
    await runner.setup()
    await web.SockSite(runner, listener, ssl_context=encrypted).start()
    await end.wait()
    await runner.cleanup()


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--listen {address!r}: HOST:PORT is expected, like {DEFAULT_LISTEN}")
    host = host.removeprefix("[").removesuffix("]")
    try:
        return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise Error(
            f"cannot listen at {address}: {error.strerror or error}; try: --listen with another port"
        ) from error


def _encrypted(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise UsageError("--tls-cert and --tls-key go together")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise Error(f"{certificate} and {key} are not a certificate and its key: {error}") from error
    return context


def registry_user(_: Home, parsed: Parsed) -> int:
    """Print a line for the file of --users; the password comes from stdin."""
    password = getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    print(line(parsed.words[0], password))
    return 0
