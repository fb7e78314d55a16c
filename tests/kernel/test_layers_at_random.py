"""Layers at random: any order of entries, links and whiteouts stays inside, and what was made can be told again."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicontainer.files import remove_tree
from minicontainer.image import layers
from minicontainer.image.archives import InvalidLayer

EXAMPLES = int(os.environ.get("EXAMPLES", "150"))
OUTSIDE = "/outside"  # replaced by where the test's own directory is

_names = st.sampled_from(["a", "b", "c", ".wh.a", ".wh.b", ".wh..wh..opq", "..", ".", "victim"])
_paths = st.lists(_names, min_size=1, max_size=4).map("/".join)
_targets = st.one_of(
    _paths, st.sampled_from([OUTSIDE, f"{OUTSIDE}/victim", "/", "../../../../../..", "/a", "/proc/self/cwd"])
)
_kinds = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
    ]
)
_modes = st.sampled_from([0o755, 0o644, 0o7777, 0])
_entries = st.lists(st.tuples(_kinds, _paths, _targets, _modes), max_size=12)

Entries = list[tuple[bytes, str, str, int]]


def archive(entries: Entries, outside: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        for number, (kind, path, target, mode) in enumerate(entries):
            member = tarfile.TarInfo(path)
            member.type, member.mode, member.mtime = kind, mode, 1000 + number
            member.linkname = target.replace(OUTSIDE, outside) if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            member.devmajor, member.devminor = 1, 3
            content = b"bad" if kind == tarfile.REGTYPE else b""
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def census(top: Path) -> list[tuple[object, ...]]:
    """All that can be seen of a tree: what each path is, whose, how old, and what it holds."""
    found: list[tuple[object, ...]] = []
    for parent, names, files in os.walk(top):
        names.sort()
        for name in [".", *sorted([*names, *files])]:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs = tuple(os.listxattr(path, follow_symlinks=False))
            whiteout = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0  # which has no time to keep
            time = None if whiteout else status.st_mtime_ns
            found.append((os.path.relpath(path, top), status.st_mode, status.st_rdev, time, content, xattrs))
    return found


def _without_root(seen: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """A changeset does not tell its root's own attributes."""
    return [entry for entry in seen if entry[0] != "."]


@pytest.mark.fuzz
@pytest.mark.kernel("overlay")
def test_no_layer_reaches_outside_and_each_can_be_told_again(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("good")
    os.utime(outside, (1, 1))
    os.chdir(outside)
    before = (census(outside), outside.stat().st_nlink, (outside / "victim").stat().st_nlink)
    made, again = tmp_path / "made", tmp_path / "again"

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(_entries)
    def check(entries: Entries) -> None:
        for directory in (made, again):
            remove_tree(str(directory))
            directory.mkdir()
        try:
            layers.apply(io.BytesIO(archive(entries, str(outside))), str(made))
            refused = False
        except InvalidLayer:
            refused = True
        assert (census(outside), outside.stat().st_nlink, (outside / "victim").stat().st_nlink) == before
        if not refused:
            told = io.BytesIO()
            layers.diff(str(made), told)
            layers.apply(io.BytesIO(told.getvalue()), str(again))
            assert _without_root(census(again)) == _without_root(census(made))

    check()


@pytest.mark.fuzz
@pytest.mark.kernel("overlay")
def test_a_stack_of_layers_is_what_overlay_makes_of_it(tmp_path: Path) -> None:
    """The kernel is the judge: what whiteouts and markers hide when their layers are lowers of an overlay."""
    from minicontainer.image import overlays
    from minicontainer.linux import syscalls
    from minicontainer.linux.flags import MNT_DETACH

    cases: list[tuple[list[list[str]], list[str]]] = [
        ([["d/a", "d/b"], ["d/.wh.a"]], ["d", "d/b"]),
        ([["d/a", "d/b"], ["d/.wh..wh..opq", "d/c"]], ["d", "d/c"]),
        ([["d/a"], [".wh.d"]], []),
        ([["d/a"], [".wh.d", "d/c"]], ["d", "d/c"]),
        ([["d/a"], ["d/c", ".wh.d"]], ["d", "d/c"]),
        ([["d/a"], [".wh.d"], ["d/b"]], ["d", "d/b"]),
        ([["f"], [".wh.f", "f"]], ["f"]),
        ([["f"], ["f", ".wh.f"]], ["f"]),
        ([["d/a"], ["d"]], ["d"]),
        ([["a", "b"], ["c", ".wh.a"], ["a"]], ["a", "b", "c"]),
    ]
    for number, (stack, expected) in enumerate(cases):
        base = tmp_path / str(number)
        lowers = []
        for height, names in enumerate(stack):
            lower = base / f"layer{height}"
            lower.mkdir(parents=True)
            entries = [(tarfile.REGTYPE, name, "", 0o644) for name in names]
            layers.apply(io.BytesIO(archive(entries, "")), str(lower))
            lowers.insert(0, str(lower))
        for name in ("upper", "work", "target"):
            (base / name).mkdir()
        overlays.mount(lowers, str(base / "upper"), str(base / "work"), str(base / "target"), None)
        seen = sorted(str(path.relative_to(base / "target")) for path in (base / "target").rglob("*"))
        syscalls.umount(str(base / "target"), MNT_DETACH)
        assert seen == expected, stack
