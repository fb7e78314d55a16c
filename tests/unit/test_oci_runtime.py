"""config.json: parsed once, right by construction, refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer.errors import Error
from minicontainer.oci.runtime import (
    IdMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Rlimit,
    Root,
    Spec,
    State,
    Status,
    Unsupported,
    process_from_json,
    resources_from_json,
    spec_to_json,
    to_json,
)
from tests import bundles

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


def test_a_config_json_becomes_values() -> None:
    spec = Spec.from_json(bundles.config("sh", "-c", "true"))
    assert spec.process.args == ("sh", "-c", "true")
    assert spec.process.no_new_privileges
    assert spec.process.capabilities is not None
    assert spec.process.capabilities.bounding == tuple(bundles.CAPABILITIES)
    assert spec.root == Root(path="rootfs")
    assert spec.mounts[0] == Mount(destination="/proc", type="proc", source="proc")
    assert spec.linux.namespace("pid") == Namespace(type="pid")
    assert spec.linux.namespace("user") is None
    assert spec.linux.masked_paths[0] == "/proc/acpi"


def test_to_json_and_back_is_the_same() -> None:
    spec = Spec.from_json(bundles.config("true"))
    assert Spec.from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec


_WORDS, _LONGS = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)


@given(
    args=st.lists(words, min_size=1).map(tuple),
    env=st.lists(words).map(tuple),
    limits=st.lists(st.builds(Rlimit, type=words, soft=_LONGS, hard=_LONGS)).map(tuple),
    mappings=st.lists(st.builds(IdMapping, container_id=_WORDS, host_id=_WORDS, size=_WORDS)).map(tuple),
)
def test_any_spec_survives_json(
    args: tuple[str, ...], env: tuple[str, ...], limits: tuple[Rlimit, ...], mappings: tuple[IdMapping, ...]
) -> None:
    spec = Spec(
        oci_version="1.0.2",
        process=Process(args=args, env=env, rlimits=limits),
        root=Root(path="rootfs"),
        linux=Linux(uid_mappings=mappings, gid_mappings=mappings),
    )
    assert Spec.from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec


def test_names_that_are_not_camel_case_by_the_rule() -> None:
    assert to_json(IdMapping(container_id=0, host_id=5, size=1)) == {"containerID": 0, "hostID": 5, "size": 1}
    assert resources_from_json({"memory": {"disableOOMKiller": True}}).memory.disable_oom_killer


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"linux": {"intelRdt": {"closID": "a"}}}, "linux.intelRdt"),
        ({"vm": {"kernel": {"path": "/x"}}}, "vm"),
        ({"solaris": {"anet": [{"linkname": "net0"}]}}, "solaris"),
    ],
)
def test_a_field_that_is_not_honoured_is_refused_by_name(edit: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=rf"{named} is not supported"):
        Spec.from_json(bundles.config("true") | edit)


@pytest.mark.parametrize("empty", [{}, [], None, "", 0, False, {"prestart": []}, {"a": {"b": None}}])
def test_an_empty_field_asks_for_nothing(empty: object) -> None:
    Spec.from_json(bundles.config("true") | {"vm": empty})


def test_fields_without_effect_are_accepted() -> None:
    linux = {"resources": {"memory": {"limit": 1 << 20, "kernel": 1 << 20, "kernelTCP": 1}}}
    assert Spec.from_json(bundles.config("true") | {"linux": linux}).linux.resources.memory.limit == 1 << 20


@pytest.mark.parametrize(
    ("process", "text"),
    [
        ({"args": "sh"}, "process.args must be a list"),
        ({"args": ["a", 1]}, r"process.args\[1\] must be a string"),
        ({"args": ["a\0b"]}, r"process.args\[0\] must be a string without NUL"),
        ({"args": ["a"], "terminal": 1}, "process.terminal is 1"),
        ({"args": ["a"], "oomScoreAdj": True}, "process.oomScoreAdj is True"),
        ({"cwd": "/"}, "process lacks args"),
        ([], "process must be an object"),
        ({"args": ["a"], "user": {"uid": -1}}, "process.user.uid is -1, which is not between 0 and 4294967294"),
        ({"args": ["a"], "user": {"gid": 4294967295}}, "process.user.gid is 4294967295, which is not between"),
        ({"args": ["a"], "user": {"additionalGids": [1, -1]}}, r"process.user.additionalGids\[1\] is -1"),
        ({"args": ["a"], "rlimits": [{"type": "RLIMIT_CPU", "soft": -1, "hard": 0}]}, r"rlimits\[0\].soft is -1"),
        ({"args": ["a"], "consoleSize": {"height": 1 << 16, "width": 1}}, "process.consoleSize.height is 65536"),
    ],
)
def test_wrong_types_are_named(process: Any, text: str) -> None:
    with pytest.raises(Error, match=text):
        process_from_json(process)


def test_ids_of_devices_and_maps_are_ids() -> None:
    config = bundles.config("true")
    config["linux"]["devices"] = [{"type": "c", "path": "/dev/x", "major": 1, "minor": 3, "uid": -1}]
    with pytest.raises(Error, match=r"linux.devices\[0\].uid is -1"):
        Spec.from_json(config)
    config["linux"] |= {"devices": [], "uidMappings": [{"containerID": 0, "hostID": -1, "size": 1}]}
    with pytest.raises(Error, match=r"linux.uidMappings\[0\].hostID is -1"):
        Spec.from_json(config)


def test_a_relative_destination_begins_at_the_root() -> None:
    config = bundles.config("true")
    config["mounts"] = [{"destination": "here"}]
    assert Spec.from_json(config).mounts[0].destination == "/here"
    config["mounts"] = [{"destination": ""}]
    with pytest.raises(Error, match=r"mounts\[0\].destination is empty"):
        Spec.from_json(config)


def test_a_missing_root_is_named() -> None:
    config = bundles.config("true")
    del config["root"]
    with pytest.raises(Error, match="the document lacks root"):
        Spec.from_json(config)


def test_the_state_keeps_what_was_made() -> None:
    state = State(
        oci_version="1.0.2",
        id="x",
        status=Status.CREATED,
        bundle="/b",
        pid=5,
        annotations={"org.example/a.b": "c"},
        start_time=99,
        cgroups={"": "/sys/fs/cgroup/x", "cpu": "/y"},
        cgroup_parents=1,
    )
    assert State.from_json(json.loads(json.dumps(to_json(state)))) == state
    assert to_json(state)["status"] == "created"
