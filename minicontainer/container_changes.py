"""Container changes: what a container or an image is as files: diff, commit, export, import, unpack.

Stands above `engine`, whose containers it looks at, and the store. Ruled by docker's commands of these names and by
umoci's unpack. What is seen through an overlay is read from a read-only one of its own, in a process that has a mount
namespace of its own, so that no mount is left whatever dies.
"""

import datetime
import os
import sys
from collections.abc import Callable, Sequence
from typing import BinaryIO

from minicontainer import engine, files
from minicontainer.arguments import Parsed, UsageError
from minicontainer.build import dockerfile, stages
from minicontainer.containers import RUNNING, Container, Home
from minicontainer.errors import Error, ImageNotFound
from minicontainer.image import archives, changesets, layer_blobs, layers, merged, snapshots, tar
from minicontainer.image.archives import Reader
from minicontainer.image.store import Store
from minicontainer.oci.image import ContainerConfig, Descriptor, History, ImageConfig, Platform
from minicontainer.oci.reference import Reference
from minicontainer.runtime import operations

CHUNK = 1 << 20
ADDED, CHANGED, DELETED = "A", "C", "D"
CHANGES = ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME",
           "WORKDIR")  # fmt: skip

# --- diff ------------------------------------------------------------------------------------------------------------


def diff(home: Home, parsed: Parsed) -> int:
    for kind, path in changes(engine.inspect(home, parsed.words[0])):
        print(f"{kind} /{os.fsdecode(path)}")
    return 0


def changes(container: Container) -> list[tuple[str, bytes]]:
    """What the container has written over its image, by path."""
    found = []
    top = os.open(container.upper, changesets.DIRECTORY)
    try:
        for _, _, path, status in layers.walk_upper(top):
            parts = tuple(path.split(b"/"))
            below = any(layers.status_in(lower, parts) for lower in container.lowers)
            if not changesets.is_whiteout(status):
                found.append((CHANGED if below else ADDED, path))
            elif below:
                found.append((DELETED, path))
    finally:
        os.close(top)
    return sorted(found, key=lambda change: change[1])


# --- commit and import -----------------------------------------------------------------------------------------------


def commit(home: Home, parsed: Parsed) -> int:
    """An image of a container's base image and what it has written; it stands still meanwhile."""
    container = engine.inspect(home, parsed.words[0])
    store = engine.open_store(home)
    pauses = container.status == RUNNING and not parsed.no_pause
    with store.session():
        try:
            base = store.manifest(store.resolve(container.image_id))
        except ImageNotFound:
            raise Error(
                f"the image of container {container.name} is gone; try: minicontainer pull {container.image}"
            ) from None
        before = store.config(base)
        changed = _changed(_as_it_ran(before.config, container), parsed.change)
        if pauses:
            operations.pause(home.runtime, container.id)
        try:
            layer, diff_id = layer_blobs.commit(store, container.upper)
        finally:
            if pauses:
                operations.resume(home.runtime, container.id)
        history = History(_now(), " ".join(container.command), parsed.author or "", parsed.message or "")
        config = before._replace(
            created=_now(),
            author=parsed.author or before.author,
            config=changed,
            diff_ids=(*before.diff_ids, diff_id),
            history=(*before.history, history),
        )
        _name(store, store.put_image([*base.layers, layer], config), parsed.words[1:])
    return 0


def _as_it_ran(config: ContainerConfig, container: Container) -> ContainerConfig:
    """What `run` has said otherwise than the image."""
    options = container.options
    names = {text.partition("=")[0] for text in options.env}
    env = (*(text for text in config.env if text.partition("=")[0] not in names), *options.env)
    return config._replace(
        env=tuple(text for text in env if "=" in text),
        cmd=options.command or config.cmd,
        entrypoint=config.entrypoint if options.entrypoint is None else options.entrypoint,
        working_dir=options.workdir or config.working_dir,
        user=options.user or config.user,
        labels={**config.labels, **options.labels},
    )


def import_(home: Home, parsed: Parsed) -> int:
    """An image of one layer, an archive of a file system as `export` and others write it."""
    source = parsed.words[0]
    if source == "-" and sys.stdin.isatty():
        raise UsageError("an archive is expected on stdin; try: minicontainer import FILE")
    platform = Platform.parse(parsed.platform) if parsed.platform else Platform.here()
    changed = _changed(ContainerConfig(), parsed.change)
    store = engine.open_store(home)
    with store.session():
        if source == "-":
            layer, diff_id = _layer_of(store, sys.stdin.buffer)
        else:
            with open(source, "rb") as file:
                layer, diff_id = _layer_of(store, file)
        history = History(created=_now(), comment=parsed.message or f"Imported from {source}")
        config = ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            created=_now(),
            config=changed,
            diff_ids=(diff_id,),
            history=(history,),
        )
        _name(store, store.put_image([layer], config), parsed.words[1:])
    return 0


def _layer_of(store: Store, stream: BinaryIO) -> tuple[Descriptor, str]:
    """The archive as a layer; read through once, so that what is no archive is refused before it has a name."""
    with store.writer() as writer:
        summing = layer_blobs.Summing(writer)
        teed = _Teed(archives.decompressed(stream), summing.write)
        entries = sum(1 for _ in tar.members(teed))
        while teed.read(CHUNK):
            continue
        if not entries:
            raise Error("there is no archive, or nothing in it; a tar is expected, compressed or not")
        diff_id = summing.close()
        return layer_blobs.finished(writer), diff_id


class _Teed:
    """Reads through, and passes on what came."""

    def __init__(self, stream: Reader, write: Callable[[bytes], object]) -> None:
        self._stream, self._write = stream, write

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        if data:
            self._write(data)
        return data


def _changed(config: ContainerConfig, texts: Sequence[str]) -> ContainerConfig:
    """With `--change` applied: instructions of a Dockerfile that touch no file."""
    state = stages.State(config=config)
    for text in texts:
        parsed = dockerfile.parse(f"FROM scratch\n{text}", "--change")
        for instruction in parsed.instructions[1:]:
            if instruction.keyword not in CHANGES:
                raise UsageError(f"--change {text!r}: one of {', '.join(CHANGES)} is expected")
            scope = stages.Scope(given={}, declared={}, platform={}, escape=parsed.escape)
            try:
                state = stages.apply(instruction, state, scope)
            except ValueError as error:
                raise UsageError(f"--change {text!r}: {error}") from None
    return state.config


def _name(store: Store, descriptor: Descriptor, names: Sequence[str]) -> None:
    store.tag(str(Reference.parse(names[0])) if names else "", descriptor)
    print(store.manifest(descriptor).config.digest)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- export and unpack -----------------------------------------------------------------------------------------------


def export(home: Home, parsed: Parsed) -> int:
    """The container's files as an archive."""
    container = engine.inspect(home, parsed.words[0])
    stacked = [container.upper, *container.lowers]
    if parsed.output:
        half = f"{parsed.output}.{os.getpid()}.new"
        try:
            with open(half, "xb") as file:
                merged.write(stacked, file.fileno())
            os.rename(half, parsed.output)
        finally:
            if os.path.exists(half):
                os.unlink(half)
        return 0
    if sys.stdout.isatty():
        raise UsageError("an archive does not belong on a terminal; try: minicontainer export --output FILE")
    merged.write(stacked, 1)
    return 0


def unpack(home: Home, parsed: Parsed) -> int:
    """An image's files as a plain directory: its layers, one over the other."""
    name, rootfs = parsed.words
    rootfs = os.path.abspath(rootfs)
    if os.path.lexists(rootfs) and (not os.path.isdir(rootfs) or os.listdir(rootfs)):
        raise Error(f"{rootfs} is there and not an empty directory; try: another one")
    half = f"{rootfs}.{os.getpid()}.new"
    try:
        os.makedirs(half, mode=0o755)
        if name.startswith("oci:"):
            store, tag = _layout(name.removeprefix("oci:"))
            lowers = _unpacked(f"{half}.layers", store, tag, parsed.platform)
        else:
            lowers = _unpacked(home.data, engine.open_store(home), name, parsed.platform)
        merged.copy(lowers, half)
        os.rename(half, rootfs)
    finally:
        files.remove_tree(f"{half}.layers")
        files.remove_tree(half)
    return 0


def _layout(text: str) -> tuple[Store, str]:
    """`DIR[:TAG]`; without a tag the only image there."""
    ends = [*(index for index, letter in enumerate(text) if letter == ":"), len(text)]
    end = next((end for end in ends if os.path.exists(f"{text[:end]}/index.json")), None)
    if end is None:
        raise Error(f"{text} is not an OCI layout: it has no index.json")
    directory, tag = text[:end], text[end + 1 :]
    store = Store(directory)
    known = sorted({name for name, _ in store.names()}) or [entry.digest for entry in store.entries()]
    if not tag and len(known) != 1:
        raise Error(f"{directory} has {len(known)} images; try: oci:{directory}:TAG with one of {', '.join(known)}")
    return store, tag or known[0]


def _unpacked(data_root: str, store: Store, name: str, platform: str | None) -> tuple[str, ...]:
    wanted = Platform.parse(platform) if platform else None
    manifest = store.manifest(store.resolve(name), wanted)
    return snapshots.unpack(data_root, store, manifest, store.config(manifest))
