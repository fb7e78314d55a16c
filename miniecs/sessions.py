"""Sessions: the websockets of agents: tasks go down, acknowledgments and heartbeats come up, silence means loss.

Stands on `controller` and the store; `server` gives it connections whose signature is verified. What is not
acknowledged is sent again, what was sent twice is harmless: a task is known by its ARN. Time passes in ticks, not by
the wall clock, so a server that was itself stopped does not take its agents for dead. Ruled by the agent communication
service model of amazon-ecs-agent (ecs-agent/acs/model/api), whose frames these are.
"""

import asyncio
import itertools
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import WSMessage, WSMsgType, web

from miniecs import acs, overrides, records
from miniecs.controller import Controller
from miniecs.journal import tell, warn
from miniecs.model import ContainerInstance, InstanceStatus, Json, Task, TaskStatus, key_of, last
from miniecs.store import CLUSTERS, INSTANCES, TASKS, Change, Store, Transaction

TICK = 0.25  # seconds: how finely silence is measured
BEAT = 4  # ticks between heartbeats
RESEND = 2.0  # seconds until a payload that is not acknowledged is sent again
GOODBYE = 1.0  # seconds that a closing waits for the other side
FRAME_BYTES = 4 * 1024 * 1024
# Members of a task definition that concern the agent and are passed on as they are.
OF_DEFINITION = ("volumes", "task_role_arn", "execution_role_arn", "pid_mode", "ipc_mode", "network_mode")


class Sessions:
    """All sessions of this server, and the silence of each instance that should have one."""

    def __init__(
        self,
        store: Store,
        controller: Controller,
        clock: Callable[[], float],
        instance_timeout: float,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.store = store
        self.controller = controller
        self.clock = clock
        self.instance_timeout = instance_timeout
        self.pause = pause
        self._sessions: dict[str, Session] = {}  # by the instance's ARN
        self._silent: dict[str, float] = {}  # seconds since an instance was heard, of those without a session
        self._watch = store.watch()

    async def run(self) -> None:
        """Until cancelled. Every instance that is known has a fresh grace period from now."""
        instances = await self.store.read(lambda transaction: transaction.list(INSTANCES))
        absent = {one.container_instance_arn for one in instances if one.status != InstanceStatus.INACTIVE}
        absent -= set(self._sessions)
        self._silent |= dict.fromkeys(absent, 0.0)
        await self.controller.disconnected(absent)
        await asyncio.gather(self._beats(), self._deliveries())

    async def close(self) -> None:
        await asyncio.gather(*(session.close("the server is stopping") for session in list(self._sessions.values())))

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """One agent's session, from the upgrade of its connection to the end of it."""
        socket = web.WebSocketResponse(max_msg_size=FRAME_BYTES, timeout=GOODBYE)
        await socket.prepare(request)
        refusal, instance = await self.store.read(lambda transaction: _look_up(transaction, request.query))
        if instance is None:
            warn("session refused", reason=refusal, address=request.remote)
            await _send(socket, refusal, {"message": f"{refusal}: {request.query.get('containerInstanceArn', '')}"})
            await socket.close()
            return socket
        session = Session(self, instance.container_instance_arn, instance.cluster_arn, socket)
        await self._begin(session, request.remote or "")
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    await session.hear(message)
        finally:
            await self._end(session)
        return socket

    async def _begin(self, session: "Session", address: str) -> None:
        older = self._sessions.get(session.arn)
        self._sessions[session.arn] = session
        self._silent.pop(session.arn, None)
        if older:
            older.replaced()
        await session.send_manifest()  # first: what the agent has to give up, it has to know before more is placed
        await self.controller.connected(session.arn)
        await session.deliver()
        tell("session began", instance=session.arn, address=address)

    async def _end(self, session: "Session") -> None:
        if self._sessions.get(session.arn) is session:
            del self._sessions[session.arn]
            self._silent[session.arn] = session.silent
            await self.controller.disconnected({session.arn})
            tell("session ended", instance=session.arn)

    # --- time --------------------------------------------------------------------------------------------------------

    async def _beats(self) -> None:
        """Ask each agent for a sign of life, send again what waits, give up who was silent for too long."""
        for tick in itertools.count():
            await self.pause(TICK)
            for session in list(self._sessions.values()):
                session.silent += TICK
                if session.silent >= self.instance_timeout:
                    warn("session silent", instance=session.arn, seconds=session.silent)
                    del self._sessions[session.arn]
                    self._silent[session.arn] = session.silent
                    session.abort()
                    await self.controller.disconnected({session.arn})
                elif tick % BEAT == 0:
                    session.beat()
            await self._give_up()

    async def _give_up(self) -> None:
        for arn, seconds in list(self._silent.items()):
            self._silent[arn] = seconds + TICK
            if self._silent[arn] >= self.instance_timeout:
                await self.controller.lost(arn, self._silent.pop(arn))

    async def _deliveries(self) -> None:
        """Give agents what changed, when it is durable."""
        while True:
            changes = await self._watch.changes()
            for arn in {_instance_of(change) for change in changes} & set(self._sessions):
                self._sessions[arn].wake()
            for arn in {_deregistered(change) for change in changes} & set(self._sessions):
                self._sessions[arn].dismiss()


class Session:
    """One agent, as long as its connection lasts."""

    def __init__(self, sessions: Sessions, arn: str, cluster_arn: str, socket: web.WebSocketResponse) -> None:
        self.sessions = sessions
        self.arn = arn
        self.cluster_arn = cluster_arn
        self.silent = 0.0  # seconds since its last frame
        self._socket = socket
        self._given: dict[str, TaskStatus] = {}  # task ARN to the desired status that the agent has acknowledged
        self._waiting: dict[str, tuple[float, dict[str, TaskStatus]]] = {}  # message id to its age, and its tasks
        self._delivering = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()  # what runs beside the reading of the socket

    def beat(self) -> None:
        self._spawn(self._send("HeartbeatMessage", {"messageId": _new_id(), "healthy": True}))
        due = [message for message, (age, _) in self._waiting.items() if age >= RESEND]
        for message in due:
            del self._waiting[message]
        self._waiting = {message: (age + BEAT * TICK, tasks) for message, (age, tasks) in self._waiting.items()}
        if due:
            self.wake()

    def wake(self) -> None:
        self._spawn(self.deliver())

    async def hear(self, message: WSMessage) -> None:
        """One frame of the agent."""
        self.silent = 0.0  # any frame is a sign of life
        try:
            frame = acs.decode(message.data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            warn("frame unreadable", instance=self.arn, error=error, frame=str(message.data)[:80])
            return
        match frame:
            case acs.AckRequest():
                self._given |= self._waiting.pop(frame.message_id, (0.0, {}))[1]
            case acs.NackRequest():
                await self._refused(frame)
            case acs.TaskStopVerificationMessage():
                await self._verify(frame)
            case acs.HeartbeatAckRequest():
                pass
            case _:
                warn("frame unknown", instance=self.arn, frame=str(message.data)[:80])

    def replaced(self) -> None:
        self._spawn(self.close("another session of this container instance began"))

    def dismiss(self) -> None:
        """The container instance was deregistered."""
        self._spawn(self.close("the container instance was deregistered", "InactiveInstanceException"))

    async def send_manifest(self) -> None:
        """All tasks that are believed to be on the instance; what else it holds it will ask about."""
        async with self._delivering:  # no payload overtakes it
            number = await self.sessions.controller.next_manifest()
            tasks = await self.sessions.store.read(self._believed)
            listed = [{"taskArn": task.task_arn, "desiredStatus": str(task.desired_status)} for task in tasks]
            numbers = {"seqNum": number, "timeline": number}
            await self._send("TaskManifestMessage", {**self._address(), **numbers, "tasks": listed})

    async def deliver(self) -> None:
        """Send the tasks of which the agent does not know the desired status; stops come before starts."""
        async with self._delivering:  # one at a time: what one sends is not due for the next
            tasks = await self.sessions.store.read(self._due)
            if not tasks:
                return
            address = self._address()
            given = {task["arn"]: TaskStatus(task["desiredStatus"]) for task in tasks}
            self._waiting[address["messageId"]] = (0.0, given)
        await self._send("PayloadMessage", {**address, "seqNum": 1, "tasks": tasks})

    async def close(self, reason: str, kind: str = "CloseMessage") -> None:
        await self._send(kind, {"message": reason})
        await self._socket.close()

    def abort(self) -> None:
        """Drop the connection: there is nobody to say goodbye to."""
        self._spawn(self._socket.close())

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- what is known of the tasks ----------------------------------------------------------------------------------

    def _believed(self, transaction: Transaction) -> list[Task]:
        tasks = transaction.list(TASKS, last(self.cluster_arn))
        return [task for task in tasks if task.container_instance_arn == self.arn]

    def _due(self, transaction: Transaction) -> list[Json]:
        on_the_way: dict[str, TaskStatus] = {}
        for _, tasks in self._waiting.values():
            on_the_way |= tasks
        known = self._given | on_the_way
        mine = self._believed(transaction)
        self._given = {t.task_arn: self._given[t.task_arn] for t in mine if t.task_arn in self._given}
        due = [task for task in mine if known.get(task.task_arn) != task.desired_status]
        due.sort(key=lambda task: (task.desired_status == TaskStatus.RUNNING, task.created_at, task.task_arn))
        return [_payload(transaction, task) for task in due]

    async def _refused(self, frame: acs.NackRequest) -> None:
        _, tasks = self._waiting.pop(frame.message_id, (0.0, {}))
        warn("payload refused", instance=self.arn, reason=frame.reason)
        self._given |= tasks
        await self.sessions.controller.refused(list(tasks), frame.reason or "the agent refused the task")

    async def _verify(self, frame: acs.TaskStopVerificationMessage) -> None:
        """Of what the agent holds and did not find in the manifest: what is not to run any more."""
        candidates = [one.task_arn for one in frame.stop_candidates]
        live = await self.sessions.store.read(lambda t: {one for one in candidates if t.get(TASKS, key_of(one))})
        stops = [{"taskArn": arn, "clusterArn": self.cluster_arn} for arn in candidates if arn not in live]
        await self._send("TaskStopVerificationAck", {**self._address(), "stopTasks": stops})

    def _address(self) -> Json:
        return {
            "messageId": _new_id(),
            "clusterArn": self.cluster_arn,
            "containerInstanceArn": self.arn,
            "generatedAt": int(self.sessions.clock() * 1000),
        }

    async def _send(self, kind: str, message: Json) -> None:
        await _send(self._socket, kind, message)


async def _send(socket: web.WebSocketResponse, kind: str, message: Json) -> None:
    with suppress(ConnectionError):  # it is closed: the end of the session says so
        await socket.send_str(json.dumps({"type": kind, "message": message}))


def _new_id() -> str:
    return str(uuid.uuid4())


def _look_up(transaction: Transaction, query: Mapping[str, str]) -> tuple[str, ContainerInstance | None]:
    """The instance that a session is for; without one, the type of the frame that says why not."""
    arn = query.get("containerInstanceArn", "")
    instance = transaction.get(INSTANCES, key_of(arn)) if arn.startswith("arn:") else None
    cluster = transaction.get(CLUSTERS, last(query.get("clusterArn", "") or "default"))
    if cluster is None:
        return "InvalidClusterException", None
    if instance is None or instance.cluster_arn != cluster.cluster_arn:
        return "InvalidInstanceException", None
    if instance.status == InstanceStatus.INACTIVE:
        return "InactiveInstanceException", None
    return "", instance


def _instance_of(change: Change) -> str:
    """The instance whose agent has to hear of a change; a STOPPED task needs nothing more."""
    return change.after.container_instance_arn if change.kind == TASKS.name and change.after else ""


def _deregistered(change: Change) -> str:
    """The instance that a change deregistered."""
    gone = change.kind == INSTANCES.name and change.after and change.after.status == InstanceStatus.INACTIVE
    return change.after.container_instance_arn if gone else ""


def _payload(transaction: Transaction, task: Task) -> Json:
    """A task as the agent gets it: the definition with the overrides in it."""
    definition = records.definition_of(transaction, task.task_definition_arn)
    assert definition is not None  # a task definition is never removed
    arns = {container.name: container.container_arn for container in task.containers}
    limits = {name: getattr(definition, name) for name in ("cpu", "memory") if getattr(definition, name)}
    limits |= {name: task.overrides[name] for name in ("cpu", "memory") if task.overrides.get(name)}
    payload = {
        "arn": task.task_arn,
        "clusterArn": task.cluster_arn,
        "taskDefinitionArn": task.task_definition_arn,
        "family": definition.family,
        "version": str(definition.revision),
        "desiredStatus": str(task.desired_status),
        "cpu": task.cpu,
        "memory": task.memory,
        "taskLimits": limits or None,
        "group": task.group,
        "startedBy": task.started_by,
        "serviceName": task.service_name,
        "launchType": task.launch_type,
        "stopReason": task.stopped_reason,
        **{_camel(name): getattr(definition, name) or None for name in OF_DEFINITION},
        "containers": [
            {**container, "containerArn": arns[container["name"]]}
            for container in overrides.containers(definition, task.overrides)
        ],
    }
    return {name: value for name, value in payload.items() if value is not None}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
