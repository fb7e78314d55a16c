"""The tools are tests like any other: format, lint, types, and the shell scripts' syntax."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = f"{sys.prefix}/bin"


def output_of(*command: str) -> str:
    """What a failing tool printed; nothing when it was content."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    return (done.stdout + done.stderr) if done.returncode else ""


def test_format() -> None:
    assert output_of(f"{PROGRAMS}/ruff", "format", "--diff", ".") == ""


def test_lint() -> None:
    assert output_of(f"{PROGRAMS}/ruff", "check", "--output-format", "concise", ".") == ""


def test_types() -> None:
    assert output_of(f"{PROGRAMS}/mypy") == ""


@pytest.mark.parametrize(
    "script",
    ["dev", ".ci/run", "tests/clean_room.sh", "tests/version2_init.sh", "vagrant/provision.sh", "vagrant/delegated.sh"],
)
def test_shell_scripts_are_posix(script: str) -> None:
    assert output_of("sh", "-n", script) == ""
    assert (ROOT / script).read_text().startswith("#!/bin/sh\n")


def test_dev_explains_all_its_verbs() -> None:
    said = subprocess.run([ROOT / "dev", "--help"], capture_output=True, text=True, check=True).stdout
    cases = [line.strip() for line in (ROOT / "dev").read_text().splitlines() if line.startswith("    ")]
    verbs = [line.removesuffix(")") for line in cases if line.endswith(")") and line[:-1].isalpha()]
    assert {"setup", "demo", "test", "bench", "install"} <= set(verbs)
    assert [verb for verb in verbs if f"\n  {verb} " not in said] == []


def test_an_unknown_verb_gets_one_line_and_the_way_to_help() -> None:
    done = subprocess.run([ROOT / "dev", "frobnicate"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == 'dev: no verb "frobnicate"; try: ./dev --help\n'


def test_the_demo_without_root_says_how(tmp_path: Path) -> None:
    nobody = tmp_path / "id"
    nobody.write_text("#!/bin/sh\necho 1000\n")
    nobody.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run([ROOT / "dev", "demo"], capture_output=True, text=True, env={"PATH": path})
    assert (done.returncode, done.stderr) == (
        1,
        "dev: demo needs root: it makes namespaces, cgroups and mounts; try: sudo ./dev demo\n",
    )
