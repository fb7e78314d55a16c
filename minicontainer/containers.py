"""Containers: what was asked for (options), what came of it (the record), and the names and ids that are claimed.

Stands between files and whoever makes, runs or shows a container; knows no kernel call. One directory for each
container, one writer at a time of its record: `engine` until start, then the container's supervisor, then `engine`
again.
"""

import os
from collections.abc import Mapping
from contextlib import suppress

from minicontainer import files, json_documents
from minicontainer.errors import ContainerNotFound, Error, NameInUse
from minicontainer.linux import procfs
from minicontainer.values import Any, NamedTuple

DATA, RUN = "/var/lib/minicontainer", "/run/minicontainer"
CREATED, RUNNING, EXITED = "created", "running", "exited"
NEXT = {
    CREATED: {RUNNING, EXITED},
    RUNNING: {EXITED},
    EXITED: {RUNNING, EXITED},
}  # fmt: skip
ID_RANGE = 1 << 16  # how many user ids a container has
ID_SLOTS = range(16, 1 << 14)  # slots of ID_RANGE from 1,048,576: above what hosts and /etc/subuid give to people


class Home(NamedTuple):
    """Where everything is kept: `data` survives a boot, `run` does not."""

    data: str = DATA
    run: str = RUN

    def container(self, container_id: str) -> str:
        return f"{self.data}/containers/{container_id}"

    def volume(self, name: str) -> str:
        return f"{self.data}/volumes/{name}"

    @property
    def runtime(self) -> str:
        return f"{self.run}/runtime"


class Port(NamedTuple):
    """A published port; host port 0 asks for a free one, an empty host address for all of them."""

    container_port: int
    host_port: int = 0
    protocol: str = "tcp"
    host_ip: str = ""


class PublishedPort(NamedTuple):
    """A host port's way to a container: the port, and the container's address on the bridge."""

    port: Port
    address: str


class Volume(NamedTuple):
    """A path of the host: with a `name` that of a volume of ours, which `engine` finds; an anonymous one is given its
    name by `bundle.mounted`, and goes with its container.

    With `layers` (the topmost first) it is a path in these, and what is written there is lost.
    """

    source: str
    target: str
    read_only: bool = False
    layers: tuple[str, ...] = ()
    name: str = ""
    anonymous: bool = False


class Ulimit(NamedTuple):
    name: str
    soft: int
    hard: int


class Options(NamedTuple):
    """What a user asks of a container: docker's words for the flags of `run`."""

    image: str
    command: tuple[str, ...] = ()
    name: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    workdir: str = ""
    user: str = ""
    hostname: str = ""
    network: str = "bridge"
    ports: tuple[Port, ...] = ()
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[str, ...] = ()
    shm_size: int = 64 << 20
    labels: Mapping[str, str] = {}
    memory: int | None = None
    memory_reservation: int | None = None
    memory_swap: int | None = None
    cpus: float | None = None
    cpu_shares: int | None = None
    pids_limit: int = 2048
    ulimits: tuple[Ulimit, ...] = ()
    cgroup_parent: str = ""
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    userns: str = ""
    init: bool = False
    restart: str = "no"
    remove: bool = False
    tty: bool = False
    interactive: bool = False
    stop_signal: str = ""
    stop_timeout: int = 10
    dns: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    publish_all: bool = False
    sysctls: Mapping[str, str] = {}
    cpuset_cpus: str = ""
    dns_search: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> "Options":
        values: dict[str, Any] = {name: _tuple(value) for name, value in json.items()}
        for name, kind in (("ports", Port), ("volumes", Volume), ("ulimits", Ulimit)):
            values[name] = tuple(kind(*map(_tuple, item)) for item in values[name])
        return cls(**{name: value for name, value in values.items() if name in cls._fields})


class Network(NamedTuple):
    """What a container got of the bridge; empty with the networks `none` and `host`."""

    address: str = ""
    prefix: int = 0
    gateway: str = ""
    mac: str = ""
    interface: str = ""
    namespace: int = 0  # the inode of the network namespace that the bridge is in: namespaces(7)


class Container(NamedTuple):
    """The record of one container: containers/ID/container.json."""

    id: str
    name: str
    image: str
    image_id: str
    options: Options
    created: float
    status: str = CREATED
    pid: int = 0
    start_time: int = 0
    supervisor_pid: int = 0
    supervisor_start_time: int = 0
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    restarts: int = 0
    command: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"
    network: Network = Network()
    ports: tuple[Port, ...] = ()
    cgroups: Mapping[str, str] = {}
    bundle: str = ""
    lowers: tuple[str, ...] = ()
    upper: str = ""
    work: str = ""
    id_base: int = 0
    init_program: str = ""  # of the machine, for --init

    @property
    def tty(self) -> bool:
        return self.options.tty

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> "Container":
        values: dict[str, Any] = {name: _tuple(value) for name, value in json.items()}
        values["options"] = Options.from_json(json["options"])
        values["network"] = Network(*json["network"])
        values["ports"] = tuple(Port(*port) for port in json["ports"])
        return cls(**{name: value for name, value in values.items() if name in cls._fields})

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "options": self.options._asdict()}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def home(root: str | None = None) -> Home:
    """The home below `root`, else below $MINICONTAINER_ROOT, else the machine's own, or a person's own without root."""
    data = root or os.environ.get("MINICONTAINER_ROOT") or ("" if os.geteuid() or procfs.in_user_namespace() else DATA)
    if not data:
        share = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        run = os.environ.get("XDG_RUNTIME_DIR")
        data = f"{share}/minicontainer"
        return Home(data=data, run=f"{run}/minicontainer" if run else f"{data}/run")
    data = os.path.abspath(data)
    return Home(data=data, run=RUN if data == DATA else f"{data}/run")


def prepare(place: Home) -> None:
    """Make the directories of a home; they are its owner's alone: layers hold other users' set-uid programs."""
    for directory in ("", "containers", "names", "ids"):
        os.makedirs(f"{place.data}/{directory}".rstrip("/"), mode=0o700, exist_ok=True)
    os.makedirs(place.runtime, mode=0o700, exist_ok=True)


# --- records ---------------------------------------------------------------------------------------------------------


def write(place: Home, container: Container, *, was: str) -> Container:
    """Replace the record of a container that was `was`, and say so if that move is in no table."""
    if container.status != was and container.status not in NEXT[was]:
        raise ValueError(f"container {container.id[:12]}: {was} cannot become {container.status}")
    data = json_documents.dumps(container.to_json())
    files.write(f"{place.container(container.id)}/container.json", data)
    return container


def read(place: Home, container_id: str) -> Container:
    """The record as it stands; whether its process still lives is for `alive` to say.

    Raises:
        ContainerNotFound: there is none, it is half made, or a power cut has left its record empty.
    """
    try:
        with open(f"{place.container(container_id)}/container.json", "rb") as file:
            container = Container.from_json(json_documents.loads(file.read()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise ContainerNotFound(container_id) from None
    return container._replace(name=_new_name(place, container))


def _new_name(place: Home, container: Container) -> str:
    """The name since `rename`, which a supervisor does not know: it is in a file of its own."""
    try:
        with open(f"{place.container(container.id)}/name", encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return container.name


def rename(place: Home, container: Container, name: str) -> None:
    """Give a container another name, whether it runs or not.

    Raises:
        NameInUse: another container has it.
    """
    claim_name(place, name, container.id)
    files.write(f"{place.container(container.id)}/name", name.encode())
    os.unlink(f"{place.data}/names/{container.name}")


def find(place: Home, name_or_id: str) -> str:
    """The id of the container with this name, id, or unambiguous beginning of an id."""
    if "/" not in name_or_id:
        with suppress(OSError, ValueError):  # no link of that name, and none can be
            return os.readlink(f"{place.data}/names/{name_or_id}")
    matches = [known for known in ids(place) if name_or_id and known.startswith(name_or_id)]
    if len(matches) > 1:
        raise Error(f"{name_or_id} is the beginning of {len(matches)} container ids; try: more of its characters")
    if not matches:
        raise ContainerNotFound(name_or_id)
    return matches[0]


def ids(place: Home) -> list[str]:
    """Every container of this home, also half-made ones."""
    try:
        return sorted(os.listdir(f"{place.data}/containers"))
    except FileNotFoundError:
        return []


def alive(container: Container) -> bool:
    """Whether the supervisor that the record names still runs: a pid alone may be another process by now."""
    pid, began = container.supervisor_pid, container.supervisor_start_time
    return bool(pid) and procfs.start_time(pid) == began


def remove(place: Home, container: Container, volumes: bool = False) -> None:
    """Remove all files of a container; with `volumes`, or if it is one that goes by itself, its anonymous ones, too."""
    container = container._replace(name=_new_name(place, container))
    gone = out_of_sight(place, place.container(container.id))
    release(place, container)
    files.remove_tree(gone)
    for volume in container.options.volumes if volumes or container.options.remove else ():
        if volume.anonymous and not _is_used(place, volume.name):
            files.remove_tree(out_of_sight(place, place.volume(volume.name)))


def out_of_sight(place: Home, path: str) -> str:
    """Where a directory that is to be removed stands now: one rename, so that a half-removed one is never seen."""
    gone = f"{place.data}/removed/{os.path.basename(path)}-{os.urandom(8).hex()}"
    os.makedirs(f"{place.data}/removed", mode=0o700, exist_ok=True)
    with suppress(FileNotFoundError):
        os.rename(path, gone)
    return gone


def _is_used(place: Home, volume: str) -> bool:
    for container_id in ids(place):
        with suppress(ContainerNotFound):  # half made, or removed meanwhile
            if any(one.name == volume for one in read(place, container_id).options.volumes):
                return True
    return False


# --- claims: a symbolic link is made or it is not, so that of two who want a thing one gets it --------------------


def claim_name(place: Home, name: str, container_id: str) -> None:
    """Take `name` for a container, also from one that is no more.

    Raises:
        NameInUse: another container has it.
    """
    link = f"{place.data}/names/{name}"
    for _ in range(2):
        try:
            return os.symlink(container_id, link)
        except FileExistsError:
            holder = os.readlink(link)
            if os.path.isdir(place.container(holder)):
                raise NameInUse(name, holder[:12]) from None
            with suppress(FileNotFoundError):
                os.unlink(link)
    raise NameInUse(name, "another, made just now")


def claim_ids(place: Home, container_id: str) -> int:
    """Take a range of user ids that no other container of this home has; the first id of it."""
    if procfs.in_user_namespace():
        return 0  # all ids that there are: those of its person
    directory = f"{place.data}/ids"
    first = int(container_id[:8], 16)  # begin anywhere, so that homes on one machine hardly ever meet
    for step in range(len(ID_SLOTS)):
        slot = ID_SLOTS[(first + step) % len(ID_SLOTS)]
        with suppress(FileExistsError):
            os.symlink(container_id, f"{directory}/{slot}")
            return slot * ID_RANGE
    raise Error(f"all {len(ID_SLOTS)} ranges of user ids are taken; try: minicontainer prune")


def release(place: Home, container: Container) -> None:
    """Give back the name and the user ids; another container's are left alone."""
    for link in (f"names/{container.name}", f"ids/{container.id_base // ID_RANGE}"):
        with suppress(OSError):
            if os.readlink(f"{place.data}/{link}") == container.id:
                os.unlink(f"{place.data}/{link}")
