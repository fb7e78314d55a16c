"""linux.netDevices: a device of the host goes into the container, and is back if that is not made after all."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.runtime import creation, operations
from tests import bundles
from tests.bundles import Edit, Json

pytestmark = pytest.mark.kernel()
ADDRESSES = ["192.0.2.7/24", "2001:db8::7/64"]


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _device() -> str:
    """A veth with two lasting addresses and one that ends. It ends with the network namespace of the test."""
    name = f"nd{os.getpid() % 100_000}"
    _ip("link", "add", name, "mtu", "1400", "type", "veth", "peer", "name", f"{name}p")
    _ip("addr", "add", ADDRESSES[0], "dev", name)
    _ip("addr", "add", ADDRESSES[1], "dev", name, "nodad")
    _ip("addr", "add", "198.51.100.7/24", "dev", name, "valid_lft", "600", "preferred_lft", "600")
    return name


def _asks(devices: Json, *edits: Edit) -> Edit:
    def edit(config: Json) -> None:
        config["linux"]["netDevices"] = devices
        for one in edits:
            one(config)

    return edit


def _of(pid: int) -> dict[str, Json]:
    said = subprocess.run(
        ["nsenter", "-t", str(pid), "-n", "ip", "-j", "addr"], check=True, capture_output=True, text=True
    )
    return {link["ifname"]: link for link in json.loads(said.stdout)}


def _global(link: Json) -> list[str]:
    return [f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if one["scope"] == "global"]


@pytest.mark.parametrize("user", [False, True], ids=["root", "user namespace"])
@pytest.mark.parametrize("asked", ["", "net0", "net%d"])
def test_a_device_moves_with_its_lasting_addresses_and_is_up(tmp_path: Path, asked: str, user: bool) -> None:
    device = _device()
    mac = json.loads(_ip("-j", "link", "show", device))[0]["address"]
    edit = _asks({device: {"name": asked} if asked else {}}, *([bundles.user_namespace] if user else []))
    root, name = str(tmp_path / "states"), f"moves-{os.getpid()}"
    made = creation.create(root, name, bundles.bundle(tmp_path, "sleep", "60", edit=edit))
    try:
        assert device not in {link["ifname"] for link in json.loads(_ip("-j", "link"))}
        found = _of(made.pid)[asked.replace("%d", "0") or device]
        assert _global(found) == ADDRESSES
        assert (found["address"], found["mtu"]) == (mac, 1400)
        assert "UP" in found["flags"]
    finally:
        operations.delete(root, name, force=True)


def test_a_device_is_moved_into_a_namespace_that_is_joined_and_stays_there(tmp_path: Path) -> None:
    device = _device()
    place = f"{device}n"
    _ip("netns", "add", place)
    try:
        join = {"type": "network", "path": f"/run/netns/{place}"}

        def joins(config: Json) -> None:
            kinds = [one for one in config["linux"]["namespaces"] if one["type"] != "network"]
            config["linux"]["namespaces"] = [*kinds, join]

        bundles.run(tmp_path, "true", edit=_asks({device: {}}, joins))
        there = json.loads(_ip("-n", place, "-j", "addr", "show", device))[0]
        assert _global(there) == ADDRESSES
    finally:
        _ip("netns", "delete", place)


def _hook_fails(config: Json) -> None:
    config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]}


def _one_is_missing(config: Json) -> None:
    config["linux"]["netDevices"]["absent0"] = {}


@pytest.mark.parametrize(
    ("spoil", "text"), [(_hook_fails, "createRuntime"), (_one_is_missing, "the host has no network device 'absent0'")]
)
def test_a_device_is_back_if_the_container_cannot_be_made(tmp_path: Path, spoil: Edit, text: str) -> None:
    device = _device()
    _ip("link", "set", device, "up")
    with pytest.raises(Error, match=text):
        bundles.run(tmp_path, "true", edit=_asks({device: {"name": "net0"}}, spoil))
    back = json.loads(_ip("-j", "addr", "show", device))[0]
    assert _global(back) == ADDRESSES
    assert "UP" in back["flags"]


def test_a_name_that_is_taken_is_refused_and_the_device_stays(tmp_path: Path) -> None:
    device = _device()
    with pytest.raises(Error, match=f"linux.netDevices.{device}: 'lo' is taken in the container"):
        bundles.run(tmp_path, "true", edit=_asks({device: {"name": "lo"}}))
    assert device in {link["ifname"] for link in json.loads(_ip("-j", "link"))}


def test_a_device_whose_addresses_cannot_be_had_inside_is_back(tmp_path: Path) -> None:
    device, place = _device(), f"nd{os.getpid() % 100_000}n"
    _ip("netns", "add", place)
    try:
        _ip(
            "netns",
            "exec",
            place,
            "sysctl",
            "-qw",
            "net.ipv6.conf.all.disable_ipv6=1",
            "net.ipv6.conf.default.disable_ipv6=1",
        )

        def joins(config: Json) -> None:
            kinds = [one for one in config["linux"]["namespaces"] if one["type"] != "network"]
            config["linux"]["namespaces"] = [*kinds, {"type": "network", "path": f"/run/netns/{place}"}]

        with pytest.raises(Error, match=f"linux.netDevices.{device}: cannot be moved as 'net0': Permission denied"):
            bundles.run(tmp_path, "true", edit=_asks({device: {"name": "net0"}}, joins))
        assert _global(json.loads(_ip("-j", "addr", "show", device))[0]) == ADDRESSES
    finally:
        _ip("netns", "delete", place)


def test_a_device_that_cannot_leave_is_named(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"linux.netDevices.lo: cannot be moved as 'lo0': Invalid argument"):
        bundles.run(tmp_path, "true", edit=_asks({"lo": {"name": "lo0"}}))
