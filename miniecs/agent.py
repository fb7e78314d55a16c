"""Agent: one container instance of a cluster: registers, holds a session, hands tasks to the engine, tells what became.

Stands on `task_engine`, `checkpoint`, `client` and `metadata`; `cli` starts it. The agent's death stops no task: all it
knows is on disk, and the next agent with the same data directory goes on. Ruled by the public agent's protocol: ACS.
"""

import argparse
import asyncio
import base64
import contextlib
import os
import random
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from miniecs import acs, client, join_keys, listeners, metadata, task_engine, transitions
from miniecs.checkpoint import Checkpoint, Identity, remember
from miniecs.client import UNREACHABLE, Client, Refusal, credentials, host_and_port
from miniecs.container_definition import METADATA_ADDRESS, Instance
from miniecs.container_instance import Settings, registration, settings
from miniecs.errors import Error
from miniecs.journal import open_journal, tell, warn
from miniecs.task_engine import TaskEngine
from miniecs.transitions import SubmitTaskStateChange, TaskRecord

SILENCE = 5.0  # seconds without a frame: the server sends one every second
FIRST_DELAY, LAST_DELAY = 0.1, 1.0  # between attempts to connect; an instance without a session is lost after 4 s
REFUSED_DELAY = 5.0  # between attempts when the credentials are refused
INTROSPECTION_PORT = 51678


# --- the command ------------------------------------------------------------------------------------------------------


def main(arguments: argparse.Namespace) -> int:
    """Run an agent until SIGTERM or SIGINT: the exit code of `miniecs agent`."""
    open_journal()
    if os.geteuid() != 0:
        raise Error("miniecs agent needs root: it makes containers; try: sudo miniecs agent ...")
    chosen = settings(arguments)
    if not chosen.join_token and not join_keys.kept(chosen.data):
        credentials()  # raises at once, if there are none
    # First of all: the spawner forks while this process has one thread.
    with task_engine.spawner(f"{chosen.data}/minicontainer") as spawner:
        return asyncio.run(_until_signal(chosen, spawner))


async def _until_signal(chosen: Settings, spawner: task_engine.Spawner) -> int:
    loop = asyncio.get_running_loop()
    stopping, orphaned = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_reader(os.pidfd_open(spawner.pid), orphaned.set)
    timeout = aiohttp.ClientTimeout(total=10, sock_connect=2)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        member = _member(chosen, spawner, http)
        running, *waiting = (asyncio.create_task(work) for work in (member, stopping.wait(), orphaned.wait()))
        await asyncio.wait((running, *waiting), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()  # raises: it ends only by an error
        for task in (running, *waiting):
            task.cancel()
        await asyncio.gather(running, *waiting, return_exceptions=True)
    if orphaned.is_set():
        raise Error("the engine's process was killed; try: start the agent again, it finds its tasks")
    return 0


async def _member(chosen: Settings, spawner: task_engine.Spawner, http: aiohttp.ClientSession) -> None:
    """Have credentials, by a join token if need be, and be an agent."""
    found = join_keys.kept(chosen.data)
    if not found and chosen.join_token:
        found = await persist("join", lambda: _join(chosen, http), _may_join_again)
    agent = Agent(chosen, spawner, Client(http, chosen.endpoint, chosen.region, found or credentials()))
    try:
        await agent.run()  # ends by an error, or because the agent is to leave
    except asyncio.CancelledError:
        tell("agent leaves, its tasks run on", tasks=len(agent.tasks.records()))
        raise


async def _join(chosen: Settings, http: aiohttp.ClientSession) -> Any:
    made = await client.join(http, chosen.endpoint, chosen.join_token, chosen.instance_name)
    join_keys.keep(chosen.data, made)
    tell("joined", endpoint=chosen.endpoint)
    return made


def _may_join_again(refusal: Refusal) -> bool:
    raise Error(f"the control plane takes no such token: {refusal}") from refusal


# --- the agent --------------------------------------------------------------------------------------------------------


class Agent:
    def __init__(self, chosen: Settings, spawner: task_engine.Spawner, caller: Client) -> None:
        self.chosen = chosen
        self.client = caller
        self.spawner = spawner
        self.checkpoint = Checkpoint(chosen.data)
        self.identity = self._identity()
        self.registered = asyncio.Event()
        self.senders: dict[str, asyncio.Task[None]] = {}  # by task
        self.said: dict[str, tuple[str, str]] = {}  # by task: what the log has said last
        instance = Instance(chosen.cluster, chosen.endpoint, f"{chosen.data}/volumes", chosen.keep_stopped)
        registry = task_engine.Registry(
            host_and_port(chosen.endpoint), chosen.endpoint.startswith("http:"), self._login
        )
        images = task_engine.Images(spawner, chosen.pull_behavior, registry)
        self.tasks = TaskEngine(spawner, images.pull, instance, self.checkpoint.save, self._forget, self._changed)

    def _identity(self) -> Identity:
        known = self.checkpoint.identity()
        if known and known.cluster == self.chosen.cluster:
            return known
        identity = Identity(cluster=self.chosen.cluster, client_token=str(uuid.uuid4()))
        self.checkpoint.save_identity(identity)  # before it is used: a second registration is the same instance
        return identity

    async def run(self) -> None:
        """Until cancelled; tasks and people on the instance can ask, meanwhile."""
        async with self._endpoints():
            await self.join()

    async def join(self) -> None:
        """Be a member of the cluster until cancelled. Tasks are taken up first: they do not depend on its answer."""
        try:
            await self.spawner.call("repair")
            self.tasks.resume(self.checkpoint.records())
            await self.register()
            await self._hold_sessions()
        finally:
            for sender in self.senders.values():
                sender.cancel()
            await self.tasks.close()
            self.checkpoint.close()

    # --- registration ------------------------------------------------------------------------------------------------

    async def register(self) -> None:
        """Until it is done.

        Raises:
            Error: the control plane refuses the credentials.
        """
        await persist("register", self._register_once, self._may_register_again)
        self.registered.set()
        arn = self.identity.container_instance_arn
        tell("registered", arn=arn, cluster=self.chosen.cluster, cpu=self.chosen.cpu, memory=self.chosen.memory)

    async def _register_once(self) -> None:
        body = registration(self.chosen, self.identity)
        try:
            answer = await self.client.call("RegisterContainerInstance", body)
        except Refusal as refusal:
            if refusal.code != "ClusterNotFoundException" or self.chosen.cluster != "default":
                raise
            await self.client.call("CreateCluster", {"clusterName": "default"})  # as Amazon's agent does
            answer = await self.client.call("RegisterContainerInstance", body)
        self._become(container_instance_arn=answer["containerInstance"]["containerInstanceArn"])

    def _may_register_again(self, refusal: Refusal) -> bool:
        self._check_membership(refusal)
        if refusal.for_credentials:
            raise Error(
                f"{self.chosen.endpoint} refuses these credentials ({refusal}); "
                "try: AWS_SHARED_CREDENTIALS_FILE=SERVER_DATA/credentials"
            ) from refusal
        if refusal.code == "ClientException" and self.identity.container_instance_arn:
            self.start_over(f"the control plane does not know this container instance: {refusal}")
        return True

    def _check_membership(self, refusal: Refusal) -> bool:
        """A control plane that was made anew does not know the credentials that the old one gave for a token."""
        if refusal.code == "UnrecognizedClientException" and join_keys.forget(self.chosen.data):
            raise Error(
                f"{self.chosen.endpoint} does not know this agent any more; try: start it again, with a join token"
            )
        return True

    def start_over(self, reason: str) -> None:
        """The control plane has no such instance: its tasks end, and this computer becomes another one."""
        warn("agent starts over", reason=reason)
        self.tasks.give_up(record.task.arn for record in self.tasks.records())
        self._become(container_instance_arn="", client_token=str(uuid.uuid4()))

    def _become(self, **changes: Any) -> None:
        self.identity = msgspec.structs.replace(self.identity, **changes)
        self.checkpoint.save_identity(self.identity)

    # --- sessions ----------------------------------------------------------------------------------------------------

    async def _hold_sessions(self) -> None:
        while True:
            if not self.identity.container_instance_arn:
                await self.register()
            websocket: aiohttp.ClientWebSocketResponse = await persist("connect", self._connect, self._check_membership)
            async with websocket:
                tell("session begins", endpoint=self.chosen.endpoint)
                why = await Session(self, websocket).hold()
            tell("session ends", reason=why)
            await asyncio.sleep(FIRST_DELAY * random.random())  # a control plane that comes back is not stormed

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        arn = self.identity.container_instance_arn
        answer = await self.client.call(
            "DiscoverPollEndpoint", {"cluster": self.chosen.cluster, "containerInstance": arn}
        )
        arguments = {
            "agentHash": "miniecs",
            "agentVersion": acs.AGENT_VERSION,
            "clusterArn": self.chosen.cluster,
            "containerInstanceArn": arn,
            "protocolVersion": "2",
            "sendCredentials": "false",
            "seqNum": "1",
        }
        return await self.client.connect(answer["endpoint"], arguments)

    # --- what became of tasks ----------------------------------------------------------------------------------------

    def _changed(self, record: TaskRecord) -> None:
        arn, status = record.task.arn, transitions.known_status(record)
        if self.said.get(arn) != (record.desired_status, status):
            self.said[arn] = (record.desired_status, status)
            tell_of(record)
        if record.reports and arn not in self.senders:
            self.senders[arn] = asyncio.create_task(self._send(arn))
            self.senders[arn].add_done_callback(task_engine.tell_bug)

    async def _send(self, arn: str) -> None:
        """One task's reports, in their order, each until it is acknowledged."""
        await self.registered.wait()
        while (record := self.tasks.record(arn)) and record.reports:
            await self._submit(record.reports[0])
            self.tasks.acknowledge(arn)
        del self.senders[arn]

    async def _submit(self, report: transitions.Report) -> None:
        operation, body = submission(report, self.chosen.cluster)
        try:
            await persist("report", lambda: self.client.call(operation, body), lambda refusal: not refusal.final)
        except Refusal as refusal:
            warn("report dropped", task=report.task, refusal=refusal)

    def _forget(self, record: TaskRecord) -> None:
        self.identity = remember(self.identity, record.task.arn)
        self.checkpoint.save_identity(self.identity)
        self.checkpoint.forget(record)
        self.said.pop(record.task.arn, None)

    async def submit_stopped(self, arn: str, reason: str) -> None:
        """Of a task that is not, or not any more, known here."""
        await self._submit(SubmitTaskStateChange(task=arn, status="STOPPED", reason=reason))

    # --- what tasks and images need ----------------------------------------------------------------------------------

    async def _login(self) -> tuple[str, str]:
        """User and password of the control plane's registry, as `aws ecr get-login-password` would have them."""
        answer = await self.client.call("GetAuthorizationToken", {}, service="ecr")
        token = base64.b64decode(answer["authorizationData"][0]["authorizationToken"]).decode()
        user, _, password = token.partition(":")
        return user, password

    @contextlib.asynccontextmanager
    async def _endpoints(self) -> AsyncIterator[None]:
        """Task metadata and introspection, for as long as the agent is there."""
        await self.spawner.call("add_address", address=f"{METADATA_ADDRESS}/32")
        source = metadata.Source(
            host=self._host,
            records=self.tasks.records,
            statistics=lambda one: self.spawner.call("statistics", id=one.runtime_id),
            clock=time.time,
        )
        async with (
            _serve(metadata.task_metadata(source), METADATA_ADDRESS, 80),
            _serve(metadata.introspection(source), "127.0.0.1", INTROSPECTION_PORT),
        ):
            yield

    def _host(self) -> metadata.Host:
        return metadata.Host(
            cluster=self.chosen.cluster,
            container_instance_arn=self.identity.container_instance_arn,
            availability_zone=self.chosen.availability_zone,
            memory=self.chosen.memory,
            processors=os.cpu_count() or 1,
        )


class Session:
    """One session with the control plane, from its first frame to its end."""

    def __init__(self, agent: Agent, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self.agent = agent
        self.websocket = websocket

    async def hold(self) -> str:
        """Answer frames until the session ends; why it did."""
        while True:
            try:
                frame = await self.websocket.receive(timeout=SILENCE)
            except TimeoutError:
                return f"no frame for {SILENCE:.0f} s"
            if frame.type != aiohttp.WSMsgType.TEXT:
                return f"closed by the control plane ({frame.type.name})"
            try:
                message = acs.decode(frame.data)
            except msgspec.MsgspecError as error:
                warn("frame not understood", error=error)
                continue
            if ended := await self._answer(message):
                return ended

    async def _answer(self, message: msgspec.Struct | None) -> str:
        match message:
            case acs.HeartbeatMessage():
                await self._send(acs.HeartbeatAckRequest(message_id=message.message_id))
            case acs.PayloadMessage():
                await self._take(message)
            case acs.TaskManifestMessage():
                await self._compare(message)
            case acs.TaskStopVerificationAck():
                self.agent.tasks.give_up(task.task_arn for task in message.stop_tasks)
            case acs.InactiveInstanceException() | acs.InvalidInstanceException() | acs.InvalidClusterException():
                self.agent.start_over(message.message)
                return message.message
            case acs.CloseMessage():
                return message.message
            case _:
                tell("frame of an unknown type passed over")
        return ""

    async def _send(self, message: msgspec.Struct) -> None:
        await self.websocket.send_str(acs.encode(message))

    async def _acknowledge(self, message_id: str) -> None:
        arn = self.agent.identity.container_instance_arn
        await self._send(
            acs.AckRequest(cluster=self.agent.chosen.cluster, container_instance=arn, message_id=message_id)
        )

    async def _take(self, message: acs.PayloadMessage) -> None:
        """Each task is on the disk before the payload is acknowledged, and begins after."""
        new = []
        for raw in message.tasks:
            task, refusal = read_task(raw)
            if known := self.agent.tasks.record(task.arn):
                if task.desired_status == "STOPPED":
                    self.agent.tasks.stop(known.task.arn, task.stop_reason)
            elif task.arn in self.agent.identity.finished:
                await self.agent.submit_stopped(task.arn, "")
            else:
                record = first_record(task, refusal, time.time())
                self.agent.checkpoint.save(record, durable=True)
                new.append(record)
        await self._acknowledge(message.message_id)
        for record in new:
            self.agent.tasks.begin(record)

    async def _compare(self, message: acs.TaskManifestMessage) -> None:
        """A task that the control plane does not list is stopped only after it has confirmed that."""
        await self._acknowledge(message.message_id)
        candidates = stop_candidates(message, self.agent.tasks.records())
        self.agent.tasks.doubt(candidate.task_arn for candidate in candidates)
        if candidates:
            await self._send(
                acs.TaskStopVerificationMessage(message_id=message.message_id, stop_candidates=tuple(candidates))
            )


# --- decisions --------------------------------------------------------------------------------------------------------


def read_task(raw: bytes) -> tuple[acs.Task, str]:
    """A payload's task, and why it is refused: an empty string if it is not."""
    try:
        return acs.parse_task(raw), ""
    except acs.Refused as refused:
        return acs.refused_task(raw), str(refused)


def first_record(task: acs.Task, refusal: str, at: float) -> TaskRecord:
    """A task that is new here: to be run, or never, and then reported so."""
    record = transitions.new_record(task, lambda: uuid.uuid4().hex)
    if task.desired_status == "STOPPED":
        return transitions.stop(record, task.stop_reason, at)
    if refusal:
        for container in task.containers:
            record = transitions.failed(record, container.name, f"CannotCreateContainerError: {refusal}", at)
    return record


def stop_candidates(manifest: acs.TaskManifestMessage, records: list[TaskRecord]) -> list[acs.TaskIdentifier]:
    """What runs here and is not in the manifest."""
    listed = {task.task_arn for task in manifest.tasks}
    return [
        acs.TaskIdentifier(
            task_arn=record.task.arn, cluster_arn=record.task.cluster_arn, desired_status=record.desired_status
        )
        for record in records
        if record.task.arn not in listed and not transitions.is_over(record)
    ]


def submission(report: transitions.Report, cluster: str) -> tuple[str, dict[str, Any]]:
    """A report as operation and body."""
    body = msgspec.to_builtins(report)
    return body.pop("operation"), {"cluster": cluster, **body}


# --- effects ----------------------------------------------------------------------------------------------------------


def tell_of(record: TaskRecord) -> None:
    """A task's status; why, if it is to stop; how its containers ended, once they have."""
    status = transitions.known_status(record)
    event = "received" if status == "NONE" else status.lower()
    if status == "RUNNING" and record.desired_status == "STOPPED":
        event = "stopping"
    exits = [f"{one.name}:{one.exit_code}" for one in record.containers if one.exit_code is not None]
    tell(f"task {event}", arn=record.task.arn, reason=record.stopped_reason, exit=",".join(exits))


async def persist(what: str, attempt: Callable[[], Awaitable[Any]], may_go_on: Callable[[Refusal], bool]) -> Any:
    """Try until it is done: at once, then ever later, up to `LAST_DELAY`. Each new obstacle is said once.

    Raises:
        Refusal: one that `may_go_on` is against.
    """
    delay, said = FIRST_DELAY, ""
    while True:
        slowly = 0.0
        try:
            return await attempt()
        except Refusal as refusal:
            if not may_go_on(refusal):
                raise
            slowly = REFUSED_DELAY if refusal.for_credentials else 0.0
            obstacle, verdict = str(refusal), "is refused"
        except UNREACHABLE as error:
            obstacle, verdict = unreachable(error), "waits for the control plane"
        if obstacle != said:
            warn(f"{what} {verdict}, trying again", obstacle=obstacle)  # provision.sh reads it
            said = obstacle
        await asyncio.sleep(max(delay * (0.8 + 0.4 * random.random()), slowly))
        delay = min(delay * 1.5, LAST_DELAY)


def unreachable(error: Exception) -> str:
    """Why there was no answer, in the kernel's words if there are any."""
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    return (os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "") or str(error) or "no answer"


@contextlib.asynccontextmanager
async def _serve(application: web.Application, host: str, port: int) -> AsyncIterator[None]:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, reuse_address=True).start()
        except OSError as error:
            raise Error(
                f"{host}:{port} is taken by {listeners.holder(port)}; try: one agent in each network namespace"
            ) from error
        yield
    finally:
        await runner.cleanup()
