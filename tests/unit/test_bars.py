"""Bars: progress is lines for a log, and on a terminal a bar for each blob, drawn over those of before."""

import io

import pytest

from minicontainer.registry.bars import Progress

ONE, TWO = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(written: str, columns: int = 80) -> list[str]:
    """What a terminal shows: carriage returns, cursor up, erase to the end of the line and of the screen."""
    lines, row = [""], 0
    position = 0
    while position < len(written):
        rest = written[position:]
        if rest.startswith("\x1b["):
            end = next(index for index, letter in enumerate(rest) if letter.isalpha())
            count, verb = rest[2:end], rest[end]
            if verb == "A":
                row -= int(count)
            elif verb == "J":
                del lines[row + 1 :]
                lines[row] = ""
            position += end + 1
            continue
        if rest[0] == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif rest[0] != "\r":
            text = rest[: min(rest.find(mark) for mark in "\n\r\x1b" if mark in rest)]
            assert len(text) < columns
            lines[row] = text
            position += len(text)
            continue
        position += 1
    return [line for line in lines if line]


def test_a_log_gets_one_line_for_each_blob() -> None:
    out = io.StringIO()
    progress = Progress(out)
    for done in (0, 500, 1000, 1000):
        progress("download", ONE, done, 1000)
    progress("exists", ONE, 7, 7)
    progress("mirror", "m.example: away", 0, 0)
    assert out.getvalue() == "pull   abababababab 1kB\nhave   abababababab 7B\nmirror m.example: away\n"


def test_a_terminal_gets_a_bar_for_each_blob_that_becomes_its_line() -> None:
    out = Terminal()
    progress = Progress(out)
    progress("upload", ONE, 500, 1000)
    assert screen(out.getvalue()) == ["push   abababababab [###############...............] 500B/1kB"]
    progress("upload", ONE, 600, 1000)  # too soon after the last
    progress("exists", TWO, 5, 5)
    assert screen(out.getvalue())[1:] == ["have   cdcdcdcdcdcd 5B"]
    progress("upload", ONE, 1000, 1000)
    assert screen(out.getvalue()) == ["push   abababababab 1kB", "have   cdcdcdcdcdcd 5B"]
    progress("mirror", "m.example: away", 0, 0)
    shown = ["mirror m.example: away", "push   abababababab 1kB", "have   cdcdcdcdcdcd 5B"]
    assert screen(out.getvalue()) == shown


def test_more_blobs_than_lines_show_those_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "5")
    out = Terminal()
    progress = Progress(out)
    for number in range(9):
        progress("download", f"sha256:{number:064}", 10, 10)
    progress("download", ONE, 1, 10)
    progress("download", TWO, 10, 10)
    shown = screen(out.getvalue(), 40)
    assert shown == ["pull   abababababab [###...............", "10 of 11 done"]


def test_quiet_is_quiet() -> None:
    out = io.StringIO()
    Progress(out, quiet=True)("download", ONE, 1, 1)
    assert out.getvalue() == ""
