"""Plans: steps with `describe()` and `execute()`, so that what --explain prints is what runs.

Stands on the ground, below everything that does something to the kernel. A plan is a generator of steps; the result
of each step is sent back into it, so that a later step can use what an earlier one opened.
"""

import os
from collections.abc import Callable, Generator

from minicontainer.errors import Error
from minicontainer.linux import flags
from minicontainer.values import Any, NamedTuple, TypeVar

Result = TypeVar("Result")
# Call: which argument is a mask, and the constants that its bits are named by.
_MASKS: dict[str, dict[int, str | tuple[str, ...]]] = {
    "mount": {3: "MS_"},
    "umount": {1: "MNT_"},
    "unshare": {0: "CLONE_NEW"},
    "setns": {1: "CLONE_NEW"},
    "clone3": {0: "CLONE_"},
    "open_tree": {2: ("OPEN_TREE_", "AT_RECURSIVE", "AT_EMPTY_PATH")},
    "move_mount": {4: "MOVE_MOUNT_"},
    "mount_setattr": {2: ("AT_RECURSIVE", "AT_EMPTY_PATH"), 3: "MOUNT_ATTR_", 4: "MOUNT_ATTR_", 5: "MS_"},
    "close_range": {2: "CLOSE_RANGE_"},
    "new_mount": {3: "MOUNT_ATTR_"},
    "open": {1: "O_"},
}  # fmt: skip
_NAMED = {"prctl": "PR_"}  # whose first argument is one constant


class StepFailed(Error):
    """The kernel refused a step; the text is the call, what it was for, and the kernel's word."""


class Step(NamedTuple):
    """One call to the kernel, with the reason for it in one sentence."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    why: str

    def describe(self) -> str:
        name = self.call.__name__.lstrip("_")
        masks = _MASKS.get(name, {})
        shown = [_show(value, masks.get(place)) for place, value in enumerate(self.arguments)]
        if name in _NAMED:
            shown[0] = _constant(self.arguments[0], _NAMED[name])
        return f"{name}({', '.join(shown)})"

    def execute(self) -> Any:
        return self.call(*self.arguments)


Plan = Generator[Step, Any, Result]


class Explain(NamedTuple):
    """Where the steps are printed as they happen; `who` says which process does them.

    With `pause`, the descriptor is a terminal, and each step waits for Enter on it.
    """

    descriptor: int
    who: str = ""
    pause: bool = False

    def show(self, step: Step) -> None:
        line = f"{self.who:12}{step.describe()}\n{'':14}{step.why}\n"
        os.write(self.descriptor, line.encode("utf-8", "surrogateescape"))
        if self.pause:
            os.read(self.descriptor, 1024)


def run(steps: "Plan[Result]", explain: Explain | None = None) -> Result:
    """Execute the steps in order, each with the results of those before it.

    Raises:
        StepFailed: the kernel refused one; those after it have not been tried.
    """
    outcome = None
    try:
        while True:
            step = steps.send(outcome)
            if explain is not None:
                explain.show(step)
            try:
                outcome = step.execute()
            except OSError as error:
                raise StepFailed(f"{step.describe()}: {(error.strerror or str(error)).lower()}: {step.why}") from error
    except StopIteration as stop:
        result: Result = stop.value
        return result


def _show(value: Any, prefixes: str | tuple[str, ...] | None) -> str:
    if prefixes is not None and isinstance(value, int):
        return _mask(value, (prefixes,) if isinstance(prefixes, str) else prefixes)
    if isinstance(value, str):
        return '"' + value.replace("\n", "\\n") + '"'
    if isinstance(value, tuple) and value and all(isinstance(one, str) for one in value):
        return f"[{', '.join(_show(one, None) for one in value)}]"
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if value == flags.AT_FDCWD:
        return "AT_FDCWD"
    return str(value)


def _constant(value: int, prefix: str) -> str:
    return next((name for name, known in vars(flags).items() if name.startswith(prefix) and known == value), str(value))


def _mask(value: int, prefixes: tuple[str, ...]) -> str:
    names = []
    for name, bit in vars(os if prefixes == ("O_",) else flags).items():
        if name.startswith(prefixes) and isinstance(bit, int) and bit.bit_count() == 1 and value & bit:
            names.append(name)
            value &= ~bit
    return "|".join(names + ([hex(value)] if value or not names else [])) if names or value else "0"
