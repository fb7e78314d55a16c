"""What is measured, by area. Each area takes a scratch directory and a number of rounds, and gives tables."""

import gzip
import hashlib
import io
import os
import random
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from minicontainer import engine, snapshots
from minicontainer.oci.image import LAYER_GZIP, Descriptor, ImageConfig, Manifest, Platform
from minicontainer.store import Store
from miniecs import placement
from miniecs.model import ContainerInstance, PlacementStrategy, Resources
from tests import bundles, images
from tests.bench.measure import Contender, Table, compare
from tests.control_plane import ControlPlane

COMMANDS = Path(sys.executable).parent  # the installed ones, as people call them
OURS, RUNTIME = f"{COMMANDS}/minicontainer", f"{COMMANDS}/minicontainer-runtime"
UNPACKED = 3_000  # files of the unpack area's layer
COPIED = 2_000  # files of the build area's context
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


def unpack(scratch: Path, rounds: int) -> Iterator[Table]:
    """A layer to files, both digests verified (by us)."""
    store = Store(f"{scratch}/oci")
    tar = _tar(UNPACKED)
    blob = gzip.compress(tar, 6, mtime=0)
    digest, size = store.put(blob)
    (scratch / "layer.tgz").write_bytes(blob)
    diff_id = f"sha256:{hashlib.sha256(tar).hexdigest()}"
    manifest = Manifest(config=Descriptor("", digest, 0), layers=(Descriptor(LAYER_GZIP, digest, size),))
    config = ImageConfig(architecture=Platform.here().architecture, diff_ids=(diff_id,))
    target = scratch / "unpacked"

    def empty() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()

    def ours() -> None:
        snapshots.unpack(str(target), store, manifest, config)

    archive = f"{scratch}/layer.tgz"
    yield compare(
        f"unpack: {UNPACKED} files, {len(tar) >> 20} MiB",
        [
            Contender("minicontainer (digests verified)", ours, before=empty),
            Contender("igzip | tar (nothing verified)", f"igzip -dc {archive} | tar -xC {target}", "igzip", empty),
            Contender("gzip | tar (nothing verified)", f"gzip -dc {archive} | tar -xC {target}", "gzip", empty),
            Contender("bsdtar (nothing verified)", f"bsdtar -xf {archive} -C {target}", "bsdtar", empty),
            Contender("umoci unpack", f"umoci unpack --image {scratch}/oci:bench {target}/b", "umoci", empty),
        ],
        rounds,
    )


def _tar(count: int) -> bytes:
    """A layer like a program's: small text files in directories."""
    rng = random.Random(1)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for number in range(count):
            member = tarfile.TarInfo(f"usr/lib/d{number % 97}/f{number}")
            content = rng.randbytes(rng.randrange(8_000)).hex().encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return whole.getvalue()


DOCKERFILE = """\
FROM {base} AS tools
RUN mkdir /tools && echo tool > /tools/t
COPY few /tools/few
RUN ls /tools > /tools/list
FROM {base}
ENV A=1 B=2
COPY many /srv/many
RUN ls /srv/many | wc -l > /srv/count
COPY --from=tools /tools /tools
RUN cat /tools/list > /srv/list
CMD ["true"]
"""


def build(scratch: Path, rounds: int) -> Iterator[Table]:
    """Two stages, 2,000 files to copy, four RUNs."""
    home = images.busybox(scratch / "home", "docker.io/library/bench-base:latest")
    context = scratch / "context"
    for directory, count in (("few", 20), ("many", COPIED)):
        (context / directory).mkdir(parents=True)
        for number in range(count):
            (context / directory / f"f{number}").write_text(f"{number}\n" * 20)
    (context / "Dockerfile").write_text(DOCKERFILE.format(base="bench-base"))
    ours = f"{OURS} --root {home.data} build -q --network none"
    peers = {
        "docker build (BuildKit)": ("dockerd", "DOCKER_BUILDKIT=1 docker build -q --network none"),
        "buildah build": ("buildah", "buildah build --layers -q --network none"),
        "podman build": ("podman", "podman build --layers -q --network none"),
    }
    for kind, flag in (("cold", " --no-cache"), ("fully cached", "")):
        contenders = [Contender("minicontainer build", f"{ours}{flag} {context}")]
        contenders += [Contender(name, f"{words}{flag} {context}", needs) for name, (needs, words) in peers.items()]
        yield compare(f"build: {kind}", contenders, rounds, note="the peers need an image of the name bench-base")


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


AREAS: dict[str, Area] = {"start": start, "unpack": unpack, "build": build, "api": api, "place": place}


def environment() -> None:
    """Nothing of the caller's settings may change what is measured."""
    for name in ("MINICONTAINER_ROOT", "SOURCE_DATE_EPOCH", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
