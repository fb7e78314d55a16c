"""The program: in which directory it starts, and by which links it does not get there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicontainer.errors import CommandNotFound
from minicontainer.runtime.program import enter_directory, execute, home_of


@pytest.fixture(autouse=True)
def back_again() -> Iterator[None]:
    here = os.getcwd()
    yield
    os.chdir(here)


def test_a_missing_directory_is_made_for_the_first_process_alone(tmp_path: Path) -> None:
    with pytest.raises(CommandNotFound, match=r"chdir to cwd .* failed: no such file or directory"):
        enter_directory(str(tmp_path / "a/b"), False, True)
    assert enter_directory(str(tmp_path / "a/b"), True, True)
    assert os.getcwd() == str(tmp_path / "a/b")


def test_no_link_of_proc_leads_there(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="symbolic links"):
            enter_directory(f"/proc/self/fd/{descriptor}", True, True)
    finally:
        os.close(descriptor)


def test_a_user_that_passwd_does_not_know_lives_at_the_root() -> None:
    assert home_of(4_000_000) == "/"
    assert home_of(0) == "/root"


def test_a_program_that_the_kernel_refuses_is_an_error_with_its_code(tmp_path: Path) -> None:
    with pytest.raises(CommandNotFound, match="no such file"):
        execute(str(tmp_path / "none"), ("none",), {})
