"""Light lab: one manager and some workers on this computer, without a hypervisor: brought up, changed, taken down.

Stands on `machines`, `switch` and `image`; `lab` is its command line. All that it makes is in one directory and in
processes that carry its mark; so `down` finds everything, whatever was half made and whoever was killed. The machines
are made what they are by provision.sh, as Vagrant's are.
"""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from miniecs import join_tokens
from miniecs.errors import Error
from vagrant import doctor
from vagrant.image import Image
from vagrant.machines import MARK, Machine, Process
from vagrant.nodes import Node, nodes

ROOT = Path(__file__).parents[1]
DIRECTORY = ROOT / ".lab"
GATEWAY = "192.168.56.1"
PORT = 8600
CODE = ("dev", "pyproject.toml", ".ci", "minicontainer", "miniecs", "images", "vagrant")


class Choices(NamedTuple):
    """What `up` was asked for."""

    workers: int = 2
    backend: str = "uml"
    init: str = "lab"


class Seen(NamedTuple):
    """A machine as `status` shows it."""

    node: Node
    is_on: bool
    disk: int | None  # MiB that it takes of this computer, if that is known
    state: str = ""  # in the hypervisor's words


class LightLab:
    def __init__(self, directory: Path = DIRECTORY, say: Callable[[str], None] = lambda _: None) -> None:
        self.directory = directory.absolute()
        self.say = say
        self.file = self.directory / "lab.json"
        self.image = self.directory / "image"
        self.interrupted = threading.Event()

    # --- its state ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, Any]:
        """Raises Error if there is no lab."""
        try:
            found: dict[str, Any] = json.loads(self.file.read_text())
            return found
        except FileNotFoundError:
            raise Error("no lab is up; try: ./dev lab up") from None

    def _save(self, **changes: Any) -> None:
        known = json.loads(self.file.read_text()) if self.file.exists() else {"machines": {}}
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(known | changes, indent=1) + "\n")
        new.rename(self.file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One change at a time."""
        self.directory.mkdir(exist_ok=True, mode=0o700)
        with (self.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say("another ./dev lab is at work; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def choices(self) -> Choices:
        return Choices(**self.state["choices"])

    def machines(self) -> dict[str, Machine]:
        """All machines of the lab, by name, on or off."""
        state = self.state
        choices = Choices(**state["choices"])
        return {
            node.name: Machine(node, number, self.directory, choices.backend, choices.init, state["switch"]["pid"])
            for number, node in enumerate(nodes(choices.workers))
        }

    def machine(self, name: str) -> Machine:
        found = self.machines()
        if name not in found:
            raise Error(f"no machine {name!r} in the lab; there are: {', '.join(found)}")
        return found[name]

    def process(self, name: str) -> Process | None:
        """What the machine runs as; None if it is off."""
        known = self.state["machines"].get(name)
        process = Process(*known) if known else None
        return process if process and process.lives else None

    def status(self) -> list[Seen]:
        found = []
        for name, machine in self.machines().items():
            disk = machine.disk.stat().st_blocks // 2048 if machine.disk.exists() else 0
            found.append(Seen(machine.node, self.process(name) is not None, disk))
        return found

    @property
    def port(self) -> int:
        """Of 127.0.0.1: the control plane."""
        return int(self.state["switch"]["port"])

    # --- up ----------------------------------------------------------------------------------------------------------

    def up(self, choices: Choices) -> None:
        """Bring up what is not up: all, what an interrupted `up` left out, or workers more."""
        wanted = nodes(choices.workers)
        with self._locked():
            if self.file.exists():
                known = self.choices
                if (known.backend, known.init) != (choices.backend, choices.init):
                    raise Error(f"the lab is up with {known.backend} and {known.init}; try: ./dev lab down first")
                choices = choices._replace(workers=max(choices.workers, known.workers))
                wanted = nodes(choices.workers)
            self._check(choices)
            image = _image(choices)
            if not self.image.exists():
                image.make(self.say)
            self._save(choices=choices._asdict())
            image.keep(self.image)
            self._start_switch()
            self._make_key()
            missing = [node.name for node in wanted if not self.process(node.name)]
            for name in missing:
                self._boot(name)
            self._each(missing, self._wait)
            self._provision([node.name for node in wanted])

    def findings(self, choices: Choices) -> list[doctor.Finding]:
        """What this computer has for such a lab, and what it lacks."""
        image = _image(choices)
        computer = doctor.look(image.directory)
        return list(doctor.findings(computer, nodes(choices.workers), choices.backend, image.disk.exists()))

    def _check(self, choices: Choices) -> None:
        up = self.file.exists() and any(self.process(name) for name in self.state["machines"])
        for finding in () if up else self.findings(choices):
            if finding.fix:
                raise Error(f"{finding.what}: {finding.found}; try: {finding.fix}")

    def _start_switch(self) -> None:
        known = self.state.get("switch")
        if known and Process(known["pid"], known["began"]).lives:
            return
        for name in self.state["machines"]:
            self._end(name)  # their cables went with the network
        file = self.directory / "switch.json"
        file.unlink(missing_ok=True)
        taps = [f"tap{number}" for number in range(16)]
        words = [str(file), GATEWAY, nodes(1)[0].address, str(PORT), *taps]
        with (self.directory / "switch.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "vagrant.switch", *words],
                cwd=ROOT, env=self._marked(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while not file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                said = (self.directory / "switch.log").read_text().strip().splitlines() or ["it did not begin"]
                raise Error(f"the lab's network could not be made: {said[-1]}; try: ./dev lab doctor")
            time.sleep(0.02)
        made = Process.of(process.pid)
        self._save(switch={"pid": made.pid, "began": made.began, "port": json.loads(file.read_text())["port"]})

    def _make_key(self) -> None:
        key = self.directory / "key"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", key], check=True)
        if "token" not in self.state:
            self._save(token=join_tokens.generate())

    def _marked(self) -> dict[str, str]:
        return {**os.environ, MARK: str(self.directory)}

    def _boot(self, name: str) -> None:
        image = Image(_is_full(self.choices), directory=self.image)
        os.environ[MARK] = str(self.directory)
        public = (self.directory / "key.pub").read_text().split()[1]
        process = self.machine(name).boot(image, public)
        self._save(machines=self.state["machines"] | {name: process})

    def _wait(self, name: str) -> None:
        process = self.process(name)
        if process is None:
            raise Error(f"{name} is off; try: ./dev lab power on {name}")
        started = time.monotonic()
        self.machine(name).wait(process, self.interrupted.is_set)
        if self.interrupted.is_set():
            return
        self.machine(name).connect()
        self.say(f"{name} answers after {time.monotonic() - started:.1f} s")

    # --- provision ---------------------------------------------------------------------------------------------------

    def provision(self, names: Sequence[str] = ()) -> None:
        """Bring this checkout's code to the machines, and make them what they are to be."""
        with self._locked():
            self._provision(list(names) or self.on())

    def sync(self, names: Sequence[str] = ()) -> None:
        """Bring this checkout's files to /vagrant of the machines, as Vagrant does; nothing is installed."""
        with self._locked():
            chosen = list(names) or self.on()
            self._each(chosen, lambda name: self.machine(name).push(ROOT, CODE, "/vagrant", ("vagrant/stage/wheels",)))

    def push(self, sources: Sequence[Path], target: str, names: Sequence[str] = ()) -> None:
        """Copy files and directories of this computer into a directory of the machines.

        Raises:
            Error: one could not be copied.
        """

        def copy(name: str) -> None:
            for source in sources:
                self.machine(name).push(source.absolute().parent, [source.name], shlex.quote(target))

        self._each(list(names) or self.on(), copy)

    def on(self) -> list[str]:
        """The names of the machines that are on."""
        return [name for name in self.machines() if self.process(name)]

    def _provision(self, names: Sequence[str]) -> None:
        _stage_images()
        manager = next(iter(self.machines()))
        # A manager that is made at the same time takes its token late, on a slow computer: no refusal is the last word.
        settings = {"PATIENCE": "180"} if manager in names else {}
        self._each(names, lambda name: self._provision_one(name, settings))

    def _provision_one(self, name: str, more: Mapping[str, str]) -> None:
        machines = self.machines()
        manager, machine = next(iter(machines.values())).node, machines[name]
        # The image has the Python packages of its day; wheels travel only when there are others since.
        locked = subprocess.run(
            ["sha256sum", ROOT / "vagrant/stage/installed.txt"], capture_output=True, text=True
        ).stdout
        installed = subprocess.run(
            machine.ssh("cat /opt/miniecs/.venv/installed"), capture_output=True, text=True
        ).stdout
        wheels = installed.strip() != locked[:16]
        machine.push(ROOT, CODE, "/vagrant", leave=() if wheels else ("vagrant/stage/wheels",))
        known = [f"{one.node.name}:{one.node.address}" for one in machines.values()]
        role = ["manager", name, machine.node.address] if machine.node == manager else [
            "worker", name, machine.node.address, manager.address,
        ]  # fmt: skip
        # user-mode-linux shows one CPU, whatever nodes.yaml gives the machine.
        options = f"--cpu {machine.node.cpus * 1024}"
        settings = {"JOIN_TOKEN": self.state["token"], "AGENT_OPTIONS": options, **more}
        words = ["env", *(f"{key}={value}" for key, value in settings.items()), "/vagrant/vagrant/provision.sh"]
        done = subprocess.run(machine.ssh(shlex.join([*words, *role, *known])), capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
            raise Error(f"{name} could not be provisioned: {said}; try: ./dev lab ssh {name}")
        self.say(done.stdout.strip().splitlines()[-1].removeprefix("provision: "))

    def _each(self, names: Sequence[str], act: Callable[[str], None]) -> None:
        """For all at once; the first failure is raised when all have ended."""
        with ThreadPoolExecutor(max(len(names), 1)) as pool:
            try:
                for future in [pool.submit(act, name) for name in names]:
                    future.result()
            except KeyboardInterrupt:
                self.interrupted.set()  # who waits for a machine ends: who pressed Ctrl-C does not wait for that
                raise

    # --- commands ----------------------------------------------------------------------------------------------------

    def ssh(self, name: str, *command: str, terminal: bool = False) -> list[str]:
        if not self.process(name) and self.machine(name):
            raise Error(f"{name} is off; try: ./dev lab power on {name}")
        return self.machine(name).ssh(*command, options=["-t"] if terminal else [])

    def run(self, name: str, command: str) -> "subprocess.CompletedProcess[str]":
        """A shell command on a machine, in a login shell: it has the credentials on the manager."""
        whole = self.ssh(name, f"bash -lc {shlex.quote(command)}")
        return subprocess.run(whole, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def inside(self, *command: str) -> list[str]:
        """The command line that runs a command of this computer in the lab's network."""
        return ["nsenter", f"--net=/proc/{self.state['switch']['pid']}/ns/net", *command]

    def environment(self) -> dict[str, str]:
        """What makes `aws`, boto3 and `miniecs` of this computer talk to the lab."""
        manager = next(iter(self.machines()))
        done = self.run(manager, "cat /var/lib/miniecs/server/credentials")
        if done.returncode:
            raise Error(f"{manager} does not tell its credentials: {done.stderr.strip()}; try: ./dev lab provision")
        keys = dict(line.split(" = ") for line in done.stdout.splitlines() if " = " in line)
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": keys["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": keys["aws_secret_access_key"],
            "AWS_PAGER": "",
            "LAB_REGISTRY": f"{nodes(1)[0].address}:{PORT}",
        }

    # --- power, cables, disks ----------------------------------------------------------------------------------------

    def power(self, name: str, on: bool) -> None:
        """Off is a power cut: nothing is written, nobody is told. On boots with the disk as it is."""
        with self._locked():
            self.machine(name)
            if not on:
                self._end(name)
            elif not self.process(name):
                self._boot(name)
                self._wait(name)

    def plug(self, name: str, plugged: bool) -> None:
        self.machine(name).plug(plugged)
        if plugged and self.process(name):
            self.machine(name).connect()

    def reset(self, name: str) -> None:
        """A machine made anew: fresh disk, provisioned."""
        with self._locked():
            self._end(name)
            self.machine(name).fresh()
            self._boot(name)
            self._wait(name)
            self.machine(name).plug(True)
            self._provision([name])

    def _end(self, name: str) -> None:
        if known := self.state["machines"].get(name):
            Process(*known).end()

    # --- down --------------------------------------------------------------------------------------------------------

    def down(self) -> bool:
        """End everything of this lab, and remove its directory; whether there was anything."""
        there = self.directory.exists()
        if self.file.exists():
            for known in self.state["machines"].values():
                Process(*known).end()
        for pid in self._marked_processes():
            Process.of(pid).end()
        shutil.rmtree(self.directory, ignore_errors=True)
        return there

    def _marked_processes(self) -> list[int]:
        """Leaders of sessions that this lab started, also those that a killed `up` had not written down."""
        mark, found = f"{MARK}={self.directory}".encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    environment = (entry / "environ").read_bytes().split(b"\0")
                    if mark in environment and os.getsid(int(entry.name)) == int(entry.name) != os.getsid(0):
                        found.append(int(entry.name))
                except OSError:
                    continue  # it has ended meanwhile
        return found


def _image(choices: Choices) -> Image:
    return Image(_is_full(choices))


def _is_full(choices: Choices) -> bool:
    return choices.backend == "qemu" or choices.init == "systemd"


def _stage_images() -> None:
    done = subprocess.run([ROOT / "vagrant/stage.sh"], capture_output=True, text=True)
    if done.returncode:
        raise Error(f"the stage could not be made: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
