"""Explain: why a task is where it is, why a service has fewer than it wants, and the state at a glance: as data.

Stands on `records`; `server` answers with it, `cli` shows it to people. Reads only. Ruled by no document but our own.
"""

from typing import Any

from miniecs.errors import ClientException
from miniecs.model import InstanceStatus, Json, Service, ServiceStatus, Task, key_of, last
from miniecs.records import tasks_of
from miniecs.scheduler import counted
from miniecs.store import CLUSTERS, DECISIONS, INSTANCES, SERVICES, STOPPED_TASKS, TASKS, Transaction


def explain(transaction: Transaction, name: str, cluster: str = "") -> Json:
    """The decision for a task (its ARN, its id, or the begin of its id) or for a service (its ARN or name).

    Raises:
        ClientException: there is none of this name, or more than one.
    """
    tasks = _tasks(transaction, name, cluster)
    if len(tasks) > 1:
        raise ClientException(f"{name} is the begin of {len(tasks)} task ids; try: more of it")
    if tasks:
        return _of_task(transaction, tasks[0])
    services = [
        one
        for one in transaction.list(SERVICES, cluster)
        if name in (one.service_name, one.service_arn) and one.status != ServiceStatus.INACTIVE
    ]
    if len(services) > 1:
        clusters = ", ".join(last(one.cluster_arn) for one in services)
        raise ClientException(f"service {name} is in several clusters ({clusters}); try: --cluster")
    if services:
        return _of_service(transaction, services[0])
    raise ClientException(f"no task and no service is called {name}; try: miniecs status")


def status(transaction: Transaction) -> Json:
    """Clusters with their instances, services and tasks."""
    return {"clusters": [_cluster(transaction, one.cluster_name) for one in transaction.list(CLUSTERS)]}


def _tasks(transaction: Transaction, name: str, cluster: str) -> list[Task]:
    if name.startswith("arn:"):
        task = transaction.get(TASKS, key_of(name)) or transaction.get(STOPPED_TASKS, key_of(name))
        return [task] if task else []
    found = [*transaction.list(TASKS, cluster), *transaction.list(STOPPED_TASKS, cluster)]
    return [task for task in found if len(name) >= 4 and task.id.startswith(name)]


def _of_task(transaction: Transaction, task: Task) -> Json:
    decision = transaction.get(DECISIONS, key_of(task.task_arn))
    return {
        "kind": "task",
        "arn": task.task_arn,
        "taskDefinition": last(task.task_definition_arn),
        "group": task.group,
        "lastStatus": task.last_status,
        "desiredStatus": task.desired_status,
        "stoppedReason": task.stopped_reason,
        "stopCode": task.stop_code,
        "containers": [{"name": c.name, "exitCode": c.exit_code, "reason": c.reason} for c in task.containers],
        "timeline": _timeline(task),
        "decidedAt": decision.at if decision else None,
        "placement": decision.placement if decision else None,
    }


def _timeline(task: Task) -> list[Json]:
    times = {
        "placed": task.created_at,
        "pull started": task.pull_started_at,
        "pull stopped": task.pull_stopped_at,
        "running": task.started_at,
        "stopping": task.stopping_at,
        "execution stopped": task.execution_stopped_at,
        "stopped": task.stopped_at,
    }
    known = [{"event": event, "at": at} for event, at in times.items() if at is not None]
    return sorted(known, key=lambda one: float(str(one["at"])))


def _of_service(transaction: Transaction, service: Service) -> Json:
    cluster = last(service.cluster_arn)
    tasks = tasks_of(transaction, service)
    shown = counted(service, tasks)
    decision = transaction.get(DECISIONS, f"{cluster}/service:{service.service_name}") if service.shortage else None
    return {
        "kind": "service",
        "arn": service.service_arn,
        "taskDefinition": last(service.task_definition),
        "status": service.status,
        "desiredCount": service.desired_count,
        "runningCount": shown.running_count,
        "pendingCount": shown.pending_count,
        "shortage": service.shortage,
        "events": [{"at": event.created_at, "message": event.message} for event in service.events[:5]],
        "tasks": [_task(transaction, one) for one in tasks],
        "decidedAt": decision.at if decision else None,
        "placement": decision.placement if decision else None,
    }


def _cluster(transaction: Transaction, name: str) -> Json:
    instances = [one for one in transaction.list(INSTANCES, name) if one.status != InstanceStatus.INACTIVE]
    services = [one for one in transaction.list(SERVICES, name) if one.status != ServiceStatus.INACTIVE]
    tasks = transaction.list(TASKS, name)
    return {
        "cluster": name,
        "instances": [
            {
                "instance": one.label,
                "status": one.status,
                "connected": one.agent_connected,
                "cpu": f"{one.used.cpu}/{one.registered.cpu}",
                "memory": f"{one.used.memory}/{one.registered.memory}",
                "ports": [port.removesuffix("/tcp") for port in one.used.ports],
                "tasks": one.running_tasks_count + one.pending_tasks_count,
            }
            for one in instances
        ],
        "services": [_service(transaction, one) for one in services],
        "tasks": [_task(transaction, one) for one in tasks],
    }


def _service(transaction: Transaction, service: Service) -> Json:
    shown = counted(service, tasks_of(transaction, service))
    return {
        "service": service.service_name,
        "status": service.status,
        "desired": service.desired_count,
        "running": shown.running_count,
        "pending": shown.pending_count,
        "taskDefinition": last(service.task_definition),
        "shortage": service.shortage,
    }


def _task(transaction: Transaction, task: Task) -> dict[str, Any]:
    instance = transaction.get(INSTANCES, key_of(task.container_instance_arn))
    bindings = [binding for container in task.containers for binding in container.network_bindings]
    return {
        "task": task.id,
        "group": task.group,
        "taskDefinition": last(task.task_definition_arn),
        "status": task.last_status,
        "desired": task.desired_status,
        "instance": instance.label if instance else last(task.container_instance_arn),
        "ports": [f"{binding.host_port}->{binding.container_port}" for binding in bindings],
    }
