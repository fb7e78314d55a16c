"""Containers with AppArmor profiles: run by `test_security_modules.py` in a machine whose kernel has AppArmor."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicontainer import apparmor
from tests import bundles
from tests.bundles import OURS, RUNC, Json, call

LOADED = Path("/sys/kernel/security/apparmor/profiles")
PROFILES = """
profile box flags=(attach_disconnected,mediate_deleted) {
  file, capability, network, signal, mount,
  deny /secret rw,
}
profile calm flags=(attach_disconnected,mediate_deleted) {
  file, capability, network, signal,
}
"""
LOOK = "cat /proc/self/attr/current; cat /secret 2>&1"  # one stream: runc copies two in any order


@pytest.fixture(scope="module", autouse=True)
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file = tmp_path_factory.mktemp("profiles") / "profiles"
    file.write_text(PROFILES)
    subprocess.run(["apparmor_parser", "--replace", "--skip-cache", file], check=True)
    assert "box (enforce)" in LOADED.read_text()
    yield
    subprocess.run(["apparmor_parser", "--remove", file], check=True)


def _with(profile: str, **process: object) -> bundles.Edit:
    def edit(json_of: Json) -> None:
        json_of["process"] |= {"apparmorProfile": profile, **process}

    return edit


def _bundle(directory: Path, *args: str, edit: bundles.Edit | None = None) -> Path:
    made = Path(bundles.bundle(directory, *args, edit=edit))
    (made / "rootfs/secret").write_text("secret\n")
    return made


@pytest.mark.parametrize("process", bundles.PROCESSES.values(), ids=bundles.PROCESSES)
def test_a_profile_holds_as_it_does_with_runc(tmp_path: Path, process: Json) -> None:
    made = _bundle(tmp_path, "sh", "-c", LOOK, edit=_with("box", **process))
    said = [call(runtime, made, "run", "--bundle", str(made), "box") for runtime in (OURS, RUNC)]
    assert said[0].text == said[1].text == "box (enforce)\ncat: can't open '/secret': Permission denied\n"
    assert said[0].status == said[1].status == 1


def test_a_profile_holds_in_a_user_namespace(tmp_path: Path) -> None:
    def edit(json_of: Json) -> None:
        bundles.user_namespace(json_of)
        _with("box")(json_of)

    made = _bundle(tmp_path, "sh", "-c", LOOK, edit=edit)
    os.chown(made / "rootfs/secret", bundles.BASE, bundles.BASE)
    said = call(OURS, made, "run", "--bundle", str(made), "box")
    assert said.text == "box (enforce)\ncat: can't open '/secret': Permission denied\n"


def test_without_a_profile_nothing_is_confined(tmp_path: Path) -> None:
    for profile in ("", "unconfined"):
        made = _bundle(tmp_path, "sh", "-c", LOOK, edit=_with(profile))
        assert call(OURS, made, "run", "--bundle", str(made), "box").text == "unconfined\nsecret\n"


def test_a_profile_that_is_not_loaded_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    made = _bundle(tmp_path, "true", edit=_with("nowhere"))
    said = call(OURS, made, "create", "--bundle", str(made), "box")
    assert said.status == call(RUNC, made, "create", "--bundle", str(made), "box").status == 1
    assert "process.apparmorProfile 'nowhere' is not loaded on this host; try: apparmor_parser -r" in said.text
    assert list((tmp_path / "states").glob("box*")) == []


def test_exec_has_the_profile_of_the_container_or_its_own(tmp_path: Path) -> None:
    made = _bundle(tmp_path, "sleep", "100", edit=_with("box"))
    assert call(OURS, made, "run", "--detach", "--bundle", str(made), "box").status == 0
    try:
        assert call(OURS, made, "exec", "box", "sh", "-c", LOOK).text.startswith("box (enforce)\ncat: can't open")
        calm = call(OURS, made, "exec", "--apparmor", "calm", "box", "sh", "-c", LOOK)
        assert calm.text == "calm (enforce)\nsecret\n"
        nowhere = call(OURS, made, "exec", "--apparmor", "nowhere", "box", "true")
        assert (nowhere.status, "'nowhere' is not loaded" in nowhere.text) == (255, True), nowhere.text
    finally:
        call(OURS, made, "delete", "--force", "box")


def test_a_container_that_hides_its_proc_cannot_take_the_profile_off(tmp_path: Path) -> None:
    """CVE-2019-16884, CVE-2019-19921, CVE-2023-28642, CVE-2025-52881: what is written to /proc goes somewhere else."""

    def edit(json_of: Json) -> None:
        _with("box")(json_of)
        sets = [*bundles.CAPABILITIES, "CAP_SYS_ADMIN"]
        json_of["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), sets)

    hide = "mount -t tmpfs tmpfs /proc && mkdir -p /proc/thread-self/attr/apparmor /proc/self/attr/apparmor"
    hide += " && touch /proc/thread-self/attr/apparmor/exec /proc/self/attr/apparmor/exec && sleep 100"
    made = _bundle(tmp_path, "sh", "-c", hide, edit=edit)
    assert call(OURS, made, "run", "--detach", "--bundle", str(made), "box").status == 0
    try:
        until = "until test -e /proc/self/attr/apparmor/exec; do sleep 0.05; done"
        said = call(OURS, made, "exec", "box", "sh", "-c", f"{until}; cat /proc/self/attr/apparmor/exec; cat /secret")
        assert said.text == "cat: can't open '/secret': Permission denied\n"
    finally:
        call(OURS, made, "delete", "--force", "box")


def test_explain_shows_the_profile_before_the_privileges_are_gone(tmp_path: Path) -> None:
    made = _bundle(tmp_path, "true", edit=_with("box"))
    said = call(OURS, made, "--explain", "run", "--bundle", str(made), "box").text
    assert said.index('aa_change_onexec("box")') < said.index("setresuid")


def test_features_say_so(tmp_path: Path) -> None:
    assert json.loads(call(OURS, tmp_path, "features").text)["linux"]["apparmor"] == {"enabled": True}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory with an image that tries what our own profile forbids."""
    place = tmp_path_factory.mktemp("engine")
    (place / "context").mkdir()
    shutil.copy("/bin/busybox", place / "context/busybox")
    (place / "context/Dockerfile").write_text(
        'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
        "RUN cat /proc/self/attr/current > /built\n"
    )
    assert _minicontainer(place, "build", "-q", "-t", "box", str(place / "context")).returncode == 0
    yield place
    _minicontainer(place, "rmi", "--force", "box")
    subprocess.run(["apparmor_parser", "--remove"], input=apparmor.PROFILE, text=True, check=True)


def _minicontainer(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "minicontainer.cli", "--root", str(data / "data"), *words]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def _run(data: Path, script: str, *flags: str) -> str:
    return _minicontainer(data, "run", "--rm", "--network", "none", *flags, "box", "sh", "-c", script).stdout


def test_our_engine_s_containers_have_our_profile(image: Path) -> None:
    assert _run(image, "cat /built /proc/self/attr/current") == "minicontainer-default (enforce)\n" * 2
    assert _run(image, "cat /proc/self/attr/current", "--security-opt", "apparmor=unconfined") == "unconfined\n"
    assert _run(image, "cat /proc/self/attr/current", "--security-opt", "apparmor=calm") == "calm (enforce)\n"


def test_exec_has_our_profile_too(image: Path) -> None:
    started = _minicontainer(image, "run", "-d", "--name", "sleeper", "--network", "none", "box", "sleep", "100")
    assert started.returncode == 0, started.stdout
    try:
        said = _minicontainer(image, "exec", "sleeper", "cat", "/proc/self/attr/current").stdout
        assert said == "minicontainer-default (enforce)\n"
    finally:
        _minicontainer(image, "rm", "--force", "sleeper")


OPEN = ("--cap-add", "SYS_ADMIN", "--userns", "host", "--security-opt", "seccomp=unconfined")


@pytest.mark.parametrize(
    "attack",
    [
        "mount -t tmpfs none /mnt",
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys; cat /proc/sys/vm/swappiness > /was; cat /was > /proc/sys/vm/swappiness",
    ],
)
def test_our_profile_holds_where_other_walls_were_taken_down(image: Path, attack: str) -> None:
    script = f"mkdir -p /mnt; {attack} && echo done"
    assert "done" not in _run(image, script, *OPEN)
    assert "done" in _run(image, script, *OPEN, "--security-opt", "apparmor=unconfined")


def test_what_a_container_does_every_day_goes_on_under_our_profile(image: Path) -> None:
    script = "echo a > /a; ln -s a /b; mkfifo /p; echo 1 > /dev/shm/x; sleep 9 & kill $!; cat /b; hostname; id -u"
    assert _run(image, script, "--hostname", "box", "--tmpfs", "/t", "-v", "v:/v").splitlines() == ["a", "box", "0"]
