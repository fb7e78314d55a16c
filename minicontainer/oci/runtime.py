"""config.json and the state of a container as values.

Stands between files and the runtime; does no I/O. Ruled by runtime-spec: config.md, config-linux.md, runtime.md.
A field that is not honoured is refused by its name, unless it is empty and so asks for nothing.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

from minicontainer.errors import Error
from minicontainer.values import Any, NamedTuple, TypeVar

OCI_VERSION = "1.0.2"
# Names that are not camelCase by the rule: field, JSON
_ODD_NAMES = {
    "container_id": "containerID",
    "host_id": "hostID",
    "disable_oom_killer": "disableOOMKiller",
    "argument": "index",
}
_ODD_FIELDS = {name: field for field, name in _ODD_NAMES.items()}
# Accepted and without effect, as with the other runtimes: the kernel no longer has what they set.
_WITHOUT_EFFECT = {"linux.resources.memory.kernel", "linux.resources.memory.kernelTCP"}


class Unsupported(Error):
    """config.json asks for something that this runtime does not do."""


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


class Cpu(NamedTuple):
    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    burst: int | None = None
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


class Resources(NamedTuple):
    memory: Memory = Memory()
    cpu: Cpu = Cpu()
    pids: Pids | None = None
    devices: tuple[DeviceRule, ...] = ()
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

    def namespace(self, kind: str) -> Namespace | None:
        return next((namespace for namespace in self.namespaces if namespace.type == kind), None)


class Spec(NamedTuple):
    """config.json: config.md."""

    oci_version: str
    process: Process
    root: Root
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    annotations: Mapping[str, str] = {}
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

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> "State":
        return _state(json, "")


Value = TypeVar("Value", bound=tuple[Any, ...])
Parser = Callable[[Any, str], Any]


def to_json(value: Any) -> Any:
    """The JSON of any of these values; what is empty is left out, since it asks for nothing."""
    if isinstance(value, tuple):
        if hasattr(value, "_fields"):
            named = {_camel(name): getattr(value, name) for name in value._fields}
            return {name: to_json(item) for name, item in named.items() if item not in (None, (), "", {})}
        return [to_json(item) for item in value]
    return value


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """config.json of `spec`"""
    json: dict[str, Any] = to_json(spec)
    return json


def process_from_json(json: Mapping[str, Any]) -> Process:
    """The process of `exec --process`."""
    return _process(json, "process")


def resources_from_json(json: Mapping[str, Any]) -> Resources:
    return _resources(json, "resources")


def _camel(field: str) -> str:
    if field in _ODD_NAMES:
        return _ODD_NAMES[field]
    first, *others = field.split("_")
    return first + "".join(map(str.capitalize, others))


def _snake(name: str) -> str:
    if name in _ODD_FIELDS:
        return _ODD_FIELDS[name]
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _object(kind: type[Value], **parsers: Parser) -> Callable[[Any, str], Value]:
    """A parser of a JSON object into `kind`: a field has a parser of its own or the plain type it is annotated with."""

    def parse(json: Any, where: str) -> Value:
        if not isinstance(json, dict):
            raise Error(f"config.json: {where or 'the document'} must be an object, and is {json!r}")
        fields = {}
        for name, value in json.items():
            field, place = _snake(name), f"{where}.{name}" if where else name
            if value is None:
                continue
            if field in parsers:
                fields[field] = parsers[field](value, place)
            elif field in kind.__annotations__:
                fields[field] = _plain(value, kind.__annotations__[field], place)
            elif not _is_empty(value) and place not in _WITHOUT_EFFECT:
                raise Unsupported(f"config.json: {place} is not supported by this runtime; try: remove it")
        try:
            return kind(**fields)
        except TypeError:
            missing = [_camel(name) for name in kind._fields if name not in fields and name not in kind._field_defaults]  # type: ignore[attr-defined]  # a bound of tuple hides NamedTuple's attributes
            raise Error(f"config.json: {where or 'the document'} lacks {', '.join(missing)}") from None

    return parse


def _plain(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Error(f"config.json: {where} is {value!r}, which is not of the type {getattr(kind, '__name__', kind)}")
    return value


def _is_empty(value: Any) -> bool:
    """An object or list of nothing but empty values asks for nothing."""
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    if isinstance(value, list):
        return all(map(_is_empty, value))
    return value in (None, "", 0, False)


def _list(parse: Parser) -> Parser:
    def parse_list(json: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(json, list):
            raise Error(f"config.json: {where} must be a list, and is {json!r}")
        return tuple(parse(value, f"{where}[{place}]") for place, value in enumerate(json))

    return parse_list


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Error(f"config.json: {where} must be a string without NUL, and is {value!r}")
    return value


def _integer(value: Any, where: str) -> int:
    return int(_plain(value, int, where))


def _texts_by_name(value: Any, where: str) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise Error(f"config.json: {where} must be an object, and is {value!r}")
    return {_text(name, where): _text(text, f"{where}.{name}") for name, text in value.items()}


_strings: Parser = _list(_text)
_mappings: Parser = _list(_object(IdMapping))
_capabilities = _object(
    Capabilities, bounding=_strings, effective=_strings, permitted=_strings, inheritable=_strings, ambient=_strings
)
_process: Callable[[Any, str], Process] = _object(
    Process,
    args=_strings,
    cwd=_text,
    env=_strings,
    console_size=_object(ConsoleSize),
    user=_object(User, additional_gids=_list(_integer)),
    capabilities=_capabilities,
    rlimits=_list(_object(Rlimit)),
)
_resources: Callable[[Any, str], Resources] = _object(
    Resources,
    memory=_object(Memory),
    cpu=_object(Cpu),
    pids=_object(Pids),
    devices=_list(_object(DeviceRule)),
    unified=_texts_by_name,
)
_seccomp = _object(
    Seccomp,
    architectures=_strings,
    flags=_strings,
    syscalls=_list(_object(SeccompRule, names=_strings, args=_list(_object(SeccompArgument)))),
)
_linux = _object(
    Linux,
    namespaces=_list(_object(Namespace, path=_text)),
    uid_mappings=_mappings,
    gid_mappings=_mappings,
    devices=_list(_object(Device, path=_text)),
    cgroups_path=_text,
    resources=_resources,
    masked_paths=_strings,
    readonly_paths=_strings,
    seccomp=_seccomp,
    sysctl=_texts_by_name,
)
_spec: Callable[[Any, str], Spec] = _object(
    Spec,
    process=_process,
    root=_object(Root, path=_text),
    hostname=_text,
    domainname=_text,
    mounts=_list(
        _object(
            Mount, destination=_text, source=_text, options=_strings, uid_mappings=_mappings, gid_mappings=_mappings
        )
    ),
    annotations=_texts_by_name,
    linux=_linux,
)
_state: Callable[[Any, str], State] = _object(
    State,
    status=lambda value, _: Status(value),
    annotations=_texts_by_name,
    cgroups=_texts_by_name,
)
