"""Reports: what there is, for people as tables and for programs as JSON in docker's words. Pure.

Stands between values and `cli`.
"""

import calendar
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence

from minicontainer.values import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing import TextIO
from minicontainer.arguments import UsageError
from minicontainer.bundle import label_filter
from minicontainer.containers import CREATED, EXITED, RUNNING, Container, Port
from minicontainer.logs import format_time

CONTAINER_HEADS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED",
    "Status": "STATUS",
    "Ports": "PORTS",
    "Names": "NAMES",
}
USAGE_HEADS = {"ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEMORY", "PIDs": "PIDS"}
IMAGE_HEADS = {"Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE"}
FILTERS: Mapping[str, Callable[[Container, str], bool]] = {
    "name": lambda container, value: value in container.name,
    "id": lambda container, value: container.id.startswith(value),
    "status": lambda container, value: container.status == value,
    "ancestor": lambda container, value: value in (container.image, container.image.partition(":")[0]),
    "label": lambda container, value: label_filter(container.options.labels, value),
}
AGES = ((60, 1, "second"), (3600, 60, "minute"), (86400, 3600, "hour"), (1 << 62, 86400, "day"))
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Unit(NamedTuple):
    size: float
    name: str


SIZES = (_Unit(1e9, "GB"), _Unit(1e6, "MB"), _Unit(1e3, "kB"), _Unit(1, "B"))


def show(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str], form: str | None, out: "TextIO") -> None:
    """The rows as a table, or with `form` json as one object a line."""
    if form == "json":
        for row in rows:
            out.write(json.dumps(row) + "\n")
        return
    if form is not None:
        raise UsageError(f"--format {form!r} is not built yet; try: --format json")
    lines = [list(heads.values()), *([str(row[name]) for name in heads] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        out.write("   ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)).rstrip() + "\n")


def container_row(container: Container, now: float, whole: bool) -> dict[str, Any]:
    command = " ".join(container.command)
    return {
        "ID": container.id if whole else container.id[:12],
        "Image": container.image,
        "Command": f'"{command if whole or len(command) <= 20 else command[:19] + "…"}"',
        "CreatedAt": f"{age(now - container.created)} ago",
        "Status": status(container, now),
        "Ports": ", ".join(map(published, container.ports if container.status == RUNNING else ())),
        "Names": container.name,
        "State": container.status,
        "Labels": ",".join(f"{name}={value}" for name, value in container.options.labels.items()),
    }


def usage_row(container: Container, usage: Any, cpu: float) -> dict[str, Any]:
    limit = f" / {size(container.options.memory)}" if container.options.memory else ""
    return {
        "ID": container.id[:12],
        "Name": container.name,
        "CPUPerc": f"{cpu:.2f}%",
        "MemUsage": f"{size(usage.memory_bytes)}{limit}",
        "PIDs": str(usage.pids),
    }


def status(container: Container, now: float) -> str:
    """Up 3 minutes, Exited (0) 2 hours ago, Created."""
    if container.status == RUNNING:
        return f"Up {age(now - container.started_at)}"
    if container.status == EXITED:
        why = ", out of memory" if container.oom_killed else ""
        return f"Exited ({container.exit_code}{why}) {age(now - container.finished_at)} ago"
    return "Created"


def published(port: Port) -> str:
    return f"{port.host_ip or '0.0.0.0'}:{port.host_port}->{port.container_port}/{port.protocol}"


def age(seconds: float) -> str:
    """Three of one unit, the largest that fits."""
    for limit, unit, name in AGES:
        if seconds < limit:
            count = int(max(0, seconds) // unit)
            return f"{count} {name}{'' if count == 1 else 's'}"
    raise AssertionError("the last limit is never reached")


def size(count: int) -> str:
    """5.2MB: decimal, as docker says sizes."""
    unit = next((unit for unit in SIZES if count >= unit.size), SIZES[-1])
    return f"{count / unit.size:.3g}{unit.name}"


def moment(text: str, now: float) -> float:
    """A time of --since: 2026-01-02T03:04:05Z, seconds since the epoch, or 10m ago."""
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return now - float(found[1]) * UNITS[found[2]]
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        whole, _, fraction = text.removesuffix("Z").partition(".")
        try:
            return calendar.timegm(time.strptime(whole, form)) + float(f"0.{fraction or 0}")
        except ValueError:
            continue
    raise UsageError(f"--since {text!r}: a time such as 2026-01-02T03:04:05Z, or 10m, is expected")


def filter_of(text: str) -> Callable[[Container], bool]:
    """KEY=VALUE of --filter."""
    key, equals, value = text.partition("=")
    if not equals or key not in FILTERS:
        raise UsageError(f"--filter {text!r} is not known; known are: {', '.join(FILTERS)}")
    return lambda container: FILTERS[key](container, value)


def container_json(container: Container) -> dict[str, Any]:
    """What `docker inspect` says of a container, as far as it exists here."""
    options = container.options
    return {
        "Id": container.id,
        "Created": format_time(container.created),
        "Path": container.command[0],
        "Args": list(container.command[1:]),
        "State": {
            "Status": container.status,
            "Running": container.status == RUNNING,
            "OOMKilled": container.oom_killed,
            "Pid": container.pid,
            "ExitCode": container.exit_code,
            "Error": container.error,
            "StartedAt": _time(container.started_at),
            "FinishedAt": _time(container.finished_at),
        },
        "Image": container.image_id,
        "Name": container.name,
        "RestartCount": container.restarts,
        "LogPath": f"{container.bundle}/log.jsonl",
        "Config": {
            "Hostname": options.hostname or container.id[:12],
            "User": options.user,
            "Env": list(options.env),
            "Cmd": list(options.command),
            "Image": container.image,
            "Labels": dict(options.labels),
            "Tty": options.tty,
            "StopSignal": container.stop_signal,
        },
        "HostConfig": _host_config(container),
        "NetworkSettings": {
            "IPAddress": container.network.address,
            "IPPrefixLen": container.network.prefix,
            "Gateway": container.network.gateway,
            "MacAddress": container.network.mac,
            "Ports": _ports(container),
        },
        "Bundle": container.bundle,
        "CgroupPaths": dict(container.cgroups),
        "SupervisorPid": container.supervisor_pid if container.status != CREATED else 0,
        "IDMapping": {"ContainerID": 0, "HostID": container.id_base, "Size": 65536}
        if options.userns != "host"
        else None,
    }


def _host_config(container: Container) -> dict[str, Any]:
    options = container.options
    return {
        "NetworkMode": options.network,
        "Memory": options.memory or 0,
        "MemoryReservation": options.memory_reservation or 0,
        "MemorySwap": options.memory_swap or 0,
        "NanoCpus": int((options.cpus or 0) * 1e9),
        "CpuShares": options.cpu_shares or 0,
        "PidsLimit": options.pids_limit,
        "CapAdd": list(options.cap_add),
        "CapDrop": list(options.cap_drop),
        "SecurityOpt": list(options.security_opt),
        "ReadonlyRootfs": options.read_only,
        "RestartPolicy": {"Name": options.restart.partition(":")[0]},
        "AutoRemove": options.remove,
        "CgroupParent": options.cgroup_parent,
        "Binds": [f"{v.source}:{v.target}{':ro' if v.read_only else ''}" for v in options.volumes],
    }


def _ports(container: Container) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for port in container.ports:
        binding = {"HostIp": port.host_ip or "0.0.0.0", "HostPort": str(port.host_port)}
        found.setdefault(f"{port.container_port}/{port.protocol}", []).append(binding)
    return found


def _time(seconds: float) -> str:
    return format_time(seconds) if seconds else "0001-01-01T00:00:00Z"
