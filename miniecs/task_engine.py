"""Task engine: does to containers what `transitions` decides, and tells it what happened.

Stands between `transitions` and `minicontainer.engine`, which it reaches through the `Spawner`, because a process with
an event loop must not fork; `agent` hands it tasks and takes their reports. There is one `_Runner` for each task and
nothing is polled: an effect that ends or a container that exits moves the record, the record is saved, and what is due
next begins. Ruled by the ECS developer guide: task definition parameters, container health checks, bridge networking.
"""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from minicontainer import spawner as spawning
from minicontainer.containers import Container as Made
from minicontainer.containers import home
from minicontainer.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainerNotFound,
    Error,
    ImageNotFound,
    NameInUse,
)
from minicontainer.spawner import Gone
from miniecs import transitions
from miniecs.acs import HealthCheck
from miniecs.container_definition import (
    Instance,
    container_name,
    group,
    group_limits,
    health_command,
    network_bindings,
    options,
)
from miniecs.errors import Error as UserError
from miniecs.journal import line, log, warn
from miniecs.transitions import Action, ContainerRecord, Effect, Status, TaskRecord

STOP_TIMEOUT = 30  # seconds from SIGTERM to SIGKILL when the task definition does not say
RETRY = 1.0  # seconds until what must not fail is tried again
GIVEN_UP = "Task is not known to the control plane"  # the reason of a stop
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"


class Spawner(Protocol):
    """`minicontainer.spawner.Spawner`, as far as it is used: the functions of `minicontainer.engine` by name."""

    async def call(self, function: str, /, **arguments: Any) -> Any: ...

    def watch(self, container: Made, /) -> Awaitable[None]: ...

    @property
    def pid(self) -> int: ...


@contextlib.contextmanager
def spawner(root: str) -> Iterator[Spawner]:
    """The engine below `root`, in a process of its own; to be forked before there are threads or an event loop."""
    forked = spawning.Spawner.start(home(root))
    try:
        yield forked
    except Error as error:
        raise UserError(str(error)) from error  # it is the same to a user of miniecs whose error it is
    finally:
        forked.close()


Pull = Callable[[str], Awaitable[str]]  # an image's reference to its digest


class Registry(NamedTuple):
    """The control plane's own registry: its host and port in an image's reference, and how to get in."""

    name: str
    plain_http: bool
    login: Callable[[], Awaitable[tuple[str, str]]]


class Images:
    """What a task's images are pulled by: the public agent's ECS_IMAGE_PULL_BEHAVIOR."""

    def __init__(self, spawner: Spawner, behavior: str, registry: Registry) -> None:
        self.spawner = spawner
        self.behavior = behavior
        self.registry = registry
        self._one_at_a_time: dict[str, asyncio.Lock] = {}

    async def pull(self, image: str) -> str:
        """The image's digest, once it is here.

        Raises:
            Error, OSError: it cannot be had.
        """
        async with self._one_at_a_time.setdefault(image, asyncio.Lock()):
            here = await self._here(image) if self.behavior != "always" else ""
            if here and self.behavior == "prefer-cached":
                return here
            try:
                return await self._ask_registry(image)
            except (Error, OSError) as error:
                if not here:
                    raise
                warn("image not pulled, the one that is here is used", image=image, error=error)
                return here

    async def _here(self, image: str) -> str:
        try:
            return str((await self.spawner.call("image", reference=image)).digest)
        except ImageNotFound:
            return ""

    async def _ask_registry(self, image: str) -> str:
        plain, login = False, None
        if image.partition("/")[0] == self.registry.name:
            plain, login = self.registry.plain_http, await self.registry.login()
        how = {"plain_http": plain, "credentials": login, "unpack": True}
        return str((await self.spawner.call("pull", reference=image, **how)).digest)


class TaskEngine:
    """All tasks of a container instance.

    `save` keeps a record on disk and `forget` removes it; `changed` is called after every change, with the record.
    """

    def __init__(
        self,
        spawner: Spawner,
        pull: Pull,
        instance: Instance,
        save: Callable[[TaskRecord], None],
        forget: Callable[[TaskRecord], None],
        changed: Callable[[TaskRecord], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.spawner = spawner
        self.pull = pull
        self.instance = instance
        self.save = save
        self.forget = forget
        self.changed = changed
        self.clock = clock
        self._runners: dict[str, _Runner] = {}
        self.doubted: set[str] = set()  # ARNs of tasks: until they are gone no other begins

    def records(self) -> list[TaskRecord]:
        return [runner.record for runner in self._runners.values()]

    def record(self, arn: str) -> TaskRecord | None:
        runner = self._runners.get(arn)
        return runner.record if runner else None

    def resume(self, records: Iterable[TaskRecord]) -> None:
        """Take up the tasks of an agent that was killed: before anything is done, each container is looked at."""
        for record in records:
            self._runners[record.task.arn] = _Runner(self, record)
        self.doubt(record.task.arn for record in self.records() if record.stopped_reason == GIVEN_UP)
        for runner in self._runners.values():
            runner.resume()

    def begin(self, record: TaskRecord) -> None:
        """Run a task whose record is on the disk already. A task that is known is not begun again."""
        if record.task.arn not in self._runners:
            runner = self._runners[record.task.arn] = _Runner(self, record)
            self.changed(record)
            runner.advance()

    def stop(self, arn: str, reason: str) -> None:
        if runner := self._runners.get(arn):
            runner.update(transitions.stop(runner.record, reason, self.clock()))

    def doubt(self, arns: Iterable[str]) -> None:
        """The control plane does not count on these: what they hold it gives to new tasks, which wait for it here."""
        waited = bool(self.doubted)
        self.doubted = {arn for arn in arns if (record := self.record(arn)) and not transitions.is_over(record)}
        if waited and not self.doubted:
            for runner in list(self._runners.values()):
                runner.advance()

    def give_up(self, arns: Iterable[str]) -> None:
        """The control plane has confirmed that these are to end."""
        self.doubt(arns)
        for arn in list(self.doubted):
            self.stop(arn, GIVEN_UP)

    def waits(self, record: TaskRecord) -> bool:
        """Whether a task may not begin yet."""
        begun = any(container.known_status != Status.NONE for container in record.containers)
        return bool(self.doubted) and not begun and record.desired_status == "RUNNING"

    def acknowledge(self, arn: str) -> None:
        """The control plane has the oldest report of the task."""
        if runner := self._runners.get(arn):
            runner.update(transitions.acknowledged(runner.record))

    async def close(self) -> None:
        """Leave; what runs, runs on."""
        for runner in self._runners.values():
            await runner.close()

    def end(self, record: TaskRecord) -> None:
        del self._runners[record.task.arn]
        self.forget(record)


class _Runner:
    """One task: its record, what is being done for it, and nothing else."""

    def __init__(self, tasks: TaskEngine, record: TaskRecord) -> None:
        self.tasks = tasks
        self.record = record
        self.busy: dict[str, Effect] = {}
        self.effects: dict[str, asyncio.Task[None]] = {}  # by container
        self.beside: set[asyncio.Task[None]] = set()  # watches, health checks, the end
        self.ending = False
        self.held = False  # until the truth is known
        self.told = asyncio.Event()  # the last report is acknowledged

    def update(self, record: TaskRecord) -> None:
        """The record has moved: keep it, tell it, go on."""
        if record is not self.record:
            self.record = record
            self.tasks.save(record)
            self.tasks.changed(record)
            self.tasks.doubt(self.tasks.doubted)
        self.advance()

    def advance(self) -> None:
        if self.held or self.tasks.waits(self.record):
            return
        for action in transitions.due(self.record, self.busy):
            if running := self.effects.pop(action.container, None):
                running.cancel()  # a pull that nobody waits for any more
            self.busy[action.container] = action.effect
            self.effects[action.container] = asyncio.create_task(self._perform(action))
        if transitions.is_over(self.record):
            if not self.record.reports:
                self.told.set()
            if not self.ending:
                self.ending = True
                self._beside(self._end())

    def resume(self) -> None:
        self.held = True
        self._beside(self._resume())

    async def close(self) -> None:
        running = [*self.effects.values(), *self.beside]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _beside(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self.beside.add(task)
        task.add_done_callback(self.beside.discard)
        task.add_done_callback(tell_bug)

    # --- effects -----------------------------------------------------------------------------------------------------

    async def _perform(self, action: Action) -> None:
        """Do it and take in what came of it. What the kernel or the engine refuses ends the container: its reason."""
        name, failure = action.container, FAILURES[action.effect]
        try:
            record = await self._effect(action)
        except Gone as gone:  # the kernel ran out of memory, say: nothing is known of the container, so nothing is said
            warn("trying again", task=self.record.task.arn, container=name, effect=action.effect, obstacle=gone)
            await asyncio.sleep(RETRY)
            record = self.record
        except (Error, OSError) as error:
            record = transitions.failed(self.record, name, f"{failure}: {error}", self.tasks.clock())
        except Exception as error:  # noqa: BLE001 - a daemon's loop: our bug ends this container, not the agent
            log.exception("%s", line("effect failed", task=self.record.task.arn, container=name, effect=action.effect))
            record = transitions.failed(self.record, name, f"{failure}: {error!r}", self.tasks.clock())
        self.effects.pop(name, None)
        self.busy.pop(name, None)
        self.update(record)

    async def _effect(self, action: Action) -> TaskRecord:
        match action.effect:
            case Effect.PULL:
                return await self._pull(action.container)
            case Effect.CREATE:
                return await self._create(action.container)
            case Effect.START:
                return await self._start(action.container)
            case Effect.STOP:
                return await self._stop(action.container)

    async def _pull(self, name: str) -> TaskRecord:
        self.record = transitions.pulling(self.record, self.tasks.clock())
        digest = await self.tasks.pull(self.record.definition(name).image)
        return transitions.pulled(self.record, name, digest, self.tasks.clock())

    async def _create(self, name: str) -> TaskRecord:
        await self._call("make_group", path=group(self.record.task), **group_limits(self.record.task))
        wanted = options(self.record, self.record.container(name), self.tasks.instance)
        for volume in wanted.volumes:
            if volume.source.startswith(self.tasks.instance.volumes):
                os.makedirs(volume.source, exist_ok=True)
        try:
            container = await self._call("create", options=wanted)
        except NameInUse:
            # An agent that was killed while it made this one: nothing of it has been started yet.
            await self._call("remove", id=wanted.name, force=True, volumes=True)
            container = await self._call("create", options=wanted)
        return transitions.created(self.record, name, container.id, self.tasks.clock())

    async def _start(self, name: str) -> TaskRecord:
        runtime_id = self.record.container(name).runtime_id
        try:
            container = await self._call("start", id=runtime_id)
        except (CommandNotFound, CommandNotExecutable):
            raise
        except Error:
            # An agent that was killed while it started this one.
            container = await self._call("inspect", id=runtime_id)
            if container.status != "running":
                raise
        return self._running(name, container)

    def _running(self, name: str, container: Made) -> TaskRecord:
        """It runs: see to it, from now on."""
        self._beside(self._watch(name, container))
        if check := self.record.definition(name).health_check:
            self._beside(self._check_health(name, check))
        bindings = network_bindings(self.record, name, container)
        at = container.started_at or self.tasks.clock()
        return transitions.started(self.record, name, at, container.network.address, bindings)

    async def _stop(self, name: str) -> TaskRecord:
        one, definition = self.record.container(name), self.record.definition(name)
        if one.known_status != Status.RUNNING:
            return transitions.exited(self.record, name, None, self.tasks.clock())
        timeout = STOP_TIMEOUT if definition.stop_timeout is None else definition.stop_timeout
        while True:
            try:
                await self._call("stop", id=one.runtime_id, timeout=timeout)
                return self._exited(name, await self._call("inspect", id=one.runtime_id))
            except ContainerNotFound:
                return transitions.exited(self.record, name, None, self.tasks.clock(), GONE)
            except (Error, OSError) as error:  # it may run still: nothing that it holds may be given to others
                warn("stop fails, trying again", task=self.record.task.arn, container=name, error=error)
                await asyncio.sleep(RETRY)

    async def _watch(self, name: str, container: Made) -> None:
        await self.tasks.spawner.watch(container)
        try:
            ended = await self._call("inspect", id=container.id)
        except ContainerNotFound:
            self.update(transitions.exited(self.record, name, None, self.tasks.clock(), GONE))
        else:
            self.update(self._exited(name, ended))

    def _exited(self, name: str, container: Made) -> TaskRecord:
        reason = OUT_OF_MEMORY if container.oom_killed else container.error
        at = container.finished_at or self.tasks.clock()
        return transitions.exited(self.record, name, container.exit_code, at, reason)

    async def _check_health(self, name: str, check: HealthCheck) -> None:
        """Ask the container how it is, again and again, for as long as it runs."""
        began, failures = self.tasks.clock(), 0
        command = health_command(check)
        while command and self.record.container(name).known_status in (Status.CREATED, Status.RUNNING):
            await asyncio.sleep(check.interval)
            try:
                async with asyncio.timeout(check.timeout):
                    well = await self._call("exec", id=self.record.container(name).runtime_id, command=command) == 0
            except (Error, OSError, TimeoutError):
                well = False
            if well or self.tasks.clock() - began >= check.start_period:
                failures = 0 if well else failures + 1
            if well or failures >= check.retries:
                status = "HEALTHY" if well else "UNHEALTHY"
                self.update(transitions.health(self.record, name, status, self.tasks.clock()))

    async def _resume(self) -> None:
        """What became of the containers while no agent was there."""
        for one in self.record.containers:
            if one.known_status not in (Status.NONE, Status.STOPPED):
                self.update(await self._look(one))
        self.held = False
        self.tasks.changed(self.record)  # also if nothing did: its reports may not have been sent
        self.update(transitions.reported_again(self.record))

    async def _look(self, one: ContainerRecord) -> TaskRecord:
        try:
            container = await self._call("inspect", id=one.runtime_id or container_name(self.record.task, one.name))
        except ContainerNotFound:
            if one.known_status == Status.PULLED:
                return self.record
            return transitions.exited(self.record, one.name, None, self.tasks.clock(), GONE)
        self.record = transitions.created(self.record, one.name, container.id, self.tasks.clock())
        if container.status == "running":
            return self._running(one.name, container)
        if container.status == "exited":
            if container.started_at and not one.started_at:
                self.record = transitions.started(self.record, one.name, container.started_at)
            return self._exited(one.name, container)
        return self.record

    async def _end(self) -> None:
        """The task has stopped: give back what it held, wait until it is reported and looked at, and forget it."""
        await asyncio.gather(*self.effects.values(), return_exceptions=True)
        await self._give_back("remove_group", path=group(self.record.task))
        await self.told.wait()
        await asyncio.sleep(self.tasks.instance.keep_stopped)
        for one in self.record.containers:
            await self._give_back("remove", id=container_name(self.record.task, one.name), force=True, volumes=True)
        files = f"{self.tasks.instance.volumes}/{self.record.task.id}"
        await asyncio.to_thread(shutil.rmtree, files, ignore_errors=True)
        self.tasks.end(self.record)

    async def _give_back(self, function: str, **arguments: Any) -> None:
        try:
            await self._call(function, **arguments)
        except ContainerNotFound:
            return  # it was never made, or is gone already
        except (Error, OSError) as error:
            warn("left behind", task=self.record.task.arn, function=function, error=error)

    async def _call(self, function: str, **arguments: Any) -> Any:
        return await self.tasks.spawner.call(function, **arguments)


FAILURES = {
    Effect.PULL: "CannotPullContainerError",
    Effect.CREATE: "CannotCreateContainerError",
    Effect.START: "CannotStartContainerError",
    Effect.STOP: "CannotStopContainerError",
}
GONE = "the container was removed behind the agent's back"


def tell_bug(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("bug", exc_info=error)
