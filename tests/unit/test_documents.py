"""The reader of documents: finds the commands of a page, and judges what they print."""

import os
import re
import time
from pathlib import Path

import pytest

from tests.documents import Command, Shell, commands, matches

ROOT = Path(__file__).parents[2]

PAGE = """
Some text.

```console
$ echo one
one
$ cat <<END
> two
> END
two
$ false  # exits 1
```

```python
$ not a command
```
"""


def test_commands_are_found_with_their_line_output_and_status(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert list(commands(page)) == [
        Command(page="page.md", line=5, text="echo one", output="one", status=0),
        Command(page="page.md", line=7, text="cat <<END\ntwo\nEND", output="two", status=0),
        Command(page="page.md", line=11, text="false", output="", status=1),
    ]


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("one", "one\n"),
        ("task … RUNNING", "task 4f00 RUNNING"),
        ("first\n…\nlast", "first\na\nb\nlast\n"),
        ("…\nlast", "last\n"),
        ("NAME  SIZE", "NAME    SIZE   "),
        ("137  killed", "137\tkilled"),
    ],
)
def test_what_is_printed_matches_what_the_page_shows(expected: str, printed: str) -> None:
    assert matches(expected, printed)


@pytest.mark.parametrize(
    ("expected", "printed"), [("one", "two"), ("one", "one\ntwo"), ("first\n…\nlast", "first\na"), ("a.c", "abc")]
)
def test_other_output_does_not_match(expected: str, printed: str) -> None:
    assert not matches(expected, printed)


def test_a_shell_keeps_its_variables_and_tells_the_status(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"PATH": "/usr/bin:/bin"})
    shell.run("name=value")
    assert shell.run("echo $name; pwd") == (f"value\n{tmp_path}", 0)
    assert shell.run("sudo sh -c 'exit 3'") == ("", 3)
    shell.close()


def test_a_command_does_not_take_the_ones_that_follow(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"PATH": "/usr/bin:/bin"})
    assert shell.run("cat; word=kept") == ("", 0)
    assert shell.run("cat <<END\n$word\nEND") == ("kept", 0)
    shell.close()


def test_a_shell_ends_what_a_page_left_in_the_background(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"PATH": "/usr/bin:/bin"})
    pid, _ = shell.run("sleep 600 >/dev/null 2>&1 & echo $!")
    shell.close()
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}/exe"):  # a zombie has none
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is still there")


def headings(page: Path) -> set[str]:
    """What a link after `#` may say of a page: its headings as GitHub writes them, numbered when they come again."""
    found: list[str] = []
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.append(name)
    names = [f"{name}-{found[:at].count(name)}".removesuffix("-0") for at, name in enumerate(found)]
    return set(names)


def test_every_link_between_the_pages_leads_somewhere() -> None:
    """To a file that is there, and at `#` to a heading that it has."""
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            other = page.parent / path if path else page
            if not other.exists() or (anchor and other.suffix == ".md" and anchor not in headings(other)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_headings_are_named_as_github_names_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `--flag`, and [more](x.md)\n```sh\n# no heading\n```\n## Twice\n## Twice\n### Where is …?\n")
    assert headings(page) == {"a---flag-and-more", "twice", "twice-1", "where-is-"}


def test_the_project_names_no_place_of_one_computer() -> None:
    """No path of a home, and no carriage return: a clone on Windows must run in a Linux machine."""
    kept_out = {".git", ".venv", ".cache", ".demo", ".lab", "answers", "stage", ".hypothesis", "__pycache__"}
    kept_out.add("rootfs.tar")  # what images/debian/rootfs makes
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not kept_out & set(parts):
            content = path.read_bytes()
            assert b"\r\n" not in content, path
            assert b"/home/" not in content or parts[0] == "tests", path  # a test may have a container's home
