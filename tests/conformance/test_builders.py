"""The same Dockerfiles on us, on BuildKit (dockerd's own) and on buildah (podman's): the same config, the same files.

Where they differ, BuildKit is right for us: `docs/conformance-builder.md` lists what differs and why. A few Dockerfiles
run in every test, on podman; all of them, on both, with LONG=1, since the engines take a second for each.
"""

import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from minicontainer import cli, engine
from minicontainer.image.store import Store

LONG = bool(os.environ.get("LONG"))
B = "FROM scratch AS base\nCOPY bin /bin\nCOPY etc /etc\n"
APPLETS = [
    "sh",
    "ls",
    "cat",
    "echo",
    "mkdir",
    "ln",
    "rm",
    "chmod",
    "chown",
    "touch",
    "id",
    "env",
    "pwd",
    "stat",
    "seq",
    "wc",
    "mv",
    "cp",
    "find",
    "sort",
]
BUILDKIT, BUILDAH = "BuildKit", "buildah"


class Case(NamedTuple):
    """A Dockerfile. `differs`: what differs by builder, with the reason; `quick`: it runs in every test."""

    text: str
    differs: Mapping[str, str] = {}
    quick: bool = False
    arguments: tuple[str, ...] = ()


CORPUS: dict[str, Case] = {
    "the words of the config": Case(
        f"{B}ENV a=1 b=\"x y\" c=$a\nEXPOSE 80 53/udp\nVOLUME /v /w\nUSER web\nLABEL l=1 \"m n\"=2\nSTOPSIGNAL SIGINT\n"
        'ENTRYPOINT ["/bin/sh"]\nCMD ["-c", "id"]\nHEALTHCHECK --interval=5s --retries=2 CMD id\nWORKDIR /srv/app\n',
        {BUILDAH: "the owner of a directory that WORKDIR makes: root's, not the user's"}, quick=True,
    ),
    "shell forms": Case(
        f'{B}SHELL ["/bin/sh", "-ec"]\nRUN echo $0 > /f\nCMD echo hi\nENTRYPOINT echo there\n',
        {BUILDAH: "the shell forms of CMD and ENTRYPOINT take no notice of SHELL"}, quick=True,
    ),
    "arguments": Case(
        f"ARG V=1\n{B}ARG V\nARG W=w\nENV X=${{V:-none}}$W Y=${{Z:-z}} Q=${{W:+q}}\nRUN echo $V $W $X > /f\n",
        arguments=("--build-arg", "W=given"),
    ),
    "arguments of the platform": Case(
        f"{B}ARG TARGETOS\nARG TARGETARCH\nARG TARGETPLATFORM\nARG BUILDARCH\n"
        "RUN echo $TARGETOS $TARGETARCH $TARGETPLATFORM $BUILDARCH > /f\n"
    ),
    "copies": Case(
        f"{B}COPY a.txt /x/\nCOPY a.txt b.txt /y/\nCOPY d /z\nCOPY d/ /w/\nCOPY *.txt /v/\nCOPY --chown=3:4 d /u\n"
        "COPY --chown=web a.txt /t/\nCOPY d/deep/../one /s\n", quick=True,
    ),
    "copies with modes": Case(f"{B}COPY --chmod=711 d /x\nCOPY --chmod=640 a.txt /y\n"),
    "copies over what is there": Case(f"{B}COPY d /x\nCOPY a.txt /x/one\nCOPY d/deep /x/\nCOPY b.txt /x/b.txt\n"),
    "copies through links": Case(
        f"{B}RUN mkdir /real && ln -s /real /link && ln -s real /rel\nCOPY a.txt /link/\nCOPY b.txt /rel/new\n"
        "COPY d /link\n"
    ),
    "links of the context": Case(f"{B}COPY link /x\nCOPY links /y\n"),
    "names with spaces": Case(f'{B}COPY ["sp ace", "/to here/"]\n'),
    "archives": Case(f"{B}ADD packed.tgz /x/\nCOPY packed.tgz /y/\nADD a.txt /z/\n", quick=True),
    "archives with owners and links": Case(f"{B}ADD owned.tar /x\n"),
    "the ignored": Case(f"{B}COPY . /all/\nCOPY kept /k/\n"),
    "stages": Case(
        f"{B}FROM base AS one\nRUN mkdir /o && echo 1 > /o/f && chmod 4750 /o/f && chown 5:6 /o/f\n"
        "FROM one AS unused\nRUN false\nFROM scratch\nCOPY --from=one /o /p\nCOPY --from=1 /o/f /q\n"
        "COPY --from=base /etc /etc\n"
        "COPY --from=one --chown=7:8 /o /r\n",
        quick=True,
    ),
    "a stage on a stage": Case(f"{B}ENV A=1\nFROM base AS x\nENV B=$A\nFROM x\nRUN echo $A$B > /f\nCMD [\"x\"]\n"),
    "a RUN's changes": Case(
        f"{B}COPY d /d\nRUN rm /d/one && rm -r /d/deep && mkdir -p /n/m && ln -s /n /l && touch '/n/sp ace'\n"
        "RUN mv /n/m /n/k && chmod 1777 /n && chown 9:10 /n\n", quick=True,
    ),
    "a RUN in exec form": Case(f'{B}RUN ["/bin/touch", "/$HOME", "/a b"]\n'),
    "a RUN's user and directory": Case(
        f"{B}RUN chmod 777 /\nWORKDIR /w\nRUN chmod 777 /w\nUSER 3:4\nRUN pwd > f; id -u > g\n"
    ),
    "a directory made again": Case(f"{B}COPY d /d\nRUN rm -r /d && mkdir /d && touch /d/new\n"),
    "writes to a volume": Case(
        f"{B}RUN mkdir /v && echo 1 > /v/a\nVOLUME /v\nRUN echo 2 > /v/b\n",
        {BUILDAH: "what a RUN writes to a volume is lost: BuildKit keeps it"},
    ),
    "entrypoints": Case(f'{B}CMD ["old"]\nFROM base\nENTRYPOINT ["new"]\n'),
    "an entrypoint and its command": Case(
        f'{B}FROM base AS b\nENTRYPOINT ["e"]\nCMD ["c"]\nFROM b\nENTRYPOINT ["n"]\n'
    ),
    "triggers": Case(
        f"{B}ONBUILD COPY a.txt /t\nONBUILD RUN cat /t > /u\nONBUILD ENV T=1\nFROM base\nRUN cat /u > /w\n"
    ),
    "healthchecks": Case(
        f"{B}HEALTHCHECK --interval=1m30s --timeout=3s --start-period=1h CMD [\"/bin/true\", \"x\"]\n"
    ),
    "no healthcheck": Case(f"{B}HEALTHCHECK CMD x\nFROM base\nHEALTHCHECK NONE\n"),
    "labels": Case(f"{B}LABEL a=\"b c\" d='e' \\\n  f=g\nLABEL a=2\n"),
    "quotes": Case(f"{B}ENV a=\"\\\"x\\\"\" b='$a' c=\\$a d=x\\ y e= f=\"\"\nENV old style $a\n"),
    "ports": Case(f"{B}ARG P=9\nEXPOSE 80/TCP 443 $P/udp\nEXPOSE 80\n", {
        BUILDAH: "a protocol in upper case stays so"}),
    "working directories": Case(f"{B}WORKDIR a\nWORKDIR b/\nENV D=/x\nWORKDIR $D/y\nRUN pwd > p\n", {
        BUILDAH: "a directory that WORKDIR names and no RUN sees is not made"}),
    "continuations and comments": Case(
        "# comment\n\n" + B + "RUN echo one > /f && \\\n  # inside\n  echo two >> /f\nENV a=1 \\\n    b=2\n", quick=True
    ),
    "another escape": Case(
        "# escape=`\n" + B + "ENV a=1 `\n    b=`$a c=\\x\nRUN echo a > /f && `\n  echo b >> /f\n",
        {BUILDAH: "the escape counts for lines, and a backslash for words"},
    ),
    "letters of any case": Case("from scratch as base\ncopy bin /bin\nCopy etc /etc\nRun echo 1 > /f\n"),
    "an author": Case(f"{B}MAINTAINER me <me@example.com>\n"),
    "mounts of a RUN": Case(
        f"{B}FROM base AS made\nRUN echo m > /m\nFROM base\n"
        "RUN --mount=type=bind,target=/ctx cat /ctx/a.txt > /a\n"
        "RUN --mount=type=bind,from=made,source=/m,target=/m cat /m > /b\n"
        "RUN --mount=type=cache,target=/c echo 1 > /c/x && ls /c > /l\nRUN --mount=type=tmpfs,target=/t echo > /t/x\n",
        {BUILDKIT: "that of docker 20.10 leaves the places that were mounted on; newer ones take them away, as we do"},
    ),
    "of ENV and ARG the later one": Case(
        f"{B}ENV a=1 b=1\nARG a=2\nARG b\nARG c=3\nARG c\nRUN echo $a $b $c > /f\nLABEL a=$a\n"
        "ENV a=4\nRUN echo $a > /g\n",
        {BUILDAH: "ENV wins over ARG, whichever comes later"},
    ),
    "a default of an argument of the platform": Case(f"{B}ARG TARGETOS=mine\nRUN echo $TARGETOS > /f\n"),
    "users": Case(f"{B}USER 3\nUSER web:root\nUSER $none\nRUN id -u > /f\nUSER 33:44\n"),
    "commands without words": Case(f"{B}CMD\nENTRYPOINT\n", {BUILDAH: "they are as if they were not there"}),
    "commands that are almost JSON": Case(
        f"{B}CMD [ 'a' ]\nENTRYPOINT [\"a\" \"b\"]\nRUN ['/bin/no'] || echo 1 > /f\n"
    ),
    "an empty entrypoint": Case(f'{B}ENTRYPOINT ["a"]\nCMD ["b"]\nFROM base\nENTRYPOINT []\n'),
    "a shell that is inherited": Case(
        f'{B}SHELL ["/bin/sh", "-ec"]\nFROM base\nRUN echo $0 > /f\nCMD y\nHEALTHCHECK CMD z\n',
        {BUILDAH: "the shell form of CMD takes no notice of SHELL"},
    ),
    "triggers of every kind": Case(
        f'{B}ONBUILD ARG x=1\nONBUILD RUN echo $x \\\n  y > /f\nONBUILD USER web\nONBUILD WORKDIR /w\n'
        'ONBUILD LABEL a="x y"\nONBUILD EXPOSE 80\nONBUILD VOLUME /v\nONBUILD CMD ["q"]\nFROM base AS s\nFROM s\n',
        {BUILDAH: "a directory that WORKDIR names and no RUN sees is not made"},
    ),
    "working directories of links": Case(
        f"{B}RUN mkdir /real && ln -s /real /l && mkdir -m 700 /x && chown 5:5 /x\nWORKDIR /l/sub\nCOPY a.txt .\n"
        "WORKDIR /x\nWORKDIR y\nWORKDIR ../z/.\nRUN pwd > p\n",
        {BUILDAH: "a directory that WORKDIR names and no RUN sees is not made"},
    ),
    "patterns of a copy": Case(f"{B}COPY d* k* /x/\nCOPY ?.txt /y/\nCOPY [^a].txt /z/\nCOPY none* a.txt /w/\n"),
    "copies of directories": Case(
        f"{B}COPY d/. /a\nCOPY d/* /b/\nCOPY d links /c/\nCOPY links /a\nCOPY ./d/../a.txt /e\n"
    ),
    "copies with owners": Case(
        f"{B}RUN mkdir /e\nCOPY --chown=web:root a.txt /x\nCOPY --chown=55 d /y\nCOPY --chown=3:4 a.txt /n/m/f\n"
        "COPY --chown=3:4 d /e\n"
    ),
    "copies of a stage's links": Case(
        f"{B}FROM base AS o\nRUN mkdir -p /o/p && echo 1 > /o/a && ln -s a /o/l && ln -s /o /lo && ln /o/a /o/h && "
        "chown -R 3:4 /o && chmod 700 /o\n"
        "FROM base\nCOPY --from=o /o/l /r1\nCOPY --from=o /lo /r2\nCOPY --from=o /o /r3\nCOPY --from=o /o/p /y/\n"
    ),
    "copies onto links": Case(
        f"{B}RUN mkdir /t && ln -s /t /l && ln -s /none /m && echo 1 > /f && ln -s /f /k\nCOPY a.txt /l\n"
        "COPY a.txt /m/\nCOPY b.txt /k\n",
        {BUILDAH: "a link to a file is replaced: BuildKit writes to the file"},
    ),
    "an archive over what is there": Case(
        f"{B}RUN mkdir -p /x/inside && echo old > /x/inside/one\nADD packed.tgz /x\nADD --chown=3:4 owned.tar /y\n"
        "ADD *.tgz *.txt /z/\n"
    ),
    "what becomes of a name": Case(
        f"{B}COPY d /d\nCOPY a.txt /x\nRUN rm -rf /d /x && mkdir -p /x/y && ln -s /etc /d\nRUN rm /d\nCOPY a.txt /d\n"
    ),
    "labels of every shape": Case(
        f"{B}ARG a=1\nLABEL \"multi\"=\"x \\\ny\" b='x\\ny' g.h-i/j=k $a=l\nLABEL g some text\n"
        "LABEL j='{\"x\": [1]}'\n"
    ),
    "a web application": Case(
        f"{B}FROM base AS build\nWORKDIR /src\nCOPY d ./\nRUN mkdir /out && cp -r /src /out/app && chmod -R go-w /out\n"
        "FROM base\nENV PORT=8080 NODE_ENV=production\nWORKDIR /app\nCOPY --from=build --chown=web:web /out/app ./\n"
        'USER web\nEXPOSE $PORT\nHEALTHCHECK CMD wget -q localhost:$PORT\n'
        'ENTRYPOINT ["/bin/sh", "-c"]\nCMD ["httpd -f"]\n',
        {BUILDAH: "the owner of a directory that was there becomes that of --chown"}, quick=True,
    ),
}  # fmt: skip


class Made(NamedTuple):
    """What is compared of an image."""

    config: Mapping[str, Any]
    files: Mapping[str, str]


# --- what is built from ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("corpus") / "context"
    for name in ("bin", "etc", "d/deep", "links", "kept", "left"):
        (directory / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "bin" / "busybox")
    for applet in (*APPLETS, "true", "false"):
        (directory / "bin" / applet).symlink_to("busybox")
    files = {
        "etc/passwd": "root:x:0:0::/:/bin/sh\nweb:x:33:44::/:/bin/sh\n", "etc/group": "root:x:0:\nweb:x:44:\n",
        "a.txt": "A", "b.txt": "B", "d/one": "1", "d/deep/two": "2", "sp ace": "S", "kept/k": "K", "left/out": "L",
        "left/in": "I", ".dockerignore": "left/*\n!left/in\n**/*.log\npacked.tgz.log\nowned.tar.log\nDockerfile*\n",
        "x.log": "", "kept/y.log": "",
    }  # fmt: skip
    for name, content in files.items():
        (directory / name).write_text(content)
        (directory / name).chmod(0o640 if name == "d/one" else 0o644)
    (directory / "link").symlink_to("a.txt")
    (directory / "links" / "up").symlink_to("../a.txt")
    (directory / "links" / "broken").symlink_to("nowhere")
    with tarfile.open(directory / "packed.tgz", "w:gz") as archive:
        archive.add(directory / "d", "inside")
    with tarfile.open(directory / "owned.tar", "w") as archive:
        kinds = {"o": (tarfile.DIRTYPE, ""), "o/f": (tarfile.REGTYPE, ""), "o/h": (tarfile.LNKTYPE, "o/f"),
                 "o/l": (tarfile.SYMTYPE, "f")}  # fmt: skip
        for name, (kind, target) in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.uid, member.gid, member.mode = kind, target, 11, 12, 0o750
            archive.addfile(member)
    return directory


# --- the builders ----------------------------------------------------------------------------------------------------


def call(*words: str | Path, **environment: str) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=240, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-500:]} {done.stderr[-1500:]}"
    return done.stdout


def normal(config: Mapping[str, Any]) -> dict[str, Any]:
    """What says something: an empty field is as none, and a builder's mark of itself is no label."""
    fields = ("Env", "Entrypoint", "Cmd", "WorkingDir", "User", "ExposedPorts", "Volumes", "StopSignal", "Healthcheck",
              "Shell", "OnBuild")  # fmt: skip
    labels = {name: value for name, value in (config.get("Labels") or {}).items() if not name.startswith("io.buildah")}
    found = {name: config[name] for name in fields if config.get(name)}
    if found.get("WorkingDir") == "/":
        del found["WorkingDir"]
    return found | ({"Labels": labels} if labels else {})


def listed(archive: Path) -> dict[str, str]:
    """Kind, mode, owner and content of each file; not what an engine makes for a container."""
    made = {"dev", "proc", "sys", "run", ".dockerenv", "dev/console", "dev/pts", "dev/shm", "etc/hosts", "etc/hostname",
            "etc/resolv.conf", "etc/mtab", "run/.containerenv", "run/secrets"}  # fmt: skip
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("./").rstrip("/")
            if name in ("", ".") or name in made or name.startswith("bin/"):
                continue
            content = None if member.issym() else tar.extractfile(member)
            text = content.read().decode(errors="replace") if content else member.linkname
            kind = "d" if member.isdir() else "l" if member.issym() else "f"
            mode = "" if member.issym() else f"{member.mode & 0o7777:o}"
            found[name] = f"{kind} {mode} {member.uid}:{member.gid} {'' if kind == 'd' else text}"
    return found


def ours(context: Path, case: Case, tmp_path: Path, root: Path) -> Made:
    out = tmp_path / "ours.tar"
    words = [
        "--root",
        str(root),
        "build",
        "-q",
        "--network",
        "none",
        "-f",
        str(tmp_path / "Dockerfile"),
        *case.arguments,
    ]
    assert cli.main([*words, "-t", "case", "-o", "type=image", "-o", f"type=tar,dest={out}", str(context)]) == 0
    store = Store(f"{engine.home(str(root)).data}/oci")
    manifest = store.manifest(store.resolve("case"))
    return Made(normal(json.loads(store.read(manifest.config.digest))["config"]), listed(out))


def podman(context: Path, case: Case, tmp_path: Path, root: Path) -> Made:
    tool = ["podman", f"--root={root}/s", f"--runroot={root}/r", "--storage-driver=vfs", "--cgroup-manager=cgroupfs"]
    call(*tool, "build", "--isolation=chroot", "--format=docker", "--tag=case", f"--file={tmp_path}/Dockerfile",
         *case.arguments, str(context))  # fmt: skip
    return _exported(tool, tmp_path / "theirs.tar")


def buildkit(context: Path, case: Case, tmp_path: Path, root: Path) -> Made:
    tool = ["/usr/bin/docker", f"--host=unix://{root}/sock"]
    call(*tool, "build", "--network=host", "--tag=case", f"--file={tmp_path}/Dockerfile", *case.arguments, str(context),
         DOCKER_BUILDKIT="1")  # fmt: skip
    return _exported(tool, tmp_path / "theirs.tar")


def _exported(tool: list[str], out: Path) -> Made:
    config = json.loads(call(*tool, "image", "inspect", "case", "--format", "{{json .Config}}"))
    made = call(*tool, "create", "--network=none", "case", "/bin/true").split()[-1]
    call(*tool, "export", f"--output={out}", made)
    call(*tool, "rm", made)
    return Made(normal(config), listed(out))


@contextmanager
def dockerd(root: Path) -> Iterator[Path]:
    """A daemon of our own, in a mount namespace that goes with it."""
    words = ["unshare", "--mount", "setpriv", "--pdeathsig=KILL", "dockerd", f"--data-root={root}/data",
             f"--pidfile={root}/pid",
             f"--exec-root={root}/exec", f"--host=unix://{root}/sock", "--iptables=false", "--ip6tables=false",
             "--bridge=none", "--storage-driver=vfs"]  # fmt: skip
    with (root / "log").open("w") as log, subprocess.Popen(words, stdout=log, stderr=log) as daemon:
        try:
            deadline = time.monotonic() + 60
            while not (root / "sock").exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            call("/usr/bin/docker", f"--host=unix://{root}/sock", "version")
            yield root
        finally:
            daemon.terminate()


# --- the comparison --------------------------------------------------------------------------------------------------


def compare(name: str, builder: str, mine: Made, theirs: Made) -> None:
    differs = CORPUS[name].differs.get(builder)
    if builder == BUILDAH:  # podman 4.3 shows no health check of an image
        mine = mine._replace(config={key: value for key, value in mine.config.items() if key != "Healthcheck"})
    if differs:
        assert mine != theirs, f"{name}: they do not differ any more: {differs}"
    else:
        assert mine.config == theirs.config
        assert mine.files == theirs.files


def prepare(name: str, tmp_path: Path) -> Case:
    (tmp_path / "Dockerfile").write_text(CORPUS[name].text)
    return CORPUS[name]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ours")


@pytest.fixture(scope="module")
def podman_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("podman")


@pytest.mark.kernel("overlay")
@pytest.mark.engine("podman")
@pytest.mark.parametrize("name", [name for name, case in CORPUS.items() if case.quick or LONG])
def test_buildah_builds_the_same(name: str, context: Path, tmp_path: Path, root: Path, podman_root: Path) -> None:
    case = prepare(name, tmp_path)
    compare(name, BUILDAH, ours(context, case, tmp_path, root), podman(context, case, tmp_path, podman_root))


if LONG:

    @pytest.fixture(scope="module")
    def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        with dockerd(tmp_path_factory.mktemp("d")) as where:
            yield where

    @pytest.mark.kernel("overlay")
    @pytest.mark.engine("dockerd")
    @pytest.mark.parametrize("name", CORPUS)
    def test_buildkit_builds_the_same(name: str, context: Path, tmp_path: Path, root: Path, daemon: Path) -> None:
        case = prepare(name, tmp_path)
        compare(name, BUILDKIT, ours(context, case, tmp_path, root), buildkit(context, case, tmp_path, daemon))
