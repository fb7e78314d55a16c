"""bundle: an image config and options become a config.json that is secure by default; pure, so nothing is mocked."""

from typing import Any

import pytest

from minicontainer import bundle
from minicontainer.bundle import Account
from minicontainer.containers import Container, Network, Options, Port, Ulimit, Volume
from minicontainer.errors import Error
from minicontainer.oci.image import ContainerConfig
from minicontainer.oci.runtime import IdMapping, Seccomp, Spec, spec_to_json

ID = "ab" * 32
IMAGE = ContainerConfig(entrypoint=("/entry",), cmd=("default",), env=("PATH=/bin", "A=image"), working_dir="/srv")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\nbroken\n"
GROUP = "root:x:0:\nweb:x:1001:\nlogs:x:50:web,other\nother:x:51:root\n"


def container(**more: Any) -> Container:
    options = more.pop("options", {})
    fields = {"id": ID, "name": "web", "image": "i", "image_id": "", "created": 0.0, "bundle": "/b", "id_base": 1 << 20}
    return Container(options=Options(image="i", **options), **{**fields, **more})


def spec(image: ContainerConfig = IMAGE, **options: Any) -> Spec:
    return bundle.spec(container(options=options), image, Account(), Seccomp("SCMP_ACT_ERRNO"))


def test_the_default_is_closed() -> None:
    made = spec()
    assert made.process.no_new_privileges
    assert made.process.capabilities is not None
    assert len(made.process.capabilities.bounding) == 11
    assert made.process.capabilities.inheritable == made.process.capabilities.ambient == ()
    assert made.linux.seccomp is not None
    assert {namespace.type for namespace in made.linux.namespaces} == {
        "pid", "ipc", "uts", "mount", "cgroup", "network", "user"
    }  # fmt: skip
    assert made.linux.uid_mappings == made.linux.gid_mappings == (IdMapping(0, 1 << 20, 65536),)
    assert made.linux.resources.pids is not None
    assert made.linux.resources.pids.limit == 2048
    assert "/proc/interrupts" in made.linux.masked_paths
    assert "/proc/sys" in made.linux.readonly_paths
    assert made.linux.cgroups_path == f"minicontainer/{ID}"


def test_what_is_made_is_a_config_json_that_the_runtime_reads() -> None:
    made = spec(memory=1 << 26, cpus=0.5, volumes=(Volume("/a", "/b", True),), ulimits=(Ulimit("core", 0, 0),))
    assert Spec.from_json(spec_to_json(made)) == made


def test_the_machines_user_namespace_when_it_is_asked_for() -> None:
    made = spec(userns="host")
    assert made.linux.uid_mappings == ()
    assert "user" not in {namespace.type for namespace in made.linux.namespaces}


def test_with_the_hosts_network_its_sys_is_bound_and_no_sysctl_is_set() -> None:
    made = spec(network="host")
    [system] = [mount for mount in made.mounts if mount.destination == "/sys"]
    assert (system.source, "rro" in system.options) == ("/sys", True)
    assert made.linux.sysctl == {}
    assert "network" not in {namespace.type for namespace in made.linux.namespaces}


def test_limits_are_the_cgroups_words() -> None:
    limits = spec(memory=64 << 20, memory_reservation=32 << 20, cpus=1.5, cpu_shares=512).linux.resources
    assert (limits.memory.limit, limits.memory.reservation, limits.memory.swap) == (64 << 20, 32 << 20, 64 << 20)
    assert (limits.cpu.quota, limits.cpu.period, limits.cpu.shares) == (150_000, 100_000, 512)


def test_no_limit_no_file() -> None:
    limits = spec(pids_limit=0).linux.resources
    assert limits.pids is None
    assert limits.memory.limit is None
    assert limits.cpu.period is None


def test_a_volume_has_the_containers_ids_and_a_read_only_one_all_the_way_down() -> None:
    mounts = spec(volumes=(Volume("/a", "/b", True), Volume("/c", "/d"))).mounts[-2:]
    assert "rro" in mounts[0].options
    assert "rro" not in mounts[1].options
    assert all(mount.uid_mappings == (IdMapping(0, 1 << 20, 65536),) for mount in mounts)


def test_a_tmpfs_and_the_size_of_shm() -> None:
    mounts = {mount.destination: mount for mount in spec(tmpfs=("/tmp:size=1m",), shm_size=4096).mounts}
    assert "size=1m" in mounts["/tmp"].options
    assert "size=4096" in mounts["/dev/shm"].options


@pytest.mark.parametrize(
    ("entrypoint", "command", "words"),
    [
        (None, (), ("/entry", "default")),
        (None, ("given",), ("/entry", "given")),
        (("sh",), (), ("sh",)),
        (("sh",), ("-c", "x"), ("sh", "-c", "x")),
        (("",), ("given",), ("given",)),
    ],
)
def test_entrypoint_and_command_as_docker_joins_them(
    entrypoint: tuple[str, ...] | None, command: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert bundle.command(Options(image="i", entrypoint=entrypoint, command=command), IMAGE) == words


def test_no_command_at_all_is_an_error_that_says_what_to_try() -> None:
    with pytest.raises(Error, match="image i names no command; try: minicontainer run i COMMAND"):
        bundle.command(Options(image="i"), ContainerConfig())


def test_the_users_environment_wins_over_the_images_over_ours() -> None:
    found = bundle.environment(("PATH=/bin", "A=image"), ("A=user", "B="), host="h", home="/home/web", tty=True)
    assert found == ("PATH=/bin", "HOSTNAME=h", "TERM=xterm", "A=user", "B=", "HOME=/home/web")


def test_a_name_without_a_value_takes_a_variable_away() -> None:
    assert "A" not in {entry.partition("=")[0] for entry in bundle.environment(("A=image",), ("A",))}


def test_home_of_the_user_unless_the_image_says_another() -> None:
    assert "HOME=/root" in bundle.environment((), (), home="/root")
    assert "HOME=/data" in bundle.environment(("HOME=/data",), (), home="/root")


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("", Account(0, 0, (51,), "/root")),
        ("0", Account(0, 0, (51,), "/root")),
        ("web", Account(1000, 1001, (50,), "/home/web")),
        ("1000", Account(1000, 1001, (50,), "/home/web")),
        ("web:other", Account(1000, 51, (), "/home/web")),
        ("web:7", Account(1000, 7, (), "/home/web")),
        ("4000", Account(4000, 0, (), "/")),
        ("4000:50", Account(4000, 50, (), "/")),
    ],
)
def test_a_user_by_name_or_number(user: str, found: Account) -> None:
    assert bundle.account(user, PASSWD, GROUP) == found


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("nobody", "user nobody is not in the image's /etc/passwd"),
        ("web:nogroup", "group nogroup is not in the image's /etc/group"),
        ("70000", "70000 is not below 65536"),
    ],
)
def test_a_user_that_cannot_be(user: str, said: str) -> None:
    with pytest.raises(Error, match=said):
        bundle.account(user, PASSWD, GROUP)


def test_an_image_without_passwd_runs_as_root_and_as_numbers() -> None:
    assert bundle.account("", "", "") == Account()
    assert bundle.account("5:6", "", "") == Account(5, 6)


def test_who_is_not_root_holds_no_capability_and_may_not_get_more_than_the_container() -> None:
    made = bundle.spec(container(), IMAGE, Account(uid=1000), None).process.capabilities
    assert made is not None
    assert (len(made.bounding), made.effective, made.permitted) == (11, (), ())


def test_capabilities_are_added_and_dropped() -> None:
    assert "CAP_NET_ADMIN" in bundle.capabilities(["net_admin"], [])
    assert "CAP_CHOWN" not in bundle.capabilities([], ["CAP_CHOWN"])
    assert bundle.capabilities(["KILL"], ["all"]) == ("CAP_KILL",)
    with pytest.raises(Error, match="--cap-add ALL"):
        bundle.capabilities(["ALL"], [])


def test_security_options_are_honoured_or_refused_by_name() -> None:
    assert not spec(security_opt=("no-new-privileges=false",)).process.no_new_privileges
    assert spec(security_opt=("no-new-privileges",)).process.no_new_privileges
    assert spec(security_opt=("seccomp:unconfined",)).linux.seccomp is None
    assert spec(security_opt=("apparmor=calm",)).process.apparmor_profile == "calm"
    with pytest.raises(Error, match="--security-opt label=disable is not built"):
        spec(security_opt=("label=disable",))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"network": "mine"}, "network mine is not known"),
        ({"userns": "keep-id"}, "--userns keep-id is not built"),
        ({"network": "none", "ports": (Port(80),)}, "ports cannot be published with the network none"),
        ({"restart": "sometimes"}, "restart policy 'sometimes' is not known"),
        ({"restart": "always:3"}, "restart policy 'always:3' is not known"),
        ({"restart": "always", "remove": True}, "--rm and --restart contradict"),
        ({"volumes": (Volume("data", "/data"),)}, "volume data: neither an absolute path nor a name"),
        ({"volumes": (Volume("/data", "data"),)}, "the path in the container must be absolute"),
        ({"volumes": (Volume("/proc", "/p"),)}, "/proc and /sys cannot be given"),
        ({"volumes": (Volume("/a", "/sys/fs"),)}, "/proc and /sys cannot be given"),
        ({"ulimits": (Ulimit("nonsense", 1, 1),)}, "ulimit nonsense is not known"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(options: dict[str, Any], said: str) -> None:
    with pytest.raises(Error) as raised:
        bundle.check(Options(image="i", **options))
    assert said in str(raised.value)


def test_what_can_be_passes() -> None:
    bundle.check(Options(image="i", restart="on-failure:3", volumes=(Volume("/a", "/process"),), ports=(Port(80),)))


def test_hosts_names_the_container_and_what_was_added() -> None:
    one = container(
        network=Network(address="172.18.0.2", gateway="172.18.0.1"),
        options={"hostname": "web", "extra_hosts": ("db:192.0.2.1", "me=host-gateway")},
    )
    assert bundle.hosts(one, "").splitlines() == [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "172.18.0.2\tweb",
        "192.0.2.1\tdb",
        "172.18.0.1\tme",
    ]


def test_with_the_hosts_network_hosts_is_the_machines_own() -> None:
    assert bundle.hosts(container(options={"network": "host"}), "127.0.0.1 machine\n") == "127.0.0.1 machine\n"


def test_name_servers_on_the_machines_loopback_are_of_no_use_to_a_container() -> None:
    machine = "# c\nsearch lan\nnameserver 127.0.0.53\nnameserver 192.0.2.53\n"
    assert bundle.resolv_conf(machine, Options(image="i")) == "search lan\nnameserver 192.0.2.53\n"
    assert "127.0.0.53" in bundle.resolv_conf(machine, Options(image="i", network="host"))
    assert bundle.resolv_conf(machine, Options(image="i", dns=("192.0.2.1",))) == "search lan\nnameserver 192.0.2.1\n"
    asked = Options(image="i", dns_search=("one", "two"))
    assert bundle.resolv_conf(machine, asked) == "search one two\nnameserver 192.0.2.53\n"


def test_the_hostname_is_the_id_unless_given() -> None:
    assert bundle.hostname(container()) == ID[:12]
    assert bundle.hostname(container(options={"hostname": "web"})) == "web"


def test_labels_are_found_by_name_or_by_value() -> None:
    labels = {"a": "1"}
    assert bundle.label_filter(labels, "a")
    assert bundle.label_filter(labels, "a=1")
    assert not bundle.label_filter(labels, "a=2")
    assert not bundle.label_filter(labels, "b")


def test_a_number_is_an_id_whatever_the_image_calls_its_users() -> None:
    """CVE-2016-3697"""
    passwd, group = "root:x:0:0::/:\n1000:x:0:0::/:\nme:x:7:8::/me:\n", "1000:x:0:\n"
    assert bundle.account("1000", passwd, group)[:2] == (1000, 0)
    assert bundle.account("1000:1000", passwd, group)[:2] == (1000, 1000)
    assert bundle.account("7", passwd, group) == bundle.account("me", passwd, group)


def test_exposed_ports_get_one_of_the_machine_when_that_is_asked_for() -> None:
    image = ContainerConfig(exposed_ports=("80/tcp", "53/udp", "9"))
    asked = Options(image="i", ports=(Port(80, 8080),))
    assert bundle.exposed(asked, image) == asked
    made = bundle.exposed(asked._replace(publish_all=True), image)
    assert made.ports == (Port(80, 8080), Port(53, 0, "udp"), Port(9))
