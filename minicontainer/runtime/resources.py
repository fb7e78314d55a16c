"""Resources: what config.json allows a container, as values for the files of cgroup controllers.

Stands between the spec and `cgroups`; pure. Ruled by runtime-spec config-linux.md (Control groups), the kernel's
admin-guide/cgroup-v1 and cgroup-v2.rst. config.json speaks the language of version 1: the tables here translate.
"""

from collections.abc import Iterable, Iterator

from minicontainer.errors import Error
from minicontainer.oci.runtime import BlockIo, Resources, ThrottleDevice
from minicontainer.values import NamedTuple

MAX = "max"
_THROTTLES = (  # field, file of version 1, name in io.max of version 2
    ("throttle_read_bps_device", "blkio.throttle.read_bps_device", "rbps"),
    ("throttle_write_bps_device", "blkio.throttle.write_bps_device", "wbps"),
    ("throttle_read_iops_device", "blkio.throttle.read_iops_device", "riops"),
    ("throttle_write_iops_device", "blkio.throttle.write_iops_device", "wiops"),
)


class Setting(NamedTuple):
    """A value for a file of a controller."""

    controller: str
    file: str
    value: str
    otherwise: tuple[str, str] | None = None  # file and value, where the kernel does not have the first file


def settings(resources: Resources, version2: bool) -> list[Setting]:
    """What to write where, in order, for these resources."""
    return list(_version2(resources) if version2 else _version1(resources))


def controllers(wanted: Iterable[Setting]) -> set[str]:
    """The controllers that a cgroup of version 2 needs: those asked for, and those that tell what it uses."""
    return {setting.controller for setting in wanted if setting.controller != "cgroup"} | {"cpu", "memory", "pids"}


def _version1(resources: Resources) -> Iterator[Setting]:
    memory, cpu, pids = resources.memory, resources.cpu, resources.pids
    if resources.unified:
        raise Error("linux.resources.unified needs cgroup version 2, and this host has version 1")
    if cpu.shares and not 2 <= cpu.shares <= 262_144:
        raise Error(
            f"linux.resources.cpu.shares: the minimum allowed is 2, the maximum 262144; {cpu.shares} is neither"
        )
    if memory.swappiness is not None and not 0 <= memory.swappiness <= 100:
        raise Error(f"linux.resources.memory.swappiness {memory.swappiness} is not between 0 and 100")
    asked = (
        ("memory", "memory.limit_in_bytes", memory.limit or None),
        ("memory", "memory.memsw.limit_in_bytes", memory.swap or None),
        ("memory", "memory.soft_limit_in_bytes", memory.reservation or None),
        ("memory", "memory.swappiness", memory.swappiness),
        ("memory", "memory.oom_control", 1 if memory.disable_oom_killer else None),
        ("cpu", "cpu.shares", cpu.shares or None),
        ("cpu", "cpu.cfs_period_us", cpu.period or None),
        ("cpu", "cpu.cfs_quota_us", cpu.quota or None),
        ("cpu", "cpu.cfs_burst_us", cpu.burst),
        ("cpu", "cpu.rt_period_us", cpu.realtime_period or None),
        ("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime or None),
        ("cpu", "cpu.idle", cpu.idle),
        ("cpuset", "cpuset.cpus", cpu.cpus or None),
        ("cpuset", "cpuset.mems", cpu.mems or None),
        ("pids", "pids.max", _pids(pids.limit) if pids else None),
        ("net_cls", "net_cls.classid", resources.network.class_id),
        *(("net_prio", "net_prio.ifpriomap", f"{one.name} {one.priority}") for one in resources.network.priorities),
    )
    yield from _given(asked)
    yield from _block_io_1(resources.block_io)
    yield from _huge_pages(resources, "limit_in_bytes")
    yield from _rdma(resources)


def _version2(resources: Resources) -> Iterator[Setting]:
    memory, cpu, pids = resources.memory, resources.cpu, resources.pids
    for name, wanted in (
        ("memory.disableOOMKiller", memory.disable_oom_killer),
        ("memory.swappiness", memory.swappiness is not None and memory.swappiness >= 0),
        ("cpu.realtimeRuntime", cpu.realtime_runtime),
        ("cpu.realtimePeriod", cpu.realtime_period),
        ("network.classID", resources.network.class_id),
        ("network.priorities", resources.network.priorities),
    ):
        if wanted:
            raise Error(f"linux.resources.{name} needs cgroup version 1, and this host has version 2")
    quota = f"{_maximum(cpu.quota)} {cpu.period or 100_000}" if cpu.quota or cpu.period else None
    asked = (
        ("memory", "memory.max", _maximum(memory.limit) if memory.limit else None),
        ("memory", "memory.swap.max", swap_max(memory.limit, memory.swap)),
        ("memory", "memory.low", _maximum(memory.reservation) if memory.reservation else None),
        ("cpu", "cpu.weight", weight(cpu.shares) if cpu.shares else None),
        ("cpu", "cpu.max", quota),
        ("cpu", "cpu.max.burst", cpu.burst),
        ("cpu", "cpu.idle", cpu.idle),
        ("cpuset", "cpuset.cpus", cpu.cpus or None),
        ("cpuset", "cpuset.mems", cpu.mems or None),
        ("pids", "pids.max", _pids(pids.limit) if pids else None),
    )
    yield from _given(asked)
    yield from _block_io_2(resources.block_io)
    yield from _huge_pages(resources, "max")
    yield from _rdma(resources)
    for name, value in resources.unified.items():
        if "/" in name or "." not in name:
            raise Error(f"linux.resources.unified: {name!r} is not the name of a cgroup file")
        # A value of several lines is several writes: one device or size in each.
        yield from (Setting(name.partition(".")[0], name, line) for line in value.split("\n") if line)


def _given(asked: Iterable[tuple[str, str, object]]) -> Iterator[Setting]:
    yield from (Setting(controller, file, str(value)) for controller, file, value in asked if value is not None)


def _pids(limit: int) -> str:
    return str(limit) if limit > 0 else MAX


def _maximum(value: int | None) -> str:
    return str(value) if value is not None and value > 0 else MAX


def weight(shares: int) -> int:
    """cpu.shares of version 1, 2 to 262144, as cpu.weight of version 2, 1 to 10000: config-linux.md, CPU."""
    return 1 + (max(shares, 2) - 2) * 9999 // 262_142


def io_weight(weight: int) -> int:
    """blkio.weight of version 1, 10 to 1000, as io.weight of version 2, 1 to 10000."""
    return 1 + (max(weight, 10) - 10) * 9999 // 990


def swap_max(limit: int | None, swap: int | None) -> str | None:
    """Version 1 limits memory and swap together, version 2 swap alone."""
    if not swap:
        return MAX if limit is not None and limit < 0 else None  # without a limit of both there is none of one
    if swap < 0:
        return MAX
    if limit is None or limit < 0 or swap < limit:
        raise Error(f"linux.resources.memory.swap {swap} is memory and swap together, and less than the limit {limit}")
    return str(swap - limit)


def _block_io_1(block: BlockIo) -> Iterator[Setting]:
    """The bfq scheduler has weights of its own; other schedulers had files that are gone since Linux 5.0."""
    if block.weight:
        yield Setting("blkio", "blkio.bfq.weight", str(block.weight), ("blkio.weight", str(block.weight)))
    if block.leaf_weight:
        yield Setting("blkio", "blkio.leaf_weight", str(block.leaf_weight))
    for device in block.weight_device:
        place = f"{device.major}:{device.minor}"
        if device.weight:
            text = f"{place} {device.weight}"
            yield Setting("blkio", "blkio.bfq.weight_device", text, ("blkio.weight_device", text))
        if device.leaf_weight:
            yield Setting("blkio", "blkio.leaf_weight_device", f"{place} {device.leaf_weight}")
    for field, file, _ in _THROTTLES:
        yield from (Setting("blkio", file, f"{one.major}:{one.minor} {one.rate}") for one in _throttles(block, field))


def _block_io_2(block: BlockIo) -> Iterator[Setting]:
    if block.leaf_weight or any(device.leaf_weight for device in block.weight_device):
        raise Error("linux.resources.blockIO.leafWeight needs cgroup version 1, and this host has version 2")
    if block.weight:
        yield Setting("io", "io.bfq.weight", str(block.weight), ("io.weight", str(io_weight(block.weight))))
    for device in block.weight_device:
        if device.weight:
            place = f"{device.major}:{device.minor}"
            other = ("io.weight", f"{place} {io_weight(device.weight)}")
            yield Setting("io", "io.bfq.weight", f"{place} {device.weight}", other)
    for field, _, name in _THROTTLES:
        for one in _throttles(block, field):
            yield Setting("io", "io.max", f"{one.major}:{one.minor} {name}={one.rate or MAX}")


def _throttles(block: BlockIo, field: str) -> tuple[ThrottleDevice, ...]:
    found: tuple[ThrottleDevice, ...] = getattr(block, field)
    return found


def _huge_pages(resources: Resources, file: str) -> Iterator[Setting]:
    """What may be reserved, where the kernel counts that; else what may be used."""
    for one in resources.hugepage_limits:
        used = (f"hugetlb.{one.page_size}.{file}", str(one.limit))
        yield Setting("hugetlb", f"hugetlb.{one.page_size}.rsvd.{file}", str(one.limit), used)


def _rdma(resources: Resources) -> Iterator[Setting]:
    for name, limit in resources.rdma.items():
        handles = "" if limit.hca_handles is None else f" hca_handle={limit.hca_handles}"
        objects = "" if limit.hca_objects is None else f" hca_object={limit.hca_objects}"
        yield Setting("rdma", "rdma.max", f"{name}{handles}{objects}")
