"""Model: the ECS nouns as values, and the legal transitions of a task.

Stands on `errors`; everything else speaks in these. Members are named as in the ECS API, in snake_case; what only we
keep stands last in each class. Documents that only the agent reads (container definitions, volumes) stay JSON.
Ruled by the ECS API reference, "Data types", and the developer guide, "Task lifecycle".
"""

import random
import uuid
from enum import StrEnum
from typing import Any

import msgspec

Json = dict[str, Any]  # a document that is kept and passed on as it came


class Value(msgspec.Struct, frozen=True, omit_defaults=True):
    """Nothing is changed in place: change is `msgspec.structs.replace`."""


class TaskStatus(StrEnum):
    PROVISIONING = "PROVISIONING"
    PENDING = "PENDING"
    ACTIVATING = "ACTIVATING"
    RUNNING = "RUNNING"
    DEACTIVATING = "DEACTIVATING"
    STOPPING = "STOPPING"
    DEPROVISIONING = "DEPROVISIONING"
    STOPPED = "STOPPED"


ENDING = {TaskStatus.DEACTIVATING, TaskStatus.STOPPING, TaskStatus.DEPROVISIONING, TaskStatus.STOPPED}

NEXT: dict[TaskStatus, set[TaskStatus]] = {
    TaskStatus.PROVISIONING: {TaskStatus.PENDING, TaskStatus.ACTIVATING, TaskStatus.RUNNING} | ENDING,
    TaskStatus.PENDING: {TaskStatus.ACTIVATING, TaskStatus.RUNNING} | ENDING,
    TaskStatus.ACTIVATING: {TaskStatus.RUNNING} | ENDING,
    TaskStatus.RUNNING: ENDING,
    TaskStatus.DEACTIVATING: {TaskStatus.STOPPING, TaskStatus.DEPROVISIONING, TaskStatus.STOPPED},
    TaskStatus.STOPPING: {TaskStatus.DEPROVISIONING, TaskStatus.STOPPED},
    TaskStatus.DEPROVISIONING: {TaskStatus.STOPPED},
    TaskStatus.STOPPED: set(),
}  # fmt: skip


class InstanceStatus(StrEnum):
    ACTIVE = "ACTIVE"
    DRAINING = "DRAINING"
    INACTIVE = "INACTIVE"


class ServiceStatus(StrEnum):
    ACTIVE = "ACTIVE"
    DRAINING = "DRAINING"
    INACTIVE = "INACTIVE"


class DeploymentStatus(StrEnum):
    PRIMARY = "PRIMARY"
    ACTIVE = "ACTIVE"


class RolloutState(StrEnum):
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class StopCode(StrEnum):
    TASK_FAILED_TO_START = "TaskFailedToStart"
    ESSENTIAL_CONTAINER_EXITED = "EssentialContainerExited"
    USER_INITIATED = "UserInitiated"
    SERVICE_SCHEDULER_INITIATED = "ServiceSchedulerInitiated"
    SPOT_INTERRUPTION = "SpotInterruption"
    TERMINATION_NOTICE = "TerminationNotice"
    INFRASTRUCTURE_HEALTH = "InfrastructureHealth"


class Tag(Value, frozen=True, kw_only=True):
    key: str
    value: str = ""


class Attribute(Value, frozen=True, kw_only=True):
    name: str
    value: str | None = None


class Failure(Value, frozen=True, kw_only=True):
    """Why one of several things asked for was not done: the `failures` of an answer."""

    arn: str | None = None
    reason: str
    detail: str | None = None


# --- clusters and container instances --------------------------------------------------------------------------------


class Cluster(Value, frozen=True, kw_only=True):
    cluster_arn: str
    cluster_name: str
    status: str = "ACTIVE"
    settings: tuple[Json, ...] = ()
    configuration: Json | None = None
    capacity_providers: tuple[str, ...] = ()
    default_capacity_provider_strategy: tuple[Json, ...] = ()
    service_connect_defaults: Json | None = None
    tags: tuple[Tag, ...] = ()
    created_at: float = 0.0


class Resources(Value, frozen=True, kw_only=True):
    """CPU units (1024 are one vCPU), MiB, and host ports, each written like `8080/tcp`."""

    cpu: int = 0
    memory: int = 0
    ports: tuple[str, ...] = ()

    def plus(self, other: "Resources") -> "Resources":
        ports = tuple(sorted({*self.ports, *other.ports}))
        return Resources(cpu=self.cpu + other.cpu, memory=self.memory + other.memory, ports=ports)

    def minus(self, other: "Resources") -> "Resources":
        ports = tuple(sorted({*self.ports} - {*other.ports}))
        return Resources(cpu=self.cpu - other.cpu, memory=self.memory - other.memory, ports=ports)


class Resource(Value, frozen=True, kw_only=True):
    """A resource as the API shows it."""

    name: str
    type: str
    integer_value: int = 0
    string_set_value: tuple[str, ...] | None = None


class ContainerInstance(Value, frozen=True, kw_only=True):
    container_instance_arn: str
    cluster_arn: str
    ec2_instance_id: str | None = None
    version: int = 1
    version_info: Json = {}
    status: InstanceStatus = InstanceStatus.ACTIVE
    status_reason: str | None = None
    agent_connected: bool = False
    running_tasks_count: int = 0
    pending_tasks_count: int = 0
    attributes: tuple[Attribute, ...] = ()
    registered_at: float = 0.0
    tags: tuple[Tag, ...] = ()
    registered: Resources  # what the agent offers; `ports` are those that no task may have
    used: Resources = Resources()  # what the tasks on it hold, from placement until they are STOPPED
    client_token: str = ""

    @property
    def registered_resources(self) -> list[Resource]:
        return _shown(self.registered.cpu, self.registered.memory, self.registered.ports)

    @property
    def remaining_resources(self) -> list[Resource]:
        """As ECS shows them: CPU and memory that are left, and the ports that are *not* left."""
        return _shown(*self.free, tuple(sorted({*self.registered.ports, *self.used.ports})))

    @property
    def free(self) -> tuple[int, int]:
        return self.registered.cpu - self.used.cpu, self.registered.memory - self.used.memory

    @property
    def id(self) -> str:
        return last(self.container_instance_arn)

    @property
    def label(self) -> str:
        """What a person calls it."""
        return self.ec2_instance_id or self.id

    def attribute(self, name: str) -> str | None:
        """The value of an attribute; the empty string if it has the name only; None if it does not have it."""
        return next((attribute.value or "" for attribute in self.attributes if attribute.name == name), None)


def _shown(cpu: int, memory: int, ports: tuple[str, ...]) -> list[Resource]:
    numbers = {
        protocol: tuple(sorted((p.split("/")[0] for p in ports if p.endswith(protocol)), key=int))
        for protocol in ("tcp", "udp")
    }
    return [
        Resource(name="CPU", type="INTEGER", integer_value=cpu),
        Resource(name="MEMORY", type="INTEGER", integer_value=memory),
        Resource(name="PORTS", type="STRINGSET", string_set_value=numbers["tcp"]),
        Resource(name="PORTS_UDP", type="STRINGSET", string_set_value=numbers["udp"]),
    ]


# --- task definitions and tasks --------------------------------------------------------------------------------------


class PlacementConstraint(Value, frozen=True, kw_only=True):
    type: str
    expression: str | None = None


class PlacementStrategy(Value, frozen=True, kw_only=True):
    type: str
    field: str | None = None


class TaskDefinition(Value, frozen=True, kw_only=True):
    task_definition_arn: str
    family: str
    revision: int
    container_definitions: tuple[Json, ...]
    status: str = "ACTIVE"
    network_mode: str | None = None
    cpu: str | None = None
    memory: str | None = None
    volumes: tuple[Json, ...] = ()
    task_role_arn: str | None = None
    execution_role_arn: str | None = None
    pid_mode: str | None = None
    ipc_mode: str | None = None
    requires_attributes: tuple[Attribute, ...] = ()
    placement_constraints: tuple[PlacementConstraint, ...] = ()
    compatibilities: tuple[str, ...] = ()
    requires_compatibilities: tuple[str, ...] = ()
    runtime_platform: Json | None = None
    registered_at: float = 0.0
    deregistered_at: float | None = None
    registered_by: str | None = None
    tags: tuple[Tag, ...] = ()
    needs: Resources = Resources()  # what one task of it takes of an instance


class NetworkBinding(Value, frozen=True, kw_only=True):
    bind_ip: str | None = None
    container_port: int | None = None
    host_port: int | None = None
    protocol: str | None = None


class Container(Value, frozen=True, kw_only=True):
    container_arn: str
    task_arn: str
    name: str
    image: str | None = None
    image_digest: str | None = None
    runtime_id: str | None = None
    last_status: str = "PENDING"
    exit_code: int | None = None
    reason: str | None = None
    network_bindings: tuple[NetworkBinding, ...] = ()
    network_interfaces: tuple[Json, ...] = ()
    health_status: str = "UNKNOWN"
    cpu: str = "0"
    memory: str | None = None
    memory_reservation: str | None = None


class Task(Value, frozen=True, kw_only=True):
    task_arn: str
    cluster_arn: str
    task_definition_arn: str
    container_instance_arn: str
    last_status: TaskStatus = TaskStatus.PENDING
    desired_status: TaskStatus = TaskStatus.RUNNING
    health_status: str = "UNKNOWN"
    cpu: str = "0"
    memory: str = "0"
    containers: tuple[Container, ...] = ()
    overrides: Json = {}
    attributes: tuple[Attribute, ...] = ()
    attachments: tuple[Json, ...] = ()
    availability_zone: str | None = None
    group: str | None = None
    launch_type: str = "EC2"
    started_by: str | None = None
    version: int = 1
    connectivity: str | None = None
    connectivity_at: float | None = None
    created_at: float = 0.0
    pull_started_at: float | None = None
    pull_stopped_at: float | None = None
    started_at: float | None = None
    stopping_at: float | None = None
    execution_stopped_at: float | None = None
    stopped_at: float | None = None
    stop_code: StopCode | None = None
    stopped_reason: str | None = None
    enable_execute_command: bool = False
    tags: tuple[Tag, ...] = ()
    needs: Resources = Resources()  # what it holds of its instance

    @property
    def id(self) -> str:
        return last(self.task_arn)

    @property
    def is_wanted(self) -> bool:
        return self.desired_status == TaskStatus.RUNNING and self.last_status not in ENDING

    @property
    def service_name(self) -> str | None:
        """The service whose scheduler started it."""
        kind, _, name = (self.group or "").partition(":")
        return name if kind == "service" else None


# --- services --------------------------------------------------------------------------------------------------------


class DeploymentConfiguration(Value, frozen=True, kw_only=True):
    maximum_percent: int = 200
    minimum_healthy_percent: int = 100
    deployment_circuit_breaker: Json | None = None
    strategy: str | None = None
    bake_time_in_minutes: int | None = None


class Deployment(Value, frozen=True, kw_only=True):
    id: str
    status: DeploymentStatus = DeploymentStatus.PRIMARY
    task_definition: str
    desired_count: int = 0
    pending_count: int = 0
    running_count: int = 0
    failed_tasks: int = 0
    created_at: float = 0.0
    updated_at: float = 0.0
    launch_type: str | None = None
    rollout_state: RolloutState = RolloutState.IN_PROGRESS
    rollout_state_reason: str | None = None
    failures_in_a_row: int = 0  # tasks that ended soon after their start; a task that stays resets it
    retry_at: float = 0.0  # no start before


class ServiceEvent(Value, frozen=True, kw_only=True):
    id: str
    created_at: float
    message: str


class Service(Value, frozen=True, kw_only=True):
    service_arn: str
    service_name: str
    cluster_arn: str
    status: ServiceStatus = ServiceStatus.ACTIVE
    desired_count: int = 0
    running_count: int = 0
    pending_count: int = 0
    task_definition: str
    launch_type: str | None = None
    capacity_provider_strategy: tuple[Json, ...] | None = None
    load_balancers: tuple[Json, ...] = ()
    service_registries: tuple[Json, ...] = ()
    deployment_configuration: DeploymentConfiguration = DeploymentConfiguration()
    deployments: tuple[Deployment, ...] = ()
    events: tuple[ServiceEvent, ...] = ()
    placement_constraints: tuple[PlacementConstraint, ...] = ()
    placement_strategy: tuple[PlacementStrategy, ...] = ()
    scheduling_strategy: str = "REPLICA"
    deployment_controller: Json = {}
    role_arn: str | None = None
    health_check_grace_period_seconds: int | None = None
    network_configuration: Json | None = None
    enable_ecs_managed_tags: bool = False
    enable_execute_command: bool = False
    propagate_tags: str = "NONE"
    created_at: float = 0.0
    created_by: str | None = None
    tags: tuple[Tag, ...] = ()
    request_digest: str = ""  # of the CreateService that made it: the same again is answered, another refused
    shortage: str = ""  # why the last start found no instance; empty when it did
    steady: bool = False  # the event "has reached a steady state" was said

    @property
    def primary(self) -> Deployment:
        return self.deployments[0]


# --- names -----------------------------------------------------------------------------------------------------------


def new_uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def last(arn: str) -> str:
    """The last part of an ARN or path: an id or a name."""
    return arn.rpartition("/")[2]


def cluster_of(arn: str) -> str:
    """The cluster's name in the ARN of something in a cluster, or in the cluster's own."""
    return arn.split("/")[1]


def key_of(arn: str) -> str:
    """`CLUSTER/ID` of the ARN of a task, service or container instance: its key in the store."""
    return "/".join(arn.split("/")[1:])
