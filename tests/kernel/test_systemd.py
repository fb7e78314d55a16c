"""Containers as scopes of systemd, in a machine of its own whose first process is systemd."""

import re
import sys
from pathlib import Path

import pytest

from tests.worlds import version2

pytestmark = pytest.mark.world


def _hold(module: str, directory: Path) -> None:
    tests = f"{sys.executable} -m pytest -q --color=no tests/kernel/{module}.py"
    console, status = version2(f"cat /proc/1/comm; CI=true {tests}", directory, 300, systemd=True)
    assert status == 0, console
    assert re.search(r"^systemd$", console, re.MULTILINE), console


def test_systemd_makes_the_scopes_of_containers_and_they_end_with_them(tmp_path: Path) -> None:
    _hold("systemd_scopes", tmp_path)


@pytest.mark.engine("newuidmap")
def test_a_person_s_own_systemd_makes_the_scopes_of_theirs(tmp_path: Path) -> None:
    _hold("persons_scopes", tmp_path)
