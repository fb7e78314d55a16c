"""The edge of the API in one process: what is verified, what is hidden, what is answered when all goes wrong."""

import asyncio
import base64
import json
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from miniecs import auth, server, wire
from miniecs.api import clusters
from miniecs.auth import Credentials
from miniecs.errors import AwsError, Error
from miniecs.server import Server, Settings
from miniecs.store import MemoryStore

KEY = Credentials("AKIAEXAMPLE", "secret")
TARGET = "AmazonEC2ContainerServiceV20141113"


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


class Client:
    """A server of this process, and one who signs."""

    def __init__(self, application: Server, http: aiohttp.ClientSession, url: str) -> None:
        self.server = application
        self.http = http
        self.url = url

    async def post(self, action: str, body: bytes = b"{}", key: Credentials = KEY) -> tuple[int, Any]:
        url = f"{self.url}/"
        headers = auth.sign(key, "us-east-1", "ecs", "POST", url, body)
        headers["X-Amz-Target"] = f"{TARGET}.{action}"
        async with self.http.post(url, data=body, headers=headers) as answer:
            assert answer.headers["x-amzn-RequestId"]
            return answer.status, json.loads(await answer.read())

    async def ask(self, method: str, path: str) -> tuple[int, Any]:
        headers = auth.sign(KEY, "us-east-1", "ecs", method, f"{self.url}{path}")
        async with self.http.request(method, f"{self.url}{path}", headers=headers) as answer:
            return answer.status, json.loads(await answer.read() or b"null")


def play(scenario: Callable[[Client], Awaitable[None]], data: Path, store: MemoryStore | None = None) -> None:
    async def whole() -> None:
        settings = Settings(data=str(data))
        application = Server(settings, store or MemoryStore(), {KEY.access_key_id: KEY.secret_access_key})
        application.rng = random.Random(1)
        runner = web.AppRunner(application.application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as http:
            await scenario(Client(application, http, f"http://127.0.0.1:{runner.addresses[0][1]}"))
        await runner.cleanup()

    asyncio.run(whole())


def test_an_action_is_done_and_answered(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        status, answer = await client.post("CreateCluster", b'{"clusterName": "a"}')
        assert (status, answer["cluster"]["clusterName"]) == (200, "a")
        status, answer = await client.post("DiscoverPollEndpoint")
        assert answer["endpoint"] == client.url

    play(scenario, tmp_path)


def test_nothing_is_answered_without_a_signature(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        for method, path in (("POST", "/"), ("GET", "/ws"), ("GET", "/_miniecs/status"), ("GET", "/"), ("PUT", "/x/y")):
            async with client.http.request(method, f"{client.url}{path}") as answer:
                assert answer.status == 400
                assert json.loads(await answer.read())["__type"] == "MissingAuthenticationTokenException"
        assert (await client.post("ListClusters", key=KEY._replace(secret_access_key="x")))[0] == 400

    play(scenario, tmp_path)


def test_what_is_not_there_is_an_aws_error(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        for method, path in (("GET", "/"), ("DELETE", "/"), ("GET", "/nothing"), ("GET", "/_miniecs/nothing")):
            status, answer = await client.ask(method, path)
            assert (status, answer["__type"]) == (400, "UnknownOperationException"), (method, path)
        status, answer = await client.post("DescribeDaemon", b'{"daemonArn": "x"}')
        assert (status, answer["__type"]) == (400, "UnsupportedFeatureException")
        status, answer = await client.ask("GET", "/_miniecs/explain?name=nobody")
        assert (status, answer["__type"]) == (400, "ClientException")
        assert (await client.ask("GET", "/_miniecs/status")) == (200, {"clusters": []})

    play(scenario, tmp_path)


def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        status, answer = await client.post("ListClusters", b" " * (server.BODY_BYTES + 1))
        assert (status, answer["__type"]) == (400, "ClientException")

    play(scenario, tmp_path)


def test_the_registry_is_mounted_and_wants_a_password(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        async with client.http.get(f"{client.url}/v2/") as answer:
            assert answer.status == 401
        async with client.http.get(f"{client.url}/v2/", headers=basic(*KEY)) as answer:
            assert answer.status == 200
        password = auth.registry_password(KEY, int(time.time()) + 60)
        async with client.http.get(f"{client.url}/v2/", headers=basic("AWS", password)) as answer:
            assert answer.status == 200

    play(scenario, tmp_path)


def test_a_bug_of_ours_is_an_error_without_details_and_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_call: Any, _request: Any) -> None:
        raise ZeroDivisionError("a secret of ours")

    broken.__module__ = clusters.__name__
    monkeypatch.setattr(clusters, "list_clusters", broken)

    async def scenario(client: Client) -> None:
        status, answer = await client.post("ListClusters")
        assert (status, answer["__type"]) == (500, "ServerException")
        assert "secret" not in json.dumps(answer)
        assert not client.server.broken.is_set()

    play(scenario, tmp_path)
    assert "a secret of ours" in caplog.text and "request failed target=" in caplog.text


class Full(MemoryStore):
    """A store whose disk is full."""

    async def _commit(self, changes: Any) -> None:
        if changes:
            raise Error("the store cannot be written: disk full")


def test_a_store_that_cannot_be_written_breaks_the_server(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        assert (await client.post("ListClusters"))[0] == 200
        status, answer = await client.post("CreateCluster")
        assert (status, answer["__type"]) == (500, "ServerException")
        assert client.server.broken.is_set()

    play(scenario, tmp_path, Full())


class Counting(MemoryStore):
    """A store that counts what it is asked to make durable."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[int] = []

    async def _commit(self, changes: Any) -> None:
        self.commits.append(len(changes))
        await super()._commit(changes)


def test_an_action_is_one_transaction_and_a_read_waits_for_what_it_saw(tmp_path: Path) -> None:
    store = Counting()

    async def scenario(client: Client) -> None:
        await client.post("CreateCluster")
        await client.post("ListClusters")
        assert store.commits == [1, 0]

    play(scenario, tmp_path, store)


def test_every_action_of_ours_is_an_operation_of_the_model() -> None:
    for service, modules in server.API.items():
        names = {wire._operation(service, name).action for name in wire.service_model(service).operation_names}
        for module in modules:
            ours = {
                name
                for name, member in vars(module).items()
                if callable(member)
                and not name.startswith("_")
                and getattr(member, "__module__", "") == module.__name__
            }
            assert ours <= names, ours - names


@pytest.mark.parametrize(
    ("target", "body", "said"),
    [
        ("/ws?containerInstanceArn=arn:x", b"", "agent refused action=/ws agent=arn:x"),
        ("RegisterContainerInstance", b'{"instanceIdentityDocument": "{\\"instanceId\\": \\"i 1\\"}"}', 'agent="i 1"'),
        ("RegisterContainerInstance", b"[", "request refused action=RegisterContainerInstance"),
        ("RegisterContainerInstance", b"[1]", "request refused action=RegisterContainerInstance"),
        ("ListClusters", b"{}", "request refused action=ListClusters address="),
    ],
)
def test_who_is_refused_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, target: str, body: bytes, said: str
) -> None:
    async def scenario(client: Client) -> None:
        if target.startswith("/"):
            async with client.http.get(f"{client.url}{target}"):
                return
        await client.post(target, body, KEY._replace(access_key_id="AKIAOTHER"))

    play(scenario, tmp_path)
    assert said in caplog.text


def test_an_error_is_its_class_and_its_text() -> None:
    class TeapotException(AwsError):
        text = "short and stout"

    assert TeapotException().to_json() == {"__type": "TeapotException", "message": "short and stout"}
    assert TeapotException("x", ids=["a"]).to_json() == {"__type": "TeapotException", "message": "x", "ids": ["a"]}
