"""Hooks: at which point of a container's life, in which namespaces, with what on their input; and what becomes of one
that fails."""

import json
import os
import signal
from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.oci.runtime import Status
from minicontainer.runtime import creation, operations, states
from tests import bundles
from tests.bundles import Json

pytestmark = pytest.mark.kernel()

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
INSIDE = ("createContainer", "startContainer")


def hook(script: str, **more: object) -> Json:
    return {"path": "/bin/busybox", "args": ["sh", "-c", script], "env": ["PATH=/bin"], **more}


def telling(tmp_path: Path) -> bundles.Edit:
    """Hooks of each kind that add a line with their kind and their state to a file."""

    def edit(config: Json) -> None:
        config["mounts"].append(
            {"destination": "/log", "type": "bind", "source": str(tmp_path / "log"), "options": ["bind"]}
        )
        for kind in KINDS:
            place = "/log" if kind == "startContainer" else tmp_path / "log"
            config.setdefault("hooks", {})[kind] = [
                hook(f"echo {kind}:$(cat):$(readlink /proc/self/ns/uts):$(pwd):$A >>{place}", env=["PATH=/bin", "A=b"])
            ]
        config["annotations"] = {"a.b": "c"}

    (tmp_path / "log").write_text("")
    return edit


def lines(tmp_path: Path) -> list[tuple[str, Json, str, str, str]]:
    """Kind, state, uts namespace, directory, and the variable A."""
    found = []
    for line in (tmp_path / "log").read_text().splitlines():
        kind, _, rest = line.partition(":")
        state, _, after = rest.rpartition(":uts")
        namespace, directory, variable = after.removeprefix(":").rsplit(":", 2)
        found.append((kind, json.loads(state), namespace, directory, variable))
    return found


@pytest.mark.parametrize("user", [False, True])
def test_each_hook_runs_in_its_turn_in_its_namespaces_with_the_state(tmp_path: Path, user: bool) -> None:
    tell = telling(tmp_path)
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    (tmp_path / "log").chmod(0o666)

    def edit(config: Json) -> None:
        tell(config)
        if user:
            bundles.user_namespace(config)

    root, name = str(tmp_path / "states"), f"hooks-{os.getpid()}"
    made = creation.create(root, name, bundles.bundle(tmp_path, "sleep", "60", edit=edit))
    assert [line[0] for line in lines(tmp_path)] == ["prestart", "createRuntime", "createContainer"]
    assert states.state(root, name).status is Status.CREATED
    operations.start(root, name)
    operations.delete(root, name, force=True)
    os.waitpid(made.pid, 0)
    found = {kind: rest for kind, *rest in lines(tmp_path)}
    assert tuple(line[0] for line in lines(tmp_path)) == KINDS
    assert {kind: rest[0]["status"] for kind, rest in found.items()} == {
        **dict.fromkeys(("prestart", "createRuntime", "createContainer"), "creating"),
        "startContainer": "created",
        "poststart": "running",
        "poststop": "stopped",
    }
    host = os.readlink("/proc/self/ns/uts").removeprefix("uts:")
    for kind, (state, namespace, directory, variable) in found.items():
        assert (state["id"], state["ociVersion"], state["bundle"]) == (name, "1.0.2", str(tmp_path))
        assert state["annotations"] == {"a.b": "c"}
        assert (namespace == host) is (kind not in INSIDE)
        assert state.get("pid") == {"poststop": None, **dict.fromkeys(INSIDE, 1)}.get(kind, made.pid)
        assert directory == ("/" if kind == "startContainer" else str(tmp_path))
        assert variable == "b"


def test_the_environment_of_a_hook_is_what_config_json_says_and_nothing_else(tmp_path: Path) -> None:
    log = tmp_path / "environment"

    def edit(config: Json) -> None:
        config["hooks"] = {
            "createRuntime": [
                {"path": "/bin/busybox", "args": ["busybox", "sh", "-c", f"busybox env | busybox grep -v _= >{log}"]},
            ]
        }

    os.environ["SECRET"] = "of the caller"
    bundles.run(tmp_path, "true", edit=edit)
    assert "SECRET" not in log.read_text()


def test_before_the_root_is_changed_a_hook_sees_the_mounts_and_may_add_some(tmp_path: Path) -> None:
    """What createContainer mounts below the rootfs is in the container, and not on the host."""
    rootfs = tmp_path / "rootfs"

    def edit(config: Json) -> None:
        script = f"mount -t tmpfs none {rootfs}/added && echo here >{rootfs}/added/file && test -d {rootfs}/proc/self"
        config["hooks"] = {"createContainer": [hook(script)]}

    bundles.bundle(tmp_path, "true")
    (rootfs / "added").mkdir()
    assert bundles.sh(tmp_path, "cat /added/file", edit=edit) == "here\n"
    assert list((rootfs / "added").iterdir()) == []


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_that_fails_unmakes_the_container(tmp_path: Path, kind: str) -> None:
    stopped = tmp_path / "stopped"

    def edit(config: Json) -> None:
        failing, never = hook("echo why >&2; exit 3"), hook(f"echo never >{tmp_path}/never")
        config["hooks"] = {kind: [failing, never], "poststop": [hook(f"cat >{stopped}")]}

    with pytest.raises(Error, match=rf"error running {kind} hook #0: /bin/busybox: exit status 3, .*stderr: why"):
        bundles.run(tmp_path, "true", edit=edit)
    assert not (tmp_path / "never").exists()
    assert json.loads(stopped.read_text())["status"] == "stopped"
    assert states.containers(str(tmp_path / "states")) == []


def test_a_start_hook_that_fails_keeps_the_program_from_running(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["hooks"] = {"startContainer": [hook("exit 4")]}

    bundles.bundle(tmp_path, "touch", "/ran", edit=edit)
    with pytest.raises(Error, match=r"error running startContainer hook #0: .*exit status 4"):
        bundles.run(tmp_path, "touch", "/ran", edit=edit)
    assert not (tmp_path / "rootfs/ran").exists()


def test_a_poststart_hook_that_fails_ends_the_program(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["hooks"] = {"poststart": [hook("exit 5")]}

    root, name = str(tmp_path / "states"), f"hooks-{os.getpid()}"
    made = creation.create(root, name, bundles.bundle(tmp_path, "sleep", "60", edit=edit))
    try:
        with pytest.raises(Error, match="error running poststart hook #0"):
            operations.start(root, name)
        assert os.waitstatus_to_exitcode(os.waitpid(made.pid, 0)[1]) == -signal.SIGKILL
    finally:
        operations.delete(root, name, force=True)


def test_a_poststop_hook_that_fails_stops_no_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def edit(config: Json) -> None:
        config["hooks"] = {"poststop": [hook("exit 6"), hook(f"echo last >{tmp_path}/last")]}

    assert bundles.run(tmp_path, "true", edit=edit).status == 0
    assert (tmp_path / "last").read_text() == "last\n"


def test_a_hook_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["hooks"] = {"createRuntime": [hook("exec sleep 100", timeout=1)]}

    with pytest.raises(Error, match="timed out after 1 s"):
        bundles.run(tmp_path, "true", edit=edit)


def test_a_hook_that_is_not_there_is_told(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["hooks"] = {"prestart": [{"path": "/no/such/hook"}]}

    with pytest.raises(Error, match="exec /no/such/hook: no such file or directory"):
        bundles.run(tmp_path, "true", edit=edit)


def test_an_image_s_links_lead_nowhere_while_hooks_wait(tmp_path: Path) -> None:
    """The host's root is still there, and a process of ours has it open: a link of /proc must not lead to it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    bundles.bundle(tmp_path, "true")
    for number in range(3, 30):
        (tmp_path / f"rootfs/trap{number}").symlink_to(f"/proc/self/fd/{number}{outside}")
    for number in range(3, 30):

        def edit(config: Json, trap: str = f"/trap{number}") -> None:
            config["hooks"] = {"createContainer": [hook("true")]}
            config["mounts"].append({"destination": f"{trap}/made", "type": "tmpfs", "source": "tmpfs"})

        with pytest.raises(Error):
            bundles.run(tmp_path, "true", edit=edit)
        assert list(outside.iterdir()) == []
