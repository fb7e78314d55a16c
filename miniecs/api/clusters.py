"""Clusters: the actions on them. Ruled by API_CreateCluster and its kin."""

import re
from collections import Counter
from typing import Any

from msgspec.structs import replace

from miniecs import errors, records
from miniecs.model import Cluster, InstanceStatus, ServiceStatus, last
from miniecs.records import Call
from miniecs.store import CLUSTERS, INSTANCES, SERVICES, TASKS, Transaction
from miniecs.wire import Answer, Shape


def create_cluster(call: Call, request: Shape) -> Answer:
    """The same name again answers with the cluster that is there."""
    name = request.cluster_name or "default"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", name):
        raise errors.InvalidParameterException(
            f"Invalid cluster name '{name}': up to 255 letters, numbers, underscores and hyphens are allowed."
        )
    cluster = call.transaction.get(CLUSTERS, name)
    if cluster is None or cluster.status != "ACTIVE":
        cluster = Cluster(
            cluster_arn=call.arn(f"cluster/{name}"),
            cluster_name=name,
            settings=records.jsons(request.settings) or ({"name": "containerInsights", "value": "disabled"},),
            configuration=records.json(request.configuration) if request.configuration else None,
            service_connect_defaults=(
                records.json(request.service_connect_defaults) if request.service_connect_defaults else None
            ),
            tags=records.tags(request.tags),
            created_at=call.now,
        )
        _refuse_capacity_providers(request)
        call.transaction.put(CLUSTERS, name, cluster)
    return Answer(cluster=_shown(call.transaction, cluster, {"TAGS", "SETTINGS", "CONFIGURATIONS"}))


def describe_clusters(call: Call, request: Shape) -> Answer:
    names = request.clusters or ["default"]
    records.at_most(names, 100, "Clusters")
    found, failures = [], []
    for name in dict.fromkeys(names):
        cluster = call.transaction.get(CLUSTERS, last(name))
        if cluster is None or (name.startswith("arn:") and name != cluster.cluster_arn):
            failures.append(records.failure(call, "cluster", name))
        else:
            found.append(_shown(call.transaction, cluster, set(request.include or ())))
    return Answer(clusters=found, failures=failures)


def list_clusters(call: Call, request: Shape) -> Answer:
    active = [one.cluster_arn for one in call.transaction.list(CLUSTERS) if one.status == "ACTIVE"]
    arns, token = records.page(request, active, str)
    return Answer(cluster_arns=arns, next_token=token)


def delete_cluster(call: Call, request: Shape) -> Answer:
    """Raises ClusterContains...Exception while something of it is left."""
    cluster = records.cluster(call, request.cluster)
    name = cluster.cluster_name
    if any(one.status != ServiceStatus.INACTIVE for one in call.transaction.list(SERVICES, name)):
        raise errors.ClusterContainsServicesException()
    if any(one.status != InstanceStatus.INACTIVE for one in call.transaction.list(INSTANCES, name)):
        raise errors.ClusterContainsContainerInstancesException()
    if call.transaction.list(TASKS, name):
        raise errors.ClusterContainsTasksException()
    gone = replace(cluster, status="INACTIVE")
    call.transaction.put(CLUSTERS, name, gone)
    return Answer(cluster=_shown(call.transaction, gone, set()))


def _refuse_capacity_providers(request: Shape) -> None:
    if request.capacity_providers or request.default_capacity_provider_strategy:
        raise errors.UnsupportedFeatureException("capacity providers are not supported yet")


def _shown(transaction: Transaction, cluster: Cluster, include: set[str]) -> Answer:
    name = cluster.cluster_name
    statuses: Counter[str] = Counter(task.last_status for task in transaction.list(TASKS, name))
    active = sum(one.status == ServiceStatus.ACTIVE for one in transaction.list(SERVICES, name))
    optional: dict[str, Any] = {
        "TAGS": {"tags": cluster.tags},
        "SETTINGS": {"settings": cluster.settings},
        "CONFIGURATIONS": {"configuration": cluster.configuration},
        "STATISTICS": {"statistics": _statistics(statuses, active)},
    }
    hidden: dict[str, Any] = dict.fromkeys(("tags", "settings", "statistics"), ())
    shown = hidden | {k: v for word in include for k, v in optional.get(word, {}).items()}
    return Answer(
        cluster_arn=cluster.cluster_arn,
        cluster_name=name,
        status=cluster.status,
        registered_container_instances_count=sum(
            one.status != InstanceStatus.INACTIVE for one in transaction.list(INSTANCES, name)
        ),
        running_tasks_count=statuses["RUNNING"],
        pending_tasks_count=statuses["PENDING"],
        active_services_count=active,
        capacity_providers=cluster.capacity_providers,
        default_capacity_provider_strategy=cluster.default_capacity_provider_strategy,
        service_connect_defaults=cluster.service_connect_defaults,
        **shown,
    )


def _statistics(statuses: Counter[str], services: int) -> list[dict[str, str]]:
    counts = {
        "runningEC2TasksCount": statuses["RUNNING"],
        "pendingEC2TasksCount": statuses["PENDING"],
        "activeEC2ServiceCount": services,
        "runningFargateTasksCount": 0,
        "pendingFargateTasksCount": 0,
        "activeFargateServiceCount": 0,
    }
    return [{"name": name, "value": str(count)} for name, count in counts.items()]
