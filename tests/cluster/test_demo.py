"""`./dev demo`, as a newcomer runs it: it keeps its promises, and leaves nothing, however it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from miniecs.census import Census, census
from miniecs.demo import Demo
from miniecs.terminal import Terminal

pytestmark = pytest.mark.cluster

DEV = Path(__file__).parents[2] / "dev"


def start(data: Path, *options: str) -> "subprocess.Popen[str]":
    # Ctrl-C reaches it also when the tests themselves run in the background, where a shell has it ignored.
    command = ["env", "--default-signal=INT", str(DEV), "demo", "--data", str(data), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def read_until(demo: "subprocess.Popen[str]", wanted: str) -> str:
    """What the demo prints up to the line that has `wanted`."""
    assert demo.stdout
    said = ""
    for line in demo.stdout:
        said += line
        if wanted in line:
            return said
    raise AssertionError(f"the demo never said {wanted!r}:\n{said}")


def assert_nothing_is_left(data: Path, before: Census) -> None:
    deadline = time.monotonic() + 5
    while any(census(data).beyond(before).values()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(census(data).beyond(before).values())
    assert not data.exists()


def test_the_demo_does_the_main_job_and_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "demo"
    before = census(data)
    demo = start(data)
    said, _ = demo.communicate(timeout=170)
    assert demo.returncode == 0, said
    assert len(re.findall(r"^   ✓ .* · \d+\.\d s$", said, re.MULTILINE)) == 8, said
    assert "OutOfMemoryError: Container killed due to memory usage" in said
    assert "0 failed" in said
    assert_nothing_is_left(data, before)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_cleans_up(tmp_path: Path, end: signal.Signals) -> None:
    data = tmp_path / "demo"
    before = census(data)
    demo = start(data)
    read_until(demo, "4. Register")
    demo.send_signal(end)
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 128 + end, said
    assert_nothing_is_left(data, before)


def test_what_a_killed_demo_leaves_is_removed_by_stop(tmp_path: Path) -> None:
    data = tmp_path / "demo"
    before = census(data)
    demo = start(data)
    read_until(demo, "4. Register")
    os.kill(demo.pid, signal.SIGKILL)
    demo.communicate(timeout=60)
    subprocess.run([DEV, "demo", "--data", data, "--stop"], check=True, timeout=60)
    assert_nothing_is_left(data, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_comes_while_an_object_is_collected_is_not_lost(tmp_path: Path) -> None:
    class Collected:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    demo = Demo(tmp_path / "demo", keep=False, terminal=Terminal(sys.stdout))
    before = {number: signal.signal(number, demo.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        Collected()
        with pytest.raises(KeyboardInterrupt):
            demo.go_on()
        assert demo.signalled == signal.SIGTERM
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
