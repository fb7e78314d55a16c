"""config.json and the state of a container as values.

Stands between files and the runtime; does no I/O. Ruled by runtime-spec: config.md, config-linux.md, runtime.md.
A field that is not honoured is refused by its name, unless it is empty and so asks for nothing.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

from minicontainer.errors import Error
from minicontainer.oci.fields import Parser, Unsupported, by_name, list_of, parser, text, to_json, unsigned
from minicontainer.values import Any, NamedTuple

__all__ = ["Unsupported", "to_json"]  # of `fields`: who reads a config.json needs them
OCI_VERSION = "1.0.2"  # of what is written here: the peers of today read it
NEWEST_VERSION = "1.3.0"  # whose fields are known


class Status(StrEnum):
    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"  # not of the specification; what the other runtimes say too


class User(NamedTuple):
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()


class Capabilities(NamedTuple):
    """The five sets of capabilities(7), each a tuple of names."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(NamedTuple):
    type: str
    soft: int
    hard: int


class ConsoleSize(NamedTuple):
    height: int
    width: int


class Scheduler(NamedTuple):
    """How the kernel schedules it: sched_setattr(2)."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IoPriority(NamedTuple):
    """ioprio_set(2)"""

    io_class: str
    priority: int = 0


class CpuAffinity(NamedTuple):
    """On which CPUs `exec` runs it: before it is in the cgroup, and then."""

    initial: str = ""
    final: str = ""


class Process(NamedTuple):
    args: tuple[str, ...]
    cwd: str = "/"
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: ConsoleSize | None = None
    user: User = User()
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    apparmor_profile: str = ""
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: IoPriority | None = None
    exec_cpu_affinity: CpuAffinity | None = None


class Root(NamedTuple):
    path: str
    readonly: bool = False


class IdMapping(NamedTuple):
    """A range of ids: `size` ids from `container_id` inside are those from `host_id` outside."""

    container_id: int
    host_id: int
    size: int


class Mount(NamedTuple):
    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


class Namespace(NamedTuple):
    type: str
    path: str = ""


class Device(NamedTuple):
    type: str
    path: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class Memory(NamedTuple):
    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool = False
    check_before_update: bool = False


class Cpu(NamedTuple):
    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    burst: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    idle: int | None = None
    cpus: str = ""
    mems: str = ""


class Pids(NamedTuple):
    limit: int = 0


class DeviceRule(NamedTuple):
    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


class WeightDevice(NamedTuple):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(NamedTuple):
    major: int
    minor: int
    rate: int


class BlockIo(NamedTuple):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = ()


class HugepageLimit(NamedTuple):
    page_size: str
    limit: int


class InterfacePriority(NamedTuple):
    name: str
    priority: int


class Network(NamedTuple):
    class_id: int | None = None
    priorities: tuple[InterfacePriority, ...] = ()


class Rdma(NamedTuple):
    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(NamedTuple):
    memory: Memory = Memory()
    cpu: Cpu = Cpu()
    pids: Pids | None = None
    devices: tuple[DeviceRule, ...] = ()
    block_io: BlockIo = BlockIo()
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: Network = Network()
    rdma: Mapping[str, Rdma] = {}
    unified: Mapping[str, str] = {}


class SeccompArgument(NamedTuple):
    argument: int  # `index` in JSON, which a tuple has a method of
    value: int
    op: str
    value_two: int = 0


class SeccompRule(NamedTuple):
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SeccompArgument, ...] = ()


class Seccomp(NamedTuple):
    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    syscalls: tuple[SeccompRule, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""


class Personality(NamedTuple):
    domain: str
    flags: tuple[str, ...] = ()


class NetDevice(NamedTuple):
    """A network device of the host, which the container gets; without a name it keeps its own."""

    name: str = ""


class MemoryPolicy(NamedTuple):
    """On which NUMA nodes memory is: set_mempolicy(2)."""

    mode: str
    nodes: str = ""
    flags: tuple[str, ...] = ()


class TimeOffset(NamedTuple):
    """What a clock of a time namespace is ahead of the host's: time_namespaces(7)."""

    secs: int = 0
    nanosecs: int = 0


class Linux(NamedTuple):
    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources = Resources()
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    rootfs_propagation: str = ""
    seccomp: Seccomp | None = None
    sysctl: Mapping[str, str] = {}
    mount_label: str = ""
    personality: Personality | None = None
    time_offsets: Mapping[str, TimeOffset] = {}
    net_devices: Mapping[str, NetDevice] = {}
    memory_policy: MemoryPolicy | None = None

    def namespace(self, kind: str) -> Namespace | None:
        return next((namespace for namespace in self.namespaces if namespace.type == kind), None)


class Hook(NamedTuple):
    """A program that the runtime runs at a point of the container's life; its state is on the standard input."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Hooks(NamedTuple):
    """By the point of the life: config.md, POSIX-platform Hooks."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Spec(NamedTuple):
    """config.json: config.md."""

    oci_version: str
    process: Process
    root: Root
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    annotations: Mapping[str, str] = {}
    hooks: Hooks = Hooks()
    linux: Linux = Linux()

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> "Spec":
        return _spec(json, "")


class State(NamedTuple):
    """state.json: runtime.md, State; below the blank line what is ours."""

    oci_version: str
    id: str
    status: Status
    bundle: str
    pid: int = 0
    annotations: Mapping[str, str] = {}

    rootfs: str = ""
    created: str = ""
    start_time: int = 0
    cgroups: Mapping[str, str] = {}
    cgroup_parents: int = 0
    scope: str = ""  # the unit of systemd whose cgroup it is
    hooks: tuple[str, ...] = ()  # the points of its life at which hooks run after `create`

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> "State":
        return _state(json, "")


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """config.json of `spec`"""
    json: dict[str, Any] = to_json(spec)
    return json


def process_from_json(json: Mapping[str, Any]) -> Process:
    """The process of `exec --process`."""
    return _process(json, "process")


def resources_from_json(json: Mapping[str, Any]) -> Resources:
    """What `update` is given."""
    return _resources(json, "resources")


def _destination(value: Any, where: str) -> str:
    """A path in the container; one that is relative begins at its root: config.md, Mounts."""
    path = text(value, where)
    if not path:
        raise Error(f"config.json: {where} is empty; try: a path in the container")
    return path if path[0] == "/" else f"/{path}"


_32, _64 = unsigned(32), unsigned(64)
_id = unsigned(32, less=1)  # the highest is -1, which means "leave it as it is" to the kernel: setresuid(2)
_texts_by_name: Parser = by_name(text)
_strings: Parser = list_of(text)
_hooks: Parser = list_of(parser(Hook, path=text, args=_strings, env=_strings))
_mappings: Parser = list_of(parser(IdMapping, container_id=_32, host_id=_32, size=_32))
_capabilities = parser(
    Capabilities, bounding=_strings, effective=_strings, permitted=_strings, inheritable=_strings, ambient=_strings
)
_process: Callable[[Any, str], Process] = parser(
    Process,
    args=_strings,
    cwd=text,
    env=_strings,
    console_size=parser(ConsoleSize, height=unsigned(16), width=unsigned(16)),
    user=parser(User, uid=_id, gid=_id, umask=_32, additional_gids=list_of(_id)),
    capabilities=_capabilities,
    rlimits=list_of(parser(Rlimit, soft=_64, hard=_64)),
    scheduler=parser(Scheduler, flags=_strings, runtime=_64, deadline=_64, period=_64),
    io_priority=parser(IoPriority),
    exec_cpu_affinity=parser(CpuAffinity),
)
_throttles: Parser = list_of(parser(ThrottleDevice))
_resources: Callable[[Any, str], Resources] = parser(
    Resources,
    memory=parser(Memory),
    cpu=parser(Cpu, shares=_64, period=_64, burst=_64, realtime_period=_64),
    pids=parser(Pids),
    devices=list_of(parser(DeviceRule)),
    block_io=parser(
        BlockIo,
        weight_device=list_of(parser(WeightDevice)),
        throttle_read_bps_device=_throttles,
        throttle_write_bps_device=_throttles,
        throttle_read_iops_device=_throttles,
        throttle_write_iops_device=_throttles,
    ),
    hugepage_limits=list_of(parser(HugepageLimit)),
    network=parser(Network, priorities=list_of(parser(InterfacePriority))),
    rdma=by_name(parser(Rdma)),
    unified=_texts_by_name,
)
_seccomp = parser(
    Seccomp,
    default_errno_ret=_32,
    architectures=_strings,
    flags=_strings,
    syscalls=list_of(
        parser(
            SeccompRule,
            names=_strings,
            errno_ret=_32,
            args=list_of(parser(SeccompArgument, argument=_32, value=_64, value_two=_64)),
        )
    ),
)
_linux = parser(
    Linux,
    namespaces=list_of(parser(Namespace, path=text)),
    uid_mappings=_mappings,
    gid_mappings=_mappings,
    devices=list_of(parser(Device, path=text, major=_32, minor=_32, file_mode=_32, uid=_id, gid=_id)),
    cgroups_path=text,
    resources=_resources,
    masked_paths=_strings,
    readonly_paths=_strings,
    seccomp=_seccomp,
    sysctl=_texts_by_name,
    personality=parser(Personality, flags=_strings),
    time_offsets=by_name(parser(TimeOffset, nanosecs=_32)),
    net_devices=by_name(parser(NetDevice)),
    memory_policy=parser(MemoryPolicy, flags=_strings),
)
_spec: Callable[[Any, str], Spec] = parser(
    Spec,
    process=_process,
    root=parser(Root, path=text),
    hostname=text,
    domainname=text,
    mounts=list_of(
        parser(
            Mount,
            destination=_destination,
            source=text,
            options=_strings,
            uid_mappings=_mappings,
            gid_mappings=_mappings,
        )
    ),
    annotations=_texts_by_name,
    hooks=parser(
        Hooks,
        prestart=_hooks,
        create_runtime=_hooks,
        create_container=_hooks,
        start_container=_hooks,
        poststart=_hooks,
        poststop=_hooks,
    ),
    linux=_linux,
)
_state: Callable[[Any, str], State] = parser(
    State,
    status=lambda value, _: Status(value),
    annotations=_texts_by_name,
    cgroups=_texts_by_name,
    hooks=_strings,
)
