"""Rules of nftables: published ports, masquerading, and what keeps others out, as one table of the packet filter.

Stands on `linux/nftables`; `bridge` calls it, or `iptables_rules` where the kernel has no nftables. A port is an
element of a map, so that publishing one changes no rule. Ruled by nft(8), libnftables-json(5).
"""

from collections.abc import Sequence

from minicontainer.containers import Port, PublishedPort
from minicontainer.linux import nftables
from minicontainer.values import Any

TABLE = "minicontainer"
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


def create(bridge: str, subnet: str) -> None:
    """Raises `nftables.Unavailable` if this kernel has no such thing."""
    nftables.run(RULES.format(table=TABLE, bridge=bridge, subnet=subnet))


def delete() -> None:
    """Raises `nftables.Refused` if there is no table."""
    nftables.run(f"delete table ip {TABLE}")


def change(removed: Sequence[PublishedPort], added: Sequence[PublishedPort]) -> None:
    """In one transaction."""
    nftables.run("\n".join([_delete(one) for one in removed] + [_add(one) for one in added]))


def published() -> list[PublishedPort]:
    """Every element of our maps; none when the table is gone, or cannot be."""
    try:
        objects = nftables.query(f"list table ip {TABLE}")
    except nftables.Unavailable:
        return []
    except nftables.Refused as refused:
        if refused.absent:
            return []
        raise
    maps = [item["map"] for item in objects if "map" in item]
    return [_parsed(item["name"], key, value["concat"]) for item in maps for key, value in item.get("elem", ())]


def _add(one: PublishedPort) -> str:
    place, key = _place(one.port)
    return f"add element ip {TABLE} {place} {{ {key} : {one.address} . {one.port.container_port} }}"


def _delete(one: PublishedPort) -> str:
    place, key = _place(one.port)
    return f"delete element ip {TABLE} {place} {{ {key} }}"


def _place(port: Port) -> tuple[str, str]:
    """The map that has a port, and its key there."""
    if port.host_ip:
        return f"{port.protocol}_addresses", f"{port.host_ip} . {port.host_port}"
    return f"{port.protocol}_ports", str(port.host_port)


def _parsed(name: str, key: Any, value: Sequence[Any]) -> PublishedPort:
    host_ip, host_port = key["concat"] if isinstance(key, dict) else ("", key)
    port = Port(int(value[1]), int(host_port), name.partition("_")[0], str(host_ip))
    return PublishedPort(port=port, address=str(value[0]))
