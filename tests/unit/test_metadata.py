"""Task metadata and introspection: ECS's field names, only to who may ask, and only what is there."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web

from miniecs import acs
from miniecs.acs import Container, PortMapping, Task, TaskLimits
from miniecs.metadata import Host, Source, introspection, task_metadata, timestamp
from miniecs.transitions import ContainerRecord, NetworkBinding, Status, TaskRecord

ID = "0123456789abcdef0123456789abcdef"
ARN = f"arn:aws:ecs:us-east-1:000000000000:task/default/{ID}"
WEB = Container(
    name="web", image="web:1", cpu=128, memory=64, port_mappings=(PortMapping(container_port=80),),
    container_arn="c-arn", docker_labels={"team": "one"},
)  # fmt: skip
SIDE = Container(name="side", image="side:1", essential=False)
RECORD = TaskRecord(
    task=Task(
        arn=ARN, family="f", version="3", containers=(WEB, SIDE), service_name="web", task_limits=TaskLimits(cpu=512)
    ),
    containers=(
        ContainerRecord(
            name="web", metadata_id="m1", known_status=Status.RUNNING, runtime_id="r1", image_digest="sha256:1",
            address="172.18.0.2", network_bindings=(NetworkBinding(container_port=80, host_port=32768),),
            created_at=1.5, started_at=2.5,
        ),
        ContainerRecord(
            name="side", metadata_id="m2", known_status=Status.STOPPED, runtime_id="r2", exit_code=0, finished_at=3.0
        ),
    ),
    pull_started_at=1.0,
    pull_stopped_at=1.25,
)  # fmt: skip


class Used(NamedTuple):
    memory_bytes: int
    cpu_ns: int
    pids: int


async def statistics(_: ContainerRecord) -> Used:
    return Used(1000, 2000, 3)


SOURCE = Source(
    host=lambda: Host("default", "ci-arn", "us-east-1a", memory=512, processors=2),
    records=lambda: [RECORD],
    statistics=statistics,
    clock=lambda: 9.0,
)


def get(application: Callable[[Source], web.Application], path: str) -> tuple[int, Any]:
    async def ask() -> tuple[int, Any]:
        runner = web.AppRunner(application(SOURCE), shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            said = await (response.json() if response.content_type == "application/json" else response.text())
        await runner.cleanup()
        return response.status, said

    return asyncio.run(ask())


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_a_container_sees_itself(version: str) -> None:
    status, said = get(task_metadata, f"/{version}/m1")
    labels = said.pop("Labels")
    assert status == 200
    assert said == {
        "DockerId": "r1",
        "Name": "web",
        "DockerName": f"ecs-{ID}-web",
        "Image": "web:1",
        "ImageID": "sha256:1",
        "Ports": [{"ContainerPort": 80, "Protocol": "tcp", "HostPort": 32768, "HostIp": "0.0.0.0"}],
        "DesiredStatus": "RUNNING",
        "KnownStatus": "RUNNING",
        "Limits": {"CPU": 128, "Memory": 64},
        "CreatedAt": "1970-01-01T00:00:01.500000Z",
        "StartedAt": "1970-01-01T00:00:02.500000Z",
        "Type": "NORMAL",
        "LogDriver": "json-file",
        "ContainerARN": "c-arn",
        "Networks": [{"NetworkMode": "bridge", "IPv4Addresses": ["172.18.0.2"]}],
    }
    assert (labels["team"], labels["com.amazonaws.ecs.task-arn"]) == ("one", ARN)


def test_a_container_sees_its_task() -> None:
    _, said = get(task_metadata, "/v4/m1/task")
    assert [container["Name"] for container in said.pop("Containers")] == ["web", "side"]
    assert said == {
        "Cluster": "default",
        "TaskARN": ARN,
        "Family": "f",
        "Revision": "3",
        "ServiceName": "web",
        "DesiredStatus": "RUNNING",
        "KnownStatus": "RUNNING",
        "Limits": {"CPU": 0.5},
        "PullStartedAt": "1970-01-01T00:00:01.000000Z",
        "PullStoppedAt": "1970-01-01T00:00:01.250000Z",
        "AvailabilityZone": "us-east-1a",
        "LaunchType": "EC2",
        "ContainerInstanceARN": "ci-arn",
    }


def test_an_exit_code_of_zero_is_there() -> None:
    _, said = get(task_metadata, "/v4/m2")
    assert (said["ExitCode"], said["KnownStatus"]) == (0, "STOPPED")
    assert "Ports" not in said


def test_health_is_said_of_who_is_checked() -> None:
    checked = Container(name="web", image="web:1", health_check=acs.HealthCheck(command=("CMD", "true")))
    one = ContainerRecord(name="web", metadata_id="m", health="HEALTHY")
    record = TaskRecord(task=Task(arn=ARN, family="f", version="3", containers=(checked,)), containers=(one,))
    _, said = get(lambda source: task_metadata(source._replace(records=lambda: [record])), "/v4/m")
    assert said["Health"] == {"status": "HEALTHY"}


def test_who_does_not_know_an_id_gets_nothing() -> None:
    assert get(task_metadata, "/v4/guess/task")[0] == 404


def test_statistics_are_dockers_and_null_for_what_does_not_run() -> None:
    _, said = get(task_metadata, "/v4/m1/stats")
    assert said["memory_stats"] == {"usage": 1000, "limit": 64 << 20}
    assert said["cpu_stats"] == {"cpu_usage": {"total_usage": 2000}, "online_cpus": 2}
    assert said["pids_stats"] == {"current": 3}
    _, both = get(task_metadata, "/v4/m1/task/stats")
    assert both == {"r1": said, "r2": None}


def test_introspection_says_who_the_agent_is() -> None:
    _, said = get(introspection, "/v1/metadata")
    assert (said["Cluster"], said["ContainerInstanceArn"]) == ("default", "ci-arn")
    assert said["Version"].startswith("miniecs agent - v")


def test_introspection_lists_tasks_or_shows_one() -> None:
    _, said = get(introspection, "/v1/tasks")
    (task,) = said["Tasks"]
    assert (task["Arn"], task["KnownStatus"], task["Version"]) == (ARN, "RUNNING", "3")
    assert get(introspection, f"/v1/tasks?taskarn={ARN}") == (200, task)
    assert get(introspection, "/v1/tasks?dockerid=r2") == (200, task)
    assert get(introspection, "/v1/tasks?dockerid=r3")[0] == 404


def test_a_time_is_rfc_3339_or_nothing() -> None:
    assert timestamp(1_600_000_000.123456) == "2020-09-13T12:26:40.123456Z"
    assert timestamp(None) is None
