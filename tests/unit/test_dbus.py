"""The wire of D-Bus: what we send, and what systemd answered."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer.linux.dbus import message, parsed, types

PATH, INTERFACE = "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
ANSWER = (  # what systemd 252 answered to GetUnit("init.scope")
    b"l\2\1\1\x30\0\0\0\1\0\0\0\x37\0\0\0\5\1u\0\1\0\0\0\7\1s\0\x18\0\0\0org.freedesktop.systemd1\0\0\0\0\0\0\0\0"
    b"\x08\1g\0\1o\0\0\x2b\0\0\0/org/freedesktop/systemd1/unit/init_2escope\0"
)
words = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=9)
values = st.one_of(
    st.tuples(st.just("s"), words),
    st.tuples(st.just("b"), st.integers(0, 1)),
    st.tuples(st.just("t"), st.integers(0, (1 << 64) - 1)),
    st.tuples(st.just("au"), st.lists(st.integers(0, (1 << 32) - 1), max_size=3)),
    st.tuples(st.just("ay"), st.lists(st.integers(0, 255), max_size=5)),
    st.tuples(st.just("a(ss)"), st.lists(st.tuples(words, words), max_size=3)),
    st.tuples(st.just("a{sv}"), st.lists(st.tuples(words, st.tuples(st.just("s"), words)), max_size=2)),
)


def test_an_answer_of_systemd_is_understood() -> None:
    heard = parsed(ANSWER)
    assert heard.values == ("/org/freedesktop/systemd1/unit/init_2escope",)
    assert (heard.kind, heard.fields[5]) == (2, 1)


def test_a_call_is_laid_out_as_the_specification_says() -> None:
    sent = message(1, PATH, INTERFACE, "GetUnit", "s", ("a",))
    assert sent[:16] == b"l\1\0\1\6\0\0\0\1\0\0\0" + (len(sent) - 16 - 8 + 1).to_bytes(4, "little")
    assert sent.endswith(b"\x08\1g\0\1s\0\0" + b"\1\0\0\0a\0")
    assert len(sent) % 8 == 6  # the header is padded to 8, the body is not


@given(st.lists(st.tuples(words, values), max_size=4), words)
def test_what_is_sent_is_what_is_heard(given: list[tuple[str, tuple[str, Any]]], name: str) -> None:
    heard = parsed(message(7, PATH, INTERFACE, "Do", "ssa(sv)a(sa(sv))", (name, "replace", given, [])))
    assert heard.values == (name, "replace", given, [])
    assert (heard.fields[1], heard.fields[3], heard.fields[6]) == (PATH, "Do", "org.freedesktop.systemd1")


@pytest.mark.parametrize(
    ("signature", "parts"),
    [
        ("", []),
        ("ssa(sv)a(sa(sv))", ["s", "s", "a(sv)", "a(sa(sv))"]),
        ("uoss", list("uoss")),
        ("sa{sv}as", ["s", "a{sv}", "as"]),
    ],
)
def test_a_signature_is_a_row_of_complete_types(signature: str, parts: list[str]) -> None:
    assert list(types(signature)) == parts
