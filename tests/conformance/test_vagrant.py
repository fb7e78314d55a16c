"""Vagrant itself reads the Vagrantfile: `vagrant validate` with Debian's libvirt provider, and with VirtualBox's."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

VAGRANT = Path(__file__).parents[2] / "vagrant"

pytestmark = pytest.mark.skipif(not shutil.which("vagrant"), reason="needs Vagrant: sudo apt-get install vagrant")


def vagrant(home: Path, provider: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A `vagrant` that keeps what it writes in `home`, with a VBoxManage that says no more than its version."""
    (manage := home / "VBoxManage").write_text("#!/bin/sh\necho 7.0.20r163906\n")
    manage.chmod(0o755)
    own = {
        "PATH": f"{home}:{os.environ['PATH']}",
        "HOME": str(home),
        "VAGRANT_HOME": str(home / "vagrant.d"),
        "VAGRANT_DOTFILE_PATH": str(home / "dotfile"),
        "VAGRANT_DEFAULT_PROVIDER": provider,
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }
    return subprocess.run(
        ["vagrant", *arguments], cwd=VAGRANT, capture_output=True, text=True, env={**os.environ, **own, **environment}
    )


@pytest.mark.parametrize("provider", ["libvirt", "virtualbox"])
def test_vagrant_accepts_every_setting(tmp_path: Path, provider: str) -> None:
    done = vagrant(tmp_path, provider, "validate", WORKERS="5", LAB_TCG="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Vagrantfile validated successfully.\n"


def test_vagrant_shows_a_refusal_as_the_one_line_that_it_is(tmp_path: Path) -> None:
    done = vagrant(tmp_path, "libvirt", "status", WORKERS="many")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "vagrant: WORKERS=many is no whole number; try: WORKERS=2\n"


def test_vagrants_own_list_of_providers_is_what_is_asked(tmp_path: Path) -> None:
    done = vagrant(tmp_path, "parallels", "up", LAB_HOST_MEMORY="65536")
    assert done.returncode == 1
    assert done.stderr.startswith("vagrant: parallels is not installed or not usable; try: ")
    assert done.stderr.count("\n") == 1
