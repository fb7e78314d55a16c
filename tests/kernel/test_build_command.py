"""`minicontainer build`: its flags, from the command line to what is there afterwards."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from minicontainer import cli
from minicontainer.containers import Home
from minicontainer.image.store import Store
from minicontainer.oci.image import Index, Platform, parse
from tests.kernel.test_copy_flags import repository, serving
from tests.kernel.test_dockerfiles import NONE, Files, World, archive, listed, place, world

__all__ = ["place", "world"]  # the fixtures


class Said(NamedTuple):
    """What a command said, and the images that it left, by their familiar names."""

    code: int
    out: str
    err: str


class Shell(NamedTuple):
    world: World
    read: Callable[[], tuple[str, str]]

    def build(self, text: str, *words: str, files: Files = NONE, stdin: bytes = b"", context: str = "") -> Said:
        """`minicontainer build` of that Dockerfile."""
        if text:
            self.world.put({"Dockerfile": text, **files})
        elif files:
            self.world.put(files)
        argv = ["--root", self.home.data, "build", "--network", "none", *words, context or str(self.world.context)]
        reader, writer = os.pipe()
        os.write(writer, stdin)
        os.close(writer)
        with open(reader) as given:
            before, sys.stdin = sys.stdin, given
            try:
                code = cli.main(argv)
            finally:
                sys.stdin = before
        out, err = self.read()
        return Said(code, out, err)

    @property
    def home(self) -> Home:
        return self.world.home

    def config(self, name: str, platform: Platform | None = None) -> dict[str, object]:
        store = Store(f"{self.home.data}/oci")
        manifest = store.manifest(store.resolve(name), platform)
        found = json.loads(store.read(manifest.config.digest))
        assert isinstance(found, dict)
        return found


@pytest.fixture
def shell(world: World, capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(world, lambda: tuple(capfd.readouterr()))  # type: ignore[arg-type]  # it has two parts


# --- contexts


@pytest.mark.kernel("overlay")
def test_a_context_and_a_dockerfile_by_stdin(shell: Shell) -> None:
    text = b"FROM scratch\nCOPY a /b\n"
    assert shell.build("", "-t", "c1", "-f", "-", files={"a": "1"}, stdin=text).code == 0
    packed = archive("c.tgz", Dockerfile=text.decode(), a="2", sub__Other="FROM scratch\nCOPY a /c\n")
    assert shell.build("", "-t", "c2", stdin=packed, context="-").code == 0
    assert shell.build("", "-t", "c3", "-f", "sub/Other", stdin=packed, context="-").code == 0
    assert shell.build("", "-t", "c4", stdin=b"FROM scratch\nLABEL a=1", context="-").code == 0
    said = shell.build("", stdin=text, context="-")
    assert (said.code, said.err.splitlines()[-1]) == (
        1, "minicontainer: Dockerfile:2: COPY: a is not in the context stdin"
    )  # fmt: skip
    damaged = shell.build(
        "",
        stdin=packed[:60],
        context="-",
    )
    assert damaged.code == 1 and "Traceback" not in damaged.err


@pytest.mark.kernel("overlay")
def test_an_archive_leads_nowhere_else(shell: Shell, tmp_path: Path) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as made:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        made.addfile(link)
        for name in ("out/escaped", "../../up", "Dockerfile"):
            member = tarfile.TarInfo(name)
            content = b"FROM scratch\nCOPY out/escaped /x\n"
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    assert shell.build("", "-t", "hostile", stdin=whole.getvalue(), context="-").code in (0, 1, 125)
    assert not (tmp_path / "escaped").exists() and not (tmp_path.parent / "up").exists()


@pytest.mark.kernel("overlay")
def test_a_repository_and_a_url_as_context(shell: Shell, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "sub").mkdir(parents=True)
    (work / "Dockerfile").write_text("FROM scratch\nCOPY tool /tool\nCOPY --from=more f /f\n")
    (work / "out").symlink_to(tmp_path)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "c.tar").write_bytes(archive("c.tar", Dockerfile="FROM scratch\nCOPY a /a\n", a="1"))
    with repository(tmp_path) as (url, _), serving(tmp_path / "served") as server:
        said = shell.build("", "-t", "git", "--build-context", f"more={url}#v1:sub", context=url)
        assert said.code == 0, said.err
        assert shell.build("", "-t", "url", context=f"{server}/c.tar").code == 0
        assert "no such directory" in shell.build("", context=f"{url}#:out").err
        assert "no such directory" in shell.build("", context=f"{url}#:nowhere").err


@pytest.mark.kernel("overlay")
def test_an_image_of_another_layout(shell: Shell, tmp_path: Path) -> None:
    out = f"type=oci,tar=false,dest={tmp_path}/layout"
    assert shell.build("FROM scratch\nENV x=1\nCOPY a /a", "-o", out, "-t", "one:2", files={"a": "A"}).code == 0
    text = "FROM mine\nCOPY --from=mine /a /b\n"
    layout = f"mine=oci-layout://{tmp_path}/layout"
    said = shell.build(text, "-t", "from-layout", "--build-context", layout)
    assert said.code == 0, said.err
    assert "x=1" in str(shell.config("from-layout"))
    assert shell.build(text, "--build-context", f"{layout}:2").code == 0
    absent = shell.build(text, "--build-context", f"{layout}:3").err.splitlines()[-1]
    assert absent.endswith("no such image in the layout; it has docker.io/library/one:2")
    none = shell.build(text, "--build-context", f"mine=oci-layout://{tmp_path}").err.splitlines()[-1]
    assert none.endswith("is not an OCI layout: there is no index.json")


# --- outputs


@pytest.mark.kernel("overlay")
def test_the_files_of_an_image(shell: Shell, tmp_path: Path) -> None:
    text = "FROM scratch AS f\nCOPY --chown=3:4 --chmod=640 a /d/a\nFROM f\nCOPY b /b\n"
    files: Files = {"a": "A", "b": "B"}
    assert shell.build(text, "-o", f"{tmp_path}/out", files=files).code == 0
    assert listed(f"{tmp_path}/out") == {"d": "d 755", "d/a": "f 640 A", "b": "f 644 B"}
    assert shell.build(text, "-o", f"type=tar,dest={tmp_path}/out.tar").code == 0
    with tarfile.open(tmp_path / "out.tar") as made:
        found = {member.name: (member.uid, member.gid, f"{member.mode:o}") for member in made}
    assert found == {"b": (0, 0, "644"), "d": (3, 4, "755"), "d/a": (3, 4, "640")}
    assert shell.build(text, "-o", f"{tmp_path}/f", "--target", "f").code == 0
    assert set(listed(f"{tmp_path}/f")) == {"d", "d/a"}


@pytest.mark.kernel("overlay")
def test_archives_of_an_image_are_the_same_bytes_for_the_same_source_date(shell: Shell, tmp_path: Path) -> None:
    text = "FROM base\nCOPY a /a\nRUN echo 1 > /b; ls -l / > /dev/null\nWORKDIR /w\n"
    made = []
    for number in (1, 2):
        words = ("--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000000", "-t", "same")
        files = [tmp_path / f"{kind}{number}" for kind in ("docker", "oci", "tar")]
        outputs = [word for file in files for word in ("-o", f"type={file.name[:-1]},dest={file}")]
        assert shell.build(text, *words, *outputs, files={"a": "A"}).code == 0
        os.utime(shell.world.context / "a")
        made.append([file.read_bytes() for file in files])
    assert made[0] == made[1]
    loaded = subprocess.run(["tar", "tf", tmp_path / "docker1"], capture_output=True, text=True, check=True).stdout
    assert "manifest.json" in loaded and "index.json" in loaded
    store = Store(f"{shell.home.data}/oci")
    assert "docker.io/library/same:latest" not in dict(store.names())


@pytest.mark.kernel("overlay")
def test_what_programs_read(shell: Shell, tmp_path: Path) -> None:
    words = ("-t", "a1", "-t", "a2:1", "--iidfile", f"{tmp_path}/id", "--metadata-file", f"{tmp_path}/meta", "-q")
    said = shell.build("FROM scratch\nLABEL a=1", *words)
    metadata = json.loads((tmp_path / "meta").read_text())
    assert said.out.strip() == (tmp_path / "id").read_text() == metadata["containerimage.config.digest"]
    assert metadata["image.name"] == "docker.io/library/a1:latest,docker.io/library/a2:1"
    assert metadata["containerimage.descriptor"]["digest"] == metadata["containerimage.digest"]


# --- platforms, the cache, the run's options


@pytest.mark.kernel("overlay")
def test_other_platforms(shell: Shell) -> None:
    text = "FROM scratch\nARG TARGETARCH\nARG BUILDARCH\nLABEL t=$TARGETARCH b=$BUILDARCH\n"
    here = Platform.here()
    said = shell.build(text, "-t", "many", "--platform", "linux/riscv64,linux/amd64,linux/arm64/v8")
    assert said.code == 0, said.err
    store = Store(f"{shell.home.data}/oci")
    descriptor = store.resolve("many")
    index = Index.from_json(parse(store.read(descriptor.digest), "index"))
    assert [str(entry.platform) for entry in index.manifests] == ["linux/riscv64", "linux/amd64", "linux/arm64"]
    config = shell.config("many", Platform("riscv64"))
    assert config["architecture"] == "riscv64"
    assert config["config"]["Labels"] == {"b": here.architecture, "t": "riscv64"}  # type: ignore[index]  # JSON
    assert "--platform=a/b/c/d: it is OS/ARCHITECTURE" in shell.build(text, "--platform", "a/b/c/d").err


@pytest.mark.kernel("overlay")
def test_stages_that_are_not_cached(shell: Shell) -> None:
    text = "FROM base AS one\nRUN echo 1 > /one\nFROM base AS two\nCOPY --from=one /one /\nRUN echo 2 > /two\n"
    shell.build(text)
    assert shell.build(text).err.count("CACHED") == 3
    assert shell.build(text, "--no-cache-filter", "Two").err.count("CACHED") == 1
    assert shell.build(text, "--no-cache").err.count("CACHED") == 0


@pytest.mark.kernel("overlay")
def test_what_each_run_has(shell: Shell) -> None:
    text = "FROM base\nRUN grep 1.2.3.4 /etc/hosts > /h; ulimit -n > /u; df -k /dev/shm | tail -n 1 > /s\n"
    out = f"{shell.world.context}/../out"
    words = ("--add-host", "friend:1.2.3.4", "--ulimit", "nofile=77", "--shm-size", "8m", "-o", out)
    said = shell.build(text.replace("df -k", "grep shm /proc/mounts; :"), *words)
    assert said.code == 0, said.err
    assert (Path(out) / "h").read_text().split() == ["1.2.3.4", "friend"]
    assert (Path(out) / "u").read_text() == "77\n"
    assert "size=8192k" in said.err


# --- checks and errors


@pytest.mark.kernel("overlay")
def test_checks(shell: Shell) -> None:
    text = "FROM base AS Named\nCMD run\n"
    said = shell.build(text, "--check")
    assert (said.code, said.err) == (1, "")
    assert [line.split(": ")[1] for line in said.out.splitlines()] == ["StageNameCasing", "JSONArgsRecommended"]
    built = shell.build(text, "-t", "warned")
    assert built.code == 0 and "Dockerfile:1: StageNameCasing: Named is not in lower case" in built.err
    failed = shell.build(f"# check=error=true\n{text}", "-t", "failed")
    assert failed.code == 1 and "   2 | >>> FROM base AS Named" in failed.err
    assert "Dockerfile:2: StageNameCasing" in failed.err.splitlines()[-1]
    assert shell.build("FROM base\nENV p=$IMAGE$PATH$BASE\n", "--check").out == (
        f"{shell.world.context}/Dockerfile:2: UndefinedVar: ENV uses IMAGE: a variable that nobody has set is empty\n"
    )
    assert shell.build("# check=skip=all\nFROM base AS Named", "--check") == Said(0, "no findings\n", "")


@pytest.mark.kernel("overlay")
def test_a_failure_shows_the_lines_the_output_and_the_exit_code(shell: Shell) -> None:
    said = shell.build("FROM base\n\nRUN echo told; \\\n    exit 7\nLABEL a=1\nLABEL b=2\nLABEL c=3", "-q")
    assert said.code == 1
    assert said.err.splitlines() == [
        "told",
        "--------------------",
        "   1 |     FROM base",
        "   2 |",
        "   3 | >>> RUN echo told; \\",
        "   4 | >>>     exit 7",
        "   5 |     LABEL a=1",
        "   6 |     LABEL b=2",
        "--------------------",
        f"minicontainer: {shell.world.context}/Dockerfile:3: RUN: the command 'echo told;     exit 7' failed with exit "
        "code 7",
    ]


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--progress", "loud"), "--progress loud: it is one of auto, tty, plain"),
        (("-o", "type=film,dest=x"), "--output type=film,dest=x: film is none of image"),
        (("-o", "type=local"), "--output type=local: needs a directory: dest=DIRECTORY"),
        (("-o", "a=b"), "--output a=b: 'a=b' is none of type=..., dest=..."),
        (("--secret", "src=x"), "--secret src=x: id=NAME,src=PATH or id=NAME,env=VARIABLE is expected"),
        (("--secret", "id=a,src=/none"), "--secret id=a,src=/none: /none: no such file"),
        (("--secret", "id=a,env=NONE_SUCH"), "--secret id=a,env=NONE_SUCH: the environment has no NONE_SUCH"),
        (("--allow", "all"), "--allow all: it is one of security.insecure, network.host"),
        (("--network", "lan"), "--network lan: it is one of bridge, default, none, host"),
        (("--build-arg", "SOURCE_DATE_EPOCH=now"), "SOURCE_DATE_EPOCH=now: it is a number of seconds since 1970"),
    ],
)
def test_a_flag_that_cannot_be_is_one_line(shell: Shell, words: tuple[str, ...], said: str) -> None:
    result = shell.build("FROM scratch\nLABEL a=1", *words)
    assert result.code in (1, 125)
    assert result.err.startswith(f"minicontainer: {said}") and result.err.count("\n") == 1
