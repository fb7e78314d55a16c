"""Image: the disk that every light machine starts from: Debian 12, made by mmdebstrap, cached by its recipe.

Stands on nothing of the lab. No loop device, no mount: mke2fs copies the tree into the file system's image. A machine
writes to a file of its own over it, so one image serves them all. Ruled by mmdebstrap(1) and mke2fs(8).
"""

import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from miniecs.errors import Error

HERE = Path(__file__).parent
CACHE = HERE.parent / ".cache/lab"
SUITE = "bookworm"
PACKAGES = (
    "busybox-static", "curl", "iproute2", "iptables", "iputils-ping", "jq", "kmod", "libnftables1", "libseccomp2",
    "netbase", "openssh-server", "procps", "python3", "python3-venv", "strace",
)  # fmt: skip
# What `--init systemd` and QEMU want besides: a real process 1, and a kernel for a machine that is emulated.
FULL = ("dbus", "initramfs-tools", "linux-image-cloud-amd64", "systemd-sysv", "zstd")
RECIPE = ("light/customize.sh", "light/init.sh", "light/network.sh", "light/initramfs.sh", "install.sh")
SIZE = "4G"  # of the file system; the file is sparse


class Image:
    """A base disk; with a kernel and an initial file system beside it if it is `full`."""

    def __init__(self, full: bool, cache: Path = CACHE, directory: Path | None = None) -> None:
        """In the cache, by its recipe; or in the `directory` of a lab, where `keep` has put it."""
        self.full = full
        self.directory = directory or cache / f"{'full' if full else 'light'}-{_key(full)}"
        self.disk = self.directory / "base.ext4"
        self.kernel, self.initrd = self.directory / "vmlinuz", self.directory / "initrd.img"

    def keep(self, directory: Path) -> None:
        """Put it into a lab, by links: its machines' disks stand on it also when the recipe has changed since."""
        if directory.exists():
            return
        new = directory.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for file in (self.disk, self.kernel, self.initrd) if self.full else (self.disk,):
            try:
                os.link(file, new / file.name)
            except OSError:  # the lab is in another file system
                (new / file.name).symlink_to(file)
        new.rename(directory)

    def make(self, say: Callable[[str], None]) -> None:
        """If it is not there; whole or not at all.

        Raises:
            Error: mmdebstrap or mke2fs failed; the text has their last line.
        """
        if self.disk.exists():
            return
        _run([HERE / "stage.sh"], "the stage could not be made")
        if not (HERE / "stage/wheels").exists():
            raise Error(
                "no stage for the image: it needs Python 3.11 of Debian 12; try: Vagrant, docs/how-to/vagrant.md"
            )
        say(f"image: Debian {SUITE} by mmdebstrap, for all light machines (a minute; kept in {self.directory})")
        shutil.rmtree(self.directory.parent / "new", ignore_errors=True)
        new = self.directory.parent / "new"
        new.mkdir(parents=True)
        with tempfile.TemporaryDirectory(prefix="lab-image-", dir="/var/tmp") as temporary:
            root = Path(temporary, "root")
            _run(self._mmdebstrap(root), "the image could not be made")
            if self.full:
                shutil.copy(root / "vmlinuz", new / "vmlinuz")
                shutil.copy(root / "initrd.img", new / "initrd.img")
            # All is written now: what a machine would write later, in zeroes, user-mode-linux loses on a tmpfs.
            options = ["-E", "lazy_itable_init=0,lazy_journal_init=0", "-O", "^metadata_csum_seed,^orphan_file"]
            _run(
                ["mke2fs", "-q", "-t", "ext4", "-L", "lab", *options, "-d", root, new / "base.ext4", SIZE],
                "no disk image",
            )
        for old in self.directory.parent.glob(self.directory.name.partition("-")[0] + "-*"):
            shutil.rmtree(old)  # made by an older recipe
        new.rename(self.directory)

    def _mmdebstrap(self, root: Path) -> list[str | Path]:
        packages = PACKAGES + (FULL if self.full else ())
        hooks = [f"--essential-hook={HERE}/light/initramfs.sh $1"] if self.full else []
        return [
            "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(packages)}",
            *(f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("man", "doc", "locale")),
            *hooks, f"--customize-hook={HERE}/light/customize.sh $1 {HERE}", SUITE, root,
        ]  # fmt: skip


def _key(full: bool) -> str:
    recipe = hashlib.sha256(repr((PACKAGES, FULL if full else (), SIZE)).encode())
    for name in RECIPE:
        recipe.update((HERE / name).read_bytes())
    locked = (HERE.parent / ".ci/requirements.txt").read_text()
    kernels = "".join(sorted(path.name for path in Path("/usr/lib/uml/modules").glob("*")))
    recipe.update(f"{locked}{kernels}".encode())
    return recipe.hexdigest()[:12]


def _run(command: list[str | Path], failed: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise Error(f"{failed}: {Path(command[0]).name}: {_reason(said)}; try: docs/how-to/lab.md, When it fails")


def _reason(said: list[str]) -> str:
    """Of a program's last words: why apt could not fetch, which stands below an `Err:`; else its first error."""
    for line, below in itertools.pairwise(said):
        if line.startswith("Err:") and below.startswith(" "):
            return below.strip()
    return next((line for line in said if line.startswith("E: ") or "rror:" in line), said[-1])
