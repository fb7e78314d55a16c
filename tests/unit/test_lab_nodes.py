"""The lab's table of machines, and the command line of the light lab as far as it needs no machine."""

import argparse
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from miniecs.errors import Error
from vagrant import lab, machines, nodes
from vagrant.light_lab import MARK, LightLab
from vagrant.machines import Machine, Process


def test_the_first_is_the_manager_and_workers_are_as_many_as_asked_for() -> None:
    assert [node.name for node in nodes.nodes(2)] == ["manager", "worker1", "worker2"]
    assert len(nodes.nodes(5)) == 6


@pytest.mark.parametrize("workers", [0, 6, -1])
def test_more_or_fewer_workers_than_the_table_has_are_refused(workers: int) -> None:
    with pytest.raises(Error, match=f"{workers} workers: nodes.yaml lists 1 to 5"):
        nodes.nodes(workers)


ROW = "- {name: a, address: 192.168.56.10, cpus: 1, memory: 512}\n"
WRONG_TABLES = {  # a table: the row and what is said of it, by Python and by Ruby
    ROW + ROW.replace("name: a", "name: b"): (2, "a has its name or its address, 192.168.56.10, too", ""),
    ROW + ROW.replace(".10,", ".11,"): (2, "a has its name or its address, 192.168.56.11, too", ""),
    ROW.replace("address", "adress"): (1, "got an unexpected keyword argument 'adress'", "unknown keywords: adress"),
    ROW.replace(", memory: 512", ""): (1, "missing 1 required positional argument: 'memory'", "it lacks memory"),
    ROW.replace(".10,", ".300,"): (1, "Octet 300 (> 255) not permitted", "192.168.56.300 is no address"),
    "hello": (1, "vagrant.nodes.Node() argument after ** must be a mapping", "undefined method `each'"),
    "- {": (1, "while parsing a flow node", "(<unknown>)"),
}  # fmt: skip


@pytest.mark.parametrize("table", WRONG_TABLES)
def test_a_row_that_is_wrong_is_named(table: str, tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text(table)
    row, said, _ = WRONG_TABLES[table]
    with pytest.raises(Error) as caught:
        nodes.nodes(1, tmp_path / "nodes.yaml")
    assert str(caught.value).startswith(f"nodes.yaml, row {row}: {said}")
    assert str(caught.value).endswith(f"; try: a row as the others in {tmp_path}/nodes.yaml")


@pytest.mark.skipif(not shutil.which("ruby"), reason="needs Ruby: sudo apt-get install ruby")
@pytest.mark.parametrize("table", WRONG_TABLES)
def test_a_row_that_is_wrong_is_named_by_vagrant_too(table: str, tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text(table)
    row, python, ruby = WRONG_TABLES[table]
    code = f'Machines.of_nodes_yaml("{tmp_path}/nodes.yaml")'
    done = subprocess.run(["ruby", f"-r{nodes.TABLE.parent}/machines", "-e", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"vagrant: nodes.yaml, row {row}: {ruby or python}")
    assert done.stderr.endswith(f"; try: a row as the others in {tmp_path}/nodes.yaml\n")


def test_every_machine_is_in_the_range_that_virtualbox_allows() -> None:
    allowed = ipaddress.ip_network("192.168.56.0/21")
    assert all(ipaddress.ip_address(node.address) in allowed for node in nodes.nodes(5))


def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in lab.VERBS:
        with pytest.raises(SystemExit) as ended:
            lab.main([verb, "--help"])
        assert ended.value.code == 0
        assert f"usage: ./dev lab {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["status", "env", "provision", "reset worker1", "power off worker1", "ssh worker1"])
def test_without_a_lab_each_verb_says_how_to_get_one(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAB_DIRECTORY", str(tmp_path / "lab"))
    assert lab.main(verb.split()) == 1
    assert capsys.readouterr().err == "lab: no lab is up; try: ./dev lab up\n"


def test_down_without_a_lab_is_no_error(tmp_path: Path) -> None:
    assert not LightLab(tmp_path / "lab").down()


def test_down_finds_what_a_killed_up_had_not_written_down(tmp_path: Path) -> None:
    directory = tmp_path / "lab"
    directory.mkdir()
    started = subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo ready; wait"],
        env={**os.environ, MARK: str(directory)}, start_new_session=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert started.stdout and started.stdout.readline() == b"ready\n"
    assert len(machines.session(started.pid)) == 2
    assert LightLab(directory).down()
    assert started.wait(10) == -signal.SIGKILL
    assert machines.session(started.pid) == []
    assert not directory.exists()


def test_a_directory_too_deep_for_a_socket_has_a_connection_for_each_command(tmp_path: Path) -> None:
    for directory, kept in ((Path("/lab"), "/lab/manager.ssh"), (Path("/lab", "x" * 90), "none")):
        command = Machine(nodes.nodes(1)[0], 0, directory, "uml", "lab", 1).ssh("true")
        assert command[command.index("-S") + 1] == kept


def test_a_process_number_that_is_anothers_by_now_is_not_taken_for_ours() -> None:
    ours = Process.of(os.getpid())
    assert ours.lives
    assert not ours._replace(began="1").lives
    assert not Process.of(2**22).lives


def test_a_machine_that_is_not_in_the_lab_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "lab"
    directory.mkdir()
    (directory / "lab.json").write_text(
        '{"machines": {}, "choices": {"workers": 1, "backend": "uml", "init": "lab"}, "switch": {"pid": 1}}'
    )
    with pytest.raises(Error, match="no machine 'worker7' in the lab; there are: manager, worker1"):
        LightLab(directory).machine("worker7")
    with pytest.raises(Error, match=r"worker1 is off; try: \./dev lab power on worker1"):
        LightLab(directory).ssh("worker1")


def test_the_lab_is_not_loaded_for_its_help() -> None:
    done = subprocess.run([sys.executable, "-m", "vagrant.lab", "--help"], capture_output=True, text=True, check=True)
    assert all(f"    {verb} " in done.stdout or f"    {verb}\n" in done.stdout for verb in lab.VERBS)
    assert isinstance(lab._parser(), argparse.ArgumentParser)
