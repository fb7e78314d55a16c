"""expansion: variables, quotes and escapes as BuildKit's frontend reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer.build.expansion import ExpansionError, expand, expand_document, expand_words, shell_pattern, split

VARIABLES = {"set": "value", "empty": "", "path": "/usr/local/lib/x.tar.gz", "two": "a b"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("plain", "plain"),
        ("$set", "value"),
        ("${set}", "value"),
        ("$set/$set", "value/value"),
        ("$unset", ""),
        ("x${unset}y", "xy"),
        ("$setting", ""),
        ("${set}ting", "valueting"),
        (r"\$set", "$set"),
        (r"\\$set", r"\value"),
        ("'$set'", "$set"),
        ('"$set"', "value"),
        ('"a b" c', "a b c"),
        (r'"\$set \" \\ \n"', r'$set " \ \n'),
        ("a'b'\"c\"", "abc"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("$1", ""),
        ("$10x", "x"),
        ("${set:-word}", "value"),
        ("${unset:-word}", "word"),
        ("${empty:-word}", "word"),
        ("${empty-word}", ""),
        ("${unset-word}", "word"),
        ("${set:+word}", "word"),
        ("${unset:+word}", ""),
        ("${empty:+word}", ""),
        ("${empty+word}", "word"),
        ("${unset:-${set}}", "value"),
        ("${unset:-$set/x}", "value/x"),
        ("${unset:-'}'}", "}"),
        ("${set:?needed}", "value"),
        ("${path##*/}", "x.tar.gz"),
        ("${path#*/}", "usr/local/lib/x.tar.gz"),
        ("${path%.*}", "/usr/local/lib/x.tar"),
        ("${path%%.*}", "/usr/local/lib/x"),
        ("${path#none}", "/usr/local/lib/x.tar.gz"),
        ("${path/l/L}", "/usr/Local/lib/x.tar.gz"),
        ("${path//l/L}", "/usr/LocaL/Lib/x.tar.gz"),
        (r"${path//\//-}", "-usr-local-lib-x.tar.gz"),
        ("${unset/x/y}", ""),
        ("${path/#x/y}", "/usr/local/lib/x.tar.gz"),
        ("${path#'/usr'}", "/local/lib/x.tar.gz"),
        ('${path%"${gz:-.gz}"}', "/usr/local/lib/x.tar"),
        ("${path:##*/}", "x.tar.gz"),
        (r"${path/x.*/\{\}}", r"/usr/local/lib/\{\}"),
        ("${größe:-$ä}", ""),
    ],
)
def test_a_word_is_expanded(word: str, expected: str) -> None:
    assert expand(word, VARIABLES) == expected


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("'open", "single quote"),
        ('"open', "double quote"),
        ("${open", "unsupported modifier"),
        ("${set:-open", "no matching }"),
        ("${set#open", "no matching }"),
        ("${set/open", "no matching /"),
        ("${}", "bad substitution"),
        ("${set!x}", "unsupported modifier"),
        ("${unset:?give one}", "unset: give one"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${unset?}", "unset: is not allowed to be unset"),
        (r"${path#\u}", "invalid escape"),
    ],
)
def test_a_word_that_cannot_be_expanded_says_why(word: str, reason: str) -> None:
    with pytest.raises(ExpansionError, match=reason):
        expand(word, VARIABLES)


def test_the_escape_may_be_a_backtick() -> None:
    assert expand(r"C:\$set", VARIABLES, escape="`") == r"C:\value"
    assert expand("`$set", VARIABLES, escape="`") == "$set"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("80 $set", ["80", "value"]),
        ("$two", ["a", "b"]),
        ('"$two"', ["a b"]),
        ("x$two", ["xa", "b"]),
        ("'' x", ["", "x"]),
        ("  ", []),
        ("$unset x", ["x"]),
    ],
)
def test_words_are_cut_after_expansion(text: str, words: list[str]) -> None:
    assert expand_words(text, VARIABLES) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a=b c=d", ["a=b", "c=d"]),
        ('a="b c" d', ['a="b c"', "d"]),
        (r"a=b\ c d", [r"a=b\ c", "d"]),
        ("a='b \"c' d", ["a='b \"c'", "d"]),
        (r'a="b \" c" d', [r'a="b \" c"', "d"]),
        ('a="open quote', ['a="open', "quote"]),
    ],
)
def test_a_line_is_cut_outside_quotes(text: str, words: list[str]) -> None:
    assert split(text) == words


def test_a_here_document_keeps_its_quotes() -> None:
    text = """it's "$set" ${unset:-x} \\$set \\n \\\\ ${set}\n"""
    assert expand_document(text, VARIABLES) == 'it\'s "value" x $set \\n \\ value\n'


def test_a_pattern_becomes_a_regular_expression() -> None:
    assert shell_pattern("a*b?.c") == r"a.*b.\.c"
    assert shell_pattern(r"\*\?") == r"\*\?"


@given(st.text())
def test_any_text_expands_or_is_refused(text: str) -> None:
    try:
        assert isinstance(expand(text, VARIABLES), str)
        expand_words(text, VARIABLES)
    except ExpansionError as refused:
        assert str(refused)


@given(st.text(alphabet=st.characters(exclude_characters="'\"$\\", exclude_categories=["Cs"])))
def test_text_without_marks_is_left_alone(text: str) -> None:
    assert expand(text, VARIABLES) == text


@given(st.text())
def test_single_quotes_keep_all_but_themselves(text: str) -> None:
    text = text.replace("'", "")
    assert expand(f"'{text}'", VARIABLES) == text


@given(st.lists(st.text(alphabet="abc=/.$", min_size=1)))
def test_split_undoes_join(words: list[str]) -> None:
    assert split(" ".join(words)) == words


@given(st.text(alphabet="ab/."), st.text(alphabet="ab*?"))
def test_what_is_trimmed_off_the_front_and_the_rest_are_the_value(value: str, pattern: str) -> None:
    for operator in ("#", "##"):
        assert value.endswith(expand(f"${{v{operator}{pattern}}}", {"v": value}))
    for operator in ("%", "%%"):
        assert value.startswith(expand(f"${{v{operator}{pattern}}}", {"v": value}))
