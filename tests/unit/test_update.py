"""Update: the order in which values are written, and what holds then."""

from minicontainer.oci.runtime import BlockIo, Resources, resources_from_json
from minicontainer.runtime import update
from minicontainer.runtime.resources import Setting, settings

MIB = 1 << 20


def _order(json: dict[str, object], limit: int = 1 << 60, period: int = 100_000) -> list[str]:
    return [one.file for one in update.ordered(settings(resources_from_json(json), version2=False), limit, period)]


def test_swap_is_raised_before_memory_and_lowered_after_it() -> None:
    both: dict[str, object] = {"memory": {"limit": 90 * MIB, "swap": 100 * MIB}}
    up, down = (
        ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"],
        ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
    )
    assert _order(both, limit=50 * MIB) == up
    assert _order(both, limit=200 * MIB) == down
    assert _order({"memory": {"limit": 90 * MIB, "swap": -1}}, limit=200 * MIB) == up


def test_without_a_limit_there_is_none_of_swap_either() -> None:
    assert _order({"memory": {"limit": -1}}) == ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"]


def test_the_quota_comes_first_when_the_period_gets_shorter() -> None:
    both: dict[str, object] = {"cpu": {"quota": 5_000, "period": 10_000}}
    assert _order(both, period=100_000) == ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    assert _order(both, period=5_000) == ["cpu.cfs_period_us", "cpu.cfs_quota_us"]
    assert _order({"cpu": {"quota": -1, "period": 10_000}}) == ["cpu.cfs_period_us", "cpu.cfs_quota_us"]


def test_other_settings_keep_their_place() -> None:
    wanted = [Setting("pids", "pids.max", "1"), Setting("cpu", "cpu.shares", "2")]
    assert update.ordered(wanted, 0, 0) == wanted


def test_what_is_asked_replaces_what_was_known_and_nothing_else() -> None:
    known = resources_from_json({"memory": {"limit": 1, "swap": 2}, "blockIO": {"weight": 3}, "unified": {"a.b": "c"}})
    asked = resources_from_json({"memory": {"limit": 5}, "pids": {"limit": 6}, "unified": {"d.e": "f"}})
    found: Resources = update.merged(known, asked)
    assert (found.memory.limit, found.memory.swap) == (5, 2)
    assert found.block_io == BlockIo(weight=3)
    assert found.pids is not None and found.pids.limit == 6
    assert found.unified == {"a.b": "c", "d.e": "f"}
