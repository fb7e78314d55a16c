"""Where a cgroup is, for both versions."""

import errno
import os
from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.oci.runtime import Spec
from minicontainer.runtime import cgroups
from minicontainer.runtime.cgroups import Hierarchies
from tests import bundles


def test_relative_paths_are_below_the_caller_s_own_cgroup() -> None:
    hybrid = Hierarchies(
        mounts={"cpu": "/c/cpu", "memory": "/c/memory", "": "/c/unified"},
        own={"cpu": "/", "memory": "/me", "": "/"},
        version2=False,
    )
    assert cgroups.resolve(hybrid, "task/one") == {
        "cpu": "/c/cpu/task/one",
        "memory": "/c/memory/me/task/one",
        "": "/c/unified/task/one",
    }
    assert cgroups.resolve(hybrid, "/task")["memory"] == "/c/memory/task"


@pytest.mark.parametrize("kind", [cgroups.UNIFIED, "freezer"])
def test_what_is_gone_need_not_be_thawed(tmp_path: Path, kind: str) -> None:
    """SIGKILL ends what is frozen, and its supervisor may have taken the cgroup away before it is thawed."""
    cgroups.freeze({kind: f"{tmp_path}/gone"}, False)
    with pytest.raises(FileNotFoundError):
        cgroups.freeze({kind: f"{tmp_path}/gone"}, True)


@pytest.mark.parametrize("kind", [cgroups.UNIFIED, "freezer"])
def test_a_cgroup_that_goes_while_it_is_read_is_not_frozen(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def read(path: str) -> str:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), path)

    monkeypatch.setattr(cgroups, "read", read)
    assert not cgroups.is_frozen({kind: "/cgroup"})


def test_on_version_2_they_are_beside_it() -> None:
    def at(own: str) -> Hierarchies:
        return Hierarchies(mounts={"": "/c"}, own={"": own}, version2=True)

    assert cgroups.resolve(at("/user/shell"), "one") == {"": "/c/user/one"}
    assert cgroups.resolve(at("/"), "one") == {"": "/c/one"}
    assert cgroups.resolve(at("/user"), "/abs/olute") == {"": "/c/abs/olute"}


@pytest.mark.parametrize("path", ["", "../x", "a/../../b"])
def test_a_path_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(Error, match="leads nowhere"):
        cgroups.resolve(Hierarchies(mounts={"": "/c"}, own={"": "/"}, version2=True), path)


@pytest.mark.parametrize(("path", "levels"), [("one", 0), ("task/one", 1), ("a/b/c", 2), ("/a/b", 0)])
def test_parents_that_are_ours(path: str, levels: int) -> None:
    assert cgroups.levels(path) == levels


@pytest.mark.parametrize(
    ("options", "kinds", "uid", "owner"),
    [
        ([], ["mount", "cgroup", "uts"], 0, 0),
        (["ro"], ["mount", "cgroup", "uts"], 0, None),
        ([], ["mount", "uts"], 0, None),
        ([], ["mount", "cgroup", "uts", "user"], 7, bundles.BASE + 7),
        ([], ["mount", "cgroup", "uts"], 1000, 1000),
    ],
)
def test_who_is_to_own_a_cgroup(options: list[str], kinds: list[str], uid: int, owner: int | None) -> None:
    config = bundles.config("true")
    if "user" in kinds:
        bundles.user_namespace(config)
    config["linux"]["namespaces"] = [{"type": kind} for kind in kinds]
    config["process"]["user"] = {"uid": uid, "gid": 0}
    config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options})
    assert cgroups.owner(Spec.from_json(config)) == owner
