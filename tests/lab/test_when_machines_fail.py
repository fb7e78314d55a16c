"""What becomes of tasks when machines, cables, agents and the manager fail: each machine has a kernel to lose."""

import re
import shlex
from datetime import datetime
from typing import Any

import pytest

from tests.lab.conftest import Cluster, names, until
from vagrant.light_lab import Choices

pytestmark = pytest.mark.lab
# The promise is 6 s from the cut to the new place. Four are the silence that the control plane bears: it counts them in
# ticks of its own, so they are four in a machine whose time is given to others, too. What is left is for the decision.
DECIDED_WITHIN = 2.0


def on(cluster: Cluster, tasks: list[Any], machine: str) -> list[Any]:
    return [task for task in tasks if cluster.on(task) == machine]


def test_a_power_cut_costs_its_tasks_a_new_place_and_nobody_runs_twice(cluster: Cluster) -> None:
    cluster.define("power", command=["sleep", "77001"])
    before = cluster.serve("power", 4)
    lost = on(cluster, before, "worker2")
    assert len(lost) == 2
    cluster.lab.power("worker2", False)
    until(lambda: not names(lost) & names(cluster.tasks("power")))
    given_up = [cluster.stopped(arn) for arn in names(lost)]
    assert all(re.search(r"no heartbeat for 4(\.\d+)? s$", task["stoppedReason"]) for task in given_up)
    after = cluster.running("power", 4)
    assert {cluster.on(task) for task in after} == {"worker1"}
    new = [task for task in after if task["taskArn"] not in names(before)]
    assert len(new) == 2
    for task in new:
        created: datetime = task["createdAt"]
        assert (created - min(one["stoppedAt"] for one in given_up)).total_seconds() < DECIDED_WITHIN
    assert names(before) - names(lost) <= names(after)  # the others noticed nothing
    cluster.lab.power("worker2", True)
    until(lambda: cluster.is_connected("worker2"))
    assert len(cluster.processes("worker1", "sleep 77001")) == 4
    assert cluster.processes("worker2", "sleep 77001") == []
    assert names(cluster.running("power", 4)) == names(after)


def test_a_partition_is_healed_without_a_task_that_runs_twice(cluster: Cluster) -> None:
    cluster.define("cable", command=["sleep", "77002"])
    before = cluster.serve("cable", 4)
    cut_off = on(cluster, before, "worker1")
    cluster.lab.plug("worker1", False)
    until(lambda: not names(cut_off) & names(cluster.tasks("cable")))
    after = cluster.running("cable", 4)
    assert {cluster.on(task) for task in after} == {"worker2"}
    cluster.lab.plug("worker1", True)
    until(lambda: cluster.is_connected("worker1"))
    # What ran on alone, behind the cut, is ended, as it was replaced.
    until(lambda: cluster.processes("worker1", "sleep 77002") == [])
    assert len(cluster.processes("worker2", "sleep 77002")) == 4
    assert names(cluster.running("cable", 4)) == names(after)


def test_the_manager_loses_its_power_and_no_task_notices(cluster: Cluster) -> None:
    cluster.define("manager", command=["sleep", "77003"])
    before = cluster.serve("manager", 2)
    running = {name: cluster.processes(name, "sleep 77003") for name in ("worker1", "worker2")}
    cluster.lab.power("manager", False)
    assert {name: cluster.processes(name, "sleep 77003") for name in running} == running
    cluster.lab.power("manager", True)
    until(lambda: reachable(cluster))
    until(lambda: cluster.is_connected("worker1", "worker2"))
    assert names(cluster.running("manager", 2)) == names(before)
    assert {name: cluster.processes(name, "sleep 77003") for name in running} == running


def reachable(cluster: Cluster) -> bool:
    try:
        return bool(cluster.instances())
    except Exception:  # noqa: BLE001 - whatever a client of AWS makes of a control plane that is not there yet
        return False


def test_an_agent_is_killed_and_nobody_runs_twice(cluster: Cluster) -> None:
    """It is back after more than the 4 s that its instance may be silent: Python starts slowly in these machines."""
    cluster.define("agent", command=["sleep", "77004"])
    cluster.serve("agent", 2)
    cluster.says("worker1", "kill -9 $(cat /run/miniecs/miniecs-agent.service)")
    command = "ps -o args= -p $(cat /run/miniecs/miniecs-agent.service)"
    until(lambda: "miniecs agent" in cluster.lab.run("worker1", command).stdout)
    until(lambda: cluster.is_connected("worker1"))

    def settled() -> bool:
        found = cluster.running("agent", 2)
        return all(
            len(cluster.processes(name, "sleep 77004")) == sum(cluster.on(task) == name for task in found)
            for name in ("worker1", "worker2")
        )

    until(settled)


def test_a_machine_that_is_drained_gives_its_tasks_to_the_others(cluster: Cluster) -> None:
    cluster.define("drain", command=["sleep", "77005"])
    cluster.serve("drain", 2)
    worker1 = cluster.instances()["worker1"]["containerInstanceArn"]
    try:
        cluster.ecs.update_container_instances_state(containerInstances=[worker1], status="DRAINING")
        until(lambda: {cluster.on(task) for task in cluster.tasks("drain")} == {"worker2"})
        cluster.running("drain", 2)
        until(lambda: cluster.processes("worker1", "sleep 77005") == [])
    finally:
        cluster.ecs.update_container_instances_state(containerInstances=[worker1], status="ACTIVE")


# --- who may join ----------------------------------------------------------------------------------------------------
# A log has zeros in it after a power cut: grep is told that it is text all the same.


def agent(cluster: Cluster, options: str, expected: str) -> None:
    """Start another agent on the manager, until it says what is expected of it."""
    command = f"miniecs agent --endpoint http://192.168.56.10:8600 --data /tmp/other {options} 2>/tmp/said & pid=$!"
    wait = f"for try in $(seq 200); do grep -q {shlex.quote(expected)} /tmp/said && break; sleep 0.2; done"
    said = cluster.says("manager", f"rm -rf /tmp/other; {command}; {wait}; kill $pid; wait $pid; cat /tmp/said")
    assert expected in said


def test_a_token_that_is_not_good_is_refused_in_one_line_here_and_on_the_manager(cluster: Cluster) -> None:
    wanted = "join token expire is unknown here; try, on the manager: miniecs token create"
    agent(cluster, "--join-token expire.0123456789abcdef", wanted)
    log = cluster.says("manager", "grep -a 'agent refused' /var/log/miniecs-server.log | tail -1")
    assert wanted in log
    assert "0123456789abcdef" not in log


def provision(cluster: Cluster, token: str, manager: str = "192.168.56.10") -> tuple[int, str]:
    """Make worker1 a worker once more; the exit status and the last line of it."""
    command = f"PATIENCE=2 JOIN_TOKEN={token} /vagrant/vagrant/provision.sh worker worker1 192.168.56.11 {manager} 2>&1"
    done = cluster.lab.run("worker1", command)
    return done.returncode, done.stdout.strip().splitlines()[-1]


def test_a_worker_is_a_worker_when_its_manager_takes_it(cluster: Cluster) -> None:
    good = cluster.says("manager", "miniecs token create --ttl 10m")
    cluster.says("manager", "miniecs token create --token expire.0123456789abcdef --ttl 1s; sleep 2")
    cluster.says("worker1", "/opt/miniecs/vagrant/supervise.sh stop miniecs-agent; rm -r /var/lib/miniecs/agent")
    try:
        status, said = provision(cluster, "expire.0123456789abcdef")
        assert status == 1 and said.startswith("provision: worker1: ") and "join token expire expired at" in said
        status, said = provision(cluster, good, "192.168.56.9")
        assert status == 0
        assert said.startswith("provision: worker1 joins as soon as 192.168.56.9:8600 answers: ")
    finally:
        cluster.lab.provision(["worker1"])
    assert cluster.is_connected("worker1")


def test_two_machines_cannot_have_one_address(cluster: Cluster) -> None:
    token = cluster.says("manager", "miniecs token create --ttl 10m")
    said = "worker1 is connected and has the address 192.168.56.11; try: miniecs agent --advertise-address"
    agent(cluster, f"--join-token {token} --advertise-address 192.168.56.11 --instance-name other", said)
    assert set(cluster.instances()) == {"worker1", "worker2"}


def test_a_clock_that_is_wrong_is_named(cluster: Cluster) -> None:
    cluster.says("worker2", "date --set '-20 minutes' && /opt/miniecs/vagrant/supervise.sh restart miniecs-agent")
    try:
        said = "this machine's clock is 1[12][0-9]0 s behind the control plane's; try:"
        until(lambda: cluster.lab.run("worker2", f'grep -a "{said}" /var/log/miniecs-agent.log').stdout)
    finally:
        cluster.says("worker2", "date --set '+20 minutes'")
    until(lambda: cluster.is_connected("worker2"))


# --- machines come and go --------------------------------------------------------------------------------------------


def test_a_machine_is_made_anew_in_the_place_of_the_one_it_was(cluster: Cluster) -> None:
    old = cluster.instances()["worker1"]["containerInstanceArn"]
    cluster.lab.reset("worker1")
    until(lambda: cluster.is_connected("worker1"))
    assert cluster.instances()["worker1"]["containerInstanceArn"] != old
    assert len(cluster.ecs.list_container_instances()["containerInstanceArns"]) == 2


def test_provisioning_again_changes_nothing_and_restarts_nothing(cluster: Cluster) -> None:
    before = {name: cluster.says(name, "cat /run/miniecs/*.service") for name in cluster.lab.machines()}
    cluster.lab.provision()
    assert {name: cluster.says(name, "cat /run/miniecs/*.service") for name in before} == before


def test_a_worker_that_is_added_takes_what_fits_nowhere_else(cluster: Cluster) -> None:
    cluster.define("wide", memory=1700)
    assert cluster.refusal("wide")["reason"] == "RESOURCE:MEMORY"
    cluster.lab.up(Choices(workers=3))
    until(lambda: cluster.is_connected("worker3"))
    assert cluster.place("wide", 1) == ["worker3"]
