"""The same kernel tests hold in the other world: pure cgroup v2, Linux 6.1."""

import re
import sys
from pathlib import Path

import pytest

from tests.worlds import ROOT, version2

pytestmark = pytest.mark.world

TESTS = " ".join(
    f"tests/kernel/test_{name}.py"
    for name in ("cgroups", "runtime", "one_container", "update", "hooks", "specification")
)

APPARMOR = ("security=apparmor",)
PYTEST = f"CI=true {sys.executable} -m pytest -q --color=no"
BUT = "not as_a_table"  # ps(1) says nothing there


def test_the_world_is_pure_cgroup_v2(tmp_path: Path) -> None:
    console, status = version2("cat /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.controllers", tmp_path, 60)
    assert status == 0, console
    assert "\n0::/\n" in console
    assert "memory" in console and "pids" in console


def test_a_failing_command_is_seen_to_fail(tmp_path: Path) -> None:
    assert version2("exit 3", tmp_path, 60)[1] == 3


def test_the_kernel_tests_hold_there_too(tmp_path: Path) -> None:
    console, status = version2(f"{PYTEST} -k '{BUT}' {TESTS}", tmp_path, 600)
    assert status == 0, console
    assert re.search(r"^\d+ passed", console, re.MULTILINE) or " [100%]" in console, console


def crun(directory: Path, seconds: float, **environment: str) -> None:
    """The tests of `beside_crun.py`, with the crun that `./dev test` has unpacked."""
    where = ROOT / ".cache/crun/usr"
    if not (where / "bin/crun").exists():
        pytest.skip("needs crun: sudo ./dev test")
    given = {"CRUN": where / "bin/crun", "LD_LIBRARY_PATH": where / "lib/x86_64-linux-gnu", **environment}
    words = " ".join(f"{name}={value}" for name, value in given.items())
    console, status = version2(f"{words} {PYTEST} tests/kernel/beside_crun.py", directory, seconds)
    assert status == 0, console


def test_bundles_that_differ_on_crun_are_explained(tmp_path: Path) -> None:
    crun(tmp_path, 300, QUICK="1")


@pytest.mark.full
def test_every_bundle_is_what_it_is_on_crun(tmp_path: Path) -> None:
    crun(tmp_path, 900)


ENGINES = " ".join(f"tests/conformance/test_{name}.py" for name in ("podman", "dockerd", "containerd"))


def test_engines_are_told_the_same_by_us_and_by_runc_there(tmp_path: Path) -> None:
    """Of the engines' tests those of output, exit status and limits; with `--lab full`, all.

    The kernel has AppArmor, as Debian's has: each engine gives its containers a profile then.
    """
    some = "output or profile or limits_bind or metrics or left or (dockerd and cgroup)"
    loaded = "cat /sys/kernel/security/apparmor/profiles"
    console, status = version2(f"{PYTEST} -k '{some}' {ENGINES} && {loaded}", tmp_path, 600, kernel=APPARMOR)
    assert status == 0, console
    assert set(re.findall(r"(\w+)-default.* \(enforce\)", console)) == {"docker", "containers", "ctr"}


@pytest.mark.full
@pytest.mark.parametrize("engine", ENGINES.split())
def test_all_that_engines_are_told_is_the_same_there(tmp_path: Path, engine: str) -> None:
    console, status = version2(f"{PYTEST} {engine}", tmp_path, 1800, kernel=APPARMOR)
    assert status == 0, console


def test_a_person_without_root_has_the_same_there(tmp_path: Path) -> None:
    """Of `test_rootless.py` what has to do with cgroups, walls and the network; with `--lab full`, all of it."""
    some = "walls or delegated or ports or reaches or system_call"
    console, status = version2(f"{PYTEST} -k '{some}' tests/kernel/test_rootless.py", tmp_path, 300)
    assert status == 0, console


@pytest.mark.full
def test_all_of_rootless_holds_there_too(tmp_path: Path) -> None:
    console, status = version2(f"{PYTEST} tests/kernel/test_rootless.py", tmp_path, 600)
    assert status == 0, console


def test_a_delegated_cgroup_is_left_free_for_children_and_open_to_their_roots(tmp_path: Path) -> None:
    """As the unit runs it, whose umask is strict: in a cgroup that nobody else can enter, no task could be started."""
    unit = "mkdir /sys/fs/cgroup/unit && echo $$ >/sys/fs/cgroup/unit/cgroup.procs && umask 077"
    look = "'cat /proc/self/cgroup; stat -c %a /sys/fs/cgroup/miniecs-agent.service; umask'"
    console, status = version2(f"{unit}; vagrant/delegated.sh sh -c {look}", tmp_path, 60)
    assert status == 0, console
    assert "\n0::/miniecs-agent.service/main\n755\n0077\n" in console
