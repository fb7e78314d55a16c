"""The service scheduler: a plan for each state, and what holds on any way through a deployment."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from miniecs import scheduler
from miniecs.model import (
    Deployment,
    DeploymentConfiguration,
    DeploymentStatus,
    RolloutState,
    Service,
    ServiceStatus,
    Task,
    TaskStatus,
)
from miniecs.scheduler import Limits, Plan, decide

NOBODY: frozenset[str] = frozenset()


def service(desired: int, low: int = 100, high: int = 200, **changes: object) -> Service:
    plain = Service(
        service_arn="arn:aws:ecs:r:a:service/c/web",
        service_name="web",
        cluster_arn="arn:aws:ecs:r:a:cluster/c",
        task_definition="arn:aws:ecs:r:a:task-definition/web:2",
        desired_count=desired,
        deployment_configuration=DeploymentConfiguration(minimum_healthy_percent=low, maximum_percent=high),
        deployments=(Deployment(id="new", task_definition="web:2", desired_count=desired),),
    )
    return replace(plain, **changes)


def task(
    number: int, of: str = "new", status: TaskStatus = TaskStatus.RUNNING, on: str = "i", **changes: object
) -> Task:
    plain = Task(
        task_arn=f"arn:aws:ecs:r:a:task/c/{number:04}",
        cluster_arn="arn:aws:ecs:r:a:cluster/c",
        task_definition_arn="arn:aws:ecs:r:a:task-definition/web:2",
        container_instance_arn=on,
        last_status=status,
        started_by=of,
        group="service:web",
        created_at=float(number),
    )
    return replace(plain, **changes)


def stops(plan: Plan) -> list[int]:
    return sorted(int(stop.task.id) for stop in plan.stops)


# --- how many --------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_started() -> None:
    assert decide(service(3), [task(1)], NOBODY, 0.0).starts == 2
    assert decide(service(3), [task(1), task(2, status=TaskStatus.PENDING), task(3)], NOBODY, 0.0) == Plan()


def test_a_task_that_is_to_stop_does_not_count() -> None:
    leaving = task(1, desired_status=TaskStatus.STOPPED)
    assert decide(service(1), [leaving], NOBODY, 0.0).starts == 1


def test_what_is_too_many_is_stopped_pending_ones_first_then_where_most_are_then_the_newest() -> None:
    tasks = [task(1, on="a"), task(2, on="b"), task(3, on="b"), task(4, status=TaskStatus.PENDING, on="a")]
    assert stops(decide(service(3), tasks, NOBODY, 0.0)) == [4]
    assert stops(decide(service(2), tasks, NOBODY, 0.0)) == [3, 4]
    assert stops(decide(service(1), tasks, NOBODY, 0.0)) == [2, 3, 4]
    reason = decide(service(3), tasks, NOBODY, 0.0).stops[0].reason
    assert reason == "Scaling activity initiated by (deployment new)"


def test_zero_and_draining_stop_all() -> None:
    tasks = [task(1), task(2, of="old"), task(3, status=TaskStatus.PENDING)]
    assert stops(decide(service(0), tasks, NOBODY, 0.0)) == [1, 2, 3]
    assert stops(decide(service(2, status=ServiceStatus.DRAINING), tasks, NOBODY, 0.0)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("desired", "low", "high", "limits"),
    [(4, 100, 200, (4, 8)), (3, 50, 200, (2, 6)), (3, 50, 150, (2, 4)), (1, 50, 150, (1, 1)), (5, 0, 100, (0, 5))],
)
def test_the_minimum_is_rounded_up_and_the_maximum_down(
    desired: int, low: int, high: int, limits: tuple[int, int]
) -> None:
    assert Limits.of(service(desired, low, high)) == limits


# --- rolling ---------------------------------------------------------------------------------------------------------


def test_with_room_for_more_the_new_come_first_and_the_old_go_as_they_run() -> None:
    old = [task(number, of="old") for number in range(3)]
    assert decide(service(3), old, NOBODY, 0.0) == Plan(starts=3)
    starting = [task(number, status=TaskStatus.PENDING) for number in (10, 11, 12)]
    assert decide(service(3), [*old, *starting], NOBODY, 0.0) == Plan()
    plan = decide(service(3), [*old, task(10), *starting[1:]], NOBODY, 0.0)
    assert len(plan.stops) == 1 and plan.starts == 0
    assert plan.stops[0].reason == "Scaling activity initiated by (deployment old)"
    assert stops(decide(service(3), [*old, task(10), task(11), task(12)], NOBODY, 0.0)) == [0, 1, 2]


def test_without_room_for_more_the_old_go_down_to_the_minimum() -> None:
    old = [task(number, of="old") for number in range(4)]
    plan = decide(service(4, 50, 100), old, NOBODY, 0.0)
    assert (plan.starts, len(plan.stops)) == (2, 2)


def test_where_no_instance_has_room_the_old_go_down_to_the_minimum() -> None:
    old = [task(number, of="old") for number in range(4)]
    assert decide(service(4, 50, 200), old, NOBODY, 0.0).stops == ()
    assert len(decide(service(4, 50, 200, shortage="full"), old, NOBODY, 0.0).stops) == 2
    assert decide(service(4, 100, 200, shortage="full"), old, NOBODY, 0.0).stops == ()


def test_old_tasks_that_do_not_run_yet_go_at_once() -> None:
    old = [task(1, of="old"), task(2, of="old", status=TaskStatus.PENDING)]
    assert stops(decide(service(2), old, NOBODY, 0.0)) == [2]


def test_percentages_that_allow_nothing_are_a_deadlock() -> None:
    assert decide(service(1, 50, 150), [task(1, of="old")], NOBODY, 0.0).deadlock
    assert not decide(service(2, 50, 150), [task(1, of="old"), task(2, of="old")], NOBODY, 0.0).deadlock


def test_tasks_leave_a_draining_instance_as_in_a_deployment() -> None:
    tasks = [task(1, on="a"), task(2, on="b"), task(3, on="b", status=TaskStatus.PENDING)]
    plan = decide(service(3), tasks, frozenset({"b"}), 0.0)
    assert (plan.starts, stops(plan)) == (2, [3])
    assert stops(decide(service(3), [*tasks[:2], task(4), task(5)], frozenset({"b"}), 0.0)) == [2]


# --- failures --------------------------------------------------------------------------------------------------------


def test_the_first_failure_costs_no_time_and_each_in_a_row_more() -> None:
    deployment = Deployment(id="new", task_definition="web:2")
    waits = []
    for _ in range(10):
        deployment = scheduler.failed(deployment, ran=0.1, now=100.0)
        waits.append(max(0.0, deployment.retry_at - 100.0))
    assert waits[:5] == [0, 1, 2, 4, 8] and waits[-1] == 60
    assert deployment.failed_tasks == 10
    assert scheduler.failed(deployment, ran=60.0, now=100.0).retry_at == 0


def test_a_start_waits_for_its_time_and_says_when_to_look_again() -> None:
    waiting = service(1)
    waiting = replace(waiting, deployments=(replace(waiting.primary, retry_at=50.0),))
    assert decide(waiting, [], NOBODY, 49.0) == Plan(wake_at=50.0)
    assert decide(waiting, [], NOBODY, 50.0) == Plan(starts=1)


# --- deployments -----------------------------------------------------------------------------------------------------


def test_a_new_deployment_is_primary_and_the_old_ones_go_with_their_tasks() -> None:
    rolling = scheduler.deployed(service(2), Deployment(id="newer", task_definition="web:3", desired_count=2), 7.0)
    assert [(one.id, one.status, one.desired_count) for one in rolling.deployments] == [
        ("newer", DeploymentStatus.PRIMARY, 2),
        ("new", DeploymentStatus.ACTIVE, 0),
    ]
    assert rolling.task_definition == "web:3" and rolling.primary.created_at == 7.0
    assert rolling.primary.rollout_state_reason == "ECS deployment newer in progress."
    counted = scheduler.counted(rolling, [task(1), task(2, of="newer", status=TaskStatus.PENDING)])
    assert [(one.running_count, one.pending_count) for one in counted.deployments] == [(0, 1), (1, 0)]
    assert (counted.running_count, counted.pending_count) == (1, 1)
    assert not scheduler.is_steady(counted)
    alone = scheduler.counted(rolling, [task(1, of="newer"), task(2, of="newer")])
    assert [one.id for one in alone.deployments] == ["newer"] and scheduler.is_steady(alone)
    done = scheduler.completed(alone.primary, 9.0)
    assert (done.rollout_state, done.rollout_state_reason) == (
        RolloutState.COMPLETED,
        "ECS deployment newer completed.",
    )


# --- any way through -------------------------------------------------------------------------------------------------


@given(
    desired=st.integers(0, 6),
    old=st.integers(0, 6),
    low=st.integers(0, 100),
    high=st.integers(100, 200),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=80, deadline=None)
def test_a_rolling_deployment_keeps_its_percentages_and_ends(
    desired: int, old: int, low: int, high: int, seed: int
) -> None:
    rng = random.Random(seed)
    rolling, limits = service(desired, low, high), Limits.of(service(desired, low, high))
    tasks = [task(number, of="old") for number in range(min(old, desired))]
    number = 100
    for _ in range(200):
        plan = decide(rolling, tasks, NOBODY, 0.0)
        running_before = sum(one.is_wanted and one.last_status == TaskStatus.RUNNING for one in tasks)
        gone = {stop.task.task_arn for stop in plan.stops}
        tasks = [replace(t, desired_status=TaskStatus.STOPPED) if t.task_arn in gone else t for t in tasks]
        tasks += [task(number + extra, status=TaskStatus.PENDING) for extra in range(plan.starts)]
        number += plan.starts
        wanted = [one for one in tasks if one.is_wanted]
        running = sum(one.last_status == TaskStatus.RUNNING for one in wanted)
        assert len(wanted) <= max(limits.upper, min(old, desired))
        assert running >= min(limits.lower, running_before)
        if plan.deadlock or (
            not plan.starts and not plan.stops and all(one.last_status == "RUNNING" for one in wanted)
        ):
            break
        pending = [one for one in wanted if one.last_status == TaskStatus.PENDING]
        if pending:
            lucky = rng.choice(pending).task_arn
            tasks = [replace(t, last_status=TaskStatus.RUNNING) if t.task_arn == lucky else t for t in tasks]
        tasks = [one for one in tasks if one.is_wanted or rng.random() < 0.5]
    else:
        raise AssertionError("it does not end")
    if not plan.deadlock:
        assert [one.started_by for one in tasks if one.is_wanted] == ["new"] * desired
