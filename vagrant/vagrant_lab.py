"""Vagrant lab: the machines that Vagrant made, with the verbs of the light lab: so that the exercises run on them, too.

Stands on Vagrant's command line and on ssh; `lab` is its command line, beside `light_lab`. The provider does not matter
here: for what a hypervisor can do by its own means, a power cut, Vagrant is asked; the cable is pulled on the machine
itself, which Vagrant reaches by another network. Ruled by Vagrant's documentation, "Command-Line Interface", ssh(1).
"""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from miniecs.errors import Error
from vagrant import doctor
from vagrant.light_lab import DIRECTORY, PORT, Choices, Seen
from vagrant.nodes import Node, nodes

HERE = Path(__file__).parent
# Out: the interface is down, and packets for the others do not go round by the network of the hypervisor's own. What it
# was called is written down: with it down, some machines take its address away, and give it back in their own time.
CABLE = """
set -e
out=/run/lab-unplugged
device=$(cat $out 2>/dev/null || ip -4 -oneline address | sed -n 's|^[0-9]*: \\([^ ]*\\) .* {address}/.*|\\1|p')
[ -n "$device" ] || {{ echo "no interface has {address}" >&2; exit 1; }}
if [ {plugged} = yes ]; then
    ip route del unreachable {network} 2>/dev/null || :
    ip link set "$device" up
    ip address replace {address}/24 dev "$device"
    rm -f $out
else
    echo "$device" >$out
    ip route replace unreachable {network}
    ip link set "$device" down
fi
"""


class VagrantMachine(NamedTuple):
    node: Node


class VagrantLab:
    def __init__(self, directory: Path = DIRECTORY, say: Callable[[str], None] = lambda _: None) -> None:
        self.directory = directory.absolute()
        self.say = say
        self.file = self.directory / "lab.json"
        self.ways = self.directory / "ssh-config"  # to the machines: what `vagrant ssh-config` has said

    # --- its state ---------------------------------------------------------------------------------------------------

    @property
    def choices(self) -> Choices:
        """What `up` was asked for; without a file, what Vagrant's own `up` makes."""
        try:
            return Choices(**json.loads(self.file.read_text())["choices"])
        except FileNotFoundError:
            return Choices(workers=_workers(), backend="vagrant", init="systemd")

    def machines(self) -> dict[str, VagrantMachine]:
        return {node.name: VagrantMachine(node) for node in nodes(self.choices.workers)}

    def status(self) -> list[Seen]:
        """`vagrant status`: lines of TIME,NAME,state,STATE are among what it prints for programs."""
        said = self._asked("status", "--machine-readable").splitlines()
        fields = [line.split(",") for line in said]
        states = {words[1]: words[3] for words in fields if len(words) > 3 and words[2] == "state"}
        return [
            Seen(machine.node, states.get(name) == "running", None, states.get(name, "not_created").replace("_", " "))
            for name, machine in self.machines().items()
        ]

    def _node(self, name: str) -> Node:
        found = self.machines()
        if name not in found:
            raise Error(f"no machine {name!r} in the lab; there are: {', '.join(found)}")
        return found[name].node

    # --- up and down -------------------------------------------------------------------------------------------------

    def up(self, choices: Choices) -> None:
        """`vagrant up`: what is up stays, what is missing is made."""
        nodes(choices.workers)  # refuses what nodes.yaml has not
        self.directory.mkdir(exist_ok=True, mode=0o700)
        self.file.write_text(json.dumps({"choices": choices._asdict()}, indent=1) + "\n")
        self._vagrant("up")

    def findings(self, _: Choices) -> list[doctor.Finding]:
        """What the Vagrantfile does not look at itself; `vagrant up` says the rest before it makes anything."""
        missing = [name for name in ("vagrant", "ssh") if not shutil.which(name)]
        found = [doctor.Finding("programs", f"no {', '.join(missing)}" if missing else "all",
                                "docs/how-to/vagrant.md" if missing else "")]  # fmt: skip
        if not missing:
            said = self._run("validate", capture=True)
            lines = (said.stderr + said.stdout).strip().splitlines() or ["nothing"]
            fix = "" if said.returncode == 0 else "docs/how-to/vagrant.md, When it does not work"
            found.append(doctor.Finding("vagrant validate", lines[-1], fix))
        return found

    def down(self) -> bool:
        """`vagrant destroy`, and no file of ours; whether there was anything. Vagrant keeps the id of what it made."""
        made = Path(os.environ.get("VAGRANT_DOTFILE_PATH") or HERE / ".vagrant").glob("machines/*/*/id")
        there = any(made)
        if there:
            self._vagrant("destroy", "-f")
        shutil.rmtree(self.directory, ignore_errors=True)
        return there

    def provision(self, names: Sequence[str] = ()) -> None:
        self._vagrant("provision", *names)

    def sync(self, names: Sequence[str] = ()) -> None:
        """The checkout to /vagrant of the machines; nothing is installed."""
        self._vagrant("provision", *names, "--provision-with", "copy,unpack")

    def power(self, name: str, on: bool) -> None:
        """Off is a power cut: `vagrant halt --force` asks the machine nothing."""
        self._node(name)
        self.ways.unlink(missing_ok=True)  # it may come back in another place
        if on:
            self._vagrant("up", name, "--no-provision")
        else:
            self._vagrant("halt", "--force", name)

    def plug(self, name: str, plugged: bool) -> None:
        address = self._node(name).address
        network = f"{address.rpartition('.')[0]}.0/24"
        script = CABLE.format(address=address, network=network, plugged="yes" if plugged else "no")
        done = subprocess.run(self.ssh(name, "sh"), input=script, capture_output=True, text=True)
        if done.returncode:
            raise Error(f"{name}: {_last(done.stderr)}; try: ./dev lab power off {name}, then on")

    def reset(self, name: str) -> None:
        """A machine made anew."""
        self._node(name)
        self.ways.unlink(missing_ok=True)
        self._vagrant("destroy", "-f", name)
        self._vagrant("up", name)

    # --- commands ----------------------------------------------------------------------------------------------------

    def ssh(self, name: str, *command: str, terminal: bool = False) -> list[str]:
        """The command line that runs a command on a machine as root; without one, a root shell."""
        self._node(name)
        if f"Host {name}\n" not in (self.ways.read_text() if self.ways.exists() else ""):
            self._learn_ways(name)
        words = ["ssh", "-F", str(self.ways), "-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR"]
        script = f"sudo sh -c {shlex.quote(' '.join(command))}" if command else "sudo -i"
        return [*words, *(["-t"] if terminal else []), name, script]

    def _learn_ways(self, wanted: str) -> None:
        """Ask Vagrant once: each of its commands takes seconds."""
        parts = {}
        for name in self.machines():
            done = self._run("ssh-config", name, capture=True)
            if done.returncode == 0:
                parts[name] = done.stdout.strip()
        if wanted not in parts:
            raise Error(f"{wanted} is not up; try: ./dev lab power on {wanted}, or: ./dev lab up")
        self.directory.mkdir(exist_ok=True, mode=0o700)
        self.ways.write_text("".join(f"{part}\n\n" for part in parts.values()))

    def run(self, name: str, command: str) -> "subprocess.CompletedProcess[str]":
        """A shell command on a machine, in a login shell: it has the credentials on the manager."""
        whole = self.ssh(name, f"bash -lc {shlex.quote(command)}")
        return subprocess.run(whole, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def inside(self, *command: str) -> list[str]:
        """This computer is in the lab's network."""
        return list(command)

    def push(self, sources: Sequence[Path], target: str, names: Sequence[str] = ()) -> None:
        """Copy files and directories of this computer into a directory of the machines.

        Raises:
            Error: one could not be copied.
        """
        there = shlex.quote(target)
        for name in list(names) or [one.node.name for one in self.status() if one.is_on]:
            for source in sources:
                tar = ["tar", "-C", str(source.absolute().parent), "-cf", "-", source.name]
                with subprocess.Popen(tar, stdout=subprocess.PIPE) as packed:
                    unpack = self.ssh(name, f"mkdir -p {there} && tar -C {there} -xf -")
                    done = subprocess.run(unpack, stdin=packed.stdout, capture_output=True, text=True)
                if done.returncode or packed.returncode:
                    raise Error(f"{name}: the files could not be copied: {_last(done.stderr)}")

    def environment(self) -> dict[str, str]:
        """What makes `aws`, boto3 and `miniecs` of this computer talk to the lab."""
        manager = nodes(1)[0]
        done = self.run(manager.name, "cat /var/lib/miniecs/server/credentials")
        if done.returncode:
            raise Error(f"{manager.name} does not tell its credentials: {_last(done.stderr)}; try: ./dev lab status")
        keys = dict(line.split(" = ") for line in done.stdout.splitlines() if " = " in line)
        return {
            "AWS_ENDPOINT_URL": f"http://{manager.address}:{PORT}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": keys["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": keys["aws_secret_access_key"],
            "AWS_PAGER": "",
            "LAB_REGISTRY": f"{manager.address}:{PORT}",
        }

    # --- Vagrant -----------------------------------------------------------------------------------------------------

    def _vagrant(self, *arguments: str) -> None:
        """A command whose progress people see; its own last line names the cause and the fix."""
        if self._run(*arguments).returncode:
            raise Error(f"vagrant {' '.join(arguments)} failed, see above; try: docs/how-to/vagrant.md")

    def _asked(self, *arguments: str) -> str:
        done = self._run(*arguments, capture=True)
        if done.returncode:
            raise Error(f"vagrant {' '.join(arguments)}: {_last(done.stderr or done.stdout)}")
        return done.stdout

    def _run(self, *arguments: str, capture: bool = False) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "WORKERS": str(self.choices.workers)}
        try:
            return subprocess.run(
                ["vagrant", *arguments], cwd=HERE, env=environment, stdin=subprocess.DEVNULL, text=True,
                stdout=subprocess.PIPE if capture else 2, stderr=subprocess.PIPE if capture else None,
            )  # fmt: skip
        except FileNotFoundError:
            raise Error("there is no vagrant; try: docs/how-to/vagrant.md, or: ./dev lab up --backend uml") from None


def _workers() -> int:
    text = os.environ.get("WORKERS", "2")
    if not text.isdecimal():
        raise Error(f"WORKERS={text} is no whole number; try: WORKERS=2")
    return int(text)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
