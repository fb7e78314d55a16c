"""Messages of the agent communication service: read as they are sent, refused by name when they ask for more."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniecs import acs
from miniecs.acs import (
    AckRequest,
    HeartbeatAckRequest,
    HeartbeatMessage,
    PayloadMessage,
    Refused,
    TaskIdentifier,
    TaskStopVerificationMessage,
    decode,
    encode,
    parse_task,
    refused_task,
)

ARN = "arn:aws:ecs:us-east-1:000000000000:task/default/0123456789abcdef0123456789abcdef"


def raw(*containers: dict[str, Any], **members: Any) -> bytes:
    whole = [{"name": "web", "image": "web:1", **container} for container in containers or ({},)]
    return json.dumps({"arn": ARN, "family": "f", "version": "3", "containers": whole, **members}).encode()


# --- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        AckRequest(cluster="default", container_instance="i", message_id="m"),
        HeartbeatAckRequest(message_id="m"),
        TaskStopVerificationMessage(message_id="m", stop_candidates=(TaskIdentifier(task_arn=ARN),)),
        HeartbeatMessage(message_id="m", healthy=False),
    ],
)
def test_a_message_survives_the_wire(message: msgspec.Struct) -> None:
    assert decode(encode(message)) == message


def test_a_message_is_written_in_ecs_words() -> None:
    said = json.loads(encode(AckRequest(cluster="default", container_instance="i", message_id="m")))
    message = {"cluster": "default", "containerInstance": "i", "messageId": "m"}
    assert said == {"type": "AckRequest", "message": message}


def test_a_frame_of_an_unknown_type_is_nothing() -> None:
    assert decode('{"type": "PerformUpdateMessage", "message": {"updateInfo": {}}}') is None


def test_members_that_a_later_version_adds_to_a_message_are_passed_over() -> None:
    frame = '{"type": "HeartbeatMessage", "message": {"messageId": "m", "generatedAt": 1}}'
    assert decode(frame) == HeartbeatMessage(message_id="m")


@given(st.binary() | st.text())
def test_any_other_frame_is_refused_cleanly(frame: bytes | str) -> None:
    try:
        decode(frame)
    except (msgspec.MsgspecError, UnicodeError):
        return


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_a_task_is_read_whole() -> None:
    task = parse_task(
        raw(
            {
                "cpu": 128,
                "memory": 64,
                "essential": False,
                "command": ["httpd", "-f"],
                "entryPoint": ["/bin/sh", "-c", ""],
                "environment": [{"name": "A", "value": ""}],
                "portMappings": [{"containerPort": 80, "hostPort": 0, "protocol": "tcp"}],
                "dependsOn": [],
                "readonlyRootFilesystem": True,
                "stopTimeout": 0,
                "ulimits": [{"name": "core", "softLimit": 0, "hardLimit": 0}],
                "dockerLabels": {"empty": ""},
                "linuxParameters": {
                    "capabilities": {"add": ["NET_ADMIN"]},
                    "initProcessEnabled": True,
                    "sharedMemorySize": 8,
                },
                "systemControls": [{"namespace": "net.core.somaxconn", "value": "512"}],
                "dnsSearchDomains": ["lan"],
            },
            cpu="256",
            memory="128",
            taskLimits={"cpu": "256", "memory": "128"},
            networkMode="bridge",
        )
    )
    (container,) = task.containers
    assert task.id == "0123456789abcdef0123456789abcdef"
    assert (task.task_limits.cpu, task.task_limits.memory) == (256, 128)
    assert container.entry_point == ("/bin/sh", "-c", "")
    assert container.environment == (acs.KeyValuePair(name="A"),)
    assert (container.essential, container.readonly_root_filesystem, container.stop_timeout) == (False, True, 0)
    assert container.ulimits == (acs.Ulimit(name="core", soft_limit=0, hard_limit=0),)
    assert container.docker_labels == {"empty": ""}
    assert container.linux_parameters.capabilities.add == ("NET_ADMIN",)
    assert container.linux_parameters.shared_memory_size == 8
    assert container.system_controls == (acs.SystemControl(namespace="net.core.somaxconn", value="512"),)
    assert container.dns_search_domains == ("lan",)


@pytest.mark.parametrize(
    "unset",
    [{"privileged": False}, {"links": []}, {"volumesFrom": []}, {"systemControls": []}, {"secrets": None}, {"cpu": 0}],
)
def test_what_is_not_set_asks_for_nothing(unset: dict[str, Any]) -> None:
    assert parse_task(raw(unset)) == parse_task(raw())


@pytest.mark.parametrize(
    ("container", "named"),
    [
        ({"privileged": True}, "privileged"),
        ({"links": ["db"]}, "links"),
        ({"secrets": [{"name": "A", "valueFrom": "b"}]}, "secrets"),
        ({"restartPolicy": {"enabled": True}}, "restartPolicy"),
        ({"linuxParameters": {"swappiness": 10}}, "swappiness"),
        ({"logConfiguration": {"logDriver": "awslogs"}}, "awslogs"),
        ({"logConfiguration": {"logDriver": "json-file", "options": {"max-size": "1m"}}}, "options"),
        ({"dependsOn": [{"containerName": "db", "condition": "START"}]}, "db"),
        ({"dependsOn": [{"containerName": "web", "condition": "PERHAPS"}]}, "PERHAPS"),
        ({"dependsOn": [{"containerName": "web", "condition": "START"}]}, "cycle"),
        ({"mountPoints": [{"sourceVolume": "v", "containerPath": "/v"}]}, "volume v"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(container: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused, match=named) as refused:
        parse_task(raw(container))
    assert refused.value.arn == ARN


@pytest.mark.parametrize("members", [{"networkMode": "awsvpc"}, {"pidMode": "host"}, {"proxyConfiguration": {"a": 1}}])
def test_a_tasks_own_fields_are_refused_too(members: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"awsvpc|pidMode|proxyConfiguration"):
        parse_task(raw(**members))


def test_a_longer_cycle_names_its_containers() -> None:
    def needs(name: str, on: str) -> dict[str, Any]:
        return {"name": name, "dependsOn": [{"containerName": on, "condition": "START"}]}

    with pytest.raises(Refused, match="cycle among the containers a, b, c"):
        parse_task(raw(needs("a", "b"), needs("b", "c"), needs("c", "a"), {"name": "d"}))


def test_a_refused_task_keeps_its_names_for_the_report() -> None:
    task = refused_task(raw({"privileged": True}, {"name": "side"}))
    assert (task.arn, [container.name for container in task.containers]) == (ARN, ["web", "side"])


def test_even_a_refused_task_without_containers_can_be_reported() -> None:
    assert len(refused_task(json.dumps({"arn": ARN}).encode()).containers) == 1


def test_tasks_of_a_payload_are_read_one_by_one() -> None:
    message = {"messageId": "m", "seqNum": 2, "tasks": [json.loads(raw()), {"arn": "broken"}]}
    payload = decode(json.dumps({"type": "PayloadMessage", "message": message}))
    assert isinstance(payload, PayloadMessage)
    assert parse_task(payload.tasks[0]).arn == ARN
    with pytest.raises(Refused):
        parse_task(payload.tasks[1])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["cpu", "command", "environment", "dependsOn", "user", "image", "x"]), JSON))
def test_whatever_is_sent_is_a_task_or_refused(container: dict[str, Any]) -> None:
    try:
        task = parse_task(raw(container))
    except Refused as refused:
        assert str(refused)
        assert refused_task(raw(container)).arn == ARN
    else:
        assert msgspec.json.decode(msgspec.json.encode(task), type=acs.Task) == task
