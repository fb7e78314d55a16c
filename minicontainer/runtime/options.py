"""Arguments of the OCI runtime's command line, by tables of flags.

On the ground of `cli` and of its reports. By hand, in the ways that runc's callers write them: argparse takes
longer to load than a container takes to start.
"""

import os
from collections.abc import Callable

from minicontainer.errors import Error
from minicontainer.linux import procfs
from minicontainer.values import NamedTuple

ROOT = "/run/minicontainer/runtime"
_SHORT = {  # what a letter may stand for: the first of these that the command has
    "a": ("all",),
    "b": ("bundle",),
    "c": ("cap",),
    "d": ("detach",),
    "e": ("env",),
    "f": ("force", "format"),
    "g": ("additional-gids",),
    "h": ("help",),
    "p": ("process",),
    "q": ("quiet",),
    "r": ("resources",),
    "t": ("tty",),
    "u": ("user",),
    "v": ("version",),
}  # fmt: skip


_UNITS = ("", "k", "m", "g", "t", "p")


class Flag(NamedTuple):
    """What a flag is for; `value` names what follows it, an empty one is a switch."""

    help: str
    value: str = ""
    repeated: bool = False


class Options(NamedTuple):
    """Arguments after parsing: flags by their long name, and what is not a flag."""

    values: dict[str, list[str]]
    rest: list[str]

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, [default])[-1]

    def number(self, name: str) -> int:
        text = self.text(name, "0")
        if not text.removeprefix("-").isdecimal():
            raise Error(f"--{name} {text!r} is not a number")
        return int(text)

    def bytes(self, name: str) -> int:
        """A number of bytes, which may end in a unit: 512k, 64m, 2GiB; -1 is no limit."""
        text = self.text(name)
        unit = text.lstrip("-0123456789").lower().removesuffix("b").removesuffix("i")
        digits = text[: len(text) - len(text.lstrip("-0123456789"))]
        if unit not in _UNITS or not digits.removeprefix("-").isdecimal():
            raise Error(f"invalid value for {name}: invalid size: {text!r}; try: --{name} 64m")
        return int(digits) * (1 << 10 * _UNITS.index(unit))

    def none(self) -> None:
        if self.rest:
            raise Error(f"no argument is needed, and {len(self.rest)} are given; try: --help")

    def one(self) -> str:
        """The only argument that is no flag: a container's id."""
        if len(self.rest) != 1:
            raise Error(f"one container id is needed, and {len(self.rest)} arguments are given; try: --help")
        return self.rest[0]

    def has(self, name: str) -> bool:
        return name in self.values and self.text(name) != "false"


class Command(NamedTuple):
    function: Callable[[Options, Options], int]
    usage: str
    help: str
    flags: dict[str, Flag]


def parse(arguments: list[str], flags: dict[str, Flag], stop_at_rest: bool = False) -> Options:
    """Flags as `--name value`, `--name=value`, `-name value` and `-n value`; what comes after `--` is no flag."""
    values: dict[str, list[str]] = {}
    rest: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        if argument == "--":
            rest += pending
            break
        if not argument.startswith("-") or argument == "-":
            rest.append(argument)
            if stop_at_rest:
                rest += pending
                break
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        name = next((long for long in (name, *_SHORT.get(name, ())) if long in flags), name)
        if name not in flags:
            raise Error(f"flag provided but not defined: -{name}; try: --help")
        if flags[name].value and not equals:
            if not pending:
                raise Error(f"flag needs an argument: -{name}; try: --{name} {flags[name].value}")
            value = pending.pop(0)
        values.setdefault(name, []).append(value)
    return Options(values, rest)


def root_of(options: Options) -> str:
    """Where states are: --root, else a person's own place, else the computer's. By runc's rule for who is a person."""
    if given := options.text("root"):
        return os.path.abspath(given)
    own = os.environ.get("XDG_RUNTIME_DIR")
    person = os.geteuid() != 0 or (procfs.in_user_namespace() and os.environ.get("USER") != "root")
    return f"{own}/minicontainer/runtime" if own and person else ROOT
