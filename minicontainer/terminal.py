"""Terminal: a person's own joined to the one of a process in a container.

Stands below `foreground` and the runtime's command line. Ruled by termios(3), tty_ioctl(4), pty(7). The container never
gets the person's terminal itself: who has one can put words into its input (ioctl_tty(2), TIOCSTI).
"""

import fcntl
import os
import select
import signal
import socket
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from minicontainer.oci.runtime import ConsoleSize


class Receiver:
    """Takes the terminal that a process makes, and is its other end until the process is over."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._master = -1

    def fileno(self) -> int:
        """The end that is the process's console socket."""
        return self._theirs.fileno()

    def size(self) -> ConsoleSize | None:
        return terminal_size()

    def take(self) -> None:
        """Take it and give it the size of ours: before the program runs, so that nothing is drawn twice."""
        _, [self._master], _, _ = socket.recv_fds(self._ours, 4096, 1)
        _resize(self._master)

    def attend(self, pid: int) -> None:
        """Join it to our terminal, until the process `pid` has ended and all that it wrote is shown."""
        ended = os.pidfd_open(pid)
        with joined(self._master):
            next(relay({0: self._master, self._master: 1}, ended))
            drain({self._master: 1})
        for descriptor in (self._master, ended):
            os.close(descriptor)


def relay(sources: dict[int, int], until: int) -> Iterator[None]:
    """Copy each source to its target; yield whenever `until` can be read. A source that ends closes a pipe it fed."""
    poll = select.poll()
    poll.register(until, select.POLLIN)
    for source in sources:
        poll.register(source, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == until:
                yield
            elif not _copy(descriptor, sources[descriptor]):
                poll.unregister(descriptor)
                if descriptor == 0 and not os.isatty(sources[0]):
                    with suppress(OSError):
                        os.close(sources[0])


def drain(sources: dict[int, int]) -> None:
    """What was written before the end and is still on its way."""
    poll = select.poll()
    for source in sources:
        poll.register(source, select.POLLIN)
    while ready := poll.poll(0):
        for descriptor, _ in ready:
            if not _copy(descriptor, sources[descriptor]):
                poll.unregister(descriptor)


def _copy(source: int, target: int) -> bool:
    """Copy what is there; false when no more will come."""
    try:
        data = os.read(source, 1 << 16)
    except OSError:  # EIO: nobody has the other side of the terminal open any more
        return False
    try:
        while data:
            data = data[os.write(target, data) :]
            if not data:
                return True
    except OSError:  # the reader has closed its end
        return False
    return False


def terminal_size() -> ConsoleSize | None:
    """Of our terminal; the container's has it from its first moment, so that nothing is drawn twice."""
    try:
        width, height = os.get_terminal_size(0)
    except OSError:  # not a terminal
        return None
    return ConsoleSize(height=height, width=width)


@contextmanager
def joined(master: int) -> Iterator[None]:
    """Our terminal passes each key on as it is, and the container's has its size; it is restored at the end."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)

    was = signal.signal(signal.SIGWINCH, lambda *_: _resize(master))
    _resize(master)
    tty.setraw(0, termios.TCSADRAIN)  # not the default, which forgets what was typed since the container began
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, was)


def _resize(master: int) -> None:
    with suppress(OSError):
        fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
