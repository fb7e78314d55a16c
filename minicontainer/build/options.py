"""Options: the flags of `build` as a table, and the small languages of their values.

Between `arguments`, which reads a command line, and `command`. Ruled by docker's command line (buildx build).
"""

import os
from collections.abc import Iterable, Mapping

from minicontainer.arguments import LIST, TEXT, Flag, UsageError
from minicontainer.values import NamedTuple

FLAGS = (
    Flag(("--add-host",), "a line for the /etc/hosts of each RUN", LIST, "NAME:ADDRESS"),
    Flag(("--allow",), "an entitlement: security.insecure", LIST, "NAME"),
    Flag(("--build-arg",), "a value for an ARG; alone: the environment's", LIST, "NAME[=VALUE]"),
    Flag(("--build-context",), "a further context, for FROM and --from", LIST, "NAME=PLACE"),
    Flag(("--check",), "build nothing: say what is not well in the Dockerfile"),
    Flag(("--cache-from",), "steps that another build has shared", LIST, "type=TYPE,src=DIR"),
    Flag(("--cache-to",), "share the steps of this build", LIST, "type=TYPE,dest=DIR"),
    Flag(("--cgroup-parent",), "the cgroup of each RUN", TEXT, "PATH"),
    Flag(("-f", "--file"), "the Dockerfile (CONTEXT/Dockerfile); - is stdin", TEXT, "PATH"),
    Flag(("--iidfile",), "write the image's id to this file", TEXT, "PATH"),
    Flag(("--label",), "add a label to the image", LIST, "NAME=VALUE"),
    Flag(("--metadata-file",), "write what was built to this file, as JSON", TEXT, "PATH"),
    Flag(("--network",), "of each RUN: bridge, default, none, host", TEXT, "NETWORK"),
    Flag(("--explain",), "print what each RUN asks the kernel for, and why"),
    Flag(("--step",), "the same, and wait for Enter before each step"),
    Flag(("--no-cache",), "carry out every step again"),
    Flag(("--no-cache-filter",), "carry out every step of these stages again", LIST, "STAGE,..."),
    Flag(
        ("-o", "--output"),
        "what becomes of the image: type=image, docker, oci, local, tar",
        LIST,
        "type=TYPE,dest=PATH",
    ),
    Flag(("--platform",), "what to build for; several make an index", TEXT, "OS/ARCH,..."),
    Flag(("--progress",), "how to show the steps: auto, tty, plain, quiet, rawjson", TEXT, "HOW"),
    Flag(("--pull",), "pull base images even when they are here"),
    Flag(("-q", "--quiet"), "print nothing but the image's id"),
    Flag(("--secret",), "a secret for RUN --mount=type=secret", LIST, "id=NAME[,src=PATH|,env=VARIABLE]"),
    Flag(("--shm-size",), "size of /dev/shm of each RUN", TEXT, "BYTES[kmg]"),
    Flag(("--ssh",), "an ssh-agent for RUN --mount=type=ssh", LIST, "default|ID[=SOCKET]"),
    Flag(("-t", "--tag"), "name the image; may be repeated", LIST, "NAME[:TAG]"),
    Flag(("--target",), "build this stage, not the last one", TEXT, "STAGE"),
    Flag(("--ulimit",), "a resource limit of each RUN", LIST, "NAME=SOFT[:HARD]"),
)
ENTITLEMENTS = ("security.insecure", "network.host")


class Secret(NamedTuple):
    """What --secret gives: a file of the caller's, or a variable of its environment."""

    file: str = ""
    variable: str = ""


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{text}: write NAME=VALUE")
    return name, value


def from_environment(text: str, environ: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """`NAME=VALUE`, or `NAME` with the value that the caller's environment has; nothing when it has none."""
    if "=" in text:
        return pair(text)
    return (text, environ[text]) if text in environ else None


def fields(flag: str, text: str, known: Iterable[str]) -> dict[str, str]:
    """`a=b,"c=d,e"` as CSV has it: the values by their names."""
    import csv  # a `run`, which knows the flags of all commands, reads none of these

    found: dict[str, str] = {}
    for word in next(iter(csv.reader([text])), []):
        name, equals, value = word.partition("=")
        if not equals or name.lower() not in known:
            raise UsageError(f"{flag} {text}: {word!r} is none of {', '.join(f'{name}=...' for name in known)}")
        found[name.lower()] = value
    return found


def secret(text: str) -> tuple[str, Secret]:
    """`id=NAME,src=PATH`, `id=NAME,env=VARIABLE`; alone, the variable or else the file of that name."""
    given = fields("--secret", text, ("id", "src", "source", "env", "type"))
    name, file = given.get("id", ""), given.get("src", given.get("source", ""))
    kind, variable = given.get("type", ""), given.get("env", "")
    if not name or kind not in ("", "file", "env") or (file and variable):
        raise UsageError(f"--secret {text}: id=NAME,src=PATH or id=NAME,env=VARIABLE is expected")
    if kind == "env" and file:
        file, variable = "", file
    if not file and not variable:
        file, variable = ("", name) if kind != "file" and name in os.environ else (name, "")
    if variable and variable not in os.environ:
        raise UsageError(f"--secret {text}: the environment has no {variable}")
    if file and not os.path.isfile(file):
        raise UsageError(f"--secret {text}: {file}: no such file")
    return name, Secret(file=os.path.abspath(file) if file else "", variable=variable)


def agent(text: str) -> tuple[str, str]:
    """`default`, `ID=SOCKET`: the id, and the socket of an ssh-agent."""
    name, _, path = text.partition("=")
    path = path or os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        raise UsageError(f"--ssh {text}: SSH_AUTH_SOCK is not set; try: eval $(ssh-agent), or --ssh {name}=SOCKET")
    if os.path.isfile(path):
        raise UsageError(f"--ssh {text}: {path} is a file; give its key to an agent: ssh-add {path}, --ssh {name}")
    return name or "default", path


def entitlement(text: str) -> str:
    if text not in ENTITLEMENTS:
        raise UsageError(f"--allow {text}: it is one of {', '.join(ENTITLEMENTS)}")
    return text
