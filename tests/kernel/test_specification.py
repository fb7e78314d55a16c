"""What the OCI runtime specification demands and no other test shows: docs/conformance.md has the whole list."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.runtime import creation, operations, states
from tests import bundles
from tests.bundles import Json, sh

pytestmark = pytest.mark.kernel()


def _named(kind: str) -> str:
    return f"{kind}-{os.getpid()}"


def test_create_runs_nothing_and_start_runs_it(tmp_path: Path) -> None:
    root, name = str(tmp_path / "states"), _named("create")
    made = creation.create(root, name, bundles.bundle(tmp_path, "touch", "/ran"))
    try:
        assert not (tmp_path / "rootfs/ran").exists()
        operations.start(root, name)
        os.waitpid(made.pid, 0)
        assert (tmp_path / "rootfs/ran").exists()
    finally:
        operations.delete(root, name, force=True)


def test_a_config_json_that_changes_after_create_changes_nothing(tmp_path: Path) -> None:
    root, name = str(tmp_path / "states"), _named("config")
    made = creation.create(root, name, bundles.bundle(tmp_path, "touch", "/old"))
    try:
        bundles.bundle(tmp_path, "touch", "/new")
        operations.start(root, name)
        os.waitpid(made.pid, 0)
        assert sorted(path.name for path in (tmp_path / "rootfs").iterdir() if path.name in ("old", "new")) == ["old"]
    finally:
        operations.delete(root, name, force=True)


def test_mounts_are_made_in_their_order_and_relative_paths_begin_at_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given/file").write_text("from the bundle\n")

    def edit(config: Json) -> None:
        config["mounts"] += [
            {"destination": "/outer", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/outer/inner", "type": "none", "source": "given", "options": ["rbind"]},
            {"destination": "/hidden/inner", "type": "none", "source": "given", "options": ["bind"]},
            {"destination": "/hidden", "type": "tmpfs", "source": "tmpfs"},
        ]

    assert sh(tmp_path, "cat /outer/inner/file; ls /hidden", edit=edit) == "from the bundle\n"


def test_a_path_of_a_namespace_must_be_one_of_its_type(tmp_path: Path) -> None:
    for path in ("/proc/self/ns/uts", "/etc/passwd", "/no/such/file", "relative"):

        def edit(config: Json, path: str = path) -> None:
            config["linux"]["namespaces"][1] = {"type": "network", "path": path}

        with pytest.raises((Error, OSError), match=r"is no network namespace|No such file|not an absolute path"):
            bundles.run(tmp_path, "true", edit=edit)
    assert states.containers(str(tmp_path / "states")) == []


def test_a_namespace_that_is_not_listed_is_the_caller_s(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["namespaces"] = [{"type": "mount"}, {"type": "uts"}, {"type": "pid"}]
        config["mounts"] = [one for one in config["mounts"] if one["type"] not in ("mqueue", "sysfs")]

    said = sh(tmp_path, "for n in net ipc; do readlink /proc/self/ns/$n; done", edit=edit)
    assert said.split() == [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "ipc")]


def test_a_file_that_is_not_the_device_is_an_error(tmp_path: Path) -> None:
    bundles.bundle(tmp_path, "true")
    (tmp_path / "rootfs/device").write_text("a file")

    def edit(config: Json) -> None:
        config["linux"]["devices"] = [{"type": "c", "path": "/device", "major": 1, "minor": 3}]

    with pytest.raises(Error, match="file exists"):
        bundles.run(tmp_path, "true", edit=edit)


def test_devices_have_their_mode_and_owner_anywhere(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["devices"] = [
            {"type": "c", "path": "/some/where", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"type": "p", "path": "/dev/pipe"},
        ]

    said = sh(tmp_path, "stat -c '%F %a %u %g %t:%T' /some/where; stat -c %F /dev/pipe", edit=edit)
    assert said == "character special file 640 7 8 1:5\nfifo\n"


def test_a_console_size_without_a_terminal_is_ignored(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["process"]["consoleSize"] = {"height": 3, "width": 4}

    assert bundles.run(tmp_path, "true", edit=edit).status == 0


def test_host_and_domain_names(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["hostname"], config["domainname"] = "one", "two.example"

    assert sh(tmp_path, "hostname; cat /proc/sys/kernel/domainname", edit=edit) == "one\ntwo.example\n"


@pytest.mark.parametrize("version", ["banana", "2.0.0", "1.0", ""])
def test_a_version_of_another_specification_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(Error, match="ociVersion"):
        bundles.run(tmp_path, "true", edit=lambda config: config.update(ociVersion=version))


@pytest.mark.parametrize("version", ["1.0.0", "1.2.1", "1.1.0+dev", "1.0.2-dev"])
def test_every_version_of_ours_is_taken(tmp_path: Path, version: str) -> None:
    assert bundles.run(tmp_path, "true", edit=lambda config: config.update(ociVersion=version)).status == 0


def test_an_unknown_capability_is_a_warning_that_names_it(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["process"]["capabilities"]["bounding"] = ["CAP_KILL", "CAP_LUCK"]

    command = [sys.executable, "-m", "minicontainer.runtime.cli", "--root", str(tmp_path / "states")]
    command += ["--log", str(tmp_path / "log"), "--log-format", "json", "run"]
    command += ["--bundle", bundles.bundle(tmp_path, "true", edit=edit), _named("capability")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning: process.capabilities.bounding[1]: 'CAP_LUCK'" in done.stderr
    assert json.loads((tmp_path / "log").read_text())["level"] == "warning"


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("maskedPaths", ["proc/kcore"], r"linux.maskedPaths\[0\]"),
        ("readonlyPaths", ["/proc/sys", "sys"], r"linux.readonlyPaths\[1\]"),
        ("resources", {"rdma": {"mlx": {}}}, "linux.resources.rdma.mlx has neither"),
        ("resources", {"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}, r"weightDevice\[0\] has neither"),
        ("seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5}, "defaultErrnoRet: the action"),
        ("seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}, "needs listenerPath"),
        (
            "seccomp",
            {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [], "action": "SCMP_ACT_ALLOW"}]},
            r"syscalls\[0\].names is empty",
        ),
    ],
)
def test_what_the_specification_forbids_is_refused_by_its_field(
    tmp_path: Path, field: str, value: object, text: str
) -> None:
    with pytest.raises(Error, match=text):
        bundles.run(tmp_path, "true", edit=lambda config: config["linux"].update({field: value}))
    assert states.containers(str(tmp_path / "states")) == []


def test_delete_leaves_what_create_has_not_made(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()

    def edit(config: Json) -> None:
        config["mounts"].append({"destination": "/v", "type": "bind", "source": str(volume), "options": ["bind"]})

    sh(tmp_path, "touch /v/kept /kept", edit=edit)
    assert (volume / "kept").exists() and (tmp_path / "rootfs/kept").exists()


def test_an_id_may_be_used_again_when_its_container_is_gone(tmp_path: Path) -> None:
    assert [bundles.run(tmp_path, "echo", str(turn)).text for turn in range(3)] == ["0\n", "1\n", "2\n"]


@pytest.mark.parametrize(
    "propagation", ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"]
)
def test_the_propagation_of_the_root_is_what_is_asked_for(tmp_path: Path, propagation: str) -> None:
    def edit(config: Json) -> None:
        config["linux"]["rootfsPropagation"] = propagation

    said = sh(tmp_path, "head -1 /proc/self/mountinfo", edit=edit).partition(" - ")[0]
    assert ("shared:" in said) is ("shared" in propagation)
    assert ("unbindable" in said) is ("unbindable" in propagation)
