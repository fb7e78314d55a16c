"""Terminal: what the demo shows people: numbered steps with their time, commands, tables.

Stands on the ground. Colour only on a terminal, and not where NO_COLOR is set (no-color.org).
"""

import json
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

BOLD, DIM, GREEN, RED, PLAIN = "\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m"


class Step:
    """One step while it runs; `done` says in one line what happened."""

    def __init__(self) -> None:
        self.result = ""

    def done(self, result: str) -> None:
        self.result = result


class Terminal:
    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colour = out.isatty() and "NO_COLOR" not in os.environ

    @contextmanager
    def step(self, number: int, title: str) -> Iterator[Step]:
        """Print the title, then what the step prints, then its result and time."""
        self.line(f"\n{self._paint(BOLD, f'{number}. {title}')}")
        step, started = Step(), time.monotonic()
        try:
            yield step
        except BaseException:
            self.line(f"   {self._paint(RED, '✗')} not done, after {time.monotonic() - started:.1f} s")
            raise
        self.line(f"   {self._paint(GREEN, '✓')} {step.result} · {time.monotonic() - started:.1f} s")

    def line(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def command(self, text: str) -> None:
        """A command that a person would type."""
        self.line(self._paint(DIM, f"   $ {text}"))

    def block(self, text: str) -> None:
        for line in text.splitlines():
            self.line(f"     {line}")

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.block(table(heads, rows))

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{PLAIN}" if self._colour else text


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest cell."""
    cells = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def words(operation: str) -> list[str]:
    """The words of an API name: CreateService gives create, service; clientToken gives client, token."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", operation)]


def command_line(operation: str, parameters: Mapping[str, Any]) -> str:
    """The `aws ecs` command that makes this call: how awscli spells operations and parameters."""
    parts = ["aws ecs", "-".join(words(operation))]
    for name, value in parameters.items():
        flag = "-".join(words(name))
        match value:
            case bool():
                parts.append(f"--{flag}" if value else f"--no-{flag}")
            case str() | int():
                parts.append(f"--{flag} {shlex.quote(str(value))}")
            case [*items] if all(isinstance(item, str) for item in items):
                parts.append(f"--{flag} {shlex.join(items)}")
            case _:
                parts.append(f"--{flag} {shlex.quote(json.dumps(value))}")
    return " ".join(parts)
