"""One line for each event, whatever is in the values."""

import logging
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniecs import journal


def test_an_event_and_its_keys() -> None:
    line = journal.line("task stopped", arn="arn:aws:x/y", reason="Essential container in task exited", exit=137)
    assert line == 'task stopped arn=arn:aws:x/y reason="Essential container in task exited" exit=137'


def test_what_has_no_value_is_left_out() -> None:
    assert journal.line("session began", instance=None, address="", silent=0, at=1.5) == "session began silent=0 at=1.5"


@pytest.mark.parametrize(
    ("value", "shown"), [(4.0, "4"), (0.25, "0.25"), ("a=b", '"a=b"'), ('say "x"', '"say \\"x\\""')]
)
def test_values(value: object, shown: str) -> None:
    assert journal.line("x", key=value) == f"x key={shown}"


@given(st.text(max_size=40))
def test_any_text_stays_on_its_line(text: str) -> None:
    line = journal.line("x", key=text)
    assert len(line.splitlines()) == 1 and line.isprintable()


@given(st.text("abc =\"'", min_size=1, max_size=20))
def test_a_shell_reads_the_value_back(text: str) -> None:
    words = shlex.split(journal.line("x", key=text))
    assert words[1] == f"key={text}"


def test_warnings_and_events_have_their_levels(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "miniecs"):
        journal.tell("server started", pid=1)
        journal.warn("agent refused", agent="i-1")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "server started pid=1"),
        ("WARNING", "agent refused agent=i-1"),
    ]
