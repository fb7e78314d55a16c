"""Network devices: those of the host that a container gets, with their addresses, and what is given back if it fails.

Stands between the spec and `creation`, which loads it only for a container that asks for one. Ruled by runtime-spec
config-linux.md (Network Devices). pyroute2 asks and tells the kernel: its 0.1 s are paid by these containers alone.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from minicontainer.errors import Error
from minicontainer.linux.flags import CLONE_NEWNET
from minicontainer.linux.syscalls import setns
from minicontainer.oci.runtime import Linux, NetDevice
from minicontainer.plan import Plan, Step
from minicontainer.values import Any, NamedTuple

IFA_F_PERMANENT, RT_SCOPE_UNIVERSE = 0x80, 0  # linux/if_addr.h, linux/rtnetlink.h
_NAME_BYTES = 15  # IFNAMSIZ of linux/if.h, without the zero at the end


class Moved(NamedTuple):
    """A device that has left the host: its name, state and addresses there, and its index in the container."""

    name: str
    was_up: bool
    addresses: tuple[Any, ...]
    link: int


def complaints(linux: Linux) -> Iterator[str]:
    """What cannot be, by its field."""
    if linux.namespace("network") is None:
        yield "linux.netDevices needs a network namespace of the container's own"
    taken: set[str] = set()
    for name, device in linux.net_devices.items():
        if not _is_name(name):
            yield f"linux.netDevices: {name!r} is no name of a network device"
        if device.name and not _is_name(device.name.replace("%d", "0", 1)):
            yield f"linux.netDevices.{name}.name: {device.name!r} is no name of a network device"
        inside = device.name or name
        if inside in taken and "%d" not in inside:
            yield f"linux.netDevices.{name}.name: {inside!r} is there twice"
        taken.add(inside)


def _is_name(name: str) -> bool:
    """dev_valid_name of the kernel's net/core/dev.c; `%` would be a template."""
    wrong = name in ("", ".", "..") or any(letter in "/:%" or letter.isspace() for letter in name)
    return not wrong and len(os.fsencode(name)) <= _NAME_BYTES


def steps(pid: int, devices: Mapping[str, NetDevice], namespace: int, moved: list[Moved]) -> Plan[None]:
    """Into the network namespace of the container's process; `moved` is what `give_back` needs."""
    for name, device in devices.items():
        why = f"the host's network device {name} is the container's from now on, with its lasting addresses"
        moved.append((yield Step(move, (name, device.name or name, namespace, f"/proc/{pid}/ns/net"), why)))


def move(name: str, inside: str, namespace: int, path: str) -> Moved:
    """Move a device into the network namespace `namespace`, which is at `path`, and bring it up there.

    A `%d` in the new name is a number that the kernel chooses. What stays are permanent addresses of global scope.

    Raises:
        Error: there is no such device, its new name is taken, or it cannot leave: the loopback device, say.
    """
    with IPRoute() as here, _routes_in(namespace) as there:
        found = here.link_lookup(ifname=name)
        if not found:
            raise Error(f"linux.netDevices: the host has no network device {name!r}; try: ip link")
        if there.link_lookup(ifname=inside):  # the kernel would move it first and fail to rename it then
            raise Error(f"linux.netDevices.{name}: {inside!r} is taken in the container; try: another name")
        was_up = here.get_links(found[0])[0]["state"] == "up"
        addresses = tuple(one for one in here.get_addr(index=found[0]) if _lasts(one))
        try:
            moved = Moved(name, was_up, addresses, _shift(here, there, path, found[0], inside))
            try:
                _set_up(there, moved.link, addresses, up=True)
            except NetlinkError:
                _return(moved, here, there)
                raise
        except NetlinkError as error:
            raise Error(f"linux.netDevices.{name}: cannot be moved as {inside!r}: {os.strerror(error.code)}") from None
    return moved


def give_back(namespace: int, moved: list[Moved]) -> None:
    """To the caller's network namespace, as they were: the container was not made after all."""
    for one in reversed(moved):
        with IPRoute() as here, _routes_in(namespace) as there, suppress(NetlinkError):
            _return(one, here, there)


def _return(moved: Moved, here: IPRoute, there: IPRoute) -> None:
    link = _shift(there, here, "/proc/thread-self/ns/net", moved.link, moved.name)
    _set_up(here, link, moved.addresses, moved.was_up)


def _shift(source: IPRoute, target: IPRoute, path: str, link: int, name: str) -> int:
    """A link of `source` to `target`, whose namespace is at `path`: its index there."""
    before = {one["index"] for one in target.get_links()}
    source.link("set", index=link, net_ns_fd=path, ifname=name)
    new = {one["index"] for one in target.get_links()} - before
    return link if link in new else min(new)


def _set_up(routes: IPRoute, link: int, addresses: tuple[Any, ...], up: bool) -> None:
    for one in addresses:
        _add(routes, link, one)
    if up:
        routes.link("set", index=link, state="up")


def _routes_in(namespace: int) -> IPRoute:
    """A socket stays in the network namespace that it was opened in: network_namespaces(7)."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(namespace, CLONE_NEWNET)
        try:
            return IPRoute()
        finally:
            setns(here, CLONE_NEWNET)
    finally:
        os.close(here)


def _lasts(address: Mapping[str, Any]) -> bool:
    flags = dict(address["attrs"]).get("IFA_FLAGS", address["flags"])
    return bool(flags & IFA_F_PERMANENT) and address["scope"] == RT_SCOPE_UNIVERSE


def _add(routes: IPRoute, link: int, address: Mapping[str, Any]) -> None:
    attributes = dict(address["attrs"])
    local, far = attributes.get("IFA_LOCAL"), attributes["IFA_ADDRESS"]  # the same, unless it is point to point
    peer = {"address": local, "peer": far} if local not in (None, far) else {"address": far}
    broadcast = {"broadcast": attributes["IFA_BROADCAST"]} if "IFA_BROADCAST" in attributes else {}
    routes.addr("add", index=link, prefixlen=address["prefixlen"], family=address["family"], **peer, **broadcast)
