"""Merged: a chain of layers seen as one, and that copied into a directory, or written as an archive.

Above `overlays` and `layers`. What is seen through an overlay is read by a process that has a mount namespace of its
own, so that no mount is left whatever dies.
"""

import os
import sys
from collections.abc import Sequence

from minicontainer.errors import Error
from minicontainer.image import changesets, layers, overlays, tar
from minicontainer.last_words import read_all, tell, told
from minicontainer.linux import syscalls
from minicontainer.linux.flags import CLONE_NEWNS, MS_PRIVATE, MS_REC, RESOLVE_IN_ROOT

CHUNK = 1 << 20


def copy(lowers: Sequence[str], target: str, inside: str = "/") -> None:
    """What the layers, the topmost first, have in the directory `inside`, into the empty directory `target`."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        process = _fork(lowers, writer, inside)
        os.close(writer)
        try:
            changesets.unpack(tar.members(stream), target)
            while stream.read(CHUNK):
                continue
        finally:
            stream.close()
            _end(process)


def write(lowers: Sequence[str], out: int) -> None:
    """All files of the layers as an archive."""
    _end(_fork(lowers, out, "/"))


def _fork(lowers: Sequence[str], out: int, inside: str) -> tuple[int, int]:
    """A process that sees the directories as one and writes that as an archive; the mount dies with it.

    Its pid, and the pipe that its last words come by.
    """
    sys.stdout.flush()
    said, words = os.pipe()
    child = os.fork()
    if child:
        os.close(words)
        return child, said
    try:
        syscalls.unshare(CLONE_NEWNS)
        syscalls.mount(None, "/", None, MS_REC | MS_PRIVATE)
        top = os.open(overlays.mount_read_only(lowers), changesets.DIRECTORY)
        os.fchdir(syscalls.openat2(top, inside, changesets.DIRECTORY, resolve=RESOLVE_IN_ROOT))
        with open(out, "wb", closefd=False) as file:
            layers.diff(".", file)
    except BrokenPipeError:
        os._exit(0)  # who reads the archive has enough
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else "the archive: "
        tell(Error(f"{where}{error.strerror}"), words)
    except BaseException as error:  # noqa: BLE001 - the edge of a process: the other end raises it again
        tell(error, words)
    finally:
        os._exit(0)


def _end(process: tuple[int, int]) -> None:
    child, said = process
    message = read_all(said)
    os.close(said)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if message:
        raise told(message)
    if code:
        raise Error(f"the files could not all be read; the process that read them ended with {code}")
