"""arguments: docker's ways to write flags, and what a mistake is answered with."""

import pytest

from minicontainer.arguments import LIST, TEXT, Command, Flag, UsageError, choose, help_of, meant, overview, parse

RUN = Command(
    "run",
    "run it",
    "IMAGE [COMMAND...]",
    least=1,
    most=None,
    rest=True,
    flags=(
        Flag(("-i", "--interactive"), "keep stdin"),
        Flag(("-t", "--tty"), "a terminal"),
        Flag(("--rm",), "remove"),
        Flag(("-e", "--env"), "set", LIST, "NAME=VALUE"),
        Flag(("-p", "--publish"), "publish", LIST, "PORT"),
        Flag(("--stop-timeout",), "seconds", TEXT, "SECONDS"),
    ),
)
STOP = Command(
    "stop", "stop it", "CONTAINER...", least=1, most=2, flags=(Flag(("-t", "--time"), "seconds", TEXT, "N"),)
)


def test_short_switches_are_written_together() -> None:
    parsed = parse("mc", RUN, ["-it", "busybox"])
    assert (parsed.interactive, parsed.tty, parsed.rm, parsed.words) == (True, True, False, ("busybox",))


@pytest.mark.parametrize("written", [["-e", "A=1"], ["-eA=1"], ["-e=A=1"], ["--env", "A=1"], ["--env=A=1"]])
def test_a_value_follows_in_every_way_docker_knows(written: list[str]) -> None:
    assert parse("mc", RUN, [*written, "busybox"]).env == ("A=1",)


def test_a_list_keeps_its_order_and_a_switch_may_end_in_a_value_flag() -> None:
    parsed = parse("mc", RUN, ["-itp", "80:80", "-p81:81", "busybox"])
    assert parsed.publish == ("80:80", "81:81")
    assert parsed.tty


def test_what_follows_the_image_is_the_containers_own() -> None:
    parsed = parse("mc", RUN, ["--rm", "busybox", "ls", "-l", "--rm", "--", "-t"])
    assert parsed.words == ("busybox", "ls", "-l", "--rm", "--", "-t")
    assert not parsed.tty


def test_flags_and_words_mix_where_a_command_takes_words_of_one_kind() -> None:
    parsed = parse("mc", STOP, ["one", "-t", "3", "two"])
    assert (parsed.words, parsed.time) == (("one", "two"), "3")


def test_after_two_dashes_everything_is_a_word() -> None:
    assert parse("mc", STOP, ["--", "-t", "--time"]).words == ("-t", "--time")


def test_a_single_dash_is_a_word() -> None:
    assert parse("mc", STOP, ["-"]).words == ("-",)


@pytest.mark.parametrize(("written", "value"), [("--rm=false", False), ("--rm=true", True), ("--rm=0", False)])
def test_a_switch_may_say_true_or_false(written: str, value: bool) -> None:
    assert parse("mc", RUN, [written, "busybox"]).rm is value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "run: IMAGE [COMMAND...] is missing; try: mc run --help"),
        (["--evn", "A=1", "busybox"], "run: unknown flag --evn (did you mean --env?); try: mc run --help"),
        (["-x", "busybox"], "run: unknown flag -x"),
        (["-ix", "busybox"], "run: unknown flag -x"),
        (["--env"], "run: --env needs a value: NAME=VALUE"),
        (["--rm=maybe", "busybox"], "run: --rm=maybe: true or false is expected"),
    ],
)
def test_a_mistake_is_one_line_with_what_to_try(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse("mc", RUN, arguments)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 125


def test_one_word_too_many_is_named() -> None:
    with pytest.raises(UsageError, match="'three' is one argument too many"):
        parse("mc", STOP, ["one", "two", "three"])


def test_an_unknown_command_names_a_near_one() -> None:
    table = {"run": RUN, "stop": STOP}
    assert choose("mc", table, "stop") is STOP
    with pytest.raises(UsageError, match=r"unknown command sotp \(did you mean stop\?\); try: mc --help"):
        choose("mc", table, "sotp")


def test_what_is_near_nothing_is_not_guessed() -> None:
    assert meant("quux", ["run", "stop"]) == ""


def test_a_value_that_was_not_given_is_none_or_empty() -> None:
    parsed = parse("mc", RUN, ["busybox"])
    assert (parsed.stop_timeout, parsed.env) == (None, ())
    with pytest.raises(AttributeError):
        _ = parsed.nonsense


def test_help_names_every_flag_and_every_command() -> None:
    text = help_of("mc", RUN)
    assert text.startswith("usage: mc run [FLAGS] IMAGE [COMMAND...]\n\nrun it\n")
    assert all(name in text for flag in RUN.flags for name in flag.names)
    whole = overview("mc", "about", [RUN, STOP], ())
    assert "  run   run it\n" in whole
    assert "  stop  stop it\n" in whole
