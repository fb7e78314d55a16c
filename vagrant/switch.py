"""Switch: the network of the light lab: a namespace of its own with a bridge, a cable for each machine, and one door.

A process of its own, started by `light_lab`: while it lives the namespace lives, and nothing of the computer's own
network changes. The door is a port of 127.0.0.1: a socket belongs for ever to the namespace it was made in, so this
process listens outside, and connects inside. Ruled by network_namespaces(7), ip-link(8) and setns(2).
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from minicontainer.linux import flags, syscalls

BRIDGE, PREFIX_LENGTH = "lab0", 24


def main() -> int:
    """switch.py STATE_FILE GATEWAY TARGET_ADDRESS TARGET_PORT TAP..."""
    state, gateway, address, port, *taps = sys.argv[1:]
    with socket.create_server(("127.0.0.1", 0)) as door:
        syscalls.unshare(flags.CLONE_NEWNET)
        network = [
            "link set lo up",
            f"link add {BRIDGE} type bridge",
            f"addr add {gateway}/{PREFIX_LENGTH} dev {BRIDGE}",
            f"link set {BRIDGE} up",
        ]
        for tap in taps:
            network += [f"tuntap add dev {tap} mode tap", f"link set {tap} master {BRIDGE} up"]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(network), text=True, check=True)
        written = Path(f"{state}.new")
        written.write_text(json.dumps({"pid": os.getpid(), "port": door.getsockname()[1]}))
        written.rename(state)
        asyncio.run(_serve(door, address, int(port)))
    return 0


async def _serve(door: socket.socket, address: str, port: int) -> None:
    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(address, port)
        except OSError:
            writer.close()  # the manager is off: who knocks hears it as a closed connection
            return
        await asyncio.gather(_pour(reader, far_writer), _pour(far_reader, writer))

    server = await asyncio.start_server(visit, sock=door)
    await server.serve_forever()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        return  # either end is gone: so is the conversation
    finally:
        writer.close()


if __name__ == "__main__":
    sys.exit(main())
