"""Creation: make a container and run further processes in it; what only steers one is in `operations`.

Stands between `init` (the child) and those who run containers. Ruled by runtime-spec runtime.md. What is known of a
container is in ROOT/ID/state.json; what is true is asked of /proc, of a lock and of the cgroup. The caller has one
thread: a child goes on as a copy of it.
"""

import fcntl
import os
import resource
import signal as signals
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from minicontainer import files
from minicontainer.errors import Error
from minicontainer.files import Descriptors
from minicontainer.last_words import read_all, told
from minicontainer.linux import procfs
from minicontainer.linux.flags import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWUSER,
    MOUNT_ATTR_IDMAP,
)
from minicontainer.linux.syscalls import clone3, mount_setattr, namespace_kind
from minicontainer.oci.runtime import Hook, IdMapping, Process, Rlimit, Seccomp, Spec, State, Status
from minicontainer.plan import Explain, Plan, Step, StepFailed, run
from minicontainer.runtime import cgroups, checks, init, rootfs, seccomp, states
from minicontainer.runtime.operations import poststop, remove_cgroups
from minicontainer.values import Any, NamedTuple


class Caller(NamedTuple):
    """What the caller gives a process besides its spec."""

    stdio: tuple[int, int, int] | None = None
    console_socket: str | int | None = None
    pid_file: str | None = None
    preserve_fds: int = 0
    listen_fds: int = 0
    ignore_paused: bool = False  # of `exec`, like the next
    subgroups: tuple[str, ...] = ()
    warn: Callable[[str], None] | None = None  # hears of what is left out
    no_pivot: bool = False
    no_new_keyring: bool = False
    systemd: bool = False  # its cgroup is a scope that systemd makes
    readiness: bool = False  # it gets a NOTIFY_SOCKET
    parent_death_signal: int = 0
    explain: Explain | None = None
    born: Callable[[int], None] | None = None  # told the pid of the process before its program is there


# Create


def create(root: str, container_id: str, bundle: str, **given: Any) -> State:
    """Make the container of `bundle`, up to the moment before its program: `start` lets it go.

    `given` are the fields of Caller. The first process is a child of the caller. What is half made when something fails
    is unmade.

    Raises:
        CommandNotFound, CommandNotExecutable: the program cannot be run.
        Error: the spec asks for what cannot be, or the kernel refused a step.
    """
    caller = Caller(**given)
    bundle = os.path.abspath(bundle)
    text, spec = states.read_spec(f"{bundle}/{states.CONFIG}")
    checks.check(spec, caller.console_socket is not None)
    checks.warn(spec.process, caller.warn)
    if os.geteuid() and spec.linux.namespace("user") is None:
        raise Error("config.json: linux.namespaces lacks a user namespace, and without root there is no container else")
    with ExitStack() as done, Descriptors() as opened, ExitStack() as undo:
        directory = states.claim(root, container_id)
        undo.callback(files.remove_tree, directory)
        if caller.readiness:
            from minicontainer.runtime import readiness  # few callers ask for it

            spec = readiness.with_socket(spec, directory)
        found = cgroups.hierarchies()
        unit = ("", "")
        if caller.systemd:
            from minicontainer.runtime import systemd  # few containers are its

            unit = systemd.unit_of(spec.linux.cgroups_path, container_id)
        state = states.new_state(spec, container_id, bundle, found, *unit)
        if state.hooks:
            undo.callback(poststop, spec.hooks, state)
        states.write_state(directory, state)
        files.write(f"{directory}/{states.CONFIG}", text)
        undo.callback(remove_cgroups, state)
        if caller.systemd:
            keeper = run(systemd.start(*unit, container_id, spec, found.version2), caller.explain)
            done.callback(_end, keeper)
        if state.cgroups:
            run(cgroups.make(state.cgroups, spec.linux.resources, found.version2), caller.explain)
        if found.version2 and (owner := cgroups.owner(spec)) is not None:
            run(cgroups.delegate(state.cgroups[cgroups.UNIFIED], owner), caller.explain)
        pid = _make_child(undo, opened, root, spec, state, cgroup_view(spec, state, found), caller)
        state = state._replace(pid=pid, start_time=procfs.start_time(pid) or 0, status=Status.CREATED)
        states.write_state(directory, state)
        if caller.pid_file:
            files.write(caller.pid_file, str(pid).encode(), mode=0o644)
        undo.pop_all()
    return state


def cgroup_view(spec: Spec, state: State, found: cgroups.Hierarchies) -> rootfs.CgroupView:
    """Without a cgroup of its own, the container is in the caller's."""
    directories = {**cgroups.own_directories(found), **state.cgroups}
    return rootfs.CgroupView(directories, found.version2, private=spec.linux.namespace("cgroup") is not None)


def _make_child(
    undo: ExitStack, opened: Descriptors, root: str, spec: Spec, state: State, view: rootfs.CgroupView, caller: Caller
) -> int:
    """The first process, waiting for `start`."""
    tree, bound = run(rootfs.open_trees(spec, state.rootfs, state.bundle), caller.explain)
    for descriptor in (tree.descriptor, *(one.descriptor for one in bound)):
        opened.add(descriptor)
    pipes, link = _pipes(opened)
    pipes = _waiting_place(opened, pipes, f"{root}/{state.id}")
    child = _child(opened, root, spec.process, spec, pipes, caller)
    born = [namespace.type for namespace in spec.linux.namespaces if not namespace.path]
    new = sum(checks.NAMESPACES[kind][0] for kind in born if kind != "time")
    child = child._replace(
        mapped=bool(new & CLONE_NEWUSER),
        dumpable=int(bool(new & CLONE_NEWUSER) and procfs.in_user_namespace()),
        keyring="" if caller.no_new_keyring else f"_ses.{state.id}",
    )
    hooked = hosted(spec, state)
    joins = joins_by_path(opened, spec)
    into = _version2_descriptor(opened, state)
    later = CLONE_NEWCGROUP | (CLONE_NEWIPC if child.mapped else 0)  # `init` unshares these when their time has come
    pid = run(clone(new & ~later, joins, into, clocks(spec)), caller.explain)
    if pid == 0:
        _let_go_of(link)
        init.first(child, init.House(spec, tree, bound, view, caller.no_pivot, hooked))
    undo.callback(_end, pid)
    if caller.born is not None:
        caller.born(pid)
    opened.close(pipes.orders)
    opened.close(pipes.report)
    with _last_words(link.report, state.cgroups):
        devices = _devices(undo, opened, pid, spec)
        run(settle(pid, spec, state, child.mapped, bound, link, devices), caller.explain)
    said = _hear(link, pid, spec, state, caller)
    if said != init.READY:
        raise _reason(said, state.cgroups) or told(said)
    return pid


def _hear(link: init.Pipes, pid: int, spec: Spec, state: State, caller: Caller) -> bytes:
    """The last words of the child; what it waits for before them is done for it."""
    said = b""
    while part := os.read(link.report, 1 << 16):
        if part == init.HOOKS:
            run(host_hooks(spec, state, pid, link), caller.explain)
        elif part.startswith(init.LISTENER) and spec.linux.seccomp is not None:
            run(_agent(pid, int(part[len(init.LISTENER) :]), spec.linux.seccomp, state, link), caller.explain)
        else:
            said += part
    return said


def _agent(pid: int, number: int, profile: Seccomp, state: State, link: init.Pipes) -> Plan[None]:
    from minicontainer.runtime import notify  # few profiles have a listener

    arguments = (pid, number, profile, state, state.status)
    yield Step(notify.hand_over, arguments, "an agent answers for the kernel what the profile leaves to it")
    yield Step(os.write, (link.orders, init.HANDED), "the child may go on")


def hosted(spec: Spec, state: State) -> init.Hosted | None:
    """The hooks that the child runs, ready to be run: it cannot load what they need."""
    if not any((*spec.hooks[:4],)):
        return None
    from minicontainer.runtime import hooks  # few containers have any

    def inside(kind: str, given: tuple[Hook, ...], status: Status, directory: str) -> Callable[[], Plan[None]]:
        return lambda: hooks.steps(kind, given, state, status, os.getpid(), directory)

    create, start = spec.hooks.create_container, spec.hooks.start_container
    return init.Hosted(
        path=state.rootfs,
        create_container=inside("createContainer", create, Status.CREATING, state.bundle),
        start_container=inside("startContainer", start, Status.CREATED, "/"),
    )


def host_hooks(spec: Spec, state: State, pid: int, link: init.Pipes) -> Plan[None]:
    """Those of the host: prestart first, since it is older; the child waits with its mounts in place."""
    from minicontainer.runtime import hooks  # loaded already: see above

    for kind, given in (("prestart", spec.hooks.prestart), ("createRuntime", spec.hooks.create_runtime)):
        yield from hooks.steps(kind, given, state, Status.CREATING, pid, state.bundle)
    yield Step(os.write, (link.orders, init.HOOKED), "the child may go on")


def _pipes(opened: Descriptors) -> tuple[init.Pipes, init.Pipes]:
    """The child's ends and the creator's ends."""
    orders, give = map(opened.add, os.pipe2(os.O_CLOEXEC))
    read, report = map(opened.add, os.pipe2(os.O_CLOEXEC))
    return init.Pipes(orders=orders, report=report), init.Pipes(orders=give, report=read)


def _let_go_of(link: init.Pipes) -> None:
    """In the child: the creator's ends are its alone, so that its death ends what the child reads and writes there.

    The parent-death signal does not do it: each change of ids takes it away, prctl(2).
    """
    os.close(link.orders)
    os.close(link.report)


def _waiting_place(opened: Descriptors, pipes: init.Pipes, directory: str) -> init.Pipes:
    """The fifo that the child waits at, open for both sides so that it never ends; and a file for its last words.

    The lock on that file is held by the child alone once the creator has closed it, until execve or death let it go.
    """
    os.mkfifo(f"{directory}/{states.FIFO}", 0o600)
    fifo = opened.add(os.open(f"{directory}/{states.FIFO}", os.O_RDWR | os.O_CLOEXEC))
    errors = opened.add(os.open(f"{directory}/{states.ERROR}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    fcntl.flock(errors, fcntl.LOCK_EX)
    return pipes._replace(start=fifo, errors=errors)


def _child(
    opened: Descriptors, root: str, process: Process, spec: Spec, pipes: init.Pipes, caller: Caller
) -> init.Child:
    return init.Child(
        process=process,
        pipes=pipes,
        mapped=False,
        stdio=caller.stdio,
        console=_console(opened, caller.console_socket),
        preserve_fds=caller.preserve_fds,
        listen_fds=caller.listen_fds,
        parent_death_signal=caller.parent_death_signal,
        filter=filter_of(spec.linux.seccomp, f"{root}/{states.FILTERS}"),
        last_capability=procfs.cap_last_cap(),
        asked=asked_of(opened, process, spec),
        explain=caller.explain and _explain_of_child(opened, caller.explain),
    )


def filter_of(profile: Seccomp | None, cache: str) -> init.Filter | None:
    if profile is None:
        return None
    seccomp.check(profile)
    notifies = seccomp.notifies(profile)
    return init.Filter(seccomp.program(profile, cache), seccomp.load_flags(profile), notifies)


def asked_of(opened: Descriptors, process: Process, spec: Spec) -> tuple[Callable[[], Plan[None]], ...]:
    """What few processes ask for, ready to be done: the child cannot load what it needs."""
    asked: list[Callable[[], Plan[None]]] = []
    settings = (process.scheduler, process.io_priority, spec.linux.personality, spec.linux.memory_policy)
    if settings != (None, None, None, None):
        from minicontainer.runtime import scheduling  # few processes ask for it

        asked.append(lambda: scheduling.steps(process, spec.linux))
    if process.apparmor_profile or process.selinux_label:
        from minicontainer.runtime import labels  # few hosts have them

        proc = opened.add(os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        asked.append(labels.asked(process, proc))
    return tuple(asked)


def _explain_of_child(opened: Descriptors, explain: Explain) -> Explain:
    """The child gets standard streams of its own: it explains itself on a copy of the caller's."""
    copy = fcntl.fcntl(explain.descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    return explain._replace(descriptor=opened.add(copy), who="init")


def _console(opened: Descriptors, console_socket: str | int | None) -> int:
    if console_socket is None:
        return -1
    import socket  # 5 ms, and only for a container with a terminal

    if isinstance(console_socket, int):
        return opened.add(os.dup(console_socket))
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(console_socket)
    return opened.add(connection.detach())


def joins_by_path(opened: Descriptors, spec: Spec) -> list[init.Join]:
    """The user namespace last: after it, the others might be out of reach."""
    joins = []
    for namespace in sorted(spec.linux.namespaces, key=lambda one: one.type == "user"):
        if namespace.path:
            flag, _ = checks.NAMESPACES[namespace.type]
            descriptor = opened.add(os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC))
            if namespace_kind(descriptor) != flag:
                raise Error(f"linux.namespaces: {namespace.path} is no {namespace.type} namespace")
            joins.append(init.Join(descriptor, flag))
    return joins


def _version2_descriptor(opened: Descriptors, state: State) -> int:
    if cgroups.UNIFIED not in state.cgroups:
        return -1
    return opened.add(os.open(state.cgroups[cgroups.UNIFIED], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def clocks(spec: Spec) -> str | None:
    """What is written to timens_offsets of a new time namespace; None without one: time_namespaces(7)."""
    namespace = spec.linux.namespace("time")
    if namespace is None or namespace.path:
        return None
    if not os.path.exists("/proc/self/ns/time"):
        raise Error("linux.namespaces asks for a time namespace, and this kernel has none; try: a kernel from 5.6 on")
    return "".join(f"{name} {by.secs} {by.nanosecs}\n" for name, by in spec.linux.time_offsets.items())


def clone(new: int, joins: list[init.Join], into: int, offsets: str | None = None) -> Plan[int]:
    if joins or offsets is not None:
        why = "a child in namespaces that exist: by a helper, as one is born into a pid namespace"
        pid = yield Step(init.clone_joined, (tuple(joins), new, into, offsets), why)
    else:
        pid = yield Step(clone3, (new, into), "a child that is born into namespaces of its own, all at once")
    return int(pid)


def _devices(undo: ExitStack, opened: Descriptors, pid: int, spec: Spec) -> Plan[None] | None:
    if not spec.linux.net_devices:
        return None
    from minicontainer.runtime import net_devices  # loaded already: `checks` has looked at their names

    namespace = opened.add(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
    moved: list[net_devices.Moved] = []
    undo.callback(net_devices.give_back, namespace, moved)
    return net_devices.steps(pid, spec.linux.net_devices, namespace, moved)


def settle(
    pid: int,
    spec: Spec,
    state: State,
    mapped: bool,
    bound: Iterable[rootfs.Tree],
    link: init.Pipes,
    devices: Plan[None] | None = None,
) -> Plan[None]:
    """What the creator does for its child, while the child builds: map its ids, put it into its cgroup."""
    if mapped:
        for file, mappings in (("gid_map", spec.linux.gid_mappings), ("uid_map", spec.linux.uid_mappings)):
            why = "ids inside are these ids outside: root in the container is nobody on the host"
            yield Step(cgroups.write, (f"/proc/{pid}/{file}", _map(mappings)), why)
    yield from _map_trees(pid, spec, bound)
    if mapped:
        yield Step(os.write, (link.orders, init.MAPPED), "the child may go on")
    if devices is not None:
        yield from devices
    yield from _admit(pid, spec.process, state, link)


def _admit(pid: int, process: Process, state: State, link: init.Pipes) -> Plan[None]:
    if process.oom_score_adj is not None:
        path = f"/proc/{pid}/oom_score_adj"
        yield Step(cgroups.write, (path, str(process.oom_score_adj)), "who is killed first when memory runs out")
    yield from _raise_limits(pid, process.rlimits)
    yield from cgroups.join(state.cgroups, pid)
    yield Step(os.write, (link.orders, init.JOINED), "the child may go on")


def _map(mappings: Iterable[IdMapping]) -> str:
    return "".join(f"{one.container_id} {one.host_id} {one.size}\n" for one in mappings)


def _map_trees(pid: int, spec: Spec, bound: Iterable[rootfs.Tree]) -> Plan[None]:
    given = {mount.destination: (mount.uid_mappings, mount.gid_mappings) for mount in spec.mounts if mount.uid_mappings}
    trees = [tree for tree in bound if tree.destination in given or tree.options.idmap or tree.options.ridmap]
    if not trees:
        return
    container = (spec.linux.uid_mappings, spec.linux.gid_mappings)
    why = "the container's id mapping"
    for tree in trees:
        mappings = given.get(tree.destination, container)
        if mappings == container and spec.linux.namespace("user") is not None:
            namespace = yield Step(os.open, (f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC), why)
        elif mappings == ((), ()):
            raise Error(f"the mount {tree.destination} is to be id-mapped, and there is no user namespace to map by")
        else:
            from minicontainer.runtime import idmaps  # few mounts have ids of their own

            namespace = yield Step(idmaps.user_namespace, mappings, "a user namespace for the ids of one mount alone")
        flags = AT_EMPTY_PATH | (AT_RECURSIVE if tree.options.ridmap else 0)
        arguments = (tree.descriptor, "", flags, MOUNT_ATTR_IDMAP, 0, 0, namespace)
        yield Step(mount_setattr, arguments, f"files of {tree.destination} have the ids that are mapped to theirs")
        os.close(namespace)


def _raise_limits(pid: int, limits: Iterable[Rlimit]) -> Plan[None]:
    """Raise hard limits from outside, where need be: only the host's root may. The child sets the rest itself."""
    for limit in limits:
        number, (_, hard) = init.limit_of(limit)
        soft, known = resource.prlimit(pid, number)
        if known != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > known):
            yield Step(resource.prlimit, (pid, number, (soft, hard)), f"{limit.type} is above the caller's own")


@contextmanager
def _last_words(report: int, new: Mapping[str, str] = {}) -> Iterator[None]:
    """A step of the creator fails when the child is dead: then the child's own reason is the one to tell."""
    try:
        yield
    except StepFailed:
        os.set_blocking(report, False)
        said = b""
        with suppress(BlockingIOError):
            said = read_all(report)
        if reason := _reason(said, new):
            raise reason from None
        raise


def _reason(said: bytes, new: Mapping[str, str]) -> Error | None:
    """What a child died of, by its last words, or by the cgroups of a new container."""
    if not said and cgroups.oom_kills(new):
        return Error(
            "container init was OOM-killed (memory limit too low?); try: a higher linux.resources.memory.limit"
        )
    return told(said) if said else None


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signals.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


# A further process


def execute(root: str, container_id: str, process: Process, **given: Any) -> int:
    """Run a further process in a container: its pid. The process is a child of the caller. `given`: as for `create`.

    Raises:
        CommandNotFound, CommandNotExecutable: the program cannot be run.
    """
    caller = Caller(**given)
    current = states.state(root, container_id)
    if current.status in (Status.STOPPED, Status.CREATING):
        raise states.WrongStatus(f"cannot exec in a {current.status} container: {container_id}")
    if current.status is Status.PAUSED and not caller.ignore_paused:
        raise states.WrongStatus(f"cannot exec in a paused container (use --ignore-paused to override): {container_id}")
    current = current._replace(cgroups=cgroups.below(current.cgroups, caller.subgroups))
    checks.check_process(process, caller.console_socket is not None)
    checks.warn(process, caller.warn)
    _, spec = states.read_spec(f"{root}/{container_id}/{states.CONFIG}")
    with ExitStack() as undo, Descriptors() as opened:
        pipes, link = _pipes(opened)
        child = _child(opened, root, process, spec, pipes, caller)
        if process.exec_cpu_affinity is not None:
            from minicontainer.runtime import scheduling  # few processes ask for it

            child = child._replace(affinity=scheduling.affinity(process.exec_cpu_affinity))
        joins = [_join_process(opened, current)]
        pid = run(clone(0, joins, _version2_descriptor(opened, current)), caller.explain)
        if pid == 0:
            _let_go_of(link)
            init.another(child)
        undo.callback(_end, pid)
        if caller.born is not None:
            caller.born(pid)
        opened.close(pipes.orders)
        opened.close(pipes.report)
        with _last_words(link.report):
            run(_admit(pid, process, current, link), caller.explain)
        if said := _hear(link, pid, spec, current, caller):
            raise told(said)
        if caller.pid_file:
            files.write(caller.pid_file, str(pid).encode(), mode=0o644)
        undo.pop_all()
    return pid


def _join_process(opened: Descriptors, current: State) -> init.Join:
    """All namespaces of the container's first process that are not the caller's own."""
    descriptor = opened.add(os.pidfd_open(current.pid))
    others = 0
    for flag, name in checks.NAMESPACES.values():
        with suppress(FileNotFoundError):  # a kernel without time namespaces, say
            if os.stat(f"/proc/{current.pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
                others |= flag
    return init.Join(descriptor, others)
