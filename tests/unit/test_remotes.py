"""remotes: which words are URLs, and what a server may answer."""

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicontainer.build.remotes import Asked, fetch_file, fetch_git, is_git, is_remote
from minicontainer.errors import Error


@pytest.mark.parametrize(
    ("word", "remote", "git"),
    [
        ("https://host/file.tar.gz", True, False),
        ("http://host/file", True, False),
        ("https://host/repo.git", True, True),
        ("https://host/repo.git#main:sub", True, True),
        ("https://host/file.github", True, False),
        ("git://host/repo", True, True),
        ("git@host.org:some/repo.git", True, True),
        ("ssh://git@host/repo", True, True),
        ("file", False, False),
        ("./https:/x", False, False),
        ("ftp.txt", False, False),
    ],
)
def test_what_is_remote(word: str, remote: bool, git: bool) -> None:
    assert (is_remote(word), is_git(word)) == (remote, git)


class Answers(http.server.BaseHTTPRequestHandler):
    """Each path says what it does."""

    asked: list[dict[str, str]] = []

    def do_GET(self) -> None:
        self.asked.append(dict(self.headers))
        name = self.path.partition("?")[0].rpartition("/")[2]
        if name == "known" and self.headers.get("If-None-Match") == '"1"':
            self.send_response(304)
            self.end_headers()
            return
        if name == "moved":
            self.send_response(302)
            self.send_header("Location", "/plain")
            self.end_headers()
            return
        if name.isdecimal():
            self.send_error(int(name))
            return
        self.send_response(200)
        if name == "known":
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT")
        self.send_header("Content-Length", "100" if name == "short" else "7")
        self.end_headers()
        self.wfile.write(b"content")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Answers)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def fetch(tmp_path: Path, url: str, asked: Asked = Asked()) -> Path:
    (tmp_path / "place").mkdir(exist_ok=True)
    return Path(fetch_file(url, str(tmp_path / "place"), str(tmp_path / "kept"), asked))


def test_a_file_has_the_urls_name_and_the_servers_time(tmp_path: Path, url: str) -> None:
    path = fetch(tmp_path, f"{url}/a/known?version=2")
    assert (path.name, path.read_text(), path.stat().st_mtime) == ("known", "content", 1_000_000_000)
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    path = fetch(tmp_path, f"{url}/moved")
    assert (path.name, path.read_text(), path.stat().st_mtime) == ("moved", "content", 0)
    assert fetch(tmp_path, f"{url}/with%20space").name == "with space"


def test_a_file_that_has_not_changed_is_not_sent_again(tmp_path: Path, url: str) -> None:
    fetch(tmp_path, f"{url}/known")
    Answers.asked.clear()
    path = fetch(tmp_path, f"{url}/known")
    assert [headers.get("If-None-Match") for headers in Answers.asked] == ['"1"']
    assert (path.read_text(), path.stat().st_mtime) == ("content", 1_000_000_000)
    for name in os.listdir(tmp_path / "kept"):
        if name.endswith(".json"):
            (tmp_path / "kept" / name).write_text("{half")
    Answers.asked.clear()
    fetch(tmp_path, f"{url}/known")
    assert [headers.get("If-None-Match") for headers in Answers.asked] == [None]


def test_the_checksum_is_of_the_content(tmp_path: Path, url: str) -> None:
    digest = "sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    fetch(tmp_path, f"{url}/plain", Asked(checksum=digest))
    with pytest.raises(Error, match=f"plain: the checksum is {digest}, not sha256:0"):
        fetch(tmp_path, f"{url}/plain", Asked(checksum="sha256:0"))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/404", "the server says 404 Not Found"),
        ("/500", "the server says 500 Internal Server Error"),
        ("/short", "7 bytes came, 100 were announced"),
        ("/", "the URL names no file"),
    ],
)
def test_what_a_server_does_wrong_is_one_line(tmp_path: Path, url: str, path: str, said: str) -> None:
    with pytest.raises(Error) as refused:
        fetch(tmp_path, url + path)
    assert str(refused.value) == f"{url}{path}: {said}"


def test_a_repository_needs_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Error, match=r"git://h/r: needs git; try: apt-get install git"):
        fetch_git("git://h/r", str(tmp_path))
