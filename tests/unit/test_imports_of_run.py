"""Start-up is a feature: what `minicontainer run` loads before and while it makes a container (STYLE, rule 11)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
# What a container of an image that is here, without a bridge, can do without; and what each costs, in milliseconds.
HEAVY = {
    "pyroute2": 105,
    "asyncio": 20,
    "http.client": 15,
    "ssl": 5,
    "tarfile": 4,
    "logging": 4,
    "json": 2,
    "typing": 2,
    "datetime": 1,
    "ipaddress": 1,
    "pathlib": 2,
    "importlib.resources": 5,
    "inspect": 4,
    "subprocess": 3,
    "random": 1,
    "tempfile": 2,
    "gzip": 1,
    "pickle": 2,
}
NEEDED = (
    *("cli", "container_commands", "run_options", "foreground", "engine", "supervisor"),
    *("image.snapshots", "image.overlays", "runtime.creation"),
)
MODULES_AT_MOST = 130  # CPython 3.11 counts 118; a third more is a mistake


def loaded(statement: str) -> set[str]:
    code = f"import sys; sys.path[0:0] = {PACKAGES!r}; known = set(sys.modules)\n{statement}\n"
    code += "print('\\n'.join(sorted(set(sys.modules) - known)))"
    done = subprocess.run([sys.executable, "-ISE", "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def of_run() -> set[str]:
    return loaded("\n".join(f"import minicontainer.{name}" for name in NEEDED))


@pytest.mark.parametrize("name", HEAVY)
def test_a_run_does_without(of_run: set[str], name: str) -> None:
    assert name not in of_run


def test_a_run_loads_few_modules(of_run: set[str]) -> None:
    assert len(of_run) <= MODULES_AT_MOST, sorted(of_run)


def test_a_run_loads_nothing_of_registries_archives_builds_and_tables(of_run: set[str]) -> None:
    ours = {name.removeprefix("minicontainer.") for name in of_run if name.startswith("minicontainer.")}
    kept_apart = (
        "registry.",
        "build.builder",
        "build.steps",
        "build.dockerfile",
        "reports",
        "network.bridge",
        "network.ports",
        "linux.nftables",
    )
    archives = {f"image.{name}" for name in ("archives", "layers", "layer_blobs", "image_archives")}
    assert [name for name in ours if name.startswith(kept_apart) or name in archives | {"image_commands"}] == []


def test_a_bridge_needs_no_more_than_its_own_modules(of_run: set[str]) -> None:
    more = loaded("\n".join(f"import minicontainer.{name}" for name in (*NEEDED, "network.bridge"))) - of_run
    assert {name for name in more if name.startswith("minicontainer.")} == {
        "minicontainer.network.bridge",
        "minicontainer.network.ports",
        "minicontainer.network.nftables_rules",
        "minicontainer.linux.iptables",
        "minicontainer.linux.nftables",
        "minicontainer.linux.rtnetlink",
    }
    assert "pyroute2" not in more


def test_help_and_version_load_the_tables_alone() -> None:
    said = loaded("from minicontainer import cli; cli.main(['version'])")
    assert not {"minicontainer.engine", "minicontainer.container_commands", "ctypes", "socket"} & said
