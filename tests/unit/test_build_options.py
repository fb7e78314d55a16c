"""build_options: the small languages of the flags of `build`."""

import socket
from pathlib import Path

import pytest

from minicontainer import cli
from minicontainer.arguments import Command, UsageError, parse
from minicontainer.build import options
from minicontainer.build.command import request
from minicontainer.build.options import FLAGS, Secret
from minicontainer.build.outputs import Output, output
from minicontainer.build.workbench import Request
from minicontainer.containers import Ulimit
from minicontainer.oci.image import Platform


def asked(*words: str) -> Request:
    return request(parse("minicontainer", Command("build", "", "CONTEXT", 1, 1, flags=FLAGS), [*words, "."]))


def test_the_flags_are_those_of_the_command_line() -> None:
    assert cli.COMMANDS["build"].command.flags == FLAGS


def test_nothing_said_is_what_docker_does() -> None:
    assert asked() == Request(context=".")


def test_everything_said(tmp_path: Path) -> None:
    found = asked(
        "-t", "a", "-t", "b:1", "--build-arg", "x=1", "--label", "l=2", "--target", "t", "--pull", "--no-cache",
        "--no-cache-filter", "One,two", "--no-cache-filter", "three", "--platform", "linux/arm64/v8,amd64",
        "-o", "out", "--network", "default", "--allow", "security.insecure", "--add-host", "h:1.2.3.4",
        "--ulimit", "nofile=1:2", "--shm-size", "1m", "--cgroup-parent", "p", "--build-context", "n=/d",
    )  # fmt: skip
    assert found.tags == ("a", "b:1") and found.build_args == {"x": "1"} and found.labels == {"l": "2"}
    assert (found.target, found.pull, found.no_cache, found.network) == ("t", True, True, "bridge")
    assert found.no_cache_filter == {"one", "two", "three"}
    assert found.platforms == (Platform("arm64"), Platform("amd64"))
    assert found.outputs == (Output("local", dest="out"),)
    assert found.allowed == {"security.insecure"} and found.contexts == {"n": "/d"}
    assert found.run.extra_hosts == ("h:1.2.3.4",) and found.run.ulimits == (Ulimit("nofile", 1, 2),)
    assert (found.run.shm_size, found.run.cgroup_parent) == (1 << 20, "p")


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("VARIABLE", "x")
    table = {
        "id=a,src=file": ("a", Secret(file=f"{tmp_path}/file")),
        "id=a,source=file,type=file": ("a", Secret(file=f"{tmp_path}/file")),
        "id=a,env=VARIABLE": ("a", Secret(variable="VARIABLE")),
        "type=env,id=a,src=VARIABLE": ("a", Secret(variable="VARIABLE")),
        "id=VARIABLE": ("VARIABLE", Secret(variable="VARIABLE")),
        "id=file": ("file", Secret(file=f"{tmp_path}/file")),
        '"id=a","src=file"': ("a", Secret(file=f"{tmp_path}/file")),
    }
    assert {text: options.secret(text) for text in table} == table


@pytest.mark.parametrize("text", ["", "src=file", "id=a,src=x,env=y", "id=a,type=other", "id=a,colour=red", "id=none"])
def test_what_is_no_secret_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--secret"):
        options.secret(text)


def test_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/other")
        assert options.agent("default") == ("default", "/agent")
        assert options.agent(f"work={tmp_path}/other") == ("work", f"{tmp_path}/other")
    (tmp_path / "key").touch()
    with pytest.raises(UsageError, match="key is a file; give its key to an agent: ssh-add"):
        options.agent(f"default={tmp_path}/key")
    monkeypatch.delenv("SSH_AUTH_SOCK")
    with pytest.raises(UsageError, match=r"SSH_AUTH_SOCK is not set; try: eval \$\(ssh-agent\), or --ssh a=SOCKET"):
        options.agent("a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("out", Output("local", "out")),
        ("-", Output("tar", "-")),
        ("type=tar", Output("tar", "-")),
        ("type=oci,dest=a.tar", Output("oci", "a.tar")),
        ("type=oci,tar=false,dest=d", Output("oci", "d", as_directory=True)),
        ("type=docker", Output("docker")),
        ('type=image,"name=a,b:1",push=true',
         Output("image", names=("docker.io/library/a:latest", "docker.io/library/b:1"), push=True)),
        ("type=registry,name=r:5/x", Output("registry", names=("r:5/x:latest",), push=True)),
    ],
)  # fmt: skip
def test_outputs(text: str, expected: Output) -> None:
    assert output(text) == expected


def test_which_outputs_keep_the_image() -> None:
    kept = {text: output(text).keeps for text in ("type=image", "type=docker", "type=docker,dest=a", "type=oci", "out")}
    assert kept == {
        "type=image": True, "type=docker": True, "type=docker,dest=a": False, "type=oci": False, "out": False
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["type=none", "type=local", "type=tar,level=9", "type=oci,compression=zstd", "type=image,name=UPPER"]
)
def test_what_is_no_output_is_refused(text: str) -> None:
    with pytest.raises(Exception, match=r"--output|invalid reference"):
        output(text)
