"""Overlays: a chain of directories mounted as one for one container, in its own user ids.

Stands between `snapshots`, which knows the directories, and the supervisor, which mounts them. Ruled by the kernel's
overlayfs.rst, and mount_setattr(2) for idmapped mounts. Each call to the kernel is a step, so that it can be shown.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from minicontainer.errors import Error
from minicontainer.linux import procfs, syscalls
from minicontainer.linux.flags import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    CLONE_NEWUSER,
    MNT_DETACH,
    MOUNT_ATTR_IDMAP,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    MS_RDONLY,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)
from minicontainer.oci.runtime import IdMapping
from minicontainer.plan import Step
from minicontainer.values import Any

Mapping = Sequence[IdMapping]
Do = Callable[[Step], Any]  # who executes a step, and may show it before

OPTIONS_LIMIT = 4000  # mount(2) takes a page of options
# The upper must say by itself what it changes, for `layers.diff`; and nothing in a layer may redirect: overlayfs.rst
READ_OPTIONS = "redirect_dir=nofollow,metacopy=off"
OPTIONS = "index=off,metacopy=off,redirect_dir=nofollow"


def mount(
    lowers: Sequence[str],
    upper: str,
    work: str,
    target: str,
    mapping: tuple[Mapping, Mapping] | None,
    do: Do = Step.execute,
) -> None:
    """Mount the overlay of `lowers` (the topmost first) and `upper` on `target`.

    With a `mapping` (of users, of groups) the files appear owned by the mapped ids, and what is written through the
    overlay is on disk under the ids of the container. `upper` and `work` are in one directory, which is in one mount,
    and the caller is in a mount namespace of its own: the idmapped mounts cover the real directories for a moment.
    """
    _inherit_root(lowers[0], upper)
    if mapping is None:
        _mount_overlay(lowers, upper, work, target, do)
        return
    with ExitStack() as undo:
        destination = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, destination)
        user_namespace = do(Step(userns_fd, mapping, "a user namespace that says which ids the files shall have"))
        undo.callback(os.close, user_namespace)
        covered = (os.path.commonpath(lowers), os.path.dirname(upper))
        for directory, tree in _idmapped(covered, user_namespace, undo, do):
            do(Step(syscalls.move_mount, (tree, "", AT_FDCWD, directory, MOVE_MOUNT_F_EMPTY_PATH),
                    "for a moment the directory shows its files under the container's ids"))  # fmt: skip
            undo.callback(syscalls.umount, directory, MNT_DETACH)
        with _as_root_of(*mapping):
            _mount_overlay(lowers, upper, work, target, do)
        if not any(os.path.commonpath((directory, target)) == directory for directory in covered):
            return
        overlay = do(Step(syscalls.open_tree, (AT_FDCWD, target, OPEN_TREE_CLOEXEC), "take the overlay in hand"))
        undo.callback(os.close, overlay)
        both = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
        why = "the target, too, is below the mount that is about to go: move the overlay to the real one"
        do(Step(syscalls.move_mount, (overlay, "", destination, "", both), why))


def _inherit_root(lower: str, upper: str) -> None:
    """Before the first mount: an overlay's root looks as that of its upper does, which is to look as the image's."""
    if not os.listdir(upper):
        found = os.stat(lower)
        os.chown(upper, found.st_uid, found.st_gid)
        os.chmod(upper, found.st_mode & 0o7777)
        os.utime(upper, ns=(found.st_atime_ns, found.st_mtime_ns))


def _mount_overlay(lowers: Sequence[str], upper: str, work: str, target: str, do: Do) -> None:
    how = _here(OPTIONS)
    data = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work},{how}"
    with ExitStack() as undo:
        if len(data) > OPTIONS_LIMIT or any(mark in path for path in (*lowers, upper, work) for mark in ":,\\"):
            short = [_short(path, undo) for path in (*lowers, upper, work)]
            data = f"lowerdir={':'.join(short[:-2])},upperdir={short[-2]},workdir={short[-1]},{how}"
        why = "the image's layers, read-only, below a directory of the container's own; only this process sees it"
        try:
            do(Step(syscalls.mount, ("overlay", target, "overlay", 0, data), why))
        except PermissionError:
            if not procfs.in_user_namespace():
                raise
            raise Error(
                f"this kernel mounts no overlay in a user namespace at {target}; try: Linux 5.11, or sudo"
            ) from None


def _here(options: str) -> str:
    """The options, with the marks that this process may read: those of user.* where it is not the host's root."""
    return f"{options},userxattr" if procfs.in_user_namespace() else options


def mount_read_only(lowers: Sequence[str]) -> str:
    """The directories as one, the topmost first, for this process to read: where it is.

    The caller is in a mount namespace of its own; the mount covers the parent of the topmost one.
    """
    if len(lowers) == 1:
        return lowers[0]
    target = os.path.dirname(lowers[0])
    with ExitStack() as undo:
        data = f"lowerdir={':'.join(_short(lower, undo) for lower in lowers)},{_here(READ_OPTIONS)}"
        syscalls.mount("overlay", target, "overlay", MS_RDONLY, data)
    return target


def _short(path: str, undo: ExitStack) -> str:
    """A name of a few bytes, without marks that overlay's options know, as long as the descriptor is open."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    undo.callback(os.close, descriptor)
    return f"/proc/self/fd/{descriptor}"


def _idmapped(directories: Sequence[str], user_namespace: int, undo: ExitStack, do: Do) -> list[tuple[str, int]]:
    """Clones of the mounts below the directories, with the ids of the user namespace; not attached anywhere yet."""
    trees = []
    for directory in dict.fromkeys(directories):
        tree = do(Step(syscalls.open_tree, (AT_FDCWD, directory, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC),
                       "a copy of its mount, which nobody sees yet"))  # fmt: skip
        undo.callback(os.close, tree)
        do(Step(syscalls.mount_setattr, (tree, "", AT_EMPTY_PATH, MOUNT_ATTR_IDMAP, 0, 0, user_namespace),
                "its files have the container's ids, and the disk keeps those it has"))  # fmt: skip
        trees.append((directory, tree))
    return trees


@contextmanager
def _as_root_of(uid_mappings: Mapping, gid_mappings: Mapping) -> Iterator[None]:
    """Overlay keeps the credentials of who mounts it for its own work in `work`, where only mapped ids may write.

    So the mounter is the container's root by id, with the capabilities of ours, which seteuid(2) takes away.
    """
    effective, permitted, inheritable = syscalls.capget()
    os.setegid(_host_root(gid_mappings))
    try:
        os.seteuid(_host_root(uid_mappings))
        try:
            syscalls.capset(effective, permitted, inheritable)
            yield
        finally:
            os.seteuid(0)  # gives the effective capabilities back: capabilities(7)
    finally:
        os.setegid(0)


def _host_root(mappings: Mapping) -> int:
    for mapping in mappings:
        if mapping.container_id == 0:
            return mapping.host_id
    raise Error("the id mapping has no root: a container's id 0 must be mapped")


def userns_fd(uid_mappings: Mapping, gid_mappings: Mapping) -> int:
    """A user namespace with these mappings, made by a child that is gone when this returns."""
    reader, writer = os.pipe()
    try:
        child = syscalls.clone3(CLONE_NEWUSER)
        if child == 0:
            os.close(writer)
            os.read(reader, 1)  # until the parent has closed its end, or is dead
            os._exit(0)
        try:
            _write_mapping(child, "uid_map", uid_mappings)
            _write_mapping(child, "gid_map", gid_mappings)
            return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(writer)
            writer = -1
            os.waitpid(child, 0)
    finally:
        os.close(reader)
        if writer != -1:
            os.close(writer)


def _write_mapping(pid: int, name: str, mappings: Mapping) -> None:
    lines = "".join(f"{mapping.container_id} {mapping.host_id} {mapping.size}\n" for mapping in mappings)
    with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
        file.write(lines)  # in one write, as user_namespaces(7) wants
