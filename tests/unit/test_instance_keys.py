"""Instance keys: an agent that came by a join token acts for its own container instance, and for no other."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec.structs import replace

from miniecs import auth, join_tokens
from miniecs.auth import Credentials
from miniecs.model import key_of
from miniecs.store import INSTANCE_KEYS, INSTANCES, MemoryStore, Transaction
from tests.unit.test_actions import offer
from tests.unit.test_server import KEY, Client, play

TOKEN = "abcdef.0123456789abcdef"
DENIED = "AccessDeniedException"


class Agents:
    """Agents with a key each, who call the control plane."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def joins(self, name: str) -> Credentials:
        url, body = f"{self.client.url}/_miniecs/join", json.dumps({"token": TOKEN, "instanceName": name}).encode()
        async with self.client.http.post(url, data=body) as answer:
            made = json.loads(await answer.read())
        return Credentials(made["accessKeyId"], made["secretAccessKey"])

    async def calls(self, key: Credentials, action: str, **members: Any) -> Any:
        """What is answered: the error's name and text in one, if it is one."""
        _, said = await self.client.post(action, json.dumps(members).encode(), key)
        return f"{said['__type']}: {said.get('message')}" if "__type" in said else said

    async def registers(self, key: Credentials, name: str, **members: Any) -> str:
        address = f"10.0.0.{sum(map(ord, name)) % 250}"
        said = await self.calls(key, "RegisterContainerInstance", **offer(address, name, **members))
        return said if isinstance(said, str) else str(said["containerInstance"]["containerInstanceArn"])

    async def begins_a_session(self, key: Credentials, arn: str) -> str:
        url = f"{self.client.url}/ws?clusterArn=default&containerInstanceArn={quote(arn, safe='')}"
        headers = auth.sign(key, "us-east-1", "ecs", "GET", url)
        async with self.client.http.get(
            url, headers=headers
        ) as answer:  # no upgrade is asked for: it gets as far as that
            said = await answer.read()
        return f"{json.loads(said)['__type']}: {json.loads(said)['message']}" if said.startswith(b"{") else "begins"


def played(scenario: Callable[[Agents, MemoryStore], Awaitable[None]], directory: Path) -> None:
    store = MemoryStore()

    async def whole(client: Client) -> None:
        await store.transact(lambda one: join_tokens.create(one, TOKEN, 60, client.server.clock()))
        await client.post("CreateCluster")
        await scenario(Agents(client), store)

    play(whole, directory, store)


def test_a_key_acts_for_the_instance_that_it_registered_and_for_no_other(tmp_path: Path) -> None:
    async def scenario(agents: Agents, _: MemoryStore) -> None:
        mine, other = await agents.joins("one"), await agents.joins("two")
        arn, others = await agents.registers(mine, "one"), await agents.registers(other, "two")
        assert await agents.registers(mine, "one", containerInstanceArn=arn) == arn  # it comes back
        for action in ("DiscoverPollEndpoint", "DeregisterContainerInstance"):
            said = await agents.calls(mine, action, containerInstance=others)
            assert said.startswith(f"{DENIED}: the agent of one is not authorized to perform {action} for {others}")
        assert (await agents.registers(mine, "two", containerInstanceArn=others)).startswith(DENIED)
        assert (await agents.begins_a_session(mine, others)).startswith(DENIED)
        assert not (await agents.begins_a_session(mine, arn)).startswith(DENIED)
        assert "endpoint" in await agents.calls(mine, "DiscoverPollEndpoint", containerInstance=arn)

    played(scenario, tmp_path)


def test_it_reports_only_the_tasks_of_its_instance(tmp_path: Path) -> None:
    async def scenario(agents: Agents, store: MemoryStore) -> None:
        mine, other = await agents.joins("one"), await agents.joins("two")
        arn, others = await agents.registers(mine, "one"), await agents.registers(other, "two")
        await store.transact(lambda one: connect(one, others))
        container = {"name": "main", "image": "busybox", "memory": 8}
        await agents.calls(KEY, "RegisterTaskDefinition", family="f", containerDefinitions=[container])
        (task,) = (await agents.calls(KEY, "RunTask", taskDefinition="f"))["tasks"]
        assert task["containerInstanceArn"] == others
        for action in ("SubmitTaskStateChange", "SubmitContainerStateChange"):
            said = await agents.calls(mine, action, task=task["taskArn"], status="STOPPED")
            assert said == (
                f"{DENIED}: the agent of one is not authorized to perform {action} for {others}: "
                f"its credentials are those of {arn}"
            )
        report = {"task": task["taskArn"], "status": "RUNNING"}
        assert await agents.calls(other, "SubmitTaskStateChange", **report) == {"acknowledgment": "ACK"}

    played(scenario, tmp_path)


def connect(transaction: Transaction, arn: str) -> None:
    instance = transaction.get(INSTANCES, key_of(arn))
    assert instance
    transaction.put(INSTANCES, key_of(arn), replace(instance, agent_connected=True))


def test_it_has_one_instance_and_another_when_that_is_gone(tmp_path: Path) -> None:
    async def scenario(agents: Agents, _: MemoryStore) -> None:
        key = await agents.joins("one")
        arn = await agents.registers(key, "one")
        said = await agents.registers(key, "second")
        assert said.startswith(
            f"InvalidParameterException: these credentials are those of container instance {arn}; try:"
        )
        assert (await agents.calls(KEY, "ListContainerInstances"))["containerInstanceArns"] == [arn]
        await agents.calls(KEY, "DeregisterContainerInstance", containerInstance=arn)
        assert (await agents.registers(key, "second")).startswith("arn:")

    played(scenario, tmp_path)


def test_a_new_key_is_not_for_an_instance_that_another_registered(tmp_path: Path) -> None:
    async def scenario(agents: Agents, _: MemoryStore) -> None:
        arn = await agents.registers(await agents.joins("one"), "one", clientToken="t")
        again = await agents.joins("one")
        assert (await agents.registers(again, "one", containerInstanceArn=arn)).startswith(DENIED)
        assert (await agents.registers(again, "one", clientToken="t")).startswith(DENIED)

    played(scenario, tmp_path)


def test_a_key_of_an_older_server_is_bound_when_its_instance_comes_back(tmp_path: Path) -> None:
    async def scenario(agents: Agents, store: MemoryStore) -> None:
        key = await agents.joins("one")
        arn = await agents.registers(key, "one")
        others = await agents.registers(KEY, "two")

        def forget(transaction: Transaction) -> None:
            for name, known in transaction.items(INSTANCE_KEYS):
                transaction.put(INSTANCE_KEYS, name, replace(known, container_instance_arn=""))

        await store.transact(forget)
        assert (await agents.begins_a_session(key, others)).startswith(DENIED)
        assert not (await agents.begins_a_session(key, arn)).startswith(DENIED)
        assert await agents.registers(key, "one", containerInstanceArn=arn) == arn
        bound = await store.read(lambda transaction: [known for _, known in transaction.items(INSTANCE_KEYS)])
        assert [known.container_instance_arn for known in bound] == [arn]

    played(scenario, tmp_path)


def test_an_address_that_another_got_meanwhile_is_no_place_for_a_session(tmp_path: Path) -> None:
    """One was cut off, the other registered with its address; then the cable was plugged in again."""

    async def scenario(agents: Agents, store: MemoryStore) -> None:
        first, second = await agents.joins("ab"), await agents.joins("ba")  # their addresses are the same
        arn, others = await agents.registers(first, "ab"), await agents.registers(second, "ba")
        assert not (await agents.begins_a_session(first, arn)).startswith("InvalidParameterException")
        await store.transact(lambda one: connect(one, others))
        said = await agents.begins_a_session(first, arn)
        assert said.startswith("InvalidParameterException: ba is connected and has the address 10.0.0.195; try: ")
        assert not (await agents.begins_a_session(second, others)).startswith("InvalidParameterException")

    played(scenario, tmp_path)
