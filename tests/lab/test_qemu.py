"""The light lab under QEMU: Debian's own kernel, systemd as process 1, the units of real machines; once through.

The tests are one story, in the order of this file. Emulated, the three machines are slow: an agent needs longer to
start than the four seconds that its instance may be silent, so the control plane is told to be patient, as exercise 5
does.
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.documents import Shell
from tests.lab.conftest import Cluster, names, until
from tests.lab.test_exercises import Learner
from vagrant.exercises import LABS
from vagrant.light_lab import Choices, LightLab

pytestmark = [pytest.mark.full, pytest.mark.lab]

ROOT = Path(__file__).parents[2]
UNITS = {"manager": "miniecs-server", "worker1": "miniecs-agent", "worker2": "miniecs-agent"}
PATIENCE = LABS / "5-things-break/patience"
LISTENING = "ss -Hltn 'sport = :51678' | grep -c . || :"  # whether the agent answers its own machine
SECONDS = 400.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LightLab]:
    lab = LightLab(tmp_path_factory.mktemp("qemu") / "lab", lambda line: print(line, flush=True))
    try:
        lab.up(Choices(workers=2, backend="qemu", init="systemd"))
        yield lab
    finally:
        lab.down()


@pytest.fixture(scope="module")
def cluster(lab: LightLab) -> Cluster:
    return Cluster(lab)


def main_pid(cluster: Cluster, machine: str) -> str:
    return cluster.says(machine, f"systemctl show --value -p MainPID {UNITS[machine]}")


def be_patient(cluster: Cluster, seconds: int) -> None:
    """The control plane waits for so long until it takes a silent instance for lost."""
    cluster.says("manager", f"sh -s {seconds} <<'SH'\n{PATIENCE.read_text()}\nSH")
    until(lambda: cluster.is_connected("worker1", "worker2"), seconds=SECONDS)


def is_another(cluster: Cluster, machine: str, before: str) -> bool:
    return main_pid(cluster, machine) not in ("0", before)


def test_systemd_runs_the_units_and_the_workers_join(cluster: Cluster) -> None:
    until(lambda: cluster.is_connected("worker1", "worker2"), cluster.instances, SECONDS)
    for machine, unit in UNITS.items():
        assert cluster.says(machine, "cat /proc/1/comm") == "systemd"
        assert cluster.says(machine, f"systemctl is-active {unit}; systemctl is-enabled {unit}") == "active\nenabled"
        assert cluster.says(machine, "systemctl --failed --no-legend") == ""
    assert {one.node.name for one in cluster.lab.status() if one.is_on} == set(UNITS)


def test_the_journal_has_what_the_agent_says(cluster: Cluster) -> None:
    assert "registered arn=" in cluster.says("worker1", "journalctl --no-pager -u miniecs-agent")


def test_a_worker_whose_token_has_expired_is_told_so_from_the_journal(cluster: Cluster) -> None:
    expired = "expire.0123456789abcdef"
    cluster.says("manager", f"miniecs token create --token {expired} --ttl 1s; sleep 2")
    cluster.says("worker1", "systemctl stop miniecs-agent; rm -r /var/lib/miniecs/agent")
    try:
        provision = "/vagrant/vagrant/provision.sh worker worker1 192.168.56.11 192.168.56.10"
        done = cluster.lab.run("worker1", f"PATIENCE=2 JOIN_TOKEN={expired} {provision} 2>&1")
        last = done.stdout.strip().splitlines()[-1]
        assert done.returncode == 1 and last.startswith("provision: worker1: ")
        assert "join token expire expired at" in last
    finally:
        cluster.lab.provision(["worker1"])
    until(lambda: cluster.is_connected("worker1", "worker2"), cluster.instances, SECONDS)


def test_provisioning_again_changes_nothing_and_restarts_nothing(cluster: Cluster) -> None:
    before = {machine: main_pid(cluster, machine) for machine in UNITS}
    cluster.says("worker1", "rm /vagrant/dev")
    cluster.lab.sync(["worker1"])
    cluster.says("worker1", "test -x /vagrant/dev")
    cluster.lab.provision()
    assert {machine: main_pid(cluster, machine) for machine in UNITS} == before


def test_an_agent_that_is_stopped_started_and_killed_leaves_its_tasks_alone(cluster: Cluster) -> None:
    """systemd does it, with the tasks' processes beside the unit's cgroup: none of them is the unit's to end."""
    be_patient(cluster, 600)
    cluster.define("steady", command=["sleep", "88001"])
    tasks = cluster.serve("steady", 2)
    running = {name: cluster.processes(name, "sleep 88001") for name in ("worker1", "worker2")}
    assert [len(pids) for pids in running.values()] == [1, 1]
    for command in ("systemctl restart miniecs-agent", "kill -9 $(systemctl show --value -p MainPID miniecs-agent)"):
        before = main_pid(cluster, "worker1")
        cluster.says("worker1", command)
        until(partial(is_another, cluster, "worker1", before), seconds=SECONDS)
        until(lambda: cluster.says("worker1", LISTENING) == "1", seconds=SECONDS)
        until(lambda: cluster.is_connected("worker1"), cluster.instances, SECONDS)
        assert {name: cluster.processes(name, "sleep 88001") for name in running} == running
        assert names(cluster.running("steady", 2)) == names(tasks)
    assert cluster.says("worker1", "systemctl is-active miniecs-agent; systemctl --failed --no-legend") == "active"


def test_a_power_cut_costs_its_tasks_a_new_place_and_the_machine_comes_back(cluster: Cluster) -> None:
    be_patient(cluster, 20)
    lost = {task["taskArn"] for task in cluster.tasks("steady") if cluster.on(task) == "worker2"}
    assert len(lost) == 1
    cluster.lab.power("worker2", False)
    until(lambda: not lost & names(cluster.tasks("steady")), seconds=SECONDS)
    after = cluster.running("steady", 2)
    assert {cluster.on(task) for task in after} == {"worker1"}
    cluster.lab.power("worker2", True)
    until(lambda: cluster.is_connected("worker2"), cluster.instances, SECONDS)
    assert cluster.processes("worker2", "sleep 88001") == []
    assert len(cluster.processes("worker1", "sleep 88001")) == 2
    worker2 = cluster.instances()["worker2"]["containerInstanceArn"]
    (task,) = cluster.ecs.start_task(taskDefinition="steady", containerInstances=[worker2])["tasks"]
    until(lambda: len(cluster.processes("worker2", "sleep 88001")) == 1, seconds=SECONDS)  # and it works as before
    cluster.ecs.stop_task(task=task["taskArn"])
    cluster.ecs.delete_service(service="steady", force=True)


@pytest.mark.parametrize("number", ["3", "5"])
def test_an_exercise_fails_is_solved_passes_and_is_taken_away(number: str, cluster: Cluster, tmp_path: Path) -> None:
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "LAB_DIRECTORY": str(cluster.lab.directory),
        "LAB_ANSWERS": str(tmp_path / "answers"),
    }
    learner = Learner(Shell(ROOT, environment), tmp_path / "answers")
    try:
        learner.types(f"./dev lab setup {number}")
        assert learner.types(f"./dev lab check {number}", status=1).endswith("\n0 of 20 points")
        learner.types(f"./dev lab solve {number}")
        assert learner.types(f"./dev lab check {number}").endswith("20 of 20 points")
        learner.types(f"./dev lab reset-exercise {number}")
        assert learner.types(f"./dev lab check {number}", status=1).endswith("\n0 of 20 points")
    finally:
        learner.shell.close()


def test_a_machine_is_made_anew(cluster: Cluster) -> None:
    old = cluster.instances()["worker1"]["containerInstanceArn"]
    cluster.says("worker1", "touch /root/old")
    cluster.lab.reset("worker1")
    until(lambda: cluster.is_connected("worker1"), cluster.instances, SECONDS)
    assert cluster.instances()["worker1"]["containerInstanceArn"] != old
    assert cluster.lab.run("worker1", "ls /root/old").returncode != 0


def test_down_leaves_nothing(lab: LightLab) -> None:
    assert lab._marked_processes()
    assert lab.down()
    assert not lab.directory.exists()
    assert lab._marked_processes() == []
    assert not lab.down()
