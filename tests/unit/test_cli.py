"""cli: the table, help, exit codes, and that a command imports no more than it needs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minicontainer import cli, rootless, run_options
from minicontainer.errors import Error


def test_every_command_of_the_table_has_its_function() -> None:
    import importlib

    for entry in cli.TABLE:
        module = importlib.import_module(f"minicontainer.{entry.module}")
        assert hasattr(module, entry.function) or hasattr(module, f"{entry.function}_"), entry.command.name


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for entry in cli.TABLE:
        assert cli.main([entry.command.name, "--help"]) == 0
        said = capsys.readouterr()
        assert said.out.startswith(f"usage: minicontainer {entry.command.name}")
        assert said.err == ""
        assert [line for line in said.out.splitlines() if len(line) > 80] == []


def test_the_whole_has_help_and_a_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"  run +create a container", said)
    assert [line for line in said.splitlines() if len(line) > 80] == []
    assert cli.main(["help", "stop"]) == 0
    assert capsys.readouterr().out.startswith("usage: minicontainer stop")
    for words in (["--version"], ["version"]):
        assert cli.main(words) == 0
        assert capsys.readouterr().out == f"minicontainer {cli.VERSION}\n"


def test_dockers_long_forms_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    for long, short in cli.ALIASES.items():
        assert cli.main([*long.split(), "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"usage: minicontainer {short} ")
    assert cli.main(["container", "--help"]) == 0
    assert re.search(r"  container ls +list containers", capsys.readouterr().out)


def test_what_docker_has_and_we_do_not_is_neither_a_command_nor_a_flag() -> None:
    assert set(cli.ELSEWHERE) & {*cli.COMMANDS, *cli.GROUPS} == set()
    assert {name for flag in run_options.FLAGS for name in flag.names} & set(run_options.ELSEWHERE) == set()


def test_nothing_at_all_is_answered_with_the_help_and_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 125
    said = capsys.readouterr()
    assert (said.out, said.err.startswith("usage: minicontainer")) == ("", True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "minicontainer: unknown command rnu (did you mean run?); try: minicontainer --help\n"),
        (["--rot", "/x", "ps"], "minicontainer: minicontainer: unknown flag --rot (did you mean --root?)"),
        (["network", "ls"], "minicontainer: network is not built: there is one bridge"),
        (["run", "--privileged", "x"], "minicontainer: run: --privileged is not built: try: --cap-add"),
        (["container", "lss"], "minicontainer: unknown command container lss"),
        (["stop"], "minicontainer: stop: CONTAINER... is missing; try: minicontainer stop --help\n"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 125
    assert capsys.readouterr().err.startswith(said)


def test_who_is_not_root_becomes_so_in_a_namespace_of_their_own_but_not_for_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entered: list[str] = []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(rootless, "enter", lambda place: entered.append(place.data))
    assert cli.main(["--root", str(tmp_path), "ps"]) == 0
    assert entered == [str(tmp_path)]
    assert cli.main(["ps", "--help"]) == 0
    assert entered == [str(tmp_path)]


def test_errors_of_the_user_and_of_the_kernel_are_lines_and_bugs_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: BaseException) -> None:
        def dispatch(_: list[str]) -> int:
            raise error

        monkeypatch.setattr(cli, "dispatch", dispatch)

    fail(Error("what; try: this"))
    assert (cli.main(["x"]), capsys.readouterr().err) == (125, "minicontainer: what; try: this\n")
    fail(PermissionError(13, "Permission denied", "/file"))
    assert (cli.main(["x"]), capsys.readouterr().err) == (125, "minicontainer: /file: Permission denied\n")
    fail(KeyboardInterrupt())
    assert cli.main(["x"]) == 130
    fail(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["x"])


def imported_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_a_command_imports_no_more_than_it_needs() -> None:
    heavy = {
        "pyroute2",
        "asyncio",
        "http.client",
        "subprocess",
        "argparse",
        "pyseccomp",
        "logging",
        "difflib",
        "aiohttp",
    }
    assert imported_by("import minicontainer.cli") & (heavy | {"minicontainer.engine", "hashlib"}) == set()
    assert imported_by("import minicontainer.container_commands, minicontainer.foreground") & heavy == set()
