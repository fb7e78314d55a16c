"""A cluster for the tests of a module: a control plane with an image in its registry, and a client that drives it."""

import configparser
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from minicontainer import engine
from miniecs.lab import Lab, Machine
from tests import images

CLUSTER = "default"


class Cluster:
    """A lab with a control plane, seen with the eyes of a boto3 user."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        keys = configparser.ConfigParser()
        keys.read(lab.environment["AWS_SHARED_CREDENTIALS_FILE"])
        self.keys = (keys["default"]["aws_access_key_id"], keys["default"]["aws_secret_access_key"])
        self.ecs: Any = boto3.client(
            "ecs", endpoint_url=lab.endpoint, region_name="us-east-1",
            aws_access_key_id=self.keys[0], aws_secret_access_key=self.keys[1],
        )  # fmt: skip
        self.registry = lab.endpoint.removeprefix("http://")
        self.image = f"{self.registry}/busybox:1"

    def push_image(self) -> None:
        place = images.busybox(self.lab.data / "pusher", name=self.image)
        engine.push(place, self.image, plain_http=True, credentials=self.keys)

    def instances(self) -> list[dict[str, Any]]:
        arns = self.ecs.list_container_instances(cluster=CLUSTER)["containerInstanceArns"]
        if not arns:
            return []
        described = self.ecs.describe_container_instances(cluster=CLUSTER, containerInstances=arns)
        return list(described["containerInstances"])

    def run(self, *containers: dict[str, Any], family: str = "test", **members: Any) -> str:
        """Register a definition of these containers and run it once: the task's ARN."""
        definitions = [{"name": "web", "image": self.image, "memory": 32, **one} for one in containers]
        self.ecs.register_task_definition(family=family, containerDefinitions=definitions, **members)
        answer = self.ecs.run_task(cluster=CLUSTER, taskDefinition=family)
        assert not answer["failures"], answer["failures"]
        return str(answer["tasks"][0]["taskArn"])

    def agent_pid(self, machine: Machine) -> int:
        """The agent itself. A supervisor has the same command line, but begins a session: setsid(2)."""
        for pid in children(machine.pid):
            if os.getsid(pid) == os.getsid(machine.pid) and b"\0agent\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return 0

    def task(self, arn: str) -> dict[str, Any]:
        return dict(self.ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"][0])

    def until_status(self, arn: str, status: str, seconds: float = 20) -> dict[str, Any]:
        until(lambda: self.task(arn)["lastStatus"] == status, seconds, lambda: f"{status}, is {self.task(arn)}")
        return self.task(arn)

    def stop(self, arn: str) -> dict[str, Any]:
        self.ecs.stop_task(cluster=CLUSTER, task=arn, reason="the test is over")
        return self.until_status(arn, "STOPPED")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(condition: Callable[[], object], seconds: float = 20, what: Callable[[], str] = lambda: "it") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what()}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    lab = Lab(tmp_path_factory.mktemp("cluster") / "lab").up()
    try:
        lab.start_server()
        until(lambda: (lab.data / "server" / "endpoint").exists())  # it has said how to use it
        cluster = Cluster(lab)
        cluster.ecs.create_cluster(clusterName=CLUSTER)
        cluster.push_image()
        yield cluster
    finally:
        lab.down()
