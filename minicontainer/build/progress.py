"""Progress: the steps of a build for people, as they happen.

Stands on the ground; `builder` tells it what begins, what a step prints and how it ended. Plain lines carry the step's
number, so that a log can be read and searched; for a terminal there is `live_view`.
"""

import base64
import hashlib
import json
import time
from collections import deque
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

KEPT = 200  # lines of a step's output kept for the report of its failure


class Step:
    """One step. Leaving it by an exception keeps its output for `Progress.failed`."""

    def __init__(self, progress: "Progress", number: int, label: str) -> None:
        self.progress, self.number, self.label = progress, number, label
        self.began, self.cached, self.partial = time.monotonic(), False, b""
        self.started = _now()
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

    def close(self) -> None:
        """The build is over."""

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


class Quiet(Progress):
    """Nothing but the output of what failed."""

    shows = False

    def _write(self, text: str) -> None:
        del text

    def end(self, step: Step, failed: bool) -> None:
        if failed and step.kept:
            self.stream.write("\n".join(step.kept) + "\n")
            self.stream.flush()


class RawJson(Progress):
    """BuildKit's words for programs: one object a line, of vertexes (steps) and their logs."""

    def begin(self, step: Step) -> None:
        self._send("vertexes", self._vertex(step))

    def line(self, step: Step, text: str) -> None:
        data = base64.b64encode(f"{text}\n".encode()).decode()
        self._send("logs", {"vertex": _digest(step), "stream": 1, "data": data, "timestamp": _now()})

    def end(self, step: Step, failed: bool) -> None:
        self.cached += step.cached
        ended = {"completed": _now(), "cached": step.cached} | ({"error": "failed"} if failed else {})
        self._send("vertexes", {**self._vertex(step), **ended})

    def say(self, text: str) -> None:
        self._send("warnings", {"short": base64.b64encode(text.encode()).decode()})

    def _vertex(self, step: Step) -> dict[str, object]:
        return {"digest": _digest(step), "name": step.label, "started": step.started}

    def _send(self, kind: str, one: dict[str, object]) -> None:
        self._write(json.dumps({kind: [one]}) + "\n")


def _digest(step: Step) -> str:
    """What a vertex is called by in this output: it is made of the step's number and label."""
    return f"sha256:{hashlib.sha256(f'{step.number} {step.label}'.encode()).hexdigest()}"


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


PLAIN = {"plain": Progress, "quiet": Quiet, "rawjson": RawJson}  # by the names that --progress takes
