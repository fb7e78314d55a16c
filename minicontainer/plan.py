"""Plans: steps with `describe()` and `execute()`, so that what --explain prints is what runs.

Stands on the ground, below everything that does something to the kernel. A plan is a generator of steps; the result
of each step is sent back into it, so that a later step can use what an earlier one opened.
"""

import fcntl
import os
import signal
from collections.abc import Callable, Generator, Mapping

from minicontainer.errors import Error
from minicontainer.linux import flags
from minicontainer.values import Any, NamedTuple, TypeVar

Result = TypeVar("Result")
_SIGNAL, _CAPABILITY, _CAPABILITIES, _NAME = "signal", "capability", "capabilities", "PR_"
# Call: which argument is no plain number, and how it is written: the prefix of the constants that are its bits, or one
# of the four above.
_KINDS: dict[str, dict[int, str | tuple[str, ...]]] = {
    "mount": {3: "MS_"},
    "umount": {1: "MNT_"},
    "unshare": {0: "CLONE_NEW"},
    "setns": {1: "CLONE_NEW"},
    "clone3": {0: "CLONE_"},
    "clone_joined": {1: "CLONE_"},
    "open_tree": {2: ("OPEN_TREE_", "AT_RECURSIVE", "AT_EMPTY_PATH")},
    "move_mount": {4: "MOVE_MOUNT_"},
    "mount_setattr": {2: ("AT_RECURSIVE", "AT_EMPTY_PATH"), 3: "MOUNT_ATTR_", 4: "MOUNT_ATTR_", 5: "MS_"},
    "close_range": {2: "CLOSE_RANGE_"},
    "new_mount": {3: "MOUNT_ATTR_"},
    "open": {1: "O_"},
    "flock": {1: "LOCK_"},
    "prctl": {0: _NAME},
    "set_pdeathsig": {0: _SIGNAL},
    "send": {1: _SIGNAL},
    "signal_all": {1: _SIGNAL},
    "capbset_drop": {0: _CAPABILITY},
    "cap_ambient_raise": {0: _CAPABILITY},
    "capset": {0: _CAPABILITIES, 1: _CAPABILITIES, 2: _CAPABILITIES},
}  # fmt: skip
# A function of ours that makes one call: how its manual page writes that call.
_WRITTEN = {
    "set_dumpable": "prctl(PR_SET_DUMPABLE, {})",
    "set_pdeathsig": "prctl(PR_SET_PDEATHSIG, {})",
    "set_name": "prctl(PR_SET_NAME, {})",
    "set_no_new_privs": "prctl(PR_SET_NO_NEW_PRIVS, 1)",
    "set_securebits": "prctl(PR_SET_SECUREBITS, {})",
    "set_keepcaps": "prctl(PR_SET_KEEPCAPS, {})",
    "capbset_drop": "prctl(PR_CAPBSET_DROP, {})",
    "cap_ambient_clear_all": "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)",
    "cap_ambient_raise": "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, {})",
    "seccomp_load": "seccomp(SECCOMP_SET_MODE_FILTER, {1}, {0})",
    "join_keyring": "keyctl(KEYCTL_JOIN_SESSION_KEYRING, {})",
    "set_context": "write(/proc/thread-self/attr/{1}, {2})",
    "change_profile": "aa_change_onexec({1})",
    "execute": "execve({}, {}, {})",
    "pidfd_of": "pidfd_open({})",
    "send": "pidfd_send_signal({}, {})",
    "signal_all": "kill(each process of its cgroup, {1})",
    "freeze": "freeze({1})",
    "remove": "rmdir(each of its cgroups)",
    "open_terminal": "open_terminal({0})",
}  # fmt: skip
_FIELDS = {"flags": "CLONE_NEW"}  # of a value of ours
_ID_LENGTH, _SHORT_ID = 64, 12  # of a container or a digest, and what of it a person needs to see
_WHO, _BOLD, _PLAIN = {"init": "\x1b[32m"}, "\x1b[1m", "\x1b[0m"
_OTHERS = "\x1b[36m"
_COLUMN = 12


class StepFailed(Error):
    """The kernel refused a step; the text is the call, what it was for, and the kernel's word."""


class Stopped(Error):
    """A person who was asked before a step wants no more of them."""


class Step(NamedTuple):
    """One call to the kernel, with the reason for it in one sentence."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    why: str

    def describe(self, short: bool = False) -> str:
        """The call as its manual page writes it; if `short`, long ids are cut as `ps` cuts them."""
        name = self.call.__name__.lstrip("_")
        kinds = _KINDS.get(name, {})
        shown = [_show(value, kinds.get(place), short) for place, value in enumerate(self.arguments)]
        return _WRITTEN[name].format(*shown) if name in _WRITTEN else f"{name}({', '.join(shown)})"

    def execute(self) -> Any:
        return self.call(*self.arguments)


Plan = Generator[Step, Any, Result]


class Explain(NamedTuple):
    """Where the steps are printed as they happen; `who` says which process does them.

    With `pause`, the descriptor is a terminal, and each step waits for Enter on it. A `width` is that of a terminal.
    """

    descriptor: int
    who: str = ""
    pause: bool = False
    width: int = 0
    colour: bool = False

    def show(self, step: Step, again: bool = False) -> None:
        """Print a step: its call, and its reason unless that is the same `again`.

        Raises:
            Stopped: it was answered with q.
        """
        call = _wrapped(step.describe(short=self.width > 0), self.width - _COLUMN - 1)
        reason = [] if again else _wrapped(step.why, self.width - _COLUMN - 1, "")
        why = "".join(f"{'':{_COLUMN}}{line}\n" for line in reason)
        first, *rest = call
        who = f"{self.who:{_COLUMN}}"
        if self.colour:
            who = f"{_WHO.get(self.who, _OTHERS)}{who}{_PLAIN}"
            first, rest = f"{_BOLD}{first}{_PLAIN}", [f"{_BOLD}{line}{_PLAIN}" for line in rest]
        lines = "\n".join([f"{who}{first}", *(f"{'':{_COLUMN}}{line}" for line in rest), why])
        if not self.pause:
            os.write(self.descriptor, lines.encode("utf-8", "surrogateescape"))
            return
        # One process at a time: the creator and its child both explain themselves here. The lock is each process's own.
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
        try:
            os.write(self.descriptor, lines.encode("utf-8", "surrogateescape"))
            if os.read(self.descriptor, 1024).strip() == b"q":
                raise Stopped(f"stopped before {step.describe()}")
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)


def explain_on(descriptor: int, who: str = "", pause: bool = False, environ: Mapping[str, str] = os.environ) -> Explain:
    """For people: a terminal has a width, and colours unless NO_COLOR is set.

    Raises:
        Error: each step is to wait for Enter, and there is no terminal to type it on.
    """
    if not os.isatty(descriptor):
        if pause:
            raise Error("--step waits for Enter on the terminal of stderr, and there is none; try: --explain")
        return Explain(descriptor, who)
    if pause:
        os.write(descriptor, b"Enter: do this step. q and Enter: stop here, and undo what was done.\n\n")
    return Explain(descriptor, who, pause, os.get_terminal_size(descriptor).columns, "NO_COLOR" not in environ)


def run(steps: "Plan[Result]", explain: Explain | None = None) -> Result:
    """Execute the steps in order, each with the results of those before it.

    Raises:
        StepFailed: the kernel refused one; those after it have not been tried.
    """
    outcome, reason = None, ""
    try:
        while True:
            step = steps.send(outcome)
            if explain is not None:
                explain.show(step, step.why == reason)
                reason = step.why
            try:
                outcome = step.execute()
            except OSError as error:
                raise StepFailed(f"{step.describe()}: {(error.strerror or str(error)).lower()}: {step.why}") from error
    except StopIteration as stop:
        result: Result = stop.value
        return result


def _show(value: Any, kind: str | tuple[str, ...] | None, short: bool) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + (_cut(value) if short else value).replace("\n", "\\n") + '"'
    if isinstance(value, bytes):
        return repr(value)[1:].replace("'", '"') if len(value) == 1 and value.isalpha() else f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return _show(tuple(f"{name}={one}" for name, one in value.items()), None, short)
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return f"[{', '.join(_show(one, None, short) for one in value)}]"
    if isinstance(value, tuple):  # a value of ours: its fields that say something
        pairs = zip(value._fields, value, strict=True)  # type: ignore[attr-defined]  # a NamedTuple
        shown = [f"{name}={_show(one, _FIELDS.get(name), short)}" for name, one in pairs if one is not None]
        return f"{{{', '.join(shown)}}}"
    return _number(value, kind) if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _number(value: int, kind: str | tuple[str, ...] | None) -> str:
    if kind == _SIGNAL:
        return "0" if value == 0 else signal.Signals(value).name if value in set(signal.Signals) else str(value)
    if kind == _CAPABILITY:
        return flags.CAPABILITIES[value] if value < len(flags.CAPABILITIES) else str(value)
    if kind == _CAPABILITIES:
        return hex(value)
    if kind == _NAME:
        return next((name for name, known in vars(flags).items() if name.startswith(_NAME) and known == value), "?")
    if kind is not None:
        return _mask(value, (kind,) if isinstance(kind, str) else kind)
    return "AT_FDCWD" if value == flags.AT_FDCWD else str(value)


def _cut(text: str) -> str:
    """Each part of a path that is an id or a digest, as its beginning."""
    return "/".join(f"{part[:_SHORT_ID]}…" if len(part) == _ID_LENGTH else part for part in text.split("/"))


def _mask(value: int, prefixes: tuple[str, ...]) -> str:
    names = []
    for name, bit in vars({"O_": os, "LOCK_": fcntl}.get(prefixes[0], flags)).items():
        if name.startswith(prefixes) and isinstance(bit, int) and bit.bit_count() == 1 and value & bit:
            names.append(name)
            value &= ~bit
    return "|".join(names + ([hex(value)] if value or not names else [])) if names or value else "0"


def _wrapped(text: str, width: int, indent: str = "    ") -> list[str]:
    """Lines of at most `width`, broken where the eye expects it; without a width, the one line."""
    lines = []
    while width > 20 and len(text) > width:
        cut = max(text.rfind(mark, 1, width) + len(mark.rstrip()) for mark in (", ", "|", " ", ":", ","))
        cut = cut if cut > width // 3 else width
        lines.append(text[:cut].rstrip())
        text = f"{indent}{text[cut:].lstrip()}"
    return [*lines, text]
