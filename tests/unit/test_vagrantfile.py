"""The lab's machines, and the Vagrantfile for every provider and architecture, loaded by Ruby with a recording stub."""

import ipaddress
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
VAGRANT = ROOT / "vagrant"
ROW = re.compile(r"- \{name: (\w+), address: ([\d.]+), cpus: (\d+), memory: (\d+)\}")
RANGE = ipaddress.ip_network("192.168.56.0/21")  # what VirtualBox allows without a setting of its own
PROVIDERS = ("virtualbox", "libvirt", "vmware_desktop", "parallels", "qemu")
ARM = {"HOST_CPU": "arm64", "HOST_OS": "darwin23"}  # as macOS says it
LINUX_ARM = {"HOST_CPU": "aarch64"}

needs_ruby = pytest.mark.skipif(not shutil.which("ruby"), reason="needs Ruby: sudo apt-get install ruby")


def nodes() -> list[tuple[str, str, int, int]]:
    rows = [ROW.fullmatch(line) for line in (VAGRANT / "nodes.yaml").read_text().splitlines() if line[:1] != "#"]
    assert all(rows), "a row that is no row"
    return [(row[1], row[2], int(row[3]), int(row[4])) for row in rows if row]


def vagrant(data: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The Vagrantfile as `vagrant ARGUMENTS` would load it; what Vagrant keeps of its machines is in `data`."""
    roomy = {"LAB_HOST_MEMORY": "65536", "VAGRANT_DOTFILE_PATH": str(data), "VAGRANT_HOME": str(data)}
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("VAGRANT", "LAB_", "WORKERS"))}
    return subprocess.run(
        ["ruby", ROOT / "tests/vagrant_stub.rb", VAGRANT / "Vagrantfile", *arguments],
        capture_output=True,
        text=True,
        env={**ours, **roomy, **environment},
    )


def loaded(data: Path, *arguments: str, **environment: str) -> Any:
    done = vagrant(data, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(data: Path, *arguments: str, **environment: str) -> str:
    """The one line that such a command ends with."""
    done = vagrant(data, *arguments, **environment)
    assert (done.returncode, done.stdout) == (1, ""), done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("vagrant: ")
    return lines[0]


def test_machines_have_names_and_addresses_of_their_own_that_virtualbox_allows() -> None:
    names, addresses, _, _ = zip(*nodes(), strict=True)
    assert names == ("manager", *(f"worker{number}" for number in range(1, 6)))
    assert len(set(addresses)) == len(addresses)
    assert [address for address in addresses if ipaddress.ip_address(address) not in RANGE] == []


def test_workers_differ_in_size_so_that_placement_has_something_to_decide() -> None:
    sizes = [(cpus, memory) for _, _, cpus, memory in nodes()[1:]]
    assert len(set(sizes)) == len(sizes)


@needs_ruby
@pytest.mark.parametrize("computer", [{}, ARM, LINUX_ARM], ids=["x86_64", "macos-arm64", "linux-aarch64"])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_provider_gets_the_machines_of_nodes_yaml(
    tmp_path: Path, computer: Mapping[str, str], workers: int
) -> None:
    lab = loaded(tmp_path, "status", WORKERS=str(workers), **computer)
    assert [machine["name"] for machine in lab["machines"]] == [name for name, _, _, _ in nodes()][: workers + 1]
    for machine, (name, address, cpus, memory) in zip(lab["machines"], nodes(), strict=False):
        assert machine["hostname"] == name
        assert ["private_network", {"ip": address, "netmask": "255.255.255.0"}] in machine["network"]
        assert set(machine["providers"]) == set(PROVIDERS)
        for provider, told in machine["providers"].items():
            assert size(provider, told["settings"]) == (cpus, memory)


def size(provider: str, settings: Mapping[str, Any]) -> tuple[int, int]:
    match provider:
        case "vmware_desktop":
            return int(settings["vmx"]["numvcpus"]), int(settings["vmx"]["memsize"])
        case "qemu":
            return int(settings["smp"]), int(settings["memory"].removesuffix("M"))
        case _:
            return settings["cpus"], settings["memory"]


@needs_ruby
@pytest.mark.parametrize(
    ("computer", "boxes"),
    [
        ({"HOST_CPU": "x86_64"}, ("bento/debian-12", "debian/bookworm64", "cloud-image/debian-12")),
        ({"HOST_CPU": "x64", "HOST_OS": "mingw32"}, ("bento/debian-12", "debian/bookworm64", "cloud-image/debian-12")),
        (ARM, ("bento/debian-12", "cloud-image/debian-12", "cloud-image/debian-12")),
        (LINUX_ARM, ("bento/debian-12", "cloud-image/debian-12", "cloud-image/debian-12")),
    ],
    ids=["x86_64", "windows", "macos-arm64", "linux-aarch64"],
)
def test_the_box_is_one_that_provider_and_processor_have_and_its_version_is_pinned(
    tmp_path: Path, computer: Mapping[str, str], boxes: tuple[str, str, str]
) -> None:
    bento, libvirt, qemu = boxes
    for machine in loaded(tmp_path, "status", **computer)["machines"]:
        told = {provider: asked["override"] for provider, asked in machine["providers"].items()}
        chosen = {provider: one["box"] for provider, one in told.items()}
        assert [chosen.pop(provider) for provider in ("virtualbox", "vmware_desktop", "parallels")] == [bento] * 3
        assert chosen == {"libvirt": libvirt, "qemu": qemu}
        assert [one for one in told.values() if not re.fullmatch(r"[\d.]{10,}", one["box_version"])] == []


@needs_ruby
def test_another_box_by_name_or_by_file(tmp_path: Path) -> None:
    (file := tmp_path / "lab.box").write_bytes(b"")
    for box, expected in {
        "some/box": {"box": "some/box"},
        str(file): {"box": "miniecs-lab", "box_url": f"file://{file}"},
    }.items():
        for machine in loaded(tmp_path, "up", LAB_BOX=box)["machines"]:
            assert [told["override"] for told in machine["providers"].values()] == [expected] * len(PROVIDERS)
    assert "lab2.box is no file; try: sudo vagrant/box.sh" in refused(tmp_path, "up", LAB_BOX=f"{tmp_path}/lab2.box")


@needs_ruby
def test_emulation_is_a_switch_of_libvirt_alone(tmp_path: Path) -> None:
    def told(**environment: str) -> Any:
        return loaded(tmp_path, "status", **environment)["machines"][0]["providers"]

    plain, emulated = (told(LAB_TCG=value) for value in ("0", "1"))
    assert {name for name in PROVIDERS if plain[name] != emulated[name]} == {"libvirt"}
    assert {"driver": "qemu", "cpu_mode": "custom", "cpu_model": "qemu64"}.items() <= emulated["libvirt"][
        "settings"
    ].items()


@needs_ruby
def test_machines_of_qemu_meet_without_root_as_their_computer_can(tmp_path: Path) -> None:
    modes = {}
    for name, computer in {"linux": LINUX_ARM, "macos": ARM}.items():
        modes[name] = loaded(tmp_path, "status", **computer)["machines"][0]["providers"]["qemu"]["settings"]["net_mode"]
    assert modes == {"linux": "socket", "macos": "socket_vmnet"}


@needs_ruby
def test_each_machine_is_provisioned_by_scripts_that_are_there(tmp_path: Path) -> None:
    manager, *workers = loaded(tmp_path, "up", WORKERS="3")["machines"]
    assert [name for name, _ in manager["provision"]] == ["copy", "unpack", "install"]
    for machine in (manager, *workers):
        steps = dict(machine["provision"])
        assert Path(steps["copy"]["checkout"]).stat().st_mode & 0o777 == 0o600  # secrets are in it
        for step in (steps["unpack"], steps["install"]):
            assert os.access(VAGRANT / step["path"], os.X_OK)
        assert steps["unpack"]["args"] == [machine["name"]]
    names = [f"{name}:{address}" for name, address, _, _ in nodes()]
    assert manager["provision"][2][1]["args"] == ["manager", "manager", "192.168.56.10", *names]
    assert workers[2]["provision"][2][1]["args"] == ["worker", "worker3", "192.168.56.13", "192.168.56.10", *names]


@needs_ruby
def test_the_join_token_is_for_its_owner_alone_and_is_printed_nowhere(tmp_path: Path) -> None:
    done = vagrant(tmp_path, "up")
    file = VAGRANT / ".join-token"
    token = file.read_text().strip()
    assert re.fullmatch(r"[a-z0-9]{6}\.[a-z0-9]{16}", token)
    assert file.stat().st_mode & 0o777 == 0o600
    assert token not in done.stdout + done.stderr
    with tarfile.open(tmp_path / "checkout.tar") as tar:
        assert tar.getmember("vagrant/.join-token").mode == 0o600
    assert ".join-token" in (ROOT / ".gitignore").read_text()


@needs_ruby
def test_the_control_plane_is_reached_from_this_computer_alone(tmp_path: Path) -> None:
    manager, *workers = loaded(tmp_path, "status")["machines"]
    ports = [settings for kind, settings in manager["network"] if kind == "forwarded_port"]
    assert [(port["guest"], port["host_ip"], port["auto_correct"]) for port in ports] == [(8600, "127.0.0.1", True)]
    assert [kind for machine in workers for kind, _ in machine["network"]] == ["private_network"] * len(workers)
    assert "vagrant ssh manager" in manager["post_up_message"]


@needs_ruby
def test_nothing_depends_on_guest_additions_or_a_live_synced_folder(tmp_path: Path) -> None:
    lab = loaded(tmp_path, "status")
    assert lab["synced_folder"] == [[".", "/vagrant", {"disabled": True}]]
    assert lab["boot_timeout"] == 900


@needs_ruby
@pytest.mark.parametrize(
    ("environment", "cause", "fix"),
    [
        ({"WORKERS": "two"}, "WORKERS=two is no whole number", "WORKERS=2"),
        ({"WORKERS": "-1"}, "WORKERS=-1 is no whole number", "WORKERS=2"),
        ({"WORKERS": ""}, "WORKERS= is no whole number", "WORKERS=2"),
        ({"WORKERS": "0"}, "without workers", "WORKERS=1"),
        ({"WORKERS": "6"}, "nodes.yaml has 5 workers", "add rows"),
        ({"LAB_HOST_MEMORY": "4000"}, "manager, worker1, worker2 need 3584 MiB", "fewer WORKERS"),
        ({"USABLE": ""}, "no provider is usable here", "./dev lab up"),
        ({"USABLE": "docker,hyperv"}, "no provider is usable here", "virtualbox"),
        ({"VAGRANT_DEFAULT_PROVIDER": "hyperv"}, "knows no provider hyperv", "virtualbox, libvirt"),
        ({"VAGRANT_DEFAULT_PROVIDER": "parallels"}, "parallels is not installed or not usable", "virtualbox"),
        ({"HOST_CPU": "riscv64"}, "the processor riscv64", "LAB_BOX=NAME"),
    ],
)
def test_what_cannot_be_started_gets_one_line_with_the_fix(
    tmp_path: Path, environment: dict[str, str], cause: str, fix: str
) -> None:
    said = refused(tmp_path, "up", **environment)
    assert cause in said.partition("; try: ")[0]
    assert fix in said.partition("; try: ")[2]


@needs_ruby
def test_a_provider_on_the_command_line_goes_before_the_environment(tmp_path: Path) -> None:
    for words in (["--provider=hyperv"], ["--provider", "hyperv"]):
        assert "knows no provider hyperv" in refused(tmp_path, "up", *words, VAGRANT_DEFAULT_PROVIDER="virtualbox")


@needs_ruby
def test_libvirt_without_kvm_gets_one_line_with_the_fix(tmp_path: Path) -> None:
    """A device is not enough: a virtual processor may have it without the instructions."""
    words = Path("/proc/cpuinfo").read_text().split()
    if os.path.exists("/dev/kvm") and ("vmx" in words or "svm" in words or "implementer" in words):
        assert loaded(tmp_path, "up", USABLE="libvirt")
    else:
        assert "no KVM; try: " in refused(tmp_path, "up", USABLE="libvirt")
    assert loaded(tmp_path, "up", USABLE="libvirt", LAB_TCG="1")


@needs_ruby
def test_a_network_of_this_computer_in_the_labs_range_is_found_before_it_confuses() -> None:
    def says(*networks: str) -> str:
        pairs = ", ".join(f'["{network.partition(" ")[0]}", "{network.partition(" ")[2]}"]' for network in networks)
        code = f'Machines.free([Machines::Machine.new(name: "worker1", address: "192.168.56.11")], [{pairs}])'
        done = subprocess.run(["ruby", f"-r{VAGRANT}/machines", "-e", code], capture_output=True, text=True)
        assert done.returncode == (1 if done.stderr else 0)
        return done.stderr

    assert says("lo 127.0.0.1", "eth0 10.0.0.5") == ""
    assert says("vboxnet0 192.168.56.1") == says("virbr2 192.168.56.1") == says("bridge100 192.168.56.1") == ""
    assert "network of this computer's wlan0 (192.168.56.77); try: leave" in says("wlan0 192.168.56.77")
    assert "worker1: its address 192.168.56.11" in says("virbr2 192.168.56.11")


@needs_ruby
def test_what_was_made_with_more_workers_is_still_seen_and_can_always_be_destroyed(tmp_path: Path) -> None:
    made = tmp_path / "machines/worker4/virtualbox"
    made.mkdir(parents=True)
    (made / "id").write_text("1")
    lab = loaded(tmp_path, "destroy", "-f", USABLE="", LAB_HOST_MEMORY="1")
    assert [(machine["name"], machine["autostart"]) for machine in lab["machines"]] == [
        ("manager", True),
        ("worker1", True),
        ("worker2", True),
        ("worker4", False),
    ]


@needs_ruby
def test_a_box_that_could_not_be_fetched_is_named_with_the_machines_and_what_to_try(tmp_path: Path) -> None:
    done = vagrant(tmp_path, "up")
    names = (
        "vagrant: manager, worker1, worker2: the box bento/debian-12 202510.26.0 is not here and could not be fetched"
    )
    assert done.stderr.startswith(f"{names}; try: LAB_BOX=NAME, ")
    (tmp_path / "boxes/bento-VAGRANTSLASH-debian-12/202510.26.0").mkdir(parents=True)
    assert vagrant(tmp_path, "up").stderr == vagrant(tmp_path, "status").stderr == ""


@needs_ruby
def test_the_copy_for_the_machines_is_whole_safe_from_windows_and_made_anew_only_after_a_change(tmp_path: Path) -> None:
    archive = Path(loaded(tmp_path, "up")["machines"][0]["provision"][0][1]["checkout"])
    before = archive.stat()
    loaded(tmp_path, "up")
    assert archive.stat().st_ino == before.st_ino
    with tarfile.open(archive) as tar:
        members = {member.name: member for member in tar}
        script = tar.extractfile("vagrant/provision.sh")
        assert script is not None
        assert b"\r" not in script.read()
    assert {"dev", "pyproject.toml", ".ci/requirements.txt", "miniecs/agent.py", "vagrant/nodes.yaml"} <= set(members)
    assert members["dev"].mode == members["vagrant/provision.sh"].mode == 0o755
    assert [name for name in members if "__pycache__" in name or ".vagrant/" in name or ".git/" in name] == []


@needs_ruby
def test_wheels_go_by_themselves_and_only_to_a_machine_that_has_installed_others(tmp_path: Path) -> None:
    copied = loaded(tmp_path, "up")["machines"][0]["provision"][0][1]
    with tarfile.open(copied["checkout"]) as tar:
        assert [name for name in tar.getnames() if name.endswith(".whl")] == []
    with tarfile.open(copied["wheels"]) as tar:
        assert all(name.startswith("vagrant/stage/wheels/") for name in tar.getnames())
    listed, asks = tmp_path / "installed.txt", tmp_path / "asks.rb"
    listed.write_text("aiohttp==3\n")
    asks.write_text(f'require "{VAGRANT}/copy"\nputs Copy.question("{listed}"), Copy.question("/nowhere").inspect')
    said = subprocess.run(["ruby", ROOT / "tests/vagrant_stub.rb", asks], capture_output=True, text=True, check=True)
    question, none = said.stdout.splitlines()
    assert none == "nil"
    # install.sh writes down the same, when it has installed them
    kept = re.search(r"wanted=\$\((.*)\)", (VAGRANT / "install.sh").read_text())
    assert kept
    key = subprocess.run(
        ["sh", "-c", kept[1]], env={**os.environ, "locked": str(listed)}, capture_output=True, text=True
    )
    assert question == f'test "$(cat /opt/miniecs/.venv/installed 2>/dev/null)" = {key.stdout.strip()}'


@needs_ruby
def test_a_line_that_git_ended_for_windows_is_ended_for_linux_again(tmp_path: Path) -> None:
    (tmp_path / "script.sh").write_bytes(b"#!/bin/sh\r\ntrue\r\n")
    (tmp_path / "wheel.whl").write_bytes(b"\r\n")
    code = f'Checkout.write(["{tmp_path}/script.sh", "{tmp_path}/wheel.whl"], "{tmp_path}/out.tar")'
    subprocess.run(["ruby", f"-r{VAGRANT}/checkout", "-e", code], check=True)
    with tarfile.open(tmp_path / "out.tar") as tar:
        contents = {Path(member.name).name: tar.extractfile(member) for member in tar}
        assert {name: file.read() for name, file in contents.items() if file} == {
            "script.sh": b"#!/bin/sh\ntrue\n",
            "wheel.whl": b"\r\n",
        }
        assert tar.getmembers()[0].mode == 0o755
