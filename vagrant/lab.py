"""Lab: the command line of the lab, `./dev lab`: parse, call the lab, print.

Stands on `light_lab`, `vagrant_lab` and `exercises`; nothing stands on it. Results go to stdout, progress and errors to
stderr.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from miniecs.errors import Error
from miniecs.tables import table
from vagrant import exercises
from vagrant.light_lab import DIRECTORY, ROOT, Choices, LightLab
from vagrant.vagrant_lab import VagrantLab

Lab = LightLab | VagrantLab
INITS = {"uml": "lab", "qemu": "systemd", "vagrant": "systemd"}  # of each backend: the usual process 1


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    try:
        lab = _lab(chosen)
        return int(chosen.run(lab, chosen) or 0)
    except KeyboardInterrupt:
        print("lab: interrupted; try: ./dev lab up, which goes on, or: ./dev lab down", file=sys.stderr)
        return 130
    except (Error, OSError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _lab(chosen: argparse.Namespace) -> Lab:
    """The lab that is up, or is to be; what `up` was not told is as it is, or the default."""
    directory = Path(os.environ.get("LAB_DIRECTORY") or DIRECTORY)
    file = directory / "lab.json"
    known = json.loads(file.read_text()).get("choices", {}) if file.exists() else {}
    backend = getattr(chosen, "backend", "") or known.get("backend") or os.environ.get("LAB_BACKEND") or "uml"
    if backend not in INITS:
        raise Error(f"LAB_BACKEND={backend} is none; try: {', '.join(INITS)}")
    if known and "vagrant" in (backend, known["backend"]) and backend != known["backend"]:
        raise Error(f"the lab is up with {known['backend']}; try: ./dev lab down first")
    chosen.backend = backend
    chosen.init = getattr(chosen, "init", "") or known.get("init") or INITS[backend]
    kind = VagrantLab if backend == "vagrant" else LightLab
    return kind(directory, say=lambda line: print(line, file=sys.stderr, flush=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./dev lab",
        description="Machines of your own: one manager and some workers; and exercises on them.",
        epilog="To begin: ./dev lab up, then ./dev lab setup 1. More: docs/how-to/lab.md and docs/labs/index.md.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, (text, run, words) in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        for word, settings in words.items():
            verb.add_argument(*word.split(), **settings)
        verb.set_defaults(run=run)
    return parser


# --- the verbs -------------------------------------------------------------------------------------------------------


def _up(lab: Lab, chosen: argparse.Namespace) -> int:
    started = time.monotonic()
    lab.up(Choices(chosen.workers, chosen.backend, chosen.init))
    lab.say(
        f'up in {time.monotonic() - started:.1f} s; try: eval "$(./dev lab env)" && aws ecs list-container-instances'
    )
    return 0


def _doctor(lab: Lab, chosen: argparse.Namespace) -> int:
    found = lab.findings(Choices(chosen.workers, chosen.backend, chosen.init))
    print(table(("", "FOUND", "TO DO"), [(one.what, one.found, one.fix or "-") for one in found]))
    return 1 if any(one.fix for one in found) else 0


def _down(lab: Lab, _: argparse.Namespace) -> int:
    lab.say("down; nothing is left" if lab.down() else "no lab was up")
    return 0


def _status(lab: Lab, _: argparse.Namespace) -> int:
    rows = [
        (*one.node, one.state or ("on" if one.is_on else "off"), "-" if one.disk is None else one.disk)
        for one in lab.status()
    ]
    print(table(("MACHINE", "ADDRESS", "CPUS", "MEMORY", "POWER", "DISK MIB"), rows))
    return 0


def _ssh(lab: Lab, chosen: argparse.Namespace) -> int:
    command = [" ".join(chosen.command)] if chosen.command else []
    return subprocess.run(lab.ssh(chosen.node, *command, terminal=sys.stdin.isatty())).returncode


def _run(lab: Lab, chosen: argparse.Namespace) -> int:
    names = [chosen.on] if chosen.on else list(lab.machines())
    worst = 0
    for name in names:
        done = lab.run(name, " ".join(chosen.command))
        for line in (done.stdout + done.stderr).splitlines():
            print(f"{name:8}| {line}")
        worst = max(worst, done.returncode)
    return worst


def _inside(lab: Lab, chosen: argparse.Namespace) -> int:
    command = lab.inside(*chosen.command)
    os.execvp(command[0], command)


def _env(lab: Lab, _: argparse.Namespace) -> int:
    print("\n".join(f"export {name}={value}" for name, value in lab.environment().items()))
    programs = shlex.quote(str(ROOT / ".venv/bin"))  # behind what is installed, and once
    print(f'case ":$PATH:" in *:{programs}:*) ;; *) export PATH="$PATH":{programs} ;; esac')
    return 0


def _provision(lab: Lab, chosen: argparse.Namespace) -> int:
    lab.provision([chosen.node] if chosen.node else [])
    return 0


def _power(lab: Lab, chosen: argparse.Namespace) -> int:
    lab.power(chosen.node, chosen.what == "on")
    return 0


def _plug(plugged: bool) -> Callable[[Lab, argparse.Namespace], int]:
    def run(lab: Lab, chosen: argparse.Namespace) -> int:
        lab.plug(chosen.node, plugged)
        return 0

    return run


def _sync(lab: Lab, chosen: argparse.Namespace) -> int:
    lab.sync([chosen.node] if chosen.node else [])
    return 0


def _push(lab: Lab, chosen: argparse.Namespace) -> int:
    for source in chosen.source:
        if not source.exists():
            raise Error(f"there is no {source} here to push")
    lab.push(chosen.source, chosen.directory, [chosen.to] if chosen.to else [])
    return 0


def _reset(lab: Lab, chosen: argparse.Namespace) -> int:
    for name in lab.machines() if chosen.node == "all" else (chosen.node,):
        started = time.monotonic()
        lab.reset(name)
        lab.say(f"{name} is made anew in {time.monotonic() - started:.1f} s")
    return 0


Words = dict[str, dict[str, Any]]  # of a verb: its arguments, and what argparse shall know of them
NODE: Words = {"node": {"metavar": "NODE", "help": "a machine's name, as in vagrant/nodes.yaml"}}
ALL: Words = {"node": {"metavar": "NODE", "nargs": "?", "default": "", "help": "default: all that are on"}}
COMMAND: Words = {"command": {"nargs": argparse.REMAINDER, "metavar": "COMMAND", "help": "and its arguments"}}
CHOICES: Words = {
    "--workers": {"type": int, "default": os.environ.get("WORKERS", "2"), "help": "default: %(default)s"},
    "--backend": {"choices": tuple(INITS), "help": "default: uml, or what LAB_BACKEND says"},
    "--init": {"choices": ("lab", "systemd"), "help": "process 1 (default: systemd; of uml: lab)"},
}
VERBS: dict[str, tuple[str, Callable[[Lab, argparse.Namespace], int], Words]] = {
    "doctor": ("look whether this computer has what a lab needs", _doctor, CHOICES),
    "up": ("bring the machines up and provision them; goes on after an interruption, and adds workers", _up, CHOICES),
    "down": ("end the machines and remove all that is theirs", _down, {}),
    "status": ("show the machines", _status, {}),
    "env": ("print the endpoint, the credentials and where miniecs is, as shell commands", _env, {}),
    "ssh": ("a shell on a machine, or a command", _ssh, {**NODE, **COMMAND}),
    "run": ("a command on all machines, or on one", _run, {
        "--on": {"metavar": "NODE", "help": "on this one"}, **COMMAND,
    }),
    "inside": ("a command of this computer, in the lab's network", _inside, COMMAND),
    "provision": ("bring this checkout's code to the machines, and start what changed", _provision, ALL),
    "sync": ("bring this checkout's files to /vagrant of the machines, and install nothing", _sync, ALL),
    "push": ("copy files and directories to the machines", _push, {
        "source": {"metavar": "FILE", "nargs": "+", "type": Path, "help": "here"},
        "directory": {"metavar": "DIR", "help": "there"},
        "--to": {"metavar": "NODE", "help": "to this one (default: all that are on)"},
    }),
    "power": ("cut a machine's power, or switch it on", _power, {"what": {"choices": ("off", "on")}, **NODE}),
    "unplug": ("take a machine's cable out of the switch", _plug(False), NODE),
    "plug": ("put it in again", _plug(True), NODE),
    "reset": ("a machine made anew, or `all` of them: fresh disk, provisioned", _reset, NODE),
    **exercises.VERBS,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
