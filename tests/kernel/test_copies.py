"""`cp`: docker's rules of where a copy goes, on containers that run and that do not; and the traps of a container."""

import io
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from minicontainer import engine
from minicontainer.containers import Home, Volume
from tests import attacks, images

pytestmark = pytest.mark.kernel("overlay")
STATES = pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
SCRIPT = (
    "mkdir -p /d/deep; echo one >/d/file; ln /d/file /d/deep/same; ln -s file /d/link; chown 7:8 /d/file; "
    "chmod 4711 /d/file; ln -s /d /to-d; ln -s / /to-root; echo ready; "
)


class Said(NamedTuple):
    status: int
    out: bytes
    text: str


class Copier(NamedTuple):
    home: Home
    id: str
    here: Path

    def __call__(self, *words: str, stdin: bytes = b"") -> Said:
        command = [sys.executable, "-m", "minicontainer.cli", "--root", self.home.data, "cp"]
        words = tuple(word.replace("c:", f"{self.id}:", 1) if word.startswith("c:") else word for word in words)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [*command, *words],
            input=stdin,
            cwd=self.here,
            env=environment,
            capture_output=True,
            check=False,
            timeout=60,
        )
        return Said(done.returncode, done.stdout, done.stderr.decode())

    def ok(self, *words: str, stdin: bytes = b"") -> bytes:
        done = self(*words, stdin=stdin)
        assert (done.status, done.text) == (0, "")
        return done.out

    def inside(self, path: str) -> bytes:
        """A file of the container, as the container's own files on the disk have it."""
        return Path(engine.inspect(self.home, self.id).upper, path).read_bytes()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with images.busybox_home(tmp_path / "data") as made:
        yield made


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def container(home: Home, here: Path, runs: bool = True, script: str = SCRIPT, **more: object) -> Copier:
    one = attacks.start(home, f"{script} {'sleep 60' if runs else ':'}", **more)
    if runs:
        attacks.eventually(lambda: b"ready" in Path(one.bundle, "log.jsonl").read_bytes())
    else:
        engine.wait(home, one.id)
    return Copier(home, one.id, here)


# --- out of a container ----------------------------------------------------------------------------------------------


@STATES
def test_a_file_goes_where_docker_puts_it(home: Home, here: Path, runs: bool) -> None:
    copy = container(home, here, runs)
    (here / "dir").mkdir()
    copy.ok("c:/d/file", "new")
    copy.ok("c:d/file", "dir")
    copy.ok("c:/d/file", "dir/other")
    assert {path.read_text() for path in (here / "new", here / "dir/file", here / "dir/other")} == {"one\n"}
    said = copy("c:/d/file", "absent/")
    assert said.status == 1 and "absent/ is no directory" in said.text
    said = copy("c:/d/none", ".")
    assert said.status == 1 and "/d/none: No such file or directory" in said.text


@STATES
def test_a_directory_goes_where_docker_puts_it(home: Home, here: Path, runs: bool) -> None:
    copy = container(home, here, runs)
    for target in ("dir", "contents"):
        (here / target).mkdir()
    copy.ok("c:/d", "new")
    copy.ok("c:/d", "dir")
    copy.ok("c:/d/.", "contents")
    for top in ("new", "dir/d", "contents"):
        assert sorted(path.name for path in (here / top).iterdir()) == ["deep", "file", "link"]
        assert os.readlink(here / top / "link") == "file"
        assert (here / top / "file").samefile(here / top / "deep/same")
    (here / "plain").write_text("")
    said = copy("c:/d", "plain")
    assert said.status == 1 and "a directory cannot take its place" in said.text


def test_a_link_is_copied_as_one_or_followed(home: Home, here: Path) -> None:
    copy = container(home, here)
    copy.ok("c:/to-d", "link")
    assert os.readlink(here / "link") == "/d"
    copy.ok("-L", "c:/to-d", "followed")
    assert (here / "followed/file").read_text() == "one\n"


def test_owners_and_bits_only_when_they_are_asked_for(home: Home, here: Path) -> None:
    copy = container(home, here)
    copy.ok("c:/d/file", "mine")
    copy.ok("-a", "c:/d/file", "theirs")
    mine, theirs = os.stat(here / "mine"), os.stat(here / "theirs")
    assert (mine.st_uid, mine.st_gid, stat.S_IMODE(mine.st_mode)) == (os.geteuid(), os.getegid(), 0o711)
    assert (theirs.st_uid, theirs.st_gid, stat.S_IMODE(theirs.st_mode)) == (7, 8, 0o4711)
    assert theirs.st_mtime == pytest.approx(mine.st_mtime, abs=1e-3)


def test_an_archive_on_stdout(home: Home, here: Path) -> None:
    copy = container(home, here)
    with tarfile.open(fileobj=io.BytesIO(copy.ok("c:/d", "-"))) as archive:
        assert archive.getnames() == ["d", "d/deep", "d/deep/same", "d/file", "d/link"]
        assert archive.getmember("d/file").islnk() or archive.getmember("d/deep/same").islnk()


# --- into a container ------------------------------------------------------------------------------------------------


@STATES
def test_what_is_copied_into_it_is_its_root_s(home: Home, here: Path, runs: bool) -> None:
    copy = container(home, here, runs)
    (here / "tree/sub").mkdir(parents=True)
    (here / "tree/sub/x").write_text("x")
    (here / "file").write_text("page")
    os.chown(here / "file", 1234, 1234)
    copy.ok("file", "c:/d/")
    copy.ok("file", "c:/named")
    copy.ok("tree", "c:/d")
    copy.ok("tree/.", "c:/d")
    assert copy.inside("d/file") == copy.inside("named") == b"page"
    assert copy.inside("d/tree/sub/x") == copy.inside("d/sub/x") == b"x"
    found = os.stat(engine.inspect(home, copy.id).upper + "/named")
    assert (found.st_uid, found.st_gid) == (0, 0)
    copy.ok("-a", "file", "c:/owned")
    assert os.stat(engine.inspect(home, copy.id).upper + "/owned").st_uid == 1234
    if runs:
        assert attacks.further(home, engine.inspect(home, copy.id), "cat", "/d/sub/x") == (0, "x")
    else:
        engine.start(home, copy.id)  # what was copied did not spoil its layers
        engine.wait(home, copy.id)


def test_an_archive_on_stdin(home: Home, here: Path) -> None:
    copy = container(home, here)
    archive = attacks.tar(attacks.member("a/b", b"content", mode=0o640, uid=5, gid=6))
    copy.ok("-", "c:/d", stdin=archive)
    assert attacks.further(home, engine.inspect(home, copy.id), "stat", "-c", "%u %g %a", "/d/a/b") == (0, "5 6 640\n")
    for broken, reason in ((archive[:700], "whole"), (b"no archive at all" * 99, "an archive is expected")):
        said = copy("-", "c:/d", stdin=broken)
        assert said.status == 1 and reason in said.text, said.text
    said = copy("-", "c:/d", stdin=attacks.tar(attacks.member("../up", b"")))
    assert said.status == 1 and "leads out of the directory" in said.text
    said = copy("-", "c:/absent", stdin=archive)
    assert said.status == 1 and "/absent: No such file or directory" in said.text


def test_a_file_that_is_mounted_and_one_that_is_read_only(home: Home, here: Path) -> None:
    (here / "kept").mkdir()
    (here / "free").mkdir()
    free = Volume(str(here / "free"), "/kept/not/../../free")
    copy = container(home, here, volumes=(Volume(str(here / "kept"), "/kept", read_only=True), free))
    (here / "hosts").write_text("127.0.0.1 me\n")
    copy.ok("hosts", "c:/etc/hosts")
    assert attacks.further(home, engine.inspect(home, copy.id), "cat", "/etc/hosts") == (0, "127.0.0.1 me\n")
    said = copy("hosts", "c:/kept/hosts")
    assert said.status == 1 and "Read-only file system" in said.text
    engine.stop(home, copy.id, 0)
    said = copy("hosts", "c:/kept/hosts")
    assert said.status == 1 and "Read-only file system" in said.text
    copy.ok("hosts", "c:/free/hosts")  # a volume of one that does not run
    assert (here / "free/hosts").read_text() == "127.0.0.1 me\n"
    copy.ok("c:/free/hosts", "back")
    assert (here / "back").read_text() == "127.0.0.1 me\n"


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("a", "b"), "one of the two is CONTAINER:PATH"),
        (("c:/a", "c:/b"), "one of the two is CONTAINER:PATH"),
        ((":/a", "b"), "is not CONTAINER:PATH"),
        (("nobody:/a", "b"), "nobody"),
        (("./no:thing", "c:/"), "No such file or directory"),
    ],
)
def test_what_cannot_be_copied_is_said(home: Home, here: Path, words: tuple[str, ...], reason: str) -> None:
    said = container(home, here)(*words)
    assert said.status in (1, 125) and reason in said.text and said.text.count("\n") == 1


# --- traps -----------------------------------------------------------------------------------------------------------


@STATES
@pytest.mark.parametrize("userns", ["", "host"])
def test_links_of_the_container_lead_nowhere_else(home: Home, here: Path, userns: str, runs: bool) -> None:
    """CVE-2018-15664, CVE-2019-18466: absolute links, links through `..`, and those of /proc."""
    secret = here / "secret"
    secret.write_text("the host's")
    script = f"ln -s {secret} /f; ln -s {here} /t; ln -s ../../../..{here} /up; ln -s /proc/self/root /r; echo ready;"
    copy = container(home, here, runs, script, userns=userns)
    (here / "new").write_text("from here")
    for path in ("/t/secret", "/up/secret", f"/r{secret}", "/proc/1/root/secret"):
        assert copy("c:" + path, "got").status == 1
        copy("new", "c:" + path)
    assert copy("-L", "c:/f", "got").status == 1
    copy("new", "c:/f")
    assert secret.read_text() == "the host's" and not (here / "got").exists()


def test_a_link_that_comes_and_goes_leads_nowhere_else(home: Home, here: Path) -> None:
    """CVE-2018-15664: between the look and the open, the directory becomes a link to the host's."""
    script = f"mkdir /a /b; ln -s {here} /l; echo ready; while :; do mv -T /l /a/x; mv -T /a/x /l; mkdir -p /l2; done &"
    copy = container(home, here, True, script)
    (here / "new").write_text("from the container")
    for _ in range(5):
        copy("new", "c:/l/target")
    assert not (here / "target").exists()


def test_nothing_of_the_container_is_loaded(home: Home, here: Path) -> None:
    """CVE-2019-14271: whoever looks for a library or a module in there gets the container's."""
    traps = []
    trap = f"open({str(here / 'caught')!r}, 'w')"
    names = ("tarfile", "encodings/__init__", "encodings/ascii", "pwd", "grp", "bz2", "lzma", "zlib", "nss")
    for place in {path for path in sys.path if path.startswith("/usr")} | {str(Path(__file__).parents[2])}:
        for name in names:
            target = f"{place}/{name}.py"
            traps.append(f'mkdir -p {os.path.dirname(target)}; echo "{trap}" >{target}')
    copy = container(home, here, True, f"{'; '.join(traps)}; mkdir /d; echo x >/d/f; echo ready;")
    copy.ok("c:/d", "out")
    copy.ok("out", "c:/in")
    found = attacks.further(home, engine.inspect(home, copy.id), "ls", str(here))
    assert not (here / "caught").exists() and "caught" not in found[1]


def test_a_tree_without_end_and_a_fifo_do_not_hold_it(home: Home, here: Path) -> None:
    deep = "mkfifo /fifo; i=0; while [ $i -lt 1200 ]; do mkdir d && cd d; i=$((i+1)); done; echo ready;"
    copy = container(home, here, True, f"mkdir /top && cd /top; {deep}")
    copy.ok("c:/top", "-")
    copy.ok("c:/fifo", "fifo")
    assert stat.S_ISFIFO(os.stat(here / "fifo").st_mode)
    said = copy("c:/dev/null", "null")
    assert said.status == 1 and "device" in said.text
