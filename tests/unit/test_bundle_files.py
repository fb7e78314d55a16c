"""bundle_files: files of a root file system that nobody trusts."""

import os
from pathlib import Path

from minicontainer import bundle_files


def test_a_file_of_the_image_is_read_within_the_image(tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_text("secret")
    rootfs = tmp_path / "rootfs"
    (rootfs / "etc").mkdir(parents=True)
    (rootfs / "etc" / "group").write_text("inside")
    (rootfs / "etc" / "passwd").symlink_to("/etc/group")  # absolute: of the container's root, not of ours
    (rootfs / "etc" / "shadow").symlink_to("../../secret")
    assert bundle_files.read_inside(str(rootfs), "etc/passwd") == "inside"
    assert bundle_files.read_inside(str(rootfs), "etc/shadow") == ""
    assert bundle_files.read_inside(str(rootfs), "etc/absent") == ""
    assert bundle_files.read_inside(str(rootfs), "etc") == ""


def test_a_fifo_in_place_of_a_file_does_not_hold_us_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "passwd")
    assert bundle_files.read_inside(str(tmp_path), "passwd") == ""


def test_an_endless_file_is_read_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_bytes(b"x" * 100)
    assert bundle_files.read_inside(str(tmp_path), "passwd", limit=10) == "x" * 10
