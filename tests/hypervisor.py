"""A libvirt of the test's own, without KVM and without systemd: what `vagrant up` needs, with nothing of this computer.

A child in network, mount and process namespaces holds it: libvirt's bridges, firewall rules, dnsmasq and machines are
there, its directories are copies, and when the child ends the kernel ends all of it. The machines are emulated (TCG).
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

# Runs as process 1 of the namespaces, with the directory of the test as $1.
INSIDE = """
set -eu
mount -t tmpfs -o mode=755 tmpfs /run
[ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm # some computers have the device, and a machine on it stands still
mkdir -p /run/libvirt
for name in etc lib cache log; do
    case $name in etc) place=/etc/libvirt ;; *) place=/var/$name/libvirt ;; esac
    mkdir -p "$1/$name" "$place"
    mount --bind "$1/$name" "$place"
done
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
virtlogd --daemon --pid-file /run/libvirt/virtlogd.pid
libvirtd --daemon --pid-file /run/libvirt/libvirtd.pid
touch "$1/ready"
sleep infinity &
wait # and reap: libvirt starts daemons and waits until they are gone
"""
# What differs from this computer's settings: machines are root's, and libvirt makes no cgroups and namespaces for them.
QEMU = """
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
remember_owner = 0
"""


class Hypervisor:
    """Starts when made; `run` and `Popen` happen inside it; `close` ends all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        shutil.copytree("/etc/libvirt", directory / "etc", ignore=shutil.ignore_patterns("autostart"))
        (directory / "etc/qemu.conf").write_text(QEMU)
        (directory / "lib/images").mkdir(parents=True)
        unshare = [
            "unshare",
            "--net",
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--mount-proc",
            "--fork",
            "--kill-child",
        ]
        self.holder = subprocess.Popen(
            [*unshare, "sh", "-c", INSIDE, "sh", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(directory / "said").open("wb"),
            start_new_session=True,
        )
        self._wait(lambda: (directory / "ready").exists())
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()
        self.first = int(children[0])
        self._wait(lambda: self.run("virsh", "-q", "-c", "qemu:///system", "version").returncode == 0)

    def _wait(self, there: Callable[[], bool], seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not there():
            if self.holder.poll() is not None or time.monotonic() > until:
                self.close()
                raise AssertionError(f"libvirt did not start: {(self.directory / 'said').read_text()}")
            time.sleep(0.1)

    def start(self, *command: str, cwd: Path | None = None, **environment: str) -> "subprocess.Popen[str]":
        """A command inside, in a session of its own, with stderr behind stdout as a person sees them."""
        enter = ["nsenter", "--net", "--mount", "--pid", f"--wd={cwd or self.directory}", "--target", str(self.first)]
        return subprocess.Popen(
            [*enter, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )

    def run(
        self, *command: str, cwd: Path | None = None, timeout: float = 60, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        with self.start(*command, cwd=cwd, **environment) as process:
            try:
                said, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(command, process.returncode, said)

    def close(self) -> None:
        """With process 1 of the namespaces, the kernel ends all others and takes down what they made."""
        self.holder.kill()
        self.holder.wait()
