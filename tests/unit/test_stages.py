"""stages: which stages a build wants, and what each instruction makes of a config."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer.build.dockerfile import BuildError, Dockerfile, parse
from minicontainer.build.expansion import ExpansionError
from minicontainer.build.stages import (
    PATH,
    SCRATCH,
    Refused,
    Scope,
    Stage,
    State,
    apply,
    find,
    is_metadata,
    run_environment,
    scope,
    shell_or_exec,
    stages,
    wanted,
)
from minicontainer.oci.image import ContainerConfig, HealthCheck, Platform

PLATFORM = Platform(architecture="amd64")


def staged(text: str, given: Mapping[str, str] = {}) -> tuple[Dockerfile, tuple[Stage, ...]]:
    parsed = parse(text)
    return parsed, stages(parsed, scope(parsed, given, PLATFORM))


def after(text: str, state: State | None = None, given: Mapping[str, str] = {}) -> State:
    """The state after the instructions of `text`, which stand behind a FROM."""
    parsed = parse(f"FROM scratch\n{text}")
    whole = scope(parsed, given, PLATFORM)
    state = state or State(config=SCRATCH)
    for instruction in parsed.instructions[1:]:
        state = apply(instruction, state, whole)
    return state


def config(text: str, start: ContainerConfig = SCRATCH) -> ContainerConfig:
    return after(text, State(config=start)).config


# --- stages


def test_a_stage_begins_at_each_from() -> None:
    _, found = staged("FROM a\nRUN x\nFROM b AS two\nRUN y\nRUN z\nFROM TWO\n")
    assert [(s.number, s.name, s.image, s.base, len(s.instructions)) for s in found] == [
        (0, "", "a", None, 1),
        (1, "two", "b", None, 2),
        (2, "", "TWO", 1, 0),
    ]
    assert [s.label for s in found] == ["stage-0", "two", "stage-2"]


def test_the_last_stage_of_a_name_is_meant() -> None:
    _, found = staged("FROM a AS x\nFROM b AS x\nFROM x\n")
    assert found[2].base == 1


def test_a_name_means_an_image_before_its_stage() -> None:
    _, found = staged("FROM later\nFROM a AS later\n")
    assert found[0].base is None


def test_args_before_from_are_for_from() -> None:
    _, found = staged("ARG V=1\nARG B=base:$V\nFROM $B\nFROM ${B}-x\n", {"V": "2"})
    assert [s.image for s in found] == ["base:2", "base:2-x"]


def test_a_given_arg_wins_over_its_default_and_only_a_declared_one_counts() -> None:
    assert staged("ARG B\nFROM $B", {"B": "given"})[1][0].image == "given"
    with pytest.raises(BuildError, match="empty after expansion"):
        staged("FROM $B", {"B": "given"})


def test_platform_args_are_there_for_from() -> None:
    _, found = staged("FROM --platform=$BUILDPLATFORM x-${TARGETARCH}-$TARGETOS")
    assert found[0].image == "x-amd64-linux"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM a b", "FROM: needs one image, or an image, AS and a name"),
        ("FROM a with b", "FROM: needs one image"),
        ("FROM a AS 1x", "1x cannot be the name of a stage"),
        (
            "FROM --platform=linux/a/b/c a",
            r"--platform=linux/a/b/c: it is OS/ARCHITECTURE\[/VARIANT\], like linux/arm64",
        ),
        ("FROM $X", r"FROM: base name \(\$X\) is empty"),
        ("\nARG X=${\nFROM a", "Dockerfile:2: ARG: "),
        ("FROM ${a!}", "Dockerfile:1: FROM: unsupported modifier"),
    ],
)
def test_a_from_that_cannot_be_is_refused(text: str, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        staged(text)


MANY = """
FROM a AS base
FROM base AS tools
COPY --from=assets x /
FROM b AS assets
FROM base AS app
COPY --from=2 y /
COPY --from=registry/image z /
FROM c AS unused
FROM app AS last
"""


@pytest.mark.parametrize(
    ("target", "labels"),
    [
        ("", ["base", "assets", "app", "last"]),
        ("app", ["base", "assets", "app"]),
        ("APP", ["base", "assets", "app"]),
        ("0", ["base"]),
        ("tools", ["base", "tools"]),  # assets comes later: the name is an image's
        ("unused", ["unused"]),
    ],
)
def test_only_wanted_stages_are_built_in_the_order_of_the_file(target: str, labels: list[str]) -> None:
    parsed, found = staged(MANY)
    assert [stage.label for stage in wanted(parsed, found, target)] == labels


@pytest.mark.parametrize("target", ["nothing", "17"])
def test_a_target_that_is_not_there_is_named_with_those_that_are(target: str) -> None:
    parsed, found = staged(MANY)
    with pytest.raises(BuildError, match=f"no stage {target}; its stages are base, tools, assets"):
        wanted(parsed, found, target)


def test_find_looks_only_before() -> None:
    _, found = staged(MANY)
    assert find(found, "assets", 2) is None
    assert find(found, "assets", 3) == found[2]
    assert find(found, "2", 2) is None
    assert find(found, "1", 2) == found[1]


@given(st.lists(st.integers(min_value=0, max_value=9), min_size=1, max_size=10))
def test_what_a_wanted_stage_needs_is_wanted_before_it(needs: list[int]) -> None:
    lines = [f"FROM {f's{need}' if need < number else 'x'} AS s{number}" for number, need in enumerate(needs)]
    parsed, found = staged("\n".join(lines))
    order = [stage.number for stage in wanted(parsed, found, "")]
    assert order[-1] == len(needs) - 1 and order == sorted(set(order))
    assert all(found[number].base is None or found[number].base in order for number in order)


# --- ARG and ENV


def test_an_arg_has_its_given_value_or_its_default() -> None:
    state = after("ARG a\nARG b=1\nARG c=2 d=$b$c", given={"c": "given", "x": "unasked"})
    assert state.arguments == {"b": "1", "c": "given", "d": "1given"}


def test_an_arg_before_from_must_be_asked_for_again() -> None:
    parsed = parse("ARG v=1\nFROM a\nARG v\nARG w")
    whole = scope(parsed, {}, PLATFORM)
    state = apply(parsed.instructions[2], State(config=SCRATCH), whole)
    assert state.arguments == {"v": "1"}
    assert apply(parsed.instructions[3], state, whole).arguments == {"v": "1"}


def test_an_own_default_wins_over_the_one_before_from() -> None:
    parsed = parse("ARG v=1\nFROM a\nARG v=2")
    assert apply(parsed.instructions[2], State(config=SCRATCH), scope(parsed, {}, PLATFORM)).arguments == {"v": "2"}


def test_platform_args_have_the_platforms_value_unless_a_default_is_given() -> None:
    assert after("ARG TARGETOS=mine\nARG TARGETARCH\nARG TARGETPLATFORM").arguments == {
        "TARGETOS": "mine",
        "TARGETARCH": "amd64",
        "TARGETPLATFORM": "linux/amd64",
    }


def test_of_env_and_arg_the_later_one_counts() -> None:
    state = after("ARG v=arg\nENV v=env\nLABEL l=$v\nARG v=again\nLABEL m=$v\nARG v\nLABEL n=$v")
    assert state.config.labels == {"l": "env", "m": "again", "n": "again"}
    assert state.config.env == (PATH, "v=env")


def test_one_instruction_uses_the_values_from_before_it() -> None:
    state = after("ENV a=1\nENV a=2 b=$a")
    assert state.config.env == (PATH, "a=2", "b=1")


def test_env_replaces_in_place_and_reads_quotes() -> None:
    assert config("ENV a=1 b=2\nENV a='x y' c=\"$b\" d=e\\ f").env == (PATH, "a=x y", "b=2", "c=2", "d=e f")
    assert config("ENV a some  words").env == (PATH, "a=some  words")


def test_a_run_sees_args_below_env_and_the_proxies_that_were_given() -> None:
    state = after("ARG a=1\nENV a=2\nARG b=3", given={"http_proxy": "p", "other": "x"})
    whole = Scope(given={"http_proxy": "p", "other": "x"}, declared={}, platform={})
    assert set(run_environment(state, whole)) == {PATH, "a=2", "b=3", "http_proxy=p"}


def test_what_cannot_be_expanded_is_an_error() -> None:
    with pytest.raises(ExpansionError):
        config("ENV a=${b:?needed}")


# --- the rest of the config


def test_commands_are_in_exec_form_or_by_the_shell() -> None:
    assert config('CMD ["a", "$b"]').cmd == ("a", "$b")
    assert config("CMD a $b").cmd == ("/bin/sh", "-c", "a $b")
    assert config('SHELL ["/bin/bash", "-ec"]\nENTRYPOINT a').entrypoint == ("/bin/bash", "-ec", "a")
    assert config("CMD []").cmd == ()


def test_an_entrypoint_drops_only_a_cmd_that_was_inherited() -> None:
    inherited = ContainerConfig(cmd=("old",))
    assert config('ENTRYPOINT ["x"]', inherited).cmd is None
    assert config('CMD ["mine"]\nENTRYPOINT ["x"]', inherited).cmd == ("mine",)
    assert config('ENTRYPOINT ["x"]\nCMD ["mine"]', inherited).cmd == ("mine",)


def test_ports_are_exposed_with_protocol_once() -> None:
    assert config("ENV P=90\nEXPOSE 80 80/TCP 53/udp $P 8000-8002").exposed_ports == (
        "80/tcp", "53/udp", "90/tcp", "8000/tcp", "8001/tcp", "8002/tcp",
    )  # fmt: skip


def test_volumes_and_labels_gather() -> None:
    found = config('VOLUME /a /b\nVOLUME ["/b", "/c d"]\nLABEL a=1 b=2\nLABEL b=3 "c d"="e f"')
    assert found.volumes == ("/a", "/b", "/c d")
    assert found.labels == {"a": "1", "b": "3", "c d": "e f"}


def test_plain_fields_are_set() -> None:
    state = after("ARG u=me\nUSER $u:staff\nSTOPSIGNAL SIGUSR1\nMAINTAINER A B")
    assert (state.config.user, state.config.stop_signal, state.author) == ("me:staff", "SIGUSR1", "A B")


def test_a_healthcheck_counts_in_nanoseconds() -> None:
    assert config("HEALTHCHECK --interval=1m30s --timeout=1.5s --retries=3 CMD a b").healthcheck == HealthCheck(
        test=("CMD-SHELL", "a b"), interval=90 * 10**9, timeout=1_500_000_000, retries=3
    )
    assert config("HEALTHCHECK --start-period=100ms NONE").healthcheck == HealthCheck(
        test=("NONE",), start_period=10**8
    )


def test_triggers_are_kept_as_text_with_their_documents() -> None:
    assert config("ONBUILD RUN a $b\nONBUILD COPY <<EOF /x\nhi\nEOF\n").on_build == (
        "RUN a $b",
        "COPY <<EOF /x\nhi\nEOF",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("EXPOSE http", "http is not a port"),
        ("EXPOSE 0", "0: a port is 1 to 65535"),
        ("EXPOSE 9-8", "a range goes up"),
        ("EXPOSE 70000", "70000: a port is"),
        ("HEALTHCHECK --interval=5 CMD a", "--interval=5 is not a duration"),
        ("HEALTHCHECK --retries=x CMD a", "--retries=x is not a number"),
        ("STOPSIGNAL no/signal", "no/signal is not a signal"),
        ("STOPSIGNAL SIGFOO", "SIGFOO is not a signal"),
        ("STOPSIGNAL 0", "0 is not a signal"),
        ("HEALTHCHECK --interval=999us CMD x", "--interval=999us is less than 1ms"),
        ("VOLUME $nothing", "a path is empty"),
    ],
)
def test_a_value_that_cannot_be_is_refused(text: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        config(text)


def test_what_touches_files_is_no_metadata() -> None:
    parsed = parse("FROM a\nRUN b\nCOPY c d\nADD e f\nWORKDIR /\nENV g=h\nONBUILD RUN x")
    assert [is_metadata(instruction) for instruction in parsed.instructions[1:]] == [False] * 4 + [True] * 2


def test_a_run_in_shell_form_may_have_its_text_from_elsewhere() -> None:
    instruction = parse("FROM a\nRUN <<EOF\nhi\nEOF").instructions[1]
    assert shell_or_exec(instruction, SCRATCH, "hi\n") == ("/bin/sh", "-c", "hi\n")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.text(alphabet="xyz"))))
def test_env_is_the_last_value_of_each_name(pairs: list[tuple[str, str]]) -> None:
    found = config("".join(f"ENV {name}={value}\n" for name, value in pairs)).env
    assert found == (PATH, *(f"{name}={value}" for name, value in dict(pairs).items()))
