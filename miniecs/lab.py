"""Lab: container instances on one computer, each a machine made of namespaces.

Stands beside `cli`: it starts `miniecs server` and `miniecs agent` as a person would, for the demo and the cluster
tests. A machine has process, network, mount, host name and IPC namespaces and a cgroup of its own; a bridge joins it to
the others. Killing its process 1 is pulling its plug: the kernel ends everything in it.
Ruled by unshare(1), pid_namespaces(7), ip-link(8), cgroups(7).
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from miniecs.census import CGROUP, own_cgroups
from miniecs.errors import Error

SUBNETS = [f"198.18.{number}" for number in range(1, 255)]  # RFC 2544: for tests between machines, routed nowhere
PORT = 8600
PROGRAMS = f"{sys.prefix}/bin"

# Process 1 of a machine: what systemd is on a real one. It starts the agent again when it dies, and reaps the orphans.
INIT = """
hostname "$1"
shift
mount -t tmpfs -o mode=755,size=64m tmpfs /run
ip link set lo up
read -r _   # the lab has put us into our cgroup and plugged the network cable in
exec </dev/null
while :; do
    "$@" || :
    sleep 0.3
done
"""


class Machine(NamedTuple):
    """A running machine. `pid` is its process 1, as seen from outside; `cgroups` one directory for each hierarchy."""

    name: str
    address: str
    pid: int
    cgroups: tuple[Path, ...]
    process: "subprocess.Popen[bytes]"


class Lab:
    """A bridge, the machines on it, and a control plane beside them.

    Everything is kept in `data`. With `attended`, machines die with the calling thread; else they stay until `sweep`.
    """

    def __init__(self, data: Path, attended: bool = True) -> None:
        self.data = data
        self.attended = attended
        self.machines: dict[str, Machine] = {}
        self.server: subprocess.Popen[bytes] | None = None
        self.bridge = ""
        self.subnet = ""

    def up(self) -> "Lab":
        """Sweep what an earlier lab left in `data`, then make the bridge, on the first subnet that is not in use."""
        sweep(self.data)
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with IPRoute() as kernel:
            used = {address.get("local") for address in kernel.get_addr(family=socket.AF_INET)}
            for number, subnet in enumerate(SUBNETS):
                bridge = f"ecs{number}"
                if f"{subnet}.1" not in used and not os.path.exists(f"/sys/class/net/{bridge}"):
                    self.bridge, self.subnet = bridge, subnet
                    self._make_bridge(kernel)
                    return self
        raise Error("no free subnet in 198.18.0.0/16 for the lab's bridge; try: ip link show type bridge")

    def _make_bridge(self, kernel: IPRoute) -> None:
        # Without an address of its own a bridge takes one of its ports', and another when that port goes: who is left
        # would talk to nobody until the neighbour tables had expired.
        kernel.link("add", ifname=self.bridge, kind="bridge", address=_mac(self.address))
        self._remember()
        index = socket.if_nametoindex(self.bridge)
        kernel.addr("add", index=index, address=self.address, prefixlen=24)
        kernel.link("set", index=index, state="up")

    def down(self) -> None:
        """Stop all of it; nothing is left but `data`. May be called twice."""
        if self.server:
            self.server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.server.wait(timeout=5)
        self.kill_server()
        for name in list(self.machines):
            self.power_off(name)
        sweep(self.data)

    # --- the control plane -------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where machines reach the control plane and its registry."""
        return f"{self.subnet}.1"

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}:{PORT}"

    @property
    def environment(self) -> dict[str, str]:
        """What `aws`, boto3 and `minicontainer` need in their environment to talk to this control plane."""
        return {
            **os.environ,
            "AWS_SHARED_CREDENTIALS_FILE": f"{self.data}/server/credentials",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_PAGER": "",
            "DOCKER_CONFIG": f"{self.data}/docker",
            "MINICONTAINER_ROOT": f"{self.data}/builder",
            "MINICONTAINER_INSECURE_REGISTRIES": f"{self.address}:{PORT}",
            "PATH": f"{PROGRAMS}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
        }

    def start_server(self, *options: str) -> None:
        """Start `miniecs server`, or start it again; return when it takes connections.

        Raises:
            Error: it ended, or did not answer in time; the message has the last lines of its log.
        """
        command = [
            f"{PROGRAMS}/miniecs",
            "server",
            "--data",
            f"{self.data}/server",
            "--listen",
            f"{self.address}:{PORT}",
        ]
        greeting = self.data / "server/endpoint"
        greeting.unlink(missing_ok=True)
        self.server = server = self._spawn([*command, *options], "server")
        self._remember()
        _wait(
            lambda: server.poll() is not None or (greeting.exists() and _listens(self.address, PORT)), 20, "the server"
        )
        if server.poll() is not None:
            raise Error(f"miniecs server ended at once; its log says:\n{self.log('server')}")

    def kill_server(self) -> None:
        """kill -9, as a crash would."""
        if self.server:
            self.server.kill()
            self.server.wait()
            self.server = None

    def log(self, name: str, lines: int = 15) -> str:
        """The last lines that the server or a machine's agent wrote."""
        return "\n".join((self.data / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])

    # --- machines ----------------------------------------------------------------------------------------------------

    def start_machine(
        self, name: str, *, cpu: int, memory: int, zone: str = "", options: Sequence[str] = ()
    ) -> Machine:
        """Boot a machine whose agent offers `cpu` units (1024 = one vCPU) and `memory` MiB."""
        address = self._free_address()
        agent = [f"{PROGRAMS}/miniecs", "agent", "--endpoint", self.endpoint, "--data", f"{self.data}/{name}"]
        agent += ["--cpu", str(cpu), "--memory", str(memory), "--instance-name", name, "--advertise-address", address]
        agent += [*(["--availability-zone", zone] if zone else []), *options]
        namespaces = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--net",
            "--uts",
            "--ipc",
            "--mount",
        ]
        process = self._spawn([*namespaces, "sh", "-c", INIT, "init", name, *agent], name, stdin=subprocess.PIPE)
        pid = _only_child(process)
        cgroups = tuple(_enter_cgroups(f"{CGROUP}/{self.bridge}/{name}", (process.pid, pid)))
        machine = Machine(name=name, address=address, pid=pid, cgroups=cgroups, process=process)
        self.machines[name] = machine
        self._remember()
        self._plug_in(machine)
        assert process.stdin
        process.stdin.write(b"go\n")
        process.stdin.close()
        return machine

    def power_off(self, name: str) -> None:
        """Without warning: kill -9 of process 1, and with it of the agent, the supervisors and all containers."""
        machine = self.machines.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(machine.pid, signal.SIGKILL)
        machine.process.wait()
        _remove_link(self._port(machine))
        for cgroup in machine.cgroups:
            _remove_cgroup(cgroup)
        self._remember()

    def agent_pid(self, name: str) -> int:
        """The agent, as seen from outside: what process 1 runs in its own session; supervisors have left it."""
        first = self.machines[name].pid
        for pid in _children(first):
            with contextlib.suppress(OSError):  # it ended meanwhile
                if os.getsid(pid) == os.getsid(first) and b"\0agent\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        raise Error(f"no agent runs on {name}; its log says:\n{self.log(name)}")

    def _plug_in(self, machine: Machine) -> None:
        port = self._port(machine)
        with IPRoute() as kernel:
            kernel.link(
                "add",
                ifname=port,
                kind="veth",
                peer={"ifname": "eth0", "net_ns_pid": machine.pid, "address": _mac(machine.address)},
            )
            bridge = socket.if_nametoindex(self.bridge)
            kernel.link("set", index=socket.if_nametoindex(port), master=bridge, state="up")
        # pyroute2 enters a namespace by a fork of this process, with its signal handlers; ip(8) is cleaner inside.
        for arguments in (
            ("address", "add", f"{machine.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", self.address),
        ):
            _call(["nsenter", "--target", str(machine.pid), "--net", "ip", *arguments])

    def _port(self, machine: Machine) -> str:
        """The bridge's end of the machine's cable."""
        return f"{self.bridge}p{machine.address.rpartition('.')[2]}"

    def _free_address(self) -> str:
        used = {machine.address for machine in self.machines.values()}
        return next(a for a in (f"{self.subnet}.{last}" for last in range(10, 250)) if a not in used)

    def _spawn(self, command: Sequence[str], name: str, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        # A session of its own, so that Ctrl-C in the terminal reaches the demo alone, which then ends things in order.
        attended = ["setpriv", "--pdeathsig", "KILL"] if self.attended else []
        with open(self.data / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [*attended, *command], stdin=stdin, stdout=log, stderr=log, start_new_session=True, env=self.environment
            )

    def _remember(self) -> None:
        """Keep on disk what `sweep` needs, should this process be killed."""
        processes = [machine.pid for machine in self.machines.values()] + ([self.server.pid] if self.server else [])
        record = {
            "bridge": self.bridge,
            "processes": [[pid, _start_time(pid)] for pid in processes],
            # Whoever sweeps may be in other cgroups than we are.
            "cgroups": [f"{directory}/{CGROUP}/{self.bridge}" for directory in own_cgroups()],
        }
        temporary = self.data / "lab.json.new"
        temporary.write_text(json.dumps(record))
        temporary.rename(self.data / "lab.json")


def sweep(data: Path) -> None:
    """End and remove what a lab in `data` left, also one that was killed. May be called twice."""
    try:
        record = json.loads((data / "lab.json").read_text())
    except FileNotFoundError:
        return
    for pid, start_time in record["processes"]:
        if start_time and _start_time(pid) == start_time:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
            _wait(lambda pid=pid, start=start_time: _start_time(pid) != start, 10, f"process {pid} to end")  # type: ignore[misc]  # a lambda's defaults
    bridge = record["bridge"]
    for link in os.listdir("/sys/class/net"):
        if link == bridge or link.startswith(f"{bridge}p"):
            _remove_link(link)
    for cgroup in map(Path, record["cgroups"]):
        _remove_cgroup(cgroup)
        with contextlib.suppress(OSError):  # another lab is up below it
            cgroup.parent.rmdir()
    (data / "lab.json").unlink()


# --- processes -------------------------------------------------------------------------------------------------------


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _only_child(process: "subprocess.Popen[bytes]") -> int:
    """The process 1 that unshare(1) forks; setpriv(1) before it has become unshare by execve."""
    _wait(lambda: process.poll() is not None or bool(_children(process.pid)), 10, "unshare to fork")
    if process.poll() is not None:
        raise Error("unshare could not make the machine's namespaces; are we root, with CAP_SYS_ADMIN?")
    return _children(process.pid)[0]


def _start_time(pid: int) -> str:
    """When `pid` started, in clock ticks since boot, so that a reused pid is told apart: proc_pid_stat(5), field 22."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


# --- links and cgroups -----------------------------------------------------------------------------------------------


def _remove_link(name: str) -> None:
    """Remove a link; one that the kernel took with a network namespace, which it does in its own time, is no error."""
    with IPRoute() as kernel, contextlib.suppress(NetlinkError):
        if found := kernel.link_lookup(ifname=name):
            kernel.link("del", index=found[0])


def _enter_cgroups(name: str, pids: Sequence[int]) -> Iterator[Path]:
    for directory in own_cgroups():
        cgroup = directory / name
        version2 = (directory / "cgroup.controllers").exists()
        leaf = cgroup / "init" if version2 else cgroup
        leaf.mkdir(parents=True, exist_ok=True)
        if (cgroup / "cpuset.cpus").exists() and not version2:
            _inherit_cpuset(directory, name)
        for pid in pids:
            (leaf / "cgroup.procs").write_text(str(pid))
        yield cgroup


def _inherit_cpuset(directory: Path, name: str) -> None:
    """A new v1 cpuset is empty and takes no process until it has processors and memory nodes: cpuset(7)."""
    for part in name.split("/"):
        parent, directory = directory, directory / part
        for file in ("cpuset.cpus", "cpuset.mems"):
            if not (directory / file).read_text().strip():
                (directory / file).write_text((parent / file).read_text())


def _remove_cgroup(cgroup: Path) -> None:
    """Remove a cgroup and those below it, once their processes, which are being killed, are gone."""
    deadline = time.monotonic() + 10
    for directory in [*sorted(cgroup.rglob("*/"), reverse=True), cgroup]:
        while directory.is_dir():
            try:
                directory.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


# --- commands and waiting --------------------------------------------------------------------------------------------


def _mac(address: str) -> str:
    """A hardware address that goes with the address, so that the next machine with the one has the other too."""
    return "02:42:" + socket.inet_aton(address).hex(":")


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Error(f"{' '.join(command)}: {done.stderr.strip()}")


def _listens(address: str, port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(0.5)
        return client.connect_ex((address, port)) == 0


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Error(f"waited {seconds:g} s for {what}, in vain")
        time.sleep(0.02)
