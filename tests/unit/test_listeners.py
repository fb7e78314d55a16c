"""Sockets that listen, and who has the port."""

import os
import socket
import subprocess
import sys

import pytest

from miniecs import listeners
from miniecs.errors import Error


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("127.0.0.1:8600", ("127.0.0.1", 8600)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:1", ("127.0.0.1", 1)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
    ],
)
def test_an_address_is_host_and_port(address: str, parsed: tuple[str, int]) -> None:
    assert listeners.parse(address) == parsed


@pytest.mark.parametrize("address", ["", "8600", "host:80", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ":80"])
def test_what_is_no_address_says_what_to_try(address: str) -> None:
    with pytest.raises(Error, match=r"is no address to listen on; try: --listen 127\.0\.0\.1:8600"):
        listeners.parse(address)


def test_a_socket_knows_its_url() -> None:
    with listeners.listen("127.0.0.1:0") as opened:
        assert listeners.url(opened) == f"http://127.0.0.1:{opened.getsockname()[1]}"
        assert not opened.getblocking()


def test_what_listens_everywhere_is_reached_by_the_loopback() -> None:
    with listeners.listen("0.0.0.0:0") as opened:
        assert listeners.url(opened) == f"http://127.0.0.1:{opened.getsockname()[1]}"


def test_a_taken_port_names_this_process() -> None:
    with listeners.listen("127.0.0.1:0") as opened:
        port = opened.getsockname()[1]
        with pytest.raises(Error) as caught:
            listeners.listen(f"127.0.0.1:{port}")
    assert f"port {port} of 127.0.0.1 is taken by process {os.getpid()} (" in str(caught.value)


def test_a_taken_port_names_another_process() -> None:
    script = (
        "import socket, sys\ns = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        port = int(holder.stdout.readline())
        assert listeners.holder(port).startswith(f"process {holder.pid} ({sys.executable} -c import socket")
        assert holder.stdin
        holder.stdin.close()


def test_a_connection_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert not listeners._inodes(client.getsockname()[1])
            assert len(listeners._inodes(port)) == 1


def test_an_address_that_is_not_here_says_so() -> None:
    with pytest.raises(Error, match=r"cannot listen on 192\.0\.2\.1:80.*; try: --listen 127\.0\.0\.1:80"):
        listeners.listen("192.0.2.1:80")
