"""Each page's commands run, one after the other in one shell, and print what the page shows."""

import sys
from pathlib import Path

import pytest

from tests.documents import Shell, commands, matches

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
LABS = ROOT / "docs/labs"  # their commands want a lab: tests/lab/test_exercises.py
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if LABS not in page.parents)]


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=lambda page: page.stem)
def test_the_commands_of_the_page_do_what_it_says(page: Path, tmp_path: Path) -> None:
    environment = {
        "HOME": str(tmp_path),
        "MINICONTAINER_ROOT": str(tmp_path / "minicontainer"),
        "TMPDIR": str(tmp_path),  # where a page's `mktemp --directory` is
        "PATH": f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
    }
    shell = Shell(ROOT, environment)
    try:
        for command in commands(page):
            printed, status = shell.run(command.text)
            place = f"{page.relative_to(ROOT)}:{command.line}: {command.text}"
            assert status == command.status, f"{place}\nended with {status} and printed:\n{printed}"
            if command.output:
                assert matches(command.output, printed), (
                    f"{place}\nshould print:\n{command.output}\n\nprinted:\n{printed}"
                )
    finally:
        shell.run("sudo ./dev demo --stop")
        for containers in tmp_path.glob("**/containers"):  # what a page that failed left
            ours = f"minicontainer --root {containers.parent}"
            shell.run(f"{ours} ps --all --quiet | xargs -r {ours} rm --force")
        shell.close()


def test_the_readme_is_executed() -> None:
    assert ROOT / "README.md" in PAGES
    assert [command.text for command in commands(ROOT / "README.md")] != []
