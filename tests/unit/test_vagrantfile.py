"""The lab's machines, and the Vagrantfile for every provider and architecture, loaded by Ruby with a recording stub."""

import ipaddress
import re
from pathlib import Path

VAGRANT = Path(__file__).parents[2] / "vagrant"
ROW = re.compile(r"- \{name: (\w+), address: ([\d.]+), cpus: (\d+), memory: (\d+)\}")
RANGE = ipaddress.ip_network("192.168.56.0/21")  # what VirtualBox allows without a setting of its own


def nodes() -> list[tuple[str, str, int, int]]:
    rows = [ROW.fullmatch(line) for line in (VAGRANT / "nodes.yaml").read_text().splitlines() if line[:1] != "#"]
    assert all(rows), "a row that is no row"
    return [(row[1], row[2], int(row[3]), int(row[4])) for row in rows if row]


def test_machines_have_names_and_addresses_of_their_own_that_virtualbox_allows() -> None:
    names, addresses, _, _ = zip(*nodes(), strict=True)
    assert names == ("manager", *(f"worker{number}" for number in range(1, 6)))
    assert len(set(addresses)) == len(addresses)
    assert [address for address in addresses if ipaddress.ip_address(address) not in RANGE] == []


def test_workers_differ_in_size_so_that_placement_has_something_to_decide() -> None:
    sizes = [(cpus, memory) for _, _, cpus, memory in nodes()[1:]]
    assert len(set(sizes)) == len(sizes)
