"""A task's containers move in the order of their dependencies, each status once, and every move is told in order."""

from collections.abc import Iterator
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniecs import acs, transitions
from miniecs.acs import Container, ContainerDependency, Task
from miniecs.transitions import (
    FORWARD,
    NEXT,
    ORDER,
    REPORTED,
    Action,
    Effect,
    Status,
    SubmitContainerStateChange,
    SubmitTaskStateChange,
    TaskRecord,
    due,
    known_status,
)

ARN = "arn:aws:ecs:us-east-1:000000000000:task/default/0123456789abcdef0123456789abcdef"


def container(name: str, *depends: tuple[str, str], essential: bool = True) -> Container:
    dependencies = tuple(ContainerDependency(container_name=on, condition=condition) for on, condition in depends)
    return Container(name=name, image="busybox", essential=essential, depends_on=dependencies)


def record(*containers: Container) -> TaskRecord:
    ids = iter(f"id{number}" for number in range(100))
    return transitions.new_record(Task(arn=ARN, family="f", version="1", containers=containers), lambda: next(ids))


def run(task: TaskRecord, *names: str) -> TaskRecord:
    """Bring the containers to RUNNING."""
    for name in names:
        task = transitions.pulled(task, name, "sha256:1", 1.0)
        task = transitions.created(task, name, f"runtime-{name}", 2.0)
        task = transitions.started(task, name, 3.0)
    return task


def told(task: TaskRecord) -> list[tuple[str, str]]:
    return [
        ("task" if isinstance(report, SubmitTaskStateChange) else report.container_name, report.status)
        for report in task.reports
    ]


# --- tables ----------------------------------------------------------------------------------------------------------


def test_the_tables_name_every_status() -> None:
    assert set(NEXT) == set(ORDER) == set(REPORTED) == set(Status)
    assert set(FORWARD) | {Status.RUNNING, Status.STOPPED} == set(Status)
    assert set().union(*NEXT.values()) <= set(Status)


def test_a_status_only_moves_forward() -> None:
    assert all(ORDER[after] > ORDER[before] for before, afters in NEXT.items() for after in afters)


# --- the way up ------------------------------------------------------------------------------------------------------


def test_a_container_is_pulled_created_started() -> None:
    task = record(container("web"))
    assert due(task, {}) == [Action(Effect.PULL, "web")]
    task = transitions.pulled(transitions.pulling(task, 1.0), "web", "sha256:1", 2.0)
    assert due(task, {}) == [Action(Effect.CREATE, "web")]
    task = transitions.created(task, "web", "abc", 3.0)
    assert due(task, {}) == [Action(Effect.START, "web")]
    task = transitions.started(task, "web", 4.0, "172.18.0.2")
    assert due(task, {}) == []
    assert known_status(task) == Status.RUNNING
    assert (task.pull_started_at, task.pull_stopped_at) == (1.0, 2.0)
    (report,) = task.reports
    assert isinstance(report, SubmitTaskStateChange)
    assert (report.status, report.containers[0].runtime_id, report.containers[0].image_digest) == (
        "RUNNING",
        "abc",
        "sha256:1",
    )


def test_nothing_is_begun_twice() -> None:
    assert due(record(container("web")), {"web": Effect.PULL}) == []


def test_all_images_are_pulled_at_once_and_a_dependent_waits_to_be_created() -> None:
    task = record(container("app", ("db", "START")), container("db"))
    assert {action.container for action in due(task, {})} == {"app", "db"}
    for name in ("app", "db"):
        task = transitions.pulled(task, name, "", 1.0)
    assert due(task, {}) == [Action(Effect.CREATE, "db")]


@pytest.mark.parametrize(
    ("condition", "exit_code", "goes_on"),
    [("START", 1, True), ("COMPLETE", 1, True), ("SUCCESS", 0, True), ("SUCCESS", 1, False), ("HEALTHY", 0, False)],
)
def test_an_ended_dependency_satisfies_its_condition_or_ends_the_dependent(
    condition: str, exit_code: int, goes_on: bool
) -> None:
    task = record(container("init", essential=False), container("app", ("init", condition)))
    task = transitions.pulled(task, "app", "", 1.0)
    task = transitions.exited(run(task, "init"), "init", exit_code, 4.0)
    if goes_on:
        assert due(task, {}) == [Action(Effect.CREATE, "app")]
    else:
        app = task.container("app")
        assert app.known_status == Status.STOPPED
        assert app.reason.startswith("TaskDependencyError: ")
        assert "init" in app.reason
        assert task.desired_status == "STOPPED"
        assert known_status(task) == Status.STOPPED


@pytest.mark.parametrize("condition", ["COMPLETE", "SUCCESS", "HEALTHY"])
def test_a_dependency_that_only_runs_holds_the_dependent(condition: str) -> None:
    task = record(container("init", essential=False), container("app", ("init", condition)))
    task = run(transitions.pulled(task, "app", "", 1.0), "init")
    assert due(task, {}) == []


def test_a_healthy_dependency_lets_the_dependent_go_on() -> None:
    task = record(container("db"), container("app", ("db", "HEALTHY")))
    task = run(transitions.pulled(task, "app", "", 1.0), "db")
    task = transitions.health(task, "db", "HEALTHY", 5.0)
    assert due(task, {}) == [Action(Effect.CREATE, "app")]


def test_an_init_container_that_has_ended_does_not_hold_the_task_back() -> None:
    task = record(container("init", essential=False), container("app", ("init", "SUCCESS")))
    task = run(transitions.exited(run(task, "init"), "init", 0, 4.0), "app")
    assert known_status(task) == Status.RUNNING
    assert told(task) == [("init", "RUNNING"), ("init", "STOPPED"), ("task", "RUNNING")]


# --- the way down ----------------------------------------------------------------------------------------------------


def test_an_essential_exit_stops_the_task_and_the_others() -> None:
    task = transitions.exited(run(record(container("web"), container("side")), "web", "side"), "web", 3, 9.0)
    assert (task.desired_status, task.stopped_reason) == ("STOPPED", "Essential container in task exited")
    assert due(task, {}) == [Action(Effect.STOP, "side")]
    task = transitions.exited(task, "side", 143, 10.0)
    last = task.reports[-1]
    assert isinstance(last, SubmitTaskStateChange)
    assert (last.status, last.reason) == ("STOPPED", "Essential container in task exited")
    assert [(one.container_name, one.exit_code) for one in last.containers] == [("web", 3), ("side", 143)]
    assert last.execution_stopped_at == 9.0


def test_another_exit_does_not_stop_the_task() -> None:
    task = run(record(container("web"), container("side", essential=False)), "web", "side")
    task = transitions.exited(task, "side", 0, 9.0)
    assert task.desired_status == "RUNNING"
    assert known_status(task) == Status.RUNNING
    last = task.reports[-1]
    assert isinstance(last, SubmitContainerStateChange)
    assert (last.container_name, last.status, last.exit_code) == ("side", "STOPPED", 0)


def test_containers_stop_in_reverse_order_of_their_dependencies() -> None:
    task = run(record(container("db"), container("app", ("db", "START"))), "db", "app")
    task = transitions.stop(task, "Task stopped by user", 5.0)
    assert due(task, {}) == [Action(Effect.STOP, "app")]
    assert due(task, {"app": Effect.STOP}) == []
    assert due(transitions.exited(task, "app", 0, 6.0), {}) == [Action(Effect.STOP, "db")]


def test_a_pull_is_broken_off_by_a_stop_and_a_creation_is_not() -> None:
    task = transitions.stop(record(container("web")), "enough", 1.0)
    assert due(task, {"web": Effect.PULL}) == [Action(Effect.STOP, "web")]
    assert due(task, {"web": Effect.CREATE}) == []
    assert due(task, {"web": Effect.STOP}) == []


def test_the_first_reason_of_a_stop_stays() -> None:
    task = transitions.stop(transitions.stop(record(container("web")), "first", 1.0), "second", 2.0)
    assert (task.stopped_reason, task.execution_stopped_at) == ("first", 1.0)


def test_what_failed_is_the_tasks_reason_and_has_no_exit_code() -> None:
    task = transitions.failed(record(container("web")), "web", "CannotPullContainerError: no route", 1.0)
    assert task.stopped_reason == "CannotPullContainerError: no route"
    assert task.container("web").exit_code is None
    assert told(task) == [("task", "STOPPED")]


def test_a_reason_is_cut_where_the_agent_cuts_it() -> None:
    task = transitions.failed(record(container("web")), "web", "x" * 5000, 1.0)
    assert len(task.container("web").reason) == len(task.stopped_reason) == transitions.REASON_LENGTH


def test_an_unhealthy_essential_container_stops_the_task() -> None:
    task = transitions.health(run(record(container("web")), "web"), "web", "UNHEALTHY", 5.0)
    assert (task.desired_status, task.stopped_reason) == ("STOPPED", "Task failed container health checks")


def test_echoes_change_nothing() -> None:
    task = transitions.exited(run(record(container("web")), "web"), "web", 137, 5.0, "OutOfMemoryError: x")
    for echo in (
        transitions.exited(task, "web", 0, 6.0),
        transitions.started(task, "web", 6.0),
        transitions.pulled(task, "web", "other", 6.0),
        transitions.failed(task, "web", "late", 6.0),
    ):
        assert echo == task


def test_reports_leave_in_their_order() -> None:
    task = transitions.exited(run(record(container("web")), "web"), "web", 0, 5.0)
    assert told(task) == [("task", "RUNNING"), ("task", "STOPPED")]
    assert told(transitions.acknowledged(task)) == [("task", "STOPPED")]


def test_an_agent_that_takes_over_tells_what_runs_once_more() -> None:
    task = run(record(container("web")), "web")
    assert transitions.reported_again(task) == task
    assert told(transitions.reported_again(transitions.acknowledged(task))) == [("task", "RUNNING")]
    ended = transitions.acknowledged(transitions.acknowledged(transitions.exited(task, "web", 0, 5.0)))
    assert told(transitions.reported_again(ended)) == []


# --- any task, any history -------------------------------------------------------------------------------------------

CONDITIONS = sorted(acs.CONDITIONS)


@st.composite
def tasks(draw: st.DrawFn) -> TaskRecord:
    """Containers that depend on earlier ones only, so that there is no cycle."""
    names = [f"c{number}" for number in range(draw(st.integers(1, 5)))]
    containers = [
        container(
            name,
            *((on, draw(st.sampled_from(CONDITIONS))) for on in names[:number] if draw(st.booleans())),
            essential=number == 0 or draw(st.booleans()),
        )
        for number, name in enumerate(names)
    ]
    return record(*draw(st.permutations(containers)))


def history(task: TaskRecord, choose: st.DataObject) -> Iterator[TaskRecord]:
    """Do what is due, with any outcome, interleaved with exits and health; end by a stop."""
    for step in range(200):
        actions = due(task, {})
        running = [one.name for one in task.containers if one.known_status == Status.RUNNING]
        if known_status(task) == Status.STOPPED:
            return
        happenings = [*actions, *running] or ["stop"]
        happening = choose.draw(st.sampled_from([*happenings, "stop"]), label=f"step {step}")
        good = choose.draw(st.booleans(), label="good")
        task = happen(task, happening, good, float(step))
        yield task
    raise AssertionError("the task never ends")


def happen(task: TaskRecord, happening: "Action | str", good: bool, at: float) -> TaskRecord:
    match happening:
        case Action(Effect.STOP, name):
            return transitions.exited(task, name, 143 if task.container(name).started_at is not None else None, at)
        case Action(effect, name) if not good:
            return transitions.failed(task, name, f"{effect} failed", at)
        case Action(Effect.PULL, name):
            return transitions.pulled(task, name, "sha256:1", at)
        case Action(Effect.CREATE, name):
            return transitions.created(task, name, "id", at)
        case Action(Effect.START, name):
            return transitions.started(task, name, at)
        case "stop":
            return transitions.stop(task, "by the test", at)
        case str(name) if good and task.container(name).health == "UNKNOWN":
            return transitions.health(task, name, "HEALTHY", at)
        case str(name):
            return transitions.exited(task, name, 0 if good else 1, at)
    raise AssertionError(happening)


@given(tasks(), st.data())
def test_every_history_ends_and_is_told_in_order(task: TaskRecord, choose: st.DataObject) -> None:
    seen = [task, *history(task, choose)]
    for before, after in pairwise(seen):
        assert after.reports[: len(before.reports)] == before.reports
        assert (before.desired_status, after.desired_status) != ("STOPPED", "RUNNING")
        for old, new in zip(before.containers, after.containers, strict=True):
            assert old.known_status == new.known_status or new.known_status in NEXT[old.known_status]
        assert_no_container_is_created_before_its_dependencies_allow(after)
    last = seen[-1]
    assert known_status(last) == Status.STOPPED
    statuses = [report.status for report in last.reports if isinstance(report, SubmitTaskStateChange)]
    assert statuses in (["STOPPED"], ["RUNNING", "STOPPED"])
    assert isinstance(last.reports[-1], SubmitTaskStateChange)
    for record in seen:  # and survives the disk
        assert msgspec.json.decode(msgspec.json.encode(record), type=TaskRecord) == record


def assert_no_container_is_created_before_its_dependencies_allow(record: TaskRecord) -> None:
    for action in due(record, {}):
        if action.effect == Effect.CREATE:
            for dependency in record.definition(action.container).depends_on:
                assert record.container(dependency.container_name).started_at is not None
