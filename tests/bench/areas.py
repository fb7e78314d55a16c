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

from minicontainer import engine
from minicontainer.image import snapshots
from minicontainer.image.store import Store
from minicontainer.oci.image import LAYER_GZIP, Descriptor, ImageConfig, Platform
from miniecs import placement
from miniecs.model import ContainerInstance, PlacementStrategy, Resources
from tests import bundles, images
from tests.bench.measure import Contender, Table, compare
from tests.control_plane import ControlPlane

COMMANDS = Path(sys.executable).parent  # the installed ones, as people call them
OURS, RUNTIME = f"{COMMANDS}/minicontainer", f"{COMMANDS}/minicontainer-runtime"
UNPACKED, MANY_BYTES, LARGE_BYTES = 8_000, 160 << 20, 200 << 20  # the unpack area's layers: files, bytes, bytes
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
    """An image of three layers to files, both digests verified (by us, umoci, skopeo and podman)."""
    store = Store(f"{scratch}/oci")
    layout, target = f"{scratch}/oci:bench", scratch / "unpacked"
    sizes = _image(store, scratch)
    blobs = " ".join(f"{scratch}/{number}.tgz" for number in range(len(sizes)))

    def empty() -> None:
        for _ in range(3):  # a storage of others may still be mounted
            shutil.rmtree(target, ignore_errors=True)
        target.mkdir(exist_ok=True)

    def ours() -> None:
        manifest = store.manifest(store.resolve("bench"))
        snapshots.unpack(str(target), store, manifest, store.config(manifest))

    def piped(program: str) -> str:
        return f"for blob in {blobs}; do {program} -dc $blob | tar -xC {target} || exit; done"

    storage = f"[overlay@{target}/storage+{target}/run]"
    yield compare(
        f"unpack: {len(sizes)} layers, {sum(sizes) >> 20} MiB",
        [
            Contender("minicontainer (digests verified)", ours, before=empty),
            Contender("igzip | tar (nothing verified)", piped("igzip"), "igzip", empty),
            Contender("gzip | tar (nothing verified)", piped("gzip"), "gzip", empty),
            Contender("umoci unpack", f"umoci unpack --image {layout} {target}/b", "umoci", empty),
            Contender("skopeo copy", f"skopeo copy oci:{layout} containers-storage:{storage}b:1", "skopeo", empty),
            Contender(
                "podman pull",
                f"podman --root {target}/storage --runroot {target}/run pull oci:{layout}",
                "podman",
                empty,
            ),
        ],
        rounds,
        note="a tmpfs as --scratch gives steadier figures",
    )


def _image(store: Store, scratch: Path) -> list[int]:
    """Many small files, files as a Python program has them, and one large file: the sizes of their archives."""
    tars = [_tar(UNPACKED), _tar_of(Path(sys.prefix), MANY_BYTES), _tar_of_one(LARGE_BYTES)]
    layers, diff_ids = [], []
    for number, tar in enumerate(tars):
        blob = gzip.compress(tar, 6, mtime=0)
        (scratch / f"{number}.tgz").write_bytes(blob)
        layers.append(Descriptor(LAYER_GZIP, *store.put(blob)))
        diff_ids.append(f"sha256:{hashlib.sha256(tar).hexdigest()}")
    config = ImageConfig(architecture=Platform.here().architecture, diff_ids=tuple(diff_ids))
    store.tag("bench", store.put_image(layers, config))
    return list(map(len, tars))


def _tar_of(top: Path, limit: int) -> bytes:
    """The files of a real directory, as many as there is room for."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for path in sorted(top.rglob("*")):
            if path.is_file() and not path.is_symlink() and whole.tell() + path.stat().st_size < limit:
                archive.add(path, arcname=f"opt/{path.relative_to(top)}")
    return whole.getvalue()


def _tar_of_one(size: int) -> bytes:
    rng = random.Random(2)
    content = b"".join(rng.randbytes(4096) + bytes(4096) for _ in range(size // 8192))
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        member = tarfile.TarInfo("large")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return whole.getvalue()


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
