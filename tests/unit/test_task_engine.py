"""The task engine does what is due, in order, and tells the truth, also after it was killed. Nothing runs here."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from minicontainer.containers import Container as Made
from minicontainer.errors import CommandNotFound, Error, ImageNotFound
from miniecs import transitions
from miniecs.acs import Container, ContainerDependency, HealthCheck, Task
from miniecs.checkpoint import Checkpoint
from miniecs.container_definition import Instance, container_name
from miniecs.task_engine import OUT_OF_MEMORY, Images, Registry, TaskEngine
from miniecs.transitions import Status, SubmitTaskStateChange, TaskRecord, known_status
from tests.stand_in import Digested, StandIn

ARN = "arn:aws:ecs:us-east-1:000000000000:task/default/0123456789abcdef0123456789abcdef"


class World:
    """A task engine on a stand-in, with its disk."""

    def __init__(self, directory: Path, spawner: StandIn | None = None) -> None:
        self.spawner = spawner or StandIn()
        self.checkpoint = Checkpoint(str(directory))
        self.changes: list[TaskRecord] = []
        self.pull: Callable[[str], Awaitable[str]] = self._pull
        instance = Instance("default", "http://198.18.0.1:8600", str(directory / "volumes"), keep_stopped=0)
        self.engine = TaskEngine(
            self.spawner, lambda image: self.pull(image), instance,
            self.checkpoint.save, self.checkpoint.forget, self.changes.append, lambda: 5.0,
        )  # fmt: skip

    async def _pull(self, image: str) -> str:
        return f"sha256:{image}"

    def begin(self, *containers: Container) -> None:
        record = transitions.new_record(Task(arn=ARN, family="f", version="1", containers=containers), lambda: "x" * 32)
        self.checkpoint.save(record)
        self.engine.begin(record)

    @property
    def record(self) -> TaskRecord:
        record = self.engine.record(ARN)
        assert record
        return record

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)

    async def until_status(self, status: Status) -> None:
        await self.until(lambda: known_status(self.record) == status)

    async def acknowledge_all(self) -> None:
        while (record := self.engine.record(ARN)) and record.reports:
            self.engine.acknowledge(ARN)


def name(container: str) -> str:
    return f"ecs-{ARN.rpartition('/')[2]}-{container}"


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


WEB = Container(name="web", image="web:1")


def test_a_task_runs_is_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.begin(WEB)
        await world.until_status(Status.RUNNING)
        assert world.spawner.calls == [
            ("make_group", f"ecs/{ARN.rpartition('/')[2]}"), ("create", name("web")), ("start", f"id-{name('web')}"),
        ]  # fmt: skip
        assert world.record.container("web").address == "172.18.0.2"
        world.engine.stop(ARN, "Task stopped by user")
        await world.until_status(Status.STOPPED)
        assert (world.record.stopped_reason, world.record.container("web").exit_code) == ("Task stopped by user", 143)
        assert world.spawner.containers  # until it is reported
        await world.acknowledge_all()
        await world.until(lambda: world.engine.record(ARN) is None)
        assert world.spawner.containers == {}
        assert world.spawner.did("remove_group") == [f"ecs/{ARN.rpartition('/')[2]}"]
        assert world.checkpoint.records() == []

    run(story())


def test_an_exit_is_seen_without_being_asked_for(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.begin(WEB, Container(name="side", image="side"))
        await world.until_status(Status.RUNNING)
        world.spawner.end(name("web"), 3)
        await world.until_status(Status.STOPPED)
        assert world.record.stopped_reason == "Essential container in task exited"
        assert {one.name: one.exit_code for one in world.record.containers} == {"web": 3, "side": 143}

    run(story())


def test_out_of_memory_is_said_in_ecs_words(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.begin(WEB)
        await world.until_status(Status.RUNNING)
        world.spawner.end(name("web"), 137, oom_killed=True)
        await world.until_status(Status.STOPPED)
        assert (world.record.container("web").reason, world.record.container("web").exit_code) == (OUT_OF_MEMORY, 137)

    run(story())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("make_group", "CannotCreateContainerError: no"),
        ("create", "CannotCreateContainerError: no"),
        ("start", "CannotStartContainerError: no"),
    ],
)
def test_what_the_engine_refuses_is_the_reason(tmp_path: Path, function: str, reason: str) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.spawner.failures[function] = CommandNotFound("no")
        world.begin(WEB)
        await world.until_status(Status.STOPPED)
        assert world.record.container("web").reason == world.record.stopped_reason == reason
        assert world.record.container("web").exit_code is None

    run(story())


def test_an_image_that_cannot_be_pulled_is_the_reason(tmp_path: Path) -> None:
    async def refuse(image: str) -> str:
        raise ImageNotFound(image)

    async def story() -> None:
        world = World(tmp_path)
        world.pull = refuse
        world.begin(WEB)
        await world.until_status(Status.STOPPED)
        assert world.record.container("web").reason.startswith("CannotPullContainerError: image web:1 not found")

    run(story())


def test_a_bug_of_ours_ends_the_container_and_not_the_agent(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.spawner.failures["create"] = ZeroDivisionError("bug")
        world.begin(WEB)
        await world.until_status(Status.STOPPED)
        assert world.record.stopped_reason == "CannotCreateContainerError: ZeroDivisionError('bug')"

    run(story())


def test_a_stop_does_not_wait_for_a_pull(tmp_path: Path) -> None:
    async def hang(_: str) -> str:
        await asyncio.sleep(60)
        return ""

    async def story() -> None:
        world = World(tmp_path)
        world.pull = hang
        world.begin(WEB)
        await asyncio.sleep(0.01)
        world.engine.stop(ARN, "enough")
        await world.until_status(Status.STOPPED)
        assert world.spawner.did("create") == []

    run(story())


def test_a_stop_that_fails_is_tried_again_and_not_called_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.begin(WEB)
        await world.until_status(Status.RUNNING)
        world.spawner.failures["stop"] = Error("busy")
        world.engine.stop(ARN, "enough")
        await world.until(lambda: bool(world.spawner.did("stop")))
        assert known_status(world.record) == Status.RUNNING
        del world.spawner.failures["stop"]
        await world.until_status(Status.STOPPED)
        assert len(world.spawner.did("stop")) == 2

    monkeypatch.setattr("miniecs.task_engine.RETRY", 0.01)
    run(story())


def test_a_task_is_begun_once(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.begin(WEB)
        world.begin(WEB)
        await world.until_status(Status.RUNNING)
        assert world.spawner.did("create") == [name("web")]

    run(story())


def test_dependent_containers_start_later_and_stop_earlier(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        app = Container(name="app", image="app", depends_on=(ContainerDependency(container_name="db"),))
        world.begin(app, Container(name="db", image="db"))
        await world.until_status(Status.RUNNING)
        assert world.spawner.did("start") == [f"id-{name('db')}", f"id-{name('app')}"]
        world.engine.stop(ARN, "enough")
        await world.until_status(Status.STOPPED)
        assert world.spawner.did("stop") == [f"id-{name('app')}", f"id-{name('db')}"]

    run(story())


@pytest.mark.parametrize(("healthy", "status"), [(0, "HEALTHY"), (1, "UNHEALTHY")])
def test_a_health_check_is_asked_in_the_container(tmp_path: Path, healthy: int, status: str) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.spawner.health = healthy
        check = HealthCheck(command=("CMD", "true"), interval=0, retries=2)
        world.begin(Container(name="web", image="web", health_check=check))
        await world.until(lambda: world.record.container("web").health == status)
        if not healthy:
            return
        await world.until_status(Status.STOPPED)
        assert world.record.stopped_reason == "Task failed container health checks"
        assert len(world.spawner.did("exec")) >= 2

    run(story())


# --- after kill -9 of the agent --------------------------------------------------------------------------------------


async def killed(world: World) -> None:
    """All that the agent had in memory is gone; the containers and the disk are as they were."""
    await world.engine.close()
    world.checkpoint.close()


def successor(world: World, directory: Path) -> World:
    other = World(directory, world.spawner)
    other.engine.resume(other.checkpoint.records())
    return other


def reported(record: TaskRecord) -> list[str]:
    return [report.status for report in record.reports if isinstance(report, SubmitTaskStateChange)]


def test_a_successor_finds_what_runs_and_sees_it_end(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.begin(WEB)
        await world.until_status(Status.RUNNING)
        await killed(world)
        world = successor(world, tmp_path)
        await world.until_status(Status.RUNNING)
        world.spawner.end(name("web"), 7)
        await world.until_status(Status.STOPPED)
        assert world.record.container("web").exit_code == 7
        assert world.spawner.did("start") == [f"id-{name('web')}"]  # once, by the first

    run(story())


def test_a_successor_reports_what_ended_meanwhile(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.begin(WEB)
        await world.until_status(Status.RUNNING)
        await world.acknowledge_all()
        await killed(world)
        world.spawner.end(name("web"), 7)
        world = successor(world, tmp_path)
        await world.until_status(Status.STOPPED)
        assert reported(world.record) == ["STOPPED"]
        assert world.record.container("web").exit_code == 7

    run(story())


def test_a_successor_reports_a_container_that_is_gone(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.begin(WEB)
        await world.until_status(Status.RUNNING)
        await killed(world)
        world.spawner.containers.clear()
        world = successor(world, tmp_path)
        await world.until_status(Status.STOPPED)
        assert world.record.container("web").exit_code is None
        assert "removed" in world.record.container("web").reason

    run(story())


@pytest.mark.parametrize("function", ["create", "start"])
def test_a_successor_of_an_agent_killed_in_the_middle_goes_on(tmp_path: Path, function: str) -> None:
    """The call had done its work, and nobody was left to hear of it."""

    async def story() -> None:
        world = World(tmp_path)
        original = getattr(world.spawner, f"_{function}")

        async def done_and_not_heard(**arguments: Any) -> None:
            await original(**arguments)
            await asyncio.sleep(60)

        setattr(world.spawner, f"_{function}", done_and_not_heard)
        world.begin(WEB)
        await world.until(lambda: bool(world.spawner.did(function)))
        await asyncio.sleep(0.01)
        await killed(world)
        setattr(world.spawner, f"_{function}", original)
        world = successor(world, tmp_path)
        await world.until_status(Status.RUNNING)
        assert len(world.spawner.containers) == 1
        assert reported(world.record) == ["RUNNING"]

    run(story())


def test_a_successor_goes_on_with_a_stop(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.begin(WEB)
        await world.until_status(Status.RUNNING)
        world.spawner.gates["stop"] = asyncio.Event()
        world.engine.stop(ARN, "enough")
        await asyncio.sleep(0.01)
        await killed(world)
        world.spawner.gates.clear()
        world = successor(world, tmp_path)
        await world.until_status(Status.STOPPED)
        assert world.record.stopped_reason == "enough"

    run(story())


# --- images ----------------------------------------------------------------------------------------------------------


class Registries:
    """The engine's `image` and `pull`."""

    def __init__(self, here: bool, there: bool) -> None:
        self.here, self.there = here, there
        self.pulled: list[dict[str, Any]] = []

    async def call(self, function: str, /, **arguments: Any) -> Any:
        if function == "image":
            if not self.here:
                raise ImageNotFound(arguments["reference"])
            return Digested("sha256:here")
        self.pulled.append(arguments)
        if not self.there:
            raise Error("registry unreachable")
        return Digested("sha256:there")

    def watch(self, container: Made, /) -> Awaitable[None]:
        raise AssertionError


async def login() -> tuple[str, str]:
    return "AWS", "password"


@pytest.mark.parametrize(
    ("behavior", "here", "there", "digest"),
    [
        ("default", True, True, "sha256:there"),
        ("default", True, False, "sha256:here"),
        ("default", False, False, None),
        ("always", True, False, None),
        ("prefer-cached", True, True, "sha256:here"),
        ("prefer-cached", False, True, "sha256:there"),
    ],
)
def test_the_pull_behavior_decides_which_image_is_used(
    behavior: str, here: bool, there: bool, digest: str | None
) -> None:
    async def story() -> None:
        images = Images(Registries(here, there), behavior, Registry("198.18.0.1:8600", True, login))
        if digest is None:
            with pytest.raises(Error, match="unreachable"):
                await images.pull("web:1")
        else:
            assert await images.pull("web:1") == digest

    run(story())


def test_only_the_control_planes_registry_gets_its_password(tmp_path: Path) -> None:
    async def story() -> None:
        registries = Registries(here=False, there=True)
        images = Images(registries, "default", Registry("198.18.0.1:8600", True, login))
        await images.pull("198.18.0.1:8600/web:1")
        await images.pull("docker.io/library/web:1")
        assert [(one["plain_http"], one["credentials"]) for one in registries.pulled] == [
            (True, ("AWS", "password")),
            (False, None),
        ]

    run(story())


def test_a_containers_name_is_the_same_for_every_agent() -> None:
    assert container_name(Task(arn=ARN, family="f", version="1", containers=(WEB,)), "web") == name("web")
