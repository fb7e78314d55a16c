"""Escapes of other runtimes and builders that were published, each tried on us: docs/security.md has the whole list.

Those that are one case of a wider wall stand with that wall, in `test_escapes` and `test_walls`. Each is tried with
user ids of the container's own and with the host's, where it makes a difference.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicontainer import engine
from minicontainer.containers import Home, Volume
from minicontainer.errors import Error
from minicontainer.linux import procfs
from minicontainer.runtime import states
from tests import attacks, bundles, images
from tests.attacks import shell
from tests.kernel.test_dockerfiles import World, place, world
from tests.kernel.test_engine import leftovers

__all__ = ["place", "world"]  # the fixtures

pytestmark = pytest.mark.kernel("overlay")
BOTH = pytest.mark.parametrize("userns", ["", "host"])


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with images.busybox_home(tmp_path / "data") as made:
        yield made
    assert [one for one in leftovers(made) if one.startswith(made.data)] == []


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host that anybody may write to, with a secret."""
    made = tmp_path / "outside"
    made.mkdir()
    made.chmod(0o777)
    (made / "secret").write_text("the secret of the host")
    return made


def untouched(outside: Path) -> bool:
    return [path.name for path in outside.iterdir()] == ["secret"] and "host" in (outside / "secret").read_text()


# --- who a process is ------------------------------------------------------------------------------------------------


@BOTH
def test_a_number_is_never_the_name_of_a_user(home: Home, userns: str) -> None:
    """CVE-2016-3697: the image calls its root 1000, and who asks for user 1000 becomes root."""
    lines = b"root:x:0:0::/:\n1000:x:0:0::/:\n4242:x:0:0::/:\n"
    groups = b"root:x:0:\n1000:x:0:\n"
    attacks.image(home, attacks.tar(attacks.member("etc/passwd", lines, mode=0o644),
                                    attacks.member("etc/group", groups, mode=0o644)), name="numbers")  # fmt: skip
    for user in ("1000", "4242", "1000:1000"):
        said = shell(home, "busybox id -u; busybox id -g", image="numbers", user=user, userns=userns).split()
        assert said == [user.partition(":")[0], user.partition(":")[2] or "0"]
    one = attacks.start(home, "sleep 60", image="numbers", userns=userns)
    assert attacks.further(home, one, "busybox", "id", "-u", user="1000")[1] == "1000\n"
    engine.remove(home, one.id, force=True)


@BOTH
@pytest.mark.parametrize(("user", "wanted"), [("web", "1001"), ("1000", "1001"), ("4242", ""), ("web:7", "")])
def test_the_supplementary_groups_are_those_of_the_image_s_user(
    home: Home, userns: str, user: str, wanted: str
) -> None:
    """CVE-2022-36109, CVE-2023-25173, CVE-2022-2989, CVE-2022-2990: groups left over, or not set up."""
    said = re.search(r"Groups:(.*)", shell(home, "cat /proc/self/status", user=user, userns=userns))
    assert said and said[1].split() == wanted.split()


def test_no_capability_is_inherited_whatever_the_program_asks_for(home: Home) -> None:
    """CVE-2016-8867, CVE-2022-24769, CVE-2022-27649 and its kin, CVE-2022-29162: sets that were not empty."""
    one = attacks.start(home, "sleep 60")
    for user in ("0", "web"):
        _, said = attacks.further(home, one, "cat", "/proc/self/status", user=user)
        assert re.findall(r"Cap(?:Inh|Amb):\t(\w+)", said) == ["0" * 16] * 2
    engine.remove(home, one.id, force=True)


# --- sockets and directories of the host -----------------------------------------------------------------------------


@BOTH
def test_a_container_with_the_host_s_network_finds_no_socket_of_ours(home: Home, userns: str) -> None:
    """CVE-2020-15257: the shim listened on an abstract socket, which every process of the network could connect to."""
    before = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "@" in line}
    one = attacks.start(home, "cat /proc/net/unix; sleep 60", network="host", userns=userns)
    attacks.eventually(lambda: bool(list(engine.read_logs(home, one.id))))
    text = "".join(record.text for record in engine.read_logs(home, one.id))
    engine.remove(home, one.id, force=True)
    assert {line.split()[-1] for line in text.splitlines() if "@" in line} <= before
    assert home.data not in text


def test_nobody_else_gets_into_the_directories_of_containers_and_layers(home: Home) -> None:
    """CVE-2021-41091, CVE-2021-41103, CVE-2021-21284, CVE-2024-25621: set-user-ID programs of layers for everybody."""
    one = attacks.start(home, "sleep 60")
    for path in (home.data, home.runtime, f"{home.data}/containers", one.bundle):
        assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0, path
    engine.remove(home, one.id, force=True)


@BOTH
def test_the_host_s_network_gives_no_cgroup_to_write_to(home: Home, userns: str) -> None:
    """CVE-2023-25809: the host's /sys, bound because the network is the host's, with cgroups that could be written."""
    script = """
    for f in $(busybox find /sys/fs/cgroup -type f 2>/dev/null | head -400); do
      (: >>$f) 2>/dev/null && echo $f
    done
    busybox mkdir /sys/fs/cgroup/*/made 2>/dev/null && echo made; true"""
    assert shell(home, script, network="host", userns=userns) == ""


# --- mounts ----------------------------------------------------------------------------------------------------------

SWAP = """
busybox mkdir -p /shared/real
while :; do
  busybox rm -rf /shared/there; busybox ln -s OUTSIDE /shared/there
  busybox rm -rf /shared/there; busybox ln -s /proc /shared/there
  busybox rm -rf /shared/there; busybox mkdir /shared/there
done"""


@BOTH
def test_a_volume_below_a_volume_that_another_container_swaps_stays_inside(
    home: Home, outside: Path, tmp_path: Path, userns: str
) -> None:
    """CVE-2021-30465, CVE-2024-45310, CVE-2025-52881: mounting while somebody exchanges directories and links."""
    for name in ("shared", "mine"):
        (tmp_path / name).mkdir()
    shared = Volume(str(tmp_path / "shared"), "/shared")
    swapper = attacks.start(home, SWAP.replace("OUTSIDE", str(outside)), volumes=(shared,), userns=userns)
    attacks.eventually(lambda: (tmp_path / "shared/real").exists())
    mine = Volume(str(tmp_path / "mine"), "/shared/there/made")
    for _ in range(12):
        try:
            said = attacks.run(home, "cat", "/proc/self/mounts", volumes=(shared, mine), userns=userns)[1]
        except (Error, OSError) as refused:
            assert "\n" not in str(refused)
        else:
            assert [line.split()[1] for line in said.splitlines()].count("/proc") == 1
    engine.remove(home, swapper.id, force=True)
    assert untouched(outside)
    assert list((tmp_path / "mine").iterdir()) == []


PROC = ["/proc/sys", "/proc/self/attr", "/proc/thread-self", "/proc/1/attr/exec", "/proc/sysrq-trigger", "/proc/net"]


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
@pytest.mark.parametrize("destination", PROC)
def test_a_bundle_puts_nothing_over_proc(tmp_path: Path, outside: Path, destination: str, kind: str) -> None:
    """CVE-2025-52881, CVE-2023-28642, CVE-2019-16884: what is written to /proc must reach /proc."""

    def edit(config: bundles.Json) -> None:
        source = {"source": str(outside), "options": ["bind"]} if kind == "bind" else {"source": "tmpfs"}
        config["mounts"].append({"destination": destination, "type": kind, **source})

    with pytest.raises((Error, OSError)) as raised:
        bundles.run(tmp_path, "true", edit=edit)
    assert "\n" not in str(raised.value)
    assert untouched(outside)


@pytest.mark.parametrize(("name", "value"), [
    ("kernel.core_pattern", "|/evil"), ("kernel/core_pattern", "|/evil"), ("kernel.modprobe", "/evil"),
    ("net.ipv4/../../kernel/core_pattern", "|/evil"), ("net/../kernel/core_pattern", "|/evil"),
    ("net.ipv4.ip_forward+kernel.core_pattern", "1"), ("kernel.shm_rmid_forced+kernel.core_pattern", "1"),
    ("fs.mqueue.x/../../kernel.core_pattern", "|/evil"), ("vm.panic_on_oom", "1"),
])  # fmt: skip
def test_a_setting_of_the_kernel_is_no_way_to_another(tmp_path: Path, name: str, value: str) -> None:
    """CVE-2022-0811: a setting that is the container's own, and in it one that is the host's."""
    before = Path("/proc/sys/kernel/core_pattern").read_text()

    def edit(config: bundles.Json) -> None:
        config["linux"]["sysctl"] = {name: value}

    with pytest.raises((Error, OSError)):
        bundles.run(tmp_path, "true", edit=edit)
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_a_value_with_more_settings_in_it_is_one_value(tmp_path: Path) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()

    def edit(config: bundles.Json) -> None:
        config["linux"]["sysctl"] = {"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/evil\nkernel.core_pattern=|/e"}

    with pytest.raises((Error, OSError)):
        bundles.run(tmp_path, "true", edit=edit)
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


@BOTH
@pytest.mark.parametrize("path", ["/../../../../../../OUTSIDE", "/../OUTSIDE", "../../OUTSIDE", "/proc/1/root/OUTSIDE"])
def test_a_volume_that_the_image_declares_copies_nothing_of_the_host(
    home: Home, outside: Path, userns: str, path: str
) -> None:
    """CVE-2022-23648: the path of a VOLUME climbs out of the image, and what is there is copied into the container."""
    name = path.replace("OUTSIDE", str(outside).lstrip("/"))
    attacks.image(home, name="volumes", volumes=(name,))
    try:
        said = shell(home, "busybox find / -xdev -name secret; cat /*/secret", image="volumes", userns=userns)
    except Error as refused:
        said = str(refused)
    assert "the secret" not in said
    assert untouched(outside)


@pytest.mark.parametrize(
    "source", ["/", "/proc/..", "//proc", "/./proc/sys", "/tmp/../proc", "LINK", "LINK/sys", "BOUND"]
)
@BOTH
def test_proc_and_sys_are_reached_by_no_volume(home: Home, tmp_path: Path, source: str, userns: str) -> None:
    """Neither by their names, nor by a link, nor below what is given."""
    (tmp_path / "link").symlink_to("/proc")
    bound = tmp_path / "bound"
    (bound / "below").mkdir(parents=True)
    bundles_mount("/sys", str(bound / "below"))
    source = source.replace("LINK", str(tmp_path / "link")).replace("BOUND", str(bound))
    with pytest.raises(Error) as raised:
        shell(home, "ls /v", volumes=(Volume(source, "/v"),), userns=userns)
    assert "\n" not in str(raised.value)


def bundles_mount(source: str, target: str) -> None:
    from minicontainer.linux import flags, syscalls

    syscalls.mount(source, target, None, flags.MS_BIND)


# --- builds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["/", "OUTSIDE", "../../../../../../../../OUTSIDE", "/proc/self/root", "/proc/1/root"])
def test_a_link_as_the_source_of_a_mount_in_a_build_shows_nothing_of_the_host(
    world: World, outside: Path, link: str
) -> None:
    """CVE-2024-1753: RUN --mount=type=bind,source=LINK, and the link leads to the host's root."""
    to = link.replace("OUTSIDE", str(outside) if link[0] == "O" else str(outside).lstrip("/"))
    text = f"FROM base AS evil\nRUN ln -s {to} /link\nFROM base\n"
    text += f"RUN --mount=type=bind,from=evil,source=/link,target=/m,rw cat /m/secret /m/{outside}/secret >/got; "
    text += "echo x >/m/written; true\n"
    try:
        assert "the secret" not in str(world.build(text).tree)
    except Error as refused:
        assert "\n" not in str(refused)
    assert untouched(outside)
    assert not Path("/written").exists()


@pytest.mark.parametrize("name", ["../../../../../../../../OUTSIDE", "/OUTSIDE", "..", "a/../../..", "x\x1b[2J"])
def test_the_id_of_a_cache_is_no_path(world: World, outside: Path, name: str) -> None:
    """CVE-2024-9675: the cache that a build mounts is a directory of the host's."""
    wanted = name.replace("/OUTSIDE", str(outside))
    built = world.build(
        f"FROM base\nRUN --mount=type=cache,id={wanted},target=/m cat /m/secret >/got; touch /m/made; true\n"
    )
    assert "the secret" not in str(built.tree)
    assert untouched(outside)
    assert not (Path(world.home.data).parent / "made").exists()


@pytest.mark.parametrize("source", ["../../../../../../OUTSIDE", "/OUTSIDE", "link", "link/.."])
def test_the_part_of_a_cache_stays_in_its_source(world: World, outside: Path, source: str) -> None:
    """CVE-2024-23651: the subdirectory of a cache, exchanged by a step beside it for a link to the host."""
    wanted = source.replace("/OUTSIDE", str(outside))
    text = f"FROM base AS evil\nRUN ln -s {outside} /link\nFROM base\n"
    text += f"RUN --mount=type=cache,from=evil,source={wanted},target=/m cat /m/secret >/got; touch /m/made; true\n"
    try:
        assert "the secret" not in str(world.build(text).tree)
    except Error as refused:
        assert "\n" not in str(refused)
    assert untouched(outside)


@pytest.mark.parametrize("more", ["bind-propagation=shared", "bind-propagation=rshared,Z", "relabel=shared", "Z"])
def test_a_mount_of_a_build_takes_no_option_that_it_does_not_know(world: World, more: str) -> None:
    """CVE-2024-9407: what stands behind bind-propagation went to mount(2) as it was."""
    said = world.refused(f"FROM base\nRUN --mount=type=bind,target=/m,{more} true")
    assert "--mount=" in said


def test_tidying_up_a_mount_point_removes_nothing_of_the_host(world: World, outside: Path) -> None:
    """CVE-2024-23652: a step exchanges the place of its mount for a link, and what it leads to is removed."""
    (outside / "empty").mkdir()
    text = f"FROM base\nRUN ln -s {outside} /a\n"
    text += "RUN --mount=type=tmpfs,target=/a/empty --mount=type=tmpfs,target=/b/empty true\n"
    text += f"RUN --mount=type=tmpfs,target=/c/empty umount /c/empty; rm -r /c; ln -s {outside} /c; true\n"
    try:
        world.build(text)
    except Error as refused:
        assert "\n" not in str(refused)
    assert (outside / "empty").is_dir()
    assert (outside / "secret").exists()


def test_what_is_written_to_the_context_in_a_build_is_lost(world: World) -> None:
    """CVE-2024-11218: writes through a bind mount reached the host, by links exchanged by a build beside it."""
    world.build("FROM base\nRUN --mount=type=bind,target=/m,rw echo evil >/m/a; ln -s / /m/root; true\n", {"a": "A"})
    assert (world.context / "a").read_text() == "A"
    assert not (world.context / "root").is_symlink()


def test_a_file_of_rules_that_is_a_link_tells_nothing_of_the_host(world: World, outside: Path) -> None:
    """CVE-2022-4122: .dockerignore as a link to a file of the host, which an error message shows."""
    (world.context / ".dockerignore").symlink_to(outside / "secret")
    try:
        said = str(world.build("FROM base\nCOPY . /all\n", {"a": "A"}))
    except Error as refused:
        said = str(refused)
    assert "the secret" not in said


def test_insecure_is_for_who_allows_it_alone(world: World) -> None:
    """CVE-2024-23653: a container of a build that had more rights than its builder allows."""
    assert "not allowed" in world.refused("FROM base\nRUN --security=insecure true")


# --- what `minicontainer run` gives without being asked --------------------------------------------------------------


def test_the_defaults_are_those_of_the_page(home: Home) -> None:
    one = attacks.start(home, "sleep 60")
    status = procfs.status(one.pid)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert bin(int(status["CapBnd"], 16)).count("1") == 11
    spec = states.recorded_spec(home.runtime, one.id)
    assert {kind.type for kind in spec.linux.namespaces} == {"pid", "ipc", "uts", "mount", "cgroup", "network", "user"}
    assert spec.linux.resources.pids and spec.linux.resources.pids.limit == 2048
    assert "/proc/interrupts" in spec.linux.masked_paths
    directory = Path(one.cgroups.get("pids") or next(iter(one.cgroups.values())))
    assert (directory / "pids.max").read_text() == "2048\n"
    engine.remove(home, one.id, force=True)


@BOTH
def test_clone3_is_not_there_so_that_programs_take_what_can_be_judged(home: Home, userns: str) -> None:
    """ENOSYS, not EPERM: with EPERM the C library would give up instead of calling clone."""
    attacks.image(home, attacks.tar(attacks.member("syscall", attacks.program("syscall"))))
    assert shell(home, "/syscall 64 435 '&' 88", image="trap", userns=userns) == "38\n"


@BOTH
def test_a_volume_is_read_only_with_all_that_is_mounted_below_it(home: Home, tmp_path: Path, userns: str) -> None:
    shared = tmp_path / "shared"
    (shared / "below").mkdir(parents=True)
    other = tmp_path / "other"
    other.mkdir()
    for directory in (shared, other):
        directory.chmod(0o777)
    bundles_mount(str(other), str(shared / "below"))
    shell(home, "touch /v/a /v/below/b", volumes=(Volume(str(shared), "/v", read_only=True),), userns=userns)
    assert list(other.iterdir()) == []
