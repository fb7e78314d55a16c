"""Device rules as the lines of version 1, and as the program of version 2, run by an interpreter here."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from minicontainer.oci.runtime import DeviceRule, Resources
from minicontainer.runtime.devices import line, program, rules_of, transition


def test_device_rules_for_version_1() -> None:
    rules = rules_of(Resources(devices=(DeviceRule(allow=True, type="c", major=10, minor=200),)))
    lines = [f"{'allow' if one.allow else 'deny'} {line(one)}" for one in rules]
    assert lines[:2] == ["deny a", "allow c 10:200 rwm"]
    assert "allow c 1:3 rwm" in lines
    assert "allow c 136:* rwm" in lines
    assert "allow b *:* m" in lines


MKNOD, READ, WRITE = 1, 2, 4
BLOCK, CHARACTER = 1, 2


def _interpret(code: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """The few eBPF instructions that a device program consists of."""
    registers, context = [0] * 11, struct.pack("<III", access << 16 | kind, major, minor)
    place = 0
    while True:
        opcode, both, offset, immediate = struct.unpack_from("<BBhI", code, place * 8)
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
    return bool(_interpret(program(rules), kind, access, major, minor))


def test_the_device_program_allows_what_every_container_may_use() -> None:
    rules = rules_of(Resources())
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


def test_a_list_of_version_1_changes_without_a_gap() -> None:
    """What both lists have is never denied, and what is new is allowed before what is old is denied."""
    before = [line(one) for one in rules_of(Resources()) if one.allow]
    new = DeviceRule(allow=True, type="c", major=10, minor=200)
    assert transition(before, rules_of(Resources(devices=(new,)))) == [(True, "c 10:200 rwm")]
    assert transition([*before, "c 10:200 rwm"], rules_of(Resources())) == [(False, "c 10:200 rwm")]
    everything = (DeviceRule(allow=True),)
    assert transition(before, everything) == [(True, "a")]
    assert transition(["a *:* rwm"], everything) == []
    assert transition(["a *:* rwm"], rules_of(Resources()))[0] == (False, "a")
