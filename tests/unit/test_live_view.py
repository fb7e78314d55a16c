"""live_view: the picture of a build, and a real terminal that shows it."""

import os
import pty
import re

import pytest

from minicontainer.build.live_view import TAIL, LiveView, Shown, changed, picture


def step(label: str = "[1/2] RUN make", **more: object) -> Shown:
    return Shown(label=label, began=10.0)._replace(**more)  # type: ignore[arg-type]  # by name


def test_a_step_is_begun_prints_and_ends() -> None:
    begun = changed(None, "begin", "RUN make", 1.0)
    printed = begun
    for number in range(TAIL + 3):
        printed = changed(printed, "line", f"{number}", 2.0)
    assert printed.tail == tuple(str(number) for number in range(3, TAIL + 3))
    assert changed(printed, "end", "DONE", 3.0) == Shown("RUN make", 1.0, 3.0, "DONE")


def test_the_picture_has_times_at_the_right_edge() -> None:
    steps = [
        step("FROM base", ended=10.0, how="DONE"),
        step("COPY", ended=10.2, how="CACHED"),
        step(tail=("out", "put")),
    ]
    assert picture(steps, 3.14, 12.5, 40, 24) == [
        "[+] Building 3.1s (2/3)",
        " => FROM base                      0.0s",
        " => CACHED COPY                    0.2s",
        " => [1/2] RUN make                 2.5s",
        " => => # out",
        " => => # put",
    ]


def test_the_last_picture_is_whole_and_says_so() -> None:
    steps = [step(f"RUN {number}", ended=11.0, how="DONE") for number in range(50)]
    assert len(picture(steps, 1, 12, 80, 10)) == 9
    assert picture(steps, 1, 12, 80, 10)[-1].startswith(" => RUN 49")
    whole = picture(steps, 1, 12, 80, 0)
    assert (len(whole), whole[0]) == (51, "[+] Building 1.0s (50/50) FINISHED")
    assert " => ERROR RUN" in "".join(picture([step("RUN", how="ERROR", ended=11)], 1, 12, 80, 0))


@pytest.mark.parametrize("columns", [20, 40, 200])
def test_no_line_is_longer_than_the_terminal(columns: int) -> None:
    steps = [step("x" * 300, tail=("y" * 300,)), step("z" * 300, how="CACHED", ended=999999.0)]
    assert all(len(line) < columns or line.startswith("[+]") for line in picture(steps, 1, 2, columns, 24))


def test_what_moves_the_cursor_is_left_out() -> None:
    shown = picture([step("RUN \x1b[2Jx\ty", tail=("10%\r50%\r100%", "\x1b[31mred\x07"))], 1, 12, 60, 24)
    assert shown[1].startswith(" => RUN [2Jx") and "\x1b" not in "".join(shown)
    assert shown[2:] == [" => => # 100%", " => => # [31mred"]


def test_a_terminal_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal:
        view = LiveView(terminal)
        with view.step("FROM base") as one:
            one.cached = True
        with pytest.raises(KeyError), view.step("RUN make") as two:
            two.output(b"it broke\n")
            raise KeyError
        view.say("a word at the end")
        view.close()
        view.close()  # twice is no error
        said = b""
        while b"end" not in said:
            said += os.read(ours, 1 << 16)
    os.close(ours)
    text = said.decode().replace("\r\n", "\n")
    last = text[text.rindex("[+]") :]
    assert last.startswith("[+] Building ") and "(2/2) FINISHED\n" in last
    assert "\x1b[34m => CACHED FROM base" in last and "\x1b[31m => ERROR RUN make" in last
    assert last.endswith("------\n > RUN make:\nit broke\n------\na word at the end\n")
    assert re.search(r"\x1b\[\dA", text) or text.count("[+]") == 1
