"""Start-up is a feature: what the runtime's command line loads is held here (STYLE, rule 11)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
ALLOWED = {
    *("os", "sys", "ctypes", "json", "errno", "signal", "stat", "struct", "fcntl", "resource", "time", "enum"),
    *("contextlib", "typing", "collections.abc", "prctl"),
    *("operator", "_json"),  # parts of enum and json, loaded without the rest of json
}
# The closure of `create`, `start`, `state`, `kill`, `delete`.
CLOSURE = [
    *("runtime.cgroups", "runtime.checks", "runtime.cli", "runtime.creation", "runtime.devices", "runtime.init"),
    *("runtime.mount_options", "runtime.operations", "runtime.options", "runtime.program", "runtime.resources"),
    *("runtime.rootfs", "runtime.sealing", "runtime.seccomp", "runtime.states"),
    *("errors", "files", "json_documents", "last_words", "plan", "values"),
    *("oci.fields", "oci.runtime"),
    *("linux.flags", "linux.processes", "linux.procfs", "linux.syscalls"),
]
# What the allowed ones bring along on CPython 3.11 to 3.13; a further one costs every start.
BROUGHT = {
    *("_prctl", "_collections_abc", "_ctypes", "_json", "_opcode", "_struct", "abc", "collections", "functools"),
    *("copyreg", "genericpath", "heapq", "keyword", "operator", "posixpath", "re", "reprlib", "types", "warnings"),
    *("_weakrefset",),
    *("_collections", "_functools", "_operator", "_sre", "_typing", "itertools", "_signal", "_stat", "_weakref"),
    *("_abc", "_thread", "_warnings", "_heapq", "_typing", "site", "encodings", "codecs", "io", "copy", "weakref"),
    *("sre_compile", "sre_constants", "sre_parse", "_ast", "_locale", "math", "builtins", "zipimport", "ctypes"),
}


def _loaded(statement: str) -> set[str]:
    code = f"import sys; sys.path[0:0] = {PACKAGES!r}; known = set(sys.modules)\n{statement}\n"
    code += "print('\\n'.join(sorted(set(sys.modules) - known)))"
    said = subprocess.run([sys.executable, "-ISE", "-c", code], check=True, capture_output=True, text=True).stdout
    return set(said.split())


@pytest.mark.parametrize("name", CLOSURE)
def test_a_module_of_the_runtime_path_imports_only_what_is_allowed(name: str) -> None:
    tree = ast.parse((ROOT / "minicontainer" / f"{name.replace('.', '/')}.py").read_text())
    named = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named.add(node.module)
    assert {module for module in named if not module.startswith("minicontainer")} - ALLOWED == set()


def test_the_runtime_loads_its_closure_and_what_that_brings_and_no_more() -> None:
    loaded = _loaded("from minicontainer.runtime import cli, creation")
    ours = {name.removeprefix("minicontainer.") for name in loaded if name.startswith("minicontainer.")}
    assert ours <= {*CLOSURE, "linux", "oci", "runtime"}
    foreign = {name.partition(".")[0] for name in loaded} - {"minicontainer"}
    assert foreign - {name.partition(".")[0] for name in ALLOWED} - BROUGHT == set()


def test_the_command_line_alone_loads_next_to_nothing() -> None:
    loaded = _loaded("from minicontainer.runtime import cli; cli.main(['--version'])")
    assert "minicontainer.runtime.creation" not in loaded
    assert "ctypes" not in loaded
    assert "json" not in loaded


def test_sealing_comes_before_the_rest_is_loaded() -> None:
    loaded = _loaded("from minicontainer.runtime import main")
    assert {name for name in loaded if name.startswith("minicontainer.")} == {
        "minicontainer.runtime",
        "minicontainer.runtime.main",
        "minicontainer.values",
    }


@pytest.mark.parametrize("command", ["start", "kill", "delete", "state", "pause", "resume", "list", "ps"])
def test_what_makes_no_process_loads_nothing_that_makes_one(command: str) -> None:
    call = f"cli.all_commands()[{command!r}].function(cli.Options({{'root': ['/nowhere']}}, []), one)"
    statement = "from minicontainer.runtime import cli; one = cli.Options({}, ['none'])\n"
    loaded = _loaded(f"{statement}try: {call}\nexcept Exception: pass\nsys.stdout.flush()")
    assert "minicontainer.runtime.states" in loaded
    assert (
        loaded
        & {
            "ctypes",
            "prctl",
            "minicontainer.runtime.creation",
            "minicontainer.runtime.init",
            "minicontainer.runtime.rootfs",
        }
        == set()
    )


def test_what_costs_most_is_loaded_by_no_start() -> None:
    """`typing` with its NamedTuples, and `json` with `re`; `socket` is for consoles, cgroupspy for people."""
    loaded = _loaded("from minicontainer.runtime import main, cli, creation")
    if sys.version_info < (3, 14):
        assert loaded & {"typing", "json", "re"} == set()
    assert loaded & {"socket", "cgroupspy", "subprocess", "argparse", "logging", "dataclasses", "inspect"} == set()
