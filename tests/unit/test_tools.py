"""The tools are tests like any other: format, lint, types, and the shell scripts."""

import os
import re
import shutil
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


def shell_scripts() -> list[str]:
    """Every file that says `sh` is its interpreter, wherever it is."""
    named = []
    for directory, inside, names in os.walk(ROOT):
        inside[:] = [
            name
            for name in inside
            if name not in {".git", ".venv", ".cache", ".demo", ".lab", "answers", "stage", "__pycache__"}
        ]
        named += [Path(directory, name) for name in names]
    first = {path: path.open("rb").readline(64) for path in named if path.is_file() and not path.is_symlink()}
    return sorted(str(path.relative_to(ROOT)) for path, line in first.items() if re.match(rb"#!/bin/(ba)?sh\b", line))


@pytest.mark.parametrize("script", shell_scripts())
def test_shell_scripts_are_posix(script: str) -> None:
    assert output_of("sh", "-n", script) == ""
    assert (ROOT / script).read_bytes().startswith(b"#!/bin/sh\n")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck: sudo apt-get install shellcheck")
def test_shellcheck_warns_of_nothing() -> None:
    ours = [script for script in shell_scripts() if not script.startswith("images/")]
    assert output_of("shellcheck", "--severity=warning", "--format=gcc", *ours) == ""
    # An image's scripts read variables from a file that is written when a task starts, or set them by `eval`.
    of_images = sorted({*shell_scripts()} - {*ours})
    told = ("--severity=warning", "--format=gcc", "--exclude=SC2154,SC2034")
    assert output_of("shellcheck", *told, *of_images) == ""


def test_no_script_has_a_line_that_ends_as_on_windows() -> None:
    """A shell takes the carriage return as part of a word; so git makes none, also in a clone on Windows."""
    assert "dev" in shell_scripts()
    assert (ROOT / ".gitattributes").read_text() == "* text=auto eol=lf\n"
    scripts = [
        *shell_scripts(),
        *(str(path.relative_to(ROOT)) for path in (ROOT / "vagrant").glob("[!.]*") if path.is_file()),
    ]
    assert [script for script in scripts if b"\r" in (ROOT / script).read_bytes()] == []


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
