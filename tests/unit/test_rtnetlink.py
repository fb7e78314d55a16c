"""rtnetlink: messages byte for byte as pyroute2 makes them, and answers as netlink(7) has them."""

import socket
import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from minicontainer.linux import rtnetlink
from minicontainer.linux.rtnetlink import Request

PAIRS = [
    (rtnetlink.bridge("minicontainer0", "02:42:ac:12:00:01"), 16, 0x600),
    (rtnetlink.veth("vethac120002", 7, "eth0", 99, "02:42:ac:12:00:02"), 16, 0x600),
    (rtnetlink.hairpin(7), 19, 0),
    (rtnetlink.up(3), 16, 0),
    (rtnetlink.delete("minicontainer0"), 17, 0),
    (rtnetlink.address(3, "172.18.0.2", 16), 20, 0x600),
    (rtnetlink.default_route("172.18.0.1"), 24, 0x600),
]


def decoded(kind: Any, request: Request) -> Any:
    """The message as pyroute2 reads it."""
    message = kind(rtnetlink._message(1, request))
    message.decode()
    return message


@pytest.mark.parametrize(("request_", "kind", "flags"), PAIRS)
def test_a_message_says_its_length_and_asks_for_an_answer(request_: Request, kind: int, flags: int) -> None:
    length, found, wanted, number, port = struct.unpack_from("=IHHII", rtnetlink._message(5, request_))
    assert (length, found, number, port) == (16 + len(request_.body), kind, 5, 0)
    assert wanted == flags | 0x5  # NLM_F_REQUEST, NLM_F_ACK
    assert length % 4 == 0


def test_a_bridge_is_a_link_of_that_kind_and_up() -> None:
    link = decoded(ifinfmsg, rtnetlink.bridge("minicontainer0", "02:42:ac:12:00:01"))
    assert link.get_attr("IFLA_IFNAME") == "minicontainer0"
    assert link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "bridge"
    assert link.get_attr("IFLA_ADDRESS") == "02:42:ac:12:00:01"
    assert (link["flags"], link["change"], link["index"]) == (1, 1, 0)


def test_a_veth_has_its_peer_in_another_namespace_and_itself_on_the_bridge() -> None:
    link = decoded(ifinfmsg, rtnetlink.veth("vethac120002", 7, "eth0", 99, "02:42:ac:12:00:02"))
    assert link.get_attr("IFLA_IFNAME") == "vethac120002"
    assert link.get_attr("IFLA_MASTER") == 7
    assert link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"
    peer = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_NET_NS_PID") == 99
    assert peer.get_attr("IFLA_ADDRESS") == "02:42:ac:12:00:02"


def test_a_link_is_named_by_its_index_or_its_name() -> None:
    assert decoded(ifinfmsg, rtnetlink.up(3))["index"] == 3
    assert decoded(ifinfmsg, rtnetlink.up(3))["flags"] == 1
    assert decoded(ifinfmsg, rtnetlink.delete("gone")).get_attr("IFLA_IFNAME") == "gone"


def test_hairpin_is_of_the_bridges_own_family() -> None:
    request = rtnetlink.hairpin(7)
    assert request.body[0] == socket.AF_BRIDGE
    assert struct.unpack_from("=i", request.body, 4) == (7,)
    assert request.body[16:] == b"\x0c\x00\x0c\x80\x05\x00\x04\x00\x01\x00\x00\x00"  # protinfo, nested: mode 1


def test_an_address_is_local_and_of_the_link() -> None:
    message = decoded(ifaddrmsg, rtnetlink.address(3, "172.18.0.2", 16))
    assert (message["family"], message["prefixlen"], message["index"]) == (socket.AF_INET, 16, 3)
    assert message.get_attr("IFA_LOCAL") == message.get_attr("IFA_ADDRESS") == "172.18.0.2"


def test_a_default_route_leads_everything_to_the_gateway() -> None:
    message = decoded(rtmsg, rtnetlink.default_route("172.18.0.1"))
    assert (message["dst_len"], message["table"], message["scope"], message["type"]) == (0, 254, 0, 1)
    assert message.get_attr("RTA_GATEWAY") == "172.18.0.1"
    assert message.get_attr("RTA_DST") is None


@pytest.mark.parametrize("length", range(9))
def test_attributes_begin_at_a_multiple_of_four(length: int) -> None:
    made = rtnetlink._attribute(3, b"x" * length)
    assert len(made) % 4 == 0
    assert struct.unpack_from("=HH", made) == (4 + length, 3)
    assert made[4:].rstrip(b"\0") == b"x" * length


def answer(number: int, code: int) -> bytes:
    """NLMSG_ERROR: the header, the errno, the header of what is answered."""
    return struct.pack("=IHHII", 36, 2, 0, number, 0) + struct.pack("=i", -code) + bytes(16)


def test_answers_tell_the_number_and_the_error() -> None:
    other = struct.pack("=IHHII", 18, 16, 0, 9, 0) + b"ab\0\0"  # of another kind, and with padding
    assert rtnetlink._answers(answer(0, 0) + other + answer(1, 17)) == [(0, 0), (1, -17)]
    assert rtnetlink._answers(b"") == []


class Kernel:
    """The other end, which answers in several datagrams."""

    def __init__(self, *codes: int) -> None:
        self.sent = b""
        self.answers = [answer(number, code) for number, code in enumerate(codes)]

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def recv(self, size: int) -> bytes:
        return self.answers.pop(0)


def test_all_is_sent_at_once_and_each_answer_is_waited_for() -> None:
    kernel: Any = Kernel(0, 0)
    rtnetlink.send(kernel, rtnetlink.up(1), rtnetlink.up(2))
    assert len(kernel.sent) == 2 * 32
    assert kernel.answers == []


def test_the_first_refusal_is_told_with_what_it_was_about() -> None:
    kernel: Any = Kernel(0, 17, 19)
    with pytest.raises(FileExistsError) as raised:
        rtnetlink.send(kernel, rtnetlink.up(1), rtnetlink.address(1, "10.0.0.1", 8), rtnetlink.up(9))
    assert raised.value.filename == "10.0.0.1/8"
    assert kernel.answers == []


def test_a_link_that_is_gone_is_as_good_as_removed() -> None:
    gone: Any = Kernel(19)  # ENODEV
    rtnetlink.remove(gone, "veth0")
    forbidden: Any = Kernel(1)
    with pytest.raises(PermissionError):
        rtnetlink.remove(forbidden, "veth0")
