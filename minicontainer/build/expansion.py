"""Expansion: `$name` and `${name:-word}` in the words of a Dockerfile, and the quotes around them (pure).

Below `dockerfile`, which cuts words, and `builder`, which knows the variables. Ruled by the Dockerfile reference,
"Environment replacement"; where that is silent, by what BuildKit's frontend does.
"""

import re
from collections.abc import Mapping

NAME = re.compile(r"[^\W\d]\w*|[0-9]+|[@*#?\-$!]")
MODIFIER = re.compile(r":?[-+?]|:?##?|:?%%?|//?")


class ExpansionError(ValueError):
    """A word that cannot be expanded: an open quote or brace, an unknown modifier, or a `${name:?reason}`."""


def expand(word: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """The word with its variables replaced and its quotes and escapes removed; an unknown variable is empty."""
    return "".join(text for text, _ in _Scanner(word, variables, escape).pieces())


def expand_words(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """As `expand`, and then cut at white space that is not quoted: `EXPOSE $PORTS` may be two ports."""
    words: list[str] = []
    current: str | None = None
    for piece, quoted in _Scanner(text, variables, escape).pieces():
        if quoted:
            current = (current or "") + piece
            continue
        for space, chunk in re.findall(r"(\s+)|(\S+)", piece):
            if space and current is not None:
                words.append(current)
                current = None
            if chunk:
                current = (current or "") + chunk
    return words if current is None else [*words, current]


def expand_document(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """A here-document with its variables replaced: quotes are text, an escape counts before `$` and itself alone."""
    return _Scanner(text, variables, escape).double_quoted(end="")


def split(text: str, escape: str = "\\") -> list[str]:
    """Cut at white space outside quotes and escapes; quotes and escapes stay in the words, for `expand`."""
    mark = re.escape(escape)
    return re.findall(rf"""(?:{mark}.|'[^']*'|"(?:{mark}.|[^"{mark}])*"|\S)+""", text, re.DOTALL)


def shell_pattern(pattern: str, escape: str = "\\") -> str:
    """A shell's pattern as a regular expression: `*` and `?`, and an escape before one of these that is literal."""
    tokens = re.findall(rf"{re.escape(escape)}.|.", pattern, re.DOTALL)
    for token in tokens:
        if len(token) == 2 and token[1] not in f"*?/}}{escape}":
            raise ExpansionError(f"invalid escape {token} in the pattern {pattern!r}")
    table = {"*": ".*", "?": "."}
    return "".join(table.get(token) or re.escape(token[-1]) for token in tokens)


class _Scanner:
    """One pass over one word. `at` is the position of the next character."""

    def __init__(self, text: str, variables: Mapping[str, str], escape: str) -> None:
        self.text, self.variables, self.escape, self.at = text, variables, escape, 0

    def pieces(self, stop: str = "") -> list[tuple[str, bool]]:
        """(text, was it quoted) up to the end, or up to the first unquoted character `stop`, which is consumed."""
        found: list[tuple[str, bool]] = []
        while self.at < len(self.text):
            character = self.text[self.at]
            self.at += 1
            if character == stop:
                return found
            if character == "'":
                found.append((self._until_quote(), True))
            elif character == '"':
                found.append((self.double_quoted(), True))
            elif character == "$":
                found.append((self._dollar(), False))
            elif character == self.escape:
                found.append((self._next(), True))
            else:
                found.append((character, False))
        if stop:
            raise ExpansionError(f"unexpected end of {self.text!r}: no matching {stop}")
        return found

    def _next(self) -> str:
        """The character after an escape; a trailing escape stands for itself."""
        self.at += 1
        return self.text[self.at - 1] if self.at <= len(self.text) else self.escape

    def _until_quote(self) -> str:
        end = self.text.find("'", self.at)
        if end < 0:
            raise ExpansionError(f"unexpected end of {self.text!r}: no matching single quote")
        inside, self.at = self.text[self.at : end], end + 1
        return inside

    def double_quoted(self, end: str = '"') -> str:
        """Up to the quote `end`, which is consumed, or up to the end of the text when it is empty."""
        found = ""
        while self.at < len(self.text):
            character = self.text[self.at]
            self.at += 1
            if character == end:
                return found
            if character == "$":
                found += self._dollar()
            elif character == self.escape and self.text[self.at : self.at + 1] in (end or "$", "$", self.escape):
                found += self._next()
            else:
                found += character
        if end:
            raise ExpansionError(f"unexpected end of {self.text!r}: no matching double quote")
        return found

    def _dollar(self) -> str:
        if self.text[self.at : self.at + 1] == "{":
            self.at += 1
            return self._braces()
        name = NAME.match(self.text, self.at)
        if name is None:
            return "$"
        self.at = name.end()
        return self.variables.get(name[0], "")

    def _braces(self) -> str:
        name = NAME.match(self.text, self.at)
        if name is None:
            raise ExpansionError(f"bad substitution in {self.text!r}")
        self.at = name.end()
        if self.text[self.at : self.at + 1] == "}":
            self.at += 1
            return self.variables.get(name[0], "")
        value = self.variables.get(name[0])
        modifier = MODIFIER.match(self.text, self.at)
        if modifier is None:
            raise ExpansionError(f"unsupported modifier {self.text[self.at : self.at + 1]!r} in {self.text!r}")
        self.at = modifier.end()
        if (kind := modifier[0].lstrip(":"))[0] in "#%/":
            return self._pattern(kind, value or "")
        word = "".join(text for text, _ in self.pieces("}"))
        return _choose(modifier[0], name[0], value, word)

    def _pattern(self, modifier: str, value: str) -> str:
        if modifier[0] == "/":
            pattern, replacement = shell_pattern(self._raw("/"), self.escape), self._raw("}")
            return re.sub(pattern, lambda _: replacement, value, count=0 if modifier == "//" else 1)
        return _trim(modifier, value, re.compile(shell_pattern(self._raw("}"), self.escape), re.DOTALL))

    def _raw(self, stop: str) -> str:
        """A pattern, or what is put in its place: variables are replaced and quotes removed, escapes stay."""
        found = ""
        while self.at < len(self.text):
            character = self.text[self.at]
            self.at += 1
            if character == stop:
                return found
            if character == self.escape:
                found += self.escape + self._next()
            elif character == "$":
                found += self._dollar()
            elif character == "'":
                found += self._until_quote()
            elif character == '"':
                found += self.double_quoted()
            else:
                found += character
        raise ExpansionError(f"unexpected end of {self.text!r}: no matching {stop}")


def _choose(modifier: str, name: str, value: str | None, word: str) -> str:
    """`-` `+` `?`: with a colon an empty value counts as unset."""
    present = bool(value) if modifier.startswith(":") else value is not None
    match modifier[-1]:
        case "-":
            return value or "" if present else word
        case "+":
            return word if present else ""
        case _:
            if not present:
                said = f"is not allowed to be {'unset' if value is None else 'empty'}"
                raise ExpansionError(f"{name}: {word or said}")
            return value or ""


def _trim(modifier: str, value: str, pattern: re.Pattern[str]) -> str:
    """`#` `##` cut the shortest, longest match off the front; `%` `%%` off the end."""
    lengths = range(len(value) + 1) if len(modifier) == 1 else range(len(value), -1, -1)
    for length in lengths:
        if modifier[0] == "#" and pattern.fullmatch(value[:length]):
            return value[length:]
        if modifier[0] == "%" and pattern.fullmatch(value[len(value) - length :]):
            return value[: len(value) - length]
    return value
