"""Network: a bridge in the caller's network namespace, a veth for each container, published ports.

Stands beside `bundle`; the supervisor attaches and releases, nobody else. Ruled by ip-link(8), veth(4), nft(8), and
Documentation/networking/ip-sysctl. pyroute2 costs 0.1 s to import, so it is imported where a bridge is really used.

There is no table of leases that could be wrong. An address is taken when the veth that is named after it exists; the
kernel removes a veth with its container's network namespace, whoever was killed. A host port is taken when the
supervisor has it bound, and every other program sees it taken too. Only elements of nftables outlive their container;
so whoever takes an address or a port first removes what was left behind for it.
"""

import errno
import fcntl
import ipaddress
import os
import random
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from minicontainer.containers import Network, Port
from minicontainer.errors import Error
from minicontainer.linux import flags, nftables, syscalls
from minicontainer.values import Any, NamedTuple

BRIDGE = "minicontainer0"
TABLE = "minicontainer"
SUBNETS = (*(f"172.{second}.0.0/16" for second in range(18, 32)), "192.168.240.0/20")
DYNAMIC_PORTS = range(32768, 61000)
INTERFACE = "eth0"
PROTOCOLS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}

RULES = """
create table ip {table}
add map ip {table} tcp_ports {{ type inet_service : ipv4_addr . inet_service ; }}
add map ip {table} udp_ports {{ type inet_service : ipv4_addr . inet_service ; }}
add map ip {table} tcp_addresses {{ type ipv4_addr . inet_service : ipv4_addr . inet_service ; }}
add map ip {table} udp_addresses {{ type ipv4_addr . inet_service : ipv4_addr . inet_service ; }}
add chain ip {table} published
add rule ip {table} published dnat ip to ip daddr . tcp dport map @tcp_addresses
add rule ip {table} published dnat ip to ip daddr . udp dport map @udp_addresses
add rule ip {table} published dnat ip to tcp dport map @tcp_ports
add rule ip {table} published dnat ip to udp dport map @udp_ports
add chain ip {table} prerouting {{ type nat hook prerouting priority -100; }}
add rule ip {table} prerouting fib daddr type local jump published
add chain ip {table} output {{ type nat hook output priority -100; }}
add rule ip {table} output fib daddr type local jump published
add chain ip {table} postrouting {{ type nat hook postrouting priority 100; }}
add rule ip {table} postrouting ip saddr {subnet} oifname != "{bridge}" masquerade
add rule ip {table} postrouting oifname "{bridge}" ip saddr 127.0.0.0/8 ct status dnat masquerade
add rule ip {table} postrouting oifname "{bridge}" ip saddr {subnet} ct status dnat masquerade
add chain ip {table} loopback {{ type filter hook prerouting priority -300; }}
add rule ip {table} loopback iifname "{bridge}" ip daddr 127.0.0.0/8 drop
add chain ip {table} forward {{ type filter hook forward priority 0; }}
add rule ip {table} forward oifname "{bridge}" iifname != "{bridge}" ct state new ct status & dnat == 0 drop
"""


class PortTaken(Error):
    """Someone else has the host port."""


class Binding(NamedTuple):
    """A host port that is ours while `held` is open."""

    port: Port
    held: socket.socket

    def __repr__(self) -> str:
        return f"{self.port.host_port}:{self.port.container_port}/{self.port.protocol}"


class Element(NamedTuple):
    """One element of a map of nftables."""

    map: str
    key: str
    address: str
    port: int


# --- published ports -------------------------------------------------------------------------------------------------


def bind(ports: Sequence[Port]) -> list[Binding]:
    """Take the host ports, all or none; 0 becomes a free one.

    Raises:
        PortTaken: one of them is another's; the text names the process.
    """
    bindings: list[Binding] = []
    try:
        for port in ports:
            bindings.append(_bind_dynamic(port) if port.host_port == 0 else _bind(port))  # noqa: PERF401  # kept on error
    except BaseException:
        for binding in bindings:
            binding.held.close()
        raise
    return bindings


def _bind_dynamic(port: Port) -> Binding:
    tried = DYNAMIC_PORTS[random.SystemRandom().randrange(len(DYNAMIC_PORTS)) :]
    for host_port in (*tried, *DYNAMIC_PORTS):
        with suppress(PortTaken):
            return _bind(port._replace(host_port=host_port))
    raise PortTaken(f"no free host port from {DYNAMIC_PORTS[0]} to {DYNAMIC_PORTS[-1]} for {port.container_port}")


def _bind(port: Port) -> Binding:
    held = socket.socket(socket.AF_INET, PROTOCOLS[port.protocol] | socket.SOCK_CLOEXEC)
    try:
        if port.protocol == "tcp":
            # A connection of the container before us may still be in TIME_WAIT: that is no reason to refuse.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((port.host_ip or "0.0.0.0", port.host_port))
        if port.protocol == "tcp":
            held.listen(1)  # not to accept: so that others, and ss(8), see the port taken
        return Binding(port=port, held=held)
    except OSError as error:
        held.close()
        where = f"{port.host_ip or '0.0.0.0'}:{port.host_port}/{port.protocol}"
        if error.errno == errno.EADDRINUSE:
            holder = port_holder(port.host_port, port.protocol) or "a process of another user namespace"
            raise PortTaken(f"port {where} is taken by {holder}; try: another host port, or stop it") from None
        raise Error(f"cannot bind {where}: {(error.strerror or '').lower()}") from error


def port_holder(port: int, protocol: str = "tcp") -> str:
    """The process that has the port bound, as "pid 12 (command line)", or nothing if it cannot be told."""
    inodes = {f"socket:[{inode}]" for inode in _socket_inodes(port, protocol)}
    for pid in filter(str.isdecimal, os.listdir("/proc") if inodes else ()):
        with suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{descriptor}") in inodes:
                        return f"pid {pid} ({_command_line(pid)})"
    return ""


def _socket_inodes(port: int, protocol: str) -> Iterator[str]:
    for table in (protocol, f"{protocol}6"):
        with suppress(FileNotFoundError), open(f"/proc/net/{table}", encoding="ascii") as file:
            for line in list(file)[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port and (protocol == "udp" or fields[3] == "0A"):
                    yield fields[9]


def _command_line(pid: str) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return words if len(words) <= 80 else f"{words[:77]}..."


# --- attach and release ----------------------------------------------------------------------------------------------


def attach(pid: int, bindings: Sequence[Binding] = ()) -> Network:
    """Give the process's network namespace an interface on the bridge, and publish its ports."""
    with _locked(), _netlink() as link:
        gateway = _bridge(link)
        network = _veth(link, pid, gateway)
        try:
            elements = [_element(binding.port, network.address) for binding in bindings]
            _publish(network.address, elements)
            _inside(pid, network)
        except BaseException:
            _delete_link(link, network.interface)
            raise
    return network._replace(namespace=namespace())


def namespace() -> int:
    """Which network namespace this process is in."""
    return os.stat("/proc/self/ns/net").st_ino


def release(network: Network) -> None:
    """Take the interface and the elements away, and with the last container all of ours. Can be called twice."""
    if not network.address or network.namespace != namespace():
        return  # nothing was attached, or elsewhere
    with _locked(), _netlink() as link:
        _delete_link(link, network.interface)
        _forget(element for element in _elements() if element.address == network.address)
        _remove_unused(link)


def repair() -> None:
    """Take away what containers that were killed left behind in this network namespace."""
    names = {name for _, name in socket.if_nameindex()}
    if BRIDGE not in names:
        return
    with _locked(), _netlink() as link:
        names = {name for _, name in socket.if_nameindex()}
        _forget(element for element in _elements() if _veth_name(element.address) not in names)
        _remove_unused(link)


def loopback_up(pid: int) -> None:
    """Bring `lo` up in the process's network namespace; needs no netlink: netdevice(7)."""
    with _namespace_of(pid), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = bytearray(
            b"lo".ljust(16, b"\0") + (0x1 | 0x40).to_bytes(2, "little") + bytes(22)
        )  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS


def add_address(address: str, interface: str = "lo") -> None:
    """Add an address such as 169.254.170.2/32 to an interface of this network namespace; twice is no error."""
    parsed = ipaddress.ip_interface(address)
    with _netlink() as link:
        index = _index(interface)
        link.link("set", index=index, state="up")
        _tolerate(
            errno.EEXIST, link.addr, "add", index=index, address=str(parsed.ip), prefixlen=parsed.network.prefixlen
        )


def preload() -> None:
    """Import now what a bridge needs: for a process that will be forked from."""
    import pyroute2  # noqa: F401  # 0.1 s, here on purpose


@contextmanager
def _locked() -> Iterator[None]:
    """One at a time in a network namespace: the lock is on the namespace's own file, so no file of ours is left."""
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _netlink() -> Iterator[Any]:
    from pyroute2 import IPRoute  # 0.1 s: only a bridge needs it
    from pyroute2.netlink.exceptions import NetlinkError  # the same

    try:
        with IPRoute() as link:
            yield link
    except NetlinkError as error:
        raise OSError(error.code, f"rtnetlink: {error.args[-1]}") from error


@contextmanager
def _namespace_of(pid: int) -> Iterator[None]:
    """Be in the network namespace of `pid` meanwhile: a socket belongs for ever to the namespace it was made in."""
    ours = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(theirs, flags.CLONE_NEWNET)
        try:
            yield
        finally:
            syscalls.setns(ours, flags.CLONE_NEWNET)
    finally:
        os.close(ours)
        os.close(theirs)


# --- links -----------------------------------------------------------------------------------------------------------


def _bridge(link: Any) -> ipaddress.IPv4Interface:
    """The bridge's address; the bridge, its rules and forwarding are made on first use."""
    try:
        index = _index(BRIDGE)
        return _address_of(link, index)
    except (OSError, IndexError):
        gateway = _free_subnet(link)
        _tolerate(errno.EEXIST, link.link, "add", ifname=BRIDGE, kind="bridge")
        index = _index(BRIDGE)
        link.addr("add", index=index, address=str(gateway.ip), prefixlen=gateway.network.prefixlen)
        link.link("set", index=index, state="up")
        _sysctl("net/ipv4/ip_forward", "1")
        _sysctl(f"net/ipv4/conf/{BRIDGE}/route_localnet", "1")  # so that 127.0.0.1:PORT reaches a container
        with suppress(nftables.Refused):
            nftables.run(f"delete table ip {TABLE}")
        nftables.run(RULES.format(table=TABLE, bridge=BRIDGE, subnet=gateway.network))
        return gateway


def _address_of(link: Any, index: int) -> ipaddress.IPv4Interface:
    [address] = [dict(item["attrs"]) | {"prefix": item["prefixlen"]} for item in link.get_addr(index=index, family=2)][
        :1
    ]
    return ipaddress.IPv4Interface(f"{address['IFA_LOCAL']}/{address['prefix']}")


def _free_subnet(link: Any) -> ipaddress.IPv4Interface:
    """The first address of the first subnet that no route of this namespace leads to."""
    routes = [
        ipaddress.ip_network(f"{dict(route['attrs'])['RTA_DST']}/{route['dst_len']}", strict=False)
        for route in link.get_routes(family=socket.AF_INET)
        if route["dst_len"]
    ]
    wanted = os.environ.get("MINICONTAINER_SUBNET")
    for text in (wanted,) if wanted else SUBNETS:
        subnet = ipaddress.IPv4Network(text)
        if not any(subnet.overlaps(route) for route in routes if isinstance(route, ipaddress.IPv4Network)):
            return ipaddress.IPv4Interface(f"{subnet[1]}/{subnet.prefixlen}")
    raise Error(f"no subnet is free for {BRIDGE}: {wanted or 'all candidates'} meet routes; try: MINICONTAINER_SUBNET")


def _veth(link: Any, pid: int, gateway: ipaddress.IPv4Interface) -> Network:
    """A veth whose far end is `eth0` of the process, on the first free address: making its name is what claims it."""
    taken = {name for _, name in socket.if_nameindex()}
    master = _index(BRIDGE)
    for address in gateway.network.hosts():
        name = _veth_name(str(address))
        if address == gateway.ip or name in taken:
            continue
        mac = "02:42:" + ":".join(f"{byte:02x}" for byte in address.packed)
        peer = {"ifname": INTERFACE, "net_ns_pid": pid, "address": mac}
        link.link("add", ifname=name, kind="veth", peer=peer)
        link.link("set", index=_index(name), master=master, state="up")
        link.brport("set", index=_index(name), mode=1)  # hairpin: a container asks its own published port, br_netfilter
        prefix = gateway.network.prefixlen
        return Network(address=str(address), prefix=prefix, gateway=str(gateway.ip), mac=mac, interface=name)
    raise Error(f"every address of {gateway.network} is taken; try: minicontainer ps, or another MINICONTAINER_SUBNET")


def _inside(pid: int, network: Network) -> None:
    """What is to be done within the container's namespace: addresses and the default route."""
    with _namespace_of(pid):
        inside = _netlink()
        link = inside.__enter__()
    try:
        loopback, interface = _interfaces(link)
        link.link("set", index=loopback, state="up")
        link.addr("add", index=interface, address=network.address, prefixlen=network.prefix)
        link.link("set", index=interface, state="up")
        link.route("add", dst="default", gateway=network.gateway)
    finally:
        inside.__exit__(None, None, None)


def _interfaces(link: Any) -> tuple[int, int]:
    named = {dict(item["attrs"])["IFLA_IFNAME"]: int(item["index"]) for item in link.get_links()}
    return named["lo"], named[INTERFACE]


def _veth_name(address: str) -> str:
    return f"veth{ipaddress.IPv4Address(address).packed.hex()}"


def _index(name: str) -> int:
    return socket.if_nametoindex(name)


def _delete_link(link: Any, name: str) -> None:
    with suppress(OSError):
        _tolerate(errno.ENODEV, link.link, "del", index=_index(name))


def _remove_unused(link: Any) -> None:
    """The bridge and the table go with the last veth."""
    if not any(name.startswith("veth") and len(name) == 12 for _, name in socket.if_nameindex()):
        _delete_link(link, BRIDGE)
        with suppress(nftables.Refused):
            nftables.run(f"delete table ip {TABLE}")


def _tolerate(number: int, call: Any, *arguments: Any, **named: Any) -> None:
    """Call, and let the kernel's error `number` be: pyroute2's errors are no OSErrors and carry it as `code`."""
    from pyroute2.netlink.exceptions import NetlinkError  # with the rest of pyroute2

    try:
        call(*arguments, **named)
    except NetlinkError as error:
        if error.code != number:
            raise


def _sysctl(name: str, value: str) -> None:
    with open(f"/proc/sys/{name}", encoding="ascii") as file:
        if file.read().strip() == value:
            return
    with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:  # anew: a write after a read does nothing, proc(5)
        file.write(value)


# --- elements --------------------------------------------------------------------------------------------------------


def _element(port: Port, address: str) -> Element:
    kind, key = ("addresses", f"{port.host_ip} . {port.host_port}") if port.host_ip else ("ports", str(port.host_port))
    return Element(map=f"{port.protocol}_{kind}", key=key, address=address, port=port.container_port)


def _publish(address: str, wanted: Sequence[Element]) -> None:
    """Add `wanted`, and remove what anyone who was killed left for these ports or this address: one transaction."""
    keys = {(element.map, element.key) for element in wanted}
    stale = [item for item in _elements() if item.address == address or (item.map, item.key) in keys]
    _run([_delete(element) for element in stale] + [_add(element) for element in wanted])


def _forget(elements: Iterable[Element]) -> None:
    _run([_delete(element) for element in elements])


def _run(commands: Sequence[str]) -> None:
    if commands:
        nftables.run("\n".join(commands))


def _add(element: Element) -> str:
    return f"add element ip {TABLE} {element.map} {{ {element.key} : {element.address} . {element.port} }}"


def _delete(element: Element) -> str:
    return f"delete element ip {TABLE} {element.map} {{ {element.key} }}"


def _elements() -> list[Element]:
    """Every element of our maps; none when the table is gone."""
    try:
        objects = nftables.query(f"list table ip {TABLE}")
    except nftables.Refused as refused:
        if refused.absent:
            return []
        raise
    maps = [item["map"] for item in objects if "map" in item]
    return [_parsed(item["name"], key, value["concat"]) for item in maps for key, value in item.get("elem", ())]


def _parsed(name: str, key: Any, value: Sequence[Any]) -> Element:
    text = " . ".join(str(part) for part in key["concat"]) if isinstance(key, dict) else str(key)
    return Element(map=name, key=text, address=str(value[0]), port=int(value[1]))
