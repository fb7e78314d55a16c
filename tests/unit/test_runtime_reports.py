"""The commands that tell and change: formats, flags, and what is refused by name."""

import json
from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.oci.runtime import NEWEST_VERSION, OCI_VERSION, Seccomp, SeccompRule, Spec, State, Status
from minicontainer.runtime import features, seccomp
from minicontainer.runtime.cli import all_commands, main
from minicontainer.runtime.options import ROOT, Flag, Options, parse, root_of
from minicontainer.runtime.reports import public


def _said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(list(arguments)) == status
    said = capsys.readouterr()
    return said.out if status == 0 else said.err


def test_no_container_is_null_as_json_and_a_title_as_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("--root", str(tmp_path))
    assert json.loads(_said(capsys, *root, "list", "-f", "json")) is None
    assert _said(capsys, *root, "list").split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert "invalid format option 'xml'" in _said(capsys, *root, "list", "--format", "xml", status=1)


@pytest.mark.parametrize("command", ["checkpoint", "restore"])
def test_what_is_not_supported_is_refused_by_name(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{command} is not supported by this runtime" in _said(capsys, command, "box", status=1)


@pytest.mark.parametrize("command", ["state", "update", "ps", "events"])
def test_a_container_that_is_not_there(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "container does not exist: box" in _said(capsys, "--root", str(tmp_path), command, "box", status=1)


def test_an_unknown_log_format_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "invalid log-format: xml" in _said(capsys, "--log-format", "xml", "list", status=1)


@pytest.mark.parametrize("rootless", [[], ["--rootless"]])
def test_a_config_json_to_begin_with_is_one_that_we_take(
    rootless: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _said(capsys, "spec", "--bundle", str(tmp_path), *rootless)
    spec = Spec.from_json(json.loads((tmp_path / "config.json").read_text()))
    assert spec.oci_version == OCI_VERSION
    assert (spec.linux.namespace("user") is not None) is bool(rootless)
    assert "exists; try: remove it" in _said(capsys, "spec", "--bundle", str(tmp_path), status=1)


def test_features_are_what_the_tables_say(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(_said(capsys, "features"))
    assert found["ociVersionMax"] == NEWEST_VERSION
    assert found["hooks"][0] == "prestart" and len(found["hooks"]) == 6
    assert {"bind", "rro", "rslave", "tmpcopyup", "nosymfollow", "sync", "iversion"} <= set(found["mountOptions"])
    linux = found["linux"]
    assert "time" in linux["namespaces"]
    assert linux["cgroup"]["v2"] and linux["cgroup"]["systemd"]
    assert "SCMP_ACT_NOTIFY" in linux["seccomp"]["actions"]
    assert linux["apparmor"] == {"enabled": True}


def test_every_action_that_is_told_of_can_be_compiled() -> None:
    for action in set(seccomp.ACTIONS) - {seccomp.NOTIFY}:
        rule = SeccompRule(names=("getppid",), action=action)
        default = "SCMP_ACT_LOG" if action == "SCMP_ACT_ALLOW" else "SCMP_ACT_ALLOW"
        assert seccomp.compile_profile(Seccomp(default_action=default, syscalls=(rule,)))
    assert len(features.features()["linux"]["seccomp"]["operators"]) == 7


@pytest.mark.parametrize("command", ["list", "features", "spec"])
def test_a_command_without_arguments_takes_none(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no argument is needed, and 1 are given" in _said(capsys, command, "more", status=1)


@pytest.mark.parametrize(("text", "number"), [("7", 7), ("-1", -1), ("2k", 2048), ("50m", 50 << 20), ("1GiB", 1 << 30)])
def test_a_size_may_end_in_a_unit(text: str, number: int) -> None:
    assert Options({"memory": [text]}, []).bytes("memory") == number


@pytest.mark.parametrize("text", ["", "m", "x", "1x", "1.5m", "--1"])
def test_a_size_that_is_none_is_named(text: str) -> None:
    with pytest.raises(Error, match="invalid value for memory: invalid size"):
        Options({"memory": [text]}, []).bytes("memory")


def test_annotations_are_told_when_there_are_any() -> None:
    state = State(oci_version="1.0.2", id="a", status=Status.CREATED, bundle="/b")
    assert "annotations" not in public(state)
    assert public(state._replace(annotations={"a": "b"}))["annotations"] == {"a": "b"}


def test_a_letter_stands_for_what_the_command_has() -> None:
    flags = {"force": Flag("")}
    assert parse(["-f"], flags).has("force")
    assert parse(["-f", "json"], {"format": Flag("", "FORMAT")}).text("format") == "json"
    assert parse(["-r", "-"], all_commands()["update"].flags).text("resources") == "-"


def test_a_number_may_be_negative_and_a_root_is_absolute() -> None:
    assert Options({"memory": ["-1"]}, []).number("memory") == -1
    assert root_of(Options({}, [])) == ROOT
    assert root_of(Options({"root": ["here"]}, [])).endswith("/here")
