"""Stages: the stages of a Dockerfile, which of them a build wants, and what an instruction does to a config (pure).

Between `dockerfile` (text) and `builder`, which does what needs a file system. Ruled by the Dockerfile reference and
image-spec, config.md; where they are silent, by what BuildKit does.
"""

import re
import signal as signals
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from minicontainer.build.dockerfile import BuildError, Dockerfile, Instruction
from minicontainer.build.expansion import ExpansionError, expand, expand_words
from minicontainer.oci.image import ARCHITECTURES, ContainerConfig, HealthCheck, Platform

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
SCRATCH = ContainerConfig(env=(PATH,), working_dir="/")
PROXY_ARGUMENTS = frozenset(("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"))
PROXIES = PROXY_ARGUMENTS | {name.lower() for name in PROXY_ARGUMENTS}
SIGNALS = frozenset(one.name.removeprefix("SIG") for one in signals.Signals)
SYSTEMS = ("linux", "windows", "darwin", "freebsd")
STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
PORT = re.compile(r"(?:.*:)?([0-9]+)(?:-([0-9]+))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
DURATION = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


class Stage(NamedTuple):
    """A FROM and what follows it. `base` is the number of the earlier stage it begins with; None: the image `image`."""

    number: int
    name: str
    image: str
    base: int | None
    begin: Instruction
    instructions: tuple[Instruction, ...]
    platform: Platform | None = None  # what FROM --platform says

    @property
    def label(self) -> str:
        return self.name or f"stage-{self.number}"


class State(NamedTuple):
    """What the instructions so far have made of a stage, but its files.

    `arguments` are the ARGs with what they mean now: of an ARG and an ENV of one name the later one counts.
    """

    config: ContainerConfig
    arguments: Mapping[str, str] = {}
    author: str = ""
    cmd_is_ours: bool = False  # CMD was given in this stage: ENTRYPOINT then keeps it

    @property
    def variables(self) -> dict[str, str]:
        """What `$name` means now."""
        return {**environment(self.config), **self.arguments}


class Scope(NamedTuple):
    """What the whole build gives to its ARGs."""

    given: Mapping[str, str]  # --build-arg
    declared: Mapping[str, str]  # ARG before the first FROM
    platform: Mapping[str, str]  # TARGETARCH and so on
    escape: str = "\\"

    def value(self, name: str, default: str | None) -> str | None:
        """The value of an ARG in a stage, or None when it has none. Its own default wins over what is known outside."""
        if name in self.given:
            return self.given[name]
        return self.declared.get(name, self.platform.get(name)) if default is None else default


class Refused(ValueError):
    """An instruction that cannot be carried out; the text is the reason."""


def environment(config: ContainerConfig) -> dict[str, str]:
    return {name: value for name, _, value in (entry.partition("=") for entry in config.env)}


def refuse(dockerfile: Dockerfile, instruction: Instruction, reason: object) -> BuildError:
    """The error that names file, line and instruction."""
    said = f"{dockerfile.name}:{instruction.line}: {instruction.keyword}: {reason}"
    return BuildError(said, dockerfile.excerpt(instruction))


# --- stages ----------------------------------------------------------------------------------------------------------


def platform_arguments(here: Platform, wanted: Platform, target: str) -> dict[str, str]:
    found = {"TARGETSTAGE": target or "default"}
    for side, platform in (("BUILD", here), ("TARGET", wanted)):
        found |= {
            f"{side}PLATFORM": str(platform),
            f"{side}OS": platform.os,
            f"{side}ARCH": platform.architecture,
            f"{side}VARIANT": platform.variant,
        }
    return found


def scope(
    dockerfile: Dockerfile, given: Mapping[str, str], here: Platform, target: str = "", platform: Platform | None = None
) -> Scope:
    """The ARGs before the first FROM, each of which may use those before it.

    Raises:
        BuildError: one of them cannot be expanded.
    """
    of_platform = platform_arguments(here, platform or here, target)
    declared: dict[str, str] = {}
    for instruction in dockerfile.instructions:
        if instruction.keyword == "FROM":
            break
        for word in instruction.arguments:
            name, equals, default = word.partition("=")
            try:
                value = expand(default, {**of_platform, **declared}, dockerfile.escape)
            except ExpansionError as error:
                raise refuse(dockerfile, instruction, error) from None
            if name in given or equals:
                declared[name] = given.get(name, value)
    return Scope(given=given, declared=declared, platform=of_platform, escape=dockerfile.escape)


def stages(dockerfile: Dockerfile, scope: Scope) -> tuple[Stage, ...]:
    """The stages in order.

    Raises:
        BuildError: a FROM that names nothing, or that is for another platform.
    """
    found: list[Stage] = []
    starts = [at for at, instruction in enumerate(dockerfile.instructions) if instruction.keyword == "FROM"]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(dockerfile.instructions)], strict=True)):
        begin = dockerfile.instructions[start]
        try:
            name, image, platform = _from(begin, scope)
        except (Refused, ExpansionError) as error:
            raise refuse(dockerfile, begin, error) from None
        named = (stage.number for stage in reversed(found) if stage.name and stage.name == image.lower())
        base = next(named, None) if image != "scratch" else None
        instructions = dockerfile.instructions[start + 1 : end]
        found.append(Stage(number, name, image, base, begin, instructions, platform))
    return tuple(found)


def _from(instruction: Instruction, scope: Scope) -> tuple[str, str, Platform | None]:
    """(the stage's name, the image it begins with, the platform it asks for)"""
    variables = {**scope.platform, **scope.declared}
    words = instruction.arguments
    if len(words) == 2 or (len(words) == 3 and words[1].lower() != "as"):
        raise Refused("needs one image, or an image, AS and a name")
    name = words[2].lower() if len(words) == 3 else ""
    if name and not STAGE_NAME.fullmatch(name):
        raise Refused(f"{words[2]} cannot be the name of a stage")
    image = expand(words[0], variables, scope.escape)
    if not image:
        raise Refused(f"base name ({words[0]}) is empty after expansion; give its ARG a value before FROM")
    platform = expand(instruction.flag("platform"), variables, scope.escape)
    return name, image, parse_platform(platform) if platform else None


def parse_platform(text: str) -> Platform:
    """`linux/arm64/v8`, `linux/amd64`, `arm64`, `linux`.

    Raises:
        Refused: it is none.
    """
    words = text.lower().split("/")
    if len(words) > 3 or not all(re.fullmatch(r"[a-z0-9_.-]+", word) for word in words):
        raise Refused(f"--platform={text}: it is OS/ARCHITECTURE[/VARIANT], like linux/arm64")
    if len(words) == 1:
        system, machine = (words[0], "") if words[0] in SYSTEMS else ("linux", words[0])
    else:
        system, machine = words[0], words[1]
    machine = ARCHITECTURES.get(machine, machine) or Platform.here().architecture
    variant = words[2] if len(words) == 3 else ""
    return Platform(architecture=machine, os=system, variant="" if (machine, variant) == ("arm64", "v8") else variant)


def find(stages: Sequence[Stage], name: str, before: int) -> Stage | None:
    """The stage before that number that `--from` or `--target` calls by its name or number."""
    if name.isdigit():
        return stages[int(name)] if int(name) < before else None
    return next((stage for stage in reversed(stages[:before]) if stage.name == name.lower()), None)


def wanted(dockerfile: Dockerfile, stages: Sequence[Stage], target: str) -> tuple[Stage, ...]:
    """The stages that the target (the last one when it is empty) needs, in the order of the file; it is the last.

    Raises:
        BuildError: there is no stage `target`.
    """
    goal = find(stages, target, len(stages)) if target else stages[-1]
    if goal is None:
        known = ", ".join(stage.label for stage in stages)
        raise BuildError(f"{dockerfile.name}: no stage {target}; its stages are {known}")
    needed, pending = {goal.number}, [goal]
    while pending:
        stage = pending.pop()
        for index in needs(stages, stage) - needed:
            needed.add(index)
            pending.append(stages[index])
    return tuple(stages[index] for index in sorted(needed))


def needs(stages: Sequence[Stage], stage: Stage) -> set[int]:
    """The numbers of the stages that a stage begins with or takes something from."""
    names = [name for instruction in stage.instructions for name in _named(instruction)]
    named = [find(stages, name, stage.number) for name in names]
    needs = {other.number for other in named if other is not None}
    return needs | ({stage.base} if stage.base is not None else set())


def _named(instruction: Instruction) -> Iterator[str]:
    """The stages that --from and the mounts of a RUN may name, as written: one with a variable is built when met."""
    yield instruction.flag("from")
    for text in instruction.flag_values("mount"):
        yield from (word.partition("=")[2] for word in text.split(",") if word.startswith("from="))


# --- what an instruction does to the config --------------------------------------------------------------------------


def apply(instruction: Instruction, state: State, scope: Scope) -> State:
    """The state after an instruction that touches no file.

    Raises:
        Refused: the instruction cannot be carried out.
        ExpansionError: a word of it cannot be expanded.
    """
    return _APPLY[instruction.keyword](instruction, state, scope)


def is_metadata(instruction: Instruction) -> bool:
    return instruction.keyword in _APPLY


def shell_or_exec(instruction: Instruction, config: ContainerConfig, text: str = "") -> tuple[str, ...]:
    """The words to execute: as they stand in exec form, by the SHELL in force in shell form (even of no words)."""
    if instruction.exec_form:
        return instruction.arguments
    return (*(config.shell or DEFAULT_SHELL), text or " ".join(instruction.arguments))


def run_environment(state: State, scope: Scope) -> tuple[str, ...]:
    """The environment of a RUN: ENV, the ARGs, and the proxies that were given, unless they are declared."""
    proxies = {name: value for name, value in scope.given.items() if name in PROXIES}
    return tuple(f"{name}={value}" for name, value in {**proxies, **state.variables}.items())


def _arg(instruction: Instruction, state: State, scope: Scope) -> State:
    for word in instruction.arguments:
        name, equals, default = word.partition("=")
        value = expand(default, state.variables, scope.escape) if equals else None
        if (found := scope.value(name, value)) is not None:  # without a value it leaves what there was
            state = state._replace(arguments={**state.arguments, name: found})
    return state


def _pairs(instruction: Instruction, state: State, scope: Scope) -> list[tuple[str, str]]:
    """Names and values, all expanded with what was before the instruction."""
    variables = state.variables
    found = []
    for word in instruction.arguments:
        name, _, value = word.partition("=")
        found.append((expand(name, variables, scope.escape), expand(value, variables, scope.escape)))
    return found


def _env(instruction: Instruction, state: State, scope: Scope) -> State:
    given = dict(_pairs(instruction, state, scope))
    env = tuple(f"{name}={value}" for name, value in {**environment(state.config), **given}.items())
    arguments = {name: given.get(name, value) for name, value in state.arguments.items()}
    return state._replace(config=state.config._replace(env=env), arguments=arguments)


def _label(instruction: Instruction, state: State, scope: Scope) -> State:
    labels = {**state.config.labels, **dict(_pairs(instruction, state, scope))}
    return state._replace(config=state.config._replace(labels=labels))


def _cmd(instruction: Instruction, state: State, _: Scope) -> State:
    cmd = shell_or_exec(instruction, state.config)
    return state._replace(config=state.config._replace(cmd=cmd), cmd_is_ours=True)


def _entrypoint(instruction: Instruction, state: State, _: Scope) -> State:
    """Setting ENTRYPOINT drops a CMD that was inherited, for it was meant for another program."""
    entrypoint = shell_or_exec(instruction, state.config)
    cmd = state.config.cmd if state.cmd_is_ours else None
    return state._replace(config=state.config._replace(entrypoint=entrypoint, cmd=cmd))


def _expose(instruction: Instruction, state: State, scope: Scope) -> State:
    ports = list(state.config.exposed_ports)
    for word in instruction.arguments:
        for text in expand_words(word, state.variables, scope.escape):
            ports += _ports(text)
    return state._replace(config=state.config._replace(exposed_ports=tuple(dict.fromkeys(ports))))


def _ports(text: str) -> list[str]:
    match = PORT.fullmatch(text)
    if match is None:
        raise Refused(f"{text} is not a port, like 80, 80/udp or 8000-8010/tcp")
    first, last, protocol = int(match[1]), int(match[2] or match[1]), (match[3] or "tcp").lower()
    if not 0 < first <= last <= 65535:
        raise Refused(f"{text}: a port is 1 to 65535, and a range goes up")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _healthcheck(instruction: Instruction, state: State, _: Scope) -> State:
    retries = instruction.flag("retries", "0")
    if not retries.isdigit():
        raise Refused(f"--retries={retries} is not a number")
    health = HealthCheck(
        test=instruction.arguments,
        interval=_duration(instruction, "interval"),
        timeout=_duration(instruction, "timeout"),
        start_period=_duration(instruction, "start-period"),
        start_interval=_duration(instruction, "start-interval"),
        retries=int(retries),
    )
    return state._replace(config=state.config._replace(healthcheck=health))


def _duration(instruction: Instruction, flag: str) -> int:
    """Nanoseconds of `1m30s`, `1.5s`, `100ms`: Go's time.ParseDuration; none, or at least a millisecond."""
    text = instruction.flag(flag, "0s")
    parts = re.findall(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise Refused(f"--{flag}={text} is not a duration, like 30s or 1m30s")
    duration = sum(int(float(number) * DURATION[unit]) for number, unit in parts)
    if 0 < duration < DURATION["ms"]:
        raise Refused(f"--{flag}={text} is less than 1ms")
    return duration


def _maintainer(instruction: Instruction, state: State, _: Scope) -> State:
    return state._replace(author=instruction.arguments[0])


def _on_build(instruction: Instruction, state: State, _: Scope) -> State:
    triggers = (*state.config.on_build, *_with_documents(instruction))
    return state._replace(config=state.config._replace(on_build=triggers))


def _with_documents(instruction: Instruction) -> tuple[str, ...]:
    """A trigger as text that can be parsed again, its here-documents behind it."""
    documents = "".join(f"\n{document.content}{document.name}" for document in instruction.heredocs)
    return (instruction.arguments[0] + documents,)


def _shell(instruction: Instruction, state: State, _: Scope) -> State:
    return state._replace(config=state.config._replace(shell=instruction.arguments))


def _stop_signal(instruction: Instruction, state: State, scope: Scope) -> State:
    signal = expand(instruction.arguments[0], state.variables, scope.escape)
    known = signal.upper().removeprefix("SIG") in SIGNALS or re.fullmatch(r"[0-9]{1,2}|(SIG)?RTM(IN\+|AX-)\d+", signal)
    if not known or signal in ("0", "00"):
        raise Refused(f"{signal or repr(signal)} is not a signal, like SIGTERM or 15")
    return state._replace(config=state.config._replace(stop_signal=signal))


def _user(instruction: Instruction, state: State, scope: Scope) -> State:
    user = expand(instruction.arguments[0], state.variables, scope.escape)
    return state._replace(config=state.config._replace(user=user))


def _volume(instruction: Instruction, state: State, scope: Scope) -> State:
    found = [expand(word, state.variables, scope.escape) for word in instruction.arguments]
    if "" in found:
        raise Refused("a path is empty after expansion")
    volumes = tuple(dict.fromkeys((*state.config.volumes, *found)))
    return state._replace(config=state.config._replace(volumes=volumes))


_APPLY: dict[str, Callable[[Instruction, State, Scope], State]] = {
    "ARG": _arg,
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _on_build,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
}
