"""The map of STYLE, held as data: storeys, doors, sizes, and who may import what."""

import ast
import functools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# By storey; a line that begins with `package/` is of that package.
MINICONTAINER = {
    0: (
        "errors files values",
        "linux/ flags",
        "build/ expansion file_modes patterns progress",
    ),
    1: (
        "arguments json_documents last_words plan",
        "linux/ crypt dbus procfs rtnetlink syscalls",
        "oci/ fields reference",
        "runtime/ mount_options",
        "image/ archives",
        "registry/ credentials",
        "build/ cache_mounts dockerfile live_view remotes",
    ),
    2: (
        "containers logs subordinate_ids templates trees",
        "linux/ iptables nftables processes",
        "oci/ image runtime",
        "runtime/ options sealing",
        "image/ changesets tar",
        "registry/ users",
        "build/ context",
    ),
    3: (
        "bundle run_options terminal",
        "runtime/ devices hooks labels net_devices program resources rootfs scheduling seccomp",
        "network/ iptables_rules nftables_rules ports",
        "image/ layers overlays store",
        "registry/ settings",
        "build/ agent_socket copying side_by_side stages",
    ),
    4: (
        "apparmor reports",
        "runtime/ cgroups checks init notify systemd",
        "network/ bridge slirp",
        "image/ image_archives layer_blobs merged oci_layouts",
        "registry/ distribution server",
        "build/ checks options reasons run_mounts",
    ),
    5: (
        "bundle_files volumes",
        "runtime/ features idmaps states",
        "image/ layer_workers",
        "registry/ bars transfers",
    ),
    6: (
        "rootless",
        "runtime/ operations readiness",
        "image/ snapshots",
        "registry/ client",
    ),
    7: (
        "runtime/ creation events update",
        "build/ cache outputs",
    ),
    8: (
        "inspection supervisor",
        "image/ images",
        "runtime/ reports",
    ),
    9: (
        "engine",
        "runtime/ cli",
        "registry/ commands",
        "build/ shared_cache",
    ),
    10: (
        "container_changes container_copies explain foreground image_commands machine spawner",
        "runtime/ main",
        "build/ storage workbench",
    ),
    11: (
        "container_commands disk_usage",
        "build/ context_sources copies",
    ),
    12: (
        "volume_commands",
        "build/ runs",
    ),
    13: ("build/ steps",),
    14: (
        "cli",
        "build/ builder",
    ),
    15: ("build/ command",),
}
MINIECS = {
    0: ("errors terminal journal tables census",),
    1: ("model query listeners",),
    2: ("wire auth placement scheduler overrides acs",),
    3: ("store transitions client",),
    4: ("sqlite checkpoint records lifecycle join_keys addresses",),
    5: (
        "join_tokens instance_keys controller explain container_instance container_definition",
        "api/ clusters container_instances task_definitions tasks services tags ecr",
    ),
    6: ("task_engine metadata sessions",),
    7: ("server agent",),
    8: ("cli lab",),
    9: ("demo",),
}
# Doors from miniecs into minicontainer: nothing else crosses.
DOORS = {
    "miniecs.task_engine": {
        "minicontainer.containers",
        "minicontainer.engine",
        "minicontainer.errors",
        "minicontainer.spawner",
    },
    "miniecs.container_definition": {"minicontainer.containers"},
    "miniecs.server": {"minicontainer.registry.server"},
}
# A library or module: the modules of ours that may import it.
ONLY = {
    "ctypes": {"minicontainer.linux.syscalls", "minicontainer.linux.nftables", "minicontainer.linux.crypt"},
    "prctl": {"minicontainer.linux.processes"},
    "cgroupspy": {"minicontainer.runtime.cgroups"},
    "jeepney": {"minicontainer.linux.dbus"},
    "pyseccomp": {"minicontainer.runtime.seccomp"},
    "pyroute2": {"miniecs.lab", "minicontainer.runtime.net_devices"},
    "sqlite3": {"miniecs.sqlite"},
    "botocore": {"miniecs.wire", "miniecs.auth", "miniecs.client", "miniecs.join_keys", "miniecs.cli", "miniecs.demo"},
    "boto3": {"miniecs.demo"},
}
# What may be imported inside a function, and why.
LAZY_MODULES = {  # a command imports only what it needs
    "minicontainer.cli",
    "minicontainer.container_commands",
    "minicontainer.runtime.cli",
    "minicontainer.runtime.reports",
    "miniecs.cli",
}

MODULE_LINES, MODULE_MEDIAN = 500, 200
FUNCTION_LINES, FUNCTION_NINE_TENTHS = 60, 25
PACKAGE_LINES = {"minicontainer": 25_750, "miniecs": 9_500}  # docs/architecture.md, Size, says why
# The parts of minicontainer, each read alone: where it begins, and the lines of what it imports that no part above has.
PARTS = {
    "the OCI runtime": ("runtime.main", 8_050),
    "images and registries": ("image.images image.image_archives registry.server", 5_300),
    "the engine": ("engine foreground spawner", 3_800),
    "the builder": ("build.builder", 5_000),
    "the command line": ("", 3_950),
}


class Module(NamedTuple):
    name: str
    path: Path
    tree: ast.Module
    lines: list[str]


@functools.cache
def modules() -> list[Module]:
    found = []
    for top in ("minicontainer", "miniecs"):
        for path in sorted((ROOT / top).rglob("*.py")):
            if path.name in ("__init__.py", "__main__.py"):
                continue
            text = path.read_text()
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.append(Module(name, path, ast.parse(text), text.splitlines()))
    return found


@functools.cache
def storeys() -> dict[str, int]:
    found = {}
    for top, table in (("minicontainer", MINICONTAINER), ("miniecs", MINIECS)):
        for storey, lines in table.items():
            for line in lines:
                package, slash, names = line.rpartition("/ ")
                found |= {".".join([top, *([package] if slash else []), name]): storey for name in names.split()}
    return found


@functools.cache
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    """All of a tree, walked once for all tests."""
    return tuple(ast.walk(tree))


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Each import statement with the modules it names; `from package import module` names the module."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node, whole if whole in storeys() else node.module


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in nodes(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_module_has_a_storey_and_every_storey_a_module() -> None:
    present = {module.name for module in modules()}
    assert present - set(storeys()) == set(), "give these a storey"
    assert set(storeys()) - present == set(), "these are in the table and not in the tree"


def test_a_module_imports_only_from_storeys_below_its_own() -> None:
    table = storeys()
    wrong = []
    for module in modules():
        for statement, name in imports(module.tree):
            if name not in table or name == module.name:
                continue
            crosses = name.split(".")[0] != module.name.split(".")[0]
            if crosses and name not in DOORS.get(module.name, set()):
                wrong.append(f"{module.path}:{statement.lineno} imports {name}: not a door")
            if not crosses and table[name] >= table[module.name]:
                wrong.append(f"{module.path}:{statement.lineno} imports {name}: storey {table[name]} is not below")
    assert wrong == []


def test_only_the_named_modules_import_a_guarded_library() -> None:
    wrong = [
        f"{module.path}:{statement.lineno} imports {name}"
        for module in modules()
        for statement, name in imports(module.tree)
        if name.split(".")[0] in ONLY and module.name not in ONLY[name.split(".")[0]]
    ]
    assert wrong == []


def test_no_module_has_a_name_that_says_the_right_word_was_not_found() -> None:
    empty = {"utils", "helpers", "common", "misc", "base", "manager", "handler"}
    assert [module.name for module in modules() if empty & set(module.name.split("."))] == []


def test_modules_keep_their_size() -> None:
    sizes = {module.name: len(module.lines) for module in modules()}
    assert {name: size for name, size in sizes.items() if size > MODULE_LINES} == {}
    assert statistics.median(sizes.values()) <= MODULE_MEDIAN


@pytest.mark.parametrize("package", ["minicontainer", "miniecs"])
def test_a_package_can_be_read_in_a_weekend(package: str) -> None:
    lines = sum(len(module.lines) for module in modules() if module.name.startswith(f"{package}."))
    assert lines <= PACKAGE_LINES[package]


def test_each_part_of_minicontainer_is_read_alone() -> None:
    ours = {module.name: module for module in modules() if module.name.startswith("minicontainer.")}
    read: set[str] = set()
    lines = {}
    for part, (entries, _) in PARTS.items():
        waiting = [f"minicontainer.{entry}" for entry in entries.split()] or list(ours)
        new: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in ours and name not in read | new:
                new.add(name)
                waiting += [imported for _, imported in imports(ours[name].tree)]
        lines[part] = sum(len(ours[name].lines) for name in new)
        read |= new
    assert {part: count for part, count in lines.items() if count > PARTS[part][1]} == {}


def test_functions_keep_their_size() -> None:
    sizes = {
        f"{module.path}:{function.lineno} {function.name}": function.end_lineno - function.lineno + 1
        for module in modules()
        for function in functions(module.tree)
        if function.end_lineno
    }
    assert {name: size for name, size in sizes.items() if size > FUNCTION_LINES} == {}
    ordered = sorted(sizes.values())
    assert ordered[len(ordered) * 9 // 10] <= FUNCTION_NINE_TENTHS


def test_every_module_opens_with_what_it_is() -> None:
    assert [module.name for module in modules() if not ast.get_docstring(module.tree)] == []


def test_every_package_opens_with_its_name() -> None:
    for path in (ROOT / "minicontainer").glob("*/__init__.py"):
        assert path.read_text().lower().startswith(f'"""{path.parent.name}: '), path


def test_an_import_inside_a_function_says_why() -> None:
    wrong = []
    for module in modules():
        if module.name in LAZY_MODULES:
            continue
        for function in functions(module.tree):
            for statement, name in imports(function):
                said = module.lines[statement.lineno - 1] + module.lines[statement.lineno - 2]
                if "#" not in said:
                    wrong.append(f"{module.path}:{statement.lineno} imports {name} and does not say why here")
    assert wrong == []


def test_no_global_statement_and_no_unannotated_function() -> None:
    wrong = []
    for module in modules():
        wrong += [f"{module.path}:{node.lineno} global" for node in nodes(module.tree) if isinstance(node, ast.Global)]
        wrong += [f"{module.path}:{f.lineno} {f.name}" for f in functions(module.tree) if f.returns is None]
    assert wrong == []


def test_nothing_is_caught_to_be_passed_over() -> None:
    wrong = [
        f"{module.path}:{node.lineno}"
        for module in modules()
        for node in nodes(module.tree)
        if isinstance(node, ast.ExceptHandler) and all(isinstance(statement, ast.Pass) for statement in node.body)
    ]
    assert wrong == []


def test_there_is_a_line_of_test_for_a_line_of_code() -> None:
    code = sum(len(module.lines) for module in modules())
    tests = sum(len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py"))
    assert tests >= code
