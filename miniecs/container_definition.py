"""Container definition: one container of a task as options of minicontainer. Pure.

Stands between `transitions` and `task_engine`, which makes containers of the options. Ruled by API_ContainerDefinition
and the developer guide: task definition parameters, task networking, the variables that ECS adds.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from minicontainer.containers import Container as Made
from minicontainer.containers import Options, Port, Ulimit, Volume
from miniecs.acs import Container, HealthCheck, Task, Tmpfs
from miniecs.transitions import ContainerRecord, NetworkBinding, TaskRecord

METADATA_ADDRESS = "169.254.170.2"
MIB = 1 << 20


class Instance(NamedTuple):
    """The container instance that tasks run on, as far as their containers are told."""

    cluster: str
    endpoint: str
    volumes: str  # the directory of the tasks' own volumes
    keep_stopped: float = 60.0  # seconds for which a stopped task's containers and logs can be looked at


def container_name(task: Task, name: str) -> str:
    """The same for an agent and for the one that takes over from it."""
    return f"ecs-{task.id}-{name}"


def group(task: Task) -> str:
    """The task's cgroup, below the agent's own."""
    return f"ecs/{task.id}"


def group_limits(task: Task) -> dict[str, Any]:
    """What a task's containers may use together; nothing when the task definition leaves it to the containers."""
    limits: dict[str, Any] = {}
    if task.task_limits.cpu:
        limits["cpus"] = task.task_limits.cpu / 1024
    if task.task_limits.memory:
        limits["memory"] = task.task_limits.memory * MIB
    return limits


def options(record: TaskRecord, one: ContainerRecord, instance: Instance) -> Options:
    """What `minicontainer run` would be told for this container of the task."""
    task, definition = record.task, record.definition(one.name)
    linux = definition.linux_parameters
    return Options(
        image=definition.image,
        name=container_name(task, one.name),
        command=definition.command,
        entrypoint=definition.entry_point or None,
        env=environment(definition, one, instance),
        workdir=definition.working_directory,
        user=definition.user,
        hostname=definition.hostname,
        network=task.network_mode,
        ports=_ports(task, definition),
        volumes=_volumes(task, definition, instance),
        tmpfs=tuple(_tmpfs(one) for one in linux.tmpfs),
        labels={**definition.docker_labels, **labels(task, one.name, instance.cluster)},
        memory=definition.memory * MIB if definition.memory else None,
        memory_reservation=definition.memory_reservation * MIB if definition.memory_reservation else None,
        cpu_shares=max(definition.cpu, 2),  # the kernel's least; a container without cpu gets what others leave
        cgroup_parent=group(task),
        read_only=definition.readonly_root_filesystem,
        cap_add=linux.capabilities.add,
        cap_drop=linux.capabilities.drop,
        ulimits=tuple(
            Ulimit(name=limit.name, soft=limit.soft_limit, hard=limit.hard_limit) for limit in definition.ulimits
        ),
        init=linux.init_process_enabled,
        tty=definition.pseudo_terminal,
        interactive=definition.interactive,
        dns=definition.dns_servers,
        dns_search=definition.dns_search_domains,
        sysctls={control.namespace: control.value for control in definition.system_controls},
        shm_size=(linux.shared_memory_size or 64) * MIB,
        extra_hosts=tuple(f"{entry.hostname}:{entry.ip_address}" for entry in definition.extra_hosts),
    )


def environment(definition: Container, one: ContainerRecord, instance: Instance) -> tuple[str, ...]:
    """The task definition's, and what ECS adds. AWS_ENDPOINT_URL is ours, and a task definition may set its own."""
    metadata = f"http://{METADATA_ADDRESS}"
    given = {pair.name: pair.value for pair in definition.environment}
    added = {
        "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
        "ECS_AGENT_URI": f"{metadata}/api/{one.metadata_id}",
        "ECS_CONTAINER_METADATA_URI": f"{metadata}/v3/{one.metadata_id}",
        "ECS_CONTAINER_METADATA_URI_V4": f"{metadata}/v4/{one.metadata_id}",
    }
    whole = {"AWS_ENDPOINT_URL": instance.endpoint, **given, **added}
    return tuple(f"{name}={value}" for name, value in whole.items())


def labels(task: Task, name: str, cluster: str) -> dict[str, str]:
    prefix = "com.amazonaws.ecs"
    return {
        f"{prefix}.cluster": cluster,
        f"{prefix}.container-name": name,
        f"{prefix}.task-arn": task.arn,
        f"{prefix}.task-definition-family": task.family,
        f"{prefix}.task-definition-version": task.version,
    }


def _ports(task: Task, definition: Container) -> tuple[Port, ...]:
    if task.network_mode != "bridge":
        return ()
    return tuple(
        Port(container_port=port.container_port, host_port=port.host_port, protocol=port.protocol)
        for port in definition.port_mappings
    )


def _volumes(task: Task, definition: Container, instance: Instance) -> tuple[Volume, ...]:
    """Host paths as they are; a volume without one is the task's own, shared by its containers."""
    own = f"{instance.volumes}/{task.id}"
    sources = {volume.name: volume.host.source_path or f"{own}/{volume.name}" for volume in task.volumes}
    return tuple(
        Volume(source=sources[mount.source_volume], target=mount.container_path, read_only=mount.read_only)
        for mount in definition.mount_points
    )


def _tmpfs(tmpfs: Tmpfs) -> str:
    return ":".join((tmpfs.container_path, ",".join((f"size={tmpfs.size}m", *tmpfs.mount_options))))


def network_bindings(record: TaskRecord, name: str, container: Made) -> tuple[NetworkBinding, ...]:
    """Where the container's ports are on the instance: as published, or as they are in the host's own network."""
    match record.task.network_mode:
        case "host":
            return tuple(
                NetworkBinding(
                    container_port=port.container_port, host_port=port.container_port, protocol=port.protocol
                )
                for port in record.definition(name).port_mappings
            )
        case "bridge":
            return tuple(
                NetworkBinding(container_port=port.container_port, host_port=port.host_port, protocol=port.protocol)
                for port in container.ports
            )
        case _:
            return ()


def health_command(check: HealthCheck) -> tuple[str, ...]:
    """The command to run in the container: API_HealthCheck."""
    kind, *words = check.command
    forms: Mapping[str, tuple[str, ...]] = {"CMD": tuple(words), "CMD-SHELL": ("/bin/sh", "-c", *words), "NONE": ()}
    return forms.get(kind, ("/bin/sh", "-c", *check.command))
