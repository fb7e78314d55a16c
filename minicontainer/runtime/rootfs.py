"""The root file system: mounts, devices, masked and read-only paths, pivot_root, as a plan.

Stands between the spec and `init`. Ruled by runtime-spec config.md (Mounts) and config-linux.md (Default Filesystems,
Devices, Masked Paths), mount_setattr(2), pivot_root(2). Every mount is made detached, as a file descriptor: bind
sources by the creator, who may reach them; new file systems by the child, while it still sees the host. Then the child
makes the rootfs its root, and only then puts the mounts in place: whatever symbolic links an image holds, the kernel
resolves them inside the new root.
"""

import os
import stat
from collections.abc import Collection, Container, Iterable, Mapping
from contextlib import suppress

from minicontainer.errors import Error
from minicontainer.linux import procfs
from minicontainer.linux.flags import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    RESOLVE_NO_MAGICLINKS,
)
from minicontainer.linux.syscalls import (
    fsconfig,
    fsmount,
    fsopen,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    openat2,
    pivot_root,
    umount,
)
from minicontainer.oci.runtime import Device, Linux, Mount, Spec
from minicontainer.plan import Plan, Step
from minicontainer.runtime.mount_options import PROPAGATION, MountOptions, context_of, parse_options
from minicontainer.values import NamedTuple

_PASSES = {  # what becomes of later mounts: mount_namespaces(7)
    MS_PRIVATE: "mounts pass neither to the host nor from it",
    MS_SHARED: "mounts pass to the host and from it, as config.json asks",
    MS_SLAVE: "what the host mounts appears here, and what is mounted here never appears there",
    MS_UNBINDABLE: "mounts pass neither way, and nobody may copy them",
}  # fmt: skip
_SHOWS = {  # why a container has one of its own
    "proc": "the processes of this pid namespace and no others",
    "sysfs": "the devices, with this network namespace's alone",
    "devpts": "terminals of the container's own",
    "mqueue": "the message queues of this ipc namespace",
    "tmpfs": "a directory in memory, which dies with the container",
}  # fmt: skip
_DEVICE_NUMBERS = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
DEVICES = tuple(
    Device(type="c", path=f"/dev/{name}", major=major, minor=minor, file_mode=0o666)
    for name, major, minor in _DEVICE_NUMBERS
)
_DEVICE_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_DEV_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/ptmx": "pts/ptmx",
    "/dev/core": "/proc/kcore",
}  # fmt: skip
# What may cover a part of /proc: files that tools read, and that lxcfs and its like replace.
_PROC_MAY_COVER = {
    f"/proc/{name}"
    for name in ("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev")
}
_EMPTY_PATH = AT_EMPTY_PATH | AT_RECURSIVE


class Tree(NamedTuple):
    """A detached mount, and where it goes."""

    descriptor: int
    destination: str
    options: MountOptions
    directory: bool = True
    fstype: str = ""


class CgroupView(NamedTuple):
    """What a mount of type cgroup shows: controllers and their directories on the host, and whether it is version 2."""

    directories: Mapping[str, str]
    version2: bool
    private: bool  # the container has a cgroup namespace of its own


# The creator's part: what only it may reach


def open_trees(spec: Spec, rootfs: str, bundle: str) -> Plan[tuple[Tree, tuple[Tree, ...]]]:
    """The rootfs and the source of each bind mount as detached trees: the creator can reach them, the child may not."""
    linux = spec.linux
    default = PROPAGATION.get(linux.rootfs_propagation, MS_SLAVE | MS_REC) & ~MS_REC
    clone = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE
    descriptor = yield Step(open_tree, (AT_FDCWD, rootfs, clone), "copy the mounts of the rootfs for this container")
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise Error(f"the rootfs {rootfs} is not a directory; try: root.path of config.json")
    # Not shared yet: pivot_root(2) refuses that. `close_off` gives it the propagation that is asked for.
    yield from _propagation(descriptor, (MS_SLAVE,), "the root")
    trees = []
    for entry in spec.mounts:
        options = parse_options(entry.options)
        if options.bind or options.rbind or entry.type == "bind":
            trees.append((yield from _open_bind(entry, options, default, bundle)))
    if (linux.namespace("user") or procfs.in_user_namespace()) and _sets_up_dev(spec):
        for device in devices(linux):
            why = "a user namespace may not make device nodes, so the host's are borrowed one by one"
            tree = yield Step(open_tree, (AT_FDCWD, device.path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), why)
            trees.append(Tree(descriptor=tree, destination=device.path, options=MountOptions(), directory=False))
    return Tree(descriptor, "/", MountOptions()), tuple(trees)


def _open_bind(entry: Mount, options: MountOptions, default: int, bundle: str) -> Plan[Tree]:
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if options.rbind else 0)
    why = f"what {entry.destination} will show, taken in hand as a mount that has no name yet"
    descriptor = yield Step(open_tree, (AT_FDCWD, os.path.join(bundle, entry.source), flags), why)
    if not options.propagation or not any(flag & MS_REC for flag in options.propagation):
        yield from _propagation(descriptor, (default,), entry.destination)
    yield from set_attributes(descriptor, options, entry.destination)
    yield from _propagation(descriptor, options.propagation, entry.destination)
    found = os.fstat(descriptor)
    fstype = "proc" if os.path.samestat(found, os.stat("/proc")) else ""  # who may mount none is given the caller's
    return Tree(descriptor, entry.destination, options, stat.S_ISDIR(found.st_mode), fstype)


def set_attributes(descriptor: int, options: MountOptions, destination: str) -> Plan[None]:
    why = f"the options of config.json for {destination}"
    if options.recursive_set or options.recursive_clear:
        change = (options.recursive_set, options.recursive_clear)
        yield Step(mount_setattr, (descriptor, "", _EMPTY_PATH, *change), f"{why} and all below it")
    if options.set or options.clear:
        change = (options.set, options.clear)
        yield Step(mount_setattr, (descriptor, "", AT_EMPTY_PATH, *change), why)


def _propagation(descriptor: int, kinds: Iterable[int], destination: str) -> Plan[None]:
    for kind in kinds:
        recursive = AT_RECURSIVE if kind & MS_REC or kind == MS_SLAVE else 0
        arguments = (descriptor, "", AT_EMPTY_PATH | recursive, 0, 0, kind & ~MS_REC)
        yield Step(mount_setattr, arguments, f"below {destination}, {_PASSES[kind & ~MS_REC]}")


# The child's part, while it still sees the host


def new_trees(spec: Spec, bound: Iterable[Tree], cgroups: CgroupView, joined: Plan[None]) -> Plan[list[Tree]]:
    """Each mount of the spec as a detached tree, in the order in which they go into place.

    `joined` waits until this process is in its cgroup: as late as can be, since that takes the creator longest.
    """
    by_destination = iter(bound)
    trees: list[Tree] = []
    for entry in spec.mounts:
        options = parse_options(entry.options)
        if options.bind or options.rbind or entry.type == "bind":
            trees.append(next(by_destination))
        elif entry.type in ("cgroup", "cgroup2"):
            yield from joined
            trees += yield from _cgroup_trees(entry, options, cgroups, spec.linux.mount_label)
        else:
            trees.append((yield from _new_tree(entry, options, spec.linux.mount_label)))
    yield from joined
    return trees + list(by_destination)  # then the devices


def new_mount(fstype: str, source: str, data: tuple[str, ...], attributes: int) -> int:
    """A file system mounted nowhere: fsopen(2), fsconfig(2), fsmount(2)."""
    context = fsopen(fstype, FSOPEN_CLOEXEC)
    try:
        fsconfig(context, FSCONFIG_SET_STRING, "source", source or fstype)
        for option in data:
            key, equals, value = option.partition("=")
            fsconfig(context, FSCONFIG_SET_STRING if equals else FSCONFIG_SET_FLAG, key, value if equals else None)
        fsconfig(context, FSCONFIG_CMD_CREATE)
        return fsmount(context, FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def _new_tree(entry: Mount, options: MountOptions, label: str) -> Plan[Tree]:
    # What is read-only and empty must be writable until its own mount points are made in it.
    late = MOUNT_ATTR_RDONLY if entry.type == "tmpfs" else 0
    superblock = ("ro",) if options.set & MOUNT_ATTR_RDONLY and not late else ()
    if options.tmpcopyup:
        import shutil  # noqa: F401  # now or never: see copy_up
    data = (*options.data, *superblock, *context_of(label, entry.type))
    arguments = (entry.type, entry.source, data, options.set & ~late)
    descriptor = yield Step(new_mount, arguments, f"{entry.destination}: {_SHOWS.get(entry.type, entry.type)}")
    if label and entry.type == "mqueue":
        yield Step(label_root, (descriptor, label), "these files have a context each: here, the directory")
    yield from _propagation(descriptor, options.propagation, entry.destination)
    return Tree(descriptor=descriptor, destination=entry.destination, options=options, fstype=entry.type)


def label_root(tree: int, label: str) -> None:
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
    os.setxattr(directory, "security.selinux", label.encode())
    os.close(directory)


def _cgroup_trees(entry: Mount, options: MountOptions, cgroups: CgroupView, label: str) -> Plan[list[Tree]]:
    """Version 2: one mount. Version 1: a tmpfs with one mount for each controller, as on a host."""
    if cgroups.version2:
        tree = yield from _cgroup_tree("cgroup2", "", entry.destination, options, cgroups)
        return [tree]
    base = entry._replace(type="tmpfs", source="cgroup", options=(*entry.options, "mode=755"))
    trees = [(yield from _new_tree(base, parse_options(base.options), label))]
    for controller in cgroups.directories:
        if controller:  # the empty name is version 2 without controllers, beside version 1
            place = f"{entry.destination}/{controller.removeprefix('name=')}"
            trees.append((yield from _cgroup_tree("cgroup", controller, place, options, cgroups)))
    return trees


def _cgroup_tree(fstype: str, controller: str, place: str, options: MountOptions, cgroups: CgroupView) -> Plan[Tree]:
    if cgroups.private:
        data = (controller, *options.data) if controller else options.data
        arguments = (fstype, "cgroup", data, options.set)
        descriptor = yield Step(new_mount, arguments, "a view of cgroups whose root is the container's own")
    else:
        where = (AT_FDCWD, cgroups.directories[controller], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
        descriptor = yield Step(open_tree, where, "the container's own cgroup and no other")
        yield from set_attributes(descriptor, options, place)
    return Tree(descriptor=descriptor, destination=place, options=options, fstype=fstype)


def enter(root: Tree, no_pivot: bool) -> Plan[None]:
    """Make the rootfs the root of this process, and the host's root unreachable."""
    yield Step(mount, (None, "/", None, MS_REC | MS_SLAVE), "nothing that is mounted here shall appear on the host")
    yield Step(move_mount, (root.descriptor, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH), "the rootfs over the root")
    yield from _change_root(root, no_pivot)


def _change_root(root: Tree, no_pivot: bool) -> Plan[None]:
    yield Step(os.fchdir, (root.descriptor,), "stand in it: the path / still means the host's root")
    if no_pivot:
        yield Step(os.chroot, (".",), "the caller asks for no pivot_root: the host's root stays mounted below this one")
        yield Step(os.chdir, ("/",), "stand in the new root")
        return
    yield Step(pivot_root, (".", "."), "make it the root, with the old root stacked on it: pivot_root(2), NOTES")
    yield Step(umount, (".", MNT_DETACH), "let go of the old root: from here on the host's files cannot be named")
    yield Step(os.chdir, ("/",), "stand in the new root")


def enter_with_hooks(
    root: Tree, path: str, no_pivot: bool, spec: Spec, trees: Collection[Tree], hooks: Plan[None]
) -> Plan[None]:
    """`enter` and `furnish` for a container whose hooks want to see it whole, at its own path, before the host is gone.

    It is furnished from a chroot, so that an image's links lead nowhere else; no link of /proc is followed meanwhile.
    """
    yield Step(mount, (None, "/", None, MS_REC | MS_SLAVE), "nothing that is mounted here shall appear on the host")
    why = "hooks find the rootfs at its path on the host"
    yield Step(move_mount, (root.descriptor, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH), why)
    host = yield Step(os.open, ("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), "the way back, for the hooks")
    yield Step(os.fchdir, (root.descriptor,), "stand in the rootfs")
    yield Step(os.chroot, (".",), "for a while: what the mounts and devices are called is resolved inside it")
    yield from furnish(spec, trees)
    yield Step(os.fchdir, (host,), "back to the host's root")
    yield Step(os.chroot, (".",), "where the programs of hooks are")
    os.close(host)
    yield from hooks
    yield from _change_root(root, no_pivot)


# The child's part, in the new root


def furnish(spec: Spec, trees: Collection[Tree]) -> Plan[None]:
    """Put the mounts in place, make the devices and links, and close what must be closed."""
    for tree in trees:
        if tree.options.tmpcopyup:
            yield Step(copy_up, (tree.descriptor, tree.destination), "it starts as a copy of what it covers")
        arguments = (tree.descriptor, tree.destination, tree.directory, tree.fstype)
        why = "each mount to its place: a symbolic link of the image leads nowhere but inside this root"
        yield Step(attach, arguments, why)
    if _sets_up_dev(spec):
        yield from _dev(spec, {tree.destination for tree in trees})


def close_off(spec: Spec, trees: Iterable[Tree]) -> Plan[None]:
    """What is read-only, masked or hidden: the last changes to the mounts."""
    for tree in reversed(list(trees)):
        if tree.fstype == "tmpfs" and tree.options.set & MOUNT_ATTR_RDONLY:
            arguments = (AT_FDCWD, tree.destination, 0, MOUNT_ATTR_RDONLY)
            yield Step(mount_setattr, arguments, "its mount points are made: read-only from here on")
    if spec.root.readonly:
        yield Step(mount_setattr, (AT_FDCWD, "/", 0, MOUNT_ATTR_RDONLY), "the rootfs is read-only")
    for path in filter(os.path.exists, spec.linux.readonly_paths):
        yield Step(make_readonly, (path,), "it shows the whole host: to be read only")
    yield from _mask(spec.linux.masked_paths, spec.linux.mount_label)
    if propagation := PROPAGATION.get(spec.linux.rootfs_propagation, 0):
        yield Step(mount, (None, "/", None, propagation), "the propagation that config.json asks for")


def attach(descriptor: int, destination: str, directory: bool, fstype: str) -> None:
    """Move a detached mount to its destination, which is made if it is missing."""
    _refuse_proc(destination, fstype)
    make_target(destination, directory)
    target = _open_path(destination)
    try:
        if stat.S_ISDIR(os.fstat(target).st_mode) is not directory:
            wanted = "a file, and a directory" if directory else "a directory, and a file"
            raise Error(f"{destination} is {wanted} is to be mounted there")
        _cover(descriptor, target)
    finally:
        os.close(target)


def _cover(descriptor: int, target: int) -> None:
    move_mount(descriptor, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def _cover_path(descriptor: int, path: str) -> None:
    """Put a detached mount over what `path` leads to. A mount on a last link itself would leave bare what it names."""
    target = _open_path(path)
    try:
        _cover(descriptor, target)
    finally:
        os.close(target)
        os.close(descriptor)


def _open_path(path: str, flags: int = 0) -> int:
    """Where a path leads inside the root of this process: never by /proc/PID/root and its kin, which lead out of it."""
    return openat2(AT_FDCWD, path, os.O_PATH | os.O_CLOEXEC | flags, resolve=RESOLVE_NO_MAGICLINKS)


def _refuse_proc(destination: str, fstype: str) -> None:
    """/proc and /sys are where masks and security labels live: no image or volume may put something else there."""
    place = os.path.realpath(destination)
    if fstype in ("proc", "sysfs"):
        if place != os.path.normpath(destination):
            raise Error(f"{destination} is a symbolic link in this rootfs: {fstype} is not mounted through it")
    elif place == "/proc" or (place.startswith("/proc/") and place not in _PROC_MAY_COVER):
        raise Error(f"{destination} is inside /proc, which nothing may cover; try: another destination")


def make_target(path: str, directory: bool, depth: int = 40) -> None:
    """Make a mount point, also behind dangling links and missing parents."""
    try:
        os.close(_open_path(path))
        return
    except FileNotFoundError:
        parent, name = os.path.split(path.rstrip("/"))
    if depth == 0:
        raise Error(f"{path}: too many levels of symbolic links")
    make_target(parent or "/", True, depth - 1)
    within = _open_path(parent or "/", os.O_DIRECTORY)
    try:
        leads = _link(name, within)
        if leads is not None:
            make_target(os.path.join(parent or "/", leads), directory, depth - 1)
        elif directory:
            with suppress(FileExistsError):  # .. of what was missing
                os.mkdir(name, 0o755, dir_fd=within)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=within))
    finally:
        os.close(within)


def _link(name: str, within: int) -> str | None:
    try:
        return os.readlink(name, dir_fd=within)
    except OSError:  # nothing, or no link
        return None


def make_readonly(path: str) -> None:
    """A copy of what is mounted at `path`, read-only with all below it, over itself."""
    target = _open_path(path)
    try:
        tree = open_tree(target, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | _EMPTY_PATH)
        mount_setattr(tree, "", _EMPTY_PATH, MOUNT_ATTR_RDONLY)
        _cover(tree, target)
        os.close(tree)
    finally:
        os.close(target)


def _mask(paths: Iterable[str], label: str) -> Plan[None]:
    covered = ""
    for path in filter(os.path.exists, paths):
        if not os.path.isdir(path):
            yield Step(cover_by_null, (path,), "it tells about the host: reads give nothing")
        elif not covered:
            yield Step(cover_by_empty, (path, context_of(label, "tmpfs")), "it tells about the host: it looks empty")
            covered = path
        else:
            yield Step(cover_by_copy, (covered, path), "the same emptiness")


def cover_by_null(path: str) -> None:
    """Cover a file by /dev/null, after a look at what the image calls /dev/null."""
    tree = open_tree(AT_FDCWD, "/dev/null", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
    known = os.fstat(tree)
    if not stat.S_ISCHR(known.st_mode) or known.st_rdev != os.makedev(1, 3):
        raise Error(f"{path} cannot be masked: /dev/null of this rootfs is not the null device")
    _cover_path(tree, path)


def cover_by_empty(path: str, context: tuple[str, ...]) -> None:
    """Cover a directory by one that is empty and stays so."""
    _cover_path(new_mount("tmpfs", "tmpfs", ("ro", "nr_inodes=1", *context), MOUNT_ATTR_RDONLY), path)


def cover_by_copy(source: str, path: str) -> None:
    """Cover a directory by a copy of the mount at `source`: before Linux 6.15 only what is attached can be copied."""
    _cover_path(open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), path)


def devices(linux: Linux) -> tuple[Device, ...]:
    """The devices that every container has, and those of the spec."""
    asked = {device.path for device in linux.devices}
    return tuple(device for device in DEVICES if device.path not in asked) + linux.devices


def _sets_up_dev(spec: Spec) -> bool:
    """A /dev that is bound from the host is left as it is."""
    return not any(
        os.path.normpath(entry.destination) == "/dev" and {"bind", "rbind"} & {entry.type, *entry.options}
        for entry in spec.mounts
    )


def _dev(spec: Spec, there: Container[str]) -> Plan[None]:
    for device in devices(spec.linux):
        if device.path not in there:
            yield Step(make_device, (device,), "a device of the container's own")
    for link, target in _DEV_LINKS.items():
        if link != "/dev/core" or os.path.exists(target):  # as other runtimes: masked, and not in every kernel
            yield Step(make_link, (target, link), "programs expect these names")


def make_device(device: Device) -> None:
    parent, name = os.path.split(device.path)
    make_target(parent, True)
    mode = _DEVICE_KINDS[device.type] | (0o666 if device.file_mode is None else device.file_mode & 0o7777)
    within = _open_path(parent, os.O_DIRECTORY)
    try:
        os.mknod(name, mode, os.makedev(device.major, device.minor), dir_fd=within)
    except FileExistsError:  # another container of this rootfs has made it
        if os.lstat(name, dir_fd=within).st_rdev != os.makedev(device.major, device.minor):
            raise
    else:
        if device.uid or device.gid:
            os.chown(name, device.uid or 0, device.gid or 0, dir_fd=within, follow_symlinks=False)
    finally:
        os.close(within)


def make_link(target: str, path: str) -> None:
    parent, name = os.path.split(path)
    make_target(parent, True)
    within = _open_path(parent, os.O_DIRECTORY)
    try:
        if _link(name, within) is not None:
            return
        if path == "/dev/ptmx":  # a node from an image would open the host's instance
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=within)
        with suppress(FileExistsError):
            os.symlink(target, name, dir_fd=within)
    finally:
        os.close(within)


def copy_up(descriptor: int, destination: str) -> None:
    """Copy what is at `destination` into a tmpfs that will cover it."""
    import shutil  # costs 10 ms, and few containers ask for it; `_new_tree` has loaded it, as the host is gone here

    os.fchdir(descriptor)
    with suppress(FileNotFoundError):
        os.close(_open_path(destination))  # which follows no link out of the rootfs, or fails
    if os.path.isdir(destination):
        shutil.copytree(destination, ".", symlinks=True, dirs_exist_ok=True)
    os.chdir("/")
