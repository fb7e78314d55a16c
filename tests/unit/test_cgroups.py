"""What to write to which file of a cgroup, for both versions; and the device program, run by an interpreter here."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer import cgroups
from minicontainer.cgroups import Hierarchies, Setting
from minicontainer.errors import Error
from minicontainer.oci.runtime import Cpu, DeviceRule, Memory, Pids, Resources

MIB = 1 << 20
SOME = Resources(
    memory=Memory(limit=64 * MIB, reservation=32 * MIB, swap=96 * MIB),
    cpu=Cpu(shares=512, quota=50_000, period=100_000, cpus="0"),
    pids=Pids(limit=7),
)


def test_version_1_takes_the_values_as_they_are() -> None:
    assert [tuple(one) for one in cgroups.settings(SOME, version2=False)] == [
        ("memory", "memory.limit_in_bytes", str(64 * MIB)),
        ("memory", "memory.memsw.limit_in_bytes", str(96 * MIB)),
        ("memory", "memory.soft_limit_in_bytes", str(32 * MIB)),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "7"),
    ]


def test_version_2_has_other_files_and_another_scale() -> None:
    assert [tuple(one) for one in cgroups.settings(SOME, version2=True)] == [
        ("memory", "memory.max", str(64 * MIB)),
        ("memory", "memory.swap.max", str(32 * MIB)),
        ("memory", "memory.low", str(32 * MIB)),
        ("cpu", "cpu.weight", "20"),
        ("cpu", "cpu.max", "50000 100000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "7"),
    ]


def test_nothing_asked_is_nothing_written() -> None:
    assert cgroups.settings(Resources(), version2=False) == []
    assert cgroups.settings(Resources(), version2=True) == []


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262_144, 10_000), (0, 1)])
def test_shares_become_a_weight(shares: int, weight: int) -> None:
    assert cgroups.weight(shares) == weight


@given(st.integers(2, 262_144), st.integers(2, 262_144))
def test_a_weight_keeps_the_order(one: int, other: int) -> None:
    assert (cgroups.weight(one) <= cgroups.weight(other)) or one > other
    assert 1 <= cgroups.weight(one) <= 10_000


@pytest.mark.parametrize(
    ("limit", "swap", "text"), [(10, 0, None), (10, None, None), (10, -1, "max"), (10, 10, "0"), (10, 30, "20")]
)
def test_swap_alone_is_what_is_above_memory(limit: int, swap: int | None, text: str | None) -> None:
    assert cgroups.swap_max(limit, swap) == text


def test_swap_below_memory_is_refused() -> None:
    with pytest.raises(Error, match="less than the limit"):
        cgroups.swap_max(20, 10)


def test_unlimited_is_max() -> None:
    resources = Resources(memory=Memory(limit=-1), cpu=Cpu(quota=-1), pids=Pids(limit=0))
    assert {one.value for one in cgroups.settings(resources, version2=True)} == {"max", "max 100000"}


def test_unified_values_are_for_version_2_alone() -> None:
    resources = Resources(unified={"memory.high": "1000"})
    assert cgroups.settings(resources, version2=True) == [Setting("memory", "memory.high", "1000")]
    with pytest.raises(Error, match="version 2"):
        cgroups.settings(resources, version2=False)
    with pytest.raises(Error, match="not the name"):
        cgroups.settings(Resources(unified={"../x": "1"}), version2=True)


def test_relative_paths_are_below_the_caller_s_own_cgroup() -> None:
    hybrid = Hierarchies(
        mounts={"cpu": "/c/cpu", "memory": "/c/memory", "": "/c/unified"},
        own={"cpu": "/", "memory": "/me", "": "/"},
        version2=False,
    )
    assert cgroups.resolve(hybrid, "task/one") == {
        "cpu": "/c/cpu/task/one",
        "memory": "/c/memory/me/task/one",
        "": "/c/unified/task/one",
    }
    assert cgroups.resolve(hybrid, "/task")["memory"] == "/c/memory/task"


def test_on_version_2_they_are_beside_it() -> None:
    def at(own: str) -> Hierarchies:
        return Hierarchies(mounts={"": "/c"}, own={"": own}, version2=True)

    assert cgroups.resolve(at("/user/shell"), "one") == {"": "/c/user/one"}
    assert cgroups.resolve(at("/"), "one") == {"": "/c/one"}
    assert cgroups.resolve(at("/user"), "/abs/olute") == {"": "/c/abs/olute"}


@pytest.mark.parametrize("path", ["", "../x", "a/../../b"])
def test_a_path_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(Error, match="leads nowhere"):
        cgroups.resolve(Hierarchies(mounts={"": "/c"}, own={"": "/"}, version2=True), path)


@pytest.mark.parametrize(("path", "levels"), [("one", 0), ("task/one", 1), ("a/b/c", 2), ("/a/b", 0)])
def test_parents_that_are_ours(path: str, levels: int) -> None:
    assert cgroups.levels(path) == levels


def test_device_rules_for_version_1() -> None:
    rules = cgroups.device_rules(Resources(devices=(DeviceRule(allow=True, type="c", major=10, minor=200),)))
    lines = [f"{one.file.removeprefix('devices.')} {one.value}" for one in cgroups.device_settings(rules)]
    assert lines[:2] == ["deny a", "allow c 10:200 rwm"]
    assert "allow c 1:3 rwm" in lines
    assert "allow c 136:* rwm" in lines
    assert "allow b *:* m" in lines


MKNOD, READ, WRITE = 1, 2, 4
BLOCK, CHARACTER = 1, 2


def _interpret(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """The few eBPF instructions that a device program consists of."""
    registers, context = [0] * 11, struct.pack("<III", access << 16 | kind, major, minor)
    place = 0
    while True:
        opcode, both, offset, immediate = struct.unpack_from("<BBhI", program, place * 8)
        target, source, place = both & 15, both >> 4, place + 1
        if opcode == 0x61:
            registers[target] = struct.unpack_from("<I", context, offset)[0]
        elif opcode == 0xBF:
            registers[target] = registers[source]
        elif opcode == 0xB7:
            registers[target] = immediate
        elif opcode == 0x77:
            registers[target] >>= immediate
        elif opcode == 0x57:
            registers[target] &= immediate
        elif opcode == 0x55:
            place += offset if registers[target] != immediate else 0
        elif opcode == 0x15:
            place += offset if registers[target] == immediate else 0
        else:
            assert opcode == 0x95
            return registers[0]


def _allowed(rules: tuple[DeviceRule, ...], kind: int, access: int, major: int, minor: int) -> bool:
    return bool(_interpret(cgroups.device_program(rules), kind, access, major, minor))


def test_the_device_program_allows_what_every_container_may_use() -> None:
    rules = cgroups.device_rules(Resources())
    assert _allowed(rules, CHARACTER, READ | WRITE, 1, 3)
    assert _allowed(rules, CHARACTER, READ, 136, 42)
    assert _allowed(rules, BLOCK, MKNOD, 254, 0)
    assert not _allowed(rules, BLOCK, READ, 254, 0)
    assert not _allowed(rules, BLOCK, READ | MKNOD, 254, 0)
    assert not _allowed(rules, CHARACTER, READ, 1, 1)


rule = st.builds(
    DeviceRule,
    allow=st.booleans(),
    type=st.sampled_from("abc"),
    major=st.none() | st.integers(0, 2),
    minor=st.none() | st.integers(0, 2),
    access=st.sampled_from(["rwm", "r", "w", "m", "rw", "rm"]),
)


@given(
    st.lists(rule, max_size=6).map(tuple),
    st.sampled_from([BLOCK, CHARACTER]),
    st.integers(1, 7),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_the_last_rule_that_matches_decides(
    rules: tuple[DeviceRule, ...], kind: int, access: int, major: int, minor: int
) -> None:
    def matches(one: DeviceRule) -> bool:
        bits = sum({"m": MKNOD, "r": READ, "w": WRITE}[letter] for letter in one.access)
        if one.type != "a":
            if one.type != ("b" if kind == BLOCK else "c"):
                return False
            if one.major not in (None, major) or one.minor not in (None, minor):
                return False
        return access & ~bits == 0 if one.allow else access & bits != 0

    expected = next((one.allow for one in reversed(rules) if matches(one)), False)
    assert _allowed(rules, kind, access, major, minor) == expected
