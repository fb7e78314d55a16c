"""The compiled profile, asked what it would do: by an interpreter of classic BPF here."""

import errno
import os
import struct
from pathlib import Path

import pyseccomp
import pytest

from minicontainer.errors import Error
from minicontainer.linux.flags import SECCOMP_FILTER_FLAG_NEW_LISTENER
from minicontainer.oci.runtime import Seccomp, SeccompArgument, SeccompRule
from minicontainer.runtime import seccomp

X86_64, I386 = pyseccomp.Arch.X86_64, pyseccomp.Arch.X86
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PROFILE = seccomp.default_profile()


@pytest.fixture(scope="module")
def program() -> bytes:
    return seccomp.compile_profile(PROFILE)


def _decide(program: bytes, call: int | str, *arguments: int, architecture: int = X86_64) -> int:
    """Run the filter on one system call: Documentation/networking/filter.rst."""
    number = pyseccomp.resolve_syscall(architecture, call) if isinstance(call, str) else call
    six = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *six)
    accumulator = place = 0
    while True:
        code, when, otherwise, value = struct.unpack_from("<HBBI", program, place * 8)
        place += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x06:
            return int(value)
        elif code == 0x05:
            place += value
        elif code == 0x54:
            accumulator &= value
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            place += when if holds else otherwise


@pytest.mark.parametrize("name", ["read", "execve", "openat", "clone", "mmap", "futex", "accept4", "exit_group"])
def test_what_programs_need_is_allowed(program: bytes, name: str) -> None:
    assert _decide(program, name) == ALLOW


@pytest.mark.parametrize(
    "name",
    [
        "mount",
        "umount2",
        "pivot_root",
        "unshare",
        "setns",
        "keyctl",
        "add_key",
        "bpf",
        "perf_event_open",
        "init_module",
        "kexec_load",
        "io_uring_setup",
        "userfaultfd",
        "open_by_handle_at",
        "reboot",
        "settimeofday",
        "open_tree",
        "fsopen",
    ],
)
def test_what_breaks_out_is_refused(program: bytes, name: str) -> None:
    assert _decide(program, name) == ERRNO | errno.EPERM


def test_the_old_entry_point_is_covered_too(program: bytes) -> None:
    assert _decide(program, "read", architecture=I386) == ALLOW
    assert _decide(program, "mount", architecture=I386) == ERRNO | errno.EPERM
    assert _decide(program, 0x40000000 | 165) != ALLOW  # mount by the x32 numbers


def test_clone_makes_no_namespace_and_clone3_is_not_there(program: bytes) -> None:
    assert _decide(program, "clone", 0x01200011) == ALLOW  # as fork does it
    assert _decide(program, "clone", 0x10000000) == ERRNO | errno.EPERM  # CLONE_NEWUSER
    assert _decide(program, "clone", 0x02000000) == ERRNO | errno.EPERM  # CLONE_NEWCGROUP
    assert _decide(program, "clone3") == ERRNO | errno.ENOSYS


def test_sockets_are_allowed_but_for_the_hypervisor_s(program: bytes) -> None:
    assert _decide(program, "socket", 2) == ALLOW
    assert _decide(program, "socket", 41) == ALLOW
    assert _decide(program, "socket", 40) == ERRNO | errno.EPERM


def test_personality_is_for_known_ones(program: bytes) -> None:
    assert _decide(program, "personality", 0) == ALLOW
    assert _decide(program, "personality", 0xFFFFFFFF) == ALLOW
    assert _decide(program, "personality", 0x0400000) == ERRNO | errno.EPERM


def test_a_call_of_the_future_is_not_there(program: bytes) -> None:
    assert _decide(program, 600) == ERRNO | errno.ENOSYS


def test_a_program_is_compiled_once(tmp_path: Path) -> None:
    directory = str(tmp_path / "cache")
    compiled = seccomp.program(PROFILE, directory)
    (cached,) = (tmp_path / "cache").iterdir()
    assert cached.read_bytes() == compiled
    cached.write_bytes(b"from the cache!!")
    assert seccomp.program(PROFILE, directory) == b"from the cache!!"
    other = PROFILE._replace(default_errno_ret=errno.EACCES)
    assert seccomp.program(other, directory) not in (compiled, b"from the cache!!")


@pytest.mark.parametrize("left", [0, 13], ids=["nothing", "a part"])
def test_of_a_program_that_a_power_cut_left_in_part_another_is_compiled(left: int, tmp_path: Path) -> None:
    directory = str(tmp_path / "cache")
    compiled = seccomp.program(PROFILE, directory)
    (cached,) = (tmp_path / "cache").iterdir()
    os.truncate(cached, left)
    assert seccomp.program(PROFILE, directory) == cached.read_bytes() == compiled


def test_alternatives_on_one_argument_are_alternatives() -> None:
    def equal(value: int) -> SeccompArgument:
        return SeccompArgument(argument=0, value=value, op="SCMP_CMP_EQ")

    rule = SeccompRule(names=("personality",), action="SCMP_ACT_ALLOW", args=(equal(1), equal(2)))
    program = seccomp.compile_profile(Seccomp(default_action="SCMP_ACT_ERRNO", default_errno_ret=99, syscalls=(rule,)))
    assert _decide(program, "personality", 1) == _decide(program, "personality", 2) == ALLOW
    assert _decide(program, "personality", 3) == ERRNO | 99


def test_a_rule_that_repeats_the_default_and_an_unknown_name_are_left_out() -> None:
    rules = (
        SeccompRule(names=("read", "no_such_call"), action="SCMP_ACT_ALLOW"),
        SeccompRule(names=("no_such_call_either", "mount"), action="SCMP_ACT_ERRNO", errno_ret=1),
    )
    program = seccomp.compile_profile(Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=rules))
    assert _decide(program, "read") == ALLOW
    assert _decide(program, "mount") == ERRNO | 1


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        (Seccomp(default_action="SCMP_ACT_LUCK"), "SCMP_ACT_LUCK is not supported"),
        (Seccomp(default_action="SCMP_ACT_ALLOW", architectures=("SCMP_ARCH_PDP11",)), "SCMP_ARCH_PDP11 is not known"),
        (
            Seccomp(
                default_action="SCMP_ACT_ALLOW",
                syscalls=(
                    SeccompRule(
                        names=("read",), action="SCMP_ACT_TRAP", args=(SeccompArgument(0, 1, "SCMP_CMP_LIKE"),)
                    ),
                ),
            ),
            "SCMP_CMP_LIKE is not known",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(profile: Seccomp, text: str) -> None:
    with pytest.raises(Error, match=text):
        seccomp.compile_profile(profile)


def test_flags() -> None:
    assert seccomp.load_flags(Seccomp(default_action="", flags=("SECCOMP_FILTER_FLAG_LOG",))) == 2
    with pytest.raises(Error, match="FLAG_X"):
        seccomp.load_flags(Seccomp(default_action="", flags=("SECCOMP_FILTER_FLAG_X",)))


def _watched(*names: str, path: str = "/run/agent") -> Seccomp:
    rule = SeccompRule(names=names, action=seccomp.NOTIFY)
    return Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=(rule,), listener_path=path, flags=TSYNC)


TSYNC = ("SECCOMP_FILTER_FLAG_TSYNC",)


def test_a_rule_that_notifies_asks_the_kernel_for_a_listener() -> None:
    assert seccomp.notifies(_watched("mknod"))
    assert seccomp.load_flags(_watched("mknod")) == SECCOMP_FILTER_FLAG_NEW_LISTENER
    assert not seccomp.notifies(Seccomp(default_action="SCMP_ACT_ALLOW", listener_path="/run/agent"))


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        (_watched("mknod", path=""), "needs listenerPath"),
        (_watched("mknod", "write"), "nor for write"),
        (Seccomp(default_action="SCMP_ACT_NOTIFY"), "the default action"),
    ],
)
def test_a_listener_that_could_not_be_told_of_is_refused(profile: Seccomp, text: str) -> None:
    with pytest.raises(Error, match=text):
        seccomp.notifies(profile)
