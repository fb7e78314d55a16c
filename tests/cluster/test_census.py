"""The census sees each kind of thing that a lab could leave behind, and what was there before does not count."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from miniecs.census import CGROUP, Census, census, own_cgroups

pytestmark = pytest.mark.cluster


def test_our_own_cgroups_are_directories_that_hold_us(tmp_path: Path) -> None:
    found = own_cgroups()
    assert found
    for directory in found:
        assert (directory / "cgroup.procs").exists()
    below = [d for d in found if str(os.getpid()) in (d / "cgroup.procs").read_text().split()]
    on_version2 = [d for d in found if (d / "cgroup.controllers").exists()]
    assert len(below) + len(on_version2) >= len(found)


def test_a_cgroup_of_a_lab_is_seen(tmp_path: Path) -> None:
    before = census(tmp_path)
    directory = own_cgroups()[0] / CGROUP / "census-test"
    directory.mkdir(parents=True)
    try:
        assert str(directory) in census(tmp_path).beyond(before)["cgroups"]
    finally:
        directory.rmdir()
        if not any(path.is_dir() for path in directory.parent.iterdir()):
            directory.parent.rmdir()


def test_a_process_that_works_in_the_data_directory_is_seen_with_its_namespaces(tmp_path: Path) -> None:
    before = census(tmp_path)
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    command = ["unshare", "--net", "--mount", sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "up\n"
        found = census(tmp_path).beyond(before)
        assert [line.split()[0] for line in found["processes"]] == [str(process.pid)]
        assert {name.partition(":")[0] for name in found["namespaces"]} == {"mnt", "net"}
        assert process.stdin
        process.stdin.close()
    assert not any(census(tmp_path).beyond(before).values())


def test_a_link_and_a_mount_are_seen(tmp_path: Path) -> None:
    before = census(tmp_path)
    subprocess.run(["ip", "link", "add", "ecstest", "type", "dummy"], check=False)
    made = Path("/sys/class/net/ecstest").exists()
    if not made:
        subprocess.run(["ip", "link", "add", "ecstest", "type", "bridge"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    try:
        found = census(tmp_path).beyond(before)
        assert found["links"] == ["ecstest"]
        assert found["mounts"] == [str(tmp_path)]
    finally:
        subprocess.run(["umount", tmp_path], check=True)
        subprocess.run(["ip", "link", "delete", "ecstest"], check=True)


def test_what_was_there_before_does_not_count() -> None:
    one = Census(*(frozenset({"a"}) for _ in Census._fields))
    two = Census(*(frozenset({"a", "b"}) for _ in Census._fields))
    assert two.beyond(one) == {kind: ["b"] for kind in Census._fields}
    assert one.beyond(two) == {kind: [] for kind in Census._fields}
