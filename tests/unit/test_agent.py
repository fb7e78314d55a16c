"""An agent beside a control plane of a few lines: what it says, in which order, and what it never does twice."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from botocore.credentials import Credentials

from miniecs import agent as agents
from miniecs.acs import Task, TaskIdentifier, TaskManifestMessage
from miniecs.agent import Agent, first_record, stop_candidates, submission
from miniecs.client import Client, Refusal
from miniecs.container_instance import Settings
from miniecs.errors import Error
from miniecs.transitions import ContainerRecord, Status, SubmitContainerStateChange, TaskRecord, known_status
from tests.stand_in import StandIn

INSTANCE = "arn:aws:ecs:us-east-1:000000000000:container-instance/default/1"


def arn(number: int) -> str:
    return f"arn:aws:ecs:us-east-1:000000000000:task/default/{number:032x}"


def task(number: int, desired_status: str = "RUNNING", **members: Any) -> dict[str, Any]:
    container = {"name": "web", "image": "web:1", "essential": True, "environment": [], "links": []}
    return {
        "arn": arn(number), "family": "f", "version": "1", "desiredStatus": desired_status, "networkMode": "bridge",
        "containers": [{**container, **members}],
    }  # fmt: skip


class ControlPlane:
    """Answers as the real one does, and remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.frames: list[tuple[str, dict[str, Any]]] = []
        self.refusals: dict[str, list[tuple[int, str]]] = {}  # operation to what it answers first
        self.sessions: list[web.WebSocketResponse] = []
        self.hello: list[dict[str, Any]] = [
            {"type": "TaskManifestMessage", "message": {"messageId": "m0", "tasks": []}}
        ]
        self.endpoint = ""

    async def api(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKID/")
        operation, body = request.headers["X-Amz-Target"].partition(".")[2], await request.json()
        self.calls.append((operation, body))
        if refusals := self.refusals.get(operation):
            status, code = refusals.pop(0)
            return web.json_response({"__type": code, "message": "no"}, status=status)
        answers = {
            "RegisterContainerInstance": {"containerInstance": {"containerInstanceArn": INSTANCE}},
            "DiscoverPollEndpoint": {"endpoint": self.endpoint},
            "GetAuthorizationToken": {"authorizationData": [{"authorizationToken": "QVdTOnB3"}]},
        }
        return web.json_response(answers.get(operation, {"acknowledgment": "ok"}))

    async def ws(self, request: web.Request) -> web.WebSocketResponse:
        assert request.query["containerInstanceArn"] == INSTANCE
        session = web.WebSocketResponse()
        await session.prepare(request)
        self.sessions.append(session)
        for frame in self.hello:
            await session.send_json(frame)
        async for said in session:
            frame = json.loads(said.data)
            self.frames.append((frame["type"], frame["message"]))
        return session

    async def send(self, kind: str, **message: Any) -> None:
        await self.sessions[-1].send_json({"type": kind, "message": message})

    def heard(self, kind: str) -> list[dict[str, Any]]:
        return [message for said, message in self.frames if said == kind]

    def told(self, operation: str) -> list[dict[str, Any]]:
        return [body for called, body in self.calls if called == operation]

    def statuses(self, number: int) -> list[str]:
        return [body["status"] for body in self.told("SubmitTaskStateChange") if body["task"] == arn(number)]


class World:
    """One control plane, one stand-in of an engine, one agent after another on the same disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.control = ControlPlane()
        self.spawner = StandIn()
        self.agent: Agent
        self.joined: asyncio.Task[None]

    async def start_agent(self, http: aiohttp.ClientSession, cluster: str = "default") -> None:
        chosen = Settings(
            endpoint=self.control.endpoint, cluster=cluster, data=str(self.directory), region="us-east-1", cpu=1024,
            memory=512, advertise_address="198.18.0.2", availability_zone="us-east-1a", instance_name="one",
            attributes=(), keep_stopped=0, pull_behavior="default",
        )  # fmt: skip
        client = Client(http, self.control.endpoint, "us-east-1", Credentials("AKID", "secret"))
        self.agent = Agent(chosen, self.spawner, client)
        self.joined = asyncio.create_task(self.agent.join())

    async def stop_agent(self) -> None:
        self.joined.cancel()
        await asyncio.gather(self.joined, return_exceptions=True)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                if self.joined.done():
                    self.joined.result()
                await asyncio.sleep(0.002)

    async def until_running(self, number: int) -> None:
        await self.until(lambda: self.control.statuses(number) == ["RUNNING"])

    async def payload(self, message_id: str, *tasks: dict[str, Any]) -> None:
        await self.control.send("PayloadMessage", messageId=message_id, seqNum=1, tasks=tasks)

    def acknowledged(self) -> list[str]:
        return [message["messageId"] for message in self.control.heard("AckRequest")]


def play(directory: Path, story: Callable[[World, aiohttp.ClientSession], Awaitable[None]]) -> None:
    """Tell a story to an agent that has joined."""

    async def stage() -> None:
        world = World(directory)
        application = web.Application()
        application.add_routes([web.post("/", world.control.api), web.get("/ws", world.control.ws)])
        runner = web.AppRunner(application, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        world.control.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as http:
            await world.start_agent(http)
            try:
                await story(world, http)
            finally:
                await world.stop_agent()
                await runner.cleanup()

    asyncio.run(stage())


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(agents, "REFUSED_DELAY", 0.02)


async def session(world: World, number: int = 1) -> None:
    await world.until(lambda: len(world.control.sessions) >= number and "m0" in world.acknowledged())


# --- stories ---------------------------------------------------------------------------------------------------------


def test_it_registers_what_it_offers_and_answers_heartbeats(tmp_path: Path) -> None:
    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        (body,) = world.control.told("RegisterContainerInstance")
        resources = {resource["name"]: resource for resource in body["totalResources"]}
        assert (resources["CPU"]["integerValue"], resources["MEMORY"]["integerValue"]) == (1024, 512)
        assert json.loads(body["instanceIdentityDocument"])["instanceId"] == "one"
        assert "containerInstanceArn" not in body
        await world.control.send("HeartbeatMessage", messageId="h1", healthy=True)
        await world.until(lambda: world.control.heard("HeartbeatAckRequest") == [{"messageId": "h1"}])

    play(tmp_path, story)


def test_a_payload_is_on_disk_before_it_is_acknowledged_and_then_runs(tmp_path: Path) -> None:
    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        await world.payload("p1", task(1))
        await world.until(lambda: "p1" in world.acknowledged())
        assert [record.task.arn for record in world.agent.checkpoint.records()] == [arn(1)]
        await world.until_running(1)
        (body,) = world.control.told("SubmitTaskStateChange")
        assert (body["cluster"], body["containers"][0]["containerName"]) == ("default", "web")
        assert "operation" not in body

    play(tmp_path, story)


def test_a_task_given_twice_runs_once(tmp_path: Path) -> None:
    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        for message_id in ("p1", "p2"):
            await world.payload(message_id, task(1))
        await world.until_running(1)
        await world.until(lambda: "p2" in world.acknowledged())
        assert len(world.spawner.did("create")) == 1

    play(tmp_path, story)


def test_a_stop_is_obeyed_and_a_late_payload_does_not_wake_the_dead(tmp_path: Path) -> None:
    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        await world.payload("p1", task(1))
        await world.until_running(1)
        await world.payload("p2", {**task(1, "STOPPED"), "stopReason": "Task stopped by user"})
        await world.until(lambda: world.control.statuses(1) == ["RUNNING", "STOPPED"])
        assert world.control.told("SubmitTaskStateChange")[-1]["reason"] == "Task stopped by user"
        await world.until(lambda: world.agent.tasks.record(arn(1)) is None)
        await world.payload("p3", task(1))
        await world.until(lambda: world.control.statuses(1) == ["RUNNING", "STOPPED", "STOPPED"])
        assert len(world.spawner.did("create")) == 1

    play(tmp_path, story)


def test_a_task_that_is_to_be_stopped_and_never_came_is_reported_stopped(tmp_path: Path) -> None:
    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        await world.payload("p1", task(1, "STOPPED"))
        await world.until(lambda: world.control.statuses(1) == ["STOPPED"])
        assert world.spawner.did("create") == []

    play(tmp_path, story)


def test_what_is_not_honoured_is_refused_by_name_and_the_others_run(tmp_path: Path) -> None:
    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        await world.payload("p1", task(1, privileged=True), task(2, privileged=False))
        await world.until(lambda: world.control.statuses(1) == ["STOPPED"])
        await world.until_running(2)
        reason = next(b["reason"] for b in world.control.told("SubmitTaskStateChange") if b["task"] == arn(1))
        assert reason.startswith("CannotCreateContainerError: ")
        assert "privileged" in reason

    play(tmp_path, story)


def test_a_task_not_in_the_manifest_stops_only_when_confirmed(tmp_path: Path) -> None:
    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        await world.payload("p1", task(1), task(2))
        await world.until_running(1)
        await world.until_running(2)
        await world.control.send(
            "TaskManifestMessage", messageId="m1", tasks=[{"taskArn": arn(1), "desiredStatus": "RUNNING"}]
        )
        await world.until(lambda: bool(world.control.heard("TaskStopVerificationMessage")))
        (asked,) = world.control.heard("TaskStopVerificationMessage")
        assert asked["messageId"] == "m1"
        assert [candidate["taskArn"] for candidate in asked["stopCandidates"]] == [arn(2)]
        assert world.control.statuses(2) == ["RUNNING"]
        await world.control.send("TaskStopVerificationAck", messageId="m1", stopTasks=[{"taskArn": arn(2)}])
        await world.until(lambda: world.control.statuses(2) == ["RUNNING", "STOPPED"])
        assert set(world.control.statuses(1)) == {"RUNNING"}

    play(tmp_path, story)


def test_a_new_task_waits_until_what_was_given_up_is_gone(tmp_path: Path) -> None:
    """The control plane has given the CPU, the memory and the ports of a lost instance's tasks to the next ones."""

    async def story(world: World, http: aiohttp.ClientSession) -> None:
        await session(world)
        await world.payload("p1", task(1))
        await world.until_running(1)
        world.spawner.gates["stop"] = asyncio.Event()
        await world.control.send("TaskManifestMessage", messageId="m1", tasks=[])
        await world.payload("p2", task(2))
        await world.control.send("TaskStopVerificationAck", messageId="m1", stopTasks=[{"taskArn": arn(1)}])
        await world.until(lambda: "stop" in [called for called, _ in world.spawner.calls])
        await world.stop_agent()
        world.control.hello[0]["message"]["tasks"] = [{"taskArn": arn(2), "desiredStatus": "RUNNING"}]
        await world.start_agent(http)  # what waits, waits also for the next agent
        await session(world, 2)
        await world.control.send("TaskStopVerificationAck", messageId="m0", stopTasks=[{"taskArn": arn(1)}])
        await world.payload("p3", task(3))
        await world.payload("p4", task(3, "STOPPED"))
        await world.until(lambda: world.control.statuses(3) == ["STOPPED"])  # only a stop does not wait
        assert not any(arn(2).endswith(name.split("-")[1]) for name in world.spawner.did("create"))
        world.spawner.gates.pop("stop").set()
        await world.until_running(2)
        assert world.control.statuses(1)[-1] == "STOPPED"

    play(tmp_path, story)


def test_a_new_task_waits_no_longer_than_the_doubt(tmp_path: Path) -> None:
    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        await world.payload("p1", task(1))
        await world.until_running(1)
        await world.control.send("TaskManifestMessage", messageId="m1", tasks=[])
        await world.until(lambda: bool(world.control.heard("TaskStopVerificationMessage")))
        await world.payload("p2", task(2))
        await world.control.send("TaskStopVerificationAck", messageId="m1", stopTasks=[])  # it may stay
        await world.until_running(2)
        assert world.control.statuses(1) == ["RUNNING"]

    play(tmp_path, story)


def test_reports_are_repeated_until_they_are_acknowledged_and_keep_their_order(tmp_path: Path) -> None:
    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        world.control.refusals["SubmitTaskStateChange"] = [(500, "ServerException")] * 3
        await world.payload("p1", task(1))
        await world.until(lambda: bool(world.spawner.containers))
        await world.until(lambda: known_status(world.agent.tasks.records()[0]) == Status.RUNNING)
        world.spawner.end(next(iter(world.spawner.containers)), 0)
        await world.until(lambda: "STOPPED" in world.control.statuses(1))
        assert world.control.statuses(1) == ["RUNNING", "RUNNING", "RUNNING", "RUNNING", "STOPPED"]

    play(tmp_path, story)


def test_a_report_of_a_task_that_nobody_knows_is_dropped(tmp_path: Path) -> None:
    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        world.control.refusals["SubmitTaskStateChange"] = [(400, "ClientException")]
        await world.payload("p1", task(1))
        await world.until(lambda: world.control.statuses(1) == ["RUNNING"])
        await world.until(lambda: not world.agent.tasks.records()[0].reports)

    play(tmp_path, story)


def test_it_comes_back_when_the_session_ends(tmp_path: Path) -> None:
    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        await world.control.sessions[0].close()
        await session(world, 2)
        assert len(world.control.told("RegisterContainerInstance")) == 1

    play(tmp_path, story)


def test_a_successor_is_the_same_instance_and_its_tasks_ran_on(tmp_path: Path) -> None:
    async def story(world: World, http: aiohttp.ClientSession) -> None:
        await session(world)
        await world.payload("p1", task(1), task(2))
        await world.until_running(1)
        await world.until_running(2)
        await world.stop_agent()
        ended = next(name for name in world.spawner.containers if name.endswith(f"{1:032x}-web"))
        world.spawner.end(ended, 9)
        await world.start_agent(http)
        await world.until(lambda: world.control.statuses(1) == ["RUNNING", "STOPPED"])
        await world.until(lambda: world.control.statuses(2) == ["RUNNING", "RUNNING"])
        assert world.control.told("RegisterContainerInstance")[1]["containerInstanceArn"] == INSTANCE
        stopped = [body for body in world.control.told("SubmitTaskStateChange") if body["status"] == "STOPPED"]
        assert stopped[0]["containers"][0]["exitCode"] == 9

    play(tmp_path, story)


def test_a_successor_sends_what_its_predecessor_had_no_time_for(tmp_path: Path) -> None:
    async def story(world: World, http: aiohttp.ClientSession) -> None:
        await session(world)
        await world.payload("p1", task(1), task(2))
        await world.until_running(1)
        await world.until_running(2)
        world.control.refusals["SubmitTaskStateChange"] = [(500, "ServerException")] * 1000
        world.spawner.end(next(name for name in world.spawner.containers if name.endswith(f"{1:032x}-web")), 0)
        await world.until(lambda: "STOPPED" in world.control.statuses(1))
        for _ in range(2):  # the second one finds all as it is
            await world.stop_agent()
            await world.start_agent(http)
            await world.until(lambda: world.agent.registered.is_set())
        world.control.refusals.clear()
        before = len(world.control.calls)
        await world.until(lambda: arn(1) not in {record.task.arn for record in world.agent.tasks.records()})
        again = [body["task"] for name, body in world.control.calls[before:] if name == "SubmitTaskStateChange"]
        assert set(again) == {arn(1), arn(2)}

    play(tmp_path, story)


def test_wrong_credentials_end_it_with_one_line(tmp_path: Path) -> None:
    async def story(world: World, http: aiohttp.ClientSession) -> None:
        await session(world)
        await world.stop_agent()
        world.control.refusals["RegisterContainerInstance"] = [(400, "UnrecognizedClientException")]
        await world.start_agent(http)
        with pytest.raises(Error, match="refuses these credentials"):
            await world.until(lambda: False)

    play(tmp_path, story)


def test_it_waits_for_its_cluster(tmp_path: Path) -> None:
    async def story(world: World, http: aiohttp.ClientSession) -> None:
        await session(world)
        await world.stop_agent()
        world.control.refusals["RegisterContainerInstance"] = [(400, "ClusterNotFoundException")] * 2
        await world.start_agent(http, cluster="other")
        await session(world, 2)
        assert len(world.control.told("RegisterContainerInstance")) == 4
        assert world.control.told("CreateCluster") == []

    play(tmp_path, story)


def test_it_makes_the_default_cluster_as_amazons_agent_does(tmp_path: Path) -> None:
    async def story(world: World, http: aiohttp.ClientSession) -> None:
        await session(world)
        await world.stop_agent()
        world.control.refusals["RegisterContainerInstance"] = [(400, "ClusterNotFoundException")]
        await world.start_agent(http)
        await session(world, 2)
        assert world.control.told("CreateCluster") == [{"clusterName": "default"}]

    play(tmp_path, story)


def test_an_address_that_is_anothers_costs_it_no_task(tmp_path: Path) -> None:
    async def story(world: World, http: aiohttp.ClientSession) -> None:
        await session(world)
        await world.payload("p1", task(1))
        await world.until_running(1)
        await world.stop_agent()
        world.control.refusals["RegisterContainerInstance"] = [(400, "InvalidParameterException")]
        await world.start_agent(http)
        await session(world, 2)
        assert world.control.told("RegisterContainerInstance")[-1]["containerInstanceArn"] == INSTANCE
        assert set(world.control.statuses(1)) == {"RUNNING"}

    play(tmp_path, story)


@pytest.mark.parametrize("how", ["registration", "session"])
def test_an_instance_that_is_not_known_any_more_starts_over(tmp_path: Path, how: str) -> None:
    async def story(world: World, http: aiohttp.ClientSession) -> None:
        await session(world)
        await world.payload("p1", task(1))
        await world.until_running(1)
        if how == "session":
            await world.control.send("InactiveInstanceException", message="deregistered")
        else:
            await world.stop_agent()
            world.control.refusals["RegisterContainerInstance"] = [(400, "ClientException")]
            await world.start_agent(http)
        await session(world, 2)
        first, *_, last = world.control.told("RegisterContainerInstance")
        assert "containerInstanceArn" not in last
        assert last["clientToken"] != first["clientToken"]
        await world.until(lambda: world.control.statuses(1)[-1] == "STOPPED")

    play(tmp_path, story)


def test_silence_ends_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "SILENCE", 0.05)

    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        await session(world, 2)

    play(tmp_path, story)


def test_frames_that_make_no_sense_are_passed_over(tmp_path: Path) -> None:
    async def story(world: World, _: aiohttp.ClientSession) -> None:
        await session(world)
        await world.control.sessions[0].send_str("{]")
        await world.control.send("SomethingNew", a=1)
        await world.payload("p1", task(1))
        await world.until_running(1)
        assert len(world.control.sessions) == 1

    play(tmp_path, story)


# --- decisions -------------------------------------------------------------------------------------------------------


def held(number: int, status: Status) -> TaskRecord:
    one = Task(arn=arn(number), family="f", version="1", containers=())
    return TaskRecord(task=one, containers=(ContainerRecord(name="web", metadata_id="x", known_status=status),))


def test_only_what_still_runs_is_a_stop_candidate() -> None:
    manifest = TaskManifestMessage(tasks=(TaskIdentifier(task_arn=arn(1)),))
    records = [held(1, Status.RUNNING), held(2, Status.CREATED), held(3, Status.STOPPED)]
    assert [candidate.task_arn for candidate in stop_candidates(manifest, records)] == [arn(2)]


def test_a_report_becomes_its_operation() -> None:
    report = SubmitContainerStateChange(task=arn(1), container_name="web", status="STOPPED", exit_code=0)
    assert submission(report, "default") == (
        "SubmitContainerStateChange",
        {"cluster": "default", "task": arn(1), "containerName": "web", "status": "STOPPED", "exitCode": 0},
    )


def test_a_refused_task_never_runs() -> None:
    one, refusal = agents.read_task(json.dumps(task(1)).encode())
    assert refusal == ""
    record = first_record(one, "no such thing", 1.0)
    assert known_status(record) == Status.STOPPED
    assert record.stopped_reason == "CannotCreateContainerError: no such thing"


@pytest.mark.parametrize(
    ("status", "code", "final", "for_credentials"),
    [
        (400, "ClientException", True, False),
        (400, "UnrecognizedClientException", False, True),
        (403, "AccessDeniedException", False, True),
        (429, "ThrottlingException", False, False),
        (500, "ServerException", False, False),
    ],
)
def test_which_refusals_are_worth_another_try(status: int, code: str, final: bool, for_credentials: bool) -> None:
    refusal = Refusal(status, code, "")
    assert (refusal.final, refusal.for_credentials) == (final, for_credentials)
