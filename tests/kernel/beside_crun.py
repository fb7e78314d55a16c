"""The same bundles on us and on crun: run by `test_version2.py`, since crun takes no computer with both versions."""

import os
from pathlib import Path

import pytest

from tests import beside

CRUN = os.environ.get("CRUN", "crun")
NAMES = [name for name in beside.CASES if "QUICK" not in os.environ or name in beside.QUICK]


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_is_what_it_is_on_crun(tmp_path: Path, name: str) -> None:
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o711)
    tmp_path.chmod(0o711)
    case = beside.CASES[name]
    theirs = beside.seen([CRUN], tmp_path, case)
    ours = beside.seen(beside.OURS, tmp_path, case)
    beside.compare("crun", name, ours, theirs)
