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
from minicontainer.containers import CREATED, EXITED, RUNNING, Container, Port, Volume
from minicontainer.logs import format_time

CONTAINER_HEADS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Ports": "PORTS",
    "Names": "NAMES",
}
USAGE_HEADS = {"ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEMORY", "PIDs": "PIDS"}
IMAGE_HEADS = {"Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE"}
DIGEST_HEADS = {"Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", **dict([*IMAGE_HEADS.items()][2:])}
FILTERS: Mapping[str, Callable[[Container, str], bool]] = {
    "name": lambda container, value: value in container.name,
    "id": lambda container, value: container.id.startswith(value),
    "status": lambda container, value: container.status == value,
    "ancestor": lambda container, value: value in (container.image, container.image.partition(":")[0]),
    "label": lambda container, value: label_filter(container.options.labels, value),
}
AGES = ((60, 1, "second"), (3600, 60, "minute"), (86400, 3600, "hour"), (1 << 62, 86400, "day"))
PAUSED = "paused"  # what runs and is frozen
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Unit(NamedTuple):
    size: float
    name: str


SIZES = (_Unit(1e9, "GB"), _Unit(1e6, "MB"), _Unit(1e3, "kB"), _Unit(1, "B"))


def show(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str], form: str | None, out: "TextIO") -> None:
    """The rows as a table; or as --format wants them: json, a template a line, a table of one."""
    word, _, rest = (form or "table").partition(" ")
    if form == "json":
        out.write("".join(json.dumps(row) + "\n" for row in rows))
        return
    from minicontainer import templates  # why here: ids alone, and what a container starts with, need none

    if word != "table":
        line = templates.template(form or "")
        out.write("".join(f"{line(row)}\n" for row in rows))
        return
    line = templates.template(rest or "\t".join(f"{{{{.{name}}}}}" for name in heads))
    titles = {name: heads.get(name, name.upper()) for name in (*heads, *(rows[0] if rows else ()))}
    out.write(templates.aligned([line(titles), *map(line, rows)]))


def show_documents(found: Sequence[Mapping[str, Any]], form: str | None, out: "TextIO") -> None:
    """What `inspect` found: a list of objects; in one line for --format json; a template's line for each."""
    if form in (None, "json"):
        out.write(json.dumps(found, indent=None if form else 4) + "\n")
        return
    from minicontainer import templates  # why here: as above

    line = templates.template(form or "")
    out.write("".join(f"{line(one)}\n" for one in found))


def container_row(container: Container, now: float, whole: bool, paused: bool = False) -> dict[str, Any]:
    command = " ".join(container.command)
    return {
        "ID": container.id if whole else container.id[:12],
        "Image": container.image,
        "Command": f'"{command if whole or len(command) <= 20 else command[:19] + "…"}"',
        "CreatedAt": _date(container.created),
        "RunningFor": f"{age(now - container.created)} ago",
        "Status": status(container, now) + (" (Paused)" if paused else ""),
        "Ports": ", ".join(map(published, container.ports if container.status == RUNNING else ())),
        "Names": container.name,
        "State": PAUSED if paused else container.status,
        "Labels": ",".join(f"{name}={value}" for name, value in container.options.labels.items()),
        "Networks": container.options.network,
        "Mounts": ",".join(volume.name or volume.source for volume in container.options.volumes),
    }


def usage_row(container: Container, usage: Any, cpu: float) -> dict[str, Any]:
    limit = f" / {size(container.options.memory)}" if container.options.memory else ""
    return {
        "ID": container.id[:12],
        "Name": container.name,
        "Container": container.id[:12],
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


def moment(text: str, now: float, flag: str = "--since") -> float:
    """A time of --since or --until: 2026-01-02T03:04:05Z, seconds since the epoch, or 10m ago."""
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
    raise UsageError(f"{flag} {text!r}: a time such as 2026-01-02T03:04:05Z, or 10m, is expected")


def filter_of(text: str) -> Callable[[Container], bool]:
    """KEY=VALUE of --filter."""
    key, equals, value = text.partition("=")
    if not equals or key not in FILTERS:
        raise UsageError(f"--filter {text!r} is not known; known are: {', '.join(FILTERS)}")
    return lambda container: FILTERS[key](container, value)


def container_json(container: Container, paused: bool = False) -> dict[str, Any]:
    """What `docker inspect` says of a container, as far as it exists here."""
    options = container.options
    return {
        "Id": container.id,
        "Created": format_time(container.created),
        "Path": container.command[0],
        "Args": list(container.command[1:]),
        "State": {
            "Status": PAUSED if paused else container.status,
            "Running": container.status == RUNNING,
            "Paused": paused,
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
        "Mounts": [_mount(volume) for volume in options.volumes],
        "NetworkSettings": {
            "IPAddress": container.network.address,
            "IPPrefixLen": container.network.prefix,
            "Gateway": container.network.gateway,
            "MacAddress": container.network.mac,
            "Ports": _ports(container),
            "Networks": {
                options.network: {"IPAddress": container.network.address, "Gateway": container.network.gateway}
            },
        },
        "Bundle": container.bundle,
        "CgroupPaths": dict(container.cgroups),
        "SupervisorPid": container.supervisor_pid if container.status != CREATED else 0,
        "IDMapping": {"ContainerID": 0, "HostID": container.id_base, "Size": 65536}
        if options.userns != "host"
        else None,
    }


def _mount(volume: Volume) -> dict[str, Any]:
    return {
        "Type": "volume" if volume.name else "bind",
        "Name": volume.name,
        "Source": volume.source,
        "Destination": volume.target,
        "RW": not volume.read_only,
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
        "Binds": [
            f"{v.name or v.source}:{v.target}{':ro' if v.read_only else ''}" for v in options.volumes if not v.anonymous
        ],
    }


def _ports(container: Container) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for port in container.ports:
        binding = {"HostIp": port.host_ip or "0.0.0.0", "HostPort": str(port.host_port)}
        found.setdefault(f"{port.container_port}/{port.protocol}", []).append(binding)
    return found


def _date(seconds: float) -> str:
    """2026-01-02 03:04:05 +0000 UTC, as docker's lists say a time."""
    return time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(seconds))


def _time(seconds: float) -> str:
    return format_time(seconds) if seconds else "0001-01-01T00:00:00Z"
