"""nftables: what the user reads when the kernel, the grammar or the library says no."""

import pytest

from minicontainer.errors import Error
from minicontainer.linux import nftables


def test_a_missing_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "LIBRARIES", ("libnftables.so.does-not-exist",))
    with pytest.raises(nftables.Unavailable, match="apt-get install libnftables1"):
        nftables.run("list tables")


def test_a_syntax_error_says_what_and_where() -> None:
    with pytest.raises(nftables.Refused, match="syntax error") as raised:
        nftables.run("add nonsense")
    assert isinstance(raised.value, Error)
    assert "add nonsense" in str(raised.value)
    assert not raised.value.exists
    assert not raised.value.absent


def test_only_the_first_error_of_a_batch_is_told() -> None:
    refused = nftables.Refused("add x\nadd y", "buf:1:1-2: Error: first\nadd x\n^^\nbuf:2:1-2: Error: second\n")
    assert str(refused) == "nftables refused 'add x': first"


def test_a_long_batch_is_told_by_its_first_line_cut_short() -> None:
    assert len(nftables._headline("x" * 500)) == 100
    assert nftables._headline("") == ""
