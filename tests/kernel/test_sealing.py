"""No container can write to the interpreter that its runtime is made of."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import bundles

pytestmark = pytest.mark.kernel()

ROOT = str(Path(__file__).parents[2])
SEALED = """
import os, sys
sys.path.insert(0, {root!r})
from minicontainer import sealing
sealing.seal_interpreter(sys.orig_argv)
print(sealing.interpreter_is_sealed(), *sys.argv[1:], flush=True)
sys.stdin.read()
"""


def test_a_sealed_interpreter_cannot_be_written_to_even_when_it_has_ended(tmp_path: Path) -> None:
    """The interpreter is a copy here: a file that runs elsewhere cannot be written to anyway, ETXTBSY of open(2)."""
    interpreter = tmp_path / "python"
    shutil.copy(os.path.realpath(sys.executable), interpreter)
    command = [str(interpreter), "-S", "-c", SEALED.format(root=ROOT), "kept", "arguments"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONHOME": sys.base_prefix}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True kept arguments\n"
        program = os.open(f"/proc/{process.pid}/exe", os.O_PATH)
        process.communicate("")
    with pytest.raises(OSError, match="Read-only file system"):
        os.open(f"/proc/self/fd/{program}", os.O_WRONLY)
    os.close(os.open(interpreter, os.O_WRONLY))  # by its own name it can be: it is root's file


def test_a_container_that_runs_its_runtime_cannot_write_to_it(tmp_path: Path) -> None:
    """The way of CVE-2019-5736: the program of the image is the runtime's own, by /proc/self/exe."""
    bundles.bundle(tmp_path, "/escape")
    (tmp_path / "rootfs/escape").symlink_to("/proc/self/exe")
    command = [sys.executable, "-m", "minicontainer.runtime_main", "--root", str(tmp_path / "states"), "run", "escape"]
    said = subprocess.run(
        command,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ROOT},
    )
    assert said.returncode != 0
    assert "Python" not in said.stdout
