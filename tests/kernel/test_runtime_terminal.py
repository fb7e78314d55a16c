"""A person at a terminal runs a container by the runtime alone: `run` and `exec --tty` without a console socket."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from minicontainer.runtime import operations
from tests import bundles
from tests.bundles import Json

pytestmark = pytest.mark.kernel()

RUNTIME = [sys.executable, "-m", "minicontainer.runtime.main"]
SCRIPT = "tty; stty size; read word; echo got $word; exit 3"


def _terminal(config: Json) -> None:
    config["process"]["terminal"] = True


def _typed(directory: Path, arguments: list[str], text: bytes) -> tuple[int, str]:
    """What a command at a terminal of 33 lines of 99 columns ends with, and all that it shows."""
    master, slave = pty.openpty()
    os.system(f"stty rows 33 cols 99 </proc/{os.getpid()}/fd/{slave}")
    command = [*RUNTIME, "--root", str(directory / "states"), *arguments]
    with subprocess.Popen(
        command, cwd=directory, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    ) as running:
        os.close(slave)
        shown = b""
        try:
            while part := os.read(master, 4096):
                shown += part
                if b"33 99" in shown:  # not before: the terminal's echo would stand between its words
                    os.write(master, text)
                    text = b""
        except OSError:  # nobody has its other side any more
            pass
        os.close(master)
        return running.wait(60), shown.decode().replace("\r", "")


def test_run_joins_the_terminal_of_who_calls(tmp_path: Path) -> None:
    bundles.bundle(tmp_path, "sh", "-c", SCRIPT, edit=_terminal)
    status, shown = _typed(tmp_path, ["run", f"tty-{os.getpid()}"], b"hello\n")
    assert status == 3, shown
    assert "/dev/pts/0\n33 99\n" in shown
    assert shown.endswith("got hello\n")


def test_exec_with_a_terminal_joins_it_too(tmp_path: Path) -> None:
    bundles.bundle(tmp_path, "sleep", "100")
    name, root = f"tty-{os.getpid()}", str(tmp_path / "states")
    command = [*RUNTIME, "--root", root, "run", "--detach", name]
    subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    try:
        status, shown = _typed(tmp_path, ["exec", "--tty", name, "sh", "-c", SCRIPT], b"hello\n")
        assert (status, shown[-10:]) == (3, "got hello\n"), shown
    finally:
        operations.delete(root, name, force=True)


def test_who_has_no_terminal_is_told_what_it_takes(tmp_path: Path) -> None:
    bundles.bundle(tmp_path, "sh", "-c", SCRIPT, edit=_terminal)
    command = [*RUNTIME, "--root", str(tmp_path / "states"), "run", f"tty-{os.getpid()}"]
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, "try: --console-socket" in done.stderr) == (1, True), done.stderr
