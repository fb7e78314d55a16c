"""Notify: the container process state, and a socket that is none."""

import json
from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.oci.runtime import Seccomp, State, Status
from minicontainer.runtime import notify

PROFILE = Seccomp(default_action="SCMP_ACT_ALLOW", listener_path="/run/agent", listener_metadata="m")


def test_the_state_of_a_further_process_names_the_first_one_too() -> None:
    state = State(oci_version="1.0.2", id="box", status=Status.RUNNING, bundle="/b", pid=7)
    assert json.loads(notify.document(9, PROFILE, state, Status.RUNNING)) == {
        "ociVersion": "1.0.2",
        "fds": ["seccompFd"],
        "pid": 9,
        "metadata": "m",
        "state": {
            "ociVersion": "1.0.2",
            "id": "box",
            "status": "running",
            "pid": 7,
            "bundle": "/b",
            "annotations": {},
        },
    }


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("")])
def test_a_path_that_is_no_socket_is_named(tmp_path: Path, make: object) -> None:
    path = tmp_path / "agent"
    make(path)  # type: ignore[operator]  # one of the two above
    state = State(oci_version="1.0.2", id="box", status=Status.RUNNING, bundle="/b")
    with pytest.raises(Error, match="listenerPath"):
        notify.send(0, 1, PROFILE._replace(listener_path=str(path)), state, Status.RUNNING)
