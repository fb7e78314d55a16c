"""Server: the control plane's sockets, routes, credentials, start and shutdown.

Stands on `api`, `controller`, `sessions` and minicontainer's `registry.server`, and puts them together. Every request
is verified before it is read; every answer is sent when all that it tells is durable. Ruled by the AWS JSON 1.1
protocol and, for the paths below /v2/, by the OCI distribution specification.
"""

import asyncio
import configparser
import json
import logging
import os
import random
import signal
import socket
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple

from aiohttp import web

from minicontainer.registry import server as registry_server
from miniecs import addresses, auth, errors, explain, instance_keys, join_tokens, journal, listeners, wire
from miniecs.api import clusters, container_instances, ecr, services, tags, task_definitions, tasks
from miniecs.controller import Controller
from miniecs.journal import tell, warn
from miniecs.records import Account, Call
from miniecs.sessions import Sessions
from miniecs.sqlite import SqliteStore
from miniecs.store import INSTANCE_KEYS, InstanceKey, Store, Transaction

log = logging.getLogger("miniecs.server")

API: dict[str, tuple[ModuleType, ...]] = {  # service: the modules that have its actions
    "ecs": (clusters, container_instances, task_definitions, tasks, services, tags),
    "ecr": (ecr,),
}
BODY_BYTES = 8 * 1024 * 1024
CONTENT_TYPE = "application/x-amz-json-1.1"


class Settings(NamedTuple):
    data: str
    listen: tuple[str, ...] = ("127.0.0.1:8600",)
    region: str = "us-east-1"
    instance_timeout: float = 4.0


def main(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT: the exit code of `miniecs server`."""
    os.makedirs(settings.data, mode=0o700, exist_ok=True)
    sockets = [listeners.listen(address) for address in settings.listen]
    secrets, made = credentials(settings.data)
    journal.open_journal()
    return asyncio.run(_serve(settings, sockets, secrets, made))


def _greet(settings: Settings, urls: list[str], made: bool) -> None:
    """Say where the server is, also to programs; at the first start, how to use it."""
    _write(f"{settings.data}/endpoint", f"{urls[0]}\n")
    print(f"miniecs server at {', '.join(urls)}, region {settings.region}")
    if made:
        print(f"credentials are in {settings.data}/credentials; to use them:")
        print(f"  export AWS_SHARED_CREDENTIALS_FILE={os.path.abspath(settings.data)}/credentials")
        print(f"  export AWS_ENDPOINT_URL={urls[0]} AWS_DEFAULT_REGION={settings.region}")
        print("  aws ecs list-clusters")
    sys.stdout.flush()


def credentials(data: str) -> tuple[dict[str, str], bool]:
    """The secrets by access key id, of all profiles in the credentials file; made at the first start."""
    path = f"{data}/credentials"
    parser = configparser.ConfigParser(interpolation=None)
    made = not parser.read(path)
    if made:
        new = auth.generate()
        text = f"[default]\naws_access_key_id = {new.access_key_id}\naws_secret_access_key = {new.secret_access_key}\n"
        _write(path, text)
        parser.read_string(text)
    try:
        return {p["aws_access_key_id"]: p["aws_secret_access_key"] for n, p in parser.items() if p}, made
    except KeyError as error:
        raise errors.Error(f"{path} has a profile without {error}; try: remove the file, a new one is made") from None


def _write(path: str, text: str) -> None:
    """All or nothing, and on the disk."""
    with open(os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.new", path)


async def _serve(settings: Settings, sockets: list[socket.socket], secrets: Mapping[str, str], made: bool) -> int:
    store = SqliteStore(f"{settings.data}/state.sqlite")
    _greet(settings, [listeners.url(one) for one in sockets], made)
    server = Server(settings, store, secrets)
    await server.know_instance_keys()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    for opened in sockets:
        await web.SockSite(runner, opened).start()
    tell("server started", data=settings.data, listen=",".join(settings.listen), pid=os.getpid())
    loops = [
        asyncio.ensure_future(one) for one in (server.controller.run(), server.sessions.run(), server.broken.wait())
    ]
    waiting = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({*loops, waiting}, return_when=asyncio.FIRST_COMPLETED)
    broken = next((one for one in loops if one.done()), None)
    for one in (*loops, waiting):
        one.cancel()
    await server.sessions.close()
    await runner.cleanup()
    await store.close()
    if broken:
        # Crash-only: what went wrong is told, and the next start reads the truth from the disk.
        log.error("server broken", exc_info=broken.exception() or store.failure)
        return 1
    tell("server stopped")
    return 0


class Server:
    """The routes of one control plane."""

    def __init__(
        self, settings: Settings, store: Store, secrets: Mapping[str, str], clock: Callable[[], float] = time.time
    ) -> None:
        self.settings = settings
        self.store = store
        self.secrets = dict(secrets)  # by access key id: who may do everything, and agents that came by a token
        self.agents: dict[str, str] = {}  # the latter: their access key ids, and their instances' names
        self.clock = clock
        self.rng: random.Random = random.SystemRandom()
        self.account = Account(region=settings.region)
        self.controller = Controller(store, clock, self.rng)
        self.sessions = Sessions(store, self.controller, clock, settings.instance_timeout)
        self.broken = asyncio.Event()  # the store can no longer be written

    def application(self) -> web.Application:
        application = web.Application(client_max_size=BODY_BYTES)
        application.router.add_post("/", self._guarded(self._action))
        application.router.add_get("/ws", self._guarded(self._session))
        application.router.add_get("/_miniecs/{what}", self._guarded(self._ours))
        application.router.add_post("/_miniecs/tokens", self._guarded(self._tokens))
        application.router.add_post("/_miniecs/join", self._join)
        routes = registry_server.routes(f"{self.settings.data}/registry", self._authorize, realm="miniecs")
        application.add_subapp("/v2/", routes)
        application.router.add_route("*", "/{path:.*}", self._guarded(self._unknown))
        return application

    async def know_instance_keys(self) -> None:
        """Take up the credentials that agents have got for join tokens before."""
        for access_key_id, key in await self.store.read(lambda transaction: list(transaction.items(INSTANCE_KEYS))):
            self._know(access_key_id, key)

    def _know(self, access_key_id: str, key: InstanceKey) -> None:
        self.secrets[access_key_id] = key.secret_access_key
        self.agents[access_key_id] = key.instance_name

    def _authorize(self, user: str, password: str) -> bool:
        return auth.authorize(user, password, self.secrets, self.clock())

    def _guarded(
        self, answer: Callable[[web.Request, bytes, str], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Verify, answer, and turn errors into answers: the edge of the API."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            body = b""
            try:
                body = await request.read()
                return await answer(request, body, self._verified(request, body))
            except errors.AwsError as error:
                _tell_refusal(request, body, error)
                return _json(error.to_json(), error.status)
            except web.HTTPException as error:
                return _json(errors.ClientException(error.reason).to_json(), 400)
            except errors.Error:
                self.broken.set()
                return _json(errors.ServerException().to_json(), 500)
            except Exception:
                log.exception("request failed target=%s", request.headers.get("X-Amz-Target", request.path))
                return _json(errors.ServerException().to_json(), 500)

        return guarded

    def _verified(self, request: web.Request, body: bytes) -> str:
        """The access key id that signed it."""
        headers = {name.lower(): ",".join(request.headers.getall(name)) for name in request.headers}
        url = request.rel_url
        signed = auth.Request(request.method, url.raw_path, url.raw_query_string, headers, body)
        return auth.verify(signed, self.secrets, self.clock())

    async def _action(self, request: web.Request, body: bytes, caller: str) -> web.Response:
        """One action of the API: value in, one transaction, value out."""
        started = time.monotonic()
        operation = wire.operation(request.headers.get("X-Amz-Target", ""))
        if caller in self.agents:
            instance_keys.may(operation.name, self.agents[caller])
        act = _action_of(operation)
        value = operation.decode(body)

        def decide(transaction: Transaction) -> tuple[bytes, bool]:
            endpoint = f"{request.scheme}://{request.host}"
            call = Call(transaction, self.clock(), self.rng, self.account, endpoint, caller, self.secrets[caller])
            instance_keys.check(call, operation.name, value)
            done = act(call, value)
            instance_keys.bind(call, operation.name, done)
            return operation.encode(done), bool(transaction.changes)

        answer, wrote = await self.store.transact(decide)
        if wrote:
            tell("action done", action=operation.name, ms=round(1000 * (time.monotonic() - started), 1))
        return _answer(answer, 200)

    async def _session(self, request: web.Request, _body: bytes, caller: str) -> web.StreamResponse:
        """A session for an instance that is the caller's, at an address that no other has meanwhile."""
        arn = request.query.get("containerInstanceArn", "")
        await self.store.read(lambda transaction: instance_keys.check_session(transaction, caller, arn))
        await self.store.read(lambda transaction: addresses.check(transaction, arn))
        return await self.sessions.connect(request)

    async def _ours(self, request: web.Request, _body: bytes, caller: str) -> web.Response:
        """What the API of AWS has no words for."""
        if caller in self.agents:
            instance_keys.may(request.match_info["what"], self.agents[caller])
        name, cluster = request.query.get("name", ""), request.query.get("cluster", "")
        match request.match_info["what"]:
            case "explain":
                return _json(await self.store.read(lambda transaction: explain.explain(transaction, name, cluster)))
            case "status":
                return _json(await self.store.read(explain.status))
            case "tokens":
                found = await self.store.read(lambda transaction: join_tokens.listing(transaction, self.clock()))
                return _json([one._asdict() for one in found])
        raise errors.UnknownOperationException(f"unknown path {request.path}")

    async def _tokens(self, _request: web.Request, body: bytes, caller: str) -> web.Response:
        """Make, renew or revoke a join token."""
        if caller in self.agents:
            instance_keys.may("tokens", self.agents[caller])
        asked = _document(body)
        token, seconds = str(asked.get("token", "")), asked.get("seconds")

        def decide(transaction: Transaction) -> join_tokens.Listed:
            if seconds is None:
                return join_tokens.revoke(transaction, token, self.clock())
            return join_tokens.create(transaction, token, float(seconds), self.clock())

        listed = await self.store.transact(decide)
        tell("join token made" if listed.status == "good" else "join token revoked", id=listed.id)
        return _json(listed._asdict())

    async def _join(self, request: web.Request) -> web.Response:
        """A token for credentials: the one request that nobody has signed."""
        asked = {}
        try:
            asked = _document(await request.read())
            token, name = str(asked.get("token", "")), str(asked.get("instanceName", ""))
            made = await self.store.transact(lambda one: join_tokens.trade(one, token, name, self.clock()))
        except errors.AwsError as error:
            name = str(asked.get("instanceName", ""))[:256]
            warn("agent refused", action="join", agent=name, address=request.remote, message=str(error))
            return _json(error.to_json(), error.status)
        await self.know_instance_keys()
        tell("agent joined", agent=name, address=request.remote, token=token.partition(".")[0])
        return _json({"accessKeyId": made.access_key_id, "secretAccessKey": made.secret_access_key})

    async def _unknown(self, request: web.Request, _body: bytes, _caller: str) -> web.Response:
        raise errors.UnknownOperationException(f"unknown path {request.method} {request.path}")


def _action_of(operation: wire.Operation) -> Callable[[Call, wire.Shape], Any]:
    for module in API[operation.service]:
        act: Callable[[Call, wire.Shape], Any] | None = vars(module).get(operation.action)
        if act and act.__module__ == module.__name__:
            return act
    raise errors.UnsupportedFeatureException(f"{operation.name} is not supported yet")


def _document(body: bytes) -> dict[str, Any]:
    """The body of a request of ours: a JSON object."""
    with suppress(ValueError):
        document = json.loads(body)
        if isinstance(document, dict):
            return document
    raise errors.SerializationException("the body is no JSON object")


def _json(document: Any, status: int = 200) -> web.Response:
    return _answer(json.dumps(document).encode(), status)


def _answer(body: bytes, status: int) -> web.Response:
    headers = {"x-amzn-RequestId": str(uuid.uuid4()), "Content-Type": CONTENT_TYPE}
    return web.Response(body=body, status=status, headers=headers)


def _tell_refusal(request: web.Request, body: bytes, error: errors.AwsError) -> None:
    """Say who was refused and why; an agent by the name it gives."""
    what = request.headers.get("X-Amz-Target", request.path).rpartition(".")[2]
    agent = request.query.get("containerInstanceArn", "")
    if what == "RegisterContainerInstance":
        with suppress(ValueError, AttributeError, TypeError):  # it is not verified, so it may be anything
            agent = str(json.loads(json.loads(body).get("instanceIdentityDocument", "{}")).get("instanceId", ""))
    signed = not isinstance(error, errors.AuthError)
    event = "action refused" if signed else "agent refused" if agent or what == "/ws" else "request refused"
    (tell if signed else warn)(
        event, action=what[:64], agent=agent[:256], address=request.remote, code=error.code, message=str(error)
    )
