"""Bridge: one in the caller's network namespace, a veth for each container, published ports.

Stands beside `bundle`; the supervisor attaches and releases, nobody else. Ruled by ip-link(8), veth(4), nft(8), and
Documentation/networking/ip-sysctl. A start sends its own few messages; pyroute2, which costs 0.1 s, is for the rest.

There is no table of leases that could be wrong. An address is taken when the veth that is named after it exists; the
kernel removes a veth with its container's network namespace, whoever was killed. A host port is taken when the
supervisor has it bound, and every other program sees it taken too. Only rules of the packet filter outlive their
container; so whoever takes an address or a port first removes what was left behind for it. `nftables_rules` writes
them, and `iptables_rules` where the kernel has no nftables.
"""

import errno
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from minicontainer.containers import Network, PublishedPort
from minicontainer.errors import Error
from minicontainer.linux import flags, iptables, nftables, rtnetlink, syscalls
from minicontainer.network import nftables_rules
from minicontainer.network.ports import Binding
from minicontainer.values import Any

BRIDGE = "minicontainer0"
SUBNETS = (*(f"172.{second}.0.0/16" for second in range(18, 32)), "192.168.240.0/20")
INTERFACE = "eth0"
SIOCGIFADDR, SIOCGIFNETMASK = 0x8915, 0x891B  # netdevice(7)


# --- attach and release ----------------------------------------------------------------------------------------------


def attach(pid: int, bindings: Sequence[Binding] = ()) -> Network:
    """Give the process's network namespace an interface on the bridge, and publish its ports."""
    with _locked(), rtnetlink.open_socket() as kernel:
        network = _veth(kernel, pid, _bridge(kernel))
        try:
            _publish(network.address, [PublishedPort(binding.port, network.address) for binding in bindings])
            _inside(pid, network)
        except BaseException:
            rtnetlink.remove(kernel, network.interface)
            raise
    return network._replace(namespace=namespace())


def namespace() -> int:
    """Which network namespace this process is in."""
    return os.stat("/proc/self/ns/net").st_ino


def release(network: Network) -> None:
    """Take the interface and the elements away, and with the last container all of ours. Can be called twice."""
    if not network.address or network.namespace != namespace():
        return  # nothing was attached, or elsewhere
    with _locked(), rtnetlink.open_socket() as kernel:
        rtnetlink.remove(kernel, network.interface)
        if not _remove_unused(kernel):
            _forget(lambda one: one.address == network.address)


def unpublish(network: Network) -> None:
    """Take the published ports away, so that they are free as soon as nobody has them bound."""
    with _locked():
        _forget(lambda one: one.address == network.address)


def repair() -> None:
    """Take away what containers that were killed left behind in this network namespace."""
    if BRIDGE not in _links():
        return
    with _locked(), rtnetlink.open_socket() as kernel:
        if not _remove_unused(kernel):
            names = _links()
            _forget(lambda one: _veth_name(one.address) not in names)


def add_address(address: str, interface: str = "lo") -> None:
    """Add an address such as 169.254.170.2/32 to an interface of this network namespace; twice is no error."""
    parsed = ipaddress.IPv4Interface(address)
    with rtnetlink.open_socket() as kernel:
        index = _index(interface)
        try:
            wanted = rtnetlink.address(index, str(parsed.ip), parsed.network.prefixlen)
            rtnetlink.send(kernel, rtnetlink.up(index), wanted)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise


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


def _bridge(kernel: socket.socket) -> ipaddress.IPv4Interface:
    """The bridge's address; the bridge, its rules and forwarding are made on first use."""
    try:
        return _address_of(BRIDGE)
    except OSError:  # it is not there, or who made it was killed before it had its address
        gateway = _free_subnet()
        rtnetlink.remove(kernel, BRIDGE)
        rtnetlink.send(kernel, rtnetlink.bridge(BRIDGE, _mac(gateway)))
        rtnetlink.send(kernel, rtnetlink.address(_index(BRIDGE), str(gateway.ip), gateway.network.prefixlen))
        _sysctl("net/ipv4/ip_forward", "1")
        _sysctl(f"net/ipv4/conf/{BRIDGE}/route_localnet", "1")  # so that 127.0.0.1:PORT reaches a container
        _create_rules(gateway.network)
        return gateway


def _address_of(interface: str) -> ipaddress.IPv4Interface:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        request = interface.encode().ljust(40, b"\0")
        ip, mask = (fcntl.ioctl(any_socket, what, request)[20:24] for what in (SIOCGIFADDR, SIOCGIFNETMASK))
    return ipaddress.IPv4Interface(f"{socket.inet_ntoa(ip)}/{socket.inet_ntoa(mask)}")


def _free_subnet() -> ipaddress.IPv4Interface:
    """The first address of the first subnet that no route of this namespace leads to."""
    routes = list(_routes())
    wanted = os.environ.get("MINICONTAINER_SUBNET")
    for text in (wanted,) if wanted else SUBNETS:
        subnet = ipaddress.IPv4Network(text)
        if not any(subnet.overlaps(route) for route in routes):
            return ipaddress.IPv4Interface(f"{subnet[1]}/{subnet.prefixlen}")
    raise Error(f"no subnet is free for {BRIDGE}: {wanted or 'all candidates'} meet routes; try: MINICONTAINER_SUBNET")


def _routes() -> Iterator[ipaddress.IPv4Network]:
    """Where this network namespace sends packets, but for its default route: proc_net(5)."""
    with open("/proc/net/route", encoding="ascii") as file:
        for line in list(file)[1:]:
            fields = line.split()
            target, mask = (socket.inet_ntoa(struct.pack("=I", int(fields[place], 16))) for place in (1, 7))
            if mask != "0.0.0.0":
                yield ipaddress.IPv4Network(f"{target}/{mask}")


def _veth(kernel: socket.socket, pid: int, gateway: ipaddress.IPv4Interface) -> Network:
    """A veth whose far end is `eth0` of the process, on the first free address: making its name is what claims it."""
    taken = _links()
    for address in gateway.network.hosts():
        name = _veth_name(str(address))
        if address == gateway.ip or name in taken:
            continue
        mac = _mac(address)
        rtnetlink.send(kernel, rtnetlink.veth(name, _index(BRIDGE), INTERFACE, pid, mac))
        rtnetlink.send(kernel, rtnetlink.hairpin(_index(name)))
        prefix = gateway.network.prefixlen
        return Network(address=str(address), prefix=prefix, gateway=str(gateway.ip), mac=mac, interface=name)
    raise Error(f"every address of {gateway.network} is taken; try: minicontainer ps, or another MINICONTAINER_SUBNET")


def _inside(pid: int, network: Network) -> None:
    """What is to be done within the container's namespace: addresses and the default route."""
    with _namespace_of(pid):
        kernel = rtnetlink.open_socket()
        loopback, interface = _index("lo"), _index(INTERFACE)
    with kernel:
        rtnetlink.send(
            kernel,
            rtnetlink.up(loopback),
            rtnetlink.address(interface, network.address, network.prefix),
            rtnetlink.up(interface),
            rtnetlink.default_route(network.gateway),
        )


def _mac(address: ipaddress.IPv4Address) -> str:
    """The hardware address that goes with an address: no neighbour's table is ever stale."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in address.packed)


def _veth_name(address: str) -> str:
    return f"veth{ipaddress.IPv4Address(address).packed.hex()}"


def _index(name: str) -> int:
    return socket.if_nametoindex(name)


def _links() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def _remove_unused(kernel: socket.socket) -> bool:
    """The bridge and the table go with the last veth; whether they went."""
    if any(name.startswith("veth") and len(name) == 12 for name in _links()):
        return False
    rtnetlink.remove(kernel, BRIDGE)
    _delete_rules()
    return True


def _sysctl(name: str, value: str) -> None:
    with open(f"/proc/sys/{name}", encoding="ascii") as file:
        if file.read().strip() == value:
            return
    with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:  # anew: a write after a read does nothing, proc(5)
        file.write(value)


# --- rules -----------------------------------------------------------------------------------------------------------


def _create_rules(subnet: ipaddress.IPv4Network) -> None:
    """By nftables; by iptables on a kernel without nftables' `ip` family, such as Debian's user-mode-linux."""
    _delete_rules()
    try:
        nftables_rules.create(BRIDGE, str(subnet))
    except nftables.Unavailable:
        if not iptables.is_installed():
            raise
        _of_iptables().create(BRIDGE, str(subnet))


def _delete_rules() -> None:
    with suppress(nftables.Refused, nftables.Unavailable):
        nftables_rules.delete()
    if (rules := _rules()) is not nftables_rules:
        rules.delete()


def _rules() -> Any:
    """The module whose rules are in force: both have the same functions."""
    if iptables.has_table("nat") and _of_iptables().are_there():
        return _of_iptables()
    return nftables_rules


def _of_iptables() -> Any:
    from minicontainer.network import iptables_rules  # 3 ms with its regular expression, and few kernels need it

    return iptables_rules


def _publish(address: str, wanted: Sequence[PublishedPort]) -> None:
    """Publish `wanted`; what a killed one left for these ports or this address goes in the same transaction."""
    rules = _rules()
    keys = {one.port._replace(container_port=0) for one in wanted}
    stale = [one for one in rules.published() if one.address == address or one.port._replace(container_port=0) in keys]
    if stale or wanted:
        rules.change(stale, wanted)


def _forget(is_stale: Callable[[PublishedPort], bool]) -> None:
    rules = _rules()
    if stale := [one for one in rules.published() if is_stale(one)]:
        rules.change(stale, [])
