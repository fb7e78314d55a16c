"""A task's life in the store: each move, the instance's account, and what a service hears of it."""

import random
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from miniecs import lifecycle
from miniecs.lifecycle import Report, Wish
from miniecs.model import (
    NEXT,
    Attribute,
    Cluster,
    ContainerInstance,
    Deployment,
    NetworkBinding,
    PlacementConstraint,
    Resources,
    Service,
    StopCode,
    Task,
    TaskDefinition,
    TaskStatus,
    key_of,
)
from miniecs.store import (
    CLUSTERS,
    DECISIONS,
    INSTANCES,
    SERVICES,
    STOPPED_TASKS,
    TASKS,
    MemoryStore,
    Transaction,
)

CLUSTER = "arn:aws:ecs:r:a:cluster/c"
INSTANCE = "arn:aws:ecs:r:a:container-instance/c/i"
DEFINITION = TaskDefinition(
    task_definition_arn="arn:aws:ecs:r:a:task-definition/web:1",
    family="web",
    revision=1,
    container_definitions=(
        {
            "name": "web",
            "image": "web",
            "cpu": 100,
            "memory": 200,
            "environment": [],
            "portMappings": [{"containerPort": 80, "hostPort": 8080, "protocol": "tcp"}],
        },
    ),
    needs=Resources(cpu=100, memory=200, ports=("8080/tcp",)),
)
WISH = Wish(cluster_arn=CLUSTER, definition=DEFINITION, group="service:web", started_by="ecs-svc/1")


@pytest.fixture
def store() -> Transaction:
    transaction = Transaction(MemoryStore().records)
    transaction.put(CLUSTERS, "c", Cluster(cluster_arn=CLUSTER, cluster_name="c"))
    instance = ContainerInstance(
        container_instance_arn=INSTANCE,
        cluster_arn=CLUSTER,
        agent_connected=True,
        registered=Resources(cpu=1000, memory=1000, ports=("22/tcp",)),
        attributes=(Attribute(name="ecs.availability-zone", value="z"),),
    )
    transaction.put(INSTANCES, "c/i", instance)
    service = Service(
        service_arn="arn:aws:ecs:r:a:service/c/web",
        service_name="web",
        cluster_arn=CLUSTER,
        task_definition=DEFINITION.task_definition_arn,
        deployments=(
            Deployment(id="ecs-svc/1", task_definition="web:1"),
            Deployment(id="ecs-svc/0", task_definition="x"),
        ),
    )
    transaction.put(SERVICES, "c/web", service)
    return transaction


def run(store: Transaction, **changes: Any) -> Task:
    task, _ = lifecycle.run(store, WISH._replace(**changes), random.Random(1), 10.0)
    assert task
    return task


def instance(store: Transaction) -> ContainerInstance:
    found = store.get(INSTANCES, "c/i")
    assert found
    return found


def stored(store: Transaction, task: Task) -> Task:
    key = key_of(task.task_arn)
    found = store.get(TASKS, key) or store.get(STOPPED_TASKS, key)
    assert found
    return found


def test_a_task_is_made_of_its_definition_its_instance_and_a_seed(store: Transaction) -> None:
    task = run(store)
    assert task.task_arn.startswith("arn:aws:ecs:r:a:task/c/") and len(task.id) == 32
    assert task.containers[0].container_arn.startswith(f"arn:aws:ecs:r:a:container/c/{task.id}/")
    assert (task.cpu, task.memory, task.availability_zone) == ("100", "200", "z")
    assert (task.containers[0].cpu, task.containers[0].memory) == ("100", "200")
    assert task.overrides == {"containerOverrides": []}
    assert store.get(DECISIONS, key_of(task.task_arn))


def test_its_instance_is_charged_from_its_placement_until_it_is_stopped(store: Transaction) -> None:
    task = run(store)
    assert instance(store).used == DEFINITION.needs and instance(store).pending_tasks_count == 1
    running = lifecycle.move(store, task, TaskStatus.RUNNING, 11.0)
    assert (instance(store).pending_tasks_count, instance(store).running_tasks_count) == (0, 1)
    stopping = lifecycle.ask_to_stop(store, running, StopCode.USER_INITIATED, "x", 12.0)
    assert instance(store).used == DEFINITION.needs  # until it is gone
    lifecycle.move(store, stopping, TaskStatus.STOPPED, 13.0)
    assert instance(store).used == Resources()
    assert (instance(store).pending_tasks_count, instance(store).running_tasks_count) == (0, 0)


def test_what_fits_nowhere_changes_nothing(store: Transaction) -> None:
    run(store)
    before = instance(store)
    task, decision = lifecycle.run(store, WISH, random.Random(2), 10.0)  # the port is taken
    assert task is None and decision.closest and decision.closest.reason == "RESOURCE:PORTS"
    assert instance(store) == before


def test_one_instance_may_be_asked_for(store: Transaction) -> None:
    elsewhere = replace(instance(store), container_instance_arn=INSTANCE + "2", attributes=())
    store.put(INSTANCES, "c/i2", elsewhere)
    task, decision = lifecycle.run(store, WISH, random.Random(1), 10.0, only=elsewhere)
    assert task and task.container_instance_arn == INSTANCE + "2" and decision.considered == 1


def test_constraints_of_the_definition_and_of_the_wish_both_hold(store: Transaction) -> None:
    here = PlacementConstraint(type="memberOf", expression="attribute:ecs.availability-zone == z")
    away = PlacementConstraint(type="memberOf", expression="attribute:ecs.availability-zone != z")
    definition = replace(DEFINITION, placement_constraints=(here,))
    assert (
        lifecycle.run(store, WISH._replace(definition=definition, constraints=(away,)), random.Random(1), 1.0)[0]
        is None
    )
    assert run(store, definition=definition, constraints=(here,))


@pytest.mark.parametrize(("before", "after"), list(product(TaskStatus, TaskStatus)))
def test_a_status_moves_by_the_table_only(store: Transaction, before: TaskStatus, after: TaskStatus) -> None:
    task = replace(run(store), last_status=before)
    moved = lifecycle.move(store, task, after, 20.0)
    assert moved.last_status == (after if after in NEXT[before] else before)
    assert moved.version == task.version + (after in NEXT[before])


def test_times_of_the_agent_are_kept_and_ours_are_added(store: Transaction) -> None:
    task = lifecycle.move(store, run(store), TaskStatus.RUNNING, 20.0, pull_started_at=15.0, pull_stopped_at=None)
    assert (task.pull_started_at, task.pull_stopped_at, task.started_at, task.connectivity_at) == (
        15.0,
        None,
        20.0,
        20.0,
    )
    ended = lifecycle.move(store, task, TaskStatus.STOPPED, 30.0, "x", execution_stopped_at=29.0)
    assert (ended.stopping_at, ended.execution_stopped_at, ended.stopped_at) == (30.0, 29.0, 30.0)
    assert ended.connectivity == "DISCONNECTED" and ended.containers[0].last_status == "STOPPED"


@pytest.mark.parametrize(
    ("ran", "reason", "code", "said"),
    [
        (True, "Essential container in task exited", "EssentialContainerExited", "Essential container in task exited"),
        (False, "Essential container in task exited", "EssentialContainerExited", "Essential container in task exited"),
        (False, "CannotPullContainerError: x", "TaskFailedToStart", "CannotPullContainerError: x"),
        (True, "CannotInspectContainerError: x", "EssentialContainerExited", "CannotInspectContainerError: x"),
        (True, "", "EssentialContainerExited", "Essential container in task exited"),
    ],
)
def test_the_stop_code_follows_from_the_reason_and_how_far_it_came(
    store: Transaction, ran: bool, reason: str, code: str, said: str
) -> None:
    task = run(store)
    if ran:
        task = lifecycle.move(store, task, TaskStatus.RUNNING, 11.0)
    ended = lifecycle.move(store, task, TaskStatus.STOPPED, 12.0, reason)
    assert (ended.stop_code, ended.stopped_reason) == (code, said)


def test_a_service_hears_of_its_task_s_end_in_the_right_deployment(store: Transaction) -> None:
    lifecycle.move(store, run(store), TaskStatus.STOPPED, 12.0, "CannotPullContainerError: x")
    service = store.get(SERVICES, "c/web")
    assert service and [one.failed_tasks for one in service.deployments] == [1, 0]


@pytest.mark.parametrize("how", ["asked", "lost", "standalone"])
def test_an_end_that_is_no_failure_is_not_counted(store: Transaction, how: str) -> None:
    task = run(store, group="family:web" if how == "standalone" else "service:web")
    if how == "lost":
        lifecycle.lost(store, instance(store), "gone", 12.0)
    else:
        if how == "asked":
            task = lifecycle.ask_to_stop(store, task, StopCode.USER_INITIATED, "x", 11.0)
        lifecycle.move(store, task, TaskStatus.STOPPED, 12.0)
    service = store.get(SERVICES, "c/web")
    assert service and service.deployments[0].failed_tasks == 0
    assert stored(store, task).last_status == TaskStatus.STOPPED


def test_a_task_is_asked_to_stop_once_and_keeps_the_first_reason(store: Transaction) -> None:
    asked = lifecycle.ask_to_stop(store, run(store), StopCode.USER_INITIATED, "first", 11.0)
    again = lifecycle.ask_to_stop(store, asked, StopCode.SERVICE_SCHEDULER_INITIATED, "second", 12.0)
    assert again is asked and asked.stopping_at == 11.0 and asked.stopped_reason == "first"


def test_ports_that_the_agent_chose_are_taken_until_the_end(store: Transaction) -> None:
    task = run(store)
    bindings = (
        NetworkBinding(host_port=8080, container_port=80, protocol="tcp"),
        NetworkBinding(host_port=40000, container_port=81, protocol="udp"),
    )
    reported = lifecycle.report(store, task, [Report(name="web", status="RUNNING", network_bindings=bindings)])
    assert instance(store).used.ports == ("40000/udp", "8080/tcp") == reported.needs.ports
    again = lifecycle.report(store, reported, [Report(name="web", network_bindings=bindings)])
    assert instance(store).used.ports == ("40000/udp", "8080/tcp")
    lifecycle.move(store, again, TaskStatus.STOPPED, 12.0)
    assert instance(store).used.ports == ()


def test_a_report_keeps_what_it_does_not_mention(store: Transaction) -> None:
    task = lifecycle.report(store, run(store), [Report(name="web", status="RUNNING", runtime_id="abc")])
    task = lifecycle.report(store, task, [Report(name="web", exit_code=0), Report(name="nobody", exit_code=1)])
    container = task.containers[0]
    assert (container.last_status, container.runtime_id, container.exit_code) == ("RUNNING", "abc", 0)


def test_tasks_on_an_instance_are_those_that_are_not_stopped(store: Transaction) -> None:
    task = run(store)
    assert lifecycle.tasks_on(store, instance(store)) == [task]
    assert lifecycle.lost(store, instance(store), "gone", 12.0) == [task]
    assert lifecycle.tasks_on(store, instance(store)) == []


@given(st.lists(st.sampled_from(list(TaskStatus)), max_size=12), st.integers(0, 12))
@settings(max_examples=200)
def test_any_reports_in_any_order_leave_the_account_right(reports: list[TaskStatus], asked_at: int) -> None:
    store = Transaction(MemoryStore().records)
    offered = Resources(cpu=1000, memory=1000)
    store.put(
        INSTANCES,
        "c/i",
        ContainerInstance(
            container_instance_arn=INSTANCE, cluster_arn=CLUSTER, agent_connected=True, registered=offered
        ),
    )
    task = run(store)
    for number, status in enumerate(reports):
        if number == asked_at:
            task = lifecycle.ask_to_stop(store, task, StopCode.USER_INITIATED, "x", 11.0)
        task = lifecycle.move(store, task, status, 12.0)
        assert task == stored(store, task)
        here = instance(store)
        alive = task.last_status != TaskStatus.STOPPED
        assert here.used == (DEFINITION.needs if alive else Resources())
        assert here.running_tasks_count == (task.last_status == TaskStatus.RUNNING)
        assert here.pending_tasks_count == (task.last_status == TaskStatus.PENDING)
