"""The same bundles on us and on runc: what a program in them sees must be the same."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests import beside, bundles
from tests.beside import OURS, call

pytestmark = pytest.mark.kernel()


@pytest.mark.parametrize("name", [name for name, case in beside.CASES.items() if not case.alone])
def test_a_bundle_is_what_it_is_on_runc(tmp_path: Path, name: str) -> None:
    assert shutil.which("runc"), "runc is what we compare with: apt-get install runc"
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o711)  # runc has to reach the rootfs as the container's root
    tmp_path.chmod(0o711)
    theirs = beside.seen(["runc"], tmp_path, beside.CASES[name])
    ours = beside.seen(beside.OURS, tmp_path, beside.CASES[name])
    beside.compare("runc", name, ours, theirs)


@pytest.mark.parametrize("program", ["/nonexistent", "nonexistent", "/etc/passwd"])
def test_a_program_that_cannot_run_is_worded_alike(tmp_path: Path, program: str) -> None:
    bundles.bundle(tmp_path, program)
    name = f"beside-{os.getpid()}"
    status, said = call(["runc"], tmp_path, "run", name)
    wanted = re.search(r"exec: .*", said.replace("\\", ""))
    assert wanted is not None
    our_status, our_words = call(OURS, tmp_path, "run", name)
    assert our_status == status
    assert wanted[0].strip('"') in our_words


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("listening", [0, 1])
def test_preserved_descriptors_are_those_that_the_caller_has_open(tmp_path: Path, count: int, listening: int) -> None:
    """One that is not open would come to be one of the runtime's own, to which the program has no right."""
    bundles.bundle(tmp_path, "sh", "-c", "for fd in 3 4 5 6 7 8 9; do (: <&$fd) 2>/dev/null && echo $fd; done; env")
    (tmp_path / "text").write_text("text")
    shell = 'export LISTEN_PID=$$ LISTEN_FDS=$1; shift; exec "$@" 3<text 4<text'
    name = f"beside-{os.getpid()}"

    def said(runtime: list[str]) -> tuple[int, list[str]]:
        words = ["sh", "-c", shell, "sh", str(listening), *runtime]
        status, text = call(words, tmp_path, "run", "--preserve-fds", str(count), name)
        return status, sorted(text.splitlines())  # the environment is in any order

    ours, theirs = said(OURS), said(["runc"])
    if listening + count > 2:
        assert ours[0] == 1 and "descriptor 5 is not open; try: --preserve-fds" in ours[1][0]
    else:
        assert ours == theirs
        assert (ours[0], [line for line in ours[1] if line.isdecimal()]) == (0, ["3", "4"][: listening + count])


def test_the_same_statuses_and_the_same_state(tmp_path: Path) -> None:
    bundles.bundle(tmp_path, "sleep", "60")
    name = f"beside-{os.getpid()}"

    def steps(runtime: list[str]) -> list[object]:
        found: list[object] = []
        for arguments in (
            ["create", name],
            ["state", name],
            ["delete", "nothing"],
            ["start", name],
            ["start", name],
            ["delete", name],
            ["exec", name, "sh", "-c", "exit 5"],
            ["exec", name, "/nonexistent"],
            ["pause", name],
            ["state", name],
            ["exec", name, "true"],
            ["resume", name],
            ["kill", name, "KILL"],
            ["delete", "--force", name],
            ["delete", "--force", name],
            ["state", name],
            ["list", "-q"],
        ):
            status, said = call(runtime, tmp_path, *arguments)
            state = json.loads(said) if arguments[0] == "state" and status == 0 else {}
            found.append((arguments[0], status, state.get("status"), state.get("bundle"), "pid" in state))
        return found

    assert steps(OURS) == steps(["runc"])
