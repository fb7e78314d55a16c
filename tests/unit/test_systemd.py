"""A container as a scope of systemd: its name and place, and its limits in systemd's words."""

from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.oci.runtime import Resources, resources_from_json
from minicontainer.runtime import systemd
from minicontainer.runtime.systemd import annotated, directory, properties, unit_of

INFINITY = (1 << 64) - 1


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("", ("system.slice", "minicontainer-box.scope")),
        ("machine.slice:libpod:5ec5", ("machine.slice", "libpod-5ec5.scope")),
        ("system.slice:docker:5ec5", ("system.slice", "docker-5ec5.scope")),
        (":a:b", ("system.slice", "a-b.scope")),
        ("a.slice::b", ("a.slice", "b.scope")),
    ],
)
def test_a_cgroup_path_is_slice_prefix_and_name(path: str, unit: tuple[str, str]) -> None:
    assert unit_of(path, "box") == unit


@pytest.mark.parametrize("path", ["/a/b", "a:b", "a.slice:b:", "a:b:c:d"])
def test_another_form_is_refused_in_runcs_words(path: str) -> None:
    with pytest.raises(Error, match="expected cgroupsPath to be of format slice:prefix:name for systemd cgroups"):
        unit_of(path, "box")


@pytest.mark.parametrize(
    ("parent", "place"),
    [
        ("system.slice", "/system.slice/b.scope"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice/b.scope"),
        ("-.slice", "/b.scope"),
    ],
)
def test_a_slice_is_below_those_that_its_name_begins_with(parent: str, place: str) -> None:
    assert directory(parent, "b.scope") == place


@pytest.mark.parametrize("parent", ["a", "a/../b.slice", "-a.slice", "a--b.slice", "a-.slice", ".slice"])
def test_what_is_no_slice_is_named(parent: str) -> None:
    with pytest.raises(Error, match="is no slice of systemd"):
        directory(parent, "b.scope")


def _said(json: dict[str, object], version2: bool) -> dict[str, object]:
    return {name: value for name, (_, value) in properties(resources_from_json(json), version2)}


def test_limits_of_version_2_in_systemds_words() -> None:
    asked: dict[str, object] = {
        "memory": {"limit": 64, "swap": 96, "reservation": 32},
        "cpu": {"shares": 1024, "quota": 33_333, "period": 100_000, "cpus": "0-1,9"},
        "pids": {"limit": 7},
    }
    assert _said(asked, True) == {
        "MemoryMax": 64,
        "MemorySwapMax": 32,
        "MemoryLow": 32,
        "CPUWeight": 39,
        "TasksMax": 7,
        "AllowedCPUs": b"\x03\x02",
        "CPUQuotaPeriodUSec": 100_000,
        "CPUQuotaPerSecUSec": 340_000,  # up: systemd would round down, and hold the container to less
    }


def test_limits_of_version_1_in_systemds_words() -> None:
    asked: dict[str, object] = {"memory": {"limit": 64}, "cpu": {"shares": 2, "quota": 20_000}, "pids": {"limit": -1}}
    said = _said(asked, False)
    assert said == {"MemoryLimit": 64, "CPUShares": 2, "TasksMax": INFINITY, "CPUQuotaPerSecUSec": 200_000}


def test_no_limit_is_infinity_and_nothing_is_nothing() -> None:
    asked: dict[str, object] = {"memory": {"limit": -1}, "cpu": {"quota": -1}}
    assert _said(asked, True)["MemoryMax"] == _said(asked, True)["CPUQuotaPerSecUSec"] == INFINITY
    assert _said({}, True) == _said({}, False) == {}


def test_the_devices_of_every_container_are_systemds_list_too() -> None:
    kept = list(systemd._devices(systemd.rules_of(Resources())))
    assert kept[:2] == [("DevicePolicy", ("s", "strict")), ("DeviceAllow", ("a(ss)", []))]
    (_, (_, allowed)) = kept[2]
    assert {("char-*", "m"), ("block-*", "m"), ("/dev/char/1:3", "rwm")} <= set(allowed)
    assert not any(access != "m" for name, access in allowed if name.endswith("-*"))


@pytest.mark.parametrize(
    ("name", "text", "given"),
    [
        ("KillMode", "'none'", ("KillMode", ("s", "none"))),
        ("After", "['a.service', 'b.service']", ("After", ("as", ["a.service", "b.service"]))),
        ("SendSIGHUP", "true", ("SendSIGHUP", ("b", True))),
        ("TasksMax", "uint64 7", ("TasksMax", ("t", 7))),
        ("Nice", "-5", ("Nice", ("i", -5))),
        ("TimeoutStopUSec", "uint64 2000000", ("TimeoutStopUSec", ("t", 2_000_000))),
        ("TimeoutStopSec", "2", ("TimeoutStopUSec", ("t", 2_000_000))),
        ("TimeoutStopSec", "double 1.5", ("TimeoutStopUSec", ("t", 1_500_000))),
    ],
)
def test_an_annotation_is_a_property(name: str, text: str, given: object) -> None:
    assert list(annotated({f"org.systemd.property.{name}": text, "org.other": "x"})) == [given]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("After", "a"),
        ("A", "'x'"),
        ("A-b", "'x'"),
        ("After", "[1]"),
        ("After", ""),
        ("After", "1 + 1"),
        ("After", "True"),
        ("TimeoutStopSec", "'x'"),
    ],
)
def test_an_annotation_that_is_no_property_is_named(name: str, text: str) -> None:
    with pytest.raises(Error, match=rf"annotations.org.systemd.property.{name}: "):
        list(annotated({f"org.systemd.property.{name}": text}))


def test_a_host_without_systemd_is_said_as_runc_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_SOCKET", "/nowhere/private")
    with pytest.raises(Error, match="systemd not running on this host, cannot use systemd cgroups manager"):
        systemd.stop("a.scope")


@pytest.mark.parametrize(("uid", "inside"), [(1000, False), (0, True)])
def test_without_the_host_s_root_it_is_the_person_s_own_that_is_asked(
    monkeypatch: pytest.MonkeyPatch, uid: int, inside: bool, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr("minicontainer.linux.procfs.in_user_namespace", lambda: inside)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(Error, match=rf"systemd not running .*: {tmp_path}/systemd/private: .*; try: the cgroupfs"):
        systemd.set_properties("one.scope", [])
    assert systemd.unit_of("", "one") == ("user.slice", "minicontainer-one.scope")
