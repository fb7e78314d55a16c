"""The `aws` command and boto3's waiters through a whole day of a service, as README and the demo do it by hand."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control_plane import ControlPlane, PretendAgent, control_plane, eventually

CONTAINERS = json.dumps(
    [{"name": "web", "image": "web", "cpu": 256, "memory": 64, "portMappings": [{"containerPort": 8080}]}]
)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    with control_plane(tmp_path / "server") as plane:
        plane.aws("ecs", "create-cluster")
        plane.aws("ecs", "register-task-definition", "--family", "web", "--container-definitions", CONTAINERS)
        yield plane


def test_a_day_of_a_service_by_hand(plane: ControlPlane) -> None:
    agents = [PretendAgent(plane, name, cpu=cpu, memory=512) for name, cpu in (("small", 512), ("large", 2048))]
    ecs = "ecs"
    made = plane.aws(
        ecs,
        "create-service",
        *("--service-name", "web", "--task-definition", "web", "--desired-count", "4"),
        *("--placement-strategy", "type=spread,field=instanceId"),
    )["service"]
    assert made["placementStrategy"] == [{"type": "spread", "field": "instanceId"}]
    plane.aws(ecs, "wait", "services-stable", "--services", "web")
    arns = plane.aws(ecs, "list-tasks", "--service-name", "web", "--query", "taskArns")
    tasks = plane.aws(ecs, "describe-tasks", "--tasks", *arns)["tasks"]
    where = [task["containerInstanceArn"] for task in tasks]
    assert sorted(map(where.count, (agent.arn for agent in agents))) == [2, 2]
    for task in tasks:
        assert task["lastStatus"] == "RUNNING" and task["containers"][0]["networkBindings"][0]["hostPort"]
    updated = plane.aws(ecs, "update-service", "--service", "web", "--desired-count", "1")["service"]
    assert updated["desiredCount"] == 1
    plane.aws(ecs, "wait", "services-stable", "--services", "web")
    eventually(lambda: len(plane.aws(ecs, "list-tasks", "--desired-status", "STOPPED")["taskArns"]) == 3)
    stopped = plane.aws(ecs, "list-tasks", "--desired-status", "STOPPED")["taskArns"]
    reasons = {task["stoppedReason"] for task in plane.aws(ecs, "describe-tasks", "--tasks", *stopped)["tasks"]}
    assert reasons == {f"Scaling activity initiated by (deployment {made['deployments'][0]['id']})"}
    plane.aws(ecs, "delete-service", "--service", "web", "--force")
    plane.aws(ecs, "wait", "services-inactive", "--services", "web")
    for agent in agents:
        plane.aws(ecs, "deregister-container-instance", "--container-instance", agent.arn, "--force")
    assert plane.aws(ecs, "delete-cluster", "--cluster", "default")["cluster"]["status"] == "INACTIVE"


def test_tasks_packed_and_refused_by_hand(plane: ControlPlane) -> None:
    for name in ("one", "two"):
        PretendAgent(plane, name, cpu=2048, memory=1024)
    answer = plane.aws(
        "ecs",
        "run-task",
        *("--task-definition", "web", "--count", "3", "--placement-strategy", "type=binpack,field=memory"),
    )
    assert len({task["containerInstanceArn"] for task in answer["tasks"]}) == 1
    refused = plane.aws("ecs", "run-task", "--task-definition", "web", "--overrides", "memory=4096")["failures"]
    assert refused[0]["reason"] == "RESOURCE:MEMORY" and "short" in refused[0]["detail"]
    distinct = plane.aws(
        "ecs",
        "run-task",
        *("--task-definition", "web", "--count", "3", "--placement-constraints", "type=distinctInstance"),
        *("--group", "one-each"),
    )
    assert len({task["containerInstanceArn"] for task in distinct["tasks"]}) == len(distinct["tasks"]) == 2
    assert distinct["failures"][0]["reason"] == "DistinctInstance placement constraint unsatisfied."


def test_instances_by_query_by_hand(plane: ControlPlane) -> None:
    gold, plain = PretendAgent(plane, "gold", tier="gold"), PretendAgent(plane, "plain")
    found = plane.aws("ecs", "list-container-instances", "--filter", "attribute:tier == gold")
    assert found["containerInstanceArns"] == [gold.arn]
    answer = plane.aws(
        "ecs",
        "run-task",
        *("--task-definition", "web", "--placement-constraints", "type=memberOf,expression=attribute:tier !exists"),
    )
    assert answer["tasks"][0]["containerInstanceArn"] == plain.arn
    shown = plane.miniecs("status")
    assert shown.returncode == 0 and "gold" in shown.stdout and "family:web" in shown.stdout
    state: Any = json.loads(plane.miniecs("status", "--format", "json").stdout)
    assert {one["instance"] for one in state["clusters"][0]["instances"]} == {"gold", "plain"}


def test_a_server_that_was_stopped_does_not_blame_its_agents(plane: ControlPlane) -> None:
    agent = PretendAgent(plane, "i-1")
    arn = plane.client().run_task(taskDefinition="web")["tasks"][0]["taskArn"]
    eventually(lambda: agent.tasks.get(arn) == "RUNNING")
    assert plane.process
    plane.process.send_signal(signal.SIGSTOP)
    time.sleep(5.5)
    plane.process.send_signal(signal.SIGCONT)
    time.sleep(1.5)
    task = plane.client().describe_tasks(tasks=[arn])["tasks"][0]
    assert task["lastStatus"] == "RUNNING" and "container instance lost" not in plane.log


def test_tasks_reported_while_the_server_was_away_are_told_afterwards(plane: ControlPlane) -> None:
    agent = PretendAgent(plane, "i-1")
    arn = plane.client().run_task(taskDefinition="web")["tasks"][0]["taskArn"]
    eventually(lambda: agent.tasks.get(arn) == "RUNNING")
    plane.kill()
    plane.start()
    agent.end(arn, 3)
    stopped = plane.client().describe_tasks(tasks=[arn])["tasks"][0]
    assert (stopped["lastStatus"], stopped["containers"][0]["exitCode"]) == ("STOPPED", 3)


def test_one_server_can_listen_twice(tmp_path: Path) -> None:
    with control_plane(tmp_path / "server", "--listen", "127.0.0.2:0") as plane:
        assert plane.client().list_clusters()["clusterArns"] == []
        assert "listen=127.0.0.1:0,127.0.0.2:0" in plane.log
