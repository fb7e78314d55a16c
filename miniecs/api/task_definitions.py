"""Task definitions: the actions on them. Ruled by API_RegisterTaskDefinition and its kin."""

import re
from typing import Any

from msgspec.structs import replace

from miniecs import errors, overrides, placement, records
from miniecs.model import Attribute, Json, PlacementConstraint, TaskDefinition, last
from miniecs.records import Call
from miniecs.store import TASK_DEFINITIONS
from miniecs.wire import Answer, Shape

NETWORK_MODES = ("bridge", "host", "none", "awsvpc")
ENI = Attribute(name="ecs.capability.task-eni")  # what an instance needs for awsvpc


def register_task_definition(call: Call, request: Shape) -> Answer:
    """Raises ClientException for a task definition that could never run; the text names the container."""
    family = request.family
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", family):
        raise errors.ClientException("Family contains invalid characters.")
    constraints = records.values(request.placement_constraints, PlacementConstraint)
    placement.check(constraints, ())
    cpu = overrides.size(request.cpu, "cpu") if request.cpu else None
    memory = overrides.size(request.memory, "memory") if request.memory else None
    network_mode = request.network_mode or "bridge"
    containers = _containers(request, memory, network_mode)
    revision = call.transaction.next(f"task-definition/{family}")
    definition = TaskDefinition(
        task_definition_arn=call.arn(f"task-definition/{family}:{revision}"),
        family=family,
        revision=revision,
        container_definitions=containers,
        network_mode=network_mode,
        cpu=cpu,
        memory=memory,
        volumes=tuple({"host": {}, **volume} for volume in records.jsons(request.volumes)),
        task_role_arn=request.task_role_arn,
        execution_role_arn=request.execution_role_arn,
        pid_mode=request.pid_mode,
        ipc_mode=request.ipc_mode,
        requires_attributes=(ENI,) if network_mode == "awsvpc" else (),
        placement_constraints=constraints,
        compatibilities=("EXTERNAL", "EC2"),
        requires_compatibilities=tuple(request.requires_compatibilities or ()),
        runtime_platform=records.json(request.runtime_platform) if request.runtime_platform else None,
        registered_at=call.now,
        registered_by=f"arn:aws:iam::{call.account.id}:root",
        tags=records.tags(request.tags),
        needs=overrides.needs(containers, cpu, memory),
    )
    call.transaction.put(TASK_DEFINITIONS, records.definition_key(family, revision), definition)
    return Answer(task_definition=definition, tags=definition.tags)


def describe_task_definition(call: Call, request: Shape) -> Answer:
    definition = records.task_definition(call, request.task_definition)
    with_tags = "TAGS" in (request.include or ())
    return Answer(task_definition=definition, tags=definition.tags if with_tags else None)


def deregister_task_definition(call: Call, request: Shape) -> Answer:
    """INACTIVE: what runs of it runs on, nothing new is made of it."""
    name = last(request.task_definition)
    if ":" not in name:
        raise errors.ClientException("Revision is missing.")
    definition = replace(
        records.task_definition(call, name),
        status="INACTIVE",
        deregistered_at=call.now,
    )
    call.transaction.put(TASK_DEFINITIONS, records.definition_key(definition.family, definition.revision), definition)
    return Answer(task_definition=definition)


def list_task_definitions(call: Call, request: Shape) -> Answer:
    status, family = request.status or "ACTIVE", request.family_prefix or ""
    found = [one for one in call.transaction.list(TASK_DEFINITIONS, family) if one.status == status]
    page, token = records.page(
        request, found, lambda one: f"{one.family}/{one.revision:08}", descending=request.sort == "DESC"
    )
    return Answer(task_definition_arns=[one.task_definition_arn for one in page], next_token=token)


def list_task_definition_families(call: Call, request: Shape) -> Answer:
    statuses: dict[str, set[str]] = {}
    for one in call.transaction.list(TASK_DEFINITIONS):
        if one.family.startswith(request.family_prefix or ""):
            statuses.setdefault(one.family, set()).add(one.status)
    wanted = request.status or "ALL"
    families = [
        family
        for family, found in statuses.items()
        if wanted == "ALL" or ("ACTIVE" if "ACTIVE" in found else "INACTIVE") == wanted
    ]
    page, token = records.page(request, families, str)
    return Answer(families=page, next_token=token)


# --- containers ------------------------------------------------------------------------------------------------------


def _containers(request: Shape, task_memory: str | None, network_mode: str) -> tuple[Json, ...]:
    given = request.container_definitions
    if not given:
        raise errors.ClientException("Container list cannot be empty.")
    containers = tuple(_container(shape, task_memory, network_mode) for shape in given)
    names = [container["name"] for container in containers]
    for name in names:
        if names.count(name) > 1:
            raise errors.ClientException(f"Container names must be unique within a task definition: '{name}' is not.")
    if not any(container["essential"] for container in containers):
        raise errors.ClientException("At least one container in a task definition must be essential.")
    _check_dependencies({c["name"]: [d["containerName"] for d in c.get("dependsOn", ())] for c in containers})
    ports = list(overrides.ports(containers))
    for port in ports:
        if ports.count(port) > 1:
            raise errors.ClientException(f"Host port {port} is asked for twice in this task definition.")
    return containers


def _container(shape: Any, task_memory: str | None, network_mode: str) -> Json:
    """Raises ClientException with the texts that ECS has."""
    for member in ("name", "image"):
        if not getattr(shape, member):
            raise errors.ClientException(f"Container.{member} should not be null or empty.")
    name = shape.name
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", name):
        raise errors.ClientException(f"Invalid container name '{name}'.")
    wrong = f"Invalid setting for container '{name}'."
    defaults: Json = {
        name: [] for name in ("portMappings", "environment", "mountPoints", "volumesFrom", "systemControls")
    }
    container = {**defaults, "cpu": 0, "essential": True, **records.json(shape)}
    overrides.check_container(container, task_memory)
    container["portMappings"] = [_port_mapping(mapping, network_mode, wrong) for mapping in container["portMappings"]]
    return container


def _port_mapping(mapping: Json, network_mode: str, wrong: str) -> Json:
    container_port: int | None = mapping.get("containerPort")
    if container_port is None:
        raise errors.ClientException(f"{wrong} 'containerPort' of a port mapping must be specified.")
    fixed = container_port if network_mode in ("host", "awsvpc") else 0
    host_port: int = mapping.get("hostPort", fixed)
    if not (0 < container_port < 65536 and 0 <= host_port < 65536):
        raise errors.ClientException(f"{wrong} A port must be between 0 and 65535.")
    if fixed and host_port != fixed:
        raise errors.ClientException(
            f"{wrong} In network mode {network_mode} 'hostPort' must be 'containerPort' or absent."
        )
    return {**mapping, "hostPort": host_port, "protocol": mapping.get("protocol", "tcp")}


def _check_dependencies(depends_on: dict[str, list[str]]) -> None:
    for name, others in depends_on.items():
        for other in others:
            if other not in depends_on:
                raise errors.ClientException(
                    f"Container '{name}' depends on '{other}', which is not in the task definition."
                )
    left = dict(depends_on)
    while ready := [name for name, others in left.items() if not set(others) & set(left)]:
        for name in ready:
            del left[name]
    if left:
        raise errors.ClientException(f"Containers depend on each other in a circle: {', '.join(left)}.")
