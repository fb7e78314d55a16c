"""The cluster query language: what it means, and that no text is more than a clear error."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniecs import query
from miniecs.errors import InvalidParameterException

HOST = {
    "attribute:zone": ["a"],
    "attribute:gpu": [""],
    "attribute:kernel": ["6.10.2"],
    "agentVersion": ["1.9.0"],
    "ec2InstanceId": ["i-1"],
    "runningTasksCount": ["10"],
    "registeredAt": ["2018-06-18T22:28:28+00:00"],
    "task:group": ["service:web", "family:job"],
}


def holds(expression: str) -> bool:
    return query.parse(expression)(lambda subject: HOST.get(subject, []))


@pytest.mark.parametrize(
    "expression",
    [
        "attribute:zone == a",
        "attribute:zone equals 'a'",
        'attribute:zone == "a"',
        "attribute:zone != b",
        "attribute:zone not_equals b",
        "attribute:missing != b",
        "attribute:gpu exists",
        "attribute:missing !exists",
        "attribute:missing not_exists",
        "attribute:zone in [a, b]",
        "attribute:zone in ['a']",
        "attribute:zone !in [b,c]",
        "attribute:missing not_in [b]",
        "attribute:zone =~ [abc]".replace("[abc]", "'[abc]'"),
        "ec2InstanceId matches i-.*",
        "ec2InstanceId !~ i",  # the whole value must match
        "runningTasksCount > 9",
        "runningTasksCount >= 10",
        "runningTasksCount less_than 11",
        "runningTasksCount <= 10",
        "agentVersion < 1.10.0",
        "attribute:kernel greater_than_equal 6.10",
        "registeredAt > 2018-06-17",
        "registeredAt < 2018-06-18T23:00:00+00:00",
        "task:group == service:web",
        "task:group == family:job",
        "attribute:zone == a and attribute:gpu exists",
        "attribute:zone == b or attribute:gpu exists",
        "attribute:zone == b || attribute:gpu exists && attribute:zone == a",
        "not attribute:zone == b",
        "!(attribute:zone == b)",
        "not not attribute:zone == a",
        "(attribute:zone == b or attribute:gpu exists) and (attribute:zone == a)",
        "attribute:zone == 'and' or attribute:zone == a",
    ],
)
def test_these_hold(expression: str) -> None:
    assert holds(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "attribute:zone == b",
        "attribute:missing == a",
        "attribute:missing exists",
        "attribute:gpu !exists",
        "attribute:zone !in [a]",
        "attribute:missing > 1",
        "ec2InstanceId =~ i",
        "attribute:zone == a and attribute:zone == b",
        "attribute:zone == b and attribute:zone == a or attribute:zone == b",
        "not attribute:zone == a",
        "agentVersion > 1.10",
    ],
)
def test_these_do_not_hold(expression: str) -> None:
    assert not holds(expression)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "expected a subject, such as attribute:NAME, found the end"),
        ("zone == a", "expected a subject (attribute:NAME, agentConnected"),
        ("attribute: == a", "expected a subject"),
        ("attribute:zone", "expected an operator (==, !="),
        ("attribute:zone is a", "found 'is' at character 16"),
        ("attribute:zone ==", "expected a value, found the end"),
        ("attribute:zone == a attribute:zone == b", "expected 'and', 'or' or the end, found 'attribute:zone'"),
        ("attribute:zone in a", "expected '[', found 'a'"),
        ("attribute:zone in [a", "expected ']', found the end"),
        ("attribute:zone in []", "expected a value, found ']'"),
        ("(attribute:zone == a", "expected ')', found the end"),
        ("attribute:zone == a)", "found ')' at character 20"),
        ("attribute:zone =~ '('", "expected a regular expression"),
        ("attribute:zone == 'a", "cannot read ''a'"),
        ("attribute:zone & a", "cannot read"),
    ],
)
def test_a_wrong_expression_says_where_and_what_was_expected(expression: str, message: str) -> None:
    with pytest.raises(InvalidParameterException) as caught:
        query.parse(expression)
    assert message in str(caught.value)


PIECES = [
    *" :()[]=!<>&|~,'\"ax1",
    " and ",
    " not ",
    " in ",
    " == ",
    " =~ ",
    " exists",
    "attribute:zone",
    "runningTasksCount",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_no_text_is_more_than_a_clear_error(text: str) -> None:
    try:
        test = query.parse(text)
    except InvalidParameterException as error:
        assert str(error).startswith("Invalid expression")
    else:
        assert test(lambda subject: ["a"]) in (True, False)


Meaning = tuple[str, Callable[[str], bool]]
LEAVES: st.SearchStrategy[Meaning] = st.sampled_from("abc").map(
    lambda letter: (f"attribute:x == {letter}", lambda v: v == letter)
)


def joined(inner: st.SearchStrategy[Meaning]) -> st.SearchStrategy[Meaning]:
    def pair(left: Meaning, word: str, right: Meaning) -> Meaning:
        text = f"({left[0]}) {word} ({right[0]})"
        if word in ("and", "&&"):
            return text, lambda value: left[1](value) and right[1](value)
        return text, lambda value: left[1](value) or right[1](value)

    negated = inner.map(lambda one: (f"not ({one[0]})", lambda value: not one[1](value)))
    return st.builds(pair, inner, st.sampled_from(["and", "&&", "or", "||"]), inner) | negated


@given(st.recursive(LEAVES, joined, max_leaves=8), st.sampled_from("abcd"))
def test_it_means_what_python_means(meaning: Meaning, value: str) -> None:
    text, means = meaning
    assert query.parse(text)(lambda subject: [value]) == means(value)
