"""Settings: the one file that says how registries are reached and how much an image may be.

On the ground; read when images are pulled, pushed or unpacked. The file is TOML, /etc/minicontainer/config.toml or what
$MINICONTAINER_CONFIG names; it may be absent. `docs/reference/minicontainer.md` lists the keys.
"""

import functools
import os
import tomllib
from typing import Any, NamedTuple

from minicontainer.errors import Error
from minicontainer.image.changesets import Limits

PATH = "/etc/minicontainer/config.toml"
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class RegistrySettings(NamedTuple):
    """How one registry is reached."""

    mirrors: tuple[str, ...] = ()  # asked first when an image is pulled, in this order
    insecure: bool = False  # no TLS
    ca: str = ""  # a file of certificates that may sign for it, besides the system's


class InvalidSettings(Error):
    def __init__(self, reason: str) -> None:
        super().__init__(f"{path()}: {reason}; try: mend or remove it")


def path() -> str:
    return os.environ.get("MINICONTAINER_CONFIG") or PATH


def registry(host: str) -> RegistrySettings:
    """The table `[registry."HOST"]`."""
    table = _table(_table(_read(path()), "registry"), host)
    wrong = set(table) - set(RegistrySettings._fields)
    if wrong:
        raise InvalidSettings(f"registry {host} knows no {', '.join(sorted(wrong))}")
    mirrors = table.get("mirrors", [])
    if not isinstance(mirrors, list) or not all(isinstance(mirror, str) for mirror in mirrors):
        raise InvalidSettings(f"mirrors of registry {host} is not a list of hosts")
    if not isinstance(table.get("insecure", False), bool) or not isinstance(table.get("ca", ""), str):
        raise InvalidSettings(f"registry {host}: insecure is true or false, ca a path")
    return RegistrySettings(tuple(mirrors), table.get("insecure", False), table.get("ca", ""))


def limits() -> Limits:
    """The table `[limits]`: numbers, or sizes like "10g"."""
    table = _table(_read(path()), "limits")
    wrong = set(table) - set(Limits._fields)
    if wrong:
        raise InvalidSettings(f"limits knows no {', '.join(sorted(wrong))}")
    return Limits(**{key: _size(key, value) for key, value in table.items()})


def _size(key: str, value: Any) -> int:
    text = str(value).lower().removesuffix("b").removesuffix("i")
    digits = text.rstrip("kmgt")
    if isinstance(value, int | str) and digits.isdecimal() and text[len(digits) :] in UNITS:
        return int(digits) * UNITS[text[len(digits) :]]
    raise InvalidSettings(f"limits: {key} is {value!r}, not a number or a size like '10g'")


def _table(document: dict[str, Any], key: str) -> dict[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise InvalidSettings(f"{key} is not a table")
    return table


@functools.cache
def _read(name: str) -> dict[str, Any]:
    try:
        with open(name, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"is not TOML: {error}") from error
