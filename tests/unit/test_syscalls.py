"""System calls fail as `os` does: an OSError with the path in it."""

import errno
import os
import signal
from pathlib import Path

import pytest

from minicontainer.linux import flags, procfs, syscalls
from minicontainer.linux.syscalls import capget, clone3, close_range, openat2, prctl


def test_failure_is_an_os_error_with_the_path() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        syscalls.mount("tmpfs", "/no/such/place", "tmpfs", 0)
    assert caught.value.filename == "/no/such/place"
    with pytest.raises(OSError, match="/no/such/tree"):
        syscalls.open_tree(flags.AT_FDCWD, "/no/such/tree", 0)
    with pytest.raises(OSError, match="nosuchfs"):
        syscalls.fsopen("nosuchfs", 0)


def test_a_call_that_this_machine_has_no_number_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="nosuchcall") as caught:
        syscalls._number("nosuchcall")()
    assert caught.value.errno == errno.ENOSYS


def test_clone3_is_fork_without_flags() -> None:
    child = clone3(0)
    if child == 0:
        os._exit(23)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 23


def test_openat2_stays_in_its_root(tmp_path: Path) -> None:
    (tmp_path / "inside").write_text("inside")
    (tmp_path / "link").symlink_to("/inside")
    directory = os.open(tmp_path, os.O_PATH)
    try:
        found = openat2(directory, "link", os.O_RDONLY, 0, flags.RESOLVE_IN_ROOT)
        assert os.read(found, 10) == b"inside"
        os.close(found)
        with pytest.raises(OSError, match="link") as caught:
            openat2(directory, "link", os.O_RDONLY, 0, flags.RESOLVE_NO_SYMLINKS)
        assert caught.value.errno == errno.ELOOP
    finally:
        os.close(directory)


def test_capabilities_are_those_of_proc() -> None:
    effective, permitted, inheritable = capget()
    status = procfs.status()
    assert [effective, permitted, inheritable] == [int(status[f"Cap{name}"], 16) for name in ("Eff", "Prm", "Inh")]


def test_close_range_closes() -> None:
    first, second = os.pipe()
    first, second = min(first, second), max(first, second)
    third = os.dup2(first, second + 1)
    close_range(first, third)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(third)


def test_prctl_answers_and_refuses() -> None:
    assert prctl(flags.PR_CAPBSET_READ, 0) in (0, 1)
    with pytest.raises(OSError, match="prctl option 24"):
        prctl(flags.PR_CAPBSET_DROP, 9999)


def test_the_capabilities_of_this_kernel_have_names() -> None:
    assert len(flags.CAPABILITIES) == 41
    assert flags.CAPABILITIES[21] == "CAP_SYS_ADMIN"
    assert flags.CAPABILITIES[-1] == "CAP_CHECKPOINT_RESTORE"


def test_mountinfo_is_parsed_as_the_manual_says() -> None:
    line = r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:7 - ext3 /dev/ro\134ot rw,errors=continue"
    parsed = procfs._mount_line(line + "\n")
    assert parsed.target == "/mnt 2"
    assert parsed.source == "/dev/ro\\ot"
    assert parsed.propagation == ("master:1", "shared:7")
    assert (parsed.mount_id, parsed.parent_id, parsed.root, parsed.fstype) == (36, 35, "/mnt1", "ext3")
    assert any(mount.target == "/proc" for mount in procfs.mountinfo())


def test_cgroup_lines() -> None:
    assert procfs._membership("4:cpu,cpuacct:/a:b") == (4, ("cpu", "cpuacct"), "/a:b")
    assert procfs._membership("0::/") == (0, (), "/")
    assert procfs.cgroups()


def test_a_start_time_names_a_living_process() -> None:
    assert procfs.start_time(os.getpid()) == procfs.start_time(os.getpid())
    child = os.fork()
    if child == 0:
        signal.pause()
    started = procfs.start_time(child)
    assert started is not None
    assert procfs.parent(child) == os.getpid()
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert procfs.start_time(child) is None  # a zombie
    os.waitpid(child, 0)
    assert procfs.start_time(child) is None
    assert procfs.parent(child) is None
    assert procfs.cap_last_cap() >= 37
