"""What every test shares: the `kernel` and `cluster` markers, and the rule that CI skips nothing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import hypothesis
import pytest

from minicontainer.runtime import sealing
from tests import fuzzing, isolation
from tests.fuzzing import pytest_configure, pytest_runtestloop

__all__ = ["pytest_configure", "pytest_runtestloop"]  # hooks

CI = os.environ.get("CI") == "true"
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def no_trace() -> Iterator[None]:
    """What a run makes outside its own directories goes with it: the runtime's sealed interpreter, skopeo's cache, and
    the file by which podman's conmon tells its directory, which is /, that the kernel has killed for memory."""
    sealed, cache, oom = os.path.dirname(sealing.SEALED), "/var/lib/containers/cache", "/oom"
    made = [path for path in (sealed, cache, os.path.dirname(cache), oom) if not os.path.exists(path)]
    yield
    if sealed in made and os.geteuid() == 0:
        subprocess.run(["umount", "--lazy", sealing.SEALED], check=False, stderr=subprocess.DEVNULL)
    for path in made:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            os.unlink(path)


def pytest_addoption(parser: pytest.Parser) -> None:
    fuzzing.add_option(parser)
    parser.addoption(
        "--lab",
        choices=("light", "full"),
        default="light",
        help="full: also a real `vagrant up`, emulated, which takes half an hour (default: %(default)s)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--lab") != "full":
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)  # not skipped: they are for another day
        items[:] = [item for item in items if item not in long]
    for item in items:
        if any(item.get_closest_marker(name) for name in ("kernel", "cluster", "world", "engine", "lab")):
            reason = isolation.missing_feature(item)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI skips nothing: {report.longrepr}"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a `kernel` test in a child with namespaces of its own: what it mounts dies with it."""
    if pyfuncitem.get_closest_marker("kernel") is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    sys.stdout.flush()
    isolation.run(lambda: pyfuncitem.obj(**arguments))
    return True
