"""Layers on a real file system: what a changeset makes, and what it cannot reach."""

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from minicontainer.image import archives, changesets, layers
from minicontainer.image import tar as fast
from minicontainer.image.archives import InvalidLayer

OPAQUE = "trusted.overlay.opaque"
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep, version 2


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "", **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(content)
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(member, field, value)
    return member, content


def directory(name: str, **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.SYMTYPE, link=target)


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.LNKTYPE, link=target)


def tar(entries: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in entries:
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def unpacked(path: Path, *entries: tuple[tarfile.TarInfo, bytes], lowers: tuple[str, ...] = ()) -> Path:
    target = path / "diff"
    target.mkdir(exist_ok=True)
    layers.apply(io.BytesIO(tar(entries)), str(target), lowers)
    return target


def tree(top: Path) -> dict[str, str]:
    """Every path below with what it is: the content of files, the target of links, `whiteout`, `dir`, `opaque`."""
    found = {}
    for parent, names, files in os.walk(top):
        for name in [*names, *files]:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                what = f"-> {os.readlink(path)}"
            elif stat.S_ISDIR(status.st_mode):
                what = "opaque" if OPAQUE in os.listxattr(path) else "dir"
            elif stat.S_ISCHR(status.st_mode):
                what = "whiteout" if status.st_rdev == 0 else "chr"
            elif stat.S_ISREG(status.st_mode):
                what = Path(path).read_text()
            else:
                what = "node"
            found[os.path.relpath(path, top)] = what
    return found


def census(top: Path) -> dict[str, tuple[int, ...]]:
    """What must not change outside."""
    found = {}
    for path in [top, *top.rglob("*")]:
        status = path.lstat()
        found[str(path)] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            status.st_nlink,
            status.st_size,
        )
    return found


@pytest.mark.kernel("overlay")
def test_files_get_their_attributes_whatever_the_umask(tmp_path: Path) -> None:
    os.umask(0o077)
    top = unpacked(
        tmp_path,
        directory("d", mode=0o1777, uid=5, gid=6, pax_headers={"mtime": "1234567890.123456789"}),
        entry("d/setuid", content=b"x", mode=0o4755, uid=1000, gid=1001, pax_headers={"mtime": "-1.5"}),
        entry("d/old", mtime=12),
        symlink("d/link", "/anywhere"),
    )
    file, directory_ = (top / "d/setuid").stat(), (top / "d").stat()
    assert (stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid, file.st_mtime_ns) == (
        0o4755,
        1000,
        1001,
        -1_500_000_000,
    )
    assert (stat.S_IMODE(directory_.st_mode), directory_.st_uid, directory_.st_gid) == (0o1777, 5, 6)
    assert directory_.st_mtime_ns == 1234567890123456789
    assert (top / "d/old").stat().st_mtime == 12
    assert os.readlink(top / "d/link") == "/anywhere"


@pytest.mark.kernel("overlay")
def test_xattrs_capabilities_devices_and_fifos_are_kept(tmp_path: Path) -> None:
    top = unpacked(
        tmp_path,
        entry(
            "ping",
            uid=7,
            pax_headers={"SCHILY.xattr.security.capability": CAPABILITY.decode("utf-8", "surrogateescape")},
        ),
        entry("note", pax_headers={"SCHILY.xattr.user.note": "a=b\nc"}),
        entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        entry("disk", tarfile.BLKTYPE, devmajor=7, devminor=0, mode=0o600),
        entry("fifo", tarfile.FIFOTYPE, mode=0o622),
    )
    assert os.getxattr(top / "ping", "security.capability") == CAPABILITY
    assert os.getxattr(top / "note", "user.note") == b"a=b\nc"
    null, disk, fifo = ((top / name).stat() for name in ("null", "disk", "fifo"))
    assert (stat.S_ISCHR(null.st_mode), null.st_rdev, stat.S_IMODE(null.st_mode)) == (True, os.makedev(1, 3), 0o666)
    assert (stat.S_ISBLK(disk.st_mode), disk.st_rdev) == (True, os.makedev(7, 0))
    assert (stat.S_ISFIFO(fifo.st_mode), stat.S_IMODE(fifo.st_mode)) == (True, 0o622)


@pytest.mark.kernel("overlay")
def test_the_language_of_overlay_is_not_spoken_by_a_layer(tmp_path: Path) -> None:
    private = {
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.trusted.overlay.redirect": "/other",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.trusted.mine": "kept",
    }
    top = unpacked(tmp_path, directory("d", pax_headers=private))
    assert os.listxattr(top / "d") == ["trusted.mine"]


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry(".wh.f")], {"f": "whiteout"}),
        ([entry("d/.wh.f")], {"d": "dir", "d/f": "whiteout"}),
        ([directory("d"), entry("d/.wh..wh..opq")], {"d": "opaque"}),
        ([entry("d/.wh..wh..opq"), entry("d/f", content=b"new")], {"d": "opaque", "d/f": "new"}),
        ([entry(".wh.f"), entry("f", content=b"new")], {"f": "new"}),
        ([entry("f", content=b"new"), entry(".wh.f")], {"f": "new"}),
        ([entry(".wh.d"), directory("d"), entry("d/f")], {"d": "opaque", "d/f": ""}),
        ([directory("d"), entry("d/f"), entry(".wh.d")], {"d": "opaque", "d/f": ""}),
        ([entry(".wh.d"), entry("d/f")], {"d": "opaque", "d/f": ""}),
        ([entry(".wh.d"), entry("d", content=b"file"), directory("d")], {"d": "opaque"}),
        ([entry(".wh..wh.plnk"), entry(".wh..wh.aufs")], {}),
        ([entry(".wh.s"), symlink("s", "x")], {"s": "-> x"}),
        ([symlink("s", "x"), entry(".wh.s")], {"s": "-> x"}),
    ],
)
def test_whiteouts_take_the_form_of_overlay(
    tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], expected: dict[str, str]
) -> None:
    assert tree(unpacked(tmp_path, *entries)) == expected


@pytest.mark.kernel("overlay")
def test_an_opaque_root_is_marked(tmp_path: Path) -> None:
    assert OPAQUE in os.listxattr(unpacked(tmp_path, entry(".wh..wh..opq")))


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry("f", content=b"1"), entry("f", content=b"2")], {"f": "2"}),
        ([entry("f"), directory("f")], {"f": "dir"}),
        ([directory("d"), entry("d/x"), entry("d", content=b"file")], {"d": "file"}),
        ([directory("d"), entry("d/x"), directory("d", mode=0o700)], {"d": "dir", "d/x": ""}),
        ([symlink("s", "d"), directory("d"), directory("s")], {"s": "dir", "d": "dir"}),
        ([directory("d"), symlink("s", "d"), entry("s/f", content=b"x")], {"d": "dir", "s": "-> d", "d/f": "x"}),
        ([symlink("s", "/d/e"), entry("s/f", content=b"x")], {"s": "-> /d/e", "d": "dir", "d/e": "dir", "d/e/f": "x"}),
        (
            [symlink("a/s", "../b"), entry("a/s/f", content=b"x")],
            {"a": "dir", "a/s": "-> ../b", "b": "dir", "b/f": "x"},
        ),
        ([entry("./a//b/../c", content=b"x")], {"a": "dir", "a/c": "x"}),
        ([entry("f", content=b"x"), hardlink("g", "./f"), hardlink("g", "g")], {"f": "x", "g": "x"}),
        ([entry("f", content=b"x"), hardlink("g", "f"), entry("f", content=b"y")], {"f": "y", "g": "x"}),
    ],
)
def test_the_last_entry_of_a_name_wins_and_links_are_walked_in_the_layer(
    tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], expected: dict[str, str]
) -> None:
    assert tree(unpacked(tmp_path, *entries)) == expected


def _hostile(outside: str) -> dict[str, list[tuple[tarfile.TarInfo, bytes]]]:
    up = "../" * 12
    return {
        "dots": [entry(f"{up}{outside}/victim", content=b"bad")],
        "absolute": [entry(f"{outside}/victim", content=b"bad")],
        "symlink to a directory": [symlink("s", outside), entry("s/victim", content=b"bad")],
        "relative symlink": [symlink("s", up + outside[1:]), entry("s/victim", content=b"bad")],
        "symlink behind symlink": [symlink("a", "b"), symlink("b", outside), entry("a/victim", content=b"bad")],
        "symlink to a file": [symlink("victim", f"{outside}/victim"), entry("victim", content=b"bad")],
        "hard link out": [hardlink("h", f"{outside}/victim"), entry("h", content=b"bad")],
        "hard link through dots": [hardlink("h", f"{up}{outside}/victim")],
        "hard link through symlink": [symlink("s", outside), hardlink("h", "s/victim")],
        "hard link to symlink, then chmod": [
            symlink("s", f"{outside}/victim"),
            hardlink("h", "s"),
            entry("h", mode=0o777),
        ],
        "whiteout out": [symlink("s", outside), entry("s/.wh.victim")],
        "whiteout of dots": [entry("d/.wh.."), entry("d/.wh...")],
        "opaque out": [symlink("s", outside), entry("s/.wh..wh..opq")],
        "directory over symlink": [symlink("s", outside), directory("s", mode=0o777)],
        "directory below symlink": [symlink("s", outside), directory("s/inner")],
        "directory replaced by symlink": [directory("d", mode=0o700, mtime=1), entry("d/x"), symlink("d", outside)],
        "parent replaced by symlink": [directory("a/b", mode=0o700), symlink("a", outside)],
        "node out": [symlink("s", outside), entry("s/node", tarfile.CHRTYPE, devmajor=1, devminor=3)],
        "replace through symlink": [symlink("s", outside), directory("s/victim"), entry("s/victim", content=b"bad")],
        "root is a symlink": [symlink(".", outside), entry("victim", content=b"bad")],
        "root is a file": [entry("/", content=b"bad")],
        "symlink loop": [symlink("a", "b"), symlink("b", "a"), entry("a/f")],
        "proc": [symlink("s", "/proc/self/cwd"), entry("s/f", content=b"bad")],
    }


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("name", _hostile("/x"))
def test_a_hostile_layer_touches_nothing_outside(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("good")
    os.utime(outside, (1, 1))
    top = tmp_path / "diff"
    top.mkdir()
    os.chdir(outside)
    before = census(outside)
    try:
        layers.apply(io.BytesIO(tar(_hostile(str(outside))[name])), str(top))
    except InvalidLayer as error:
        assert "\n" not in str(error)
    assert census(outside) == before
    assert (outside / "victim").read_text() == "good"
    assert os.listxattr(outside) == []


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    "entries",
    [
        [hardlink("h", "missing")],
        [directory("d"), hardlink("h", "d")],
        [hardlink("h", ".")],
        [entry(".wh.f"), hardlink("h", "f")],
        [entry("f"), entry("f/below")],
        [entry("c", tarfile.CHRTYPE, devmajor=1 << 20, devminor=0)],
        [entry("/".join(["d"] * 600))],
        [entry("/".join(["d" * 200] * 30))],
        [entry("nul", pax_headers={"path": "a\0b"})],
        [entry("big", pax_headers={"comment": "x" * (2 << 20)})],
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with pytest.raises(InvalidLayer):
        unpacked(tmp_path, *entries)


@pytest.mark.kernel("overlay")
def test_an_implied_directory_looks_as_in_the_layer_below(tmp_path: Path) -> None:
    below, above = tmp_path / "below", tmp_path / "above"
    below.mkdir()
    above.mkdir()
    lower = unpacked(below, directory("tmp", mode=0o1777, uid=3), directory(".", mode=0o711), symlink("link", "/etc"))
    top = unpacked(above, entry("tmp/f"), entry("new/f"), entry("link/f"), lowers=(str(lower),))
    assert stat.S_IMODE((top / "tmp").stat().st_mode) == 0o1777
    assert (top / "tmp").stat().st_uid == 3
    assert stat.S_IMODE((top / "new").stat().st_mode) == 0o755
    assert stat.S_IMODE(top.stat().st_mode) == 0o711


@pytest.mark.kernel("overlay")
def test_a_sparse_file_keeps_its_holes(tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with open(source, "wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    for form in ("gnu", "posix"):
        archive = tmp_path / f"{form}.tar"
        assert os.system(f"tar -C {tmp_path} --sparse --format={form} -cf {archive} sparse") == 0
        target = tmp_path / form
        target.mkdir()
        with open(archive, "rb") as stream:
            layers.apply(stream, str(target))
        status = (target / "sparse").stat()
        assert status.st_size == (64 << 20) + 3
        assert status.st_blocks * 512 < 1 << 20
        assert (target / "sparse").read_bytes().endswith(b"\0end")


@pytest.mark.kernel("overlay")
def test_a_layer_made_by_gnu_tar_is_the_tree_that_it_was_made_of(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d/e").mkdir(parents=True)
    (source / "d/f").write_bytes(os.urandom(3_000_000))
    os.link(source / "d/f", source / "d/g")
    os.symlink("f", source / "d/s")
    (source / os.fsdecode(b"latin\xe9")).write_text("x")
    (source / ("long" * 60)).write_text("y")
    for form in ("gnu", "posix"):
        assert os.system(f"tar -C {source} --format={form} -cf {tmp_path}/{form}.tar .") == 0
        target = tmp_path / form
        target.mkdir()
        with open(tmp_path / f"{form}.tar", "rb") as stream:
            layers.apply(stream, str(target))
        assert os.system(f"diff -r {source} {target}") == 0
        assert (target / "d/f").stat().st_ino == (target / "d/g").stat().st_ino


@pytest.mark.kernel("overlay")
def test_diff_and_apply_are_inverse_and_diff_is_deterministic(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "a").mkdir(mode=0o750)
    os.setxattr(upper / "a", OPAQUE, b"y")
    os.setxattr(upper / "a", "trusted.overlay.origin", b"\0secret")
    (upper / "a/f").write_text("content")
    os.chown(upper / "a/f", 12, 3_000_000)
    os.setxattr(upper / "a/f", "security.capability", CAPABILITY)
    os.utime(upper / "a/f", ns=(5, 1234567890123456789))
    os.link(upper / "a/f", upper / "g")
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    os.link(upper / "gone", upper / "gone2")
    os.mknod(upper / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(upper / "pipe")
    os.symlink("a/f", upper / "link")
    (upper / os.fsdecode(b"caf\xe9")).write_text("bytes")
    os.utime(upper / "a", ns=(1, -999_999_999))
    made = [io.BytesIO(), io.BytesIO()]
    for buffer in made:
        layers.diff(str(upper), buffer)
    assert made[0].getvalue() == made[1].getvalue()
    names = tarfile.open(fileobj=io.BytesIO(made[0].getvalue())).getnames()
    assert names == ["a", "a/.wh..wh..opq", "a/f", "caf\udce9", "g", ".wh.gone", ".wh.gone2", "link", "null", "pipe"]
    target = tmp_path / "target"
    target.mkdir()
    layers.apply(io.BytesIO(made[0].getvalue()), str(target))
    assert tree(target) == tree(upper)
    assert os.listxattr(target / "a") == [OPAQUE]
    assert os.getxattr(target / "g", "security.capability") == CAPABILITY
    for name in ("a", "a/f", "null", "pipe", "link", os.fsdecode(b"caf\xe9")):
        here, there = (upper / name).lstat(), (target / name).lstat()
        assert (here.st_mode, here.st_uid, here.st_gid, here.st_mtime_ns) == (
            there.st_mode,
            there.st_uid,
            there.st_gid,
            there.st_mtime_ns,
        )


@pytest.mark.kernel("overlay")
def test_compressed_streams_of_each_kind_and_broken_ones(tmp_path: Path) -> None:
    import zstandard

    plain = tar([entry("f", content=b"x" * 100_000)])
    for number, blob in enumerate(
        [
            plain,
            gzip.compress(plain),
            zstandard.compress(plain),
            gzip.compress(plain[:1024]) + gzip.compress(plain[1024:]),
        ]
    ):
        target = tmp_path / str(number)
        target.mkdir()
        layers.apply(layers.decompress("application/vnd.oci.image.layer.v1.tar+gzip", io.BytesIO(blob)), str(target))
        assert (target / "f").stat().st_size == 100_000
    (tmp_path / "broken").mkdir()
    squeezed = gzip.compress(plain)
    for bad in (
        squeezed[:-6],
        squeezed[:-8] + b"\0\0\0\0" + squeezed[-4:],
        plain[:2000],
    ):
        with pytest.raises(InvalidLayer):
            stream = layers.decompress("application/vnd.oci.image.layer.v1.tar", io.BytesIO(bad))
            layers.apply(stream, str(tmp_path / "broken"))
            while stream.read(1 << 20):
                continue
    with pytest.raises(InvalidLayer, match="media type"):
        layers.decompress("application/octet-stream", io.BytesIO(plain))


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("value", ["short", "x" * 20])
def test_a_broken_file_capability_is_one_clear_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(InvalidLayer, match=r"'d/ping': xattr 'security.capability' of \d+ bytes: ") as refused:
        unpacked(tmp_path, entry("d/ping", pax_headers={"SCHILY.xattr.security.capability": value}))
    assert "\n" not in str(refused.value)


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (changesets.Limits(entries=2), "more than 2 entries; the limit `entries`"),
        (changesets.Limits(name=20), "a name of 21 bytes; the limit `name` is 20"),
        (changesets.Limits(depth=2), "too deep or too long; the limit `depth` is 2"),
    ],
)
def test_a_limit_is_named_when_a_layer_is_over_it(tmp_path: Path, limits: changesets.Limits, said: str) -> None:
    entries = [entry("a"), entry("b/c/d"), entry("long/name/of/21/bytes")]
    with pytest.raises(InvalidLayer, match=said):
        changesets.unpack(fast.members(io.BytesIO(tar(entries))), str(tmp_path), limits)


@pytest.mark.kernel("overlay")
def test_a_name_that_no_file_can_have_is_the_layers_fault(tmp_path: Path) -> None:
    with pytest.raises(InvalidLayer, match="File name too long"):
        unpacked(tmp_path, entry("n" * 256))


@pytest.mark.kernel("overlay")
def test_a_default_acl_of_a_directory_does_not_change_what_the_layer_says_of_its_files(tmp_path: Path) -> None:
    acl = bytes.fromhex("02000000 01000700ffffffff 04000500ffffffff 20000500ffffffff".replace(" ", ""))
    headers = {"SCHILY.xattr.system.posix_acl_default": acl.decode("utf-8", "surrogateescape")}
    top = unpacked(
        tmp_path, directory("d", pax_headers=headers), entry("d/f", mode=0o666), directory("d/e", mode=0o777)
    )
    assert stat.S_IMODE((top / "d/f").stat().st_mode) == 0o666
    assert stat.S_IMODE((top / "d/e").stat().st_mode) == 0o777


@pytest.mark.kernel("overlay")
def test_what_is_replaced_on_the_way_is_not_written_to(tmp_path: Path) -> None:
    """Directories are held open from entry to entry: one that was replaced is not the one that a path names."""
    top = unpacked(
        tmp_path,
        directory("a"),
        entry("a/b/one", content=b"1"),
        symlink("s", "a"),
        entry("s/b/two", content=b"2"),
        entry("a", content=b"file"),
        directory("a"),
        entry("a/b/three", content=b"3"),
        symlink("t", "a/b"),
        entry("t/four", content=b"4"),
        directory("c"),
        symlink("t", "c"),
        entry("t/five", content=b"5"),
    )
    expected = {"a": "dir", "a/b": "dir", "a/b/three": "3", "a/b/four": "4", "s": "-> a", "t": "-> c"}
    assert tree(top) == {**expected, "c": "dir", "c/five": "5"}


@pytest.mark.kernel("overlay")
def test_more_directories_than_are_held_open(tmp_path: Path) -> None:
    names = [f"d{number % 150}/e{number % 7}/f{number}" for number in range(1000)]
    before = len(os.listdir("/proc/self/fd"))
    top = unpacked(tmp_path, *(entry(name, content=name.encode()) for name in names))
    assert {name: (top / name).read_text() for name in names} == {name: name for name in names}
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("form", ["0.0", "0.1", "1.0"])
@pytest.mark.parametrize("holes", [1, 30])
def test_sparse_files_of_every_pax_version_and_with_many_holes(tmp_path: Path, form: str, holes: int) -> None:
    source = tmp_path / "sparse"
    with open(source, "wb") as file:
        for number in range(holes):
            file.seek((number * 2 + 1) << 20)
            file.write(b"%d" % number)
        file.truncate((holes * 2 + 1) << 20)
    for options in (f"--format=posix --sparse-version={form}", "--format=gnu"):
        assert os.system(f"tar -C {tmp_path} --sparse {options} -cf {tmp_path}/made.tar sparse") == 0
        for reader in (fast.members, archives.members):
            target = tmp_path / f"{options[9]}-{reader.__module__}"
            target.mkdir()
            with open(tmp_path / "made.tar", "rb") as stream:
                changesets.unpack(reader(stream), str(target))
            assert (target / "sparse").read_bytes() == source.read_bytes()
            assert (target / "sparse").stat().st_blocks * 512 < holes << 17
