"""Attacks that the image, its configuration or a name brings: nothing of the host changes, and one line says why."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minicontainer import engine
from minicontainer.containers import Home, Volume
from minicontainer.errors import Error
from tests import attacks, bundles, images
from tests.attacks import shell
from tests.kernel.test_engine import leftovers

pytestmark = pytest.mark.kernel("overlay")
BOTH = pytest.mark.parametrize("userns", ["", "host"])


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with images.busybox_home(tmp_path / "data") as made:
        yield made
    assert [one for one in leftovers(made) if one.startswith(made.data)] == []  # links and tables are the host's here


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host that anybody may write to, and a file in it that nobody shall read."""
    made = tmp_path / "outside"
    made.mkdir()
    made.chmod(0o777)
    (made / "secret").write_text("the secret of the host")
    (made / "secret").chmod(0o666)
    for parent in tmp_path.parents:
        if parent.name.startswith("pytest"):
            assert os.stat(parent).st_uid == 0
    return made


def untouched(outside: Path) -> bool:
    same = (outside / "secret").read_text() == "the secret of the host"
    return same and [path.name for path in outside.iterdir()] == ["secret"]


def tried(home: Home, *command: str, **more: Any) -> str:
    """What the container said, or the one clear line of why there is none."""
    try:
        return attacks.run(home, *command, **more)[1]
    except Error as refused:
        assert refused.exit_code in (125, 126, 127)
        assert "\n" not in str(refused)
        assert "Traceback" not in str(refused)
        return f"refused: {refused}"


# --- symbolic links in the image -------------------------------------------------------------------------------------

LOOK = "cat /proc/self/mounts; ls -lan / /proc/1 /sys /dev /etc 2>&1; cat /etc/hosts; echo x >/etc/hosts"
LINKS = [  # CVE-2019-16884, CVE-2019-19921, CVE-2021-30465, CVE-2023-27561, CVE-2025-31133, CVE-2025-52565
    {"proc": "OUTSIDE"},
    {"proc": "../../../../../../OUTSIDE"},
    {"proc": "tmp"},
    {"sys": "OUTSIDE"},
    {"sys": "proc"},
    {"dev": "OUTSIDE"},
    {"dev": "proc"},
    {"dev": "proc/self/cwd"},
    {"dev": "etc"},
    {"dev": "/"},
    {"dev": "."},
    {"dev": "dev"},
    {"etc/hosts": "OUTSIDE/secret"},
    {"etc/hosts": "OUTSIDE/made"},
    {"etc/hosts": "../../../../../../OUTSIDE/secret"},
    {"etc/hosts": "/proc/self/fd/3"},
    {"etc/hosts": "/proc/sys/kernel/core_pattern"},
    {"etc/hosts": "/proc/sysrq-trigger"},
    {"etc/hosts": "/dev/null"},
    {"etc/hosts": "/sys/kernel/uevent_helper"},
    {"etc/hosts": "hosts"},
    {"etc/resolv.conf": "/proc/1/root/OUTSIDE/secret"},
    {"etc/hostname": "/proc/self/exe"},
    {"etc/passwd": "OUTSIDE/secret", "etc/group": "/proc/self/environ"},
    {"etc/passwd": "/dev/zero"},
    {"etc": "OUTSIDE"},
    {"etc": "proc"},
]


@pytest.mark.parametrize("wanted", LINKS, ids=lambda one: " ".join(f"{name}->{to}" for name, to in one.items()))
def test_a_link_in_the_image_leads_to_nothing_of_the_host(home: Home, outside: Path, wanted: dict[str, str]) -> None:
    files = {name: to.replace("OUTSIDE", str(outside) if to[0] == "O" else str(outside).lstrip("/"))
             for name, to in wanted.items()}  # fmt: skip
    whole = {name: data for name, data in images.busybox_files().items() if not name.startswith(tuple(files))}
    images.put(home, "docker.io/library/trap:latest", images.ContainerConfig(), images.layer({**whole, **files}))
    for userns in ("", "host"):
        said = tried(home, "sh", "-c", LOOK, image="trap", userns=userns)
        assert "the secret" not in said
        assert said
        if not said.startswith("refused"):
            assert "proc /proc proc rw,nosuid,nodev,noexec" in said
            assert "/proc/sys proc ro" in said
    assert untouched(outside)


TERMINAL = [
    {"dev/console": "OUTSIDE/secret"},
    {"dev/pts": "OUTSIDE"},
    {"dev/ptmx": "OUTSIDE/secret"},
    {"dev/pts/0": "OUTSIDE/secret"},
    {"dev/null": "OUTSIDE/secret"},
    {"dev/null": "/proc/sys/kernel/core_pattern"},
    {"dev/fd": "OUTSIDE"},
    {"dev/shm": "/proc"},
]


@pytest.mark.parametrize("wanted", TERMINAL, ids=lambda one: " ".join(f"{name}->{to}" for name, to in one.items()))
def test_a_link_in_dev_is_covered(home: Home, outside: Path, wanted: dict[str, str]) -> None:
    attacks.links(home, {name: to.replace("OUTSIDE", str(outside)) for name, to in wanted.items()})
    one = engine.create(home, attacks.options("sh", "-c", "echo x >/dev/null; cat /proc/keys; ls -ln /dev; sleep 60",
                                              image="trap", tty=True))  # fmt: skip
    one = engine.start(home, one.id)
    root = f"/proc/{one.pid}/root/dev"
    assert os.path.ismount(f"{root}/pts")
    assert os.lstat(f"{root}/null").st_rdev == os.makedev(1, 3)
    assert os.major(os.lstat(f"{root}/console").st_rdev) == 136
    engine.remove(home, one.id, force=True)
    assert untouched(outside)


@pytest.mark.parametrize("fake", ["null", "zero", "console"])
def test_a_bundle_whose_dev_is_the_image_s_masks_by_no_link(tmp_path: Path, outside: Path, fake: str) -> None:
    """CVE-2025-31133: /dev/null of the image, in place of the null device that covers what is masked."""

    def edit(config: bundles.Json) -> None:
        config["mounts"] = [one for one in config["mounts"] if one["destination"] not in ("/dev", "/dev/pts")]
        config["mounts"] = [one for one in config["mounts"] if not one["destination"].startswith("/dev")]
        config["linux"]["maskedPaths"] = ["/proc/keys", "/etc/passwd"]

    bundles.bundle(tmp_path, "true")
    (tmp_path / "rootfs/dev").mkdir()
    (tmp_path / f"rootfs/dev/{fake}").symlink_to(outside / "secret")
    try:
        said = bundles.run(tmp_path, "cat", "/proc/keys", "/etc/passwd", edit=edit).text
    except (Error, OSError) as refused:
        said = str(refused)
        assert "\n" not in said
    assert "root:" not in said
    assert "keyring" not in said
    assert untouched(outside)


@pytest.mark.parametrize("target", ["/trap/made", "/trap", "/up/made", "/dangling", "/loop", "/proc", "/proc/1",
                                    "/proc/sys", "/link-to-proc", "/link-to-proc/sys", "/dev/../proc", "/./proc/self",
                                    "//proc", "/self/fd", "/etc/../../../proc/sys"])  # fmt: skip
@BOTH
def test_a_volume_s_target_stays_in_the_root_and_off_proc(
    home: Home, outside: Path, tmp_path: Path, target: str, userns: str
) -> None:
    wanted = {"trap": str(outside), "up": f"../../../..{outside}", "dangling": f"{outside}/made", "loop": "loop",
              "link-to-proc": "proc", "self": "/proc/self"}  # fmt: skip
    attacks.links(home, wanted)
    shared = tmp_path / "shared"
    shared.mkdir()
    try:
        said = shell(home, "cat /proc/self/mounts", image="trap", userns=userns, volumes=(Volume(str(shared), target),))
    except (Error, OSError) as refused:
        said = str(refused)
        assert "\n" not in said
    else:
        assert "proc" not in target
        mounts = [line.split()[1] for line in said.splitlines()]
        assert mounts.count("/proc") == 1
    assert untouched(outside)
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("target", ["/proc", "/proc/sys", "/link/sys", "/self"])
def test_a_tmpfs_covers_nothing_of_proc(home: Home, target: str) -> None:
    attacks.links(home, {"link": "proc", "self": "/proc/self"})
    with pytest.raises(Error, match="proc"):
        attacks.run(home, "true", image="trap", tmpfs=(target,))


# --- exec into a container that waits for it -------------------------------------------------------------------------


@BOTH
def test_what_is_called_in_a_hostile_container_is_its_own_program(home: Home, userns: str) -> None:
    """The container has replaced what `exec` will look for, and its /etc/passwd by a pipe that nobody writes to."""
    script = """
    for n in id cat hostname; do busybox rm /bin/$n; done
    printf '#!/proc/self/exe\\n' >/bin/id; busybox chmod 755 /bin/id
    busybox ln -s /proc/self/exe /bin/cat; busybox ln -s /proc/1/exe /bin/hostname
    busybox rm /etc/group; busybox mkfifo /etc/group; busybox touch /ready; sleep 60"""
    one = attacks.start(home, script, userns=userns)
    root = f"/proc/{one.pid}/root"
    attacks.eventually(lambda: os.path.exists(f"{root}/ready"))
    for name in ("id", "cat", "hostname"):
        try:
            _, said = attacks.further(home, one, name, "--version")
        except Error as refused:
            said = str(refused)
            assert "\n" not in said
        assert "Python" not in said
    assert attacks.further(home, one, "echo", "fine") == (0, "fine\n")
    engine.remove(home, one.id, force=True)


@BOTH
def test_a_pipe_with_a_writer_as_passwd_does_not_hold_exec_up(home: Home, userns: str) -> None:
    script = "busybox rm /etc/passwd; busybox mkfifo /etc/passwd; busybox touch /ready; exec 7<>/etc/passwd; sleep 60"
    one = attacks.start(home, script, userns=userns)
    attacks.eventually(lambda: os.path.exists(f"/proc/{one.pid}/fd/7"))
    assert attacks.further(home, one, "echo", "fine") == (0, "fine\n")
    engine.remove(home, one.id, force=True)


def test_the_command_line_s_interpreter_cannot_be_overwritten_by_a_container(home: Home) -> None:
    """CVE-2019-5736, by the command as a person starts it."""
    loader = attacks.member("lib64/ld-linux-x86-64.so.2", attacks.program("loader"))
    escape = attacks.member("escape", type=b"2", linkname="/proc/self/exe")
    attacks.image(home, attacks.tar(loader, escape), name="loader")
    for userns, wanted in (("", "touch 13"), ("host", "touch 30")):
        said = attacks.command_line(home, "run", "--rm", "--network", "none", f"--userns={userns or 'auto'}",
                                    "loader", "/escape")  # fmt: skip
        assert said == f"{wanted}\n"


# --- names, environment, configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "../../x", "..", ".", "a/b", "/tmp/x", "a\nb", "a\0b", "-x", " ", "x" * 300])
def test_a_name_is_no_path(home: Home, name: str) -> None:
    before = sorted(str(path) for path in Path(home.data).parent.iterdir())
    with pytest.raises(Error) as raised:
        engine.create(home, attacks.options("true", name=name))
    assert "\n" not in str(raised.value)
    assert sorted(str(path) for path in Path(home.data).parent.iterdir()) == before
    assert engine.list_containers(home) == []


@pytest.mark.parametrize("name", ["../x", "..", ".", "", "a/../../b", "../containers", "a\0b", "\n"])
def test_an_id_that_is_a_path_is_no_container(home: Home, name: str) -> None:
    for operation in (engine.inspect, engine.remove, engine.start, engine.stop, engine.kill):
        with pytest.raises(Error):
            operation(home, name)
    assert os.path.isdir(f"{home.data}/containers")


@pytest.mark.parametrize("name", ["../x", ".x", "..", "a/b", "a\nb", "", "a b"])
def test_an_id_that_is_a_path_is_no_bundle_s(tmp_path: Path, name: str) -> None:
    from minicontainer.runtime import creation

    with pytest.raises(Error, match=r"container (id|ID)"):
        creation.create(str(tmp_path / "states"), name, bundles.bundle(tmp_path, "true"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("parent", ["../../../../escaped", "a/../../../escaped", "../" * 20 + "tmp/escaped"])
def test_a_cgroup_s_path_leaves_no_hierarchy(home: Home, parent: str) -> None:
    tried(home, "true", cgroup_parent=parent)
    assert not [path for path in ("/escaped", "/tmp/escaped", "/sys/fs/escaped") if os.path.exists(path)]


def test_an_environment_with_newlines_stays_one_variable(home: Home) -> None:
    env = ("A=1\nLD_PRELOAD=/evil", "B=\x1b[2J", "D")
    said = shell(home, "busybox tr '\\0' '@' </proc/$$/environ; true", env=env)
    assert "@A=1\nLD_PRELOAD=/evil@" in said
    assert "@LD_PRELOAD" not in said


@pytest.mark.parametrize("env", ["A=b\0C=d", "A\0=b"])
def test_an_environment_that_cannot_be_is_refused_in_one_line(home: Home, env: str) -> None:
    with pytest.raises(Error) as raised:
        attacks.run(home, "true", env=(env,))
    assert "\n" not in str(raised.value)


def test_labels_are_text_and_nothing_else(home: Home) -> None:
    labels = {"../../x": "../../y", "a\nb": "c\nd", "": "", "org.opencontainers.image.x": "$(touch /x)"}
    one = attacks.start(home, "sleep 60", labels=labels)
    assert engine.inspect(home, one.id).options.labels == labels
    engine.remove(home, one.id, force=True)


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"working_dir": ".."}, "refused"),
    ({"working_dir": "../../../../.."}, "refused"),
    ({"working_dir": "/made/by/us"}, "/made/by/us\n"),
    ({"working_dir": "/etc/passwd"}, "refused"),
    ({"working_dir": "/proc/1/root"}, "refused"),
    ({"working_dir": "/proc/self/cwd"}, "refused"),
    ({"working_dir": "/proc/self/task/1/root/made"}, "refused"),
    ({"working_dir": "/a\0b"}, "refused"),
    ({"working_dir": "/" + "x" * 300}, "refused"),
    ({"user": "stranger"}, "refused"),
    ({"user": "root:strangers"}, "refused"),
    ({"user": "4294967296"}, "refused"),
    ({"user": "web\0"}, "refused"),
    ({"user": ":" * 100}, "refused"),
    ({"entrypoint": ("/etc/passwd",)}, "refused"),
    ({"entrypoint": ("/etc",)}, "refused"),
    ({"entrypoint": ("",)}, "refused"),
    ({"entrypoint": ("a\0b",)}, "refused"),
    ({"entrypoint": ("../../bin/nonesuch",)}, "refused"),
    ({"stop_signal": "SIGNONE"}, "refused"),
    ({"stop_signal": "9999999999999999999999"}, "refused"),
    ({"env": ("PATH=",)}, "refused"),
    ({"env": ("A=\0",)}, "refused"),
]


@pytest.mark.parametrize(("config", "wanted"), CONFIGS, ids=lambda one: repr(one)[:60])
def test_a_hostile_configuration_runs_inside_or_is_refused_in_one_line(
    home: Home, config: dict[str, Any], wanted: str
) -> None:
    attacks.image(home, name="hostile", **config)
    command = () if "entrypoint" in config else ("busybox", "pwd")
    said = tried(home, *command, image="hostile")
    assert said.startswith(wanted), said
