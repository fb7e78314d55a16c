"""Three machines with a kernel each, provisioned by the scripts that Vagrant calls; one lab for all tests."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import boto3
import pytest

from vagrant.light_lab import Choices, LightLab

SECONDS = 120.0  # how long anything may take: user-mode-linux on a busy computer is slow, and slowness is no failure


class Cluster:
    """The lab with the eyes of a boto3 user."""

    def __init__(self, lab: LightLab) -> None:
        self.lab = lab
        environment = lab.environment()
        self.registry = environment["LAB_REGISTRY"]
        self.ecs: Any = boto3.client(
            "ecs", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip

    # --- instances ---------------------------------------------------------------------------------------------------

    def instances(self) -> dict[str, Any]:
        """By the machines' names."""
        arns = self.ecs.list_container_instances()["containerInstanceArns"]
        found = self.ecs.describe_container_instances(containerInstances=arns)["containerInstances"] if arns else []
        return {one["ec2InstanceId"]: one for one in found}

    def is_connected(self, *names: str) -> bool:
        found = self.instances()
        return all(name in found and found[name]["agentConnected"] for name in names)

    def on(self, task: Any) -> str:
        """The machine that a task is on."""
        return next(
            name
            for name, one in self.instances().items()
            if one["containerInstanceArn"] == task["containerInstanceArn"]
        )

    # --- tasks -------------------------------------------------------------------------------------------------------

    def define(self, family: str, image: str = "busybox:latest", **members: Any) -> None:
        """A task that sleeps on its machine's network, unless `members` of its container say otherwise."""
        whole = {"networkMode": members.pop("network", "host")}
        container = {
            "name": "main", "image": f"{self.registry}/{image}", "command": ["sleep", "100000"], "cpu": 128,
            "memory": 64, "stopTimeout": 1, **members,
        }  # fmt: skip
        self.ecs.register_task_definition(family=family, containerDefinitions=[container], **whole)

    def place(self, family: str, count: int, *strategy: tuple[str, str]) -> list[str]:
        """Run tasks, and say on which machines they were put."""
        chosen = [{"type": kind, "field": field} for kind, field in strategy]
        answer = self.ecs.run_task(taskDefinition=family, count=count, placementStrategy=chosen)
        assert answer["failures"] == [], answer["failures"]
        return [self.on(task) for task in answer["tasks"]]

    def refusal(self, family: str) -> dict[str, Any]:
        answer = self.ecs.run_task(taskDefinition=family)
        assert answer["tasks"] == []
        return dict(answer["failures"][0])

    def serve(self, family: str, count: int) -> list[Any]:
        """A service with its tasks spread over the machines; the tasks when all run."""
        spread = [{"type": "spread", "field": "instanceId"}]
        self.ecs.create_service(serviceName=family, taskDefinition=family, desiredCount=count, placementStrategy=spread)
        return self.running(family, count)

    def running(self, service: str, count: int) -> list[Any]:
        """Wait until so many tasks of a service run, and no other is there."""

        def check() -> Any:
            found = self.tasks(service)
            return found if len(found) == count and all(one["lastStatus"] == "RUNNING" for one in found) else None

        return list(until(check, lambda: [(one["taskArn"][-8:], one["lastStatus"]) for one in self.tasks(service)]))

    def tasks(self, service: str = "", desired: str = "RUNNING") -> list[Any]:
        which = {"serviceName": service} if service else {}
        arns = self.ecs.list_tasks(desiredStatus=desired, **which)["taskArns"]
        return list(self.ecs.describe_tasks(tasks=arns)["tasks"]) if arns else []

    def stopped(self, arn: str) -> Any:
        """Wait until a task is STOPPED."""

        def check() -> Any:
            found = self.ecs.describe_tasks(tasks=[arn])["tasks"][0]
            return found if found["lastStatus"] == "STOPPED" else None

        return until(check)

    # --- machines ----------------------------------------------------------------------------------------------------

    def says(self, machine: str, command: str) -> str:
        """What a command on a machine prints; it has to succeed."""
        done = self.lab.run(machine, command)
        assert done.returncode == 0, (machine, command, done.stdout, done.stderr)
        return done.stdout.strip()

    def processes(self, machine: str, word: str) -> list[int]:
        """The processes on a machine whose command is `word` and its arguments, containers' too."""
        return [int(pid) for pid in self.lab.run(machine, f"pgrep -xf '{word}'").stdout.split()]

    def tidy(self) -> None:
        """No service, no task, and every machine as it was."""
        for name in self.lab.machines():
            self.lab.plug(name, True)
            self.lab.power(name, True)
        for arn in self.ecs.list_services()["serviceArns"]:
            self.ecs.delete_service(service=arn, force=True)
        for task in self.tasks():
            self.ecs.stop_task(task=task["taskArn"])
        workers = [name for name in self.lab.machines() if name != "manager"]
        until(lambda: self.is_connected(*workers), self.instances)
        until(lambda: not any(one["runningTasksCount"] + one["pendingTasksCount"] for one in self.instances().values()))


def until(check: Callable[[], Any], what: Callable[[], Any] = lambda: "", seconds: float = SECONDS) -> Any:
    """The first true value of `check`."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what()}"
        time.sleep(0.3)
    return found


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LightLab]:
    said: list[str] = []
    lab = LightLab(tmp_path_factory.mktemp("lab") / "lab", said.append)
    try:
        lab.up(Choices(workers=2))
        yield lab
    finally:
        lab.down()


@pytest.fixture(scope="session")
def whole_cluster(lab: LightLab) -> Cluster:
    cluster = Cluster(lab)
    until(lambda: cluster.is_connected("worker1", "worker2"), cluster.instances)
    return cluster


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    yield whole_cluster
    whole_cluster.tidy()


def names(tasks: Sequence[Any]) -> set[str]:
    return {str(task["taskArn"]) for task in tasks}
