"""The agent communication service: the messages between the control plane and an agent, as values.

Stands below `sessions` (the control plane's end) and `agent` (the other). Ruled by the public agent's ACS model, whose
names these are. A task is taken whole or refused: a field that is set and that we do not honour is an error by name.
"""

from typing import Any

import msgspec

from miniecs.errors import Error

AGENT_VERSION = "0.1.0"


class Refused(Error):
    """A task that this agent cannot run as it is written; `arn` is its name, the text says which field and why."""

    def __init__(self, arn: str, reason: str) -> None:
        super().__init__(reason)
        self.arn = arn


# --- what a payload asks for ------------------------------------------------------------------------------------------


class _Value(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    pass


class _Strict(_Value, frozen=True, forbid_unknown_fields=True):
    """A value whose every field changes what runs, so an unknown one is refused."""


class KeyValuePair(_Strict, frozen=True):
    name: str
    value: str = ""


class PortMapping(_Strict, frozen=True):
    container_port: int
    host_port: int = 0
    protocol: str = "tcp"
    name: str = ""  # for Service Connect, which reads it in the control plane
    app_protocol: str = ""


class ContainerDependency(_Strict, frozen=True):
    container_name: str
    condition: str = "START"


class MountPoint(_Strict, frozen=True):
    source_volume: str
    container_path: str
    read_only: bool = False


class HostVolumeProperties(_Strict, frozen=True):
    source_path: str = ""


class Volume(_Strict, frozen=True):
    name: str
    host: HostVolumeProperties = HostVolumeProperties()


class Ulimit(_Strict, frozen=True):
    name: str
    soft_limit: int
    hard_limit: int


class HostEntry(_Strict, frozen=True):
    hostname: str
    ip_address: str


class KernelCapabilities(_Strict, frozen=True):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class Tmpfs(_Strict, frozen=True):
    container_path: str
    size: int  # MiB
    mount_options: tuple[str, ...] = ()


class LinuxParameters(_Strict, frozen=True):
    capabilities: KernelCapabilities = KernelCapabilities()
    init_process_enabled: bool = False
    shared_memory_size: int | None = None  # MiB
    tmpfs: tuple[Tmpfs, ...] = ()


class SystemControl(_Strict, frozen=True):
    """A sysctl: `namespace` is its name, net.core.somaxconn say."""

    namespace: str
    value: str


class LogConfiguration(_Strict, frozen=True):
    log_driver: str


class HealthCheck(_Strict, frozen=True):
    command: tuple[str, ...]
    interval: int = 30
    timeout: int = 5
    retries: int = 3
    start_period: int = 0


class Container(_Strict, frozen=True):
    """A container definition with its overrides applied: API_ContainerDefinition."""

    name: str
    image: str
    cpu: int = 0
    memory: int | None = None
    memory_reservation: int | None = None
    essential: bool = True
    command: tuple[str, ...] = ()
    entry_point: tuple[str, ...] = ()
    environment: tuple[KeyValuePair, ...] = ()
    port_mappings: tuple[PortMapping, ...] = ()
    mount_points: tuple[MountPoint, ...] = ()
    depends_on: tuple[ContainerDependency, ...] = ()
    health_check: HealthCheck | None = None
    linux_parameters: LinuxParameters = LinuxParameters()
    log_configuration: LogConfiguration | None = None
    working_directory: str = ""
    user: str = ""
    hostname: str = ""
    readonly_root_filesystem: bool = msgspec.field(name="readonlyRootFilesystem", default=False)
    interactive: bool = False
    pseudo_terminal: bool = False
    stop_timeout: int | None = None
    ulimits: tuple[Ulimit, ...] = ()
    docker_labels: dict[str, str] = {}
    dns_servers: tuple[str, ...] = ()
    dns_search_domains: tuple[str, ...] = ()
    system_controls: tuple[SystemControl, ...] = ()
    extra_hosts: tuple[HostEntry, ...] = ()
    container_arn: str = ""
    version_consistency: str = ""  # the control plane resolves tags to digests


class TaskLimits(_Strict, frozen=True):
    """What all containers of a task may use together: CPU units and MiB."""

    cpu: int = 0
    memory: int = 0


class Task(_Strict, frozen=True):
    """A task as the control plane hands it to an agent."""

    arn: str
    family: str
    version: str
    containers: tuple[Container, ...]
    cluster_arn: str = ""
    task_definition_arn: str = ""
    desired_status: str = "RUNNING"
    stop_reason: str = ""
    cpu: str = ""  # what placement reserved
    memory: str = ""
    task_limits: TaskLimits = TaskLimits()
    network_mode: str = "bridge"
    volumes: tuple[Volume, ...] = ()
    group: str = ""
    started_by: str = ""
    service_name: str = ""
    launch_type: str = "EC2"
    # Roles are taken and mean nothing: there is no IAM here that could issue their credentials.
    task_role_arn: str = ""
    execution_role_arn: str = ""

    @property
    def id(self) -> str:
        return self.arn.rpartition("/")[2]


# --- messages ---------------------------------------------------------------------------------------------------------


class PayloadMessage(_Value, frozen=True):
    message_id: str
    seq_num: int = 0
    tasks: tuple[msgspec.Raw, ...] = ()  # each taken or refused by itself: `parse_task`


class HeartbeatMessage(_Value, frozen=True):
    message_id: str = ""
    healthy: bool = True


class TaskIdentifier(_Value, frozen=True):
    task_arn: str
    cluster_arn: str = ""
    desired_status: str = ""


class TaskManifestMessage(_Value, frozen=True):
    message_id: str = ""
    timeline: int = 0
    tasks: tuple[TaskIdentifier, ...] = ()


class TaskStopVerificationAck(_Value, frozen=True):
    message_id: str = ""
    stop_tasks: tuple[TaskIdentifier, ...] = ()


class CloseMessage(_Value, frozen=True):
    message: str = ""


class InactiveInstanceException(_Value, frozen=True):
    message: str = ""


class InvalidInstanceException(_Value, frozen=True):
    message: str = ""


class InvalidClusterException(_Value, frozen=True):
    message: str = ""


class AckRequest(_Value, frozen=True):
    cluster: str
    container_instance: str
    message_id: str


class NackRequest(_Value, frozen=True):
    cluster: str
    container_instance: str
    message_id: str
    reason: str


class HeartbeatAckRequest(_Value, frozen=True):
    message_id: str


class TaskStopVerificationMessage(_Value, frozen=True):
    message_id: str
    stop_candidates: tuple[TaskIdentifier, ...]


TO_AGENT: dict[str, type[msgspec.Struct]] = {
    message.__name__: message
    for message in (
        PayloadMessage, HeartbeatMessage, TaskManifestMessage, TaskStopVerificationAck, CloseMessage,
        InactiveInstanceException, InvalidInstanceException, InvalidClusterException,
    )
}  # fmt: skip
FROM_AGENT: dict[str, type[msgspec.Struct]] = {
    message.__name__: message for message in (AckRequest, NackRequest, HeartbeatAckRequest, TaskStopVerificationMessage)
}


class _Frame(msgspec.Struct, frozen=True):
    type: str
    message: msgspec.Raw = msgspec.Raw(b"{}")


def decode(frame: bytes | str) -> msgspec.Struct | None:
    """A frame of the websocket as a message; None for a type that we do not know, which an agent passes over.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: not a frame.
    """
    whole = msgspec.json.decode(frame, type=_Frame)
    known = TO_AGENT.get(whole.type) or FROM_AGENT.get(whole.type)
    return msgspec.json.decode(whole.message, type=known) if known else None


def encode(message: msgspec.Struct) -> str:
    return msgspec.json.encode({"type": type(message).__name__, "message": message}).decode()


# --- a task, taken or refused -----------------------------------------------------------------------------------------

CONDITIONS = {"START", "COMPLETE", "SUCCESS", "HEALTHY"}
NETWORK_MODES = {"bridge", "host", "none"}
LOG_DRIVERS = {"json-file"}


class _Named(msgspec.Struct):
    arn: str
    desired_status: str = msgspec.field(name="desiredStatus", default="RUNNING")


def parse_task(raw: bytes) -> Task:
    """A task of a payload.

    Raises:
        Refused: it asks for what this agent does not do; the text names the field.
        msgspec.ValidationError: it is not a task at all.
    """
    arn = msgspec.json.decode(raw, type=_Named).arn
    try:
        task = msgspec.convert(_without_unset(msgspec.json.decode(raw)), type=Task, strict=False)  # "256" is a number
    except msgspec.ValidationError as error:
        raise Refused(arn, f"this agent does not honour the task definition: {error}") from error
    if problem := _problem(task):
        raise Refused(arn, problem)
    return task


def refused_task(raw: bytes) -> Task:
    """What can be kept of a refused task: its name and its containers' names, so that its end can be reported."""
    json = msgspec.json.decode(raw)
    named = [one for one in json.get("containers") or () if isinstance(one, dict)]
    containers = tuple(
        Container(name=str(one.get("name", "")), image=str(one.get("image", ""))) for one in named or [{}]
    )
    return Task(
        arn=json["arn"], family=str(json.get("family", "")), version=str(json.get("version", "")), containers=containers
    )


def _without_unset(value: Any) -> Any:
    """Drop members that ask for nothing: `privileged: false` and `links: []` are sent for what is not set."""
    if isinstance(value, dict):
        kept = {key: member if key in _VERBATIM else _without_unset(member) for key, member in value.items()}
        return {key: member for key, member in kept.items() if member or key in _KEPT_WHEN_EMPTY}
    if isinstance(value, list):
        return [_without_unset(member) for member in value]
    return value


_VERBATIM = {"dockerLabels"}
_KEPT_WHEN_EMPTY = {"essential", "name", "value", "softLimit", "hardLimit", "size", "stopTimeout"}


def _problem(task: Task) -> str:
    """Why the task cannot run here as it is written, or an empty string."""
    names = [container.name for container in task.containers]
    if task.network_mode not in NETWORK_MODES:
        return f"network mode {task.network_mode} is not one of {', '.join(sorted(NETWORK_MODES))} on this agent"
    if not names:
        return "the task has no containers"
    for container in task.containers:
        for dependency in container.depends_on:
            where = f"container {container.name}: dependsOn {dependency.container_name}"
            if dependency.container_name not in names:
                return f"{where}: the task has no such container"
            if dependency.condition not in CONDITIONS:
                return f"{where}: {dependency.condition} is not a condition"
        if container.log_configuration and container.log_configuration.log_driver not in LOG_DRIVERS:
            return f"container {container.name}: log driver {container.log_configuration.log_driver} is not honoured"
        known = {volume.name for volume in task.volumes}
        for mount in container.mount_points:
            if mount.source_volume not in known:
                return f"container {container.name}: the task has no volume {mount.source_volume}"
    return _cycle(task)


def _cycle(task: Task) -> str:
    """Why no order of the containers satisfies their dependencies, or an empty string."""
    waits = {one.name: {dependency.container_name for dependency in one.depends_on} for one in task.containers}
    while ready := {name for name, needed in waits.items() if not needed}:
        waits = {name: needed - ready for name, needed in waits.items() if name not in ready}
    return f"dependsOn is a cycle among the containers {', '.join(sorted(waits))}" if waits else ""
