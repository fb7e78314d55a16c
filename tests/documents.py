"""Documents run: the `console` blocks of a page as commands and what they must print.

A line of a block that begins with `$ ` is a command, `> ` goes on with it, the others are what it prints. `…` in the
expected output stands for anything, a line of `…` alone for any number of lines. A command with nothing below it need
only succeed; one that ends in `  # exits N` must end so.
"""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
STATUS = re.compile(r"  # exits (\d+)$")


class Command(NamedTuple):
    page: str
    line: int
    text: str
    output: str  # as the page shows it
    status: int


def commands(page: Path) -> Iterator[Command]:
    """Each command of the page's `console` blocks, in order."""
    text = page.read_text()
    for block in FENCE.finditer(text):
        number = text[: block.start(1)].count("\n") + 1
        command, output, at = "", [], number
        for offset, line in enumerate(block[1].splitlines()):
            if line.startswith("$ "):
                if command:
                    yield _command(page, at, command, output)
                command, output, at = line[2:], [], number + offset
            elif line.startswith("> ") and not output:
                command += "\n" + line[2:]
            else:
                output.append(line)
        if command:
            yield _command(page, at, command, output)


def _command(page: Path, line: int, text: str, output: list[str]) -> Command:
    said = STATUS.search(text)
    status = int(said[1]) if said else 0
    return Command(
        page=page.name, line=line, text=STATUS.sub("", text), output="\n".join(output).strip(), status=status
    )


def matches(expected: str, printed: str) -> bool:
    """Whether `printed` is what the page shows, `…` standing for anything; trailing blanks do not count."""
    pattern = []
    for line in expected.splitlines():
        if line.strip() == "…":
            pattern.append(r"(?:.*\n)*?")
        else:
            parts = [re.sub(r"(\\[ \t])+", r"[ \\t]+", re.escape(part)) for part in line.strip().split("…")]
            pattern.append(r"[ \t]*" + r".*?".join(parts) + r"[ \t]*\n")
    return re.fullmatch("".join(pattern), printed.strip("\n") + "\n") is not None


class Shell:
    """One bash in which a page's commands run one after the other; variables and the directory go on."""

    END = "--- end of command"

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
        self.run('sudo() { "$@"; }')  # the tests are root, and a minimal Debian has no sudo

    def run(self, text: str) -> tuple[str, int]:
        """What the command printed, both streams, and its exit status."""
        assert self._bash.stdin and self._bash.stdout
        # Its input is empty: this shell's own are the commands that follow, and ssh, say, would take them.
        self._bash.stdin.write(f"{{ {text}\n}} </dev/null\n_status=$?; echo; echo '{self.END}' $_status\n")
        self._bash.stdin.flush()
        printed = []
        for line in self._bash.stdout:
            if line.startswith(self.END):
                return "".join(printed).strip("\n"), int(line.split()[-1])
            printed.append(line)
        raise AssertionError(f"the shell ended at: {text}")

    def close(self) -> None:
        assert self._bash.stdin and self._bash.stdout
        self._bash.stdin.close()
        self._bash.wait(timeout=30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)  # what a page put into the background and did not end
        self._bash.stdout.close()
