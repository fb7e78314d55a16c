"""The command line as people use it: the real command in a process of its own, statuses, streams, terminals."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from minicontainer.containers import Home
from tests import images

COMMAND = (sys.executable, "-m", "minicontainer.cli")


class Cli:
    """The command with a home of its own."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def __call__(self, *arguments: str, text: str = "", timeout: float = 30) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, "--root", self.home.data, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def out(self, *arguments: str, text: str = "") -> str:
        done = self(*arguments, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def terminal(
        self, *arguments: str, talk: Sequence[tuple[bytes, bytes]] = (), seconds: float = 60
    ) -> tuple[int, str]:
        """Run on a terminal of 33 lines and 101 columns; when the first text is seen, type the second."""
        pid, master = pty.fork()
        if pid == 0:
            os.execv(COMMAND[0], [*COMMAND, "--root", self.home.data, *arguments])
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        seen, pending, deadline = b"", list(talk), time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.05)[0]:
                try:
                    part = os.read(master, 4096)
                except OSError:  # EIO: the command has ended
                    break
                seen += part
            while pending and pending[0][0] in seen:
                os.write(master, pending.pop(0)[1])
        else:
            os.kill(pid, signal.SIGKILL)
        os.close(master)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with images.busybox_home(tmp_path / "data") as home:
        yield Cli(home)


def run(cli: Cli, *words: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    return cli("run", "--rm", "--network", "none", *words, text=text)


# --- run -------------------------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_streams_and_status_of_a_foreground_run(cli: Cli) -> None:
    done = run(cli, "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert cli.out("ps", "-aq") == ""


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("busybox", "/nonesuch"), 127, "/nonesuch"),
        (("busybox", "/etc/passwd"), 126, "/etc/passwd"),
        (("-v", "-name:/x", "busybox"), 125, "is no name of a volume"),
        (("--memory", "lots", "busybox"), 125, "--memory 'lots': a size such as 512m"),
        (("--nmae", "x", "busybox"), 125, "unknown flag --nmae (did you mean --name?)"),
        ((), 125, "IMAGE [COMMAND [ARGUMENT...]] is missing"),
    ],
)
def test_a_run_that_cannot_be_is_one_line_and_leaves_no_container(
    cli: Cli, words: tuple[str, ...], code: int, said: str
) -> None:
    done = run(cli, *words)
    assert done.returncode == code
    assert done.stderr.startswith("minicontainer: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert cli.out("ps", "-aq") == ""


@pytest.mark.kernel("overlay")
def test_stdin_reaches_the_container_with_i_and_only_with_i(cli: Cli) -> None:
    assert run(cli, "-i", "busybox", "cat", text="hello\n" * 5000).stdout == "hello\n" * 5000
    assert run(cli, "busybox", "cat", text="hello\n").stdout == ""


@pytest.mark.kernel("overlay")
def test_a_terminal_has_the_size_of_ours_and_is_the_containers_own(cli: Cli) -> None:
    script = "stty size; tty; read x; echo got $x; exit 4"
    words = ("run", "--rm", "-it", "--network", "none", "busybox", "sh", "-c", script)
    code, seen = cli.terminal(*words, talk=[(b"/dev/pts/0", b"word\n")])
    assert code == 4, seen
    assert "33 101" in seen
    assert "got word" in seen


@pytest.mark.kernel("overlay")
def test_ctrl_c_is_felt_by_who_listens(cli: Cli) -> None:
    script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    words = ("run", "--rm", "--network", "none", "busybox", "sh", "-c", script)
    code, seen = cli.terminal(*words, talk=[(b"ready", b"\x03")])
    assert (code, "caught" in seen) == (5, True)


@pytest.mark.kernel("overlay")
def test_ctrl_c_ends_also_who_does_not_listen(cli: Cli) -> None:
    words = ("run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo ready; sleep 60")
    assert cli.terminal(*words, talk=[(b"ready", b"\x03")])[0] == 130
    assert cli.out("ps", "-aq") == ""


@pytest.mark.kernel("overlay")
def test_the_interactive_flags_without_a_terminal_say_so(cli: Cli) -> None:
    done = run(cli, "-it", "busybox", "true")
    assert (done.returncode, "is not a terminal" in done.stderr) == (125, True)


@pytest.mark.kernel("overlay")
def test_explain_prints_calls_and_reasons_and_step_wants_a_terminal(cli: Cli) -> None:
    done = run(cli, "--explain", "busybox", "true")
    assert done.returncode == 0
    for call in ('mount("overlay"', "clone3(", "pivot_root(", "seccomp(", "execve("):
        assert call in done.stderr
    assert run(cli, "--step", "busybox", "true").returncode == 125
    words = ("run", "--rm", "--step", "--network", "none", "busybox", "echo", "done")
    code, seen = cli.terminal(*words, talk=[(b"userns_fd", b"\n" * 400)])
    assert (code, "done" in seen) == (0, True)


# --- in the background -----------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_the_life_of_a_container_in_the_background(cli: Cli) -> None:
    container = cli.out("run", "-d", "--name", "web", "--network", "none", "busybox", "sh", "-c",
                        "trap 'exit 0' TERM; echo hello; while :; do sleep 0.05; done").strip()  # fmt: skip
    assert len(container) == 64
    assert "web" in cli.out("ps")
    assert json.loads(cli.out("ps", "--format", "json"))["State"] == "running"
    assert cli("exec", "web", "sh", "-c", "exit 3").returncode == 3
    assert cli("exec", "web", "nonesuch").returncode == 127
    assert cli.out("exec", "-i", "-e", "A=b", "-w", "/tmp", "-u", "web", "web", "sh", "-c",
                   "cat; echo $A; pwd; id -u", text="in\n").split() == ["in", "b", "/tmp", "1000"]  # fmt: skip
    assert cli.out("logs", "web") == "hello\n"
    assert cli.out("logs", "-t", "-n", "1", "web").endswith("Z hello\n")
    [shown] = json.loads(cli.out("inspect", "web"))
    assert (shown["Id"], shown["State"]["Running"]) == (container, True)
    assert "web" in cli.out("stats", "--no-stream")
    assert cli("rm", "web").returncode == 1
    assert cli.out("stop", "web") == "web\n"
    assert cli.out("wait", "web") == "0\n"
    assert "Exited (0)" in cli.out("ps", "-a")
    assert cli.out("ps") == cli.out("ps", "--filter", "status=running")
    assert cli.out("start", "web") == "web\n"
    assert cli.out("rm", "-f", "web") == "web\n"
    assert cli.out("ps", "-aq") == ""


@pytest.mark.kernel("overlay")
def test_a_terminal_of_exec(cli: Cli) -> None:
    cli.out("run", "-d", "--name", "web", "--network", "none", "busybox", "sleep", "60")
    words = ("exec", "-it", "web", "sh", "-c", "stty size; read x; echo got $x; exit 6")
    code, seen = cli.terminal(*words, talk=[(b"33 101", b"word\n")])
    assert (code, "got word" in seen) == (6, True)
    cli.out("rm", "-f", "web")


@pytest.mark.kernel("overlay")
def test_create_start_attached_and_cidfile(cli: Cli, tmp_path: Path) -> None:
    cidfile = tmp_path / "cid"
    created = cli.out(
        "create", "--cidfile", str(cidfile), "--network", "none", "busybox", "sh", "-c", "echo hi; exit 2"
    )
    assert cidfile.read_text() == created.strip()
    done = cli("start", "-a", created.strip())
    assert (done.returncode, done.stdout) == (2, "hi\n")
    assert cli("create", "--cidfile", str(cidfile), "busybox").returncode == 125
    cli.out("rm", created.strip()[:12])


@pytest.mark.kernel("overlay")
def test_env_files_labels_filters_and_names(cli: Cli, tmp_path: Path) -> None:
    env = tmp_path / "env"
    env.write_text("FROM=file\n")
    assert run(cli, "--env-file", str(env), "-e", "B=2", "busybox", "sh", "-c", "echo $FROM $B").stdout == "file 2\n"
    cli.out("create", "--name", "one", "-l", "tier=front", "busybox")
    cli.out("create", "--name", "two", "busybox")
    assert len(cli.out("ps", "-aq", "--filter", "label=tier=front").split()) == 1
    assert cli("create", "--name", "one", "busybox").stderr.startswith("minicontainer: the name one is in use by")
    done = cli("rm", "one", "absent", "two")
    assert (done.returncode, done.stdout) == (1, "one\ntwo\n")
    assert "no container absent" in done.stderr


@pytest.mark.kernel("overlay")
def test_a_taken_port_names_the_process_that_holds_it(cli: Cli) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    cli.out("run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sleep", "60")
    assert cli.out("port", "web") == "80/tcp -> 0.0.0.0:8080\n"
    done = cli("run", "-d", "-p", "8080:81", "busybox", "sleep", "60")
    assert done.returncode == 125
    assert "port 0.0.0.0:8080/tcp is taken by pid " in done.stderr
    assert len(cli.out("ps", "-aq").split()) == 1
    cli.out("rm", "-f", "web")


# --- statuses and what is written ------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("words", [("inspect", "nope"), ("stop", "nope"), ("rm", "nope"), ("logs", "nope"),
                                   ("kill", "still"), ("exec", "still", "true"), ("port", "nope")])  # fmt: skip
def test_what_is_not_there_or_does_not_run_ends_with_1_and_says_what_to_try(cli: Cli, words: tuple[str, ...]) -> None:
    cli.out("create", "--name", "still", "busybox")
    done = cli(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("minicontainer: ") and done.stderr.count("\n") == 1
    assert "; try: minicontainer " in done.stderr


@pytest.mark.kernel("overlay")
def test_a_signal_is_128_and_its_number(cli: Cli) -> None:
    assert run(cli, "busybox", "sh", "-c", "kill -TERM $$; exit 3").returncode == 3  # init does not feel its own
    cli.out("run", "-d", "--name", "web", "--network", "none", "busybox", "sh", "-c", "trap 'exit 1' USR1; sleep 60")
    assert cli("kill", "-s", "KILL", "web").stdout == "web\n"
    assert cli.out("wait", "web") == "137\n"
    assert json.loads(cli.out("inspect", "web"))[0]["State"]["ExitCode"] == 137


@pytest.mark.kernel("overlay")
def test_stats_once_and_until_the_named_containers_have_ended(cli: Cli) -> None:
    cli.out("run", "-d", "--name", "short", "--network", "none", "busybox", "sleep", "60")
    cli.out("run", "-d", "--name", "long", "--network", "none", "-m", "64m", "busybox", "sleep", "60")
    rows = [json.loads(line) for line in cli.out("stats", "--no-stream", "--format", "json").splitlines()]
    assert {row["Name"] for row in rows} == {"short", "long"}
    [long] = [row for row in rows if row["Name"] == "long"]
    assert long["PIDs"] == "1" and long["MemUsage"].endswith(" / 67.1MB") and long["CPUPerc"].endswith("%")
    words = [*COMMAND, "--root", cli.home.data, "stats", "short"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as stats:
        assert stats.stdout
        first = [stats.stdout.readline(), stats.stdout.readline()]
        cli.out("kill", "short")
        rest = stats.stdout.read()
    assert first[0].startswith("CONTAINER ID") and " short " in first[1]
    assert rest.splitlines()[-1].startswith("CONTAINER ID")  # of none any more: that is its end
    assert stats.returncode == 0
    assert "long" not in first[1] + rest
    cli.out("rm", "-f", "long")


@pytest.mark.kernel("overlay")
def test_explain_says_who_does_a_step_and_shows_the_overlay_as_the_kernel_hears_it(cli: Cli) -> None:
    steps = [line for line in run(cli, "--explain", "busybox", "true").stderr.splitlines() if line[:1] != " "]
    assert {line.split()[0] for line in steps} == {"supervisor", "init"}
    [overlay] = [line for line in steps if 'mount("overlay"' in line]
    assert '"lowerdir=/' in overlay and ",upperdir=/" in overlay and ",workdir=/" in overlay
    assert not [line for line in steps if "('/" in line]


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.kernel("overlay")
def test_templates_are_filled_in_as_docker_does(cli: Cli) -> None:
    for name in ("web", "database"):
        cli.out("run", "-d", "--name", name, "--network", "none", "-e", "A=1", "busybox", "sleep", "60")
    assert cli.out("ps", "--format", "{{.Names}} {{.State}}") == "database running\nweb running\n"
    assert cli.out("ps", "--format", r"table {{.Names}}\t{{.Image}}") == (
        "NAMES      IMAGE\ndatabase   busybox\nweb        busybox\n"
    )
    assert cli.out("inspect", "-f", "{{.Name}}: {{range .Config.Env}}{{.}}{{end}}", "web") == "web: A=1\n"
    assert cli.out("container", "inspect", "-f", "{{.State.Running}}", "web", "database") == "true\ntrue\n"
    [pid] = json.loads(cli.out("inspect", "--format", "json", "--type", "container", "web"))
    assert pid["State"]["Pid"] == int(cli.out("inspect", "-f", "{{.State.Pid}}", "web"))
    assert cli.out("images", "--format", "{{.Repository}}:{{.Tag}}") == "busybox:latest\n"
    assert cli.out("image", "inspect", "-f", "{{len .RootFS.Layers}}", "busybox") == "1\n"
    assert cli.out("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "web") == "web 1\n"
    assert cli.out("system", "df", "--format", "{{.Type}}").split("\n")[0] == "Images"
    done = cli("ps", "--format", "{{.Nmaes}}")
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)
    assert "--format: there is no field .Nmaes; there are: ID, Image," in done.stderr
    assert cli("inspect", "--type", "image", "web").returncode == 1
    cli.out("rm", "-fv", "web", "database")


@pytest.mark.kernel("overlay")
def test_info_counts_what_is_here_and_knows_the_computer(cli: Cli) -> None:
    for name in ("runs", "stands"):
        cli.out("run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "60")
    cli.out("create", "busybox")
    cli.out("pause", "stands")
    known = json.loads(cli.out("info", "--format", "json"))
    assert [known[f"Containers{state}"] for state in ("", "Running", "Paused", "Stopped")] == [3, 1, 1, 1]
    assert (known["Images"], known["RootDir"], known["Rootless"]) == (1, cli.home.data, False)
    assert cli.out("system", "info", "-f", "{{.KernelVersion}} {{.NCPU}}").split() == [
        os.uname().release,
        str(len(os.sched_getaffinity(0))),
    ]
    said = cli.out("info")
    assert "Containers: 3\n Running: 1\n Paused: 1\n" in said and "\nRootless: false\n" in said
    cli.out("rm", "-f", "runs", "stands")


@pytest.mark.kernel("overlay")
def test_what_is_paused_stands_still_and_stops_all_the_same(cli: Cli) -> None:
    cli.out("run", "-d", "--name", "web", "--network", "none", "busybox", "sh", "-c",
            "trap 'exit 3' TERM; while :; do date +%N >/now; sleep 0.01; done")  # fmt: skip
    cli.out("exec", "web", "sh", "-c", "until [ -s /now ]; do sleep 0.01; done")  # it goes on, and has its trap
    assert cli.out("pause", "web") == "web\n"
    assert "(Paused)" in cli.out("ps")
    assert cli.out("inspect", "-f", "{{.State.Status}} {{.State.Paused}} {{.State.Running}}", "web") == (
        "paused true true\n"
    )
    root = f"/proc/{cli.out('inspect', '-f', '{{.State.Pid}}', 'web').strip()}/root/now"
    before = Path(root).read_text()
    time.sleep(0.1)
    assert Path(root).read_text() == before
    assert cli("exec", "web", "true").returncode != 0
    assert cli.out("unpause", "web") == "web\n"
    assert cli("unpause", "web").stderr == "minicontainer: container web is not paused\n"
    assert cli.out("exec", "web", "echo", "on") == "on\n"
    cli.out("pause", "web")
    assert cli.out("stop", "web") == "web\n"
    assert cli.out("wait", "web") == "3\n"  # it felt the signal
    assert "is not running" in cli("pause", "web").stderr
    cli.out("start", "web")
    cli.out("pause", "web")
    assert cli.out("rm", "-f", "web") == "web\n"


@pytest.mark.kernel("overlay")
def test_top_shows_the_containers_processes_alone(cli: Cli) -> None:
    cli.out("run", "-d", "--name", "web", "--network", "none", "busybox", "sleep", "61")
    for words in ((), ("-o", "pid,args"), ("aux",)):
        title, *lines = cli.out("top", "web", *words).splitlines()
        assert "PID" in title.split()
        assert [line for line in lines if "sleep 61" in line] == lines != []
    cli.out("rm", "-f", "web")
    assert cli("top", "web").returncode == 1


@pytest.mark.kernel("overlay")
def test_with_init_the_first_process_reaps_what_nobody_waits_for(cli: Cli) -> None:
    """`sleep` never waits for the orphan that its shell has left; without --init that stays, as a zombie."""
    for name, flags in (("without", ()), ("with", ("--init",))):
        cli.out("run", "-d", *flags, "--name", name, "--network", "none", "busybox", "sh", "-c",
                "(sleep 0.01 &); exec sleep 60")  # fmt: skip
        shown, deadline = " sleep 0.01\n", time.monotonic() + 30
        while " sleep 0.01\n" in shown and time.monotonic() < deadline:
            shown = cli.out("exec", name, "ps", "-o", "pid,stat,args")
        assert bool(re.search(r" Z +\[sleep\]", shown)) == (name == "without"), shown
        assert ("/dev/init -- sh -c" in shown) == (name == "with")
    assert cli.out("ps", "--filter", "name=with", "--no-trunc", "-l", "--format", "{{.Command}}").startswith('"sh -c ')
    assert [line for line in cli.out("diff", "with").splitlines() if "init" in line] == []
    cli.out("stop", "with")
    assert cli.out("wait", "with") == "143\n"  # the signal was handed on, and ended who does not handle it
    assert run(cli, "--init", "busybox", "sh", "-c", "exit 7").returncode == 7
    assert run(cli, "--init", "-u", "web", "--read-only", "busybox", "id", "-un").stdout == "web\n"
    cli.out("rm", "-f", "with", "without")


@pytest.mark.kernel("overlay")
def test_a_new_name_is_kept_and_the_old_one_is_free(cli: Cli) -> None:
    cli.out("run", "-d", "--name", "old", "--network", "none", "busybox", "sleep", "60")
    cli.out("create", "--name", "taken", "busybox")
    assert "the name taken is in use by" in cli("rename", "old", "taken").stderr
    assert "letters, digits" in cli("rename", "old", "no/name").stderr
    assert cli.out("rename", "old", "new") == ""
    assert cli.out("ps", "--format", "{{.Names}}") == "new\n"
    assert cli("inspect", "old").returncode == 1
    cli.out("create", "--name", "old", "busybox")
    assert cli.out("stop", "-t", "0", "new") == "new\n"  # its supervisor has written the record once more
    assert cli.out("ps", "-a", "--format", "{{.Names}}").split() == ["old", "taken", "new"]
    cli.out("rename", "new", "newest")
    cli.out("rm", "newest", "taken", "old")
    cli.out("run", "-d", "--rm", "--name", "old", "--network", "none", "busybox", "sleep", "60")
    cli.out("rename", "old", "new")
    cli.out("stop", "-s", "KILL", "new")
    assert os.listdir(f"{cli.home.data}/names") == []


@pytest.mark.kernel("overlay")
def test_flags_that_docker_users_type(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/file").write_text("seen\n")
    env = tmp_path / "env"
    env.write_text("FROM=file\n")
    bind = f"type=bind,src={tmp_path}/shared,dst=/shared,readonly"
    script = "hostname; cat /shared/file; touch /shared/x || grep -c '^tmpfs /mem ' /proc/mounts"
    memory = "type=tmpfs,dst=/mem,tmpfs-size=1048576"
    done = run(cli, "-h", "box", "--mount", bind, "--mount", memory, "busybox", "sh", "-c", script)
    assert done.stdout.split() == ["box", "seen", "1"]
    for name in ("one", "two", "three"):
        cli.out("create", "--name", name, "--network", "none", "busybox", "sh", "-c", "echo $0; cat")
    assert cli.out("ps", "-l", "--format", "{{.Names}}") == "three\n"
    assert cli.out("ps", "-n", "2", "--format", "{{.Names}}") == "three\ntwo\n"
    assert cli.out("container", "ls", "-aq").split() == cli.out("ps", "-aq").split()
    assert cli.out("start", "-ai", "one") == "sh\n"
    assert cli.out("logs", "--until", "1h", "one") == ""
    assert cli.out("logs", "--until", "0s", "one") == "sh\n"
    cli.out("run", "-d", "--name", "web", "--network", "none", "busybox", "sleep", "60")
    assert cli.out("exec", "--env-file", str(env), "web", "sh", "-c", "echo $FROM") == "file\n"
    cli.out("tag", "busybox", "other:2")
    assert cli.out("images", "--filter", "reference=oth*", "--format", "{{.Tag}}") == "2\n"
    assert cli.out("images", "--filter", "dangling=true", "-q") == ""
    assert "sha256:" in cli.out("images", "--digests")
    assert "--filter 'x=y': dangling=true" in cli("images", "--filter", "x=y").stderr
    cli.out("rm", "-f", "web")
    assert cli("prune", "-f").returncode == 0


@pytest.mark.kernel("overlay")
def test_settings_of_the_kernel_cpus_and_domains(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("# of the house\ntier=front\n")
    flags = (
        "--cpuset-cpus",
        "0",
        "--sysctl",
        "net.ipv4.tcp_keepalive_time=77",
        "--dns-search",
        "lan",
        "--dns",
        "192.0.2.1",
    )
    script = "grep Cpus_allowed_list /proc/self/status; cat /proc/sys/net/ipv4/tcp_keepalive_time /etc/resolv.conf"
    words = (
        "--label-file",
        str(tmp_path / "labels"),
        "-l",
        "a=b",
        "--name",
        "set",
        *flags,
        "busybox",
        "sh",
        "-c",
        script,
    )
    said = cli.out("run", "--network", "none", *words)
    assert said.split() == ["Cpus_allowed_list:", "0", "77", "search", "lan", "nameserver", "192.0.2.1"]
    assert json.loads(cli.out("inspect", "-f", "{{json .Config.Labels}}", "set")) == {"tier": "front", "a": "b"}
    cli.out("rm", "set")
    done = run(cli, "--sysctl", "kernel.panic=1", "busybox", "true")
    assert done.returncode == 125 and "kernel.panic" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.kernel("overlay")
def test_all_exposed_ports_are_published_when_asked_for(cli: Cli) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    cli.out("create", "--name", "made", "busybox")
    cli.out("commit", "-c", "EXPOSE 80 53/udp", "made", "web:1")
    cli.out("run", "-d", "--name", "web", "-P", "-p", "8080:80", "web:1", "sleep", "60")
    assert cli.out("port", "web", "80") == "0.0.0.0:8080\n"
    assert cli.out("port", "web").splitlines()[0] == "80/tcp -> 0.0.0.0:8080"
    assert int(cli.out("port", "web", "53/udp").rpartition(":")[2]) > 1023
    assert cli("port", "web", "99").returncode == 1
    cli.out("rm", "-f", "web", "made")


@pytest.mark.kernel("overlay")
def test_images_are_listed_tagged_saved_removed_and_loaded(cli: Cli, tmp_path: Path) -> None:
    archive = str(tmp_path / "image.tar")
    cli.out("tag", "busybox", "copy:2")
    rows = [json.loads(line) for line in cli.out("images", "--format", "json").splitlines()]
    assert {(row["Repository"], row["Tag"]) for row in rows} == {("busybox", "latest"), ("copy", "2")}
    assert len(cli.out("images", "-q").split()) == 1
    cli.out("save", "-o", archive, "copy:2")
    assert "Untagged: copy:2" in cli.out("rmi", "copy:2")
    assert "Deleted: sha256:" in cli.out("rmi", "busybox")
    assert cli.out("images", "-q") == ""
    assert cli.out("load", "-i", archive) == "Loaded image: copy:2\n"
    assert run(cli, "copy:2", "echo", "again").stdout == "again\n"
    [shown] = json.loads(cli.out("inspect", "copy:2"))
    assert shown["RepoTags"] == ["copy:2"]


@pytest.mark.kernel("overlay")
def test_skopeo_reads_what_is_saved_and_its_archives_are_loaded(cli: Cli, tmp_path: Path) -> None:
    saved = str(tmp_path / "saved.tar")
    cli.out("save", "-o", saved, "busybox")
    for kind in ("docker-archive", "oci-archive"):
        copied = str(tmp_path / f"{kind}.tar")
        subprocess.run(["skopeo", "copy", "-q", f"{kind}:{saved}", f"{kind}:{copied}:127.0.0.1/{kind}:3"], check=True)
        assert kind in cli.out("load", "-i", copied)
        assert run(cli, f"127.0.0.1/{kind}:3", "echo", kind).stdout == f"{kind}\n"


@pytest.mark.kernel("overlay")
def test_prune_removes_what_has_ended_and_what_nobody_needs(cli: Cli) -> None:
    ended = cli.out("run", "-d", "--network", "none", "busybox", "true").strip()
    cli.out("wait", ended)
    cli.out("create", "--name", "kept", "busybox")
    assert ended in cli.out("prune")
    assert cli.out("ps", "-a", "--format", "json").count("\n") == 1
