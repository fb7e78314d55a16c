"""Hooks: the state that they are given, and what is told of one that fails."""

import json

import pytest

from minicontainer.oci.runtime import Hook, State, Status
from minicontainer.runtime import hooks

STATE = State(oci_version="1.0.2", id="box", status=Status.CREATING, bundle="/b", annotations={"a": "b"}, start_time=7)


def test_the_state_is_that_of_the_specification_and_nothing_of_ours() -> None:
    assert json.loads(hooks.document(STATE, Status.CREATING, 42)) == {
        "ociVersion": "1.0.2",
        "id": "box",
        "status": "creating",
        "pid": 42,
        "bundle": "/b",
        "annotations": {"a": "b"},
    }
    assert "pid" not in json.loads(hooks.document(STATE, Status.STOPPED, 0))


def _steps(*given: Hook) -> list[hooks.Call]:
    return [step.arguments[0] for step in hooks.steps("prestart", given, STATE, Status.CREATING, 1, "/")]


def test_each_hook_is_a_step_in_its_order() -> None:
    calls = _steps(Hook(path="/a"), Hook(path="/b"))
    assert [(call.kind, call.place, call.hook.path) for call in calls] == [("prestart", 0, "/a"), ("prestart", 1, "/b")]


def test_one_that_fails_is_told_with_what_it_said() -> None:
    failing = Hook(path="/bin/sh", args=("sh", "-c", "echo out; echo err >&2; exit 9"))
    with pytest.raises(hooks.HookFailed) as caught:
        hooks.call(_steps(failing)[0])
    assert str(caught.value) == ("error running prestart hook #0: /bin/sh: exit status 9, stdout: out, stderr: err")


def test_one_that_is_killed_is_told_with_the_signal() -> None:
    with pytest.raises(hooks.HookFailed, match="signal: 9"):
        hooks.call(_steps(Hook(path="/bin/sh", args=("sh", "-c", "kill -9 $$")))[0])


def test_arguments_default_to_the_path_and_the_environment_to_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    hooks.call(_steps(Hook(path="/bin/true"))[0])
    shows = Hook(path="/bin/sh", args=("sh", "-c", 'test "$A:$HOME" = "b:"'), env=("A=b", "broken"))
    hooks.call(_steps(shows)[0])


def test_a_warning_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    hooks.warn("poststop", (Hook(path="/no/such"), Hook(path="/bin/true")), STATE, Status.STOPPED, "/")
    assert "warning: error running poststop hook #0: /no/such" in capsys.readouterr().err
