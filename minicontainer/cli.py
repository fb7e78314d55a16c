"""The command line for people: a table of commands; the chosen one's module alone is imported.

Above everything. Ruled by docker's command line: its names, its exit codes (125 our own error, 126 and 127 a
command that cannot be executed or found, 128 + n a signal), ids and results on stdout, progress and errors on stderr.
"""

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from minicontainer.arguments import (
    LIST,
    TEXT,
    Command,
    Flag,
    UsageError,
    choose,
    help_of,
    overview,
    parse,
)
from minicontainer.build.options import FLAGS as BUILD_FLAGS
from minicontainer.containers import home
from minicontainer.errors import TOOL_FAILED, Error
from minicontainer.run_options import ELSEWHERE as NO_RUN_FLAGS
from minicontainer.run_options import FLAGS as RUN_FLAGS
from minicontainer.values import Any, NamedTuple, NoReturn

PROGRAM = "minicontainer"
VERSION = "0.1.0"
ABOUT = "Build images and run containers: docker's words, no daemon, a user namespace\nfor every container."
INTERRUPTED = 130

ROOT = Flag(("--root",), "where everything is kept (or $MINICONTAINER_ROOT)", TEXT, "DIR")
HELP = Flag(("-h", "--help"), "say this")
FORMAT = Flag(("--format",), "json, '{{.Field}}' or 'table {{.Field}}': see the reference, Format", TEXT, "FORM")
ONE_FORMAT = Flag(("-f", "--format"), "json, or a template such as '{{.State.Pid}}'", TEXT, "FORM")
QUIET = Flag(("-q", "--quiet"), "ids alone")
NO_PROGRESS = Flag(("-q", "--quiet"), "no progress")
PROCESS = "IMAGE [COMMAND [ARGUMENT...]]"
YES = Flag(("-f", "--force"), "do not ask")
FORCE = Flag(("-f", "--force"), "also what is running or in use")
PLAIN = Flag(("--plain-http",), "the registry speaks no TLS (a loopback registry never does)")
PLATFORM = Flag(("--platform",), "of an image for several, the one for this", TEXT, "OS/ARCH[/VARIANT]")
CREDENTIALS = (
    Flag(("-u", "--username"), "the user's name", TEXT, "NAME"),
    Flag(("-p", "--password"), "the password; better by --password-stdin", TEXT, "TEXT"),
    Flag(("--password-stdin",), "read the password from stdin"),
)
EXPLAIN = (
    Flag(("--explain",), "print each step towards the kernel, and why, as it happens"),
    Flag(("--step",), "the same, and wait for Enter before each step"),
)
ENDING = (
    Flag(("-t", "--time"), "seconds to wait", TEXT, "SECONDS"),
    Flag(("-s", "--signal"), "in place of the image's", TEXT, "SIGNAL"),
)


class Entry(NamedTuple):
    """A command, and the function that does it: module and name, imported when it is chosen."""

    command: Command
    module: str
    function: str
    needs_root: bool = True


def _container(name: str, text: str, words: str = "", least: int = 0, most: int | None = 0, **more: Any) -> Entry:
    return Entry(Command(name, text, words, least, most, **more), "container_commands", name)


def _image(name: str, text: str, words: str = "", least: int = 0, most: int | None = 0, **more: Any) -> Entry:
    return Entry(Command(name, text, words, least, most, **more), "image_commands", name.replace(" ", "_"))


def _changes(name: str, text: str, words: str, least: int, most: int, **more: Any) -> Entry:
    return Entry(Command(name, text, words, least, most, **more), "container_changes", name)


def _volume(name: str, text: str, words: str = "", least: int = 0, most: int | None = 0, **more: Any) -> Entry:
    return Entry(Command(name, text, words, least, most, **more), "volume_commands", name.replace(" ", "_"))


def _usage(name: str, text: str, **more: Any) -> Entry:
    return Entry(Command(name, text, **more), "disk_usage", name.replace(" ", "_"))


def _registry(name: str, text: str, words: str = "", least: int = 0, most: int | None = 0, **more: Any) -> Entry:
    command = Command(name, text, words, least, most, **more)
    return Entry(command, "registry.commands", name.replace(" ", "_"), needs_root=False)


TABLE = (
    _container("run", "create a container of an image and start it", PROCESS, 1, None, rest=True,
               flags=(Flag(("-d", "--detach"), "in the background: print its id"), *RUN_FLAGS, *EXPLAIN),
               elsewhere=NO_RUN_FLAGS),
    _container("create", "create a container", PROCESS, 1, None, rest=True, flags=RUN_FLAGS,
               elsewhere=NO_RUN_FLAGS),
    _container("start", "start containers", "CONTAINER...", 1, None,
               flags=(Flag(("-a", "--attach"), "in the foreground"),
                      Flag(("-i", "--interactive"), "the same, with its stdin if it was created with one"), *EXPLAIN)),
    _container("ps", "list containers", flags=(
        Flag(("-a", "--all"), "also those that do not run"), QUIET, FORMAT, Flag(("--no-trunc",), "whole ids"),
        Flag(("-l", "--latest"), "the youngest, whether it runs or not"),
        Flag(("-n", "--last"), "so many of the youngest, whether they run or not", TEXT, "NUMBER"),
        Flag(("-f", "--filter"), "name=, id=, status=, ancestor=, label=KEY[=VALUE]", LIST, "KEY=VALUE"))),
    _container("logs", "what a container wrote", "CONTAINER", 1, 1, flags=(
        Flag(("-f", "--follow"), "on and on, until it ends"), Flag(("-n", "--tail"), "the last lines", TEXT, "NUMBER"),
        Flag(("--since",), "from a time on, or 10m ago", TEXT, "TIME"),
        Flag(("--until",), "up to a time, or 10m ago", TEXT, "TIME"), Flag(("-t", "--timestamps"), "with times"))),
    _container("exec", "run a further process in a container", "CONTAINER COMMAND [ARGUMENT...]", 2, None, rest=True,
               flags=(
        Flag(("-d", "--detach"), "in the background"), Flag(("-i", "--interactive"), "keep stdin open"),
        Flag(("-t", "--tty"), "give it a terminal"), Flag(("-e", "--env"), "set a variable", LIST, "NAME[=VALUE]"),
        Flag(("--env-file",), "read variables from a file", LIST, "FILE"),
        Flag(("-w", "--workdir"), "the directory to start in", TEXT, "DIR"),
        Flag(("-u", "--user"), "who to run as", TEXT, "USER[:GROUP]"), *EXPLAIN)),
    _container("stop", "ask containers to end, then kill them", "CONTAINER...", 1, None, flags=ENDING),
    _container("kill", "send a signal", "CONTAINER...", 1, None,
               flags=(Flag(("-s", "--signal"), "KILL by default", TEXT, "SIGNAL"),)),
    _container("restart", "stop containers and start them", "CONTAINER...", 1, None, flags=ENDING),
    _container("pause", "let all processes of containers stand still", "CONTAINER...", 1, None),
    _container("unpause", "let them go on", "CONTAINER...", 1, None),
    _container("rename", "give a container another name", "CONTAINER NAME", 2, 2),
    _container("rm", "remove containers", "CONTAINER...", 1, None, flags=(
        FORCE, Flag(("-v", "--volumes"), "also the volumes that they have without a name"))),
    _container("wait", "wait for containers to end, and print their exit status", "CONTAINER...", 1, None),
    _container("inspect", "all that is known of containers or images, as JSON", "NAME...", 1, None, flags=(
        ONE_FORMAT, Flag(("--type",), "container or image: only such", TEXT, "KIND"))),
    _container("port", "the published ports of a container", "CONTAINER [PORT[/PROTOCOL]]", 1, 2),
    Entry(Command("cp", "copy files between a container and this computer; - is an archive",
                  "CONTAINER:PATH PATH|-, or PATH|- CONTAINER:PATH", 2, 2, flags=(
        Flag(("-a", "--archive"), "with the owners that they have"),
        Flag(("-L", "--follow-link"), "what a link points to, when PATH is one"),
        Flag(("-q", "--quiet"), "for docker's scripts: it shows no progress in any case"))),
          "container_copies", "cp"),
    _container("top", "the processes of a container", "CONTAINER [OPTION OF PS...]", 1, None, rest=True),
    _container("stats", "what containers use", "[CONTAINER...]", 0, None,
               flags=(Flag(("--no-stream",), "once, not again and again"), FORMAT)),
    _container("prune", "remove containers that have ended, and content that nobody needs", flags=(
        Flag(("-f", "--force"), "for docker's scripts: it does not ask in any case"),)),
    _image("images", "list images", "[NAME]", 0, 1, flags=(
        QUIET, FORMAT, Flag(("--no-trunc",), "whole ids"), Flag(("--digests",), "with the digests of the manifests"),
        Flag(("-a", "--all"), "for docker's scripts: none are hidden in any case"),
        Flag(("-f", "--filter"), "dangling=true, reference=PATTERN, label=KEY[=VALUE]", LIST, "KEY=VALUE"))),
    _image("rmi", "remove images", "IMAGE...", 1, None, flags=(FORCE,)),
    _image("tag", "give an image a further name", "SOURCE NAME", 2, 2),
    Entry(Command("build", "build an image", "CONTEXT", 1, 1, flags=BUILD_FLAGS), "build.command", "build_image"),
    Entry(Command("builder", "what builds keep for the next ones: prune, du", "prune|du", 1, 1, flags=(
        Flag(("-a", "--all"), "prune: also what images share"),
        Flag(("-f", "--force"), "for docker's scripts: it does not ask in any case"),
        Flag(("--filter",), "prune: what was not used for so long", LIST, "until=24h"),
        Flag(("--keep-storage",), "prune: keep as much as this, the last used first", TEXT, "BYTES[kmg]"))),
          "build.storage", "builder"),
    _image("pull", "get an image from its registry", "IMAGE", 1, 1, flags=(
        PLAIN, NO_PROGRESS, PLATFORM._replace(help="another platform; the name then stands for that manifest alone"),
        Flag(("--all-platforms",), "everything that an index names"))),
    _image("push", "send an image to its registry", "IMAGE", 1, 1, flags=(PLAIN, NO_PROGRESS, PLATFORM)),
    _image("login", "remember the credentials of a registry", "[REGISTRY]", 0, 1, flags=(*CREDENTIALS, PLAIN)),
    _image("logout", "forget the credentials of a registry", "[REGISTRY]", 0, 1),
    _image("load", "read images from an archive (docker's or OCI's)", flags=(
        Flag(("-i", "--input"), "from a file instead of stdin", TEXT, "FILE"), PLATFORM, NO_PROGRESS)),
    _image("save", "write images to an archive", "IMAGE...", 1, None, flags=(
        Flag(("-o", "--output"), "to a file instead of stdout", TEXT, "FILE"),
        Flag(("--format",), "docker-archive, oci-archive or oci-dir", TEXT, "FORMAT"), PLATFORM)),
    _image("history", "the steps that made an image", "IMAGE", 1, 1, flags=(
        QUIET, FORMAT, Flag(("--no-trunc",), "whole commands and ids"))),
    _image("image inspect", "all that is known of images, as JSON", "IMAGE...", 1, None, flags=(ONE_FORMAT,)),
    _usage("image prune", "remove images that have no name", flags=(
        Flag(("-a", "--all"), "all that no container needs"), YES,
        Flag(("--filter",), "until=24h, label=KEY[=VALUE]", LIST, "KEY=VALUE"))),
    _usage("system df", "what images, containers and builds take of the disk", flags=(FORMAT,)),
    _usage("system prune", "remove containers that have ended, images without a name, and what builds keep", flags=(
        Flag(("-a", "--all"), "also all images that no container needs"), YES)),
    _volume("volume create", "make a volume", "[NAME]", 0, 1, flags=(
        Flag(("--label",), "a label", LIST, "NAME[=VALUE]"),)),
    _volume("volume ls", "list volumes", flags=(
        Flag(("-q", "--quiet"), "names alone"), FORMAT,
        Flag(("-f", "--filter"), "name=TEXT, label=KEY[=VALUE], dangling=true", LIST, "KEY=VALUE"))),
    _volume("volume inspect", "all that is known of volumes, as JSON", "NAME...", 1, None, flags=(ONE_FORMAT,)),
    _volume("volume rm", "remove volumes with all that is on them", "NAME...", 1, None, flags=(
        Flag(("-f", "--force"), "one that is not there is no failure"),)),
    _volume("volume prune", "remove volumes that nobody has named and no container uses", flags=(
        Flag(("-a", "--all"), "also those with a name"), YES)),
    _changes("diff", "what a container has written over its image", "CONTAINER", 1, 1),
    _changes("commit", "make an image of a container", "CONTAINER [NAME]", 1, 2, flags=(
        Flag(("-a", "--author"), "who made it", TEXT, "TEXT"), Flag(("-m", "--message"), "what it is", TEXT, "TEXT"),
        Flag(("-c", "--change"), "apply an instruction of a Dockerfile", LIST, "INSTRUCTION"),
        Flag(("--no-pause",), "let it run meanwhile"))),
    _changes("export", "write a container's files as an archive", "CONTAINER", 1, 1, flags=(
        Flag(("-o", "--output"), "to a file instead of stdout", TEXT, "FILE"),)),
    _changes("import", "make an image of an archive of files", "FILE|- [NAME]", 1, 2, flags=(
        Flag(("-m", "--message"), "what it is", TEXT, "TEXT"),
        Flag(("-c", "--change"), "apply an instruction of a Dockerfile", LIST, "INSTRUCTION"),
        PLATFORM._replace(help="what it is for, if not for this machine"))),
    _changes("unpack", "write an image's files into a directory", "IMAGE|oci:DIR[:TAG] ROOTFS", 2, 2,
             flags=(PLATFORM,)),
    Entry(Command("explain", "print each step of a container, and take none", "BUNDLE|IMAGE [COMMAND [ARGUMENT...]]",
                  1, None, rest=True), "explain", "explain", needs_root=False),
    _registry("registry serve", "be a registry, for pull and push of whatever client", flags=(
        Flag(("--listen",), "where; 127.0.0.1:5000 by default", TEXT, "HOST:PORT"),
        Flag(("--data",), "where its images are; DATA/registry by default", TEXT, "DIR"),
        Flag(("--users",), "who may use it: lines of `registry user`, `htpasswd -B`; everybody without", TEXT, "FILE"),
        Flag(("--tls-cert",), "a certificate: speak TLS", TEXT, "FILE"),
        Flag(("--tls-key",), "its key", TEXT, "FILE"))),
    _registry("registry user", "print a user's line for --users; the password comes from stdin", "NAME", 1, 1),
    Entry(Command("info", "what there is here, and what this computer lets us do", flags=(ONE_FORMAT,)),
          "machine", "info"),
    Entry(Command("version", "the version"), "cli", "version", needs_root=False),
)  # fmt: skip
COMMANDS = {entry.command.name: entry for entry in TABLE}
GROUPS = {"buildx", "container", "image", "registry", "system", "volume"}  # first words of commands of two
VERBS = (
    "commit cp create diff exec export inspect kill logs pause port prune ps rename restart rm run start stats stop top"
)
ALIASES = {  # docker's long forms
    "buildx build": "build",
    "container ls": "ps",
    "container list": "ps",
    **{f"container {verb}": verb for verb in (*VERBS.split(), "unpause", "wait")},
    "image ls": "images",
    "image list": "images",
    "image rm": "rmi",
    "system info": "info",
    "volume list": "volume ls",
    **{f"image {verb}": verb for verb in ("build", "history", "import", "load", "pull", "push", "save", "tag")},
}
ORCHESTRATES = "miniecs runs containers on several machines; try: miniecs --help"
ELSEWHERE = {  # what docker has and we do not, and what to do instead
    "attach": "try: logs --follow to see what it says, exec -it to go in",
    "compose": "a task of miniecs has several containers; try: miniecs --help",
    "config": ORCHESTRATES,
    "context": "there is no daemon to choose",
    "events": "try: ps --all, logs --follow, or minicontainer-runtime events",
    "manifest": "try: image inspect, or push an index that `build --platform` has made",
    "network": "there is one bridge; try: run --network bridge, none or host",
    "node": ORCHESTRATES,
    "plugin": "nothing can be plugged in",
    "search": "no registry but docker's can be searched",
    "secret": "try: build --secret",
    "service": ORCHESTRATES,
    "stack": ORCHESTRATES,
    "swarm": ORCHESTRATES,
    "update": "try: minicontainer-runtime --root /run/minicontainer/runtime update ID",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The process's edge: an error of the user or the kernel is one line, and a bug keeps its traceback."""
    if arguments is None:
        return _whole_process()
    try:
        status = dispatch(list(arguments))
        sys.stdout.flush()  # here, where a disk that is full is told as every other failure
        return status
    except Error as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's own flush does not fail too
        return INTERRUPTED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{PROGRAM}: {where}{error.strerror or error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()) if os.environ.get("MINICONTAINER_DEBUG") else ():
            print(note, file=sys.stderr)
        return TOOL_FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _whole_process() -> NoReturn:
    """The process lives for this one command: nothing is collected, and nothing taken apart at its end (6 ms)."""
    gc.disable()
    status = main(sys.argv[1:])
    with suppress(OSError):  # it has been told
        sys.stdout.flush()
    os._exit(status)


def dispatch(words: list[str]) -> int:
    """Read what stands before the command, then let the command read the rest."""
    whole = parse("", Command(PROGRAM, ABOUT, flags=(ROOT, HELP, Flag(("-v", "--version"), "the version")),
                              rest=True, most=None), words)  # fmt: skip
    if whole.version:
        return version()
    if whole.help or not whole.words or whole.words == ("help",):
        shown = overview(PROGRAM, ABOUT, [entry.command for entry in TABLE], (ROOT, HELP))
        print(shown, end="", file=sys.stdout if whole.words or whole.help else sys.stderr)
        return 0 if whole.words or whole.help else TOOL_FAILED
    name, *rest = whole.words
    if name == "help":
        name, rest = rest[0], ["--help"]
    if name in GROUPS:
        if not rest or rest[0].startswith("-"):
            mine = [entry.command for entry in TABLE if entry.command.name.startswith(f"{name} ")]
            mine += [COMMANDS[short].command._replace(name=long) for long, short in ALIASES.items()
                     if long.startswith(f"{name} ")]  # fmt: skip
            print(overview(PROGRAM, f"{name}: a word of these commands", mine, (HELP,)), end="")
            return 0 if rest else TOOL_FAILED
        name, rest = f"{name} {rest[0]}", rest[1:]
        name = ALIASES.get(name, name)
    if name in ELSEWHERE:
        raise UsageError(f"{name} is not built: {ELSEWHERE[name]}")
    choose(PROGRAM, {known: entry.command for known, entry in COMMANDS.items()}, name)
    entry = COMMANDS[name]
    command = entry.command._replace(flags=(*entry.command.flags, HELP if not _has_h(entry.command) else LONG_HELP))
    if _wants_help(rest, command):
        print(help_of(PROGRAM, command), end="")
        return 0
    parsed = parse(PROGRAM, command, rest)
    place = home(whole.root)
    if entry.needs_root and os.geteuid() != 0:
        from minicontainer import rootless

        rootless.enter(place)
    if entry.module == "cli":
        return version()
    import importlib

    module = importlib.import_module(f"minicontainer.{entry.module}")
    function = getattr(module, entry.function, None) or getattr(module, f"{entry.function}_")
    return int(function(place, parsed))


LONG_HELP = Flag(("--help",), "say this")


def _has_h(command: Command) -> bool:
    return any("-h" in flag.names for flag in command.flags)


def _wants_help(rest: Sequence[str], command: Command) -> bool:
    """--help among the command's own flags, not among the words of what is to run."""
    if not command.rest:
        return "--help" in rest or "-h" in rest
    try:
        return bool(parse(PROGRAM, command._replace(least=0), rest).help)
    except UsageError:
        return False


def version(*_: object) -> int:
    print(f"{PROGRAM} {VERSION}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
