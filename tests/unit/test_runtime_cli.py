"""The command line other engines call: flags in every spelling, errors in the words they look for."""

import json
from pathlib import Path

import pytest

from minicontainer.errors import CommandNotFound, Error
from minicontainer.runtime import cli
from minicontainer.runtime.cli import COMMANDS, GLOBAL_FLAGS, Options, main, parse, signal_number

CREATE = COMMANDS["create"].flags


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bundle", "/b", "--pid-file", "/p", "--no-pivot", "id"],
        ["--bundle=/b", "--pid-file=/p", "--no-pivot", "id"],
        ["-b", "/b", "-pid-file", "/p", "--no-pivot=true", "id"],
        ["id", "--no-pivot", "-bundle=/b", "--pid-file=/p"],
    ],
)
def test_flags_are_understood_in_every_spelling(arguments: list[str]) -> None:
    options = parse(arguments, CREATE)
    assert options.rest == ["id"]
    assert options.text("bundle") == "/b"
    assert options.text("pid-file") == "/p"
    assert options.has("no-pivot")
    assert not options.has("no-new-keyring")
    assert options.number("preserve-fds") == 0


def test_a_switch_can_be_off() -> None:
    assert not parse(["--no-pivot=false", "id"], CREATE).has("no-pivot")


def test_the_command_of_exec_keeps_its_own_flags() -> None:
    arguments = ["--detach", "-e", "A=1", "--env=B=2", "id", "ls", "-l", "--", "--detach"]
    options = parse(arguments, COMMANDS["exec"].flags, stop_at_rest=True)
    assert options.values["env"] == ["A=1", "B=2"]
    assert options.rest == ["id", "ls", "-l", "--", "--detach"]
    assert parse(["--", "-x"], {}).rest == ["-x"]


def test_global_flags_end_at_the_command() -> None:
    options = parse(["--root", "/r", "--log-format=json", "create", "--bundle", "b"], GLOBAL_FLAGS, stop_at_rest=True)
    assert options.text("root") == "/r"
    assert options.text("log-format") == "json"
    assert options.rest == ["create", "--bundle", "b"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["--nope"], "not defined: -nope"), (["--bundle"], "needs an argument: -bundle")],
)
def test_a_wrong_flag_is_named(arguments: list[str], text: str) -> None:
    with pytest.raises(Error, match=text):
        parse(arguments, CREATE)


def test_a_number_is_a_number() -> None:
    with pytest.raises(Error, match="'three' is not a number"):
        Options({"preserve-fds": ["three"]}, []).number("preserve-fds")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("KILL", 9),
        ("SIGTERM", 15),
        ("usr1", 10),
        ("sigint", 2),
        ("0", 0),
        ("64", 64),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("rtmax-1", 63),
    ],
)
def test_signals_by_number_and_name(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["99", "-1", "SIGNOPE", "", "TERM+1", "RTMIN+99", "RTMIN+x", "RTMAX+1", "9x", "0x9"])
def test_an_unknown_signal_is_named(text: str) -> None:
    with pytest.raises(Error, match="unknown signal"):
        signal_number(text)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("minicontainer-runtime version ")
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in COMMANDS)
    assert main(["create", "--help"]) == 0
    assert "--console-socket SOCKET" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nope"], "nope is not a command"),
        (["state"], "one container id is needed"),
        (["create", "--bundle", "/nowhere", "x"], "/nowhere/config.json does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_seal", lambda: None)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == 1


def test_an_unknown_container_is_status_1_and_255_for_exec(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_seal", lambda: None)
    assert main(["--root", str(tmp_path), "state", "x"]) == 1
    assert "container does not exist: x" in capsys.readouterr().err
    assert main(["--root", str(tmp_path), "exec", "x", "true"]) == 255
    assert main(["--root", str(tmp_path), "delete", "x"]) == 1
    assert main(["--root", str(tmp_path), "delete", "--force", "x"]) == 0
    for name in ("", "..", "a/b", "/"):
        assert main(["--root", str(tmp_path), "delete", "--force", name]) == 1
    assert main(["--root", str(tmp_path), "list", "-q"]) == 0


def test_the_log_is_what_the_engine_parses(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    assert main(["--log", str(log), "--log-format=json", "--root", str(tmp_path), "start", "x"]) == 1
    assert main([f"--log={log}", "--log-format", "json", "--root", str(tmp_path), "kill", "x", "9"]) == 1
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["level"] for line in lines] == ["error", "error"]
    assert lines[0]["msg"].startswith("start failed: container does not exist: x")
    assert {"level", "msg", "time"} == set(lines[0])
    text = tmp_path / "log.txt"
    assert main(["--log", str(text), "--root", str(tmp_path), "start", "x"]) == 1
    assert 'level=error msg="start failed' in text.read_text()


def test_a_missing_program_is_worded_as_docker_looks_for_it() -> None:
    said = cli._said(["create", "x"], CommandNotFound('exec: "x": executable file not found in $PATH'))
    assert said == 'create failed: unable to start container process: exec: "x": executable file not found in $PATH'
