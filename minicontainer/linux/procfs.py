"""/proc as values: mountinfo, a process's status and start time, its cgroups.

The ground of everything; knows nothing of containers. Ruled by proc(5), cgroups(7).
"""

from minicontainer.linux.flags import OVERLAY_OPAQUE
from minicontainer.values import NamedTuple


class MountInfo(NamedTuple):
    """One line of /proc/PID/mountinfo: proc(5)."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    target: str
    options: str
    propagation: tuple[str, ...]
    fstype: str
    source: str
    super_options: str


class Membership(NamedTuple):
    """One line of /proc/PID/cgroup: cgroups(7). The hierarchy 0 without controllers is version 2."""

    hierarchy: int
    controllers: tuple[str, ...]
    path: str


def mountinfo(pid: int | str = "self") -> list[MountInfo]:
    """The mounts of `pid`, in the kernel's order: a later one on the same target covers the earlier."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [_mount_line(line) for line in file]


def _mount_line(line: str) -> MountInfo:
    first, _, last = line.rstrip("\n").partition(" - ")
    mount_id, parent_id, device, root, target, options, *propagation = first.split(" ")
    fstype, source, super_options = last.split(" ", 2)
    return MountInfo(
        mount_id=int(mount_id),
        parent_id=int(parent_id),
        device=device,
        root=unescape(root),
        target=unescape(target),
        options=options,
        propagation=tuple(propagation),
        fstype=fstype,
        source=unescape(source),
        super_options=super_options,
    )


def unescape(text: str) -> str:
    r"""Space, tab, newline and backslash are written as \ooo: proc(5)."""
    if "\\" not in text:
        return text
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, character)
    return text


def status(pid: int | str = "self") -> dict[str, str]:
    """/proc/PID/status as it stands: field to text."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="surrogateescape") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def in_user_namespace() -> bool:
    """Whether this process has some ids only: it is not in the host's own user namespace. user_namespaces(7)"""
    with open("/proc/self/uid_map", "rb") as file:
        return int(file.read().split()[2]) < 1 << 31


def outer_uid(uid: int) -> int:
    """The user that one of this process's user namespace is outside: user_namespaces(7)."""
    with open("/proc/self/uid_map", "rb") as file:
        for line in file:
            inside, outside, size = (int(word) for word in line.split())
            if inside <= uid < inside + size:
                return outside + uid - inside
    return uid


def overlay_opaque() -> str:
    """The xattr of a directory that hides what is below it; without the host's root by the mount option userxattr."""
    return "user.overlay.opaque" if in_user_namespace() else OVERLAY_OPAQUE


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if it is gone or a zombie.

    A pid with its start time names a process for ever, a pid alone does not.
    """
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def parent(pid: int) -> int | None:
    """The parent's pid, or None if the process is gone."""
    fields = _stat(pid)
    return None if fields is None else int(fields[1])


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third, the state: the second, the name, may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().decode("ascii", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def cgroups(pid: int | str = "self") -> list[Membership]:
    """The cgroups that `pid` is in, one per hierarchy."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return [_membership(line.rstrip("\n")) for line in file]


def _membership(line: str) -> Membership:
    hierarchy, controllers, path = line.split(":", 2)
    return Membership(hierarchy=int(hierarchy), controllers=tuple(filter(None, controllers.split(","))), path=path)


def cap_last_cap() -> int:
    """The highest capability this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return int(file.read())
