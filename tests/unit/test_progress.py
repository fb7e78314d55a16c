"""progress: what a person sees of a build, on a terminal, in a log, and when it is quiet."""

import base64
import io
import json
import re

from minicontainer.build.progress import KEPT, Progress, Quiet, RawJson


def shown(kind: type[Progress], output: bytes = b"", cached: bool = False, fail: bool = False) -> str:
    stream = io.StringIO()
    teller = kind(stream)
    try:
        with teller.step("[1/2] RUN make") as step:
            step.cached = cached
            step.output(output)
            if fail:
                raise KeyError
    except KeyError:
        pass
    return re.sub(r"\d\.\d+", "N", stream.getvalue())


def test_plain_lines_carry_the_number_of_their_step() -> None:
    assert shown(Progress, b"one\ntwo\n") == "#1 [1/2] RUN make\n#1 N one\n#1 N two\n#1 DONE Ns\n\n"


def test_a_cached_step_says_so_and_is_counted() -> None:
    assert shown(Progress, cached=True).endswith("#1 CACHED\n\n")
    teller = Progress(io.StringIO())
    for cached in (True, False, True):
        with teller.step("a") as step:
            step.cached = cached
    assert (teller.count, teller.cached) == (3, 2)


def test_steps_are_numbered_in_the_order_they_begin() -> None:
    teller = Progress(io.StringIO())
    assert [teller.step("a").number, teller.step("b").number] == [1, 2]


def test_a_failed_step_says_so() -> None:
    assert shown(Progress, fail=True).endswith("#1 ERROR\n\n")


def test_output_is_shown_by_whole_lines_and_the_last_one_at_the_end() -> None:
    stream = io.StringIO()
    with Progress(stream).step("x") as step:
        step.output(b"ha")
        assert "ha" not in stream.getvalue()
        step.output(b"lf\r\nre")
        assert "half\n" in stream.getvalue()
        step.output(b"st")
    assert "rest\n" in stream.getvalue()


def test_bytes_that_are_no_text_are_shown_nevertheless() -> None:
    assert "\ufffd" in shown(Progress, b"\xff\n")


def test_programs_get_an_object_a_line() -> None:
    stream = io.StringIO()
    teller = RawJson(stream)
    with teller.step("[1/2] RUN make") as step:
        step.output(b"one\n")
    teller.say("hello")
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    began, logged, ended = found[0]["vertexes"][0], found[1]["logs"][0], found[2]["vertexes"][0]
    assert began["name"] == "[1/2] RUN make" and "completed" not in began
    assert (logged["vertex"], base64.b64decode(logged["data"])) == (began["digest"], b"one\n")
    assert ended["digest"] == began["digest"] and ended["completed"] >= began["started"] and not ended["cached"]
    assert base64.b64decode(found[3]["warnings"][0]["short"]) == b"hello"
    assert '"error": "failed"' in shown(RawJson, fail=True)


def test_quiet_says_nothing_but_the_output_of_what_failed() -> None:
    assert shown(Quiet, b"one\n") == ""
    assert shown(Quiet, b"one\ntwo\n", fail=True) == "one\ntwo\n"


def test_a_failure_keeps_the_end_of_a_long_output() -> None:
    lines = shown(Quiet, b"".join(b"%d\n" % number for number in range(KEPT + 50)), fail=True).splitlines()
    assert (len(lines), lines[0], lines[-1]) == (KEPT, "50", str(KEPT + 49))


def test_say_is_for_what_is_no_step() -> None:
    stream = io.StringIO()
    Progress(stream).say("hello")
    assert stream.getvalue() == "hello\n"
