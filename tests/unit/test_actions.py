"""The actions, one request at a time: what is answered, what is refused, what is kept."""

import base64
import json
from typing import Any

import msgspec
import pytest

from miniecs import errors
from miniecs.model import TaskStatus
from miniecs.store import INSTANCES, KINDS, TASKS
from tests.world import World

CPU_AND_MEMORY = [{"name": name, "type": "INTEGER", "integerValue": 512} for name in ("CPU", "MEMORY")]


@pytest.fixture
def world() -> World:
    return World().cluster()


def everything(world: World) -> dict[str, dict[str, Any]]:
    return {kind: dict(world.store.records.items(kind, "")) for kind in KINDS}


def refused(world: World, operation: str, **members: Any) -> str:
    """`CODE: message`; and the store is as before."""
    before = everything(world)
    with pytest.raises(errors.AwsError) as caught:
        world.ask(operation, **members)
    assert everything(world) == before
    return f"{caught.value.code}: {caught.value}"


# --- clusters --------------------------------------------------------------------------------------------------------


def test_a_cluster_without_a_name_is_the_default_one() -> None:
    world = World()
    assert world.ask("CreateCluster")["cluster"]["clusterName"] == "default"
    assert world.ask("DescribeClusters")["clusters"][0]["status"] == "ACTIVE"


def test_a_cluster_counts_what_is_in_it(world: World) -> None:
    world.instance("i-1")
    world.define()
    world.ask("CreateService", serviceName="web", taskDefinition="web", desiredCount=2)
    world.settle()
    world.report(world.tasks()[0], TaskStatus.RUNNING)
    found = world.ask("DescribeClusters", include=["STATISTICS"])["clusters"][0]
    counts = ("registeredContainerInstancesCount", "runningTasksCount", "pendingTasksCount", "activeServicesCount")
    assert [found[name] for name in counts] == [1, 1, 1, 1]
    assert {"name": "pendingEC2TasksCount", "value": "1"} in found["statistics"]


@pytest.mark.parametrize("name", ["a b", "a/b", "x" * 256, "ä"])
def test_a_cluster_name_has_letters_numbers_and_hyphens(world: World, name: str) -> None:
    assert "InvalidParameterException: Invalid cluster name" in refused(world, "CreateCluster", clusterName=name)


def test_an_arn_of_another_region_is_another_cluster(world: World) -> None:
    arn = "arn:aws:ecs:eu-west-1:000000000000:cluster/default"
    assert world.ask("DescribeClusters", clusters=[arn])["failures"] == [{"arn": arn, "reason": "MISSING"}]


def test_capacity_providers_are_refused_by_name(world: World) -> None:
    said = refused(world, "CreateCluster", clusterName="x", capacityProviders=["FARGATE"])
    assert said == "UnsupportedFeatureException: capacity providers are not supported yet"


def test_a_cluster_with_tasks_is_not_deleted(world: World) -> None:
    arn = world.instance("i-1")
    world.define()
    world.ask("RunTask", taskDefinition="web")
    assert "ContainerInstances" in refused(world, "DeleteCluster", cluster="default")
    world.transact(lambda transaction: transaction.delete(INSTANCES, arn.split("/", 1)[1]))
    assert refused(world, "DeleteCluster", cluster="default").startswith("ClusterContainsTasksException")


# --- container instances ---------------------------------------------------------------------------------------------


def offer(address: str, name: str = "i-1", **members: Any) -> dict[str, Any]:
    return {
        "totalResources": CPU_AND_MEMORY,
        "instanceIdentityDocument": json.dumps({"instanceId": name}),
        "attributes": [{"name": "miniecs.advertise-address", "value": address}],
        **members,
    }


def register(world: World, address: str, name: str) -> str:
    answer = world.ask("RegisterContainerInstance", **offer(address, name))
    return str(answer["containerInstance"]["containerInstanceArn"])


def connect(world: World, arn: str, connected: bool) -> None:
    def change(transaction: Any) -> None:
        found = transaction.get(INSTANCES, arn.split("/", 1)[1])
        transaction.put(INSTANCES, arn.split("/", 1)[1], msgspec.structs.replace(found, agent_connected=connected))

    world.transact(change)


def test_an_address_is_one_machine(world: World) -> None:
    first = world.ask("RegisterContainerInstance", **offer("10.0.0.1", "one"))["containerInstance"]
    connect(world, first["containerInstanceArn"], True)
    said = refused(world, "RegisterContainerInstance", **offer("10.0.0.1", "two"))
    assert said.startswith("InvalidParameterException: one is connected and has the address 10.0.0.1; try: ")
    again = offer("10.0.0.1", "one", containerInstanceArn=first["containerInstanceArn"])
    assert world.ask("RegisterContainerInstance", **again)["containerInstance"]["status"] == "ACTIVE"
    assert world.ask("RegisterContainerInstance", **offer("10.0.0.2", "two"))["containerInstance"]["status"] == "ACTIVE"


def test_a_machine_made_anew_takes_the_place_of_the_one_it_was(world: World) -> None:
    old = register(world, "10.0.0.1", "one")
    connect(world, old, True)
    world.define()
    assert world.ask("RunTask", taskDefinition="web")["failures"] == []
    connect(world, old, False)
    new = register(world, "10.0.0.1", "one")
    assert world.ask("ListContainerInstances")["containerInstanceArns"] == [new]
    stopped = world.ask("ListTasks", desiredStatus="STOPPED")["taskArns"]
    (task,) = world.ask("DescribeTasks", tasks=stopped)["tasks"]
    assert task["stoppedReason"] == "The container instance was made anew"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "no other machine reaches the advertised address 127.0.0.1"),
        ("0.0.0.0", "no other machine reaches the advertised address 0.0.0.0"),
        ("::1", "no other machine reaches the advertised address ::1"),
        ("manager", "the advertised address 'manager' is no IP address"),
    ],
)
def test_an_address_that_nobody_else_can_reach_is_refused(world: World, address: str, why: str) -> None:
    world.endpoint = "http://10.0.0.254:8600"
    assert why in refused(world, "RegisterContainerInstance", **offer(address))


def test_a_control_plane_on_loopback_has_agents_on_loopback(world: World) -> None:
    world.endpoint = "http://127.0.0.1:8600"
    for name in ("one", "two"):
        arn = world.ask("RegisterContainerInstance", **offer("127.0.0.1", name))["containerInstance"][
            "containerInstanceArn"
        ]
        connect(world, arn, True)


def test_an_instance_is_registered_with_what_it_offers(world: World) -> None:
    identity = {"instanceId": "i-1", "availabilityZone": "z-1", "instanceType": "lab", "more": 1}
    total = [*CPU_AND_MEMORY, {"name": "PORTS", "type": "STRINGSET", "stringSetValue": ["8080"]}]
    made = world.ask(
        "RegisterContainerInstance",
        totalResources=[*total, {"name": "PORTS_UDP", "type": "STRINGSET", "stringSetValue": ["53"]}],
        instanceIdentityDocument=json.dumps(identity),
        attributes=[{"name": "disk", "value": "ssd"}, {"name": "gpu"}],
        versionInfo={"agentVersion": "1.2.3"},
    )["containerInstance"]
    assert made["ec2InstanceId"] == "i-1" and made["status"] == "ACTIVE" and made["agentConnected"] is False
    assert made["versionInfo"] == {"agentVersion": "1.2.3"}
    attributes = {one["name"]: one.get("value") for one in made["attributes"]}
    assert attributes == {
        "disk": "ssd",
        "gpu": None,
        "ecs.availability-zone": "z-1",
        "ecs.instance-type": "lab",
        "ecs.os-type": "linux",
    }
    resources = {one["name"]: one for one in made["registeredResources"]}
    assert resources["PORTS"]["stringSetValue"] == ["22", "2375", "2376", "8080", "51678", "51679", "51680"]
    assert resources["PORTS_UDP"]["stringSetValue"] == ["53"]
    assert resources["CPU"]["integerValue"] == 512


def test_an_agent_that_registers_again_is_the_same_instance(world: World) -> None:
    first = world.instance("i-1", clientToken="token")
    assert world.instance("i-1", clientToken="token") == first
    assert world.instance("i-1", cpu=2048, containerInstanceArn=first) == first
    assert len(world.instances()) == 1 and world.instances()[0].registered.cpu == 2048
    assert world.instance("i-1") != first
    unknown = first.replace("a", "b")
    said = refused(world, "RegisterContainerInstance", totalResources=CPU_AND_MEMORY, containerInstanceArn=unknown)
    assert said == "ClientException: The referenced container instance was not found."


def test_a_deregistered_instance_does_not_come_back_by_its_token_or_arn(world: World) -> None:
    first = world.instance("i-1", clientToken="token")
    world.ask("DeregisterContainerInstance", containerInstance=first)
    assert world.instance("i-1", clientToken="token") != first
    said = refused(world, "RegisterContainerInstance", totalResources=CPU_AND_MEMORY, containerInstanceArn=first)
    assert "was not found" in said


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"totalResources": CPU_AND_MEMORY[:1]}, "totalResources: MEMORY must be"),
        ({}, "totalResources: CPU must be"),
        ({"totalResources": CPU_AND_MEMORY, "instanceIdentityDocument": "{"}, "instanceIdentityDocument is no JSON"),
        ({"totalResources": CPU_AND_MEMORY, "instanceIdentityDocument": "[]"}, "is no JSON object"),
        (
            {"totalResources": [*CPU_AND_MEMORY, {"name": "PORTS", "type": "STRINGSET", "stringSetValue": ["x"]}]},
            "'x' in PORTS is no port",
        ),
    ],
)
def test_an_instance_that_offers_nonsense_is_refused(world: World, members: dict[str, Any], message: str) -> None:
    assert message in refused(world, "RegisterContainerInstance", **members)


def test_instances_are_listed_by_status_and_by_query(world: World) -> None:
    a, b, c = (world.instance(f"i-{zone}", zone=zone) for zone in "abc")
    world.define()
    world.ask("RunTask", taskDefinition="web", group="batch")

    def listed(**members: Any) -> set[str]:
        return set(world.ask("ListContainerInstances", **members)["containerInstanceArns"])

    assert listed() == {a, b, c}
    assert listed(filter="attribute:ecs.availability-zone in [a, b]") == {a, b}
    assert len(listed(filter="task:group == batch")) == 1
    world.ask("UpdateContainerInstancesState", containerInstances=[c], status="DRAINING")
    assert listed(status="DRAINING") == {c} and listed(status="ACTIVE") == {a, b} and listed() == {a, b, c}
    world.ask("DeregisterContainerInstance", containerInstance=a.rpartition("/")[2], force=True)
    assert a not in listed()
    assert "Invalid expression" in refused(world, "ListContainerInstances", filter="nonsense")


def test_instances_are_described_by_id_or_arn_and_the_rest_is_missing(world: World) -> None:
    arn = world.instance("i-1")
    answer = world.ask("DescribeContainerInstances", containerInstances=[arn, arn.rpartition("/")[2], "f" * 32])
    assert len(answer["containerInstances"]) == 2
    assert [failure["reason"] for failure in answer["failures"]] == ["MISSING"]


def test_a_state_is_active_or_draining(world: World) -> None:
    arn = world.instance("i-1")
    said = refused(world, "UpdateContainerInstancesState", containerInstances=[arn], status="DEREGISTERING")
    assert "should be one of [ACTIVE,DRAINING]" in said
    answer = world.ask("UpdateContainerInstancesState", containerInstances=["x" * 32], status="DRAINING")
    assert answer["failures"][0]["reason"] == "MISSING"


def test_agents_find_their_sessions_where_they_called(world: World) -> None:
    answer = world.ask("DiscoverPollEndpoint")
    assert answer == {"endpoint": "http://here", "telemetryEndpoint": "http://here"}


# --- task definitions ------------------------------------------------------------------------------------------------


def test_defaults_are_shown_as_ecs_shows_them(world: World) -> None:
    arn = world.define(portMappings=[{"containerPort": 80}])
    found = world.ask("DescribeTaskDefinition", taskDefinition=arn)["taskDefinition"]
    container = found["containerDefinitions"][0]
    assert container["portMappings"] == [{"containerPort": 80, "hostPort": 0, "protocol": "tcp"}]
    assert container["essential"] is True and container["environment"] == container["volumesFrom"] == []
    assert found["networkMode"] == "bridge" and found["revision"] == 1


def test_members_that_only_the_agent_reads_are_kept(world: World) -> None:
    health = {"command": ["CMD", "true"], "interval": 5}
    arn = world.define(healthCheck=health, dockerLabels={"a": "b"}, stopTimeout=3)
    container = world.ask("DescribeTaskDefinition", taskDefinition=arn)["taskDefinition"]["containerDefinitions"][0]
    assert container["healthCheck"] == health and container["dockerLabels"] == {"a": "b"}
    assert container["stopTimeout"] == 3


def test_tags_of_a_task_definition_are_shown_when_asked_for(world: World) -> None:
    world.ask(
        "RegisterTaskDefinition",
        family="t",
        tags=[{"key": "a", "value": "b"}],
        containerDefinitions=[{"name": "x", "image": "y", "memory": 6}],
    )
    assert "tags" not in world.ask("DescribeTaskDefinition", taskDefinition="t")
    assert world.ask("DescribeTaskDefinition", taskDefinition="t", include=["TAGS"])["tags"] == [
        {"key": "a", "value": "b"}
    ]


def container(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "image": "b", "memory": 100, **changes}


@pytest.mark.parametrize(
    ("containers", "message"),
    [
        ([container(), container()], "Container names must be unique"),
        ([container(name="a b")], "Invalid container name 'a b'"),
        ([container(memory=5)], "'memory' must be at least 6 MiB"),
        ([container(memoryReservation=-5)], "'memoryReservation' must be at least 6 MiB"),
        ([container(memoryReservation=200)], "'memoryReservation' must be less than 'memory'"),
        ([container(cpu=-1)], "'cpu' must not be negative"),
        ([container(portMappings=[{}])], "'containerPort' of a port mapping must be specified"),
        ([container(portMappings=[{"containerPort": 70000}])], "A port must be between"),
        (
            [container(portMappings=[{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}])],
            "Host port 9/tcp is asked for twice",
        ),
        (
            [container(dependsOn=[{"containerName": "z", "condition": "START"}])],
            "depends on 'z', which is not in the task definition",
        ),
        (
            [
                container(dependsOn=[{"containerName": "b", "condition": "START"}]),
                container(name="b", dependsOn=[{"containerName": "a", "condition": "START"}]),
            ],
            "in a circle: a, b",
        ),
    ],
)
def test_containers_that_could_not_run_are_refused(
    world: World, containers: list[dict[str, Any]], message: str
) -> None:
    assert message in refused(world, "RegisterTaskDefinition", family="bad", containerDefinitions=containers)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"cpu": "lots"}, "'cpu' setting for task: lots"),
        ({"memory": "1 vCPU"}, "'memory' setting"),
        ({"cpu": "0"}, "'cpu'"),
    ],
)
def test_a_task_size_that_is_none_is_refused(world: World, size: dict[str, str], message: str) -> None:
    assert message in refused(world, "RegisterTaskDefinition", family="bad", containerDefinitions=[container()], **size)


def test_a_family_has_no_odd_letters_and_a_network_mode_is_known(world: World) -> None:
    assert "invalid characters" in refused(
        world, "RegisterTaskDefinition", family="a:b", containerDefinitions=[container()]
    )
    said = refused(world, "RegisterTaskDefinition", family="a", networkMode="moon", containerDefinitions=[container()])
    assert "network mode should be one of [bridge,host,awsvpc,none]" in said


def test_an_inactive_task_definition_makes_nothing_new(world: World) -> None:
    world.instance("i-1")
    arn = world.define()
    world.ask("DeregisterTaskDefinition", taskDefinition=arn)
    assert refused(world, "RunTask", taskDefinition=arn) == "ClientException: TaskDefinition is inactive"
    assert refused(world, "RunTask", taskDefinition="web") == "ClientException: TaskDefinition not found."
    assert world.ask("DescribeTaskDefinition", taskDefinition=arn)["taskDefinition"]["status"] == "INACTIVE"


def test_a_task_in_network_mode_awsvpc_needs_an_instance_that_can(world: World) -> None:
    world.instance("i-1")
    world.ask("RegisterTaskDefinition", family="eni", networkMode="awsvpc", containerDefinitions=[container()])
    assert world.ask("RunTask", taskDefinition="eni")["failures"][0]["reason"] == "ATTRIBUTE"


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_overrides_change_what_runs_and_what_is_needed(world: World) -> None:
    world.instance("i-1")
    world.define()
    override = {"containerOverrides": [{"name": "web", "memory": 512, "command": ["x"]}]}
    task = world.ask("RunTask", taskDefinition="web", overrides=override)["tasks"][0]
    assert task["memory"] == "512" and task["overrides"]["containerOverrides"][0]["command"] == ["x"]
    assert world.instances()[0].used.memory == 512
    wrong = {"containerOverrides": [{"name": "nobody"}]}
    said = refused(world, "RunTask", taskDefinition="web", overrides=wrong)
    assert "Override for container named nobody is not a container in the TaskDefinition." in said


@pytest.mark.parametrize(
    ("override", "cpu", "memory"),
    [
        ({"cpu": "0.5 vCPU", "memory": "1 GB"}, "512", "1024"),
        ({"cpu": ".25 vcpu"}, "256", "256"),
        ({"memory": "768"}, "256", "768"),
    ],
)
def test_a_task_size_is_overridden_as_it_is_defined(world: World, override: Any, cpu: str, memory: str) -> None:
    world.instance("i-1")
    world.define()
    task = world.ask("RunTask", taskDefinition="web", overrides=override)["tasks"][0]
    assert (task["cpu"], task["memory"]) == (cpu, memory)
    used = world.instances()[0].used
    assert (str(used.cpu), str(used.memory)) == (cpu, memory)


@pytest.mark.parametrize(
    "override",
    [
        *({member: text} for member in ("cpu", "memory") for text in ("abc", "-1", "0", "1.5", "9" * 12, "1 TB", "²")),
        *({"containerOverrides": [{"name": "web", name: number}]} for name, number in
          (("memory", 2), ("memory", -1), ("memoryReservation", -1), ("memoryReservation", 257), ("cpu", -5))),
    ],
)  # fmt: skip
def test_a_size_that_no_task_can_have_is_no_override(world: World, override: Any) -> None:
    """A negative one would give its instance more than it has."""
    world.instance("i-1")
    world.define()
    assert refused(world, "RunTask", taskDefinition="web", overrides=override).startswith("ClientException: Invalid ")


def test_tasks_and_failures_come_side_by_side(world: World) -> None:
    world.instance("i-1", cpu=600)
    world.define()
    answer = world.ask("RunTask", taskDefinition="web", count=3)
    assert len(answer["tasks"]) == 2
    assert answer["failures"][0]["reason"] == "RESOURCE:CPU"
    assert answer["failures"][0]["detail"] == "closest is i-1: needs 256 CPU units, 88 free: 168 short"


def test_a_task_is_started_where_it_is_told(world: World) -> None:
    first, second = world.instance("i-1"), world.instance("i-2", cpu=100)
    world.define()
    answer = world.ask("StartTask", taskDefinition="web", containerInstances=[first, second, "f" * 32])
    assert [task["containerInstanceArn"] for task in answer["tasks"]] == [first]
    assert [failure["reason"] for failure in answer["failures"]] == ["RESOURCE:CPU", "MISSING"]


def test_a_group_of_the_scheduler_s_is_not_for_others(world: World) -> None:
    world.instance("i-1")
    world.define()
    assert "Invalid namespace for group" in refused(world, "RunTask", taskDefinition="web", group="service:web")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"launchType": "FARGATE"}, "UnsupportedFeatureException: launch type FARGATE"),
        ({"capacityProviderStrategy": [{"capacityProvider": "x"}]}, "UnsupportedFeatureException: capacity provider"),
        (
            {"launchType": "EC2", "capacityProviderStrategy": [{"capacityProvider": "x"}]},
            "InvalidParameterException: Specifying both a launch type and capacity provider strategy",
        ),
        ({"count": 0}, "InvalidParameterException: count must be between 1 and 10."),
    ],
)
def test_what_run_task_cannot_do_is_refused(world: World, members: dict[str, Any], message: str) -> None:
    world.instance("i-1")
    world.define()
    assert refused(world, "RunTask", taskDefinition="web", **members).startswith(message)


def test_tasks_are_listed_by_all_that_one_can_ask(world: World) -> None:
    first = world.instance("i-1")
    world.define()
    world.define("job")
    by_me = world.ask("RunTask", taskDefinition="web", startedBy="me")["tasks"][0]["taskArn"]
    job = world.ask("RunTask", taskDefinition="job")["tasks"][0]["taskArn"]
    world.ask("CreateService", serviceName="svc", taskDefinition="web", desiredCount=1)
    world.settle()

    def listed(**members: Any) -> list[str]:
        return list(world.ask("ListTasks", **members)["taskArns"])

    assert len(listed()) == 3
    assert listed(startedBy="me") == [by_me]
    assert listed(family="job") == [job]
    assert len(listed(serviceName="svc")) == 1
    assert len(listed(containerInstance=first)) == 3
    assert listed(launchType="FARGATE") == [] == listed(desiredStatus="PENDING")
    world.ask("StopTask", task=job)
    assert listed(desiredStatus="STOPPED") == [job]
    world.report(world.task(job), TaskStatus.STOPPED)
    assert listed(desiredStatus="STOPPED") == [job] and len(listed()) == 2
    assert refused(world, "ListTasks", serviceName="none").startswith("ServiceNotFoundException")
    assert "was not found" in refused(world, "ListTasks", containerInstance="f" * 32)


def test_a_task_is_asked_to_stop_once(world: World) -> None:
    world.instance("i-1")
    world.define()
    arn = world.ask("RunTask", taskDefinition="web")["tasks"][0]["taskArn"]
    asked = world.ask("StopTask", task=arn)["task"]
    assert (asked["desiredStatus"], asked["lastStatus"], asked["stoppedReason"]) == (
        "STOPPED",
        "PENDING",
        "Task stopped by user",
    )
    again = world.ask("StopTask", task=arn, reason="other")["task"]
    assert again["stoppedReason"] == "Task stopped by user" and again["version"] == asked["version"]


def test_reads_change_nothing(world: World) -> None:
    world.instance("i-1")
    world.define()
    world.ask("CreateService", serviceName="web", taskDefinition="web", desiredCount=2)
    world.settle()
    arns = [task.task_arn for task in world.tasks()]
    changes = world.store.watch()
    for _ in range(3):
        world.ask("DescribeTasks", tasks=arns)
        world.ask("DescribeServices", services=["web"])
        world.ask("DescribeClusters")
        world.ask("ListTasks")
    assert changes._queue.empty()
    assert {task.last_status for task in world.tasks()} == {TaskStatus.PENDING}


# --- what agents report ----------------------------------------------------------------------------------------------


def submit(world: World, arn: str, status: str, **members: Any) -> None:
    assert world.ask("SubmitTaskStateChange", task=arn, status=status, **members) == {"acknowledgment": "ACK"}


def test_a_report_moves_a_task_and_its_containers(world: World) -> None:
    world.instance("i-1")
    world.define()
    arn = world.ask("RunTask", taskDefinition="web")["tasks"][0]["taskArn"]
    bindings = [{"bindIP": "0.0.0.0", "containerPort": 80, "hostPort": 32770, "protocol": "tcp"}]
    said = {"containerName": "web", "status": "RUNNING", "runtimeId": "abc", "networkBindings": bindings}
    submit(world, arn, "RUNNING", containers=[said], pullStartedAt=5.5)
    task = world.ask("DescribeTasks", tasks=[arn])["tasks"][0]
    assert (task["lastStatus"], task["pullStartedAt"], task["startedAt"]) == ("RUNNING", 5.5, world.now)
    assert task["containers"][0]["networkBindings"] == bindings
    assert task["containers"][0]["runtimeId"] == "abc" and task["containers"][0]["lastStatus"] == "RUNNING"
    assert world.instances()[0].used.ports == ("32770/tcp",)
    ended = {"containerName": "web", "status": "STOPPED", "exitCode": 137, "reason": "OutOfMemoryError: x"}
    submit(world, arn, "STOPPED", reason="Essential container in task exited", containers=[ended])
    task = world.ask("DescribeTasks", tasks=[arn])["tasks"][0]
    assert (task["lastStatus"], task["desiredStatus"], task["stopCode"]) == (
        "STOPPED",
        "STOPPED",
        "EssentialContainerExited",
    )
    assert task["containers"][0]["exitCode"] == 137 and task["containers"][0]["reason"] == "OutOfMemoryError: x"
    assert world.instances()[0].used.ports == () and world.instances()[0].used.cpu == 0


def test_old_and_repeated_reports_are_acknowledged_and_change_nothing(world: World) -> None:
    world.instance("i-1")
    world.define()
    arn = world.ask("RunTask", taskDefinition="web")["tasks"][0]["taskArn"]
    submit(world, arn, "RUNNING")
    running = world.task(arn)
    submit(world, arn, "PENDING")
    submit(world, arn, "RUNNING")
    assert world.task(arn) == running
    submit(world, arn, "STOPPED", reason="Essential container in task exited")
    stopped = world.task(arn)
    submit(world, arn, "RUNNING", containers=[{"containerName": "web", "status": "RUNNING"}])
    submit(world, arn, "STOPPED", reason="another", containers=[{"containerName": "web", "exitCode": 9}])
    assert world.task(arn) == stopped


def test_reports_of_one_container_and_of_nothing_known(world: World) -> None:
    world.instance("i-1")
    world.define()
    arn = world.ask("RunTask", taskDefinition="web")["tasks"][0]["taskArn"]
    world.ask("SubmitContainerStateChange", task=arn, containerName="web", status="RUNNING")
    assert world.task(arn).containers[0].last_status == "RUNNING"
    world.ask("SubmitContainerStateChange", task=arn, containerName="sidecar", status="RUNNING")
    assert refused(world, "SubmitTaskStateChange", task="f" * 32, status="RUNNING") == (
        "ClientException: The referenced task was not found."
    )
    assert "Task status should be one of" in refused(world, "SubmitTaskStateChange", task=arn, status="TIRED")


def test_a_task_that_was_asked_to_stop_keeps_that_reason(world: World) -> None:
    world.instance("i-1")
    world.define()
    arn = world.ask("RunTask", taskDefinition="web")["tasks"][0]["taskArn"]
    submit(world, arn, "RUNNING")
    world.ask("StopTask", task=arn, reason="done with it")
    submit(world, arn, "STOPPED", reason="Essential container in task exited")
    stopped = world.task(arn)
    assert (stopped.stop_code, stopped.stopped_reason) == ("UserInitiated", "done with it")
    assert world.transact(lambda transaction: transaction.list(TASKS)) == []


# --- services --------------------------------------------------------------------------------------------------------


def test_an_update_that_changes_nothing_makes_no_deployment(world: World) -> None:
    world.define()
    world.ask("CreateService", serviceName="web", taskDefinition="web", desiredCount=0)
    before = world.service().primary.id
    world.ask("UpdateService", service="web", desiredCount=2, taskDefinition="web:1")
    assert world.service().primary.id == before and world.service().primary.desired_count == 2
    world.define()
    answer = world.ask("UpdateService", service="web", taskDefinition="web")["service"]
    assert answer["taskDefinition"].endswith("web:2") and answer["deployments"][0]["id"] != before


def test_services_are_listed_ten_at_a_time(world: World) -> None:
    world.define()
    for number in range(12):
        world.ask("CreateService", serviceName=f"s-{number:02}", taskDefinition="web", desiredCount=0)
    first = world.ask("ListServices")
    assert len(first["serviceArns"]) == 10
    second = world.ask("ListServices", nextToken=first["nextToken"])
    assert len(second["serviceArns"]) == 2 and "nextToken" not in second
    assert "more than 10" in refused(world, "DescribeServices", services=[f"s-{n}" for n in range(11)])
    assert "cannot be empty" in refused(world, "DescribeServices", services=[])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"taskDefinition": None}, "TaskDefinition can not be blank"),
        ({"desiredCount": None}, "desiredCount is required"),
        ({"serviceName": "a b"}, "Service name must be"),
        ({"deploymentController": {"type": "EXTERNAL"}}, "deployment controller EXTERNAL is not supported yet"),
        ({"deploymentConfiguration": {"strategy": "CANARY"}}, "deployment strategy CANARY is not supported yet"),
        (
            {"deploymentConfiguration": {"deploymentCircuitBreaker": {"enable": True, "rollback": True}}},
            "the deployment circuit breaker is not supported yet",
        ),
        ({"networkConfiguration": {"awsvpcConfiguration": {"subnets": ["s"]}}}, "networkConfiguration"),
    ],
)
def test_a_service_that_cannot_be_is_refused(world: World, members: dict[str, Any], message: str) -> None:
    world.define()
    plain = {"serviceName": "web", "taskDefinition": "web", "desiredCount": 1}
    assert message in refused(world, "CreateService", **(plain | members))


def test_a_service_that_drains_cannot_be_made_again_yet(world: World) -> None:
    world.instance("i-1")
    world.define()
    plain = {"serviceName": "web", "taskDefinition": "web", "desiredCount": 1}
    world.ask("CreateService", **plain)
    world.settle()
    world.obey()
    world.ask("DeleteService", service="web", force=True)
    world.settle()
    assert "still Draining" in refused(world, "CreateService", **plain)
    assert refused(world, "UpdateService", service="web", desiredCount=1).startswith("ServiceNotActiveException")


# --- tags and the registry -------------------------------------------------------------------------------------------


def test_all_kinds_of_things_have_tags(world: World) -> None:
    instance = world.instance("i-1")
    definition = world.define()
    task = world.ask("RunTask", taskDefinition="web", tags=[{"key": "from", "value": "run"}])["tasks"][0]
    service = world.ask("CreateService", serviceName="web", taskDefinition="web", desiredCount=0)["service"]
    for arn in (instance, definition, task["taskArn"], service["serviceArn"], service["clusterArn"]):
        world.ask("TagResource", resourceArn=arn, tags=[{"key": "a", "value": "b"}])
        assert {"key": "a", "value": "b"} in world.ask("ListTagsForResource", resourceArn=arn)["tags"]
    assert world.ask("DescribeTasks", tasks=[task["taskArn"]])["tasks"][0]["tags"] == []
    shown = world.ask("DescribeTasks", tasks=[task["taskArn"]], include=["TAGS"])["tasks"][0]["tags"]
    assert {"key": "from", "value": "run"} in shown
    missing = task["taskArn"][:-4] + "ffff"
    assert "The specified task was not found" in refused(world, "ListTagsForResource", resourceArn=missing)


@pytest.mark.parametrize(
    "tag",
    [{"key": "k" * 129, "value": ""}, {"key": "", "value": ""}, {"key": "a", "value": "v" * 257}, {"key": "AWS:a"}],
)
def test_tags_that_aws_does_not_take(world: World, tag: dict[str, str]) -> None:
    arn = world.ask("DescribeClusters")["clusters"][0]["clusterArn"]
    assert refused(world, "TagResource", resourceArn=arn, tags=[tag])


def test_at_most_fifty_tags(world: World) -> None:
    arn = world.ask("DescribeClusters")["clusters"][0]["clusterArn"]
    tags = [{"key": f"k{number}", "value": ""} for number in range(50)]
    world.ask("TagResource", resourceArn=arn, tags=tags)
    assert "Too many tags" in refused(world, "TagResource", resourceArn=arn, tags=[{"key": "one-more"}])


def test_a_token_of_the_registry_is_user_and_password(world: World) -> None:
    data = world.ask("GetAuthorizationToken", api="ecr")["authorizationData"][0]
    assert base64.b64decode(data["authorizationToken"]).startswith(b"AWS:")
    assert data["proxyEndpoint"] == "http://here" and data["expiresAt"] == world.now + 12 * 3600
