"""Tasks: run, start, stop, describe, list them; and what agents report. Ruled by API_RunTask and its kin."""

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from miniecs import errors, lifecycle, overrides, placement, records
from miniecs.lifecycle import Report, Wish
from miniecs.model import (
    Cluster,
    ContainerInstance,
    Failure,
    InstanceStatus,
    NetworkBinding,
    PlacementConstraint,
    PlacementStrategy,
    StopCode,
    Tag,
    Task,
    TaskDefinition,
    TaskStatus,
    last,
)
from miniecs.records import Call
from miniecs.store import INSTANCES, STOPPED_TASKS, TASKS
from miniecs.wire import Answer, Shape

STOPPED_BY_USER = "Task stopped by user"
NOT_FOUND = "The referenced task was not found."


def run_task(call: Call, request: Shape) -> Answer:
    """Up to ten tasks, each where the strategy says; what fits nowhere is a failure beside the others."""
    cluster = records.cluster(call, request.cluster)
    definition = records.task_definition(call, request.task_definition, active=True)
    count = 1 if request.count is None else request.count
    if not 1 <= count <= 10:
        raise errors.InvalidParameterException("count must be between 1 and 10.")
    _refuse_unsupported(request)
    key = f"RunTask/{cluster.cluster_name}/{request.client_token}"
    if request.client_token:
        asked_before = records.answered_before(call, key, request)
        if asked_before is not None:
            return Answer(tasks=_of(call, cluster, asked_before), failures=[])
    if not any(one.status != InstanceStatus.INACTIVE for one in call.transaction.list(INSTANCES, cluster.cluster_name)):
        raise errors.InvalidParameterException("No Container Instances were found in your cluster.")
    wish = _wish(request, cluster, definition)
    tasks, failures = _run(call, wish, [None] * count)
    if request.client_token:
        records.remember_answer(call, key, request, [task.task_arn for task in tasks])
    return Answer(tasks=tasks, failures=failures)


def start_task(call: Call, request: Shape) -> Answer:
    """One task on each of the instances named: no strategy, but resources and constraints hold."""
    cluster = records.cluster(call, request.cluster)
    definition = records.task_definition(call, request.task_definition, active=True)
    records.at_most(request.container_instances, 10, "Container instances")
    wish = _wish(request, cluster, definition)
    tasks, failures = [], []
    for name in request.container_instances:
        instance = records.instance(call, cluster, name)
        if instance is None or instance.status == InstanceStatus.INACTIVE:
            reason = "MISSING" if instance is None else "INACTIVE"
            failures.append(records.failure(call, f"container-instance/{cluster.cluster_name}", name, reason))
            continue
        started, failed = _run(call, wish, [instance])
        tasks += started
        failures += failed
    return Answer(tasks=tasks, failures=failures)


def stop_task(call: Call, request: Shape) -> Answer:
    cluster = records.cluster(call, request.cluster)
    task = records.task(call, cluster, request.task)
    if task is None:
        raise errors.InvalidParameterException(NOT_FOUND)
    reason = request.reason or STOPPED_BY_USER
    return Answer(task=lifecycle.ask_to_stop(call.transaction, task, StopCode.USER_INITIATED, reason, call.now))


def describe_tasks(call: Call, request: Shape) -> Answer:
    cluster = records.cluster(call, request.cluster)
    records.at_most(request.tasks, 100, "Tasks")
    found, failures = [], []
    for name in dict.fromkeys(request.tasks):
        task = records.task(call, cluster, name)
        if task is None:
            failures.append(records.failure(call, f"task/{cluster.cluster_name}", name))
        else:
            found.append(task if "TAGS" in (request.include or ()) else replace(task, tags=()))
    return Answer(tasks=found, failures=failures)


def list_tasks(call: Call, request: Shape) -> Answer:
    """Without `desiredStatus`: those desired to be RUNNING."""
    cluster = records.cluster(call, request.cluster)
    wanted = request.desired_status or TaskStatus.RUNNING
    candidates: list[Task] = call.transaction.list(TASKS, cluster.cluster_name)
    if wanted == TaskStatus.STOPPED:
        candidates = candidates + call.transaction.list(STOPPED_TASKS, cluster.cluster_name)
    tests = _filters(call, cluster, request)
    found = [one.task_arn for one in candidates if one.desired_status == wanted and all(test(one) for test in tests)]
    arns, token = records.page(request, found, str)
    return Answer(task_arns=arns, next_token=token)


def submit_task_state_change(call: Call, request: Shape) -> Answer:
    """An agent reports a task and its containers; what is known already is acknowledged again."""
    task = _reported(call, request)
    containers = [_report(one, one.container_name) for one in request.containers or ()]
    task = lifecycle.report(call.transaction, task, containers)
    if request.status:
        lifecycle.move(
            call.transaction,
            task,
            _status(request.status),
            call.now,
            request.reason or "",
            pull_started_at=request.pull_started_at,
            pull_stopped_at=request.pull_stopped_at,
            execution_stopped_at=request.execution_stopped_at,
        )
    return Answer(acknowledgment="ACK")


def submit_container_state_change(call: Call, request: Shape) -> Answer:
    task = _reported(call, request)
    if request.container_name:
        lifecycle.report(call.transaction, task, [_report(request, request.container_name)])
    return Answer(acknowledgment="ACK")


# --- running ---------------------------------------------------------------------------------------------------------


def _refuse_unsupported(request: Shape) -> None:
    if request.launch_type and request.capacity_provider_strategy:
        raise errors.InvalidParameterException(
            "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again."
        )
    if request.capacity_provider_strategy:
        raise errors.UnsupportedFeatureException("capacity provider strategies are not supported yet")
    if request.launch_type not in (None, "EC2", "EXTERNAL"):
        raise errors.UnsupportedFeatureException(f"launch type {request.launch_type} is not supported yet")


def _wish(request: Shape, cluster: Cluster, definition: TaskDefinition) -> Wish:
    given = overrides.checked(definition, records.json(request.overrides)) if request.overrides else {}
    constraints = records.values(getattr(request, "placement_constraints", ()), PlacementConstraint)
    strategy = records.values(getattr(request, "placement_strategy", ()), PlacementStrategy)
    placement.check(constraints, strategy)
    if request.group and request.group.startswith("service:"):
        raise errors.InvalidParameterException("Invalid namespace for group. 'service:' is for the service scheduler.")
    managed = [Tag(key="aws:ecs:clusterName", value=cluster.cluster_name)] if request.enable_ecs_managed_tags else []
    inherited = definition.tags if request.propagate_tags == "TASK_DEFINITION" else ()
    return Wish(
        cluster_arn=cluster.cluster_arn,
        definition=definition,
        group=request.group or f"family:{definition.family}",
        started_by=request.started_by,
        overrides=given,
        tags=records.merged_tags(inherited, records.tags(request.tags), managed),
        constraints=constraints,
        strategy=strategy,
        enable_execute_command=bool(request.enable_execute_command),
    )


def _run(call: Call, wish: Wish, instances: Iterable[ContainerInstance | None]) -> tuple[list[Task], list[Failure]]:
    tasks, failures = [], []
    for only in instances:
        task, decision = lifecycle.run(call.transaction, wish, call.rng, call.now, only)
        if task:
            tasks.append(task)
        elif decision.closest:
            closest = decision.closest
            failures.append(Failure(arn=closest.arn, reason=closest.reason, detail=decision.shortage))
    return tasks, failures


def _of(call: Call, cluster: Cluster, arns: Iterable[str]) -> list[Task]:
    return [task for arn in arns if (task := records.task(call, cluster, arn))]


# --- listing ---------------------------------------------------------------------------------------------------------


def _filters(call: Call, cluster: Cluster, request: Shape) -> list[Callable[[Task], bool]]:
    tests: list[Callable[[Task], bool]] = []
    if request.family:
        tests.append(lambda task: last(task.task_definition_arn).partition(":")[0] == request.family)
    if request.started_by:
        tests.append(lambda task: task.started_by == request.started_by)
    if request.launch_type:
        tests.append(lambda task: task.launch_type == request.launch_type)
    if request.service_name:
        group = f"service:{records.service(call, cluster, request.service_name).service_name}"
        tests.append(lambda task: task.group == group)
    if request.container_instance:
        instance = records.instance(call, cluster, request.container_instance)
        if instance is None:
            raise errors.InvalidParameterException("The referenced container instance was not found.")
        tests.append(lambda task: task.container_instance_arn == instance.container_instance_arn)
    return tests


# --- reports ---------------------------------------------------------------------------------------------------------


def _reported(call: Call, request: Shape) -> Task:
    cluster = records.cluster(call, request.cluster)
    task = records.task(call, cluster, request.task or "")
    if task is None:
        raise errors.ClientException(NOT_FOUND)
    return task


def _status(word: str) -> TaskStatus:
    if word not in TaskStatus.__members__:
        raise errors.ClientException(f"Task status should be one of [{','.join(TaskStatus)}], not {word}.")
    return TaskStatus(word)


def _report(shape: Any, name: str) -> Report:
    return Report(
        name=name,
        status=shape.status,
        exit_code=shape.exit_code,
        reason=shape.reason,
        runtime_id=shape.runtime_id,
        image_digest=getattr(shape, "image_digest", None),
        network_bindings=records.values(shape.network_bindings, NetworkBinding),
    )
