"""The build cache: never wrong, whatever was built before; never half, whenever a build dies; and given back."""

import io
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicontainer import cli, engine
from minicontainer.build import builder, storage
from minicontainer.build.builder import Request
from minicontainer.build.progress import Progress
from minicontainer.plan import explain_on
from tests.kernel.test_dockerfiles import Files, World, place, world

__all__ = ["place", "world"]  # the fixtures

EXAMPLES = int(os.environ.get("EXAMPLES", "12"))  # more, and others each time: EXAMPLES=200 ./dev test -k cached_build
EPOCH = {"SOURCE_DATE_EPOCH": "1000000000"}

# --- never wrong

NAMES = st.sampled_from(["a", "b", "d/c"])
CONTENTS = st.sampled_from(["1", "2"])
STEPS = st.one_of(
    st.tuples(NAMES, st.sampled_from(["/x", "/y/", "/x/z"])).map(lambda pair: f"COPY {pair[0]} {pair[1]}"),
    st.tuples(
        st.sampled_from(["--chmod=700", "--chown=1:2", "--link", "--exclude=c"]), st.sampled_from(["/d", "/e"])
    ).map(lambda pair: f"COPY {pair[0]} d {pair[1]}/"),
    st.sampled_from(["ENV k=1", "ENV k=2", "ARG v=1", "ARG v=2", "LABEL l=1", "WORKDIR /w", "WORKDIR sub", "USER 3"]),
    st.sampled_from(
        [
            "RUN ls / > /tmp/listed",
            "RUN echo $k$v > /tmp/said",
            "RUN --mount=target=/m cat /m/a /m/b > /tmp/seen",
            "RUN --mount=from=first,target=/m ls /m > /tmp/first",
            "RUN rm -rf /tmp/said",
        ]
    ),
    st.sampled_from(["COPY --from=first /bin/made /tmp/", "COPY --from=first /etc /tmp/etc"]),
)
TEXTS = st.tuples(st.lists(STEPS, max_size=2), st.lists(STEPS, min_size=1, max_size=5)).map(
    lambda parts: "\n".join(
        ["FROM base AS first", "RUN echo 1 > /bin/made; chmod 777 /tmp", *parts[0], "FROM base", *parts[1]]
    )
)
FILES = st.fixed_dictionaries({"a": CONTENTS, "b": CONTENTS, "d/c": CONTENTS})


def outcome(world: World, text: str, files: Files, **asked: bool) -> str:
    """The image's digest, or what was wrong."""
    try:
        return world.build(text, files, build_args=EPOCH, **asked).digest
    except builder.BuildError as error:
        return str(error)


@pytest.mark.fuzz
@pytest.mark.kernel("overlay")
def test_a_cached_build_gives_the_image_that_an_uncached_one_gives(world: World) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 12, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(TEXTS, FILES), min_size=1, max_size=2))
    def is_the_same(versions: list[tuple[str, dict[str, str]]]) -> None:
        cached = [outcome(world, text, files) for text, files in versions]
        again = [outcome(world, text, files) for text, files in versions]
        fresh = [outcome(world, text, files, no_cache=True) for text, files in versions]
        assert cached == again == fresh

    is_the_same()


# --- why


@pytest.mark.kernel("overlay")
def test_each_step_says_why_it_was_cached_or_not(world: World) -> None:
    text = "FROM base\nARG v=1\nCOPY a b /x/\nRUN echo $v > /explained\n"

    def told(text: str, files: Files, **asked: object) -> list[str]:
        reader, writer = os.pipe()
        with open(reader, "rb"), open(writer, "wb"):
            built = world.build(text, files, explain=explain_on(writer, "creator"), **asked)
        return [line.split(" ", 2)[2] for line in built.told.splitlines() if "cached: " in line]

    new = "not cached: nothing is known of this step: it is new, or was pruned"
    assert told(text, {"a": "1", "b": "1"}) == [new, new]
    assert told(text, {}) == [
        "cached: nothing has changed: layers below, instruction, copy, sources",
        "cached: nothing has changed: layers below, instruction, command, environment, working directory, network, "
        "security",
    ]
    assert told(text, {}, build_args={"v": "2"})[1] == 'not cached: environment: v was "1", is "2"'
    assert told(text, {"b": "2"}) == ["not cached: b has changed", 'not cached: the layers below are others; '
                                      'environment: v was "2", is "1"']  # fmt: skip


# --- given back


def run(world: World, *words: str) -> int:
    return cli.main(["--root", world.home.data, *words])


@pytest.mark.kernel("overlay")
def test_what_builds_keep_is_listed_and_given_back(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    text = "FROM base\nRUN --mount=type=cache,id=listed,target=/c echo kept > /c/k; seq 99999 > /large\n"
    world.build(text, tags=("named",))
    world.build(text.replace("99999", "88888"))
    for entry in world_store(world).entries():
        if not entry.annotations:
            world_store(world).remove(entry.digest)
    assert run(world, "builder", "du") == 0
    listed = capfd.readouterr().out
    assert "mount" in listed and "listed" in listed and "shared with an image" in listed
    assert run(world, "builder", "prune", "--filter", "until=1h") == 0
    assert capfd.readouterr().out == "removed 0 entries, 0B\n"
    assert run(world, "builder", "prune", "--keep-storage", "1g") == 0
    assert capfd.readouterr().out == "removed 0 entries, 0B\n"
    assert run(world, "builder", "prune") == 0
    assert "mount" not in str(storage.records(world.home))
    assert world.build(text, tags=("named",)).cached == 1  # its step is that of an image
    capfd.readouterr()
    assert run(world, "builder", "prune", "--all") == 0
    assert storage.records(world.home) == []
    built = world.build(text, tags=("named",))
    assert built.cached == 0 and built.tree["large"].startswith("f 644 1\n2\n")


def world_store(world: World) -> builder.Store:
    return engine.open_store(world.home)


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("clean",), "builder: clean is none of prune, du"),
        (("prune", "--filter", "age=1"), "--filter age=1: until=24h is expected"),
        (("prune", "--filter", "until=1y"), "--filter until=1y: until=24h is expected"),
        (("prune", "--keep-storage", "much"), "--keep-storage 'much': a size such as 512m or 2g is expected"),
    ],
)
def test_what_cannot_be_pruned_is_one_line(
    world: World, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert run(world, "builder", *words) == 125
    assert capfd.readouterr().err.startswith(f"minicontainer: {said}")


@pytest.mark.kernel("overlay")
def test_the_longest_unused_goes_first(world: World) -> None:
    run(world, "builder", "prune", "--all")
    for number in (1, 2, 3):
        world.build(f"FROM base\nRUN seq {number} 50000 > /large\n")
    untagged = [entry for entry in world_store(world).entries() if not entry.annotations]
    for entry in untagged:
        world_store(world).remove(entry.digest)
    steps = [record for record in storage.records(world.home) if record.kind == "step"]
    assert len(steps) == 3
    count, freed = storage.prune(world.home, keep=steps[0].size + 1)
    assert (count, freed > 0) == (2, True)
    [left] = storage.records(world.home)
    assert left.name == steps[2].name
    assert storage.prune(world.home, older=1, now=time.time() + 100)[0] == 1


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    "words", [("rmi", "goes"), ("image", "prune", "--all", "--force", "--filter", "label=goes"), ("prune",)]
)
def test_images_go_and_the_steps_that_made_them_stay(
    world: World, capfd: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """Whatever frees layers and blobs: what the cache holds is given back by `builder prune` alone."""
    text = (
        "FROM base AS other\nRUN echo 1 > /other\n"
        "FROM base\nRUN echo 2 > /f\nCOPY --from=other /other /\nLABEL goes=1\n"
    )
    first = world.build(text, tags=("goes",))
    if words == ("prune",):
        world_store(world).untag("docker.io/library/goes:latest")
    assert run(world, *words) == 0
    again = world.build(text, tags=("goes",))
    assert (again.cached, again.digest) == (3, first.digest)
    capfd.readouterr()
    run(world, "rmi", "goes")
    run(world, "builder", "prune", "--all")
    assert world.build(text).cached == 0


# --- never half


def children(text: str) -> Iterator[str]:
    """The same build with other files, so that it has something to do."""
    for number in range(1 << 30):
        yield text.replace("NUMBER", str(number))


@pytest.mark.kernel("overlay")
def test_a_build_that_is_killed_at_any_moment_leaves_a_cache_that_is_right(world: World) -> None:
    text = (
        "FROM base AS f\nRUN seq 2000 > /made-NUMBER\nCOPY d /d\nFROM base\nCOPY --from=f /d /all\nRUN ls /all > /l\n"
    )
    files: Files = {f"d/{number}": "x" * number for number in range(50)}
    world.put(files)
    points = int(os.environ.get("POINTS", "8"))  # others with POINTS=200
    rng = random.Random(5 if points == 8 else os.urandom(8))
    for attempt, version in zip(range(points), children(text), strict=False):
        (world.context / "Dockerfile").write_text(version)
        if (child := os.fork()) == 0:
            try:
                request = Request(context=str(world.context), network="none", tags=(f"k{attempt}",), build_args=EPOCH)
                builder.build(world.home, request, Progress(io.StringIO()))
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.01, 0.35))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        cached = world.build(version, build_args=EPOCH)
        fresh = world.build(version, build_args=EPOCH, no_cache=True)
        assert cached.digest == fresh.digest
    assert engine.list_containers(world.home) == []
    assert os.listdir(f"{world.home.data}/cache/build/work") == []


@pytest.mark.kernel("overlay")
def test_a_cache_that_is_damaged_is_a_miss(world: World) -> None:
    text = "FROM base\nCOPY a /damaged\n"
    first = world.build(text, {"a": "1"}, build_args=EPOCH)
    for parent in ("steps", "reasons", "digests"):
        for path in Path(world.home.data, "cache", "build").glob(f"{parent}/*"):  # of new files no digests are kept
            path.write_bytes(b"")
    again = world.build(text, build_args=EPOCH)
    assert (again.cached, again.digest) == (0, first.digest)
