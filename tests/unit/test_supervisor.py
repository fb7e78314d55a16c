"""supervisor: what decides, without a container: restarts and messages."""

import gc
import os
import pickle
import socket

import pytest

from minicontainer import supervisor
from minicontainer.errors import CommandNotFound, Error, ImageNotFound


@pytest.mark.parametrize(
    ("policy", "code", "restarts", "again"),
    [
        ("no", 0, 0, False),
        ("no", 1, 0, False),
        ("always", 0, 0, True),
        ("always", 1, 99, True),
        ("on-failure", 0, 0, False),
        ("on-failure", 1, 99, True),
        ("on-failure:2", 1, 1, True),
        ("on-failure:2", 1, 2, False),
        ("on-failure:2", 0, 0, False),
    ],
)
def test_restart_policies(policy: str, code: int, restarts: int, again: bool) -> None:
    assert supervisor.should_restart(policy, code, restarts) is again


def test_the_channel_tells_the_status_then_ends() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        theirs.send(supervisor.ENDED + b"7")
        theirs.close()
        assert supervisor.exit_code(ours) == 7
        assert supervisor.exit_code(ours) is None


def test_the_channel_raises_what_the_supervisor_raised() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.send(supervisor.FAILED + pickle.dumps(CommandNotFound("exec: no such file")))
        with pytest.raises(CommandNotFound, match=r"^exec: no such file$"):
            supervisor.exit_code(ours)


def test_a_supervisor_that_says_nothing_was_killed() -> None:
    error = supervisor._failure(b"")
    assert isinstance(error, Error)
    assert "was killed" in str(error)


def test_an_error_is_pickled_whole() -> None:
    error = pickle.loads(pickle.dumps(ImageNotFound("web")))
    assert isinstance(error, ImageNotFound)
    assert str(error) == "image web not found; try: minicontainer pull web"
    marked = ImageNotFound("web")
    marked.add_note("seen by one")
    assert pickle.loads(pickle.dumps(marked)).__notes__ == ["seen by one"]


def test_a_status_is_said_as_a_shell_says_it() -> None:
    for action, expected in ((lambda: os._exit(3), 3), (lambda: os.kill(os.getpid(), 9), 137)):
        if (child := os.fork()) == 0:
            action()
        assert supervisor._status(child) == expected


def test_the_callers_garbage_does_not_close_what_the_supervisor_opens() -> None:
    if (child := os.fork()) == 0:
        status = 2
        try:
            gc.disable()
            cycle: list[object] = [open(os.devnull)]
            cycle.append(cycle)
            number = cycle[0].fileno()  # type: ignore[attr-defined]
            del cycle
            supervisor._detach(set())
            opened = os.open(os.devnull, os.O_RDONLY)
            os.dup2(opened, number)
            gc.collect()
            os.fstat(number)
            status = 0
        finally:
            os._exit(status)
    assert supervisor._status(child) == 0
