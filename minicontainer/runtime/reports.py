"""The commands of the OCI runtime that tell of containers and change what they may use.

Stands below `cli`, which loads it for these commands alone: no start of a container needs it. Ruled by runc's
flags and formats, which podman, dockerd and containerd read.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence

from minicontainer.errors import Error
from minicontainer.oci.runtime import State
from minicontainer.plan import explain_on
from minicontainer.runtime.options import Command, Flag, Options, root_of

_FORMATS = ("table", "json")
_UPDATES = {  # flag of `update`: section and field of linux.resources
    "blkio-weight": ("blockIO", "weight"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-idle": ("cpu", "idle"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-share": ("cpu", "shares"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "kernel-memory": ("memory", "kernel"),
    "kernel-memory-tcp": ("memory", "kernelTCP"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}  # fmt: skip


def _state(options: Options, own: Options) -> int:
    from minicontainer.runtime import states

    print(json.dumps(public(states.state(root_of(options), own.one())), indent=2))
    return 0


def public(state: State, owner: str = "") -> dict[str, object]:
    return {
        "ociVersion": state.oci_version,
        "id": state.id,
        "pid": state.pid,
        "status": state.status,
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        **({"annotations": dict(state.annotations)} if state.annotations else {}),
        "owner": owner,
    }


def _format(own: Options) -> str:
    chosen = own.text("format", "table")
    if chosen not in _FORMATS:
        raise Error(f"invalid format option {chosen!r}; try: table or json")
    return chosen


def _list(options: Options, own: Options) -> int:
    from minicontainer.runtime import states

    own.none()
    found = states.containers(root_of(options))
    chosen = _format(own)
    if own.has("quiet"):
        print("\n".join(state.id for state in found))
    elif chosen == "json":
        print(json.dumps([public(state, "root") for state in found] or None))
    else:
        rows = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
        rows += [(state.id, str(state.pid), state.status, state.bundle, state.created, "root") for state in found]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _ps(options: Options, own: Options) -> int:
    """A table of ps(1), of which the lines of the container's processes are printed."""
    from minicontainer.runtime import cgroups, operations, states

    if not own.rest:
        raise Error("a container id is needed; try: ps ID [OPTION OF PS]...")
    container_id, *arguments = own.rest
    pids = sorted(cgroups.processes(operations.in_cgroup(states.state(root_of(options), container_id)).cgroups))
    if _format(own) == "json":
        print(json.dumps(pids or None, separators=(",", ":")))
        return 0
    show_processes(pids, arguments)
    return 0


def show_processes(pids: Iterable[int], arguments: Sequence[str]) -> None:
    """The lines of these processes in what ps(1) says with the arguments."""
    import subprocess

    try:
        done = subprocess.run(["ps", *(arguments or ["-ef"])], stdout=subprocess.PIPE, text=True, check=True)
    except FileNotFoundError:
        raise Error("ps(1) is not installed; try: ps --format json ID") from None
    except subprocess.CalledProcessError as error:
        raise Error(f"ps {' '.join(arguments)} ended with status {error.returncode}") from None
    title, *lines = done.stdout.splitlines()
    if "PID" not in title.split():
        raise Error("ps shows no column PID, by which its lines are chosen; try: -o pid,…")
    column = title.split().index("PID")
    print(title)
    wanted = set(map(str, pids))
    print("".join(f"{line}\n" for line in lines if line.split()[column] in wanted), end="")


def _update(options: Options, own: Options) -> int:
    from minicontainer.oci.runtime import resources_from_json
    from minicontainer.runtime import update

    for name in ("l3-cache-schema", "mem-bw-schema"):
        if own.text(name):
            raise Error(f"--{name}: Intel RDT is not supported by this runtime")
    asked = _read(own.text("resources")) if own.text("resources") else _asked(own)
    explain = explain_on(2, "runtime") if options.has("explain") else None
    update.change(root_of(options), own.one(), resources_from_json(asked), explain)
    return 0


def _read(path: str) -> dict[str, object]:
    text = sys.stdin.buffer.read() if path == "-" else _bytes_of(path)
    try:
        found: dict[str, object] = json.loads(text)
    except ValueError as error:
        raise Error(f"--resources {path} is not JSON: {error}") from None
    return found


def _bytes_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _asked(own: Options) -> dict[str, object]:
    sections: dict[str, dict[str, object]] = {}
    for flag, (section, field) in _UPDATES.items():
        if flag in own.values:
            read = own.bytes if section == "memory" else own.text if field in ("cpus", "mems") else own.number
            value = read(flag)
            sections.setdefault(section, {})[field] = value
    return dict(sections)


def _events(options: Options, own: Options) -> int:
    from minicontainer.runtime import events

    root, container_id = root_of(options), own.one()
    if own.has("stats"):
        _line(events.stats(root, container_id))
        return 0
    for event in events.follow(root, container_id, events.seconds(own.text("interval", "5s"))):
        _line(event)
    return 0


def _line(value: object) -> None:
    print(json.dumps(value, separators=(",", ":")), flush=True)


def _features(_: Options, own: Options) -> int:
    from minicontainer.runtime import features

    own.none()
    print(json.dumps(features.features(), indent=4))
    return 0


def _spec(_: Options, own: Options) -> int:
    from minicontainer.runtime import features

    own.none()
    path = os.path.join(own.text("bundle", "."), "config.json")
    if os.path.exists(path):
        raise Error(f"{path} exists; try: remove it first, or --bundle DIRECTORY")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(features.default_config(own.has("rootless")), file, indent="\t")
    return 0


def _refuse(name: str) -> Command:
    def refuse(_: Options, __: Options) -> int:
        raise Error(f"{name} is not supported by this runtime; try: runc, which leaves it to CRIU")

    return Command(refuse, "ID", "not supported: refused by name", {})


COMMANDS = {
    "state": Command(_state, "ID", "print what is known of a container, as JSON", {}),
    "list": Command(
        _list, "", "list containers", {"format": Flag("table or json", "FORMAT"), "quiet": Flag("ids alone")}
    ),
    "ps": Command(
        _ps,
        "[FLAG]... ID [OPTION OF PS]...",
        "list the processes of a container",
        {"format": Flag("table or json", "FORMAT")},
    ),
    "update": Command(
        _update,
        "[FLAG]... ID",
        "change what a container may use, while it runs",
        {
            "resources": Flag("a file with linux.resources as JSON, - for the standard input", "FILE"),
            **{name: Flag(f"{place}.{field} of linux.resources", "VALUE") for name, (place, field) in _UPDATES.items()},
            "l3-cache-schema": Flag("not supported: Intel RDT", "TEXT"),
            "mem-bw-schema": Flag("not supported: Intel RDT", "TEXT"),
        },
    ),
    "events": Command(
        _events,
        "[FLAG]... ID",
        "tell what a container uses, and when it runs out of memory, as lines of JSON",
        {"stats": Flag("once"), "interval": Flag("between two lines, like 5s or 500ms", "TIME")},
    ),
    "features": Command(_features, "", "print what this runtime can do, as JSON", {}),
    "spec": Command(
        _spec,
        "[FLAG]...",
        "write a config.json to begin with",
        {"bundle": Flag("where to", "DIRECTORY"), "rootless": Flag("for a user who is not root")},
    ),
    "checkpoint": _refuse("checkpoint"),
    "restore": _refuse("restore"),
}  # fmt: skip
