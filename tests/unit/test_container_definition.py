"""A container definition becomes options of minicontainer: nothing of it is lost on the way."""

import pytest

from minicontainer.containers import Container as Made
from minicontainer.containers import Options, Port, Ulimit, Volume
from miniecs import acs
from miniecs.acs import Container, HealthCheck, PortMapping, Task, TaskLimits
from miniecs.container_definition import (
    Instance,
    environment,
    group,
    group_limits,
    health_command,
    network_bindings,
    options,
)
from miniecs.transitions import NetworkBinding, TaskRecord, new_record

ID = "0123456789abcdef0123456789abcdef"
ARN = f"arn:aws:ecs:us-east-1:000000000000:task/default/{ID}"
INSTANCE = Instance(cluster="default", endpoint="http://198.18.0.1:8600", volumes="/data/volumes")
MIB = 1 << 20


def record(container: Container, network_mode: str = "bridge", volumes: tuple[acs.Volume, ...] = ()) -> TaskRecord:
    task = Task(
        arn=ARN, family="f", version="3", containers=(container,), network_mode=network_mode, volumes=volumes
    )  # fmt: skip
    return new_record(task, lambda: "secret")


def made_of(container: Container, network_mode: str = "bridge", volumes: tuple[acs.Volume, ...] = ()) -> Options:
    whole = record(container, network_mode, volumes)
    return options(whole, whole.containers[0], INSTANCE)


def test_the_least_definition() -> None:
    options = made_of(Container(name="web", image="web:1"))
    assert (options.image, options.name, options.cgroup_parent) == ("web:1", f"ecs-{ID}-web", f"ecs/{ID}")
    assert (options.command, options.entrypoint, options.memory) == ((), None, None)
    assert options.cpu_shares == 2
    assert options.network == "bridge"


def test_the_whole_definition() -> None:
    linux = acs.LinuxParameters(
        capabilities=acs.KernelCapabilities(add=("NET_ADMIN",), drop=("CHOWN",)),
        init_process_enabled=True,
        shared_memory_size=8,
        tmpfs=(acs.Tmpfs(container_path="/scratch", size=16, mount_options=("noexec", "nodev")),),
    )
    options = made_of(
        Container(
            name="web", image="web:1", cpu=256, memory=64, memory_reservation=32, command=("a",), entry_point=("b",),
            working_directory="/w", user="1:2", hostname="h", readonly_root_filesystem=True, linux_parameters=linux,
            ulimits=(acs.Ulimit(name="nofile", soft_limit=1, hard_limit=2),), dns_servers=("192.0.2.1",),
            extra_hosts=(acs.HostEntry(hostname="x", ip_address="192.0.2.2"),), docker_labels={"a": "b"},
            interactive=True, pseudo_terminal=True, dns_search_domains=("lan",),
            system_controls=(acs.SystemControl(namespace="net.core.somaxconn", value="512"),),
        )
    )  # fmt: skip
    assert (options.cpu_shares, options.memory, options.memory_reservation) == (256, 64 * MIB, 32 * MIB)
    assert (options.command, options.entrypoint, options.workdir, options.user) == (("a",), ("b",), "/w", "1:2")
    assert (options.hostname, options.read_only, options.init) == ("h", True, True)
    assert (options.cap_add, options.cap_drop) == (("NET_ADMIN",), ("CHOWN",))
    assert options.tmpfs == ("/scratch:size=16m,noexec,nodev",)
    assert options.ulimits == (Ulimit("nofile", 1, 2),)
    assert (options.dns, options.extra_hosts) == (("192.0.2.1",), ("x:192.0.2.2",))
    assert (options.interactive, options.tty) == (True, True)
    assert (options.dns_search, options.shm_size) == (("lan",), 8 * MIB)
    assert options.sysctls == {"net.core.somaxconn": "512"}
    assert options.labels["a"] == "b"


def test_labels_say_whose_the_container_is() -> None:
    labels = made_of(Container(name="web", image="web:1", docker_labels={"com.amazonaws.ecs.task-arn": "x"})).labels
    assert labels == {
        "com.amazonaws.ecs.cluster": "default",
        "com.amazonaws.ecs.container-name": "web",
        "com.amazonaws.ecs.task-arn": ARN,
        "com.amazonaws.ecs.task-definition-family": "f",
        "com.amazonaws.ecs.task-definition-version": "3",
    }


def test_ecs_adds_what_it_adds_and_a_definition_may_set_the_endpoint() -> None:
    pairs = (acs.KeyValuePair(name="A", value="1=2"), acs.KeyValuePair(name="AWS_ENDPOINT_URL", value="mine"))
    definition = Container(name="web", image="web:1", environment=pairs)
    said = dict(pair.split("=", 1) for pair in environment(definition, record(definition).containers[0], INSTANCE))
    assert said == {
        "A": "1=2",
        "AWS_ENDPOINT_URL": "mine",
        "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
        "ECS_AGENT_URI": "http://169.254.170.2/api/secret",
        "ECS_CONTAINER_METADATA_URI": "http://169.254.170.2/v3/secret",
        "ECS_CONTAINER_METADATA_URI_V4": "http://169.254.170.2/v4/secret",
    }


def test_volumes_are_of_the_host_or_the_tasks_own() -> None:
    mounts = (
        acs.MountPoint(source_volume="host", container_path="/a", read_only=True),
        acs.MountPoint(source_volume="own", container_path="/b"),
    )
    volumes = (acs.Volume(name="host", host=acs.HostVolumeProperties(source_path="/srv")), acs.Volume(name="own"))
    options = made_of(Container(name="web", image="web:1", mount_points=mounts), volumes=volumes)
    assert options.volumes == (Volume("/srv", "/a", True), Volume(f"/data/volumes/{ID}/own", "/b", False))


PORTS = (PortMapping(container_port=80), PortMapping(container_port=53, host_port=5353, protocol="udp"))


@pytest.mark.parametrize(
    ("network_mode", "published", "bindings"),
    [
        (
            "bridge",
            (Port(80, 0, "tcp"), Port(53, 5353, "udp")),
            (NetworkBinding(80, 32768), NetworkBinding(53, 5353, "udp")),
        ),
        ("host", (), (NetworkBinding(80, 80), NetworkBinding(53, 53, "udp"))),
        ("none", (), ()),
    ],
)
def test_ports_follow_the_network_mode(
    network_mode: str, published: tuple[Port, ...], bindings: tuple[NetworkBinding, ...]
) -> None:
    definition = Container(name="web", image="web:1", port_mappings=PORTS)
    options = made_of(definition, network_mode)
    assert (options.network, options.ports) == (network_mode, published)
    resolved = tuple(port._replace(host_port=port.host_port or 32768) for port in published)
    made = Made(id="x", name="x", image="", image_id="", options=options, created=1.0, ports=resolved)
    assert network_bindings(record(definition, network_mode), "web", made) == bindings


def test_a_tasks_limits_are_its_cgroups() -> None:
    limited = Task(arn=ARN, family="f", version="1", containers=(), task_limits=TaskLimits(cpu=512, memory=128))
    assert group(limited) == f"ecs/{ID}"
    assert group_limits(limited) == {"cpus": 0.5, "memory": 128 * MIB}
    assert group_limits(Task(arn=ARN, family="f", version="1", containers=(), cpu="512", memory="128")) == {}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("CMD", "a", "b"), ("a", "b")),
        (("CMD-SHELL", "a | b"), ("/bin/sh", "-c", "a | b")),
        (("NONE",), ()),
        (("a && b",), ("/bin/sh", "-c", "a && b")),
    ],
)
def test_a_health_checks_command(command: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert health_command(HealthCheck(command=command)) == words
