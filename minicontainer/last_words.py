"""Last words: an error on its way from a process that dies of it to the one that asked for it.

The ground of the child and of those who wait for it. Between fork and execve nothing is caught to go on: STYLE, rule 9.
"""

import os

from minicontainer.errors import CommandNotExecutable, CommandNotFound, Error


def tell(error: BaseException, descriptor: int) -> None:
    """Send an error to the creator: its exit code and its text on one line."""
    text = str(error)
    if not isinstance(error, Error | OSError):
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else "nowhere"
        text = f"a bug: {type(error).__name__}: {error} ({where})"
    os.write(descriptor, f"{getattr(error, 'exit_code', Error.exit_code)} {text}".encode("utf-8", "surrogateescape"))


def told(message: bytes) -> Error:
    """The error that `tell` sent."""
    code, _, text = message.decode("utf-8", "surrogateescape").partition(" ")
    for kind in (CommandNotFound, CommandNotExecutable):
        if code == str(kind.exit_code):
            return kind(text)
    return Error(text or "the container's process died before it could say why")


def read_all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts)
