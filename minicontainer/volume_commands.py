"""Volume commands: create, ls, inspect, rm, prune. Each a function of the command line's table.

Stands between `cli` and `volumes`. Ruled by docker's commands of these names: their words, their output.
"""

import os
import re
import sys
from collections.abc import Callable
from typing import Any

from minicontainer import engine, files, reports, volumes
from minicontainer.arguments import Parsed, UsageError
from minicontainer.build.storage import disk_size
from minicontainer.bundle import label_filter
from minicontainer.containers import Container, Home
from minicontainer.disk_usage import agreed
from minicontainer.errors import Error
from minicontainer.logs import format_time
from minicontainer.run_options import pairs
from minicontainer.volumes import Named

HEADS = {"Driver": "DRIVER", "Name": "VOLUME NAME"}
NOBODYS = re.compile(r"[0-9a-f]{64}")  # the name that `volume create` gives when it is told none


def volume_create(home: Home, parsed: Parsed) -> int:
    name = parsed.words[0] if parsed.words else os.urandom(32).hex()
    print(volumes.make(home, name, pairs(parsed.label)).name)
    return 0


def volume_ls(home: Home, parsed: Parsed) -> int:
    held = engine.list_containers(home)
    filters = [_filter(text, held) for text in parsed.filter]
    found = [one for one in volumes.all_of(home) if all(accepted(one) for accepted in filters)]
    if parsed.quiet:
        print("".join(f"{one.name}\n" for one in found), end="")
    else:
        reports.show([_shown(one) for one in found], HEADS, parsed.format, sys.stdout)
    return 0


def volume_inspect(home: Home, parsed: Parsed) -> int:
    reports.show_documents([_shown(volumes.find(home, name)) for name in parsed.words], parsed.format, sys.stdout)
    return 0


def _shown(one: Named) -> dict[str, Any]:
    return {
        "CreatedAt": format_time(one.created),
        "Driver": "local",
        "Labels": dict(one.labels),
        "Mountpoint": one.path,
        "Name": one.name,
        "Options": {},
        "Scope": "local",
    }


def _filter(text: str, held: list[Container]) -> Callable[[Named], bool]:
    key, _, value = text.partition("=")
    match key:
        case "name" if value:
            return lambda one: value in one.name
        case "label" if value:
            return lambda one: label_filter(one.labels, value)
        case "dangling" if value in ("true", "false"):
            return lambda one: (not volumes.users(held, one.name)) == (value == "true")
    raise UsageError(f"--filter {text!r}: name=TEXT, label=KEY[=VALUE] or dangling=true is expected")


def volume_rm(home: Home, parsed: Parsed) -> int:
    code = 0
    for name in parsed.words:
        try:
            _remove(home, name)
            print(name)
        except volumes.NoVolume as error:
            code = _told(error, 0 if parsed.force else 1) or code
        except Error as error:  # the others go nevertheless
            code = _told(error, 1)
    return code


def _told(error: Error, code: int) -> int:
    if code:
        print(f"minicontainer: {error}", file=sys.stderr)
    return code


def _remove(home: Home, name: str) -> None:
    with files.lock(f"{home.data}/containers.lock"):  # nobody makes a container meanwhile
        volumes.remove(home, name, engine.list_containers(home))


def volume_prune(home: Home, parsed: Parsed) -> int:
    """As docker does since 23.0: without --all only those that nobody has named."""
    what = "all volumes that no container uses" if parsed.all else "volumes without a name that no container uses"
    if not agreed(parsed.force, [what]):
        return 0
    held, freed = engine.list_containers(home), 0
    unused = [one for one in volumes.all_of(home) if not volumes.users(held, one.name)]
    for one in unused:
        if parsed.all or NOBODYS.fullmatch(one.name):
            size = disk_size(one.path)
            _remove(home, one.name)
            freed += size
            print(one.name)
    print(f"Total reclaimed space: {reports.size(freed)}")
    return 0
