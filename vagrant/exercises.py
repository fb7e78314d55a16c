"""Exercises: those of docs/labs: found, set up, checked, solved, graded. Each has four scripts of one contract.

Stands on the lab's own interface alone, so it works with every backend; `lab` has its verbs. The contract:

    setup    makes the beginning, and the file for the learner's answers; may be run again
    check    prints what it found as JSON (points.py) and exits 0 if all is right, 1 if not, 2 if it could not look
    solve    does what the learner is asked to do, answers included
    reset    takes all of it away

Their environment: EXERCISE, the exercise's directory; ANSWERS, the learner's answers file; LABS, docs/labs; what
./dev lab env prints; `python3`, `aws` and `miniecs` of this checkout on the PATH.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from miniecs.errors import Error
from miniecs.tables import table
from vagrant.points import AWAY, Point

ROOT = Path(__file__).parents[1]
LABS = ROOT / "docs/labs"
GRADES = (1, 2, 3)
POINTS = 20  # of each exercise


class Lab(Protocol):
    """What is asked of a lab here: how to talk to its control plane."""

    def environment(self) -> Mapping[str, str]: ...


class Exercise(NamedTuple):
    number: int
    name: str
    directory: Path

    @property
    def title(self) -> str:
        return (self.directory / "README.md").read_text().partition("\n")[0].removeprefix("# ")


def exercises() -> list[Exercise]:
    """In their order."""
    named = [(path.name.partition("-"), path) for path in LABS.glob("[0-9]*-*")]
    return sorted(Exercise(int(number), name, path) for (number, _, name), path in named)


def find(word: str) -> Exercise:
    """By its number or name."""
    for one in exercises():
        if word in (str(one.number), one.name, one.directory.name):
            return one
    known = ", ".join(f"{one.number} {one.name}" for one in exercises())
    raise Error(f"no exercise {word!r}; there are: {known}")


# --- the four scripts ------------------------------------------------------------------------------------------------


def run(exercise: Exercise, script: str, lab: Lab, *, capture: bool = False) -> "subprocess.CompletedProcess[str]":
    """One of the four, its errors on ours."""
    environment = {
        **os.environ,
        **lab.environment(),
        "PATH": f"{sys.prefix}/bin:{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(ROOT),
        "LABS": str(LABS),
        "EXERCISE": str(exercise.directory),
        "ANSWERS": str(answers_file(exercise)),
    }
    answers_file(exercise).parent.mkdir(parents=True, exist_ok=True)
    output = subprocess.PIPE if capture else None
    return subprocess.run(
        [exercise.directory / script], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output,
        stderr=output, text=True,
    )  # fmt: skip


def check(exercise: Exercise, lab: Lab) -> list[Point]:
    """Look, and keep the result.

    Raises:
        Error: a machine or the control plane is away.
    """
    done = run(exercise, "check", lab, capture=True)
    try:
        points = [Point(**one) for one in json.loads(done.stdout)["points"]]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip().splitlines() or ["no reason given"]
        more = "" if "; try:" in said[-1] else "; try: ./dev lab status"
        if done.returncode == AWAY:
            raise Error(f"exercise {exercise.number} cannot be checked: {said[-1]}{more}") from None
        raise Error(f"exercise {exercise.number}: its check ended with {done.returncode}: {said[-1]}{more}") from None
    _keep(exercise, points)
    return points


def hint(exercise: Exercise, grade: int) -> str:
    """What hints.md says below `## Hint GRADE`."""
    text = (exercise.directory / "hints.md").read_text()
    parts = re.split(r"^## Hint (\d).*\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[str(grade)].strip("\n")


# --- results ---------------------------------------------------------------------------------------------------------


def answers_directory() -> Path:
    return Path(os.environ.get("LAB_ANSWERS") or ROOT / "answers")


def answers_file(exercise: Exercise) -> Path:
    return answers_directory() / f"{exercise.number}.txt"


class Result(NamedTuple):
    """The best that a learner reached in an exercise, and with how much help."""

    points: int = 0
    at: str = ""  # when they were reached; empty: never checked
    hints: int = 0  # the highest grade of hint that was read
    solved: bool = False  # the solution was run: from then on points do not count, until reset-exercise


def results() -> dict[int, Result]:
    try:
        kept = json.loads((answers_directory() / "results.json").read_text())
        return {int(number): Result(**one) for number, one in kept.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError):
        raise Error(f"{answers_directory()}/results.json is damaged; try: remove it, then check again") from None


def result(exercise: Exercise, **changes: Any) -> None:
    """Change what is known of the exercise."""
    known = results()
    known[exercise.number] = known.get(exercise.number, Result())._replace(**changes)
    path = answers_directory() / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps({str(number): one._asdict() for number, one in sorted(known.items())}, indent=1) + "\n")
    new.rename(path)


def _keep(exercise: Exercise, points: list[Point]) -> None:
    before, reached = results().get(exercise.number, Result()), sum(one.points for one in points if one.right)
    if not before.solved and (reached > before.points or not before.at):
        result(exercise, points=reached, at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


# --- the verbs -------------------------------------------------------------------------------------------------------


def _setup(lab: Lab, chosen: argparse.Namespace) -> int:
    exercise = find(chosen.exercise)
    status = run(exercise, "setup", lab).returncode
    if status == 0:
        page, file = exercise.directory.relative_to(ROOT) / "README.md", _shown(answers_file(exercise))
        _say(f"exercise {exercise.number} is ready; read {page}, write your answers into {file}")
    return status


def _check(lab: Lab, chosen: argparse.Namespace) -> int:
    points = check(find(chosen.exercise), lab)
    print(json.dumps(as_json(points), indent=1) if chosen.format == "json" else text(points, _width()))
    return 0 if all(one.right for one in points) else 1


def _hint(_: Lab, chosen: argparse.Namespace) -> int:
    exercise = find(chosen.exercise)
    known = results().get(exercise.number, Result())
    grade = chosen.grade or min(known.hints + 1, max(GRADES))
    print(f"Hint {grade} of {len(GRADES)}, {exercise.title}\n\n{folded(hint(exercise, grade), _width())}")
    result(exercise, hints=max(grade, known.hints))
    return 0


def _solve(lab: Lab, chosen: argparse.Namespace) -> int:
    exercise = find(chosen.exercise)
    result(exercise, solved=True)
    status = run(exercise, "solve", lab).returncode
    if status == 0:
        script = exercise.directory.relative_to(ROOT) / "solve"
        _say(f"solved by {script}: read it; to do it yourself: ./dev lab reset-exercise {exercise.number}")
    return status


def _reset(lab: Lab, chosen: argparse.Namespace) -> int:
    exercise = find(chosen.exercise)
    status = run(exercise, "reset", lab).returncode
    if status == 0:
        result(exercise, solved=False)
        _say(f"exercise {exercise.number} is taken away; begin again: ./dev lab setup {exercise.number}")
    return status


def _grade(_: Lab, chosen: argparse.Namespace) -> int:
    known = {one: results().get(one.number, Result()) for one in exercises()}
    reached, of = sum(one.points for one in known.values()), POINTS * len(known)
    if chosen.format == "json":
        rows = [{"exercise": one.number, "name": one.name, **found._asdict()} for one, found in known.items()]
        print(json.dumps({"exercises": rows, "points": reached, "of": of}, indent=1))
        return 0
    lines = [
        (one.number, one.name, found.points, f"grade {found.hints}" if found.hints else "-",
         "shown" if found.solved else "-", found.at or "not checked")
        for one, found in known.items()
    ]  # fmt: skip
    print(table(("EXERCISE", "NAME", "POINTS", "HINT", "SOLUTION", "AT"), lines))
    print(f"\n{reached} of {of} points")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


# --- what a check says -----------------------------------------------------------------------------------------------


def text(points: list[Point], width: int = 0) -> str:
    """For people: a right point is one line; a wrong one says what was seen, what should be, and where to look."""
    lines = []
    for one in points:
        mark, worth = ("✓", one.points) if one.right else ("✗", 0)
        lines.append(f"{mark} {worth} of {one.points}  {one.what}{f': {one.observed}' if one.right else ''}")
        if not one.right:
            found = {"observed: ": one.observed, "expected: ": one.expected, "look at:  ": one.look}
            lines += [_fill(said, width, f"    {word}", " " * 14) for word, said in found.items()]
    reached, of = sum(one.points for one in points if one.right), sum(one.points for one in points)
    return "\n".join([*lines, "", f"{reached} of {of} points"])


def folded(text: str, width: int) -> str:
    """Paragraphs of Markdown as wide as a terminal; code and tables stay as they are. Without a width, all does."""
    if not width:
        return text
    parts = text.split("\n\n")
    return "\n\n".join(
        part if part.startswith(("    ", "```", "|", "- ")) else _fill(" ".join(part.split()), width) for part in parts
    )


def _fill(line: str, width: int, first: str = "", others: str = "") -> str:
    if not width:
        return f"{first}{line}"
    return textwrap.fill(
        line, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def _width() -> int:
    """Of the terminal; 0 if it is none: programs and files get a line for a line."""
    return min(shutil.get_terminal_size().columns, 120) if sys.stdout.isatty() else 0


def as_json(points: list[Point]) -> dict[str, Any]:
    reached, of = sum(one.points for one in points if one.right), sum(one.points for one in points)
    return {"points": reached, "of": of, "right": reached == of, "found": [one._asdict() for one in points]}


Words = dict[str, dict[str, Any]]  # of a verb: its arguments, and what argparse shall know of them
EXERCISE: Words = {"exercise": {"metavar": "EXERCISE", "help": "its number or name, as in docs/labs"}}
FORMAT: Words = {"--format": {"choices": ("table", "json"), "default": "table", "help": "default: %(default)s"}}
VERBS: dict[str, tuple[str, Callable[[Any, argparse.Namespace], int], Words]] = {
    "setup": ("begin an exercise", _setup, EXERCISE),
    "check": ("say what is right in an exercise, and where to look for what is not", _check, {**EXERCISE, **FORMAT}),
    "hint": ("a hint for an exercise: the next one, or of a grade", _hint, {
        **EXERCISE,
        "grade": {"metavar": "GRADE", "nargs": "?", "type": int, "choices": GRADES, "help": "1 to 3: more and more"},
    }),
    "solve": ("do an exercise; its points do not count then", _solve, EXERCISE),
    "reset-exercise": ("take an exercise away, answers included", _reset, EXERCISE),
    "grade": ("the best points that were reached in each exercise", _grade, FORMAT),
}  # fmt: skip
