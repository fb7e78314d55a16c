"""Bars: how far transfers of blobs are, for people: a line for each that is done, or on a terminal a bar for each.

Stands beside `images`; `image_commands` gives it to `pull` and `push`, which call it with each step.
"""

import shutil
import time
from typing import NamedTuple, TextIO

from minicontainer.reports import size

WIDTH = 30  # characters of a bar
REDRAW_SECONDS = 0.1
VERBS = {"download": "pull", "upload": "push", "exists": "have", "unpack": "unpack", "mount": "mount"}


class _State(NamedTuple):
    event: str
    done: int
    total: int


class Progress:
    """Called with an event, a digest, and how many bytes of how many are done."""

    def __init__(self, stream: TextIO, quiet: bool = False) -> None:
        self._stream, self._quiet, self._live = stream, quiet, stream.isatty()
        self._told: set[tuple[str, str]] = set()
        self._states: dict[str, _State] = {}
        self._drawn, self._last = 0, 0.0

    def __call__(self, event: str, digest: str, done: int, total: int) -> None:
        if self._quiet or (event, digest) in self._told:
            return
        if event == "mirror":
            self._say(f"mirror {digest}")
            return
        whole = done >= total
        if whole:
            self._told.add((event, digest))
        if self._live:
            self._states[digest] = _State(event, done, total)
            if whole or time.monotonic() - self._last > REDRAW_SECONDS:
                self._draw()
        elif whole:
            self._say(_head(event, digest) + size(total))

    def _say(self, text: str) -> None:
        """A line that stays; bars go on below it."""
        self._stream.write(self._upwards() + text + ("\x1b[K" if self._live else "") + "\n")
        self._drawn = 0
        if self._live and self._states:
            self._draw()
        self._stream.flush()

    def _upwards(self) -> str:
        return f"\r\x1b[{self._drawn}A" if self._drawn else ""

    def _draw(self) -> None:
        """All lines anew, over those of before; of more than the screen has, those that are not done."""
        self._last = time.monotonic()
        columns, rows = shutil.get_terminal_size()
        lines = [_line(digest, state, columns) for digest, state in self._states.items()]
        if len(lines) >= rows:
            active = [digest for digest, state in self._states.items() if state.done < state.total]
            lines = [_line(digest, self._states[digest], columns) for digest in active[: max(1, rows - 2)]]
            lines.append(f"{len(self._states) - len(active)} of {len(self._states)} done")
        self._stream.write(self._upwards() + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
        self._stream.flush()
        self._drawn = len(lines)


def _head(event: str, digest: str) -> str:
    return f"{VERBS.get(event, event):6} {digest.partition(':')[2][:12]} "


def _line(digest: str, state: _State, columns: int) -> str:
    head = _head(state.event, digest)
    if state.done >= state.total:
        return (head + size(state.total))[: columns - 1]
    filled = WIDTH * state.done // max(state.total, 1)
    bar = f"[{'#' * filled}{'.' * (WIDTH - filled)}] {size(state.done)}/{size(state.total)}"
    return (head + bar)[: columns - 1]
