"""Templates: what `--format` says, in the part of Go's text/template that people write for docker. Pure.

Below `reports`. A template becomes functions once, and is then applied to each row. Ruled by Go's text/template: fields
(`.State.Status`), `range`, `if`, `with`, `else`, variables, pipes, parentheses, and docker's functions.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest

from minicontainer.arguments import UsageError
from minicontainer.values import Any, NamedTuple

ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|`[^`]*`|-?\d+|\$?\w*(?:\.\w+)+|\$\w*|\w+|:=|[.|(),=])')
ESCAPES = {"\\t": "\t", "\\n": "\n"}  # which a shell leaves as they are


class Scope(NamedTuple):
    """What names mean: `.`, and the variables; `$` is the whole."""

    dot: Any
    names: Mapping[str, Any]


Value = Callable[[Scope], Any]
Text = Callable[[Scope], str]


class InvalidTemplate(UsageError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"--format: {reason}")


def template(text: str) -> Callable[[Any], str]:
    """The text as a function of a value.

    Raises:
        InvalidTemplate: now, or when a field that it names is not there.
    """
    for written, meant in ESCAPES.items():
        text = text.replace(written, meant)
    reader = _Reader(text)
    whole = reader.block(())
    return lambda value: whole(Scope(dot=value, names={"$": value}))


def shown(value: Any) -> str:
    """A value as Go prints it."""
    match value:
        case None:
            return "<no value>"
        case bool():
            return str(value).lower()
        case Mapping():
            return f"map[{' '.join(f'{name}:{shown(value[name])}' for name in sorted(value))}]"
        case list() | tuple():
            return f"[{' '.join(map(shown, value))}]"
        case _:
            return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key, "")
        elif isinstance(value, Sequence) and isinstance(key, int) and -1 < key < len(value):
            value = value[key]
        else:
            raise InvalidTemplate(f"index: {shown(value)} has nothing at {shown(key)}")
    return value


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "eq": lambda value, *others: value in others,
    "index": _index,
    "join": lambda values, by: by.join(map(shown, values)),
    "json": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    "len": len,
    "lower": lambda text: text.lower(),
    "ne": lambda value, other: value != other,
    "not": lambda value: not value,
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "print": lambda *values: " ".join(map(shown, values)),
    "println": lambda *values: " ".join(map(shown, values)) + "\n",
    "split": lambda text, by: text.split(by),
    "title": lambda text: text.title(),
    "upper": lambda text: text.upper(),
}


class _Reader:
    """One reading of a template, from left to right: its texts and its actions in turn."""

    def __init__(self, text: str) -> None:
        self.parts: list[tuple[str, bool]] = []
        at, strip = 0, False
        for found in ACTION.finditer(text):
            before = text[at : found.start()]
            before = before.lstrip() if strip else before
            self.parts += [(before.rstrip() if found[1] else before, False), (found[2].strip(), True)]
            at, strip = found.end(), bool(found[3])
        self.parts.append((text[at:].lstrip() if strip else text[at:], False))
        if any("{{" in part for part, is_action in self.parts if not is_action):
            raise InvalidTemplate("{{ without its }}")

    def block(self, ends: Sequence[str]) -> Text:
        """What stands before one of the words `ends`, which is left; without them, all."""
        made: list[Text] = []
        while self.parts:
            text, is_action = self.parts[0]
            word = text.partition(" ")[0]
            if is_action and word in ends:
                return lambda scope: "".join(one(scope) for one in made)
            self.parts.pop(0)
            if is_action and word in ("range", "if", "with"):
                made.append(self._control(word, text.removeprefix(word)))
            elif is_action and word in ("end", "else"):
                raise InvalidTemplate(f"{word} without its beginning")
            else:
                made.append(_printing(text) if is_action else _constant(text))
        if ends:
            raise InvalidTemplate("an end is missing")
        return lambda scope: "".join(one(scope) for one in made)

    def _control(self, word: str, text: str) -> Text:
        tokens = _Tokens(text)
        names = tokens.variables()
        value, body, other = tokens.whole(), self.block(("else", "end")), _constant("")
        text, _ = self.parts.pop(0)
        if text.startswith("else"):
            rest = text.removeprefix("else").strip()
            inner = rest.partition(" ")[0]
            if inner in ("if", "with"):
                return _branch(word, names, value, body, self._control(inner, rest.removeprefix(inner)))
            other = self.block(("end",))
            self.parts.pop(0)
        return _branch(word, names, value, body, other)


def _branch(word: str, names: Sequence[str], value: Value, body: Text, other: Text) -> Text:
    def taken(scope: Scope) -> str:
        found = value(scope)
        if not found:
            return other(scope)
        if word != "range":
            inner = scope._replace(names={**scope.names, **dict.fromkeys(names, found)})
            return body(inner._replace(dot=found) if word == "with" else inner)
        pairs = sorted(found.items()) if isinstance(found, Mapping) else list(enumerate(found))
        said = []
        for key, item in pairs:
            given = dict(zip(names, (key, item) if len(names) == 2 else (item,), strict=False))
            said.append(body(Scope(dot=item, names={**scope.names, **given})))
        return "".join(said)

    return taken


def _constant(text: str) -> Text:
    return lambda _: text


def _printing(text: str) -> Text:
    if text.startswith("/*"):
        return _constant("")
    value = _Tokens(text).whole()
    return lambda scope: shown(value(scope))


class _Tokens:
    """The words of one action."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        while text.strip():
            found = TOKEN.match(text)
            if not found:
                raise InvalidTemplate(f"{text.strip()!r} cannot be read")
            self.tokens.append(found[1])
            text = text[found.end() :]

    def variables(self) -> list[str]:
        """`$name :=` or `$name, $other :=` at the beginning."""
        if ":=" not in self.tokens:
            return []
        at = self.tokens.index(":=")
        names = [token for token in self.tokens[:at] if token != ","]
        self.tokens = self.tokens[at + 1 :]
        return names

    def whole(self) -> Value:
        value = self._pipeline()
        if self.tokens:
            raise InvalidTemplate(f"{self.tokens[0]!r} is one word too many")
        return value

    def _pipeline(self) -> Value:
        value = self._command(None)
        while self.tokens and self.tokens[0] == "|":
            self.tokens.pop(0)
            value = self._command(value)
        return value

    def _command(self, before: Value | None) -> Value:
        """A function and what it is given, or one value alone."""
        name = self.tokens[0] if self.tokens else ""
        if name in FUNCTIONS:
            self.tokens.pop(0)
            given = [*self._operands(), *([before] if before else [])]
            return lambda scope: _called(name, [value(scope) for value in given])
        operands = list(self._operands())
        if len(operands) != 1 or before:
            what = "nothing is said" if not operands else f"{name} is no function; there are: {', '.join(FUNCTIONS)}"
            raise InvalidTemplate(what)
        return operands[0]

    def _operands(self) -> Iterator[Value]:
        while self.tokens and self.tokens[0] not in ("|", ")"):
            yield self._operand(self.tokens.pop(0))

    def _operand(self, token: str) -> Value:
        if token == "(":
            value = self._pipeline()
            if not self.tokens or self.tokens.pop(0) != ")":
                raise InvalidTemplate("( without its )")
            path = self.tokens.pop(0) if self.tokens and self.tokens[0].startswith(".") else ""
            return lambda scope: _field(value(scope), path)
        if token[0] in '"`':
            text = json.loads(token) if token[0] == '"' else token[1:-1]
            return lambda _: text
        if token.lstrip("-").isdecimal():
            return lambda _: int(token)
        if token[0] == "$":
            name, _, path = token.partition(".")
            return lambda scope: _field(_variable(scope, name), path)
        if token[0] == ".":
            return lambda scope: _field(scope.dot, token)
        if token in ("true", "false", "nil"):
            return lambda _: {"true": True, "false": False, "nil": None}[token]
        raise InvalidTemplate(f"{token} is no function; there are: {', '.join(FUNCTIONS)}")


def _called(name: str, given: list[Any]) -> Any:
    try:
        return FUNCTIONS[name](*given)
    except (TypeError, AttributeError):
        raise InvalidTemplate(f"{name} cannot take {', '.join(map(shown, given)) or 'nothing'}") from None


def _variable(scope: Scope, name: str) -> Any:
    if name not in scope.names:
        raise InvalidTemplate(f"there is no variable {name}")
    return scope.names[name]


def _field(value: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        if not isinstance(value, Mapping) or name not in value:
            there = f"; there are: {', '.join(value)}" if isinstance(value, Mapping) else ""
            raise InvalidTemplate(f"there is no field .{name}{there}")
        value = value[name]
    return value


def aligned(lines: Sequence[str]) -> str:
    """Lines whose columns end in tabs as a table, three spaces apart."""
    rows = [line.split("\t") for line in lines]
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    return "".join("   ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=False)).rstrip() + "\n" for row in rows)
