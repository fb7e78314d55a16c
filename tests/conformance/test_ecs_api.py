"""The API as boto3 and the `aws` command see it: names, errors, pagination, tags, signatures, registry passwords."""

import base64
import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from miniecs import auth
from tests.control_plane import REGION, ControlPlane, control_plane, eventually

CONTAINER: dict[str, Any] = {"name": "web", "image": "web", "memory": 128}
ARN = f"arn:aws:ecs:{REGION}:000000000000"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("ecs") / "server") as plane:
        plane.client().create_cluster()
        yield plane


@pytest.fixture(scope="module")
def ecs(plane: ControlPlane) -> Any:
    return plane.client()


def refused(call: Any, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response["Error"]
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    return error["Code"], error["Message"]


# --- clusters --------------------------------------------------------------------------------------------------------


def test_a_cluster_is_made_once_and_described(ecs: Any) -> None:
    made = ecs.create_cluster(clusterName="one", tags=[{"key": "team", "value": "a"}])["cluster"]
    assert made["clusterArn"] == f"{ARN}:cluster/one" and made["status"] == "ACTIVE"
    assert ecs.create_cluster(clusterName="one")["cluster"]["clusterArn"] == made["clusterArn"]
    plain = ecs.describe_clusters(clusters=["one"])["clusters"][0]
    assert plain["tags"] == [] and plain["statistics"] == []
    whole = ecs.describe_clusters(clusters=[made["clusterArn"]], include=["TAGS", "STATISTICS"])["clusters"][0]
    assert whole["tags"] == [{"key": "team", "value": "a"}]
    assert {"name": "runningEC2TasksCount", "value": "0"} in whole["statistics"]


def test_a_described_cluster_that_is_not_there_is_a_failure(ecs: Any) -> None:
    answer = ecs.describe_clusters(clusters=["nowhere"])
    assert answer["clusters"] == []
    assert answer["failures"] == [{"arn": f"{ARN}:cluster/nowhere", "reason": "MISSING"}]


def test_calls_into_a_cluster_that_is_not_there_are_refused(ecs: Any) -> None:
    wanted = ("ClusterNotFoundException", "Cluster not found.")
    assert refused(ecs.list_tasks, cluster="nowhere") == wanted
    assert refused(ecs.describe_services, cluster="nowhere", services=["x"]) == wanted
    assert refused(ecs.run_task, cluster="nowhere", taskDefinition="x") == wanted
    assert refused(ecs.delete_cluster, cluster="nowhere") == wanted


def test_a_deleted_cluster_is_inactive_and_not_listed(ecs: Any) -> None:
    ecs.create_cluster(clusterName="gone")
    assert ecs.delete_cluster(cluster="gone")["cluster"]["status"] == "INACTIVE"
    assert f"{ARN}:cluster/gone" not in ecs.list_clusters()["clusterArns"]
    assert ecs.describe_clusters(clusters=["gone"])["clusters"][0]["status"] == "INACTIVE"
    assert ecs.create_cluster(clusterName="gone")["cluster"]["status"] == "ACTIVE"


def test_a_cluster_in_use_is_not_deleted(ecs: Any) -> None:
    ecs.create_cluster(clusterName="used")
    ecs.register_task_definition(family="used", containerDefinitions=[CONTAINER])
    ecs.create_service(cluster="used", serviceName="s", taskDefinition="used", desiredCount=0)
    assert refused(ecs.delete_cluster, cluster="used")[0] == "ClusterContainsServicesException"
    ecs.delete_service(cluster="used", service="s")
    total = [{"name": name, "type": "INTEGER", "integerValue": 100} for name in ("CPU", "MEMORY")]
    arn = ecs.register_container_instance(cluster="used", totalResources=total)["containerInstance"][
        "containerInstanceArn"
    ]
    eventually(lambda: refused(ecs.delete_cluster, cluster="used")[0] == "ClusterContainsContainerInstancesException")
    ecs.deregister_container_instance(cluster="used", containerInstance=arn)
    assert ecs.delete_cluster(cluster="used")["cluster"]["status"] == "INACTIVE"


# --- task definitions ------------------------------------------------------------------------------------------------


def test_revisions_count_and_the_newest_active_one_is_the_family_s(ecs: Any) -> None:
    arns = [
        ecs.register_task_definition(family="rev", containerDefinitions=[CONTAINER])["taskDefinition"][
            "taskDefinitionArn"
        ]
        for _ in range(3)
    ]
    assert arns[-1] == f"{ARN}:task-definition/rev:3"
    assert ecs.list_task_definitions(familyPrefix="rev", sort="DESC")["taskDefinitionArns"] == arns[::-1]
    ecs.deregister_task_definition(taskDefinition="rev:3")
    assert ecs.describe_task_definition(taskDefinition="rev")["taskDefinition"]["revision"] == 2
    assert ecs.list_task_definitions(familyPrefix="rev")["taskDefinitionArns"] == arns[:2]
    assert ecs.list_task_definitions(familyPrefix="rev", status="INACTIVE")["taskDefinitionArns"] == arns[2:]
    again = ecs.register_task_definition(family="rev", containerDefinitions=[CONTAINER])
    assert again["taskDefinition"]["revision"] == 4
    assert "rev" in ecs.list_task_definition_families(familyPrefix="re")["families"]
    assert "rev" not in ecs.list_task_definition_families(status="INACTIVE")["families"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "Unable to describe task definition."),
        ("nothing:1", "Unable to describe task definition."),
        ("nothing:foo", "Invalid revision number. Number: foo"),
    ],
)
def test_a_task_definition_that_is_not_there(ecs: Any, name: str, message: str) -> None:
    assert refused(ecs.describe_task_definition, taskDefinition=name) == ("ClientException", message)


def test_deregistering_needs_a_revision(ecs: Any) -> None:
    assert refused(ecs.deregister_task_definition, taskDefinition="rev") == ("ClientException", "Revision is missing.")


def test_sizes_are_answered_as_numbers_in_strings(ecs: Any) -> None:
    answer = ecs.register_task_definition(
        family="sized", cpu=".5 vCPU", memory="2 GB", containerDefinitions=[{"name": "a", "image": "b"}]
    )
    assert (answer["taskDefinition"]["cpu"], answer["taskDefinition"]["memory"]) == ("512", "2048")


@pytest.mark.parametrize(
    ("containers", "message"),
    [
        ([], "Container list cannot be empty."),
        ([{"image": "x", "memory": 10}], "Container.name should not be null or empty."),
        ([{"name": "x", "memory": 10}], "Container.image should not be null or empty."),
        (
            [{"name": "x", "image": "y"}],
            "Invalid setting for container 'x'. At least one of 'memory' or 'memoryReservation' must be specified.",
        ),
        ([CONTAINER | {"essential": False}], "At least one container in a task definition must be essential."),
    ],
)
def test_a_container_that_could_not_run_is_refused(ecs: Any, containers: list[Any], message: str) -> None:
    wanted = ("ClientException", message)
    assert refused(ecs.register_task_definition, family="bad", containerDefinitions=containers) == wanted


# --- services --------------------------------------------------------------------------------------------------------


def test_a_service_is_made_once(ecs: Any) -> None:
    ecs.register_task_definition(family="svc", containerDefinitions=[CONTAINER])
    arguments = {"serviceName": "svc", "taskDefinition": "svc", "desiredCount": 0}
    made = ecs.create_service(**arguments)["service"]
    assert made["serviceArn"] == f"{ARN}:service/default/svc"
    assert made["deploymentConfiguration"] == {"maximumPercent": 200, "minimumHealthyPercent": 100}
    assert (made["launchType"], made["schedulingStrategy"], made["status"]) == ("EC2", "REPLICA", "ACTIVE")
    assert ecs.create_service(**arguments)["service"]["createdAt"] == made["createdAt"]
    wanted = ("InvalidParameterException", "Creation of service was not idempotent.")
    assert refused(ecs.create_service, **(arguments | {"desiredCount": 1})) == wanted


def test_services_that_are_not_there(ecs: Any) -> None:
    assert refused(ecs.update_service, service="nope") == ("ServiceNotFoundException", "Service not found.")
    assert refused(ecs.delete_service, service="nope") == ("ServiceNotFoundException", "Service not found.")
    missing = ecs.describe_services(services=["nope"])["failures"]
    assert missing == [{"arn": f"{ARN}:service/default/nope", "reason": "MISSING"}]


def test_a_service_scaled_above_zero_is_deleted_by_force_only(ecs: Any) -> None:
    ecs.register_task_definition(family="svc", containerDefinitions=[CONTAINER])
    ecs.create_service(serviceName="busy", taskDefinition="svc", desiredCount=1)
    wanted = ("InvalidParameterException", "The service cannot be stopped while it is scaled above 0.")
    assert refused(ecs.delete_service, service="busy") == wanted
    assert ecs.delete_service(service="busy", force=True)["service"]["status"] == "DRAINING"
    eventually(lambda: ecs.describe_services(services=["busy"])["services"][0]["status"] == "INACTIVE")
    assert refused(ecs.update_service, service="busy", desiredCount=1) == (
        "ServiceNotActiveException",
        "Service was not ACTIVE.",
    )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"launchType": "FARGATE"}, "UnsupportedFeatureException"),
        ({"launchType": "MOON"}, "InvalidParameterException"),
        ({"schedulingStrategy": "DAEMON"}, "UnsupportedFeatureException"),
        ({"loadBalancers": [{"containerName": "web", "containerPort": 80}]}, "UnsupportedFeatureException"),
        ({"taskDefinition": "nothing-here"}, "ClientException"),
        ({"desiredCount": -1}, "InvalidParameterException"),
        ({"placementStrategy": [{"type": "spread", "field": "moon"}]}, "InvalidParameterException"),
        ({"placementConstraints": [{"type": "memberOf", "expression": "a =="}]}, "InvalidParameterException"),
        (
            {"deploymentConfiguration": {"minimumHealthyPercent": 100, "maximumPercent": 100}},
            "InvalidParameterException",
        ),
    ],
)
def test_what_a_service_cannot_be_is_refused_by_name(ecs: Any, change: dict[str, Any], code: str) -> None:
    ecs.register_task_definition(family="svc", containerDefinitions=[CONTAINER])
    arguments = {"serviceName": "odd", "taskDefinition": "svc", "desiredCount": 0} | change
    assert refused(ecs.create_service, **arguments)[0] == code


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_running_where_nothing_can_run(ecs: Any) -> None:
    ecs.register_task_definition(family="svc", containerDefinitions=[CONTAINER])
    wanted = ("InvalidParameterException", "No Container Instances were found in your cluster.")
    assert refused(ecs.run_task, taskDefinition="svc") == wanted
    assert refused(ecs.run_task, taskDefinition="svc", count=11)[0] == "InvalidParameterException"
    assert refused(ecs.run_task, taskDefinition="gone")[0] == "ClientException"
    _, message = refused(ecs.run_task, taskDefinition="svc", launchType="MOON")
    assert message.startswith("launch type should be one of [EC2,FARGATE,EXTERNAL")
    assert refused(ecs.stop_task, task="0" * 32) == ("InvalidParameterException", "The referenced task was not found.")
    missing = ecs.describe_tasks(tasks=["0" * 32])["failures"]
    assert missing == [{"arn": f"{ARN}:task/default/{'0' * 32}", "reason": "MISSING"}]
    assert refused(ecs.describe_tasks, tasks=["x"] * 101)[0] == "InvalidParameterException"


def test_a_client_token_gives_the_same_tasks_and_no_others(ecs: Any) -> None:
    ecs.create_cluster(clusterName="tokens")
    total = [{"name": name, "type": "INTEGER", "integerValue": 4096} for name in ("CPU", "MEMORY")]
    ecs.register_container_instance(cluster="tokens", totalResources=total)
    ecs.register_task_definition(family="svc", containerDefinitions=[CONTAINER])
    arguments = {"cluster": "tokens", "taskDefinition": "svc", "clientToken": "once"}
    first = ecs.run_task(**arguments)
    assert first["failures"][0]["reason"] == "AGENT"  # no session, so nothing is placed there
    assert ecs.run_task(**arguments)["tasks"] == first["tasks"]
    assert refused(ecs.run_task, **(arguments | {"count": 2}))[0] == "ConflictException"


# --- tags and pages --------------------------------------------------------------------------------------------------


def test_tags_come_and_go(ecs: Any) -> None:
    arn = ecs.create_cluster(clusterName="tagged")["cluster"]["clusterArn"]
    ecs.tag_resource(resourceArn=arn, tags=[{"key": "a", "value": "1"}, {"key": "b", "value": "2"}])
    ecs.tag_resource(resourceArn=arn, tags=[{"key": "a", "value": "3"}])
    ecs.untag_resource(resourceArn=arn, tagKeys=["b"])
    assert ecs.list_tags_for_resource(resourceArn=arn)["tags"] == [{"key": "a", "value": "3"}]
    reserved = refused(ecs.tag_resource, resourceArn=arn, tags=[{"key": "aws:x", "value": ""}])
    assert reserved[0] == "InvalidParameterException" and "aws:x" in reserved[1]
    assert refused(ecs.list_tags_for_resource, resourceArn="nonsense")[0] == "InvalidParameterException"


def test_pages_are_not_disturbed_by_what_is_made_meanwhile(ecs: Any) -> None:
    for number in range(5):
        ecs.create_cluster(clusterName=f"page-{number}")
    seen = []
    token: dict[str, str] = {}
    while True:
        answer = ecs.list_clusters(maxResults=2, **token)
        seen += answer["clusterArns"]
        ecs.create_cluster(clusterName=f"a-{len(seen)}")  # before the place where the token points
        if "nextToken" not in answer:
            break
        token = {"nextToken": answer["nextToken"]}
    assert [arn for arn in seen if "page-" in arn] == [f"{ARN}:cluster/page-{number}" for number in range(5)]
    assert len(seen) == len(set(seen))
    assert refused(ecs.list_clusters, nextToken="nonsense") == ("InvalidParameterException", "Invalid token.")
    assert refused(ecs.list_clusters, maxResults=101)[0] == "InvalidParameterException"


# --- the wire --------------------------------------------------------------------------------------------------------


def post(plane: ControlPlane, target: str, body: bytes, **headers: str) -> tuple[int, Any, Any]:
    url = f"{plane.endpoint}/"
    signed = auth.sign(plane.credentials, REGION, "ecs", "POST", url, body)
    request = urllib.request.Request(url, body, {**signed, "X-Amz-Target": target, **headers})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


TARGET = "AmazonEC2ContainerServiceV20141113"


@pytest.mark.parametrize(
    ("target", "body", "code", "said"),
    [
        (f"{TARGET}.ListClusters", b"{", "SerializationException", "no JSON"),
        (f"{TARGET}.ListClusters", b"[]", "SerializationException", "expected object"),
        (f"{TARGET}.CreateService", b"{}", "InvalidParameterException", "serviceName can not be missing"),
        (
            f"{TARGET}.CreateService",
            b'{"serviceName":"x","desiredCount":"2"}',
            "SerializationException",
            "desiredCount",
        ),
        (
            f"{TARGET}.PutAccountSetting",
            b'{"name":"x","value":"y"}',
            "UnsupportedFeatureException",
            "PutAccountSetting",
        ),
        (f"{TARGET}.MakeCoffee", b"{}", "UnknownOperationException", "MakeCoffee"),
        ("", b"{}", "UnknownOperationException", "X-Amz-Target"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(
    plane: ControlPlane, target: str, body: bytes, code: str, said: str
) -> None:
    status, answer, headers = post(plane, target, body)
    assert (status, answer["__type"]) == (400, code) and said in answer["message"]
    assert headers["x-amzn-RequestId"] and headers["Content-Type"] == "application/x-amz-json-1.1"


def test_every_operation_of_the_model_is_answered_and_none_with_500(plane: ControlPlane) -> None:
    for operation in plane.client().meta.service_model.operation_names:
        status, answer, _ = post(plane, f"{TARGET}.{operation}", b"{}")
        assert status in (200, 400), (operation, answer)


def test_nothing_is_null_and_times_are_seconds(plane: ControlPlane) -> None:
    body = json.dumps({"family": "raw", "containerDefinitions": [CONTAINER]}).encode()
    _, answer, _ = post(plane, f"{TARGET}.RegisterTaskDefinition", body)
    assert "null" not in json.dumps(answer)
    assert abs(answer["taskDefinition"]["registeredAt"] - time.time()) < 60


# --- signatures ------------------------------------------------------------------------------------------------------


def test_unsigned_wrongly_signed_and_old_requests_are_refused(plane: ControlPlane) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(f"{plane.endpoint}/", b"{}"))
    assert caught.value.code == 400
    assert json.load(caught.value)["__type"] == "MissingAuthenticationTokenException"
    assert refused(plane.client(secret="wrong").list_clusters)[0] == "InvalidSignatureException"
    assert refused(plane.client(key="AKIANOBODY").list_clusters)[0] == "UnrecognizedClientException"
    assert "request refused" in plane.log


def test_an_agent_with_wrong_credentials_is_named_in_the_log(plane: ControlPlane) -> None:
    wrong = plane.client(secret="wrong")
    identity = json.dumps({"instanceId": "the-intruder"})
    assert refused(wrong.register_container_instance, instanceIdentityDocument=identity)[0]
    line = next(line for line in plane.log.splitlines() if "the-intruder" in line)
    assert "agent refused" in line and "address=127.0.0.1" in line and "code=InvalidSignatureException" in line


def test_a_session_that_is_not_signed_is_refused(plane: ControlPlane) -> None:
    connection = http.client.HTTPConnection(plane.endpoint.removeprefix("http://"))
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        "Sec-WebSocket-Version": "13",
    }
    connection.request("GET", "/ws?containerInstanceArn=arn:aws:ecs:x:y:container-instance/default/z", headers=upgrade)
    answer = connection.getresponse()
    assert answer.status == 400
    assert json.load(answer)["__type"] == "MissingAuthenticationTokenException"
    assert "agent refused action=/ws" in plane.log


def test_the_registry_takes_the_token_of_ecr(plane: ControlPlane) -> None:
    data = plane.client("ecr").get_authorization_token()["authorizationData"][0]
    assert data["proxyEndpoint"] == plane.endpoint
    user = base64.b64decode(data["authorizationToken"]).decode().partition(":")[0]
    assert user == "AWS"
    credentials = (data["authorizationToken"], base64.b64encode(b"AWS:wrong").decode())
    for token, wanted in zip(credentials, (200, 401), strict=True):
        connection = http.client.HTTPConnection(plane.endpoint.removeprefix("http://"))
        connection.request("GET", "/v2/", headers={"Authorization": f"Basic {token}"})
        assert connection.getresponse().status == wanted


# --- the command lines -----------------------------------------------------------------------------------------------


def test_the_aws_command_drives_it(plane: ControlPlane) -> None:
    plane.aws("ecs", "create-cluster", "--cluster-name", "by-hand")
    containers = json.dumps([CONTAINER])
    plane.aws("ecs", "register-task-definition", "--family", "hand", "--container-definitions", containers)
    words = ["--cluster", "by-hand", "--service-name", "hand", "--task-definition", "hand", "--desired-count", "0"]
    plane.aws("ecs", "create-service", *words)
    plane.aws("ecs", "wait", "services-stable", "--cluster", "by-hand", "--services", "hand")
    listed = plane.aws("ecs", "list-services", "--cluster", "by-hand")
    assert listed["serviceArns"] == [f"{ARN}:service/by-hand/hand"]


def test_a_taken_port_names_the_process_that_has_it(plane: ControlPlane, tmp_path: Path) -> None:
    listen = plane.endpoint.removeprefix("http://")
    done = plane.miniecs("server", "--data", str(tmp_path / "other"), "--listen", listen)
    assert done.returncode == 1 and plane.process
    assert f"is taken by process {plane.process.pid} (" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_data_directory_has_one_server(plane: ControlPlane) -> None:
    before = plane.endpoint
    done = plane.miniecs("server", "--data", str(plane.data), "--listen", "127.0.0.1:0")
    assert done.returncode == 1 and "is in use by another server" in done.stderr
    assert plane.endpoint == before


def test_credentials_are_printed_for_a_shell(plane: ControlPlane) -> None:
    script = f"{sys.executable} -m miniecs credentials --data {plane.data}"
    printed = subprocess.run(script.split(), capture_output=True, text=True).stdout
    assert f"export AWS_SECRET_ACCESS_KEY={plane.credentials.secret_access_key}" in printed
    assert f"export AWS_ENDPOINT_URL={plane.endpoint}" in printed


def test_sigterm_ends_it_cleanly_and_the_next_start_has_the_same_state(tmp_path: Path) -> None:
    with control_plane(tmp_path / "server") as plane:
        plane.client().create_cluster(clusterName="kept")
        assert plane.stop() == 0
        assert plane.log.splitlines()[-1].endswith("server stopped")
        plane.start()
        assert plane.client().list_clusters()["clusterArns"] == [f"{ARN}:cluster/kept"]
        assert (plane.data / "credentials").stat().st_mode & 0o777 == 0o600


def test_every_acknowledged_write_survives_kill_9(tmp_path: Path) -> None:
    with control_plane(tmp_path / "server") as plane:
        ecs = plane.client()
        made = [ecs.create_cluster(clusterName=f"c{number:02}")["cluster"] for number in range(40)]
        plane.kill()
        plane.start()
        assert plane.client().list_clusters()["clusterArns"] == [cluster["clusterArn"] for cluster in made]
