"""A test's own world: a child with mount, network, ipc and uts namespaces, so that what it makes dies with it."""

import ctypes
import gc
import os
import shutil
import sys
import traceback
from collections.abc import Callable

import pytest

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000


class ChildFailed(AssertionError):
    """The test failed in its child; the text is the child's traceback."""


def missing_feature(item: pytest.Item) -> str:
    """Why the kernel, cluster or world test `item` cannot run here, or an empty string."""
    if os.geteuid() != 0:
        return "needs root: sudo ./dev test"
    for marker in item.iter_markers("kernel"):
        for feature in marker.args:
            with open("/proc/filesystems", encoding="ascii") as known:
                if feature in ("overlay", "cgroup2") and feature not in known.read().split():
                    return f"this kernel has no {feature}"
    for marker in item.iter_markers("engine"):
        for command in marker.args:
            if shutil.which(command) is None:
                return f"needs {command}: sudo ./dev setup, apt-get install {command}"
    if item.get_closest_marker("lab"):
        missing = [name for name in ("linux.uml", "mmdebstrap", "ssh", "mke2fs") if not shutil.which(name)]
        return f"needs {', '.join(missing)}: sudo ./dev lab doctor" if missing else ""
    if item.get_closest_marker("world") and not os.path.exists("/usr/bin/linux.uml"):
        return "needs user-mode-linux: sudo apt-get install user-mode-linux"
    return ""


def run(test: Callable[[], None]) -> None:
    """Call `test` in a forked child with namespaces of its own; raise what it raised.

    Raises:
        ChildFailed: the test raised; the child's traceback is the message.
        pytest.skip.Exception: the test skipped.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            gc.freeze()  # what the parent left to be collected is not closed here, in the middle of a count
            _unshare()
            test()
            status = 0
        except pytest.skip.Exception as skipped:
            os.write(writer, str(skipped).encode())
            status = 2
        except BaseException:  # noqa: BLE001 - the edge of a process: the parent raises it again
            os.write(writer, traceback.format_exc().encode()[-60_000:])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 2:
        pytest.skip(said)
    if code != 0:
        raise ChildFailed(f"in the test's child (exit {code}):\n{said}")


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "mount / private")
