"""creation: whose words are told when the child is dead."""

import os
from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.plan import StepFailed
from minicontainer.runtime import cgroups, creation


@pytest.mark.parametrize(
    ("said", "kills", "reason"),
    [
        (b"125 its own", 0, "its own"),
        (b"", 1, "OOM-killed"),
        (b"125 its own", 1, "its own"),
        (b"", 0, "broken pipe"),
    ],
)
def test_a_step_that_meets_a_dead_child_tells_what_it_died_of(
    tmp_path: Path, said: bytes, kills: int, reason: str
) -> None:
    (tmp_path / "memory.events").write_text(f"oom 0\noom_kill {kills}\n")
    report, words = os.pipe()
    os.write(words, said)
    os.close(words)
    with pytest.raises(Error, match=reason), creation._last_words(report, {cgroups.UNIFIED: str(tmp_path)}):
        raise StepFailed("write(17, 'j'): broken pipe: the child may go on")
    os.close(report)
