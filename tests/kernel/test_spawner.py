"""spawner: the engine called from an event loop: results, errors, many calls at once; containers outlive it."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from minicontainer import engine
from minicontainer.containers import Home, Options
from minicontainer.errors import CommandNotFound, ContainerNotFound, Error
from minicontainer.linux import procfs
from minicontainer.spawner import Gone, Spawner
from tests import images


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with images.busybox_home(tmp_path / "data") as made:
        yield made


def options(*command: str) -> Options:
    return Options(image="busybox", command=command, network="none")


def spawned(home: Home, talk: Callable[[Spawner], Awaitable[None]]) -> Spawner:
    spawner = Spawner.start(home)

    async def main() -> None:
        await talk(spawner)

    asyncio.run(main())
    return spawner


@pytest.mark.kernel("overlay")
def test_results_and_errors_come_back_as_they_are(home: Home) -> None:
    async def talk(spawner: Spawner) -> None:
        made = await spawner.call("create", options=options("sh", "-c", "echo hi; exit 3"))
        assert isinstance(made, engine.Container)
        started = await spawner.call("start", id=made.id)
        assert await spawner.call("wait", id=made.id) == 3
        assert started.supervisor_pid
        assert [record.text for record in await spawner.call("read_logs", id=made.id)] == ["hi\n"]
        with pytest.raises(ContainerNotFound, match=r"^no container nope; try: minicontainer ps --all$"):
            await spawner.call("inspect", id="nope")
        bad = await spawner.call("create", options=options("/nonesuch"))
        with pytest.raises(CommandNotFound) as raised:
            await spawner.call("start", id=bad.id)
        assert raised.value.exit_code == 127
        with pytest.raises(AttributeError) as bug:
            await spawner.call("no_such_function")
        assert "Traceback" in bug.value.__notes__[0]
        with pytest.raises(Error, match="bytes of arguments are more than"):
            await spawner.call("inspect", id="x" * 200_000)

    spawned(home, talk).close()


@pytest.mark.kernel("overlay")
def test_many_calls_at_once_and_the_loop_goes_on(home: Home) -> None:
    async def talk(spawner: Spawner) -> None:
        made = await asyncio.gather(*(spawner.call("create", options=options("sleep", "0.5")) for _ in range(4)))
        await asyncio.gather(*(spawner.call("start", id=one.id) for one in made))
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        began = time.monotonic()
        assert await asyncio.gather(*(spawner.call("wait", id=one.id) for one in made)) == [0] * 4
        assert time.monotonic() - began < 2
        assert ticks >= 10
        ticking.cancel()

    spawned(home, talk).close()


@pytest.mark.kernel("overlay")
def test_watch_returns_when_all_is_released_and_at_once_when_it_was(home: Home) -> None:
    async def talk(spawner: Spawner) -> None:
        made = await spawner.call("create", options=options("sleep", "60"))
        await asyncio.wait_for(spawner.watch(made), 1)  # it has never run
        running = await spawner.call("start", id=made.id)
        watching = asyncio.ensure_future(spawner.watch(running))
        await asyncio.sleep(0.1)
        assert not watching.done()
        await spawner.call("kill", id=made.id)
        await asyncio.wait_for(watching, 5)
        assert (await spawner.call("inspect", id=made.id)).exit_code == 137
        assert not any(os.path.exists(path) for path in running.cgroups.values())
        await asyncio.wait_for(spawner.watch(running), 1)

    spawned(home, talk).close()


@pytest.mark.kernel("overlay")
def test_a_call_that_nobody_waits_for_any_more_ends(home: Home) -> None:
    async def talk(spawner: Spawner) -> None:
        made = await spawner.call("create", options=options("sleep", "60"))
        running = await spawner.call("start", id=made.id)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(spawner.call("exec", id=made.id, command=("sleep", "50")), 0.5)
        for _ in range(100):
            if (await spawner.call("statistics", id=made.id)).pids == 1:
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError(f"the further process goes on: {os.listdir(f'/proc/{running.pid}/root/proc')}")
        await spawner.call("remove", id=made.id, force=True)

    spawned(home, talk).close()


@pytest.mark.kernel("overlay")
def test_containers_outlive_the_spawner_and_the_program(home: Home) -> None:
    ids: list[str] = []

    async def talk(spawner: Spawner) -> None:
        made = await spawner.call("create", options=options("sleep", "60"))
        await spawner.call("start", id=made.id)
        ids.append(made.id)

    spawner = spawned(home, talk)
    spawner.close()
    assert procfs.start_time(spawner.pid) is None
    assert engine.inspect(home, ids[0]).status == "running"
    engine.remove(home, ids[0], force=True)


@pytest.mark.kernel("overlay")
def test_a_spawner_that_was_killed_is_told(home: Home) -> None:
    async def talk(spawner: Spawner) -> None:
        os.kill(spawner.pid, signal.SIGKILL)
        await asyncio.sleep(0.1)
        with pytest.raises(Gone):
            await spawner.call("list_containers")

    spawned(home, talk).close()


@pytest.mark.kernel("overlay")
def test_threads_of_the_program_do_not_matter(home: Home) -> None:
    spawner = Spawner.start(home)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()

    async def main() -> None:
        made = await spawner.call("create", options=options("true"))
        await spawner.call("start", id=made.id)
        assert await spawner.call("wait", id=made.id) == 0

    asyncio.run(main())
    stop.set()
    thread.join()
    spawner.close()
