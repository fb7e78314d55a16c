"""image_commands: progress is lines for a log and bars for a terminal; login wants what it needs."""

import io
import os
from pathlib import Path

import pytest

from minicontainer import cli, image_commands
from minicontainer.image_commands import Progress

DIGEST = "sha256:" + "ab" * 32


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_for_each_blob() -> None:
    out = io.StringIO()
    progress = Progress(out)
    for done in (0, 500, 1000, 1000):
        progress("download", DIGEST, done, 1000)
    progress("exists", DIGEST, 7, 7)
    assert out.getvalue() == "pull   abababababab 1kB\nhave   abababababab 7B\n"


def test_a_terminal_gets_a_bar_that_becomes_the_line() -> None:
    out = Terminal()
    progress = Progress(out)
    progress("upload", DIGEST, 500, 1000)
    progress("upload", DIGEST, 600, 1000)  # too soon after the last
    progress("upload", DIGEST, 1000, 1000)
    first, last = out.getvalue().split("\r")[1:]
    assert first == "push   abababababab [###############...............] 500B/1kB"
    assert last.rstrip() == "push   abababababab 1kB"


def test_quiet_is_quiet() -> None:
    out = io.StringIO()
    Progress(out, quiet=True)("download", DIGEST, 1, 1)
    assert out.getvalue() == ""


def test_login_wants_a_name_and_a_password(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert cli.main(["login", "127.0.0.1:1", "-u", "me", "--password-stdin"]) == 125
    assert "login needs --username, and the password by --password-stdin" in capsys.readouterr().err


def test_logout_says_whether_there_was_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert cli.main(["logout", "127.0.0.1:1"]) == 0
    assert capsys.readouterr().out == "No login credentials for 127.0.0.1:1\n"


@pytest.mark.parametrize("words", [["load"], ["save", "x"]])
def test_an_archive_does_not_come_from_or_go_to_a_terminal(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", Terminal())
    assert cli.main(["--root", str(tmp_path / "data"), *words]) == 125
    assert "try: minicontainer" in capsys.readouterr().err


def test_a_name_is_said_as_people_say_it() -> None:
    assert image_commands._familiar("docker.io/library/web:1") == "web:1"
    assert image_commands._familiar(DIGEST) == DIGEST
