"""terminal: bytes go from each source to its target, and ends are passed on."""

import os

import pytest

from minicontainer import terminal


def test_relay_copies_until_the_end_is_told() -> None:
    source, feed = os.pipe()
    out, target = os.pipe()
    until, tell = os.pipe()
    os.write(feed, b"x" * 1000)
    relay = terminal.relay({source: target}, until)
    os.write(tell, b"!")
    next(relay)
    terminal.drain({source: target})
    assert os.read(out, 2000) == b"x" * 1000


def test_drain_stops_at_what_is_there_and_at_an_end() -> None:
    source, feed = os.pipe()
    out, target = os.pipe()
    os.write(feed, b"last")
    os.close(feed)
    terminal.drain({source: target})
    os.close(target)
    assert os.read(out, 100) == b"last"
    assert os.read(out, 100) == b""


def test_a_reader_that_is_gone_ends_the_copy() -> None:
    source, feed = os.pipe()
    out, target = os.pipe()
    os.close(out)
    os.write(feed, b"unread")
    assert not terminal._copy(source, target)


def test_an_ended_source_is_told() -> None:
    source, feed = os.pipe()
    os.close(feed)
    assert not terminal._copy(source, 1)
    os.close(source)
    assert not terminal._copy(source, 1)


def test_no_terminal_has_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    saved = os.dup(0)
    try:
        os.dup2(reader, 0)
        assert terminal.terminal_size() is None
        with terminal.joined(writer):
            pass
    finally:
        os.dup2(saved, 0)
