"""Progress: the steps of a build for people, as they happen.

Stands on the ground; `build` tells it what begins, what a step prints and how it ended. Plain lines carry the step's
number, so that a log can be read and searched; a terminal gets one line a step.
"""

import os
import time
from collections import deque
from types import TracebackType
from typing import TextIO

KEPT = 200  # lines of a step's output kept for the report of its failure


class Step:
    """One step. Leaving it by an exception keeps its output for `Progress.failed`."""

    def __init__(self, progress: "Progress", number: int, label: str) -> None:
        self.progress, self.number, self.label = progress, number, label
        self.began, self.cached, self.partial = time.monotonic(), False, b""
        self.kept: deque[str] = deque(maxlen=KEPT)
        self.shown = 0  # lines so far

    def output(self, data: bytes) -> None:
        """What the step's command printed; whole lines are shown."""
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            self._line(line)

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def _line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        self.kept.append(text)
        self.progress.line(self, text)
        self.shown += 1

    def __enter__(self) -> "Step":
        self.progress.begin(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self.partial:
            self._line(self.partial)
        self.progress.end(self, failed=kind is not None)


class Progress:
    """Plain lines on `stream`: `#3 [2/4] RUN make`, `#3 0.214 its output`, `#3 DONE 1.3s`."""

    shows = True  # whether anybody sees what is said

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.count, self.cached = stream, 0, 0

    def step(self, label: str) -> Step:
        self.count += 1
        return Step(self, self.count, label)

    def say(self, text: str) -> None:
        """Something the user should know that is no step."""
        self._write(f"{text}\n")

    def begin(self, step: Step) -> None:
        self._write(f"#{step.number} {step.label}\n")

    def line(self, step: Step, text: str) -> None:
        self._write(f"#{step.number} {step.seconds():.3f} {text}\n")

    def end(self, step: Step, failed: bool) -> None:
        self.cached += step.cached
        how = "ERROR" if failed else "CACHED" if step.cached else f"DONE {step.seconds():.1f}s"
        self._write(f"#{step.number} {how}\n\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


class Terminal(Progress):
    """One line a step, with its time at the right edge; what a command prints stands below its step."""

    def __init__(self, stream: TextIO, width: int = 0) -> None:
        super().__init__(stream)
        self.width = width or _width(stream)

    def begin(self, step: Step) -> None:
        self._write(f" => {step.label}"[: self.width - 1])

    def line(self, step: Step, text: str) -> None:
        self._write(("\n" if step.shown == 0 else "") + f"    {text}\n")

    def end(self, step: Step, failed: bool) -> None:
        self.cached += step.cached
        how = "ERROR" if failed else "CACHED" if step.cached else f"{step.seconds():.1f}s"
        label = "" if step.shown else f" => {step.label}"
        room = self.width - len(how) - 2
        self._write(f"\r\x1b[K{label[:room]:<{room}} {how}\n")


class Quiet(Progress):
    """Nothing but the output of what failed."""

    shows = False

    def _write(self, text: str) -> None:
        del text

    def end(self, step: Step, failed: bool) -> None:
        if failed and step.kept:
            self.stream.write("\n".join(step.kept) + "\n")
            self.stream.flush()


MODES = ("auto", "plain", "tty", "quiet")


def progress(mode: str, stream: TextIO) -> Progress:
    """By the name that `--progress` takes: auto, plain, tty or quiet."""
    if mode == "auto":
        mode = "tty" if stream.isatty() else "plain"
    return {"plain": Progress, "tty": Terminal, "quiet": Quiet}[mode](stream)


def _width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:  # not a terminal
        return 80
