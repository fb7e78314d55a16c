"""run_options: docker's notations become values; what cannot be read is refused with the notation that is expected."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer import run_options
from minicontainer.arguments import Command, UsageError, parse
from minicontainer.containers import Options, Port, Ulimit, Volume

RUN = Command("run", "", "IMAGE", 1, None, run_options.FLAGS, rest=True)


def options(*arguments: str, environ: dict[str, str] | None = None) -> Options:
    return run_options.options(parse("mc", RUN, arguments), environ or {})


def test_an_image_alone_has_the_defaults() -> None:
    assert options("busybox") == Options(image="busybox")


def test_every_flag_lands_in_its_field() -> None:
    made = options(
        *("-it", "--rm", "--name", "web", "-w", "/srv", "-u", "1000:1000", "--hostname", "h", "--network", "none"),
        *("--entrypoint", "sh", "--restart", "no", "-l", "a=b", "-l", "c", "-m", "64m", "--memory-reservation", "32m"),
        *("--memory-swap", "-1", "--cpus", "1.5", "-c", "512", "--pids-limit", "10", "--cap-add", "NET_ADMIN"),
        *("--cap-drop", "ALL", "--security-opt", "seccomp=unconfined", "--read-only", "--tmpfs", "/tmp:size=1m"),
        *("--shm-size", "1m", "--stop-signal", "INT", "--stop-timeout", "3", "--userns", "host"),
        *("--cgroup-parent", "ecs/1", "--dns", "192.0.2.1", "--add-host", "db:192.0.2.2", "busybox", "ls", "-l"),
    )
    assert made == Options(
        image="busybox",
        command=("ls", "-l"),
        name="web",
        entrypoint=("sh",),
        workdir="/srv",
        user="1000:1000",
        hostname="h",
        network="none",
        labels={"a": "b", "c": ""},
        memory=64 << 20,
        memory_reservation=32 << 20,
        memory_swap=-1,
        cpus=1.5,
        cpu_shares=512,
        pids_limit=10,
        cap_add=("NET_ADMIN",),
        cap_drop=("ALL",),
        security_opt=("seccomp=unconfined",),
        read_only=True,
        tmpfs=("/tmp:size=1m",),
        shm_size=1 << 20,
        stop_signal="INT",
        stop_timeout=3,
        userns="host",
        cgroup_parent="ecs/1",
        dns=("192.0.2.1",),
        extra_hosts=("db:192.0.2.2",),
        remove=True,
        tty=True,
        interactive=True,
    )


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("80", Port(80)),
        ("8080:80", Port(80, 8080)),
        ("8080:80/udp", Port(80, 8080, "udp")),
        ("127.0.0.1:8080:80", Port(80, 8080, "tcp", "127.0.0.1")),
        ("127.0.0.1::80", Port(80, 0, "tcp", "127.0.0.1")),
        ("0.0.0.0:8080:80/tcp", Port(80, 8080)),
    ],
)
def test_a_port_in_every_notation(text: str, port: Port) -> None:
    assert run_options.port(text) == port


@pytest.mark.parametrize("text", ["", "x", "0", "65536", "80:", "1:2:3:4", "80/sctp", "::1:80", "-1", "80:99999"])
def test_a_port_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="--publish"):
        run_options.port(text)


@given(st.text(max_size=20))
def test_a_port_is_read_or_refused(text: str) -> None:
    try:
        port = run_options.port(text)
    except UsageError:
        return
    assert 0 < port.container_port < 65536
    assert 0 <= port.host_port < 65536


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("1k", 1024), ("1.5g", 3 << 29), ("512M", 512 << 20), ("10mb", 10 << 20)],
)
def test_a_size(text: str, size: int) -> None:
    assert run_options.size("--memory", text) == size


@pytest.mark.parametrize("text", ["", "x", "1x", "-5", "1..5g", "m"])
def test_a_size_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"--memory .* a size such as 512m or 2g is expected"):
        run_options.size("--memory", text)


def test_a_volume(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_options.volume("/a:/b") == Volume("/a", "/b")
    assert run_options.volume("/a:/b:ro") == Volume("/a", "/b", read_only=True)
    assert run_options.volume("/a") == Volume("", "/a", anonymous=True)
    assert run_options.volume("data:/b:ro") == Volume("", "/b", read_only=True, name="data")
    assert run_options.volume("./a:/b:rw") == Volume(f"{tmp_path}/a", "/b")


@pytest.mark.parametrize("text", ["a", ":/b", "/a:", "/a:/b:nonsense", ""])
def test_a_volume_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="--volume"):
        run_options.volume(text)


def test_a_ulimit() -> None:
    assert run_options.ulimit("nofile=100:200") == Ulimit("nofile", 100, 200)
    assert run_options.ulimit("core=0") == Ulimit("core", 0, 0)
    assert run_options.ulimit("memlock=-1") == Ulimit("memlock", (1 << 64) - 1, (1 << 64) - 1)
    with pytest.raises(UsageError, match="--ulimit"):
        run_options.ulimit("nofile")


def test_an_environment_of_files_then_flags_then_the_callers_own(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=1\nHERE\nABSENT\nB=x=y\n")
    found = options("--env-file", os.fspath(file), "-e", "C=3", "-e", "HERE", "i", environ={"HERE": "h"}).env
    assert found == ("A=1", "HERE=h", "B=x=y", "C=3", "HERE=h")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "-x", "i"], "--name '-x'"),
        (["--name", "a/b", "i"], "--name 'a/b'"),
        (["--cpus", "0", "i"], "--cpus '0'"),
        (["--cpus", "many", "i"], "--cpus 'many'"),
        (["--stop-timeout", "soon", "i"], "--stop-timeout 'soon'"),
        (["-e", "=x", "i"], "--env '=x'"),
        (["--add-host", "db", "i"], "--add-host 'db'"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_with_its_flag(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        options(*arguments)
    assert str(raised.value).startswith(said)


def test_no_limit_of_processes() -> None:
    assert options("--pids-limit", "-1", "i").pids_limit == 0


def test_a_missing_env_file_is_the_kernels_word(tmp_path: Path) -> None:
    missing: Any = os.fspath(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        options("--env-file", missing, "i")


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("type=bind,source=/a,target=/b", Volume("/a", "/b")),
        ("type=bind,src=/a,dst=/b,readonly", Volume("/a", "/b", read_only=True)),
        ("type=bind,src=/a,destination=/b,ro=1,bind-propagation=rprivate", Volume("/a", "/b", read_only=True)),
        ("type=bind,src=/a,dst=/b,ro=false", Volume("/a", "/b")),
        ("type=tmpfs,dst=/b", "/b"),
        ("dst=/b,ro", Volume("", "/b", read_only=True, anonymous=True)),
        ("src=data,dst=/b", Volume("", "/b", name="data")),
        ("type=volume,src=data,dst=/b,readonly", Volume("", "/b", read_only=True, name="data")),
        ("type=tmpfs,dst=/b,tmpfs-size=1024,tmpfs-mode=700", "/b:size=1024,mode=700"),
    ],
)
def test_a_mount(text: str, made: Volume | str) -> None:
    assert run_options.mount(text) == made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type=bind,dst=/b", "is expected"),
        ("type=bind,src=/a", "is expected"),
        ("type=tmpfs,src=/a,dst=/b", "is expected"),
        ("type=bind,src=/a,dst=/b,colour=red", "is expected"),
        ("type=bind,src=/a,dst=/b,bind-propagation=shared", "no mount of a container spreads"),
        ("type=npipe,src=/a,dst=/b", "is expected"),
        ("", "is expected"),
    ],
)
def test_a_mount_that_is_none(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run_options.mount(text)


def test_mounts_are_volumes_and_file_systems_in_memory() -> None:
    made = options(
        *(
            "-v",
            "/v:/w",
            "--mount",
            "type=bind,src=/a,dst=/b",
            "--tmpfs",
            "/t",
            "--mount",
            "type=tmpfs,dst=/m",
            "busybox",
        )
    )
    assert (made.volumes, made.tmpfs) == ((Volume("/v", "/w"), Volume("/a", "/b")), ("/t", "/m"))
