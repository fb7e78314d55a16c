"""Join tokens: made, traded once and again until they end, refused by name; and what their bearer may do afterwards."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from miniecs import auth, errors, join_keys, join_tokens
from miniecs.auth import Credentials
from miniecs.store import INSTANCE_KEYS, JOIN_TOKENS, MemoryStore, Transaction
from tests.unit.test_server import Client, play

TOKEN = "abcdef.0123456789abcdef"
NOW = 1_000_000.0


def transaction() -> Transaction:
    return Transaction(MemoryStore().records)


def test_a_new_token_has_the_form_of_one_and_is_another_each_time() -> None:
    made = {join_tokens.generate() for _ in range(20)}
    assert len(made) == 20
    assert all(join_tokens.FORM.fullmatch(token) for token in made)


def test_a_token_is_traded_for_credentials_of_the_instance_until_it_ends() -> None:
    store = transaction()
    listed = join_tokens.create(store, TOKEN, 60, NOW)
    assert (listed.id, listed.status, listed.expires_at) == ("abcdef", "good", NOW + 60)
    first, second = (join_tokens.trade(store, TOKEN, name, NOW + 59) for name in ("one", "two"))
    assert first.access_key_id != second.access_key_id
    keys = dict(store.items(INSTANCE_KEYS))
    assert keys[first.access_key_id].instance_name == "one"
    assert keys[first.access_key_id].secret_access_key == first.secret_access_key


def test_the_secret_half_is_not_kept() -> None:
    store = transaction()
    join_tokens.create(store, TOKEN, 60, NOW)
    assert TOKEN.partition(".")[2] not in str(store.items(JOIN_TOKENS))


@pytest.mark.parametrize(
    ("token", "after", "revoked", "why"),
    [
        ("zzzzzz.0123456789abcdef", 0, False, "join token zzzzzz is unknown here"),
        ("abcdef.fedcba9876543210", 0, False, "join token abcdef is unknown here"),
        ("", 0, False, "join token  is unknown here"),
        (TOKEN, 61, False, "join token abcdef expired at 1970-01-12 13:47:40 UTC"),
        (TOKEN, 0, True, "join token abcdef was revoked"),
    ],
)
def test_a_token_that_is_not_good_is_refused_with_cause_and_fix(
    token: str, after: int, revoked: bool, why: str
) -> None:
    store = transaction()
    join_tokens.create(store, TOKEN, 60, NOW)
    if revoked:
        assert join_tokens.revoke(store, "abcdef", NOW).status == "revoked"
    with pytest.raises(errors.JoinTokenException) as refused:
        join_tokens.trade(store, token, "one", NOW + after)
    assert str(refused.value) == f"{why}; try, on the manager: miniecs token create"
    assert store.items(INSTANCE_KEYS) == []


def test_creating_it_again_renews_it() -> None:
    store = transaction()
    join_tokens.create(store, TOKEN, 60, NOW)
    join_tokens.revoke(store, TOKEN, NOW)
    join_tokens.create(store, TOKEN, 60, NOW + 100)
    assert [one.status for one in join_tokens.listing(store, NOW + 159)] == ["good"]
    assert [one.status for one in join_tokens.listing(store, NOW + 160)] == ["expired"]


def test_a_token_is_forgotten_a_week_after_its_end() -> None:
    store = transaction()
    join_tokens.create(store, TOKEN, 60, NOW)
    join_tokens.create(store, "fedcba.0123456789abcdef", 60, NOW + 8 * join_tokens.DAY)
    assert [one.id for one in join_tokens.listing(store, NOW)] == ["fedcba"]


@pytest.mark.parametrize(
    "token", ["", "abc", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef0", "abcdef-0123456789abcdef"]
)
def test_what_has_not_the_form_of_a_token_is_none(token: str) -> None:
    with pytest.raises(errors.InvalidParameterException, match="six letters or digits, a dot"):
        join_tokens.create(transaction(), token, 60, NOW)


@pytest.mark.parametrize("seconds", [0, -1, join_tokens.LONGEST + 1])
def test_no_token_lives_for_ever(seconds: float) -> None:
    with pytest.raises(errors.InvalidParameterException, match="lives up to a year"):
        join_tokens.create(transaction(), TOKEN, seconds, NOW)


def test_an_unknown_one_cannot_be_revoked() -> None:
    with pytest.raises(errors.ClientException, match="join token abcdef is unknown here"):
        join_tokens.revoke(transaction(), "abcdef", NOW)


# --- through the server ----------------------------------------------------------------------------------------------


async def told(client: Client, path: str, document: Any, key: Credentials | None = None) -> tuple[int, Any]:
    body, url = json.dumps(document).encode(), f"{client.url}/_miniecs/{path}"
    headers = auth.sign(key, "us-east-1", "ecs", "POST", url, body) if key else {}
    async with client.http.post(url, data=body, headers=headers) as answer:
        return answer.status, json.loads(await answer.read())


def test_who_joins_may_do_what_an_agent_does_and_no_more(tmp_path: Path) -> None:
    from tests.unit.test_server import KEY  # the one who may do everything

    async def scenario(client: Client) -> None:
        assert (await told(client, "join", {"token": TOKEN, "instanceName": "one"}))[0] == 400
        assert (await told(client, "tokens", {"token": TOKEN, "seconds": 60}))[1]["__type"].startswith("Missing")
        assert (await told(client, "tokens", {"token": TOKEN, "seconds": 60}, KEY))[1]["status"] == "good"
        assert (await client.ask("GET", "/_miniecs/tokens"))[1][0]["id"] == "abcdef"
        status, made = await told(client, "join", {"token": TOKEN, "instanceName": "one"})
        key = Credentials(made["accessKeyId"], made["secretAccessKey"])
        assert status == 200
        assert (await client.post("CreateCluster", key=key))[0] == 200
        assert (await client.post("DiscoverPollEndpoint", key=key))[0] == 200
        status, refused = await client.post("RunTask", b'{"taskDefinition": "x"}', key=key)
        assert refused == {
            "__type": "AccessDeniedException",
            "message": "the agent of one is not authorized to perform RunTask",
        }
        assert (await told(client, "tokens", {"token": TOKEN}, key))[1]["__type"] == "AccessDeniedException"
        assert (await told(client, "tokens", {"token": "abcdef"}, KEY))[1]["status"] == "revoked"
        assert "was revoked" in (await told(client, "join", {"token": TOKEN}))[1]["message"]
        assert (await client.post("DiscoverPollEndpoint", key=key))[0] == 200  # who is in stays in

    play(scenario, tmp_path)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b"\xff"])
def test_a_join_that_is_no_json_object_is_refused(tmp_path: Path, body: bytes) -> None:
    async def scenario(client: Client) -> None:
        async with client.http.post(f"{client.url}/_miniecs/join", data=body) as answer:
            assert (answer.status, json.loads(await answer.read())["__type"]) == (400, "SerializationException")

    play(scenario, tmp_path)


def test_a_server_that_is_started_again_knows_who_has_joined(tmp_path: Path) -> None:
    store, made = MemoryStore(), []

    def join(one: Transaction) -> None:
        join_tokens.create(one, TOKEN, 60, NOW)
        made.append(join_tokens.trade(one, TOKEN, "one", NOW))

    asyncio.run(store.transact(lambda one: join(one)))

    async def scenario(client: Client) -> None:
        assert (await client.post("DiscoverPollEndpoint", key=made[0]))[1]["__type"] == "UnrecognizedClientException"
        await client.server.know_instance_keys()
        assert (await client.post("DiscoverPollEndpoint", key=made[0]))[0] == 200

    play(scenario, tmp_path, store)


# --- the agent's side ------------------------------------------------------------------------------------------------


def test_the_agent_keeps_its_credentials_for_root_alone(tmp_path: Path) -> None:
    from botocore.credentials import Credentials as Keys

    data = str(tmp_path / "agent")
    assert join_keys.kept(data) is None
    assert not join_keys.forget(data)
    join_keys.keep(data, Keys("AKIA", "se%cret"))
    found = join_keys.kept(data)
    assert found and (found.access_key, found.secret_key) == ("AKIA", "se%cret")
    assert (tmp_path / "agent/credentials").stat().st_mode & 0o777 == 0o600
    assert join_keys.forget(data)
    assert join_keys.kept(data) is None
