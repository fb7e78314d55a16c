"""A lab that is half made: whoever ends `up`, and however, `down` finds all of it and `up` goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from miniecs.errors import Error
from vagrant import machines
from vagrant.light_lab import LightLab
from vagrant.machines import Machine, Process
from vagrant.nodes import nodes

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["by Ctrl-C", "by kill -9"])
def test_an_up_that_is_ended_half_way_leaves_nothing_after_down(how: signal.Signals, tmp_path: Path) -> None:
    lab = LightLab(tmp_path / "lab")
    environment = {**os.environ, "LAB_DIRECTORY": str(lab.directory)}
    up = subprocess.Popen(
        [sys.executable, "-m", "vagrant.lab", "up", "--workers", "1"], cwd=ROOT, env=environment,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 300  # the image is made, perhaps
    while not (lab.file.exists() and lab.state["machines"]):
        assert up.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(up.pid, how)
    _, said = up.communicate(timeout=120)
    if how == signal.SIGINT:
        assert said.splitlines()[-1] == "lab: interrupted; try: ./dev lab up, which goes on, or: ./dev lab down"
        assert up.returncode == 130
    assert lab._marked_processes()
    assert lab.down()
    assert lab._marked_processes() == []
    assert not lab.directory.exists()


def test_a_machine_that_does_not_answer_is_named_with_what_it_said_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(nodes(1)[1], 1, tmp_path, "uml", "lab", os.getpid())
    machine.log.write_text("Kernel panic - not syncing\n\n")
    monkeypatch.setitem(machines.BOOT_SECONDS, "uml", 0.3)
    with subprocess.Popen(["sleep", "60"]) as process:
        with pytest.raises(
            Error, match=r"worker1 did not answer within 0 s: Kernel panic - not syncing; try: \./dev lab"
        ):
            machine.wait(Process.of(process.pid))
        process.kill()
        process.wait()
        with pytest.raises(Error, match="worker1 ended while it booted: Kernel panic - not syncing; try: "):
            machine.wait(Process.of(process.pid))
