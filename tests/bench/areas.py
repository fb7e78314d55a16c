"""What is measured, by area. Each area takes a scratch directory and a number of rounds, and gives tables."""

import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from minicontainer import engine
from miniecs import placement
from miniecs.model import ContainerInstance, PlacementStrategy, Resources
from tests import bundles, images
from tests.bench import image_areas, peers
from tests.bench.measure import OURS, RUNTIME, Contender, Table, call, compare
from tests.control_plane import ControlPlane

INSTANCES, TASKS = 500, 200

Area = Callable[[Path, int], Iterator[Table]]


def start(scratch: Path, rounds: int) -> Iterator[Table]:
    """`true`, from start to exit, cleaned up."""
    bundle = bundles.bundle(scratch / "bundle", "true")
    run = f"run --bundle {bundle} bench-$$"
    yield compare(
        "start: an OCI bundle's `true`, cold command line",
        [
            Contender("minicontainer-runtime run", f"{RUNTIME} --root {scratch}/ours {run}"),
            Contender("crun run", f"crun --root {scratch}/crun {run}", "crun"),
            Contender("runc run", f"runc --root {scratch}/runc {run}", "runc"),
        ],
        rounds,
    )
    home = images.busybox(scratch / "home")
    yield compare(
        "start: `run --rm` of an image's `true`, network none",
        [
            Contender("minicontainer run", f"{OURS} --root {home.data} run --rm --network none busybox true"),
            Contender("podman run", "podman run --rm --network none busybox true", "podman"),
            Contender("docker run", "docker run --rm --network none busybox true", "dockerd"),
            Contender("engine in a warm process", lambda: _run_warm(home)),
        ],
        rounds,
        note="the peers need an image of the name busybox",
    )


def _run_warm(home: engine.Home) -> None:
    assert engine.run(home, engine.Options(image="busybox", command=("true",), network="none")) == 0


def many(scratch: Path, rounds: int) -> Iterator[Table]:
    """50 containers, then 200, started in the background one after the other; then what keeps them."""
    home = images.busybox(scratch / "home")
    ours, watched = f"{OURS} --root {home.data}", dict[str, list[int]]()

    def start(count: int, command: str, keepers: Callable[[], list[int]]) -> None:
        for _ in range(count):
            call(f"{command} run -d --network none busybox sleep 600")
        watched[command] = [peers.memory(pid) for pid in keepers()]

    def end(command: str) -> None:
        call(f"{command} rm -f $({command} ps -aq) || true")

    def supervisors() -> list[int]:
        return [one.supervisor_pid for one in engine.list_containers(home)]

    with peers.docker(scratch) as docker:
        if docker:
            call(f"{docker.command} load -q -i {image_areas.archive(home, 'busybox', scratch)}")
        for count in (50, 200):
            contenders = [
                Contender("minicontainer run -d", partial(start, count, ours, supervisors), before=partial(end, ours))
            ]
            if docker:
                command, shims = docker.command, partial(peers.shims, docker)
                started = partial(start, count, command, shims)
                contenders.append(
                    Contender("docker run -d", started, before=partial(end, command), daemons=docker.pids)
                )
            table = compare(f"many: {count} containers, one after the other", contenders, min(rounds, 2))
            sizes = [f"{sum(found) / len(found) / 2**20:.1f} MiB" for found in watched.values()]
            yield table._replace(note=f"what keeps one of them, Pss: {', '.join(sizes)}")
            for contender in contenders:
                contender.before()


def api(scratch: Path, rounds: int) -> Iterator[Table]:
    """Signed calls over HTTP, one after the other."""
    plane = ControlPlane(scratch / "server").start()
    try:
        client = plane.client("ecs")
        definition = [{"name": "c", "image": "i", "memory": 8}]
        calls: dict[str, Callable[[], object]] = {
            "DescribeClusters": lambda: client.describe_clusters(),
            "RegisterTaskDefinition (durable)": lambda: client.register_task_definition(
                family="bench", containerDefinitions=definition
            ),
        }
        for name, call in calls.items():
            yield compare(
                f"api: {name}, boto3 to answer",
                [Contender("miniecs server", call)],
                max(rounds, 50),
                note="most of it is boto3's own time; no emulator of ECS is compared yet",
            )
    finally:
        plane.stop()


def place(_: Path, rounds: int) -> Iterator[Table]:
    """Decisions of placement, pure: no peer places anything that could be called."""
    instances = [
        ContainerInstance(
            container_instance_arn=f"arn:aws:ecs:r:0:container-instance/c/{number:04}",
            cluster_arn="arn:aws:ecs:r:0:cluster/c",
            registered=Resources(cpu=4096, memory=8192),
            agent_connected=True,
        )
        for number in range(INSTANCES)
    ]
    strategies = {
        "spread by instance": PlacementStrategy(type="spread", field="instanceId"),
        "binpack by memory": PlacementStrategy(type="binpack", field="memory"),
    }

    def decide(strategy: PlacementStrategy) -> None:
        requirement = placement.Requirement(needs=Resources(cpu=128, memory=64), strategy=(strategy,))
        for _ in range(TASKS):
            assert placement.place(requirement, instances, {}, random.Random(1)).chosen

    contenders = [
        Contender(name, lambda strategy=strategy: decide(strategy))  # type: ignore[misc]  # bound now, on purpose
        for name, strategy in strategies.items()
    ]
    yield compare(f"place: {TASKS} decisions over {INSTANCES} instances", contenders, min(rounds, 5))


AREAS: dict[str, Area] = {
    "start": start,
    "many": many,
    "unpack": image_areas.unpack,
    "images": image_areas.images,
    "build": image_areas.build,
    "api": api,
    "place": place,
}


def environment() -> None:
    """Nothing of the caller's settings may change what is measured."""
    for name in ("MINICONTAINER_ROOT", "SOURCE_DATE_EPOCH", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
