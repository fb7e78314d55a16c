"""The controller on a store in memory: services, events, lost instances, and any history of faults."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from miniecs.controller import Controller
from miniecs.model import ContainerInstance, InstanceStatus, NetworkBinding, ServiceStatus, StopCode, TaskStatus, key_of
from miniecs.store import DECISIONS, TOKENS, MemoryStore, Token
from tests.world import World, finish


@pytest.fixture
def world() -> World:
    return World().cluster()


def messages(world: World, name: str = "web") -> list[str]:
    return [event.message.removeprefix(f"(service {name}) ") for event in world.service(name).events]


def serve(world: World, desired: int = 2, **changes: Any) -> None:
    world.ask("CreateService", serviceName="web", taskDefinition="web", desiredCount=desired, **changes)
    world.settle()


def test_a_service_is_placed_started_and_becomes_steady(world: World) -> None:
    world.instance("i-1")
    world.define()
    serve(world)
    assert [task.last_status for task in world.tasks()] == ["PENDING", "PENDING"]
    assert {task.started_by for task in world.tasks()} == {world.service().primary.id}
    assert messages(world)[0].startswith("has started 2 tasks: (task ")
    world.obey()
    assert world.service().steady
    assert messages(world)[:2] == [
        "has reached a steady state.",
        f"(deployment {world.service().primary.id}) deployment completed.",
    ]
    assert world.service().primary.rollout_state == "COMPLETED"
    before = world.service()
    world.settle()
    assert world.service() == before


def test_scaling_in_stops_and_says_so(world: World) -> None:
    world.instance("i-1")
    world.define()
    serve(world, 3)
    world.obey()
    world.ask("UpdateService", service="web", desiredCount=1)
    world.settle()
    asked = [task for task in world.tasks() if task.desired_status == TaskStatus.STOPPED]
    assert len(asked) == 2 and {task.stop_code for task in asked} == {StopCode.SERVICE_SCHEDULER_INITIATED}
    assert messages(world)[1].startswith("has stopped 2 running tasks: (task ")
    assert messages(world)[0] == "has reached a steady state."  # what is asked to stop does not count any more
    world.obey()
    assert len(world.tasks()) == 1 and len(world.tasks(stopped=True)) == 2
    assert world.instances()[0].used.cpu == 256


def test_a_deleted_service_is_inactive_when_its_tasks_are_stopped(world: World) -> None:
    world.instance("i-1")
    world.define()
    serve(world)
    world.obey()
    world.ask("DeleteService", service="web", force=True)
    world.settle()
    assert world.service().status == ServiceStatus.DRAINING
    world.obey()
    assert world.service().status == ServiceStatus.INACTIVE and world.service().deployments == ()
    serve(world, 1)
    assert world.service().status == ServiceStatus.ACTIVE


def test_what_fits_nowhere_is_said_once_and_tried_again_when_there_is_room(world: World) -> None:
    world.instance("i-1", cpu=300)
    world.define()
    serve(world, 2)
    world.settle()
    shortage = [one for one in messages(world) if "was unable to place a task" in one]
    assert len(shortage) == 1 and "has insufficient CPU units available (needs 256 CPU units, 44 free" in shortage[0]
    assert world.transact(lambda transaction: transaction.get(DECISIONS, "default/service:web"))
    world.obey()
    world.settle()
    assert len(world.tasks()) == 1 and world.service().shortage
    world.instance("i-2")
    world.settle()
    assert len(world.tasks()) == 2 and not world.service().shortage
    world.obey()
    assert world.service().steady


def test_room_that_another_s_task_leaves_is_taken(world: World) -> None:
    world.instance("i-1", cpu=256)
    world.define()
    alone = world.ask("RunTask", taskDefinition="web")["tasks"][0]["taskArn"]
    serve(world, 1)
    assert world.service().shortage
    world.report(world.task(alone), TaskStatus.STOPPED)
    world.settle()
    assert [task.group for task in world.tasks()] == ["service:web"]


def test_each_reason_has_ecs_s_words(world: World) -> None:
    world.define()
    serve(world, 1)
    assert "Reason: No Container Instances were found in your cluster." in messages(world)[0]
    arn = world.instance("i-1")
    finish(world.controller.disconnected([arn]))
    world.settle()
    assert "doesn't have the agent connected" in messages(world)[0]
    world.ask("DeleteService", service="web", force=True)
    world.settle()
    world.define("ported", portMappings=[{"containerPort": 80, "hostPort": 22}])
    finish(world.controller.connected(arn))
    world.ask("CreateService", serviceName="ported", taskDefinition="ported", desiredCount=1)
    world.settle()
    assert "is already using a port required by your task (port 22/tcp is taken)" in messages(world, "ported")[0]
    constraint = [{"type": "memberOf", "expression": "attribute:zone == x"}]
    world.ask("CreateService", serviceName="far", taskDefinition="web", desiredCount=1, placementConstraints=constraint)
    world.settle()
    assert 'encountered error "MemberOf placement constraint unsatisfied."' in messages(world, "far")[0]


def test_a_failing_task_is_replaced_at_once_and_then_less_and_less_often(world: World) -> None:
    world.instance("i-1")
    world.define()
    serve(world, 1)
    for expected in (True, False):
        failing = world.tasks()[0]
        world.report(failing, TaskStatus.STOPPED, "CannotPullContainerError: no such image")
        world.settle()
        assert bool(world.tasks()) == expected
    assert world.controller._wake_at == {"default/web": world.now + 1.0}
    world.now += 1.0
    world.controller._dirty.add("default/web")
    world.settle()
    assert len(world.tasks()) == 1
    stopped = world.tasks(stopped=True)[0]
    assert (stopped.stop_code, stopped.stopped_reason) == (
        StopCode.TASK_FAILED_TO_START,
        "CannotPullContainerError: no such image",
    )
    world.report(world.tasks()[0], TaskStatus.STOPPED)
    world.settle()
    assert any("is unable to consistently start tasks successfully" in one for one in messages(world))
    assert world.service().primary.failed_tasks == 3


def test_a_lost_instance_s_tasks_are_no_failure_of_the_service(world: World) -> None:
    arns = [world.instance(f"i-{number}") for number in range(2)]
    world.define()
    serve(world, 2)
    world.obey()
    finish(world.controller.disconnected([arns[0]]))
    finish(world.controller.lost(arns[0], 4.0))
    world.settle()
    assert {task.container_instance_arn for task in world.tasks()} == {arns[1]}
    lost = world.tasks(stopped=True)[0]
    assert lost.stop_code == StopCode.INFRASTRUCTURE_HEALTH
    assert lost.stopped_reason == f"Container instance {key_of(arns[0]).partition('/')[2]} lost: no heartbeat for 4 s"
    assert world.service().primary.failed_tasks == 0
    assert next(one for one in world.instances() if one.container_instance_arn == arns[0]).used.cpu == 0


def test_a_deadlock_is_said(world: World) -> None:
    world.instance("i-1")
    world.define()
    serve(world, 1, deploymentConfiguration={"minimumHealthyPercent": 50, "maximumPercent": 150})
    world.obey()
    world.ask("UpdateService", service="web", forceNewDeployment=True)
    world.settle()
    assert "was unable to stop or start tasks during a deployment" in messages(world)[0]


def test_tags_come_from_where_the_service_says(world: World) -> None:
    world.instance("i-1")
    world.define()
    serve(world, 1, propagateTags="SERVICE", enableECSManagedTags=True, tags=[{"key": "team", "value": "a"}])
    assert {tag.key: tag.value for tag in world.tasks()[0].tags} == {
        "team": "a",
        "aws:ecs:clusterName": "default",
        "aws:ecs:serviceName": "web",
    }


def test_refused_tasks_are_stopped_with_the_reason(world: World) -> None:
    world.instance("i-1")
    world.define()
    arn = world.ask("RunTask", taskDefinition="web")["tasks"][0]["taskArn"]
    finish(world.controller.refused([arn, arn.replace("a", "b")], "no such driver"))
    assert world.task(arn).stopped_reason == "no such driver"


def test_only_the_newest_hundred_events_are_kept(world: World) -> None:
    world.define()
    world.instance("i-1")
    serve(world, 1)
    for number in range(120):
        world.ask("UpdateService", service="web", desiredCount=1 + number % 2)
        world.settle()
        world.obey()
    assert len(world.service().events) == 100


def test_the_loop_wakes_by_itself_and_sweeps() -> None:
    """The loop as it runs in the server, on a clock that jumps."""

    async def play() -> None:
        store, now = MemoryStore(), [1_000_000.0]
        controller = Controller(store, lambda: now[0], random.Random(1))
        old = Token(digest="x", arns=(), created_at=0.0)
        await store.transact(lambda transaction: transaction.put(TOKENS, "RunTask/default/x", old))
        running = asyncio.create_task(controller.run())
        await asyncio.sleep(0.01)
        assert await store.read(lambda transaction: transaction.list(TOKENS)) == []
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(play())


class Faults(RuleBasedStateMachine):
    """Whatever happens: the books are right, no instance is over-committed, and after peace all is as desired."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World().cluster()
        self.world.define("web", cpu=200, memory=300, portMappings=[{"containerPort": 80, "hostPort": 8080}])
        self.world.define("job", cpu=300, memory=100)
        self.desired = 0
        self.ports = 32768

    @rule(cpu=st.integers(100, 1200), memory=st.integers(100, 1200))
    @precondition(lambda self: len(self.world.instances()) < 4)
    def an_instance_comes(self, cpu: int, memory: int) -> None:
        self.world.instance(f"i-{len(self.world.instances())}", cpu=cpu, memory=memory)
        self.world.settle()

    @rule(desired=st.integers(0, 4))
    def the_service_is_scaled(self, desired: int) -> None:
        if not self.desired and not self._exists():
            self.world.ask("CreateService", serviceName="web", taskDefinition="web", desiredCount=desired)
        else:
            self.world.ask("UpdateService", service="web", desiredCount=desired)
        self.desired = desired
        self.world.settle()

    @rule()
    def the_service_is_deployed(self) -> None:
        if self._exists():
            self.world.ask("UpdateService", service="web", forceNewDeployment=True)
            self.world.settle()

    @rule(count=st.integers(1, 4))
    def tasks_are_run(self, count: int) -> None:
        if self.world.instances():
            self.world.ask("RunTask", taskDefinition="job", count=count)
            self.world.settle()

    @rule(data=st.data())
    def a_task_moves(self, data: st.DataObject) -> None:
        if tasks := self.world.tasks() + self.world.tasks(stopped=True):
            task = data.draw(st.sampled_from(tasks))
            status = data.draw(st.sampled_from(list(TaskStatus)))
            self.ports += 1
            self.world.report(
                task,
                status,
                network_bindings=(NetworkBinding(host_port=self.ports),) if status == TaskStatus.RUNNING else (),
                exit_code=1 if status == TaskStatus.STOPPED else None,
            )
            self.world.settle()

    @rule(data=st.data(), connected=st.booleans())
    def an_agent_goes_or_comes(self, data: st.DataObject, connected: bool) -> None:
        if instance := self._some(data):
            if connected:
                finish(self.world.controller.connected(instance.container_instance_arn))
            else:
                finish(self.world.controller.disconnected([instance.container_instance_arn]))
            self.world.settle()

    @rule(data=st.data())
    def an_instance_is_lost(self, data: st.DataObject) -> None:
        if instance := self._some(data):
            finish(self.world.controller.disconnected([instance.container_instance_arn]))
            finish(self.world.controller.lost(instance.container_instance_arn, 4.0))
            self.world.settle()

    @rule(data=st.data(), status=st.sampled_from(["ACTIVE", "DRAINING"]))
    def an_instance_drains(self, data: st.DataObject, status: str) -> None:
        if instance := self._some(data):
            self.world.ask(
                "UpdateContainerInstancesState", containerInstances=[instance.container_instance_arn], status=status
            )
            self.world.settle()

    @rule()
    def the_agents_obey(self) -> None:
        self.world.obey()

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.controller._dirty |= set(self.world.controller._wake_at)
        self.world.settle()

    @invariant()
    def the_books_are_right(self) -> None:
        tasks = self.world.tasks()
        for instance in self.world.instances():
            here = [task for task in tasks if task.container_instance_arn == instance.container_instance_arn]
            assert instance.used.cpu == sum(task.needs.cpu for task in here)
            assert instance.used.memory == sum(task.needs.memory for task in here)
            ports = [port for task in here for port in task.needs.ports]
            assert sorted(ports) == list(instance.used.ports) and len(set(ports)) == len(ports)
            assert instance.running_tasks_count == sum(task.last_status == TaskStatus.RUNNING for task in here)
            assert instance.pending_tasks_count == sum(task.last_status == TaskStatus.PENDING for task in here)

    @invariant()
    def no_instance_is_over_committed(self) -> None:
        for instance in self.world.instances():
            assert min(instance.free) >= 0
            assert not set(instance.used.ports) & set(instance.registered.ports)

    @invariant()
    def stopped_means_stopped(self) -> None:
        for task in self.world.tasks(stopped=True):
            assert task.last_status == task.desired_status == TaskStatus.STOPPED
            assert task.stop_code and task.stopped_reason and task.stopped_at
        assert all(task.last_status != TaskStatus.STOPPED for task in self.world.tasks())

    def teardown(self) -> None:
        """Peace: every agent is there, does what it is asked, and there is one instance with room for all."""
        for instance in self.world.instances():
            finish(self.world.controller.connected(instance.container_instance_arn))
            self.world.ask(
                "UpdateContainerInstancesState", containerInstances=[instance.container_instance_arn], status="ACTIVE"
            )
        for number in range(9):
            self.world.instance(f"large-{number}", cpu=9000, memory=9000)
        for _ in range(12):
            self.world.now += 61.0
            self.world.controller._dirty |= set(self.world.controller._wake_at)
            self.world.settle()
            self.world.obey()
        if self._exists():
            service = self.world.service()
            running = [task for task in self.world.tasks() if task.service_name and task.is_wanted]
            assert len(running) == self.desired and len(service.deployments) == 1
            assert {task.started_by for task in running} <= {service.primary.id}
            assert service.steady and not service.shortage

    def _exists(self) -> bool:
        return bool(self.world.ask("ListServices")["serviceArns"])

    def _some(self, data: st.DataObject) -> ContainerInstance | None:
        alive = [one for one in self.world.instances() if one.status != InstanceStatus.INACTIVE]
        return data.draw(st.sampled_from(alive)) if alive else None


TestFaults = Faults.TestCase
TestFaults.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
