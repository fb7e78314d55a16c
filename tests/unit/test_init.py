"""What the child decides before it is the program: which file, which environment, which bits, which words."""

import os
import resource
import signal
from pathlib import Path

import pytest

from minicontainer import last_words
from minicontainer.errors import CommandNotExecutable, CommandNotFound, Error
from minicontainer.oci.runtime import Process, Rlimit, User
from minicontainer.runtime import init, program


@pytest.fixture
def binaries(tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    for name, mode in (("runs", 0o755), ("reads", 0o644)):
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(mode)
    (directory / "folder").mkdir()
    return directory


def test_a_program_is_found_along_path(binaries: Path) -> None:
    environment = {"PATH": f"/nowhere:{binaries}"}
    assert program.find_program(("runs", "-x"), environment) == f"{binaries}/runs"
    assert program.find_program((f"{binaries}/runs",), {}) == f"{binaries}/runs"
    for name in ("reads", "folder", "absent"):
        with pytest.raises(CommandNotFound, match=r"executable file not found in \$PATH"):
            program.find_program((name,), environment)


def test_the_texts_are_those_that_clients_know(binaries: Path) -> None:
    with pytest.raises(CommandNotFound, match='exec: "/no/such": stat /no/such: no such file or directory'):
        program.find_program(("/no/such",), {})
    with pytest.raises(CommandNotExecutable, match='reads": permission denied'):
        program.find_program((f"{binaries}/reads",), {})
    with pytest.raises(CommandNotExecutable, match="is a directory"):
        program.find_program((f"{binaries}/folder",), {})
    with pytest.raises(Error, match="args is empty"):
        program.find_program((), {})


def test_the_environment_is_that_of_the_spec_and_a_home() -> None:
    process = Process(args=("a",), env=("A=1", "B=x=y", "broken", "A=2"), user=User(uid=0))
    assert program.environment_of(process) == {"A": "2", "B": "x=y", "HOME": "/root"}
    assert program.environment_of(process._replace(env=("HOME=/here",)))["HOME"] == "/here"
    assert program.environment_of(process._replace(user=User(uid=4_000_000)))["HOME"] == "/"


def test_capabilities_as_bits() -> None:
    assert init.mask(("CAP_CHOWN", "CAP_KILL", "CAP_KILL", "CAP_OF_THE_FUTURE")) == 1 << 0 | 1 << 5
    assert init.mask(("CAP_CHECKPOINT_RESTORE",)) == 1 << 40
    assert init.numbers(0b10110) == [1, 2, 4]
    assert init.name_of(21) == "CAP_SYS_ADMIN"
    assert init.name_of(63) == "capability 63"


def test_limits_without_end() -> None:
    limit = Rlimit(type="RLIMIT_CORE", soft=5, hard=2**64 - 1)
    assert init.limit_of(limit) == (resource.RLIMIT_CORE, (5, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (CommandNotFound('exec: "x"'), CommandNotFound, 'exec: "x"'),
        (CommandNotExecutable("no"), CommandNotExecutable, "no"),
        (Error("it is so: try that"), Error, "it is so: try that"),
        (PermissionError(1, "Operation not permitted", "/x"), Error, "[Errno 1] Operation not permitted: '/x'"),
        (ZeroDivisionError("oops"), Error, "a bug: ZeroDivisionError: oops"),
    ],
)
def test_an_error_goes_through_the_pipe_with_its_kind(error: Exception, kind: type[Error], text: str) -> None:
    reader, writer = os.pipe()
    try:
        raise error
    except Exception as raised:  # noqa: BLE001  # whatever the child raises
        last_words.tell(raised, writer)
    os.close(writer)
    told = last_words.told(last_words.read_all(reader))
    os.close(reader)
    assert type(told) is kind
    assert text in str(told)


def test_a_child_that_says_nothing_is_told_of_too() -> None:
    assert "died before" in str(last_words.told(b""))


def test_signals_are_reset() -> None:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
        init.reset_signals()
        ours = {signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT)}
        os._exit(0 if ours == {signal.SIG_DFL} and not signal.pthread_sigmask(signal.SIG_BLOCK, ()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_child_ends_when_its_creator_is_gone() -> None:
    reader, writer = os.pipe()
    os.write(writer, init.MAPPED)
    init.wait_for(reader, init.MAPPED)
    os.close(writer)
    with pytest.raises(Error, match="gone"):
        init.wait_for(reader, init.JOINED)
    os.close(reader)


def test_a_working_directory_that_is_missing_is_made(tmp_path: Path) -> None:
    here = os.getcwd()
    try:
        assert program.enter_directory(str(tmp_path / "new/place"), True, False)
        assert os.getcwd() == str(tmp_path / "new/place")
    finally:
        os.chdir(here)
