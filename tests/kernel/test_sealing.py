"""No container can write to the interpreter that its runtime is made of."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minicontainer.linux import procfs
from tests import bundles

pytestmark = pytest.mark.kernel()

ROOT = str(Path(__file__).parents[2])
SEALED = """
import os, sys
sys.path.insert(0, {root!r})
from minicontainer.runtime import sealing
sealing.seal_interpreter(sys.orig_argv, {path!r})
print(sealing.interpreter_is_sealed(), *sys.argv[1:], flush=True)
sys.stdin.read()
"""


def test_a_sealed_interpreter_cannot_be_written_to_even_when_it_has_ended(tmp_path: Path) -> None:
    """The interpreter is a copy here: a file that runs elsewhere cannot be written to anyway, ETXTBSY of open(2)."""
    interpreter = tmp_path / "python"
    shutil.copy(os.path.realpath(sys.executable), interpreter)
    command = [
        str(interpreter),
        "-S",
        "-c",
        SEALED.format(root=ROOT, path=str(tmp_path / "sealed" / "python3")),
        "kept",
        "arguments",
    ]
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
    command = [sys.executable, "-m", "minicontainer.runtime.main", "--root", str(tmp_path / "states"), "run", "escape"]
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


KEPT = """
import os, sys
sys.path.insert(0, {root!r})
from minicontainer.runtime import sealing
from minicontainer.linux.flags import AT_EMPTY_PATH, AT_FDCWD, MOUNT_ATTR_RDONLY, OPEN_TREE_CLONE
from minicontainer.linux.syscalls import mount_setattr, open_tree
for _ in range(2):
    tree = open_tree(AT_FDCWD, "/proc/self/exe", OPEN_TREE_CLONE)
    mount_setattr(tree, "", AT_EMPTY_PATH, MOUNT_ATTR_RDONLY)
    sealing.keep(tree, {path!r})
"""


def _keep(path: Path, interpreter: str = sys.executable) -> list[str]:
    """The mounts at `path` after two starts of `interpreter` have kept theirs."""
    code = KEPT.format(root=ROOT, path=str(path))
    subprocess.run([interpreter, "-S", "-c", code], check=True, env={"PYTHONHOME": sys.base_prefix})
    return [mount.options for mount in procfs.mountinfo() if mount.target == str(path)]


def test_the_mount_is_kept_once_and_the_interpreter_starts_from_there(tmp_path: Path) -> None:
    kept = tmp_path / "sealed" / "python3"
    (options,) = _keep(kept)
    assert "ro" in options.split(",")
    assert kept.samefile(os.path.realpath(sys.executable)), "what the command asks before it starts from there"
    code = f"import sys, json; sys.path.insert(0, {ROOT!r}); from minicontainer.runtime import sealing"
    code += "; print(sealing.interpreter_is_sealed())"
    said = subprocess.run([str(kept), "-ISc", code], check=True, capture_output=True, text=True)
    assert (said.stdout, said.stderr) == ("True\n", "")


def test_an_interpreter_that_was_replaced_takes_the_place_of_the_older(tmp_path: Path) -> None:
    kept, newer = tmp_path / "sealed" / "python3", tmp_path / "python"
    _keep(kept)
    shutil.copy(os.path.realpath(sys.executable), newer)
    assert len(_keep(kept, str(newer))) == 1
    assert kept.samefile(newer)


def test_where_it_cannot_be_kept_the_program_is_sealed_all_the_same(tmp_path: Path) -> None:
    code = SEALED.format(root=ROOT, path="/proc/nowhere/python3")
    said = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert said.stdout == "True\n", said.stderr


@pytest.mark.parametrize("spaces", ["--user", "--user --mount"])
def test_a_user_namespace_seals_it_with_or_without_a_mount_namespace(tmp_path: Path, spaces: str) -> None:
    program = [sys.executable, "-c", SEALED.format(root=ROOT, path=str(tmp_path / "sealed/python3")), "kept"]
    command = ["unshare", *spaces.split(), "--map-root-user", *program]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True kept\n", "")


def test_who_may_not_seal_it_is_told_so_in_one_line(tmp_path: Path) -> None:
    bundles.bundle(tmp_path, "true")
    code = f"import sys; sys.path.insert(0, {ROOT!r}); from minicontainer.runtime.main import main; main()"
    command = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", code]
    done = subprocess.run([*command, "run", "one"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("minicontainer-runtime: ") and "; try: as root" in done.stderr
