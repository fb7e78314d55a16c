"""Container copies: `cp`: files between a container and this computer, as a stream between two processes.

Stands on `trees`, the two ends, and `engine`. The end in the container is a child in the mount and user namespace of
the container: each name is resolved there, each file is the container's, and nothing of the host is in reach. It
follows no magic link of /proc and loads nothing once it is there (CVE-2018-15664, CVE-2019-14271, CVE-2021-41089). Of a
container that does not run, it sees the layers in an overlay of its own, with the volumes. Ruled by docker's `cp`.
"""

import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, NamedTuple, NoReturn, cast

from minicontainer import engine, files, trees
from minicontainer.arguments import Parsed, UsageError
from minicontainer.containers import RUNNING, Container, Home, Volume
from minicontainer.errors import Error
from minicontainer.image import archives, overlays
from minicontainer.last_words import tell, told
from minicontainer.linux import procfs, syscalls
from minicontainer.linux.flags import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
)
from minicontainer.runtime import init, rootfs

CHUNK = 1 << 20
Act = Callable[[trees.Top, BinaryIO], None]


class Place(NamedTuple):
    """`CONTAINER:PATH`, a path of this computer, or `-`: an archive on stdin or stdout."""

    container: str
    path: str


class CopyFailed(Error):
    exit_code = 1  # as docker's


def cp(home: Home, parsed: Parsed) -> int:
    source, target = (_place(word) for word in parsed.words)
    if bool(source.container) == bool(target.container):
        raise UsageError("cp: one of the two is CONTAINER:PATH, the other a path of this computer or -")
    container = engine.inspect(home, source.container or target.container)
    try:
        (_get if source.container else _put)(home, container, source.path, target.path, parsed)
    except BrokenPipeError:
        raise  # who reads the archive has enough
    except Error as error:
        raise CopyFailed(str(error)) from error
    except OSError as error:
        name = os.fsdecode(error.filename) if error.filename else "cp"
        raise CopyFailed(f"{name}: {error.strerror}") from error
    return 0


def _place(word: str) -> Place:
    name, colon, path = word.partition(":")
    if not colon or word.startswith(("/", ".")):
        return Place("", word)
    if not name or not path:
        raise UsageError(f"cp: {word!r} is not CONTAINER:PATH")
    return Place(name, f"/{path.removeprefix('/')}")


def _get(home: Home, container: Container, path: str, target: str, parsed: Parsed) -> None:
    if target == "-" and sys.stdout.isatty():
        raise UsageError("cp: an archive does not belong on a terminal; try: a file behind >")

    def there(top: trees.Top, stream: BinaryIO) -> None:
        trees.send(top, path, stream, parsed.follow_link)

    with _inside(home, container, path, there, "rb") as stream:
        if target == "-":
            shutil.copyfileobj(stream, sys.stdout.buffer, CHUNK)
            sys.stdout.buffer.flush()
        else:
            # What a container calls root's and set-user-ID is not to be so here, unless that is asked for.
            how = trees.How(owners=parsed.archive, mode=0o7777 if parsed.archive else 0o1777)
            trees.receive(_here(), _absolute(target), stream, how)


def _put(home: Home, container: Container, source: str, path: str, parsed: Parsed) -> None:
    if source == "-" and sys.stdin.isatty():
        raise UsageError("cp: an archive is expected on stdin; try: cp FILE CONTAINER:PATH")
    receive = trees.receive_archive if source == "-" else trees.receive

    def there(top: trees.Top, stream: BinaryIO) -> None:
        receive(top, path, stream, trees.How(owners=parsed.archive or source == "-"))

    with _inside(home, container, path, there, "wb") as stream:
        if source == "-":
            shutil.copyfileobj(archives.decompressed(sys.stdin.buffer), stream, CHUNK)
        else:
            trees.send(_here(), _absolute(source), stream, parsed.follow_link)


def _here() -> trees.Top:
    return trees.Top(os.open("/", trees.DIRECTORY))


def _absolute(path: str) -> str:
    """Not made shorter: `/.` at its end means something."""
    return os.path.join(os.getcwd(), path)


@contextmanager
def _inside(home: Home, container: Container, path: str, act: Act, mode: str) -> Iterator[BinaryIO]:
    """Have `act` done in the container at one end of a pipe; the other, opened in `mode`, is the body's.

    Raises:
        Error: what one of the two met, the one that met it first.
    """
    reader, writer = os.pipe()
    report, words = os.pipe()
    ours, theirs = (reader, writer) if mode == "rb" else (writer, reader)
    with open(report, "rb") as said, open(ours, mode) as stream, _still(home, container) as container:
        child = _enter(container)
        if child == 0:
            os.close(report)
            os.close(ours)
            _do(container, path, act, theirs, words)
        os.close(theirs)
        os.close(words)
        mine: Exception | None = None
        try:
            yield cast(BinaryIO, stream)
            stream.close()
        except (Error, OSError) as error:
            mine = error
            with suppress(OSError):
                stream.close()
        message = said.read()
        os.waitpid(child, 0)
        # A stream that ends early is the doing of its other end, which has the reason.
        if message and (mine is None or mode == "rb" or isinstance(mine, BrokenPipeError)):
            raise told(message) from mine
        if mine is not None:
            raise mine


@contextmanager
def _still(home: Home, container: Container) -> Iterator[Container]:
    """A container that does not run is not started meanwhile: an overlay is mounted by one at a time."""
    if container.status == RUNNING:
        yield container
        return
    with files.lock(f"{container.bundle}/start.lock"):
        yield engine.inspect(home, container.id)


def _enter(container: Container) -> int:
    """Fork into the container: 0 in the child."""
    sys.stdout.flush()
    if container.status != RUNNING:
        return os.fork()
    process = os.pidfd_open(container.pid)
    try:
        if procfs.start_time(container.pid) != container.start_time:
            raise Error(f"container {container.name} has ended; try: again")
        flags = CLONE_NEWNS
        if os.stat(f"/proc/{container.pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino:
            flags |= CLONE_NEWUSER
        return init.clone_joined((init.Join(process, flags),), 0, -1)
    finally:
        os.close(process)


def _assemble(container: Container) -> None:
    """The root file system of a container that does not run, with its volumes, as the root of this process."""
    syscalls.unshare(CLONE_NEWNS)
    syscalls.mount(None, "/", None, MS_REC | MS_PRIVATE)
    top = f"{container.bundle}/rootfs"
    os.makedirs(top, exist_ok=True)
    overlays.mount(container.lowers, container.upper, container.work, top, None)
    volumes = sorted(container.options.volumes, key=lambda volume: volume.target.count("/"))  # as `bundle` mounts them
    opened = [_open_volume(volume) for volume in volumes]
    os.chroot(top)
    os.chdir("/")
    for volume, tree, directory in opened:
        rootfs.attach(tree, volume.target, directory, "bind")
        os.close(tree)


def _open_volume(volume: Volume) -> tuple[Volume, int, bool]:
    """The volume as a mount that has no name yet: a descriptor of it, and whether it is a directory."""
    tree = syscalls.open_tree(AT_FDCWD, volume.source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)
    if volume.read_only:
        syscalls.mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, MOUNT_ATTR_RDONLY)
    return volume, tree, stat.S_ISDIR(os.fstat(tree).st_mode)


def _do(container: Container, path: str, act: Act, descriptor: int, words: int) -> NoReturn:
    """The child's whole life."""
    try:
        if container.status != RUNNING:
            _assemble(container)
        sys.meta_path.clear()  # no module is loaded from the container's files
        os.umask(0)
        opened = os.open("/", trees.DIRECTORY)
        mode = "wb" if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_WRONLY else "rb"
        with open(descriptor, mode) as stream:
            act(trees.Top(opened, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS), cast(BinaryIO, stream))
    except BrokenPipeError:
        os._exit(0)  # the other end has gone, and says why
    except OSError as error:
        tell(Error(f"{container.name}:{os.fsdecode(error.filename or path)}: {error.strerror}"), words)
    except BaseException as error:  # noqa: BLE001 - the edge of a process: the other end raises it again
        tell(error, words)
    finally:
        os._exit(0)
