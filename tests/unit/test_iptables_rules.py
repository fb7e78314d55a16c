"""Rules for kernels without nftables: what is written, and that what iptables-save prints is read back."""

import pytest

from minicontainer.containers import Port, PublishedPort
from minicontainer.linux import iptables
from minicontainer.network import iptables_rules

SAVED = """*nat
:PREROUTING ACCEPT [1:60]
:MINICONTAINER - [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j MINICONTAINER
-A DOCKER -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80
-A MINICONTAINER -d 192.168.56.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 172.18.0.3:5353
-A MINICONTAINER -p tcp -m tcp --dport 56159 -j DNAT --to-destination 172.18.0.2:8080
-A MINICONTAINER-MASQUERADE -s 172.18.0.0/16 ! -o minicontainer0 -j MASQUERADE
COMMIT
"""
DNS = PublishedPort(Port(5353, 53, "udp", "192.168.56.11"), "172.18.0.3")
WEB = PublishedPort(Port(8080, 56159), "172.18.0.2")


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is given to iptables-restore, and not done."""
    said: list[str] = []
    monkeypatch.setattr(iptables, "restore", said.append)
    return said


def test_published_ports_are_read_back_and_nobody_elses() -> None:
    assert iptables_rules.parse(SAVED) == [DNS, WEB]


def test_a_change_is_one_transaction_and_a_port_of_one_address_comes_first(batches: list[str]) -> None:
    iptables_rules.change([WEB], [WEB, DNS])
    (batch,) = batches
    assert batch.splitlines() == [
        "*nat",
        "-D MINICONTAINER -p tcp -m tcp --dport 56159 -j DNAT --to-destination 172.18.0.2:8080",
        "-A MINICONTAINER -p tcp -m tcp --dport 56159 -j DNAT --to-destination 172.18.0.2:8080",
        "-I MINICONTAINER -d 192.168.56.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 172.18.0.3:5353",
        "COMMIT",
    ]


def test_what_is_created_is_what_is_deleted(batches: list[str]) -> None:
    iptables_rules.create("bridge0", "172.18.0.0/16")
    (created,) = batches
    batches.clear()
    iptables_rules.delete()
    deleted = "".join(batches)
    made = {line.split()[0][1:] for line in created.splitlines() if line.startswith(":")}
    assert made == {line.split()[1] for line in deleted.splitlines() if line.startswith("-X")}
    hung = {line.removeprefix("-I ") for line in created.splitlines() if line.startswith("-I")}
    assert hung == {line.removeprefix("-D ") for line in deleted.splitlines() if line.startswith("-D")}
    assert "-A MINICONTAINER-MASQUERADE -s 172.18.0.0/16 ! -o bridge0 -j MASQUERADE" in created
    assert created.count("COMMIT") == deleted.count("COMMIT") == 3


@pytest.mark.kernel
def test_a_network_namespace_that_never_used_iptables_has_no_table() -> None:
    assert not iptables.has_table("nat") or ":MINICONTAINER " not in iptables.save("nat")
