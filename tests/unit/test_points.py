"""What a check script says with `Sheet`, and how it reads the learner's answers."""

import json
from pathlib import Path

import pytest

from vagrant import points
from vagrant.points import Sheet


@pytest.fixture(autouse=True)
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANSWERS", str(tmp_path / "1.txt"))
    return tmp_path / "1.txt"


def ended(sheet: Sheet, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, object]]]:
    with pytest.raises(SystemExit) as caught:
        sheet.end()
    assert isinstance(caught.value.code, int)
    return caught.value.code, json.loads(capsys.readouterr().out)["points"]


def test_a_point_is_right_if_what_is_seen_is_what_is_expected(capsys: pytest.CaptureFixture[str]) -> None:
    sheet = Sheet()
    assert sheet.point(2, "a limit", "32\n", 32, "memory.max")
    assert ended(sheet, capsys)[0] == points.RIGHT


def test_one_wrong_point_fails_the_check_and_nothing_seen_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    sheet = Sheet()
    sheet.point(2, "a limit", 32, 32, "memory.max")
    sheet.point(1, "a name", "", "by-hand", "hostname")
    status, found = ended(sheet, capsys)
    assert status == points.WRONG
    assert found[1] == {
        "what": "a name", "points": 1, "right": False, "observed": "nothing", "expected": "by-hand", "look": "hostname",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "right"),
    [("# pid = 1\npid = 7\n", True), ("pid=7", True), ("pid =\nother = 7\n", False), ("pid = 70", False), ("", False)],
)
def test_an_answer_is_a_line_of_the_file(answers: Path, text: str, right: bool) -> None:
    answers.write_text(text)
    assert Sheet().answer(1, "pid", 7, "a number", "cgroup.procs") == right


def test_no_answer_is_wrong_also_where_nothing_is_true(answers: Path) -> None:
    answers.write_text("pid =\n")
    assert not Sheet().answer(1, "pid", "", "a number", "cgroup.procs")


def test_an_answer_that_is_wrong_is_not_given_away(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = Sheet()
    sheet.answer(1, "secret", "the password", "a line", "the layer")
    assert "the password" not in json.dumps(ended(sheet, capsys))
