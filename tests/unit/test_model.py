"""The ECS nouns: transitions, resources, names."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from miniecs import model
from miniecs.model import NEXT, Attribute, ContainerInstance, Resources, Task, TaskStatus

PORTS = st.sets(st.integers(1, 65535).map(lambda port: f"{port}/tcp")).map(lambda ports: tuple(sorted(ports)))
RESOURCES = st.builds(Resources, cpu=st.integers(0, 9999), memory=st.integers(0, 9999), ports=PORTS)


def task(**changes: object) -> Task:
    plain = Task(
        task_arn="arn:aws:ecs:r:a:task/c/0123",
        cluster_arn="arn:aws:ecs:r:a:cluster/c",
        task_definition_arn="arn:aws:ecs:r:a:task-definition/f:1",
        container_instance_arn="arn:aws:ecs:r:a:container-instance/c/4567",
    )
    return replace(plain, **changes)


def test_the_table_names_every_status() -> None:
    assert set(NEXT) == set(TaskStatus)


def test_no_status_comes_back() -> None:
    order = list(TaskStatus)
    for before, after in product(TaskStatus, TaskStatus):
        if after in NEXT[before]:
            assert order.index(before) < order.index(after)


def test_every_status_but_stopped_can_become_stopped() -> None:
    assert {status for status in TaskStatus if TaskStatus.STOPPED in NEXT[status]} == {*TaskStatus} - {"STOPPED"}
    assert NEXT[TaskStatus.STOPPED] == set()


@given(RESOURCES, RESOURCES)
def test_what_is_added_can_be_taken_away(one: Resources, other: Resources) -> None:
    other = replace(other, ports=tuple(port for port in other.ports if port not in one.ports))
    assert one.plus(other).minus(other) == one
    assert one.plus(other) == other.plus(one)


def test_an_instance_shows_what_is_left_and_the_ports_that_are_not() -> None:
    instance = ContainerInstance(
        container_instance_arn="arn:aws:ecs:r:a:container-instance/c/i",
        cluster_arn="arn:aws:ecs:r:a:cluster/c",
        registered=Resources(cpu=1024, memory=512, ports=("22/tcp",)),
        used=Resources(cpu=256, memory=128, ports=("53/udp", "8080/tcp", "9/tcp")),
    )
    shown = {one.name: one for one in instance.remaining_resources}
    assert (shown["CPU"].integer_value, shown["MEMORY"].integer_value) == (768, 384)
    assert shown["PORTS"].string_set_value == ("9", "22", "8080")
    assert shown["PORTS_UDP"].string_set_value == ("53",)
    registered = {one.name: one for one in instance.registered_resources}
    assert registered["CPU"].integer_value == 1024 and registered["PORTS"].string_set_value == ("22",)
    assert instance.id == "i" and instance.label == "i"
    assert replace(instance, ec2_instance_id="host").label == "host"


def test_an_attribute_may_be_a_name_only() -> None:
    instance = ContainerInstance(
        container_instance_arn="x",
        cluster_arn="y",
        registered=Resources(),
        attributes=(Attribute(name="gpu"), Attribute(name="zone", value="a")),
    )
    assert (instance.attribute("gpu"), instance.attribute("zone"), instance.attribute("none")) == ("", "a", None)


def test_a_task_knows_its_service_and_whether_it_is_wanted() -> None:
    assert task(group="service:web").service_name == "web"
    assert task(group="family:web").service_name is None
    assert task().service_name is None
    assert task().is_wanted
    assert not task(desired_status=TaskStatus.STOPPED).is_wanted
    assert not task(last_status=TaskStatus.STOPPED).is_wanted


def test_names_in_arns() -> None:
    arn = "arn:aws:ecs:us-east-1:000000000000:task/prod/0123"
    assert (model.last(arn), model.cluster_of(arn), model.key_of(arn)) == ("0123", "prod", "prod/0123")
    assert model.cluster_of("arn:aws:ecs:us-east-1:000000000000:cluster/prod") == "prod"
