"""Query: the cluster query language of memberOf constraints and of ListContainerInstances' filter.

Stands on `errors`; `placement` asks with it. A text is parsed once into a tree of tests, then asked of many instances
through a function from subject to value. Ruled by the ECS developer guide, "Cluster query language".

    expression := term ("or" term)*        term := factor ("and" factor)*
    factor     := "not" factor | "(" expression ")" | subject operator [argument]
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from miniecs.errors import InvalidParameterException

SUBJECTS = ("agentConnected", "agentVersion", "ec2InstanceId", "registeredAt", "runningTasksCount", "task:group")
OPERATORS = {  # word: its sign
    "equals": "==", "not_equals": "!=", "greater_than": ">", "greater_than_equal": ">=",
    "less_than": "<", "less_than_equal": "<=", "exists": "exists", "not_exists": "!exists",
    "in": "in", "not_in": "!in", "matches": "=~", "not_matches": "!~",
}  # fmt: skip
SIGNS = {sign: sign for sign in OPERATORS.values()} | OPERATORS
JOINTS = {"&&": "and", "||": "or", "!": "not", "and": "and", "or": "or", "not": "not"}
TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"[^"]*"|'[^']*')
    |(?P<sign>==|!=|>=|<=|=~|!~|&&|\|\||!(?:exists|in)\b|[><!()\[\],])
    |(?P<word>[^\s"'()\[\],=<>!&|~]+))""",
    re.VERBOSE,
)

Values = Callable[[str], list[str]]  # subject to its values; none if the instance does not have it
Test = Callable[[Values], bool]


class Token(NamedTuple):
    text: str
    quoted: bool
    at: int


@lru_cache(maxsize=1024)
def parse(text: str) -> Test:
    """An expression as a test on an instance.

    Raises:
        InvalidParameterException: it is none; the text says where and what was expected.
    """
    return _Parser(text).whole()


class _Parser:
    """Recursive descent, one method for each rule of the grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._scan())
        self.next = 0

    def whole(self) -> Test:
        test = self._expression()
        if self._peek():
            raise self._wrong("'and', 'or' or the end")
        return test

    def _expression(self) -> Test:
        tests = [self._term()]
        while self._joint() == "or":
            self.next += 1
            tests.append(self._term())
        return tests[0] if len(tests) == 1 else lambda values: any(test(values) for test in tests)

    def _term(self) -> Test:
        tests = [self._factor()]
        while self._joint() == "and":
            self.next += 1
            tests.append(self._factor())
        return tests[0] if len(tests) == 1 else lambda values: all(test(values) for test in tests)

    def _factor(self) -> Test:
        if self._joint() == "not":
            self.next += 1
            inner = self._factor()
            return lambda values: not inner(values)
        if self._take("("):
            inner = self._expression()
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Test:
        subject = self._word("a subject, such as attribute:NAME")
        if not (subject in SUBJECTS or (subject.startswith("attribute:") and len(subject) > len("attribute:"))):
            self.next -= 1
            raise self._wrong(f"a subject (attribute:NAME, {', '.join(SUBJECTS)})")
        token = self._peek()
        operator = SIGNS.get(token.text) if token and not token.quoted else None
        if operator is None:
            raise self._wrong(f"an operator ({', '.join(SIGNS)})")
        self.next += 1
        if operator in ("exists", "!exists"):
            return lambda values: bool(values(subject)) == (operator == "exists")
        if operator in ("in", "!in"):
            wanted = set(self._list())
            return lambda values: bool(wanted & set(values(subject))) == (operator == "in")
        return _compared(subject, operator, self._argument(operator))

    def _argument(self, operator: str) -> str:
        at = self.next
        argument = self._word("a value")
        if operator in ("=~", "!~"):
            try:
                re.compile(argument)
            except re.error as error:
                self.next = at
                raise self._wrong(f"a regular expression ({error})") from None
        return argument

    def _list(self) -> list[str]:
        self._expect("[")
        found = [self._word("a value")]
        while self._take(","):
            found.append(self._word("a value"))
        self._expect("]")
        return found

    def _scan(self) -> Iterator[Token]:
        at = 0
        while at < len(self.text.rstrip()):
            match = TOKEN.match(self.text, at)
            if not match:
                raise InvalidParameterException(
                    f"Invalid expression '{self.text}': cannot read '{self.text[at:].strip()}'."
                )
            text, quoted = match[0].strip(), match["quoted"] is not None
            yield Token(text[1:-1] if quoted else text, quoted, match.end() - len(text))
            at = match.end()

    def _peek(self) -> Token | None:
        return self.tokens[self.next] if self.next < len(self.tokens) else None

    def _joint(self) -> str | None:
        token = self._peek()
        return JOINTS.get(token.text) if token and not token.quoted else None

    def _take(self, sign: str) -> bool:
        token = self._peek()
        taken = token is not None and not token.quoted and token.text == sign
        self.next += taken
        return taken

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._wrong(f"'{sign}'")

    def _word(self, what: str) -> str:
        token = self._peek()
        if token is None or (not token.quoted and re.fullmatch(r"[><!()\[\],=~&|]+", token.text)):
            raise self._wrong(what)
        self.next += 1
        return token.text

    def _wrong(self, expected: str) -> InvalidParameterException:
        token = self._peek()
        found = f"'{token.text}' at character {token.at + 1}" if token else "the end"
        return InvalidParameterException(f"Invalid expression '{self.text}': expected {expected}, found {found}.")


def _compared(subject: str, operator: str, argument: str) -> Test:
    """An instance that does not have the subject passes the negative operators only."""
    match operator:
        case "==":
            return lambda values: argument in values(subject)
        case "!=":
            return lambda values: argument not in values(subject)
        case "=~" | "!~":
            pattern = re.compile(argument)
            return lambda values: any(map(pattern.fullmatch, values(subject))) == (operator == "=~")
        case _:
            return lambda values: any(_ordered(value, operator, argument) for value in values(subject))


def _ordered(value: str, operator: str, argument: str) -> bool:
    """Numbers as numbers, versions part by part, dates and the rest as text (ISO 8601 sorts as text)."""
    left, right = _parts(value), _parts(argument)
    order = (left > right) - (left < right) if left and right else (value > argument) - (value < argument)
    return {">": order > 0, ">=": order >= 0, "<": order < 0, "<=": order <= 0}[operator]


def _parts(text: str) -> tuple[int, ...] | None:
    return tuple(map(int, text.split("."))) if re.fullmatch(r"\d+(\.\d+)*", text) else None
