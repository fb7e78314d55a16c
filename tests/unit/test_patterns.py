"""patterns: what a .dockerignore leaves out, and what a wildcard takes."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer.build.patterns import is_wildcard, matching, parse_ignore


@pytest.mark.parametrize(
    ("lines", "left_out", "kept"),
    [
        ("node_modules", ["node_modules", "node_modules/a/b"], ["src/node_modules", "node_modules2"]),
        ("*.log", ["a.log"], ["d/a.log", "a.log.txt"]),
        ("**/*.log", ["a.log", "d/a.log", "d/e/a.log"], ["a.logs"]),
        ("**", ["a", "a/b"], []),
        ("*", ["a", "a/b"], []),
        ("/a", ["a"], ["b/a"]),
        ("./a/", ["a", "a/b"], ["b/a"]),
        ("a/../b", ["b"], ["a"]),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("[ab].txt", ["a.txt"], ["c.txt"]),
        ("[^ab].txt", ["c.txt"], ["a.txt"]),
        ("[a-c]x", ["bx"], ["dx", "-x"]),
        (r"\*", ["*"], ["a"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "b"]),
        ("docs/**", ["docs/a", "docs/a/b"], []),
        ("*\n!keep", ["a"], ["keep", "keep/x"]),
        ("*\n!d/keep", ["a", "d", "d/x"], ["d/keep"]),
        ("a\n!a/b\na/b/c", ["a", "a/x", "a/b/c"], ["a/b", "a/b/d"]),
        ("# comment\n\n  a  \n", ["a"], ["# comment"]),
        ("! a", [], ["a"]),
        (".", [], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("\ufeffa", ["a"], []),
    ],
)
def test_the_last_pattern_that_matches_decides(lines: str, left_out: list[str], kept: list[str]) -> None:
    ignore = parse_ignore(lines)
    assert [path for path in left_out if not ignore.excludes(path)] == []
    assert [path for path in kept if ignore.excludes(path)] == []


def test_exceptions_are_known() -> None:
    assert parse_ignore("a\n!b").has_exceptions
    assert not parse_ignore("a\nb").has_exceptions
    assert not parse_ignore("").excludes("anything")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("[a]*", ["a.txt"]),
        ("[^a]*", ["[x]", "b.txt", "c"]),
        (r"\[x]", ["[x]"]),
        ("**", ["[x]", "a.txt", "b.txt", "c"]),
        ("nothing*", []),
    ],
)
def test_a_wildcard_takes_the_names_it_matches(pattern: str, names: list[str]) -> None:
    assert matching(pattern, ["c", "b.txt", "a.txt", "[x]"]) == names


def test_a_plain_word_is_no_wildcard() -> None:
    assert not is_wildcard("a/b.c")
    assert all(is_wildcard(word) for word in ("*", "a?", "[a]", "a\\b"))


@given(st.text(), st.text())
def test_any_text_is_a_dockerignore(text: str, path: str) -> None:
    assert parse_ignore(text).excludes(path) in (True, False)


@given(st.text(alphabet="ab*?"), st.text(alphabet="ab"))
def test_star_and_question_mark_are_the_shells(pattern: str, name: str) -> None:
    assert (matching(pattern, [name]) == [name]) == fnmatch.fnmatchcase(name, pattern)


@given(st.text(alphabet="ab[]^-\\*?/."), st.text(alphabet="ab-^"))
def test_any_class_is_a_pattern(pattern: str, name: str) -> None:
    assert matching(pattern, [name]) in ([name], [])


@given(st.lists(st.text(alphabet="abc", min_size=1), min_size=1))
def test_what_is_below_a_directory_left_out_is_left_out(parts: list[str]) -> None:
    assert parse_ignore(parts[0]).excludes("/".join(parts))
