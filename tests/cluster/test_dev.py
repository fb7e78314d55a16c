"""`./dev`: what a newcomer types. It sets up, is quick when nothing is missing, installs and takes off again."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
COMMANDS = ("minicontainer", "minicontainer-runtime", "miniecs")


def dev(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [ROOT / "dev", *arguments], capture_output=True, text=True, env={**os.environ, **environment}, timeout=300
    )


@pytest.fixture
def path_is_put_back() -> Iterator[None]:
    """What stood in /usr/local/bin under our names stands there again afterwards."""
    links = {name: Path(f"/usr/local/bin/{name}") for name in COMMANDS}
    before = {name: os.readlink(link) if link.is_symlink() else None for name, link in links.items()}
    yield
    for name, link in links.items():
        link.unlink(missing_ok=True)
        if target := before[name]:
            link.symlink_to(target)


def test_setup_when_nothing_is_missing_says_nothing_and_does_nothing() -> None:
    stamp = ROOT / ".venv/.installed"
    before = stamp.stat().st_mtime_ns
    started = time.monotonic()
    done = dev("setup")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stamp.stat().st_mtime_ns == before
    assert time.monotonic() - started < 30  # an installation takes longer


def test_install_puts_the_commands_on_the_path_and_uninstall_takes_them_off(path_is_put_back: None) -> None:
    assert dev("install").returncode == 0
    for name in COMMANDS:
        assert os.path.realpath(f"/usr/local/bin/{name}") == os.path.realpath(ROOT / ".venv/bin" / name)
        said = subprocess.run([f"/usr/local/bin/{name}", "--help"], capture_output=True, text=True, cwd="/")
        assert said.returncode == 0
        assert name in said.stdout
    assert dev("uninstall").returncode == 0
    assert [name for name in COMMANDS if Path(f"/usr/local/bin/{name}").is_symlink()] == []


def test_uninstall_leaves_what_is_not_ours(path_is_put_back: None) -> None:
    other = Path("/usr/local/bin/miniecs")
    other.unlink(missing_ok=True)
    other.symlink_to("/bin/true")
    assert dev("uninstall").returncode == 0
    assert os.readlink(other) == "/bin/true"


def test_the_runtime_starts_with_one_interpreter_that_loads_no_site() -> None:
    launcher = (ROOT / ".venv/bin/minicontainer-runtime").read_text()
    assert launcher.startswith("#!/bin/sh")
    assert " -IS" in launcher
    version = subprocess.run([ROOT / ".venv/bin/minicontainer-runtime", "--version"], capture_output=True, text=True)
    assert version.returncode == 0
    assert version.stdout.splitlines()[0].startswith("minicontainer-runtime")


def test_the_demo_explains_itself() -> None:
    said = dev("demo", "--help")
    assert said.returncode == 0
    assert {"--keep", "--stop", "--data"} <= set(said.stdout.replace(",", " ").split())


def test_stopping_a_demo_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    done = dev("demo", "--stop", "--data", str(tmp_path / "absent"))
    assert (done.returncode, done.stderr) == (0, "")


def test_docs_says_which_page_answers_what() -> None:
    said = dev("docs").stdout
    assert "README" in said
    assert "architecture" in said


def test_the_lock_pins_every_package_by_hash() -> None:
    lines = (ROOT / ".ci/requirements.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert len(pinned) > 30
    assert [line for line in pinned if "==" not in line] == []
    text = "\n".join(lines)
    assert all(block.count("--hash=sha256:") >= 1 for block in text.split("==")[1:])
    for name in ("pyroute2", "python-prctl", "cgroupspy", "pyseccomp", "aiohttp", "botocore", "msgspec"):
        assert f"\n{name}==" in f"\n{text}", name


def test_a_clone_without_root_and_without_packages_is_told_what_to_install(tmp_path: Path) -> None:
    """Without the packages and without root there is one line, with the command that installs them."""
    stage = tmp_path / "checkout"
    stage.mkdir()
    shutil.copy2(ROOT / "dev", stage / "dev")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {
        "dpkg-query": "#!/bin/sh\nexit 1\n",
        "apt-get": "#!/bin/sh\nexit 1\n",
        "id": "#!/bin/sh\necho 1000\n",
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    done = subprocess.run(
        [stage / "dev", "setup"], capture_output=True, text=True, env={"PATH": f"{tools}:/usr/bin:/bin"}
    )
    assert done.returncode == 1
    assert done.stderr.startswith("dev: needs root to install: python3 ")
    assert done.stderr.endswith("try: sudo ./dev setup\n")
