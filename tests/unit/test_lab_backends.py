"""Which lab `./dev lab` speaks of: the one that is up, that is asked for, or the usual one; and what it refuses."""

import argparse
import json
import subprocess
from pathlib import Path

import pytest

from vagrant import lab
from vagrant.light_lab import ROOT, LightLab


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DIRECTORY", str(tmp_path / "lab"))
    monkeypatch.setenv("VAGRANT_DOTFILE_PATH", str(tmp_path / "dotfile"))
    monkeypatch.delenv("LAB_BACKEND", raising=False)
    monkeypatch.delenv("WORKERS", raising=False)
    (tmp_path / "lab").mkdir()
    return tmp_path / "lab"


def chosen(*arguments: str) -> tuple[str, str, str]:
    found = lab._parser().parse_args(arguments)
    kind = type(lab._lab(found)).__name__
    return kind, found.backend, found.init


def is_up_with(directory: Path, backend: str, init: str) -> None:
    known = {"choices": {"workers": 2, "backend": backend, "init": init}, "machines": {}}
    (directory / "lab.json").write_text(json.dumps(known))


@pytest.mark.parametrize(
    ("arguments", "environment", "found"),
    [
        (["up"], "", ("LightLab", "uml", "lab")),
        (["up", "--init", "systemd"], "", ("LightLab", "uml", "systemd")),
        (["up", "--backend", "qemu"], "", ("LightLab", "qemu", "systemd")),
        (["up"], "qemu", ("LightLab", "qemu", "systemd")),
        (["up", "--backend", "vagrant"], "", ("VagrantLab", "vagrant", "systemd")),
        (["status"], "vagrant", ("VagrantLab", "vagrant", "systemd")),
        (["up", "--backend", "uml"], "vagrant", ("LightLab", "uml", "lab")),
    ],
)
def test_a_lab_is_what_it_is_asked_to_be(
    arguments: list[str],
    environment: str,
    found: tuple[str, str, str],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert directory.exists()
    if environment:
        monkeypatch.setenv("LAB_BACKEND", environment)
    assert chosen(*arguments) == found


@pytest.mark.parametrize(("backend", "kind"), [("qemu", "LightLab"), ("vagrant", "VagrantLab")])
def test_a_lab_that_is_up_is_gone_on_with_as_it_is(backend: str, kind: str, directory: Path) -> None:
    is_up_with(directory, backend, "systemd")
    for verb in (["up"], ["status"], ["ssh", "worker1"]):
        assert chosen(*verb) == (kind, backend, "systemd")


@pytest.mark.parametrize(
    ("backend", "arguments", "environment", "said"),
    [
        ("vagrant", ["up", "--backend", "uml"], "", "lab: the lab is up with vagrant; try: ./dev lab down first"),
        ("uml", ["up", "--backend", "vagrant"], "", "lab: the lab is up with uml; try: ./dev lab down first"),
        ("", ["status"], "vmware", "lab: LAB_BACKEND=vmware is none; try: uml, qemu, vagrant"),
        ("", ["status"], "", "lab: no lab is up; try: ./dev lab up"),
        (
            "vagrant",
            ["ssh", "worker9"],
            "",
            "lab: no machine 'worker9' in the lab; there are: manager, worker1, worker2",
        ),
        ("uml", ["push", "nothing", "/root"], "", "lab: there is no nothing here to push"),
        ("vagrant", ["push", "nothing", "/root"], "", "lab: there is no nothing here to push"),
    ],
)
def test_what_cannot_be_gets_one_line(
    backend: str, arguments: list[str], environment: str, said: str, directory: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if backend:
        is_up_with(directory, backend, "systemd" if backend == "vagrant" else "lab")
    if environment:
        monkeypatch.setenv("LAB_BACKEND", environment)
    assert lab.main(arguments) == 1
    assert capsys.readouterr().err.strip() == said


def test_workers_that_are_no_number_are_said(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert directory.exists()
    monkeypatch.setenv("WORKERS", "two")
    monkeypatch.setenv("LAB_BACKEND", "vagrant")
    assert lab.main(["ssh", "manager"]) == 1
    assert capsys.readouterr().err == "lab: WORKERS=two is no whole number; try: WORKERS=2\n"


def test_a_vagrant_lab_of_which_nothing_was_made_is_down_without_vagrant(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    is_up_with(directory, "vagrant", "systemd")
    monkeypatch.setenv("PATH", "/nowhere")
    assert lab.main(["down"]) == 0
    assert capsys.readouterr().err == "no lab was up\n" and not directory.exists()


def test_without_vagrant_it_is_said_with_what_to_do(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    is_up_with(directory, "vagrant", "systemd")
    monkeypatch.setenv("PATH", "/nowhere")
    assert lab.main(["status"]) == 1
    assert capsys.readouterr().err.startswith("lab: there is no vagrant; try: docs/how-to/vagrant.md")
    assert lab.main(["doctor"]) == 1
    assert "no vagrant, ssh" in capsys.readouterr().out


class Told:
    """A lab whose machines tell one variable."""

    def environment(self) -> dict[str, str]:
        return {"AWS_PAGER": ""}


def test_env_puts_our_commands_behind_those_of_the_path_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert lab._env(Told(), argparse.Namespace()) == 0  # type: ignore[arg-type]
    said = capsys.readouterr().out
    shell = ["sh", "-c", f"{said}{said}echo $PATH"]
    path = subprocess.run(shell, env={"PATH": "/usr/bin:/bin"}, check=True, capture_output=True, text=True).stdout
    assert path == f"/usr/bin:/bin:{ROOT}/.venv/bin\n"


@pytest.mark.parametrize(("names", "patience"), [(["manager", "worker1"], "180"), (["worker1"], None)])
def test_a_worker_waits_longer_for_a_manager_that_is_made_with_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], patience: str | None
) -> None:
    asked: list[str | None] = []
    made = LightLab(directory)
    monkeypatch.setattr("vagrant.light_lab._stage_images", lambda: None)
    monkeypatch.setattr(made, "machines", lambda: dict.fromkeys(("manager", "worker1")))
    monkeypatch.setattr(made, "_provision_one", lambda _, settings: asked.append(settings.get("PATIENCE")))
    made._provision(names)
    assert asked == [patience] * len(names)
