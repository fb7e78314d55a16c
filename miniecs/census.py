"""Census: what this computer holds that a lab could leave behind, as sets to be compared.

Stands below `lab`; the demo and the cluster tests take one before and one after. Ruled by proc(5) and cgroups(7).
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CGROUP = "miniecs-lab"  # below our own cgroups: the labs' machines
CONTAINERS = ("minicontainer", "ecs")  # and what the runtime and an agent make there


class Census(NamedTuple):
    """What could leak, as sets of names: taken before and after, the difference is what was left behind."""

    mounts: frozenset[str]
    links: frozenset[str]
    cgroups: frozenset[str]
    processes: frozenset[str]
    namespaces: frozenset[str]

    def beyond(self, earlier: "Census", bridge: str = "") -> dict[str, list[str]]:
        """Kind to names, of what is here and was not there; with `bridge`, without what labs on other bridges have."""
        new = {kind: getattr(self, kind) - getattr(earlier, kind) for kind in self._fields}
        others = {name.partition("p")[0] for name in os.listdir("/sys/class/net") if name.startswith("ecs")} - {bridge}
        if bridge:
            new["links"] = {name for name in new["links"] if name.partition("p")[0] not in others}
            theirs = tuple(f"/{CGROUP}/{other}/" for other in others)
            new["cgroups"] = {name for name in new["cgroups"] if not any(part in f"{name}/" for part in theirs)}
        return {kind: sorted(names) for kind, names in new.items()}


def census(data: Path) -> Census:
    """Count what a lab in `data` can leave: mounts, links, cgroups, processes, and the namespaces that these hold."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    processes = {pid: said for pid in _pids() if str(data) in (said := _command_line(pid)) and pid != os.getpid()}
    return Census(
        mounts=frozenset(
            mount for mount in mounts if mount.startswith((str(data), "/run/minicontainer", "/run/netns"))
        ),
        links=frozenset(name for name in os.listdir("/sys/class/net") if _is_ours(name)),
        cgroups=frozenset(path for own in own_cgroups() for path in _cgroups(own)),
        processes=frozenset(f"{pid} {said}" for pid, said in processes.items()),
        namespaces=frozenset(name for pid in processes for name in _namespaces(pid)),
    )


def _is_ours(link: str) -> bool:
    """A lab's link; or the containers' bridge, when no container is on it. A veth goes with its other end."""
    ports = f"/sys/class/net/{link}/brif"
    return link.startswith("ecs") or (
        link.startswith("minicontainer") and os.path.isdir(ports) and not os.listdir(ports)
    )


def _cgroups(own: Path) -> Iterator[str]:
    """The labs' cgroups, and containers' that are empty: one with processes is not forgotten, it is in use."""
    for directory, _, _ in os.walk(own / CGROUP):
        yield directory
    for name in CONTAINERS:
        for directory, below, _ in os.walk(own / name):
            with contextlib.suppress(OSError):  # it was removed meanwhile
                if not below and directory != str(own / name) and not Path(directory, "cgroup.procs").read_text():
                    yield directory


def _namespaces(pid: int) -> Iterator[str]:
    for kind in ("mnt", "net", "pid"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            name = os.readlink(f"/proc/{pid}/ns/{kind}")
            if name != os.readlink(f"/proc/self/ns/{kind}"):
                yield name


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def own_cgroups() -> list[Path]:
    """Where this process may make cgroups: in its own of each v1 hierarchy; on v2 in the parent of its own."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line]
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for fields in mounts:
            kind, options = fields[fields.index("-") + 1], set(fields[-1].split(","))
            if (kind == "cgroup2" and not names) or (names and kind == "cgroup" and set(names.split(",")) <= options):
                below = os.path.relpath(path, fields[3])
                own = Path(fields[4]) / ("" if below.startswith("..") else below)
                # One that has processes may not give controllers to children: cgroups(7), no internal processes.
                found.append(own.parent if kind == "cgroup2" and path != "/" else own)
                break
    return found
