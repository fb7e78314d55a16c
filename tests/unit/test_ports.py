"""ports: all or none, a free one for 0, and who holds a taken one; on the real loopback."""

import os
import socket
from pathlib import Path

import pytest

from minicontainer.containers import Port
from minicontainer.errors import Error
from minicontainer.network import ports
from minicontainer.network.ports import PortTaken


def free(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as any_socket:
        any_socket.bind(("127.0.0.1", 0))
        return int(any_socket.getsockname()[1])


def local(host_port: int, protocol: str = "tcp") -> Port:
    return Port(container_port=80, host_port=host_port, protocol=protocol, host_ip="127.0.0.1")


def close(*bindings: ports.Binding) -> None:
    for binding in bindings:
        binding.held.close()


@pytest.mark.parametrize(("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_a_port_is_taken_until_it_is_closed(protocol: str, kind: int) -> None:
    number = free(kind)
    [binding] = ports.bind([local(number, protocol)])
    with socket.socket(socket.AF_INET, kind) as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", number))
    close(binding)
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", number))


def test_tcp_and_udp_ports_of_one_number_are_two() -> None:
    number = free()
    close(*ports.bind([local(number), local(number, "udp")]))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_taken_port_names_the_process(protocol: str) -> None:
    number = free(ports.PROTOCOLS[protocol])
    [held] = ports.bind([local(number, protocol)])
    with pytest.raises(PortTaken) as raised:
        ports.bind([local(number, protocol)])
    close(held)
    said = str(raised.value)
    assert said.startswith(f"port 127.0.0.1:{number}/{protocol} is taken by pid {os.getpid()} (")
    assert said.endswith("; try: another host port, or stop it")
    assert "\n" not in said


def test_a_port_of_ipv6_names_its_process_too() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert ports.port_holder(server.getsockname()[1]).startswith(f"pid {os.getpid()} (")


def test_nobody_holds_a_free_port() -> None:
    assert ports.port_holder(free()) == ""


def test_all_or_none() -> None:
    first, second = free(), free()
    with socket.create_server(("127.0.0.1", second)):
        with pytest.raises(PortTaken):
            ports.bind([local(first), local(second)])
        close(*ports.bind([local(first)]))  # it was given back


def test_zero_is_a_free_port_of_the_dynamic_ones_and_never_the_same() -> None:
    bindings = ports.bind([local(0), local(0), local(0, "udp")])
    numbers = [binding.port.host_port for binding in bindings]
    close(*bindings)
    assert len(set(numbers)) == 3
    assert all(number in ports.DYNAMIC_PORTS for number in numbers)


def test_what_is_bound_is_seen_to_listen_and_shown_as_people_write_it() -> None:
    [binding] = ports.bind([local(free())])
    listening = f"0100007F:{binding.port.host_port:04X} 00000000:0000 0A"
    assert listening in Path("/proc/net/tcp").read_text()
    assert repr(binding) == f"{binding.port.host_port}:80/tcp"
    close(binding)


def test_an_address_that_is_not_ours_is_told_in_one_line() -> None:
    with pytest.raises(Error, match=r"^cannot bind 198\.18\.255\.1:8080/tcp: cannot assign requested address$"):
        ports.bind([Port(container_port=80, host_port=8080, host_ip="198.18.255.1")])


def test_a_long_command_line_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(ports._command_line(str(os.getpid()))) <= 80
