"""build_checks: for each of docker's rules a Dockerfile that it warns of, and one that it does not."""

from collections.abc import Mapping

import pytest

from minicontainer.build import stages
from minicontainer.build.checks import EXPERIMENTAL, RULES, Known, check
from minicontainer.build.dockerfile import parse
from minicontainer.build.patterns import parse_ignore
from minicontainer.oci.image import Platform

IMAGES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "base": ("linux/amd64", {"JAVA_HOME": "/java"}),
    "other": ("linux/arm64", {}),
}
KNOWN = Known(ignore=parse_ignore("secrets\n*.log\n"), images=IMAGES.get)


def found(text: str, **given: str) -> list[str]:
    """`line:Rule` of each finding."""
    parsed = parse(text)
    scope = stages.scope(parsed, given, Platform("amd64"))
    return [f"{one.line}:{one.rule}" for one in check(parsed, stages.stages(parsed, scope), scope, KNOWN)]


F = "FROM scratch\n"
WARNED = {  # rule: (what it warns of, at which line; what is as good and right)
    "ConsistentInstructionCasing": (f"{F}copy a /\nCOPY b /", 2, "from scratch\ncopy a /\nlabel b=1"),
    "CopyIgnoredFile": (f"{F}COPY a\\\n b.log /", 2, f"{F}COPY a ${{b}} /"),
    "DuplicateStageName": (f"{F}FROM scratch AS a\nFROM scratch AS a", 3, "FROM scratch AS a\nFROM scratch AS b"),
    "ExposeInvalidFormat": (f"{F}EXPOSE 127.0.0.1:80:80", 2, f"{F}EXPOSE 80 8000-8001/udp"),
    "ExposeProtoCasing": (f"{F}EXPOSE 80/TcP", 2, f"{F}EXPOSE 80/tcp"),
    "FromAsCasing": ("FROM scratch as a", 1, "from scratch as a"),
    "FromPlatformFlagConstDisallowed": (
        "FROM --platform=linux/amd64 base", 1, "FROM --platform=linux/amd64 base AS on_amd64"
    ),
    "InvalidBaseImagePlatform": ("FROM other", 1, "FROM base"),
    "InvalidDefaultArgInFrom": ("ARG TAG\nFROM base:${TAG}", 2, "ARG TAG=1\nFROM base:${TAG}"),
    "InvalidDefinitionDescription": (
        "# check=experimental=all\n# something\nFROM scratch AS a", 3,
        "# check=experimental=all\n# a thing\nFROM base AS a",
    ),
    "JSONArgsRecommended": (f"{F}CMD run this", 2, f'{F}SHELL ["/bin/sh", "-c"]\nCMD run this'),
    "LegacyKeyValueFormat": (f"{F}ENV a b c", 2, f"{F}ENV a=b"),
    "MaintainerDeprecated": (f"{F}MAINTAINER me", 2, f"{F}LABEL maintainer=me"),
    "MultipleInstructionsDisallowed": (
        f'{F}CMD ["a"]\nCMD ["b"]', 2, 'FROM scratch AS a\nCMD ["a"]\nFROM a\nCMD ["b"]'
    ),
    "NoEmptyContinuation": (f"{F}RUN a \\\n\n b", 3, f"{F}RUN a \\\n# comment\n b\n\nRUN <<EOF\n\nEOF"),
    "RedundantTargetPlatform": ("FROM --platform=$TARGETPLATFORM base", 1, "FROM --platform=$BUILDPLATFORM base"),
    "ReservedStageName": ("FROM scratch AS context", 1, "FROM scratch AS contexts"),
    "SecretsUsedInArgOrEnv": (f"{F}ARG DB_PASSWORD", 2, f"{F}ARG PUBLIC_KEY\nENV KEYBOARD=1"),
    "StageNameCasing": ("FROM scratch AS Made", 1, "FROM scratch AS made"),
    "UndefinedArgInFrom": ("FROM base${x}", 1, "ARG x=\nFROM base${x}"),
    "UndefinedVar": (f"{F}ENV a=$b c=$PATH", 2, "FROM base\nARG v\nENV a=${b:-1} c=$JAVA_HOME v=$v d='$e' f=\\$g"),
    "WorkdirRelativePath": ("FROM base\nWORKDIR app", 2, "FROM base\nWORKDIR /srv\nWORKDIR app"),
}  # fmt: skip


def test_every_rule_has_a_case_and_the_number_of_rules_is_dockers() -> None:
    assert set(WARNED) == set(RULES) and len(RULES) == 22 and set(RULES) >= EXPERIMENTAL


@pytest.mark.parametrize("rule", WARNED)
def test_what_a_rule_warns_of(rule: str) -> None:
    wrong, line, right = WARNED[rule]
    assert f"{line}:{rule}" in found(wrong)
    assert [one for one in found(right) if one.endswith(f":{rule}")] == []


def test_a_finding_says_where_what_and_why() -> None:
    parsed = parse(f"{F}MAINTAINER me", "Dockerfile")
    scope = stages.scope(parsed, {}, Platform("amd64"))
    [one] = check(parsed, stages.stages(parsed, scope), scope)
    assert one.told("Dockerfile") == (
        "Dockerfile:2: MaintainerDeprecated: MAINTAINER: an author is given by LABEL org.opencontainers.image.authors"
    )


def test_the_directive_skips() -> None:
    text = "FROM scratch AS A\nMAINTAINER me"
    assert found(text) == ["1:StageNameCasing", "2:MaintainerDeprecated"]
    assert found(f"# check=skip=StageNameCasing\n{text}") == ["3:MaintainerDeprecated"]
    assert found(f"# check=skip=StageNameCasing, MaintainerDeprecated;error=true\n{text}") == []
    assert found(f"# check=skip=all\n{text}") == []


def test_what_is_not_known_of_a_base_image_is_not_wrong() -> None:
    assert found("FROM nowhere\nENV a=$b") == []
    assert found("FROM nowhere AS a\nFROM a\nENV a=$b") == []
    assert found("FROM base AS a\nARG b\nFROM a\nENV a=$b c=$d") == ["4:UndefinedVar"]
