"""Fuzzing: `./dev test --fuzz SECONDS`: the tests that try inputs by chance, again and again with others.

Hooks of pytest, which `conftest` takes in. A failure ends it, and so does memory that grows. Without the option nothing
here does anything: every run tries the same inputs then, so that a red one is nobody's bad luck.
"""

import itertools
import os
import resource
import time

import hypothesis
import pytest

EXAMPLES = "100"  # in one go of one test: some build images for each
GROWTH = 200 << 20  # bytes that the process may have more at the end than after the first round: some are for reports


def add_option(parser: pytest.Parser) -> None:
    text = "the tests that try inputs by chance, again and again with other inputs, for so long"
    parser.addoption("--fuzz", type=float, metavar="SECONDS", help=text)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fuzz"):
        os.environ.setdefault("EXAMPLES", EXAMPLES)  # the tests' modules, which come after this, read it
        hypothesis.settings.register_profile("fuzz", deadline=None, database=None, max_examples=int(EXAMPLES))
        hypothesis.settings.load_profile("fuzz")


def is_by_chance(item: pytest.Item) -> bool:
    """Whether the test is hypothesis', or says itself that it uses it inside."""
    function = getattr(item, "obj", None)
    return hypothesis.is_hypothesis_test(function) or item.get_closest_marker("fuzz") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    seconds = session.config.getoption("--fuzz")
    items = [item for item in session.items if is_by_chance(item)]
    if not seconds or not items or session.config.option.collectonly:
        return None
    end, after_first, count = time.monotonic() + seconds, 0, 0
    following = itertools.cycle(items)
    item = next(following)
    while True:
        count += 1
        last = time.monotonic() > end or session.testsfailed > 0
        nextitem = None if last else next(following)
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        if count == len(items):
            after_first = _memory()
        if nextitem is None:
            break
        item = nextitem
    grown = _memory() - after_first if after_first else 0
    print(f"\nfuzz: {count} runs of {len(items)} tests in {seconds:.0f} s; {grown >> 20} MiB more than after the first")
    if grown > GROWTH:
        raise pytest.UsageError(f"the process has grown by {grown >> 20} MiB")
    return True


def _memory() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
