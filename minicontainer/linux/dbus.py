"""D-Bus: calls of a program's methods over its own socket, and the signals that tell what became of them.

Loaded only for systemd. Ruled by the D-Bus specification (Type System, Message Protocol, Authentication Protocol): as
much of it as these calls need. A value's type is a signature, like "s" or "a(sv)"; a variant is a pair of both.
"""

import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

_NUMBERS = {  # how struct(3) writes each type
    "y": "<B", "b": "<I", "n": "<h", "q": "<H", "u": "<I", "i": "<i", "h": "<I", "t": "<Q", "x": "<q", "d": "<d",
}  # fmt: skip
_ALIGNMENT = {"s": 4, "o": 4, "g": 1, "a": 4, "(": 8, "{": 8, "v": 1} | {
    kind: struct.calcsize(form) for kind, form in _NUMBERS.items()
}
_CALL, _RETURN, _ERROR, _SIGNAL = 1, 2, 3, 4  # kinds of message
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8  # header fields
_SECONDS = 30.0  # that an answer may take: as long as runc waits


class DBusError(Exception):
    """The other side refused a call: the name of the error, and its text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name.rpartition('.')[2]}: {text}")
        self.name = name


class Message(NamedTuple):
    kind: int
    fields: dict[int, Any]
    values: tuple[Any, ...]


class Connection:
    """A connection to one program, without a bus between."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_SECONDS)
        self._serial = 0
        self._signals: list[Message] = []
        try:
            self._socket.connect(path)
            # At once, as systemd's own clients do: its server waits for ever on a BEGIN that comes alone.
            user = str(os.geteuid()).encode().hex()
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
        self._socket.sendall(message(self._serial, path, interface, member, signature, values))
        while True:
            heard = self._hear()
            if heard.fields.get(_REPLY_SERIAL) != self._serial:
                self._signals.append(heard)
            elif heard.kind == _ERROR:
                raise DBusError(str(heard.fields[_ERROR_NAME]), str(heard.values[0]) if heard.values else "")
            else:
                return heard.values

    def signals(self, member: str) -> Iterator[tuple[Any, ...]]:
        """What signals of this name say, as they come."""
        while True:
            heard = self._signals.pop(0) if self._signals else self._hear()
            if heard.kind == _SIGNAL and heard.fields.get(_MEMBER) == member:
                yield heard.values

    def _some(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            part = self._socket.recv(size - len(parts))
            if not part:
                raise DBusError("Disconnected", "the connection was closed")
            parts += part
        return parts

    def _hear(self) -> Message:
        start = self._some(16)
        body, fields = struct.unpack_from("<I", start, 4)[0], struct.unpack_from("<I", start, 12)[0]
        rest = self._some(_padded(fields) + body)
        return parsed(start + rest)


def message(serial: int, path: str, interface: str, member: str, signature: str, values: tuple[Any, ...]) -> bytes:
    """A method call, as it goes over the wire."""
    body = bytearray()
    for kind, value in zip(types(signature), values, strict=True):
        _put(body, kind, value)
    fields = [(_PATH, ("o", path)), (_INTERFACE, ("s", interface)), (_MEMBER, ("s", member))]
    fields.append((_DESTINATION, ("s", interface.rpartition(".")[0])))
    fields += [(_SIGNATURE, ("g", signature))] if signature else []
    header = bytearray(b"l" + struct.pack("<BBBII", _CALL, 0, 1, len(body), serial))
    _put(header, "a(yv)", fields)
    return bytes(header.ljust(_padded(len(header)), b"\0") + body)


def parsed(data: bytes) -> Message:
    """A message of the wire as values."""
    if data[:1] != b"l":
        raise DBusError("InvalidArgs", "a message of the other byte order")
    found, offset = _get(data, 12, "a(yv)")
    fields = {number: value for number, (_, value) in found}
    values, offset = [], _padded(offset)
    for kind in types(fields.get(_SIGNATURE, "")):
        value, offset = _get(data, offset, kind)
        values.append(value)
    return Message(data[1], fields, tuple(values))


def types(signature: str) -> Iterator[str]:
    """The complete types of a signature: of "sa(sv)u" they are "s", "a(sv)" and "u"."""
    start = 0
    while start < len(signature):
        end = start
        while signature[end] == "a":
            end += 1
        depth = 0
        while True:
            depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(signature[end], 0)
            end += 1
            if not depth:
                break
        yield signature[start:end]
        start = end


def _padded(length: int, to: int = 8) -> int:
    return length + -length % to


def _put(data: bytearray, kind: str, value: Any) -> None:
    data += bytes(-len(data) % _ALIGNMENT[kind[0]])
    if kind in _NUMBERS:
        data += struct.pack(_NUMBERS[kind], value)
    elif kind in "sog":
        text = value.encode("utf-8", "surrogateescape")
        data += struct.pack("<B" if kind == "g" else "<I", len(text)) + text + b"\0"
    elif kind == "v":
        _put(data, "g", value[0])
        _put(data, value[0], value[1])
    elif kind[0] == "a":
        place = len(data)
        data += bytes(4)
        data += bytes(-len(data) % _ALIGNMENT[kind[1]])
        start = len(data)
        for item in value:
            _put(data, kind[1:], item)
        struct.pack_into("<I", data, place, len(data) - start)
    else:
        for part, item in zip(types(kind[1:-1]), value, strict=True):
            _put(data, part, item)


def _get(data: bytes, offset: int, kind: str) -> tuple[Any, int]:
    offset = _padded(offset, _ALIGNMENT[kind[0]])
    if kind in _NUMBERS:
        return struct.unpack_from(_NUMBERS[kind], data, offset)[0], offset + struct.calcsize(_NUMBERS[kind])
    if kind in "sog":
        wide = 1 if kind == "g" else 4
        start = offset + wide
        end = start + int.from_bytes(data[offset:start], "little")
        return data[start:end].decode("utf-8", "surrogateescape"), end + 1
    if kind == "v":
        inner, offset = _get(data, offset, "g")
        value, offset = _get(data, offset, inner)
        return (inner, value), offset
    values: list[Any] = []
    if kind[0] == "a":
        size = struct.unpack_from("<I", data, offset)[0]
        offset = _padded(offset + 4, _ALIGNMENT[kind[1]])
        end = offset + size
        while offset < end:
            value, offset = _get(data, offset, kind[1:])
            values.append(value)
        return values, offset
    for part in types(kind[1:-1]):
        value, offset = _get(data, offset, part)
        values.append(value)
    return tuple(values), offset
