"""Peers that have a daemon: dockerd and containerd of the bench's own, which end with it; what they cost counts."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

# A mount namespace of its own, and an end with the bench; the data on the bench's file system.
ALONE = ("unshare", "--mount", "setpriv", "--pdeathsig=KILL")
DOCKER = "/usr/bin/docker"  # Debian's, which speaks to BuildKit by itself
PATIENCE = 60.0  # seconds until a daemon has to answer


class Peer(NamedTuple):
    """The command line that speaks to a daemon, the daemon's directory, and its processes."""

    command: str
    root: str
    pids: tuple[int, ...]


@contextmanager
def docker(scratch: Path) -> Iterator[Peer | None]:
    """dockerd, with the containerd that it starts; None where it is not installed."""
    if not shutil.which("dockerd") or not os.path.exists(DOCKER):
        yield None
        return
    root = scratch / "docker"
    root.mkdir()
    daemon = [
        "dockerd", f"--data-root={root}/data", f"--exec-root={root}/exec", f"--pidfile={root}/pid",
        f"--host=unix://{root}/socket", "--iptables=false", "--ip6tables=false", "--bridge=none",
    ]  # fmt: skip
    with _running(daemon, root / "log", f"{DOCKER} --host=unix://{root}/socket", "version") as peer:
        yield peer


@contextmanager
def podman(scratch: Path) -> Iterator[str | None]:
    """podman's command line with a storage of its own, unmounted in the end; None where it is not installed."""
    root = scratch / "podman"
    try:
        yield f"podman --root {root}/p --runroot {root}/r --cgroup-manager=cgroupfs" if shutil.which("podman") else None
    finally:
        subprocess.run(["umount", "--lazy", f"{root}/p/overlay"], capture_output=True, check=False)


@contextmanager
def containerd(scratch: Path) -> Iterator[Peer | None]:
    """None where it is not installed."""
    if not shutil.which("containerd"):
        yield None
        return
    root = scratch / "containerd"
    root.mkdir()
    daemon = ["containerd", f"--root={root}/data", f"--state={root}/state", f"--address={root}/socket"]
    with _running(daemon, root / "log", f"ctr --address={root}/socket", "version") as peer:
        yield peer


@contextmanager
def _running(daemon: list[str], log: Path, command: str, question: str) -> Iterator[Peer]:
    with log.open("wb") as file:
        process = subprocess.Popen([*ALONE, *daemon], stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(["/bin/sh", "-c", f"{command} {question}"], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"{daemon[0]} does not answer: {log.read_text()[-400:]}")
            time.sleep(0.1)
        yield Peer(command, str(log.parent), tuple(family(process.pid)))
    finally:
        process.terminate()
        process.wait()


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended, or this kernel does not say
        return
    for child in children:
        yield from family(int(child))


def shims(peer: Peer) -> list[int]:
    """The processes that containerd keeps each container by."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        if "containerd-shim" in words and peer.root in words:
            found.append(int(place.name))
    return found


def cpu(pid: int) -> float:
    """Seconds that a process and its children that have ended had of a processor: proc(5), stat."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Bytes that a process has, its share of what it has in common with others: proc(5), smaps_rollup, Pss."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
