"""build: what it reads before it builds, and what its command line asks for."""

import codecs
import fcntl
import io
import os
import re
import tarfile
from pathlib import Path

import pytest

from minicontainer import cli
from minicontainer.build import builder, options
from minicontainer.build.builder import BuildError, Request
from minicontainer.build.cache import Cache, Layer, clamp_times, drop_unchanged, entries
from minicontainer.build.context_sources import prepared, read_dockerfile
from minicontainer.build.copies import _destination
from minicontainer.build.dockerfile import Dockerfile, Instruction, parse
from minicontainer.build.runs import _script, _without_proxies
from minicontainer.build.stages import Refused, State
from minicontainer.build.workbench import read_ignore
from minicontainer.containers import Home
from minicontainer.image.store import Store
from minicontainer.oci.image import LAYER_GZIP, ContainerConfig, Descriptor


def instruction(text: str) -> Instruction:
    return parse(f"FROM a\n{text}").instructions[-1]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text("FROM scratch\n")
    return directory


# --- what is read


def read(tmp_path: Path, directory: Path, stdin: bytes = b"", **asked: object) -> Dockerfile:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    request = Request(context=str(directory))._replace(**asked)  # type: ignore[arg-type]  # by name
    return read_dockerfile(prepared(request, str(scratch), io.BytesIO(stdin)))


def test_the_dockerfile_of_the_context_is_read_and_named_with_its_path(tmp_path: Path, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM\n")
    with pytest.raises(BuildError, match=rf"^{context}/Dockerfile:1: FROM: needs") as refused:
        read(tmp_path, context)
    assert refused.value.excerpt == "   1 | >>> FROM\n   2 |"
    (context / "Dockerfile").rename(context / "dockerfile")
    with pytest.raises(BuildError, match=rf"^{context}/dockerfile:1: FROM: needs"):
        read(tmp_path, context)


def test_another_dockerfile_may_be_anywhere(context: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("FROM x\n")
    parsed = read(tmp_path, context, dockerfile=str(tmp_path / "other"))
    assert parsed.instructions[0].arguments == ("x",)


def test_a_dockerfile_may_come_from_stdin(tmp_path: Path, context: Path) -> None:
    assert read(tmp_path, context, b"FROM y\n", dockerfile="-").instructions[0].arguments == ("y",)
    with pytest.raises(BuildError, match=r"^Dockerfile:1: unknown instruction FORM; did you mean FROM"):
        read(tmp_path, context, b"FORM y\n", dockerfile="-")
    with pytest.raises(BuildError, match=r"^stdin cannot be both"):
        read(tmp_path, context, context="-", dockerfile="-")


def test_a_context_may_come_from_stdin_or_be_an_archive(tmp_path: Path, context: Path) -> None:
    (context / "sub").mkdir()
    (context / "sub" / "Other").write_text("FROM z\n")
    archive = tmp_path / "context.tgz"
    with tarfile.open(archive, "w:gz") as writing:
        writing.add(context, ".")
    assert read(tmp_path, context, b"FROM alone\n", context="-").instructions[0].arguments == ("alone",)
    with pytest.raises(BuildError, match=r"^stdin: is no archive, so there is no x in it"):
        read(tmp_path, context, b"FROM alone\n", context="-", dockerfile="x")
    (tmp_path / "text").write_text("FROM x\n")
    with pytest.raises(BuildError, match=r"the build context is a file, and no archive; try: its directory"):
        read(tmp_path, tmp_path / "text")


def test_a_missing_dockerfile_or_context_says_what_to_try(tmp_path: Path, context: Path) -> None:
    (context / "Dockerfile").unlink()
    with pytest.raises(BuildError, match="Dockerfile: no such file; try: --file PATH"):
        read(tmp_path, context)
    (context / "Containerfile").touch()
    with pytest.raises(BuildError, match=f"Dockerfile: no such file; try: --file {context}/Containerfile"):
        read(tmp_path, context)
    with pytest.raises(BuildError, match="the build context is not a directory"):
        read(tmp_path, context / "none")
    (context / "Dockerfile").mkdir()
    with pytest.raises(BuildError, match="not a Dockerfile: it is a directory"):
        read(tmp_path, context)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("FROM a\n".encode("utf-16"), "Dockerfile: not a Dockerfile: it is UTF-16; try: iconv -f UTF-16 -t UTF-8"),
        (b"FROM a\nRUN \xff\n", "Dockerfile:2: not a Dockerfile: the byte 0xff is not UTF-8"),
        (b"FROM a\nRUN \0\n", "Dockerfile:2: not a Dockerfile: it has a NUL byte"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, context: Path, content: bytes, said: str) -> None:
    (context / "Dockerfile").write_bytes(content)
    with pytest.raises(BuildError, match=re.escape(said)):
        read(tmp_path, context)
    (context / "Dockerfile").write_bytes(codecs.BOM_UTF8 + b"FROM a\r\n")
    assert read(tmp_path, context).instructions[0].arguments == ("a",)


def test_the_dockerfiles_own_ignore_file_comes_first(context: Path) -> None:
    assert not read_ignore(str(context)).excludes("a")
    (context / ".dockerignore").write_text("a\n")
    (context / "Dockerfile.dockerignore").write_text("b\n")
    assert read_ignore(str(context)).excludes("a")
    assert not read_ignore(str(context), str(context / "Dockerfile")).excludes("a")
    assert read_ignore(str(context), str(context / "Dockerfile")).excludes("b")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--label", "x"], "x: write NAME=VALUE"),
        (["--build-context", "=y"], "=y: write NAME=VALUE"),
        (["--tag", "BAD"], "invalid reference 'BAD'"),
    ],
)
def test_the_command_refuses_what_it_cannot_read(
    context: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    with pytest.raises(Exception, match=said):
        cli.dispatch(["--root", str(tmp_path / "data"), "build", *arguments, str(context)])
    assert not (tmp_path / "data").exists()


def test_a_build_arg_without_a_value_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "v")
    monkeypatch.delenv("ABSENT", raising=False)
    assert options.from_environment("GIVEN") == ("GIVEN", "v")
    assert options.from_environment("ABSENT") is None
    assert options.from_environment("A=b=c") == ("A", "b=c")


def test_directories_of_dead_builds_are_removed_and_of_living_ones_kept(tmp_path: Path) -> None:
    work = tmp_path / "cache" / "build" / "work"
    (work / "dead" / "upper").mkdir(parents=True)
    (work / "alive").mkdir()
    held = os.open(work / "alive", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with builder._scratch_directory(Home(data=str(tmp_path))) as path:
        assert sorted(os.listdir(work)) == sorted(["alive", os.path.basename(path)])
    assert os.listdir(work) == ["alive"]
    os.close(held)


# --- what a step is


@pytest.mark.parametrize(
    ("written", "destination", "is_directory"),
    [
        ("/a", "/a", False),
        ("/a/", "/a", True),
        ("a", "/w/a", False),
        (".", "/w", True),
        ("./", "/w", True),
        ("..", "/", True),
        ("../../a", "/a", False),
        ("//a", "/a", False),
    ],
)
def test_a_destination_is_below_the_workdir(written: str, destination: str, is_directory: bool) -> None:
    state = State(config=ContainerConfig(working_dir="/w"))
    copy = _destination(instruction(f"COPY x {written}"), written, state, "\\")
    assert (copy.destination, copy.is_directory) == (destination, is_directory)


def test_flags_of_copy_are_expanded() -> None:
    state = State(config=ContainerConfig(), arguments={"m": "640", "o": "web"})
    copy = _destination(instruction("ADD --chmod=$m --chown=$o:$o x /"), "/", state, "\\")
    assert (copy.mode, copy.owner, copy.extract) == ("640", "web:web", True)
    with pytest.raises(Refused, match="an octal mode, like 755"):
        _destination(instruction("COPY --chmod=rwx x /"), "/", state, "\\")


@pytest.mark.parametrize(
    ("text", "script", "told"),
    [
        ("RUN a", False, ""),
        ("RUN <<E\nhi\nE", False, "hi\n"),
        ("RUN <<E\n#!/x\nE", True, "/dev/pipes/E"),
        ("RUN cat <<E >x\nhi\nE", False, "cat <<E >x\nhi\nE"),
        ("RUN <<A cat <<B\n1\nA\n2\nB", False, "<<A cat <<B\n1\nA\n2\nB"),
    ],
)
def test_a_here_document_is_text_for_the_shell_or_a_script(text: str, script: bool, told: str) -> None:
    found, said = _script(instruction(text))
    assert (found is not None, said) == (script, told)


def test_proxies_are_no_part_of_a_key() -> None:
    assert _without_proxies(("a=b", "http_proxy=x", "NO_PROXY=y")) == ["a=b"]


# --- the cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path), Store(str(tmp_path / "oci")))


def test_a_key_is_of_all_that_a_step_depends_on(cache: Cache, tmp_path: Path) -> None:
    one, two = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    other = Cache(str(tmp_path), cache.store, epoch=0)
    found = [
        cache.inputs([], {"command": "a"}),
        cache.inputs([], {"command": "b"}),
        cache.inputs([one], {"command": "a"}),
        cache.inputs([one, two], {"command": "a"}),
        cache.inputs([two, one], {"command": "a"}),
        other.inputs([], {"command": "a"}),
    ]
    keys = [cache.key(inputs) for inputs in found]
    assert len(set(keys)) == len(keys)
    assert cache.key(cache.inputs((), {"command": "a"})) == keys[0]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"diff_id": ""}', b'{"diff_id": "", "created": "", "descriptor": 1}']
)
def test_an_entry_that_a_power_cut_left_half_is_a_miss(cache: Cache, content: bytes) -> None:
    Path(cache.directory, "k").write_bytes(content)
    assert cache.get("k") is None
    assert entries(cache.data) == []


def test_entries_are_in_the_order_of_their_use(cache: Cache) -> None:
    for number, key in enumerate("abc"):
        cache.put(key, Layer(diff_id="", created=key))
        os.utime(f"{cache.directory}/{key}", (number, number))
    assert [entry.layer.created for entry in entries(cache.data)] == ["a", "b", "c"]
    cache.get("a")
    assert [entry.layer.created for entry in entries(cache.data)] == ["b", "c", "a"]


def test_an_entry_is_a_hit_while_its_layer_is_there(cache: Cache, tmp_path: Path) -> None:
    digest, size = cache.store.put(b"layer")
    diff_id = "sha256:" + "3" * 64
    layer = Layer(diff_id=diff_id, created="now", descriptor=Descriptor(LAYER_GZIP, digest, size))
    cache.put("k", layer)
    assert cache.get("k") == layer
    assert cache.get("other") is None
    cache.store.collect()
    assert cache.get("k") is None
    (tmp_path / "layers" / "sha256" / ("3" * 64) / "diff").mkdir(parents=True)
    assert cache.get("k") == layer._replace(descriptor=None)


def test_a_step_that_changed_nothing_is_remembered_too(cache: Cache) -> None:
    cache.put("k", Layer(diff_id="", created="now"))
    assert cache.get("k") == Layer(diff_id="", created="now")


def test_nothing_is_younger_than_the_source_date(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "young").write_text("")
    (tmp_path / "old").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    os.utime(tmp_path / "old", (5, 5))
    clamp_times(str(tmp_path), 1000)
    times = {path.name: path.lstat().st_mtime for path in (tmp_path, *tmp_path.rglob("*"))}
    assert times == {tmp_path.name: 1000, "d": 1000, "young": 1000, "old": 5, "link": 1000}


def test_mount_points_go_and_what_was_put_into_them_stays(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for directory in ("upper/proc", "upper/dev", "upper/etc", "lower/etc"):
        (tmp_path / directory).mkdir(parents=True)
    (upper / "etc" / "hosts").write_text("")
    (upper / "etc" / "hostname").write_text("mine")
    (upper / "dev" / "file").write_text("")
    drop_unchanged(str(upper), [str(lower)], ["etc/hosts", "etc/hostname", "proc", "dev", "sys"])
    assert sorted(str(path.relative_to(upper)) for path in upper.rglob("*")) == [
        "dev",
        "dev/file",
        "etc",
        "etc/hostname",
    ]


def test_a_directory_that_was_only_opened_for_a_mount_point_goes(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    (upper / "etc").mkdir(parents=True)
    (lower / "etc").mkdir(parents=True)
    (upper / "etc" / "hosts").write_text("")
    drop_unchanged(str(upper), [str(lower)], ["etc/hosts"])
    assert os.listdir(upper) == []
    (upper / "etc").mkdir()
    (upper / "etc").chmod(0o700)  # the command meant it
    (upper / "etc" / "hosts").write_text("")
    drop_unchanged(str(upper), [str(lower)], ["etc/hosts"])
    assert os.listdir(upper) == ["etc"]
