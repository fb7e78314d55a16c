"""Patterns: `.dockerignore` files and the wildcards of COPY (pure).

Stands on the ground; `context` asks it which paths a build may see. Ruled by the Dockerfile reference (".dockerignore
file", and Go's filepath.Match for wildcards); where that is silent, by what BuildKit does.
"""

import posixpath
import re
from collections.abc import Iterable
from typing import NamedTuple

TOKEN = re.compile(r"\*\*/?|\*|\?|\[\^?\]?[^\]]*\]|\\.|.", re.DOTALL)
WILDCARD = re.compile(r"[*?\[\\]")


class Pattern(NamedTuple):
    """One line of a `.dockerignore`: paths it matches are left out, or with `!` taken in again."""

    regex: re.Pattern[str]
    excludes: bool


class Ignore(NamedTuple):
    """The patterns of a `.dockerignore`: the last one that matches a path, or a directory above it, decides."""

    patterns: tuple[Pattern, ...] = ()

    def excludes(self, path: str) -> bool:
        for pattern in reversed(self.patterns):
            if pattern.regex.fullmatch(path):
                return pattern.excludes
        return False

    @property
    def has_exceptions(self) -> bool:
        """Whether something below a directory that is left out may be taken in again."""
        return any(not pattern.excludes for pattern in self.patterns)


def parse_ignore(text: str) -> Ignore:
    """The patterns of a `.dockerignore`: comments begin in the first column; `/` and `./` in front mean nothing."""
    found = []
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("#"):
            continue
        excludes = not line.strip().startswith("!")
        pattern = line.strip().removeprefix("!").strip()
        cleaned = posixpath.normpath(pattern).lstrip("/") if pattern else ""
        if cleaned and (cleaned != "." or not excludes):
            found.append(Pattern(regex=re.compile(regex(cleaned) + "(?:/.*)?", re.DOTALL), excludes=excludes))
    return Ignore(patterns=tuple(found))


def is_wildcard(word: str) -> bool:
    return WILDCARD.search(word) is not None


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names, sorted, that one component of a path with wildcards matches."""
    compiled = re.compile(regex(pattern.replace("**", "*")), re.DOTALL)
    return sorted(name for name in names if compiled.fullmatch(name))


def regex(pattern: str) -> str:
    """The regular expression of a pattern: `*` and `?` stop at a slash, `**` does not, `**/` may be nothing."""
    return "".join(_token(token) for token in TOKEN.findall(pattern))


def _token(token: str) -> str:
    table = {"**": ".*", "**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    if token in table:
        return table[token]
    if token.startswith("[") and len(token) > 2:
        inside = token[1:-1]
        negated = inside.startswith("^")
        return f"[{'^' if negated else ''}{_ranges(inside.removeprefix('^'))}]"
    return re.escape(token[-1]) if token.startswith("\\") else re.escape(token)


def _ranges(inside: str) -> str:
    """The inside of a class: ranges stay; what regular expressions would read otherwise is escaped."""
    found = ""
    for low, high in re.findall(r"(\\?.)(?:-(\\?[^\\]))?", inside, re.DOTALL):
        low, high = low[-1], high[-1:]
        found += re.escape(low) + (f"-{re.escape(high)}" if high and high >= low else "")
    return found or "^\\s\\S"
