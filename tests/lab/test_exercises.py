"""The exercises of docs/labs: their pages run as shown; each fails, is solved, passes, is taken away and fails."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import Command, Shell, commands, matches
from tests.lab.conftest import Cluster
from vagrant.exercises import LABS, Exercise, exercises

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]


class Learner:
    """Who sits before a shell in the checkout, and does what a page says."""

    def __init__(self, shell: Shell, answers: Path) -> None:
        self.shell = shell
        self.answers = answers

    def reads(self, page: Path) -> None:
        for command in commands(page):
            self.does(command)

    def does(self, command: Command) -> str:
        printed, status = self.shell.run(command.text)
        place = f"{command.page}:{command.line}: {command.text}"
        assert status == command.status, f"{place}\nended with {status} and printed:\n{printed}"
        assert not command.output or matches(command.output, printed), (
            f"{place}\nshould print:\n{command.output}\n\nprinted:\n{printed}"
        )
        return printed

    def types(self, text: str, status: int = 0) -> str:
        return self.does(Command(page="test", line=0, text=text, output="", status=status))


@pytest.fixture
def learner(cluster: Cluster, tmp_path: Path) -> Iterator[Learner]:
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "LAB_DIRECTORY": str(cluster.lab.directory),
        "LAB_ANSWERS": str(tmp_path / "answers"),
    }
    shell = Shell(ROOT, environment)
    yield Learner(shell, tmp_path / "answers")
    shell.close()


@pytest.mark.parametrize("exercise", exercises(), ids=lambda exercise: exercise.name)
def test_it_fails_is_solved_passes_is_taken_away_and_fails(exercise: Exercise, learner: Learner) -> None:
    page, number = exercise.directory / "README.md", exercise.number
    first, *_, last = list(commands(page))
    assert first.text == f"./dev lab setup {number}"
    assert (last.text, last.status) == (f"./dev lab check {number}", 1)
    assert last.output.endswith("0 of 20 points")
    learner.reads(page)
    learner.types(f"./dev lab solve {number}")
    assert learner.types(f"./dev lab check {number}").endswith("20 of 20 points")
    learner.types(f"./dev lab reset-exercise {number}")
    assert not (learner.answers / f"{number}.txt").exists()
    assert learner.types(f"./dev lab check {number}", status=1).endswith("\n0 of 20 points")


def test_the_index_shows_what_is_printed(learner: Learner) -> None:
    learner.reads(LABS / "index.md")


def test_a_machine_that_is_away_is_named(learner: Learner, cluster: Cluster) -> None:
    cluster.lab.power("worker1", False)
    said = learner.types("./dev lab check 1", status=1)
    assert said == "lab: exercise 1 cannot be checked: worker1 is off; try: ./dev lab power on worker1"
