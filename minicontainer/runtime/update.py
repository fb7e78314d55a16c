"""Update: change what a container may use while it runs, and what is recorded of it.

Stands beside `operations`, on `resources` and `cgroups`. Ruled by runtime-spec config-linux.md (Control groups). Some
values depend on each other, so the order in which they are written depends on what holds now.
"""

import os
from collections.abc import Mapping

from minicontainer import files, json_documents
from minicontainer.errors import Error
from minicontainer.oci.runtime import Resources, State, Status, spec_to_json
from minicontainer.plan import Explain, run
from minicontainer.runtime import cgroups, operations, states
from minicontainer.runtime.resources import Setting, settings
from minicontainer.values import Any

_LIMIT, _SWAP = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
_USAGE = "memory.usage_in_bytes"
_PERIOD, _QUOTA = "cpu.cfs_period_us", "cpu.cfs_quota_us"


def change(root: str, container_id: str, asked: Resources, explain: Explain | None = None) -> None:
    """Write what is asked for, and leave all else as it is.

    Raises:
        Error: a value depends on one that does not allow it, or the kernel refuses one.
    """
    current = operations.in_cgroup(operations.live(root, container_id, Status.CREATED, Status.RUNNING, Status.PAUSED))
    spec = states.recorded_spec(root, container_id)
    version2 = set(current.cgroups) == {cgroups.UNIFIED}
    known = spec.linux.resources
    check_usage(current, asked, version2)
    if version2 and asked.memory.swap and not asked.memory.limit:  # it is what is above the limit that holds
        asked = asked._replace(memory=asked.memory._replace(limit=known.memory.limit))
    wanted = settings(asked, version2)
    if not version2:
        wanted = ordered(wanted, _now(current, "memory", _LIMIT), _now(current, "cpu", _PERIOD))
    else:
        run(cgroups.hand_down(current.cgroups, wanted), explain)
    if current.scope:
        from minicontainer.runtime import systemd  # few containers are its

        run(systemd.change(current.scope, asked, version2), explain)
    run(cgroups.limit(current.cgroups, wanted, version2), explain)
    if asked.devices:
        run(cgroups.change_devices(current.cgroups, asked, version2), explain)
    spec = spec._replace(linux=spec.linux._replace(resources=merged(known, asked)))
    files.write(f"{root}/{container_id}/{states.CONFIG}", json_documents.dumps(spec_to_json(spec)))


def check_usage(current: State, asked: Resources, version2: bool) -> None:
    """A limit below what is used kills on version 2 and is refused on version 1: refuse it on both when asked to."""
    limit = asked.memory.limit
    if not asked.memory.check_before_update or not limit or limit < 0:
        return
    used = _now(current, cgroups.UNIFIED if version2 else "memory", "memory.current" if version2 else _USAGE)
    if used > limit:
        raise Error(f"memory.limit {limit} is below the {used} bytes that are in use, and checkBeforeUpdate is set")


def _now(current: State, controller: str, file: str) -> int:
    path = f"{current.cgroups.get(controller, '')}/{file}"
    return int(cgroups.read(path)) if os.path.exists(path) else 0


def ordered(wanted: list[Setting], limit: int, period: int) -> list[Setting]:
    """For version 1: memory never above memory and swap, a quota never refused for the period of before."""
    values = {setting.file: setting.value for setting in wanted}
    if values.get(_LIMIT) == "-1" and _SWAP not in values:
        wanted = [Setting("memory", _SWAP, "-1"), *wanted]
    elif _LIMIT in values and _SWAP in values and (values[_SWAP] == "-1" or int(values[_SWAP]) > limit):
        wanted = _swapped(wanted, _LIMIT, _SWAP)
    if _PERIOD in values and _QUOTA in values and int(values[_PERIOD]) < period and values[_QUOTA] != "-1":
        wanted = _swapped(wanted, _PERIOD, _QUOTA)
    return wanted


def _swapped(wanted: list[Setting], first: str, second: str) -> list[Setting]:
    by_file = {setting.file: setting for setting in wanted}
    other = {first: second, second: first}
    return [by_file[other.get(setting.file, setting.file)] for setting in wanted]


def merged(known: Any, asked: Any) -> Any:
    """What holds then: each value that was asked for in place of the one before."""
    changed = {}
    for name in asked._fields:
        old, new = getattr(known, name), getattr(asked, name)
        if hasattr(new, "_fields") and hasattr(old, "_fields"):
            changed[name] = merged(old, new)
        elif isinstance(new, Mapping):
            changed[name] = {**old, **new}
        elif new not in (None, (), "", False):
            changed[name] = new
    return known._replace(**changed)
