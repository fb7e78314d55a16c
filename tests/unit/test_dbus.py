"""dbus: a program at the other end of a socket, which answers what systemd answered."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from minicontainer.linux.dbus import Connection, DBusError

MANAGER = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
ANSWER = (  # what systemd 252 answered to GetUnit("init.scope")
    b"l\2\1\1\x30\0\0\0\1\0\0\0\x37\0\0\0\5\1u\0\1\0\0\0\7\1s\0\x18\0\0\0org.freedesktop.systemd1\0\0\0\0\0\0\0\0"
    b"\x08\1g\0\1o\0\0\x2b\0\0\0/org/freedesktop/systemd1/unit/init_2escope\0"
)
SIGNAL = (  # /o of the interface o.o says Done, and a string
    b"l\4\1\1\7\0\0\0\2\0\0\0\x37\0\0\0\1\1o\0\2\0\0\0/o\0\0\0\0\0\0\2\1s\0\3\0\0\0o.o\0\0\0\0\0\3\1s\0\4\0\0\0Done\0\0\0\0"
    b"\x08\1g\0\1s\0\0\2\0\0\0ab\0"
)
REFUSAL = (  # the error o.No, which answers the first call
    b"l\3\1\1\7\0\0\0\1\0\0\0\x1f\0\0\0\4\1s\0\4\0\0\0o.No\0\0\0\0\5\1u\0\1\0\0\0\x08\1g\0\1s\0\0\2\0\0\0no\0"
)


def listening(path: Path, serve: Callable[[socket.socket], None]) -> threading.Thread:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen()

    def accept() -> None:
        with server, server.accept()[0] as peer:
            serve(peer)

    thread = threading.Thread(target=accept)
    thread.start()
    return thread


def test_a_call_is_laid_out_as_the_specification_says_and_its_answer_is_understood(tmp_path: Path) -> None:
    heard: list[bytes] = []

    def systemd(peer: socket.socket) -> None:
        heard.append(peer.recv(1 << 16))
        peer.sendall(b"OK 1234\r\n")
        heard.append(peer.recv(1 << 16))
        peer.sendall(ANSWER[:9])
        peer.sendall(ANSWER[9:])

    thread = listening(tmp_path / "socket", systemd)
    with Connection(str(tmp_path / "socket"), 7) as connection:
        assert connection.call(*MANAGER, "GetUnit", "s", "a") == ("/org/freedesktop/systemd1/unit/init_2escope",)
    thread.join()
    assert heard[0].startswith(b"\0AUTH EXTERNAL 37\r\n") and heard[0].endswith(b"\r\nBEGIN\r\n")
    sent = heard[1]
    assert sent[:12] == b"l\1\0\1\6\0\0\0\1\0\0\0" and sent.endswith(b"\1\0\0\0a\0")
    assert all(word in sent for word in (b"org.freedesktop.systemd1\0", b"GetUnit\0", MANAGER[0].encode()))


def test_a_signal_that_comes_before_the_answer_is_kept(tmp_path: Path) -> None:
    def systemd(peer: socket.socket) -> None:
        peer.recv(1 << 16)
        peer.sendall(b"OK 1234\r\n")
        peer.recv(1 << 16)
        peer.sendall(SIGNAL + ANSWER)

    thread = listening(tmp_path / "socket", systemd)
    with Connection(str(tmp_path / "socket"), 7) as connection:
        connection.call(*MANAGER, "GetUnit", "s", "a")
        assert next(connection.signals("Done")) == ("ab",)
    thread.join()


@pytest.mark.parametrize(
    ("greeting", "answer", "error"),
    [
        (b"OK 1\r\n", REFUSAL, "No: no"),
        (b"OK 1\r\n", b"", "Disconnected: the connection was closed"),
        (b"REJECTED EXTERNAL\r\n", b"", "AccessDenied: REJECTED EXTERNAL"),
        (b"", b"", "Disconnected: the connection was closed"),
    ],
)
def test_a_peer_that_refuses_or_goes_is_told(tmp_path: Path, greeting: bytes, answer: bytes, error: str) -> None:
    def systemd(peer: socket.socket) -> None:
        peer.recv(1 << 16)
        peer.sendall(greeting)
        if greeting.startswith(b"OK"):
            peer.recv(1 << 16)
            peer.sendall(answer)

    thread = listening(tmp_path / "socket", systemd)
    with pytest.raises(DBusError, match=error), Connection(str(tmp_path / "socket"), 7) as connection:
        connection.call(*MANAGER, "Subscribe")
    thread.join()
