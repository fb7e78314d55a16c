"""Container instances: the actions of agents and people on them. Ruled by API_RegisterContainerInstance and its kin."""

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

from msgspec.structs import replace

from miniecs import addresses, errors, lifecycle, placement, query, records
from miniecs.model import (
    Attribute,
    Cluster,
    ContainerInstance,
    InstanceStatus,
    Resources,
    StopCode,
    key_of,
)
from miniecs.records import Call
from miniecs.store import INSTANCES, TASKS, TOKENS
from miniecs.wire import Answer, Shape

# What an instance's identity document says, and the attribute that it becomes: "Amazon ECS container instances".
IDENTITY = {
    "availabilityZone": "ecs.availability-zone",
    "instanceType": "ecs.instance-type",
    "imageId": "ecs.ami-id",
}


def register_container_instance(call: Call, request: Shape) -> Answer:
    """An agent offers its instance; with the ARN it had it comes back as the same, also with the same client token.

    Raises:
        ClientException: the ARN is of no instance that is registered.
    """
    cluster = records.cluster(call, request.cluster)
    known = _known(call, cluster, request)
    offered = _offered(request, known)
    _settle_address(call, offered, known)
    if known:
        instance = replace(known, **offered, version=known.version + 1)
    else:
        arn = call.arn(f"container-instance/{cluster.cluster_name}/{call.new_id()}")
        instance = ContainerInstance(
            container_instance_arn=arn,
            cluster_arn=cluster.cluster_arn,
            registered_at=call.now,
            tags=records.tags(request.tags),
            client_token=request.client_token or "",
            **offered,
        )
        if request.client_token:
            records.remember_answer(call, _token_key(cluster, request), request.client_token, [arn])
    call.transaction.put(INSTANCES, key_of(instance.container_instance_arn), instance)
    return Answer(container_instance=instance)


def deregister_container_instance(call: Call, request: Shape) -> Answer:
    """Raises InvalidParameterException if tasks run on it and `force` is not given; with it they are STOPPED."""
    cluster = records.cluster(call, request.cluster)
    instance = _found(call, cluster, request.container_instance)
    running = lifecycle.tasks_on(call.transaction, instance)
    if running and not request.force:
        raise errors.InvalidParameterException("Found running tasks on the instance.")
    gone = _deregister(call, instance, "Container instance deregistered forcibly by the user")
    return Answer(container_instance=gone)


def _deregister(call: Call, instance: ContainerInstance, reason: str) -> ContainerInstance:
    """Its tasks are STOPPED for this reason; it is INACTIVE from now on."""
    for task in lifecycle.tasks_on(call.transaction, instance):
        lifecycle.stopped(call.transaction, task, call.now, reason, StopCode.INFRASTRUCTURE_HEALTH)
    key = key_of(instance.container_instance_arn)
    current = call.transaction.get(INSTANCES, key) or instance
    gone = replace(current, status=InstanceStatus.INACTIVE, agent_connected=False, version=current.version + 1)
    call.transaction.put(INSTANCES, key, gone)
    cluster_name = key.partition("/")[0]
    call.transaction.delete(TOKENS, f"RegisterContainerInstance/{cluster_name}/{instance.client_token}")
    return gone


def describe_container_instances(call: Call, request: Shape) -> Answer:
    cluster = records.cluster(call, request.cluster)
    records.at_most(request.container_instances, 100, "Container instances")
    found, failures = [], []
    for name in dict.fromkeys(request.container_instances):
        instance = records.instance(call, cluster, name)
        if instance is None:
            failures.append(records.failure(call, f"container-instance/{cluster.cluster_name}", name))
        else:
            found.append(instance if "TAGS" in (request.include or ()) else replace(instance, tags=()))
    return Answer(container_instances=found, failures=failures)


def list_container_instances(call: Call, request: Shape) -> Answer:
    """Without a status: all but the INACTIVE ones; `filter` is in the cluster query language."""
    cluster = records.cluster(call, request.cluster)
    found: Iterable[ContainerInstance] = call.transaction.list(INSTANCES, cluster.cluster_name)
    if request.status:
        found = [one for one in found if one.status == request.status]
    else:
        found = [one for one in found if one.status != InstanceStatus.INACTIVE]
    if request.filter:
        test = query.parse(request.filter)
        groups = _groups(call, cluster)
        found = [one for one in found if test(partial(_values, one, groups))]
    arns, token = records.page(request, [one.container_instance_arn for one in found], str)
    return Answer(container_instance_arns=arns, next_token=token)


def update_container_instances_state(call: Call, request: Shape) -> Answer:
    """ACTIVE or DRAINING. The service scheduler replaces the service tasks of a DRAINING one; others run on."""
    cluster = records.cluster(call, request.cluster)
    records.at_most(request.container_instances, 10, "Container instances")
    if request.status not in (InstanceStatus.ACTIVE, InstanceStatus.DRAINING):
        raise errors.InvalidParameterException(
            f"Container instance status should be one of [ACTIVE,DRAINING], not {request.status}."
        )
    found, failures = [], []
    for name in dict.fromkeys(request.container_instances):
        instance = records.instance(call, cluster, name)
        if instance is None or instance.status == InstanceStatus.INACTIVE:
            reason = "MISSING" if instance is None else "INACTIVE"
            failures.append(records.failure(call, f"container-instance/{cluster.cluster_name}", name, reason))
            continue
        if instance.status != request.status:
            instance = replace(instance, status=InstanceStatus(request.status), version=instance.version + 1)
            call.transaction.put(INSTANCES, key_of(instance.container_instance_arn), instance)
        found.append(instance)
    return Answer(container_instances=found, failures=failures)


def discover_poll_endpoint(call: Call, _request: Shape) -> Answer:
    """Where agents hold their sessions: here."""
    return Answer(endpoint=call.endpoint, telemetry_endpoint=call.endpoint)


# --- registration ----------------------------------------------------------------------------------------------------


def _known(call: Call, cluster: Cluster, request: Shape) -> ContainerInstance | None:
    if request.container_instance_arn:
        return _found(call, cluster, request.container_instance_arn)
    if request.client_token:
        arns = records.answered_before(call, _token_key(cluster, request), request.client_token)
        instance = records.instance(call, cluster, arns[0]) if arns else None
        return instance if instance and instance.status != InstanceStatus.INACTIVE else None
    return None


def _settle_address(call: Call, offered: dict[str, Any], known: ContainerInstance | None) -> None:
    """A silent instance of the same name and address is no more: the machine was made anew. Raises as `claim` does."""
    mine = known.container_instance_arn if known else ""
    for other in list(addresses.claim(call.transaction, offered["attributes"], call.endpoint, mine)):
        if other.ec2_instance_id == offered["ec2_instance_id"]:
            _deregister(call, other, "The container instance was made anew")


def _token_key(cluster: Cluster, request: Shape) -> str:
    return f"RegisterContainerInstance/{cluster.cluster_name}/{request.client_token}"


def _offered(request: Shape, known: ContainerInstance | None) -> dict[str, Any]:
    identity = _identity(request.instance_identity_document)
    attributes = {"ecs.os-type": "linux"}
    attributes |= {attribute: str(identity[name]) for name, attribute in IDENTITY.items() if identity.get(name)}
    kept = {one.name: one.value for one in known.attributes} if known else {}
    given = {one.name: one.value for one in request.attributes or ()}
    instance_id = identity.get("instanceId") or (known.ec2_instance_id if known else None)
    return {
        "ec2_instance_id": str(instance_id) if instance_id else None,
        "version_info": records.json(request.version_info) if request.version_info else {},
        "registered": _resources(request.total_resources or ()),
        "attributes": tuple(
            Attribute(name=name, value=value) for name, value in sorted((kept | attributes | given).items())
        ),
    }


def _identity(document: str | None) -> dict[str, Any]:
    try:
        identity = json.loads(document or "{}")
    except ValueError as error:
        raise errors.InvalidParameterException(f"instanceIdentityDocument is no JSON: {error}") from None
    if not isinstance(identity, dict):
        raise errors.InvalidParameterException("instanceIdentityDocument is no JSON object.")
    return identity


def _resources(given: Iterable[Any]) -> Resources:
    """CPU and MEMORY in all, and the ports that no task may have: the agent's and ECS's reserved ones."""
    by_name = {one.name: one for one in given}
    for name in ("CPU", "MEMORY"):
        if name not in by_name or (by_name[name].integer_value or 0) <= 0:
            raise errors.InvalidParameterException(f"totalResources: {name} must be a positive integerValue.")
    ports = {f"{port}/tcp" for port in placement.RESERVED_PORTS}
    for name, protocol in (("PORTS", "tcp"), ("PORTS_UDP", "udp")):
        for port in (by_name[name].string_set_value or ()) if name in by_name else ():
            if not port.isdecimal() or not 0 < int(port) < 65536:
                raise errors.InvalidParameterException(f"totalResources: {port!r} in {name} is no port.")
            ports.add(f"{port}/{protocol}")
    return Resources(
        cpu=by_name["CPU"].integer_value, memory=by_name["MEMORY"].integer_value, ports=tuple(sorted(ports))
    )


# --- finding ---------------------------------------------------------------------------------------------------------


def _found(call: Call, cluster: Cluster, name: str) -> ContainerInstance:
    instance = records.instance(call, cluster, name)
    if instance is None or instance.status == InstanceStatus.INACTIVE:
        raise errors.ClientException("The referenced container instance was not found.")
    return instance


def _groups(call: Call, cluster: Cluster) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = {}
    for task in call.transaction.list(TASKS, cluster.cluster_name):
        groups.setdefault(task.container_instance_arn, set()).add(task.group or "")
    return groups


def _values(instance: ContainerInstance, groups: dict[str, set[str]], subject: str) -> list[str]:
    if subject == "task:group":
        return sorted(groups.get(instance.container_instance_arn, ()))
    return placement.values(instance, subject)
