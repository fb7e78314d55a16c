"""Dockerfile: text to instructions with their line numbers (pure: no file is read, no variable replaced).

Between `expansion` (words) and `builder` (what an instruction does). Ruled by the Dockerfile reference; where that is
silent, by what BuildKit's frontend does. What is not built yet is refused by name, with its line: never ignored.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from minicontainer.build.expansion import ExpansionError, expand, split
from minicontainer.errors import Error


class BuildError(Error):
    """A build that cannot go on: file, line, instruction, reason. `excerpt`: the lines, the failing ones marked."""

    exit_code = 1

    def __init__(self, said: str, excerpt: str = "") -> None:
        super().__init__(said)
        self.excerpt = excerpt


class Heredoc(NamedTuple):
    """A here-document. `expand` is false when its word was quoted; `strip_tabs` is `<<-`."""

    name: str
    content: str
    expand: bool = True
    strip_tabs: bool = False


class Instruction(NamedTuple):
    """One instruction, from `line` to `last`. `arguments` are words, or one text in shell form; `text` is one line."""

    keyword: str
    arguments: tuple[str, ...]
    line: int
    text: str
    flags: tuple[tuple[str, str], ...] = ()
    exec_form: bool = False
    heredocs: tuple[Heredoc, ...] = ()
    nested: "Instruction | None" = None
    last: int = 0

    def flag(self, name: str, default: str = "") -> str:
        return dict(self.flags).get(name, default)

    def flag_values(self, name: str) -> tuple[str, ...]:
        """Of a flag that may be given again and again."""
        return tuple(value for known, value in self.flags if known == name)

    def has(self, name: str) -> bool:
        """Of a flag that is there or not."""
        return self.flag(name) == "true"


class Dockerfile(NamedTuple):
    """A parsed file: its directives (syntax, escape, check) and its instructions."""

    instructions: tuple[Instruction, ...]
    directives: tuple[tuple[str, str], ...] = ()
    name: str = "Dockerfile"
    lines: tuple[str, ...] = ()

    @property
    def escape(self) -> str:
        return dict(self.directives).get("escape", "\\")

    def excerpt(self, instruction: Instruction) -> str:
        return excerpt(self.lines, instruction.line, instruction.last or instruction.line)


class Form(NamedTuple):
    """How an instruction reads its arguments, how many it takes, and which flags it knows.

    A flag with `?` is there or not, one with `*` may be given again and again.
    """

    read: str
    least: int = 1
    most: int | None = None
    flags: tuple[str, ...] = ()
    later: tuple[str, ...] = ()  # flags that BuildKit knows and we do not yet


INSTRUCTIONS = {
    "ADD":         Form("paths", least=2, flags=("chown", "chmod", "link?", "exclude*", "checksum", "keep-git-dir?",
                                                 "unpack?")),
    "ARG":         Form("words"),
    "CMD":         Form("command", least=0),
    "COPY":        Form("paths", least=2, flags=("from", "chown", "chmod", "link?", "parents?", "exclude*")),
    "ENTRYPOINT":  Form("command", least=0),
    "ENV":         Form("pairs"),
    "EXPOSE":      Form("words"),
    "FROM":        Form("words", most=3, flags=("platform",)),
    "HEALTHCHECK": Form("healthcheck", flags=("interval", "timeout", "start-period", "start-interval", "retries")),
    "LABEL":       Form("pairs"),
    "MAINTAINER":  Form("text"),
    "ONBUILD":     Form("nested"),
    "RUN":         Form("command", least=0, flags=("mount*", "network", "security"), later=("device",)),
    "SHELL":       Form("json"),
    "STOPSIGNAL":  Form("text", most=1),
    "USER":        Form("text", most=1),
    "VOLUME":      Form("paths"),
    "WORKDIR":     Form("text", most=1),
}  # fmt: skip

HEREDOC_INSTRUCTIONS = ("ADD", "COPY", "RUN")
SHOWN = 2  # lines of an excerpt before and after
NOT_IN_ONBUILD = ("ONBUILD", "FROM", "MAINTAINER")
DIRECTIVE = re.compile(r"^#\s*(syntax|escape|check)\s*=\s*(.*?)\s*$", re.IGNORECASE)
HEREDOC = re.compile(r"^(\d*)<<(-?)([^<]+)$")


def parse(text: str, name: str = "Dockerfile") -> Dockerfile:
    """The instructions of `text`; `name` is what errors call the file.

    Raises:
        BuildError: an unknown instruction, a wrong number of arguments, an open here-document, ...
    """
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    try:
        directives = _directives(lines)
        escape = dict(directives).get("escape", "\\")
        found = tuple(
            _instruction(first, logical, documents, escape)._replace(last=last)
            for first, last, logical, documents in _logical_lines(lines, escape)
        )
        _check_order(found)
    except _Refused as refused:
        shown = excerpt(lines, refused.line, refused.line)
        raise BuildError(f"{name}:{refused.line}: {refused.said}", shown) from None
    return Dockerfile(instructions=found, directives=directives, name=name, lines=tuple(lines))


def excerpt(lines: Sequence[str], first: int, last: int) -> str:
    """The lines from `first` to `last`, marked, with those around them, as BuildKit shows them."""
    around = range(max(1, first - SHOWN), min(len(lines), last + SHOWN) + 1)
    marked = (f"{number:4} | {'>>>' if first <= number <= last else '   '} {lines[number - 1]}" for number in around)
    return "\n".join(line.rstrip() for line in marked)


class _Refused(Exception):
    def __init__(self, line: int, said: str) -> None:
        super().__init__(said)
        self.line, self.said = line, said


def _directives(lines: list[str]) -> tuple[tuple[str, str], ...]:
    """Only before anything else: the first line that is no directive ends them."""
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        directive = DIRECTIVE.match(line.strip())
        if directive is None:
            break
        key, value = directive[1].lower(), directive[2]
        if key in found:
            raise _Refused(number, f"directive {key}: given twice")
        if key == "escape" and value not in ("\\", "`"):
            raise _Refused(number, f"directive escape: {value!r} is neither \\ nor `")
        found[key] = value
    return tuple(found.items())


def _logical_lines(lines: list[str], escape: str) -> Iterator[tuple[int, int, str, tuple[Heredoc, ...]]]:
    """(numbers of the first line and the last, the line with its continuations joined, its here-documents)."""
    continued = re.compile(rf"(^|[^{re.escape(escape)}]){re.escape(escape)}[ \t]*$")
    at = 0
    while at < len(lines):
        first = at + 1
        line, at = lines[at].lstrip(), at + 1
        if not line.strip() or line.startswith("#"):
            continue
        while (mark := continued.search(line)) and at < len(lines):
            line = line[: mark.end(1)]
            while at < len(lines) and _is_blank(lines[at]):  # a comment or an empty line does not end it
                at += 1
            if at < len(lines):
                line, at = line + lines[at], at + 1
        if mark:
            line = line[: mark.end(1)]
        if not line.strip():  # an escape with nothing after it
            continue
        documents, at = _heredocs(lines, at, line, first, escape)
        yield first, at, line.strip(), documents


def _is_blank(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _heredocs(lines: list[str], at: int, line: str, first: int, escape: str) -> tuple[tuple[Heredoc, ...], int]:
    """The here-documents whose words stand in `line`, read from `lines[at:]`; and where the next line begins."""
    words = line.split(None, 2)
    keyword = words[1] if words[0].upper() == "ONBUILD" and len(words) > 1 else words[0]
    found: list[Heredoc] = []
    if keyword.upper() not in HEREDOC_INSTRUCTIONS:
        return (), at
    for word in split(line, escape):
        if (document := heredoc(word, escape)) is None:
            continue
        content: list[str] = []
        while at < len(lines) and _stripped(lines[at], document) != document.name:
            content.append(_stripped(lines[at], document) + "\n")
            at += 1
        if at == len(lines):
            raise _Refused(first, f"{keyword.upper()}: here-document <<{document.name} has no end: no such line")
        at += 1
        found.append(document._replace(content="".join(content)))
    return tuple(found), at


def heredoc(word: str, escape: str = "\\") -> Heredoc | None:
    """The here-document that the word announces (without its content), or None."""
    match = HEREDOC.match(word)
    if match is None:
        return None
    try:
        name = expand(match[3].replace("$", escape + "$"), {}, escape)
    except ExpansionError:
        return None
    return Heredoc(name=name, content="", expand=name == match[3], strip_tabs=bool(match[2])) if name else None


def _stripped(line: str, document: Heredoc) -> str:
    return line.lstrip("\t") if document.strip_tabs else line


def _instruction(line: int, text: str, heredocs: tuple[Heredoc, ...], escape: str) -> Instruction:
    word = text.split(None, 1)[0]
    keyword, rest = word.upper(), text[len(word) :].strip()
    form = INSTRUCTIONS.get(keyword)
    if form is None:
        raise _Refused(line, f"unknown instruction {word}{_suggestion(keyword, INSTRUCTIONS)}")
    flags, rest = _flags(line, keyword, form, rest, escape)
    found = Instruction(keyword=keyword, arguments=(), line=line, text=text, flags=flags, heredocs=heredocs)
    if form.read == "nested":
        return found._replace(nested=_nested(line, rest, heredocs, escape), arguments=(rest,))
    arguments, exec_form = _arguments(line, keyword, form.read, rest, escape)
    if len(arguments) < form.least or (form.most is not None and len(arguments) > form.most):
        wanted = f"{form.least}" if form.most == form.least else f"at least {form.least}"
        raise _Refused(line, f"{keyword}: needs {wanted} argument{'s' * (form.least != 1)}, got {len(arguments)}")
    return found._replace(arguments=arguments, exec_form=exec_form)


def _suggestion(word: str, known: Iterable[str], mark: str = "") -> str:
    import difflib  # only for the message of a mistake

    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {mark}{close[0]}?" if close else ""


def _nested(line: int, text: str, heredocs: tuple[Heredoc, ...], escape: str) -> Instruction:
    if not text:
        raise _Refused(line, "ONBUILD: needs an instruction")
    nested = _instruction(line, text, heredocs, escape)
    if nested.keyword in NOT_IN_ONBUILD:
        raise _Refused(line, f"ONBUILD: {nested.keyword} is not allowed as a trigger")
    return nested


def _flags(line: int, keyword: str, form: Form, rest: str, escape: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """The `--name=value` words in front, and what follows them."""
    found: list[tuple[str, str]] = []
    kinds = {name.rstrip("?*"): name[-1] for name in form.flags}
    while form.flags and rest.startswith("--"):
        word = split(rest, escape)[0]
        rest = rest[len(word) :].lstrip()
        if word == "--":
            break
        name, equals, value = word[2:].partition("=")
        if name in form.later:
            raise _Refused(line, f"{keyword}: --{name} is not built yet")
        if name not in kinds:
            raise _Refused(line, f"{keyword}: unknown flag --{name}{_suggestion(name, kinds, '--')}")
        if kinds[name] != "*" and name in dict(found):
            raise _Refused(line, f"{keyword}: flag --{name} given twice")
        if kinds[name] == "?":
            value = value if equals else "true"
            if value not in ("true", "false"):
                raise _Refused(line, f"{keyword}: --{name}={value}: it is true or false")
        if not equals and kinds[name] != "?":
            raise _Refused(line, f"{keyword}: flag --{name} needs a value: --{name}=...")
        found.append((name, value))
    return tuple(found), rest


def _arguments(line: int, keyword: str, read: str, rest: str, escape: str) -> tuple[tuple[str, ...], bool]:
    """The arguments as the instruction reads them, and whether they were a JSON array."""
    if read in ("command", "paths", "json") and (array := _json_array(line, keyword, rest)) is not None:
        return array, True
    match read:
        case "json":
            raise _Refused(line, f'{keyword}: needs a JSON array: {keyword} ["executable", "parameter"]')
        case "command" | "text":
            return ((rest,) if rest else ()), False
        case "paths":
            return tuple(rest.split()), False
        case "words":
            return tuple(split(rest, escape)), False
        case "pairs":
            return _pairs(line, keyword, rest, escape), False
        case _:
            return _healthcheck(line, rest)


def _json_array(line: int, keyword: str, rest: str) -> tuple[str, ...] | None:
    """The JSON array of strings that `rest` is; None when it is no JSON: then it is shell form."""
    if not rest.startswith("["):
        return None
    try:
        array = json.loads(rest)
    except ValueError:
        return None
    if not isinstance(array, list) or not all(isinstance(word, str) for word in array):
        raise _Refused(line, f"{keyword}: the JSON array has something that is not a string")
    return tuple(array)


def _pairs(line: int, keyword: str, rest: str, escape: str) -> tuple[str, ...]:
    """`name=value` words; the old form `name value with spaces` becomes one word of that shape."""
    words = split(rest, escape)
    if words and "=" not in words[0]:
        if len(words) < 2:
            raise _Refused(line, f"{keyword}: {words[0]} has no value: write {words[0]}=...")
        return (f"{words[0]}={rest[len(words[0]) :].strip()}",)
    for word in words:
        if "=" not in word:
            raise _Refused(line, f"{keyword}: {word}: can't find = in it; write name=value")
        if word.startswith("="):
            raise _Refused(line, f"{keyword}: {word}: the name is empty")
    return tuple(words)


def _healthcheck(line: int, rest: str) -> tuple[tuple[str, ...], bool]:
    """NONE, or CMD and a command: ("CMD", words...) in exec form, ("CMD-SHELL", text) in shell form."""
    kind, command = (*rest.split(None, 1), "", "")[:2]
    match kind.upper():
        case "NONE" if not command.strip():
            return ("NONE",), False
        case "CMD" if command.strip():
            array = _json_array(line, "HEALTHCHECK", command.strip())
            return (("CMD-SHELL", command.strip()), False) if array is None else (("CMD", *array), True)
    raise _Refused(line, "HEALTHCHECK: needs NONE, or CMD and a command")


def _check_order(instructions: tuple[Instruction, ...]) -> None:
    if not instructions:
        raise _Refused(1, "no instructions: the file is empty")
    for instruction in instructions:
        if instruction.keyword == "FROM":
            return
        if instruction.keyword != "ARG":
            raise _Refused(instruction.line, f"{instruction.keyword}: no FROM stands before it")
    raise _Refused(instructions[-1].line, "ARG: no FROM follows: there is no stage to build")
