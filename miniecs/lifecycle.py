"""Lifecycle: a task from its place on an instance to STOPPED, and the instance's account with it, in one transaction.

Stands on `store`; actions and the controller move tasks only through here, so no instance is over-committed and no
status moves but by the table. Ruled by the ECS developer guide, "Amazon ECS task lifecycle".
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from miniecs import overrides, placement, scheduler
from miniecs.model import (
    NEXT,
    Attribute,
    Container,
    ContainerInstance,
    InstanceStatus,
    Json,
    NetworkBinding,
    PlacementConstraint,
    PlacementStrategy,
    Resources,
    Service,
    StopCode,
    Tag,
    Task,
    TaskDefinition,
    TaskStatus,
    cluster_of,
    key_of,
    new_uuid,
)
from miniecs.placement import Placement, Requirement
from miniecs.store import (
    DECISIONS,
    INSTANCES,
    SERVICES,
    STOPPED_TASKS,
    TASKS,
    Decision,
    Transaction,
)

ESSENTIAL_EXITED = "Essential container in task exited"


class Report(NamedTuple):
    """What an agent says of one container."""

    name: str
    status: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    runtime_id: str | None = None
    image_digest: str | None = None
    network_bindings: tuple[NetworkBinding, ...] = ()


class Wish(NamedTuple):
    """A task to be made: what makes it differ from another of its definition."""

    cluster_arn: str
    definition: TaskDefinition
    group: str
    started_by: str | None = None
    overrides: Json = {}
    tags: tuple[Tag, ...] = ()
    constraints: tuple[PlacementConstraint, ...] = ()
    strategy: tuple[PlacementStrategy, ...] = ()
    enable_execute_command: bool = False

    @property
    def requirement(self) -> Requirement:
        return Requirement(
            needs=overrides.of_task(self.definition, self.overrides),
            constraints=(*self.definition.placement_constraints, *self.constraints),
            strategy=self.strategy,
            attributes=self.definition.requires_attributes,
        )


def create(wish: Wish, instance: ContainerInstance, rng: random.Random, now: float) -> Task:
    """The task that a wish becomes on an instance."""
    task_id = f"{rng.getrandbits(128):032x}"
    arn = f"{wish.cluster_arn.replace(':cluster/', ':task/')}/{task_id}"
    needs = overrides.of_task(wish.definition, wish.overrides)
    return Task(
        task_arn=arn,
        cluster_arn=wish.cluster_arn,
        task_definition_arn=wish.definition.task_definition_arn,
        container_instance_arn=instance.container_instance_arn,
        cpu=str(needs.cpu),
        memory=str(needs.memory),
        containers=tuple(
            _container(arn, definition, rng) for definition in overrides.containers(wish.definition, wish.overrides)
        ),
        overrides={"containerOverrides": [], **wish.overrides},
        attributes=(
            Attribute(name="ecs.cpu-architecture", value=instance.attribute("ecs.cpu-architecture") or "x86_64"),
        ),
        availability_zone=instance.attribute("ecs.availability-zone"),
        group=wish.group,
        started_by=wish.started_by,
        created_at=now,
        tags=wish.tags,
        enable_execute_command=wish.enable_execute_command,
        needs=needs,
    )


def _container(task_arn: str, definition: Json, rng: random.Random) -> Container:
    memory, reservation = definition.get("memory"), definition.get("memoryReservation")
    return Container(
        container_arn=f"{task_arn.replace(':task/', ':container/')}/{new_uuid(rng)}",
        task_arn=task_arn,
        name=definition["name"],
        image=definition["image"],
        cpu=str(definition.get("cpu", 0)),
        memory=None if memory is None else str(memory),
        memory_reservation=None if reservation is None else str(reservation),
    )


def run(
    transaction: Transaction, wish: Wish, rng: random.Random, now: float, only: ContainerInstance | None = None
) -> tuple[Task | None, Placement]:
    """Place a wish, on any instance of its cluster or on one, and start it; no task if it fits nowhere."""
    cluster = cluster_of(wish.cluster_arn)
    there = Counter(one.container_instance_arn for one in transaction.list(TASKS, cluster) if one.group == wish.group)
    instances = [only] if only else transaction.list(INSTANCES, cluster)
    instances = [one for one in instances if one.status != InstanceStatus.INACTIVE]
    decision = placement.place(wish.requirement, instances, there, rng)
    instance = next((one for one in instances if one.container_instance_arn == decision.chosen), None)
    if instance is None:
        return None, decision
    task = create(wish, instance, rng, now)
    start(transaction, task, decision)
    return task, decision


def start(transaction: Transaction, task: Task, decision: Placement) -> None:
    """Give the task to its instance, which is charged from now."""
    key = key_of(task.task_arn)
    transaction.put(TASKS, key, task)
    transaction.put(DECISIONS, key, Decision(at=task.created_at, placement=msgspec.to_builtins(decision)))
    _charge(transaction, task.container_instance_arn, Resources(), task.needs, pending=1)


def ask_to_stop(transaction: Transaction, task: Task, code: StopCode, reason: str, now: float) -> Task:
    """Turn the desired status, once; the agent does the rest."""
    if not task.is_wanted:
        return task
    asked = replace(
        task,
        desired_status=TaskStatus.STOPPED,
        stop_code=code,
        stopped_reason=reason,
        stopping_at=now,
        version=task.version + 1,
    )
    transaction.put(TASKS, key_of(task.task_arn), asked)
    return asked


def report(transaction: Transaction, task: Task, containers: Sequence[Report]) -> Task:
    """Take in what an agent says of the containers; a task that is STOPPED does not change any more."""
    if task.last_status == TaskStatus.STOPPED or not containers:
        return task
    said = {one.name: one for one in containers}
    heard = tuple(_heard(one, said[one.name]) if one.name in said else one for one in task.containers)
    changed = replace(task, containers=heard, version=task.version + 1)
    return _account_for_ports(transaction, changed)


def move(
    transaction: Transaction, task: Task, status: TaskStatus, now: float, reason: str = "", **times: float | None
) -> Task:
    """Move a task's last status, if the table allows it: an old or repeated report changes nothing."""
    if status not in NEXT[task.last_status]:
        return task
    times = {name: time for name, time in times.items() if time is not None}
    if status == TaskStatus.STOPPED:
        return stopped(transaction, msgspec.structs.replace(task, **times), now, reason)
    moved = replace(
        task,
        last_status=status,
        version=task.version + 1,
        started_at=now if status == TaskStatus.RUNNING else task.started_at,
        connectivity="CONNECTED",
        connectivity_at=task.connectivity_at or now,
        **times,
    )
    transaction.put(TASKS, key_of(task.task_arn), moved)
    running = (status == TaskStatus.RUNNING) - (task.last_status == TaskStatus.RUNNING)
    pending = -(task.last_status == TaskStatus.PENDING)
    _charge(transaction, task.container_instance_arn, Resources(), Resources(), running=running, pending=pending)
    return moved


def stopped(transaction: Transaction, task: Task, now: float, reason: str = "", code: StopCode | None = None) -> Task:
    """The task is over: its instance is free of it, and a service hears of it if it was not asked to stop."""
    unasked = task.desired_status == TaskStatus.RUNNING
    ended = replace(
        task,
        last_status=TaskStatus.STOPPED,
        desired_status=TaskStatus.STOPPED,
        stop_code=(code or _code(task, reason)) if unasked else task.stop_code,
        stopped_reason=(reason or ESSENTIAL_EXITED) if unasked else task.stopped_reason,
        stopping_at=task.stopping_at or now,
        execution_stopped_at=task.execution_stopped_at or now,
        stopped_at=now,
        connectivity=task.connectivity and "DISCONNECTED",
        containers=tuple(replace(one, last_status="STOPPED") for one in task.containers),
        version=task.version + 1,
    )
    key = key_of(task.task_arn)
    transaction.delete(TASKS, key)
    transaction.put(STOPPED_TASKS, key, ended)
    running, pending = (-(task.last_status == one) for one in (TaskStatus.RUNNING, TaskStatus.PENDING))
    _charge(transaction, task.container_instance_arn, task.needs, Resources(), running=running, pending=pending)
    if unasked and ended.stop_code != StopCode.INFRASTRUCTURE_HEALTH:
        _count_failure(transaction, task, now)
    return ended


def lost(transaction: Transaction, instance: ContainerInstance, reason: str, now: float) -> list[Task]:
    """The instance is gone: its tasks are STOPPED, whatever it may still do; on return it is told to stop them."""
    over = tasks_on(transaction, instance)
    for task in over:
        stopped(transaction, task, now, reason, StopCode.INFRASTRUCTURE_HEALTH)
    return over


def tasks_on(transaction: Transaction, instance: ContainerInstance) -> list[Task]:
    """The tasks of an instance that are not STOPPED."""
    arn = instance.container_instance_arn
    return [task for task in transaction.list(TASKS, cluster_of(arn)) if task.container_instance_arn == arn]


# --- accounts --------------------------------------------------------------------------------------------------------


def _charge(
    transaction: Transaction, arn: str, less: Resources, more: Resources, running: int = 0, pending: int = 0
) -> None:
    instance = transaction.get(INSTANCES, key_of(arn))
    if instance is None or not (less or more or running or pending):
        return
    charged = replace(
        instance,
        used=instance.used.minus(less).plus(more),
        running_tasks_count=instance.running_tasks_count + running,
        pending_tasks_count=instance.pending_tasks_count + pending,
        version=instance.version + 1,
    )
    transaction.put(INSTANCES, key_of(arn), charged)


def _account_for_ports(transaction: Transaction, task: Task) -> Task:
    """Ports that the agent chose are taken on the instance until the task is STOPPED."""
    bound = {
        f"{binding.host_port}/{binding.protocol or 'tcp'}"
        for container in task.containers
        for binding in container.network_bindings
        if binding.host_port
    }
    new = Resources(ports=tuple(sorted(bound - set(task.needs.ports))))
    if new.ports:
        task = replace(task, needs=task.needs.plus(new))
        _charge(transaction, task.container_instance_arn, Resources(), new)
    transaction.put(TASKS, key_of(task.task_arn), task)
    return task


def _heard(container: Container, said: Report) -> Container:
    members = {
        name: value
        for name, value in said._asdict().items()
        if name not in ("name", "status") and value not in (None, ())
    }
    return replace(container, last_status=said.status or container.last_status, **members)


def _code(task: Task, reason: str) -> StopCode:
    """An agent reports a reason; the code follows from it and from how far the task had come."""
    if task.started_at is None and not reason.startswith(ESSENTIAL_EXITED):
        return StopCode.TASK_FAILED_TO_START
    return StopCode.ESSENTIAL_CONTAINER_EXITED


def _count_failure(transaction: Transaction, task: Task, now: float) -> None:
    key = f"{cluster_of(task.task_arn)}/{task.service_name}"
    service: Service | None = transaction.get(SERVICES, key) if task.service_name else None
    if service is None:
        return
    ran = now - task.started_at if task.started_at else 0.0
    deployments = tuple(
        scheduler.failed(one, ran, now) if one.id == task.started_by else one for one in service.deployments
    )
    transaction.put(SERVICES, key, replace(service, deployments=deployments))
