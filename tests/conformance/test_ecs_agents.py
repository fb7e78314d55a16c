"""The control plane with agents that speak the real frames: what clients see of tasks, services and lost instances."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control_plane import ControlPlane, PretendAgent, control_plane, eventually

WEB: dict[str, Any] = {
    "name": "web",
    "image": "web",
    "cpu": 256,
    "memory": 128,
    "portMappings": [{"containerPort": 80}],
    "environment": [{"name": "COLOUR", "value": "blue"}],
}


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    with control_plane(tmp_path / "server") as plane:
        plane.client().create_cluster()
        yield plane


def define(plane: ControlPlane, family: str = "web", **changes: Any) -> str:
    answer = plane.client().register_task_definition(family=family, containerDefinitions=[WEB | changes])
    return str(answer["taskDefinition"]["taskDefinitionArn"])


def service(plane: ControlPlane, name: str = "web") -> Any:
    return plane.client().describe_services(services=[name])["services"][0]


def tasks(plane: ControlPlane, **filters: Any) -> list[Any]:
    arns = plane.client().list_tasks(**filters)["taskArns"]
    return list(plane.client().describe_tasks(tasks=arns)["tasks"]) if arns else []


def steady(plane: ControlPlane, count: int, name: str = "web") -> Any:
    def check() -> Any:
        found = service(plane, name)
        return found if len(found["deployments"]) == 1 and found["runningCount"] == count else None

    return eventually(check)


def messages(plane: ControlPlane, name: str = "web") -> list[str]:
    return [event["message"] for event in service(plane, name)["events"]]


def instance(plane: ControlPlane, agent: PretendAgent) -> Any:
    return plane.client().describe_container_instances(containerInstances=[agent.arn])["containerInstances"][0]


def resources(described: Any, which: str) -> dict[str, Any]:
    return {one["name"]: one.get("stringSetValue", one["integerValue"]) for one in described[which]}


def test_a_task_goes_from_pending_to_running_to_stopped(plane: ControlPlane) -> None:
    agent = PretendAgent(plane, "i-1")
    agent.starts = False
    ecs = plane.client()
    define(plane)
    started = ecs.run_task(taskDefinition="web", startedBy="me")["tasks"][0]
    assert (started["lastStatus"], started["desiredStatus"], started["version"]) == ("PENDING", "RUNNING", 1)
    assert (started["cpu"], started["memory"], started["group"]) == ("256", "128", "family:web")
    assert instance(plane, agent)["pendingTasksCount"] == 1
    arn = started["taskArn"]
    eventually(lambda: agent.tasks.get(arn))
    payload = agent.got("PayloadMessage")[0]["tasks"][0]
    assert payload["containers"][0]["environment"] == [{"name": "COLOUR", "value": "blue"}]
    assert (payload["family"], payload["version"], payload["desiredStatus"]) == ("web", "1", "RUNNING")
    agent.report(arn, "RUNNING")
    running = ecs.describe_tasks(tasks=[arn])["tasks"][0]
    assert running["lastStatus"] == "RUNNING" and running["startedAt"] and running["connectivity"] == "CONNECTED"
    assert running["containers"][0]["networkBindings"][0]["hostPort"] > 32768
    assert instance(plane, agent)["runningTasksCount"] == 1
    ecs.stop_task(task=arn, reason="enough")
    stopped = eventually(lambda: tasks(plane, desiredStatus="STOPPED"))[0]
    assert eventually(lambda: tasks(plane, desiredStatus="STOPPED")[0]["lastStatus"] == "STOPPED")
    stopped = ecs.describe_tasks(tasks=[arn])["tasks"][0]
    assert (stopped["stopCode"], stopped["stoppedReason"]) == ("UserInitiated", "enough")
    assert stopped["stoppedAt"] and stopped["version"] > running["version"]
    assert instance(plane, agent)["runningTasksCount"] == 0
    assert resources(instance(plane, agent), "remainingResources")["CPU"] == 1024


def test_waiters_finish(plane: ControlPlane) -> None:
    PretendAgent(plane, "i-1")
    ecs = plane.client()
    define(plane)
    ecs.create_service(serviceName="web", taskDefinition="web", desiredCount=2)
    quick = {"Delay": 1, "MaxAttempts": 10}
    ecs.get_waiter("services_stable").wait(services=["web"], WaiterConfig=quick)
    arns = ecs.list_tasks(serviceName="web")["taskArns"]
    ecs.get_waiter("tasks_running").wait(tasks=arns, WaiterConfig=quick)
    ecs.update_service(service="web", desiredCount=0)
    ecs.get_waiter("tasks_stopped").wait(tasks=arns, WaiterConfig=quick)
    ecs.delete_service(service="web")
    ecs.get_waiter("services_inactive").wait(services=["web"], WaiterConfig=quick)
    assert ecs.list_services()["serviceArns"] == []
    assert service(plane)["status"] == "INACTIVE"


def test_a_service_spreads_its_tasks_and_says_what_it_did(plane: ControlPlane) -> None:
    agents = [PretendAgent(plane, f"i-{zone}", zone=zone) for zone in ("a", "b", "c")]
    define(plane)
    plane.client().create_service(serviceName="web", taskDefinition="web", desiredCount=3)
    found = steady(plane, 3)
    assert {task["containerInstanceArn"] for task in tasks(plane)} == {agent.arn for agent in agents}
    eventually(lambda: service(plane)["deployments"][0]["rolloutState"] == "COMPLETED")
    said = messages(plane)
    assert re.fullmatch(
        r"\(service web\) has started 3 tasks: \(task \w{32}\) \(task \w{32}\) \(task \w{32}\)\.", said[-1]
    )
    assert f"(service web) (deployment {found['deployments'][0]['id']}) deployment completed." in said
    assert said[0] == "(service web) has reached a steady state."


def test_a_task_that_ends_is_replaced_within_a_second(plane: ControlPlane) -> None:
    agent = PretendAgent(plane, "i-1")
    define(plane)
    plane.client().create_service(serviceName="web", taskDefinition="web", desiredCount=1)
    steady(plane, 1)
    first = tasks(plane)[0]["taskArn"]
    ended_at = time.monotonic()
    agent.end(first, 137, "OutOfMemoryError: Container killed due to memory usage")
    eventually(lambda: any(task["taskArn"] != first for task in tasks(plane)))
    assert time.monotonic() - ended_at < 1.0
    stopped = plane.client().describe_tasks(tasks=[first])["tasks"][0]
    assert stopped["stopCode"] == "EssentialContainerExited"
    assert stopped["stoppedReason"] == "Essential container in task exited"
    assert stopped["containers"][0]["exitCode"] == 137
    assert stopped["containers"][0]["reason"].startswith("OutOfMemoryError")
    assert steady(plane, 1)["deployments"][0]["failedTasks"] == 1


def test_a_task_that_keeps_failing_is_started_less_often(plane: ControlPlane) -> None:
    agent = PretendAgent(plane, "i-1")
    agent.starts = False
    define(plane)
    plane.client().create_service(serviceName="web", taskDefinition="web", desiredCount=1)
    for _ in range(3):
        arn = eventually(lambda: [task["taskArn"] for task in tasks(plane) if task["taskArn"] in agent.tasks])[0]
        agent.report(arn, "STOPPED", "CannotPullContainerError: not found")
    assert plane.client().describe_tasks(tasks=[arn])["tasks"][0]["stopCode"] == "TaskFailedToStart"
    eventually(lambda: any("is unable to consistently start tasks successfully" in one for one in messages(plane)))
    assert tasks(plane) == []  # it waits
    eventually(lambda: tasks(plane))


def test_a_lost_instance_s_tasks_are_replaced_and_stopped_when_it_returns(plane: ControlPlane) -> None:
    first, second = PretendAgent(plane, "i-1"), PretendAgent(plane, "i-2")
    define(plane)
    plane.client().create_service(serviceName="web", taskDefinition="web", desiredCount=2)
    steady(plane, 2)
    lost = next(task for task in tasks(plane) if task["containerInstanceArn"] == first.arn)
    vanished_at = time.monotonic()
    first.vanish()
    eventually(lambda: instance(plane, first)["agentConnected"] is False)
    eventually(
        lambda: {task["containerInstanceArn"] for task in tasks(plane)} == {second.arn} and len(tasks(plane)) == 2
    )
    assert 3.0 < time.monotonic() - vanished_at < 6.0
    described = plane.client().describe_tasks(tasks=[lost["taskArn"]])["tasks"][0]
    assert (described["lastStatus"], described["stopCode"]) == ("STOPPED", "InfrastructureHealth")
    assert "no heartbeat for" in described["stoppedReason"]
    assert "container instance lost" in plane.log
    first.come_back()
    eventually(lambda: first.tasks[lost["taskArn"]] == "STOPPED")
    assert instance(plane, first)["agentConnected"] is True


def test_an_agent_that_is_silent_is_given_up_though_its_connection_stands(plane: ControlPlane) -> None:
    agent = PretendAgent(plane, "i-1")
    define(plane)
    plane.client().create_service(serviceName="web", taskDefinition="web", desiredCount=1)
    steady(plane, 1)
    agent.answers = False
    eventually(lambda: "session silent" in plane.log and tasks(plane) == [])


def test_an_agent_that_comes_back_in_time_keeps_its_tasks(plane: ControlPlane) -> None:
    agent = PretendAgent(plane, "i-1")
    define(plane)
    plane.client().create_service(serviceName="web", taskDefinition="web", desiredCount=1)
    steady(plane, 1)
    before = tasks(plane)[0]["taskArn"]
    agent.vanish()
    time.sleep(1.5)
    agent.come_back()
    time.sleep(4.5)
    assert [task["taskArn"] for task in tasks(plane)] == [before]
    assert agent.got("TaskManifestMessage")[-1]["tasks"] == [{"taskArn": before, "desiredStatus": "RUNNING"}]


def test_after_kill_9_the_state_is_the_same_and_the_agents_come_back(plane: ControlPlane) -> None:
    agents = [PretendAgent(plane, f"i-{number}") for number in range(2)]
    define(plane)
    plane.client().create_service(serviceName="web", taskDefinition="web", desiredCount=3)
    steady(plane, 3)
    before = {task["taskArn"]: task["version"] for task in tasks(plane)}
    plane.kill()
    plane.start()
    assert {task["taskArn"]: task["version"] for task in tasks(plane)} == before
    for agent in agents:
        eventually(lambda agent=agent: instance(plane, agent)["agentConnected"])  # type: ignore[misc]  # a lambda's default
    time.sleep(5)
    assert {task["taskArn"] for task in tasks(plane)} == set(before)
    assert sum(list(agent.tasks.values()).count("RUNNING") for agent in agents) == 3


def test_an_instance_that_does_not_come_back_after_a_restart_is_given_up_after_a_fresh_grace(
    plane: ControlPlane,
) -> None:
    agent = PretendAgent(plane, "i-1")
    define(plane)
    arn = plane.client().run_task(taskDefinition="web")["tasks"][0]["taskArn"]
    eventually(lambda: agent.tasks.get(arn) == "RUNNING")
    plane.kill()
    agent.vanish()
    plane.start()
    started_at = time.monotonic()
    eventually(lambda: plane.client().describe_tasks(tasks=[arn])["tasks"][0]["lastStatus"] == "STOPPED")
    assert time.monotonic() - started_at > 3


def test_a_rolling_deployment_keeps_the_service_whole(plane: ControlPlane) -> None:
    PretendAgent(plane, "i-1", cpu=4096, memory=4096)
    define(plane)
    ecs = plane.client()
    ecs.create_service(serviceName="web", taskDefinition="web", desiredCount=3)
    steady(plane, 3)
    second = define(plane, environment=[{"name": "COLOUR", "value": "green"}])
    answer = ecs.update_service(service="web", taskDefinition="web")["service"]
    assert [one["status"] for one in answer["deployments"]] == ["PRIMARY", "ACTIVE"]
    least = 3
    while len((found := service(plane))["deployments"]) > 1:
        least = min(least, found["runningCount"])
    assert least == 3
    steady(plane, 3)
    assert {task["taskDefinitionArn"] for task in tasks(plane)} == {second}
    again = ecs.update_service(service="web", taskDefinition="web")["service"]
    assert len(again["deployments"]) == 1
    forced = ecs.update_service(service="web", forceNewDeployment=True)["service"]
    assert len(forced["deployments"]) == 2
    steady(plane, 3)


def test_without_room_for_more_a_deployment_goes_down_to_the_minimum(plane: ControlPlane) -> None:
    PretendAgent(plane, "i-1", cpu=512, memory=512)
    define(plane)
    ecs = plane.client()
    configuration = {"minimumHealthyPercent": 50, "maximumPercent": 200}
    ecs.create_service(serviceName="web", taskDefinition="web", desiredCount=2, deploymentConfiguration=configuration)
    steady(plane, 2)
    ecs.update_service(service="web", forceNewDeployment=True)
    eventually(lambda: len(service(plane)["deployments"]) == 1 and service(plane)["runningCount"] == 2)


def test_what_fits_nowhere_is_said_with_numbers(plane: ControlPlane) -> None:
    PretendAgent(plane, "small", cpu=256, memory=256)
    agent = PretendAgent(plane, "large", cpu=512, memory=512)
    define(plane, memory=640)
    ecs = plane.client()
    ecs.create_service(serviceName="web", taskDefinition="web", desiredCount=1)
    wanted = (
        "(service web) was unable to place a task because no container instance met all of its requirements. "
        f"The closest matching (container-instance {agent.arn.rpartition('/')[2]}) has insufficient memory available "
        "(needs 640 MiB, 512 free: 128 short). For more information, see the Troubleshooting section."
    )
    eventually(lambda: messages(plane) == [wanted])
    failure = ecs.run_task(taskDefinition="web")["failures"][0]
    assert (failure["arn"], failure["reason"]) == (agent.arn, "RESOURCE:MEMORY")
    assert "128 short" in failure["detail"]
    shown = plane.miniecs("explain", "web")
    assert "closest is large: needs 640 MiB, 512 free: 128 short" in shown.stdout
    larger = PretendAgent(plane, "larger", cpu=512, memory=1024)
    eventually(lambda: tasks(plane) and tasks(plane)[0]["containerInstanceArn"] == larger.arn)
    assert "128 short" not in plane.miniecs("status").stdout


def test_ports_are_never_given_twice(plane: ControlPlane) -> None:
    agents = [PretendAgent(plane, f"i-{number}") for number in range(2)]
    define(plane, portMappings=[{"containerPort": 80, "hostPort": 8080}])
    answer = plane.client().run_task(taskDefinition="web", count=3)
    assert {task["containerInstanceArn"] for task in answer["tasks"]} == {agent.arn for agent in agents}
    assert [failure["reason"] for failure in answer["failures"]] == ["RESOURCE:PORTS"]
    assert "8080" in resources(instance(plane, agents[0]), "remainingResources")["PORTS"]
    define(plane, "reserved", portMappings=[{"containerPort": 80, "hostPort": 51678}])
    assert plane.client().run_task(taskDefinition="reserved")["failures"][0]["reason"] == "RESOURCE:PORTS"


def test_a_draining_instance_is_left_and_takes_nothing_new(plane: ControlPlane) -> None:
    first, second = PretendAgent(plane, "i-1"), PretendAgent(plane, "i-2")
    define(plane)
    ecs = plane.client()
    ecs.create_service(serviceName="web", taskDefinition="web", desiredCount=2)
    alone = ecs.run_task(
        taskDefinition="web", placementConstraints=[{"type": "memberOf", "expression": "ec2InstanceId == i-1"}]
    )["tasks"][0]["taskArn"]
    steady(plane, 2)
    ecs.update_container_instances_state(containerInstances=[first.arn], status="DRAINING")
    eventually(lambda: [task["containerInstanceArn"] for task in tasks(plane, serviceName="web")] == [second.arn] * 2)
    assert first.tasks[alone] == "RUNNING"  # standalone tasks are left alone
    with pytest.raises(ecs.exceptions.InvalidParameterException, match="Found running tasks on the instance"):
        ecs.deregister_container_instance(containerInstance=first.arn)
    ecs.deregister_container_instance(containerInstance=first.arn, force=True)
    eventually(lambda: "InactiveInstanceException" in str(first.frames))
    assert ecs.list_container_instances()["containerInstanceArns"] == [second.arn]


def test_a_payload_that_is_not_acknowledged_comes_again(plane: ControlPlane) -> None:
    agent = PretendAgent(plane, "i-1")
    agent.starts = False
    define(plane)
    acknowledged, agent._answer = agent._answer, _heartbeats_only(agent)  # type: ignore[method-assign]  # the test's point
    arn = plane.client().run_task(taskDefinition="web")["tasks"][0]["taskArn"]
    eventually(lambda: len(agent.got("PayloadMessage")) >= 2)
    agent._answer = acknowledged  # type: ignore[method-assign]  # and back
    eventually(lambda: arn in agent.tasks)
    sent = len(agent.got("PayloadMessage"))
    time.sleep(3.5)
    assert len(agent.got("PayloadMessage")) <= sent + 1
    assert {task["arn"] for message in agent.got("PayloadMessage") for task in message["tasks"]} == {arn}


def _heartbeats_only(agent: PretendAgent) -> Any:
    async def answer(kind: str, message: Any) -> None:
        if kind == "HeartbeatMessage":
            await agent._send("HeartbeatAckRequest", messageId=message["messageId"])

    return answer


def test_a_refused_payload_stops_its_tasks_with_the_reason(plane: ControlPlane) -> None:
    agent = PretendAgent(plane, "i-1")

    who = {"cluster": "default", "containerInstance": agent.arn}

    async def refuse(kind: str, message: Any) -> None:
        if kind == "PayloadMessage":
            await agent._send("NackRequest", **who, messageId=message["messageId"], reason="no such volume driver")

    agent._answer = refuse  # type: ignore[method-assign]  # the test's point
    define(plane)
    arn = plane.client().run_task(taskDefinition="web")["tasks"][0]["taskArn"]
    stopped = eventually(lambda: tasks(plane, desiredStatus="STOPPED"))[0]
    assert (stopped["taskArn"], stopped["stoppedReason"]) == (arn, "no such volume driver")
    assert stopped["stopCode"] == "TaskFailedToStart"


def test_explain_says_why_a_task_is_where_it_is(plane: ControlPlane) -> None:
    PretendAgent(plane, "small", cpu=128, memory=64)
    PretendAgent(plane, "large", cpu=2048, memory=2048)
    define(plane)
    arn = plane.client().run_task(taskDefinition="web")["tasks"][0]["taskArn"]
    shown = plane.miniecs("explain", arn).stdout
    assert re.search(r"small +256 of 128 +128 of 64 .*needs 256 CPU units, 128 free: 128 short", shown)
    assert re.search(r"large +256 of 2048 +128 of 2048 +- +fits +0 0 +1 +chosen", shown)
    document = json.loads(plane.miniecs("explain", arn.rpartition("/")[2][:12], "--format", "json").stdout)
    assert document["arn"] == arn and document["placement"]["considered"] == 2
    unknown = plane.miniecs("explain", "nothing-like-it")
    assert unknown.returncode == 1 and "no task and no service is called nothing-like-it" in unknown.stderr
