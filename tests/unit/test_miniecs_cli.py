"""The command line: help, what is missing, answers for people."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miniecs import cli, server
from miniecs.errors import Error


@pytest.fixture(autouse=True)
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) >= 5


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["make-coffee"])
    assert ended.value.code == 2


def test_without_an_endpoint_or_credentials_it_says_what_to_try(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 1
    assert "where is the control plane? try: --endpoint" in capsys.readouterr().err
    assert cli.main(["status", "--endpoint", "http://127.0.0.1:9"]) == 1
    assert "no credentials found; try: export AWS_SHARED_CREDENTIALS_FILE" in capsys.readouterr().err


def test_where_nobody_answers_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert cli.main(["explain", "x", "--endpoint", "http://127.0.0.1:9"]) == 1
    assert "no control plane answers at http://127.0.0.1:9: [Errno 111]" in capsys.readouterr().err


def test_credentials_are_those_of_the_first_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["credentials", "--data", str(tmp_path)]) == 1
    assert f"try: miniecs server --data {tmp_path}" in capsys.readouterr().err
    secrets, made = server.credentials(str(tmp_path))
    assert made and server.credentials(str(tmp_path)) == (secrets, False)
    (tmp_path / "endpoint").write_text("http://127.0.0.1:1\n")
    assert cli.main(["credentials", "--data", str(tmp_path), "--format", "json"]) == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert {shown["AWS_ACCESS_KEY_ID"]: shown["AWS_SECRET_ACCESS_KEY"]} == secrets
    assert (tmp_path / "credentials").stat().st_mode & 0o777 == 0o600


def test_several_profiles_are_several_keys(tmp_path: Path) -> None:
    profiles = {"default": ("A", "x%y"), "b": ("B", "z")}
    text = "".join(f"[{n}]\naws_access_key_id={k}\naws_secret_access_key={s}\n" for n, (k, s) in profiles.items())
    (tmp_path / "credentials").write_text(text)
    assert server.credentials(str(tmp_path)) == ({"A": "x%y", "B": "z"}, False)
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = A\n")
    with pytest.raises(Error, match="has a profile without 'aws_secret_access_key'"):
        server.credentials(str(tmp_path))


def test_an_address_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["server", "--data", str(tmp_path), "--listen", "nonsense"]) == 1
    assert capsys.readouterr().err == "miniecs: 'nonsense' is no address to listen on; try: --listen 127.0.0.1:8600\n"


def test_a_command_imports_only_what_it_needs() -> None:
    script = (
        "import sys; from miniecs import cli; cli._parser('status'); print([m for m in sys.modules if 'aiohttp' in m])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
