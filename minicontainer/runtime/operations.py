"""Operations: start, kill, pause, resume and delete a container that was created.

Stands on the states, beside `init`, and loads nothing of what makes a process: other engines call each of these as a
command of its own. Ruled by runtime-spec runtime.md (Operations).
"""

import fcntl
import os
import signal as signals
from contextlib import ExitStack, suppress

from minicontainer import files
from minicontainer.errors import Error
from minicontainer.last_words import read_all, told
from minicontainer.linux import procfs
from minicontainer.oci.runtime import Hooks, State, Status
from minicontainer.plan import Explain, Plan, Step, run
from minicontainer.runtime import cgroups, states
from minicontainer.runtime.states import NoSuchContainer, WrongStatus

_NOT_STARTED = {  # what runc says, which its callers look for
    Status.CREATING: "a container that is not created yet",
    Status.RUNNING: "an already running container",
    Status.PAUSED: "a paused container",
    Status.STOPPED: "a container that has stopped",
}


def start(root: str, container_id: str, explain: Explain | None = None) -> None:
    """Let the waiting process go on to its program, and wait until it has.

    Raises:
        CommandNotFound, CommandNotExecutable: the kernel refused the program.
    """
    current = states.state(root, container_id)
    if current.status is not Status.CREATED:
        raise WrongStatus(f"cannot start {_NOT_STARTED[current.status]}: {container_id}")
    directory = f"{root}/{container_id}"
    with ExitStack() as opened:
        fifo = os.open(f"{directory}/{states.FIFO}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        opened.callback(os.close, fifo)
        errors = os.open(f"{directory}/{states.ERROR}", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, errors)
        run(_let_go(fifo, errors), explain)
        if said := read_all(errors):
            raise told(said)
    if "poststart" in current.hooks:
        _poststart(root, current)


def _poststart(root: str, current: State) -> None:
    """The program runs already: a hook that fails ends it."""
    from minicontainer.runtime import hooks  # few containers have any

    given = states.recorded_spec(root, current.id).hooks.poststart
    try:
        hooks.run_all("poststart", given, current, Status.RUNNING)
    except Error:
        run(_signal(current, signals.SIGKILL))
        raise


def _let_go(fifo: int, errors: int) -> Plan[None]:
    yield Step(os.write, (fifo, b"\0"), "the container's first process waits for one byte")
    yield Step(fcntl.flock, (errors, fcntl.LOCK_SH), "until execve, or its failure, drops the lock")


def kill(
    root: str, container_id: str, signal: int, all_processes: bool = False, explain: Explain | None = None
) -> None:
    """Send a signal to the first process, or to all."""
    current = states.state(root, container_id)
    if current.status in (Status.STOPPED, Status.CREATING) and not all_processes:
        raise WrongStatus(f"container not running: {container_id} is {current.status}")
    run(_kill(current, signal, all_processes), explain)


def _kill(current: State, signal: int, all_processes: bool) -> Plan[None]:
    if all_processes and current.cgroups:
        yield Step(cgroups.signal_all, (current.cgroups, signal), "every process that the container's cgroup lists")
    else:
        yield from _signal(current, signal)
    if signal == signals.SIGKILL and current.status is Status.PAUSED:
        yield Step(cgroups.freeze, (current.cgroups, False), "what is frozen cannot die")


def _signal(current: State, signal: int) -> Plan[None]:
    """By pidfd: the pid could be another process by now, the descriptor is the one that was looked at."""
    descriptor = yield Step(_pidfd_of, (current.pid,), "hold on to the process: its number may be another's by now")
    if descriptor is None:
        return
    try:
        if procfs.start_time(current.pid) == current.start_time:
            yield Step(_send, (descriptor, signal), "to the process that was looked at, and to no other")
    finally:
        os.close(descriptor)


def _pidfd_of(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _send(descriptor: int, signal: int) -> None:
    with suppress(ProcessLookupError):
        signals.pidfd_send_signal(descriptor, signal)


def pause(root: str, container_id: str, explain: Explain | None = None) -> None:
    run(_freeze(live(root, container_id, Status.RUNNING, Status.CREATED), True), explain)


def resume(root: str, container_id: str, explain: Explain | None = None) -> None:
    run(_freeze(live(root, container_id, Status.PAUSED), False), explain)


def _freeze(current: State, frozen: bool) -> Plan[None]:
    why = "all processes of the cgroup at once stand still, or go on: none of them can notice, or refuse"
    yield Step(cgroups.freeze, (in_cgroup(current).cgroups, frozen), why)


def in_cgroup(current: State) -> State:
    """The same, for what needs a cgroup.

    Raises:
        Error: it has none of its own: it was made without root, and no cgroup was delegated.
    """
    if not current.cgroups:
        raise Error(
            f"container {current.id} has no cgroup of its own, which this needs; try: as root, or a delegated one"
        )
    return current


def live(root: str, container_id: str, *allowed: Status) -> State:
    current = states.state(root, container_id)
    if current.status not in allowed:
        wanted = "paused" if allowed == (Status.PAUSED,) else "running"
        raise WrongStatus(f"container not {wanted}: {container_id} is {current.status}")
    return current


def oom_kills(state: State) -> int:
    """How often the kernel killed a process of the container for its memory."""
    return cgroups.oom_kills(state.cgroups)


# Delete


def delete(root: str, container_id: str, force: bool = False, explain: Explain | None = None) -> None:
    """Remove the container: processes, cgroup, record. With `force` also one that runs, is half made, or is gone."""
    directory = f"{root}/{container_id}"
    try:
        current = states.state(root, container_id)
    except NoSuchContainer:
        if not force:
            raise
        files.remove_tree(directory)
        return
    if current.status in (Status.RUNNING, Status.PAUSED) and not force:
        raise WrongStatus(f"cannot delete container {container_id} that is not stopped: {current.status}")
    run(_undo(current, directory), explain)


def _undo(current: State, directory: str) -> Plan[None]:
    if current.pid:
        yield from _signal(current, signals.SIGKILL)
    yield from _remove_cgroups(current)
    given = states.read_spec(f"{directory}/{states.CONFIG}")[1].hooks if current.hooks else None
    yield Step(files.remove_tree, (directory,), "what was recorded of the container; its id is free from here on")
    if given is not None:
        poststop(given, current)


def poststop(given: Hooks, current: State) -> None:
    """What hooks want to do when all is gone; nothing stops them, and one that fails stops no other."""
    if given.poststop:
        from minicontainer.runtime import hooks  # few containers have any

        hooks.warn("poststop", given.poststop, current, Status.STOPPED, current.bundle)


def remove_cgroups(current: State) -> None:
    run(_remove_cgroups(current))


def _remove_cgroups(current: State) -> Plan[None]:
    if current.scope or any(map(os.path.isdir, current.cgroups.values())):
        why = "whatever the first process left running: a cgroup with processes cannot be removed"
        yield Step(cgroups.signal_all, (current.cgroups, signals.SIGKILL), why)
        if cgroups.is_frozen(current.cgroups):
            yield Step(cgroups.freeze, (current.cgroups, False), "what is frozen cannot die")
        if current.scope:
            from minicontainer.runtime import systemd  # few containers are its

            yield Step(systemd.stop, (current.scope,), "systemd forgets the unit and takes its cgroup away")
        arguments = (current.cgroups, current.cgroup_parents)
        yield Step(cgroups.remove, arguments, "its cgroup in each hierarchy, and parents that nobody else uses")
