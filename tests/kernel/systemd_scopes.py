"""Containers as scopes of systemd: run by `test_systemd.py` in a machine whose first process is systemd."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import bundles
from tests.bundles import Json

SCOPE, PLACE = "mc-box.scope", Path("/sys/fs/cgroup/lab.slice/lab-one.slice/mc-box.scope")
MIB = 1 << 20


def _call(directory: Path, *arguments: str) -> bundles.Outcome:
    return bundles.call((*bundles.OURS, "--systemd-cgroup"), directory, *arguments)


def _shown(*names: str) -> dict[str, str]:
    command = ["systemctl", "show", SCOPE, "-p", ",".join(names)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Path]:
    def edit(config: Json) -> None:
        config["linux"]["cgroupsPath"] = "lab-one.slice:mc:box"
        config["annotations"] = {"org.systemd.property.TimeoutStopSec": "7"}
        config["linux"]["resources"] |= {
            "memory": {"limit": 64 * MIB, "swap": 64 * MIB},
            "cpu": {"shares": 512, "quota": 25_000, "period": 50_000},
            "pids": {"limit": 33},
        }

    yield Path(bundles.bundle(tmp_path, "sleep", "100", edit=edit))
    _call(tmp_path, "delete", "--force", "box")
    assert not PLACE.exists()


def test_systemd_knows_the_container_and_its_limits(box: Path) -> None:
    created = _call(box, "create", "box")
    assert created.status == 0, created.text
    pid = json.loads(_call(box, "state", "box").text)["pid"]
    assert (PLACE / "cgroup.procs").read_text().split() == [str(pid)]  # who kept the scope is gone
    limits = ("MemoryMax", "CPUQuotaPerSecUSec", "TasksMax", "TimeoutStopUSec")
    assert _shown("Slice", "Delegate", "DevicePolicy", *limits) == {
        "Slice": "lab-one.slice",
        "Delegate": "yes",
        "MemoryMax": str(64 * MIB),
        "CPUQuotaPerSecUSec": "500ms",
        "TasksMax": "33",
        "TimeoutStopUSec": "7s",
        "DevicePolicy": "strict",
    }
    assert (PLACE / "cpu.max").read_text() == "25000 50000\n"


def test_what_update_says_outlives_a_reload_of_systemd(box: Path) -> None:
    assert _call(box, "run", "--detach", "box").status == 0
    assert _call(box, "update", "--memory", "32m", "--memory-swap", "32m", "--pids-limit", "44", "box").status == 0
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert _shown("MemoryMax", "TasksMax") == {"MemoryMax": str(32 * MIB), "TasksMax": "44"}
    assert [(PLACE / name).read_text() for name in ("memory.max", "pids.max")] == [f"{32 * MIB}\n", "44\n"]
    assert _call(box, "exec", "box", "sh", "-c", "echo x >/dev/null; cat /proc/self/cgroup").text == "0::/\n"
    denied = _call(box, "exec", "--cap", "CAP_MKNOD", "box", "sh", "-c", "mknod /disk b 98 0; cat /disk")
    assert "Operation not permitted" in denied.text


def test_the_end_of_a_container_is_the_end_of_its_scope(box: Path) -> None:
    assert _call(box, "run", "--detach", "box").status == 0
    os.kill(json.loads(_call(box, "state", "box").text)["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 30
    while _shown("LoadState")["LoadState"] != "not-found" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _shown("LoadState", "ActiveState") == {"LoadState": "not-found", "ActiveState": "inactive"}
    assert _call(box, "delete", "box").status == 0
    assert _call(box, "run", "--detach", "box").status == 0  # the name is free again
    assert _call(box, "delete", "--force", "box").status == 0
    assert _shown("LoadState") == {"LoadState": "not-found"}


def test_what_is_half_made_leaves_no_scope(box: Path) -> None:
    config = json.loads((box / "config.json").read_text())
    config["process"]["args"] = ["/nonexistent"]
    (box / "config.json").write_text(json.dumps(config))
    done = _call(box, "create", "box")
    assert (done.status, "stat /nonexistent" in done.text) == (1, True), done.text
    assert _shown("LoadState") == {"LoadState": "not-found"}
    config["linux"]["cgroupsPath"] = "/not/of/systemd"
    (box / "config.json").write_text(json.dumps(config))
    assert "expected cgroupsPath to be of format slice:prefix:name" in _call(box, "create", "box").text
