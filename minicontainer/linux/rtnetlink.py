"""rtnetlink: links, addresses and routes as messages to the kernel, several in one datagram.

On the ground, beside `syscalls`; `network` is who calls it for every container. Ruled by netlink(7), rtnetlink(7), and
the kernel's Documentation/userspace-api/netlink. pyroute2 does the same and far more, and takes 0.1 s to be imported:
a container's start would be twice as long. It is what the tests hold this module against.
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence

from minicontainer.values import NamedTuple

RTM_NEWLINK, RTM_DELLINK, RTM_SETLINK, RTM_NEWADDR, RTM_NEWROUTE = 16, 17, 19, 20, 24
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
NLMSG_ERROR = 2
NLA_F_NESTED = 0x8000
IFF_UP = 0x1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MASTER, IFLA_PROTINFO, IFLA_LINKINFO, IFLA_NET_NS_PID = 1, 3, 10, 12, 18, 19
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER, IFLA_BRPORT_MODE = 1, 2, 1, 4
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_GATEWAY = 5
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 3, 0, 1

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
IFADDR = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix, flags, scope, index
RTMSG = struct.Struct("=BBBBBBBBI")  # rtmsg: family, two prefixes, tos, table, protocol, scope, type, flags
ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type


class Request(NamedTuple):
    """One message: what is to be made or removed; `what` is for the error's text."""

    kind: int
    flags: int
    body: bytes
    what: str


def bridge(name: str, mac: str) -> Request:
    """A new bridge, up, with an address that stays; without, it would take one of its ports' and change with them."""
    link = _text(IFLA_IFNAME, name) + _attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
    link += _nested(IFLA_LINKINFO, _text(IFLA_INFO_KIND, "bridge"))
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, IFINFO.pack(0, 0, 0, IFF_UP, IFF_UP) + link, name)


def veth(name: str, master: int, peer: str, pid: int, mac: str) -> Request:
    """A new veth, up, on the bridge with the index `master`; its far end is `peer` in the namespace of `pid`."""
    far = IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, peer) + _number(IFLA_NET_NS_PID, pid)
    far += _attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
    info = _text(IFLA_INFO_KIND, "veth") + _nested(IFLA_INFO_DATA, _nested(VETH_INFO_PEER, far))
    link = _text(IFLA_IFNAME, name) + _number(IFLA_MASTER, master) + _nested(IFLA_LINKINFO, info)
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, IFINFO.pack(0, 0, 0, IFF_UP, IFF_UP) + link, name)


def hairpin(index: int) -> Request:
    """What comes from this port of a bridge may leave by it too: a container asks its own published port."""
    mode = _nested(IFLA_PROTINFO, _attribute(IFLA_BRPORT_MODE, b"\1"))
    return Request(RTM_SETLINK, 0, IFINFO.pack(socket.AF_BRIDGE, 0, index, 0, 0) + mode, f"port {index} of the bridge")


def up(index: int) -> Request:
    return Request(RTM_NEWLINK, 0, IFINFO.pack(0, 0, index, IFF_UP, IFF_UP), f"link {index}")


def delete(name: str) -> Request:
    return Request(RTM_DELLINK, 0, IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, name), name)


def address(index: int, ip: str, prefix: int) -> Request:
    """A further IPv4 address of a link."""
    packed = socket.inet_aton(ip)
    body = IFADDR.pack(socket.AF_INET, prefix, 0, RT_SCOPE_UNIVERSE, index)
    body += _attribute(IFA_LOCAL, packed) + _attribute(IFA_ADDRESS, packed)
    return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, f"{ip}/{prefix}")


def default_route(gateway: str) -> Request:
    """What goes nowhere else goes to the gateway."""
    body = RTMSG.pack(socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
    body += _attribute(RTA_GATEWAY, socket.inet_aton(gateway))
    return Request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body, f"default route by {gateway}")


def open_socket() -> socket.socket:
    """A socket to the network namespace that the caller is in now, wherever it goes later."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def send(connection: socket.socket, *requests: Request) -> None:
    """Do all of the requests in their order.

    Raises:
        OSError: the kernel refused one, the first of which is told; the others were tried too.
    """
    connection.send(b"".join(_message(number, request) for number, request in enumerate(requests)))
    failed: list[OSError] = []
    answered = 0
    while answered < len(requests):
        for number, code in _answers(connection.recv(1 << 16)):
            answered += 1
            if code:
                failed.append(OSError(-code, os.strerror(-code), requests[number].what))
    if failed:
        raise failed[0]


def remove(connection: socket.socket, name: str) -> None:
    """Remove a link; an absent one is no error."""
    try:
        send(connection, delete(name))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def _message(number: int, request: Request) -> bytes:
    flags = NLM_F_REQUEST | NLM_F_ACK | request.flags
    return HEADER.pack(HEADER.size + len(request.body), request.kind, flags, number, 0) + request.body


def _answers(data: bytes) -> Sequence[tuple[int, int]]:
    """The number of each request that is answered, with 0 or the negative errno: netlink(7), NLMSG_ERROR."""
    found = []
    while len(data) >= HEADER.size:
        length, kind, _, number, _ = HEADER.unpack_from(data)
        if kind == NLMSG_ERROR:
            found.append((number, *struct.unpack_from("=i", data, HEADER.size)))
        data = data[_aligned(length) :]
    return found


def _attribute(kind: int, data: bytes) -> bytes:
    length = ATTRIBUTE.size + len(data)
    return ATTRIBUTE.pack(length, kind) + data + bytes(_aligned(length) - length)


def _nested(kind: int, data: bytes) -> bytes:
    return _attribute(kind | NLA_F_NESTED, data)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(kind: int, number: int) -> bytes:
    return _attribute(kind, struct.pack("=I", number))


def _aligned(length: int) -> int:
    return (length + 3) & ~3
