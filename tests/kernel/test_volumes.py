"""Volumes with a name: made, filled from the image, shared, kept, removed; by the command line, as people use them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minicontainer import volumes
from minicontainer.containers import Home
from minicontainer.oci.image import ContainerConfig
from tests import images

pytestmark = pytest.mark.kernel("overlay")
Say = Callable[..., str]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with images.busybox_home(tmp_path / "data") as home:
        yield home


@pytest.fixture
def say(home: Home) -> Say:
    """What a command prints, both streams; its exit status must be `code`."""

    def said(*words: str, code: int = 0, text: str | None = None) -> str:
        command = [sys.executable, "-m", "minicontainer.cli", "--root", home.data, *words]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return said


def run(say: Say, *words: str, **more: int) -> str:
    return say("run", "--rm", "--network", "none", *words, **more)


def test_a_volume_outlives_its_containers_and_is_shared_by_them(home: Home, say: Say) -> None:
    run(say, "-v", "data:/data", "busybox", "sh", "-c", "echo kept >/data/file; chmod 600 /data/file")
    assert run(say, "-v", "data:/other:ro", "busybox", "sh", "-c", "cat /other/file; touch /other/x || true") == (
        "kept\ntouch: /other/x: Read-only file system\n"
    )
    assert run(say, "--mount", "type=volume,src=data,dst=/m", "busybox", "cat", "/m/file") == "kept\n"
    found = os.stat(f"{home.data}/volumes/data/data/file")
    assert (found.st_uid, found.st_mode & 0o777) == (0, 0o600)  # ids on the disk are those inside
    say("create", "--name", "user", "-v", "data:/data", "busybox")
    [mount] = json.loads(say("inspect", "-f", "{{json .Mounts}}", "user"))
    assert (mount["Type"], mount["Name"], mount["Destination"], mount["RW"]) == ("volume", "data", "/data", True)
    assert say("inspect", "-f", "{{json .HostConfig.Binds}}", "user") == '["data:/data"]\n'


def test_what_the_image_has_there_is_copied_into_an_empty_volume_alone(home: Home, say: Say) -> None:
    below = images.layer({"srv": None, "srv/page": b"one\n", "srv/gone": b"", "srv/link": "page", "srv/deep/x": b"x"})
    above = images.layer({"srv/page": b"two\n", "srv/.wh.gone": b""})
    images.put(home, "docker.io/library/web:1", ContainerConfig(), images.layer(images.busybox_files()), below, above)
    assert run(say, "-v", "site:/srv", "web:1", "sh", "-c", "cd /srv; ls; cat link; echo three >page").split() == [
        *("deep", "link", "page"),
        "two",
    ]
    assert run(say, "-v", "site:/srv", "web:1", "cat", "/srv/page", "/srv/deep/x") == "three\nx"  # it was not empty
    say("volume", "create", "empty")
    assert run(say, "-v", "empty:/srv", "web:1", "cat", "/srv/page") == "two\n"
    assert run(say, "-v", "new:/nothing", "web:1", "ls", "/nothing") == ""
    assert sorted(os.listdir(f"{home.data}/volumes/site")) == ["data", "volume.json"]


def test_a_volume_keeps_owners_modes_and_the_directorys_own(home: Home, say: Say) -> None:
    script = "mkdir /srv; echo x >/srv/mine; chown web:web /srv /srv/mine; chmod 2750 /srv; chmod 4711 /srv/mine"
    say("run", "--name", "owned", "--network", "none", "--cap-add", "CHOWN", "busybox", "sh", "-c", script)
    say("commit", "owned", "owned:1")
    seen = run(say, "-v", "kept:/srv", "owned:1", "stat", "-c", "%n %u %g %a", "/srv", "/srv/mine")
    assert seen == "/srv 1000 1000 2750\n/srv/mine 1000 1000 4711\n"


def test_volumes_are_made_listed_shown_and_removed(home: Home, say: Say) -> None:
    assert say("volume", "ls") == "DRIVER   VOLUME NAME\n"
    assert say("volume", "create", "--label", "tier=back", "one") == "one\n"
    assert say("volume", "create", "one") == "one\n"  # it is there
    nobodys = say("volume", "create").strip()
    assert len(nobodys) == 64
    say("create", "--name", "user", "-v", "used:/data", "busybox")
    assert say("volume", "ls", "-q").split() == sorted([nobodys, "one", "used"])
    assert say("volume", "ls", "-q", "--filter", "label=tier=back") == "one\n"
    assert say("volume", "ls", "--filter", "dangling=false", "--format", "{{.Name}}") == "used\n"
    assert "is expected" in say("volume", "ls", "--filter", "colour=red", code=125)
    [shown] = json.loads(say("volume", "inspect", "one"))
    assert (shown["Name"], shown["Labels"], shown["Driver"]) == ("one", {"tier": "back"}, "local")
    assert os.path.isdir(say("volume", "inspect", "-f", "{{.Mountpoint}}", "one").strip())
    assert "volume used is in use by user; try: minicontainer rm user" in say("volume", "rm", "used", "one", code=1)
    assert "no volume one" in say("volume", "inspect", "one", code=1)
    assert "no volume one" in say("volume", "rm", "one", code=1)
    assert say("volume", "rm", "-f", "one") == ""
    assert "is no name of a volume" in say("volume", "create", "../up", code=125)
    row = say("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}").splitlines()[2]
    assert row == "Local Volumes 2 1"
    assert say("volume", "prune", text="n\n").endswith("[y/N] ")
    assert say("volume", "prune", "-f").split()[0] == nobodys
    assert say("volume", "prune", "-af").startswith("Total reclaimed space: 0B")
    say("rm", "user")
    assert say("volume", "prune", "-af").startswith("used\n")
    assert os.listdir(f"{home.data}/volumes") == []


def test_a_volume_that_was_half_filled_is_filled_anew(home: Home, say: Say) -> None:
    place = Path(volumes.make(home, "site").path).parent
    (place / "new").mkdir()
    (place / "new/half").write_text("of one who died")
    assert "busybox" in run(say, "-v", "site:/bin", "busybox", "ls", "/bin")
    assert not (place / "new").exists() and not (place / "data/half").exists()


def test_what_another_container_holds_is_not_filled_below_it(home: Home, say: Say) -> None:
    say("run", "-d", "--name", "first", "--network", "none", "-v", "shared:/nothing", "busybox", "sleep", "60")
    assert run(say, "-v", "shared:/etc/x", "-v", "shared:/home", "busybox", "ls", "/home") == ""
    say("exec", "first", "touch", "/nothing/there")
    assert run(say, "-v", "shared:/home", "busybox", "ls", "/home") == "there\n"


# --- without a name --------------------------------------------------------------------------------------------------


def put_declaring(home: Home, *volumes: str) -> None:
    site = images.layer({"srv": None, "srv/page": b"one\n"})
    config = ContainerConfig(volumes=volumes)
    images.put(home, "docker.io/library/web:1", config, images.layer(images.busybox_files()), site)


def test_a_volume_without_a_name_stays_until_it_is_asked_to_go(home: Home, say: Say) -> None:
    script = ("sh", "-c", "echo kept >/data/file")
    for words in (("-v", "/data"), ("--mount", "type=volume,dst=/data")):
        say("run", "--name", "one", "--network", "none", *words, "busybox", *script)
        [name] = say("volume", "ls", "-q", "--filter", "dangling=false").split()
        assert len(name) == 64 and run(say, "-v", f"{name}:/x", "busybox", "cat", "/x/file") == "kept\n"
        assert say("inspect", "-f", "{{(index .Mounts 0).Name}} {{.HostConfig.Binds}}", "one") == f"{name} []\n"
        assert say("volume", "ls", "-q", "--filter", "label=com.docker.volume.anonymous") == f"{name}\n"
        say("rm", "one")
        assert say("volume", "ls", "-q") == f"{name}\n"  # as docker keeps it
        assert say("volume", "prune", "-f").startswith(f"{name}\n")
        say("run", "-d", "--name", "one", "--network", "none", *words, "busybox", "sleep", "60")
        say("rm", "-fv", "one")
        assert say("volume", "ls", "-q") == "" and os.listdir(f"{home.data}/volumes") == []


def test_a_volume_without_a_name_goes_with_a_container_that_goes_by_itself(home: Home, say: Say) -> None:
    assert run(say, "-v", "/data", "-v", "named:/other", "busybox", "sh", "-c", "mount | grep -c ' /data '") == "1\n"
    assert run(say, "-v", "/data", "busybox", "false", code=1) == ""
    assert "absent" in run(say, "-v", "/data", "busybox", "absent", code=127)
    assert "SIGNONE" in run(say, "-v", "/data", "--stop-signal", "SIGNONE", "busybox", "true", code=125)
    say("run", "--name", "first", "--network", "none", "-v", "/data", "busybox", "true")
    [name] = set(say("volume", "ls", "-q").split()) - {"named"}
    say("create", "--name", "second", "--network", "none", "-v", f"{name}:/data", "busybox", "true")
    say("rm", "-v", "first")
    assert name in say("volume", "ls", "-q")  # another has it
    assert os.listdir(f"{home.data}/containers") != []


def test_the_volumes_of_another_container(home: Home, say: Say) -> None:
    put_declaring(home, "/srv")
    say("create", "--name", "first", "-v", f"{home.data}/names:/host:ro", "-v", "own:/own", "web:1", "true")
    script = "cat /srv/page; touch /own/x; touch /host/x 2>/dev/null || echo refused"
    assert run(say, "--volumes-from", "first", "web:1", "sh", "-c", script) == "one\nrefused\n"
    assert len(say("volume", "ls", "-q").split()) == 2  # of the first, which are kept
    script = "touch /own/y || true; ls /own; mount | grep -c ' /srv '"
    said = run(say, "--volumes-from", "first:ro", "-v", "/srv", "busybox", "sh", "-c", script)
    assert said == "x\n1\ntouch: /own/y: Read-only file system\n"
    assert "no container absent" in run(say, "--volumes-from", "absent", "busybox", "true", code=125)
    assert "is expected" in run(say, "--volumes-from", "first:no", "busybox", "true", code=125)


def test_what_an_image_declares_is_a_volume_that_begins_as_the_image_has_it(home: Home, say: Say) -> None:
    put_declaring(home, "/srv", "/new/deep")
    assert run(say, "web:1", "sh", "-c", "cat /srv/page; ls /new; mount | grep -cE ' (/srv|/new/deep) '") == (
        "one\ndeep\n2\n"
    )
    say("run", "--name", "one", "--network", "none", "web:1", "sh", "-c", "echo two >/srv/page; touch /new/deep/x")
    assert len(say("volume", "ls", "-q").split()) == 2
    changes = say("diff", "one")  # what is in a volume is no change of the container's files
    assert "A /new/deep\n" in changes and "/new/deep/x" not in changes and "/srv" not in changes
    say("start", "-a", "one")
    say("cp", "one:/srv/page", f"{home.data}/page")
    assert Path(f"{home.data}/page").read_text() == "two\n"
    say("rm", "-v", "one")
    assert say("volume", "ls", "-q") == ""


@pytest.mark.parametrize("words", [("-v", "own://srv/"), ("--tmpfs", "/srv:size=1m"), ("-v", "{}:/srv")])
def test_what_is_asked_for_stands_where_the_image_declares(home: Home, say: Say, words: tuple[str, ...]) -> None:
    put_declaring(home, "srv")  # a VOLUME may be relative to /
    given = [word.format(f"{home.data}/removed") for word in words]
    os.makedirs(f"{home.data}/removed", exist_ok=True)
    assert run(say, *given, "web:1", "sh", "-c", "mount | grep -c ' /srv '") == "1\n"
    assert say("volume", "ls", "-q") in ("", "own\n")


def test_what_is_mounted_deeper_is_not_hidden(home: Home, say: Say) -> None:
    put_declaring(home, "/srv")
    assert run(say, "-v", "own:/srv/own", "web:1", "ls", "/srv").split() == ["own", "page"]
    script = "touch /a/b/c/x; ls -d /a/b/c/x; mount | grep -cE ' /a(/b)?(/c)? '"
    assert run(say, "-v", "three:/a/b/c", "-v", "one:/a", "-v", "two:/a/b", "busybox", "sh", "-c", script) == (
        "/a/b/c/x\n3\n"
    )


def test_a_volume_for_the_root_or_for_proc_is_refused(home: Home, say: Say) -> None:
    assert "not / itself" in run(say, "-v", "own:/", "busybox", "true", code=125)
    put_declaring(home, "/")
    assert "not / itself" in run(say, "web:1", "true", code=125)
    put_declaring(home, "/proc/x")
    assert "/proc and /sys cannot be given" in run(say, "web:1", "true", code=125)
    assert "is expected" in run(say, "--mount", "type=bind,dst=/x", "busybox", "true", code=125)
    assert os.listdir(f"{home.data}/containers") == []
