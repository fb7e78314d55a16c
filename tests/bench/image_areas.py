"""What is measured of images: unpacking, exchanging, building. Each area as in `areas`."""

import gzip
import hashlib
import io
import random
import shutil
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from minicontainer import engine
from minicontainer.containers import Home
from minicontainer.image import image_archives, snapshots
from minicontainer.image.store import Store
from minicontainer.oci.image import LAYER_GZIP, Descriptor, ImageConfig, Platform
from tests import images as image_makers
from tests import registries
from tests.bench import peers
from tests.bench.measure import OURS, Contender, Table, call, compare

UNPACKED, MANY_BYTES, LARGE_BYTES = 8_000, 160 << 20, 200 << 20  # the layers: files, bytes, bytes
COPIED = 2_000  # files of the build area's context


def archive(home: Home, name: str, scratch: Path) -> Path:
    """The image as docker's archive, for the peers."""
    place = scratch / "for-peers.tar"
    with place.open("wb") as file:
        image_archives.save(engine.open_store(home), [name], file)
    return place


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


def images(scratch: Path, rounds: int) -> Iterator[Table]:
    """An image of three layers to and from an archive, and to and from a registry of ours on loopback."""
    home = Home(data=f"{scratch}/home", run=f"{scratch}/home/run")
    store = engine.open_store(home)
    size = sum(_image(store, scratch)) >> 20
    packed = archive(home, "bench", scratch)
    ours, fresh = f"{OURS} --root {home.data}", scratch / "fresh"
    podman = f"podman --root {fresh}/p --runroot {fresh}/r --cgroup-manager=cgroupfs"
    layout = f"oci:{home.data}/oci:bench"

    def empty() -> None:
        for _ in range(3):  # a storage of others may still be mounted
            shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(exist_ok=True)

    with ExitStack() as undo:
        docker = undo.enter_context(peers.docker(scratch))
        containerd = undo.enter_context(peers.containerd(scratch))
        host, _ = undo.enter_context(registries.serving(scratch / "registry"))

        def forget(peer: peers.Peer) -> None:
            words = "rmi -f" if peer is docker else "images rm --sync"
            for name in ("bench", f"{host}/bench:1", "docker.io/library/bench:latest"):
                call(f"{peer.command} {words} {name} || true")

        def daemon(name: str, peer: peers.Peer | None, words: str) -> list[Contender]:
            if peer is None:
                return []
            return [Contender(name, f"{peer.command} {words}", before=lambda: forget(peer), daemons=peer.pids)]

        yield compare(
            f"load: an archive, {size} MiB unpacked; by us, podman and docker also unpacked, by skopeo copied",
            [
                Contender(
                    "minicontainer load, and unpacked",
                    f"{OURS} --root {fresh} load -i {packed} && {OURS} --root {fresh} create --network none bench true",
                    before=empty,
                ),
                Contender("skopeo copy", f"skopeo copy docker-archive:{packed} oci:{fresh}/o:b", "skopeo", empty),
                Contender("podman load", f"{podman} load -i {packed}", "podman", empty),
                *daemon("docker load", docker, f"load -i {packed}"),
                *daemon("ctr images import", containerd, f"images import {packed}"),
            ],
            rounds,
        )
        yield compare(
            "save: an archive of an image that is here",
            [
                Contender("minicontainer save", f"{ours} save -o {fresh}/saved bench", before=empty),
                Contender("skopeo copy", f"skopeo copy {layout} docker-archive:{fresh}/saved", "skopeo", empty),
            ],
            rounds,
        )
        call(f"{ours} tag bench {host}/bench:1")
        yield compare(
            "push: to a registry of ours that has it all but the manifest",
            [
                Contender("minicontainer push", f"{ours} push {host}/bench:1"),
                Contender(
                    "skopeo copy", f"skopeo copy --dest-tls-verify=false {layout} docker://{host}/bench:1", "skopeo"
                ),
            ],
            rounds,
        )
        yield compare(
            "pull: from it; by skopeo copied, by all others unpacked too",
            [
                Contender("minicontainer pull", f"{OURS} --root {fresh} pull {host}/bench:1", before=empty),
                Contender(
                    "skopeo copy",
                    f"skopeo copy --src-tls-verify=false docker://{host}/bench:1 oci:{fresh}/o:b",
                    "skopeo",
                    empty,
                ),
                Contender("podman pull", f"{podman} pull --tls-verify=false {host}/bench:1", "podman", empty),
                *daemon("docker pull", docker, f"pull -q {host}/bench:1"),
                *daemon("ctr images pull", containerd, f"images pull --plain-http {host}/bench:1"),
            ],
            rounds,
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
    home = image_makers.busybox(scratch / "home", "docker.io/library/bench-base:latest")
    context = scratch / "context"
    for directory, count in (("few", 20), ("many", COPIED)):
        (context / directory).mkdir(parents=True)
        for number in range(count):
            (context / directory / f"f{number}").write_text(f"{number}\n" * 20)
    (context / "Dockerfile").write_text(DOCKERFILE.format(base="bench-base"))
    ours = f"{OURS} --root {home.data} build -q --network none"
    (scratch / "base.tar").write_bytes(image_makers.layer(image_makers.busybox_files()))
    with peers.docker(scratch) as docker, peers.podman(scratch) as podman:
        for command in filter(None, (podman, docker and docker.command)):
            call(f"{command} import {scratch}/base.tar bench-base")
        for kind, flag in (("cold", " --no-cache"), ("fully cached", "")):
            contenders = [Contender("minicontainer build", f"{ours}{flag} {context}")]
            if podman:
                command = f"{podman} build --layers -q --network none{flag} {context}"
                contenders.append(Contender("podman build (buildah)", command))
            if docker:
                command = f"DOCKER_BUILDKIT=1 {docker.command} build -q --network none{flag} {context}"
                contenders.append(Contender("docker build (BuildKit)", command, daemons=docker.pids))
            yield compare(f"build: {kind}", contenders, rounds)
