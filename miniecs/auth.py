"""Auth: AWS Signature Version 4, made and verified, and the passwords of the registry.

Stands on `errors`; `server` verifies with it, `cli` signs with it. Verifying is pure: the time comes in as an argument.
Ruled by the IAM user guide, "Create a signed AWS API request", and the ECR API's GetAuthorizationToken.
"""

import base64
import calendar
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, quote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials

from miniecs import errors

ALGORITHM = "AWS4-HMAC-SHA256"
CLOCK_SKEW = 300.0  # seconds
TOKEN_SECONDS = 12 * 3600  # how long an ECR authorization token is good
USER = "AWS"  # the user name that goes with an ECR token


class Credentials(NamedTuple):
    access_key_id: str
    secret_access_key: str


class Request(NamedTuple):
    """What is signed of an HTTP request; `path` and `query` as they were on the wire, header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""


def generate() -> Credentials:
    """New credentials, shaped as AWS's are."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    return Credentials("AKIA" + "".join(secrets.choice(alphabet) for _ in range(16)), secrets.token_urlsafe(30))


def sign(
    credentials: Credentials, region: str, service: str, method: str, url: str, body: bytes = b""
) -> dict[str, str]:
    """The headers that make a request of ours a signed one."""
    request = AWSRequest(method=method, url=url, data=body)
    SigV4Auth(BotocoreCredentials(*credentials), service, region).add_auth(request)
    return dict(request.headers.items())


def verify(request: Request, secrets_by_id: Mapping[str, str], now: float) -> str:
    """Verify a signed request; the access key id it was signed with.

    Raises:
        errors.AwsError: no signature, one without all its parts, an unknown key, a wrong or an old signature.
    """
    authorization = _Authorization.parse(request.headers.get("authorization", ""))
    secret = secrets_by_id.get(authorization.access_key_id)
    if secret is None:
        raise errors.UnrecognizedClientException()
    stamp = request.headers.get("x-amz-date", "")
    expected = _signature(secret, authorization, stamp, _canonical(request, authorization.signed_headers))
    if not hmac.compare_digest(expected.encode(), authorization.signature.encode()):
        raise errors.InvalidSignatureException()
    _check_time(stamp, authorization.scope, now)
    return authorization.access_key_id


class _Authorization(NamedTuple):
    """The Authorization header, taken apart."""

    access_key_id: str
    scope: str  # DATE/REGION/SERVICE/aws4_request
    signed_headers: tuple[str, ...]
    signature: str

    @classmethod
    def parse(cls, header: str) -> "_Authorization":
        if not header:
            raise errors.MissingAuthenticationTokenException()
        algorithm, _, rest = header.partition(" ")
        parts = dict(re.findall(r"(\w+)=([^,\s]+)", rest))
        access_key_id, _, scope = parts.get("Credential", "").partition("/")
        missing = [name for name in ("Credential", "Signature", "SignedHeaders") if name not in parts]
        if algorithm != ALGORITHM or missing or scope.count("/") != 3 or not scope.endswith("/aws4_request"):
            lacks = (
                ", ".join(f"'{name}' parameter" for name in missing) or f"'{ALGORITHM}' and a whole credential scope"
            )
            raise errors.IncompleteSignatureException(f"Authorization header requires {lacks}.")
        signed_headers = tuple(parts["SignedHeaders"].lower().split(";"))
        if "host" not in signed_headers or "x-amz-date" not in signed_headers:
            raise errors.IncompleteSignatureException("Authorization header requires 'host' and 'x-amz-date' signed.")
        return cls(access_key_id, scope, signed_headers, parts["Signature"])


def _canonical(request: Request, signed_headers: tuple[str, ...]) -> str:
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(request.query, keep_blank_values=True)
    )
    headers = [f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in signed_headers]
    return "\n".join(
        (
            request.method,
            quote(request.path or "/", safe="/~"),  # a path is encoded once more than on the wire, except S3's
            "&".join(f"{name}={value}" for name, value in pairs),
            "".join(headers),
            ";".join(signed_headers),
            hashlib.sha256(request.body).hexdigest(),
        )
    )


def _signature(secret: str, authorization: _Authorization, stamp: str, canonical: str) -> str:
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for part in authorization.scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, "\n".join((ALGORITHM, stamp, authorization.scope, digest)).encode(), "sha256").hex()


def _check_time(stamp: str, scope: str, now: float) -> None:
    try:
        signed_at = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise errors.IncompleteSignatureException(f"Date must be in ISO-8601 'basic format'. Got '{stamp}'.") from None
    if not scope.startswith(stamp[:8]):
        raise errors.InvalidSignatureException(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version."
        )
    if abs(now - signed_at) > CLOCK_SKEW:
        here = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        side = "Signature expired" if signed_at < now else "Signature not yet current"
        raise errors.InvalidSignatureException(f"{side}: {stamp} is more than 5 min. from our {here}.")


# --- the registry's passwords ----------------------------------------------------------------------------------------


def registry_password(credentials: Credentials, expires_at: int) -> str:
    """A password that carries its own end and is signed, so that nothing of it needs to be kept."""
    claim = f"{credentials.access_key_id}:{expires_at}"
    mark = hmac.digest(credentials.secret_access_key.encode(), f"registry:{claim}".encode(), "sha256").hex()
    return base64.urlsafe_b64encode(f"{claim}:{mark}".encode()).decode()


def authorize(user: str, password: str, secrets_by_id: Mapping[str, str], now: float) -> bool:
    """Whether Basic credentials are good: user AWS with a token's password, or an access key and its secret."""
    if user != USER:
        return hmac.compare_digest(secrets_by_id.get(user, "").encode(), password.encode()) and user in secrets_by_id
    try:
        access_key_id, expires_at, _ = base64.urlsafe_b64decode(password).decode().split(":")
        good = registry_password(Credentials(access_key_id, secrets_by_id[access_key_id]), int(expires_at))
    except (ValueError, KeyError):
        return False
    return hmac.compare_digest(good.encode(), password.encode()) and now < int(expires_at)
