"""The flags of COPY and ADD, and what ADD fetches: servers and repositories that are real, on loopback."""

import functools
import hashlib
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.test_dockerfiles import SOME, Case, World, archive, check, place, world

__all__ = ["place", "world"]  # the fixtures

D = "FROM scratch\n"
FLAGS: dict[str, Case] = {
    "parents keep the path": Case(
        f"{D}COPY --parents d/deep/two a.txt /x/",
        {"x": "d 755", "x/d": "d 755", "x/d/deep": "d 755", "x/d/deep/two": "f 644 2", "x/a.txt": "f 644 A"},
        files=SOME,
    ),
    "parents from a pivot on": Case(
        f"{D}COPY --parents ./d/./deep/two /x/", {"x": "d 755", "x/deep": "d 755", "x/deep/two": "f 644 2"}, files=SOME
    ),
    "parents with wildcards, at any depth": Case(
        f"{D}COPY --parents **/t* /x/",
        {"x": "d 755", "x/tool": "f 750 T", "x/d": "d 755", "x/d/deep": "d 755", "x/d/deep/two": "f 644 2",
         "x/d/to": "l ../a.txt"}, files=SOME,
    ),
    "parents of a directory": Case(
        f"{D}COPY --parents --chown=1:2 d/deep /",
        {"d": "d 755 1:2", "d/deep": "d 755 1:2", "d/deep/two": "f 644 1:2 2"},
        files=SOME,
    ),
    "exclude from a directory and from what a wildcard matches": Case(
        f"{D}COPY --exclude=*.md --exclude=deep/* --exclude=to d *.txt *.md /x/",
        {"x": "d 755", "x/one": "f 644 1", "x/deep": "d 755", "x/a.txt": "f 644 A", "x/b.txt": "f 644 B"}, files=SOME,
    ),
    "exclude with an exception, and a variable": Case(
        f"{D}ARG what=*\nCOPY --exclude=$what --exclude=!a.txt . /x/", {"x": "d 755", "x/a.txt": "f 644 A"}, files=SOME
    ),
    "chmod by letters": Case(
        f"{D}COPY --chmod=u=rwX,go=X d tool /x/",
        {"x": "d 755", "x/one": "f 600 1", "x/deep": "d 711", "x/deep/two": "f 600 2", "x/to": "l ../a.txt",
         "x/tool": "f 711 T"}, files=SOME,
    ),
    "link does not see what is there": Case(
        "FROM base\nRUN ln -s /home /out\nCOPY --link --chown=3 a.txt /out/a.txt",
        {"out": "d 755 3:3", "out/a.txt": "f 644 3:3 A"}, files=SOME,
    ),
    "ADD of an archive that stays one": Case(
        f"{D}ADD --unpack=false a.tar /x/\nADD a.tar /y/", {"x": "d 755", "x/a.tar": "f 644 tar", "y": "d 755",
                                                            "y/f": "f 640 5:6 new"},
        files={"a.tar": archive("a.tar", f="new")},
    ),
}  # fmt: skip


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("name", FLAGS)
def test_what_is_copied_by_flags(world: World, name: str) -> None:
    case = FLAGS[name]
    if "x/a.tar" in (case.tree or {}):
        built = world.build(case.text.replace("a.tar /x", "plain.tar /x"), {**case.files, "plain.tar": "tar"})
        assert built.tree["x/plain.tar"] == "f 644 tar" and built.tree["y/f"] == "f 640 5:6 new"
        return
    check(world, case)


@pytest.mark.kernel("overlay")
def test_a_linked_layer_is_cached_whatever_is_below(world: World) -> None:
    text = "FROM base\nRUN echo 1 > /linked-below\nCOPY --link a.txt /x/\n"
    first = world.build(text, SOME)
    changed = world.build(text.replace("echo 1", "echo 2"))
    assert (first.cached, changed.cached) == (0, 1)
    assert changed.tree["x/a.txt"] == "f 644 A"


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "COPY --link --chown=web a.txt /",
            "COPY: --link with --chown=web: the layer has no /etc/passwd; give numbers",
        ),
        ("COPY --parents none/x /", "COPY: none/x is not in the context CONTEXT"),
        ("ADD --checksum=sha256:1 a.txt /", "ADD: --checksum is for one source, a URL or a git repository"),
        ("ADD --checksum=md5:1 http://h/x /", "ADD: --checksum=md5:1: it is sha256: and 64 digits"),
        ("ADD http://127.0.0.1:1/ /", "ADD: http://127.0.0.1:1/: the URL names no file"),
        ("ADD http://127.0.0.1:1/f /", "ADD: http://127.0.0.1:1/f: Network is unreachable"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(world: World, line: str, said: str) -> None:
    assert world.refused(f"FROM base\n{line}", SOME) == f"Dockerfile:2: {said}"


# --- what ADD fetches


class Server(http.server.SimpleHTTPRequestHandler):
    asked: list[tuple[str, int]] = []

    def log_request(self, code: object = 0, size: object = 0) -> None:
        self.asked.append((self.path, int(code)))  # type: ignore[call-overload]  # an HTTPStatus is an int


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Server.asked.clear()
    handler = functools.partial(Server, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.fixture
def served(tmp_path: Path) -> Path:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a file").write_text("content")
    os.utime(tmp_path / "served" / "a file", (1_000_000_000, 1_000_000_000))
    (tmp_path / "served" / "f.tar").write_bytes(archive("f.tar", inside="x"))
    return tmp_path / "served"


@pytest.mark.kernel("overlay")
def test_add_of_a_url(world: World, served: Path) -> None:
    digest = hashlib.sha256(b"content").hexdigest()
    with serving(served) as url:
        text = (
            f"FROM scratch\nADD --checksum=sha256:{digest} {url}/a%20file?x=1 /d/\nADD --chmod=755 {url}/a%20file /e\n"
            f"ADD --unpack {url}/f.tar /u/\n"
        )
        built = world.build(text)
        assert built.tree["d/a file"] == "f 600 content" and built.tree["e"] == "f 755 content"
        assert built.tree["u/inside"] == "f 640 5:6 x"
        again = world.build(text)
        assert (again.digest, again.cached) == (built.digest, built.steps - 1)
        assert [code for _, code in Server.asked] == [200, 200, 200, 304, 304, 304]
        (served / "a file").write_text("changed!")
        said = world.refused(text)
    assert said.startswith(f"Dockerfile:2: ADD: {url}/a%20file?x=1: the checksum is sha256:")


@pytest.mark.kernel("overlay")
def test_a_server_that_has_not_is_named(world: World, served: Path) -> None:
    with serving(served) as url:
        assert world.refused(f"FROM scratch\nADD {url}/none /") == (
            f"Dockerfile:2: ADD: {url}/none: the server says 404 File not found"
        )
        built = world.build(f"FROM scratch\nADD {url}/f.tar /plain")
    assert list(built.tree) == ["plain"] if built.tree["plain"].startswith("f 600") else False


@contextmanager
def repository(directory: Path) -> Iterator[tuple[str, str]]:
    """A repository served by git's own daemon: its URL, and its first commit."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    work = directory / "work"
    (work / "sub").mkdir(parents=True, exist_ok=True)
    (work / "sub" / "f").write_text("one")
    (work / "tool").write_text("#!")
    (work / "tool").chmod(0o755)

    def git(*words: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "init.defaultBranch=main"]
        done = subprocess.run(["git", "-C", work, *who, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    git("tag", "v1")
    first = git("rev-parse", "HEAD")
    (work / "sub" / "f").write_text("two")
    git("commit", "-q", "-a", "-m", "second")
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as unused:
        port = unused.server_port
    # The program itself: `git daemon` is a process that starts it, and would leave it behind.
    path = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    words = [f"{path}/git-daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all", "--reuseaddr",
             f"--base-path={directory}", "--verbose", directory]  # fmt: skip
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stderr is not None
            assert "Ready" in daemon.stderr.readline()
            yield f"git://127.0.0.1:{port}/work", first
        finally:
            daemon.kill()


@pytest.mark.kernel("overlay")
def test_add_of_a_repository(world: World, tmp_path: Path) -> None:
    with repository(tmp_path) as (url, first):
        built = world.build(
            f"FROM scratch\nADD {url}#v1 /one\nADD {url} /two/\nADD {url}#main:sub /sub\n"
            f"ADD --keep-git-dir --exclude=.git/* --checksum={first} {url}#{first} /kept\n"
        )
        said = world.refused(f"FROM scratch\nADD --checksum={first} {url}#main /x")
        absent = world.refused(f"FROM scratch\nADD {url}#nowhere /x")
    assert built.tree["one/sub/f"] == "f 644 one" and built.tree["one/tool"] == "f 755 #!"
    assert built.tree["two/sub/f"] == "f 644 two" and built.tree["sub/f"] == "f 644 two"
    assert "one/.git" not in built.tree and built.tree["kept/.git"] == "d 755"
    assert "the commit is " in said and said.endswith(f", not {first}")
    assert absent.startswith(f"Dockerfile:2: ADD: {url}#nowhere: git fetch: ")
