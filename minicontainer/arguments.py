"""Arguments: a command line by a table of commands and flags, with help and "did you mean" from the same table.

On the ground; `cli` has the table. Ruled by what docker's command line does (POSIX utility conventions with GNU long
options). argparse costs 10 ms at every start, this does not.
"""

from collections.abc import Iterable, Mapping, Sequence

from minicontainer.errors import Error
from minicontainer.values import Any, NamedTuple

WIDTH, HEAD_WIDTH = 79, 32  # columns of help, and of the flags and commands in it
SWITCH, TEXT, LIST = "switch", "text", "list"
TRUTH = {"true": True, "1": True, "false": False, "0": False}


class UsageError(Error):
    """The command line cannot be read; one line, and where the help is."""


class Flag(NamedTuple):
    """A flag: `--name` or `-n`; a switch, a text, or a list of texts."""

    names: tuple[str, ...]
    help: str
    kind: str = SWITCH
    value: str = ""

    @property
    def key(self) -> str:
        return next(name for name in self.names if name.startswith("--"))[2:].replace("-", "_")


class Command(NamedTuple):
    """A command: its flags, and how many words it takes; with `rest` the flags end at the first word.

    `elsewhere` are flags that docker has and we do not, each with what to do instead.
    """

    name: str
    help: str
    words: str = ""
    least: int = 0
    most: int | None = 0
    flags: tuple[Flag, ...] = ()
    rest: bool = False
    elsewhere: Mapping[str, str] = {}


class Parsed(NamedTuple):
    """What was given: flags by name, each with its default when it was not, and words."""

    values: Mapping[str, Any]
    words: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None


def parse(program: str, command: Command, arguments: Sequence[str]) -> Parsed:
    """The arguments of one command.

    Raises:
        UsageError: an unknown flag, a missing or wrong value, too few or too many words.
    """
    reader = _Reader(f"{program} {command.name}", command, list(arguments))
    reader.read()
    count = len(reader.words)
    if count < command.least:
        raise UsageError(f"{command.name}: {command.words} is missing; try: {reader.program} --help")
    if command.most is not None and count > command.most:
        extra = reader.words[command.most]
        raise UsageError(f"{command.name}: {extra!r} is one argument too many; try: {reader.program} --help")
    return Parsed(values=reader.values, words=tuple(reader.words))


class _Reader:
    """One reading, from left to right."""

    def __init__(self, program: str, command: Command, arguments: list[str]) -> None:
        self.program, self.command, self.arguments = program, command, arguments
        self.flags = {name: flag for flag in command.flags for name in flag.names}
        defaults = {SWITCH: False, TEXT: None, LIST: ()}
        self.values: dict[str, Any] = {flag.key: defaults[flag.kind] for flag in command.flags}
        self.words: list[str] = []

    def read(self) -> None:
        while self.arguments:
            argument = self.arguments.pop(0)
            if argument == "--":
                self.words += self.arguments
                return
            if argument.startswith("--"):
                name, equals, value = argument.partition("=")
                self._take(self._flag(name), name, value if equals else None)
            elif argument.startswith("-") and argument != "-":
                self._short(argument[1:])
            else:
                self.words.append(argument)
                if self.command.rest:
                    self.words += self.arguments
                    return

    def _short(self, letters: str) -> None:
        """-it, -p80:80, -p=80:80"""
        while letters:
            name, letters = f"-{letters[0]}", letters[1:]
            flag = self._flag(name)
            if flag.kind == SWITCH and not letters.startswith("="):
                self._take(flag, name, None)
            else:
                self._take(flag, name, letters.removeprefix("=") if letters else None)
                return

    def _flag(self, name: str) -> Flag:
        if name in self.flags:
            return self.flags[name]
        if instead := self.command.elsewhere.get(name):
            raise UsageError(f"{self.command.name}: {name} is not built: {instead}")
        raise UsageError(
            f"{self.command.name}: unknown flag {name}{meant(name, self.flags)}; try: {self.program} --help"
        )

    def _take(self, flag: Flag, name: str, value: str | None) -> None:
        if flag.kind == SWITCH:
            if value is not None and value.lower() not in TRUTH:
                raise UsageError(f"{self.command.name}: {name}={value}: true or false is expected")
            self.values[flag.key] = True if value is None else TRUTH[value.lower()]
            return
        if value is None:
            if not self.arguments:
                raise UsageError(f"{self.command.name}: {name} needs a value: {flag.value}; try: {self.program} --help")
            value = self.arguments.pop(0)
        self.values[flag.key] = (*self.values[flag.key], value) if flag.kind == LIST else value


def choose(program: str, commands: Mapping[str, Command], name: str) -> Command:
    """The command of that name.

    Raises:
        UsageError: there is none; the text says which one is near.
    """
    if name in commands:
        return commands[name]
    raise UsageError(f"unknown command {name}{meant(name, commands)}; try: {program} --help")


def meant(word: str, known: Iterable[str]) -> str:
    """A question with the nearest known word, if one is near."""
    import difflib  # only a mistake needs it

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def help_of(program: str, command: Command) -> str:
    """What `--help` says of one command."""
    usage = f"usage: {program} {command.name} [FLAGS] {command.words}".rstrip()
    flags = _columns([(_head(flag), flag.help) for flag in command.flags])
    return "\n".join([usage, "", command.help, *([""] if flags else []), *flags]) + "\n"


def overview(program: str, about: str, commands: Iterable[Command], flags: Sequence[Flag]) -> str:
    """What `--help` says of the whole."""
    lines = [f"usage: {program} [FLAGS] COMMAND ...", "", about, ""]
    lines += [*_columns([(command.name, command.help) for command in commands]), ""]
    lines += _columns([(_head(flag), flag.help) for flag in flags])
    return "\n".join([*lines, "", f"More of a command: {program} COMMAND --help"]) + "\n"


def _head(flag: Flag) -> str:
    return f"{', '.join(flag.names)} {flag.value}".rstrip()


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Two columns in the width of a terminal as it always was; a head that is too long has a line of its own."""
    import textwrap  # only help needs it

    width = min(max((len(head) for head, _ in rows), default=0), HEAD_WIDTH)
    lines = []
    for head, text in rows:
        first, *rest = textwrap.wrap(text, WIDTH - width - 4, break_on_hyphens=False)
        own = [f"  {head}"] if len(head) > width else []
        lines += [*own, f"  {'' if own else head:{width}}  {first}", *(f"  {'':{width}}  {line}" for line in rest)]
    return lines
