"""The disk image of light machines: why it could not be made, in one line; and that a lab keeps the one it has."""

import shutil
from pathlib import Path

import pytest

from vagrant.image import Image, _reason

OFFLINE = """I: running apt-get update...
Ign:1 http://deb.debian.org/debian bookworm InRelease
Err:1 http://deb.debian.org/debian bookworm InRelease
  Temporary failure resolving 'deb.debian.org'
E: Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease
E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> failed"""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (OFFLINE, "Temporary failure resolving 'deb.debian.org'"),
        ("I: begins\nE: unable to chroot\nE: mmdebstrap failed to run", "E: unable to chroot"),
        ("mke2fs 1.47\nmke2fs: error: no space left", "mke2fs: error: no space left"),
        ("it just ended", "it just ended"),
    ],
)
def test_the_reason_is_what_a_person_can_mend(said: str, reason: str) -> None:
    assert _reason(said.splitlines()) == reason


def made(cache: Path, full: bool) -> Image:
    image = Image(full, cache)
    image.directory.mkdir(parents=True)
    for file in (image.disk, image.kernel, image.initrd) if full else (image.disk,):
        file.write_text(file.name)
    return image


@pytest.mark.parametrize("full", [False, True])
def test_a_lab_keeps_its_image_when_a_newer_recipe_has_replaced_it(full: bool, tmp_path: Path) -> None:
    image = made(tmp_path / "cache", full)
    image.keep(tmp_path / "image")
    shutil.rmtree(image.directory)
    kept = Image(full, directory=tmp_path / "image")
    assert kept.disk.read_text() == "base.ext4"
    assert kept.kernel.exists() == kept.initrd.exists() == full
    kept.keep(tmp_path / "image")  # again: as it is
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "image"]
