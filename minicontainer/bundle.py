"""Bundle: image config and options to config.json, secure by default. Pure: text and values in, a spec out.

Stands between `containers` (what was asked) and `runtime` (what runs). Ruled by image-spec config.md and its
conversion.md, runtime-spec config.md and config-linux.md, and passwd(5), group(5), resolv.conf(5), hosts(5).
"""

import os
from collections.abc import Iterable, Mapping

from minicontainer.containers import ID_RANGE, Container, Options, Port, Volume
from minicontainer.errors import Error
from minicontainer.oci.image import ContainerConfig
from minicontainer.oci.runtime import (
    OCI_VERSION,
    Capabilities,
    Cpu,
    IdMapping,
    Linux,
    Memory,
    Mount,
    Namespace,
    Pids,
    Process,
    Resources,
    Rlimit,
    Root,
    Seccomp,
    Spec,
    User,
)
from minicontainer.values import NamedTuple

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT = "/dev/init"  # where --init's program is: /dev is a file system of the container's own, so its layers stay clean
CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip
MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
    "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
SYSCTL = {"net.ipv4.ip_unprivileged_port_start": "0"}  # the ports of a network of its own belong to no one else
RLIMITS = frozenset(
    [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_ID_DIGITS = 10  # of 32 bits; also, int() refuses more than 4300
CPU_PERIOD = 100_000  # microseconds: the kernel's default
SECURITY_OPTIONS = "no-new-privileges[=BOOL], seccomp=unconfined, apparmor=PROFILE"


class Account(NamedTuple):
    """Who the process is: passwd(5) and group(5) of the image."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


class Security(NamedTuple):
    """What --security-opt asked for."""

    no_new_privileges: bool = True
    confined: bool = True
    apparmor: str = ""


def spec(container: Container, image: ContainerConfig, account: Account, seccomp: Seccomp | None) -> Spec:
    """config.json of a container; its rootfs and the files of its /etc lie beside it in the bundle."""
    options = container.options
    mapping = () if options.userns == "host" else ids_of(container)
    owners = mapping if container.id_base else ()  # without root the ids inside are those outside
    return Spec(
        oci_version=OCI_VERSION,
        process=_process(container, image, account),
        root=Root(path="rootfs", readonly=options.read_only),
        hostname=hostname(container),
        mounts=(*_mounts(options, bool(mapping)), *_etc(container.bundle, owners), *_volumes(container, owners)),
        annotations=dict(options.labels),
        linux=Linux(
            namespaces=tuple(Namespace(type=kind) for kind in _namespaces(options)),
            uid_mappings=mapping,
            gid_mappings=mapping,
            cgroups_path=f"{options.cgroup_parent or 'minicontainer'}/{container.id}",
            resources=resources(options),
            masked_paths=MASKED_PATHS,
            readonly_paths=READONLY_PATHS,
            seccomp=seccomp if security(options).confined else None,
            sysctl={**(SYSCTL if options.network != "host" else {}), **options.sysctls},
        ),
    )


def ids_of(container: Container) -> tuple[IdMapping, ...]:
    """Its ids inside and outside. Without root they are its person's, in two ranges since they are two outside."""
    if container.id_base:
        return (IdMapping(0, container.id_base, ID_RANGE),)
    return (IdMapping(0, 0, 1), IdMapping(1, 1, ID_RANGE - 1))


def mounted(options: Options, image: ContainerConfig) -> Options:
    """Also an anonymous volume for each that the image declares, unless something else is mounted there."""
    volumes = [
        one._replace(target=_clean(one.target), name=os.urandom(32).hex() if one.anonymous else one.name)
        for one in options.volumes
    ]
    taken = {one.target for one in volumes} | {_clean(text.partition(":")[0]) for text in options.tmpfs}
    for target in sorted({_clean(declared) for declared in image.volumes} - taken):
        volume = Volume(source="", target=target, name=os.urandom(32).hex(), anonymous=True)
        _check_volume(volume)
        volumes.append(volume)
    return options._replace(volumes=tuple(volumes))


def _clean(path: str) -> str:
    """As docker cleans it, and from the root: normpath leaves two slashes at the beginning (POSIX)."""
    return "/" + os.path.normpath(path).lstrip("/")


def check(options: Options) -> None:
    """Refuse what cannot be before anything is made."""
    if options.network not in ("bridge", "none", "host"):
        raise Error(f"network {options.network} is not known; try: --network bridge, none or host")
    if options.name and not (
        len(options.name) <= 128 and options.name[0].isalnum() and NAME_LETTERS.issuperset(options.name)
    ):
        raise Error(f"the name {options.name!r} is not one; try: a letter or digit, then letters, digits, and _.-")
    if options.userns not in ("", "host", "auto"):
        raise Error(f"--userns {options.userns} is not built; try: --userns host, or none for a range of its own")
    if options.ports and options.network != "bridge":
        raise Error(f"ports cannot be published with the network {options.network}; try: --network bridge")
    restart, _, count = options.restart.partition(":")
    if restart not in ("no", "always", "on-failure") or (count and (restart != "on-failure" or not count.isdecimal())):
        raise Error(f"restart policy {options.restart!r} is not known; try: no, on-failure[:COUNT] or always")
    if options.remove and restart != "no":
        raise Error("--rm and --restart contradict each other; try: one of them")
    if options.tty and options.network == "":
        raise Error("a network is needed")
    for volume in options.volumes:
        _check_volume(volume)
    for ulimit in options.ulimits:
        if ulimit.name not in RLIMITS:
            raise Error(f"ulimit {ulimit.name} is not known; try one of: {' '.join(sorted(RLIMITS))}")
    security(options)
    capabilities(options.cap_add, options.cap_drop)


def _check_volume(volume: Volume) -> None:
    if not volume.source.startswith("/") and not (volume.layers or volume.name or volume.anonymous):
        raise Error(f"volume {volume.source}: neither an absolute path nor a name; try: $PWD/{volume.source}")
    if not volume.target.startswith("/") or _clean(volume.target) == "/":
        what = f"{volume.name or volume.source}:{volume.target}".removeprefix(":")
        raise Error(f"volume {what}: the path in the container must be absolute, and not / itself; try: /data")
    for place in (volume.target,) if volume.layers else (volume.source, volume.target):
        if any(place == top or place.startswith(f"{top}/") for top in ("/proc", "/sys")):
            raise Error(f"volume {volume.source}:{volume.target}: /proc and /sys cannot be given to a container")


# --- the process -----------------------------------------------------------------------------------------------------


def command(options: Options, image: ContainerConfig) -> tuple[str, ...]:
    """Entrypoint and command: an entrypoint of the user's own drops the image's command.

    Raises:
        Error: neither the image nor the user says what to run.
    """
    entrypoint = image.entrypoint or () if options.entrypoint is None else tuple(filter(None, options.entrypoint))
    default = image.cmd or () if options.entrypoint is None else ()
    words = (*entrypoint, *(options.command or default))
    if not words:
        raise Error(f"image {options.image} names no command; try: minicontainer run {options.image} COMMAND")
    return words


def exposed(options: Options, image: ContainerConfig) -> Options:
    """With `publish_all` also a free port of the machine for each that the image exposes."""
    if not options.publish_all:
        return options
    asked = {(port.container_port, port.protocol) for port in options.ports}
    ports = [
        (int(number), protocol or "tcp")
        for number, _, protocol in (text.partition("/") for text in image.exposed_ports)
    ]
    more = (
        Port(container_port=number, protocol=protocol) for number, protocol in ports if (number, protocol) not in asked
    )
    return options._replace(ports=(*options.ports, *more))


def environment(
    image: Iterable[str], wanted: Iterable[str], *, host: str = "", home: str = "", tty: bool = False
) -> tuple[str, ...]:
    """The environment: ours, then the image's, then the user's; a name of the user's without a value removes it."""
    values = dict([PATH.split("=", 1)] + ([["HOSTNAME", host]] if host else []) + ([["TERM", "xterm"]] if tty else []))
    for entry in (*image, *wanted):
        name, equals, value = entry.partition("=")
        if equals:
            values[name] = value
        else:
            values.pop(name, None)
    values.setdefault("HOME", home or "/")
    return tuple(f"{name}={value}" for name, value in values.items())


def account(user: str, passwd: str, group: str) -> Account:
    """USER[:GROUP] by name or number, looked up in the image's own files.

    Raises:
        Error: a name that they do not have.
    """
    name, _, group_name = user.partition(":")
    people = [line.split(":") for line in passwd.splitlines() if line.count(":") >= 6]
    groups = [line.split(":") for line in group.splitlines() if line.count(":") >= 3]
    name = name or "0"
    person = _named(people, name)
    if person is None and not name.isdecimal():
        raise Error(f"user {name} is not in the image's /etc/passwd; try: a number")
    uid, gid = (_id(person[2]), _id(person[3])) if person else (_id(name), 0)
    extra: tuple[int, ...] = ()
    if group_name:
        found = _named(groups, group_name)
        if found is None and not group_name.isdecimal():
            raise Error(f"group {group_name} is not in the image's /etc/group; try: a number")
        gid = _id(found[2] if found else group_name)
    elif person:
        member_of = [_id(entry[2]) for entry in groups if person[0] in entry[3].split(",")]
        extra = tuple(sorted({number for number in member_of if number != gid}))
    return Account(uid=uid, gid=gid, groups=extra, home=person[5] if person and person[5] else "/")


def _named(entries: Iterable[list[str]], name: str) -> list[str] | None:
    """The entry of this name; a number is an id and never a name, whatever the image calls its users: CVE-2016-3697."""
    return next((entry for entry in entries if name == entry[2 if name.isdecimal() else 0]), None)


def _id(text: str) -> int:
    number = int(text) if text.isdecimal() and len(text) <= _ID_DIGITS else ID_RANGE
    if number >= ID_RANGE:
        raise Error(f"user or group id {text[:20]} is not below {ID_RANGE}, the size of a container's range")
    return number


def capabilities(add: Iterable[str], drop: Iterable[str]) -> tuple[str, ...]:
    """The default eleven, without `drop`, with `add`; ALL stands for all of either.

    Raises:
        Error: ALL is added: that is no container.
    """
    added, dropped = [_capability(name) for name in add], {_capability(name) for name in drop}
    if "CAP_ALL" in added:
        raise Error("--cap-add ALL is not built: a container with every capability is none; try: the ones it needs")
    kept = () if "CAP_ALL" in dropped else tuple(name for name in CAPABILITIES if name not in dropped)
    return tuple(dict.fromkeys((*kept, *added)))


def _capability(name: str) -> str:
    return name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}"


def security(options: Options) -> Security:
    """--security-opt as values; what is not honoured is refused by name."""
    found = Security()
    for option in options.security_opt:
        name, _, value = option.replace("=", ":", 1).partition(":")
        if name == "no-new-privileges" and value in ("", "true", "false"):
            found = found._replace(no_new_privileges=value != "false")
        elif (name, value) == ("seccomp", "unconfined"):
            found = found._replace(confined=False)
        elif name == "apparmor" and value:
            found = found._replace(apparmor=value)
        else:
            raise Error(f"--security-opt {option} is not built; known are: {SECURITY_OPTIONS}")
    return found


def process_of(
    container: Container, image: ContainerConfig, who: Account, words: tuple[str, ...], env: Iterable[str], tty: bool
) -> Process:
    """A process in the container, whether its first or an `exec`: the same walls for both."""
    options = container.options
    names = capabilities(options.cap_add, options.cap_drop)
    held = names if who.uid == 0 else ()
    return Process(
        args=words,
        cwd=options.workdir or image.working_dir or "/",
        env=environment(image.env, (*options.env, *env), host=hostname(container), home=who.home, tty=tty),
        terminal=tty,
        user=User(uid=who.uid, gid=who.gid, additional_gids=who.groups),
        capabilities=Capabilities(bounding=names, effective=held, permitted=held),
        rlimits=tuple(Rlimit(f"RLIMIT_{limit.name.upper()}", limit.soft, limit.hard) for limit in options.ulimits),
        no_new_privileges=security(options).no_new_privileges,
        apparmor_profile=security(options).apparmor,
    )


def _process(container: Container, image: ContainerConfig, who: Account) -> Process:
    words = command(container.options, image)
    words = (INIT, "--", *words) if container.init_program else words
    return process_of(container, image, who, words, (), container.options.tty)


# --- namespaces, mounts, resources -----------------------------------------------------------------------------------


def hostname(container: Container) -> str:
    return container.options.hostname or container.id[:12]


def _namespaces(options: Options) -> tuple[str, ...]:
    kinds = ("pid", "ipc", "uts", "mount", "cgroup")
    network = () if options.network == "host" else ("network",)
    return (*kinds, *network, *(() if options.userns == "host" else ("user",)))


def _mounts(options: Options, mapped: bool) -> tuple[Mount, ...]:
    """runtime-spec's default file systems, each with as little as it needs."""
    closed = ("nosuid", "noexec", "nodev")
    # sysfs shows the network namespace it is mounted in, and only the owner of that may mount it: network_namespaces(7)
    foreign = mapped and options.network == "host"
    system = Mount("/sys", "none", "/sys", ("rbind", "rro", *closed)) if foreign else Mount(
        "/sys", "sysfs", "sysfs", (*closed, "ro")
    )  # fmt: skip
    return (
        Mount("/proc", "proc", "proc", closed),
        Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        Mount(
            "/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
        ),
        Mount("/dev/shm", "tmpfs", "shm", (*closed, "mode=1777", f"size={options.shm_size}")),
        Mount("/dev/mqueue", "mqueue", "mqueue", closed),
        system,
        *(() if foreign else (Mount("/sys/fs/cgroup", "cgroup", "cgroup", (*closed, "relatime", "ro")),)),
        *(_tmpfs(text) for text in options.tmpfs),
    )


def _tmpfs(text: str) -> Mount:
    path, _, more = text.partition(":")
    return Mount(path, "tmpfs", "tmpfs", ("nosuid", "nodev", "noexec", "mode=1777", *filter(None, more.split(","))))


def _etc(bundle: str, mapping: tuple[IdMapping, ...]) -> tuple[Mount, ...]:
    return tuple(
        Mount(f"/etc/{name}", "bind", f"{bundle}/{name}", ("bind", "nosuid", "nodev", "noexec"), mapping, mapping)
        for name in ("hosts", "hostname", "resolv.conf")
    )


def _volumes(container: Container, mapping: tuple[IdMapping, ...]) -> tuple[Mount, ...]:
    """A volume's owners are shown in the container's own range, as its layers are; read-only holds for all below it.

    What is mounted deeper comes later, so that nothing is hidden by what is above it.
    """
    init = (Volume(container.init_program, INIT, read_only=True),) if container.init_program else ()
    mounts = (
        Mount(
            destination=volume.target,
            type="bind",
            source=f"{volume_place(container, number)}/root/{volume.source}" if volume.layers else volume.source,
            options=("rbind", "nosuid", "nodev", "rprivate", *(("rro",) if volume.read_only else ())),
            uid_mappings=() if volume.layers else mapping,  # an overlay is of mapped layers
            gid_mappings=() if volume.layers else mapping,
        )
        for number, volume in enumerate((*container.options.volumes, *init))
    )
    return tuple(sorted(mounts, key=lambda mount: mount.destination.count("/")))


def volume_place(container: Container, number: int) -> str:
    """Where the supervisor mounts a volume that is of layers."""
    return f"{container.bundle}/volumes/{number}"


def on_host(mappings: Iterable[IdMapping], number: int) -> int:
    """The id that a container's id is outside of it."""
    for mapping in mappings:
        if 0 <= number - mapping.container_id < mapping.size:
            return mapping.host_id + number - mapping.container_id
    return number


def resources(options: Options) -> Resources:
    """cgroup limits. Swap is not used unless it is asked for: a limit on memory is a limit."""
    quota = None if options.cpus is None else max(1000, int(options.cpus * CPU_PERIOD))
    swap = options.memory if options.memory_swap is None else options.memory_swap
    return Resources(
        memory=Memory(limit=options.memory, reservation=options.memory_reservation, swap=swap),
        cpu=Cpu(shares=options.cpu_shares, quota=quota, period=CPU_PERIOD if quota else None, cpus=options.cpuset_cpus),
        pids=Pids(limit=options.pids_limit) if options.pids_limit else None,
    )


# --- /etc ------------------------------------------------------------------------------------------------------------


def hosts(container: Container, machine: str) -> str:
    """/etc/hosts: loopback, the container itself, and --add-host; with the host's network, the machine's own text."""
    if container.options.network == "host":
        return machine + "".join(f"{line}\n" for line in _extra(container.options.extra_hosts, "127.0.0.1"))
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    if container.network.address:
        lines.append(f"{container.network.address}\t{hostname(container)}")
    return "\n".join([*lines, *_extra(container.options.extra_hosts, container.network.gateway)]) + "\n"


def _extra(extra: Iterable[str], gateway: str) -> list[str]:
    pairs = [text.replace("=", ":", 1).partition(":")[::2] for text in extra]
    return [f"{gateway if address == 'host-gateway' else address}\t{name}" for name, address in pairs]


def resolv_conf(machine: str, options: Options) -> str:
    """The machine's resolv.conf, without the servers that only its own loopback reaches; what is asked for instead."""
    lines = [line for line in machine.splitlines() if line.strip() and not line.startswith(("#", ";"))]
    replaced = ("nameserver", "search", "domain") if options.dns_search else ("nameserver",)
    others = [line for line in lines if line.split()[0] not in replaced]
    others += [f"search {' '.join(options.dns_search)}"] if options.dns_search else []
    servers = [line.split()[1] for line in lines if line.split()[0] == "nameserver" and len(line.split()) > 1]
    if options.network != "host":
        servers = [server for server in servers if not server.startswith("127.") and server != "::1"]
    return "\n".join([*others, *(f"nameserver {server}" for server in options.dns or servers)]) + "\n"


def label_filter(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether KEY or KEY=VALUE is among the labels."""
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)
