"""Containers of a person as scopes of their own systemd: run by `test_systemd.py` in a machine with systemd."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import bundles
from tests.kernel.test_rootless import UID, Person

RUN = Path(f"/run/user/{UID}")
CGROUP = Path("/sys/fs/cgroup/user.slice/person.service/user.slice/mc-box.scope")
AS_THE_PERSON = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups",
                 "env", "-i", f"XDG_RUNTIME_DIR={RUN}", "HOME=/home/person", "PATH=/usr/bin:/bin"]  # fmt: skip


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    """With a systemd of their own, as a login starts one. The machine ends with its tests, and all this with it."""
    made = Person(tmp_path_factory.mktemp("person"))
    with open("/etc/group", "a", encoding="utf-8") as groups:
        groups.write(f"person:x:{UID}:\n")
    RUN.mkdir(parents=True, mode=0o700)
    shutil.chown(RUN, UID, UID)
    theirs = [f"--uid={UID}", f"--gid={UID}", "-E", f"XDG_RUNTIME_DIR={RUN}", "-E", "HOME=/home/person"]
    unit = [
        "systemd-run",
        "--quiet",
        "--unit=person",
        "-p",
        "Slice=user.slice",
        "-p",
        "Delegate=yes",
        "-p",
        "Type=notify",
    ]
    subprocess.run([*unit, *theirs, "/lib/systemd/systemd", "--user"], check=True)
    (RUN / "bus").unlink(missing_ok=True)  # where it has one: not every Debian has
    return made


def _call(person: Person, *words: str) -> bundles.Outcome:
    """The runtime as a unit of the person's systemd. Waiting for more than the unit's own job would take a bus."""
    python = ["-E", f"PYTHONPATH={':'.join(['/srv', *person.packages])}", "--", "/usr/bin/python3"]
    runtime = ["-m", "minicontainer.runtime.main", "--systemd-cgroup", "--root", "/home/person/states"]
    (person.home / "said").unlink(missing_ok=True)
    said = [f"Standard{stream}=append:/home/person/said" for stream in ("Output", "Error")]
    unit = ["Type=oneshot", "Delegate=yes", *said]
    run = ["systemd-run", "--user", "--quiet", *(word for one in unit for word in ("-p", one))]
    done = subprocess.run([*AS_THE_PERSON, *run, *python, *runtime, *words], capture_output=True, check=False)
    assert (person.home / "said").exists(), done.stderr
    return bundles.Outcome(done.returncode, (person.home / "said").read_text())


def _shown(*names: str) -> dict[str, str]:
    command = [*AS_THE_PERSON, "systemctl", "--user", "show", "mc-box.scope", "-p", ",".join(names)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def box(person: Person) -> Iterator[str]:
    made = person.home / "bundle"
    bundles.bundle(made, "true")
    (made / "config.json").unlink()
    person.own()
    assert _call(person, "spec", "--rootless", "--bundle", "/home/person/bundle").status == 0
    config = json.loads((made / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["sleep", "100"]}
    config["linux"] |= {
        "cgroupsPath": ":mc:box",
        "resources": {"memory": {"limit": 64 << 20}, "pids": {"limit": 33}, "devices": [{"allow": False}]},
    }
    (made / "config.json").write_text(json.dumps(config))
    yield "/home/person/bundle"
    _call(person, "delete", "--force", "box")
    assert not CGROUP.exists()


def test_the_person_s_systemd_knows_the_container_and_its_limits(person: Person, box: str) -> None:
    created = _call(person, "create", "--bundle", box, "box")
    assert created.status == 0, created.text
    pid = json.loads(_call(person, "state", "box").text)["pid"]
    assert (CGROUP / "cgroup.procs").read_text().split() == [str(pid)]
    assert os.stat(CGROUP).st_uid == UID
    assert _shown("Slice", "Delegate", "MemoryMax", "TasksMax") == {
        "Slice": "user.slice",
        "Delegate": "yes",
        "MemoryMax": str(64 << 20),
        "TasksMax": "33",
    }
    assert (CGROUP / "memory.max").read_text() == f"{64 << 20}\n"
    assert _call(person, "start", "box").status == 0
    assert _call(person, "update", "--pids-limit", "44", "box").status == 0
    assert _shown("TasksMax") == {"TasksMax": "44"}
    assert _call(person, "pause", "box").status == _call(person, "resume", "box").status == 0
    assert _call(person, "exec", "box", "cat", "/proc/self/cgroup").text == "0::/\n"
    os.kill(pid, 9)
    deadline = time.monotonic() + 30
    while _shown("LoadState")["LoadState"] != "not-found" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _shown("LoadState") == {"LoadState": "not-found"}
    assert _call(person, "delete", "box").status == 0


def test_without_a_systemd_of_their_own_it_is_said_where_one_was_looked_for(person: Person, box: str) -> None:
    said = person.run("--systemd-cgroup", "--root", "/home/person/states", "run", "--bundle", box, "box",
                      module="runtime.main", XDG_RUNTIME_DIR="/run/user/1")  # fmt: skip
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    assert "systemd not running on this host" in said.stderr and "/run/user/1/systemd/private" in said.stderr
