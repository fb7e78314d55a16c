"""Scheduler: a service as it is against what is desired of it, to the next starts and stops.

Stands on `model`. Pure: `controller` gives it a service, its tasks and the time, and carries the plan out; so the same
decision can be replayed. Ruled by the ECS developer guide, "Amazon ECS services" and "Rolling update deployments".
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from miniecs.model import Deployment, DeploymentStatus, RolloutState, Service, ServiceStatus, Task, TaskStatus

STEADY_SECONDS = 10.0  # a task that ran this long did start
BACK_OFF = (0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # seconds before the next start, by failures in a row
INCONSISTENT = 3  # failures in a row, from which the service says so


class Stop(NamedTuple):
    task: Task
    reason: str


class Plan(NamedTuple):
    """What to do next for a service. `wake_at`: look again then, though nothing changes (0: never)."""

    starts: int = 0  # of the primary deployment
    stops: tuple[Stop, ...] = ()
    deadlock: bool = False  # the percentages allow neither a start nor a stop
    wake_at: float = 0.0


class Limits(NamedTuple):
    """How many tasks may run at least and at most, from the deployment configuration's percentages."""

    lower: int
    upper: int

    @classmethod
    def of(cls, service: Service) -> "Limits":
        configuration = service.deployment_configuration
        return cls(
            lower=math.ceil(service.desired_count * configuration.minimum_healthy_percent / 100),
            upper=math.floor(service.desired_count * configuration.maximum_percent / 100),
        )


def decide(service: Service, tasks: Sequence[Task], draining: frozenset[str], now: float) -> Plan:
    """The next step of a service. `tasks` are its own that are not STOPPED; `draining` are the instances to leave."""
    wanted = [task for task in tasks if task.is_wanted]
    if service.status == ServiceStatus.DRAINING or service.desired_count == 0:
        return Plan(stops=tuple(Stop(task, _scaling(service)) for task in _victims(wanted)))
    primary = service.primary
    fresh: list[Task] = []
    old: list[Task] = []
    for task in wanted:
        stays = task.started_by == primary.id and task.container_instance_arn not in draining
        (fresh if stays else old).append(task)
    surplus = _victims(fresh)[: max(0, len(fresh) - service.desired_count)]
    if surplus:
        fresh = [task for task in fresh if task not in surplus]
    gone = _replaced(service, fresh, old)
    missing = service.desired_count - len(fresh)
    room = Limits.of(service).upper - len(fresh) - len(old) + len(gone)
    starts = max(0, min(missing, room))
    waits = starts > 0 and now < primary.retry_at
    return Plan(
        starts=0 if waits else starts,
        stops=(*(Stop(t, _scaling(service)) for t in surplus), *(Stop(t, _scaling(service, t)) for t in gone)),
        deadlock=bool(old) and not (surplus or gone) and missing > 0 and starts == 0 and not _in_flight(fresh),
        wake_at=primary.retry_at if waits else 0.0,
    )


def _replaced(service: Service, fresh: list[Task], old: list[Task]) -> list[Task]:
    """Old tasks that may go now: all that do not run yet, and as many running ones as leave enough running.

    Enough is the desired count, so that capacity stays whole; only where the room to start more is used up, or no
    instance has room, the minimum healthy percent.
    """
    limits = Limits.of(service)
    pending = [task for task in old if task.last_status != TaskStatus.RUNNING]
    running = _victims([task for task in old if task.last_status == TaskStatus.RUNNING])
    healthy = len(running) + sum(task.last_status == TaskStatus.RUNNING for task in fresh)
    spare = max(0, healthy - service.desired_count)
    missing = service.desired_count - len(fresh)
    if missing > 0 and (len(fresh) + len(running) >= limits.upper or service.shortage):
        spare = max(spare, min(missing, healthy - limits.lower))
    return pending + running[: max(0, spare)]


def _in_flight(fresh: Iterable[Task]) -> bool:
    return any(task.last_status != TaskStatus.RUNNING for task in fresh)


def _victims(tasks: Sequence[Task]) -> list[Task]:
    """In the order in which to stop them: those that do not run yet; then where most are; the newest; by ARN."""
    crowd = Counter(task.container_instance_arn for task in tasks)
    left = sorted(tasks, key=lambda task: (-task.created_at, task.task_arn))
    order = []
    while left:
        next_one = min(left, key=lambda t: (t.last_status == TaskStatus.RUNNING, -crowd[t.container_instance_arn]))
        crowd[next_one.container_instance_arn] -= 1
        left.remove(next_one)
        order.append(next_one)
    return order


def _scaling(service: Service, task: Task | None = None) -> str:
    """ECS's text: an old task is stopped by the deployment it belongs to."""
    deployment = task.started_by if task else service.primary.id
    return f"Scaling activity initiated by (deployment {deployment})"


# --- deployments -----------------------------------------------------------------------------------------------------


def counted(service: Service, tasks: Sequence[Task]) -> Service:
    """The service with its counts as the tasks are; old deployments that have none left are gone."""
    running: Counter[str | None] = Counter()
    pending: Counter[str | None] = Counter()
    for task in tasks:
        if task.is_wanted:
            (running if task.last_status == TaskStatus.RUNNING else pending)[task.started_by] += 1
    deployments = tuple(
        replace(deployment, pending_count=pending[deployment.id], running_count=running[deployment.id])
        for number, deployment in enumerate(service.deployments)
        if number == 0 or running[deployment.id] + pending[deployment.id]
    )
    counts = {"running_count": running.total(), "pending_count": pending.total()}
    return replace(service, deployments=deployments, **counts)


def is_steady(service: Service) -> bool:
    """Whether a counted service is what it should be."""
    primary = service.primary
    return (
        len(service.deployments) == 1 and primary.running_count == service.desired_count and not primary.pending_count
    )


def deployed(service: Service, deployment: Deployment, now: float) -> Service:
    """The service with a new primary deployment; the ones before are ACTIVE until their tasks are gone."""
    older = tuple(replace(one, status=DeploymentStatus.ACTIVE, desired_count=0) for one in service.deployments)
    started = replace(
        deployment,
        created_at=now,
        updated_at=now,
        rollout_state=RolloutState.IN_PROGRESS,
        rollout_state_reason=f"ECS deployment {deployment.id} in progress.",
    )
    return replace(service, deployments=(started, *older), task_definition=deployment.task_definition, steady=False)


def completed(deployment: Deployment, now: float) -> Deployment:
    reason = f"ECS deployment {deployment.id} completed."
    return replace(deployment, rollout_state=RolloutState.COMPLETED, rollout_state_reason=reason, updated_at=now)


def failed(deployment: Deployment, ran: float, now: float) -> Deployment:
    """The deployment after one of its tasks ended by itself, having run `ran` seconds: each in a row waits longer."""
    in_a_row = 1 if ran >= STEADY_SECONDS else deployment.failures_in_a_row + 1
    delay = BACK_OFF[min(in_a_row, len(BACK_OFF) - 1)]
    return replace(
        deployment,
        failed_tasks=deployment.failed_tasks + 1,
        failures_in_a_row=in_a_row,
        retry_at=now + delay if delay else 0.0,
        updated_at=now,
    )
