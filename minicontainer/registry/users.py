"""Users: who may use a registry of ours; names and hashed passwords, a line each, in a file as htpasswd's.

Stands beside `server`, which asks whether somebody may come in. A line is `NAME:scrypt$SALT$HASH`, made by
`minicontainer registry user NAME`; a line that `htpasswd -B` has made (bcrypt) is as good. Ruled by RFC 7914 (scrypt).
"""

import base64
import hashlib
import hmac
import os
import re

from minicontainer.errors import Error
from minicontainer.linux.crypt import crypt

COST = {"n": 1 << 14, "r": 8, "p": 1}  # 16 MiB and some 50 ms for each guess
REMEMBERED = 1000
SCRYPT = re.compile(r"scrypt\$[A-Za-z0-9+/]+=*\$[A-Za-z0-9+/]{43}=")
BCRYPT = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")


class InvalidUsers(Error):
    def __init__(self, path: str, number: int) -> None:
        what = "neither NAME:scrypt$SALT$HASH nor a line of htpasswd -B"
        super().__init__(f"{path}, line {number}: {what}; try: minicontainer registry user NAME >> {path}")


def line(name: str, password: str, salt: bytes = b"") -> str:
    """The line for the file."""
    if not name or set(name) & set(":\n"):
        raise Error(f"{name!r} is not a user's name: it may not be empty or have a colon")
    if not password:
        raise Error("an empty password lets everybody in; try: another one")
    salt = salt or os.urandom(16)
    return f"{name}:scrypt${_text(salt)}${_text(_hash(password, salt))}"


class Users:
    """The file, read once; a password that was right is right a second time without the work."""

    def __init__(self, path: str) -> None:
        self._known: dict[str, str] = {}
        self._nobody = line("nobody", "nothing").partition(":")[2]
        self._key, self._remembered = os.urandom(32), set[bytes]()
        with open(path, encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if text.strip() and not text.startswith("#"):
                    self._add(path, number, text.strip())

    def _add(self, path: str, number: int, text: str) -> None:
        name, _, rest = text.partition(":")
        if not name or not (SCRYPT.fullmatch(rest) or BCRYPT.fullmatch(rest)):
            raise InvalidUsers(path, number)
        self._known[name] = rest

    def authorize(self, name: str, password: str) -> bool:
        said = hmac.digest(self._key, f"{name}:{password}".encode(), "sha256")
        if said in self._remembered:
            return True
        right = _fits(password, self._known.get(name, self._nobody)) and name in self._known  # the unknown take as long
        if right and len(self._remembered) < REMEMBERED:
            self._remembered.add(said)
        return right


def _fits(password: str, kept: str) -> bool:
    if kept.startswith("scrypt"):
        _, salt, digest = kept.split("$")
        return hmac.compare_digest(_text(_hash(password, base64.b64decode(salt))), digest)
    secret = password.encode()
    return b"\0" not in secret and hmac.compare_digest(crypt(secret, kept.encode()), kept.encode())


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, dklen=32, **COST)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
