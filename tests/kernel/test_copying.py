"""copying: COPY and ADD write into a rootfs as its root sees it, and never outside."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from minicontainer.build.context import Tree
from minicontainer.build.copying import Copy, isolated, place
from minicontainer.errors import Error


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    (directory / "src" / "sub").mkdir(parents=True)
    (directory / "file").write_text("content")
    (directory / "src" / "one").write_text("1")
    (directory / "src" / "sub" / "two").write_text("2")
    (directory / "src" / "link").symlink_to("/etc/passwd")
    os.chown(directory / "file", 1234, 1234)
    (directory / "file").chmod(0o4755)
    os.utime(directory / "file", (1000, 1000))
    return directory


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    directory = tmp_path / "rootfs"
    (directory / "etc").mkdir(parents=True)
    (directory / "etc" / "passwd").write_text("root:x:0:0::/:\nweb:x:33:44::/:\n")
    (directory / "etc" / "group").write_text("root:x:0:\nstaff:x:50:\n")
    (directory / "dir").mkdir()
    (directory / "abs").symlink_to("/dir")
    (directory / "up").symlink_to("../../../../dir")
    return directory


def copy(context: Path, rootfs: Path, words: str | list[str], copy: Copy) -> list[str]:
    """COPY in a child whose root is the rootfs."""

    def child() -> list[str]:
        tree = Tree(str(context))
        taken = [
            (tree, source) for word in ([words] if isinstance(words, str) else words) for source in tree.sources(word)
        ]
        os.chroot(rootfs)
        os.chdir("/")
        return place(taken, copy)

    return isolated(child)


@pytest.mark.kernel
def test_a_file_becomes_the_destination(context: Path, rootfs: Path) -> None:
    copy(context, rootfs, "file", Copy("/new/name"))
    status = (rootfs / "new" / "name").stat()
    assert (rootfs / "new" / "name").read_text() == "content"
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), status.st_mtime) == (0, 0, 0o4755, 1000)
    assert stat.S_IMODE((rootfs / "new").stat().st_mode) == 0o755


@pytest.mark.kernel
def test_a_file_goes_into_a_directory(context: Path, rootfs: Path) -> None:
    copy(context, rootfs, "file", Copy("/dir"))
    copy(context, rootfs, "file", Copy("/made", is_directory=True))
    assert (rootfs / "dir" / "file").exists() and (rootfs / "made" / "file").exists()


@pytest.mark.kernel
def test_the_content_of_a_directory_goes_into_the_destination(context: Path, rootfs: Path) -> None:
    copy(context, rootfs, "src", Copy("/dir"))
    assert sorted(os.listdir(rootfs / "dir")) == ["link", "one", "sub"]
    assert (rootfs / "dir" / "sub" / "two").read_text() == "2"
    assert os.readlink(rootfs / "dir" / "link") == "/etc/passwd"


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["abs", "up"])
def test_a_link_in_the_destination_is_resolved_inside_the_rootfs(context: Path, rootfs: Path, name: str) -> None:
    copy(context, rootfs, "file", Copy(f"/{name}/x"))
    assert (rootfs / "dir" / "x").read_text() == "content"


@pytest.mark.kernel
def test_a_file_that_is_a_link_is_replaced_not_followed(context: Path, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("safe")
    (rootfs / "dir" / "file").symlink_to(tmp_path / "victim")
    copy(context, rootfs, "file", Copy("/dir/", is_directory=True))
    assert (tmp_path / "victim").read_text() == "safe"
    assert not (rootfs / "dir" / "file").is_symlink()


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("owner", "expected", "told"),
    [
        ("1:2", (1, 2), 0),
        ("7", (7, 7), 0),
        ("web", (33, 44), 0),
        ("web:staff", (33, 50), 0),
        ("nobody:web", (0, 0), 2),
    ],
)
def test_chown_takes_numbers_and_the_names_of_the_image(
    context: Path, rootfs: Path, owner: str, expected: tuple[int, int], told: int
) -> None:
    notices = copy(context, rootfs, "src", Copy("/made/here", owner=owner))
    assert len(notices) == told
    for path in ("made", "made/here", "made/here/one", "made/here/link", "made/here/sub/two"):
        status = (rootfs / path).lstat()
        assert (status.st_uid, status.st_gid) == expected, path


@pytest.mark.kernel
def test_chmod_is_for_files_and_directories(context: Path, rootfs: Path) -> None:
    copy(context, rootfs, "src", Copy("/made", mode="700"))
    modes = {path: stat.S_IMODE((rootfs / "made" / path).stat().st_mode) for path in (".", "one", "sub", "sub/two")}
    assert modes == {".": 0o755, "one": 0o700, "sub": 0o700, "sub/two": 0o700}  # the top is made, not copied


@pytest.mark.kernel
def test_a_copy_from_a_stage_keeps_owners(context: Path, rootfs: Path) -> None:
    copy(context, rootfs, "file", Copy("/kept", keep_owner=True))
    copy(context, rootfs, "file", Copy("/given", keep_owner=True, owner="5:6"))
    assert ((rootfs / "kept").stat().st_uid, (rootfs / "given").stat().st_gid) == (1234, 6)


@pytest.mark.kernel
def test_a_directory_that_is_there_keeps_its_mode(context: Path, rootfs: Path) -> None:
    (rootfs / "dir").chmod(0o711)
    (rootfs / "dir" / "sub").mkdir(0o700)
    copy(context, rootfs, "src", Copy("/dir"))
    assert stat.S_IMODE((rootfs / "dir").stat().st_mode) == 0o711
    assert stat.S_IMODE((rootfs / "dir" / "sub").stat().st_mode) == stat.S_IMODE((context / "src/sub").stat().st_mode)


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("word", "to", "said"),
    [
        ("src", "/etc/passwd", "cannot copy to non-directory: /etc/passwd"),
        ("file", "/etc/passwd/x", "/etc/passwd is not a directory"),
        ("file", "/", None),
        ("missing", "/", "No such file or directory: missing"),
    ],
)
def test_what_cannot_be_copied_says_why(context: Path, rootfs: Path, word: str, to: str, said: str | None) -> None:
    if said is None:
        (rootfs / "file").mkdir()
        said = "cannot replace directory /file with a file"
    with pytest.raises(Error) as refused:
        copy(context, rootfs, word, Copy(to))
    assert str(refused.value) == said


@pytest.mark.kernel
def test_several_files_need_a_directory(context: Path, rootfs: Path) -> None:
    (context / "src" / "three").write_text("3")
    with pytest.raises(Error, match="2 sources match: the destination must be a directory: /new/"):
        copy(context, rootfs, "src/*e", Copy("/new"))
    copy(context, rootfs, "src/*e", Copy("/dir"))
    assert sorted(os.listdir(rootfs / "dir")) == ["one", "three"]


@pytest.mark.kernel
def test_fifos_are_copied_and_devices_refused(context: Path, rootfs: Path) -> None:
    os.mkfifo(context / "fifo")
    copy(context, rootfs, "fifo", Copy("/fifo"))
    assert stat.S_ISFIFO((rootfs / "fifo").stat().st_mode)
    os.mknod(context / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(Error, match="null is a device"):
        copy(context, rootfs, "null", Copy("/null"))


def archive(path: Path, mode: str) -> None:
    with tarfile.open(path, mode) as tar:
        for name, kind, content in [
            ("d", tarfile.DIRTYPE, ""),
            ("d/f", tarfile.REGTYPE, "new"),
            ("../../escape", tarfile.REGTYPE, "inside"),
            ("/absolute", tarfile.REGTYPE, "inside"),
            ("link", tarfile.SYMTYPE, "/etc"),
            ("hard", tarfile.LNKTYPE, "d/f"),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.uid, member.mode, member.mtime = kind, 99, 0o755, 1000
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                member.linkname, content = content, ""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))


@pytest.mark.kernel
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_add_unpacks_an_archive_by_its_content(context: Path, rootfs: Path, mode: str) -> None:
    archive(context / "some.data", mode)
    (rootfs / "dir" / "d").mkdir()
    (rootfs / "dir" / "d" / "f").symlink_to("/etc/passwd")
    copy(context, rootfs, "some.data", Copy("/dir", extract=True))
    assert sorted(os.listdir(rootfs / "dir")) == ["absolute", "d", "escape", "hard", "link"]
    assert (rootfs / "dir" / "d" / "f").read_text() == "new"
    assert (rootfs / "etc" / "passwd").read_text().startswith("root")
    status = (rootfs / "dir" / "hard").stat()
    assert (status.st_uid, status.st_nlink, status.st_mtime) == (99, 2, 1000)


@pytest.mark.kernel
def test_add_copies_what_is_no_archive(context: Path, rootfs: Path) -> None:
    (context / "empty.tar").write_text("")
    copy(context, rootfs, ["file", "empty.tar"], Copy("/dir", is_directory=True, extract=True))
    assert sorted(os.listdir(rootfs / "dir")) == ["empty.tar", "file"]


@pytest.mark.kernel
def test_a_bug_in_the_child_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        isolated(lambda: [str(1 // 0)])


@pytest.mark.kernel
def test_a_child_that_dies_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="died"):
        isolated(lambda: os._exit(9))
