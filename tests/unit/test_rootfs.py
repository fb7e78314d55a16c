"""Mount options sorted by what they are for, and mount points made where they are missing."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer.errors import Error
from minicontainer.linux.flags import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_REC,
    MS_SLAVE,
)
from minicontainer.oci.runtime import Device, Linux, Spec
from minicontainer.runtime import mount_options, rootfs
from minicontainer.runtime.rootfs import MountOptions, parse_options
from tests import bundles


def test_attributes_are_set_and_cleared_by_the_last_word() -> None:
    parsed = parse_options(("ro", "nosuid", "nodev", "noexec", "dev"))
    assert parsed.set == MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC
    assert parsed.clear == MOUNT_ATTR_NODEV
    assert parse_options(("ro", "rw")) == MountOptions(clear=MOUNT_ATTR_RDONLY)
    assert parse_options(("rw", "ro")) == MountOptions(set=MOUNT_ATTR_RDONLY)


def test_access_times_are_one_field() -> None:
    assert parse_options(("strictatime",)) == MountOptions(clear=MOUNT_ATTR__ATIME, set=MOUNT_ATTR_STRICTATIME)
    parsed = parse_options(("strictatime", "relatime"))
    assert parsed.clear & MOUNT_ATTR__ATIME == MOUNT_ATTR__ATIME
    assert parsed.set == 0


def test_recursive_options_are_kept_apart() -> None:
    parsed = parse_options(("rbind", "rro", "rnosuid", "nodev"))
    assert parsed.rbind and not parsed.bind
    assert parsed.recursive_set == MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID
    assert parsed.set == MOUNT_ATTR_NODEV


def test_propagation_data_and_our_own_words() -> None:
    parsed = parse_options(("bind", "rprivate", "slave", "mode=755", "size=64k", "defaults", "newinstance", "ridmap"))
    assert parsed.propagation == (MS_PRIVATE | MS_REC, MS_SLAVE)
    assert parsed.data == ("mode=755", "size=64k", "newinstance")
    assert parsed.bind and parsed.ridmap and not parsed.idmap


@given(
    st.lists(st.sampled_from([*mount_options.ATTRIBUTES, *(f"r{name}" for name in mount_options.ATTRIBUTES)])).map(
        tuple
    )
)
def test_no_attribute_is_both_set_and_cleared_but_the_time_field(options: tuple[str, ...]) -> None:
    parsed = parse_options(options)
    assert parsed.set & parsed.clear & ~MOUNT_ATTR__ATIME == 0
    assert parsed.recursive_set & parsed.recursive_clear & ~MOUNT_ATTR__ATIME == 0
    # The kernel refuses to set a time without clearing the whole field: mount_setattr(2).
    assert not parsed.set & MOUNT_ATTR__ATIME or parsed.clear & MOUNT_ATTR__ATIME == MOUNT_ATTR__ATIME


def test_a_mount_point_is_made_with_its_parents(tmp_path: Path) -> None:
    rootfs.make_target(str(tmp_path / "a/b/c"), directory=True)
    rootfs.make_target(str(tmp_path / "a/file"), directory=False)
    assert (tmp_path / "a/b/c").is_dir()
    assert (tmp_path / "a/file").is_file()
    rootfs.make_target(str(tmp_path / "a/b/c"), directory=True)


def test_a_mount_point_behind_a_dangling_link_is_made_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there/deep")
    rootfs.make_target(str(tmp_path / "link"), directory=True)
    assert (tmp_path / "there/deep").is_dir()
    (tmp_path / "relative").symlink_to("near")
    rootfs.make_target(str(tmp_path / "relative"), directory=False)
    assert (tmp_path / "near").is_file()


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises((Error, OSError)):
        rootfs.make_target(str(tmp_path / "one"), directory=True)


def test_every_container_has_six_devices_and_its_own() -> None:
    fuse = Device(type="c", path="/dev/fuse", major=10, minor=229)
    null = Device(type="c", path="/dev/null", major=1, minor=3, file_mode=0o600)
    found = rootfs.devices(Linux(devices=(fuse, null)))
    assert [device.path for device in found].count("/dev/null") == 1
    assert {"/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/fuse"} < {d.path for d in found}
    assert null in found


def test_links_in_dev_are_made_once_and_ptmx_is_never_a_node(tmp_path: Path) -> None:
    path = str(tmp_path / "dev/ptmx")
    rootfs.make_link("pts/ptmx", path)
    rootfs.make_link("other", path)
    assert os.readlink(path) == "pts/ptmx"


def test_a_bound_dev_is_left_alone() -> None:
    config = bundles.config("true")
    assert rootfs._sets_up_dev(Spec.from_json(config))
    config["mounts"].append({"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]})
    assert not rootfs._sets_up_dev(Spec.from_json(config))
