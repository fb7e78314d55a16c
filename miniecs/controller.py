"""Controller: watch, decide, commit: the service scheduler's decisions carried out, and lost instances given up.

Stands on `store`, `scheduler` and `lifecycle`; the only writer besides the actions of `api`. It sees time through
`clock` and chance through `rng`. Ruled by the ECS developer guide, "Service scheduler" and "Service event messages".
"""

import asyncio
import random
from collections.abc import Callable, Iterable

import msgspec
from msgspec.structs import replace

from miniecs import lifecycle, records, scheduler
from miniecs.journal import tell, warn
from miniecs.lifecycle import Wish
from miniecs.model import (
    ContainerInstance,
    InstanceStatus,
    RolloutState,
    Service,
    ServiceEvent,
    ServiceStatus,
    StopCode,
    Tag,
    Task,
    TaskStatus,
    cluster_of,
    key_of,
    last,
    new_uuid,
)
from miniecs.placement import Placement
from miniecs.scheduler import Plan
from miniecs.store import (
    DECISIONS,
    INSTANCES,
    SERVICES,
    STOPPED_TASKS,
    TASKS,
    TOKENS,
    Change,
    Decision,
    Store,
    Transaction,
)

EVENTS = 100  # a service keeps the newest
REPEAT_SECONDS = 6 * 3600  # how long the same complaint is not repeated
STOPPED_SECONDS = 30 * 24 * 3600  # how long a stopped task is described
SWEEP_SECONDS = 3600
TROUBLE = "For more information, see the Troubleshooting section."
UNPLACED = "was unable to place a task because no container instance met all of its requirements."
INCONSISTENT = f"is unable to consistently start tasks successfully. {TROUBLE}"
BLOCKED = (
    "was unable to stop or start tasks during a deployment because of the service deployment configuration. "
    "Update the minimumHealthyPercent or maximumPercent value and try again."
)
CLOSEST = {  # why not on the closest instance: ECS's words for it in the service event
    "RESOURCE:CPU": "has insufficient CPU units available",
    "RESOURCE:MEMORY": "has insufficient memory available",
    "RESOURCE:PORTS": "is already using a port required by your task",
    "AGENT": "doesn't have the agent connected",
}


class Controller:
    """One runs at a time; it may die anywhere and start again: all that it must know is in the store."""

    def __init__(self, store: Store, clock: Callable[[], float], rng: random.Random) -> None:
        self.store = store
        self.clock = clock
        self.rng = rng
        self._watch = store.watch()
        self._services: set[str] = set()  # the keys of all
        self._dirty: set[str] = set()  # of those to look at
        self._starving: set[str] = set()  # of those that wait for room on an instance
        self._wake_at: dict[str, float] = {}  # when to look at one though nothing changes

    async def run(self) -> None:
        """Until cancelled."""
        self._services |= await self.store.read(lambda t: {key_of(one.service_arn) for one in t.list(SERVICES)})
        self._dirty |= self._services
        sweep_at = self.clock()
        while True:
            await self.settle()
            if self.clock() >= sweep_at:
                await self.store.transact(lambda transaction: _sweep(transaction, self.clock()))
                sweep_at = self.clock() + SWEEP_SECONDS
            try:
                async with asyncio.timeout(max(0.0, min([sweep_at, *self._wake_at.values()]) - self.clock())):
                    self.note(await self._watch.changes())
            except TimeoutError:
                self._dirty |= {key for key, at in self._wake_at.items() if at <= self.clock()}

    async def settle(self) -> None:
        """Take a step for every service of which something changed; all at once, so that they share a commit."""
        keys, self._dirty = sorted(self._dirty), set()
        await asyncio.gather(*(self._reconcile(key) for key in keys))

    def note(self, changes: Iterable[Change]) -> None:
        """Remember which services the changes concern."""
        for change in changes:
            _tell(change)
            if change.kind == SERVICES.name:
                self._services.add(change.key)
                self._dirty.add(change.key)
            elif isinstance(change.after, Task):
                if change.after.service_name:
                    self._dirty.add(f"{cluster_of(change.after.task_arn)}/{change.after.service_name}")
                if change.after.last_status == TaskStatus.STOPPED:
                    self._dirty |= self._starving
            elif isinstance(change.after, ContainerInstance):
                self._dirty |= self._concerned(change.before, change.after)

    def _concerned(self, before: ContainerInstance | None, after: ContainerInstance) -> set[str]:
        """Those that wait for room, if there may be more; all of the cluster, if tasks are to leave the instance."""
        if before and before.status != after.status:
            cluster = cluster_of(after.cluster_arn)
            return {key for key in self._services if key.startswith(f"{cluster}/")}
        same = before and all(
            getattr(before, name) == getattr(after, name) for name in ("agent_connected", "registered", "attributes")
        )
        return set() if same else self._starving

    async def _reconcile(self, key: str) -> None:
        self._wake_at.pop(key, None)
        service, plan = await self.store.transact(lambda transaction: self._step(transaction, key))
        if service is None or service.status == ServiceStatus.INACTIVE:
            self._services.discard(key)
        (self._starving.add if service and service.shortage else self._starving.discard)(key)
        if plan.wake_at:
            self._wake_at[key] = plan.wake_at

    # --- instances ---------------------------------------------------------------------------------------------------

    async def connected(self, arn: str) -> None:
        """An agent's session began: tasks can be placed there."""
        await self.store.transact(lambda transaction: _connect(transaction, arn, True))

    async def disconnected(self, arns: Iterable[str]) -> None:
        """Agents' sessions ended: nothing is placed there until they come back or are lost."""

        def decide(transaction: Transaction) -> None:
            for arn in sorted(arns):
                _connect(transaction, arn, False)

        await self.store.transact(decide)

    async def next_manifest(self) -> int:
        """The sequence number of a task manifest, by which an agent tells a stale one."""
        return await self.store.transact(lambda transaction: transaction.next("manifest"))

    async def lost(self, arn: str, seconds: float) -> None:
        """An agent was silent for too long: its tasks are given up, and replaced elsewhere."""

        def decide(transaction: Transaction) -> list[Task] | None:
            instance = transaction.get(INSTANCES, key_of(arn))
            if instance is None or instance.status == InstanceStatus.INACTIVE:
                return None  # it was deregistered, and its tasks with it
            reason = f"Container instance {last(arn)} lost: no heartbeat for {seconds:g} s"
            return lifecycle.lost(transaction, instance, reason, self.clock())

        tasks = await self.store.transact(decide)
        if tasks is not None:
            warn("container instance lost", arn=arn, seconds=seconds, tasks=len(tasks))

    async def refused(self, arns: list[str], reason: str) -> None:
        """An agent cannot take these tasks."""

        def decide(transaction: Transaction) -> None:
            for arn in arns:
                task = transaction.get(TASKS, key_of(arn))
                if task and task.last_status != TaskStatus.RUNNING:
                    lifecycle.stopped(transaction, task, self.clock(), reason, StopCode.TASK_FAILED_TO_START)

        await self.store.transact(decide)

    # --- services ----------------------------------------------------------------------------------------------------

    def _step(self, transaction: Transaction, key: str) -> tuple[Service | None, Plan]:
        """Decide what a service needs next, and do it."""
        before = transaction.get(SERVICES, key)
        if before is None or before.status == ServiceStatus.INACTIVE:
            return before, Plan()
        now, voice = self.clock(), _Voice(before, self.clock(), self.rng)
        instances = transaction.list(INSTANCES, key.partition("/")[0])
        draining = frozenset(one.container_instance_arn for one in instances if one.status != InstanceStatus.ACTIVE)
        plan = scheduler.decide(before, records.tasks_of(transaction, before), draining, now)
        for stop in plan.stops:
            lifecycle.ask_to_stop(transaction, stop.task, StopCode.SERVICE_SCHEDULER_INITIATED, stop.reason, now)
        started, unplaced = self._start(transaction, before, plan.starts)
        voice.of_tasks("has started {} tasks", started)
        voice.of_tasks("has stopped {} running tasks", [stop.task for stop in plan.stops])
        if unplaced:
            _keep_decision(transaction, key, unplaced, now)
            voice.complain(_unplaced(unplaced))
        if plan.deadlock:
            voice.complain(BLOCKED)
        if before.status == ServiceStatus.ACTIVE and before.primary.failures_in_a_row >= scheduler.INCONSISTENT:
            voice.complain(INCONSISTENT)
        shortage = unplaced.shortage if unplaced else "" if plan.starts or not plan.wake_at else before.shortage
        after = self._concluded(transaction, replace(before, shortage=shortage), voice)
        after = replace(after, events=voice.events)
        if after != before:
            transaction.put(SERVICES, key, after)
        return after, plan

    def _start(self, transaction: Transaction, service: Service, count: int) -> tuple[list[Task], Placement | None]:
        """Start up to `count` tasks; with fewer, the decision that found no instance for the next."""
        definition = records.definition_of(transaction, service.task_definition) if count else None
        if definition is None:
            return [], None
        started: list[Task] = []
        wish = Wish(
            cluster_arn=service.cluster_arn,
            definition=definition,
            group=f"service:{service.service_name}",
            started_by=service.primary.id,
            tags=_tags(service, definition.tags),
            constraints=service.placement_constraints,
            strategy=service.placement_strategy,
            enable_execute_command=service.enable_execute_command,
        )
        for _ in range(count):
            task, decision = lifecycle.run(transaction, wish, self.rng, self.clock())
            if task is None:
                return started, decision
            started.append(task)
        return started, None

    def _concluded(self, transaction: Transaction, service: Service, voice: "_Voice") -> Service:
        """The service with its counts; and what follows from them: steady, deployed, or INACTIVE."""
        tasks = records.tasks_of(transaction, service)
        service = scheduler.counted(service, tasks)
        if service.status == ServiceStatus.DRAINING:
            return service if tasks else replace(service, status=ServiceStatus.INACTIVE, deployments=())
        steady = scheduler.is_steady(service)
        if steady and service.primary.rollout_state == RolloutState.IN_PROGRESS:
            voice.say(f"(deployment {service.primary.id}) deployment completed.")
            done = scheduler.completed(service.primary, self.clock())
            service = replace(service, deployments=(done,))
        if steady and not service.steady:
            voice.say("has reached a steady state.")
        return replace(service, steady=steady)


def _connect(transaction: Transaction, arn: str, is_connected: bool) -> None:
    instance = transaction.get(INSTANCES, key_of(arn))
    if instance and instance.agent_connected != is_connected:
        changed = replace(instance, agent_connected=is_connected, version=instance.version + 1)
        transaction.put(INSTANCES, key_of(arn), changed)


class _Voice:
    """What a service says in one step: its events, the newest first."""

    def __init__(self, service: Service, now: float, rng: random.Random) -> None:
        self.name = service.service_name
        self.since = service.deployments[0].created_at if service.deployments else 0.0
        self.now = now
        self.rng = rng
        self.events = service.events

    def say(self, text: str) -> None:
        event = ServiceEvent(id=new_uuid(self.rng), created_at=self.now, message=f"(service {self.name}) {text}")
        self.events = (event, *self.events[: EVENTS - 1])
        tell("service event", service=self.name, message=text)

    def complain(self, text: str) -> None:
        """Say it, unless it was said of this deployment not long ago."""
        since = max(self.since, self.now - REPEAT_SECONDS)
        if not any(e.message == f"(service {self.name}) {text}" and e.created_at >= since for e in self.events):
            self.say(text)

    def of_tasks(self, text: str, tasks: list[Task]) -> None:
        if tasks:
            self.say(f"{text.format(len(tasks))}: {' '.join(f'(task {task.id})' for task in tasks)}.")


def _tell(change: Change) -> None:
    """The journal has every move of a task."""
    task, before = change.after, change.before
    if not isinstance(task, Task) or (isinstance(before, Task) and before.last_status == task.last_status):
        return
    if change.kind == STOPPED_TASKS.name:
        codes = [one.exit_code for one in task.containers if one.exit_code is not None]
        reason = task.stopped_reason
        tell("task stopped", arn=task.task_arn, reason=reason, code=task.stop_code, exit=",".join(map(str, codes)))
    elif before is None:
        tell("task placed", arn=task.task_arn, instance=last(task.container_instance_arn), group=task.group)
    else:
        tell(f"task {task.last_status.lower()}", arn=task.task_arn)


def _unplaced(decision: Placement) -> str:
    """ECS's text, and in parentheses how much is short."""
    closest = decision.closest
    if closest is None:
        return f"{UNPLACED} Reason: No Container Instances were found in your cluster. {TROUBLE}"
    words = CLOSEST.get(closest.reason, f'encountered error "{closest.reason}"')
    which = f"The closest matching (container-instance {last(closest.arn)})"
    return f"{UNPLACED} {which} {words} ({closest.detail}). {TROUBLE}"


def _keep_decision(transaction: Transaction, key: str, unplaced: Placement, now: float) -> None:
    cluster, _, name = key.partition("/")
    known = transaction.get(DECISIONS, f"{cluster}/service:{name}")
    placement = msgspec.to_builtins(unplaced)
    if known is None or known.placement != placement:
        transaction.put(DECISIONS, f"{cluster}/service:{name}", Decision(at=now, placement=placement))


def _tags(service: Service, of_definition: tuple[Tag, ...]) -> tuple[Tag, ...]:
    inherited = {"TASK_DEFINITION": of_definition, "SERVICE": service.tags}.get(service.propagate_tags, ())
    managed = {"aws:ecs:clusterName": last(service.cluster_arn), "aws:ecs:serviceName": service.service_name}
    ours = [Tag(key=key, value=value) for key, value in managed.items()] if service.enable_ecs_managed_tags else []
    return records.merged_tags(inherited, ours)


def _sweep(transaction: Transaction, now: float) -> None:
    """Forget what is described no more."""
    for task in transaction.list(STOPPED_TASKS):
        if now - (task.stopped_at or now) > STOPPED_SECONDS:
            transaction.delete(STOPPED_TASKS, key_of(task.task_arn))
            transaction.delete(DECISIONS, key_of(task.task_arn))
    for key, token in transaction.items(TOKENS):
        if now - token.created_at > records.TOKEN_SECONDS:
            transaction.delete(TOKENS, key)
