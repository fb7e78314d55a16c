"""network: what /proc, a socket and a real connection say about a bridge, its addresses and its published ports."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minicontainer.containers import Network, Port
from minicontainer.linux import nftables
from minicontainer.network import bridge, ports

SERVER = """
import socket, sys
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
while True:
    connection, peer = listener.accept()
    connection.sendall(f"{sys.argv[2]} {peer[0]}".encode())
    connection.close()
"""


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def sysctl(name: str) -> str:
    return Path(f"/proc/sys/{name}").read_text().strip()


@contextmanager
def process() -> Iterator[int]:
    """A process in a network namespace of its own: what a container is to `network`."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        ctypes.CDLL(None).unshare(0x40000000)
        os.write(writer, b"x")
        signal.pause()
        os._exit(0)
    os.read(reader, 1)
    try:
        yield child
    finally:
        with_no_one = subprocess.run(["kill", "-9", str(child)], check=False)
        os.waitpid(child, 0)
        assert with_no_one.returncode == 0


@contextmanager
def serving(pid: int, port: int, word: str) -> Iterator[None]:
    """A server inside the network namespace of `pid` that answers with its word and who asked."""
    server = subprocess.Popen(["nsenter", "-t", str(pid), "-n", sys.executable, "-c", SERVER, str(port), word])
    try:
        deadline = time.monotonic() + 5
        while f":{port:04X} " not in Path(f"/proc/{pid}/net/tcp").read_text():
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.01)
        yield
    finally:
        server.kill()
        server.wait()


def ask(address: str, port: int) -> str:
    with socket.create_connection((address, port), timeout=3) as connection:
        return connection.recv(100).decode()


def hardware_address(interface: str) -> str:
    """As ip(8) has it from the kernel; /sys is of another network namespace."""
    return run("ip", "-o", "link", "show", interface).split("link/ether ")[1].split()[0]


def lo_up() -> None:
    run("ip", "link", "set", "lo", "up")


@pytest.mark.kernel()
def test_a_container_gets_an_address_and_reaches_the_bridge_and_another_container() -> None:
    with process() as one, process() as two:
        first, second = bridge.attach(one), bridge.attach(two)
        assert (first.address, second.address) == ("172.18.0.2", "172.18.0.3")
        assert first.interface == "vethac120002"
        assert "172.18.0.2/16" in run("nsenter", "-t", str(one), "-n", "ip", "address", "show", "eth0")
        assert "default via 172.18.0.1" in run("nsenter", "-t", str(one), "-n", "ip", "route")
        with serving(two, 80, "two"):
            assert run("nsenter", "-t", str(one), "-n", sys.executable, "-c",
                       "import socket; print(socket.create_connection(('172.18.0.3', 80)).recv(99).decode())"
                       ) == "two 172.18.0.2\n"  # fmt: skip


@pytest.mark.kernel()
def test_a_published_port_is_reached_by_loopback_by_own_address_and_from_its_own_container() -> None:
    lo_up()
    run("ip", "link", "add", "out", "type", "bridge")
    run("ip", "address", "add", "198.18.7.1/24", "dev", "out")
    run("ip", "link", "set", "out", "up")
    with process() as pid:
        bindings = ports.bind([Port(container_port=80, host_port=8080)])
        bridge.attach(pid, bindings)
        with serving(pid, 80, "web"):
            assert ask("127.0.0.1", 8080) == "web 172.18.0.1"
            assert ask("198.18.7.1", 8080).startswith("web ")
            assert ask("172.18.0.1", 8080).startswith("web ")
            code = "import socket; print(socket.create_connection(('172.18.0.1', 8080), 3).recv(99).decode())"
            assert run("nsenter", "-t", str(pid), "-n", sys.executable, "-c", code) == "web 172.18.0.1\n"


@pytest.mark.kernel()
def test_a_port_published_on_one_address_is_not_on_the_others() -> None:
    lo_up()
    with process() as pid:
        bindings = ports.bind([Port(container_port=80, host_port=8080, host_ip="127.0.0.1")])
        bridge.attach(pid, bindings)
        with serving(pid, 80, "web"):
            assert ask("127.0.0.1", 8080).startswith("web")
            with pytest.raises(OSError):
                ask("172.18.0.1", 8080)


@pytest.mark.kernel()
def test_a_container_does_not_reach_the_loopback_of_the_machine() -> None:
    lo_up()
    with process() as pid, socket.create_server(("127.0.0.1", 7000)):
        bridge.attach(pid)
        run("nsenter", "-t", str(pid), "-n", "ip", "route", "add", "127.0.0.0/24", "via", "172.18.0.1", "dev", "eth0")
        code = "import socket; socket.create_connection(('127.0.0.1', 7000), 1)"
        asked = subprocess.run(
            ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", code], capture_output=True, check=False
        )
        assert asked.returncode != 0


@pytest.mark.kernel()
def test_release_leaves_nothing_and_can_be_called_twice() -> None:
    before = socket.if_nameindex()
    with process() as pid:
        attached = bridge.attach(pid, ports.bind([Port(container_port=80, host_port=8080)]))
        bridge.release(attached)
        bridge.release(attached)
        assert socket.if_nameindex() == before
        assert nftables.query("list tables") == []


@pytest.mark.kernel()
def test_the_bridge_stays_while_another_container_is_on_it() -> None:
    with process() as one, process() as two:
        first, second = bridge.attach(one), bridge.attach(two)
        bridge.release(first)
        assert bridge.BRIDGE in dict(map(reversed, socket.if_nameindex()))  # type: ignore[arg-type]
        bridge.release(second)
        assert bridge.BRIDGE not in dict(map(reversed, socket.if_nameindex()))  # type: ignore[arg-type]


@pytest.mark.kernel()
def test_the_bridge_keeps_its_hardware_address_whoever_comes_and_goes() -> None:
    """Else the containers that are left send to an address that is no more, for seconds."""
    with process() as one, process() as two:
        first = bridge.attach(one)
        before = hardware_address(bridge.BRIDGE)
        second = bridge.attach(two)
        assert hardware_address(bridge.BRIDGE) == before
        bridge.release(first)
        assert hardware_address(bridge.BRIDGE) == before
        bridge.release(second)


@pytest.mark.kernel()
def test_a_port_and_an_address_left_by_one_that_was_killed_are_taken_over() -> None:
    lo_up()
    with process() as bystander:
        bridge.attach(bystander)  # keeps the bridge, and so the elements of the killed one
        with process() as killed:
            bindings = ports.bind([Port(container_port=80, host_port=8080)])
            bridge.attach(killed, bindings)
            for binding in bindings:
                binding.held.close()
        wait_for_link_to_go("vethac120003")
        with process() as pid:
            attached = bridge.attach(pid, ports.bind([Port(container_port=81, host_port=8080)]))
            assert attached.address == "172.18.0.3"
            with serving(pid, 81, "new"):
                assert ask("127.0.0.1", 8080).startswith("new")


def wait_for_link_to_go(name: str) -> None:
    deadline = time.monotonic() + 5
    while name in [known for _, known in socket.if_nameindex()] and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.kernel()
def test_repair_takes_away_what_the_killed_left() -> None:
    with process() as pid:
        bridge.attach(pid, ports.bind([Port(container_port=80, host_port=8080)]))
    wait_for_link_to_go("vethac120002")
    bridge.repair()
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert nftables.query("list tables") == []


@pytest.mark.kernel()
def test_a_failed_attach_leaves_nothing() -> None:
    with process() as pid:
        taken = ports.bind([Port(container_port=80, host_port=8080)])
        with pytest.raises(nftables.Refused):
            bridge.attach(pid, [taken[0]._replace(port=Port(container_port=99999, host_port=8080))])
        assert not [name for _, name in socket.if_nameindex() if name.startswith("veth")]


@pytest.mark.kernel()
def test_an_address_is_added_once_and_loopback_is_up() -> None:
    bridge.add_address("169.254.170.2/32")
    bridge.add_address("169.254.170.2/32")
    assert run("ip", "-o", "-4", "address", "show", "dev", "lo").count("169.254.170.2/32") == 1


@pytest.mark.kernel()
def test_a_taken_port_names_the_process_that_holds_it() -> None:
    lo_up()
    with socket.create_server(("0.0.0.0", 8080)), pytest.raises(ports.PortTaken) as raised:
        ports.bind([Port(container_port=80, host_port=8080)])
    assert f"pid {os.getpid()} (" in str(raised.value)
    assert "python" in str(raised.value)


@pytest.mark.kernel()
def test_of_several_ports_all_are_taken_or_none() -> None:
    lo_up()
    with socket.create_server(("0.0.0.0", 8081)), pytest.raises(ports.PortTaken):
        ports.bind([Port(container_port=1, host_port=8080), Port(container_port=2, host_port=8081)])
    socket.create_server(("0.0.0.0", 8080)).close()


@pytest.mark.kernel()
def test_a_dynamic_port_is_of_the_range_and_differs_each_time() -> None:
    bindings = ports.bind([Port(container_port=80), Port(container_port=80), Port(container_port=53, protocol="udp")])
    numbers = [binding.port.host_port for binding in bindings]
    assert len({*numbers}) == 3
    assert all(number in ports.DYNAMIC_PORTS for number in numbers)


@pytest.mark.kernel()
def test_a_subnet_that_is_in_use_is_passed_over() -> None:
    run("ip", "link", "add", "other", "type", "bridge")
    run("ip", "address", "add", "172.18.5.1/24", "dev", "other")
    run("ip", "link", "set", "other", "up")
    with process() as pid:
        assert bridge.attach(pid) == Network(
            address="172.19.0.2",
            prefix=16,
            gateway="172.19.0.1",
            mac="02:42:ac:13:00:02",
            interface="vethac130002",
            namespace=bridge.namespace(),
        )


@pytest.mark.kernel()
def test_the_machine_forwards_once_there_is_a_bridge() -> None:
    with process() as pid:
        bridge.attach(pid)
        assert sysctl("net/ipv4/ip_forward") == "1"
