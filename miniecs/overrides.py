"""Overrides: what a task's overrides make of its task definition, and what it then needs of an instance.

Stands on `model`. Pure. Ruled by API_TaskOverride, API_ContainerOverride and API_ContainerDefinition.
"""

from collections.abc import Iterable, Iterator, Sequence

from miniecs.errors import InvalidParameterException
from miniecs.model import Json, Resources, TaskDefinition

REPLACED = ("command", "cpu", "memory", "memoryReservation", "environmentFiles", "resourceRequirements")


def check(definition: TaskDefinition, overrides: Json) -> None:
    """Raises InvalidParameterException for a container that the task definition does not have."""
    names = {container["name"] for container in definition.container_definitions}
    for override in overrides.get("containerOverrides", ()):
        if override.get("name") not in names:
            raise InvalidParameterException(
                f"Override for container named {override.get('name')} is not a container in the TaskDefinition."
            )


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
