"""Stages side by side: at the same time, each step once, and none that outlives its build."""

import io
import os
import signal
import time
import traceback
from pathlib import Path

import pytest

from minicontainer import engine
from minicontainer.build import builder, side_by_side
from minicontainer.build.builder import Request
from minicontainer.build.live_view import LiveView
from minicontainer.build.progress import Progress
from tests.kernel.test_dockerfiles import World, place, world
from tests.kernel.test_engine import leftovers

__all__ = ["place", "world"]  # the fixtures

WAIT = "RUN --mount=type=cache,id=meet,target=/m touch /m/{me}; for i in $(seq 600); do test -e /m/{other} && "
MEET = (
    "FROM base AS a\n" + WAIT.format(me="a", other="b") + "touch /a && exit; sleep 0.1; done; exit 1\n"
    "FROM base AS b\n" + WAIT.format(me="b", other="a") + "touch /b && exit; sleep 0.1; done; exit 1\n"
    "FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
)


@pytest.mark.kernel("overlay")
def test_two_stages_that_wait_for_each_other_are_built(world: World) -> None:
    built = world.build(MEET)
    assert set(built.tree) == {"a", "b"}
    assert "[a 1/1]" in built.told and "[b 1/1]" in built.told
    again = world.build(MEET)
    assert (again.digest, again.cached) == (built.digest, 4)


@pytest.mark.kernel("overlay")
def test_a_step_that_two_stages_have_is_taken_once(world: World) -> None:
    same = "RUN --mount=type=cache,id=once,target=/o echo 1 >> /o/count; cat /o/count > /count; sleep 0.3\n"
    text = (
        f"FROM base AS a\n{same}FROM base AS b\n{same}FROM scratch\nCOPY --from=a /count /a\nCOPY --from=b /count /b\n"
    )
    built = world.build(text)
    assert built.tree == {"a": "f 644 1\n", "b": "f 644 1\n"}
    assert built.cached == 1


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    "text",
    [
        "FROM base\nRUN touch /a\nRUN touch /b\n",
        "FROM base AS a\nRUN touch /a\nFROM base AS b\nRUN touch /b\nFROM base\n"
        "COPY --from=a /a /\nCOPY --from=b /b /\n",
    ],
    ids=["in a row", "side by side"],
)
def test_no_link_outlives_the_build_though_no_step_waits_for_it(world: World, text: str) -> None:
    world.put({"Dockerfile": text})
    builder.build(world.home, Request(context=str(world.context), network="bridge"), Progress(io.StringIO()))
    assert leftovers(world.home) == []


@pytest.mark.kernel("overlay")
def test_when_one_stage_fails_the_others_end(world: World) -> None:
    said = world.refused(
        "FROM base AS a\nRUN sleep 600\nFROM base AS b\nRUN exit 3\n"
        "FROM scratch\nCOPY --from=a /x /\nCOPY --from=b /x /\n"
    )
    assert said == "Dockerfile:4: RUN: the command 'exit 3' failed with exit code 3"
    assert engine.list_containers(world.home) == []
    assert os.listdir(f"{world.home.data}/cache/build/work") == []


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stages_end_with_the_build(world: World, number: signal.Signals) -> None:
    """By Ctrl-C they undo what is half done; after kill -9 the next build does."""
    text = MEET.replace("/m/b &&", "/m/c &&").replace("/m/a &&", "/m/c &&")  # nobody comes
    world.put({"Dockerfile": text.replace("id=meet", f"id=m{number}")})
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
        try:
            builder.build(world.home, Request(context=str(world.context), network="none"), Progress(io.StringIO()))
        except KeyboardInterrupt:
            os._exit(7)
        except BaseException:  # noqa: BLE001 - the edge of a process
            traceback.print_exc()
        finally:
            os._exit(8)
    deadline = time.monotonic() + 60
    while sum(one.status == "running" for one in engine.list_containers(world.home)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    crew = [int(pid) for pid in Path(f"/proc/{child}/task/{child}/children").read_text().split()]
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    assert len(crew) == 2
    while any(os.path.exists(f"/proc/{pid}") for pid in crew):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if number == signal.SIGINT:
        assert os.waitstatus_to_exitcode(status) == 7
    else:
        world.build("FROM base\nRUN touch /after\n")
    assert engine.list_containers(world.home) == []
    assert os.listdir(f"{world.home.data}/cache/build/work") == []


def test_who_is_ended_in_the_middle_of_a_message_ends(capsys: pytest.CaptureFixture[str]) -> None:
    def half_a_message(teller: Progress) -> None:
        assert isinstance(teller, side_by_side._Relay)
        os.write(teller.pipe.fileno(), b"\0\0")
        time.sleep(60)

    with side_by_side.Crew(Progress(io.StringIO())) as crew:
        crew.start(0, "", half_a_message)
        [child] = crew.children.values()
        time.sleep(0.3)
    assert not os.path.exists(f"/proc/{child.pid}") and capsys.readouterr().err == ""


@pytest.mark.kernel("overlay")
def test_the_live_view_shows_the_steps_of_all(world: World) -> None:
    world.put({"Dockerfile": MEET.replace("id=meet", "id=live")})
    with open(os.devnull, "w") as stream:
        teller = LiveView(stream)
        builder.build(world.home, Request(context=str(world.context), network="none"), teller)
        teller.close()
    assert (teller.count, teller.said) == (7, [])
