"""Hooks: programs of config.json that run at points of a container's life, with its state on their standard input.

Stands between the spec and those who bring a container to such a point: `creation`, `init` and `operations`, which load
it only for a container that has hooks. Ruled by runtime-spec config.md (POSIX-platform Hooks), runtime.md (Lifecycle).
"""

import os
import signal
import sys
import time
from collections.abc import Iterable

from minicontainer import json_documents
from minicontainer.errors import Error
from minicontainer.linux.flags import CLOSE_RANGE_CLOEXEC
from minicontainer.linux.syscalls import close_range
from minicontainer.oci.fields import to_json
from minicontainer.oci.runtime import Hook, State, Status
from minicontainer.plan import Plan, Step, run
from minicontainer.values import NamedTuple

_POLL = 0.005  # seconds between two looks at a hook that has a timeout
_SAID = 4096  # bytes of what a failed hook said that are told


class HookFailed(Error):
    """A hook ended with a failure, in time or not; the text is worded like runc's."""


class Call(NamedTuple):
    """All that a hook is run with."""

    kind: str
    place: int
    hook: Hook
    state: bytes
    directory: str


def steps(kind: str, hooks: Iterable[Hook], state: State, status: Status, pid: int, directory: str) -> Plan[None]:
    """Run the hooks of one kind in their order; the first that fails ends it."""
    text = document(state, status, pid)
    for place, hook in enumerate(hooks):
        yield Step(call, (Call(kind, place, hook, text, directory),), f"hooks.{kind}[{place}] of config.json")


def warn(kind: str, hooks: Iterable[Hook], state: State, status: Status, directory: str) -> None:
    """Run them all: one that fails is a warning on the standard error, and the others run."""
    for step in steps(kind, hooks, state, status, 0, directory):
        try:
            step.execute()
        except (HookFailed, OSError) as error:
            print(f"warning: {error}", file=sys.stderr)


def run_all(kind: str, hooks: Iterable[Hook], state: State, status: Status) -> None:
    run(steps(kind, hooks, state, status, state.pid, state.bundle))


def document(state: State, status: Status, pid: int) -> bytes:
    """The state as runtime.md has it, without what is ours."""
    json = {
        "ociVersion": state.oci_version,
        "id": state.id,
        "status": str(status),
        "bundle": state.bundle,
        "annotations": to_json(state.annotations),
    }
    return json_documents.dumps(json | ({"pid": pid} if pid else {}))


def call(given: Call) -> None:
    """Run one hook to its end, or to its timeout.

    Raises:
        HookFailed: it could not be run, ended with another status than 0, or had to be killed.
    """
    out, err = (os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdout", "stderr"))
    try:
        child = os.fork()
        if child == 0:
            _become(given, out, err)
        status, late = _wait(child, given.hook.timeout)
        if status or late:
            how = f"timed out after {given.hook.timeout} s" if late else _ending(status)
            said = ", ".join(f"{name}: {_read(file)}" for name, file in (("stdout", out), ("stderr", err)))
            raise HookFailed(f"error running {given.kind} hook #{given.place}: {given.hook.path}: {how}, {said}")
    finally:
        os.close(out)
        os.close(err)


def _become(given: Call, out: int, err: int) -> None:
    """The child: the state on its input, nothing of ours but that, and the environment of config.json alone."""
    try:
        state = os.memfd_create("state", os.MFD_CLOEXEC)
        os.write(state, given.state)
        os.lseek(state, 0, os.SEEK_SET)
        for target, source in enumerate((state, out, err)):
            os.dup2(source, target)
        close_range(3, 0xFFFFFFFF, CLOSE_RANGE_CLOEXEC)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which the interpreter ignores
            signal.signal(number, signal.SIG_DFL)
        os.chdir(given.directory)
        pairs = (entry.partition("=") for entry in given.hook.env)
        environment = {name: value for name, equals, value in pairs if equals}
        os.execve(given.hook.path, given.hook.args or (given.hook.path,), environment)
    except OSError as error:
        os.write(2, f"exec {given.hook.path}: {(error.strerror or '').lower()}".encode())
    finally:
        os._exit(127)


def _wait(child: int, timeout: int | None) -> tuple[int, bool]:
    """Its status, and whether it was too late and is killed."""
    if not timeout:
        return os.waitpid(child, 0)[1], False
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status, False
        time.sleep(_POLL)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1], True


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal: {-code}"


def _read(file: int) -> str:
    return os.pread(file, _SAID, 0).decode(errors="replace").strip()
