"""What an attacker brings: programs without a library that make any system call, and images that are traps."""

import functools
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from minicontainer import engine
from minicontainer.containers import Home, Options
from minicontainer.oci.image import ContainerConfig
from tests import images

# `syscall HOW NUMBER ARGUMENT...`: HOW is 64, x32 or 80; @TEXT is a text's address, & that of 4 KiB of zeros.
# It says "made" or the number of the error. A signal of the kernel's ends it: its shell says 128 and more.
_SYSCALL = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char zeros[4096], texts[8][256];

int main(int count, char **words)
{
    long values[7] = {0}, result = -1;
    for (int i = 2; i < count && i < 9; i++) {
        if (words[i][0] == '&')
            values[i - 2] = (long)zeros;
        else if (words[i][0] == '@')
            values[i - 2] = (long)strncpy(texts[i - 2], words[i] + 1, 255);
        else
            values[i - 2] = strtol(words[i], 0, 0);
    }
    if (!strcmp(words[1], "80"))
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(values[0]), "b"(values[1]), "c"(values[2]), "d"(values[3]),
                         "S"(values[4]), "D"(values[5]) : "memory", "r8", "r9", "r10", "r11");
    else {
        long number = values[0] | (strcmp(words[1], "x32") ? 0 : 0x40000000);
        register long r10 __asm__("r10") = values[4], r8 __asm__("r8") = values[5], r9 __asm__("r9") = values[6];
        __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(values[1]), "S"(values[2]), "d"(values[3]),
                         "r"(r10), "r"(r8), "r"(r9) : "memory", "rcx", "r11");
    }
    if (result < 0 && result > -4096)
        printf("%ld\n", -result);
    else
        puts("made");
    return 0;
}
"""

# A dynamic loader: the kernel starts it when the program is one of the host's, by /proc/self/exe. It says the error
# of setting that program's time, which needs a mount and a file that can be written to. (Opening it for writing would
# not tell: while it runs that is ETXTBSY, whether or not it could be written to afterwards.)
_LOADER = r"""
static long call(long number, long one, long two, long three)
{
    long result;
    register long four __asm__("r10") = 0;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(one), "S"(two), "d"(three), "r"(four)
                     : "memory", "rcx", "r11");
    return result;
}

void _start(void)
{
    char name[15] = "/proc/self/exe", said[9] = "touch 00";
    long result = -call(280, -100, (long)name, 0); /* utimensat */
    if (result >= 0) {
        said[6] = '0' + result / 10;
        said[7] = '0' + result % 10;
    }
    said[8] = '\n';
    call(1, 1, (long)said, 9);
    call(231, 0, 0, 0);
}
"""


@functools.cache
def program(name: str) -> bytes:
    """The program `syscall` or `loader`, compiled once for a test run."""
    source, flags = {
        "syscall": (_SYSCALL, ["-static", "-no-pie", "-O1"]),
        "loader": (_LOADER, ["-nostdlib", "-static-pie", "-fPIE", "-O1", "-fno-stack-protector"]),
    }[name]
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory, name)
        made.with_suffix(".c").write_text(source)
        subprocess.run(["gcc", *flags, "-o", str(made), f"{made}.c"], check=True)
        return made.read_bytes()


@functools.cache
def has_entry_of_i386() -> bool:
    """Whether this kernel has a table of i386 behind int 0x80: user-mode-linux takes the numbers for those of x86-64.

    It is asked for getpid, which is number 20 there. Number 20 of x86-64 is writev, which these arguments make fail.
    """
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory, "syscall")
        made.write_bytes(program("syscall"))
        made.chmod(0o755)
        return subprocess.run([made, "80", "20", "-1"], check=True, stdout=subprocess.PIPE).stdout == b"made\n"


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a layer with any mode, owner, kind and extended attribute."""
    info = tarfile.TarInfo(name)
    info.mode = 0o755
    for field, value in fields.items():
        setattr(info, field, value)
    info.size = len(content)
    return info, content


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return whole.getvalue()


def image(place: Home, *layers: bytes, name: str = "trap", **config: object) -> None:
    """An image of busybox and these layers."""
    settings = ContainerConfig(cmd=("sh",))._replace(**config)  # type: ignore[arg-type]  # fields by name
    images.put(place, f"docker.io/library/{name}:latest", settings, images.layer(images.busybox_files()), *layers)


def links(place: Home, wanted: dict[str, str]) -> None:
    """An image in which these paths are symbolic links."""
    whole = {**images.busybox_files(), **wanted}
    images.put(place, "docker.io/library/trap:latest", ContainerConfig(cmd=("sh",)), images.layer(whole))


def options(*command: str, **more: object) -> Options:
    return Options(**{"image": "busybox", "command": command, "network": "none", **more})  # type: ignore[arg-type]


def eventually(true: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.01)


def command_line(place: Home, *words: str) -> str:
    """What `minicontainer` says, started as a person does."""
    command = [sys.executable, "-m", "minicontainer.cli", "--root", place.data, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.stdout + done.stderr


def run(place: Home, *command: str, **more: object) -> tuple[int, str]:
    """The exit status and all that was printed of a container that is run and removed."""
    said: list[bytes] = []
    status = engine.run(place, options(*command, **more), output=said.append)
    return status, b"".join(said).decode(errors="replace")


def shell(place: Home, script: str, **more: object) -> str:
    """What a script says in a container; its status is the script's own affair."""
    return run(place, "sh", "-c", script, **more)[1]


def start(place: Home, script: str, **more: object) -> engine.Container:
    return engine.start(place, engine.create(place, options("sh", "-c", script, **more)).id)


def further(place: Home, one: engine.Container, *command: str, **more: object) -> tuple[int, str]:
    """The same of a further process in a container."""
    reader, writer = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        status = engine.exec(place, one.id, command, streams=(null, writer, writer), **more)  # type: ignore[arg-type]
    finally:
        os.close(writer)
        with open(reader, "rb") as pipe:
            said = pipe.read().decode(errors="replace")
        os.close(null)
    return status, said
