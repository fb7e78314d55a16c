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
