"""Foreground: a person's terminal and signals joined to a process in a container.

Stands between `engine` and `cli`. Ruled by termios(3), tty_ioctl(4), signal(7). The container never gets the
person's own terminal: who has one can put words into its input (ioctl_tty(2), TIOCSTI).
"""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from minicontainer import engine, supervisor
from minicontainer.containers import Container, Home
from minicontainer.errors import Error
from minicontainer.plan import Explain
from minicontainer.supervisor import Started, Streams
from minicontainer.terminal import drain, joined, relay, terminal_size

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def start(home: Home, container: Container, explain: Explain | None = None) -> int:
    """Start the container, be its terminal until it ends, and give its exit status."""
    options = container.options
    with ExitStack() as undo:
        reader = writer = -1
        if options.interactive and not options.tty:
            reader, writer = os.pipe()
            undo.callback(_close, writer)
        streams = Streams(stdin=reader if reader >= 0 else None, stdout=1, stderr=2, size=terminal_size())
        # A signal that comes before there is a process for it waits.
        was = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, was)
        try:
            started = engine.start_attached(home, container.id, streams=streams, explain=explain)
        finally:
            _close(reader)
        undo.callback(started.channel.close)
        sources = {}
        if started.terminal is not None:
            undo.enter_context(joined(started.terminal))
            writer = started.terminal if options.interactive else -1
        if options.interactive and writer >= 0:
            sources[0] = writer
        unfelt: list[int] = []
        undo.enter_context(_signals(lambda number: _forward(home, started, number, unfelt)))
        signal.pthread_sigmask(signal.SIG_SETMASK, was)
        code = _attend(started, sources)
        return 128 + unfelt[0] if unfelt and code == engine.KILLED else code


def _attend(started: Started, sources: dict[int, int]) -> int:
    """Carry stdin to the container until it has ended; the supervisor carries the output."""
    for _ in relay(sources, started.channel.fileno()):
        code = supervisor.exit_code(started.channel)
        return engine.KILLED if code is None else code
    raise AssertionError("relay ends only with its caller")


def _forward(home: Home, started: Started, number: int, unfelt: list[int]) -> None:
    """What the first process would not feel, pid_namespaces(7), kills it instead, and is added to `unfelt`."""
    pid = started.container.pid
    with suppress(Error):
        if number in (signal.SIGINT, signal.SIGTERM) and not engine.handles(pid, number):
            unfelt.append(number)
            number = signal.SIGKILL
        engine.kill(home, started.container.id, number)


def execute(
    home: Home,
    container: Container,
    command: tuple[str, ...],
    env: tuple[str, ...],
    workdir: str,
    user: str,
    interactive: bool,
    terminal: bool,
    explain: Explain | None = None,
) -> int:
    """Run a further process in the container, be its terminal until it ends, and give its exit status."""
    with ExitStack() as undo:
        if terminal:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                pid = engine.execute(
                    home,
                    container.id,
                    command,
                    env=env,
                    workdir=workdir,
                    user=user,
                    console_socket=theirs.fileno(),
                    console_size=terminal_size(),
                    explain=explain,
                )
                _, [master], _, _ = socket.recv_fds(ours, 4096, 1)
            undo.callback(os.close, master)
            undo.enter_context(joined(master))
            sources = {master: 1, **({0: master} if interactive else {})}
        else:
            pipes = [os.pipe() for _ in range(3)]
            inside = (pipes[0][0], pipes[1][1], pipes[2][1])
            outside = (pipes[0][1], pipes[1][0], pipes[2][0])
            try:
                pid = engine.execute(
                    home, container.id, command, env=env, workdir=workdir, user=user, streams=inside, explain=explain
                )
            finally:
                for descriptor in inside:
                    os.close(descriptor)
            sources = {outside[1]: 1, outside[2]: 2}
            if interactive:
                sources[0] = outside[0]
            else:
                os.close(outside[0])
        pidfd = os.pidfd_open(pid)
        undo.callback(os.close, pidfd)
        undo.enter_context(_signals(lambda number: signal.pidfd_send_signal(pidfd, number)))
        next(relay(sources, pidfd))
        drain({source: target for source, target in sources.items() if source != 0})
        return engine.exit_status(pid)


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        with suppress(OSError):
            os.close(descriptor)


@contextmanager
def _signals(forward: Callable[[int], None]) -> Iterator[None]:
    """What is sent to us is meant for the container."""

    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            forward(number)

    was = {number: signal.signal(number, pass_on) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in was.items():
            signal.signal(number, handler)
