"""Outputs: what `--output` makes of a built image besides a name in the store: files, or an archive.

Below `builder`, above the store and `snapshots`. Ruled by docker's command line: type=image, docker, oci, local, tar.
"""

import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

from minicontainer.arguments import UsageError
from minicontainer.build import copying
from minicontainer.build.context import Tree
from minicontainer.build.options import fields
from minicontainer.image import image_archives, overlays, snapshots
from minicontainer.image.store import Store
from minicontainer.oci.image import Descriptor
from minicontainer.oci.reference import Reference

TYPES = ("image", "registry", "docker", "oci", "local", "tar")
FIELDS = ("type", "dest", "name", "push", "tar", "compression")


class Output(NamedTuple):
    """One --output. `names` are further names of the image; `keeps`: the image stays in the store under its names."""

    type: str
    dest: str = ""
    names: tuple[str, ...] = ()
    push: bool = False
    as_directory: bool = False

    @property
    def keeps(self) -> bool:
        return self.type in ("image", "registry") or (self.type == "docker" and not self.dest)


class Place(NamedTuple):
    """Where the image is, and a directory that goes with the build."""

    store: Store
    data: str
    scratch: str


def output(text: str) -> Output:
    """`type=TYPE,dest=PATH,…`; a path alone is a directory for the files, `-` a tar of them on stdout."""
    if "=" not in text:
        return Output(type="tar", dest="-") if text == "-" else Output(type="local", dest=text)
    given = fields("--output", text, FIELDS)
    kind, dest = given.get("type", "image"), given.get("dest", "")
    if kind not in TYPES:
        raise UsageError(f"--output {text}: {kind} is none of {', '.join(TYPES)}")
    if given.get("compression", "gzip") != "gzip":
        raise UsageError(f"--output {text}: layers are compressed by gzip")
    if not dest and kind in ("oci", "tar"):
        dest = "-"
    if not dest and kind == "local":
        raise UsageError(f"--output {text}: needs a directory: dest=DIRECTORY")
    return Output(
        type=kind,
        dest=dest,
        names=tuple(str(Reference.parse(name)) for name in given.get("name", "").split(",") if name),
        push=kind == "registry" or given.get("push") == "true",
        as_directory=given.get("tar") == "false",
    )


def write(place: Place, descriptor: Descriptor, one: Output, names: list[str], epoch: int | None) -> None:
    """Write what a type with a destination asks for."""
    match one.type:
        case "local":
            _copy_out(_rootfs(place, descriptor), one.dest)
        case "tar":
            with _opened(one.dest) as file:
                _archive(_rootfs(place, descriptor), file, epoch)
        case _:
            _write_archive(place, descriptor, one, names)


def _rootfs(place: Place, descriptor: Descriptor) -> Callable[[], str]:
    """A function that mounts the image's files, for a child with a mount namespace of its own."""
    manifest = place.store.manifest(descriptor, descriptor.platform)
    lowers = snapshots.unpack(place.data, place.store, manifest, place.store.config(manifest))
    scratch = tempfile.mkdtemp(dir=place.scratch)
    for name in ("empty", "upper", "work", "root"):
        os.mkdir(f"{scratch}/{name}", 0o755)

    def mount() -> str:
        own = (f"{scratch}/upper", f"{scratch}/work", f"{scratch}/root")
        overlays.mount(lowers or (f"{scratch}/empty",), *own, None)
        return own[-1]

    return mount


def _copy_out(rootfs: Callable[[], str], dest: str) -> None:
    """The files, owned by the caller, as docker's client writes them."""
    os.makedirs(dest, exist_ok=True)
    target = os.path.abspath(dest)

    def child() -> list[str]:
        tree = Tree(rootfs())
        taken = [(tree, source) for source in tree.sources(".")]
        os.chroot(target)
        os.chdir("/")
        owner = f"{os.geteuid()}:{os.getegid()}"
        return copying.place(taken, copying.Copy(destination="/", is_directory=True, owner=owner))

    copying.isolated(child)


def _archive(rootfs: Callable[[], str], file: IO[bytes], epoch: int | None) -> None:
    """A tar of the files in the order of their names, so that the same files give the same bytes."""

    def child() -> list[str]:
        root = rootfs()

        def shown(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
            member.uname = member.gname = ""
            member.mtime = member.mtime if epoch is None else min(int(member.mtime), epoch)
            return member

        with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for parent, directories, names in os.walk(root):
                directories.sort()
                for name in sorted([*directories, *names]):
                    path = os.path.join(parent, name)
                    archive.add(path, os.path.relpath(path, root), recursive=False, filter=shown)
        file.flush()
        return []

    copying.isolated(child)


@contextmanager
def _opened(dest: str) -> Iterator[IO[bytes]]:
    """stdout, or a file that is whole or not there."""
    if dest == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    new = f"{dest}.{os.getpid()}.new"
    try:
        with open(new, "wb") as file:
            yield file
        os.rename(new, dest)
    finally:
        if os.path.exists(new):
            os.unlink(new)


def _write_archive(place: Place, descriptor: Descriptor, one: Output, names: list[str]) -> None:
    """By way of a layout that has this image alone: its blobs are the store's, by hard links."""
    store, alone = place.store, Store(tempfile.mkdtemp(dir=place.scratch))
    for digest in _reachable(store, descriptor):
        os.makedirs(os.path.dirname(alone.blob_path(digest)), exist_ok=True)
        os.link(store.blob_path(digest), alone.blob_path(digest))
    for name in names or [""]:
        alone.tag(name, descriptor)
    if one.as_directory:
        shutil.copytree(alone.root, one.dest, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", "staging"))
        return
    with _opened(one.dest) as file:
        image_archives.save(alone, names or [descriptor.digest], file)


def _reachable(store: Store, descriptor: Descriptor) -> set[str]:
    found = {descriptor.digest}
    for child in store.children(descriptor):
        found |= _reachable(store, child)
    return {digest for digest in found if store.has(digest)}
