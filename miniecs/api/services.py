"""Services: the actions on them; the service scheduler does the rest. Ruled by API_CreateService and its kin."""

import re
from typing import Any

from msgspec.structs import replace

from miniecs import errors, placement, records, scheduler
from miniecs.model import (
    Cluster,
    Deployment,
    DeploymentConfiguration,
    PlacementConstraint,
    PlacementStrategy,
    Service,
    ServiceStatus,
    TaskDefinition,
    key_of,
)
from miniecs.records import Call
from miniecs.store import SERVICES
from miniecs.wire import Answer, Shape

UNSUPPORTED = (  # members that later issues make real: refused by name, never ignored
    "capacity_provider_strategy",
    "load_balancers",
    "service_registries",
    "service_connect_configuration",
    "volume_configurations",
    "vpc_lattice_configurations",
)


def create_service(call: Call, request: Shape) -> Answer:
    """The same request again answers with the service that is there."""
    cluster = records.cluster(call, request.cluster)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", request.service_name):
        raise errors.InvalidParameterException(
            "Service name must be 1 to 255 letters, numbers, underscores and hyphens."
        )
    digest = records.digest({k: v for k, v in records.json(request).items() if k not in ("clientToken", "cluster")})
    key = f"{cluster.cluster_name}/{request.service_name}"
    known = call.transaction.get(SERVICES, key)
    if known and known.status == ServiceStatus.DRAINING:
        raise errors.InvalidParameterException("Unable to Start a service that is still Draining.")
    if known and known.status == ServiceStatus.ACTIVE:
        if known.request_digest != digest:
            raise errors.InvalidParameterException("Creation of service was not idempotent.")
        return Answer(service=_shown(call, known, tags=True))
    service = _created(call, request, cluster, digest)
    call.transaction.put(SERVICES, key, service)
    return Answer(service=_shown(call, service, tags=True))


def update_service(call: Call, request: Shape) -> Answer:
    """A new task definition, or `forceNewDeployment`, makes a new deployment; an update without a change does not."""
    cluster = records.cluster(call, request.cluster)
    service = records.service(call, cluster, request.service)
    if service.status != ServiceStatus.ACTIVE:
        raise errors.ServiceNotActiveException()
    _refuse_unsupported(request)
    service = _changed(request, service)
    name = request.task_definition or service.task_definition
    definition = records.task_definition(call, name, active=bool(request.task_definition))
    if definition.task_definition_arn != service.task_definition or request.force_new_deployment:
        service = scheduler.deployed(service, _deployment(call, service, definition), call.now)
    call.transaction.put(SERVICES, key_of(service.service_arn), service)
    return Answer(service=_shown(call, service, tags=True))


def delete_service(call: Call, request: Shape) -> Answer:
    """DRAINING until its tasks are STOPPED, then INACTIVE, which is still described."""
    cluster = records.cluster(call, request.cluster)
    service = records.service(call, cluster, request.service)
    if service.status == ServiceStatus.INACTIVE:
        raise errors.ServiceNotFoundException()
    if service.desired_count > 0 and not request.force:
        raise errors.InvalidParameterException("The service cannot be stopped while it is scaled above 0.")
    deployments = tuple(replace(one, desired_count=0) for one in service.deployments)
    service = replace(service, status=ServiceStatus.DRAINING, desired_count=0, deployments=deployments, shortage="")
    call.transaction.put(SERVICES, key_of(service.service_arn), service)
    return Answer(service=_shown(call, service, tags=True))


def describe_services(call: Call, request: Shape) -> Answer:
    cluster = records.cluster(call, request.cluster)
    records.at_most(request.services, 10, "Services")
    found, failures = [], []
    for name in dict.fromkeys(request.services):
        try:
            service = records.service(call, cluster, name)
        except errors.ServiceNotFoundException:
            failures.append(records.failure(call, f"service/{cluster.cluster_name}", name))
            continue
        found.append(_shown(call, service, tags="TAGS" in (request.include or ())))
    return Answer(services=found, failures=failures)


def list_services(call: Call, request: Shape) -> Answer:
    cluster = records.cluster(call, request.cluster)
    found = [
        one.service_arn
        for one in call.transaction.list(SERVICES, cluster.cluster_name)
        if one.status != ServiceStatus.INACTIVE
        and request.launch_type in (None, one.launch_type)
        and request.scheduling_strategy in (None, one.scheduling_strategy)
    ]
    arns, token = records.page(request, found, str, default=10)
    return Answer(service_arns=arns, next_token=token)


# --- making ----------------------------------------------------------------------------------------------------------


def _created(call: Call, request: Shape, cluster: Cluster, digest: str) -> Service:
    _refuse_unsupported(request)
    if not request.task_definition:
        raise errors.InvalidParameterException("TaskDefinition can not be blank.")
    if request.desired_count is None:
        raise errors.InvalidParameterException("desiredCount is required when the scheduling strategy is REPLICA.")
    definition = records.task_definition(call, request.task_definition, active=True)
    service = Service(
        service_arn=call.arn(f"service/{cluster.cluster_name}/{request.service_name}"),
        service_name=request.service_name,
        cluster_arn=cluster.cluster_arn,
        task_definition=definition.task_definition_arn,
        launch_type=request.launch_type or "EC2",
        deployment_controller={"type": "ECS"},
        created_at=call.now,
        created_by=f"arn:aws:iam::{call.account.id}:root",
        tags=records.tags(request.tags),
        request_digest=digest,
    )
    service = _changed(request, service)
    return scheduler.deployed(service, _deployment(call, service, definition), call.now)


def _deployment(call: Call, service: Service, definition: TaskDefinition) -> Deployment:
    return Deployment(
        id=call.new_deployment_id(),
        task_definition=definition.task_definition_arn,
        desired_count=service.desired_count,
        launch_type=service.launch_type,
    )


def _changed(request: Shape, service: Service) -> Service:
    """The service with what CreateService and UpdateService have in common."""
    change: dict[str, Any] = {
        name: getattr(request, name)
        for name in ("enable_ecs_managed_tags", "enable_execute_command", "propagate_tags")
        if getattr(request, name) is not None
    }
    if request.placement_constraints is not None:
        change["placement_constraints"] = records.values(request.placement_constraints, PlacementConstraint)
    if request.placement_strategy is not None:
        change["placement_strategy"] = records.values(request.placement_strategy, PlacementStrategy)
    placement.check(change.get("placement_constraints", ()), change.get("placement_strategy", ()))
    if request.deployment_configuration is not None:
        change["deployment_configuration"] = _configuration(request.deployment_configuration, service)
    if request.desired_count is not None and request.desired_count != service.desired_count:
        if request.desired_count < 0:
            raise errors.InvalidParameterException("desiredCount must not be negative.")
        change |= {"desired_count": request.desired_count, "steady": False}
        change["deployments"] = tuple(
            replace(one, desired_count=request.desired_count) if number == 0 else one
            for number, one in enumerate(service.deployments)
        )
    return replace(service, shortage="", **change)


def _configuration(given: Any, service: Service) -> DeploymentConfiguration:
    known = service.deployment_configuration
    low = given.minimum_healthy_percent
    high = given.maximum_percent
    if given.deployment_circuit_breaker and given.deployment_circuit_breaker.enable:
        raise errors.UnsupportedFeatureException("the deployment circuit breaker is not supported yet")
    if given.strategy not in (None, "ROLLING"):
        raise errors.UnsupportedFeatureException(f"deployment strategy {given.strategy} is not supported yet")
    if given.alarms and given.alarms.enable:
        raise errors.UnsupportedFeatureException("deployment alarms are not supported yet")
    low = known.minimum_healthy_percent if low is None else low
    high = known.maximum_percent if high is None else high
    if not (0 <= low <= 100 and 0 < high <= 200 and low <= high) or (low == high == 100):
        raise errors.InvalidParameterException(
            f"minimumHealthyPercent {low} and maximumPercent {high} do not allow a deployment: "
            "the first must be 0 to 100, the second up to 200 and above it."
        )
    return DeploymentConfiguration(minimum_healthy_percent=low, maximum_percent=high)


def _refuse_unsupported(request: Shape) -> None:
    if request.network_configuration:
        raise errors.UnsupportedFeatureException("networkConfiguration (network mode awsvpc) is not supported yet")
    for name in UNSUPPORTED:
        if getattr(request, name, None):
            raise errors.UnsupportedFeatureException(f"{name.replace('_', ' ')} is not supported yet")
    launch_type = getattr(request, "launch_type", None)
    if launch_type not in (None, "EC2", "EXTERNAL"):
        raise errors.UnsupportedFeatureException(f"launch type {launch_type} is not supported yet")
    strategy = getattr(request, "scheduling_strategy", None)
    if strategy not in (None, "REPLICA"):
        raise errors.UnsupportedFeatureException(f"scheduling strategy {strategy} is not supported yet")
    if request.deployment_controller and request.deployment_controller.type != "ECS":
        kind = request.deployment_controller.type
        raise errors.UnsupportedFeatureException(f"deployment controller {kind} is not supported yet")


def _shown(call: Call, service: Service, tags: bool) -> Service:
    """As the API shows it: the counts are those of its tasks now."""
    shown = scheduler.counted(service, records.tasks_of(call.transaction, service))
    shown = replace(shown, placement_strategy=shown.placement_strategy or placement.DEFAULT_STRATEGY)
    return shown if tags else replace(shown, tags=())
