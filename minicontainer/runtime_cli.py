"""The command line for other engines: what podman, dockerd and containerd call an OCI runtime by.

Stands above `runtime`. Ruled by the OCI runtime command line interface and by runc's flags, texts and exit codes, which
its callers rely on. Arguments are parsed by hand and each command imports what it needs: this runs for every container.
"""

import os
import sys
from collections.abc import Callable

from minicontainer.errors import CommandNotExecutable, CommandNotFound, Error
from minicontainer.values import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from minicontainer.oci.runtime import Process, State
    from minicontainer.plan import Explain

VERSION = "0.1.0"
ROOT = "/run/minicontainer/runtime"
NAME = "minicontainer-runtime"
_EXEC_FAILED = 255  # what `exec` ends with when it is not the program that failed: runc's convention


class Flag(NamedTuple):
    """What a flag is for; `value` names what follows it, an empty one is a switch."""

    help: str
    value: str = ""
    repeated: bool = False


class Options(NamedTuple):
    """Arguments after parsing: flags by their long name, and what is not a flag."""

    values: dict[str, list[str]]
    rest: list[str]

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, [default])[-1]

    def number(self, name: str) -> int:
        text = self.text(name, "0")
        if not text.isdecimal():
            raise Error(f"--{name} {text!r} is not a number")
        return int(text)

    def has(self, name: str) -> bool:
        return name in self.values and self.text(name) != "false"


class Command(NamedTuple):
    function: Callable[[Options, Options], int]
    usage: str
    help: str
    flags: dict[str, Flag]


GLOBAL_FLAGS = {
    "root": Flag("where the states of containers are kept", "DIRECTORY"),
    "log": Flag("a file that errors are added to", "FILE"),
    "log-format": Flag("text or json", "FORMAT"),
    "explain": Flag("print each step as it happens, with the reason for it"),
    "step": Flag("the same, and wait for Enter before each step"),
    "debug": Flag("accepted for other engines; --explain says more"),
    "systemd-cgroup": Flag("not supported: cgroups are made as directories"),
    "rootless": Flag("accepted for other engines", "BOOL"),
    "criu": Flag("accepted for other engines", "PATH"),
    "version": Flag("print the version"),
    "help": Flag("print this help"),
}  # fmt: skip
_SHORT = {"v": "version", "h": "help", "b": "bundle", "f": "force", "a": "all", "d": "detach", "t": "tty", "q": "quiet"}
_SHORT |= {"e": "env", "u": "user", "g": "additional-gids", "c": "cap", "p": "process"}
_CREATE_FLAGS = {
    "bundle": Flag("the directory of config.json", "DIRECTORY"),
    "pid-file": Flag("a file for the pid of the first process", "FILE"),
    "console-socket": Flag("a socket that takes the terminal", "SOCKET"),
    "preserve-fds": Flag("descriptors from 3 on that the program inherits", "COUNT"),
    "no-pivot": Flag("chroot instead of pivot_root, for a root on a ramdisk"),
    "no-new-keyring": Flag("keep the caller's session keyring"),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, and turn an error into one line and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, failed = Options({}, []), 1
    try:
        options = parse(arguments, GLOBAL_FLAGS, stop_at_rest=True)
        if options.has("version"):
            print(f"{NAME} version {VERSION}\nspec: 1.0.2")
            return 0
        if options.has("help") or not options.rest:
            print(usage())
            return 0
        name, *rest = options.rest
        if options.has("systemd-cgroup"):
            raise Error("--systemd-cgroup is not supported; try: the cgroupfs driver of your engine")
        if name not in COMMANDS:
            raise Error(f"{name} is not a command of {NAME}; try: --help")
        command = COMMANDS[name]
        own = parse(rest, command.flags | {"help": GLOBAL_FLAGS["help"]}, stop_at_rest=name == "exec")
        if own.has("help"):
            print(usage_of(name, command))
            return 0
        failed = _EXEC_FAILED if name == "exec" else 1
        return command.function(options, own)
    except (Error, OSError) as error:
        complain(options, _said(arguments, error))
        return failed


def parse(arguments: list[str], flags: dict[str, Flag], stop_at_rest: bool = False) -> Options:
    """Flags as `--name value`, `--name=value`, `-name value` and `-n value`; what comes after `--` is no flag."""
    values: dict[str, list[str]] = {}
    rest: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        if argument == "--":
            rest += pending
            break
        if not argument.startswith("-") or argument == "-":
            rest.append(argument)
            if stop_at_rest:
                rest += pending
                break
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        name = name if name in flags else _SHORT.get(name, name)
        if name not in flags:
            raise Error(f"flag provided but not defined: -{name}; try: --help")
        if flags[name].value and not equals:
            if not pending:
                raise Error(f"flag needs an argument: -{name}; try: --{name} {flags[name].value}")
            value = pending.pop(0)
        values.setdefault(name, []).append(value)
    return Options(values, rest)


def complain(options: Options, text: str) -> None:
    """One line for people on stderr, and one for the engine in its log."""
    print(f"{NAME}: {text}", file=sys.stderr)
    path = options.text("log")
    if not path:
        return
    import json  # a log is asked for: the engine parses it
    import time

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if options.text("log-format") == "json":
        line = json.dumps({"level": "error", "msg": text, "time": now})
    else:
        line = f"time={json.dumps(now)} level=error msg={json.dumps(text)}"
    with open(path, "a", encoding="utf-8") as log:
        log.write(line + "\n")


def _said(arguments: list[str], error: Exception) -> str:
    """The text as runc words it: docker makes exit codes 126 and 127 of its parts."""
    command = next((argument for argument in arguments if argument in COMMANDS), "")
    if isinstance(error, CommandNotFound | CommandNotExecutable):
        return f"{command} failed: unable to start container process: {error}"
    return f"{command} failed: {error}" if command else str(error)


def usage() -> str:
    lines = [f"{NAME} [FLAG]... COMMAND [FLAG]... [ARGUMENT]...", "", "Commands:"]
    lines += [f"  {name:10}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "Flags:", *_flag_lines(GLOBAL_FLAGS)])


def usage_of(name: str, command: Command) -> str:
    return "\n".join([f"{NAME} {name} {command.usage}", "", command.help, "", "Flags:", *_flag_lines(command.flags)])


def _flag_lines(flags: dict[str, Flag]) -> list[str]:
    return [f"  {f'--{name} {flag.value}':28}{flag.help}" for name, flag in flags.items()]


def _one(own: Options) -> str:
    if len(own.rest) != 1:
        raise Error(f"one container id is needed, and {len(own.rest)} arguments are given; try: --help")
    return own.rest[0]


def _root(options: Options) -> str:
    return os.path.abspath(options.text("root", ROOT))


def _explain(options: Options) -> "Explain | None":
    if not options.has("explain") and not options.has("step"):
        return None
    from minicontainer.plan import explain_on

    return explain_on(2, "runtime", options.has("step"))


# Commands


def _create(options: Options, own: Options) -> int:
    _make(options, own, _explain(options))
    return 0


def _make(options: Options, own: Options, explain: "Explain | None") -> "State":
    container_id = _one(own)
    _seal()
    from minicontainer import runtime

    return runtime.create(
        _root(options),
        container_id,
        own.text("bundle", "."),
        console_socket=own.text("console-socket") or None,
        pid_file=own.text("pid-file") or None,
        preserve_fds=own.number("preserve-fds"),
        no_pivot=own.has("no-pivot"),
        no_new_keyring=own.has("no-new-keyring"),
        explain=explain,
    )


def _seal() -> None:
    """Before the rest is loaded, since this starts the interpreter a second time."""
    from minicontainer import sealing

    sealing.seal_interpreter(sys.orig_argv)


def _start(options: Options, own: Options) -> int:
    from minicontainer import operations

    operations.start(_root(options), _one(own), _explain(options))
    return 0


def _run(options: Options, own: Options) -> int:
    explain = _explain(options)
    made = _make(options, own, explain)
    from minicontainer import runtime

    try:
        runtime.start(_root(options), made.id, explain)
        if own.has("detach"):
            return 0
        status = _wait(made.pid)
    except BaseException:
        runtime.delete(_root(options), made.id, force=True)
        raise
    if not own.has("keep"):
        runtime.delete(_root(options), made.id, force=True, explain=explain)
    return status


def _wait(pid: int) -> int:
    """Wait for a process of ours, and hand on to it the signals that come in the meantime."""
    import signal

    def hand_on(number: int, _: object) -> None:
        os.kill(pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, hand_on)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def _state(options: Options, own: Options) -> int:
    import json

    from minicontainer import states

    print(json.dumps(_public(states.state(_root(options), _one(own))), indent=2))
    return 0


def _public(state: "State") -> dict[str, object]:
    return {
        "ociVersion": state.oci_version,
        "id": state.id,
        "pid": state.pid,
        "status": state.status,
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        "annotations": dict(state.annotations),
        "owner": "",
    }


def _kill(options: Options, own: Options) -> int:
    from minicontainer import operations

    if not own.rest or len(own.rest) > 2:
        raise Error("a container id and at most one signal are needed; try: kill ID TERM")
    number = signal_number(own.rest[1] if len(own.rest) == 2 else "TERM")
    operations.kill(_root(options), own.rest[0], number, own.has("all"), _explain(options))
    return 0


def signal_number(text: str) -> int:
    """9, KILL, SIGKILL, kill"""
    import signal

    if text.isdecimal() and 0 < int(text) < signal.NSIG:
        return int(text)
    name = text.upper()
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        raise Error(f"unknown signal {text!r}; try: TERM") from None


def _delete(options: Options, own: Options) -> int:
    from minicontainer import operations

    operations.delete(_root(options), _one(own), own.has("force"), _explain(options))
    return 0


def _pause(options: Options, own: Options) -> int:
    from minicontainer import operations

    operations.pause(_root(options), _one(own))
    return 0


def _resume(options: Options, own: Options) -> int:
    from minicontainer import operations

    operations.resume(_root(options), _one(own))
    return 0


def _exec(options: Options, own: Options) -> int:
    _seal()
    from minicontainer import runtime

    if not own.rest:
        raise Error("a container id is needed; try: exec ID COMMAND")
    container_id = own.rest[0]
    pid = runtime.execute(
        _root(options),
        container_id,
        _process(_root(options), container_id, own),
        console_socket=own.text("console-socket") or None,
        pid_file=own.text("pid-file") or None,
        preserve_fds=own.number("preserve-fds"),
        explain=_explain(options),
    )
    return 0 if own.has("detach") else _wait(pid)


def _process(root: str, container_id: str, own: Options) -> "Process":
    from minicontainer import runtime
    from minicontainer.oci.runtime import User, process_from_json

    if own.text("process"):
        import json

        with open(own.text("process"), "rb") as file:
            process = process_from_json(json.loads(file.read()))
        return process._replace(terminal=True) if own.has("tty") else process
    process = runtime.recorded_spec(root, container_id).process
    process = process._replace(
        args=tuple(own.rest[1:]),
        cwd=own.text("cwd", process.cwd),
        env=(*process.env, *own.values.get("env", ())),
        terminal=own.has("tty"),
        no_new_privileges=process.no_new_privileges or own.has("no-new-privs"),
    )
    if own.text("user") or own.values.get("additional-gids"):
        uid, _, gid = own.text("user", f"{process.user.uid}:{process.user.gid}").partition(":")
        groups = tuple(map(int, own.values.get("additional-gids", ())))
        process = process._replace(user=User(uid=int(uid), gid=int(gid or 0), additional_gids=groups))
    if own.values.get("cap") and process.capabilities:
        asked = tuple(own.values["cap"])
        sets = process.capabilities
        process = process._replace(
            capabilities=sets._replace(
                bounding=sets.bounding + asked, effective=sets.effective + asked, permitted=sets.permitted + asked
            )
        )
    return process


def _list(options: Options, own: Options) -> int:
    from minicontainer import states

    found = states.containers(_root(options))
    if own.has("quiet"):
        print("\n".join(state.id for state in found))
    elif own.text("format") == "json":
        import json

        print(json.dumps([_public(state) for state in found]))
    else:
        rows = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
        rows += [(state.id, str(state.pid), state.status, state.bundle, state.created, "root") for state in found]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _ps(options: Options, own: Options) -> int:
    from minicontainer import cgroups, states

    pids = sorted(cgroups.processes(states.state(_root(options), _one(own)).cgroups))
    print(pids if own.text("format") == "json" else "\n".join(["PID", *map(str, pids)]))
    return 0


COMMANDS = {
    "create": Command(_create, "[FLAG]... ID", "make a container, up to the moment before its program", _CREATE_FLAGS),
    "start": Command(_start, "ID", "run the program of a container that was created", {}),
    "state": Command(_state, "ID", "print what is known of a container, as JSON", {}),
    "kill": Command(
        _kill, "ID [SIGNAL]", "send a signal to the first process", {"all": Flag("to all processes of the container")}
    ),
    "delete": Command(
        _delete, "ID", "remove a container", {"force": Flag("also one that runs, is half made, or is gone")}
    ),
    "run": Command(
        _run,
        "[FLAG]... ID",
        "create, start, wait and delete",
        _CREATE_FLAGS | {"detach": Flag("do not wait"), "keep": Flag("do not delete")},
    ),
    "exec": Command(
        _exec,
        "[FLAG]... ID COMMAND [ARGUMENT]...",
        "run a further process in a container",
        {
            "process": Flag("a file with the process as JSON", "FILE"),
            "detach": Flag("do not wait"),
            "tty": Flag("with a terminal"),
            "console-socket": Flag("a socket that takes the terminal", "SOCKET"),
            "pid-file": Flag("a file for the pid", "FILE"),
            "preserve-fds": Flag("descriptors from 3 on that the program inherits", "COUNT"),
            "cwd": Flag("where it starts", "DIRECTORY"),
            "env": Flag("a variable, NAME=VALUE", "VARIABLE", repeated=True),
            "user": Flag("its user, UID[:GID]", "USER"),
            "additional-gids": Flag("one more group", "GID", repeated=True),
            "cap": Flag("one more capability", "CAPABILITY", repeated=True),
            "no-new-privs": Flag("no program gives more privileges than it has"),
        },
    ),
    "list": Command(
        _list, "", "list containers", {"format": Flag("table or json", "FORMAT"), "quiet": Flag("ids alone")}
    ),
    "pause": Command(_pause, "ID", "freeze all processes of a container", {}),
    "resume": Command(_resume, "ID", "let them go on", {}),
    "ps": Command(_ps, "ID", "list the processes of a container", {"format": Flag("table or json", "FORMAT")}),
}  # fmt: skip


def _entry() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    _entry()
