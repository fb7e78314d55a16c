"""What a config.json asks for is refused by name before anything is made."""

from collections.abc import Callable
from typing import Any

import pytest

from minicontainer.errors import Error
from minicontainer.oci.runtime import Process, Spec
from minicontainer.runtime.checks import check, check_process
from tests import bundles

Json = dict[str, Any]


def _namespaces(config: Json, *kinds: str) -> None:
    config["linux"]["namespaces"] = [{"type": kind} for kind in kinds]


def _without_uts(config: Json) -> None:
    _namespaces(config, "pid", "mount")


def _without_mount(config: Json) -> None:
    _namespaces(config, "pid", "uts")


def _space(config: Json) -> None:
    config["linux"]["namespaces"].append({"type": "space"})


def _twice(config: Json) -> None:
    config["linux"]["namespaces"].append({"type": "pid"})


def _unmapped(config: Json) -> None:
    config["linux"]["namespaces"].append({"type": "user"})


def _mapped_without_namespace(config: Json) -> None:
    config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 1, "size": 1}]


def _half_a_mapping(config: Json) -> None:
    mapping = [{"containerID": 0, "hostID": 7, "size": 1}]
    config["mounts"].append({"destination": "/v", "type": "bind", "source": "/", "uidMappings": mapping})


def _in(*path: str, value: Any) -> Callable[[Json], None]:
    def edit(config: Json) -> None:
        for name in path[:-1]:
            config = config[name]
        config[path[-1]] = value

    return edit


CASES: list[tuple[Callable[[Json], None], str]] = [
    (_without_uts, "need a uts namespace"),
    (_without_mount, "new mount namespace"),
    (_space, "'space' is not supported"),
    (_in("linux", "timeOffsets", value={"boottime": {"secs": 1}}), "needs a new time namespace"),
    (_in("linux", "personality", value={"domain": "LINUX64"}), "linux.personality.domain 'LINUX64'"),
    (_in("linux", "personality", value={"domain": "LINUX", "flags": ["A"]}), "linux.personality.flags"),
    (_in("linux", "netDevices", value={"a/b": {}}), "linux.netDevices: 'a/b' is no name"),
    (_in("linux", "netDevices", value={"a": {"name": "sixteen-letters."}}), "linux.netDevices.a.name: 'sixteen"),
    (
        _in("linux", "netDevices", value={"a": {"name": "c"}, "b": {"name": "c"}}),
        "linux.netDevices.b.name: 'c' is there",
    ),
    (_in("linux", "netDevices", value={"a": {"name": "%d%d"}}), "linux.netDevices.a.name: '%d%d' is no name"),
    (_in("process", "scheduler", value={"policy": "SCHED_LUCK"}), "process.scheduler.policy 'SCHED_LUCK'"),
    (_twice, "names one kind twice"),
    (_unmapped, "needs linux.uidMappings"),
    (_mapped_without_namespace, "need a user namespace"),
    (_half_a_mapping, "/v needs both uidMappings and gidMappings"),
    (_in("process", "args", value=[]), "process.args is empty"),
    (_in("process", "cwd", value="here"), "'here' is not an absolute path"),
    (_in("process", "terminal", value=True), "try: --console-socket"),
    (_in("process", "apparmorProfile", value="docker-default"), "apparmorProfile 'docker-default'"),
    (_in("process", "selinuxLabel", value="a:b:c"), "selinuxLabel"),
    (_in("process", "rlimits", value=[{"type": "RLIMIT_LUCK", "soft": 1, "hard": 1}]), "RLIMIT_LUCK is unknown"),
    (_in("process", "rlimits", value=[{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2), "names one limit twice"),
    (_in("linux", "rootfsPropagation", value="sideways"), "'sideways' is unknown"),
    (_in("linux", "mountLabel", value="a:b"), "mountLabel"),
    (_in("linux", "sysctl", value={"vm.swappiness": "1"}), "vm.swappiness"),
    (_in("linux", "sysctl", value={"kernel.hostname": "x"}), "kernel.hostname"),
    (_in("linux", "devices", value=[{"type": "x", "path": "/dev/x"}]), "/dev/x is of no known type"),
    (_in("mounts", value=[{"destination": "/d", "options": ["bind", "remount"]}]), "/d is to be remounted"),
    (_in("process", "env", value=["A=b", "C"]), "process.env[1]: invalid environment variable 'C'"),
    (_in("process", "env", value=["=b"]), "process.env[0]: invalid environment variable '=b'"),
    (_in("process", "rlimits", value=[{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]), "above its own hard limit 1"),
    (_in("hooks", value={"prestart": [{"path": "true"}]}), "hooks.prestart[0].path: 'true' is not an absolute path"),
    (
        _in("hooks", value={"poststop": [{"path": "/x", "timeout": 0}]}),
        "hooks.poststop[0].timeout: 0 is not above zero",
    ),
]


@pytest.mark.parametrize(("edit", "text"), CASES, ids=[text for _, text in CASES])
def test_what_cannot_be_had_is_named(edit: Callable[[Json], None], text: str) -> None:
    config = bundles.config("true")
    edit(config)
    with pytest.raises(Error) as caught:
        check(Spec.from_json(config), has_console=False)
    assert text in str(caught.value)


def test_a_good_one_passes() -> None:
    config = bundles.config("true")
    bundles.user_namespace(config)
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.sem": "1 2 3 4", "fs.mqueue.msg_max": "10"}
    check(Spec.from_json(config), has_console=False)


def test_a_network_sysctl_needs_a_network_namespace() -> None:
    config = bundles.config("true")
    _namespaces(config, "mount", "uts")
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    with pytest.raises(Error, match="without a network namespace"):
        check(Spec.from_json(config), has_console=False)


def test_a_console_needs_a_terminal() -> None:
    check_process(Process(args=("sh",), terminal=True), has_console=True)
    with pytest.raises(Error, match="terminal is false"):
        check_process(Process(args=("sh",)), has_console=True)
