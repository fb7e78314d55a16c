"""Rules of iptables: the same as `nftables_rules`, for a kernel without nftables (Debian's user-mode-linux is one).

Stands on `linux/iptables`; `bridge` calls it. Each chain of ours hangs on one of the kernel's by one rule, so that all
of it can be found and taken away. Ruled by iptables(8), iptables-extensions(8).
"""

import re
from collections.abc import Sequence

from minicontainer.containers import Port, PublishedPort
from minicontainer.linux import iptables

PORTS = "MINICONTAINER"
JUMPS = (  # table, the kernel's chain, when, our chain
    ("raw", "PREROUTING", "", "MINICONTAINER-LOOPBACK"),
    ("filter", "FORWARD", "", "MINICONTAINER-FORWARD"),
    ("nat", "PREROUTING", "-m addrtype --dst-type LOCAL ", PORTS),
    ("nat", "OUTPUT", "-m addrtype --dst-type LOCAL ", PORTS),
    ("nat", "POSTROUTING", "", "MINICONTAINER-MASQUERADE"),
)
RULES = {  # our chain: its rules
    "MINICONTAINER-LOOPBACK": ("-i {bridge} -d 127.0.0.0/8 -j DROP",),
    "MINICONTAINER-FORWARD": (
        "-o {bridge} ! -i {bridge} -m conntrack --ctstate NEW -m conntrack ! --ctstate DNAT -j DROP",
    ),
    PORTS: (),
    "MINICONTAINER-MASQUERADE": (
        "-s {subnet} ! -o {bridge} -j MASQUERADE",
        "-o {bridge} -s 127.0.0.0/8 -m conntrack --ctstate DNAT -j MASQUERADE",
        "-o {bridge} -s {subnet} -m conntrack --ctstate DNAT -j MASQUERADE",
    ),
}
PUBLISHED = re.compile(
    rf"-A {PORTS}(?: -d (?P<host_ip>[\d.]+)/32)? -p (?P<protocol>\w+) .*--dport (?P<host_port>\d+) "
    r"-j DNAT --to-destination (?P<address>[\d.]+):(?P<container_port>\d+)"
)


def are_there() -> bool:
    return f":{PORTS} " in iptables.save("nat")


def create(bridge: str, subnet: str) -> None:
    batch = ""
    for table in ("raw", "filter", "nat"):
        jumps = [jump for jump in JUMPS if jump[0] == table]
        chains = list(dict.fromkeys(chain for *_, chain in jumps))
        lines = [f":{chain} - [0:0]" for chain in chains]
        lines += [
            f"-A {chain} {rule.format(bridge=bridge, subnet=subnet)}" for chain in chains for rule in RULES[chain]
        ]
        lines += [f"-I {theirs} {when}-j {chain}" for _, theirs, when, chain in jumps]
        batch += _of_table(table, lines)
    iptables.restore(batch)


def delete() -> None:
    """A table of which a part is missing keeps the rest: the other tables go all the same."""
    for table in ("raw", "filter", "nat"):
        jumps = [jump for jump in JUMPS if jump[0] == table]
        chains = list(dict.fromkeys(chain for *_, chain in jumps))
        lines = [f"-D {theirs} {when}-j {chain}" for _, theirs, when, chain in jumps]
        lines += [f"-F {chain}" for chain in chains] + [f"-X {chain}" for chain in chains]
        iptables.restore(_of_table(table, lines))


def change(removed: Sequence[PublishedPort], added: Sequence[PublishedPort]) -> None:
    """In one transaction. A port of one address is asked about before a port of all: it comes first."""
    lines = [f"-D {PORTS} {_rule(one)}" for one in removed]
    lines += [f"{'-I' if one.port.host_ip else '-A'} {PORTS} {_rule(one)}" for one in added]
    iptables.restore(_of_table("nat", lines))


def published() -> list[PublishedPort]:
    return parse(iptables.save("nat"))


def parse(saved: str) -> list[PublishedPort]:
    """The published ports among the rules that iptables-save(8) prints."""
    found = []
    for line in saved.splitlines():
        if match := PUBLISHED.match(line):
            ports = Port(
                int(match["container_port"]), int(match["host_port"]), match["protocol"], match["host_ip"] or ""
            )
            found.append(PublishedPort(port=ports, address=match["address"]))
    return found


def _rule(one: PublishedPort) -> str:
    where = f"-d {one.port.host_ip}/32 " if one.port.host_ip else ""
    matches = f"-p {one.port.protocol} -m {one.port.protocol} --dport {one.port.host_port}"
    return f"{where}{matches} -j DNAT --to-destination {one.address}:{one.port.container_port}"


def _of_table(table: str, lines: Sequence[str]) -> str:
    return "\n".join((f"*{table}", *lines, "COMMIT", ""))
