"""docs/conformance.md: each requirement of the specification has a test that is there."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import beside

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/conformance.md").read_text()
ROW = re.compile(
    r"^\| (?P<section>(?:runtime|config|linux|features)[^|]*) "
    r"\| (?P<level>\w+) \| (?P<what>[^|]+) \| (?P<test>[^|]*) \|$",
    re.MULTILINE,
)
TEST = re.compile(r"\[`(?P<name>\w+)`\]\(\.\./(?P<file>[\w/.]+)\)")
# Sections that the specification has a MUST or SHOULD in, for a runtime on Linux.
SECTIONS = {
    *("runtime: State", "runtime: Lifecycle", "runtime: Errors", "runtime: Create", "runtime: Start", "runtime: Kill"),
    *("runtime: Delete", "config: Root", "config: Mounts", "config: Process", "config: rlimits"),
    "config: capabilities",
    *("config: oomScoreAdj", "config: Hooks", "config: Annotations", "linux: Namespaces", "linux: Devices"),
    *("linux: Default Devices", "linux: Control groups", "linux: Cgroups path", "linux: Allowed device list"),
    *("linux: Memory", "linux: Block IO", "linux: RDMA", "linux: Unified", "linux: IntelRdt", "linux: Seccomp"),
    *("linux: Masked paths", "linux: Readonly paths", "config: scheduler", "config: ioPriority"),
}  # fmt: skip


class Row(NamedTuple):
    section: str
    level: str
    what: str
    test: str


def rows() -> list[Row]:
    return [Row(*found.groups()) for found in ROW.finditer(PAGE)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.section}: {row.what}"[:60])
def test_each_requirement_has_a_test_that_is_there(row: Row) -> None:
    assert row.level in ("MUST", "SHOULD", "MAY")
    found = TEST.fullmatch(row.test)
    assert found is not None, f"no test: {row.what}"
    text = (ROOT / found["file"]).read_text()
    assert re.search(rf"^def {found['name']}\(", text, re.MULTILINE), f"{found['file']} has no {found['name']}"


def test_no_section_with_a_demand_is_left_out() -> None:
    assert SECTIONS - {row.section for row in rows()} == set()


def test_every_line_of_the_table_is_a_row() -> None:
    table = PAGE.partition("|---|---|---|---|")[2].partition("\n\n")[0]
    assert len([line for line in table.splitlines() if line]) == len(rows()) > 80


def test_no_requirement_is_told_twice() -> None:
    told = [(row.section, row.what) for row in rows()]
    assert len(told) == len(set(told))


def test_each_difference_from_runc_and_crun_is_told() -> None:
    """`python -c 'from tests import beside; print(beside.table())'` prints what has to be there."""
    assert beside.table() in PAGE
    assert set(beside.DIFFERENCES) <= set(beside.CASES)
