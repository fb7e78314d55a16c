"""Overrides: what a task's overrides make of its task definition, and what it then needs of an instance.

Stands on `model`. Pure. Ruled by API_TaskOverride, API_ContainerOverride and API_ContainerDefinition.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from miniecs.errors import ClientException, InvalidParameterException
from miniecs.model import Json, Resources, TaskDefinition

REPLACED = ("command", "cpu", "memory", "memoryReservation", "environmentFiles", "resourceRequirements")
UNITS = {"cpu": "vCPU", "memory": "GB"}
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(vCPU|GB)?\s*", re.IGNORECASE)
LEAST_MEMORY = 6  # MiB: API_ContainerDefinition


def checked(definition: TaskDefinition, overrides: Json) -> Json:
    """The overrides of a request, with the task's size in CPU units and MiB.

    Raises:
        InvalidParameterException: for a container that the task definition does not have.
        ClientException: for a size that no task can have.
    """
    names = {container["name"] for container in definition.container_definitions}
    for override in overrides.get("containerOverrides", ()):
        if override.get("name") not in names:
            raise InvalidParameterException(
                f"Override for container named {override.get('name')} is not a container in the TaskDefinition."
            )
    sizes = {member: size(overrides[member], member) for member in UNITS if overrides.get(member)}
    for container in containers(definition, overrides):
        check_container(container, sizes.get("memory", definition.memory))
    return overrides | sizes


def size(text: str, member: str) -> str:
    """A task's `cpu` or `memory`: `512`, `.5 vCPU`, `2 GB`, as CPU units or MiB."""
    match = SIZE.fullmatch(text)
    unit = match[2] if match else None
    if not match or (unit and unit.lower() != UNITS[member].lower()) or (not unit and "." in match[1]):
        raise ClientException(f"Invalid '{member}' setting for task: {text}")
    number = int(float(match[1]) * 1024) if unit else int(match[1])
    if not 0 < number < 2**31:
        raise ClientException(f"Invalid '{member}' setting for task: {text}")
    return str(number)


def check_container(container: Json, task_memory: str | None) -> None:
    """Raises ClientException, in ECS's words, for a container's share of its task that cannot be."""
    wrong = f"Invalid setting for container '{container['name']}'."
    limits = {name: container[name] for name in ("memory", "memoryReservation") if container.get(name) is not None}
    if not limits and task_memory is None:
        raise ClientException(f"{wrong} At least one of 'memory' or 'memoryReservation' must be specified.")
    for name, limit in limits.items():
        if limit < LEAST_MEMORY:
            raise ClientException(f"{wrong} '{name}' must be at least {LEAST_MEMORY} MiB.")
    if len(limits) == 2 and limits["memoryReservation"] > limits["memory"]:
        raise ClientException(f"{wrong} 'memoryReservation' must be less than 'memory'.")
    if container.get("cpu", 0) < 0:
        raise ClientException(f"{wrong} 'cpu' must not be negative.")


def containers(definition: TaskDefinition, overrides: Json) -> list[Json]:
    """The container definitions as the task has them."""
    by_name = {override.get("name"): override for override in overrides.get("containerOverrides", ())}
    return [_merged(container, by_name.get(container["name"], {})) for container in definition.container_definitions]


def of_task(definition: TaskDefinition, overrides: Json) -> Resources:
    """What one task takes of an instance."""
    if not overrides:
        return definition.needs
    cpu, memory = overrides.get("cpu", definition.cpu), overrides.get("memory", definition.memory)
    return needs(containers(definition, overrides), cpu, memory)


def needs(containers: Sequence[Json], cpu: str | None, memory: str | None) -> Resources:
    """The task's size if it has one; else the sum of its containers, where a reservation counts before a limit."""
    return Resources(
        cpu=int(cpu) if cpu else sum(container.get("cpu", 0) for container in containers),
        memory=int(memory) if memory else sum(c.get("memoryReservation") or c.get("memory", 0) for c in containers),
        ports=tuple(sorted(ports(containers))),
    )


def ports(containers: Iterable[Json]) -> Iterator[str]:
    """The host ports that are asked for by number."""
    for container in containers:
        for mapping in container["portMappings"]:
            if mapping["hostPort"]:
                yield f"{mapping['hostPort']}/{mapping['protocol']}"


def _merged(container: Json, override: Json) -> Json:
    merged = container | {name: override[name] for name in REPLACED if name in override}
    if "environment" in override:
        given = {pair["name"]: pair for pair in (*container["environment"], *override["environment"])}
        merged["environment"] = list(given.values())
    return merged
