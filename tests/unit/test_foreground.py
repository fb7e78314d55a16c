"""foreground: bytes go from each source to its target, ends are passed on, and signals are put back."""

import os
import signal

import pytest

from minicontainer import foreground


def test_relay_copies_until_the_end_is_told() -> None:
    source, feed = os.pipe()
    out, target = os.pipe()
    until, tell = os.pipe()
    os.write(feed, b"x" * 1000)
    relay = foreground.relay({source: target}, until)
    os.write(tell, b"!")
    next(relay)
    foreground.drain({source: target})
    assert os.read(out, 2000) == b"x" * 1000


def test_drain_stops_at_what_is_there_and_at_an_end() -> None:
    source, feed = os.pipe()
    out, target = os.pipe()
    os.write(feed, b"last")
    os.close(feed)
    foreground.drain({source: target})
    os.close(target)
    assert os.read(out, 100) == b"last"
    assert os.read(out, 100) == b""


def test_a_reader_that_is_gone_ends_the_copy() -> None:
    source, feed = os.pipe()
    out, target = os.pipe()
    os.close(out)
    os.write(feed, b"unread")
    assert not foreground._copy(source, target)


def test_an_ended_source_is_told() -> None:
    source, feed = os.pipe()
    os.close(feed)
    assert not foreground._copy(source, 1)
    os.close(source)
    assert not foreground._copy(source, 1)


@pytest.mark.parametrize("number", foreground.FORWARDED)
def test_signals_go_to_the_container_meanwhile(number: int) -> None:
    before = signal.getsignal(number)
    seen: list[int] = []
    with foreground._signals(seen.append):
        os.kill(os.getpid(), number)
    assert seen == [number]
    assert signal.getsignal(number) == before


def test_a_process_that_has_just_gone_is_no_error() -> None:
    def forward(_: int) -> None:
        raise ProcessLookupError

    with foreground._signals(forward):
        os.kill(os.getpid(), signal.SIGUSR1)


def test_no_terminal_has_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    saved = os.dup(0)
    try:
        os.dup2(reader, 0)
        assert foreground.terminal_size() is None
        with foreground._terminal(writer):
            pass
    finally:
        os.dup2(saved, 0)
