"""Supervisor: one process for each container, from before it is made until nothing of it is left.

Stands between `runtime`, which it calls, and `engine`, which starts it; elsewhere it is called shim or conmon. It holds
what must die with it: the mount namespace that the rootfs is mounted in, the bound host ports, the container's first
process (by its parent-death signal). So killing it leaves no mount, no port and no process; `inspection` takes
the rest.
"""

import gc
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from minicontainer import bundle, bundle_files, containers, json_documents, logs
from minicontainer.containers import EXITED, ID_RANGE, RUNNING, Container, Home, Volume
from minicontainer.errors import Error
from minicontainer.image import overlays
from minicontainer.last_words import read_all, tell, told
from minicontainer.linux import flags, procfs, syscalls
from minicontainer.oci.runtime import ConsoleSize, IdMapping
from minicontainer.plan import Explain, Step
from minicontainer.runtime import creation, operations, states
from minicontainer.values import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from minicontainer.network.ports import Binding

DRAIN = 1.0  # seconds that output may still come after the first process has ended
BACKOFF = (0.1, 60.0)  # seconds before the first restart, and at most
STARTED, FAILED, ENDED = b"S", b"F", b"E"  # what a message of the supervisor begins with


class Streams(NamedTuple):
    """The caller's descriptors: what the container reads, and where its output goes besides the log."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    size: ConsoleSize | None = None  # of the caller's terminal


class Started(NamedTuple):
    """A container that runs: its record, the supervisor's channel, and with a terminal its master."""

    container: Container
    channel: socket.socket
    terminal: int | None


def launch(home: Home, container: Container, streams: Streams = Streams(), explain: Explain | None = None) -> Started:
    """Fork the supervisor of a container, and return when the container runs.

    Raises:
        Error, OSError: it could not be started; everything is undone.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            if os.fork() == 0:
                _main(home, container, streams, theirs, explain)
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    os.waitpid(child, 0)
    try:
        message, descriptors, _, _ = socket.recv_fds(ours, 1 << 20, 1)
        if message[:1] != STARTED:
            raise _failure(message)
        values = json_documents.loads(message[1:])
        return Started(_merged(container, values), ours, descriptors[0] if descriptors else None)
    except BaseException as error:
        while isinstance(error, Error | OSError) and ours.recv(1 << 20):
            continue  # until it is gone, and all it had is undone; not by Ctrl-C, for then it goes on
        ours.close()
        raise


def rehearse(home: Home, container: Container, explain: Explain, then: Callable[[str], object]) -> None:
    """Mount a container's root file system and write its bundle, as for a start; then call `then` with the bundle.

    In a child, whose mount namespace ends with it: nothing is left of the mount.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            supervisor = Supervisor(home, container, Streams(), socket.socket(), explain)
            with ExitStack() as undo:
                supervisor._mount(undo)
                bundle_files.write(container, None)
                then(container.bundle)
        except BaseException as error:  # noqa: BLE001 - the edge of a process: the caller raises it again
            tell(error, writer)
        finally:
            os._exit(0)
    os.close(writer)
    said = read_all(reader)
    os.close(reader)
    os.waitpid(child, 0)
    if said:
        raise told(said)


def exit_code(channel: socket.socket) -> int | None:
    """The container's exit status if the supervisor has said it, and None at its end."""
    message = channel.recv(1 << 20)
    if not message:
        return None
    if message[:1] == FAILED:
        raise _failure(message)
    return int(message[1:])


def until_gone(channel: socket.socket) -> None:
    """Wait for the end of the supervisor, and with it of all that it held."""
    while exit_code(channel) is not None:
        continue


def _merged(container: Container, values: dict[str, object]) -> Container:
    return Container.from_json(json_documents.loads(json_documents.dumps({**container.to_json(), **values})))


def _failure(message: bytes) -> BaseException:
    import pickle  # only a failure needs it

    if not message:
        return Error("the supervisor was killed before the container ran; try: again")
    error = pickle.loads(message[1:])
    assert isinstance(error, BaseException)
    return error


# --- in the supervisor -----------------------------------------------------------------------------------------------


def _main(home: Home, container: Container, streams: Streams, channel: socket.socket, explain: Explain | None) -> None:
    """The supervisor's whole life. It ends by _exit: nothing of the process it was forked from may run."""
    try:
        kept = {channel.fileno(), *(fd for fd in streams[:3] if fd is not None)}
        if explain is not None:
            kept.add(explain.descriptor)
        _detach(kept)
        Supervisor(home, container, streams, channel, explain).run()
    except BaseException as error:  # noqa: BLE001 - the edge of a process: the caller raises it again
        import pickle  # only a failure needs it

        if not isinstance(error, Error):
            import traceback  # the same

            error.add_note(f"in the supervisor: {traceback.format_exc()}")
        with suppress(OSError):
            channel.send(FAILED + pickle.dumps(error))
    finally:
        os._exit(0)


def _detach(kept: set[int]) -> None:
    """Keep nothing of the caller's but `kept`: an inherited pipe would stay open as long as the container.

    Nor may the caller's garbage be collected: a file in it would close its number, which is another file's by then.
    """
    gc.freeze()
    null = os.open("/dev/null", os.O_RDWR)
    for standard in {0, 1, 2} - kept:
        os.dup2(null, standard)
    first = 3
    for descriptor in sorted(fd for fd in kept if fd > 2):
        if descriptor > first:
            syscalls.close_range(first, descriptor - 1)
        first = descriptor + 1
    syscalls.close_range(first, 0x7FFFFFFF)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir("/")


class Supervisor:
    """What one container is kept by. What it made is undone by `ExitStack`s, in reverse."""

    def __init__(
        self, home: Home, container: Container, streams: Streams, channel: socket.socket, explain: Explain | None
    ) -> None:
        self.home, self.container, self.streams, self.channel, self.explain = (
            home,
            container,
            streams,
            channel,
            explain and explain._replace(who="supervisor"),
        )
        self.log = logs.Log(f"{container.bundle}/log.jsonl")
        self.links = ExitStack()
        self.terminal: int | None = None
        self.namespace = -1  # of the network, for who carries it without root
        self.announced = False
        self.account = bundle.Account()

    def run(self) -> None:
        """Run the container, again as its restart policy says, then leave nothing.

        Its links go last, when the caller has its status: the kernel takes 0.1 s to remove a veth and a bridge.
        """
        with self.links:
            self._run()

    def _run(self) -> None:
        pid = os.getpid()
        self._record(supervisor_pid=pid, supervisor_start_time=procfs.start_time(pid) or 0, error="", oom_killed=False)
        try:
            with ExitStack() as undo:
                self._mount(undo)
                self._run_again_and_again()
        except BaseException as error:
            code = error.exit_code if isinstance(error, Error) else 125
            self._ended(code, error=str(error))
            if not self.announced:
                if self.container.options.remove:
                    containers.remove(self.home, self.container)
                raise
        finally:
            self.log.close()
        if self.container.options.remove:
            containers.remove(self.home, self.container)
        self._let_go_of_streams()
        with suppress(OSError):  # nobody waits for a container in the background
            self.channel.send(ENDED + str(self.container.exit_code).encode())

    def _let_go_of_streams(self) -> None:
        """Who reads the other end of a pipe has read all: `build` goes on while the links are removed."""
        with open("/dev/null", "r+b", buffering=0) as null:
            for descriptor in filter(None, (self.streams.stdout, self.streams.stderr)):
                os.dup2(null.fileno(), descriptor, inheritable=False)

    def _run_again_and_again(self) -> None:
        pause = BACKOFF[0]
        while True:
            began = time.monotonic()
            code = self._once()
            again = should_restart(self.container.options.restart, code, self.container.restarts)
            if not again or self._is_to_stop():
                return self._ended(code)
            self._record(status=EXITED, exit_code=code, finished_at=time.time(), pid=0)
            pause = BACKOFF[0] if time.monotonic() - began > 10 else min(pause * 2, BACKOFF[1])
            deadline = time.monotonic() + pause
            while time.monotonic() < deadline:
                if self._is_to_stop():
                    return self._ended(code)
                time.sleep(0.05)
            self._record(restarts=self.container.restarts + 1, oom_killed=False)

    def _is_to_stop(self) -> bool:
        return os.path.exists(f"{self.container.bundle}/stopping")

    def _record(self, **changes: object) -> None:
        was = self.container.status
        self.container = self.container._replace(**changes)  # type: ignore[arg-type]  # mypy cannot check names given so
        containers.write(self.home, self.container, was=was)

    def _ended(self, code: int, error: str = "") -> None:
        """Say it where also those read who have the container open while it is removed, and record it.

        If the disk is full, there is no record of it: who looks next makes one of what was said.
        """
        with suppress(OSError), open(f"{self.container.bundle}/exit", "ab") as file:
            file.write(f"{code}\n".encode())
        with suppress(OSError):
            self._record(status=EXITED, exit_code=code, finished_at=time.time(), pid=0, error=error)

    # --- one run

    def _mount(self, undo: ExitStack) -> None:
        """The rootfs, in a mount namespace of our own: it dies with us, and nobody else sees or holds it."""
        syscalls.unshare(flags.CLONE_NEWNS)
        # Slave, not private: what the machine unmounts must not stay busy here.
        syscalls.mount(None, "/", None, flags.MS_REC | flags.MS_SLAVE)
        made = self.container
        overlays.mount(made.lowers, made.upper, made.work, f"{made.bundle}/rootfs", self._mapping(), self._step)
        undo.callback(syscalls.umount, f"{made.bundle}/rootfs", flags.MNT_DETACH)  # so that it can be removed
        for number, volume in enumerate(made.options.volumes):
            if volume.layers:
                self._mount_volume(volume, bundle.volume_place(made, number), undo)

    def _mount_volume(self, volume: Volume, place: str, undo: ExitStack) -> None:
        """A volume that is of layers: its bundle keeps what is written to it, and goes with the container."""
        for name in ("upper", "work", "root"):
            os.makedirs(f"{place}/{name}", 0o755, exist_ok=True)
        overlays.mount(volume.layers, f"{place}/upper", f"{place}/work", f"{place}/root", self._mapping(), self._step)
        undo.callback(syscalls.umount, f"{place}/root", flags.MNT_DETACH)

    def _step(self, step: Step) -> Any:
        if self.explain is not None:
            self.explain.show(step)
        return step.execute()

    def _mapping(self) -> tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]] | None:
        if self.container.options.userns == "host" or not self.container.id_base:  # inside as outside
            return None
        mapping = (IdMapping(container_id=0, host_id=self.container.id_base, size=ID_RANGE),)
        return mapping, mapping

    def _once(self) -> int:
        """Create, start, wait, delete: the exit status."""
        options = self.container.options
        self.links.close()  # of the run before this one
        with ExitStack() as undo:
            bindings = self._bind(undo) if options.ports else ()
            self.account = bundle_files.write(self.container, self.streams.size)
            outputs = undo.enter_context(self._create(undo))
            state = states.state(self.home.runtime, self.container.id)
            attached = containers.Network()
            if options.network == "bridge":
                from minicontainer.network import bridge  # why here: 5 ms that no other network needs

                why = "a veth from its network namespace to the bridge, an address, the published ports"
                attached = self._step(Step(bridge.attach, (state.pid, bindings), why))
                self.links.callback(bridge.release, attached)
                if bindings:
                    undo.callback(bridge.unpublish, attached)
            elif options.network == "slirp":
                from minicontainer.network import slirp  # why here: as with `network.bridge`

                why = "a tap in its network namespace; the program that reads it opens connections as this person"
                given = (self.namespace, bindings, self.container.bundle)
                undo.callback(slirp.release, self._step(Step(slirp.attach, given, why)))
            taken = tuple(binding.port for binding in bindings)
            self._record(network=attached, ports=taken, cgroups=dict(state.cgroups), pid=state.pid,
                         start_time=state.start_time)  # fmt: skip
            bundle_files.write_etc(self.container)
            pidfd = os.pidfd_open(state.pid)
            undo.callback(os.close, pidfd)
            operations.start(self.home.runtime, self.container.id, self.explain)
            self._record(status=RUNNING, started_at=time.time())
            self._announce()
            self._pump(pidfd, outputs)
            code = _status(state.pid)
            if operations.oom_kills(state):
                self._record(oom_killed=True)
            return code

    def _born(self, pid: int) -> None:
        if self.container.options.network == "slirp":
            from minicontainer.network import slirp  # why here: as with `network.bridge`

            self.namespace = slirp.namespace(pid)

    def _bind(self, undo: ExitStack) -> "tuple[Binding, ...]":
        from minicontainer.network import ports  # why here: as with `network.bridge`

        bindings = ports.bind(self.container.options.ports, hold=self.container.options.network != "slirp")
        for binding in bindings:
            undo.callback(binding.held.close)
        return tuple(bindings)

    def _announce(self) -> None:
        """Tell the caller that the container runs. It may be gone by now: then nobody listens."""
        if self.announced:
            return
        self.announced = True
        told = {name: value for name, value in self.container.to_json().items() if name not in ("options", "lowers")}
        descriptors = [] if self.terminal is None else [self.terminal]
        with suppress(BrokenPipeError):
            socket.send_fds(self.channel, [STARTED + json_documents.dumps(told)], descriptors)

    # --- stdio

    @contextmanager
    def _create(self, undo: ExitStack) -> Iterator[dict[int, str]]:
        """The container, created and not started; the descriptors its output comes from, by the stream's name."""
        root, place = self.home.runtime, self.container.bundle
        undo.callback(operations.delete, root, self.container.id, force=True)
        if self.container.options.tty:
            ours, theirs = socket.socketpair()  # the master comes over it: what runc's --console-socket is for
            with ours, theirs:
                creation.create(root, self.container.id, place, console_socket=theirs.fileno(),
                               parent_death_signal=signal.SIGKILL, explain=self.explain, born=self._born)  # fmt: skip
                self.terminal = _receive_terminal(ours)
            undo.callback(os.close, self.terminal)
            yield {self.terminal: "stdout"}
            return
        stdin = self.streams.stdin if self.streams.stdin is not None else os.open("/dev/null", os.O_RDONLY)
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        for descriptor in (out, err):
            undo.callback(os.close, descriptor)
        for descriptor in (out_end, err_end):
            self._give(descriptor)
        try:
            creation.create(root, self.container.id, place, stdio=(stdin, out_end, err_end),
                           parent_death_signal=signal.SIGKILL, explain=self.explain, born=self._born)  # fmt: skip
        finally:
            for descriptor in (stdin, out_end, err_end):
                os.close(descriptor)
            self.streams = self.streams._replace(stdin=None)
        yield {out: "stdout", err: "stderr"}

    def _give(self, descriptor: int) -> None:
        """A program may open its own output again, by /dev/stdout, say: so the pipe is its user's."""
        users, groups = self._mapping() or ((), ())
        with suppress(PermissionError):  # not ours to give: without root
            os.fchown(descriptor, bundle.on_host(users, self.account.uid), bundle.on_host(groups, self.account.gid))

    def _pump(self, pidfd: int, outputs: dict[int, str]) -> None:
        """Copy what comes to the log and the caller, until the process has ended and all has come."""
        poll = select.poll()
        for descriptor in (pidfd, *outputs):
            poll.register(descriptor, select.POLLIN)
        copies = {"stdout": self.streams.stdout, "stderr": self.streams.stderr}
        deadline: float | None = None
        remaining = len(outputs)
        while deadline is None or (remaining and time.monotonic() < deadline):
            for descriptor, _ in poll.poll(None if deadline is None else 20):
                if descriptor == pidfd:
                    deadline = time.monotonic() + DRAIN
                    poll.unregister(pidfd)
                elif data := _read(descriptor):
                    self.log.append(outputs[descriptor], data)
                    self._copy(copies, outputs[descriptor], data)
                else:
                    poll.unregister(descriptor)
                    remaining -= 1

    def _copy(self, copies: dict[str, int | None], stream: str, data: bytes) -> None:
        target = copies[stream]
        try:
            while target is not None and data:
                data = data[os.write(target, data) :]
        except OSError:  # the caller has closed it: the log goes on
            copies[stream] = None


def should_restart(policy: str, code: int, restarts: int) -> bool:
    """Whether a container that ended with `code` after so many restarts runs again: no, always, on-failure[:COUNT]."""
    name, _, count = policy.partition(":")
    if name == "on-failure":
        return code != 0 and (not count or restarts < int(count))
    return name == "always"


def _receive_terminal(connection: socket.socket) -> int:
    _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
    if not descriptors:
        raise Error("the container ended before it had a terminal; try: again")
    return descriptors[0]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # EIO: nobody has the other side of the terminal open any more
        return b""


def _status(pid: int) -> int:
    """The exit status as a shell says it: 128 + n when signal n killed it."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code
