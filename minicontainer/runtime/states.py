"""States: what is recorded of a container, and what is true of it.

Stands between `creation` and the files in ROOT/ID. Ruled by runtime-spec runtime.md (State). A record says what was
made; whether it lives is asked of /proc, whether its program has begun of a lock, whether it is frozen of its cgroup.
"""

import os
import time
from contextlib import suppress

from minicontainer import files, json_documents
from minicontainer.errors import Error
from minicontainer.linux import procfs
from minicontainer.oci.runtime import Spec, State, Status, to_json
from minicontainer.runtime import cgroups, resources

STATE, CONFIG, FIFO, ERROR = "state.json", "config.json", "exec.fifo", "error"
FILTERS = ".seccomp"  # compiled profiles, beside the containers
ID_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-.")


class NoSuchContainer(Error):
    exit_code = 1

    def __init__(self, container_id: str) -> None:
        super().__init__(f"container does not exist: {container_id}; try: list")


class WrongStatus(Error):
    """The container is not in the status that the operation needs."""

    exit_code = 1


def read_spec(path: str) -> tuple[bytes, Spec]:
    try:
        with open(path, "rb") as file:
            text = file.read()
        return text, Spec.from_json(json_documents.loads(text))
    except FileNotFoundError:
        raise Error(f"{path} does not exist; try: --bundle DIRECTORY") from None
    except ValueError as error:
        raise Error(f"{path} is not JSON: {error}") from None


def claim(root: str, container_id: str) -> str:
    """The container's directory: who makes it owns the id."""
    check_id(container_id)
    os.makedirs(root, mode=0o711, exist_ok=True)
    try:
        os.mkdir(f"{root}/{container_id}", 0o700)
    except FileExistsError:
        text = f"container with given ID already exists: {container_id}; try: delete {container_id}"
        raise Error(text) from None
    return f"{root}/{container_id}"


def check_id(container_id: str) -> None:
    if not container_id:
        raise Error("container id cannot be empty")
    if container_id[0] == "." or not ID_LETTERS.issuperset(container_id):
        raise Error(
            f"invalid container ID format: {container_id!r} must be letters, digits and _+-. alone, no dot first"
        )


def new_state(
    spec: Spec, container_id: str, bundle: str, found: cgroups.Hierarchies, parent: str = "", scope: str = ""
) -> State:
    """With `parent` and `scope` its cgroup is that unit of systemd, in that slice."""
    path = spec.linux.cgroups_path or container_id
    if scope:
        from minicontainer.runtime import systemd  # loaded already

        path = systemd.place(parent, scope)
    groups = writable(cgroups.resolve(found, path))
    if not groups and resources.settings(spec.linux.resources, found.version2):
        raise Error("linux.resources asks for limits, and no cgroup may be made here; try: sudo, or a delegated cgroup")
    if cgroups.processes(groups):
        raise Error(f"the cgroup {path} has processes already; try: another linux.cgroupsPath")
    now = time.time()
    return State(
        oci_version=spec.oci_version,
        id=container_id,
        status=Status.CREATING,
        bundle=bundle,
        annotations=spec.annotations,
        rootfs=os.path.join(bundle, spec.root.path),
        created=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e9):09d}Z",
        cgroups=groups,
        cgroup_parents=cgroups.levels(path),
        scope=scope,
        hooks=tuple(name for name in spec.hooks._fields if getattr(spec.hooks, name)),
    )


def writable(groups: dict[str, str]) -> dict[str, str]:
    """Those that may be made: in a user namespace what is delegated to it, all of them for the host's root."""
    if not procfs.in_user_namespace():
        return groups
    found = {}
    for controller, directory in groups.items():
        there = directory
        while not os.path.isdir(there):
            there = os.path.dirname(there)
        if os.access(there, os.W_OK):
            found[controller] = directory
    return found


def state(root: str, container_id: str) -> State:
    """What is recorded of the container, with its status as it is now."""
    check_id(container_id)
    try:
        with open(f"{root}/{container_id}/{STATE}", "rb") as file:
            recorded = State.from_json(json_documents.loads(file.read()))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # none, or what a power cut has left of it
        raise NoSuchContainer(container_id) from None
    if recorded.status is Status.CREATING:
        return recorded
    status = _status(f"{root}/{container_id}", recorded)
    return recorded._replace(status=status, pid=0 if status is Status.STOPPED else recorded.pid)


def _status(directory: str, recorded: State) -> Status:
    if procfs.start_time(recorded.pid) != recorded.start_time:
        return Status.STOPPED
    if cgroups.is_frozen(recorded.cgroups):
        return Status.PAUSED
    return Status.CREATED if _waits(directory) else Status.RUNNING


def _waits(directory: str) -> bool:
    """The first process holds a lock on the file for its last words until execve closes it: see `creation`."""
    return files.is_locked(f"{directory}/{ERROR}")


def containers(root: str) -> list[State]:
    """All containers of `root`, by id."""
    found = []
    with suppress(FileNotFoundError):
        for name in sorted(name for name in os.listdir(root) if name != FILTERS):
            with suppress(NoSuchContainer):
                found.append(state(root, name))
    return found


def write_state(directory: str, state: State) -> None:
    files.write(f"{directory}/{STATE}", json_documents.dumps(to_json(state)))


def recorded_spec(root: str, container_id: str) -> Spec:
    """The config.json that the container was created from."""
    state(root, container_id)
    return read_spec(f"{root}/{container_id}/{CONFIG}")[1]
