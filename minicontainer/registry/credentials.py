"""Credentials: who we are at a registry, kept where docker keeps it, so that one login serves both.

Stands beside `oci/reference`; `client` asks it. Ruled by docker's config.json ("auths", "credsStore", "credHelpers"),
which is in the directory $DOCKER_CONFIG or ~/.docker. A helper is a program, docker-credential-NAME, that keeps the
credentials itself: docker-credential-helpers, "Development".
"""

import base64
import binascii
import json
import os
import subprocess
from typing import Any, NamedTuple

from minicontainer import files
from minicontainer.errors import Error

IDENTITY_TOKEN = "<token>"  # the user that a helper names when it keeps a token in place of a password
HELPER_SECONDS = 60
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
    config = _read()
    helper = _helper(config, registry)
    if helper:
        return _ask_helper(helper, registry)
    entry = config.get("auths", {}).get(_key(registry))
    if not isinstance(entry, dict) or not entry.get("auth"):
        return None
    if entry.get("identitytoken"):
        return Credentials(user=IDENTITY_TOKEN, password=str(entry["identitytoken"]))
    try:
        user, colon, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError) as error:
        raise Error(
            f"the credentials for {registry} in {config_path()} are broken: {error}; try: login again"
        ) from error
    return Credentials(user=user, password=password) if colon else None


def save(registry: str, credentials: Credentials) -> None:
    config = _read()
    helper = _helper(config, registry)
    entry: dict[str, str] = {}
    if helper:
        words = {"ServerURL": _key(registry), "Username": credentials.user, "Secret": credentials.password}
        _run_helper(helper, "store", json.dumps(words))
    else:
        entry = {"auth": credentials.basic.removeprefix("Basic ")}
    config.setdefault("auths", {})[_key(registry)] = entry
    _write(config)


def erase(registry: str) -> bool:
    """Forget the credentials; whether there were any."""
    config = _read()
    helper = _helper(config, registry)
    if helper and _ask_helper(helper, registry):
        _run_helper(helper, "erase", _key(registry))
    had = config.get("auths", {}).pop(_key(registry), None) is not None
    if had:
        _write(config)
    return had


def _helper(config: dict[str, Any], registry: str) -> str:
    """The name of the helper that keeps the credentials of a registry; its own goes before that of all."""
    own = config.get("credHelpers")
    name = (own.get(_key(registry)) if isinstance(own, dict) else "") or config.get("credsStore") or ""
    if not isinstance(name, str) or "/" in name:
        raise Error(f"{config_path()}: {name!r} is not the name of a credential helper")
    return name


def _ask_helper(helper: str, registry: str) -> Credentials | None:
    said = _run_helper(helper, "get", _key(registry))
    if not said:
        return None
    try:
        answer = json.loads(said)
        return Credentials(user=str(answer["Username"]), password=str(answer["Secret"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Error(f"docker-credential-{helper} get: its answer for {registry} is not that of a helper") from error


def _run_helper(helper: str, verb: str, words: str) -> str:
    """What the helper says, or nothing when it does not know the registry."""
    command = [f"docker-credential-{helper}", verb]
    try:
        done = subprocess.run(command, input=words, capture_output=True, text=True, timeout=HELPER_SECONDS, check=False)
    except FileNotFoundError:
        raise Error(
            f"{command[0]}, named in {config_path()}, is not installed; try: install it, or take it out"
        ) from None
    except subprocess.TimeoutExpired:
        raise Error(f"{' '.join(command)} did not answer within {HELPER_SECONDS} s") from None
    said = done.stdout.strip()
    if done.returncode == 0:
        return said
    if "not found" in said:  # the protocol's way to say so: "credentials not found in native keychain"
        return ""
    raise Error(f"{' '.join(command)}: {(said or done.stderr.strip() or str(done.returncode)).splitlines()[0]}")


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
