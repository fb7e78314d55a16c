"""Metadata: what tasks and people can ask an agent about itself, over HTTP.

Stands beside `task_engine`, whose records it shows; `agent` serves both applications. Containers ask the task metadata
endpoint (versions 3 and 4, which differ in nothing that we say); people on the instance ask the introspection endpoint.
Ruled by the ECS developer guide: task metadata endpoint version 4, agent introspection. One field is ours:
ContainerInstanceARN in a task's answer.
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from aiohttp import web

from miniecs.acs import AGENT_VERSION, TaskLimits
from miniecs.container_definition import container_name, labels
from miniecs.transitions import REPORTED, ContainerRecord, NetworkBinding, Status, TaskRecord, known_status


class Host(NamedTuple):
    """The agent, as it describes itself."""

    cluster: str
    container_instance_arn: str
    availability_zone: str
    memory: int  # MiB
    processors: int


class Usage(Protocol):
    """`minicontainer.runtime.cgroups.Usage`."""

    @property
    def memory_bytes(self) -> int: ...
    @property
    def cpu_ns(self) -> int: ...
    @property
    def pids(self) -> int: ...


class Source(NamedTuple):
    """Where the answers come from, asked anew for every request."""

    host: Callable[[], Host]
    records: Callable[[], Iterable[TaskRecord]]
    statistics: Callable[[ContainerRecord], Awaitable[Usage | None]]  # None: it does not run
    clock: Callable[[], float]


# --- the two applications ---------------------------------------------------------------------------------------------


def task_metadata(source: Source) -> web.Application:
    """For containers: each asks under an id that only it knows."""

    async def container(request: web.Request) -> web.Response:
        record, one = _asked(source, request)
        return web.json_response(container_response(source, record, one))

    async def task(request: web.Request) -> web.Response:
        record, _ = _asked(source, request)
        return web.json_response(task_response(source, record))

    async def container_statistics(request: web.Request) -> web.Response:
        record, one = _asked(source, request)
        return web.json_response(await _statistics(source, record, one))

    async def task_statistics(request: web.Request) -> web.Response:
        record, _ = _asked(source, request)
        return web.json_response(
            {one.runtime_id: await _statistics(source, record, one) for one in record.containers if one.runtime_id}
        )

    application = web.Application()
    for version in ("v3", "v4"):
        application.router.add_get(f"/{version}/{{id}}", container)
        application.router.add_get(f"/{version}/{{id}}/task", task)
        application.router.add_get(f"/{version}/{{id}}/stats", container_statistics)
        application.router.add_get(f"/{version}/{{id}}/task/stats", task_statistics)
    return application


def introspection(source: Source) -> web.Application:
    """For people on the instance, on port 51678."""

    async def metadata(_: web.Request) -> web.Response:
        host = source.host()
        return web.json_response(
            {
                "Cluster": host.cluster,
                "ContainerInstanceArn": host.container_instance_arn,
                "Version": f"miniecs agent - v{AGENT_VERSION}",
            }
        )

    async def tasks(request: web.Request) -> web.Response:
        known = list(source.records())
        if arn := request.query.get("taskarn"):
            return _one([record for record in known if record.task.arn == arn], f"task {arn}")
        if runtime_id := request.query.get("dockerid"):
            holding = [r for r in known if any(one.runtime_id == runtime_id for one in r.containers)]
            return _one(holding, f"container {runtime_id}")
        return web.json_response({"Tasks": [introspected_task(record) for record in known]})

    application = web.Application()
    application.router.add_get("/v1/metadata", metadata)
    application.router.add_get("/v1/tasks", tasks)
    return application


def _one(found: list[TaskRecord], name: str) -> web.Response:
    if not found:
        return web.json_response({"error": f"{name} is not on this container instance"}, status=404)
    return web.json_response(introspected_task(found[0]))


def _asked(source: Source, request: web.Request) -> tuple[TaskRecord, ContainerRecord]:
    metadata_id = request.match_info["id"]
    for record in source.records():
        for one in record.containers:
            if one.metadata_id == metadata_id:
                return record, one
    raise web.HTTPNotFound(text=f"no container has the metadata id {metadata_id}")


# --- values as JSON ---------------------------------------------------------------------------------------------------


def task_response(source: Source, record: TaskRecord) -> dict[str, Any]:
    host, task = source.host(), record.task
    return _present(
        {
            "Cluster": host.cluster,
            "TaskARN": task.arn,
            "Family": task.family,
            "Revision": task.version,
            "ServiceName": task.service_name,
            "DesiredStatus": record.desired_status,
            "KnownStatus": known_status(record).value,
            "Limits": _limits(task.task_limits),
            "PullStartedAt": timestamp(record.pull_started_at),
            "PullStoppedAt": timestamp(record.pull_stopped_at),
            "ExecutionStoppedAt": timestamp(record.execution_stopped_at),
            "AvailabilityZone": host.availability_zone,
            "LaunchType": task.launch_type,
            "ContainerInstanceARN": host.container_instance_arn,
            "Containers": [container_response(source, record, one) for one in record.containers],
        }
    )


def container_response(source: Source, record: TaskRecord, one: ContainerRecord) -> dict[str, Any]:
    definition, mode = record.definition(one.name), record.task.network_mode
    network = {"NetworkMode": mode, "IPv4Addresses": [one.address] if one.address else []}
    health = {"status": one.health} if definition.health_check else None
    return _present(
        {
            "DockerId": one.runtime_id,
            "Name": one.name,
            "DockerName": container_name(record.task, one.name),
            "Image": definition.image,
            "ImageID": one.image_digest,
            "Ports": [_port(binding) for binding in one.network_bindings],
            "Labels": {**definition.docker_labels, **labels(record.task, one.name, source.host().cluster)},
            "DesiredStatus": record.desired_status,
            "KnownStatus": one.known_status.value,
            "ExitCode": one.exit_code,
            "Limits": {"CPU": definition.cpu, "Memory": definition.memory or 0},
            "CreatedAt": timestamp(one.created_at),
            "StartedAt": timestamp(one.started_at),
            "FinishedAt": timestamp(one.finished_at),
            "Type": "NORMAL",
            "Health": health,
            "LogDriver": "json-file",
            "ContainerARN": definition.container_arn,
            "Networks": [network],
        }
    )


def introspected_task(record: TaskRecord) -> dict[str, Any]:
    return {
        "Arn": record.task.arn,
        "Family": record.task.family,
        "Version": record.task.version,
        "DesiredStatus": record.desired_status,
        "KnownStatus": REPORTED[known_status(record)],
        "Containers": [
            _present(
                {
                    "DockerId": one.runtime_id,
                    "DockerName": container_name(record.task, one.name),
                    "Name": one.name,
                    "Ports": [_port(binding) for binding in one.network_bindings],
                    "Networks": [{"NetworkMode": record.task.network_mode, "IPv4Addresses": [one.address]}],
                }
            )
            for one in record.containers
        ],
    }


async def _statistics(source: Source, record: TaskRecord, one: ContainerRecord) -> dict[str, Any] | None:
    """As docker's statistics, which is what the endpoint promises; null for a container that does not run."""
    usage = await source.statistics(one) if one.known_status == Status.RUNNING else None
    if usage is None:
        return None
    host, memory = source.host(), record.definition(one.name).memory
    return {
        "id": one.runtime_id,
        "name": f"/{container_name(record.task, one.name)}",
        "read": timestamp(source.clock()),
        "pids_stats": {"current": usage.pids},
        "cpu_stats": {"cpu_usage": {"total_usage": usage.cpu_ns}, "online_cpus": host.processors},
        "memory_stats": {"usage": usage.memory_bytes, "limit": (memory or host.memory) << 20},
    }


def _limits(limits: TaskLimits) -> dict[str, Any]:
    """A task's in vCPUs and MiB, without what is not limited."""
    both = {"CPU": limits.cpu / 1024, "Memory": limits.memory}
    return {name: value for name, value in both.items() if value}


def _port(binding: NetworkBinding) -> dict[str, Any]:
    return {
        "ContainerPort": binding.container_port,
        "Protocol": binding.protocol,
        "HostPort": binding.host_port,
        "HostIp": binding.bind_ip,
    }


def _present(members: dict[str, Any]) -> dict[str, Any]:
    """What is not there is left out, as the real endpoint does; a zero is there."""
    return {name: value for name, value in members.items() if value not in (None, "", [], {})}


def timestamp(at: float | None) -> str | None:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if at else None
