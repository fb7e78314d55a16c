"""Placement: which container instance a task goes to. Constraints filter, resources fit, a strategy ranks.

Stands on `model` and `query`. Pure: state and chance come in as arguments, ties go to the lower ARN, so a decision can
be replayed; and it is kept as data, so it can be explained. Ruled by the ECS developer guide, "How Amazon ECS places
tasks on container instances".
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from miniecs import query
from miniecs.errors import InvalidParameterException
from miniecs.model import (
    Attribute,
    ContainerInstance,
    InstanceStatus,
    PlacementConstraint,
    PlacementStrategy,
    Resources,
    Value,
)

RESERVED_PORTS = (22, 2375, 2376, 51678, 51679, 51680)
ZONE = "attribute:ecs.availability-zone"
DEFAULT_STRATEGY = (PlacementStrategy(type="spread", field=ZONE), PlacementStrategy(type="spread", field="instanceId"))
INSTANCE_FIELDS = {"instanceId", "host"}
FIELDS: dict[str, set[str | None]] = {  # strategy: what it can go by, besides an attribute for spread
    "spread": {"instanceId", "host"},
    "binpack": {"cpu", "memory"},
    "random": {None},
}
SHOWN = 50  # candidates that an explanation keeps


class Requirement(Value, frozen=True, kw_only=True):
    """What a task asks of its instance."""

    needs: Resources
    constraints: tuple[PlacementConstraint, ...] = ()
    strategy: tuple[PlacementStrategy, ...] = ()
    attributes: tuple[Attribute, ...] = ()


class Candidate(Value, frozen=True, kw_only=True):
    """One instance as a decision saw it."""

    arn: str
    label: str
    cpu_free: int
    memory_free: int
    ports_taken: tuple[str, ...] = ()  # of those that the task needs
    scores: tuple[float, ...] = ()  # by each strategy in turn, the smaller the better
    reason: str = ""  # ECS's word for why not; empty: it fits
    detail: str = ""  # the same for a person, with numbers
    rank: int | None = None


class Placement(Value, frozen=True, kw_only=True):
    """A decision: the instance, if any, and what led to it. `considered` counts also those not shown."""

    needs: Resources
    strategy: str
    candidates: tuple[Candidate, ...]
    considered: int
    chosen: str | None = None
    closest: Candidate | None = None  # when nothing fits: the one that lacks least

    @property
    def shortage(self) -> str:
        """Why nothing fits, as one phrase."""
        if not self.closest:
            return "no container instance in the cluster"
        return f"closest is {self.closest.label}: {self.closest.detail}"


def place(
    requirement: Requirement,
    instances: Sequence[ContainerInstance],
    group: Mapping[str, int],
    rng: random.Random,
) -> Placement:
    """Choose an instance. `group` counts the tasks of the same service or group on each instance, by ARN."""
    strategy = requirement.strategy or DEFAULT_STRATEGY
    candidates = [_judge(requirement, instance, group) for instance in instances]
    fitting = [instance for instance, candidate in zip(instances, candidates, strict=True) if not candidate.reason]
    scores = score(strategy, fitting, instances, group, rng)
    order = sorted(scores, key=lambda arn: (scores[arn], arn))
    ranks = {arn: number for number, arn in enumerate(order, 1)}
    ranked = sorted(
        (replace(one, rank=ranks[one.arn], scores=scores[one.arn]) if one.arn in ranks else one for one in candidates),
        key=lambda candidate: (candidate.rank or len(instances) + 1, candidate.arn),
    )
    return Placement(
        needs=requirement.needs,
        strategy=describe(strategy),
        candidates=tuple(ranked[:SHOWN]),
        considered=len(instances),
        chosen=order[0] if order else None,
        closest=None if order else _closest(requirement.needs, candidates),
    )


def score(
    strategy: Sequence[PlacementStrategy],
    fitting: Sequence[ContainerInstance],
    instances: Sequence[ContainerInstance],
    group: Mapping[str, int],
    rng: random.Random,
) -> dict[str, tuple[float, ...]]:
    """For the ARN of each of `fitting` a score by each strategy: a later one breaks the ties of the one before."""
    counts = [_spread_counts(step, instances, group) for step in strategy]
    return {
        instance.container_instance_arn: tuple(
            _score(step, instance, count, rng) for step, count in zip(strategy, counts, strict=True)
        )
        for instance in sorted(fitting, key=lambda instance: instance.container_instance_arn)
    }


def check(constraints: Sequence[PlacementConstraint], strategy: Sequence[PlacementStrategy]) -> None:
    """Raises InvalidParameterException for what cannot be used; the text says why."""
    if len(constraints) > 10:
        raise InvalidParameterException("The number of placement constraints cannot exceed 10.")
    if len(strategy) > 5:
        raise InvalidParameterException("The number of placement strategies cannot exceed 5.")
    for constraint in constraints:
        if constraint.type == "memberOf":
            if not constraint.expression:
                raise InvalidParameterException("The expression of a memberOf placement constraint can not be empty.")
            query.parse(constraint.expression)
        elif constraint.type != "distinctInstance" or constraint.expression:
            raise InvalidParameterException(
                f"Invalid placement constraint: type {constraint.type} with this expression."
            )
    for step in strategy:
        known = FIELDS[step.type]
        field = step.field.lower() if step.type == "binpack" and step.field else step.field or None
        if field not in known and not (step.type == "spread" and (field or "").startswith("attribute:")):
            raise InvalidParameterException(f"Invalid placement strategy: {step.type} by field '{step.field or ''}'.")


def values(instance: ContainerInstance, subject: str, group: str = "") -> list[str]:
    """The values of a subject of the query language on an instance."""
    if subject.startswith("attribute:"):
        value = instance.attribute(subject.removeprefix("attribute:"))
        return [] if value is None else [value]
    known: dict[str, Any] = {
        "agentConnected": str(instance.agent_connected).lower(),
        "agentVersion": instance.version_info.get("agentVersion"),
        "ec2InstanceId": instance.ec2_instance_id,
        "registeredAt": instance.registered_at,
        "runningTasksCount": instance.running_tasks_count,
        "task:group": group or None,
    }
    return [] if known[subject] is None else [str(known[subject])]


def describe(strategy: Sequence[PlacementStrategy]) -> str:
    """`spread(attribute:ecs.availability-zone), spread(instanceId)`"""
    return ", ".join(f"{step.type}({step.field})" if step.field else step.type for step in strategy)


# --- one instance ----------------------------------------------------------------------------------------------------


def _judge(requirement: Requirement, instance: ContainerInstance, group: Mapping[str, int]) -> Candidate:
    cpu, memory = instance.free
    taken = _taken(requirement.needs, instance)
    reason, detail = _why_not(requirement, instance, group, taken)
    return Candidate(
        arn=instance.container_instance_arn,
        label=instance.label,
        cpu_free=cpu,
        memory_free=memory,
        ports_taken=taken,
        reason=reason,
        detail=detail,
    )


def _taken(needs: Resources, instance: ContainerInstance) -> tuple[str, ...]:
    if not needs.ports:
        return ()
    return tuple(port for port in needs.ports if port in instance.used.ports or port in instance.registered.ports)


def _why_not(
    requirement: Requirement, instance: ContainerInstance, group: Mapping[str, int], taken: tuple[str, ...]
) -> tuple[str, str]:
    """ECS's word and a sentence with numbers, in the order in which ECS filters; two empty texts if it fits."""
    if instance.status != InstanceStatus.ACTIVE:
        return "INACTIVE", f"is {instance.status}"
    if not instance.agent_connected:
        return "AGENT", "its agent is not connected"
    (cpu, memory), needs = instance.free, requirement.needs
    lacks = []
    if needs.cpu > cpu:
        lacks.append(f"needs {needs.cpu} CPU units, {cpu} free: {needs.cpu - cpu} short")
    if needs.memory > memory:
        lacks.append(f"needs {needs.memory} MiB, {memory} free: {needs.memory - memory} short")
    if taken:
        lacks.append(f"port {', '.join(taken)} is taken")
    if lacks:
        word = "CPU" if needs.cpu > cpu else "MEMORY" if needs.memory > memory else "PORTS"
        return f"RESOURCE:{word}", "; ".join(lacks)
    for wanted in requirement.attributes:
        found = instance.attribute(wanted.name)
        if found is None or (wanted.value and found != wanted.value):
            return "ATTRIBUTE", f"lacks the attribute {wanted.name}{'=' + wanted.value if wanted.value else ''}"
    return _constrained(requirement.constraints, instance, group)


def _constrained(
    constraints: Sequence[PlacementConstraint], instance: ContainerInstance, group: Mapping[str, int]
) -> tuple[str, str]:
    for constraint in constraints:
        if constraint.type == "distinctInstance":
            if group.get(instance.container_instance_arn):
                return "DistinctInstance placement constraint unsatisfied.", "has a task of this group already"
        elif not query.parse(constraint.expression or "")(lambda subject: values(instance, subject)):
            return "MemberOf placement constraint unsatisfied.", f"is not a member of: {constraint.expression}"
    return "", ""


def _closest(needs: Resources, candidates: Sequence[Candidate]) -> Candidate | None:
    """The one that lacks resources only, and the smallest share of them; without such a one, the first by ARN."""

    def distance(candidate: Candidate) -> tuple[bool, float, str]:
        cpu = max(0, needs.cpu - candidate.cpu_free) / max(1, needs.cpu)
        memory = max(0, needs.memory - candidate.memory_free) / max(1, needs.memory)
        ports = len(candidate.ports_taken) / max(1, len(needs.ports))
        return not candidate.reason.startswith("RESOURCE"), cpu + memory + ports, candidate.arn

    return min(candidates, key=distance, default=None)


# --- strategies ------------------------------------------------------------------------------------------------------


def _field(step: PlacementStrategy, instance: ContainerInstance) -> str:
    if step.field in INSTANCE_FIELDS:
        return instance.container_instance_arn
    return instance.attribute((step.field or "").removeprefix("attribute:")) or ""


def _spread_counts(
    step: PlacementStrategy, instances: Sequence[ContainerInstance], group: Mapping[str, int]
) -> Counter[str]:
    counts: Counter[str] = Counter()
    if step.type == "spread":
        for instance in instances:
            counts[_field(step, instance)] += group.get(instance.container_instance_arn, 0)
    return counts


def _score(step: PlacementStrategy, instance: ContainerInstance, counts: Counter[str], rng: random.Random) -> float:
    """Smaller is better."""
    match step.type:
        case "spread":
            return counts[_field(step, instance)]
        case "binpack":
            cpu, memory = instance.free
            return cpu if (step.field or "").lower() == "cpu" else memory
        case _:
            return rng.random()
