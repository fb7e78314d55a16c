"""What --explain shows is what happens; what `explain` shows is the same, and nothing happens."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicontainer import engine
from minicontainer.containers import Home
from tests import attacks, bundles, images
from tests.bundles import Json
from tests.kernel.test_engine import leftovers

pytestmark = pytest.mark.kernel("overlay")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with images.busybox_home(tmp_path / "data") as made:
        yield made
    assert [one for one in leftovers(made) if one.startswith(made.data)] == []


def minicontainer(home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "minicontainer.cli", "--root", home.data, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def calls(text: str) -> list[str]:
    """The calls, each by its name and the path in it, if any: numbers differ from run to run."""
    found = [re.match(r"\w+ +(\w+)\(", line) for line in text.splitlines()]
    return [one[1] for one in found if one]


def test_the_plan_of_an_image_is_what_a_run_of_it_does(home: Home) -> None:
    planned = minicontainer(home, "explain", "busybox", "true")
    done = minicontainer(home, "run", "--rm", "--network", "none", "--explain", "busybox", "true")
    assert (planned.returncode, done.returncode, planned.stderr, done.stdout) == (0, 0, "", "")
    ours = {"write", "flock", "wait_for", "dup2"}  # how creator and child talk, and the caller's streams
    assert [one for one in sorted(calls(planned.stdout)) if one not in ours] == [
        one for one in sorted(calls(done.stderr)) if one not in ours
    ]
    assert engine.list_containers(home) == []
    assert home.data not in Path("/proc/self/mountinfo").read_text()


def test_the_plan_of_a_bundle_needs_no_container_and_makes_nothing(home: Home, tmp_path: Path) -> None:
    made = bundles.bundle(tmp_path, "no-such-program", edit=bundles.user_namespace)
    said = minicontainer(home, "explain", made)
    assert said.returncode == 0
    assert 'execve("no-such-program"' in said.stdout
    assert 'write("/proc/CHILD/uid_map"' in said.stdout
    assert 'execve("other", ["other", "-x"]' in minicontainer(home, "explain", made, "other", "-x").stdout
    groups = [path for path in Path("/sys/fs/cgroup").glob("*/**") if path.name == tmp_path.name]
    assert groups == []


def test_the_plan_of_a_bundle_without_a_cgroup_namespace_shows_its_own_cgroup(home: Home, tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "cgroup"]
        config["mounts"].append(
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
        )
        config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0"}

    done = minicontainer(home, "explain", bundles.bundle(tmp_path, "true", edit=edit))
    assert (done.returncode, done.stderr) == (0, "")
    assert "the container's own cgroup and no other" in done.stdout
    assert done.stdout.index("set_mempolicy(2, 1)") < done.stdout.index("execve(")


def test_a_plan_that_cannot_be_is_one_line(home: Home, tmp_path: Path) -> None:
    attacks.image(home, name="stranger", user="stranger")
    for words in (["nonesuch:1"], ["stranger"], [bundles.bundle(tmp_path, "true", edit=lambda json: json.update(mounts=[
        {"destination": "/x", "type": "bind", "source": "/nonesuch", "options": ["bind"]}]))]):  # fmt: skip
        said = minicontainer(home, "explain", *words)
        assert said.returncode != 0
        assert said.stderr.startswith("minicontainer: ")
        assert said.stderr.count("\n") == 1


def test_exec_and_build_explain_themselves_too(home: Home, tmp_path: Path) -> None:
    one = attacks.start(home, "sleep 60")
    done = minicontainer(home, "exec", "--explain", one.id, "echo", "fine")
    engine.remove(home, one.id, force=True)
    assert done.stdout == "fine\n"
    assert {"clone_joined", "prctl", "capset", "seccomp", "execve"} <= set(calls(done.stderr))
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    done = minicontainer(home, "build", "--network", "none", "--explain", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert {"mount", "pivot_root", "execve"} <= set(calls(done.stderr))


def test_each_command_of_the_runtime_explains_itself(tmp_path: Path) -> None:
    made, root, name = bundles.bundle(tmp_path, "sleep", "60"), str(tmp_path / "states"), f"explained-{os.getpid()}"

    def runtime(*words: str) -> list[str]:
        command = [sys.executable, "-m", "minicontainer.runtime.main", "--root", root, "--explain", *words]
        with open(tmp_path / "said", "w+") as said:  # no pipe: the container would keep it
            subprocess.run(command, stderr=said, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
            said.seek(0)
            return calls(said.read())

    assert {"make_directory", "clone3", "pivot_root"} <= set(runtime("create", "--bundle", made, name))
    assert runtime("start", name)[:2] == ["write", "flock"]
    assert runtime("exec", name, "true")[-1] == "execve"
    assert runtime("pause", name) == runtime("resume", name) == ["freeze"]
    assert runtime("kill", name, "KILL") == ["pidfd_open", "pidfd_send_signal"]
    assert {"rmdir", "remove_tree"} <= set(runtime("delete", "--force", name))
    assert json.dumps(os.listdir(root)) == "[]"
