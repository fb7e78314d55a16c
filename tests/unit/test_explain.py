"""Why things are where they are, as data and as tables."""

from typing import Any

import pytest

from miniecs import explain, tables
from miniecs.errors import ClientException
from miniecs.model import TaskStatus
from tests.world import World


@pytest.fixture
def world() -> World:
    world = World().cluster()
    world.instance("small", cpu=100)
    world.instance("large", cpu=1024)
    world.define()
    return world


def asked(world: World, name: str, cluster: str = "") -> Any:
    return world.transact(lambda transaction: explain.explain(transaction, name, cluster))


def test_a_task_is_explained_by_arn_id_or_the_begin_of_its_id(world: World) -> None:
    arn = world.ask("RunTask", taskDefinition="web")["tasks"][0]["taskArn"]
    task_id = arn.rpartition("/")[2]
    document = asked(world, arn)
    assert document == asked(world, task_id) == asked(world, task_id[:8]) == asked(world, task_id, "default")
    candidates = {one["label"]: one for one in document["placement"]["candidates"]}
    assert candidates["large"]["rank"] == 1 and "detail" not in candidates["large"]
    assert candidates["small"]["detail"] == "needs 256 CPU units, 100 free: 156 short"
    assert document["placement"]["chosen"].endswith(candidates["large"]["arn"][-32:])


def test_a_stopped_task_has_its_reason_and_timeline(world: World) -> None:
    arn = world.ask("RunTask", taskDefinition="web")["tasks"][0]["taskArn"]
    world.now += 1
    world.report(world.task(arn), TaskStatus.RUNNING)
    world.now += 2
    world.report(
        world.task(arn), TaskStatus.STOPPED, "Essential container in task exited", exit_code=3, reason="it broke"
    )
    document = asked(world, arn)
    assert [(one["event"], one["at"] - 1_000_000) for one in document["timeline"]] == [
        ("placed", 0.0),
        ("running", 1.0),
        ("stopping", 3.0),
        ("execution stopped", 3.0),
        ("stopped", 3.0),
    ]
    shown = tables.explanation(document)
    assert "stopped: Essential container in task exited (EssentialContainerExited)" in shown
    assert "container web: exit code 3 it broke" in shown and "+3.000 s" in shown


def test_a_service_that_lacks_room_says_what_is_short(world: World) -> None:
    world.ask("CreateService", serviceName="web", taskDefinition="web", desiredCount=5)
    world.settle()
    document = asked(world, "web")
    assert document["shortage"] == "closest is small: needs 256 CPU units, 100 free: 156 short"
    shown = tables.explanation(document)
    assert f"a task cannot be placed: {document['shortage']}" in shown
    assert "needs 256 CPU units, 256 MiB; strategy spread(attribute:ecs.availability-zone), spread(instanceId)" in shown
    assert asked(world, document["arn"]) == document


def test_names_that_say_too_little_or_nothing(world: World) -> None:
    with pytest.raises(ClientException, match="no task and no service is called web; try: miniecs status"):
        asked(world, "web")
    world.cluster("other")
    for cluster in ("default", "other"):
        world.ask("CreateService", cluster=cluster, serviceName="web", taskDefinition="web", desiredCount=0)
    with pytest.raises(ClientException, match=r"in several clusters \(default, other\); try: --cluster"):
        asked(world, "web")
    assert asked(world, "web", "other")["arn"].endswith("service/other/web")


def test_the_state_at_a_glance(world: World) -> None:
    world.ask("CreateService", serviceName="web", taskDefinition="web", desiredCount=5)
    world.settle()
    world.report(world.tasks()[0], TaskStatus.RUNNING)
    document = world.transact(explain.status)
    cluster = document["clusters"][0]
    assert [
        (one["instance"], one["cpu"], one["tasks"]) for one in sorted(cluster["instances"], key=lambda o: o["instance"])
    ] == [
        ("large", "1024/1024", 4),
        ("small", "0/100", 0),
    ]
    assert cluster["services"][0]["running"] == 1 and cluster["services"][0]["pending"] == 3
    shown = tables.status(document)
    assert "cluster default" in shown and "web lacks room: closest is small" in shown
    assert "large     ACTIVE  1024/1024  1024/1024  -          4" in shown.replace("  " * 40, "")


def test_nothing_at_all() -> None:
    world = World()
    assert tables.status(world.transact(explain.status)) == "no clusters; try: aws ecs create-cluster"
    world.cluster()
    assert tables.status(world.transact(explain.status)) == "cluster default"


def test_a_service_where_there_is_no_instance() -> None:
    world = World().cluster()
    world.define()
    world.ask("CreateService", serviceName="web", taskDefinition="web", desiredCount=1)
    world.settle()
    assert tables.explanation(asked(world, "web")).endswith("the cluster has no container instance")


def test_a_table_is_as_wide_as_it_must_be_and_numbers_stand_to_the_right() -> None:
    assert tables.table(("A", "NUMBER"), [("long word", 5), ("x", 12345678)]) == (
        "A            NUMBER\nlong word         5\nx          12345678"
    )


def test_what_is_not_shown_is_counted() -> None:
    world = World().cluster()
    for number in range(55):
        world.instance(f"i-{number:02}")
    world.define(portMappings=[{"containerPort": 80, "hostPort": 8080}])
    arn = world.ask("RunTask", taskDefinition="web")["tasks"][0]["taskArn"]
    shown = tables.explanation(asked(world, arn))
    assert shown.endswith("and 5 more") and "port 8080/tcp" in shown
