"""nftables against the kernel: a batch is done whole or not at all, and lists come back as values."""

import pytest

from minicontainer.linux import nftables


@pytest.mark.kernel()
def test_a_batch_is_one_transaction() -> None:
    with pytest.raises(nftables.Refused) as raised:
        nftables.run("add table ip here\nadd element ip here nowhere { 1 }")
    assert raised.value.absent
    assert nftables.query("list tables") == []


@pytest.mark.kernel()
def test_what_was_added_is_listed_and_cannot_be_created_twice() -> None:
    nftables.run("create table ip here")
    assert [item["table"]["name"] for item in nftables.query("list tables ip")] == ["here"]
    with pytest.raises(nftables.Refused) as raised:
        nftables.run("create table ip here")
    assert raised.value.exists


@pytest.mark.kernel()
def test_a_map_comes_back_with_its_elements() -> None:
    nftables.run(
        "add table ip here\n"
        "add map ip here ports { type inet_service : ipv4_addr . inet_service ; }\n"
        "add element ip here ports { 8080 : 172.18.0.2 . 80 }"
    )
    [item] = nftables.query("list map ip here ports")
    assert item["map"]["elem"] == [[8080, {"concat": ["172.18.0.2", 80]}]]
