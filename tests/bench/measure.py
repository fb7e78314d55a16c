"""Paired measurement: every contender once a round, in another order each round; the median tells."""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench import peers

COMMANDS = Path(sys.executable).parent  # the installed ones, as people call them
OURS, RUNTIME = f"{COMMANDS}/minicontainer", f"{COMMANDS}/minicontainer-runtime"


class Contender(NamedTuple):
    """Someone who does the job. `command` is run by a shell; `before` is not timed. `needs` names its program.

    `daemons` are processes that do a part of it; their CPU counts.
    """

    name: str
    command: str | Callable[[], object]
    needs: str = ""
    before: Callable[[], object] = lambda: None
    daemons: tuple[int, ...] = ()

    @property
    def is_here(self) -> bool:
        return not self.needs or shutil.which(self.needs) is not None


class Result(NamedTuple):
    """Medians of one contender, in seconds. CPU is that of the contender's own processes, and of its daemons."""

    name: str
    wall: float
    cpu: float
    failed: str = ""


class Table(NamedTuple):
    """One comparison: what was done, the results with ours first, and who is not installed."""

    title: str
    results: list[Result]
    absent: list[str]
    note: str = ""


def compare(title: str, contenders: Sequence[Contender], rounds: int, note: str = "") -> Table:
    """Run the contenders that are here, a warm-up round first; the first contender is ours."""
    here = [contender for contender in contenders if contender.is_here]
    times: dict[str, list[tuple[float, float]]] = {contender.name: [] for contender in here}
    failed: dict[str, str] = {}
    for number in range(rounds + 1):
        turn = number % len(here)
        for contender in here[turn:] + here[:turn]:
            if contender.name in failed:
                continue
            try:
                taken = once(contender)
            except subprocess.CalledProcessError as error:
                failed[contender.name] = (error.stderr or b"").decode(errors="replace").strip()[-200:] or str(error)
            else:
                times[contender.name] += [taken] if number else []
    results = [
        Result(contender.name, *_medians(times[contender.name]), failed.get(contender.name, "")) for contender in here
    ]
    absent = [contender.name for contender in contenders if not contender.is_here]
    return Table(title=title, results=results, absent=absent, note=note)


def once(contender: Contender) -> tuple[float, float]:
    """Wall and CPU seconds of one go."""
    contender.before()
    cpu, began = _cpu(contender.daemons), time.perf_counter()
    if callable(contender.command):
        contender.command()
    else:
        call(contender.command)
    return time.perf_counter() - began, _cpu(contender.daemons) - cpu


def call(command: str) -> None:
    """A line for the shell, which has to succeed."""
    subprocess.run(["/bin/sh", "-c", command], check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _cpu(daemons: Sequence[int]) -> float:
    found = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in found) + sum(map(peers.cpu, daemons))


def _medians(times: list[tuple[float, float]]) -> tuple[float, float]:
    if not times:
        return 0.0, 0.0
    walls, cpus = zip(*times, strict=True)
    return statistics.median(walls), statistics.median(cpus)


def show(table: Table) -> str:
    """The table as text: ours / the peer is the ratio, below 1 is faster than the peer."""
    lines = [table.title, f"  {'':34}{'wall ms':>9}{'cpu ms':>9}{'ours/it':>9}{'cpu':>7}"]
    ours = table.results[0]
    for result in table.results:
        if result.failed:
            lines.append(f"  {result.name:34} failed: {result.failed.splitlines()[-1]}")
            continue
        ratios = f"{_ratio(ours.wall, result.wall):>9}{_ratio(ours.cpu, result.cpu):>7}" if result is not ours else ""
        lines.append(f"  {result.name:34}{result.wall * 1000:>9.1f}{result.cpu * 1000:>9.1f}{ratios}")
    if table.absent:
        lines.append(f"  not installed: {', '.join(table.absent)}")
    if table.note:
        lines.append(f"  {table.note}")
    return "\n".join(lines)


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}" if theirs and ours else "-"


def load() -> str:
    """How busy the machine is: figures from a busy one are worth less."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
