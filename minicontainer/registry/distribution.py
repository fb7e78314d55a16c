"""Distribution: requests to one registry, with its authentication, redirects and errors.

Stands below `client`, which says what to ask for. Ruled by distribution-spec ("Endpoints", "Error Codes"), RFC 7617
(Basic), docker's token authentication (Bearer) and RFC 9110 (Retry-After). One connection is kept open from request to
request. What a registry in trouble refuses (429, 5xx) is asked again, a little later each time.
"""

import http.client
import ipaddress
import json
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import BinaryIO, NamedTuple
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from minicontainer.errors import Error
from minicontainer.registry import settings
from minicontainer.registry.credentials import IDENTITY_TOKEN, Credentials

TIMEOUT = 60.0  # without a byte
BUSY = (429, 500, 502, 503, 504)  # statuses of what may go well a little later: RFC 9110, 6585
NOT_BEGUN = (429, 503)  # those after which also a body may be sent again
ATTEMPTS = 5
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0  # seconds, whatever Retry-After says
REDIRECTS = 5
ANSWER_LIMIT = 4 << 20  # of a token, an error or a manifest
HUB = {"docker.io": "registry-1.docker.io"}  # where the registry of that name is served
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
_PARAMETER = re.compile(r'([a-zA-Z_]+)=(?:"([^"]*)"|([^",\s]+))')

Body = Callable[[], BinaryIO]  # opened anew for each attempt


class RegistryError(Error):
    """A registry that cannot be reached, or an answer that is not what the specification promises."""

    def __init__(self, registry: str, reason: str) -> None:
        super().__init__(f"registry {registry}: {reason}")


class Interrupted(RegistryError):
    """The connection broke or nothing came for too long: what was asked may go well on another connection."""


class NotThere(RegistryError):
    """404: the registry does not have that manifest or blob, or does not let us see it."""


class Answer(NamedTuple):
    """An answer whose body is still to be read, before the next request."""

    status: int
    headers: http.client.HTTPMessage
    body: http.client.HTTPResponse
    url: str

    def read(self) -> bytes:
        return self.body.read(ANSWER_LIMIT + 1)

    @property
    def media_type(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def chunks(self, size: int) -> Iterator[bytes]:
        """The body, piece by piece; ends early when the connection breaks: who knows the size asks again."""
        with suppress(OSError, http.client.HTTPException):
            while data := self.body.read(size):
                yield data


class Registry:
    """One registry, spoken to as `credentials`, or as nobody."""

    def __init__(self, host: str, credentials: Credentials | None = None, plain_http: bool = False) -> None:
        self.host = host
        scheme = "http" if plain_http or is_plain(host) else "https"
        self._top = f"{scheme}://{HUB.get(host, host)}"
        self._credentials = credentials
        self._authorization = ""
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._aborted = False

    def another(self) -> "Registry":
        """The same registry by connections of its own, for another thread."""
        twin = Registry(self.host, self._credentials)
        twin._top, twin._authorization = self._top, self._authorization
        return twin

    def __enter__(self) -> "Registry":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connections, also one with an answer that nobody will read; the next request opens a new one."""
        while self._connections:
            self._connections.popitem()[1].close()

    def abort(self) -> None:
        """From another thread: whoever waits here for an answer gets an error, now and from now on."""
        self._aborted = True
        for connection in list(self._connections.values()):
            with suppress(OSError, AttributeError):  # closed meanwhile
                connection.sock.shutdown(socket.SHUT_RDWR)

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        accept: tuple[int, ...] = (200,),
        scope: str = "",
    ) -> Answer:
        """Ask for `path` (or a whole URL from an earlier answer), authenticating when the registry wants it.

        Raises:
            NotThere: 404, when that is not in `accept`.
            RegistryError: anything else that is not in `accept`, or no answer at all.
        """
        url = urljoin(self._top + "/", path)
        for attempt in range(1, ATTEMPTS + 1):
            answer = self._follow(method, url, dict(headers or {}), body)
            if answer.status == 401:
                challenge = answer.headers.get("WWW-Authenticate", "")
                answer.read()
                self._authenticate(challenge, scope)
                answer = self._follow(method, url, dict(headers or {}), body)
            again = BUSY if body is None else NOT_BEGUN
            if answer.status not in again or answer.status in accept or attempt == ATTEMPTS:
                break
            answer.read()
            self.pause(attempt, answer.headers.get("Retry-After", ""))
        if answer.status not in accept:
            self._fail(answer, method)
        return answer

    def pause(self, attempt: int, retry_after: str = "") -> None:
        """Wait before asking again: as long as the registry says, else longer each time, and not all at once."""
        deadline = time.monotonic() + _seconds(attempt, retry_after)
        while (left := deadline - time.monotonic()) > 0 and not self._aborted:
            time.sleep(min(left, 0.1))

    # One request

    def _follow(self, method: str, url: str, headers: dict[str, str], body: bytes | Body | None) -> Answer:
        for _ in range(REDIRECTS):
            if self._authorization and _origin(url) == _origin(self._top):  # another host must not get what we are here
                headers["Authorization"] = self._authorization
            else:
                headers.pop("Authorization", None)
            answer = self._send(method, url, headers, body)
            location = answer.headers.get("Location")
            if answer.status not in REDIRECT_STATUSES or not location:
                return answer
            answer.read()
            target = urljoin(url, location)
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                raise RegistryError(self.host, f"it redirects to {target}, which is not encrypted")
            url = target
        raise RegistryError(self.host, f"more than {REDIRECTS} redirects, the last to {url}")

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | Body | None) -> Answer:
        parts = urlsplit(url)
        if self._aborted:
            raise RegistryError(self.host, "interrupted")
        try:
            for attempt in (1, 2):
                connection, kept = self._connection(parts)
                content = body() if callable(body) else body
                target = parts.path + (f"?{parts.query}" if parts.query else "")
                try:
                    connection.request(method, target, body=content, headers=dict(headers))
                    response = connection.getresponse()
                except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                    connection.close()  # a kept connection may have timed out at the other end: once more, on a new one
                    if attempt == 2 or not kept or callable(body):  # of a blob, some may have come there
                        raise
                else:
                    return Answer(response.status, response.headers, response, url)
                finally:
                    if callable(body) and content is not None and not isinstance(content, bytes):
                        content.close()
        except (OSError, http.client.HTTPException) as error:
            self.hang_up()
            if isinstance(error, ConnectionRefusedError | socket.gaierror | ssl.SSLError):
                raise RegistryError(self.host, _unreachable(parts, error)) from error
            raise Interrupted(self.host, _unreachable(parts, error)) from error
        raise AssertionError("the second attempt returns or raises")

    def _connection(self, parts: SplitResult) -> tuple[http.client.HTTPConnection, bool]:
        key = (parts.scheme, parts.netloc)
        if key in self._connections:
            return self._connections[key], self._connections[key].sock is not None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryError(self.host, f"it sends us to {parts.geturl()!r}, which is no URL of a registry")
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = _trusting(self.host, settings.registry(self.host).ca)
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT, context=context)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT)
        connection.blocksize = 1 << 18
        self._connections[key] = connection
        return connection, False

    # Authentication

    def _authenticate(self, challenge: str, scope: str) -> None:
        scheme, _, rest = challenge.partition(" ")
        parameters = {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(rest)}
        match scheme.lower():
            case "basic":
                if self._credentials is None:
                    raise RegistryError(self.host, f"401, it wants a user and a password; try: login {self.host}")
                self._authorization = self._credentials.basic
            case "bearer" if parameters.get("realm"):
                self._authorization = f"Bearer {self._token(parameters, scope)}"
            case _:
                raise RegistryError(
                    self.host, f"401, it wants a kind of authentication that we do not have: {challenge!r}"
                )

    def _token(self, parameters: Mapping[str, str], scope: str) -> str:
        """Fetch a token from the realm that the registry names: docker's token authentication."""
        realm = parameters["realm"]
        if urlsplit(realm).scheme != "https" and self._top.startswith("https:"):
            raise RegistryError(self.host, f"its realm {realm} is not encrypted")
        wanted = {"service": parameters.get("service", ""), "scope": parameters.get("scope", "") or scope}
        query = urlencode({key: value for key, value in wanted.items() if value})
        answer = self._ask_for_token(realm, wanted, query)
        data = answer.read()
        if answer.status != 200:
            who = self._credentials.user if self._credentials else "nobody"
            raise RegistryError(self.host, f"{answer.status}, no token for {who}; try: login {self.host}")
        try:
            tokens = json.loads(data)
            return str(tokens.get("token") or tokens["access_token"])
        except (ValueError, KeyError, AttributeError) as error:
            raise RegistryError(self.host, f"the answer of {realm} holds no token") from error

    def _ask_for_token(self, realm: str, wanted: Mapping[str, str], query: str) -> Answer:
        """By GET with a name and a password; by POST with the token that a helper has kept in place of a password."""
        if self._credentials and self._credentials.user == IDENTITY_TOKEN:
            form = {"grant_type": "refresh_token", "refresh_token": self._credentials.password}
            body = urlencode({**form, "client_id": "minicontainer", **wanted}).encode()
            return self._send("POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, body)
        headers = {"Authorization": self._credentials.basic} if self._credentials else {}
        return self._send("GET", realm + ("&" if "?" in realm else "?") + query, headers, None)

    def _fail(self, answer: Answer, method: str) -> None:
        said = _errors(answer.read() if method != "HEAD" else b"", answer.media_type)
        what = f"{method} {urlsplit(answer.url).path}: {answer.status} {answer.body.reason}{said}"
        if answer.status == 401:
            who = self._credentials.user if self._credentials else "nobody"
            raise RegistryError(self.host, f"401, it does not let {who} in{said}; try: login {self.host}")
        if answer.status == 403:
            raise RegistryError(self.host, f"403, not allowed{said}; try: login {self.host}")
        raise (NotThere if answer.status == 404 else RegistryError)(self.host, what)


def is_plain(host: str) -> bool:
    """Whether a registry is spoken to without encryption: on loopback, as docker does, or said to be insecure."""
    if host in os.environ.get("MINICONTAINER_INSECURE_REGISTRIES", "").split(",") or settings.registry(host).insecure:
        return True
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _unreachable(parts: SplitResult, error: OSError | http.client.HTTPException) -> str:
    where = f"{parts.scheme}://{parts.netloc}"
    match error:
        case ConnectionRefusedError():
            return f"nobody listens at {where}; is it running?"
        case socket.gaierror():
            return f"no address for {parts.hostname}: {error.strerror}; try: another name, or look at /etc/resolv.conf"
        case ssl.SSLCertVerificationError():
            return f"the certificate of {where} is not trusted: {error.verify_message}"
        case ssl.SSLError() if "WRONG_VERSION_NUMBER" in str(error):
            return f"{where} does not speak TLS; try: --plain-http"
        case TimeoutError():
            return f"{where} did not answer within {TIMEOUT:.0f} s"
    return f"{where}: {error or type(error).__name__}"


def _errors(data: bytes, media_type: str) -> str:
    """What the registry says in its own words, when its body is of the shape that distribution-spec gives errors."""
    if media_type == "text/html":
        return " (in HTML, as a proxy or a page for people does: is that the registry?)"
    try:
        said = [f"{entry['code']}: {entry.get('message', '')}" for entry in json.loads(data)["errors"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return " (" + "; ".join(said).replace("\n", " ")[:300] + ")"


def _seconds(attempt: int, retry_after: str) -> float:
    """How long to wait: RFC 9110, Retry-After, is a number of seconds or a date."""
    if retry_after.strip().isdecimal():
        return min(float(retry_after), LONGEST_WAIT)
    with suppress(ValueError, TypeError):
        return max(0.0, min(parsedate_to_datetime(retry_after).timestamp() - time.time(), LONGEST_WAIT))
    return min(FIRST_WAIT * float(2 ** (attempt - 1)), LONGEST_WAIT) * (1 + random.random()) / 2


def _trusting(host: str, ca: str) -> ssl.SSLContext:
    """The system's authorities and the registry's own: of the settings, or where docker looks for them."""
    context = ssl.create_default_context()
    docker = f"/etc/docker/certs.d/{host}/ca.crt"
    for path in filter(None, (ca, docker if os.path.exists(docker) else "")):
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            raise RegistryError(host, f"its authorities in {path} cannot be read: {error}") from error
    return context
