"""dockerfile: what a person or a program may write, and the line that errors name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer.build.dockerfile import INSTRUCTIONS, BuildError, Heredoc, Instruction, heredoc, parse


def one(text: str) -> Instruction:
    """The last instruction of a file that starts with FROM."""
    return parse(f"FROM scratch\n{text}").instructions[-1]


def refusal(text: str) -> str:
    with pytest.raises(BuildError) as refused:
        parse(text)
    assert refused.value.exit_code == 1
    return str(refused.value)


def test_each_instruction_carries_the_line_it_begins_at() -> None:
    parsed = parse("# comment\n\nFROM a\nRUN b \\\n  c\n\n  COPY d e\n")
    assert [(i.keyword, i.line) for i in parsed.instructions] == [("FROM", 3), ("RUN", 4), ("COPY", 7)]


def test_keywords_are_read_in_any_case_and_text_is_kept() -> None:
    instruction = one("run   Echo  HI")
    assert (instruction.keyword, instruction.arguments, instruction.text) == ("RUN", ("Echo  HI",), "run   Echo  HI")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("RUN a \\\n b", ("a  b",)),
        ("RUN a \\  \n b", ("a  b",)),
        ("RUN a \\\n# comment\n\n   # another\n b", ("a  b",)),
        ("RUN a\\\\\nUSER x", ("x",)),
        ("RUN a \\", ("a",)),
        ("RUN a \\\r\n b\r\n", ("a  b",)),
        ("RUN echo '# no comment'", ("echo '# no comment'",)),
    ],
)
def test_a_line_goes_on_after_an_escape(text: str, arguments: tuple[str, ...]) -> None:
    assert one(text).arguments == arguments


def test_the_escape_directive_changes_the_escape() -> None:
    parsed = parse("# escape=`\nFROM a\nRUN a `\n b\nCOPY c:\\ d\\\n")
    assert parsed.escape == "`"
    assert [i.arguments for i in parsed.instructions] == [("a",), ("a  b",), ("c:\\", "d\\")]


def test_directives_end_at_the_first_line_that_is_none() -> None:
    parsed = parse("\ufeff#syntax = docker/dockerfile:1\n# check=skip=all\n# hello\n# escape=`\nFROM a")
    assert parsed.directives == (("syntax", "docker/dockerfile:1"), ("check", "skip=all"))
    assert parsed.escape == "\\"


@pytest.mark.parametrize(
    ("text", "arguments", "exec_form"),
    [
        ('CMD ["a", "b c"]', ("a", "b c"), True),
        ("CMD a b", ("a b",), False),
        ("CMD ['a']", ("['a']",), False),
        ('CMD ["a", ]', ('["a", ]',), False),
        ("CMD []", (), True),
        ("CMD", (), False),
        ('ENTRYPOINT ["x"]', ("x",), True),
        ('RUN ["/bin/true"]', ("/bin/true",), True),
        ("RUN [ -e /x ] && y", ("[ -e /x ] && y",), False),
        ('SHELL ["/bin/bash", "-c"]', ("/bin/bash", "-c"), True),
        ('COPY ["a b", "c d"]', ("a b", "c d"), True),
        ("COPY a   b  c", ("a", "b", "c"), False),
        ('VOLUME ["/a", "/b"]', ("/a", "/b"), True),
        ("VOLUME /a /b", ("/a", "/b"), False),
        ("ENV a=b c='d e'", ("a=b", "c='d e'"), False),
        ("ENV a b  c", ("a=b  c",), False),
        ('LABEL a.b=c "d e"=f', ("a.b=c", '"d e"=f'), False),
        ("ARG a b=c", ("a", "b=c"), False),
        ("EXPOSE 80 81/udp", ("80", "81/udp"), False),
        ("USER a:b", ("a:b",), False),
        ("WORKDIR /a b", ("/a b",), False),
        ("STOPSIGNAL SIGINT", ("SIGINT",), False),
        ("MAINTAINER A <a@b>", ("A <a@b>",), False),
        ("HEALTHCHECK NONE", ("NONE",), False),
        ("HEALTHCHECK CMD a b", ("CMD-SHELL", "a b"), False),
        ('HEALTHCHECK cmd ["a", "b"]', ("CMD", "a", "b"), True),
    ],
)
def test_arguments_are_read_in_the_form_of_their_instruction(
    text: str, arguments: tuple[str, ...], exec_form: bool
) -> None:
    instruction = one(text)
    assert (instruction.arguments, instruction.exec_form) == (arguments, exec_form)


def test_flags_stand_in_front() -> None:
    instruction = one('COPY --from=build --chown="a b:c" --  --x y /')
    assert instruction.flags == (("from", "build"), ("chown", '"a b:c"'))
    assert instruction.arguments == ("--x", "y", "/")
    assert instruction.flag("from") == "build"
    assert instruction.flag("chmod", "none") == "none"


def test_a_flag_is_there_or_not_or_there_again_and_again() -> None:
    instruction = one("COPY --link --parents=false --exclude=a --exclude=b x y")
    assert (instruction.has("link"), instruction.has("parents"), instruction.has("exclude")) == (True, False, False)
    assert instruction.flag_values("exclude") == ("a", "b")


def test_an_escape_with_nothing_after_it_is_an_empty_line() -> None:
    with pytest.raises(BuildError, match="no instructions"):
        parse("\\")


def test_a_command_that_begins_with_dashes_has_no_flags_when_the_instruction_knows_none() -> None:
    assert one("CMD --help").arguments == ("--help",)


def test_healthcheck_takes_flags() -> None:
    instruction = one("HEALTHCHECK --interval=5s --retries=3 CMD true")
    assert instruction.flags == (("interval", "5s"), ("retries", "3"))


def test_onbuild_carries_the_instruction_it_triggers() -> None:
    instruction = one('ONBUILD RUN ["x"]')
    assert instruction.arguments == ('RUN ["x"]',)
    assert instruction.nested is not None
    assert (instruction.nested.keyword, instruction.nested.arguments) == ("RUN", ("x",))


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("RUN <<EOF\na\n  b\nEOF\n", [Heredoc("EOF", "a\n  b\n")]),
        ("RUN <<-EOF\n\ta\n\tEOF\n", [Heredoc("EOF", "a\n", strip_tabs=True)]),
        ("RUN <<'EOF'\n$a\nEOF\n", [Heredoc("EOF", "$a\n", expand=False)]),
        ('RUN cat <<"E" >/x\na\nE\n', [Heredoc("E", "a\n", expand=False)]),
        ("RUN <<EOF\n# no comment \\\n\nEOF\n", [Heredoc("EOF", "# no comment \\\n\n")]),
        ("COPY <<a <<b /x/\n1\na\n2\nb\n", [Heredoc("a", "1\n"), Heredoc("b", "2\n")]),
        ("RUN cat 3<<EOF\nx\nEOF\n", [Heredoc("EOF", "x\n")]),
        ("ONBUILD RUN <<EOF\nx\nEOF\n", [Heredoc("EOF", "x\n")]),
        ("RUN cat <<<here", []),
        ("RUN echo '<<EOF'", []),
        ("RUN echo a<<EOF", []),
        ("CMD <<EOF", []),
        ("RUN <<", []),
    ],
)
def test_here_documents_are_read(text: str, documents: list[Heredoc]) -> None:
    instruction = one(text)
    assert list((instruction.nested or instruction).heredocs) == documents


def test_what_follows_a_here_document_is_the_next_instruction() -> None:
    parsed = parse("FROM a\nRUN <<EOF\nUSER no\nEOF\nUSER yes\n")
    assert [(i.keyword, i.line) for i in parsed.instructions] == [("FROM", 1), ("RUN", 2), ("USER", 5)]


def test_the_word_of_a_here_document_may_hold_a_dollar() -> None:
    assert heredoc("<<$x") == Heredoc("$x", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Dockerfile:1: no instructions"),
        ("# only a comment\n", "Dockerfile:1: no instructions"),
        ("FROM a\nRUNN b", "Dockerfile:2: unknown instruction RUNN; did you mean RUN?"),
        ("FROM a\nxyzzy b", "Dockerfile:2: unknown instruction xyzzy"),
        ("RUN a", "Dockerfile:1: RUN: no FROM stands before it"),
        ("ARG a", "Dockerfile:1: ARG: no FROM follows"),
        ("FROM", "Dockerfile:1: FROM: needs at least 1 argument, got 0"),
        ("FROM a b c d", "Dockerfile:1: FROM: needs at least 1 argument, got 4"),
        ("FROM a\n\nCOPY b", "Dockerfile:3: COPY: needs at least 2 arguments, got 1"),
        ("FROM a\nUSER", "Dockerfile:2: USER: needs 1 argument, got 0"),
        ("FROM a\nUSER", "Dockerfile:2: USER: needs 1 argument, got 0"),
        ("FROM a\nRUN --device=x y", "Dockerfile:2: RUN: --device is not built yet"),
        ("FROM a\nCOPY --parents=maybe a b", "Dockerfile:2: COPY: --parents=maybe: it is true or false"),
        ("FROM a\nADD --exclude a b", "Dockerfile:2: ADD: flag --exclude needs a value: --exclude=..."),
        ("FROM a\nADD --chekcsum=1 a b", "Dockerfile:2: ADD: unknown flag --chekcsum; did you mean --checksum?"),
        ("FROM a\nCOPY --form=x a b", "Dockerfile:2: COPY: unknown flag --form"),
        ("FROM a\nCOPY --from=x --from=y a b", "Dockerfile:2: COPY: flag --from given twice"),
        ("FROM a\nCOPY --from a b", "Dockerfile:2: COPY: flag --from needs a value"),
        ("FROM a\nSHELL /bin/sh", "Dockerfile:2: SHELL: needs a JSON array"),
        ('FROM a\nCMD ["a", 1]', "Dockerfile:2: CMD: the JSON array has something that is not a string"),
        ("FROM a\nENV a", "Dockerfile:2: ENV: a has no value"),
        ("FROM a\nENV a=b c", "Dockerfile:2: ENV: c: can't find ="),
        ("FROM a\nENV =b", "Dockerfile:2: ENV: =b: the name is empty"),
        ("FROM a\nHEALTHCHECK true", "Dockerfile:2: HEALTHCHECK: needs NONE, or CMD"),
        ("FROM a\nHEALTHCHECK CMD", "Dockerfile:2: HEALTHCHECK: needs NONE, or CMD"),
        ("FROM a\nONBUILD", "Dockerfile:2: ONBUILD: needs an instruction"),
        ("FROM a\nONBUILD FROM b", "Dockerfile:2: ONBUILD: FROM is not allowed as a trigger"),
        ("FROM a\nONBUILD ONBUILD USER b", "Dockerfile:2: ONBUILD: ONBUILD is not allowed"),
        ("FROM a\nRUN <<EOF\nb\n", "Dockerfile:2: RUN: here-document <<EOF has no end"),
        ("# escape=x\nFROM a", "Dockerfile:1: directive escape: 'x' is neither"),
        ("# escape=`\n# escape=`\nFROM a", "Dockerfile:2: directive escape: given twice"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, said: str) -> None:
    assert refusal(text).startswith(said)


def test_the_error_names_the_file_that_was_given() -> None:
    with pytest.raises(BuildError, match=r"^images/x/Dockerfile:1: unknown instruction A"):
        parse("A b", name="images/x/Dockerfile")


words = st.text(
    alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\\<#[\"'`-$="), min_size=1
)


@given(st.text())
def test_any_text_is_parsed_or_refused_with_a_line(text: str) -> None:
    try:
        assert parse(text).instructions
    except BuildError as refused:
        assert str(refused).startswith("Dockerfile:")


@given(st.lists(st.tuples(st.sampled_from(sorted(INSTRUCTIONS)), st.text(max_size=40))))
def test_any_instruction_with_any_arguments_is_parsed_or_refused(lines: list[tuple[str, str]]) -> None:
    text = "FROM a\n" + "".join(f"{keyword} {rest}\n" for keyword, rest in lines)
    try:
        parse(text)
    except BuildError as refused:
        assert "\n" not in str(refused).partition(": ")[0]


@given(st.lists(words, min_size=1), st.lists(st.integers(min_value=0, max_value=3)))
def test_breaking_a_line_changes_nothing(parts: list[str], breaks: list[int]) -> None:
    whole = one("RUN " + " ".join(parts)).arguments[0].split()
    broken = "RUN " + " \\\n".join(parts)
    assert one(broken).arguments[0].split() == whole == parts


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))))
def test_a_here_document_keeps_every_line(lines: list[str]) -> None:
    content = "".join(f"{line}\n" for line in lines if line != "END")
    assert one(f"RUN <<END\n{content}END\n").heredocs[0].content == content


@given(st.lists(st.tuples(words, words), min_size=1))
def test_env_pairs_are_kept_in_order(pairs: list[tuple[str, str]]) -> None:
    instruction = one("ENV " + " ".join(f"{name}={value}" for name, value in pairs))
    assert instruction.arguments == tuple(f"{name}={value}" for name, value in pairs)
