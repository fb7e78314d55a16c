"""The command line for other engines: what podman, dockerd and containerd call an OCI runtime by.

Stands above `creation`. Ruled by the OCI runtime command line interface and by runc's flags, texts and exit codes, on
which its callers rely. Arguments are parsed by hand, each command imports what it needs: this runs for every container.
"""

import os
import sys
from contextlib import nullcontext, suppress

from minicontainer.errors import CommandNotExecutable, CommandNotFound, Error
from minicontainer.runtime.options import Command, Flag, Options, parse, root_of
from minicontainer.values import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from minicontainer.oci.runtime import Process, State
    from minicontainer.plan import Explain
    from minicontainer.terminal import Receiver

VERSION = "0.1.0"
NAME = "minicontainer-runtime"
_NO_ID = (1 << 32) - 1  # "leave it as it is", to the kernel: setresuid(2)
_EXEC_FAILED = 255  # what `exec` ends with when it is not the program that failed: runc's convention


GLOBAL_FLAGS = {
    "root": Flag("where the states of containers are kept", "DIRECTORY"),
    "log": Flag("a file that errors are added to", "FILE"),
    "log-format": Flag("text or json", "FORMAT"),
    "explain": Flag("print each step as it happens, with the reason for it"),
    "step": Flag("the same, and wait for Enter before each step"),
    "debug": Flag("accepted for other engines; --explain says more"),
    "systemd-cgroup": Flag("have systemd make the cgroup of a new container, as a scope"),
    "rootless": Flag("accepted for other engines", "BOOL"),
    "criu": Flag("accepted for other engines", "PATH"),
    "version": Flag("print the version"),
    "help": Flag("print this help"),
}  # fmt: skip
_CREATE_FLAGS = {
    "bundle": Flag("the directory of config.json", "DIRECTORY"),
    "pid-file": Flag("a file for the pid of the first process", "FILE"),
    "console-socket": Flag("a socket that takes the terminal", "SOCKET"),
    "pidfd-socket": Flag("a socket that takes a descriptor of the process", "SOCKET"),
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
        command = COMMANDS.get(name) or all_commands().get(name)
        if command is None:
            raise Error(f"{name} is not a command of {NAME}; try: --help")
        if options.text("log-format", "text") not in ("text", "json"):
            raise Error(f"invalid log-format: {options.text('log-format')}; try: json")
        own = parse(rest, command.flags | {"help": GLOBAL_FLAGS["help"]}, stop_at_rest=name in ("exec", "ps"))
        if own.has("help"):
            print(usage_of(name, command))
            return 0
        failed = _EXEC_FAILED if name == "exec" and own.rest else 1
        return command.function(options, own)
    except (Error, OSError) as error:
        complain(options, _said(arguments, error))
        return failed


def complain(options: Options, text: str, level: str = "error") -> None:
    """One line for people on stderr, and one for the engine in its log."""
    print(f"{NAME}: {'' if level == 'error' else f'{level}: '}{text}", file=sys.stderr)
    path = options.text("log")
    if not path:
        return
    import json  # a log is asked for: the engine parses it
    import time

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if options.text("log-format") == "json":
        line = json.dumps({"level": level, "msg": text, "time": now})
    else:
        line = f"time={json.dumps(now)} level={level} msg={json.dumps(text)}"
    with open(path, "a", encoding="utf-8") as log:
        log.write(line + "\n")


def _said(arguments: list[str], error: Exception) -> str:
    """The text as runc words it: docker makes exit codes 126 and 127 of its parts."""
    command = next((argument for argument in arguments if argument in all_commands()), "")
    if isinstance(error, CommandNotFound | CommandNotExecutable):
        return f"{command} failed: unable to start container process: {error}"
    return f"{command} failed: {error}" if command else str(error)


def usage() -> str:
    lines = [f"{NAME} [FLAG]... COMMAND [FLAG]... [ARGUMENT]...", "", "Commands:"]
    lines += [f"  {name:12}{command.help}" for name, command in all_commands().items()]
    return "\n".join([*lines, "", "Flags:", *_flag_lines(GLOBAL_FLAGS)])


def usage_of(name: str, command: Command) -> str:
    return "\n".join([f"{NAME} {name} {command.usage}", "", command.help, "", "Flags:", *_flag_lines(command.flags)])


def _flag_lines(flags: dict[str, Flag]) -> list[str]:
    return [f"  {f'--{name} {flag.value}':28}{flag.help}" for name, flag in flags.items()]


def _explain(options: Options) -> "Explain | None":
    if not options.has("explain") and not options.has("step"):
        return None
    from minicontainer.plan import explain_on

    return explain_on(2, "runtime", options.has("step"))


def all_commands() -> dict[str, Command]:
    """Those that a container's start needs, and the others, which it does not load."""
    from minicontainer.runtime.reports import COMMANDS as OTHERS

    return COMMANDS | OTHERS


# Commands


def _create(options: Options, own: Options) -> int:
    _make(options, own, _explain(options))
    return 0


def _make(options: Options, own: Options, explain: "Explain | None", console: "Receiver | None" = None) -> "State":
    container_id = own.one()
    _seal()
    if os.geteuid():
        _enter_own_ids()
    from minicontainer.runtime import creation

    return creation.create(
        root_of(options),
        container_id,
        own.text("bundle", "."),
        console_socket=console.fileno() if console else own.text("console-socket") or None,
        pid_file=own.text("pid-file") or None,
        preserve_fds=_preserved(own.number("preserve-fds")),
        listen_fds=_listen_fds(),
        warn=lambda text: complain(options, text, "warning"),
        born=_pidfd_sender(own, "standard"),
        no_pivot=own.has("no-pivot"),
        no_new_keyring=own.has("no-new-keyring"),
        systemd=options.has("systemd-cgroup"),
        readiness="NOTIFY_SOCKET" in os.environ,
        explain=explain,
    )


def _pidfd_sender(own: Options, kind: str) -> "Callable[[int], None] | None":
    """Who sends a descriptor of the new process to the socket of --pidfd-socket, with the word that runc sends."""
    if not own.has("pidfd-socket"):
        return None
    import socket  # 5 ms, and few ask for it

    def send(pid: int) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(own.text("pidfd-socket"))
            except OSError as error:
                raise Error(f"--pidfd-socket {own.text('pidfd-socket')}: {(error.strerror or '').lower()}") from None
            descriptor = os.pidfd_open(pid)
            socket.send_fds(connection, [kind.encode()], [descriptor])
            os.close(descriptor)

    return send


def _listen_fds() -> int:
    """How many sockets systemd gives to this process: sd_listen_fds(3)."""
    count = os.environ.get("LISTEN_FDS", "")
    return int(count) if os.environ.get("LISTEN_PID") == str(os.getpid()) and count.isdecimal() else 0


def _preserved(count: int) -> int:
    """How many descriptors more a program gets: those of the caller, before one of ours could have such a number."""
    first = 3 + _listen_fds()
    for descriptor in range(first, first + count):
        try:
            os.fstat(descriptor)
        except OSError:
            fix = f"try: --preserve-fds {descriptor - first}, or open it"
            raise Error(f"--preserve-fds {count}: descriptor {descriptor} is not open; {fix}") from None
    return count


def _seal() -> None:
    """Before the rest is loaded, since this starts the interpreter a second time."""
    from minicontainer.runtime import sealing

    sealing.seal_interpreter(sys.orig_argv)


def _enter_own_ids() -> None:
    """A new container of who is not root is made in a user namespace of theirs, where ids are what they are outside."""
    from minicontainer import subordinate_ids

    subordinate_ids.enter(as_root=False)
    subordinate_ids.own_mounts()


def _start(options: Options, own: Options) -> int:
    from minicontainer.runtime import operations

    with _readiness(root_of(options), own.one(), detached=True):
        operations.start(root_of(options), own.one(), _explain(options))
    return 0


def _readiness(root: str, container_id: str, detached: bool) -> "AbstractContextManager[None]":
    """Around a start: a caller with a NOTIFY_SOCKET hears when the container is ready."""
    if "NOTIFY_SOCKET" not in os.environ:
        return nullcontext()
    from minicontainer.runtime import readiness  # few callers have one

    return readiness.passed_on(root, container_id, detached)


def _run(options: Options, own: Options) -> int:
    explain = _explain(options)
    console = _own_terminal(own, lambda: _asks_for_terminal(own))
    made = _make(options, own, explain, console)
    from minicontainer.runtime import operations

    try:
        if console is not None:
            console.take()
        with _readiness(root_of(options), made.id, own.has("detach")):
            operations.start(root_of(options), made.id, explain)
        if own.has("detach"):
            return 0
        status = _wait(made.pid, console)
    except BaseException:
        operations.delete(root_of(options), made.id, force=True)
        raise
    if not own.has("keep"):
        operations.delete(root_of(options), made.id, force=True, explain=explain)
    return status


def _own_terminal(own: Options, asked: "Callable[[], bool]") -> "Receiver | None":
    """Who calls from a terminal, and waits, is the other end of the container's; an engine has a socket for it."""
    if own.has("detach") or own.text("console-socket") or not os.isatty(0) or not asked():
        return None
    from minicontainer.terminal import Receiver  # for people; engines start containers in a hurry

    return Receiver()


def _asks_for_terminal(own: Options) -> bool:
    from minicontainer.runtime import states

    return states.read_spec(f"{own.text('bundle', '.')}/{states.CONFIG}")[1].process.terminal


def _wait(pid: int, console: "Receiver | None" = None) -> int:
    """Wait for a process of ours, and hand on to it the signals that come in the meantime."""
    import signal

    def hand_on(number: int, _: object) -> None:
        os.kill(pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, hand_on)
    if console is not None:
        console.attend(pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def _kill(options: Options, own: Options) -> int:
    from minicontainer.runtime import operations

    if not own.rest or len(own.rest) > 2:
        raise Error("a container id and at most one signal are needed; try: kill ID TERM")
    number = signal_number((own.rest[1] if len(own.rest) == 2 else "") or "TERM")
    operations.kill(root_of(options), own.rest[0], number, own.has("all"), _explain(options))
    return 0


def signal_number(text: str) -> int:
    """9, KILL, SIGKILL, kill, RTMIN+3; 0 only asks whether it could be sent: kill(2)"""
    import signal

    if text.isascii() and text.isdecimal() and 0 <= int(text) < signal.NSIG:
        return int(text)
    name, sign, by = text.upper().removeprefix("SIG").partition("-" if "-" in text else "+")
    with suppress(KeyError):
        number = signal.Signals[f"SIG{name}"] + int(f"{sign}{by}" if by.isdecimal() else 0)
        if by.isdecimal() == bool(sign) and (not sign or signal.SIGRTMIN <= number <= signal.SIGRTMAX):
            return number
    raise Error(f"unknown signal {text!r}; try: TERM")


def _delete(options: Options, own: Options) -> int:
    from minicontainer.runtime import operations

    operations.delete(root_of(options), own.one(), own.has("force"), _explain(options))
    return 0


def _pause(options: Options, own: Options) -> int:
    from minicontainer.runtime import operations

    operations.pause(root_of(options), own.one(), _explain(options))
    return 0


def _resume(options: Options, own: Options) -> int:
    from minicontainer.runtime import operations

    operations.resume(root_of(options), own.one(), _explain(options))
    return 0


def _exec(options: Options, own: Options) -> int:
    _seal()
    from minicontainer.runtime import creation

    if not own.rest:
        raise Error("a container id is needed; try: exec ID COMMAND")
    container_id = own.rest[0]
    process = _process(root_of(options), container_id, own)
    console = _own_terminal(own, lambda: process.terminal)
    if console is not None and process.console_size is None:
        process = process._replace(console_size=console.size())
    pid = creation.execute(
        root_of(options),
        container_id,
        process,
        console_socket=console.fileno() if console else own.text("console-socket") or None,
        pid_file=own.text("pid-file") or None,
        preserve_fds=_preserved(own.number("preserve-fds")),
        listen_fds=_listen_fds(),
        ignore_paused=own.has("ignore-paused"),
        subgroups=tuple(own.values.get("cgroup", ())),
        born=_pidfd_sender(own, "setns"),
        warn=lambda text: complain(options, text, "warning"),
        explain=_explain(options),
    )
    if console is not None:
        console.take()
    return 0 if own.has("detach") else _wait(pid, console)


def _process(root: str, container_id: str, own: Options) -> "Process":
    from minicontainer.oci.runtime import User, process_from_json
    from minicontainer.runtime import states

    if own.text("process"):
        import json

        with open(own.text("process"), "rb") as file:
            process = process_from_json(json.loads(file.read()))
        return process._replace(terminal=True) if own.has("tty") else process
    process = states.recorded_spec(root, container_id).process
    process = process._replace(
        apparmor_profile=own.text("apparmor", process.apparmor_profile),
        selinux_label=own.text("process-label", process.selinux_label),
        args=tuple(own.rest[1:]),
        cwd=own.text("cwd", process.cwd),
        env=(*process.env, *own.values.get("env", ())),
        terminal=own.has("tty"),
        no_new_privileges=process.no_new_privileges or own.has("no-new-privs"),
    )
    if own.text("user") or own.values.get("additional-gids"):
        uid, _, gid = own.text("user", str(process.user.uid)).partition(":")
        groups = own.values.get("additional-gids", [])
        for name, text in (("user", uid), ("user", gid or "0"), *(("additional-gids", one) for one in groups)):
            if not text.isdecimal() or int(text) >= _NO_ID:
                raise Error(f"--{name}: {text!r} is not a number below {_NO_ID}; try: --user UID[:GID]")
        user = User(uid=int(uid), gid=int(gid or process.user.gid), additional_gids=tuple(map(int, groups)))
        process = process._replace(user=user)
    if own.values.get("cap") and process.capabilities:
        asked = tuple(own.values["cap"])
        sets = process.capabilities
        process = process._replace(
            capabilities=sets._replace(
                bounding=sets.bounding + asked, effective=sets.effective + asked, permitted=sets.permitted + asked
            )
        )
    return process


COMMANDS = {
    "create": Command(_create, "[FLAG]... ID", "make a container, up to the moment before its program", _CREATE_FLAGS),
    "start": Command(_start, "ID", "run the program of a container that was created", {}),
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
        _CREATE_FLAGS
        | {
            "detach": Flag("do not wait"),
            "keep": Flag("do not delete"),
            "no-subreaper": Flag("accepted for other engines"),
        },
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
            "pidfd-socket": Flag("a socket that takes a descriptor of the process", "SOCKET"),
            "preserve-fds": Flag("descriptors from 3 on that the program inherits", "COUNT"),
            "cwd": Flag("where it starts", "DIRECTORY"),
            "env": Flag("a variable, NAME=VALUE", "VARIABLE", repeated=True),
            "user": Flag("its user, UID[:GID]", "USER"),
            "additional-gids": Flag("one more group", "GID", repeated=True),
            "cap": Flag("one more capability", "CAPABILITY", repeated=True),
            "no-new-privs": Flag("no program gives more privileges than it has"),
            "cgroup": Flag("a cgroup below the container's, [CONTROLLER:]PATH", "PATH", repeated=True),
            "ignore-paused": Flag("also in a container that is paused: it waits until that is resumed"),
            "apparmor": Flag("its AppArmor profile, where the host has AppArmor", "PROFILE"),
            "process-label": Flag("its SELinux label, where the host has SELinux", "LABEL"),
        },
    ),
    "pause": Command(_pause, "ID", "freeze all processes of a container", {}),
    "resume": Command(_resume, "ID", "let them go on", {}),
}  # fmt: skip


def _entry() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    _entry()
