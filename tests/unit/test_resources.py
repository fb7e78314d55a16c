"""What to write to which file of a cgroup, for both versions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer.errors import Error
from minicontainer.oci.runtime import Cpu, Memory, Pids, Resources, resources_from_json
from minicontainer.runtime.resources import Setting, settings, swap_max, weight

MIB = 1 << 20
SOME = Resources(
    memory=Memory(limit=64 * MIB, reservation=32 * MIB, swap=96 * MIB),
    cpu=Cpu(shares=512, quota=50_000, period=100_000, cpus="0"),
    pids=Pids(limit=7),
)


def test_version_1_takes_the_values_as_they_are() -> None:
    assert [one[:3] for one in settings(SOME, version2=False)] == [
        ("memory", "memory.limit_in_bytes", str(64 * MIB)),
        ("memory", "memory.memsw.limit_in_bytes", str(96 * MIB)),
        ("memory", "memory.soft_limit_in_bytes", str(32 * MIB)),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "7"),
    ]


def test_version_2_has_other_files_and_another_scale() -> None:
    assert [one[:3] for one in settings(SOME, version2=True)] == [
        ("memory", "memory.max", str(64 * MIB)),
        ("memory", "memory.swap.max", str(32 * MIB)),
        ("memory", "memory.low", str(32 * MIB)),
        ("cpu", "cpu.weight", "20"),
        ("cpu", "cpu.max", "50000 100000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "7"),
    ]


def test_nothing_asked_is_nothing_written() -> None:
    assert settings(Resources(), version2=False) == []
    assert settings(Resources(), version2=True) == []


@pytest.mark.parametrize(("shares", "expected"), [(2, 1), (1024, 39), (262_144, 10_000), (0, 1)])
def test_shares_become_a_weight(shares: int, expected: int) -> None:
    assert weight(shares) == expected


@given(st.integers(2, 262_144), st.integers(2, 262_144))
def test_a_weight_keeps_the_order(one: int, other: int) -> None:
    assert (weight(one) <= weight(other)) or one > other
    assert 1 <= weight(one) <= 10_000


@pytest.mark.parametrize(
    ("limit", "swap", "text"),
    [(10, 0, None), (10, None, None), (-1, None, "max"), (10, -1, "max"), (10, 10, "0"), (10, 30, "20")],
)
def test_swap_alone_is_what_is_above_memory(limit: int, swap: int | None, text: str | None) -> None:
    assert swap_max(limit, swap) == text


@pytest.mark.parametrize(
    ("json", "text"),
    [
        ({"cpu": {"shares": 1}}, "cpu.shares: the minimum allowed is 2"),
        ({"cpu": {"shares": 262_145}}, "262145 is neither"),
        ({"memory": {"swappiness": 101}}, "memory.swappiness 101 is not between 0 and 100"),
    ],
)
def test_what_version_1_would_round_is_refused(json: dict[str, object], text: str) -> None:
    with pytest.raises(Error, match=text):
        settings(resources_from_json(json), version2=False)


def test_swap_below_memory_is_refused() -> None:
    with pytest.raises(Error, match="less than the limit"):
        swap_max(20, 10)


def test_unlimited_is_max() -> None:
    resources = Resources(memory=Memory(limit=-1), cpu=Cpu(quota=-1), pids=Pids(limit=0))
    assert {one.value for one in settings(resources, version2=True)} == {"max", "max 100000"}


def test_unified_values_are_for_version_2_alone() -> None:
    resources = Resources(unified={"memory.high": "1000"})
    assert settings(resources, version2=True) == [Setting("memory", "memory.high", "1000")]
    with pytest.raises(Error, match="version 2"):
        settings(resources, version2=False)
    with pytest.raises(Error, match="not the name"):
        settings(Resources(unified={"../x": "1"}), version2=True)


def _lines(json: dict[str, object], version2: bool) -> list[str]:
    return [f"{one.file} {one.value}" for one in settings(resources_from_json(json), version2)]


BLOCK = {
    "weight": 500,
    "weightDevice": [{"major": 8, "minor": 0, "weight": 100}],
    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
    "throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 0}],
}


def test_block_io_is_written_and_translated() -> None:
    assert _lines({"blockIO": BLOCK}, version2=False) == [
        "blkio.bfq.weight 500",
        "blkio.bfq.weight_device 8:0 100",
        "blkio.throttle.read_bps_device 8:0 1000",
        "blkio.throttle.write_iops_device 8:1 0",
    ]
    assert _lines({"blockIO": BLOCK}, version2=True) == [
        "io.bfq.weight 500",
        "io.bfq.weight 8:0 100",
        "io.max 8:0 rbps=1000",
        "io.max 8:1 wiops=max",
    ]
    (first, *_) = settings(resources_from_json({"blockIO": {"weight": 500}}), version2=True)
    assert first.otherwise == ("io.weight", "4950")


def test_huge_pages_rdma_network_and_real_time() -> None:
    json: dict[str, object] = {
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
        "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10_000}},
    }
    assert _lines(json, version2=False) == [
        "hugetlb.2MB.rsvd.limit_in_bytes 4096",
        "rdma.max mlx5_1 hca_handle=3 hca_object=10000",
    ]
    assert _lines(json, version2=True) == ["hugetlb.2MB.rsvd.max 4096", "rdma.max mlx5_1 hca_handle=3 hca_object=10000"]
    json = {
        "network": {"classID": 1_048_577, "priorities": [{"name": "eth0", "priority": 5}]},
        "cpu": {"realtimeRuntime": 900, "realtimePeriod": 1000, "idle": 1},
    }
    assert _lines(json, version2=False) == [
        "cpu.rt_period_us 1000",
        "cpu.rt_runtime_us 900",
        "cpu.idle 1",
        "net_cls.classid 1048577",
        "net_prio.ifpriomap eth0 5",
    ]


@pytest.mark.parametrize(
    ("json", "name"),
    [
        ({"memory": {"disableOOMKiller": True}}, "memory.disableOOMKiller"),
        ({"memory": {"swappiness": 10}}, "memory.swappiness"),
        ({"cpu": {"realtimeRuntime": 10}}, "cpu.realtimeRuntime"),
        ({"network": {"classID": 1}}, "network.classID"),
        ({"blockIO": {"leafWeight": 10}}, "blockIO.leafWeight"),
    ],
)
def test_what_version_2_has_not_is_refused_by_name(json: dict[str, object], name: str) -> None:
    with pytest.raises(Error, match=rf"linux\.resources\.{name} needs cgroup version 1"):
        _lines(json, version2=True)


def test_a_unified_value_of_several_lines_is_several_writes() -> None:
    assert _lines({"unified": {"io.max": "8:0 rbps=1\n8:1 rbps=2"}}, version2=True) == [
        "io.max 8:0 rbps=1",
        "io.max 8:1 rbps=2",
    ]
