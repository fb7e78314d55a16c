"""The pages against the code: every command, flag, action, setting and module that there is has its place in docs/."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from minicontainer import cli, run_options, templates
from minicontainer.build.dockerfile import INSTRUCTIONS
from minicontainer.runtime import cli as runtime_cli
from miniecs import acs, demo, placement, server
from miniecs import cli as miniecs_cli
from miniecs.api import services
from tests.unit.test_layers import modules, storeys

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ENVIRONMENT = re.compile(
    r"""environ(?:\.get\(|\[)"([A-Z_]+)"|"([A-Z_]+)"\ (?:not\ )?in\ os\.environ|^\s+"((?:AWS|ECS)_[A-Z0-9_]+)":\ """,
    re.VERBOSE | re.MULTILINE,
)


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


def sections(text: str) -> dict[str, str]:
    """What stands below each heading of the third level that names a command."""
    parts = re.split(r"^#{2,3} (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented_flags(text: str) -> set[str]:
    """The long flags in the first column of the tables."""
    first = re.findall(r"^\| (`-[^|]*(?:\\\|[^|]*)*)\|", text, flags=re.MULTILINE)
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", " ".join(first)))


def long_names(flags: Iterable[str]) -> set[str]:
    return {name for name in flags if name.startswith("--")} - {"--help"}


def compare(text: str, commands: Mapping[str, set[str]], shared: str = "") -> list[str]:
    """Where the sections of a page and the commands' flags differ; `shared` is the section for several commands."""
    found = sections(text)
    wrong = [f"{name}: no section" for name in commands if f"`{name}`" not in found]
    for name, flags in commands.items():
        written = documented_flags(found.get(f"`{name}`", ""))
        common = documented_flags(found.get(shared, "")) if written < flags else set()
        wrong += [f"{name}: {flag} is not documented" for flag in sorted(flags - written - common)]
        wrong += [f"{name}: {flag} does not exist" for flag in sorted(written - flags)]
    return wrong


def test_every_command_and_flag_of_minicontainer_is_in_its_reference() -> None:
    commands = {
        entry.command.name: long_names(name for flag in entry.command.flags for name in flag.names)
        for entry in cli.TABLE
    }
    assert compare(page("minicontainer"), commands, shared="Flags of run and create") == []


def test_the_reference_writes_each_flag_and_usage_as_the_help_does() -> None:
    """Short names and the words for values too; what is said of a flag may be longer in the reference."""
    found = sections(page("minicontainer"))
    missing = []
    for command in (entry.command for entry in cli.TABLE):
        text = found[f"`{command.name}`"] + found["Flags of run and create"]
        written = [f"minicontainer {command.name}{' [FLAGS]' if command.flags else ''} {command.words}".rstrip()]
        for flag in command.flags:
            *others, last = flag.names
            written.append("`, `".join([*others, f"{last} {flag.value}".rstrip()]))
        missing += [one for one in written if f"`{one}`" not in text.replace("\\|", "|")]
    assert missing == []


def test_what_docker_has_and_we_do_not_is_in_the_reference_and_says_what_to_do() -> None:
    section = sections(page("minicontainer"))["What docker has and we do not"].partition("`container` stands")[0]
    assert set(re.findall(r"`([a-z-]+)`", section)) - {"run"} == {*cli.ELSEWHERE, *run_options.ELSEWHERE}


def test_every_function_of_templates_is_in_the_reference() -> None:
    section = sections(page("minicontainer"))["Format"].partition("functions")[2]
    assert set(re.findall(r"`([a-z]+)`", section)) == set(templates.FUNCTIONS)


def test_every_command_and_flag_of_the_runtime_is_in_its_reference() -> None:
    commands = {name: {f"--{flag}" for flag in one.flags} for name, one in runtime_cli.all_commands().items()}
    text = page("minicontainer-runtime")
    assert compare(text, commands) == []
    before = documented_flags(sections(text)["Flags before the command"])
    assert before == {f"--{flag}" for flag in runtime_cli.GLOBAL_FLAGS}


def test_every_command_and_flag_of_miniecs_is_in_its_reference() -> None:
    commands = {}
    for name in miniecs_cli.COMMANDS:
        parser = miniecs_cli._parser(name)
        chosen = next(action.choices for action in parser._actions if action.choices)
        assert isinstance(chosen, dict)
        commands[name] = long_names(flag for action in chosen[name]._actions for flag in action.option_strings)
    assert compare(page("miniecs"), commands) == []


def test_the_demos_flags_are_in_the_reference() -> None:
    source = Path(demo.__file__).read_text()
    flags = set(re.findall(r'add_argument\("(--[a-z]+)"', source))
    assert documented_flags(sections(page("miniecs"))["The demo"]) == flags


def test_every_ecs_action_is_in_the_reference_and_no_other() -> None:
    text = page("ecs-actions")
    rows = re.findall(r"^\| ((?:`[A-Z]\w+`(?:, )?)+) \|", text, flags=re.MULTILINE)
    written = set(re.findall(r"`(\w+)`", " ".join(rows)))
    there = set()
    for parts in server.API.values():
        for module in parts:
            for name, value in vars(module).items():
                if getattr(value, "__module__", "") == module.__name__ and callable(value) and name[0] != "_":
                    there.add("".join(word.capitalize() for word in name.split("_")))
    assert written == there


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


@pytest.mark.parametrize("shape", [acs.Container, acs.LinuxParameters])
def test_every_field_that_the_agent_honours_is_in_the_reference(shape: type[msgspec.Struct]) -> None:
    text = page("ecs-actions")
    ours = {
        "containerArn",
        "logConfiguration",
        "linuxParameters",
    }  # what the server adds; parts with a row of their own
    fields = {field.encode_name for field in msgspec.structs.fields(shape)} - ours
    assert {field for field in fields if f"`{field}`" not in text} == set()


def test_what_services_and_placement_refuse_or_take_is_in_the_reference() -> None:
    text = page("ecs-actions")
    words = [camel(name) for name in services.UNSUPPORTED] + list(placement.FIELDS)
    words += [str(port) for port in placement.RESERVED_PORTS]
    assert [word for word in words if not re.search(rf"\b{word}\b", text)] == []


def test_every_frame_of_a_session_is_in_the_reference() -> None:
    text = page("miniecs")
    assert [name for name in (*acs.TO_AGENT, *acs.FROM_AGENT) if f"`{name}`" not in text] == []


def test_every_instruction_and_its_flags_are_in_the_reference() -> None:
    text = page("minicontainer").partition("## Dockerfile")[2]
    words = [*INSTRUCTIONS, *(f"--{flag}" for form in INSTRUCTIONS.values() for flag in (*form.flags, *form.later))]
    words = [word.rstrip("?*") for word in words]
    assert [word for word in words if word not in text] == []


def test_every_environment_variable_that_is_read_or_given_is_in_the_reference() -> None:
    known = dict(variables())
    assert {"MINICONTAINER_ROOT", "AWS_ENDPOINT_URL", "NO_COLOR", "ECS_AGENT_URI"} <= set(known)
    texts = {package: page(package) for package in ("minicontainer", "miniecs")}
    texts["minicontainer"] += page("minicontainer-runtime")
    missing = [f"{where}: {name}" for name, where in known.items() if f"`{name}`" not in texts[where.partition(".")[0]]]
    assert missing == []


def variables() -> Iterator[tuple[str, str]]:
    for module in modules():
        for found in ENVIRONMENT.finditer("\n".join(module.lines)):
            yield next(filter(None, found.groups())), module.name


def test_the_map_names_every_module_in_its_storey() -> None:
    """A table for each package, a row for each module: its storey, its name, what it is for."""
    map_of = sections((ROOT / "docs/architecture.md").read_text())
    assert "TODO" not in map_of["minicontainer"] + map_of["miniecs"]
    shown = {
        f"{package}.{name.replace('/', '.')}": int(storey)
        for package in ("minicontainer", "miniecs")
        for storey, name in re.findall(r"^\| (\d+) \| \[`([\w/]+)`\]", map_of[package], flags=re.MULTILINE)
    }
    differ = {name for name, _ in set(shown.items()) ^ set(storeys().items())}
    assert sorted(f"{name}: storey {storeys().get(name)}, in the map {shown.get(name)}" for name in differ) == []


def test_every_dependency_has_its_reason_in_the_architecture() -> None:
    """Of those that a product imports; the tools of `dev` are in one row by their names."""
    text = (ROOT / "docs/architecture.md").read_text().partition("## Dependencies")[2]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [*project["dependencies"], *project["optional-dependencies"]["fast"], "awscli", "boto3", "hypothesis"]
    assert [name for name in names if name.removeprefix("python-") not in text] == []


def test_what_a_page_says_of_a_module_is_in_it() -> None:
    """`[module](path), `name`` and its kin: the function or class is there."""
    wrong = []
    for path in PAGES:
        for target, name in re.findall(r"\]\(([^)]+\.py)\), `(\w+)`", path.read_text()):
            source = (path.parent / target).read_text()
            if not re.search(rf"^(?:async )?(?:def|class) {name}\b", source, flags=re.MULTILINE):
                wrong.append(f"{path.relative_to(ROOT)}: {target} has no {name}")
    assert wrong == []


def test_every_page_can_be_found_from_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in PAGES[1:]} - {"index.md"}
    labs = {name for name in pages if name.startswith("labs/")} - {"labs/index.md"}  # they have an index of their own
    assert {name for name in pages - labs if f"({name})" not in index} == set()
    index = (ROOT / "docs/labs/index.md").read_text()
    hints = {name for name in labs if name.endswith("/hints.md")}  # ./dev lab hint shows them
    assert {name for name in labs - hints if f"({name.removeprefix('labs/')})" not in index} == set()


def test_the_page_of_security_names_tests_that_exist() -> None:
    """And each published escape that a test names is in the page."""
    text = (ROOT / "docs/security.md").read_text()
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    known = {name for source in sources.values() for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 50
    assert named - known == set()
    tried = {name for source in sources.values() for name in re.findall(r"CVE-\d{4}-\d+", source)}
    assert tried - set(re.findall(r"CVE-\d{4}-\d+", text)) == set()
