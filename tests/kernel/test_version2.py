"""The same kernel tests hold in the other world: pure cgroup v2, Linux 6.1."""

from pathlib import Path

import pytest

from tests.worlds import version2

pytestmark = pytest.mark.world

TESTS = "tests/kernel/test_cgroups.py"


def test_the_world_is_pure_cgroup_v2(tmp_path: Path) -> None:
    console, status = version2("cat /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.controllers", tmp_path, 60)
    assert status == 0, console
    assert "\n0::/\n" in console
    assert "memory" in console and "pids" in console


def test_a_failing_command_is_seen_to_fail(tmp_path: Path) -> None:
    assert version2("exit 3", tmp_path, 60)[1] == 3
