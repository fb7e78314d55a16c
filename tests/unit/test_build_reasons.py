"""build_reasons: why a step was not cached is told by what has changed."""

from pathlib import Path
from typing import Any

import pytest

from minicontainer.build.reasons import Reasons, differences

RUN: dict[str, Any] = {
    "layers below": "sha256:1",
    "command": ["/bin/sh", "-c", "make"],
    "environment": ["PATH=/bin", "A=1"],
    "user": "",
    "mounts": [],
}
COPY: dict[str, Any] = {
    "layers below": "",
    "copy": {"destination": "/x", "mode": ""},
    "sources": [["a", "1"], ["b", "2"]],
}


@pytest.mark.parametrize(
    ("before", "changed", "said"),
    [
        (RUN, {"layers below": "sha256:2"}, ["the layers below are others"]),
        (RUN, {"command": ["x"]}, ['command: was ["/bin/sh", "-c", "make"], is ["x"]']),
        (RUN, {"environment": ["PATH=/bin", "A=2"]}, ['environment: A was "1", is "2"']),
        (RUN, {"environment": ["PATH=/bin"]}, ['environment: A was "1", is unset']),
        (RUN, {"user": "web", "mounts": [1]}, ['user: was "", is "web"', "mounts: was [], is [1]"]),
        (RUN, {"command": "x" * 100}, [f'command: was ["/bin/sh", "-c", "make"], is "{"x" * 58}…']),
        (COPY, {"sources": [["a", "1"], ["b", "3"]]}, ["b has changed"]),
        (COPY, {"sources": [["a", "1"], ["c", "2"]]}, ["c is new", "b is gone"]),
        (COPY, {"sources": [["b", "2"], ["a", "1"]]}, ["the sources stand in another order"]),
        (COPY, {"sources": [["", "1"], ["b", "2"]]}, ["the context is new", "a is gone"]),
        (COPY, {"copy": {"destination": "/x", "mode": "755"}}, ['copy: mode was "", is "755"']),
        (COPY, {"files of a": "sha256:1"}, ["the files of a are others"]),
        (COPY, {}, []),
    ],
)
def test_a_difference_is_a_phrase(before: dict[str, Any], changed: dict[str, Any], said: list[str]) -> None:
    assert list(differences(before, {**before, **changed})) == said


def test_a_step_is_known_by_its_place(tmp_path: Path) -> None:
    data = str(tmp_path)
    first = Reasons(data, "context/Dockerfile/0/1")
    assert first.told(RUN, False, True) == "not cached: nothing is known of this step: it is new, or was pruned"
    first.remember("key", RUN)
    again = Reasons(data, "context/Dockerfile/0/1")
    assert again.told(RUN, True, True) == "cached: nothing has changed: layers below, command, environment"
    assert again.told(RUN, False, True) == "not cached: nothing has changed, but its layer is gone"
    assert again.told({**RUN, "user": "1"}, False, True) == 'not cached: user: was "", is "1"'
    assert again.told(RUN, False, False) == "not cached: it was not to be: --no-cache or --no-cache-filter"
    other = Reasons(data, "context/Dockerfile/0/2")
    assert other.before is None
    Path(first.path).write_text("{")  # a power cut
    assert Reasons(data, "context/Dockerfile/0/1").before is None
