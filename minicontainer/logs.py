"""Logs: what a container writes, one record a line, in the format of docker's json-file.

Stands between the supervisor, which appends, and people, who read and follow. A record is whole or absent for a reader;
a file that is full becomes the older one of two, so that a container cannot fill the disk.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from minicontainer import json_documents
from minicontainer.values import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import TextIO

LIMIT = 16 << 20  # bytes of one file, and there are two
LINE_LIMIT = 16 << 10  # a longer line becomes several records, as with docker


class Record(NamedTuple):
    """One line, or a part of one when it does not end in a newline."""

    time: float
    stream: str
    text: str

    @classmethod
    def from_line(cls, line: str) -> "Record":
        json_object = json_documents.loads(line.encode())
        return cls(time=parse_time(json_object["time"]), stream=json_object["stream"], text=json_object["log"])


class Log:
    """The writing end: bytes of a stream in, records out.

    What cannot be written, since the disk is full, is lost, as with docker: the container goes on.
    """

    def __init__(self, path: str, limit: int = LIMIT) -> None:
        self.path = path
        self.limit = limit
        self.pending: dict[str, bytes] = {}
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.file).st_size

    def append(self, stream: str, data: bytes) -> None:
        """Record the lines that `data` completes; the rest waits for its newline."""
        data = self.pending.pop(stream, b"") + data
        lines = _split(data)
        if lines and not lines[-1].endswith(b"\n") and len(lines[-1]) < LINE_LIMIT:
            self.pending[stream] = lines.pop()
        self._write(stream, lines)

    def close(self) -> None:
        """Record what waits for a newline that will not come, and close."""
        for stream, data in sorted(self.pending.items()):
            self._write(stream, [data])
        self.pending.clear()
        os.close(self.file)

    def _write(self, stream: str, lines: list[bytes]) -> None:
        if not lines:
            return
        stamp = format_time(time.time())
        parts = [line[at : at + LINE_LIMIT] for line in lines for at in range(0, len(line), LINE_LIMIT)]
        records = ({"log": part.decode(errors="replace"), "stream": stream, "time": stamp} for part in parts)
        text = b"".join(json_documents.dumps(record) + b"\n" for record in records)
        with suppress(OSError):
            if self.size and self.size + len(text) > self.limit:
                self._rotate()
            if os.write(self.file, text) == len(text):
                self.size += len(text)
            else:
                os.ftruncate(self.file, self.size)  # no half of a record stays

    def _rotate(self) -> None:
        os.rename(self.path, f"{self.path}.1")
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError:
            os.rename(f"{self.path}.1", self.path)
            raise
        os.close(self.file)
        self.file, self.size = file, 0


def read(path: str, *, tail: int | None = None, since: float = 0.0) -> Iterator[Record]:
    """The records so far, oldest first; with `tail` only the last ones, with `since` only those from a time on."""
    records = (record for name in (f"{path}.1", path) for record in _records(name) if record.time >= since)
    return records if tail is None else iter(deque(records, maxlen=tail))


def follow(
    path: str, over: Callable[[float], bool], *, tail: int | None = None, since: float = 0.0
) -> Iterator[Record]:
    """The records so far, then each new one, until `over(seconds)`, which waits that long, says that no more come."""
    while not os.path.exists(path):
        if over(0.05):
            return
    file = open(path, encoding="utf-8")
    try:
        yield from read(path, tail=tail, since=since)
        file.seek(0, os.SEEK_END)
        ended = False
        while True:
            moved = _moved(path, file.fileno())  # before reading: what was written before the move is still in `file`
            yield from _complete(file)
            if moved:
                file.close()
                file = open(path, encoding="utf-8")
            elif ended:
                return
            else:
                ended = over(0.05)
    finally:
        file.close()


def format_time(seconds: float) -> str:
    """RFC 3339 with nanoseconds, in UTC."""
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1e9):09d}Z"


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time in UTC."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    import calendar  # needed by readers alone, and a container's start does not read

    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")


def _records(path: str) -> Iterator[Record]:
    with suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        yield from _complete(file)


def _complete(file: "TextIO") -> Iterator[Record]:
    """Whole lines only: the last may be half written, or for ever cut short when its supervisor was killed."""
    while True:
        start = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(start)
            return
        yield Record.from_line(line)


def _moved(path: str, descriptor: int) -> bool:
    try:
        return os.stat(path).st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _split(data: bytes) -> list[bytes]:
    """Lines that end in a newline alone; bytes.splitlines() would also end them at a carriage return."""
    lines = data.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
