"""Signed calls: what botocore would sign, sent to the letter; answers and refusals as values."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from miniecs.client import Client, Refusal, behind, credentials, default_region, host_and_port, refusal
from miniecs.errors import Error

KEYS = Credentials("AKID", "secret")


def verified(request: web.Request, body: bytes, service: str) -> bool:
    """Sign again what arrived, with the time that it says, and compare."""
    signed = [name for name in ("content-type", "host", "x-amz-date", "x-amz-target") if name in request.headers]
    arrived = AWSRequest(method=request.method, url=str(request.url.origin()) + request.raw_path, data=body)
    for name in signed:
        arrived.headers[name] = request.headers[name]
    arrived.context["timestamp"] = request.headers["X-Amz-Date"]
    auth = SigV4Auth(KEYS, service, "us-east-1")
    signature = auth.signature(auth.string_to_sign(arrived, auth.canonical_request(arrived)), arrived)
    return request.headers["Authorization"].endswith(f"Signature={signature}")


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def play(answer: Answer, story: Callable[[Client], Awaitable[Any]]) -> Any:
    async def stage() -> Any:
        application = web.Application()
        application.add_routes([web.post("/", answer), web.get("/ws", answer)])
        runner = web.AppRunner(application, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as http:
            client = Client(http, f"http://127.0.0.1:{runner.addresses[0][1]}/", "us-east-1", KEYS)
            try:
                return await story(client)
            finally:
                await runner.cleanup()

    return asyncio.run(stage())


@pytest.mark.parametrize(
    ("service", "target"),
    [("ecs", "AmazonEC2ContainerServiceV20141113"), ("ecr", "AmazonEC2ContainerRegistry_V20150921")],
)
def test_a_call_is_signed_for_its_service(service: str, target: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        assert request.headers["X-Amz-Target"] == f"{target}.DoIt"
        assert verified(request, body, service)
        return web.json_response({"said": json.loads(body)})

    assert play(answer, lambda client: client.call("DoIt", {"ä": 1}, service)) == {"said": {"ä": 1}}


def test_an_error_is_a_refusal_with_its_code() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"__type": "com.amazonaws.ecs#ClientException", "message": "no"}, status=400)

    with pytest.raises(Refusal, match="ClientException: no") as refused:
        play(answer, lambda client: client.call("DoIt", {}))
    assert (refused.value.code, refused.value.status, refused.value.final) == ("ClientException", 400, True)


def test_an_answer_that_is_no_json_is_a_refusal_that_shows_it() -> None:
    assert str(refusal(502, b"<html>Bad Gateway")) == "HTTP 502: <html>Bad Gateway"
    assert refusal(500, b"[]").code == "HTTP 500"


def test_a_session_is_signed_with_its_query() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert verified(request, b"", "ecs")
        assert dict(request.query) == {"clusterArn": "a/b c", "containerInstanceArn": "arn:aws:x/y"}
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("hello")
        return socket

    async def story(client: Client) -> str:
        arguments = {"containerInstanceArn": "arn:aws:x/y", "clusterArn": "a/b c"}
        async with await client.connect(client.endpoint, arguments) as socket:
            return str((await socket.receive()).data)

    assert play(answer, story) == "hello"


def test_a_refused_session_is_a_refusal() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"__type": "AccessDeniedException"}, status=403)

    with pytest.raises(Refusal) as refused:
        play(answer, lambda client: client.connect(client.endpoint, {}))
    assert refused.value.for_credentials


def test_credentials_come_from_where_every_tool_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert credentials().access_key == "AKID"


def test_without_credentials_it_says_what_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(Error, match="AWS_SHARED_CREDENTIALS_FILE"):
        credentials()


def test_the_region_is_the_tools_or_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    assert default_region() == "us-east-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert default_region() == "eu-central-1"


def test_an_endpoint_names_the_registry_beside_it() -> None:
    assert host_and_port("http://198.18.0.1:8600/") == "198.18.0.1:8600"


@pytest.mark.parametrize(("seconds", "said"), [(412, "410 s behind"), (-3600, "3600 s ahead of")])
def test_a_wrong_clock_is_said_as_what_it_is(seconds: int, said: str) -> None:
    text = json.dumps({"__type": "InvalidSignatureException", "message": "Signature expired: x is more than 5 min."})
    found = refusal(400, text.encode(), seconds)
    assert str(found).startswith(f"this machine's clock is {said} the control plane's; try: ")
    assert (found.for_clock, found.for_credentials, found.final) == (True, False, False)


def test_a_wrong_signature_is_no_matter_of_the_clock() -> None:
    text = json.dumps({"__type": "InvalidSignatureException", "message": "The request signature we calculated"})
    assert refusal(400, text.encode(), 412).for_credentials


@pytest.mark.parametrize(("date", "seconds"), [("Thu, 01 Jan 1970 00:10:00 GMT", 100.0), ("yesterday", 0.0), ("", 0.0)])
def test_the_clocks_are_compared_by_the_date_of_the_answer(date: str, seconds: float) -> None:
    assert behind(date, 500.0) == seconds
