"""files: a file is old or new, never half; a lock dies with its holder; a tree is removed and nothing outside it."""

import os
import signal
from pathlib import Path

import pytest

from minicontainer import files


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(b"old content that is longer")
    files.write(str(path), b"new", durable=True)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["record"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        files.write(str(path), b"new")
    assert os.listdir(tmp_path) == ["record"]


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        with files.lock(f"{tmp_path}/lock"):
            os.write(writer, b"held")
            signal.pause()
        os._exit(0)
    assert os.read(reader, 4) == b"held"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with files.lock(f"{tmp_path}/lock"):
        pass


def test_a_tree_is_removed_and_what_a_symlink_names_is_not(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_text("x")
    (tree / "link").symlink_to(outside)
    files.remove_tree(str(tree))
    assert not tree.exists()
    assert (outside / "kept").read_text() == "kept"


def test_removing_an_absent_tree_is_no_error(tmp_path: Path) -> None:
    files.remove_tree(f"{tmp_path}/absent")


def test_who_asks_whether_a_file_is_locked_changes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert not files.is_locked(path)
    assert not os.path.exists(path)
    with files.lock(path):
        assert files.is_locked(path)
    assert not files.is_locked(path)
