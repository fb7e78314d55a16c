"""Credentials: who we are at a registry, kept where docker keeps it, so that one login serves both.

Stands beside `oci/reference`; `registry` asks it. Ruled by docker's config.json ("auths"), which is in the directory
$DOCKER_CONFIG or ~/.docker.
"""

import base64
import binascii
import json
import os
from typing import Any, NamedTuple

from minicontainer import files
from minicontainer.errors import Error

DOCKER_HUB = "https://index.docker.io/v1/"  # docker's key for its own registry, whatever host serves it today


class Credentials(NamedTuple):
    user: str
    password: str

    @property
    def basic(self) -> str:
        """The value of an Authorization header: RFC 7617."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def config_path() -> str:
    directory = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    return f"{directory}/config.json"


def load(registry: str) -> Credentials | None:
    """The credentials for a registry, or None: then we are anonymous."""
    entry = _read().get("auths", {}).get(_key(registry))
    if not isinstance(entry, dict) or not entry.get("auth"):
        return None
    try:
        user, colon, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError) as error:
        raise Error(
            f"the credentials for {registry} in {config_path()} are broken: {error}; try: login again"
        ) from error
    return Credentials(user=user, password=password) if colon else None


def save(registry: str, credentials: Credentials) -> None:
    config = _read()
    auth = credentials.basic.removeprefix("Basic ")
    config.setdefault("auths", {})[_key(registry)] = {"auth": auth}
    _write(config)


def erase(registry: str) -> bool:
    """Forget the credentials; whether there were any."""
    config = _read()
    had = config.get("auths", {}).pop(_key(registry), None) is not None
    if had:
        _write(config)
    return had


def _key(registry: str) -> str:
    return DOCKER_HUB if registry == "docker.io" else registry


def _read() -> dict[str, Any]:
    try:
        with open(config_path(), encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Error(f"{config_path()} is not JSON: {error}; try: mend or remove it") from error
    if not isinstance(config, dict) or not isinstance(config.get("auths", {}), dict):
        raise Error(f"{config_path()} is not a docker configuration; try: mend or remove it")
    return config


def _write(config: dict[str, Any]) -> None:
    os.makedirs(os.path.dirname(config_path()), mode=0o700, exist_ok=True)
    files.write(config_path(), json.dumps(config, indent=2).encode() + b"\n", mode=0o600)
