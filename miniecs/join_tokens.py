"""Join tokens: how a machine that shares no key with the control plane gets one, as with kubeadm.

Stands on the store and `auth`; `server` calls it for the paths below /_miniecs/. A token is ID.SECRET: the id names it
in lists and logs, of the secret a digest is kept. Whoever has it may trade it, until it expires, for credentials of an
agent; `instance_keys` says what those may do. Ruled by docs/reference/miniecs.md, "Join tokens".
"""

import hashlib
import hmac
import re
import secrets
import string
import time
from typing import NamedTuple

from msgspec.structs import replace

from miniecs import auth, errors
from miniecs.auth import Credentials
from miniecs.store import INSTANCE_KEYS, JOIN_TOKENS, InstanceKey, JoinToken, Transaction

FORM = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")
ALPHABET = string.ascii_lowercase + string.digits
DAY = 24 * 3600.0
LONGEST = 365 * DAY


class Listed(NamedTuple):
    """A token as people see it."""

    id: str
    status: str
    created_at: float
    expires_at: float


def generate() -> str:
    """A new token that no control plane knows yet."""
    return ".".join("".join(secrets.choice(ALPHABET) for _ in range(length)) for length in (6, 16))


def create(transaction: Transaction, token: str, seconds: float, now: float) -> Listed:
    """Take `token` from now on, for so long; one that is there already is renewed.

    Raises:
        InvalidParameterException: it has not the form of a token, or another lifetime than one can have.
    """
    if not FORM.fullmatch(token):
        raise errors.InvalidParameterException(
            "a join token is six letters or digits, a dot, and sixteen more, in lower case; try: miniecs token generate"
        )
    if not 0 < seconds <= LONGEST:
        raise errors.InvalidParameterException(f"a join token lives up to a year, not {seconds:g} s; try: --ttl 24h")
    known = JoinToken(digest=_digest(token), created_at=now, expires_at=now + seconds)
    transaction.put(JOIN_TOKENS, _id(token), known)
    _forget_old(transaction, now)
    return _listed(_id(token), known, now)


def listing(transaction: Transaction, now: float) -> list[Listed]:
    return [_listed(name, token, now) for name, token in transaction.items(JOIN_TOKENS)]


def revoke(transaction: Transaction, token: str, now: float) -> Listed:
    """Take it no more. Who has traded it stays.

    Raises:
        ClientException: there is no such token.
    """
    known = transaction.get(JOIN_TOKENS, _id(token))
    if known is None:
        raise errors.ClientException(f"join token {_id(token)} is unknown here; try: miniecs token list")
    known = replace(known, revoked=True)
    transaction.put(JOIN_TOKENS, _id(token), known)
    return _listed(_id(token), known, now)


def trade(transaction: Transaction, token: str, instance_name: str, now: float) -> Credentials:
    """Credentials for an agent, in return for a token that is good.

    Raises:
        JoinTokenException: it is not; the text says why, and what to do.
    """
    known = transaction.get(JOIN_TOKENS, _id(token))
    if known is None or not hmac.compare_digest(known.digest, _digest(token)):
        wrong = "is unknown here"
    elif known.revoked:
        wrong = "was revoked"
    elif known.expires_at <= now:
        wrong = time.strftime("expired at %Y-%m-%d %H:%M:%S UTC", time.gmtime(known.expires_at))
    else:
        made = auth.generate()
        key = InstanceKey(
            secret_access_key=made.secret_access_key,
            instance_name=instance_name[:256],
            token_id=_id(token),
            created_at=now,
        )
        transaction.put(INSTANCE_KEYS, made.access_key_id, key)
        return made
    raise errors.JoinTokenException(f"join token {_id(token)} {wrong}; try, on the manager: miniecs token create")


def _id(token: str) -> str:
    return token.partition(".")[0][:6]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _listed(name: str, token: JoinToken, now: float) -> Listed:
    status = "revoked" if token.revoked else "expired" if token.expires_at <= now else "good"
    return Listed(name, status, token.created_at, token.expires_at)


def _forget_old(transaction: Transaction, now: float) -> None:
    """A week after its end, a token is unknown."""
    for name, token in transaction.items(JOIN_TOKENS):
        if token.expires_at + 7 * DAY < now:
            transaction.delete(JOIN_TOKENS, name)
