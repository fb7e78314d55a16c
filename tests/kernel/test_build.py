"""build: Dockerfiles become images, from scratch, with a real shell in every RUN."""

import io
import json
import os
import signal
import stat
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from minicontainer import cli, engine
from minicontainer.build import builder
from minicontainer.build.builder import BuildError, Request
from minicontainer.build.progress import Progress
from minicontainer.containers import Home
from minicontainer.errors import Error, ImageNotFound
from minicontainer.image import snapshots
from minicontainer.image.store import Store
from minicontainer.oci.image import Descriptor, ImageConfig, Manifest

BUSYBOX = "/bin/busybox"
APPLETS = (
    "sh", "true", "false", "echo", "cat", "ls", "id", "rm", "mkdir", "ln", "touch", "test",
    "sleep", "stat", "ip", "chmod", "readlink", "env", "tar", "seq", "grep", "find",
)  # fmt: skip


class Built(NamedTuple):
    """What came of a build."""

    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    layers: list[str]  # unpacked, the lowest first
    told: str
    cached: int
    steps: int

    def find(self, path: str) -> Path:
        """The path in the topmost layer that has it."""
        for layer in reversed(self.layers):
            if os.path.lexists(f"{layer}/{path}"):
                return Path(f"{layer}/{path}")
        raise FileNotFoundError(path)


class World(NamedTuple):
    """A data directory with the image `base`, and a build context."""

    home: Home
    context: Path

    def build(self, dockerfile: str, files: Mapping[str, str] = {}, **asked: object) -> Built:
        for name, content in files.items():
            (self.context / name).parent.mkdir(parents=True, exist_ok=True)
            (self.context / name).write_text(content)
        (self.context / "Dockerfile").write_text(dockerfile)
        stream = io.StringIO()
        teller = Progress(stream)
        request = Request(context=str(self.context), network="none")._replace(**asked)  # type: ignore[arg-type]  # by name
        try:
            descriptor = builder.build(self.home, request, teller)
        except Error as error:
            error.add_note(stream.getvalue())
            raise
        store = self.store()
        manifest = store.manifest(descriptor)
        config = store.config(manifest)
        layers = [snapshots.diff_directory(self.home.data, diff_id) for diff_id in config.diff_ids]
        return Built(descriptor, manifest, config, layers, stream.getvalue(), teller.cached, teller.count)

    def refused(self, dockerfile: str, files: Mapping[str, str] = {}, **asked: object) -> str:
        """The one line that a failing build says; it leaves nothing half made."""
        before = self.store().names()
        with pytest.raises(BuildError) as refused:
            self.build(dockerfile, files, **asked)
        assert refused.value.exit_code == 1
        assert self.store().names() == before
        assert self.left_over() == []
        return str(refused.value).replace(f"{self.context}", "context").removeprefix("context/")

    def store(self) -> Store:
        return Store(f"{self.home.data}/oci")

    def left_over(self) -> list[str]:
        places = ("containers", "names", "ids", "staging", "removed", "cache/build/work", "oci/staging")
        return [
            f"{place}/{name}"
            for place in places
            if os.path.isdir(f"{self.home.data}/{place}")
            for name in os.listdir(f"{self.home.data}/{place}")
        ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A data directory with an image `base`: busybox, made by COPY alone."""
    context = tmp_path_factory.mktemp("base")
    (context / "bin").mkdir()
    (context / "etc").mkdir()
    (context / "bin" / "busybox").write_bytes(Path(BUSYBOX).read_bytes())
    (context / "bin" / "busybox").chmod(0o755)
    for applet in APPLETS:
        (context / "bin" / applet).symlink_to("busybox")
    (context / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nweb:x:33:44::/home:/bin/sh\n")
    (context / "etc" / "group").write_text("root:x:0:\nweb:x:44:\n")
    (context / "Dockerfile").write_text('FROM scratch\nCOPY bin /bin\nCOPY etc /etc\nCMD ["sh"]\n')
    home = engine.home(str(tmp_path_factory.mktemp("data")))
    builder.build(home, Request(context=str(context), tags=("base",)), Progress(io.StringIO()))
    return home


@pytest.fixture
def world(home: Home, tmp_path: Path) -> World:
    (tmp_path / "context").mkdir()
    return World(home, tmp_path / "context")


def names(directory: str) -> list[str]:
    """All paths below, sorted; a whiteout has a `-` in front."""
    found = []
    for parent, directories, files in os.walk(directory):
        for name in directories + files:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            gone = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
            found.append(("-" if gone else "") + os.path.relpath(path, directory))
    return sorted(found)


# --- what is built


@pytest.mark.kernel("overlay")
def test_a_copy_from_the_context_becomes_a_layer(world: World) -> None:
    built = world.build("FROM scratch\nCOPY a /dir/b\nCMD x", {"a": "content"}, tags=("one", "two:1"))
    assert [names(layer) for layer in built.layers] == [["dir", "dir/b"]]
    assert built.config.config.cmd == ("/bin/sh", "-c", "x")
    assert world.store().resolve("one").digest == world.store().resolve("two:1").digest == built.descriptor.digest


@pytest.mark.kernel("overlay")
def test_a_run_becomes_a_layer_of_what_it_changed(world: World) -> None:
    built = world.build("FROM base\nRUN echo hi > /new && rm /etc/group && mkdir /d && chmod 700 /d\nRUN true")
    assert names(built.layers[-1]) == ["-etc/group", "d", "etc", "new"]
    assert [entry.empty_layer for entry in built.config.history[-2:]] == [False, True]
    assert built.find("new").read_text() == "hi\n"
    assert (built.find("new").stat().st_uid, stat.S_IMODE(built.find("d").stat().st_mode)) == (0, 0o700)


@pytest.mark.kernel("overlay")
def test_a_run_is_isolated_and_sees_what_it_should(world: World) -> None:
    built = world.build(
        "FROM base\nARG a=1\nENV b=2\nUSER web\nWORKDIR /home/web\n"
        "RUN echo $a $b $PWD $(id -u):$(id -g) > seen; cat /proc/self/uid_map > map; ls /sys/class/net > net\n"
    )
    assert built.find("home/web/seen").read_text() == "1 2 /home/web 33:44\n"
    assert built.find("home/web/map").read_text().split()[1] != "0"
    assert built.find("home/web/net").read_text() == "lo\n"
    assert built.find("home/web/seen").stat().st_uid == 33
    assert built.find("home/web").stat().st_uid == 33


@pytest.mark.kernel("overlay")
def test_a_run_on_the_bridge_has_a_network(world: World) -> None:
    built = world.build(
        "FROM base\nRUN ls /sys/class/net > /net\nRUN --network=none ls /sys/class/net > /none", network="bridge"
    )
    assert built.find("net").read_text().split() == ["eth0", "lo"]
    assert built.find("none").read_text().split() == ["lo"]


@pytest.mark.kernel("overlay")
def test_mount_points_that_a_run_needed_are_not_in_the_layer(world: World) -> None:
    (world.context / "busybox").write_bytes(Path(BUSYBOX).read_bytes())
    (world.context / "busybox").chmod(0o755)
    built = world.build('FROM scratch\nCOPY busybox /sh\nRUN ["/sh", "-c", "echo x > /x"]')
    assert names(built.layers[-1]) == ["x"]


@pytest.mark.kernel("overlay")
def test_exec_form_has_no_shell(world: World) -> None:
    built = world.build('FROM base\nRUN ["/bin/touch", "$HOME", "a b"]')
    assert names(built.layers[-1]) == ["$HOME", "a b"]


@pytest.mark.kernel("overlay")
def test_shell_changes_the_shell(world: World) -> None:
    built = world.build('FROM base\nSHELL ["/bin/sh", "-uc"]\nRUN echo $0 > /x\nCMD y')
    assert built.config.config.cmd == ("/bin/sh", "-uc", "y")
    assert "unset variable" not in built.told


@pytest.mark.kernel("overlay")
def test_here_documents_run_copy_and_are_scripts(world: World) -> None:
    built = world.build(
        "FROM base\nENV who=me\n"
        "RUN <<EOF\necho one > /one\necho $who > /two\nEOF\n"
        "RUN <<EOF\n#!/bin/sh -u\necho $0 > /three\nEOF\n"
        "RUN cat <<A > /four && cat <<B > /five\na\nA\nb\nB\n"
        "COPY <<first <<'second' /d/\n$who\nfirst\n$who\nsecond\n"
    )
    texts = {
        name: built.find(name).read_text() for name in ("one", "two", "three", "four", "five", "d/first", "d/second")
    }
    assert texts == {
        "one": "one\n", "two": "me\n", "three": "/dev/pipes/EOF\n", "four": "a\n", "five": "b\n",
        "d/first": "me\n", "d/second": "$who\n",
    }  # fmt: skip


@pytest.mark.kernel("overlay")
def test_stages_give_files_with_their_owners_and_unwanted_ones_are_not_built(world: World) -> None:
    built = world.build(
        "FROM base AS made\nRUN echo x > /x && chmod 640 /x\nCOPY --chown=7:8 a /y\n"
        "FROM base AS broken\nRUN false\n"
        "FROM scratch\nCOPY --from=made /x /y /from/\nCOPY --from=0 --chown=1 /x /mine\n"
        "COPY --from=base /etc/passwd /p\n",
        {"a": "a"},
    )
    assert names(built.layers[0]) == ["from", "from/x", "from/y"]
    assert (built.find("from/y").stat().st_uid, built.find("from/y").stat().st_gid) == (7, 8)
    assert stat.S_IMODE(built.find("from/x").stat().st_mode) == 0o640
    assert built.find("mine").stat().st_uid == 1
    assert built.find("p").read_text().startswith("root:")
    assert "broken" not in built.told


@pytest.mark.kernel("overlay")
def test_a_stage_goes_on_from_another(world: World) -> None:
    built = world.build("FROM base AS a\nENV x=1\nRUN echo a > /a\nFROM a\nRUN echo $x > /b", target="")
    assert built.find("b").read_text() == "1\n"
    assert len(built.layers) == 4
    assert len(world.build("FROM base AS a\nRUN echo a > /a\nFROM a\nRUN false", target="a").layers) == 3


@pytest.mark.kernel("overlay")
def test_triggers_of_the_base_are_carried_out_and_not_handed_on(world: World) -> None:
    world.build("FROM base\nONBUILD COPY f /f\nONBUILD RUN cat /f > /g", tags=("trigger",))
    built = world.build("FROM trigger\nRUN cat /g > /h", {"f": "deep"})
    assert built.find("h").read_text() == "deep"
    assert built.config.config.on_build == ()


@pytest.mark.kernel("overlay")
def test_dockerignore_and_named_contexts(world: World, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "o").write_text("other")
    built = world.build(
        "FROM scratch\nCOPY . /c/\nCOPY --from=more o /o",
        {"keep": "1", "drop": "2", ".dockerignore": "*\n!keep\n"},
        contexts={"more": str(tmp_path / "other")},
    )
    assert names(built.layers[0]) == ["c", "c/keep"]
    assert built.find("o").read_text() == "other"


@pytest.mark.kernel("overlay")
def test_add_unpacks(world: World) -> None:
    with tarfile.open(world.context / "a.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("empty"), io.BytesIO())
    built = world.build("FROM scratch\nADD a.tgz /x/\nCOPY a.tgz /y/")
    assert [names(layer) for layer in built.layers] == [["x", "x/empty"], ["y", "y/a.tgz"]]


@pytest.mark.kernel("overlay")
def test_a_link_in_the_image_leads_nowhere_else(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    built = world.build(
        f"FROM base\nRUN ln -s {outside} /out && mkdir -p {outside}\nCOPY f /out/f\nWORKDIR /out/w", {"f": "x"}
    )
    assert list(outside.iterdir()) == []
    assert built.find(f"{outside}/f".lstrip("/")).read_text() == "x"


@pytest.mark.kernel("overlay")
def test_labels_args_and_history(world: World) -> None:
    built = world.build(
        "FROM base\nARG v\nLABEL a=$v\nRUN true $v\n", build_args={"v": "1", "unused": "2"}, labels={"b": "3"}
    )
    assert built.config.config.labels == {"a": "1", "b": "3"}
    assert "--build-arg unused: no ARG unused asks for it" in built.told
    assert built.config.history[-1].created_by == "RUN |1 v=1 /bin/sh -c true $v"


# --- the cache


@pytest.mark.kernel("overlay")
def test_a_second_build_is_cached_and_the_same(world: World) -> None:
    text = "FROM base\nCOPY f /f\nRUN cat /f > /cached-$(cat /f)\nWORKDIR /w\nENV a=b\n"
    first = world.build(text, {"f": "1"})
    again = world.build(text, {"f": "1"})
    assert (first.cached, again.cached, again.steps) == (0, 3, 4)
    assert again.descriptor.digest == first.descriptor.digest


@pytest.mark.kernel("overlay")
def test_what_changed_is_done_again_from_its_line_on(world: World) -> None:
    text = "FROM base\nRUN echo before > /before-change\nCOPY f /f\nRUN cat /f > /g"
    world.build(text, {"f": "old"})
    built = world.build(text, {"f": "new"})
    assert built.cached == 1
    assert built.find("g").read_text() == "new"
    assert world.build(text, {"f": "old"}).cached == 3


@pytest.mark.kernel("overlay")
def test_arguments_user_and_commands_are_part_of_the_key(world: World) -> None:
    text = "FROM base\nARG v=1\nRUN echo $v > /keyed"
    assert world.build(text).cached == 0
    assert world.build(text, build_args={"v": "2"}).find("keyed").read_text() == "2\n"
    assert world.build(text).cached == 1
    assert world.build(text.replace("RUN", "USER 0\nRUN")).cached == 0
    assert world.build(text, no_cache=True).cached == 0


@pytest.mark.kernel("overlay")
def test_an_entry_whose_layer_is_gone_is_made_again(world: World) -> None:
    text = "FROM base AS a\nRUN echo gone > /gone\nFROM scratch\nCOPY --from=a /gone /gone"
    first = world.build(text)
    world.store().collect()
    built = world.build(text)
    assert (built.cached, built.descriptor.digest) == (2, first.descriptor.digest)
    assert built.find("gone").read_text() == "gone\n"


@pytest.mark.kernel("overlay")
def test_a_source_date_makes_builds_the_same(world: World, tmp_path: Path) -> None:
    text = "FROM base\nCOPY f /d/f\nRUN echo x > /x; ls -l / > /dev/null\nWORKDIR /w"
    asked = {"build_args": {"SOURCE_DATE_EPOCH": "1000000000"}, "no_cache": True}
    first = world.build(text, {"f": "1"}, **asked)
    time.sleep(1.1)
    os.utime(world.context / "f")
    second = world.build(text, {"f": "1"}, **asked)
    assert first.descriptor.digest == second.descriptor.digest
    assert second.config.created == "2001-09-09T01:46:40Z"
    assert second.find("x").stat().st_mtime == 1_000_000_000


# --- what goes wrong


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "FROM base\nRUN echo out; exit 3",
            "Dockerfile:2: RUN: the command 'echo out; exit 3' failed with exit code 3",
        ),
        ("FROM base\n\nCOPY none /", "Dockerfile:3: COPY: none is not in the context "),
        ("FROM base\nCOPY ../../etc/passwd /", "Dockerfile:2: COPY: ../../etc/passwd is not in the context "),
        (
            "FROM base\nCOPY ignored /",
            "Dockerfile:2: COPY: ignored is not in the context context: left out by .dockerignore",
        ),
        ("FROM base\nCOPY Dockerfile f /x", "Dockerfile:2: COPY: with more than one source"),
        ("FROM base\nCOPY --from=base /none /", "Dockerfile:2: COPY: /none is not in --from=base"),
        ("FROM base\nCOPY --chmod=rwx Dockerfile /", "Dockerfile:2: COPY: --chmod=rwx: it is an octal mode"),
        ("FROM base\nADD http://127.0.0.1:1/x /", "Dockerfile:2: ADD: http://127.0.0.1:1/x: "),
        ("FROM base\nWORKDIR /etc/passwd/x", "Dockerfile:2: WORKDIR: /etc/passwd is not a directory"),
        ("FROM base\nRUN --network=lan x", "Dockerfile:2: RUN: --network=lan is none of"),
        ("FROM base\nRUN --device=x y", "Dockerfile:2: RUN: --device is not built yet"),
        ("FROM base\nEXPOSE x", "Dockerfile:2: EXPOSE: x is not a port"),
        ("FROM base\nFOO x", "Dockerfile:2: unknown instruction FOO"),
        ('FROM base\nENV a="${b:?must be}"', "Dockerfile:2: ENV: b: must be"),
        ("FROM 127.0.0.1:1/absent/image", "Dockerfile:1: FROM: image 127.0.0.1:1/absent/image cannot be pulled: "),
        ("FROM base\nUSER ghost\nRUN true", "Dockerfile:3: RUN: "),
        ('FROM base\nRUN ["/none"]', "Dockerfile:2: RUN: "),
    ],
)
def test_a_failure_names_file_line_instruction_and_reason(world: World, text: str, said: str) -> None:
    assert world.refused(text, {"f": "x", "ignored": "", ".dockerignore": "ignored"}, tags=("never",)).startswith(said)
    with pytest.raises(ImageNotFound):
        world.store().resolve("never")


@pytest.mark.kernel("overlay")
def test_a_failing_run_shows_its_output(world: World) -> None:
    with pytest.raises(BuildError) as refused:
        world.build("FROM base\nRUN echo to stdout; echo to stderr >&2; false")
    [told] = refused.value.__notes__
    assert "to stdout" in told and "to stderr" in told and "ERROR" in told


@pytest.mark.kernel("overlay")
def test_a_build_that_is_killed_leaves_nothing_for_long(world: World) -> None:
    if (child := os.fork()) == 0:
        world.build("FROM base\nRUN echo started > /s; sleep 60")
        os._exit(0)
    deadline = time.monotonic() + 20
    while not any("containers/" in name for name in world.left_over()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    world.build("FROM base\nRUN true")
    assert engine.list_containers(world.home) == []  # the RUN that went on without its build is gone too
    assert world.left_over() == []


# --- the command line


@pytest.mark.kernel("overlay")
def test_the_command_takes_dockers_flags(world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (world.context / "Other").write_text("FROM base AS x\nARG v\nLABEL v=$v\nFROM scratch AS y\nCOPY Other /\n")
    argv = ["-f", str(world.context / "Other"), "-t", "flags", "-t", "flags:2", "--target", "x", "--build-arg", "v=1"]
    argv += ["--label", "l=2", "--iidfile", str(tmp_path / "iid"), "--network", "none", "-q", str(world.context)]
    assert cli.dispatch(["--root", world.home.data, "build", *argv]) == 0
    image_id = (tmp_path / "iid").read_text()
    assert capsys.readouterr().out == image_id + "\n"
    manifest = world.store().manifest(world.store().resolve("flags:2"))
    assert manifest.config.digest == image_id
    assert world.store().config(manifest).config.labels == {"v": "1", "l": "2"}


@pytest.mark.kernel("overlay")
def test_what_skopeo_and_people_read_is_an_oci_image(world: World) -> None:
    built = world.build("FROM base\nHEALTHCHECK CMD true\nEXPOSE 80\nVOLUME /v")
    document = json.loads(world.store().read(built.manifest.config.digest))
    assert document["rootfs"] == {"type": "layers", "diff_ids": list(built.config.diff_ids)}
    assert document["config"]["ExposedPorts"] == {"80/tcp": {}}
    assert len([entry for entry in document["history"] if not entry.get("empty_layer")]) == len(built.layers)
