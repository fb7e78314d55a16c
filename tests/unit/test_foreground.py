"""foreground: signals go to the container, and are put back."""

import os
import signal

import pytest

from minicontainer import foreground


@pytest.mark.parametrize("number", foreground.FORWARDED)
def test_signals_go_to_the_container_meanwhile(number: int) -> None:
    before = signal.getsignal(number)
    seen: list[int] = []
    with foreground._signals(seen.append):
        os.kill(os.getpid(), number)
    assert seen == [number]
    assert signal.getsignal(number) == before


def test_a_process_that_has_just_gone_is_no_error() -> None:
    def forward(_: int) -> None:
        raise ProcessLookupError

    with foreground._signals(forward):
        os.kill(os.getpid(), signal.SIGUSR1)
