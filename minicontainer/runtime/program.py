"""The program of a process: where it starts, what it finds in its environment, which file it is, and its execve.

Stands below `init`, which calls this last. Ruled by runtime-spec config.md (Process), execve(2), execvp(3). The texts
of its errors are runc's, which clients map to exit codes.
"""

import os
import stat
from contextlib import suppress

from minicontainer.errors import CommandNotExecutable, CommandNotFound, Error
from minicontainer.linux.flags import AT_FDCWD, RESOLVE_NO_MAGICLINKS
from minicontainer.linux.syscalls import openat2
from minicontainer.oci.runtime import Process

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def enter_directory(path: str, make: bool, must: bool) -> bool:
    """Make it the working directory; a missing one is made for the first process, as runc does, and for no other."""
    try:
        directory = open_directory(path) if make else openat2(AT_FDCWD, path, _DIRECTORY, resolve=RESOLVE_NO_MAGICLINKS)
        os.fchdir(directory)
    except FileNotFoundError:
        raise CommandNotFound(f'chdir to cwd ("{path}") set in config.json failed: no such file or directory') from None
    except PermissionError:
        if must:
            raise
        return False
    os.close(directory)
    return True


def open_directory(path: str) -> int:
    """Open a directory, made if it is missing; by no link of /proc/PID: those lead to what the host has open."""
    try:
        return openat2(AT_FDCWD, path, _DIRECTORY, resolve=RESOLVE_NO_MAGICLINKS)
    except FileNotFoundError:
        parent, name = os.path.split(path.rstrip("/"))
        if not name:
            raise
    within = open_directory(parent or "/")
    try:
        with suppress(FileExistsError):  # .. of what was missing, or a link that leads nowhere
            os.mkdir(name, 0o755, dir_fd=within)
        return openat2(within, name, _DIRECTORY, resolve=RESOLVE_NO_MAGICLINKS)
    finally:
        os.close(within)


def environment_of(process: Process) -> dict[str, str]:
    """The environment of config.json, with HOME from the container's passwd if it is missing."""
    pairs = (entry.partition("=") for entry in process.env)
    environment = {name: value for name, equals, value in pairs if equals}
    if not environment.get("HOME"):
        environment["HOME"] = home_of(process.user.uid)
    return environment


def home_of(uid: int) -> str:
    try:
        with open("/etc/passwd", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.rstrip("\n").split(":")
                if len(fields) >= 6 and fields[2] == str(uid):
                    return fields[5]
    except OSError:
        return "/"
    return "/"


def find_program(args: tuple[str, ...], environment: dict[str, str]) -> str:
    """The program of args[0] as execvp(3) looks for it; the texts are runc's, which clients map to exit codes."""
    if not args:
        raise Error("config.json: process.args is empty; try: a command")
    name = args[0]
    if "/" in name:
        try:
            mode = os.stat(name).st_mode
        except OSError as error:
            raise CommandNotFound(f'exec: "{name}": stat {name}: {(error.strerror or "").lower()}') from error
        if stat.S_ISDIR(mode):
            raise CommandNotExecutable(f'exec: "{name}": is a directory: permission denied')
        if not os.access(name, os.X_OK, effective_ids=True):
            raise CommandNotExecutable(f'exec: "{name}": permission denied')
        return name
    for directory in environment.get("PATH", "").split(":"):
        path = os.path.join(directory or ".", name)
        if os.path.isfile(path) and os.access(path, os.X_OK, effective_ids=True):
            return path
    raise CommandNotFound(f'exec: "{name}": executable file not found in $PATH')


def execute(program: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    try:
        os.execve(program, arguments, environment)
    except OSError as error:
        kind = CommandNotFound if isinstance(error, FileNotFoundError) else CommandNotExecutable
        raise kind(f"exec {program}: {(error.strerror or '').lower()}") from error
