"""Run options: the flags of `run` and `create` to `Options`, docker's notations in, values out.

Stands between `cli` and `engine`. Ruled by docker's reference of `docker run`.
"""

import os
import re
from collections.abc import Iterable, Mapping

from minicontainer.arguments import LIST, TEXT, Flag, Parsed, UsageError
from minicontainer.containers import Options, Port, Ulimit, Volume

UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
MOUNT_WORDS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")

FLAGS = (
    Flag(("-i", "--interactive"), "keep stdin open"),
    Flag(("-t", "--tty"), "give it a terminal"),
    Flag(("--rm",), "remove the container when it ends"),
    Flag(("--name",), "a name for the container", TEXT, "NAME"),
    Flag(("-e", "--env"), "set an environment variable", LIST, "NAME[=VALUE]"),
    Flag(("--env-file",), "read environment variables from a file", LIST, "FILE"),
    Flag(
        ("-v", "--volume"),
        "show a path of the machine, a volume by its name, or a new volume, in the container",
        LIST,
        "[SOURCE:]TARGET[:ro]",
    ),
    Flag(("-p", "--publish"), "publish a port", LIST, "[[ADDRESS:]PORT:]PORT[/udp]"),
    Flag(("-P", "--publish-all"), "publish every port that the image exposes"),
    Flag(("--network", "--net"), "bridge, none or host", TEXT, "NETWORK"),
    Flag(("--entrypoint",), "in place of the image's entrypoint", TEXT, "COMMAND"),
    Flag(("-w", "--workdir"), "the directory to start in", TEXT, "DIR"),
    Flag(("-u", "--user"), "who to run as", TEXT, "USER[:GROUP]"),
    Flag(("-h", "--hostname"), "the container's host name", TEXT, "NAME"),
    Flag(("--add-host",), "a line for /etc/hosts; host-gateway is the machine", LIST, "NAME:ADDRESS"),
    Flag(("--dns",), "a name server", LIST, "ADDRESS"),
    Flag(("--dns-search",), "a domain that short names are looked for in", LIST, "DOMAIN"),
    Flag(("--restart",), "no, on-failure[:COUNT] or always", TEXT, "POLICY"),
    Flag(("-l", "--label"), "a label", LIST, "NAME[=VALUE]"),
    Flag(("--label-file",), "labels, a line each", LIST, "FILE"),
    Flag(("-m", "--memory"), "limit of memory", TEXT, "BYTES[kmg]"),
    Flag(("--memory-swap",), "limit of memory and swap; the default is no swap", TEXT, "BYTES[kmg]"),
    Flag(("--memory-reservation",), "memory to keep when the machine is short", TEXT, "BYTES[kmg]"),
    Flag(("--cpus",), "limit of CPUs, such as 1.5", TEXT, "NUMBER"),
    Flag(("-c", "--cpu-shares"), "weight of CPU, 1024 by default", TEXT, "NUMBER"),
    Flag(("--cpuset-cpus",), "the CPUs to run on, such as 0-2,4", TEXT, "CPUS"),
    Flag(("--pids-limit",), "limit of processes, 2048 by default, 0 for none", TEXT, "NUMBER"),
    Flag(("--ulimit",), "a resource limit", LIST, "NAME=SOFT[:HARD]"),
    Flag(("--sysctl",), "a setting of the kernel, of the container's own namespaces", LIST, "NAME=VALUE"),
    Flag(("--cap-add",), "add a capability", LIST, "NAME"),
    Flag(("--cap-drop",), "drop a capability, or ALL", LIST, "NAME"),
    Flag(("--security-opt",), "no-new-privileges=false, seccomp=unconfined, apparmor=PROFILE", LIST, "OPTION"),
    Flag(("--read-only",), "a root file system that cannot be written"),
    Flag(("--mount",), "type=bind|volume,src=SOURCE,dst=DIR[,ro], or type=tmpfs,dst=DIR", LIST, "KEY=VALUE,..."),
    Flag(("--volumes-from",), "the volumes of another container", LIST, "CONTAINER[:ro]"),
    Flag(("--tmpfs",), "a file system in memory", LIST, "PATH[:OPTIONS]"),
    Flag(("--shm-size",), "size of /dev/shm, 64m by default", TEXT, "BYTES[kmg]"),
    Flag(("--init",), "a small first process, tini, that reaps children and hands on signals"),
    Flag(("--stop-signal",), "what `stop` sends", TEXT, "SIGNAL"),
    Flag(("--stop-timeout",), "seconds until `stop` kills, 10 by default", TEXT, "SECONDS"),
    Flag(("--userns",), "host: no user namespace", TEXT, "MODE"),
    Flag(("--cgroup-parent",), "the cgroup to be made in", TEXT, "PATH"),
    Flag(("--cidfile",), "write the container's id to a file", TEXT, "FILE"),
    Flag(("--pull",), "missing, always or never", TEXT, "WHEN"),
)
ELSEWHERE = {  # what docker has and we do not, and what to do instead
    "--device": "devices of the machine are not shown; a container has those of runtime-spec, config-linux.md",
    "--expose": "try: --publish, or EXPOSE in the Dockerfile",
    "--gpus": "devices of the machine are not shown",
    "--group-add": "try: --user NAME, whose groups are those of the image's /etc/group",
    "--health-cmd": "try: healthCheck of a task definition, which miniecs' agent carries out",
    "--ipc": "each container has its own",
    "--link": "try: --add-host, or a task definition of miniecs",
    "--log-driver": "there is one, json-file",
    "--log-opt": "there are none",
    "--pid": "each container has its own process namespace",
    "--platform": "try: pull --platform first; this machine runs its own architecture alone",
    "--privileged": "try: --cap-add, --security-opt seccomp=unconfined or --userns host, whichever it is about",
}


def options(parsed: Parsed, environ: Mapping[str, str] = os.environ) -> Options:
    """What `minicontainer run` was told.

    Raises:
        UsageError: a value that cannot be read; the text says which notation is expected.
    """
    image, *command = parsed.words
    if parsed.name and not NAME.fullmatch(parsed.name):
        raise UsageError(f"--name {parsed.name!r}: a letter or digit, then letters, digits, and _.- are expected")
    return Options(
        image=image,
        command=tuple(command),
        name=parsed.name or "",
        env=environment(parsed.env_file, parsed.env, environ),
        entrypoint=None if parsed.entrypoint is None else (parsed.entrypoint,),
        workdir=parsed.workdir or "",
        user=parsed.user or "",
        hostname=parsed.hostname or "",
        network=parsed.network or "bridge",
        ports=tuple(port(text) for text in parsed.publish),
        publish_all=parsed.publish_all,
        volumes=(*map(volume, parsed.volume), *(one for one in map(mount, parsed.mount) if isinstance(one, Volume))),
        tmpfs=(*parsed.tmpfs, *(one for one in map(mount, parsed.mount) if isinstance(one, str))),
        shm_size=size("--shm-size", parsed.shm_size or "64m"),
        labels=pairs((*_lines(parsed.label_file), *parsed.label)),
        memory=_optional_size("--memory", parsed.memory),
        memory_swap=_optional_size("--memory-swap", parsed.memory_swap),
        memory_reservation=_optional_size("--memory-reservation", parsed.memory_reservation),
        cpus=_number("--cpus", parsed.cpus),
        cpu_shares=_whole("--cpu-shares", parsed.cpu_shares),
        pids_limit=max(0, _whole("--pids-limit", parsed.pids_limit or "2048") or 0),
        ulimits=tuple(ulimit(text) for text in parsed.ulimit),
        cgroup_parent=parsed.cgroup_parent or "",
        read_only=parsed.read_only,
        cap_add=parsed.cap_add,
        cap_drop=parsed.cap_drop,
        security_opt=parsed.security_opt,
        userns=parsed.userns or "",
        init=parsed.init,
        restart=parsed.restart or "no",
        remove=parsed.rm,
        tty=parsed.tty,
        interactive=parsed.interactive,
        stop_signal=parsed.stop_signal or "",
        stop_timeout=_whole("--stop-timeout", parsed.stop_timeout or "10") or 0,
        dns=parsed.dns,
        dns_search=parsed.dns_search,
        sysctls=pairs(parsed.sysctl),
        cpuset_cpus=parsed.cpuset_cpus or "",
        extra_hosts=tuple(extra_host(text) for text in parsed.add_host),
    )


def size(flag: str, text: str) -> int:
    """512m, 1.5g, 100kb, 4096; -1 is no limit."""
    if text == "-1":
        return -1
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([bkmgt]?)b?", text.lower())
    if not found:
        raise UsageError(f"{flag} {text!r}: a size such as 512m or 2g is expected")
    return int(float(found[1]) * UNITS[found[2]])


def port(text: str) -> Port:
    """[[ADDRESS:]HOST_PORT:]PORT[/PROTOCOL]"""
    whole, _, protocol = text.partition("/")
    *before, inner = whole.split(":")
    address = before[0] if len(before) == 2 else ""
    outer = before[-1] if before else ""
    numbers = [number for number in (inner, outer) if number]
    good = inner and len(before) <= 2 and all(number.isdecimal() and 0 < int(number) < 65536 for number in numbers)
    if not good or protocol not in ("", "tcp", "udp") or not re.fullmatch(r"[\d.]*", address):
        raise UsageError(f"--publish {text!r}: [[ADDRESS:]HOST_PORT:]PORT[/udp] is expected, such as 8080:80")
    address = "" if address == "0.0.0.0" else address
    return Port(container_port=int(inner), host_port=int(outer or 0), protocol=protocol or "tcp", host_ip=address)


def volume(text: str) -> Volume:
    """[SOURCE:]TARGET[:ro|rw]; a source that begins with ./ is below the current directory, one without / is a name."""
    if text.startswith("/") and ":" not in text:
        return Volume(source="", target=text, anonymous=True)
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    words = set(filter(None, mode.split(",")))
    if not source or not target or words - {"ro", "rw", "z", "Z", "rprivate", "private"}:
        raise UsageError(f"--volume {text!r}: SOURCE:TARGET[:ro] is expected, such as /srv/data:/data:ro")
    if "/" not in source and source not in (".", "..", "~"):
        return Volume(source="", target=target, read_only="ro" in words, name=source)
    if source.startswith((".", "~")):
        source = os.path.abspath(os.path.expanduser(source))
    return Volume(source=source, target=target, read_only="ro" in words)


def mount(text: str) -> Volume | str:
    """--mount type=bind|volume,source=…,target=…[,readonly], or type=tmpfs,target=…[,tmpfs-size=…][,tmpfs-mode=…]"""
    given = {}
    for word in text.split(","):
        name, equals, value = word.partition("=")
        given[MOUNT_WORDS.get(name, name)] = value if equals else "true"
    kind, source, target = given.pop("type", "volume"), given.pop("source", ""), given.pop("target", "")
    known = {"bind": {"readonly", "bind-propagation"}, "volume": {"readonly"}, "tmpfs": {"tmpfs-size", "tmpfs-mode"}}
    misplaced = kind == "tmpfs" if source else kind == "bind"
    if kind not in known or set(given) - known[kind] or not target or misplaced:
        raise UsageError(f"--mount {text!r}: type=bind|volume,source=SOURCE,target=DIR[,readonly] or type=tmpfs,"
                         "target=DIR[,tmpfs-size=BYTES][,tmpfs-mode=MODE] is expected")  # fmt: skip
    if kind == "tmpfs":
        said = [f"{name[6:]}={value}" for name, value in given.items()]
        return f"{target}:{','.join(said)}" if said else target
    if given.get("bind-propagation", "rprivate") not in ("rprivate", "private"):
        raise UsageError(f"--mount {text!r}: no mount of a container spreads; try: bind-propagation=rprivate")
    read_only = given.get("readonly", "false") in ("true", "1")
    if kind == "volume":
        return Volume(source="", target=target, read_only=read_only, name=source, anonymous=not source)
    return Volume(source=source, target=target, read_only=read_only)


def ulimit(text: str) -> Ulimit:
    """NAME=SOFT[:HARD]; -1 is no limit."""
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    if not re.fullmatch(r"-1|\d+", soft) or not re.fullmatch(r"-1|\d+|", hard):
        raise UsageError(f"--ulimit {text!r}: NAME=SOFT[:HARD] is expected, such as nofile=1024:4096")
    unlimited = (1 << 64) - 1
    numbers = [unlimited if number == "-1" else int(number) for number in (soft, hard or soft)]
    return Ulimit(name=name, soft=numbers[0], hard=numbers[1])


def extra_host(text: str) -> str:
    if not re.fullmatch(r"[^:=\s]+[:=]\S+", text):
        raise UsageError(f"--add-host {text!r}: NAME:ADDRESS is expected")
    return text


def environment(files: Iterable[str], entries: Iterable[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Of files, then of flags; a name without a value has that of the caller's environment, if it is set there."""
    found = []
    for entry in (*_lines(files), *entries):
        if entry.startswith("=") or not entry:
            raise UsageError(f"--env {entry!r}: NAME=VALUE is expected")
        if "=" in entry:
            found.append(entry)
        elif entry in environ:
            found.append(f"{entry}={environ[entry]}")
    return tuple(found)


def _lines(files: Iterable[str]) -> list[str]:
    """What the files say, without empty lines and comments."""
    lines: list[str] = []
    for path in files:
        with open(path, encoding="utf-8") as file:
            lines += [line for line in (line.strip() for line in file) if line and not line.startswith("#")]
    return lines


def pairs(entries: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE of each."""
    return {name: value for name, _, value in (text.partition("=") for text in entries)}


def _optional_size(flag: str, text: str | None) -> int | None:
    return None if text is None else size(flag, text)


def _number(flag: str, text: str | None) -> float | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d+(\.\d+)?|\.\d+", text) or float(text) <= 0:
        raise UsageError(f"{flag} {text!r}: a number such as 1.5 is expected")
    return float(text)


def _whole(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"-?\d+", text):
        raise UsageError(f"{flag} {text!r}: a whole number is expected")
    return int(text)
