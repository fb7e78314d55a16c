"""RUN --mount: files of the context, of a stage, of a cache, secrets and agents, and nothing of them in the image."""

import os
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from minicontainer.build import cache_mounts
from minicontainer.build.options import Secret
from tests.kernel.test_dockerfiles import Link, World, place, world

__all__ = ["place", "world"]  # the fixtures


def content(world: World) -> bytes:
    """Everything that is in the store, the cache and the layers, as one text to be searched."""
    found = []
    for parent, _, names in os.walk(world.home.data):
        for name in names:
            path = Path(parent) / name
            if path.is_file() and not path.is_symlink():
                found.append(path.read_bytes())
    return b"\n".join(found)


ASK = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(void)
{
    struct sockaddr_un address = {AF_UNIX};
    char said[100] = {0};
    int agent = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(address.sun_path, getenv("SSH_AUTH_SOCK"));
    if (connect(agent, (void *)&address, sizeof address) || write(agent, "ask", 3) != 3 || read(agent, said, 99) < 1)
        return 1;
    return puts(said) < 0;
}
"""

# --- bind


@pytest.mark.kernel("overlay")
def test_the_context_is_shown_as_copy_would_make_it(world: World) -> None:
    files = {"a.txt": "A", "d/in": "I", "gone": "G", ".dockerignore": "gone", "d/link": Link("in")}
    built = world.build(
        "FROM base\nRUN --mount=target=/ctx cat /ctx/a.txt /ctx/d/link > /a; ls -A /ctx > /ls; touch /ctx/no || true\n"
        "RUN --mount=type=bind,source=a.txt,target=/etc/one cat /etc/one > /b\n"
        "WORKDIR /w\nRUN --mount=target=.,rw touch new && ls -A new > /c",
        files,
    )
    assert {name: built.tree[name] for name in "abc"} == {"a": "f 644 AI", "b": "f 644 A", "c": "f 644 new\n"}
    assert built.tree["ls"] == "f 644 .dockerignore\nDockerfile\na.txt\nd\n"
    assert set(built.tree) == {"a", "b", "c", "ls", "w"}
    assert not (world.context / "new").exists()


@pytest.mark.kernel("overlay")
def test_a_stage_is_shown_with_its_owners_and_what_is_written_is_lost(world: World) -> None:
    built = world.build(
        "FROM base AS made\n"
        "RUN mkdir -p /s/d && echo 1 > /s/d/f && chown 3:4 /s/d/f && chmod 600 /s/d/f; ln -s /s/d /l\n"
        "FROM base\nRUN --mount=from=made,source=/l,target=/m,rw cat /m/f > /x; id -u > /dev/null; echo 2 > /m/g\n"
        "RUN --mount=from=made,target=/m ls /m/s/d > /y; touch /m/t || echo refused >> /y\n"
        "RUN --mount=from=base,source=etc,target=/m cat /m/passwd | wc -l > /z",
    )
    assert built.tree["x"] == "f 644 1\n"
    assert built.tree["y"] == "f 644 f\nrefused\n"
    assert built.tree["z"] == "f 644 2\n"
    assert "m" not in built.tree


@pytest.mark.kernel("overlay")
def test_a_link_in_a_stage_shows_nothing_of_the_host(world: World, tmp_path: Path) -> None:
    (tmp_path / "host").write_text("of the host")
    said = world.refused(
        f"FROM base AS evil\nRUN ln -s {tmp_path}/host /out; ln -s ../../../../../../{tmp_path} /up\n"
        "FROM base\nRUN --mount=from=evil,source=/out,target=/m cat /m"
    )
    assert said == "Dockerfile:4: RUN: /out is not in --mount=from=evil"


@pytest.mark.kernel("overlay")
def test_what_a_mount_shows_is_part_of_the_key(world: World) -> None:
    text = "FROM base\nRUN --mount=source=keyed,target=/m cat /m > /kept"
    assert world.build(text, {"keyed": "1"}).cached == 0
    assert world.build(text, {"keyed": "1"}).cached == 1
    changed = world.build(text, {"keyed": "2"})
    assert (changed.cached, changed.tree["kept"]) == (0, "f 644 2")
    stage = "FROM base AS a\nRUN echo 1 > /k\nFROM base\nRUN --mount=from=a,target=/m cat /m/k > /k2"
    world.build(stage)
    assert world.build(stage.replace("echo 1", "echo 3")).tree["k2"] == "f 644 3\n"
    assert world.build(stage.replace("from=a,", "from=a,rw,")).cached == 1


@pytest.mark.kernel("overlay")
def test_a_mount_of_nothing_is_refused(world: World) -> None:
    said = world.refused("FROM base\nRUN --mount=source=none,target=/m true", {"b": "b"})
    assert said == "Dockerfile:2: RUN: none is not in the context CONTEXT"
    said = world.refused("FROM base\nRUN --mount=from=base,source=none,target=/m true")
    assert said == "Dockerfile:2: RUN: none is not in --mount=from=base"


# --- tmpfs, network, security


@pytest.mark.kernel("overlay")
def test_a_tmpfs_is_memory_and_gone(world: World) -> None:
    built = world.build(
        "FROM base\nRUN --mount=type=tmpfs,target=/t/mp,size=1m echo x > /t/mp/x; grep ' /t/mp ' /proc/mounts > /seen\n"
    )
    assert "tmpfs" in built.tree["seen"] and "size=1024k" in built.tree["seen"]
    assert set(built.tree) == {"seen"}


@pytest.mark.kernel("overlay")
def test_insecure_needs_to_be_allowed(world: World) -> None:
    text = "FROM base\nRUN --security=insecure grep Seccomp: /proc/self/status > /s; cat /proc/self/uid_map > /u"
    assert "is not allowed; to allow it: build --allow security.insecure" in world.refused(text)
    built = world.build(text, allowed=frozenset(["security.insecure"]))
    assert built.tree["s"].split()[-1] == "0"
    assert built.tree["u"].split()[2:4] == ["0", "0"]


# --- caches


@pytest.mark.kernel("overlay")
def test_a_cache_is_kept_and_is_not_in_the_image(world: World) -> None:
    mount = "--mount=type=cache,id=kept,target=/c,mode=0711,uid=1,gid=2"
    text = f"FROM base\nRUN {mount} ls /c > /seen; echo x > /c/$RUN; stat -c %a:%u:%g /c > /mode"
    text = text.replace("stat -c %a:%u:%g /c", "ls -nd /c")
    built = world.build(text.replace("$RUN", "one"))
    assert built.tree["seen"] == "f 644 "
    assert built.tree["mode"].split()[2:6] == ["drwx--x--x", "2", "1", "2"]
    assert "c" not in built.tree
    assert world.build(text.replace("$RUN", "two")).tree["seen"] == "f 644 one\n"
    other = text.replace("id=kept", "id=other").replace("$RUN", "one")
    assert world.build(other).tree["seen"] == "f 644 "


@pytest.mark.kernel("overlay")
def test_a_cache_may_begin_with_the_files_of_a_stage(world: World) -> None:
    text = (
        "FROM base AS first\nRUN mkdir /f && echo 1 > /f/one && chown 3:4 /f/one\n"
        "FROM base\nRUN --mount=type=cache,target=/c,from=first,source=/f ls -n /c > /seen; echo 2 > /c/two\n"
    )
    assert world.build(text).tree["seen"].split()[6:8] == ["3", "4"]
    again = world.build(text + "RUN --mount=type=cache,target=/c,from=first,source=/f ls /c > /again")
    assert again.tree["again"] == "f 644 one\ntwo\n"


def test_a_cache_is_locked_as_it_asks(tmp_path: Path) -> None:
    data = str(tmp_path)
    filled: list[str] = []
    with cache_mounts.held(data, "k", "id", "private", filled.append) as one:
        with cache_mounts.held(data, "k", "id", "private", filled.append) as two:
            assert (os.path.basename(one), os.path.basename(two)) == ("0", "1")
        [cache] = cache_mounts.caches(data)
        assert not cache_mounts.remove(cache)
    assert len(filled) == 2
    with (
        cache_mounts.held(data, "k", "id", "shared", filled.append) as one,
        cache_mounts.held(data, "k", "id", "shared", filled.append) as two,
    ):
        assert one == two
        waiting = threading.Thread(target=hold, args=(data, "locked"), daemon=True)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(20)
    assert not waiting.is_alive()
    [cache] = cache_mounts.caches(data)
    assert cache.id == "id" and cache_mounts.remove(cache) and cache_mounts.caches(data) == []


def hold(data: str, sharing: str) -> None:
    with cache_mounts.held(data, "k", "id", sharing, lambda _: None):
        return


# --- secrets and agents


@pytest.mark.kernel("overlay")
def test_a_secret_is_seen_by_its_run_alone(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("w8rd-file")
    monkeypatch.setenv("HUSH", "w8rd-variable")
    secrets = {"file": Secret(file=f"{tmp_path}/file"), "variable": Secret(variable="HUSH")}
    text = (
        "FROM base\nRUN --mount=type=secret,id=file cat /run/secrets/file | wc -c > /a; ls -ln /run/secrets > /l\n"
        "RUN --mount=type=secret,id=variable,env=KEY,target=/k,uid=5,mode=0440 "
        'test "$(cat /k)" = "$KEY" && echo ${#KEY} > /b\n'
        "RUN --mount=type=secret,id=none ls /run/secrets > /c 2>&1 || true\n"
        "RUN ls /run /k > /d 2>&1 || true\n"
    )
    built = world.build(text, secrets=secrets)
    assert built.tree["a"] == "f 644 9\n" and built.tree["b"] == "f 644 13\n"
    assert "-r--------    1 0        0" in built.tree["l"]
    assert "No such file" in built.tree["c"] and "No such file" in built.tree["d"]
    assert set(built.tree) == set("abcdl")
    assert b"w8rd" not in content(world) and "w8rd" not in str(built.config)
    (tmp_path / "file").write_text("w8rd-other!")
    assert world.build(text, secrets=secrets).cached == built.steps - 1


@pytest.mark.kernel("overlay")
def test_a_secret_that_is_required_must_be_given(world: World, tmp_path: Path) -> None:
    text = "FROM base\nRUN --mount=type=secret,id=key,required true"
    assert world.refused(text) == (
        "Dockerfile:2: RUN: secret key is required and was not given; try: --secret id=key,src=PATH"
    )
    said = world.refused(text, secrets={"key": Secret(file=f"{tmp_path}/none")})
    assert said == f"Dockerfile:2: RUN: secret key: {tmp_path}/none: No such file or directory"


@pytest.mark.kernel("overlay")
def test_an_agent_answers_in_the_run(world: World, tmp_path: Path) -> None:
    (tmp_path / "ask.c").write_text(ASK)
    subprocess.run(["gcc", "-static", "-o", world.context / "ask", tmp_path / "ask.c"], check=True)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(f"{tmp_path}/agent")
        os.chmod(f"{tmp_path}/agent", 0o600)
        agent.listen()
        threading.Thread(target=answer, args=(agent,), daemon=True).start()
        built = world.build(
            "FROM base\nRUN --mount=type=ssh,required --mount=target=/ctx /ctx/ask > /said; ls -ln $SSH_AUTH_SOCK > /l",
            {},
            agents={"default": f"{tmp_path}/agent"},
        )
    assert built.tree["said"] == "f 644 answer to ask\n"
    assert built.tree["l"].startswith("f 644 srw-------    1 0        0")
    assert set(built.tree) == {"said", "l"}


def answer(agent: socket.socket) -> None:
    with agent.accept()[0] as one:
        one.sendall(b"answer to " + one.recv(100))


@pytest.mark.kernel("overlay")
def test_an_agent_that_is_none_is_refused(world: World, tmp_path: Path) -> None:
    text = "FROM base\nRUN --mount=type=ssh,required true"
    assert world.refused(text).endswith("ssh agent default is required and was not given; try: --ssh default")
    assert world.refused(text, agents={"default": f"{tmp_path}"}).endswith("try: eval $(ssh-agent)")


@pytest.mark.kernel("overlay")
def test_a_place_that_was_there_stays(world: World) -> None:
    built = world.build(
        "FROM base\nRUN mkdir /there && chmod 700 /there\n"
        "RUN --mount=type=tmpfs,target=/there --mount=type=tmpfs,target=/there2/deep echo > /there/x\n"
    )
    assert built.tree == {"there": "d 700"}
    assert stat.S_ISDIR(os.stat(world.home.data).st_mode)
