"""What the light lab needs of a computer: each thing that is missing is named, with what to do."""

from pathlib import Path

import pytest

from vagrant.doctor import PROGRAMS, Computer, findings, look
from vagrant.nodes import nodes

GOOD = Computer(
    architecture="x86_64", python=(3, 11), programs=frozenset(name for names in PROGRAMS.values() for name in names),
    memory=8000, shared_memory=8000, disk=8000, has_tun=True,
)  # fmt: skip


def fixes(computer: Computer, backend: str = "uml", image_is_made: bool = False, workers: int = 2) -> dict[str, str]:
    found = findings(computer, nodes(workers), backend, image_is_made)
    return {finding.what: finding.fix for finding in found if finding.fix}


@pytest.mark.parametrize("backend", list(PROGRAMS))
def test_a_good_computer_has_nothing_to_mend(backend: str) -> None:
    assert fixes(GOOD, backend) == {}


@pytest.mark.parametrize(
    ("changed", "what", "fix"),
    [
        ({"architecture": "aarch64"}, "computer", "Vagrant"),
        ({"python": (3, 12)}, "computer", "Vagrant"),
        ({"programs": GOOD.programs - {"linux.uml"}}, "programs", "apt-get install user-mode-linux"),
        ({"programs": GOOD.programs - {"mmdebstrap"}}, "programs", "apt-get install mmdebstrap"),
        ({"has_tun": False}, "/dev/net/tun", "modprobe tun"),
        ({"memory": 500}, "memory", "--workers 1"),
        ({"shared_memory": 64}, "/dev/shm", "mount -o remount,size=3840M /dev/shm"),
        ({"disk": 100}, "disk", "make room"),
    ],
)
def test_what_is_missing_is_named_with_its_fix(changed: dict[str, object], what: str, fix: str) -> None:
    found = fixes(GOOD._replace(**changed))  # type: ignore[arg-type] # the parameters' own types
    assert list(found) == [what]
    assert fix in found[what]


def test_more_machines_want_more_memory() -> None:
    assert fixes(GOOD._replace(memory=1000)) == {}
    assert "memory" in fixes(GOOD._replace(memory=1000), workers=5)


def test_an_image_that_is_made_needs_no_room_any_more() -> None:
    assert fixes(GOOD._replace(disk=100), image_is_made=True) == {}


def test_this_computer_can_be_looked_at(tmp_path: Path) -> None:
    found = look(tmp_path / "not" / "there")
    assert found.memory > 0 and found.disk > 0
