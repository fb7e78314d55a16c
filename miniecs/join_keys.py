"""Join keys: the credentials that an agent got for a join token, in its own directory.

Stands on `client`; `agent` uses it. A file in the form of AWS's shared credentials, for root alone. Ruled by
docs/reference/miniecs.md, "Join tokens"; `join_tokens` is the other side.
"""

import configparser
import contextlib
import os

from botocore.credentials import Credentials


def kept(data: str) -> Credentials | None:
    """What an agent that came by a join token has in its directory."""
    parser = configparser.ConfigParser(interpolation=None)
    if not parser.read(f"{data}/credentials"):
        return None
    keys = parser["default"]
    return Credentials(keys["aws_access_key_id"], keys["aws_secret_access_key"])


def keep(data: str, made: Credentials) -> None:
    """Whole or not at all, for root's eyes: an AWS shared credentials file."""
    os.makedirs(data, mode=0o700, exist_ok=True)
    new = f"{data}/credentials.new"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"[default]\naws_access_key_id = {made.access_key}\naws_secret_access_key = {made.secret_key}\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, f"{data}/credentials")


def forget(data: str) -> bool:
    """Whether there were any."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{data}/credentials")
        return True
    return False
