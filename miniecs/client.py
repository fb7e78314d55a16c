"""Client: ECS calls and session upgrades, signed, over one aiohttp session.

Stands below `agent`. botocore signs; its client is not used, because it would block the agent's loop and compile all
of the service's model for five calls. Ruled by the Signature Version 4 signing process and the JSON 1.1 protocol.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.session import Session
from yarl import URL

from miniecs.errors import Error

TARGETS = {"ecs": "AmazonEC2ContainerServiceV20141113", "ecr": "AmazonEC2ContainerRegistry_V20150921"}
UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError)  # the control plane is not there, or not now
AUTHENTICATION = {
    "AccessDeniedException", "ExpiredTokenException", "IncompleteSignature", "IncompleteSignatureException",
    "InvalidClientTokenId", "InvalidSignatureException", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "SignatureDoesNotMatch", "UnrecognizedClientException",
}  # fmt: skip

OF_THE_CLOCK = ("Signature expired", "Signature not yet current")  # how the refusal of a signature by its time begins


class Refusal(Error):
    """The control plane answered with an error: its code, its text, and the HTTP status."""

    def __init__(self, status: int, code: str, message: str, behind: float | None = None) -> None:
        """`behind`: by how many seconds this machine's clock is, if that is why."""
        clock = "" if behind is None else f"this machine's clock is {clock_difference(behind)} the control plane's"
        super().__init__(
            f"{clock}; try: systemctl restart systemd-timesyncd, or date --set" if clock else f"{code}: {message}"
        )
        self.status = status
        self.code = code
        self.for_clock = bool(clock)

    @property
    def for_credentials(self) -> bool:
        """They are wrong; a wrong clock is another matter, and may be set."""
        return not self.for_clock and (self.code in AUTHENTICATION or self.status == 403)

    @property
    def final(self) -> bool:
        """Asking again will not help."""
        return 400 <= self.status < 500 and self.status != 429 and not self.for_credentials and not self.for_clock


def credentials() -> Credentials:
    """From where every AWS tool takes them.

    Raises:
        Error: there are none.
    """
    found = Session().get_credentials()
    if found is None:
        raise Error("no credentials for the control plane; try: AWS_SHARED_CREDENTIALS_FILE=SERVER_DATA/credentials")
    return found


def default_region() -> str:
    return Session().get_config_variable("region") or "us-east-1"


class Client:
    def __init__(self, http: aiohttp.ClientSession, endpoint: str, region: str, credentials: Credentials) -> None:
        self.http = http
        self.endpoint = endpoint.rstrip("/")
        self.region = region
        self.credentials = credentials

    async def call(self, operation: str, body: Mapping[str, Any], service: str = "ecs") -> Any:
        """One operation.

        Raises:
            Refusal: the control plane says no.
            UNREACHABLE: it does not say anything.
        """
        data = json.dumps(body).encode()
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"{TARGETS[service]}.{operation}",
        }
        signed = self._sign("POST", f"{self.endpoint}/", service, headers, data)
        async with self.http.post(f"{self.endpoint}/", data=data, headers=signed) as response:
            text = await response.read()
            if response.status < 300:
                return json.loads(text or b"{}")
            raise refusal(response.status, text, behind(response.headers.get("Date", ""), time.time()))

    async def connect(self, endpoint: str, arguments: Mapping[str, str]) -> aiohttp.ClientWebSocketResponse:
        """A session, the upgrade request signed. `endpoint` is what DiscoverPollEndpoint said.

        Raises:
            Refusal: the control plane says no. Further as `call`.
        """
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(arguments.items()))
        url = f"{endpoint.rstrip('/')}/ws?{query}"
        try:
            # encoded: what is sent must be, to the letter, what was signed
            return await self.http.ws_connect(URL(url, encoded=True), headers=self._sign("GET", url, "ecs", {}, b""))
        except aiohttp.WSServerHandshakeError as error:
            raise Refusal(error.status, "SessionRefused", f"{url}: {error.message} (HTTP {error.status})") from error

    def _sign(self, method: str, url: str, service: str, headers: Mapping[str, str], data: bytes) -> dict[str, str]:
        request = AWSRequest(method=method, url=url, headers=dict(headers), data=data)
        SigV4Auth(self.credentials.get_frozen_credentials(), service, self.region).add_auth(request)
        return dict(request.headers.items())


async def join(http: aiohttp.ClientSession, endpoint: str, token: str, instance_name: str) -> Credentials:
    """Trade a join token for credentials. Raises as `Client.call` does."""
    body = json.dumps({"token": token, "instanceName": instance_name}).encode()
    async with http.post(f"{endpoint}/_miniecs/join", data=body) as response:
        text = await response.read()
        if response.status >= 300:
            raise refusal(response.status, text)
        answer = json.loads(text)
        return Credentials(answer["accessKeyId"], answer["secretAccessKey"])


def refusal(status: int, text: bytes, behind: float = 0.0) -> Refusal:
    """An error answer of the JSON protocols as a value."""
    try:
        said = json.loads(text)
        code = str(said["__type"]).rpartition("#")[2]
        message = str(said.get("message") or said.get("Message") or "")
        return Refusal(status, code, message, behind if message.startswith(OF_THE_CLOCK) else None)
    except (ValueError, KeyError, TypeError):
        return Refusal(status, f"HTTP {status}", text[:200].decode(errors="replace"))


def behind(date: str, now: float) -> float:
    """By how many seconds this clock is behind that of who answered at `date`: RFC 9110, 6.6.1."""
    with contextlib.suppress(ValueError, TypeError):
        return parsedate_to_datetime(date).timestamp() - now
    return 0.0


def clock_difference(behind: float) -> str:
    """As people say it: "410 s behind"; no finer, so that the same is said again in the same words."""
    return f"{round(abs(behind), -1):.0f} s {'behind' if behind > 0 else 'ahead of'}"


def host_and_port(endpoint: str) -> str:
    """What an image of the control plane's own registry is named with."""
    return urlsplit(endpoint).netloc
