"""Live view: the picture of a build on a terminal: its steps, their times as they pass, and the end of their output.

Above `progress`, whose plain lines it takes the place of. A build forks and may have no second thread: so a child
paints. It gets what happens as lines of JSON through a pipe, paints ten times a second, and ends with the pipe.
"""

import json
import os
import select
import signal
import time
from typing import TextIO

from minicontainer.build.progress import Progress, Step
from minicontainer.values import NamedTuple

TICK = 0.1  # seconds between two pictures
TAIL = 6  # lines of the output of a step that runs
LONGEST = 1000  # characters of a line that are handed to the painter
BLUE, RED, DIM, PLAIN = "\x1b[34m", "\x1b[31m", "\x1b[2m", "\x1b[0m"


class Shown(NamedTuple):
    """A step as the picture has it; `how` is empty while it runs, then CACHED, ERROR or DONE."""

    label: str
    began: float
    ended: float = 0.0
    how: str = ""
    tail: tuple[str, ...] = ()


class LiveView(Progress):
    """Tells the painter; what is said besides steps stands below the picture at its end."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.said: list[str] = []
        reader, self.pipe = os.pipe()
        stream.flush()
        self.painter = os.fork()
        if self.painter == 0:
            os.close(self.pipe)
            try:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # the build says how it ended
                _paint(reader, stream.fileno(), colours="NO_COLOR" not in os.environ)
            finally:
                os._exit(0)
        os.close(reader)

    def begin(self, step: Step) -> None:
        self._tell(step.number, "begin", step.label)

    def line(self, step: Step, text: str) -> None:
        self._tell(step.number, "line", text[:LONGEST])

    def end(self, step: Step, failed: bool) -> None:
        self.cached += step.cached
        how = "ERROR" if failed else "CACHED" if step.cached else "DONE"
        self._tell(step.number, "end", how)
        if failed and step.kept:
            self.said += ["------", f" > {step.label}:", *step.kept, "------"]

    def say(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        if self.pipe < 0:
            return
        os.close(self.pipe)
        self.pipe = -1
        os.waitpid(self.painter, 0)
        self._write("".join(f"{line}\n" for line in self.said))

    def _tell(self, number: int, what: str, text: str) -> None:
        os.write(self.pipe, json.dumps([number, what, text]).encode() + b"\n")


def _paint(pipe: int, terminal: int, colours: bool) -> None:
    """Paint until the build is over, and then once more, whole."""
    steps: dict[int, Shown] = {}
    began, height, rest, over = time.monotonic(), 0, b"", False
    while not over:
        if select.select([pipe], [], [], TICK)[0]:
            data = os.read(pipe, 1 << 16)
            over = not data
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                number, what, text = json.loads(line)
                steps[number] = changed(steps.get(number), what, text, time.monotonic())
        columns, rows = _size(terminal)
        seen = picture(list(steps.values()), time.monotonic() - began, time.monotonic(), columns, 0 if over else rows)
        painted = "".join(f"\x1b[K{_coloured(line) if colours else line}\n" for line in seen)
        os.write(terminal, (f"\x1b[{height}A" * bool(height) + painted + "\x1b[J").encode())
        height = len(seen)


def _size(terminal: int) -> tuple[int, int]:
    try:
        size = os.get_terminal_size(terminal)
        return size.columns or 80, size.lines or 24
    except OSError:  # not a terminal
        return 80, 24


def changed(step: Shown | None, what: str, text: str, now: float) -> Shown:
    """The step after something has happened to it."""
    if step is None or what == "begin":
        return Shown(label=text, began=now)
    if what == "line":
        return step._replace(tail=(*step.tail, text)[-TAIL:])
    return step._replace(how=text, ended=now, tail=())


def picture(steps: list[Shown], elapsed: float, now: float, columns: int, rows: int) -> list[str]:
    """The lines of the picture: a head, then the steps, as many of the last as there is room for (0: all)."""
    done = sum(bool(step.how) for step in steps)
    lines: list[str] = []
    for step in steps:
        lines += _lines(step, now, columns)
    room = rows - 2 if rows else len(lines)
    finished = " FINISHED" if steps and done == len(steps) and not rows else ""
    return [f"[+] Building {elapsed:.1f}s ({done}/{len(steps)}){finished}", *lines[-room:]]


def _lines(step: Shown, now: float, columns: int) -> list[str]:
    """A step with its time at the right edge, and the end of what its command printed."""
    seconds = f"{(step.ended or now) - step.began:.1f}s"
    mark = f"{step.how} " if step.how in ("CACHED", "ERROR") else ""
    room = columns - len(seconds) - 2
    head = f" => {mark}{_printable(step.label)}"[:room]
    return [f"{head:<{room}} {seconds}", *(f" => => # {_printable(line)}"[: columns - 1] for line in step.tail)]


def _printable(text: str) -> str:
    """Without what would move the cursor; of a line that was written over itself, the last."""
    return "".join(letter for letter in text.expandtabs().rpartition("\r")[2] if letter.isprintable())


def _coloured(line: str) -> str:
    if line.startswith(" => => "):
        return f"{DIM}{line}{PLAIN}"
    if line.startswith(" => ERROR "):
        return f"{RED}{line}{PLAIN}"
    return f"{BLUE}{line}{PLAIN}" if line.startswith(" => CACHED ") else line
