"""A real `vagrant up` of a manager and a worker, emulated: what a learner does with the lab, once through.

The tests are one story, in the order of this file: up, a task, provision again, the verbs of `./dev lab`, two
exercises, reload, halt and up, destroy; then a second worker, and the exercises that need it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import images
from tests.hypervisor import Hypervisor

pytestmark = [pytest.mark.full, pytest.mark.cluster]

ROOT = Path(__file__).parents[2]
MANAGER, WORKER = "192.168.56.10", "192.168.56.11"
REGISTRY = f"{MANAGER}:8600"
DEV_LAB = (sys.executable, "-m", "vagrant.lab")


class VagrantLab:
    """`vagrant` inside a hypervisor of the test's own; with -s it shows each command's time and output."""

    def __init__(self, directory: Path, box: str) -> None:
        self.directory = directory
        self.hypervisor = Hypervisor(directory)
        self.environment = {
            "HOME": str(directory),
            "VAGRANT_HOME": str(directory / "home"),
            "VAGRANT_DOTFILE_PATH": str(directory / "dotfile"),
            "VAGRANT_DEFAULT_PROVIDER": "libvirt",
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "LAB_TCG": "1",
            "LAB_BOX": box,
            "WORKERS": "1",
        }
        self.keys: dict[str, str] = {}

    def vagrant(self, *arguments: str, seconds: float = 1200) -> str:
        started = time.monotonic()
        done = self.hypervisor.run("vagrant", *arguments, cwd=ROOT / "vagrant", timeout=seconds, **self.environment)
        print(f"$ vagrant {' '.join(arguments)}   # {time.monotonic() - started:.0f} s\n{done.stdout}", flush=True)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def on(self, machine: str, command: str) -> str:
        """What a command on a machine prints."""
        return self.vagrant("ssh", machine, "-c", command).replace("\r", "")

    def dev_lab(self, *arguments: str, status: int = 0) -> str:
        """What `./dev lab` says with these machines: those are its own then."""
        own = {name.upper(): f"{self.directory}/{name}" for name in ("lab_directory", "lab_answers")}
        environment = {**self.environment, **own, "LAB_BACKEND": "vagrant"}
        started = time.monotonic()
        done = self.hypervisor.run(*DEV_LAB, *arguments, cwd=ROOT, timeout=1200, **environment)
        print(f"$ ./dev lab {' '.join(arguments)}   # {time.monotonic() - started:.0f} s\n{done.stdout}", flush=True)
        assert done.returncode == status, done.stdout
        return done.stdout.replace("\r", "")

    def aws(self, *arguments: str, endpoint: str = f"http://{REGISTRY}") -> Any:
        """The answer to a call of the ECS API, as whoever has the manager's keys makes it on this computer."""
        if not self.keys:
            said = self.on("manager", "sudo miniecs credentials --format json")
            self.keys = json.loads(said[said.index("{") : said.rindex("}") + 1])
        done = self.hypervisor.run(
            f"{sys.prefix}/bin/aws", "ecs", "--output", "json", *arguments,
            timeout=120, **{**self.keys, "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return json.loads(done.stdout or "null")

    def push_busybox(self) -> None:
        images.busybox(self.directory / "pusher", name=f"{REGISTRY}/busybox:1")
        code = (
            "from minicontainer import engine; from minicontainer.containers import home; "
            f"engine.push(home('{self.directory}/pusher'), '{REGISTRY}/busybox:1', plain_http=True, credentials=('"
            f"{self.keys['AWS_ACCESS_KEY_ID']}', '{self.keys['AWS_SECRET_ACCESS_KEY']}'))"
        )
        done = self.hypervisor.run(sys.executable, "-c", code, cwd=ROOT, timeout=120)
        assert done.returncode == 0, done.stdout

    def domains(self) -> str:
        """The names of the machines that libvirt knows, running or not."""
        return self.hypervisor.run("virsh", "-q", "-c", "qemu:///system", "list", "--all", "--name").stdout.strip()

    def instances(self) -> list[dict[str, Any]]:
        arns = self.aws("list-container-instances")["containerInstanceArns"]
        if not arns:
            return []
        return list(self.aws("describe-container-instances", "--container-instances", *arns)["containerInstances"])

    def active(self) -> list[bool]:
        """Whether the agent of each instance is connected that has not been given up."""
        return [one["agentConnected"] for one in self.instances() if one["status"] == "ACTIVE"]

    def connected(self) -> bool:
        return self.active() == [True]

    def running(self) -> list[dict[str, Any]]:
        arns = self.aws("list-tasks", "--desired-status", "RUNNING")["taskArns"]
        tasks = self.aws("describe-tasks", "--tasks", *arns)["tasks"] if arns else []
        return [task for task in tasks if task["lastStatus"] == "RUNNING"]

    def page(self, task: dict[str, Any]) -> str:
        """What the task serves, as this computer gets it."""
        url = f"http://{WORKER}:{task['containers'][0]['networkBindings'][0]['hostPort']}/etc/passwd"
        code = "import sys, urllib.request as u; print(u.build_opener(u.ProxyHandler({})).open(sys.argv[1]).read())"
        return self.hypervisor.run(sys.executable, "-c", code, url, timeout=90).stdout


def until(condition: Callable[[], Any], seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(1)
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VagrantLab]:
    """A lab whose box is made of this checkout, or is LAB_BOX; nothing of it is left, also when a test failed."""
    directory = tmp_path_factory.mktemp("lab")
    box = os.environ.get("LAB_BOX") or str(directory / "lab.box")
    for script in (["vagrant/stage.sh"], *([] if os.path.exists(box) else [["vagrant/box.sh", box]])):
        started = time.monotonic()
        subprocess.run(script, cwd=ROOT, check=True)
        print(f"$ {script[0]}   # {time.monotonic() - started:.0f} s", flush=True)
    lab = VagrantLab(directory, box)
    try:
        yield lab
    finally:
        lab.hypervisor.close()
        shutil.rmtree(directory, ignore_errors=True)


def test_a_box_that_cannot_be_fetched_is_one_line_at_the_end(lab: VagrantLab) -> None:
    """The hypervisor's network leads nowhere."""
    environment = {name: value for name, value in lab.environment.items() if name != "LAB_BOX"}
    done = lab.hypervisor.run("vagrant", "up", cwd=ROOT / "vagrant", timeout=300, **environment)
    assert done.returncode == 1
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("vagrant: manager, worker1: the box debian/bookworm64 ") and "try: LAB_BOX=NAME" in last
    assert lab.domains() == ""


def test_up_makes_a_manager_and_a_worker_that_joins_by_itself(lab: VagrantLab) -> None:
    said = lab.vagrant("up", "--no-parallel")
    assert "vagrant ssh manager" in said  # what to do next
    assert (ROOT / "vagrant/.join-token").read_text().strip() not in said
    until(lab.connected)
    (worker,) = lab.instances()
    resources = {one["name"]: one.get("integerValue") for one in worker["registeredResources"]}
    assert resources["CPU"] == 1024
    assert 700 < resources["MEMORY"] <= 1024
    attributes = {one["name"]: one.get("value") for one in worker["attributes"]}
    assert attributes["miniecs.advertise-address"] == WORKER  # not libvirt's own, which all have in common


def test_machines_know_each_other_by_name_at_the_labs_addresses(lab: VagrantLab) -> None:
    assert WORKER in lab.on("manager", "getent hosts worker1")
    assert MANAGER in lab.on("worker1", "getent hosts manager")


def test_the_control_plane_answers_on_this_computers_own_port(lab: VagrantLab) -> None:
    lab.aws("list-clusters", endpoint="http://127.0.0.1:8600")


def test_a_service_is_placed_on_the_worker_and_its_page_is_reached(lab: VagrantLab) -> None:
    lab.push_busybox()
    container = {
        "name": "web",
        "image": f"{REGISTRY}/busybox:1",
        "memory": 64,
        "command": ["httpd", "-f", "-p", "80", "-h", "/"],
        "portMappings": [{"containerPort": 80}],
    }
    lab.aws("register-task-definition", "--family", "web", "--container-definitions", json.dumps([container]))
    lab.aws("create-service", "--service-name", "web", "--task-definition", "web", "--desired-count", "1")
    (task,) = until(lab.running)
    assert "root:" in lab.page(task)
    assert "httpd" in lab.on("worker1", "ps -e -o args")


def test_provision_again_changes_nothing(lab: VagrantLab) -> None:
    (task,) = lab.running()
    services = {"manager": "miniecs-server", "worker1": "miniecs-agent"}
    before = {name: lab.on(name, f"systemctl show -p MainPID {unit}") for name, unit in services.items()}
    lab.vagrant("provision")
    assert {name: lab.on(name, f"systemctl show -p MainPID {unit}") for name, unit in services.items()} == before
    assert [one["taskArn"] for one in lab.running()] == [task["taskArn"]]


def test_dev_lab_has_its_verbs_for_these_machines(lab: VagrantLab, tmp_path: Path) -> None:
    assert re.search(r"^worker1 .* running", lab.dev_lab("status"), re.MULTILINE)
    assert f"export AWS_ENDPOINT_URL=http://{REGISTRY}\n" in lab.dev_lab("env")
    assert lab.dev_lab("run", "hostname; id -un").split("\n")[:4] == [
        "manager | manager", "manager | root", "worker1 | worker1", "worker1 | root",
    ]  # fmt: skip
    (tmp_path / "a file").write_text("pushed\n")
    lab.dev_lab("push", str(tmp_path / "a file"), "/root/in here", "--to", "worker1")
    assert lab.dev_lab("ssh", "worker1", "cat '/root/in here/a file'") == "pushed\n"
    lab.dev_lab("ssh", "worker1", "rm /vagrant/.unpacked /vagrant/dev")
    lab.dev_lab("sync", "worker1")
    lab.dev_lab("ssh", "worker1", "test -x /vagrant/dev")
    assert "no machine 'worker2' in the lab" in lab.dev_lab("ssh", "worker2", "true", status=1)


def test_its_cable_and_its_power_are_cut_by_dev_lab(lab: VagrantLab) -> None:
    for off, on in ((["unplug"], ["plug"]), (["power", "off"], ["power", "on"])):
        lab.dev_lab(*off, "worker1")
        until(lambda: not lab.connected())
        lab.dev_lab(*on, "worker1")
        until(lab.connected)
    until(lab.running)


def solved(exercise: str, lab: VagrantLab) -> None:
    """It fails, is solved, passes, is taken away and fails."""
    lab.dev_lab("setup", exercise)
    assert lab.dev_lab("check", exercise, status=1).endswith("\n0 of 20 points\n")
    lab.dev_lab("solve", exercise)
    assert lab.dev_lab("check", exercise).endswith("\n20 of 20 points\n")
    lab.dev_lab("reset-exercise", exercise)
    assert lab.dev_lab("check", exercise, status=1).endswith("\n0 of 20 points\n")


@pytest.mark.parametrize("exercise", ["1", "2"])
def test_an_exercise_that_needs_no_second_worker(exercise: str, lab: VagrantLab) -> None:
    solved(exercise, lab)


def test_a_reload_of_the_worker_is_survived(lab: VagrantLab) -> None:
    (before,) = lab.instances()
    lab.vagrant("reload", "worker1")
    until(lab.connected)
    (after,) = [one for one in lab.instances() if one["status"] == "ACTIVE"]
    assert after["containerInstanceArn"] == before["containerInstanceArn"]
    (task,) = until(lab.running)
    assert "root:" in lab.page(task)


def test_tasks_run_on_while_the_manager_is_halted(lab: VagrantLab) -> None:
    (task,) = lab.running()
    lab.vagrant("halt", "manager")
    assert "root:" in lab.page(task)
    lab.vagrant("up", "manager")
    until(lab.connected)
    assert [one["taskArn"] for one in lab.running()] == [task["taskArn"]]


def test_a_destroyed_worker_is_given_up_and_a_new_one_takes_its_work(lab: VagrantLab) -> None:
    lab.vagrant("destroy", "-f", "worker1")
    until(lambda: not lab.running())
    lab.dev_lab("up", "--workers", "1")
    (task,) = until(lab.running)
    assert "root:" in lab.page(task)


def test_a_second_worker_joins_and_is_reset(lab: VagrantLab) -> None:
    lab.aws("delete-service", "--service", "web", "--force")
    lab.environment["WORKERS"] = "2"
    lab.dev_lab("up", "--workers", "2")
    until(lambda: lab.active() == [True, True])
    lab.dev_lab("reset", "worker2")
    until(lambda: lab.active() == [True, True])


@pytest.mark.parametrize("exercise", ["3", "4", "5", "6"])
def test_an_exercise_on_two_workers(exercise: str, lab: VagrantLab) -> None:
    solved(exercise, lab)


def test_an_up_that_was_interrupted_is_cleaned_up_by_destroy(lab: VagrantLab) -> None:
    lab.vagrant("destroy", "-f", "worker1")
    up = lab.hypervisor.start("vagrant", "up", "worker1", cwd=ROOT / "vagrant", **lab.environment)
    try:
        until(lambda: "worker1" in lab.domains())
        os.killpg(up.pid, signal.SIGINT)  # Ctrl-C reaches every process of a terminal
        up.communicate(timeout=240)
    finally:
        if up.poll() is None:
            os.killpg(up.pid, signal.SIGKILL)
    lab.vagrant("destroy", "-f", "worker1")
    assert "worker1" not in lab.domains()


def test_destroy_leaves_nothing(lab: VagrantLab) -> None:
    lab.dev_lab("down")
    assert lab.domains() == ""
    assert not (lab.directory / "lab_directory").exists()
    assert "running" not in lab.vagrant("status")
    first = lab.hypervisor.first
    lab.hypervisor.close()
    until(lambda: not os.path.exists(f"/proc/{first}"))  # the kernel ends them all, in its own time
