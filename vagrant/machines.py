"""Machines: one light machine: how a process becomes a computer, by user-mode-linux or by QEMU, and how to reach it.

Stands on `image`, `nodes` and `switch`; `light_lab` starts and ends them. user-mode-linux is a Linux kernel that is an
ordinary process, and has one process of the computer for each of its own: they are one session, and end as one. Ruled
by Documentation/virt/uml/user_mode_linux_howto_v2.rst, qemu(1), ssh(1).
"""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from minicontainer.linux import flags, syscalls
from miniecs.errors import Error
from vagrant.image import Image
from vagrant.nodes import Node
from vagrant.switch import BRIDGE, PREFIX_LENGTH

T = TypeVar("T")
MARK = "MINIECS_LAB"  # in the environment of each process of a lab: its directory
UML = "/usr/bin/linux.uml"
# What systemd would wait for, under user-mode-linux for tens of seconds: lab-network gives the address.
MASKED = (
    "systemd-udevd", "systemd-udev-trigger", "systemd-networkd", "systemd-resolved", "systemd-logind",
    "systemd-random-seed", "systemd-timesyncd", "e2scrub_reap",
)  # fmt: skip
INITS = {"lab": "/usr/local/sbin/lab-init", "systemd": "/sbin/init"}
BOOT_SECONDS = {"uml": 120.0, "qemu": 300.0}  # a busy computer takes ten times what an idle one does


class Process(NamedTuple):
    """A process of the computer, that no other is taken for when it has ended: its number and when it began."""

    pid: int
    began: str

    @classmethod
    def of(cls, pid: int) -> "Process":
        return cls(pid, _began(pid))

    @property
    def lives(self) -> bool:
        return bool(self.began) and _began(self.pid) == self.began

    def end(self) -> None:
        """And all of its session."""
        if not self.began or _began(self.pid) not in ("", self.began):  # "": the leader has ended, others may live
            return
        for pid in session(self.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + 10
        while session(self.pid) and time.monotonic() < deadline:
            time.sleep(0.02)


class Machine(NamedTuple):
    """A machine's place in the lab: what it is to be, and where its files are."""

    node: Node
    number: int  # of its cable, and in its hardware address
    directory: Path  # the lab's
    backend: str
    init: str
    network: int  # the process whose network namespace is the lab's

    @property
    def disk(self) -> Path:
        return self.directory / f"{self.node.name}.disk"

    @property
    def log(self) -> Path:
        return self.directory / f"{self.node.name}.log"

    @property
    def tap(self) -> str:
        return f"tap{self.number}"

    def boot(self, image: Image, key: str) -> Process:
        """Switch it on: with the disk it has, or a fresh one."""
        self.disconnect()
        words = [
            "rw", f"init={INITS[self.init]}", "net.ifnames=0", "quiet", f"systemd.hostname={self.node.name}",
            f"lab.address={self.node.address}/{PREFIX_LENGTH}", f"lab.name={self.node.name}", f"lab.key={key}",
        ]  # fmt: skip
        command = self._uml(image, words) if self.backend == "uml" else self._qemu(image, words)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._inside(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie is left of it
        return Process.of(process.pid)

    def _uml(self, image: Image, words: Sequence[str]) -> list[str]:
        return [
            UML, f"mem={self.node.memory}M", f"ubd0={self.disk},{image.disk}", "root=/dev/ubda", *words,
            *(f"systemd.mask={unit}.service" for unit in MASKED),
            f"vec0:transport=tap,ifname={self.tap},depth=64,gro=1,mac={self._mac}",
            "con=null", "con0=null,fd:1", f"umid={self.node.name}", f"uml_dir={self.directory}/uml",
        ]  # fmt: skip

    def _qemu(self, image: Image, words: Sequence[str]) -> list[str]:
        if not self.disk.exists():
            backing = ["-F", "raw", "-b", str(image.disk)]
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(self.disk)], check=True)
        return [
            "qemu-system-x86_64", "-accel", "tcg,tb-size=64", "-cpu", "max", "-smp", str(self.node.cpus),
            "-m", str(self.node.memory), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
            "-kernel", str(image.kernel), "-initrd", str(image.initrd),
            "-append", " ".join(["root=/dev/vda", "console=ttyS0", *words]),
            "-drive", f"file={self.disk},if=virtio,cache=unsafe,discard=unmap",
            "-netdev", f"tap,id=cable,ifname={self.tap},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=cable,mac={self._mac}", "-device", "virtio-rng-pci",
        ]  # fmt: skip

    @property
    def _mac(self) -> str:
        return f"52:54:00:56:00:{10 + self.number:02x}"

    def _inside(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.network}/ns/net", *command]

    # --- reach it ----------------------------------------------------------------------------------------------------

    def wait(self, process: Process, stop: Callable[[], bool] = lambda: False) -> None:
        """Until it answers, or nobody waits for it any more: `stop`.

        Raises:
            Error: it ended, or was silent for too long.
        """
        deadline = time.monotonic() + BOOT_SECONDS[self.backend]
        while not stop() and not inside(self.network, self._greets):
            if not process.lives:
                raise Error(f"{self.node.name} ended while it booted: {self._last_words()}; try: ./dev lab up")
            if time.monotonic() > deadline:
                raise Error(
                    f"{self.node.name} did not answer within {BOOT_SECONDS[self.backend]:.0f} s: {self._last_words()}; "
                    f"try: ./dev lab reset {self.node.name}"
                )
            time.sleep(0.1)

    def _greets(self) -> bool:
        try:
            with socket.create_connection((self.node.address, 22), 1) as connection:
                connection.settimeout(10)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:200]

    def ssh(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        """The command line that runs a command on it: through the connection that is kept, or one of its own."""
        settings = {
            "StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "LogLevel": "ERROR",
            "ConnectTimeout": "60", "ServerAliveInterval": "15",
        }  # fmt: skip
        given = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        key = ["-i", f"{self.directory}/key"]
        return self._inside(["ssh", *self._through, *key, *given, *options, f"root@{self.node.address}", *command])

    # One connection to each machine is kept: under user-mode-linux every further one would take it a second. It is a
    # process of the lab's; commands that do not find it connect by themselves. Ruled by ssh(1), -M, -O and -S.

    @property
    def _socket(self) -> str:
        """The kept connection's. ssh binds it under a longer name first, and unix(7) allows 107 letters."""
        path = f"{self.directory}/{self.node.name}.ssh"
        return path if len(path) < 90 else "none"

    @property
    def _through(self) -> list[str]:
        return ["-F", "/dev/null", "-S", self._socket.replace("%", "%%")]

    def connect(self) -> None:
        """If there is none. It stays behind in the background: so it gets no pipe that somebody reads to its end."""
        if self._socket != "none" and not os.path.exists(self._socket):
            command = self.ssh(options=["-M", "-N", "-f"])
            null, marked = subprocess.DEVNULL, {**os.environ, MARK: str(self.directory)}
            subprocess.run(command, env=marked, stdin=null, stdout=null, stderr=null)

    def disconnect(self) -> None:
        """When the machine or its cable goes: who used a dead connection would wait for long."""
        if os.path.exists(self._socket):
            subprocess.run(["ssh", *self._through, "-O", "exit", self.node.address], capture_output=True)
            Path(self._socket).unlink(missing_ok=True)

    def push(self, source: Path, names: Sequence[str], target: str, leave: Sequence[str] = ()) -> None:
        """Copy files and directories, given by their names in `source`, into a directory of the machine."""
        excluded = [f"--exclude={name}" for name in ("__pycache__", *leave)]
        tar = ["tar", "-C", str(source), *excluded, "-cf", "-", *names]
        with subprocess.Popen(tar, stdout=subprocess.PIPE) as packed:
            unpack = self.ssh(f"mkdir -p {target} && tar -C {target} -xf -")
            done = subprocess.run(unpack, stdin=packed.stdout, capture_output=True, text=True)
        if done.returncode or packed.returncode:
            raise Error(f"{self.node.name}: the files could not be copied: {done.stderr.strip() or 'tar failed'}")

    def plug(self, into_the_bridge: bool) -> None:
        if not into_the_bridge:
            self.disconnect()
        where = ["master", BRIDGE] if into_the_bridge else ["nomaster"]
        subprocess.run(self._inside(["ip", "link", "set", self.tap, *where]), check=True)

    def fresh(self) -> None:
        """No disk, no log: the next boot begins with the image."""
        for path in (self.disk, self.log):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.directory / "uml" / self.node.name, ignore_errors=True)


# --- processes and namespaces ----------------------------------------------------------------------------------------


def inside(network: int, act: Callable[[], T]) -> T:
    """Call `act` in the lab's network namespace: in a thread of its own, which alone enters it."""
    results: list[T] = []

    def enter() -> None:
        with open(f"/proc/{network}/ns/net") as namespace:
            syscalls.setns(namespace.fileno(), flags.CLONE_NEWNET)
        results.append(act())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if not results:
        raise Error("the lab's network is gone; try: ./dev lab down, then up")
    return results[0]


def session(leader: int) -> list[int]:
    """The living processes of a session, also when its leader has ended."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if (fields := _stat(pid)) and int(fields[3]) == leader and fields[0] not in "ZX"]


def _began(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in "ZX" else ""


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on, the third field: proc(5)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
