"""Without root: a person of the test's own, with a home and subordinate ids, in a mount namespace that dies with it."""

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from minicontainer.containers import Home
from minicontainer.linux import flags, procfs, syscalls
from minicontainer.network import bridge
from minicontainer.oci.image import ContainerConfig
from tests import attacks, bundles, images
from tests.kernel.test_escapes import CALLS, HARMLESS, REFUSED, SETTINGS, script_of, told

pytestmark = pytest.mark.kernel("overlay")
ROOT = Path(__file__).parents[2]
UID, FIRST = 4321, 300_000
INTERPRETER = os.path.realpath(sys.executable)
STATUS = "grep -E '^(NoNewPrivs|Seccomp|CapEff|CapBnd):' /proc/self/status"


def bind(source: Path, target: str) -> None:
    syscalls.mount(str(source), target, None, flags.MS_BIND)


class Person:
    """Who they are is in an /etc of this test's own; their home is below /home, the checkout at /srv."""

    def __init__(self, tmp_path: Path, subordinate: str = f"person:{FIRST}:65536\n") -> None:
        etc, homes = tmp_path / "etc", tmp_path / "homes"
        etc.mkdir()
        self.home = homes / "person"
        self.home.mkdir(parents=True)
        passwd = Path("/etc/passwd").read_text() + f"person:x:{UID}:{UID}::/home/person:/bin/sh\n"
        for name, text in (("passwd", passwd), ("subuid", subordinate), ("subgid", subordinate)):
            (etc / name).write_text(text)
            bind(etc / name, f"/etc/{name}")
        place = Home(data=str(self.home / ".local/share/minicontainer"))
        images.put(place, "docker.io/library/busybox:latest", ContainerConfig(cmd=("sh",)),
                   images.layer({**images.busybox_files(), "etc/nsswitch.conf": b"hosts: files\n"}))  # fmt: skip
        shutil.rmtree(place.run, ignore_errors=True)
        self.own()
        for path in (homes, self.home):
            path.chmod(0o755)
        bind(homes, "/home")
        bind(ROOT, "/srv")
        # The interpreter's packages, where anybody can read them.
        self.packages = [path.replace(str(ROOT), "/srv") for path in sys.path if path.endswith("site-packages")]

    def own(self) -> None:
        for parent, directories, files in os.walk(self.home):
            for name in (".", *directories, *files):
                os.lchown(f"{parent}/{name}", UID, UID)

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """`minicontainer` as the person says it."""
        with self.start(*words, **more) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def start(self, *words: str, path: str = "/usr/bin:/bin", python: str = INTERPRETER, cgroup: str = "",
              module: str = "cli", out: int | IO[str] = subprocess.PIPE, err: int | IO[str] = subprocess.PIPE,
              **environment: str) -> "subprocess.Popen[str]":  # fmt: skip
        variables = {"HOME": "/home/person", "PATH": path, "PYTHONPATH": ":".join(["/srv", *self.packages]),
                     "PYTHONDONTWRITEBYTECODE": "1", **environment}  # fmt: skip
        command = ["/usr/bin/setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all",
                   python, "-m", f"minicontainer.{module}", *words]  # fmt: skip
        if cgroup:
            command = ["/bin/sh", "-c", f'echo $$ >{cgroup}/cgroup.procs; exec "$@"', "sh", *command]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                text=True, env=variables, cwd="/")  # fmt: skip

    def said(self, *words: str, **more: str) -> str:
        done = self.run(*words, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout


def test_a_container_of_a_person_has_all_walls_and_their_ids(tmp_path: Path) -> None:
    person = Person(tmp_path)
    said = person.said(
        "run", "--rm", "busybox", "sh", "-c", f"id -u; cat /proc/self/uid_map; {STATUS}; ls /dev /proc/keys"
    )
    assert said.split()[:7] == ["0", "0", "0", "1", "1", "1", "65535"]
    found = dict(line.split(":\t") for line in said.splitlines() if ":\t" in line)
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert bin(int(found["CapBnd"], 16)).count("1") == 11
    one = person.said("run", "-d", "--name", "one", "-u", "web", "busybox", "sleep", "60").strip()
    pid = int(re.findall(r'"Pid": (\d+)', person.said("inspect", "one"))[0])
    assert procfs.status(pid)["Uid"].split() == [str(FIRST + 999)] * 4
    assert os.stat(f"/proc/{pid}/root/bin").st_uid == UID
    assert person.said("rm", "-f", one[:12]).strip() == one[:12]
    assert procfs.start_time(pid) is None


def test_no_dangerous_system_call_is_made_from_a_person_s_container(tmp_path: Path) -> None:
    person = Person(tmp_path)
    place = Home(data=str(person.home / ".local/share/minicontainer"))
    attacks.image(place, attacks.tar(attacks.member("syscall", attacks.program("syscall"))))
    shutil.rmtree(place.run, ignore_errors=True)
    person.own()
    wanted = {name: words for name, words in CALLS.items() if name not in HARMLESS}
    answers = told(person.said("run", "--rm", "trap", "sh", "-c", script_of(wanted)), wanted)
    assert {name: said for name, said in answers.items() if said not in {"died", *map(str, REFUSED)}} == {}


def test_no_setting_of_the_host_is_written_from_a_person_s_container(tmp_path: Path) -> None:
    script = "; ".join(f"( : >>{path} ) 2>/dev/null && echo opened {path}" for path in SETTINGS)
    assert Person(tmp_path).said("run", "--rm", "busybox", "sh", "-c", f"{script}; true") == ""


def test_what_nobody_counts_is_said(tmp_path: Path) -> None:
    person = Person(tmp_path)
    person.said("run", "-d", "--name", "one", "busybox", "sleep", "60")
    done = person.run("stats", "--no-stream", "one")
    assert done.returncode == 125 and "it has no cgroup of its own; try: systemd-run --user" in done.stderr
    assert person.said("stats", "--no-stream").count("\n") == 1
    person.said("rm", "-f", "one")


def test_the_life_of_a_person_s_containers(tmp_path: Path) -> None:
    """Each command is a process of its own, and finds the namespace of those that run."""
    person = Person(tmp_path)
    assert person.said("images", "-q")
    for name in ("one", "two"):
        person.said("run", "-d", "--name", name, "busybox", "sh", "-c", "echo hello; exec sleep 60")
    assert person.said("exec", "one", "id", "-u") == "0\n"
    person.said("rm", "-f", "one")
    assert person.said("exec", "-u", "web", "two", "id", "-u") == "1000\n"
    person.said("cp", "two:/etc/nsswitch.conf", "/home/person/copied")
    assert os.stat(person.home / "copied").st_uid == UID
    person.said("cp", "/home/person/copied", "two:/etc/back")
    assert person.said("exec", "two", "stat", "-c", "%u", "/etc/back") == "0\n"
    attacks.eventually(lambda: person.said("logs", "two") == "hello\n")
    assert "two" in person.said("ps")
    supervisor = int(re.findall(r'"SupervisorPid": (\d+)', person.said("inspect", "two"))[0])
    os.kill(supervisor, 9)
    attacks.eventually(lambda: "Exited (137)" in person.said("ps", "-a"))
    person.said("cp", "/home/person/copied", "two:/etc/later")
    assert person.said("cp", "two:/etc/later", "/home/person/again") == ""
    assert person.said("start", "two") == "two\n"
    assert person.said("stop", "-t", "0", "two") == "two\n"
    assert person.said("rm", "two") == "two\n"
    assert person.said("ps", "-aq") == ""


def test_commands_that_begin_at_once_meet_in_one_namespace(tmp_path: Path) -> None:
    """Else a container of one would be out of reach for the others."""
    person = Person(tmp_path)
    inside = person.home / ".local/share/minicontainer/run/inside"
    person.said("ps")
    (inside / ".left-by-one-who-was-killed").write_text("x")
    names = ["one", "two", "three"]
    started = [person.start("run", "-d", "--name", name, "busybox", "sleep", "60") for name in names]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert [person.said("exec", name, "echo", name) for name in names] == [f"{name}\n" for name in names]
    assert person.said("rm", "-f", *names).split() == names


def test_an_image_is_built_and_its_files_are_the_person_s_or_of_their_ids(tmp_path: Path) -> None:
    person = Person(tmp_path)
    (person.home / "c").mkdir()
    (person.home / "c/Dockerfile").write_text(
        "FROM busybox\nCOPY a /a\nRUN mkdir /d; echo x >/d/x; rm /etc/group; chown 1000 /a\nRUN rm -r /d; mkdir /d\n"
    )
    (person.home / "c/a").write_text("A")
    person.own()
    person.said("build", "-q", "-t", "made", "/home/person/c")
    said = person.said("run", "--rm", "made", "sh", "-c", "ls /d; ls -n /a | cut -c 1-40; cat /etc/group; true")
    assert "1000" in said and "x" not in said.split()
    assert "-rw-r--r-- 1 1000 0" in " ".join(said.split())


def test_a_volume_is_written_as_the_person(tmp_path: Path) -> None:
    person = Person(tmp_path)
    (person.home / "v").mkdir()
    person.own()
    person.said("run", "--rm", "-v", "/home/person/v:/v", "busybox", "touch", "/v/mine")
    assert (person.home / "v/mine").stat().st_uid == UID
    denied = person.run("run", "--rm", "-v", "/etc:/v", "busybox", "touch", "/v/passwd", "/v/made")
    assert denied.returncode != 0
    assert not Path("/etc/made").exists()


def test_the_interpreter_of_a_person_cannot_be_overwritten_by_their_container(tmp_path: Path) -> None:
    """CVE-2019-5736 without root: root inside is the person outside, and the interpreter may be theirs."""
    person = Person(tmp_path)
    place = Home(data=str(person.home / ".local/share/minicontainer"))
    loader = attacks.member("lib64/ld-linux-x86-64.so.2", attacks.program("loader"))
    escape = attacks.member("escape", type=b"2", linkname="/proc/self/exe")
    attacks.image(place, attacks.tar(loader, escape), name="loader")
    shutil.copy("/usr/bin/python3", person.home / "python3")
    shutil.rmtree(place.run, ignore_errors=True)
    person.own()
    before = (person.home / "python3").stat().st_mtime_ns
    done = person.run("run", "--rm", "loader", "/escape", python="/home/person/python3")
    assert done.stdout == "touch 30\n", done.stderr  # EROFS
    assert (person.home / "python3").stat().st_mtime_ns == before


@contextmanager
def delegated() -> Iterator[str]:
    """A cgroup that the person may divide, as systemd delegates one; which directory a process of theirs joins."""
    own = {name: member.path for member in procfs.cgroups() for name in member.controllers or ("",)}
    path = f"/sys/fs/cgroup{'/memory' + own['memory'] if 'memory' in own else own['']}/person-{os.getpid()}"
    os.mkdir(path)
    joined = path
    files = [path, f"{path}/cgroup.procs"]
    if "memory" not in own:  # version 2: who has children with controllers has no processes itself
        Path(path, "../cgroup.subtree_control").write_text("+memory +pids +cpu")
        joined = f"{path}/session"
        os.mkdir(joined)
        files += [f"{path}/cgroup.subtree_control", joined, f"{joined}/cgroup.procs"]
    try:
        for file in files:
            os.chown(file, UID, UID)
        yield joined
    finally:
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)


def test_a_delegated_cgroup_limits_what_a_person_runs(tmp_path: Path) -> None:
    person = Person(tmp_path)
    refused = person.run("run", "--rm", "-m", "8m", "busybox", "true")
    assert refused.returncode == 125 and "systemd-run --user" in refused.stderr
    with delegated() as group:
        eat = "x=x; while :; do x=$x$x; done"
        done = person.run("run", "--name", "fat", "-m", "8m", "busybox", "sh", "-c", eat, cgroup=group)
        assert done.returncode == 137, done.stderr
        assert '"OOMKilled": true' in person.said("inspect", "fat")
        person.said("rm", "fat")


@pytest.mark.parametrize(("subordinate", "path", "said"), [
    ("", "/usr/bin:/bin", "/etc/subuid gives no range of ids to person; try: sudo usermod --add-subuids"),
    ("other:1:65536\n", "/usr/bin:/bin", "/etc/subuid gives no range of ids to person"),
    ("person:300000:1000\n", "/usr/bin:/bin", "/etc/subuid gives person 1000 ids"),
    (f"{UID}:300000:65536\n", "/nonexistent", "newuidmap is not installed"),
])  # fmt: skip
def test_what_is_missing_is_one_line_with_its_fix(tmp_path: Path, subordinate: str, path: str, said: str) -> None:
    done = Person(tmp_path, subordinate).run("ps", path=path)
    assert (done.returncode, done.stdout) == (125, "")
    assert said in done.stderr and "try: " in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("words", "said"), [
    (["--userns", "host"], "--userns host needs the host's root"),
    (["-p", "8080:80", "--network", "none"], "ports cannot be published with the network none"),
    (["-p", "80:80"], "cannot bind 0.0.0.0:80/tcp: permission denied; try: a port from 1024 on, or sudo sysctl"),
    (["--cpus", "1"], "a limit of cpu needs a cgroup of your own"),
])  # fmt: skip
def test_what_cannot_be_had_without_root_is_said(tmp_path: Path, words: list[str], said: str) -> None:
    person = Person(tmp_path)
    tun(tmp_path)
    done = person.run("run", "--rm", *words, "busybox", "true")
    assert done.returncode == 125
    assert said in done.stderr and done.stderr.count("\n") == 1


def tun(tmp_path: Path) -> None:
    """/dev/net/tun as most distributions have it: open to everybody."""
    node = tmp_path / "tun"
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("this kernel has no /dev/net/tun")
    os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(10, 200))
    node.chmod(0o666)
    bind(node, "/dev/net/tun")


def test_a_person_s_container_reaches_what_they_reach_and_nothing_of_the_loopback(tmp_path: Path) -> None:
    person = Person(tmp_path)
    tun(tmp_path)
    syscalls.interface_up("lo")
    bridge.add_address("198.51.100.1/32")
    (tmp_path / "index.html").write_text("reached\n")
    served = ["/bin/busybox", "httpd", "-f", "-p", "8000", "-h", str(tmp_path)]
    server = subprocess.Popen(served)
    try:
        attacks.eventually(lambda: ":1F40 " in Path("/proc/net/tcp6").read_text() + Path("/proc/net/tcp").read_text())
        get = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5"
        script = f"{get} 198.51.100.1 8000 | tail -n 1; {get} 10.0.2.2 8000 || echo refused"
        done = person.run("run", "--rm", "busybox", "sh", "-c", f"cat /etc/resolv.conf; {script}")
        assert done.stdout == "nameserver 10.0.2.3\nreached\nrefused\n", done.stderr
        assert "no network" not in done.stderr
    finally:
        server.kill()
        server.wait()


def test_ports_of_a_person_s_container_are_published_until_it_ends(tmp_path: Path) -> None:
    person = Person(tmp_path)
    tun(tmp_path)
    syscalls.interface_up("lo")
    serve = "echo $RANDOM >/dev/null; mkdir /w; echo served >/w/index.html; exec httpd -f -p 80 -h /w"
    person.said("run", "-d", "--name", "one", "-p", "8080:80", "-p", "127.0.0.1::81/udp", "busybox", "sh", "-c", serve)
    published = person.said("port", "one")
    assert "80/tcp -> 0.0.0.0:8080\n" in published and "81/udp -> 127.0.0.1:" in published
    get = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 127.0.0.1 8080"
    assert subprocess.run(["sh", "-c", get], check=False, capture_output=True).stdout.endswith(b"served\n")
    taken = person.run("run", "--rm", "-p", "8080:80", "busybox", "true")
    assert taken.returncode == 125 and "port 0.0.0.0:8080/tcp is taken by pid" in taken.stderr
    assert "slirp" not in " ".join(os.listdir(next(Path(person.home).glob(".local/share/*/containers/*"))))
    assert person.said("rm", "-f", "one") == "one\n"
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("0.0.0.0", 8080))


def test_the_network_of_a_person_s_container_dies_with_it(tmp_path: Path) -> None:
    person = Person(tmp_path)
    tun(tmp_path)
    person.said("run", "-d", "--name", "one", "busybox", "sleep", "60")
    supervisor = int(re.findall(r'"SupervisorPid": (\d+)', person.said("inspect", "one"))[0])
    children = [int(word) for word in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]
    assert "slirp4netns" in {Path(f"/proc/{pid}/comm").read_text().strip() for pid in children}
    os.kill(supervisor, 9)
    attacks.eventually(lambda: all(procfs.start_time(pid) is None for pid in children))
    person.said("rm", "-f", "one")


def test_without_a_network_it_is_said_with_the_fix(tmp_path: Path) -> None:
    person = Person(tmp_path)
    node = tmp_path / "tun"
    node.touch(0o600)
    bind(node, "/dev/net/tun")
    done = person.run("run", "--rm", "busybox", "sh", "-c", "ls /sys/class/net")
    assert done.stdout == "lo\n"
    assert (
        done.stderr == "minicontainer: no network: /dev/net/tun is not open to you; try: sudo chmod 666 /dev/net/tun\n"
    )
    assert person.run("run", "--rm", "--network", "none", "busybox", "true").stderr == ""
    refused = person.run("run", "--rm", "-p", "8080:80", "busybox", "true")
    assert refused.returncode == 125
    assert refused.stderr == (
        "minicontainer: ports need a network that publishes them: /dev/net/tun is not open to you; "
        "try: sudo chmod 666 /dev/net/tun\n"
    )


def runtime(person: Person, *words: str) -> subprocess.CompletedProcess[str]:
    """What it says goes to a file: a container that goes on would hold a pipe open."""
    with (person.home / "said").open("w+") as out, (person.home / "complaint").open("w+") as err:
        with person.start("--root", "/home/person/states", *words, module="runtime.main", out=out, err=err) as process:
            process.wait(60)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, process.returncode, out.read(), err.read())


def bundle_of(person: Person, *args: str) -> Path:
    """A bundle of `spec --rootless` in the person's home, as their own."""
    made = person.home / "bundle"
    shutil.rmtree(made, ignore_errors=True)
    bundles.bundle(made, "true")
    (made / "config.json").unlink()
    person.own()
    assert runtime(person, "spec", "--rootless", "--bundle", "/home/person/bundle").returncode == 0
    config = json.loads((made / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": list(args)}
    (made / "config.json").write_text(json.dumps(config))
    return made


def test_the_runtime_itself_makes_a_container_of_a_person(tmp_path: Path) -> None:
    person = Person(tmp_path)
    look = "ls /sys/fs/cgroup | grep -c -E 'memory$|cgroup.procs'; id -u; cat /proc/self/uid_map; "
    look += "grep ^CapEff /proc/self/status"
    made = bundle_of(person, "sh", "-c", look)
    ran = runtime(person, "run", "--bundle", "/home/person/bundle", "box")
    assert ran.stdout.split() == ["1", "0", "0", str(UID), "1", "CapEff:", "0000000020000420"], ran.stderr
    config = json.loads((made / "config.json").read_text())
    several = [{"containerID": 0, "hostID": UID, "size": 1}, {"containerID": 1, "hostID": FIRST, "size": 1000}]
    config["linux"] |= {"uidMappings": several, "gidMappings": several}
    config["process"] |= {"args": ["sleep", "100"], "user": {"uid": 7, "gid": 8}}
    (made / "config.json").write_text(json.dumps(config))
    created = runtime(person, "create", "--bundle", "/home/person/bundle", "--pid-file", "/home/person/pid", "box")
    assert created.returncode == 0, created.stderr
    pid = int((person.home / "pid").read_text())
    assert runtime(person, "start", "box").returncode == 0
    assert os.stat(f"/proc/{pid}").st_uid == FIRST + 6
    said = runtime(person, "exec", "--user", "0:0", "box", "sh", "-c", "id -u; kill -9 1; cat /proc/self/uid_map")
    assert said.stdout.split() == ["0", "0", str(UID), "1", "1", str(FIRST), "1000"], said.stderr
    assert json.loads(runtime(person, "state", "box").stdout)["status"] == "running"
    for words in (
        ("ps", "box"),
        ("pause", "box"),
        ("update", "--memory", "1000000", "box"),
        ("events", "--stats", "box"),
    ):
        refused = runtime(person, *words)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused
        assert "container box has no cgroup of its own, which this needs" in refused.stderr
    assert runtime(person, "kill", "--all", "box", "KILL").returncode == 0
    deadline = time.monotonic() + 10
    while json.loads(runtime(person, "state", "box").stdout)["status"] != "stopped":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert runtime(person, "delete", "box").returncode == 0
    assert not os.path.exists(f"/proc/{pid}/exe")
    assert list((person.home / "states").glob("box*")) == []


def test_what_the_runtime_lacks_for_a_person_is_one_line_with_its_fix(tmp_path: Path) -> None:
    person = Person(tmp_path, subordinate="")
    made = bundle_of(person, "true")
    words = ("run", "--bundle", "/home/person/bundle", "box")
    none = runtime(person, *words)
    assert (none.returncode, none.stderr.count("\n")) == (1, 1)
    assert none.stderr.startswith(
        "minicontainer-runtime: run failed: /etc/subuid gives no range of ids to person; try: sudo usermod"
    )
    (tmp_path / "etc/subuid").write_text(f"person:{FIRST}:65536\n")
    (tmp_path / "etc/subgid").write_text(f"person:{FIRST}:65536\n")
    config = json.loads((made / "config.json").read_text())
    config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "user"]
    config["linux"] |= {"uidMappings": [], "gidMappings": []}
    (made / "config.json").write_text(json.dumps(config))
    refused = runtime(person, *words)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "linux.namespaces lacks a user namespace" in refused.stderr
