"""Security modules that this computer may not have: AppArmor and SELinux, each in a kernel of its own."""

import sys
from pathlib import Path

import pytest

from tests.worlds import version2

pytestmark = pytest.mark.world


def _hold(module: str, directory: Path) -> None:
    tests = f"{sys.executable} -m pytest -q --color=no tests/kernel/under_{module}.py"
    console, status = version2(f"CI=true {tests}", directory, 300, kernel=(f"security={module}",))
    assert status == 0, console


@pytest.mark.engine("apparmor_parser", "runc")
def test_apparmor_profiles_hold(tmp_path: Path) -> None:
    _hold("apparmor", tmp_path)


@pytest.mark.engine("checkpolicy", "runc")
def test_selinux_contexts_hold(tmp_path: Path) -> None:
    _hold("selinux", tmp_path)
