"""Podman of a person without root, with us as the runtime: what it says is what it says with runc.

Podman itself makes the user namespace then: the runtime is called in it, as its root, who may make no device and mount
no foreign file system.
"""

import shutil
import sys
from collections.abc import Iterator

import pytest

from tests import rooms
from tests.conformance.test_podman import ALIKE, LIFE, SETTINGS, Podman, live
from tests.rooms import ROOT, Said

pytestmark = pytest.mark.engine("podman", "runc", "newuidmap")

UID, FIRST = 4321, 300_000
HOME = "/home/person"
NAME = "minicontainer-runtime"
# In each run; the others with `--lab full`.
OFTEN = ("output", "a program", "capabilities", "devices", "user namespaces", "namespaces of the host")


class PersonsPodman(Podman):
    def __call__(self, runtime: str, *arguments: str) -> Said:
        chosen = NAME if runtime == "ours" else runtime
        command = ["podman", "--storage-driver", "vfs", "--runtime", chosen, *arguments]
        return self.room.call(*_as_the_person(), *command)


def _as_the_person() -> list[str]:
    environment = {"HOME": HOME, "XDG_RUNTIME_DIR": f"{HOME}/run", "TMPDIR": HOME, "PATH": "/usr/sbin:/usr/bin:/bin",
                   "CONTAINERS_CONF": f"{HOME}/containers.conf", "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all"]
    return [*become, "env", "-i", "-C", HOME, *(f"{name}={value}" for name, value in environment.items())]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    directory = tmp_path_factory.mktemp("person")
    home = directory / "homes/person"
    (home / "run").mkdir(parents=True, mode=0o700)
    packages = ":".join(path.replace(str(ROOT), "/srv") for path in sys.path if path.endswith("site-packages"))
    (home / NAME).write_text(f'#!/bin/sh\nPYTHONPATH=/srv:{packages} exec python3 -m minicontainer.runtime.main "$@"\n')
    (home / NAME).chmod(0o755)
    (home / "containers.conf").write_text(f'{SETTINGS}[engine.runtimes]\n{NAME} = ["{HOME}/{NAME}"]\n')
    rooms.root_archive(directory).rename(home / "rootfs.tar")
    with open("/etc/passwd", encoding="utf-8") as file:
        (directory / "passwd").write_text(file.read() + f"person:x:{UID}:{UID}::{HOME}:/bin/sh\n")
    for table in ("subuid", "subgid"):
        (directory / table).write_text(f"person:{FIRST}:65536\n")
    for path in (home, *home.iterdir()):
        shutil.chown(path, UID, UID)
    with rooms.room(directory) as room:
        for source, target in [
            ("homes", "/home"),
            *((name, f"/etc/{name}") for name in ("passwd", "subuid", "subgid")),
        ]:
            assert room.call("mount", "--bind", f"{directory}/{source}", target).status == 0
        assert room.call("mount", "--bind", str(ROOT), "/srv").status == 0
        made = PersonsPodman(room)
        said = made("ours", "import", f"{HOME}/rootfs.tar", "box")
        assert said.status == 0, said.text
        yield made


@pytest.mark.parametrize(
    "name", [name if name.startswith(OFTEN) else pytest.param(name, marks=pytest.mark.full) for name in ALIKE]
)
def test_a_container_is_what_it_is_with_runc(podman: Podman, name: str) -> None:
    podman.same(*ALIKE[name])


def test_a_life_with_exec_logs_and_stop(podman: Podman) -> None:
    """Without what takes a cgroup, which a person may have or not."""
    live(podman, [step for step in LIFE if step[0] not in ("stats", "update", "pause", "unpause")])


def test_a_volume_of_a_person(podman: Podman) -> None:
    look = "cat /v/rootfs.tar | head -c 1 | wc -c; touch /v/x; stat -c %u /v"
    podman.same(*(("run", "--rm", "--network", "none", "-v", f"{HOME}:/v:{options}", "box", "sh", "-c", look)
                  for options in ("ro", "rw", "U")))  # fmt: skip


def test_nothing_is_left_of_all_this(podman: Podman) -> None:
    assert podman("ours", "ps", "-aq").text == ""
    assert podman.room.call("sh", "-c", f"ls {HOME}/run/minicontainer/runtime").text == ""
