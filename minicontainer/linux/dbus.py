"""D-Bus: calls of a program's methods over its own socket, and the signals that tell what became of them.

Loaded only for systemd. Ruled by the D-Bus specification, Authentication Protocol; messages are written and read by
jeepney. Its connections are not used: they send BEGIN alone, and systemd's private socket waits for ever then. A
variant is a pair of its signature and its value.
"""

import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from jeepney import DBusAddress, HeaderFields, Message, MessageType, Parser, new_method_call

_SECONDS = 30.0  # that an answer may take: as long as runc waits


class DBusError(Exception):
    """The other side refused a call: the name of the error, and its text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name.rpartition('.')[2]}: {text}")
        self.name = name


class Connection:
    """A connection to one program, without a bus between, as the user that it knows this process by."""

    def __init__(self, path: str, uid: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_SECONDS)
        self._serial = 0
        self._parser = Parser()
        self._signals: list[Message] = []
        try:
            self._socket.connect(path)
            user = str(uid).encode().hex()
            self._socket.sendall(f"\0AUTH EXTERNAL {user}\r\nBEGIN\r\n".encode())
            said = b""
            while not said.endswith(b"\r\n"):
                said += self._some(1)
            if not said.startswith(b"OK "):
                raise DBusError("AccessDenied", said.decode(errors="replace").strip())
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._socket.close()

    def call(self, path: str, interface: str, member: str, signature: str = "", *values: Any) -> tuple[Any, ...]:
        """Call a method, and wait for what it returns.

        Raises:
            DBusError: it returns an error.
        """
        self._serial += 1
        address = DBusAddress(path, bus_name=interface.rpartition(".")[0], interface=interface)
        call = new_method_call(address, member, signature or None, values)
        self._socket.sendall(call.serialise(serial=self._serial))
        while True:
            heard = self._hear()
            fields = heard.header.fields
            if fields.get(HeaderFields.reply_serial) != self._serial:
                self._signals.append(heard)
            elif heard.header.message_type is MessageType.error:
                raise DBusError(str(fields[HeaderFields.error_name]), str(heard.body[0]) if heard.body else "")
            else:
                return tuple(heard.body)

    def signals(self, member: str) -> Iterator[tuple[Any, ...]]:
        """What signals of this name say, as they come."""
        while True:
            heard = self._signals.pop(0) if self._signals else self._hear()
            is_signal = heard.header.message_type is MessageType.signal
            if is_signal and heard.header.fields.get(HeaderFields.member) == member:
                yield tuple(heard.body)

    def _some(self, most: int) -> bytes:
        part = self._socket.recv(most)
        if not part:
            raise DBusError("Disconnected", "the connection was closed")
        return part

    def _hear(self) -> Message:
        while (heard := self._parser.get_next_message()) is None:
            self._parser.add_data(self._some(1 << 16))
        return heard
