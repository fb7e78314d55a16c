"""file_modes: as chmod(1) of this machine does it."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicontainer.build.file_modes import changed, is_mode


@pytest.mark.parametrize(
    ("text", "mode", "is_directory", "expected"),
    [
        ("755", 0o600, False, 0o755),
        ("4711", 0o600, False, 0o4711),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, False, 0o755),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("+x", 0o644, False, 0o755),
        ("a-w", 0o777, False, 0o555),
        ("go=", 0o777, False, 0o700),
        ("g=u,o-rwx", 0o641, False, 0o660),
        ("u+s,+t", 0o755, False, 0o5755),
        ("u=rw,u+x-w", 0o000, False, 0o500),
    ],
)
def test_a_mode_is_changed(text: str, mode: int, is_directory: bool, expected: int) -> None:
    assert is_mode(text)
    assert changed(text, mode, is_directory) == expected


@pytest.mark.parametrize("text", ["", "999", "77777", "rwx", "u+q", "u=rw,", "x+r"])
def test_what_is_no_mode_is_known(text: str) -> None:
    assert not is_mode(text)


CLAUSE = st.tuples(
    st.sampled_from(["u", "g", "o", "a", "ug", "go", "uo"]),
    st.sampled_from("+-="),
    st.sampled_from(["r", "w", "x", "rw", "rX", "X", "s", "t", "u", "g", "o", ""]),
).map("".join)


def test_symbolic_modes_are_those_of_chmod(tmp_path: Path) -> None:
    @settings(deadline=None, max_examples=60, derandomize=True)  # each is a process
    @given(st.lists(CLAUSE, min_size=1, max_size=3), st.integers(0, 0o777), st.booleans())
    def as_chmod_does(clauses: list[str], mode: int, is_directory: bool) -> None:
        path = tmp_path / ("directory" if is_directory else "file")
        path.mkdir(exist_ok=True) if is_directory else path.touch()
        os.chmod(path, mode)
        text = ",".join(clauses)
        if subprocess.run(["chmod", text, path], check=False, capture_output=True).returncode == 0:
            assert changed(text, mode, is_directory) == stat.S_IMODE(path.stat().st_mode), (text, oct(mode))

    as_chmod_does()
