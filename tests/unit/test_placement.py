"""Placement: filters, strategies, and that no instance ever gets more than it has."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from miniecs import placement
from miniecs.errors import InvalidParameterException
from miniecs.model import (
    Attribute,
    ContainerInstance,
    InstanceStatus,
    PlacementConstraint,
    PlacementStrategy,
    Resources,
)
from miniecs.placement import Placement, Requirement, place

NOTHING: dict[str, int] = {}
DISTINCT = PlacementConstraint(type="distinctInstance")
SPREAD = PlacementStrategy(type="spread", field="instanceId")


def instance(
    name: str, cpu: int = 1024, memory: int = 1024, used: Resources | None = None, **changes: Any
) -> ContainerInstance:
    attributes = changes.pop("attributes", {})
    plain = ContainerInstance(
        container_instance_arn=f"arn:aws:ecs:r:a:container-instance/c/{name}",
        cluster_arn="arn:aws:ecs:r:a:cluster/c",
        ec2_instance_id=name,
        agent_connected=True,
        registered=Resources(cpu=cpu, memory=memory, ports=("22/tcp",)),
        used=used or Resources(),
        attributes=tuple(Attribute(name=key, value=value) for key, value in attributes.items()),
    )
    return replace(plain, **changes)


def chosen(decision: Placement) -> str:
    return (decision.chosen or "").rpartition("/")[2]


def needs(cpu: int = 0, memory: int = 0, *ports: str, **changes: Any) -> Requirement:
    return Requirement(needs=Resources(cpu=cpu, memory=memory, ports=ports), **changes)


def decide(requirement: Requirement, *instances: ContainerInstance, **group: int) -> Placement:
    counts = {f"arn:aws:ecs:r:a:container-instance/c/{name}": count for name, count in group.items()}
    return place(requirement, instances, counts, random.Random(1))


def reasons(decision: Placement) -> dict[str, tuple[str, str]]:
    return {candidate.label: (candidate.reason, candidate.detail) for candidate in decision.candidates}


# --- what filters ----------------------------------------------------------------------------------------------------


def test_resources_filter_and_say_what_is_short() -> None:
    decision = decide(
        needs(512, 512, "80/tcp"),
        instance("cpu", cpu=500),
        instance("memory", used=Resources(memory=600)),
        instance("port", used=Resources(ports=("80/tcp",))),
        instance("both", cpu=100, memory=100),
        instance("good"),
    )
    assert chosen(decision) == "good"
    assert reasons(decision) == {
        "cpu": ("RESOURCE:CPU", "needs 512 CPU units, 500 free: 12 short"),
        "memory": ("RESOURCE:MEMORY", "needs 512 MiB, 424 free: 88 short"),
        "port": ("RESOURCE:PORTS", "port 80/tcp is taken"),
        "both": (
            "RESOURCE:CPU",
            "needs 512 CPU units, 100 free: 412 short; needs 512 MiB, 100 free: 412 short",
        ),
        "good": ("", ""),
    }


def test_a_udp_port_does_not_take_the_tcp_port() -> None:
    taken = instance("i", used=Resources(ports=("53/udp",)))
    assert chosen(decide(needs(0, 0, "53/tcp"), taken)) == "i"
    assert decide(needs(0, 0, "53/udp"), taken).chosen is None


def test_reserved_ports_are_never_given() -> None:
    assert reasons(decide(needs(0, 0, "22/tcp"), instance("i")))["i"][0] == "RESOURCE:PORTS"


def test_status_agent_and_attributes_filter() -> None:
    decision = decide(
        needs(attributes=(Attribute(name="eni"), Attribute(name="zone", value="a"))),
        instance("draining", status=InstanceStatus.DRAINING),
        instance("deaf", agent_connected=False),
        instance("plain"),
        instance("other", attributes={"eni": "", "zone": "b"}),
        instance("good", attributes={"eni": "", "zone": "a"}),
    )
    assert chosen(decision) == "good"
    found = reasons(decision)
    assert found["draining"] == ("INACTIVE", "is DRAINING")
    assert found["deaf"][0] == "AGENT"
    assert found["plain"] == ("ATTRIBUTE", "lacks the attribute eni")
    assert found["other"] == ("ATTRIBUTE", "lacks the attribute zone=a")


def test_member_of_asks_attributes_and_the_rest() -> None:
    instances = [instance(name, attributes={"zone": name}, running_tasks_count=n) for n, name in enumerate("abc")]

    def where(expression: str) -> str:
        constraint = PlacementConstraint(type="memberOf", expression=expression)
        return chosen(decide(needs(constraints=(constraint,)), *instances))

    assert where("attribute:zone == b") == "b"
    assert where("runningTasksCount > 1") == "c"
    assert where("ec2InstanceId in [c]") == "c"
    assert where("agentConnected == true and attribute:zone != a") == "b"
    assert where("attribute:zone == z") == ""


def test_distinct_instance_leaves_out_those_with_a_task_of_the_group() -> None:
    decision = decide(needs(constraints=(DISTINCT,)), instance("a"), instance("b"), a=1)
    assert chosen(decision) == "b"
    assert reasons(decision)["a"][0] == "DistinctInstance placement constraint unsatisfied."
    assert decide(needs(constraints=(DISTINCT,)), instance("a"), a=2).chosen is None


# --- what ranks ------------------------------------------------------------------------------------------------------


def test_spread_takes_where_fewest_are_and_ties_go_to_the_lower_arn() -> None:
    instances = [instance(name) for name in "cab"]
    assert chosen(decide(needs(strategy=(SPREAD,)), *instances, a=1, b=1, c=1)) == "a"
    assert chosen(decide(needs(strategy=(SPREAD,)), *instances, a=1, b=0, c=1)) == "b"


def test_by_default_zones_come_before_instances() -> None:
    zones = {"a": "one", "b": "one", "c": "two"}
    instances = [instance(name, attributes={"ecs.availability-zone": zone}) for name, zone in zones.items()]
    decision = decide(needs(), *instances, a=0, b=1, c=1)
    assert [candidate.label for candidate in decision.candidates] == ["a", "b", "c"]
    assert chosen(decide(needs(), *instances, a=1, b=0, c=0)) == "c"
    assert decision.strategy == "spread(attribute:ecs.availability-zone), spread(instanceId)"


def test_binpack_takes_the_fullest_that_fits() -> None:
    instances = [
        instance("empty"),
        instance("half", used=Resources(cpu=512, memory=100)),
        instance("tight", used=Resources(cpu=100, memory=512)),
        instance("full", used=Resources(cpu=1000, memory=1000)),
    ]
    by_cpu, by_memory = (PlacementStrategy(type="binpack", field=field) for field in ("cpu", "memory"))
    assert chosen(decide(needs(256, 256, strategy=(by_cpu,)), *instances)) == "half"
    assert chosen(decide(needs(256, 256, strategy=(by_memory,)), *instances)) == "tight"


def test_random_is_as_its_seed() -> None:
    instances = [instance(f"i{number}") for number in range(20)]
    strategy = (PlacementStrategy(type="random"),)
    found = [chosen(place(needs(strategy=strategy), instances, NOTHING, random.Random(seed))) for seed in range(10)]
    assert len(set(found)) > 3
    assert found == [
        chosen(place(needs(strategy=strategy), instances[::-1], NOTHING, random.Random(seed))) for seed in range(10)
    ]


# --- what explains ---------------------------------------------------------------------------------------------------


def test_the_closest_lacks_the_smallest_share() -> None:
    decision = decide(
        needs(1000, 1000),
        instance("far", cpu=100, memory=2000),
        instance("near", cpu=2000, memory=900),
        instance("deaf", agent_connected=False),
    )
    assert decision.chosen is None and decision.closest
    assert decision.closest.label == "near"
    assert decision.shortage == "closest is near: needs 1000 MiB, 900 free: 100 short"
    assert decide(needs(1)).shortage == "no container instance in the cluster"


def test_an_explanation_keeps_the_best_and_counts_the_rest() -> None:
    decision = decide(needs(), *(instance(f"i{number:03}") for number in range(80)))
    assert len(decision.candidates) == placement.SHOWN and decision.considered == 80
    assert [candidate.rank for candidate in decision.candidates] == list(range(1, placement.SHOWN + 1))


@pytest.mark.parametrize(
    "step",
    [
        PlacementStrategy(type="spread", field="moon"),
        PlacementStrategy(type="spread"),
        PlacementStrategy(type="binpack", field="disk"),
        PlacementStrategy(type="random", field="cpu"),
    ],
)
def test_a_strategy_by_an_unknown_field_is_refused(step: PlacementStrategy) -> None:
    with pytest.raises(InvalidParameterException, match="Invalid placement strategy"):
        placement.check((), [step])


@pytest.mark.parametrize(
    "constraint",
    [
        PlacementConstraint(type="memberOf"),
        PlacementConstraint(type="memberOf", expression="x"),
        PlacementConstraint(type="distinctInstance", expression="x"),
    ],
)
def test_a_constraint_that_means_nothing_is_refused(constraint: PlacementConstraint) -> None:
    with pytest.raises(InvalidParameterException):
        placement.check([constraint], ())


def test_more_than_a_task_may_have_is_refused() -> None:
    with pytest.raises(InvalidParameterException, match="cannot exceed 10"):
        placement.check([DISTINCT] * 11, ())
    with pytest.raises(InvalidParameterException, match="cannot exceed 5"):
        placement.check((), [SPREAD] * 6)


# --- what always holds -----------------------------------------------------------------------------------------------

STRATEGIES = st.lists(
    st.sampled_from(
        [
            SPREAD,
            PlacementStrategy(type="spread", field="attribute:zone"),
            PlacementStrategy(type="binpack", field="cpu"),
            PlacementStrategy(type="binpack", field="memory"),
            PlacementStrategy(type="random"),
        ]
    ),
    max_size=3,
).map(tuple)
INSTANCES = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 2000), st.sampled_from("abc"), st.booleans()), max_size=6
).map(
    lambda rows: [
        instance(f"i{number}", cpu=cpu, memory=memory, attributes={"zone": zone}, agent_connected=connected)
        for number, (cpu, memory, zone, connected) in enumerate(rows)
    ]
)
REQUIREMENTS = st.builds(
    lambda cpu, memory, ports, constraints, strategy: needs(
        cpu, memory, *sorted(ports), constraints=constraints, strategy=strategy
    ),
    st.integers(0, 800),
    st.integers(0, 800),
    st.sets(st.sampled_from(["80/tcp", "81/tcp", "80/udp", "22/tcp"]), max_size=2),
    st.sampled_from([(), (DISTINCT,), (PlacementConstraint(type="memberOf", expression="attribute:zone in [a,b]"),)]),
    STRATEGIES,
)


@given(INSTANCES, st.lists(REQUIREMENTS, max_size=12), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_nothing_is_ever_over_committed_and_every_decision_can_be_replayed(
    instances: list[ContainerInstance], requirements: list[Requirement], seed: int
) -> None:
    state = {one.container_instance_arn: one for one in instances}
    group: dict[str, int] = {}
    for requirement in requirements:
        decision = place(requirement, list(state.values()), group, random.Random(seed))
        again = place(requirement, list(state.values())[::-1], group, random.Random(seed))
        assert decision == again
        if decision.chosen is None:
            assert all(candidate.reason for candidate in decision.candidates)
            continue
        before = state[decision.chosen]
        assert not set(before.used.ports) & set(requirement.needs.ports)
        if DISTINCT in requirement.constraints:
            assert not group.get(decision.chosen)
        after = replace(before, used=before.used.plus(requirement.needs))
        assert min(after.free) >= 0 and after.agent_connected
        assert not set(after.used.ports) & set(after.registered.ports)
        state[decision.chosen] = after
        group[decision.chosen] = group.get(decision.chosen, 0) + 1


@pytest.mark.parametrize("hosts", range(1, 7))
def test_spread_never_differs_by_more_than_one(hosts: int) -> None:
    instances = [instance(f"i{number}") for number in range(hosts)]
    group: dict[str, int] = {one.container_instance_arn: 0 for one in instances}
    for _ in range(30):
        decision = place(needs(strategy=(SPREAD,)), instances, group, random.Random(0))
        assert decision.chosen
        group[decision.chosen] += 1
        assert max(group.values()) - min(group.values()) <= 1
