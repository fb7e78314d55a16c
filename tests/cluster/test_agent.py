"""One container instance of a real cluster: tasks run, are limited, are reported; neither death of ours stops them."""

import json
import os
import random
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from miniecs.lab import PROGRAMS, Lab, Machine
from tests.cluster.conftest import Cluster, children, until

pytestmark = pytest.mark.cluster

WEB = {
    "command": ["sh", "-c", "mkdir /tmp/www; cd /tmp/www; echo hello > index.html; exec httpd -f -p 80"],
    "portMappings": [{"containerPort": 80}],
}


@pytest.fixture(scope="module")
def machine(cluster: Cluster) -> Machine:
    machine = cluster.lab.start_machine("one", cpu=1024, memory=512, zone="us-east-1b", options=("--keep-stopped", "0"))
    until(lambda: any(one["agentConnected"] for one in cluster.instances()), 20, lambda: cluster.lab.log("one", 100))
    return machine


def fetch(machine: Machine, task: dict[str, Any], path: str = "/", container: int = 0) -> str:
    port = task["containers"][container]["networkBindings"][0]["hostPort"]
    with urllib.request.urlopen(f"http://{machine.address}:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def task_cgroup(machine: Machine, arn: str, controller: str) -> Path:
    """The task's cgroup of a controller, wherever this kernel has it."""
    name = arn.rpartition("/")[2]
    found = [path for top in machine.cgroups for path in top.parent.rglob(f"ecs/{name}")]
    found = [path for path in found if any(path.glob(f"{controller}*"))]
    assert found, f"no {controller} cgroup of {name} below {machine.cgroups}"
    return found[0]


def leftovers(machine: Machine) -> list[str]:
    """What tasks leave in a machine: cgroups, links, mounts in its process 1's namespaces, supervisors."""
    cgroups = [str(path) for top in machine.cgroups for path in top.rglob("ecs/*")]
    inside = ["nsenter", "--target", str(machine.pid), "--net", "ip", "-br", "link"]
    links = subprocess.run(inside, capture_output=True, text=True, check=True).stdout.splitlines()
    mounts = [line for line in Path(f"/proc/{machine.pid}/mountinfo").read_text().splitlines() if " - overlay " in line]
    return cgroups + [link for link in links if not link.startswith(("lo ", "eth0@", "minicontainer0"))] + mounts


# --- registration ----------------------------------------------------------------------------------------------------


def test_the_instance_says_what_it_is(cluster: Cluster, machine: Machine) -> None:
    (instance,) = cluster.instances()
    resources = {one["name"]: one for one in instance["registeredResources"]}
    attributes = {one["name"]: one.get("value") for one in instance["attributes"]}
    assert (instance["status"], instance["ec2InstanceId"]) == ("ACTIVE", "one")
    assert (resources["CPU"]["integerValue"], resources["MEMORY"]["integerValue"]) == (1024, 512)
    assert attributes["miniecs.advertise-address"] == machine.address
    assert attributes["ecs.availability-zone"] == "us-east-1b"


def test_a_second_agent_with_wrong_credentials_is_refused_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    wrong = tmp_path / "credentials"
    wrong.write_text("[default]\naws_access_key_id = AKIDWRONG\naws_secret_access_key = wrong\n")

    class Mistaken(Lab):
        @property
        def environment(self) -> dict[str, str]:
            return {**cluster.lab.environment, "AWS_SHARED_CREDENTIALS_FILE": str(wrong)}

        @property
        def endpoint(self) -> str:
            return cluster.lab.endpoint

    lab = Mistaken(tmp_path / "lab").up()
    try:
        lab.start_machine("wrong", cpu=512, memory=128)
        until(lambda: "refuses these credentials" in lab.log("wrong", 100), 20, lambda: lab.log("wrong", 100))
        (line, *_) = [line for line in lab.log("wrong", 100).splitlines() if "refuses" in line]
        assert line.startswith("miniecs: http://")
        assert "Traceback" not in lab.log("wrong", 100)
        assert "one" in {instance["ec2InstanceId"] for instance in cluster.instances()}
        assert "wrong" not in {instance["ec2InstanceId"] for instance in cluster.instances()}
    finally:
        lab.down()


# --- a task ----------------------------------------------------------------------------------------------------------


def test_a_task_runs_is_reached_and_stopped_and_leaves_nothing(cluster: Cluster, machine: Machine) -> None:
    arn = cluster.run(WEB)
    task = cluster.until_status(arn, "RUNNING")
    container = task["containers"][0]
    assert container["lastStatus"] == "RUNNING"
    assert len(container["runtimeId"]) == 64
    assert container["imageDigest"].startswith("sha256:")
    assert task["pullStartedAt"] <= task["pullStoppedAt"] <= task["startedAt"]
    until(lambda: fetch(machine, task) == "hello\n", 5)
    stopped = cluster.stop(arn)
    assert (stopped["stoppedReason"], stopped["stopCode"]) == ("the test is over", "UserInitiated")
    until(lambda: not leftovers(machine), 10, lambda: str(leftovers(machine)))


def test_a_container_reads_about_itself(cluster: Cluster, machine: Machine) -> None:
    script = (
        "mkdir /tmp/www; cd /tmp/www; env > env; for name in task stats task/stats; do "
        "wget -qO $(echo $name | tr -d /) $ECS_CONTAINER_METADATA_URI_V4/$name; done; "
        "wget -qO self $ECS_CONTAINER_METADATA_URI_V4; touch ready; exec httpd -f -p 80"
    )
    arn = cluster.run({**WEB, "command": ["sh", "-c", script], "environment": [{"name": "COLOUR", "value": "green"}]})
    task = cluster.until_status(arn, "RUNNING")
    until(lambda: reached(machine, task, "/ready"), 5)
    described = json.loads(fetch(machine, task, "/task"))
    assert described["TaskARN"] == arn
    assert described["ContainerInstanceARN"] == task["containerInstanceArn"]
    assert described["AvailabilityZone"] == "us-east-1b"
    itself = json.loads(fetch(machine, task, "/self"))
    assert itself["DockerId"] == task["containers"][0]["runtimeId"]
    assert itself["Labels"]["com.amazonaws.ecs.task-arn"] == arn
    assert json.loads(fetch(machine, task, "/stats"))["memory_stats"]["usage"] > 0
    variables = fetch(machine, task, "/env").splitlines()
    assert "COLOUR=green" in variables
    assert f"AWS_ENDPOINT_URL={cluster.lab.endpoint}" in variables
    cluster.stop(arn)


def reached(machine: Machine, task: dict[str, Any], path: str) -> bool:
    try:
        fetch(machine, task, path)
    except OSError:
        return False
    return True


def test_people_on_the_instance_see_its_tasks(cluster: Cluster, machine: Machine) -> None:
    arn = cluster.run(WEB)
    cluster.until_status(arn, "RUNNING")
    ask = [
        "nsenter",
        "--target",
        str(machine.pid),
        "--net",
        "busybox",
        "wget",
        "-qO-",
        "http://127.0.0.1:51678/v1/tasks",
    ]
    said = json.loads(subprocess.run(ask, capture_output=True, check=True).stdout)
    assert [(task["Arn"], task["KnownStatus"]) for task in said["Tasks"] if task["Arn"] == arn] == [(arn, "RUNNING")]
    cluster.stop(arn)


def test_limits_of_the_definition_are_the_kernels(cluster: Cluster, machine: Machine) -> None:
    arn = cluster.run({**WEB, "cpu": 128, "memory": 32}, cpu="256", memory="64")
    cluster.until_status(arn, "RUNNING")
    memory = task_cgroup(machine, arn, "memory")
    name = "memory.max" if (memory / "memory.max").exists() else "memory.limit_in_bytes"
    assert int((memory / name).read_text()) == 64 << 20
    inner = [int((path / name).read_text()) for path in memory.iterdir() if path.is_dir()]
    assert inner == [32 << 20]
    cpu = task_cgroup(machine, arn, "cpu.")
    if (cpu / "cpu.max").exists():
        quota, period = map(int, (cpu / "cpu.max").read_text().split())
    else:
        quota, period = (int((cpu / f"cpu.cfs_{word}_us").read_text()) for word in ("quota", "period"))
    assert quota / period == 0.25
    cluster.stop(arn)


# --- how tasks end ---------------------------------------------------------------------------------------------------


def test_an_exit_is_reported_with_its_code(cluster: Cluster, machine: Machine) -> None:
    task = cluster.until_status(cluster.run({"command": ["sh", "-c", "exit 3"]}), "STOPPED")
    assert task["containers"][0]["exitCode"] == 3
    assert task["stoppedReason"] == "Essential container in task exited"
    assert task["stopCode"] == "EssentialContainerExited"
    assert task["startedAt"]


def test_out_of_memory_is_reported(cluster: Cluster, machine: Machine) -> None:
    eat = {"command": ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=100M count=1"], "memory": 16}
    task = cluster.until_status(cluster.run(eat), "STOPPED")
    container = task["containers"][0]
    assert container["reason"] == "OutOfMemoryError: Container killed due to memory usage"
    assert container["exitCode"] == 137
    assert task["stoppedReason"] == "Essential container in task exited"


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"image": "{registry}/absent:1"}, "CannotPullContainerError: "),
        ({"command": ["/no/such/program"]}, "CannotStartContainerError: "),
        ({"privileged": True}, "CannotCreateContainerError: "),
    ],
)
def test_what_cannot_run_says_why(cluster: Cluster, machine: Machine, container: dict[str, Any], reason: str) -> None:
    if "image" in container:
        container = {"image": container["image"].format(registry=cluster.registry)}
    task = cluster.until_status(cluster.run(container), "STOPPED")
    assert task["containers"][0]["reason"].startswith(reason)
    assert task["stopCode"] == "TaskFailedToStart"
    assert "startedAt" not in task


def test_a_stop_asks_before_it_kills(cluster: Cluster, machine: Machine) -> None:
    polite = {"name": "polite", "command": ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"]}
    deaf = {"name": "deaf", "command": ["sh", "-c", "trap : TERM; while :; do sleep 0.1; done"], "stopTimeout": 2}
    arn = cluster.run(polite, deaf)
    cluster.until_status(arn, "RUNNING")
    time.sleep(0.3)  # until both have set their traps
    began = time.monotonic()
    codes = {one["name"]: one["exitCode"] for one in cluster.stop(arn)["containers"]}
    assert codes == {"polite": 7, "deaf": 137}
    assert 2 <= time.monotonic() - began < 6


def test_containers_start_in_the_order_of_their_dependencies(cluster: Cluster, machine: Machine) -> None:
    volume = {"mountPoints": [{"sourceVolume": "shared", "containerPath": "/shared"}]}
    first = {
        "name": "init",
        "essential": False,
        "command": ["sh", "-c", "sleep 0.3; echo made > /shared/file"],
        **volume,
    }
    then = {
        **WEB,
        **volume,
        "command": ["sh", "-c", "cd /shared; exec httpd -f -p 80"],
        "dependsOn": [{"containerName": "init", "condition": "SUCCESS"}],
    }
    arn = cluster.run(then, first, volumes=[{"name": "shared"}])
    task = cluster.until_status(arn, "RUNNING")
    names = [one["name"] for one in task["containers"]]
    until(lambda: reached(machine, task, "/file") if names.index("web") == 0 else True, 5)
    assert fetch(machine, task, "/file", names.index("web")) == "made\n"
    cluster.stop(arn)
    until(lambda: not list((cluster.lab.data / "one" / "volumes").glob("*")), 10)


# --- death and return ------------------------------------------------------------------------------------------------


def test_tasks_outlive_the_agent_and_the_next_agent_knows_them(cluster: Cluster, machine: Machine) -> None:
    """kill -9 of the agent: one task runs on, another ends while nobody looks."""
    stays, ends = cluster.run(WEB), cluster.run({"command": ["sh", "-c", "sleep 1.2; exit 9"]})
    task = cluster.until_status(stays, "RUNNING")
    cluster.until_status(ends, "RUNNING")
    agent = cluster.agent_pid(machine)
    os.kill(machine.pid, signal.SIGSTOP)  # so that process 1 does not start another agent yet
    os.kill(agent, signal.SIGKILL)
    time.sleep(1.5)
    assert fetch(machine, task) == "hello\n"
    os.kill(machine.pid, signal.SIGCONT)
    ended = cluster.until_status(ends, "STOPPED")
    assert ended["containers"][0]["exitCode"] == 9
    until(lambda: cluster.agent_pid(machine) not in (0, agent), 10)
    until(lambda: cluster.instances()[0]["agentConnected"], 10)
    again = cluster.task(stays)
    assert again["lastStatus"] == "RUNNING"
    assert again["containers"][0]["runtimeId"] == task["containers"][0]["runtimeId"]
    assert len(cluster.instances()) == 1
    cluster.stop(stays)


def test_an_agent_that_is_killed_again_and_again_loses_nothing(cluster: Cluster, machine: Machine) -> None:
    """Wherever in their making the tasks are: each runs once, and each end is told."""
    stay, end = [], []
    for _ in range(4):
        stay += [cluster.run({"command": ["sleep", "1000"], "memory": 16}, family="stay")]
        end += [cluster.run({"command": ["sh", "-c", "sleep 1; exit 5"], "memory": 16}, family="end")]
        time.sleep(random.random() * 0.4)
        os.kill(cluster.agent_pid(machine), signal.SIGKILL)
        until(lambda: not cluster.instances()[0]["agentConnected"], 10)
        until(lambda: cluster.instances()[0]["agentConnected"], 20, lambda: cluster.lab.log("one", 50))
    for arn in end:
        assert cluster.until_status(arn, "STOPPED", 30)["containers"][0]["exitCode"] == 5
    for arn in stay:
        cluster.until_status(arn, "RUNNING", 30)
    kept = {path.name for path in (cluster.lab.data / "one/minicontainer/containers").iterdir()}
    assert kept >= {cluster.task(arn)["containers"][0]["runtimeId"] for arn in stay}
    for arn in stay:
        cluster.stop(arn)
    until(lambda: not leftovers(machine), 10, lambda: str(leftovers(machine)))


def test_an_agent_without_its_engine_starts_again(cluster: Cluster, machine: Machine) -> None:
    arn = cluster.run(WEB)
    task = cluster.until_status(arn, "RUNNING")
    agent = cluster.agent_pid(machine)
    (spawner,) = children(agent)
    os.kill(spawner, signal.SIGKILL)
    until(lambda: cluster.agent_pid(machine) not in (0, agent), 10)
    assert "the engine's process was killed" in cluster.lab.log("one", 20)
    until(lambda: cluster.instances()[0]["agentConnected"], 10)
    assert fetch(machine, task) == "hello\n"
    cluster.stop(arn)


def test_a_second_agent_on_the_same_machine_is_told_who_is_there(cluster: Cluster, machine: Machine) -> None:
    agent = [f"{PROGRAMS}/miniecs", "agent", "--endpoint", cluster.lab.endpoint, "--data", f"{cluster.lab.data}/second"]
    enter = ["nsenter", "--target", str(machine.pid), "--all", *agent]
    second = subprocess.run(enter, capture_output=True, text=True, timeout=20, env=cluster.lab.environment)
    assert second.returncode == 1
    assert second.stderr.startswith("miniecs: 169.254.170.2:80 is taken by process ")
    assert "Traceback" not in second.stderr


def test_a_terminated_agent_leaves_its_tasks_running(cluster: Cluster, machine: Machine) -> None:
    arn = cluster.run(WEB)
    task = cluster.until_status(arn, "RUNNING")
    agent = cluster.agent_pid(machine)
    os.kill(agent, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{agent}").exists(), 5)
    assert fetch(machine, task) == "hello\n"
    assert "its tasks run on tasks=1" in cluster.lab.log("one", 20)
    until(lambda: cluster.instances()[0]["agentConnected"], 10)
    cluster.stop(arn)


def test_tasks_outlive_the_control_plane(cluster: Cluster, machine: Machine) -> None:
    """kill -9 of the server: tasks run on, what ended meanwhile is reported to the next one."""
    stays, ends = cluster.run(WEB), cluster.run({"command": ["sh", "-c", "sleep 1.2; exit 9"]})
    before = cluster.until_status(stays, "RUNNING")
    cluster.until_status(ends, "RUNNING")
    cluster.lab.kill_server()
    time.sleep(1.5)
    assert fetch(machine, before) == "hello\n"
    cluster.lab.start_server()
    assert cluster.until_status(ends, "STOPPED")["containers"][0]["exitCode"] == 9
    until(lambda: cluster.instances()[0]["agentConnected"], 10)
    assert cluster.task(stays)["containers"] == before["containers"]
    cluster.stop(stays)


def test_an_agent_that_was_lost_stops_what_was_replaced(cluster: Cluster, machine: Machine) -> None:
    """Silent for too long, its tasks are given up; when it comes back it is told, and stops them."""
    arn = cluster.run(WEB)
    task = cluster.until_status(arn, "RUNNING")
    agent = cluster.agent_pid(machine)
    os.kill(agent, signal.SIGSTOP)
    try:
        lost = cluster.until_status(arn, "STOPPED", 12)
        assert reached(machine, task, "/")  # nobody can stop it yet
    finally:
        os.kill(agent, signal.SIGCONT)
    assert lost["stoppedReason"]
    until(lambda: not reached(machine, task, "/"), 15)
    until(lambda: not leftovers(machine), 10, lambda: str(leftovers(machine)))


def test_a_port_of_a_lost_task_is_used_again_only_when_it_is_free(cluster: Cluster, machine: Machine) -> None:
    """The replacement is placed as soon as the agent is back; there it waits for the old task, which takes its time."""
    slow = ["sh", "-c", "trap 'sleep 2; exit 0' TERM; while :; do sleep 0.1; done"]
    container = {"name": "web", "image": cluster.image, "memory": 32, "command": slow}
    mapping = {"containerPort": 80, "hostPort": 8080}
    cluster.ecs.register_task_definition(
        family="fixed", containerDefinitions=[{**container, "portMappings": [mapping]}]
    )
    cluster.ecs.create_service(serviceName="fixed", taskDefinition="fixed", desiredCount=1)

    def service() -> dict[str, Any]:
        return dict(cluster.ecs.describe_services(services=["fixed"])["services"][0])

    until(lambda: service()["runningCount"] == 1)
    agent = cluster.agent_pid(machine)
    os.kill(agent, signal.SIGSTOP)
    try:
        until(lambda: service()["runningCount"] == 0, 12)
    finally:
        os.kill(agent, signal.SIGCONT)
    until(lambda: service()["runningCount"] == 1, 15, lambda: str(service()["events"]))
    assert service()["deployments"][0]["failedTasks"] == 0
    cluster.ecs.delete_service(service="fixed", force=True)
    until(lambda: service()["status"] == "INACTIVE")
    until(lambda: not leftovers(machine), 10, lambda: str(leftovers(machine)))
