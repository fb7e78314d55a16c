"""image_commands: progress is lines for a log and bars for a terminal; login wants what it needs."""

import io
import os
from pathlib import Path

import pytest

from minicontainer import cli, image_commands

DIGEST = "sha256:" + "ab" * 32


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


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
