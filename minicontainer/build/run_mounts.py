"""Run mounts: what `RUN --mount=…` says, as values (pure).

Between `stages` (the variables) and `runs`, which makes them. Ruled by the Dockerfile reference, RUN --mount;
where that is silent, by what BuildKit does.
"""

import csv
import posixpath
import re
from typing import NamedTuple

from minicontainer.build.dockerfile import Instruction
from minicontainer.build.expansion import expand
from minicontainer.build.stages import Refused, Scope, State

FIELDS = {  # the keys of each type, besides `type`
    "bind": {"target", "source", "from", "rw"},
    "cache": {"target", "id", "source", "from", "rw", "sharing", "mode", "uid", "gid"},
    "tmpfs": {"target", "size"},
    "secret": {"target", "id", "required", "mode", "uid", "gid", "env"},
    "ssh": {"target", "id", "required", "mode", "uid", "gid"},
}
SYNONYMS = {"dst": "target", "destination": "target", "src": "source", "readwrite": "rw", "readonly": "ro"}
SWITCHES = ("rw", "ro", "required")
SHARING = ("shared", "private", "locked")
TRUE, FALSE = ("", "true", "1"), ("false", "0")
MODES = {"cache": 0o755, "secret": 0o400, "ssh": 0o600}  # when none is given
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class RunMount(NamedTuple):
    """One mount. `stage` is a stage, an image or a named context; empty: the build context, or nothing for a cache."""

    type: str
    target: str
    source: str = ""
    stage: str = ""
    id: str = ""
    read_only: bool = False
    sharing: str = "shared"
    mode: int = 0
    uid: int = 0
    gid: int = 0
    required: bool = False
    env: str = ""
    size: int = 0


def run_mounts(instruction: Instruction, state: State, scope: Scope) -> tuple[RunMount, ...]:
    """The mounts of a RUN, in its order.

    Raises:
        Refused: one of them cannot be.
        ExpansionError: a value cannot be expanded.
    """
    found = [_mount(text, state, scope) for text in instruction.flag_values("mount")]
    agents = [at for at, mount in enumerate(found) if mount.type == "ssh"]
    for number, at in enumerate(agents):
        if not found[at].target:
            found[at] = found[at]._replace(target=f"/run/buildkit/ssh_agent.{number}")
    return tuple(found)


def _words(text: str) -> list[str]:
    return next(iter(csv.reader([text])), [])


def _mount(text: str, state: State, scope: Scope) -> RunMount:
    values: dict[str, str] = {}
    for word in _words(text):
        name, equals, value = word.partition("=")
        name = SYNONYMS.get(name.strip().lower(), name.strip().lower())
        if not equals and name not in SWITCHES:
            raise Refused(f"--mount={text}: {word} needs a value: {word}=...")
        values[name] = expand(value, state.variables, scope.escape)
    kind = values.pop("type", "bind")
    if kind not in FIELDS:
        raise Refused(f"--mount={text}: {kind} is no type of mount; there are {', '.join(FIELDS)}")
    known = FIELDS[kind] | ({"ro"} if "rw" in FIELDS[kind] else set())
    if unknown := sorted(set(values) - known):
        raise Refused(f"--mount={text}: a mount of type {kind} has no {unknown[0]}")
    try:
        return _checked(kind, values, state.config.working_dir)
    except ValueError as error:
        raise Refused(f"--mount={text}: {error}") from None


def _checked(kind: str, values: dict[str, str], working_dir: str) -> RunMount:
    target = values.get("target", "")
    if not target and kind not in ("secret", "ssh"):
        raise ValueError(f"a mount of type {kind} needs a target: target=/path")
    sharing = values.get("sharing", "shared")
    if sharing not in SHARING:
        raise ValueError(f"sharing={sharing}: it is one of {', '.join(SHARING)}")
    name, env = values.get("id", ""), values.get("env", "")
    if kind == "secret":
        name = name or posixpath.basename(target)
        if not name:
            raise ValueError("a secret needs an id: id=name")
        target = target or ("" if env else f"/run/secrets/{name}")
    target = posixpath.normpath(posixpath.join("/", working_dir, target)) if target else ""
    if target == "/":
        raise ValueError("the target cannot be /")
    return RunMount(
        type=kind,
        target=target,
        source=values.get("source", ""),
        stage=values.get("from", ""),
        id=name or {"cache": target, "ssh": "default"}.get(kind, ""),
        read_only=not _switch(values, "rw", False) if kind == "bind" else _switch(values, "ro", False),
        sharing=sharing,
        mode=_number(values, "mode", MODES.get(kind, 0), 8),
        uid=_number(values, "uid", 0, 10),
        gid=_number(values, "gid", 0, 10),
        required=_switch(values, "required", False),
        env=env,
        size=_size(values.get("size", "")),
    )


def _switch(values: dict[str, str], name: str, default: bool) -> bool:
    if name not in values and name == "rw" and "ro" in values:
        return not _switch(values, "ro", True)
    value = values.get(name)
    if value is None:
        return default
    if value.lower() in TRUE:
        return True
    if value.lower() in FALSE:
        return False
    raise ValueError(f"{name}={value}: it is true or false")


def _number(values: dict[str, str], name: str, default: int, base: int) -> int:
    text = values.get(name)
    if text is None:
        return default
    try:
        number = int(text, base)
    except ValueError:
        number = -1
    if number < 0 or (base == 8 and number > 0o7777):
        raise ValueError(f"{name}={text}: it is {'an octal mode' if base == 8 else 'a number'}")
    return number


def _size(text: str) -> int:
    """Bytes of `64m`, `1g`, `4096`."""
    match = re.fullmatch(r"(\d+)([bkmg]?)b?", text.lower())
    if text and match is None:
        raise ValueError(f"size={text}: it is a number of bytes, like 64m")
    return int(match[1]) * UNITS[match[2]] if match else 0
