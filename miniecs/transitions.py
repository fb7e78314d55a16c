"""Transitions: what becomes of a task's containers, decided from what is wanted and what happened. Pure.

Stands between `acs` (what is asked) and `task_engine` (which does what is decided here). `due` says what to do next,
`pulled` to `exited` take in what happened; all are functions of a record, which an agent keeps on disk, so that the one
that takes over goes on where it was. Ruled by the ECS developer guide: task lifecycle, container dependency.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from miniecs import acs
from miniecs.acs import Container, Task

REASON_LENGTH = 1024  # the public agent cuts a reason here


class Status(StrEnum):
    NONE = "NONE"
    PULLED = "PULLED"
    CREATED = "CREATED"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"


NEXT = {
    Status.NONE: {Status.PULLED, Status.STOPPED},
    Status.PULLED: {Status.CREATED, Status.STOPPED},
    Status.CREATED: {Status.RUNNING, Status.STOPPED},
    Status.RUNNING: {Status.STOPPED},
    Status.STOPPED: set(),
}  # fmt: skip
ORDER = {status: rank for rank, status in enumerate(NEXT)}
REPORTED = {  # the three that the control plane knows
    Status.NONE: "PENDING",
    Status.PULLED: "PENDING",
    Status.CREATED: "PENDING",
    Status.RUNNING: "RUNNING",
    Status.STOPPED: "STOPPED",
}  # fmt: skip


# --- records ----------------------------------------------------------------------------------------------------------


class _Record(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    pass


class NetworkBinding(_Record, frozen=True):
    container_port: int
    host_port: int
    protocol: str = "tcp"
    bind_ip: str = msgspec.field(name="bindIP", default="0.0.0.0")


class ContainerRecord(_Record, frozen=True):
    """What is known of one container."""

    name: str
    metadata_id: str  # in its metadata address; not to be guessed by its neighbours
    known_status: Status = Status.NONE
    runtime_id: str = ""
    image_digest: str = ""
    exit_code: int | None = None
    reason: str = ""
    health: str = "UNKNOWN"
    address: str = ""
    network_bindings: tuple[NetworkBinding, ...] = ()
    created_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None


class ContainerStateChange(_Record, frozen=True):
    """Of one container in a report about its task: API_ContainerStateChange."""

    container_name: str
    status: str
    runtime_id: str = ""
    image_digest: str = ""
    exit_code: int | None = None
    reason: str = ""
    network_bindings: tuple[NetworkBinding, ...] = ()


class SubmitTaskStateChange(_Record, frozen=True, tag_field="operation", tag=True):
    task: str
    status: str
    reason: str = ""
    containers: tuple[ContainerStateChange, ...] = ()
    pull_started_at: float | None = None
    pull_stopped_at: float | None = None
    execution_stopped_at: float | None = None


class SubmitContainerStateChange(_Record, frozen=True, tag_field="operation", tag=True):
    task: str
    container_name: str
    status: str
    runtime_id: str = ""
    exit_code: int | None = None
    reason: str = ""
    network_bindings: tuple[NetworkBinding, ...] = ()


Report = SubmitTaskStateChange | SubmitContainerStateChange


class TaskRecord(_Record, frozen=True):
    """A task and all that is known of it: what an agent keeps on disk."""

    task: Task
    containers: tuple[ContainerRecord, ...]
    desired_status: str = "RUNNING"
    stopped_reason: str = ""
    pull_started_at: float | None = None
    pull_stopped_at: float | None = None
    execution_stopped_at: float | None = None
    reports: tuple[Report, ...] = ()  # in order, until the control plane has acknowledged them

    def container(self, name: str) -> ContainerRecord:
        return next(container for container in self.containers if container.name == name)

    def definition(self, name: str) -> Container:
        return next(container for container in self.task.containers if container.name == name)


def new_record(task: Task, new_id: Callable[[], str]) -> TaskRecord:
    containers = tuple(ContainerRecord(name=container.name, metadata_id=new_id()) for container in task.containers)
    return TaskRecord(task=task, containers=containers)


def known_status(record: TaskRecord) -> Status:
    """A task is where its slowest container is; one that has already ended has gone further than one that runs."""
    return min((container.known_status for container in record.containers), key=ORDER.__getitem__)


def is_over(record: TaskRecord) -> bool:
    return known_status(record) == Status.STOPPED


# --- what to do next --------------------------------------------------------------------------------------------------


class Effect(StrEnum):
    PULL = "pull"
    CREATE = "create"
    START = "start"
    STOP = "stop"


FORWARD = {Status.NONE: Effect.PULL, Status.PULLED: Effect.CREATE, Status.CREATED: Effect.START}


class Action(NamedTuple):
    effect: Effect
    container: str


def due(record: TaskRecord, busy: Mapping[str, Effect]) -> list[Action]:
    """What to begin now, given what is being done already. Images are pulled at once; making waits for dependencies."""
    if record.desired_status == "STOPPED":
        return [Action(Effect.STOP, one.name) for one in record.containers if _may_stop(record, one, busy)]
    actions = []
    for one in record.containers:
        effect = FORWARD.get(one.known_status)
        if effect and one.name not in busy and (effect != Effect.CREATE or _may_go_on(record, one)):
            actions.append(Action(effect, one.name))
    return actions


def _may_stop(record: TaskRecord, one: ContainerRecord, busy: Mapping[str, Effect]) -> bool:
    """A container stops after those that depend on it; only a pull is broken off for it."""
    dependents = [
        other.name
        for other in record.task.containers
        if any(dependency.container_name == one.name for dependency in other.depends_on)
    ]
    return (
        one.known_status != Status.STOPPED
        and busy.get(one.name, Effect.PULL) == Effect.PULL
        and all(record.container(name).known_status == Status.STOPPED for name in dependents)
    )


def _may_go_on(record: TaskRecord, one: ContainerRecord) -> bool:
    return all(_satisfied(record, dependency) for dependency in record.definition(one.name).depends_on)


def _satisfied(record: TaskRecord, dependency: acs.ContainerDependency) -> bool:
    """Whether a dependency's condition holds: API_ContainerDependency."""
    on = record.container(dependency.container_name)
    holds = {
        "START": on.started_at is not None,
        "COMPLETE": on.known_status == Status.STOPPED and on.started_at is not None,
        "SUCCESS": on.known_status == Status.STOPPED and on.exit_code == 0,
        "HEALTHY": on.known_status == Status.RUNNING and on.health == "HEALTHY",
    }  # fmt: skip
    return holds[dependency.condition]


# --- what happened ----------------------------------------------------------------------------------------------------


def pulling(record: TaskRecord, at: float) -> TaskRecord:
    """The first pull begins."""
    return record if record.pull_started_at else msgspec.structs.replace(record, pull_started_at=at)


def pulled(record: TaskRecord, name: str, digest: str, at: float) -> TaskRecord:
    moved = _move(record, name, Status.PULLED, image_digest=digest)
    if moved is not record and all(container.known_status != Status.NONE for container in moved.containers):
        moved = msgspec.structs.replace(moved, pull_stopped_at=at)
    return _settle(record, moved, at)


def created(record: TaskRecord, name: str, runtime_id: str, at: float) -> TaskRecord:
    return _settle(record, _move(record, name, Status.CREATED, runtime_id=runtime_id, created_at=at), at)


def started(
    record: TaskRecord, name: str, at: float, address: str = "", bindings: tuple[NetworkBinding, ...] = ()
) -> TaskRecord:
    moved = _move(record, name, Status.RUNNING, started_at=at, address=address, network_bindings=bindings)
    return _settle(record, moved, at)


def exited(record: TaskRecord, name: str, exit_code: int | None, at: float, reason: str = "") -> TaskRecord:
    """It ended, by itself or because it was stopped; None when it never ran."""
    return _stopped(record, name, exit_code, reason, "Essential container in task exited", at)


def failed(record: TaskRecord, name: str, reason: str, at: float) -> TaskRecord:
    """It could not be pulled, created or started."""
    return _stopped(record, name, None, reason, reason, at)


def stop(record: TaskRecord, reason: str, at: float) -> TaskRecord:
    """The task is to stop. What is wanted flips once; the first reason stays."""
    if record.desired_status == "STOPPED":
        return record
    return msgspec.structs.replace(record, desired_status="STOPPED", stopped_reason=reason, execution_stopped_at=at)


def health(record: TaskRecord, name: str, status: str, at: float) -> TaskRecord:
    """An essential container that is unhealthy ends its task: developer guide, container health checks."""
    one = record.container(name)
    if one.known_status != Status.RUNNING or one.health == status:
        return record
    moved = _with(record, msgspec.structs.replace(one, health=status))
    if status == "UNHEALTHY" and record.definition(name).essential:
        moved = stop(moved, "Task failed container health checks", at)
    return moved


def _stopped(
    record: TaskRecord, name: str, exit_code: int | None, reason: str, task_reason: str, at: float
) -> TaskRecord:
    cut = reason[:REASON_LENGTH]
    moved = _move(record, name, Status.STOPPED, exit_code=exit_code, reason=cut, finished_at=at)
    if moved is not record and record.definition(name).essential:
        moved = stop(moved, task_reason[:REASON_LENGTH], at)
    return _settle(record, moved, at)


def _move(record: TaskRecord, name: str, status: Status, **change: object) -> TaskRecord:
    """The record with a container moved on; unchanged if the table does not allow it: an echo of what is known."""
    one = record.container(name)
    if status not in NEXT[one.known_status]:
        return record
    return _with(record, msgspec.structs.replace(one, known_status=status, **change))


def _with(record: TaskRecord, changed: ContainerRecord) -> TaskRecord:
    containers = tuple(changed if one.name == changed.name else one for one in record.containers)
    return msgspec.structs.replace(record, containers=containers)


def _settle(before: TaskRecord, after: TaskRecord, at: float) -> TaskRecord:
    """Draw the consequences: containers that can never start any more end too, and what changed is to be reported."""
    after = _give_up(after, at)
    return msgspec.structs.replace(after, reports=(*after.reports, *_reports(before, after)))


def _give_up(record: TaskRecord, at: float) -> TaskRecord:
    for one in record.containers:
        lost = _lost_dependency(record, one)
        if lost and record.desired_status == "RUNNING":
            reason = f"TaskDependencyError: {lost}"
            ended = _move(record, one.name, Status.STOPPED, reason=reason[:REASON_LENGTH], finished_at=at)
            if record.definition(one.name).essential:
                ended = stop(ended, reason[:REASON_LENGTH], at)
            return _give_up(ended, at)
    return record


def _lost_dependency(record: TaskRecord, one: ContainerRecord) -> str:
    """Why a container that is not yet created never shall be, or an empty string."""
    if ORDER[one.known_status] >= ORDER[Status.CREATED]:
        return ""
    for dependency in record.definition(one.name).depends_on:
        on = record.container(dependency.container_name)
        if on.known_status == Status.STOPPED and not _satisfied(record, dependency):
            ended = "never started" if on.exit_code is None else f"exited with {on.exit_code}"
            return f"container {one.name} depends on {dependency.condition} of container {on.name}, which {ended}"
    return ""


# --- what to tell -----------------------------------------------------------------------------------------------------


def _reports(before: TaskRecord, after: TaskRecord) -> list[Report]:
    """What the control plane is to hear: a task's change with all its containers, or else each container's change."""
    status = known_status(after)
    if REPORTED[status] != REPORTED[known_status(before)]:
        return [task_report(after)]
    return [
        SubmitContainerStateChange(
            task=after.task.arn,
            container_name=new.name,
            status=REPORTED[new.known_status],
            runtime_id=new.runtime_id,
            exit_code=new.exit_code,
            reason=new.reason,
            network_bindings=new.network_bindings,
        )
        for old, new in zip(before.containers, after.containers, strict=True)
        if REPORTED[old.known_status] != REPORTED[new.known_status]
    ]


def task_report(record: TaskRecord) -> SubmitTaskStateChange:
    """The whole truth about a task, as it is known now."""
    status = REPORTED[known_status(record)]
    return SubmitTaskStateChange(
        task=record.task.arn,
        status=status,
        reason=record.stopped_reason if status == "STOPPED" else "",
        containers=tuple(
            ContainerStateChange(
                container_name=one.name,
                status=REPORTED[one.known_status],
                runtime_id=one.runtime_id,
                image_digest=one.image_digest,
                exit_code=one.exit_code,
                reason=one.reason,
                network_bindings=one.network_bindings,
            )
            for one in record.containers
        ),
        pull_started_at=record.pull_started_at,
        pull_stopped_at=record.pull_stopped_at,
        execution_stopped_at=record.execution_stopped_at,
    )


def reported_again(record: TaskRecord) -> TaskRecord:
    """An agent that took over says once more what runs; what has stopped is said until it is acknowledged anyway."""
    report = task_report(record)
    if report.status != "RUNNING" or (record.reports and record.reports[-1] == report):
        return record
    return msgspec.structs.replace(record, reports=(*record.reports, report))


def acknowledged(record: TaskRecord) -> TaskRecord:
    """The oldest report has reached the control plane."""
    return msgspec.structs.replace(record, reports=record.reports[1:])
