"""The exercises as they stand in docs/labs; what is kept of a learner's results, and what is printed of them."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pytest

from miniecs.errors import Error
from vagrant import exercises
from vagrant.exercises import LABS, Exercise, Result
from vagrant.points import Point

SCRIPTS = ("setup", "check", "solve", "reset")
RIGHT = Point("a limit", 12, True, "32", "32", "memory.max")
WRONG = Point("a name", 8, False, "nothing", "by-hand", "hostname")


class NoLab:
    def environment(self) -> Mapping[str, str]:
        return {}


@pytest.fixture(autouse=True)
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_ANSWERS", str(tmp_path / "answers"))
    return tmp_path / "answers"


@pytest.fixture
def made(tmp_path: Path) -> Exercise:
    """An exercise whose check finds one point right and one wrong."""
    script(tmp_path, "check", f"echo '{json.dumps({'points': [RIGHT._asdict(), WRONG._asdict()]})}'; exit 1")
    return Exercise(1, "made", tmp_path)


def script(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{text}\n")
    (directory / name).chmod(0o755)


# --- as they stand ---------------------------------------------------------------------------------------------------


def test_there_are_six_numbered_from_one() -> None:
    assert [one.number for one in exercises.exercises()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("exercise", exercises.exercises(), ids=lambda exercise: exercise.name)
def test_each_has_a_page_four_scripts_three_hints_and_questions_to_answer(exercise: Exercise) -> None:
    assert exercise.title.startswith(f"Exercise {exercise.number}: ")
    assert all(os.access(exercise.directory / name, os.X_OK) for name in SCRIPTS)
    assert all(len(exercises.hint(exercise, grade)) > 100 for grade in exercises.GRADES)
    page = (exercise.directory / "README.md").read_text()
    for heading in ("**Goal.**", "**Read**", "## Steps", "## Questions", "## Check your work"):
        assert heading in page, heading
    names = [
        line.removesuffix(" =") for line in (exercise.directory / "answers").read_text().split("\n") if "=" in line[:20]
    ]
    check = (exercise.directory / "check").read_text()
    assert names and [name for name in names if f'"{name}"' not in check] == []


def test_the_check_scripts_are_python_that_ruff_is_content_with() -> None:
    scripts = [
        str(path) for path in LABS.rglob("*") if path.is_file() and path.open("rb").readline().endswith(b"python3\n")
    ]
    assert len(scripts) == 8
    for verb in (["check"], ["format", "--diff"]):
        done = subprocess.run([f"{sys.prefix}/bin/ruff", *verb, *scripts], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_every_verb_is_in_the_index() -> None:
    index = (LABS / "index.md").read_text()
    assert [verb for verb in exercises.VERBS if f"`./dev lab {verb}" not in index] == []


def test_one_is_found_by_number_or_name_and_an_unknown_one_gets_the_list() -> None:
    assert exercises.find("2") == exercises.find("image-taken-apart") == exercises.find("2-image-taken-apart")
    with pytest.raises(Error, match=r"no exercise '9'; there are: 1 container-by-hand, 2 image-"):
        exercises.find("9")


# --- checked ---------------------------------------------------------------------------------------------------------


def test_a_check_that_cannot_look_is_one_line(made: Exercise) -> None:
    script(made.directory, "check", "echo 'worker1 is off; try: ./dev lab power on worker1' >&2; exit 2")
    with pytest.raises(Error) as caught:
        exercises.check(made, NoLab())
    assert str(caught.value) == "exercise 1 cannot be checked: worker1 is off; try: ./dev lab power on worker1"


def test_a_check_that_breaks_says_its_last_line(made: Exercise) -> None:
    script(made.directory, "check", "echo 'ValueError: what' >&2; exit 1")
    with pytest.raises(Error, match=r"exercise 1: its check ended with 1: ValueError: what; try: ./dev lab status"):
        exercises.check(made, NoLab())


def test_the_scripts_know_where_they_are(made: Exercise, answers: Path) -> None:
    script(made.directory, "setup", 'echo "$LABS|$EXERCISE|$ANSWERS"')
    done = exercises.run(made, "setup", NoLab(), capture=True)
    assert done.stdout == f"{LABS}|{made.directory}|{answers}/1.txt\n"


def test_a_wrong_point_says_what_was_seen_and_where_to_look() -> None:
    assert exercises.text([RIGHT, WRONG]).splitlines() == [
        "✓ 12 of 12  a limit: 32",
        "✗ 0 of 8  a name",
        "    observed: nothing",
        "    expected: by-hand",
        "    look at:  hostname",
        "",
        "12 of 20 points",
    ]


def test_in_a_terminal_lines_are_as_wide_as_it_is_and_what_is_indented_stays() -> None:
    narrow = exercises.text([WRONG._replace(look="ps -e, and then the files in /proc/PID/ns")], 30).splitlines()
    assert narrow[3:6] == ["    look at:  ps -e, and then", " " * 14 + "the files in", " " * 14 + "/proc/PID/ns"]
    hint = "A directory\nis a cgroup, and a file in it is\na limit.\n\n    mkdir /sys/fs/cgroup/a-name-that-is-long"
    assert exercises.folded(hint, 0) == hint
    assert exercises.folded(hint, 30).splitlines() == [
        "A directory is a cgroup, and a", "file in it is a limit.", "", "    mkdir /sys/fs/cgroup/a-name-that-is-long",
    ]  # fmt: skip


def test_a_program_reads_the_same() -> None:
    found = exercises.as_json([RIGHT, WRONG])
    assert (found["points"], found["of"], found["right"]) == (12, 20, False)
    assert found["found"][1]["look"] == "hostname"


# --- results ---------------------------------------------------------------------------------------------------------


def test_the_best_points_are_kept(made: Exercise) -> None:
    exercises.check(made, NoLab())
    assert exercises.results()[1].points == 12
    script(made.directory, "check", f"echo '{json.dumps({'points': [WRONG._asdict()]})}'; exit 1")
    exercises.check(made, NoLab())
    assert exercises.results()[1].points == 12


def test_points_do_not_count_once_the_solution_was_shown_until_the_exercise_is_reset(made: Exercise) -> None:
    exercises.result(made, solved=True)
    exercises.check(made, NoLab())
    assert exercises.results()[1] == Result(solved=True)
    exercises.result(made, solved=False)
    exercises.check(made, NoLab())
    assert exercises.results()[1].points == 12


def test_damaged_results_are_named(answers: Path) -> None:
    answers.mkdir()
    (answers / "results.json").write_text("{")
    with pytest.raises(Error, match=r"results\.json is damaged; try: remove it"):
        exercises.results()


def test_a_grade_is_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.result(exercises.find("3"), points=20, at="2026-01-01T10:00:00Z", hints=2)
    exercises._grade(NoLab(), Namespace(format="table"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == ["3", "where-is-the-task", "20", "grade", "2", "-", "2026-01-01T10:00:00Z"]
    assert lines[-1] == "20 of 120 points"
    exercises._grade(NoLab(), Namespace(format="json"))
    document = json.loads(capsys.readouterr().out)
    assert (document["points"], document["of"]) == (20, 120)
    assert document["exercises"][2]["name"] == "where-is-the-task"


def test_hints_grow_and_the_greatest_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    for grade in (1, 2, 3, 3):
        exercises._hint(NoLab(), Namespace(exercise="4", grade=None))
        assert capsys.readouterr().out.startswith(f"Hint {grade} of 3, Exercise 4")
    exercises._hint(NoLab(), Namespace(exercise="4", grade=1))
    assert exercises.results()[4].hints == 3
