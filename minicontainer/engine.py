"""Engine: images and containers for those who use them. The public API of minicontainer.

Stands above everything but builds and command lines; miniecs' task engine and people's `cli` are its callers. Each
function takes a `Home` and values, and gives values. The caller has one thread, since containers are forked from it.
"""
# ruff: noqa: A001, A002  # a container's id is called `id` here as in every document, and exec is what it is called

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress

from minicontainer import apparmor, bundle, bundle_files, containers, files, json_documents, logs, rootless, supervisor
from minicontainer.containers import (
    CREATED,
    EXITED,
    RUNNING,
    Container,
    Home,
    Options,
    Port,
    Volume,
    home,
)
from minicontainer.errors import ContainerNotFound, Error, ImageNotFound
from minicontainer.image import images as image_functions
from minicontainer.image import snapshots
from minicontainer.image.images import image, images, open_store, pull, push, tag
from minicontainer.image.store import Store
from minicontainer.inspection import KILLED, inspect, list_containers, repair
from minicontainer.linux import procfs
from minicontainer.oci.image import ContainerConfig
from minicontainer.oci.runtime import ConsoleSize, Process
from minicontainer.plan import Explain
from minicontainer.runtime import cgroups, creation, operations, states
from minicontainer.supervisor import Started, Streams
from minicontainer.values import NamedTuple

__all__ = [
    "CREATED", "EXITED", "KILLED", "RUNNING", "Container", "Home", "Layers", "Options", "Port", "Started", "Streams",
    "Volume", "home", "image", "images", "inspect", "list_containers", "open_store", "pull", "push", "repair", "tag",
]  # fmt: skip
INIT_PROGRAMS = ("/usr/bin/tini-static", "/usr/libexec/docker/docker-init", "/usr/libexec/podman/catatonit")
UNHANDLED_GRACE = 0.5  # seconds that a first process has to begin handling a stop signal which it would not feel
HANGS = 30.0  # seconds after SIGKILL until that is said: a busy computer takes some to take mounts and links apart


class Layers(NamedTuple):
    """A root file system that is no image's: a build's layers so far, and where its changes go."""

    lowers: tuple[str, ...]
    upper: str
    work: str
    image: ContainerConfig = ContainerConfig()


# --- a container's life ----------------------------------------------------------------------------------------------


def create(home: Home, options: Options, layers: Layers | None = None) -> Container:
    """Make a container of an image, which is pulled if it is absent; nothing of the kernel is touched yet.

    Raises:
        Error: the options contradict themselves, the image cannot be had, the name is taken.
    """
    bundle.check(options)
    options = rootless.fit(options)
    _check_sources(options)
    store = open_store(home)
    with store.session(), files.lock(f"{home.data}/containers.lock", shared=True):  # no layer or half of it is swept
        image_id, config, lowers = (
            ("", layers.image, layers.lowers) if layers else _image_of(home, store, options.image)
        )
        if not layers:
            options = bundle.mounted(options, config)
        container_id = os.urandom(32).hex()
        place = home.container(container_id)
        container = Container(
            id=container_id,
            name=options.name or container_id[:12],
            image=options.image,
            image_id=image_id,
            options=bundle.exposed(options, config),
            created=time.time(),
            command=bundle.command(options, config),
            stop_signal=options.stop_signal or config.stop_signal or "SIGTERM",
            bundle=place,
            lowers=lowers,
            upper=layers.upper if layers else f"{place}/upper",
            work=layers.work if layers else f"{place}/work",
            init_program=_init_program() if options.init else "",
        )
        signal_number(container.stop_signal)
        return _claim(home, container, config)


def _check_sources(options: Options) -> None:
    """/proc and /sys of the machine are reached by no volume: not by a link, not below what is given.

    Raises:
        Error: a volume would show them.
    """
    for volume in (one for one in options.volumes if one.source):
        source = os.path.realpath(volume.source)
        for entry in procfs.mountinfo():
            both = (entry.target, source)
            if entry.fstype in ("proc", "sysfs") and os.path.commonpath(both) in both:
                what = f"volume {volume.source}:{volume.target} would show {entry.target}"
                raise Error(f"{what}, which no container gets; try: a directory without it")


def _init_program() -> str:
    """A small first process, for --init: static, so that it runs in every image."""
    if found := [path for path in INIT_PROGRAMS if os.access(path, os.X_OK)]:
        return found[0]
    raise Error("--init needs a program that is not installed; try: apt-get install tini")


def _claim(home: Home, container: Container, config: ContainerConfig) -> Container:
    """Make the container's files and take its name and ids; all or nothing."""
    place = container.bundle
    os.mkdir(place, 0o700)
    try:
        containers.claim_name(home, container.name, container.id)
        container = container._replace(id_base=containers.claim_ids(home, container.id))
        for directory in {f"{place}/rootfs", container.upper, container.work}:
            os.makedirs(directory, 0o755, exist_ok=True)
        if any(volume.name for volume in container.options.volumes):
            from minicontainer import volumes  # why here: few containers have one

            attached = volumes.attach(home, container.options, container.lowers, list_containers(home))
            container = container._replace(options=attached)
        files.write(f"{place}/image.json", json_documents.dumps(config.to_json()))
        return containers.write(home, container, was=CREATED)
    except BaseException:
        containers.remove(home, container, volumes=True)
        raise


def _image_of(home: Home, store: Store, reference: str) -> tuple[str, ContainerConfig, tuple[str, ...]]:
    try:
        descriptor = store.resolve(reference)
    except ImageNotFound:
        descriptor = pull(home, reference)
    manifest = store.manifest(descriptor)
    config = store.config(manifest)
    return manifest.config.digest, config.config, snapshots.unpack(home.data, store, manifest, config)


def start(home: Home, id: str, *, streams: Streams = Streams(), explain: Explain | None = None) -> Container:
    """Start a container in the background.

    Raises:
        CommandNotFound, CommandNotExecutable, Error, OSError: it does not run; nothing of the try is left.
    """
    started = start_attached(home, id, streams=streams, explain=explain)
    if started.terminal is not None:
        os.close(started.terminal)
    started.channel.close()
    return started.container


def start_attached(home: Home, id: str, *, streams: Streams = Streams(), explain: Explain | None = None) -> Started:
    """Start a container and keep its supervisor's channel: `supervisor.exit_code` reads the end from it."""
    container = inspect(home, id)
    with files.lock(f"{container.bundle}/start.lock"):
        container = inspect(home, container.id)
        if container.status == EXITED and containers.alive(container):
            _wait_for_end(container, 1.0)  # its start has failed, and the kernel still takes its mounts apart
        if container.status == RUNNING or containers.alive(container):
            raise states.WrongStatus(f"container {container.name} is running already")
        for name in ("stopping", "exit"):
            with suppress(FileNotFoundError):
                os.unlink(f"{container.bundle}/{name}")
        files.write(f"{container.bundle}/exit", b"\n")  # not empty: so there is room for the status on a full disk
        return supervisor.launch(home, container, streams, explain)


def run(
    home: Home,
    options: Options,
    *,
    layers: Layers | None = None,
    output: Callable[[bytes], None] | None = None,
    explain: Explain | None = None,
    afterwards: ExitStack | None = None,
) -> int:
    """Create, start, wait and remove: the exit status; `output` gets what the container prints.

    The kernel takes 0.1 s to remove a container's link: with `afterwards`, that is waited for when the stack is closed.
    """
    container = create(home, options._replace(remove=True), layers)
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as pipe, ExitStack() as undo:
        try:
            with open(writer, "wb", buffering=0):
                streams = Streams(stdout=writer, stderr=writer)
                started = start_attached(home, container.id, streams=streams, explain=explain)
            undo.enter_context(started.channel)
            undo.callback(supervisor.until_gone, started.channel)
            while data := pipe.read(1 << 16):
                if output is not None:
                    output(data)
            code = supervisor.exit_code(started.channel)
        except BaseException:
            with suppress(ContainerNotFound):
                remove(home, container.id, force=True)
            raise
        if afterwards is not None:
            afterwards.push(undo.pop_all())
        return KILLED if code is None else code


def wait(home: Home, id: str) -> int:
    """The exit status, once the container has ended; at once if it has."""
    container = inspect(home, id)
    with open(f"{container.bundle}/exit", "rb") if container.supervisor_pid else open(os.devnull, "rb") as said:
        if container.status != EXITED or containers.alive(container):
            _wait_for_end(container, None)
            lines = said.read().split()  # the file may be removed meanwhile, and is still ours to read
            if lines:
                return int(lines[-1])
            container = inspect(home, container.id)
    return container.exit_code


def _wait_for_end(container: Container, timeout: float | None) -> bool:
    """Wait until the container's supervisor has ended; whether it has."""
    deadline = None if timeout is None else time.monotonic() + timeout
    if container.status == CREATED and not containers.alive(container):
        return False  # it has never been started
    try:
        descriptor = os.pidfd_open(container.supervisor_pid)
    except ProcessLookupError:
        return True
    try:
        if not containers.alive(container):  # after the descriptor is open, so that it is of the right process
            return True
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(remaining))
    finally:
        os.close(descriptor)


def stop(home: Home, id: str, timeout: float | None = None, signal: str = "") -> None:
    """Send the stop signal, and SIGKILL to what still runs after `timeout` seconds; twice is no error.

    A first process without a handler does not feel a signal (pid_namespaces(7)): it is killed without the wait.
    """
    container = inspect(home, id)
    if not containers.alive(container):
        return
    _mark_stopping(container)
    limit = container.options.stop_timeout if timeout is None else timeout
    number = signal_number(signal or container.stop_signal)
    with suppress(states.WrongStatus, states.NoSuchContainer):
        operations.kill(home.runtime, container.id, number)
        if cgroups.is_frozen(container.cgroups):
            operations.resume(home.runtime, container.id)  # what is paused feels a signal when it goes on
    deadline = time.monotonic() + limit
    unfelt_since: float | None = None
    while time.monotonic() < deadline:
        if _wait_for_end(container, 0.02):
            return
        if handles(container.pid, number):
            unfelt_since = None
        elif unfelt_since is None:
            unfelt_since = time.monotonic()
        elif time.monotonic() - unfelt_since > UNHANDLED_GRACE:
            break
    _kill_and_wait(home, container)


def handles(pid: int, number: int) -> bool:
    """Whether the process catches the signal, or blocks it to take it by sigwait(3) or signalfd(2)."""
    try:
        fields = procfs.status(pid)
        return any(int(fields[name], 16) >> (number - 1) & 1 for name in ("SigCgt", "SigBlk"))
    except (OSError, KeyError):  # it is gone: then there is nothing to wait for but its supervisor
        return True


def _mark_stopping(container: Container) -> None:
    """What the supervisor looks for before it restarts."""
    with suppress(FileNotFoundError):
        files.write(f"{container.bundle}/stopping", b"")


def _kill_and_wait(home: Home, container: Container) -> None:
    """SIGKILL, again until it is gone: what is only being made cannot be killed yet."""
    deadline = time.monotonic() + HANGS
    while time.monotonic() < deadline:
        with suppress(states.WrongStatus, states.NoSuchContainer):
            operations.kill(home.runtime, container.id, signal.SIGKILL)
        if _wait_for_end(container, 0.5):
            return
    raise Error(f"container {container.name} does not end after SIGKILL; its process may hang in the kernel")


def running(home: Home, id: str) -> Container:
    """The container, which runs."""
    container = inspect(home, id)
    if container.status != RUNNING:
        name = container.name
        raise states.WrongStatus(f"container {name} is not running; try: minicontainer start {name}")
    return container


def kill(home: Home, id: str, signal: int | str = "SIGKILL") -> None:
    """Send a signal to the first process."""
    container = running(home, id)
    operations.kill(home.runtime, container.id, signal_number(signal))


def remove(home: Home, id: str, force: bool = False, volumes: bool = False) -> None:
    """Remove a container that has ended, or with `force` runs; with `volumes` also those that it has without a name.

    Raises:
        Error: it runs.
    """
    container = inspect(home, id)
    if container.status == RUNNING or (containers.alive(container) and container.status == CREATED):
        if not force:
            raise states.WrongStatus(
                f"container {container.name} is running; try: minicontainer stop {container.name}, or rm --force"
            )
        _mark_stopping(container)
        _kill_and_wait(home, container)
    elif containers.alive(container) and not _wait_for_end(container, 0.5):
        _mark_stopping(container)  # it is between two restarts
        _wait_for_end(container, 10)
    containers.remove(home, container, volumes)


def exec(
    home: Home,
    id: str,
    command: Iterable[str],
    *,
    env: Iterable[str] = (),
    workdir: str = "",
    user: str = "",
    streams: tuple[int, int, int] | None = None,
    detach: bool = False,
    explain: Explain | None = None,
) -> int:
    """Run a further process in a running container: its exit status, or with `detach` 0 once it runs."""
    pid = execute(home, id, command, env=env, workdir=workdir, user=user, streams=streams, explain=explain)
    try:
        return 0 if detach else exit_status(pid)
    except BaseException:  # the caller gives up: a process that nobody waits for must not go on
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        raise


def execute(
    home: Home,
    id: str,
    command: Iterable[str],
    *,
    env: Iterable[str] = (),
    workdir: str = "",
    user: str = "",
    streams: tuple[int, int, int] | None = None,
    console_socket: int | None = None,
    console_size: ConsoleSize | None = None,
    explain: Explain | None = None,
) -> int:
    """Start a further process in a running container: its pid, a child of the caller."""
    container = running(home, id)
    process = _further_process(container, tuple(command), env, workdir, user, console_socket is not None)
    null = -1
    if streams is None and console_socket is None:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        streams = (null, null, null)
    try:
        process = process._replace(console_size=console_size)
        return creation.execute(
            home.runtime, container.id, process, stdio=streams, console_socket=console_socket, explain=explain
        )
    finally:
        if null >= 0:
            os.close(null)


def _further_process(
    container: Container, command: tuple[str, ...], env: Iterable[str], workdir: str, user: str, tty: bool
) -> Process:
    with open(f"{container.bundle}/image.json", "rb") as file:
        image = ContainerConfig.from_json(json_documents.loads(file.read()))
    rootfs = f"/proc/{container.pid}/root"
    people, groups = (bundle_files.read_inside(rootfs, f"etc/{name}") for name in ("passwd", "group"))
    who = bundle.account(user or container.options.user or image.user, people, groups)
    process = apparmor.confined(bundle.process_of(container, image, who, command, env, tty))
    return process._replace(cwd=workdir) if workdir else process


def exit_status(pid: int) -> int:
    """Reap a child: its status as a shell says it."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def signal_number(name: int | str) -> int:
    """15, "15", "TERM" or "SIGTERM" as a number."""
    text = str(name).upper()
    if text.isdecimal() and 0 < int(text) < 65:
        return int(text)
    try:
        return signal.Signals[text if text.startswith("SIG") else f"SIG{text}"]
    except KeyError:
        raise Error(f"signal {name} is not known; try: kill -l, for their names") from None


# --- what there is ---------------------------------------------------------------------------------------------------


def read_logs(
    home: Home, id: str, *, follow: bool = False, tail: int | None = None, since: float = 0
) -> Iterator[logs.Record]:
    """What the container wrote; with `follow` on and on until it ends."""
    container = inspect(home, id)
    path = f"{container.bundle}/log.jsonl"
    if not follow:
        return logs.read(path, tail=tail, since=since)

    def over(seconds: float) -> bool:
        if container.status == CREATED or not containers.alive(container):
            return True
        return _wait_for_end(container, seconds)

    return logs.follow(path, over, tail=tail, since=since)


def statistics(home: Home, id: str) -> cgroups.Usage:
    """What the container uses now: bytes of memory, CPU time in nanoseconds, processes."""
    container = running(home, id)
    if set(container.cgroups) != {cgroups.UNIFIED} and "memory" not in container.cgroups:
        raise Error(
            f"nothing counts what {container.name} uses: it has no cgroup of its own; try: {rootless.DELEGATION}"
        )
    return cgroups.stats(container.cgroups)


# --- groups and addresses, for those who run several containers as one -----------------------------------------------


def make_group(
    home: Home,
    path: str,
    *,
    memory: int | None = None,
    cpus: float | None = None,
    cpu_shares: int | None = None,
    pids: int | None = None,
) -> Mapping[str, str]:
    """A cgroup with limits that the containers with this `cgroup_parent` share; its directory by controller."""
    del home  # for the same form as all others
    limits = bundle.resources(Options(image="", memory=memory, cpus=cpus, cpu_shares=cpu_shares, pids_limit=pids or 0))
    return cgroups.create_group(path, limits)


def remove_group(home: Home, path: str) -> None:
    """Remove the cgroup; an absent one is no error."""
    del home  # as above
    cgroups.remove_group(path)


def add_address(home: Home, address: str, interface: str = "lo") -> None:
    """Add an address such as 169.254.170.2/32 to this network namespace; twice is no error."""
    del home  # as above
    from minicontainer.network import bridge  # why here: a container without a bridge does not need it

    bridge.add_address(address, interface)


# --- images that containers may need ---------------------------------------------------------------------------------


def remove_image(home: Home, reference: str, force: bool = False) -> list[str]:
    """Take a name away from an image, and with its last name its content: what was removed, as lines.

    Raises:
        Error: a container needs it.
    """
    return image_functions.remove(home, reference, list_containers(home), force)


def remove_unused(home: Home) -> list[str]:
    """Remove the content that no image, no container and no remembered step of a build needs: the blobs that went."""
    return image_functions.sweep(home, list_containers(home))
