"""Sessions over a real websocket, in one process: every frame that goes and what comes of those that come."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from miniecs import acs, lifecycle
from miniecs.controller import Controller
from miniecs.lifecycle import Wish
from miniecs.model import (
    Cluster,
    ContainerInstance,
    InstanceStatus,
    Resources,
    StopCode,
    Task,
    TaskDefinition,
    TaskStatus,
    key_of,
)
from miniecs.sessions import Sessions
from miniecs.store import CLUSTERS, INSTANCES, STOPPED_TASKS, TASK_DEFINITIONS, TASKS, MemoryStore, Transaction

CLUSTER = "arn:aws:ecs:r:a:cluster/default"
INSTANCE = "arn:aws:ecs:r:a:container-instance/default/i1"
DEFINITION = TaskDefinition(
    task_definition_arn="arn:aws:ecs:r:a:task-definition/web:1",
    family="web",
    revision=1,
    container_definitions=(
        {"name": "web", "image": "web", "cpu": 1, "memory": 6, "environment": [], "portMappings": []},
    ),
    memory="64",
    volumes=({"name": "data", "host": {}},),
    needs=Resources(cpu=1, memory=64),
)


class Control:
    """A store, a controller and sessions behind a socket; and a client that is the agent."""

    def __init__(self, instance_timeout: float) -> None:
        self.store = MemoryStore()
        self.controller = Controller(self.store, lambda: 1_000.0, random.Random(1))
        self.sessions = Sessions(self.store, self.controller, lambda: 1_000.0, instance_timeout, _hurry)
        self.url = ""
        self.http: aiohttp.ClientSession

    async def connect(self, arn: str = INSTANCE, cluster: str = "default") -> "Agent":
        query = {"containerInstanceArn": arn, "clusterArn": cluster}
        return Agent(await self.http.ws_connect(self.url, params=query))

    async def run_task(self) -> Task:
        def decide(transaction: Transaction) -> Task:
            wish = Wish(cluster_arn=CLUSTER, definition=DEFINITION, group="service:web", started_by="ecs-svc/1")
            task, _ = lifecycle.run(transaction, wish, random.Random(), 1_000.0)
            assert task
            return task

        return await self.store.transact(decide)

    async def instance(self) -> ContainerInstance:
        found = await self.store.read(lambda transaction: transaction.get(INSTANCES, "default/i1"))
        assert found
        return found

    async def task(self, arn: str) -> Task:
        key = key_of(arn)
        found = await self.store.read(lambda t: t.get(TASKS, key) or t.get(STOPPED_TASKS, key))
        assert found
        return found


class Agent:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.passed_over: list[str] = []

    async def frame(self, kind: str, seconds: float = 5.0) -> Any:
        """The next frame of this type; others are passed over, heartbeats answered."""
        async with asyncio.timeout(seconds):
            while True:
                frame = json.loads(await self.socket.receive_str())
                if frame["type"] == kind:
                    return frame["message"]
                self.passed_over.append(frame["type"])
                if frame["type"] == "HeartbeatMessage":
                    await self.say("HeartbeatAckRequest", messageId=frame["message"]["messageId"])

    async def say(self, kind: str, **message: Any) -> None:
        await self.socket.send_str(json.dumps({"type": kind, "message": message}))

    async def closed(self) -> bool:
        async with asyncio.timeout(5):
            while (await self.socket.receive()).type == aiohttp.WSMsgType.TEXT:
                continue
        return self.socket.closed


def _hurry(seconds: float) -> Awaitable[None]:
    """A second of silence, for the tests, is a tenth."""
    return asyncio.sleep(seconds / 10)


def play(scenario: Callable[[Control], Awaitable[None]], instance_timeout: float = 60.0) -> None:
    async def whole() -> None:
        control = Control(instance_timeout)
        await control.store.transact(_given)
        application = web.Application()
        application.router.add_get("/ws", control.sessions.connect)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        control.url = f"http://127.0.0.1:{runner.addresses[0][1]}/ws"
        loops = [asyncio.create_task(control.sessions.run()), asyncio.create_task(control.controller.run())]
        async with aiohttp.ClientSession() as control.http:
            await scenario(control)
        for loop in loops:
            loop.cancel()
        await control.sessions.close()
        await runner.cleanup()

    asyncio.run(whole())


def _given(transaction: Transaction) -> None:
    transaction.put(CLUSTERS, "default", Cluster(cluster_arn=CLUSTER, cluster_name="default"))
    transaction.put(TASK_DEFINITIONS, "web/00000001", DEFINITION)
    offered = Resources(cpu=1000, memory=1000)
    instance = ContainerInstance(container_instance_arn=INSTANCE, cluster_arn=CLUSTER, registered=offered)
    transaction.put(INSTANCES, "default/i1", instance)


async def eventually(check: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not await check():
            await asyncio.sleep(0.01)


def test_a_session_begins_with_the_manifest_and_makes_the_instance_connected() -> None:
    async def scenario(control: Control) -> None:
        agent = await control.connect()
        manifest = await agent.frame("TaskManifestMessage")
        assert manifest["tasks"] == [] and manifest["containerInstanceArn"] == INSTANCE
        assert manifest["seqNum"] == manifest["timeline"] == 1 and manifest["generatedAt"] == 1_000_000
        assert (await control.instance()).agent_connected
        await agent.socket.close()
        await eventually(lambda: _disconnected(control))

    play(scenario)


async def _disconnected(control: Control) -> bool:
    return not (await control.instance()).agent_connected


def test_the_manifest_comes_before_any_task() -> None:
    """By it an agent that was given up learns what to stop, before what it holds is given to the next task."""

    async def scenario(control: Control) -> None:
        next_manifest = control.controller.next_manifest

        async def slowly() -> int:
            await asyncio.sleep(0.05)
            return await next_manifest()

        control.controller.next_manifest = slowly  # type: ignore[method-assign]  # a disk takes its time
        agent = await control.connect()
        await eventually(lambda: _connected(control))
        await control.run_task()
        await agent.frame("PayloadMessage")
        assert set(agent.passed_over) - {"HeartbeatMessage"} == {"TaskManifestMessage"}

    play(scenario)


async def _connected(control: Control) -> bool:
    return (await control.instance()).agent_connected


def test_a_task_is_given_once_it_is_kept_and_its_stop_after_it() -> None:
    async def scenario(control: Control) -> None:
        agent = await control.connect()
        await agent.frame("TaskManifestMessage")
        task = await control.run_task()
        payload = await agent.frame("PayloadMessage")
        given = payload["tasks"][0]
        assert (given["arn"], given["desiredStatus"], given["version"]) == (task.task_arn, "RUNNING", "1")
        assert given["taskLimits"] == {"memory": "64"} and given["memory"] == "64"
        assert given["volumes"] == [{"name": "data", "host": {}}] and given["serviceName"] == "web"
        assert given["containers"][0]["containerArn"] == task.containers[0].container_arn
        assert acs.parse_task(json.dumps(given).encode()).containers[0].name == "web"  # as our agent takes it
        assert "taskRoleArn" not in given and "stopReason" not in given
        await agent.say("AckRequest", cluster="default", containerInstance="i1", messageId=payload["messageId"])
        await control.store.transact(
            lambda t: lifecycle.ask_to_stop(t, task, StopCode.USER_INITIATED, "enough", 1_000.0)
        )
        stop = (await agent.frame("PayloadMessage"))["tasks"]
        assert [(one["desiredStatus"], one["stopReason"]) for one in stop] == [("STOPPED", "enough")]

    play(scenario)


def test_after_a_reconnect_all_comes_again() -> None:
    async def scenario(control: Control) -> None:
        first = await control.connect()
        await first.frame("TaskManifestMessage")
        task = await control.run_task()
        payload = await first.frame("PayloadMessage")
        await first.say("AckRequest", cluster="default", containerInstance="i1", messageId=payload["messageId"])
        await first.socket.close()
        second = await control.connect()
        manifest = await second.frame("TaskManifestMessage")
        assert manifest["tasks"] == [{"taskArn": task.task_arn, "desiredStatus": "RUNNING"}]
        assert manifest["seqNum"] == 2
        assert [one["arn"] for one in (await second.frame("PayloadMessage"))["tasks"]] == [task.task_arn]

    play(scenario)


def test_a_second_session_replaces_the_first() -> None:
    async def scenario(control: Control) -> None:
        first = await control.connect()
        await first.frame("TaskManifestMessage")
        second = await control.connect()
        assert "another session" in (await first.frame("CloseMessage"))["message"]
        assert await first.closed()
        await second.frame("HeartbeatMessage")
        assert (await control.instance()).agent_connected

    play(scenario)


@pytest.mark.parametrize(
    ("arn", "cluster", "kind"),
    [
        (INSTANCE, "nowhere", "InvalidClusterException"),
        (INSTANCE + "x", "default", "InvalidInstanceException"),
        ("nonsense", "default", "InvalidInstanceException"),
        ("", "default", "InvalidInstanceException"),
    ],
)
def test_a_session_of_nobody_is_told_why_and_closed(arn: str, cluster: str, kind: str) -> None:
    async def scenario(control: Control) -> None:
        agent = await control.connect(arn, cluster)
        assert kind in (await agent.frame(kind))["message"]
        assert await agent.closed()

    play(scenario)


def test_a_deregistered_instance_is_told_in_its_session_and_at_the_next() -> None:
    async def scenario(control: Control) -> None:
        agent = await control.connect()
        await agent.frame("TaskManifestMessage")

        def decide(transaction: Transaction) -> None:
            instance = transaction.get(INSTANCES, "default/i1")
            assert instance
            gone = ContainerInstance(
                container_instance_arn=INSTANCE,
                cluster_arn=CLUSTER,
                registered=instance.registered,
                status=InstanceStatus.INACTIVE,
            )
            transaction.put(INSTANCES, "default/i1", gone)

        await control.store.transact(decide)
        assert "deregistered" in (await agent.frame("InactiveInstanceException"))["message"]
        again = await control.connect()
        await again.frame("InactiveInstanceException")

    play(scenario)


def test_what_an_agent_holds_and_nobody_knows_is_to_be_stopped() -> None:
    async def scenario(control: Control) -> None:
        agent = await control.connect()
        manifest = await agent.frame("TaskManifestMessage")
        known = await control.run_task()
        stray = "arn:aws:ecs:r:a:task/default/stray"
        candidates = [{"taskArn": arn, "desiredStatus": "STOPPED"} for arn in (known.task_arn, stray)]
        await agent.say("TaskStopVerificationMessage", messageId=manifest["messageId"], stopCandidates=candidates)
        answer = await agent.frame("TaskStopVerificationAck")
        assert answer["stopTasks"] == [{"taskArn": stray, "clusterArn": CLUSTER}]

    play(scenario)


def test_a_refused_payload_ends_its_tasks() -> None:
    async def scenario(control: Control) -> None:
        agent = await control.connect()
        await agent.frame("TaskManifestMessage")
        task = await control.run_task()
        payload = await agent.frame("PayloadMessage")
        await agent.say(
            "NackRequest",
            cluster="default",
            containerInstance="i1",
            messageId=payload["messageId"],
            reason="no such device",
        )

        async def ended() -> bool:
            return (await control.task(task.task_arn)).last_status == TaskStatus.STOPPED

        await eventually(ended)
        assert (await control.task(task.task_arn)).stopped_reason == "no such device"

    play(scenario)


@pytest.mark.parametrize("frame", ["", "{", "[]", "1", "null", '{"message": {}}', '{"type": "Odd"}', '{"type": 5}'])
def test_frames_that_mean_nothing_end_nothing(frame: str) -> None:
    async def scenario(control: Control) -> None:
        agent = await control.connect()
        await agent.frame("TaskManifestMessage")
        await agent.socket.send_str(frame)
        await agent.frame("HeartbeatMessage")

    play(scenario)


@pytest.mark.parametrize("closes", [True, False])
def test_silence_and_absence_are_loss_after_the_timeout(closes: bool) -> None:
    async def scenario(control: Control) -> None:
        agent = await control.connect()
        await agent.frame("TaskManifestMessage")
        task = await control.run_task()
        if closes:
            await agent.socket.close()

        async def lost() -> bool:
            return (await control.task(task.task_arn)).stop_code == StopCode.INFRASTRUCTURE_HEALTH

        await _hurry(0.5)
        assert not await lost()
        await eventually(lost)
        assert not (await control.instance()).agent_connected

    play(scenario, instance_timeout=1.0)


def test_an_instance_that_answers_is_never_lost() -> None:
    async def scenario(control: Control) -> None:
        agent = await control.connect()
        await agent.frame("TaskManifestMessage")
        task = await control.run_task()
        for _ in range(3):
            beat = await agent.frame("HeartbeatMessage")
            assert beat["healthy"] is True
            await agent.say("HeartbeatAckRequest", messageId=beat["messageId"])
        assert (await control.task(task.task_arn)).last_status == TaskStatus.PENDING

    play(scenario, instance_timeout=2.0)
