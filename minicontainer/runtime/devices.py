"""Devices: which of them a container may make and use, as the lists of version 1 and as the program of version 2.

Stands between the spec's rules and `cgroups`; pure. Ruled by runtime-spec config-linux.md (Allowed Device list, Default
Devices), admin-guide/cgroup-v1/devices.rst, linux/bpf.h.
"""

from collections.abc import Iterable

from minicontainer.oci.runtime import DeviceRule, Resources

_BLOCK, _CHARACTER = 1, 2  # BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR
_ACCESS = {"m": 1, "r": 2, "w": 4}
# Every container may make nodes, and use these devices: config-linux.md, Default Devices.
_DEFAULT_RULES = (
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    *(DeviceRule(allow=True, type="c", major=1, minor=minor) for minor in (3, 5, 7, 8, 9)),
    DeviceRule(allow=True, type="c", major=5, minor=0),
    DeviceRule(allow=True, type="c", major=5, minor=2),
    DeviceRule(allow=True, type="c", major=136),
)


def rules_of(resources: Resources) -> tuple[DeviceRule, ...]:
    """A container may use nothing, then what its rules say, then what every container may use."""
    asked = resources.devices
    first = () if asked and asked[0].type == "a" else (DeviceRule(allow=False),)
    return (*first, *asked, *_DEFAULT_RULES)


def line(rule: DeviceRule) -> str:
    """A rule as devices.allow and devices.deny of version 1 take it: admin-guide/cgroup-v1/devices.rst."""
    number = ":".join("*" if part is None or part < 0 else str(part) for part in (rule.major, rule.minor))
    return "a" if rule.type in ("a", "") else f"{rule.type} {number} {rule.access}"


def transition(current: Iterable[str], wanted: Iterable[DeviceRule]) -> list[tuple[bool, str]]:
    """What to allow and then what to deny so that a list of version 1 becomes the wanted one, with no gap in between.

    `current` are the lines of devices.list.
    """
    allowed: dict[str, None] = {}
    for rule in wanted:
        if line(rule) == "a":
            allowed = {"a *:* rwm": None} if rule.allow else {}
        elif rule.allow:
            allowed[line(rule)] = None
        else:
            allowed.pop(line(rule), None)
    before = set(current)
    if "a *:* rwm" in allowed:
        return [] if "a *:* rwm" in before else [(True, "a")]
    if "a *:* rwm" in before:  # everything: it has no rule that could be taken away, only the whole
        return [(False, "a"), *((True, one) for one in allowed)]
    more = [(True, one) for one in allowed if one not in before]
    return more + [(False, one) for one in sorted(before) if one not in allowed]


def program(rules: Iterable[DeviceRule]) -> bytes:
    """The rules for version 2, as eBPF: the last rule that matches decides. struct bpf_cgroup_dev_ctx, linux/bpf.h."""
    program = [
        _instruction(0x61, 2, 1, 0, 0),  # r2 = access << 16 | type
        _instruction(0xBF, 3, 2, 0, 0),
        _instruction(0x77, 3, 0, 0, 16),  # r3 = access
        _instruction(0x57, 2, 0, 0, 0xFFFF),  # r2 = type
        _instruction(0x61, 4, 1, 4, 0),  # r4 = major
        _instruction(0x61, 5, 1, 8, 0),  # r5 = minor
    ]
    for rule in reversed(list(rules)):
        program += _device_rule(rule)
        if rule.type in ("a", "") and set(rule.access or "rwm") == set("rwm"):
            return b"".join(program)  # it matches all, and the kernel refuses code that cannot be reached
    program += [_instruction(0xB7, 0, 0, 0, 0), _instruction(0x95, 0, 0, 0, 0)]  # nothing matched: return 0
    return b"".join(program)


def _device_rule(rule: DeviceRule) -> list[bytes]:
    access = sum(_ACCESS[letter] for letter in rule.access or "rwm")
    body = [_instruction(0xB7, 0, 0, 0, int(rule.allow)), _instruction(0x95, 0, 0, 0, 0)]  # return allow
    tests: list[tuple[int, int, int]] = []  # opcode, register, value: skip the rest when it holds
    if rule.type in ("b", "c", "u"):
        tests.append((0x55, 2, _BLOCK if rule.type == "b" else _CHARACTER))
        tests += [(0x55, 4, rule.major)] if rule.major is not None and rule.major >= 0 else []
        tests += [(0x55, 5, rule.minor)] if rule.minor is not None and rule.minor >= 0 else []
    if access != 7 and rule.allow:  # all that is asked must be allowed: none of the other bits
        mask = [_instruction(0xBF, 0, 3, 0, 0), _instruction(0x57, 0, 0, 0, ~access & 7)]
        body = [*mask, _instruction(0x55, 0, 0, len(body), 0), *body]
    elif access != 7:  # one bit that is denied is enough
        mask = [_instruction(0xBF, 0, 3, 0, 0), _instruction(0x57, 0, 0, 0, access)]
        body = [*mask, _instruction(0x15, 0, 0, len(body), 0), *body]
    for opcode, register, value in reversed(tests):
        body = [_instruction(opcode, register, 0, len(body), value), *body]
    return body


def _instruction(opcode: int, target: int, source: int, offset: int, immediate: int) -> bytes:
    """One eBPF instruction: Documentation/bpf/instruction-set.rst."""
    return bytes((opcode, source << 4 | target)) + offset.to_bytes(2, "little") + immediate.to_bytes(4, "little")
