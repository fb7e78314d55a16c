"""Init: the child, from clone to execve, in order.

Stands between `rootfs` and `creation`. Ruled by runtime-spec runtime.md (Lifecycle), namespaces(7), capabilities(7),
credentials(7). The process is a copy of its creator: nothing is imported here, since the host's files are out of reach
after the first half, and nothing is caught: a child that fails reports through a pipe and dies.
"""

import fcntl
import os
import resource
import signal
import stat
import struct
from collections.abc import Callable, Iterable

from minicontainer.errors import Error
from minicontainer.last_words import read_all, tell
from minicontainer.linux.flags import (
    AT_FDCWD,
    CAPABILITIES,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_PARENT,
    CLOSE_RANGE_CLOEXEC,
    MOVE_MOUNT_F_EMPTY_PATH,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    RLIMITS,
    TIOCGPTN,
    TIOCSCTTY,
    TIOCSPTLCK,
    TIOCSWINSZ,
)
from minicontainer.linux.processes import (
    SECBIT_KEEP_CAPS,
    cap_ambient_clear_all,
    cap_ambient_raise,
    capbset_drop,
    set_dumpable,
    set_keepcaps,
    set_name,
    set_no_new_privs,
    set_pdeathsig,
    set_securebits,
)
from minicontainer.linux.syscalls import (
    capset,
    clone3,
    close_range,
    interface_up,
    keyctl_join_session_keyring,
    move_mount,
    open_tree,
    seccomp_load,
    setdomainname,
    sethostname,
    setns,
    unshare,
)
from minicontainer.oci.runtime import Capabilities, Process, Rlimit, Spec
from minicontainer.plan import Explain, Plan, Step, run
from minicontainer.runtime import rootfs
from minicontainer.runtime.program import enter_directory, environment_of, execute, find_program
from minicontainer.values import NamedTuple, NoReturn

READY, HOOKS, LISTENER = b"ready\n", b"hooks\n", b"listener "  # what the child reports
MAPPED, JOINED, HOOKED, HANDED = b"m", b"j", b"h", b"n"  # what it is ordered
# Signals that nobody can handle, and two of the C library's own: signal(7), nptl(7).
_NOT_OURS = {9, 19, 32, 33}


class Join(NamedTuple):
    """A namespace to enter, or several of one process by its pidfd: setns(2)."""

    descriptor: int
    flags: int


class Pipes(NamedTuple):
    """What joins the child to its creator; closed by execve at the latest."""

    orders: int  # from the creator: MAPPED when the ids are mapped, JOINED when the child is in its cgroup
    report: int  # to the creator: READY, or an exit code and the error; nothing when a further process has begun
    start: int = -1  # the fifo that `start` writes to; -1 for exec, which does not wait
    errors: int = -1  # where an error of execve goes, for `start` to read


class Filter(NamedTuple):
    """A compiled seccomp profile."""

    program: bytes
    flags: int = 0
    listener: bool = False  # an agent wants to answer for the kernel


class Child(NamedTuple):
    """All that the child needs to know; nothing is read from the host after the clone."""

    process: Process
    pipes: Pipes
    mapped: bool  # it lives in a user namespace
    dumpable: int = 0  # 1 until its ids are mapped: so long who is not the host's root must reach its /proc
    stdio: tuple[int, int, int] | None = None
    console: int = -1  # a socket that takes the terminal
    preserve_fds: int = 0
    listen_fds: int = 0  # the first of them are sockets of systemd: sd_listen_fds(3)
    parent_death_signal: int = 0
    keyring: str = ""
    filter: Filter | None = None
    last_capability: int = len(CAPABILITIES) - 1
    asked: tuple[Callable[[], Plan[None]], ...] = ()  # scheduling, labels: what few ask for
    affinity: tuple[Step, ...] = ()  # of `exec`: before it is in the cgroup, and then
    explain: Explain | None = None


class House(NamedTuple):
    """What the first process of a container builds, and a later one only enters."""

    spec: Spec
    root: rootfs.Tree
    bound: tuple[rootfs.Tree, ...]
    cgroups: rootfs.CgroupView
    no_pivot: bool = False
    hooks: "Hosted | None" = None


class Hosted(NamedTuple):
    """The hooks that this process runs itself, and where the others find its rootfs."""

    path: str
    create_container: Callable[[], Plan[None]]
    start_container: Callable[[], Plan[None]]


def first(child: Child, house: House) -> NoReturn:
    """The first process of a container: build the house, take off every privilege, wait for `start`, execve."""
    _end_in_exec(child, house)


def another(child: Child) -> NoReturn:
    """A further process in a container: the creator has joined its namespaces."""
    _end_in_exec(child, None)


def _end_in_exec(child: Child, house: House | None) -> NoReturn:
    report = child.pipes.report
    try:
        run(arrive(child), child.explain)
        if house is not None:
            run(build(child, house), child.explain)
        program, environment = run(strip(child), child.explain)
        if child.pipes.start >= 0:
            os.write(report, READY)
            os.close(report)
            report = child.pipes.errors
        run(leave(child, program, environment, house and house.hooks), child.explain)
    except BaseException as error:  # noqa: BLE001  # a child that fails dies, whatever it was: STYLE, rule 9
        tell(error, report)
    finally:
        os._exit(1)


# Enter: into namespaces that exist


def clone_joined(joins: Iterable[Join], new: int, into: int, clocks: str | None = None) -> int:
    """clone3 after setns: a helper enters the namespaces and makes the child as its sibling, by CLONE_PARENT.

    With `clocks`, the text for timens_offsets, also in a new time namespace: its offsets can only be set before the
    first process is in it, time_namespaces(7).
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    helper = clone3(0, into)
    if helper == 0:
        try:
            child = _enter_and_clone(joins, new, clocks)
        except OSError as error:
            os.write(write, f"!{error}".encode())
            os._exit(1)
        if child == 0:
            os.close(read)
            os.close(write)
            return 0
        os.write(write, str(child).encode())
        os._exit(0)
    os.close(write)
    said = read_all(read).decode("utf-8", "replace")
    os.close(read)
    os.waitpid(helper, 0)
    if not said.isdecimal():
        raise Error(f"cannot enter the namespaces: {said[1:] or 'the helper died'}")
    return int(said)


def _enter_and_clone(joins: Iterable[Join], new: int, clocks: str | None) -> int:
    if clocks is not None:
        unshare(CLONE_NEWTIME)
        with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
            file.write(clocks)
    set_dumpable(0)
    for join in joins:
        setns(join.descriptor, join.flags)
        if join.flags & CLONE_NEWUSER:
            os.setgroups(())
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
    return clone3(new | CLONE_PARENT)


# Arrive: out of the caller's surroundings


def arrive(child: Child) -> Plan[None]:
    yield Step(set_dumpable, (child.dumpable,), "no process of the container may look into this one: prctl(2)")
    yield Step(set_pdeathsig, (signal.SIGKILL,), "a container half made dies with its maker")
    yield Step(set_name, ("runtime init",), "what ps(1) shows until the program has begun")
    yield Step(reset_signals, (), "the interpreter ignores SIGPIPE and SIGXFSZ; the program expects the defaults")
    yield Step(os.setsid, (), "no controlling terminal of the caller's, and no job control")
    if child.mapped:
        yield Step(wait_for, (child.pipes.orders, MAPPED), "until the ids of the user namespace are mapped")
        yield from _identity(0, 0, ())
    if child.stdio is not None:
        for target, source in enumerate(child.stdio):
            yield Step(os.dup2, (source, target), "standard input, output and error are the container's")


def reset_signals() -> None:
    for number in range(1, signal.NSIG):  # not valid_signals(): an Enum of each takes a millisecond
        if number not in _NOT_OURS and signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def wait_for(descriptor: int, order: bytes) -> None:
    """Read one order of the creator; its death ends the child."""
    if os.read(descriptor, 1) != order:
        raise Error("the creator of this container is gone")


# Build: namespaces, mounts, devices


def build(child: Child, house: House) -> Plan[None]:
    spec = house.spec
    kinds = {namespace.type for namespace in spec.linux.namespaces if not namespace.path}
    if "network" in kinds:
        yield Step(interface_up, ("lo",), "a new network namespace has a loopback interface that is down")
    if child.mapped and "ipc" in kinds:
        yield Step(
            unshare, (CLONE_NEWIPC,), "after the ids are mapped, so that its files belong to the container's root"
        )
    if spec.hostname:
        yield Step(sethostname, (spec.hostname,), "the uts namespace's own host name")
    if spec.domainname:
        yield Step(setdomainname, (spec.domainname,), "the uts namespace's own domain name")
    os.umask(0)  # modes of devices and mount points are meant as they are written
    private = "cgroup" in kinds
    early = private or house.hooks is not None
    joined = _joined(child, private) if early else _later()
    trees = yield from rootfs.new_trees(spec, house.bound, house.cgroups, joined)
    if house.hooks is None:
        yield from rootfs.enter(house.root, house.no_pivot)
        yield from rootfs.furnish(spec, trees)
    else:
        hooks = _hooks(child, house.hooks)
        yield from rootfs.enter_with_hooks(house.root, house.hooks.path, house.no_pivot, spec, trees, hooks)
    if child.process.terminal:
        yield Step(open_terminal, (child.console, child.process, True), "a terminal of the container's own")
    for name, value in spec.linux.sysctl.items():
        yield Step(write_sysctl, (name, value), "a kernel setting of the container's namespaces")
    yield from rootfs.close_off(spec, trees)
    yield Step(reopen_null, (), "the host's /dev/null on standard streams becomes the container's own")
    if not early:
        yield _wait_to_join(child)


def _hooks(child: Child, hooks: Hosted) -> Plan[None]:
    yield Step(os.write, (child.pipes.report, HOOKS), "the namespaces and mounts are there: the host's hooks may run")
    yield Step(wait_for, (child.pipes.orders, HOOKED), "until they have")
    yield from hooks.create_container()


def _wait_to_join(child: Child) -> Step:
    return Step(wait_for, (child.pipes.orders, JOINED), "until this process is in its cgroup")


def _joined(child: Child, private: bool) -> Plan[None]:
    yield _wait_to_join(child)
    if not private:
        return
    why = "a cgroup namespace whose root is the container's cgroup: so it comes after joining"
    yield Step(unshare, (CLONE_NEWCGROUP,), why)


def _later() -> Plan[None]:
    """Nothing depends on the cgroup yet: on version 1 joining takes the creator as long as building takes the child."""
    yield from ()


def write_sysctl(name: str, value: str) -> None:
    path = f"/proc/sys/{name if '/' in name else name.replace('.', '/')}"
    with open(path, "w", encoding="utf-8") as file:
        file.write(value)


def reopen_null() -> None:
    for descriptor in (0, 1, 2):
        try:
            known = os.fstat(descriptor)
        except OSError:
            continue  # closed by the caller
        if stat.S_ISCHR(known.st_mode) and known.st_rdev == os.makedev(1, 3) and os.path.exists("/dev/null"):
            opened = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            os.dup2(opened, descriptor)
            os.close(opened)


def open_terminal(console: int, process: Process, first_process: bool) -> None:
    """Make a terminal in the container's devpts, send its master to the caller and take its slave: pty(7)."""
    import socket  # here the module is loaded already: `creation` has made the socket

    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    name = f"/dev/pts/{struct.unpack('i', fcntl.ioctl(master, TIOCGPTN, bytes(4)))[0]}"
    if process.console_size is not None:
        size = struct.pack("HHHH", process.console_size.height, process.console_size.width, 0, 0)
        fcntl.ioctl(master, TIOCSWINSZ, size)
    slave = os.open(name, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    os.fchown(slave, process.user.uid, -1)
    os.fchmod(slave, 0o620)
    if first_process:
        rootfs.make_target("/dev/console", directory=False)
        tree = open_tree(AT_FDCWD, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
        move_mount(tree, "", AT_FDCWD, "/dev/console", MOVE_MOUNT_F_EMPTY_PATH)
        os.close(tree)
    with socket.socket(fileno=console) as connection:
        socket.send_fds(connection, [name.encode()], [master])
    os.close(master)
    for descriptor in (0, 1, 2):
        os.dup2(slave, descriptor)
    fcntl.ioctl(0, TIOCSCTTY, 0)


# Strip: credentials, capabilities, limits


def strip(child: Child) -> "Plan[tuple[str, dict[str, str]]]":
    process = child.process
    if child.pipes.start < 0:
        yield from child.affinity[:1]
        yield _wait_to_join(child)
        yield from child.affinity[1:]
        if process.terminal:
            yield Step(open_terminal, (child.console, process, False), "a terminal of the container's own")
    for steps in child.asked:
        yield from steps()
    if child.keyring:
        yield Step(join_keyring, (child.keyring,), "no keys of the caller's session")
    if child.filter is not None and not process.no_new_privileges:
        yield from _limits(process)
        yield from _load(child, "only the system calls of the profile; now, since it needs CAP_SYS_ADMIN")
    first_process = child.pipes.start >= 0
    why = "where the program starts, if root may go there"
    entered = yield Step(enter_directory, (process.cwd, first_process, False), why)
    yield from _privileges(process, child.last_capability)
    if not entered:
        yield Step(enter_directory, (process.cwd, first_process, True), "where only its own user may go")
    if os.getcwd()[:1] != "/":
        raise Error(f"the working directory {process.cwd} is outside the container")
    os.umask(0o022 if process.user.umask is None else process.user.umask)
    environment = environment_of(process)
    why = "the program, as execvp(3) looks for it: now, since its user may see less than root"
    program = yield Step(find_program, (process.args, environment), why)
    if process.no_new_privileges:
        yield Step(set_no_new_privs, (), "no set-user-ID program gives anything back")
    yield Step(set_pdeathsig, (child.parent_death_signal,), "with whom this process dies, from here on")
    if child.filter is not None and child.filter.listener and process.no_new_privileges:
        yield from _load(child, "only the system calls of the profile; while the creator is there for its agent")
    if child.listen_fds:
        environment |= {"LISTEN_FDS": str(child.listen_fds), "LISTEN_PID": str(os.getpid())}
    return program, environment


def _load(child: Child, why: str) -> Plan[None]:
    assert child.filter is not None
    listener = yield Step(seccomp_load, (child.filter.program, child.filter.flags), why)
    if child.filter.listener:
        yield Step(os.write, (child.pipes.report, LISTENER + f"{listener}".encode()), "the creator takes the listener")
        yield Step(wait_for, (child.pipes.orders, HANDED), "until the agent has it")
        os.close(listener)


def limit_of(limit: Rlimit) -> tuple[int, tuple[int, int]]:
    """A limit as setrlimit(2) takes it; JSON writes "unlimited" as the highest number of 64 bits."""
    soft, hard = (resource.RLIM_INFINITY if value >= 1 << 63 else value for value in (limit.soft, limit.hard))
    return RLIMITS.index(limit.type), (soft, hard)


def join_keyring(name: str) -> None:
    try:
        keyctl_join_session_keyring(name)
    except OSError as error:
        # A kernel without keyrings, a full quota or a host's own filter: there is nothing to leak then.
        if error.errno not in (1, 38, 122):
            raise


def _limits(process: Process) -> Plan[None]:
    """As late as can be: they hold for us too, who may have more open than the program is to have."""
    for limit in process.rlimits:
        yield Step(resource.setrlimit, limit_of(limit), f"{limit.type} of config.json")


def _privileges(process: Process, last_capability: int) -> Plan[None]:
    sets = process.capabilities or Capabilities()
    keep = mask(sets.bounding)
    for number in range(last_capability + 1):
        if not keep >> number & 1:
            why = "no program that it runs can ever have this; dropped while still root, as nobody else may drop it"
            yield Step(capbset_drop, (number,), why)
    why = "nothing of the caller's, and changing the user must not drop what is to be kept"
    yield Step(set_securebits, (SECBIT_KEEP_CAPS,), why)
    yield from _identity(process.user.uid, process.user.gid, process.user.additional_gids)
    yield Step(set_keepcaps, (0,), "from here on it may")
    sets_of_three = (mask(sets.effective), mask(sets.permitted), mask(sets.inheritable))
    yield Step(capset, sets_of_three, "what it can do now, can take up again, and can hand on to a program")
    yield Step(cap_ambient_clear_all, (), "no ambient capability but those of config.json")
    for number in numbers(mask(sets.ambient) & mask(sets.permitted) & mask(sets.inheritable)):
        yield Step(cap_ambient_raise, (number,), f"{name_of(number)} outlives execve")


def _identity(uid: int, gid: int, groups: Iterable[int]) -> Plan[None]:
    yield Step(os.setgroups, (list(groups),), "its supplementary groups and no other")
    yield Step(os.setresgid, (gid, gid, gid), "its group, first: without root it could not be set")
    yield Step(os.setresuid, (uid, uid, uid), "its user")
    yield Step(set_dumpable, (0,), "a new identity may have set it: prctl(2)")


def mask(names: Iterable[str]) -> int:
    """Capabilities as bits; a name that this kernel may know and we do not is left out, as the other runtimes do."""
    return sum(1 << CAPABILITIES.index(name) for name in set(names) if name in CAPABILITIES)


def numbers(bits: int) -> list[int]:
    return [number for number in range(bits.bit_length()) if bits >> number & 1]


def name_of(number: int) -> str:
    return CAPABILITIES[number] if number < len(CAPABILITIES) else f"capability {number}"


# Leave: into the program


def leave(child: Child, program: str, environment: dict[str, str], hooks: Hosted | None = None) -> Plan[None]:
    if child.pipes.start >= 0:
        yield Step(os.read, (child.pipes.start, 1), "the container is created: here it waits for the byte of `start`")
        if hooks is not None:
            yield from hooks.start_container()
    closed = (3 + child.listen_fds + child.preserve_fds, 0xFFFFFFFF, CLOSE_RANGE_CLOEXEC)
    yield Step(close_range, closed, "no descriptor of ours reaches the program")
    arguments = (program, child.process.args, environment)
    if child.filter is None or child.process.no_new_privileges:
        yield from _limits(child.process)
    if child.filter is not None and child.process.no_new_privileges and not child.filter.listener:
        yield from _load(child, "only the system calls of the profile, as late as can be")
    yield Step(execute, arguments, "this process becomes the container's program")
