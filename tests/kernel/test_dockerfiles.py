"""Whole Dockerfiles, each with what BuildKit makes of it: the image's config, and its files with modes and owners.

Ruled by the Dockerfile reference. A table of files that build, one of files that do not (with the one line that says
so), and what makes a step of the cache a hit or a miss.
"""

import io
import json
import os
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard

from minicontainer.build import builder
from minicontainer.build.builder import BuildError, Request
from minicontainer.build.progress import Progress
from minicontainer.build.stages import PATH
from minicontainer.containers import Home, home
from minicontainer.image import snapshots
from minicontainer.image.store import Store
from minicontainer.oci.image import ContainerConfig, Platform
from tests import images

MINUTE = 60 * 10**9


class Link(NamedTuple):
    """A symbolic link of the context."""

    target: str


class Mode(NamedTuple):
    """A file of the context with a mode of its own."""

    mode: int
    content: str = ""


Content = str | bytes | Mode | Link | None  # None: an empty directory
Files = Mapping[str, Content]
NONE: Files = {}


def archive(name: str, **members: str) -> bytes:
    """A tar of files whose owner is 5:6; the name says how it is compressed."""
    whole = io.BytesIO()
    mode: Any = "w:" + name.rpartition(".")[2].removeprefix("tar").removeprefix("t")
    with tarfile.open(fileobj=whole, mode=mode) as made:
        for path, content in members.items():
            member = tarfile.TarInfo(path.replace("__", "/"))
            member.size, member.mode, member.uid, member.gid = len(content), 0o640, 5, 6
            made.addfile(member, io.BytesIO(content.encode()))
    return whole.getvalue()


class Case(NamedTuple):
    """A Dockerfile. `tree` is all that is in the image above its base, `config` what is looked at of its config."""

    text: str
    tree: Mapping[str, str] | None = None  # path: "d 755", "f 644 3:4 content", "l target", "-": gone
    config: Mapping[str, Any] = {}  # None: not there
    files: Files = {}
    asked: Mapping[str, Any] = {}


class Built(NamedTuple):
    """An image: the digest of its manifest, its config as JSON, its files above the base; cached and all steps."""

    digest: str
    config: dict[str, Any]
    tree: dict[str, str]
    cached: int
    steps: int
    told: str


class World(NamedTuple):
    """A data directory with the images that the files begin with, and a build context."""

    home: Home
    context: Path

    def put(self, files: Files) -> None:
        for name, content in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            match content:
                case None:
                    path.mkdir()
                case Link(target):
                    path.symlink_to(target)
                case Mode(mode, text):
                    path.write_text(text)
                    path.chmod(mode)
                case str():
                    path.write_bytes(content.encode())
                    path.chmod(0o644)
                case _:
                    path.write_bytes(content)
                    path.chmod(0o644)
        for parent, _, _ in os.walk(self.context):
            os.chmod(parent, 0o755)

    def build(self, text: str, files: Files = NONE, **asked: Any) -> Built:
        self.put({"Dockerfile": text, **files})
        stream = io.StringIO()
        teller = Progress(stream)
        descriptor = builder.build(self.home, Request(context=str(self.context), network="none", **asked), teller)
        store = Store(f"{self.home.data}/oci")
        manifest = store.manifest(descriptor)
        config = store.config(manifest)
        document = json.loads(store.read(manifest.config.digest))
        base = store.config(store.manifest(store.resolve("base"))).diff_ids
        tree: dict[str, str] = {}
        for diff_id in config.diff_ids:
            if diff_id not in base:
                tree |= listed(snapshots.diff_directory(self.home.data, diff_id))
        found = document.get("config") or {}
        return Built(descriptor.digest, found, tree, teller.cached, teller.count, stream.getvalue())

    def refused(self, text: str, files: Files = NONE, **asked: Any) -> str:
        """The one line of a build that fails, the Dockerfile's path without its directory."""
        store = Store(f"{self.home.data}/oci")
        before = store.names()
        with pytest.raises(BuildError) as refused:
            self.build(text, files, **asked)
        assert (refused.value.exit_code, store.names()) == (1, before)
        said = str(refused.value)
        assert "\n" not in said
        return said.replace(f"{self.context}/", "").replace(str(self.context), "CONTEXT")


def listed(directory: str) -> dict[str, str]:
    """Every path below: kind, mode, owner unless it is root, and what is in it."""
    found = {}
    for parent, directories, names in os.walk(directory):
        for name in directories + names:
            path = os.path.join(parent, name)
            found[os.path.relpath(path, directory)] = told(path)
    return found


def told(path: str) -> str:
    status = os.lstat(path)
    mode = f"{stat.S_IMODE(status.st_mode):o}"
    owner = f" {status.st_uid}:{status.st_gid}" if (status.st_uid, status.st_gid) != (0, 0) else ""
    if stat.S_ISLNK(status.st_mode):
        return f"l {os.readlink(path)}{owner}"
    if stat.S_ISDIR(status.st_mode):
        return f"d {mode}{owner}"
    if stat.S_ISREG(status.st_mode):
        return f"f {mode}{owner} {Path(path).read_text()}"
    return "-"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """busybox as `base`, and `full`: an image that says something in every field of its config."""
    place = home(str(tmp_path_factory.mktemp("data")))
    layer = images.layer(images.busybox_files())
    images.put(place, "docker.io/library/base:latest", ContainerConfig(env=(PATH, "BASE=1")), layer)
    full = ContainerConfig(
        env=(PATH, "BASE=1"),
        entrypoint=("/entry",),
        cmd=("old",),
        working_dir="/srv",
        user="web",
        labels={"a": "base", "b": "base"},
        exposed_ports=("80/tcp",),
        volumes=("/data",),
        stop_signal="SIGUSR1",
    )
    images.put(place, "docker.io/library/full:latest", full, layer)
    return place


@pytest.fixture
def world(place: Home, tmp_path: Path) -> World:
    (tmp_path / "context").mkdir()
    return World(place, tmp_path / "context")


# --- what is built

SOME: Files = {
    "a.txt": "A", "b.txt": "B", "c.md": "C", "tool": Mode(0o750, "T"), "link": Link("a.txt"),
    "d/one": "1", "d/deep/two": "2", "d/to": Link("../a.txt"), "empty": None, "sp ace": "S",
}  # fmt: skip

COPIES: dict[str, Case] = {
    "a file becomes the destination": Case("FROM scratch\nCOPY a.txt /x", {"x": "f 644 A"}, files=SOME),
    "a file goes into a directory": Case(
        "FROM scratch\nCOPY a.txt /x/y/", {"x": "d 755", "x/y": "d 755", "x/y/a.txt": "f 644 A"}, files=SOME
    ),
    "the destination is seen from the working directory": Case(
        "FROM scratch\nWORKDIR /w\nCOPY a.txt .\nCOPY b.txt sub/\nCOPY c.md ../up",
        {"w": "d 755", "w/a.txt": "f 644 A", "w/sub": "d 755", "w/sub/b.txt": "f 644 B", "up": "f 644 C"}, files=SOME,
    ),
    "a directory gives its content": Case(
        "FROM scratch\nCOPY d /x",
        {"x": "d 755", "x/one": "f 644 1", "x/deep": "d 755", "x/deep/two": "f 644 2", "x/to": "l ../a.txt"},
        files=SOME,
    ),
    "an empty directory": Case("FROM scratch\nCOPY empty /x/", {"x": "d 755"}, files=SOME),
    "several sources, one a directory": Case(
        "FROM scratch\nCOPY a.txt d/deep tool /x/",
        {"x": "d 755", "x/a.txt": "f 644 A", "x/two": "f 644 2", "x/tool": "f 750 T"}, files=SOME,
    ),
    "a link that is named is followed, one that is met stays": Case(
        "FROM scratch\nCOPY link d/to /x/", {"x": "d 755", "x/link": "f 644 A", "x/to": "f 644 A"}, files=SOME
    ),
    "star": Case(
        "FROM scratch\nCOPY *.txt /x/", {"x": "d 755", "x/a.txt": "f 644 A", "x/b.txt": "f 644 B"}, files=SOME
    ),
    "question mark and class": Case(
        "FROM scratch\nCOPY ?.md [a-a].txt /x/", {"x": "d 755", "x/c.md": "f 644 C", "x/a.txt": "f 644 A"}, files=SOME
    ),
    "star in the middle": Case("FROM scratch\nCOPY d/*/two /x", {"x": "f 644 2"}, files=SOME),
    "one match needs no directory": Case("FROM scratch\nCOPY a*.txt /x", {"x": "f 644 A"}, files=SOME),
    "what begins with the context's root": Case("FROM scratch\nCOPY /a.txt ./b.txt ../c.md /\n",
        {"a.txt": "f 644 A", "b.txt": "f 644 B", "c.md": "f 644 C"}, files=SOME),
    "names with spaces": Case('FROM scratch\nCOPY ["sp ace", "/y z"]', {"y z": "f 644 S"}, files=SOME),
    "a wildcard that is escaped": Case("FROM scratch\nCOPY a[[]1].txt /x", {"x": "f 644 !"}, files={"a[1].txt": "!"}),
    "variables in every word": Case(
        "FROM scratch\nARG s=a e=txt\nENV to=/x\nCOPY $s.$e ${to}/${s}_$e", {"x": "d 755", "x/a_txt": "f 644 A"},
        files=SOME,
    ),
    "flags that are empty": Case("FROM scratch\nCOPY --chown= --chmod= --from= a.txt /x", {"x": "f 644 A"}, files=SOME),
    "chown by number": Case(
        "FROM scratch\nCOPY --chown=7:8 a.txt d/deep /x/\nCOPY --chown=9 b.txt /b",
        {"x": "d 755 7:8", "x/a.txt": "f 644 7:8 A", "x/two": "f 644 7:8 2", "b": "f 644 9:9 B"}, files=SOME,
    ),
    "chown by the image's names": Case(
        "FROM base\nARG who=web\nCOPY --chown=$who a.txt /x\nCOPY --chown=web:logs b.txt /y\n"
        "COPY --chown=1:logs c.md /z",
        {"x": "f 644 1000:1000 A", "y": "f 644 1000:1001 B", "z": "f 644 1:1001 C"}, files=SOME,
    ),
    "chmod": Case(
        "FROM scratch\nARG m=4711\nCOPY --chmod=600 a.txt tool /x/\nCOPY --chmod=$m b.txt /b\nCOPY --chmod=0750 d/ /d/",
        {"x": "d 755", "x/a.txt": "f 600 A", "x/tool": "f 600 T", "b": "f 4711 B", "d": "d 755", "d/one": "f 750 1",
         "d/deep": "d 750", "d/deep/two": "f 750 2", "d/to": "l ../a.txt"}, files=SOME,
    ),
    "a directory that is made is 755, whatever the source and --chmod are": Case(
        "FROM scratch\nCOPY closed /x\nCOPY --chmod=711 --chown=1 closed /y",
        {"x": "d 755", "x/in": "d 755", "x/in/f": "f 644 1", "y": "d 755 1:1", "y/in": "d 711 1:1",
         "y/in/f": "f 711 1:1 1"},
        files={"closed/in/f": "1"},
    ),
    "USER does not own what is copied": Case("FROM scratch\nUSER 5\nCOPY a.txt /x", {"x": "f 644 A"}, files=SOME),
    "a file replaces one, a directory joins one": Case(
        "FROM scratch\nCOPY d /x/\nCOPY a.txt /x/one\nCOPY d/deep /x/",
        {"x": "d 755", "x/one": "f 644 A", "x/two": "f 644 2", "x/deep": "d 755", "x/deep/two": "f 644 2",
         "x/to": "l ../a.txt"}, files=SOME,
    ),
    "here-documents": Case(
        "FROM scratch\nENV w=x\nCOPY <<a <<'b' <<-c a.txt /\n$w \\$w\n# no comment \\\na\n$w\nb\n\t\ttab\n\tc\n",
        {"a": "f 644 x $w\n# no comment \\\n", "b": "f 644 $w\n", "c": "f 644 tab\n", "a.txt": "f 644 A"}, files=SOME,
    ),
    "a here-document with owner, mode and name": Case(
        "FROM scratch\nCOPY --chown=1:2 --chmod=755 <<EOF /bin/run\n#!/bin/sh\nEOF\nADD <<EOF /add\nx\nEOF\n",
        {"bin": "d 755 1:2", "bin/run": "f 755 1:2 #!/bin/sh\n", "add": "f 644 x\n"},
    ),
    "an archive is unpacked by ADD, with its owners": Case(
        "FROM scratch\nADD a.tar b.tgz c.tar.bz2 named /x/\nCOPY --chown=1 a.txt /x/in",
        {"x": "d 755", "x/in": "f 644 1:1 A", "x/f": "f 640 5:6 tar", "x/g": "f 640 5:6 tgz", "x/h": "f 640 5:6 bz2",
         "x/i": "f 640 5:6 by its content"},
        files={**SOME, "a.tar": archive("a.tar", f="tar"), "b.tgz": archive("b.tgz", g="tgz"),
                      "c.tar.bz2": archive("c.tar.bz2", h="bz2"), "named": archive("n.txz", i="by its content")},
    ),
    "an archive of zstd is unpacked, too": Case(
        "FROM scratch\nADD a.tar.zst /x/", {"x": "d 755", "x/d": "d 755", "x/d/f": "f 640 5:6 zstd"},
        files={"a.tar.zst": zstandard.compress(archive("a.tar", d__f="zstd"))},
    ),
    "what only looks like an archive is added as it is": Case(
        "FROM scratch\nADD a.tar a.txt /x/", {"x": "d 755", "x/a.tar": "f 644 no", "x/a.txt": "f 644 A"},
        files={**SOME, "a.tar": "no"},
    ),
    "an archive replaces what is there": Case(
        "FROM scratch\nCOPY a.txt /x/f\nADD a.tar /x", {"x": "d 755", "x/f": "f 640 5:6 new"},
        files={**SOME, "a.tar": archive("a.tar", f="new")},
    ),
}  # fmt: skip

TREE: Files = {
    "Dockerfile.txt": "", "a.log": "", "keep.log": "", "src/a.py": "", "src/a.pyc": "", "src/sub/b.pyc": "",
    "docs/x.md": "", "docs/y.txt": "", "docs/in/z.md": "", "node/m/x": "", "node/keep/x": "", "tmp1": "", "tmp22": "",
}  # fmt: skip
IGNORES: dict[str, tuple[str, str]] = {  # .dockerignore: the files that COPY . takes
    "nothing": ("# all\n\n", " ".join(sorted(TREE))),
    "a directory": ("docs\n/node/\n./src\n", "Dockerfile.txt a.log keep.log tmp1 tmp22"),
    "a name only at the top": (
        "*.pyc\n*.log\nnode\ndocs", "Dockerfile.txt src/a.py src/a.pyc src/sub/b.pyc tmp1 tmp22"
    ),
    "a name at any depth": ("**/*.pyc\n*\n!src", "src/a.py src/a.pyc src/sub/b.pyc"),
    "the last one wins": ("*\n!src\n**/*.pyc", "src/a.py"),
    "all but one": ("*\n!docs/in/z.md", "docs/in/z.md"),
    "all but some": ("**\n!**/*.md\n!keep.*", "docs/in/z.md docs/x.md keep.log"),
    "an exception and its exception": ("docs\n!docs/*\ndocs/y.txt\nnode\nsrc\n*.*\ntmp*", "docs/in/z.md docs/x.md"),
    "a question mark": ("*\n!tmp?", "tmp1"),
    "white space and an empty line": ("  docs  \n\n \t\nnode\nsrc\n*.log\n*.txt", "tmp1 tmp22"),
    "two levels": ("*/*/*\n*.*\ntmp*", "docs/x.md docs/y.txt src/a.py src/a.pyc"),
}  # fmt: skip

FROM = "FROM scratch\n"
CONFIGS: dict[str, Case] = {
    "what is inherited": Case(
        "FROM full",
        {},
        {
            "Env": [PATH, "BASE=1"], "Entrypoint": ["/entry"], "Cmd": ["old"], "WorkingDir": "/srv", "User": "web",
            "Labels": {"a": "base", "b": "base"}, "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}},
            "StopSignal": "SIGUSR1",
        },
    ),
    "scratch": Case(f"{FROM}LABEL a=1", {}, {"Env": [PATH], "Cmd": None, "Entrypoint": None, "User": None}),
    "scratch has a working directory": Case(f"{FROM}LABEL a=1", {}, {"WorkingDir": "/"}),
    "a user and a working directory that are empty": Case(
        f"{FROM}USER 3\nUSER $none\nWORKDIR /w\nWORKDIR $none", {"w": "d 755"}, {"User": None, "WorkingDir": "/w"}
    ),
    "a chain of working directories": Case(
        f"{FROM}WORKDIR a\nWORKDIR b/c\nWORKDIR ../d\nWORKDIR ./e/.",
        {"a": "d 755", "a/b": "d 755", "a/b/c": "d 755", "a/b/d": "d 755", "a/b/d/e": "d 755"},
        {"WorkingDir": "/a/b/d/e"},
    ),
    "a working directory of variables": Case(
        f"{FROM}ENV r=/opt\nARG v=1\nWORKDIR $r/app-${{v}}", {"opt": "d 755", "opt/app-1": "d 755"},
        {"WorkingDir": "/opt/app-1"},
    ),
    "a working directory is its user's": Case(
        "FROM base\nUSER web\nWORKDIR /home/web/x\nUSER 3:4\nWORKDIR /y",
        {"home": "d 755", "home/web": "d 755", "home/web/x": "d 755 1000:1000", "y": "d 755 3:4"}, {"User": "3:4"},
    ),
    "the working directory of the base goes on": Case(
        "FROM full\nUSER 0\nWORKDIR sub", {"srv": "d 755", "srv/sub": "d 755"}, {"WorkingDir": "/srv/sub"}
    ),
    "an instruction sees what was before it": Case(
        f"{FROM}ENV a=hello\nENV a=bye b=$a\nENV c=$a", {}, {"Env": [PATH, "a=bye", "b=hello", "c=bye"]}
    ),
    "quotes and spaces of ENV": Case(
        f"{FROM}ENV a=x\\ y b=\"$c d\" c='$a' d=\\$a e=\"\\\"q\\\"\" f= g=$a$a\nENV old  style with $a \"q\"",
        {},
        {"Env": [PATH, "a=x y", "b= d", "c=$a", "d=$a", 'e="q"', "f=", "g=", "old=style with x y q"]},
    ),
    "the forms of an expansion": Case(
        f"{FROM}ARG set=v empty=\n"
        "ENV a=${set:-d} b=${empty:-d} c=${empty-d} d=${unset-d} e=${set:+p} f=${empty:+p} g=${empty+p} h=${unset+p} "
        "i=${unset:-${set}x} j=${set:?no} k=${unset:-} l=pre${set}post m=$set-x n=$unset",
        {},
        {"Env": [PATH, "a=v", "b=d", "c=", "d=d", "e=p", "f=", "g=p", "h=", "i=vx", "j=v", "k=", "l=prevpost", "m=v-x",
                 "n="]},
    ),
    "the patterns of an expansion": Case(
        f"{FROM}ARG p=/usr/lib/a.tar.gz\n"
        "ENV a=${p#*/} b=${p##*/} c=${p%.*} d=${p%%.*} e=${p/a/b} f=${p//a/b} g=${p#x} h=${p//\\//_}",
        {},
        {"Env": [PATH, "a=usr/lib/a.tar.gz", "b=a.tar.gz", "c=/usr/lib/a.tar", "d=/usr/lib/a",
                 "e=/usr/lib/b.tar.gz", "f=/usr/lib/b.tbr.gz", "g=/usr/lib/a.tar.gz", "h=_usr_lib_a.tar.gz"]},
    ),
    "of ENV and ARG the later one counts": Case(
        f"{FROM}ARG v=arg\nENV v=env\nLABEL a=$v\nARG v=again\nLABEL b=$v", {},
        {"Env": [PATH, "v=env"], "Labels": {"a": "env", "b": "given"}}, asked={"build_args": {"v": "given"}},
    ),
    "an ARG without a value leaves what there was": Case(
        "FROM full\nARG x=1\nARG x BASE none\nLABEL x=$x$BASE$none", {},
        {"Labels": {"a": "base", "b": "base", "x": "11"}},
    ),
    "ARG before FROM is for FROM": Case(
        "ARG from=scratch\nARG x=global\nFROM $from\nLABEL before=$x\nARG x\nLABEL after=$x\nARG x=own\nLABEL own=$x",
        {},
        {"Labels": {"before": "", "after": "global", "own": "own"}},
    ),
    "an ARG ends with its stage, and goes on in what begins with it": Case(
        "FROM scratch AS a\nARG x=1\nFROM scratch AS b\nLABEL b=$x\nFROM a\nLABEL a=$x", {}, {"Labels": {"a": "1"}}
    ),
    "what was given for an ARG": Case(
        "ARG g=1\nFROM scratch\nARG g\nARG a=1 b c=3\nLABEL a=$a b=$b c=$c g=$g", {},
        {"Labels": {"a": "A", "b": "B", "c": "3", "g": "G"}}, asked={"build_args": {"a": "A", "b": "B", "g": "G"}},
    ),
    "ARG is not in the image": Case(f"{FROM}ARG secret=1", {}, {"Env": [PATH]}),
    "arguments of the platform": Case(
        "FROM --platform=$BUILDPLATFORM scratch\nARG TARGETOS\nARG TARGETARCH=none\n"
        "LABEL o=$TARGETOS n=$BUILDOS a=$TARGETARCH", {}, {"Labels": {"o": "linux", "n": "", "a": "none"}},
    ),
    "CMD in its forms": Case(f"{FROM}CMD [\"a\", \"$b\"]", {}, {"Cmd": ["a", "$b"], "Entrypoint": None}),
    "CMD by the shell": Case(f"{FROM}CMD a  $b && c", {}, {"Cmd": ["/bin/sh", "-c", "a  $b && c"]}),
    "CMD and ENTRYPOINT without words": Case(
        f"{FROM}CMD\nENTRYPOINT", {}, {"Cmd": ["/bin/sh", "-c", ""], "Entrypoint": ["/bin/sh", "-c", ""]}
    ),
    "CMD that is almost JSON": Case(f"{FROM}CMD ['a', 'b']", {}, {"Cmd": ["/bin/sh", "-c", "['a', 'b']"]}),
    "the last CMD": Case(f"{FROM}CMD a\nCMD [\"b\"]", {}, {"Cmd": ["b"]}),
    "ENTRYPOINT drops an inherited CMD": Case(
        'FROM full\nENTRYPOINT ["/new"]', {}, {"Entrypoint": ["/new"], "Cmd": None}
    ),
    "ENTRYPOINT keeps a CMD of its stage": Case(
        'FROM full\nCMD ["mine"]\nENTRYPOINT ["/new"]', {}, {"Entrypoint": ["/new"], "Cmd": ["mine"]}
    ),
    "CMD keeps an inherited ENTRYPOINT": Case("FROM full\nCMD [\"x\"]", {}, {"Entrypoint": ["/entry"], "Cmd": ["x"]}),
    "an empty ENTRYPOINT resets both": Case("FROM full\nENTRYPOINT []", {}, {"Entrypoint": [], "Cmd": None}),
    "SHELL is for what follows": Case(
        f"{FROM}CMD a\nSHELL [\"/bin/bash\", \"-ec\"]\nENTRYPOINT b", {},
        {"Cmd": ["/bin/sh", "-c", "a"], "Entrypoint": ["/bin/bash", "-ec", "b"], "Shell": ["/bin/bash", "-ec"]},
    ),
    "LABEL and its quotes": Case(
        f"{FROM}LABEL a=\"b c\" d='$e' \"f g\"=h i=\"x\\\n y\" j=k\\ l\nLABEL a=2 multi.label1=\"v1\" \\\n  o=\"p\"",
        {},
        {"Labels": {"a": "2", "d": "$e", "f g": "h", "i": "x y", "j": "k l", "multi.label1": "v1", "o": "p"}},
    ),
    "labels add to those of the base, and those asked for win": Case(
        "FROM full\nLABEL b=mine c=mine", {}, {"Labels": {"a": "base", "b": "mine", "c": "asked"}},
        asked={"labels": {"c": "asked"}},
    ),
    "EXPOSE": Case(
        f"{FROM}ARG p=9000-9001/UDP\nEXPOSE 80 443/tcp 53/udp 80/tcp\nEXPOSE 8000-8002 $p 1/sctp", {},
        {"ExposedPorts": {f"{port}": {} for port in ("80/tcp", "443/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp",
                                                     "9000/udp", "9001/udp", "1/sctp")}},
    ),
    "VOLUME": Case(
        f"{FROM}ENV v=/v\nVOLUME $v /w\nVOLUME [\"/x y\", \"/v\"]", {}, {"Volumes": {"/v": {}, "/w": {}, "/x y": {}}}
    ),
    "STOPSIGNAL": Case(f"{FROM}ARG s=9\nSTOPSIGNAL SIGINT\nSTOPSIGNAL $s", {}, {"StopSignal": "9"}),
    "USER": Case("FROM full\nARG u=me\nUSER $u:${g:-staff}", {}, {"User": "me:staff"}),
    "HEALTHCHECK": Case(
        f"{FROM}HEALTHCHECK --interval=5m --timeout=1m30s --start-period=500ms --start-interval=1.5s --retries=3 "
        "CMD curl -f http://x/ || exit 1",
        {},
        {"Healthcheck": {"Test": ["CMD-SHELL", "curl -f http://x/ || exit 1"], "Interval": 5 * MINUTE,
                         "Timeout": 3 * MINUTE // 2, "StartPeriod": 5 * 10**8, "StartInterval": 15 * 10**8,
                         "Retries": 3}},
    ),
    "HEALTHCHECK in exec form": Case(
        f"{FROM}HEALTHCHECK\tCMD\t[\"/check\", \"$x\"]", {}, {"Healthcheck": {"Test": ["CMD", "/check", "$x"]}}
    ),
    "HEALTHCHECK NONE": Case(
        f"{FROM}HEALTHCHECK CMD x\nHEALTHCHECK NONE", {}, {"Healthcheck": {"Test": ["NONE"]}}
    ),
    "ONBUILD is kept as text": Case(
        f"{FROM}ONBUILD COPY . /app\nONBUILD RUN make $x", {}, {"OnBuild": ["COPY . /app", "RUN make $x"]}
    ),
    "comments and empty lines inside of an instruction": Case(
        f"# first\n\n{FROM}  # indented\nENV a=1 \\\n# between\n\n   # and again\n    b=2 \\\n\nc=3\n#last", {},
        {"Env": [PATH, "a=1", "b=2", "c=3"]},
    ),
    "lines that end as on Windows": Case(
        "\ufeffFROM scratch\r\n# note\r\nENV a=1 \\\r\n  b=2\r\nCOPY a.txt /\r\nCMD x\r\n", {"a.txt": "f 644 A"},
        {"Env": [PATH, "a=1", "b=2"], "Cmd": ["/bin/sh", "-c", "x"]}, files=SOME,
    ),
    "a byte order mark and directives": Case(
        "\ufeff# syntax=docker/dockerfile:1\n# escape=`\nFROM scratch\nENV a=c:\\dir `\n b=`$x\n", {},
        {"Env": [PATH, "a=c:\\dir", "b=$x"]},
    ),
    "a directive that comes too late is a comment": Case(
        f"# comment\n# escape=`\n{FROM}ENV a=\\$x b=`", {}, {"Env": [PATH, "a=$x", "b=`"]}
    ),
    "keywords in any case": Case("from scratch\nEnV a=1\nlabel b=$a", {}, {"Labels": {"b": "1"}}),
}  # fmt: skip

STAGES: dict[str, Case] = {
    "COPY --from by name, number and image": Case(
        "FROM scratch AS One\nCOPY --chown=7:8 a.txt /x\nFROM scratch\nCOPY tool /t\nFROM scratch\n"
        "COPY --from=one /x /by-name\nCOPY --from=1 /t /by-number\nCOPY --from=base /etc/group /by-image\n"
        "COPY --from=0 --chown=1:2 /x /mine",
        {"by-name": "f 644 7:8 A", "by-number": "f 750 T", "by-image": f"f 755 {images.GROUP}", "mine": "f 644 1:2 A"},
        files=SOME,
    ),
    "wildcards and directories of a stage": Case(
        "FROM scratch AS a\nCOPY . /all/\nFROM scratch\nCOPY --from=a /all/*.txt /all/d /x/",
        {"x": "d 755", "x/a.txt": "f 644 A", "x/b.txt": "f 644 B", "x/one": "f 644 1", "x/deep": "d 755",
         "x/deep/two": "f 644 2", "x/to": "l ../a.txt"}, files=SOME,
    ),
    "a name that is used twice is the last one's": Case(
        "FROM scratch AS a\nCOPY a.txt /x\nFROM scratch AS a\nCOPY b.txt /x\nFROM scratch\nCOPY --from=a /x /x",
        {"x": "f 644 B"}, files=SOME,
    ),
    "a stage on a stage": Case(
        "FROM scratch AS a\nENV x=1\nCOPY a.txt /\nFROM a AS b\nENV y=$x\nFROM b\nCOPY b.txt /",
        {"a.txt": "f 644 A", "b.txt": "f 644 B"}, {"Env": [PATH, "x=1", "y=1"]}, files=SOME,
    ),
    "a stage by an ARG": Case(
        "ARG which=b\nFROM scratch AS stage-a\nLABEL is=a\nFROM scratch AS stage-b\nLABEL is=b\nFROM stage-${which}",
        {},
        {"Labels": {"is": "a"}}, asked={"build_args": {"which": "a"}},
    ),
    "a target": Case(
        "FROM scratch AS a\nCOPY a.txt /\nFROM base AS broken\nRUN false", {"a.txt": "f 644 A"}, files=SOME,
        asked={"target": "A"},
    ),
    "a target by its number": Case(
        "FROM scratch\nCOPY a.txt /\nFROM scratch\nCOPY none /", {"a.txt": "f 644 A"}, files=SOME, asked={"target": "0"}
    ),
    "what nobody needs is not built": Case(
        "FROM base AS broken\nRUN false\nFROM no/such:image AS absent\nFROM broken AS more\nRUN false\n"
        "FROM scratch\nCOPY a.txt /", {"a.txt": "f 644 A"}, files=SOME,
    ),
    "triggers": Case(
        "FROM scratch AS a\nONBUILD ENV first=1\nONBUILD COPY a.txt /x\nONBUILD LABEL l=$first\nENV own=1\n"
        "FROM a AS b\nENV last=$first\nFROM b\nLABEL n=$last", {"x": "f 644 A"},
        {"Env": [PATH, "own=1", "first=1", "last=1"], "Labels": {"l": "1", "n": "1"}, "OnBuild": None}, files=SOME,
    ),
}  # fmt: skip

RUNS: dict[str, Case] = {
    "a RUN sees what was said before it": Case(
        "FROM base\nARG a=1\nENV b=2 c=$a\nUSER 3:4\nWORKDIR /w\n"
        "RUN echo $a $b $c $BASE $PWD $(id -u):$(id -g) > f",
        {"w": "d 755 3:4", "w/f": "f 644 3:4 1 2 1 1 /w 3:4\n"}, {"User": "3:4"},
    ),
    "a volume keeps what is written to it afterwards": Case(
        "FROM base\nRUN mkdir /v && echo 1 > /v/before\nVOLUME /v\nRUN echo 2 > /v/after",
        {"v": "d 755", "v/before": "f 644 1\n", "v/after": "f 644 2\n"}, {"Volumes": {"/v": {}}},
    ),
    "a RUN removes and changes": Case(
        "FROM base\nCOPY a.txt b.txt /x/\nRUN rm /x/a.txt /etc/group; chmod 600 /x/b.txt; ln -s b.txt /x/l",
        {"x": "d 755", "x/a.txt": "-", "x/b.txt": "f 600 B", "x/l": "l b.txt", "etc": "d 755", "etc/group": "-"},
        files=SOME,
    ),
    "a RUN over lines, with a comment inside": Case(
        "FROM base\nRUN echo one > /f && \\\n  # note\n\n  echo 'two  \\\n  three' >> /f",
        {"f": "f 644 one\ntwo    three\n"}
    ),
    "here-documents of RUN": Case(
        "FROM base\nENV v=env\nRUN <<EOF\nset -e\nx=shell\necho $v $x > /a\nEOF\n"
        "RUN cat <<'one' > /b && cat <<-two >> /b\n$v\none\n\t$v\n\ttwo\n"
        "RUN <<EOF\n#!/bin/busybox sh\necho script > /c\nEOF\n",
        {"a": "f 644 env shell\n", "b": "f 644 $v\nenv\n", "c": "f 644 script\n"},
    ),
    "a RUN without words": Case("FROM base\nRUN\nRUN --network=none touch /f", {"f": "f 644 "}),
    "another shell": Case(
        'FROM base\nSHELL ["/bin/busybox", "sh", "-uc"]\nRUN echo $0 ${none-unset} > /f\nRUN ["/bin/touch", "$HOME x"]',
        {"f": "f 644 sh unset\n", "$HOME x": "f 644 "},
    ),
    "the triggers of a RUN": Case(
        "FROM base AS a\nONBUILD RUN echo $v > /t\nENV v=1\nFROM a\nRUN cat /t /t > /u",
        {"t": "f 644 1\n", "u": "f 644 1\n1\n"},
    ),
    "what a stage made": Case(
        "FROM base AS make\nRUN mkdir -p /out && echo made > /out/f && chown 3:4 /out/f && chmod 4755 /out/f\n"
        "FROM scratch\nCOPY --from=make /out /", {"f": "f 4755 3:4 made\n"},
    ),
}  # fmt: skip


def check(world: World, case: Case) -> None:
    built = world.build(case.text, case.files, **case.asked)
    assert {key: built.config.get(key) for key in case.config} == case.config
    if case.tree is not None:
        assert built.tree == case.tree


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("name", COPIES)
def test_what_is_copied(world: World, name: str) -> None:
    check(world, COPIES[name])


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_said_of_the_image(world: World, name: str) -> None:
    check(world, CONFIGS[name])


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("name", STAGES)
def test_what_comes_of_stages(world: World, name: str) -> None:
    check(world, STAGES[name])


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("name", RUNS)
def test_what_runs(world: World, name: str) -> None:
    check(world, RUNS[name])


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("name", IGNORES)
def test_what_is_left_out(world: World, name: str) -> None:
    ignore, taken = IGNORES[name]
    world.put(TREE)
    (world.context.parent / "Dockerfile").write_text("FROM scratch\nCOPY . /")
    (world.context.parent / "Dockerfile.dockerignore").write_text(f"{ignore}\nDockerfile\n")
    (world.context / ".dockerignore").write_text("of another\n*")
    asked: dict[str, Any] = {"dockerfile": str(world.context.parent / "Dockerfile")}
    built = world.build("never read", **asked)
    files = sorted(path for path, what in built.tree.items() if what.startswith("f") and path != ".dockerignore")
    assert " ".join(files) == taken
    parents = {os.path.dirname(path) for path in files} - {""}
    for parent in parents:
        assert built.tree[parent] == "d 755"


# --- the cache

CACHED = "FROM scratch\nCOPY a /a\nARG v=1\nCOPY b /b\nWORKDIR /w$v\nCOPY c /c\n"
CACHED_FILES: Files = {"a": "1", "b": "1", "c": "1", "other": "1"}


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    ("change", "hits"),
    [
        ({}, 4),
        ({"other": "2"}, 4),
        ({"a": "2"}, 0),
        ({"c": "2"}, 3),
        ({"c": Mode(0o755, "1")}, 3),
        ({"b": Mode(0o600, "1")}, 1),
    ],
    ids=["nothing", "another file", "first", "content", "mode", "mode in the middle"],
)
def test_a_step_is_done_again_when_what_it_copies_has_changed(world: World, change: Files, hits: int) -> None:
    own = f"ENV test={'-'.join(sorted(change))}{hits}\n"  # steps of this test alone
    text = CACHED.replace("COPY a", f"WORKDIR /{own.split('=')[1].strip()}\nCOPY a")
    first = world.build(text, CACHED_FILES)
    assert first.steps - first.cached > 1
    for path in world.context.iterdir():
        os.utime(path, (1, 1))  # when a file was changed is no part of what it is
    again = world.build(text, change)
    assert again.cached == hits + 1
    assert (again.digest == first.digest) == (hits == 4)
    assert world.build(text, no_cache=True).cached == 0


@pytest.mark.kernel("overlay")
def test_an_argument_counts_from_its_line_on(world: World) -> None:
    text = "FROM base\nRUN echo 1 > /before\nARG v=1\nRUN echo same > /after\nCOPY a /a\n"
    files: Files = {"a": "1"}
    assert world.build(text, files).cached == 0
    assert world.build(text).cached == 3
    assert world.build(text, build_args={"v": "2"}).cached == 1
    assert world.build(text, build_args={"v": "1"}).cached == 3
    assert world.build(text, build_args={"HTTP_PROXY": "http://proxy"}).cached == 3


@pytest.mark.kernel("overlay")
def test_what_is_said_without_files_needs_no_step(world: World) -> None:
    text = "FROM base\nLABEL a=1\nRUN echo 1 > /meta\nCMD x"
    world.build(text)
    for changed in (text.replace("a=1", "a=2"), text.replace("CMD x", "CMD y"), f"# comment\n\n{text}\nEXPOSE 1"):
        assert world.build(changed).cached == 1
    for changed in (
        text.replace("LABEL", "ENV"),
        text.replace("LABEL a=1", "USER 0"),
        text.replace("echo 1", "echo  1"),
    ):
        assert world.build(changed).cached == 0


# --- what is refused

D = "Dockerfile"
BAD: dict[str, str] = {  # a Dockerfile: its error
    "": f"{D}:1: no instructions: the file is empty",
    "# only\n\n# comments\n": f"{D}:1: no instructions: the file is empty",
    "RUN x\nFROM scratch": f"{D}:1: RUN: no FROM stands before it",
    "ARG a=1\nARG b\n": f"{D}:2: ARG: no FROM follows: there is no stage to build",
    "FROM": f"{D}:1: FROM: needs at least 1 argument, got 0",
    "FROM a b": f"{D}:1: FROM: needs one image, or an image, AS and a name",
    "FROM a as b c": f"{D}:1: FROM: needs at least 1 argument, got 4",
    "\nFROM scratch AS 1x": f"{D}:2: FROM: 1x cannot be the name of a stage",
    "FROM $none": f"{D}:1: FROM: base name ($none) is empty after expansion; give its ARG a value before FROM",
    "FROM --platform=a/b/c/d scratch": (
        f"{D}:1: FROM: --platform=a/b/c/d: it is OS/ARCHITECTURE[/VARIANT], like linux/arm64"
    ),
    "FROM base/UPPER": (
        f"{D}:1: FROM: image base/UPPER cannot be pulled: invalid reference 'base/UPPER': repository 'base/UPPER' is n"
        f"ot lower-case words parted by '/', '.', '_' or '-'; a reference is [registry/]repository[:tag][@digest]"
    ),
    "ARG a=${b\nFROM scratch": f"{D}:1: ARG: unsupported modifier '' in '${{b'",
    "FROM scratch\nRUNN x": f"{D}:2: unknown instruction RUNN; did you mean RUN?",
    "FROM scratch\n\n# x\nFOO": f"{D}:4: unknown instruction FOO",
    "FROM scratch\nENV a=1 \\\n  b \\\n c=2": f"{D}:2: ENV: b: can't find = in it; write name=value",
    "FROM scratch\nENV a": f"{D}:2: ENV: a has no value: write a=...",
    "FROM scratch\nENV": f"{D}:2: ENV: needs at least 1 argument, got 0",
    "FROM scratch\nLABEL =x": f"{D}:2: LABEL: =x: the name is empty",
    'FROM scratch\nENV a="${b:?must be given}"': f"{D}:2: ENV: b: must be given",
    "FROM scratch\nENV a=\"x": f"{D}:2: ENV: unexpected end of '\"x': no matching double quote",
    "FROM scratch\nENV a=${b!c}": f"{D}:2: ENV: unsupported modifier '!' in '${{b!c}}'",
    "FROM scratch\nCOPY a.txt": f"{D}:2: COPY: needs at least 2 arguments, got 1",
    "FROM scratch\nCOPY --frm=x a /": f"{D}:2: COPY: unknown flag --frm; did you mean --from?",
    "FROM scratch\nCOPY --chown=1 --chown=2 a /": f"{D}:2: COPY: flag --chown given twice",
    "FROM base\nRUN []": f"{D}:2: RUN: there is no command to execute",
    "FROM scratch\nCOPY --chmod a /": f"{D}:2: COPY: flag --chmod needs a value: --chmod=...",
    "FROM scratch\nCOPY --chmod=999 a.txt /": (
        f"{D}:2: COPY: --chmod=999: it is an octal mode, like 755, or a symbolic one, like u=rwX,go=rX"
    ),
    "FROM scratch\nCOPY none /": f"{D}:2: COPY: none is not in the context CONTEXT",
    "FROM scratch\nCOPY a.txt b.txt /x": (
        f"{D}:2: COPY: with more than one source, the destination must be a directory: /x/"
    ),
    "FROM scratch\nCOPY *.txt /x": f"{D}:2: COPY: 2 sources match: the destination must be a directory: /x/",
    "FROM scratch\nCOPY a.txt /x\nCOPY b.txt /x/y": f"{D}:3: COPY: /x is not a directory",
    "FROM scratch\nCOPY a.txt /x\nCOPY d /x": f"{D}:3: COPY: cannot copy to non-directory: /x",
    "FROM scratch\nCOPY <<EOF /x\nopen": f"{D}:2: COPY: here-document <<EOF has no end: no such line",
    "FROM scratch\nCOPY --from=0 /x /": f"{D}:2: COPY: --from=0: no stage before this one has that number",
    "FROM scratch\nFROM scratch\nCOPY --from=7 /x /": (
        f"{D}:3: COPY: --from=7: no stage before this one has that number"
    ),
    "FROM scratch AS me\nCOPY --from=me /x /": f"{D}:2: COPY: --from=me is the stage itself",
    "FROM scratch AS a\nFROM scratch\nCOPY --from=a /x /": f"{D}:3: COPY: /x is not in --from=a",
    "FROM scratch\nCMD [1]": f"{D}:2: CMD: the JSON array has something that is not a string",
    "FROM scratch\nSHELL bash -c": f'{D}:2: SHELL: needs a JSON array: SHELL ["executable", "parameter"]',
    "FROM scratch\nONBUILD ONBUILD RUN x": f"{D}:2: ONBUILD: ONBUILD is not allowed as a trigger",
    "FROM scratch\nONBUILD FROM x": f"{D}:2: ONBUILD: FROM is not allowed as a trigger",
    "FROM scratch\nONBUILD": f"{D}:2: ONBUILD: needs an instruction",
    "FROM scratch\nHEALTHCHECK curl": f"{D}:2: HEALTHCHECK: needs NONE, or CMD and a command",
    "FROM scratch\nHEALTHCHECK --interval=5 CMD x": (
        f"{D}:2: HEALTHCHECK: --interval=5 is not a duration, like 30s or 1m30s"
    ),
    "FROM scratch\nHEALTHCHECK --retries=many CMD x": f"{D}:2: HEALTHCHECK: --retries=many is not a number",
    "FROM scratch\nEXPOSE http": f"{D}:2: EXPOSE: http is not a port, like 80, 80/udp or 8000-8010/tcp",
    "FROM scratch\nEXPOSE 9-8": f"{D}:2: EXPOSE: 9-8: a port is 1 to 65535, and a range goes up",
    "FROM scratch\nEXPOSE 65536": f"{D}:2: EXPOSE: 65536: a port is 1 to 65535, and a range goes up",
    "FROM scratch\nSTOPSIGNAL a/b": f"{D}:2: STOPSIGNAL: a/b is not a signal, like SIGTERM or 15",
    "FROM scratch\nSTOPSIGNAL FOO": f"{D}:2: STOPSIGNAL: FOO is not a signal, like SIGTERM or 15",
    "FROM scratch\nHEALTHCHECK --timeout=1us CMD x": f"{D}:2: HEALTHCHECK: --timeout=1us is less than 1ms",
    "FROM scratch\nVOLUME $v": f"{D}:2: VOLUME: a path is empty after expansion",
    "FROM scratch\nCOPY a.txt /x\nWORKDIR /x/y": f"{D}:3: WORKDIR: /x is not a directory",
    "# escape=x\nFROM scratch": f"{D}:1: directive escape: 'x' is neither \\ nor `",
    "# escape=`\n# escape=`\nFROM scratch": f"{D}:2: directive escape: given twice",
    "FROM base\nRUN \\\n  echo out; \\\n  exit 3": (
        f"{D}:2: RUN: the command 'echo out;   exit 3' failed with exit code 3"
    ),
    "FROM base\nRUN [\"/bin/false\"]": f"{D}:2: RUN: the command '/bin/false' failed with exit code 1",
}  # fmt: skip


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_refused_in_one_line(world: World, text: str) -> None:
    said = world.refused(text, SOME).replace(f"linux/{Platform.here().architecture}", "linux/ARCH")
    assert said == BAD[text]


@pytest.mark.kernel("overlay")
def test_a_target_that_is_no_stage_is_refused(world: World) -> None:
    said = world.refused("FROM scratch AS a\nFROM scratch", target="b")
    assert said == "Dockerfile: no stage b; its stages are a, stage-1"


@pytest.mark.kernel("overlay")
def test_a_trigger_that_fails_is_told_at_the_line_of_from(world: World) -> None:
    text = "FROM scratch AS a\nONBUILD COPY none /\n\nFROM a\n"
    assert world.refused(text) == "Dockerfile:4: COPY: none is not in the context CONTEXT"
