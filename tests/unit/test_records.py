"""What every action has in common: names, pages, tokens, overrides."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniecs import errors, overrides, records
from miniecs.model import Resources, TaskDefinition, new_uuid
from miniecs.records import Account, Call
from miniecs.store import MemoryStore, Transaction
from miniecs.wire import Answer


def call(now: float = 100.0, transaction: Transaction | None = None) -> Call:
    return Call(transaction or Transaction(MemoryStore().records), now, random.Random(3), Account())


def request(**members: Any) -> Any:
    return Answer(**({"max_results": None, "next_token": None} | members))


# --- pages -----------------------------------------------------------------------------------------------------------


@given(
    st.sets(st.text("abc/é", min_size=1, max_size=4), max_size=30),
    st.integers(1, 7),
    st.booleans(),
    st.lists(st.text("abc/é", min_size=1, max_size=4), max_size=5),
)
def test_pages_hold_everything_once_whatever_is_added_meanwhile(
    names: set[str], size: int, descending: bool, added: list[str]
) -> None:
    seen: list[str] = []
    token, now_there = None, set(names)
    while True:
        found, token = records.page(request(max_results=size, next_token=token), now_there, str, descending=descending)
        seen += found
        if added:
            now_there.add(added.pop())
        if token is None:
            break
    assert seen == sorted(seen, reverse=descending) and len(seen) == len(set(seen))
    assert names <= set(seen)


@given(st.text(max_size=20))
def test_a_token_of_others_is_refused(token: str) -> None:
    try:
        records.page(request(next_token=token), ["a"], str)
    except errors.InvalidParameterException as error:
        assert str(error) == "Invalid token."
    else:
        assert not token


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_the_same_again_is_answered_for_a_day_and_another_is_refused() -> None:
    transaction = Transaction(MemoryStore().records)
    records.remember_answer(call(transaction=transaction), "RunTask/c/t", {"count": 1}, ["arn"])
    assert records.answered_before(call(transaction=transaction), "RunTask/c/t", {"count": 1}) == ("arn",)
    assert records.answered_before(call(transaction=transaction), "RunTask/c/u", {"count": 1}) is None
    with pytest.raises(errors.ConflictException) as caught:
        records.answered_before(call(transaction=transaction), "RunTask/c/t", {"count": 2})
    assert caught.value.to_json()["resourceIds"] == ["arn"]
    later = call(now=100.0 + 86401, transaction=transaction)
    assert records.answered_before(later, "RunTask/c/t", {"count": 2}) is None


# --- ids -------------------------------------------------------------------------------------------------------------


def test_ids_come_from_the_seed_alone() -> None:
    one, other = call(), call()
    assert [one.new_id(), new_uuid(one.rng), one.new_deployment_id()] == [
        other.new_id(),
        new_uuid(other.rng),
        other.new_deployment_id(),
    ]
    assert len(one.new_id()) == 32 and len(one.new_deployment_id()) == len("ecs-svc/") + 19
    assert Account(region="eu-west-1", id="1").arn("cluster/c") == "arn:aws:ecs:eu-west-1:1:cluster/c"


# --- overrides -------------------------------------------------------------------------------------------------------


def definition(**changes: Any) -> TaskDefinition:
    web = {
        "name": "web",
        "cpu": 100,
        "memory": 200,
        "portMappings": [{"containerPort": 80, "hostPort": 8080, "protocol": "tcp"}],
        "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
    }
    side = {"name": "side", "cpu": 10, "memory": 300, "memoryReservation": 30, "portMappings": [], "environment": []}
    containers = (web, side)
    return TaskDefinition(
        task_definition_arn="arn",
        family="f",
        revision=1,
        container_definitions=containers,
        needs=overrides.needs(containers, None, None),
        **changes,
    )


def test_a_reservation_counts_before_a_limit_and_ports_are_those_asked_for() -> None:
    assert definition().needs == Resources(cpu=110, memory=230, ports=("8080/tcp",))
    assert overrides.of_task(definition(), {}) == definition().needs


def test_an_environment_is_merged_by_name_and_the_rest_replaced() -> None:
    given = {
        "containerOverrides": [
            {
                "name": "web",
                "environment": [{"name": "B", "value": "x"}, {"name": "C", "value": "3"}],
                "command": ["go"],
            }
        ]
    }
    web, side = overrides.containers(definition(), given)
    assert web["environment"] == [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "x"},
        {"name": "C", "value": "3"},
    ]
    assert web["command"] == ["go"] and web["cpu"] == 100 and side == definition().container_definitions[1]


def test_sizes_that_are_overridden_are_what_is_needed() -> None:
    given = {"containerOverrides": [{"name": "side", "cpu": 50, "memoryReservation": 64}]}
    assert overrides.of_task(definition(), given) == Resources(cpu=150, memory=264, ports=("8080/tcp",))
    assert overrides.of_task(definition(), {"cpu": "512", "memory": "1024"}).memory == 1024
    sized = definition(cpu="256", memory="512")
    assert overrides.of_task(sized, given).cpu == 256
