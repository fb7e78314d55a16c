"""The service models as types: what is decoded, refused and encoded."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniecs import errors, wire
from miniecs.wire import Answer

ECS = "AmazonEC2ContainerServiceV20141113"


def operation(name: str) -> wire.Operation:
    return wire.operation(f"{ECS}.{name}")


def decode(name: str, **members: Any) -> wire.Shape:
    return operation(name).decode(json.dumps(members).encode())


def test_members_have_their_names_in_snake_case() -> None:
    request = decode("CreateService", serviceName="web", desiredCount=2, enableECSManagedTags=True)
    assert (request.service_name, request.desired_count, request.enable_ecs_managed_tags) == ("web", 2, True)
    assert request.task_definition is None


def test_structures_nest() -> None:
    request = decode(
        "RunTask",
        taskDefinition="web",
        overrides={"containerOverrides": [{"name": "a", "environment": [{"name": "b"}]}]},
    )
    assert request.overrides.container_overrides[0].environment[0].name == "b"


def test_unknown_members_are_passed_over_and_null_is_absent() -> None:
    request = decode("ListTasks", colour="blue", family=None)
    assert request.family is None


def test_an_empty_body_is_an_empty_request() -> None:
    assert operation("ListClusters").decode(b"").max_results is None


def test_what_agents_send_beyond_the_model_is_taken() -> None:
    assert decode("RegisterContainerInstance", clientToken="x").client_token == "x"


@pytest.mark.parametrize(
    ("name", "members", "error", "message"),
    [
        ("RunTask", {}, errors.InvalidParameterException, "taskDefinition can not be missing or null."),
        ("RunTask", {"taskDefinition": None}, errors.InvalidParameterException, "taskDefinition can not be missing"),
        ("RunTask", {"taskDefinition": 1}, errors.SerializationException, "taskDefinition: expected str, got int"),
        ("RunTask", {"taskDefinition": "a", "count": 1.5}, errors.SerializationException, "count: expected int"),
        ("RunTask", {"taskDefinition": "a", "count": 2**40}, errors.InvalidParameterException, "count is out of range"),
        (
            "RunTask",
            {"taskDefinition": "a", "launchType": "MOON"},
            errors.InvalidParameterException,
            "launch type should be one of [EC2,FARGATE,EXTERNAL",
        ),
        (
            "RunTask",
            {"taskDefinition": "a", "placementStrategy": [{"type": "best"}]},
            errors.InvalidParameterException,
            "placement strategy[0].type should be one of [random,spread,binpack]",
        ),
        (
            "RunTask",
            {"taskDefinition": "a", "overrides": {"containerOverrides": [{"environment": [{"name": 1}]}]}},
            errors.SerializationException,
            "overrides.containerOverrides[0].environment[0].name",
        ),
    ],
)
def test_a_refusal_has_the_code_and_names_the_member(
    name: str, members: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        decode(name, **members)
    assert message in str(caught.value)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'"', b"{} {}", b'{"cluster": "\xff"}'])
def test_what_is_no_document_is_a_serialization_error(body: bytes) -> None:
    with pytest.raises(errors.SerializationException):
        operation("ListTasks").decode(body)


@given(st.binary(max_size=200))
def test_no_body_is_more_than_an_aws_error(body: bytes) -> None:
    try:
        operation("RegisterTaskDefinition").decode(body)
    except errors.AwsError as error:
        assert error.status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
NAMES = sorted(wire.service_model("ecs").shape_for("RegisterTaskDefinitionRequest").members)


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
def test_no_document_is_more_than_an_aws_error(members: dict[str, Any]) -> None:
    try:
        decode("RegisterTaskDefinition", **members)
    except errors.AwsError as error:
        assert str(error)


def test_an_answer_has_members_of_the_model_only_and_no_null() -> None:
    answer = Answer(cluster=Answer(cluster_name="a", status=None, secret="hidden", tags=()), more=1)
    assert json.loads(operation("CreateCluster").encode(answer)) == {"cluster": {"clusterName": "a", "tags": []}}


def test_an_answer_takes_documents_as_they_came() -> None:
    definition = {"containerDefinitions": [{"name": "a", "dockerLabels": {"x": "y"}}], "registeredAt": 1.5}
    encoded = operation("DescribeTaskDefinition").encode(Answer(task_definition=definition))
    assert json.loads(encoded) == {"taskDefinition": definition}


def test_an_answer_with_a_word_that_is_none_is_our_bug() -> None:
    with pytest.raises(ValueError, match="Invalid enum value"):
        operation("DescribeTasks").encode(Answer(tasks=[Answer(stop_code="Tired")]))


def test_bytes_are_base64() -> None:
    upload = wire.operation("AmazonEC2ContainerRegistry_V20150921.UploadLayerPart")
    body = {"repositoryName": "ab", "uploadId": "d" * 36, "partFirstByte": 0, "partLastByte": 2}
    request = upload.decode(json.dumps(body | {"layerPartBlob": base64.b64encode(b"abc").decode()}).encode())
    assert request.layer_part_blob == b"abc"


@pytest.mark.parametrize("target", ["", "x", f"{ECS}.", f"{ECS}.listClusters", "Other.ListClusters", "ListClusters"])
def test_unknown_targets_are_refused(target: str) -> None:
    with pytest.raises(errors.UnknownOperationException):
        wire.operation(target)


def test_every_operation_compiles_and_is_found_again() -> None:
    for service in wire.SERVICES:
        prefix = wire.service_model(service).metadata["targetPrefix"]
        for name in wire.service_model(service).operation_names:
            found = wire.operation(f"{prefix}.{name}")
            assert found is wire.operation(f"{prefix}.{name}")
            assert found.action.islower() and found.service == service
