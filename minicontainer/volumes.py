"""Volumes: directories with a name, which outlive the containers that use them.

Below `engine`. Ruled by docker's words: a volume that a container asks for is made, and what the image has at that
place is copied into one that is empty. A `data` that is there is whole: it is filled beside, and renamed. The ids on it
are those inside the containers, as with every volume.
"""

import os
import re
import stat
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager

from minicontainer import containers, files, json_documents
from minicontainer.containers import Container, Home, Options, Volume
from minicontainer.errors import Error
from minicontainer.image import layers
from minicontainer.values import NamedTuple

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
ANONYMOUS = "com.docker.volume.anonymous"  # docker's label for a volume that a container asked for without a name


class NoVolume(Error):
    exit_code = 1

    def __init__(self, name: str) -> None:
        super().__init__(f"no volume {name}; try: minicontainer volume ls")


class VolumeInUse(Error):
    exit_code = 1


class Named(NamedTuple):
    """A volume as it is recorded; `path` is where its files are."""

    name: str
    path: str
    created: float
    labels: Mapping[str, str]


def make(home: Home, name: str, labels: Mapping[str, str] = {}) -> Named:
    """The volume of this name, as it is or made anew.

    Raises:
        Error: the name is none.
    """
    if not NAME.fullmatch(name):
        raise Error(f"{name!r} is no name of a volume; try: letters, digits, and _.-, or an absolute path")
    with _lock(home):
        place = home.volume(name)
        if not os.path.exists(f"{place}/volume.json"):
            os.makedirs(place, mode=0o700, exist_ok=True)
            record = {"created": time.time(), "labels": dict(labels)}
            files.write(f"{place}/volume.json", json_documents.dumps(record))
        if not os.path.isdir(f"{place}/data"):
            os.mkdir(f"{place}/data")
            os.chmod(f"{place}/data", 0o755)
    return find(home, name)


def attach(home: Home, options: Options, lowers: Sequence[str], held: Collection[Container]) -> Options:
    """The options with a directory for each volume that they name."""
    given = (_filled(home, volume, lowers, held) if volume.name else volume for volume in options.volumes)
    return options._replace(volumes=tuple(given))


def _filled(home: Home, volume: Volume, lowers: Sequence[str], held: Collection[Container]) -> Volume:
    """The volume with its directory, which gets what the image has there if it is empty and nobody else's."""
    named = make(home, volume.name, {ANONYMOUS: ""} if volume.anonymous else {})
    found = next(filter(None, (layers.status_in(lower, _parts(volume.target)) for lower in lowers)), None)
    with _lock(home):
        if found and stat.S_ISDIR(found.st_mode) and not os.listdir(named.path) and not users(held, volume.name):
            _fill(named, volume.target, lowers, found)
    return volume._replace(source=named.path)


def _fill(named: Named, target: str, lowers: Sequence[str], found: os.stat_result) -> None:
    from minicontainer.image import merged  # why here: few containers have a volume that is new

    half = f"{os.path.dirname(named.path)}/new"
    files.remove_tree(half)  # of one who died
    os.mkdir(half)
    merged.copy(lowers, half, target)
    os.chown(half, found.st_uid, found.st_gid)
    os.chmod(half, stat.S_IMODE(found.st_mode))
    os.rename(half, named.path)


def find(home: Home, name: str) -> Named:
    """The volume of this name.

    Raises:
        NoVolume: there is none.
    """
    try:
        with open(f"{home.volume(name)}/volume.json", "rb") as file:
            record = json_documents.loads(file.read())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise NoVolume(name) from None
    return Named(name, f"{home.volume(name)}/data", record["created"], record["labels"])


def all_of(home: Home) -> list[Named]:
    """Every volume, by name."""
    try:
        names = sorted(os.listdir(f"{home.data}/volumes"))
    except FileNotFoundError:
        return []
    return [find(home, name) for name in names if os.path.exists(f"{home.volume(name)}/volume.json")]


def users(held: Collection[Container], name: str) -> list[str]:
    """The containers that use the volume, running or not."""
    return [one.name for one in held if any(volume.name == name for volume in one.options.volumes)]


def remove(home: Home, name: str, held: Collection[Container]) -> None:
    """Remove a volume with all that is on it; the caller keeps others from making containers meanwhile.

    Raises:
        NoVolume, VolumeInUse: it is not there, or a container needs it.
    """
    find(home, name)
    if by := users(held, name):
        raise VolumeInUse(f"volume {name} is in use by {', '.join(by)}; try: minicontainer rm {' '.join(by)}")
    files.remove_tree(containers.out_of_sight(home, home.volume(name)))


def _parts(path: str) -> tuple[bytes, ...]:
    return tuple(os.fsencode(part) for part in os.path.normpath(path).split("/") if part)


def _lock(home: Home) -> AbstractContextManager[int]:
    os.makedirs(f"{home.data}/volumes", mode=0o700, exist_ok=True)
    return files.lock(f"{home.data}/volumes.lock")
