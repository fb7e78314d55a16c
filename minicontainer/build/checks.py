"""Checks: what docker's frontend warns of in a Dockerfile, by docker's names (pure).

Above `stages`; `builder` tells the warnings, `build --check` builds nothing else. Ruled by docker's reference of build
checks and the directive `check`. What can only be known of a base image comes as `Known`: unknown is not wrong.
"""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from minicontainer.build.dockerfile import Dockerfile, Instruction
from minicontainer.build.expansion import ExpansionError, expand
from minicontainer.build.patterns import Ignore, is_wildcard
from minicontainer.build.stages import Scope, Stage
from minicontainer.oci.reference import InvalidReference, Reference

RULES = {  # docker's name: why it is warned of
    "ConsistentInstructionCasing": "one case for all instructions is easier to read",
    "CopyIgnoredFile": ".dockerignore leaves the file out, so the build will not find it",
    "DuplicateStageName": "a name that two stages have means the later one only",
    "ExposeInvalidFormat": "EXPOSE names a port of the container; addresses and host ports are given at run",
    "ExposeProtoCasing": "a protocol is written in lower case",
    "FromAsCasing": "FROM and AS in one case are easier to read",
    "FromPlatformFlagConstDisallowed": "a fixed platform in FROM makes the image of every target for that platform",
    "InvalidBaseImagePlatform": "what is in the base image cannot run on the platform that is built for",
    "InvalidDefaultArgInFrom": "without --build-arg the base image has no valid name",
    "InvalidDefinitionDescription": "a comment above FROM or ARG is its description: its name, then the text",
    "JSONArgsRecommended": "through a shell, the program does not get the signals that stop it",
    "LegacyKeyValueFormat": "name=value is the form that newer builders read",
    "MaintainerDeprecated": "an author is given by LABEL org.opencontainers.image.authors",
    "MultipleInstructionsDisallowed": "only the last one of a stage has an effect",
    "NoEmptyContinuation": "an empty line inside an instruction will be an error",
    "RedundantTargetPlatform": "a stage is for the target platform without saying so",
    "ReservedStageName": "scratch and context mean something else where a stage is named",
    "SecretsUsedInArgOrEnv": "values of ARG and ENV stay in the image for everybody; try: RUN --mount=type=secret",
    "StageNameCasing": "names of stages are written in lower case",
    "UndefinedArgInFrom": "FROM sees the ARGs before the first FROM, and no other variable",
    "UndefinedVar": "a variable that nobody has set is empty",
    "WorkdirRelativePath": "where it leads depends on the base image",
}
EXPERIMENTAL = {"InvalidDefinitionDescription"}
RESERVED = ("scratch", "context")
ONCE = ("CMD", "ENTRYPOINT", "HEALTHCHECK")
EXPANDED = ("ADD", "ARG", "COPY", "ENV", "EXPOSE", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR")
SECRET = re.compile(r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE)
PUBLIC = re.compile(r"(?:_|^)public(?:_|$)", re.IGNORECASE)
PORT = re.compile(r"\d+(-\d+)?(/\w+)?")


class Warned(NamedTuple):
    """One finding. `instruction` has its lines."""

    rule: str
    line: int
    said: str

    def told(self, name: str) -> str:
        return f"{name}:{self.line}: {self.rule}: {self.said}: {RULES[self.rule]}"


class Known(NamedTuple):
    """What is known besides the text. `images`: of a base image its platform, and the variables of its config."""

    ignore: Ignore = Ignore()
    images: Callable[[str], tuple[str, Mapping[str, str]] | None] = lambda _: None


class Wanted(NamedTuple):
    """What the directive `check` says."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False


def wanted(parsed: Dockerfile) -> Wanted:
    """`# check=skip=Rule,Rule;error=true`"""
    text = dict(parsed.directives).get("check", "")
    said = {name.strip().lower(): value.strip() for name, _, value in (p.partition("=") for p in text.split(";"))}
    names = {key: frozenset(filter(None, re.split(r"\s*,\s*", said.get(key, "")))) for key in ("skip", "experimental")}
    return Wanted(names["skip"], names["experimental"], said.get("error", "").lower() == "true")


def check(parsed: Dockerfile, stages: tuple[Stage, ...], scope: Scope, known: Known = Known()) -> list[Warned]:
    """The findings in the order of their lines, but those that the directive `check` skips."""
    asked = wanted(parsed)
    found = [warned for rule in _CHECKS for warned in rule(_Text(parsed, stages, scope, known))]
    kept = {warned for warned in found if not {"all", warned.rule} & asked.skip}
    kept = {w for w in kept if w.rule not in EXPERIMENTAL or {"all", w.rule} & asked.experimental}
    return sorted(kept, key=lambda warned: (warned.line, warned.rule, warned.said))


class _Text(NamedTuple):
    parsed: Dockerfile
    stages: tuple[Stage, ...]
    scope: Scope
    known: Known

    def each(self, *keywords: str) -> Iterator[Instruction]:
        return (one for one in self.parsed.instructions if not keywords or one.keyword in keywords)


class _Missed(dict[str, str]):
    """Variables that remember which name was asked for plainly, and was not there."""

    def __init__(self, known: Mapping[str, str]) -> None:
        super().__init__(known)
        self.missed: list[str] = []

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]  # as dict's, narrower
        if default is not None and name not in self:  # `${name:-word}` asks without one
            self.missed.append(name)
        return super().get(name, default)


# --- words and names -------------------------------------------------------------------------------------------------


def _casing(text: _Text) -> Iterator[Warned]:
    words = [(one, one.text.split(None, 1)[0]) for one in text.each()]
    lower = sum(word.islower() for _, word in words)
    case = "lower case" if lower > sum(word.isupper() for _, word in words) else "upper case"
    for one, word in words:
        if word != (word.lower() if case == "lower case" else word.upper()):
            yield Warned("ConsistentInstructionCasing", one.line, f"{word} is not in {case}, as most are")


def _stage_names(text: _Text) -> Iterator[Warned]:
    seen: set[str] = set()
    for stage in text.stages:
        words = stage.begin.arguments
        if len(words) != 3:
            continue
        name, keyword = words[2], stage.begin.text.split(None, 1)[0]
        if name != name.lower():
            yield Warned("StageNameCasing", stage.begin.line, f"{name} is not in lower case")
        if words[1].islower() != keyword.islower():
            yield Warned("FromAsCasing", stage.begin.line, f"{keyword} and {words[1]} differ")
        if name.lower() in RESERVED:
            yield Warned("ReservedStageName", stage.begin.line, f"{name} is the name of a stage")
        if name.lower() in seen:
            yield Warned("DuplicateStageName", stage.begin.line, f"{name} was the name of an earlier stage")
        seen.add(name.lower())


def _empty_continuations(text: _Text) -> Iterator[Warned]:
    for one in text.each():
        documents = sum(document.content.count("\n") + 1 for document in one.heredocs)
        for number in range(one.line + 1, one.last - documents):
            if not text.parsed.lines[number - 1].strip():
                yield Warned("NoEmptyContinuation", number, f"an empty line inside {one.keyword}")


def _forms(text: _Text) -> Iterator[Warned]:
    for one in text.each("MAINTAINER"):
        yield Warned("MaintainerDeprecated", one.line, "MAINTAINER")
    for one in text.each("ENV", "LABEL"):
        first = one.text.split(None, 2)[1]
        if "=" not in first:
            yield Warned("LegacyKeyValueFormat", one.line, f"{one.keyword} {first} with a space")
    for one in text.each("EXPOSE"):
        for port in one.arguments:
            protocol = port.partition("/")[2]
            if "$" not in port and not PORT.fullmatch(port):
                yield Warned("ExposeInvalidFormat", one.line, port)
            if protocol != protocol.lower():
                yield Warned("ExposeProtoCasing", one.line, port)


def _commands(text: _Text) -> Iterator[Warned]:
    for stage in text.stages:
        shell = any(one.keyword == "SHELL" for one in stage.instructions)
        for keyword in ONCE:
            same = [one for one in stage.instructions if one.keyword == keyword]
            for one in same[:-1]:
                yield Warned("MultipleInstructionsDisallowed", one.line, f"another {keyword} follows")
            for one in same if keyword != "HEALTHCHECK" and not shell else ():
                if not one.exec_form and one.arguments:
                    yield Warned("JSONArgsRecommended", one.line, f"{keyword} is not a JSON array")


def _secrets(text: _Text) -> Iterator[Warned]:
    for one in text.each("ARG", "ENV"):
        for word in one.arguments:
            name = word.partition("=")[0]
            if SECRET.search(name) and not PUBLIC.search(name):
                yield Warned("SecretsUsedInArgOrEnv", one.line, f"{one.keyword} {name}")


def _descriptions(text: _Text) -> Iterator[Warned]:
    for one in text.each("FROM", "ARG"):
        above = text.parsed.lines[one.line - 2].strip() if one.line > 1 else ""
        name = one.arguments[-1].partition("=")[0]
        described = one.keyword == "ARG" or len(one.arguments) == 3
        if described and above.startswith("#") and not above.lstrip("# ").startswith(f"{name} ") and "=" not in above:
            yield Warned("InvalidDefinitionDescription", one.line, f"the comment above does not begin with {name}")


# --- FROM ------------------------------------------------------------------------------------------------------------


def _from(text: _Text) -> Iterator[Warned]:
    defaults = text.scope._replace(given={}, declared=_defaults(text))
    for stage in text.stages:
        begin, word = stage.begin, stage.begin.arguments[0]
        known = _Missed({**text.scope.platform, **text.scope.declared})
        declared = {w.partition("=")[0] for w in _global_words(text)}
        expand(word, known, text.scope.escape)
        for name in known.missed:
            if name not in declared:
                yield Warned("UndefinedArgInFrom", begin.line, f"FROM uses {name}")
        if "$" in word and set(known.missed) <= declared and not _is_reference(word, defaults):
            yield Warned("InvalidDefaultArgInFrom", begin.line, f"{word} with the defaults of its ARGs")
        yield from _platforms(text, stage)


def _global_words(text: _Text) -> Iterator[str]:
    for one in text.parsed.instructions:
        if one.keyword == "FROM":
            return
        yield from one.arguments


def _defaults(text: _Text) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in _global_words(text):
        name, equals, value = word.partition("=")
        if equals:
            found[name] = expand(value, {**text.scope.platform, **found}, text.scope.escape)
    return found


def _is_reference(word: str, scope: Scope) -> bool:
    try:
        Reference.parse(expand(word, {**scope.platform, **scope.declared}, scope.escape))
    except (InvalidReference, ExpansionError):
        return False
    return True


def _platforms(text: _Text, stage: Stage) -> Iterator[Warned]:
    flag, line = stage.begin.flag("platform"), stage.begin.line
    target = text.scope.platform["TARGETPLATFORM"]
    if flag in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
        yield Warned("RedundantTargetPlatform", line, f"--platform={flag}")
    elif flag and "$" not in flag and not any(part in stage.name for part in flag.split("/")):
        yield Warned("FromPlatformFlagConstDisallowed", line, f"--platform={flag}")
    about = text.known.images(stage.image) if stage.base is None and stage.image != "scratch" else None
    platform = expand(flag, {**text.scope.platform, **text.scope.declared}, text.scope.escape) or target
    if about and about[0] and about[0] != platform.removesuffix("/v8"):
        yield Warned("InvalidBaseImagePlatform", line, f"{stage.image} is for {about[0]}, not {platform}")


# --- what an instruction sees ----------------------------------------------------------------------------------------


def _variables(text: _Text) -> Iterator[Warned]:
    ends: dict[int, dict[str, str] | None] = {}
    for stage in text.stages:
        seen = _first_variables(text, stage, ends)
        for one in stage.instructions:
            if one.keyword in EXPANDED and seen is not None:
                for name in _misses(one, seen, text.scope.escape):
                    yield Warned("UndefinedVar", one.line, f"{one.keyword} uses {name}")
            if one.keyword in ("ARG", "ENV") and seen is not None:
                seen |= {word.partition("=")[0]: "x" for word in one.arguments}
        ends[stage.number] = seen


def _first_variables(text: _Text, stage: Stage, ends: Mapping[int, dict[str, str] | None]) -> dict[str, str] | None:
    """The variables that a stage begins with; None when its base image is not known."""
    if stage.base is not None:
        below = ends[stage.base]
        return None if below is None else dict(below)
    if stage.image == "scratch":
        return {"PATH": "x"}
    about = text.known.images(stage.image)
    return {"PATH": "x", **about[1]} if about else None


def _misses(one: Instruction, seen: Mapping[str, str], escape: str) -> list[str]:
    known = _Missed(seen)
    for word in (*one.arguments, *(value for _, value in one.flags)):
        try:
            expand(word.partition("=")[2] if one.keyword == "ARG" else word, known, escape)
        except ExpansionError:
            continue  # the build says it better
    return list(dict.fromkeys(known.missed))


def _workdirs(text: _Text) -> Iterator[Warned]:
    rooted: dict[int, bool] = {}
    for stage in text.stages:
        is_rooted = stage.base is not None and rooted[stage.base]
        for one in stage.instructions:
            if one.keyword == "WORKDIR":
                path = one.arguments[0].strip("\"'")
                if not is_rooted and not path.startswith(("/", "$")):
                    yield Warned(
                        "WorkdirRelativePath", one.line, f"WORKDIR {path} is not seen from a path that was set"
                    )
                is_rooted = is_rooted or path.startswith(("/", "$"))
        rooted[stage.number] = is_rooted


def _ignored(text: _Text) -> Iterator[Warned]:
    ignore = text.known.ignore
    for one in text.each("ADD", "COPY"):
        for word in one.arguments[:-1] if not one.flag("from") and not one.heredocs else ():
            path = posixpath.normpath(f"/{word}").lstrip("/")
            is_plain = path and "$" not in word and "://" not in word and not is_wildcard(word)
            if is_plain and ignore.excludes(path) and not ignore.has_exceptions:
                yield Warned("CopyIgnoredFile", one.line, f"{word} is in .dockerignore")


_CHECKS = (_casing, _stage_names, _empty_continuations, _forms, _commands, _secrets, _descriptions, _from, _variables,
           _workdirs, _ignored)  # fmt: skip
