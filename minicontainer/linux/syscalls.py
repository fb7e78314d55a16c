"""System calls: one function per call, under its man-page name, with its prototype declared once.

The ground of everything; knows nothing of containers. Ruled by section 2 of the man pages. The calls keep the GIL
(PyDLL), so that `clone3` gives the child an interpreter it can go on with; the caller of clone3 has one thread.
"""

import ctypes
import errno as errors
import fcntl
import os
import struct
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_uint, c_uint32, c_uint64, c_ulong, c_void_p

from minicontainer.linux.flags import (
    BPF_CGROUP_DEVICE,
    BPF_F_ALLOW_MULTI,
    BPF_F_REPLACE,
    BPF_PROG_ATTACH,
    BPF_PROG_DETACH,
    BPF_PROG_GET_FD_BY_ID,
    BPF_PROG_LOAD,
    BPF_PROG_QUERY,
    BPF_PROG_TYPE_CGROUP_DEVICE,
    CLONE_INTO_CGROUP,
    CLONE_PARENT,
    KEYCTL_JOIN_SESSION_KEYRING,
    LINUX_CAPABILITY_VERSION_3,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_SET_MODE_FILTER,
)
from minicontainer.values import Any, NoReturn

Path = str | bytes
_libc = ctypes.PyDLL(None, use_errno=True)

# Numbers below 424 differ between machines, later ones do not: asm/unistd.h
_OLDER = {
    "x86_64": {
        "pivot_root": 155,
        "set_mempolicy": 238,
        "keyctl": 250,
        "ioprio_set": 251,
        "sched_setattr": 314,
        "seccomp": 317,
        "bpf": 321,
    },
    "aarch64": {
        "ioprio_set": 30,
        "pivot_root": 41,
        "keyctl": 219,
        "set_mempolicy": 237,
        "sched_setattr": 274,
        "seccomp": 277,
        "bpf": 280,
    },
}
_NUMBERS = {
    **_OLDER.get(os.uname().machine, {}),
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "clone3": 435,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}


def _prototype(name: str, *arguments: Any) -> Any:
    function = getattr(_libc, name)
    function.argtypes = arguments
    function.restype = c_int
    return function


def _number(name: str, *arguments: Any) -> Any:
    """A call that the C library has no function for, by its number."""
    number = _NUMBERS.get(name)
    call = _libc["syscall"]  # a function object of its own each time, so that each has its own prototype
    call.argtypes = (c_long, *arguments)
    call.restype = c_long

    def numbered(*values: Any) -> int:
        if number is None:
            raise OSError(errors.ENOSYS, os.strerror(errors.ENOSYS), name)
        return int(call(number, *values))

    return numbered


def _bytes(path: Path | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def _raise(name: Path | None) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), name)


def _check(result: int, name: Path | None = None) -> int:
    if result < 0:
        _raise(name)
    return result


# Mounts

_mount = _prototype("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)


def mount(source: Path | None, target: Path, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)"""
    _check(_mount(_bytes(source), _bytes(target), _bytes(fstype), flags, _bytes(data)), target)


_umount2 = _prototype("umount2", c_char_p, c_int)


def umount(target: Path, flags: int = 0) -> None:
    """umount2(2)"""
    _check(_umount2(_bytes(target), flags), target)


_pivot_root = _number("pivot_root", c_char_p, c_char_p)


def pivot_root(new_root: Path, put_old: Path) -> None:
    """pivot_root(2)"""
    _check(_pivot_root(_bytes(new_root), _bytes(put_old)), new_root)


_open_tree = _number("open_tree", c_int, c_char_p, c_uint)


def open_tree(dirfd: int, path: Path, flags: int) -> int:
    """open_tree(2): a file descriptor for a mount, or with OPEN_TREE_CLONE for a detached copy of it."""
    return _check(_open_tree(dirfd, _bytes(path), flags), path)


_move_mount = _number("move_mount", c_int, c_char_p, c_int, c_char_p, c_uint)


def move_mount(from_dirfd: int, from_path: Path, to_dirfd: int, to_path: Path, flags: int) -> None:
    """move_mount(2)"""
    _check(_move_mount(from_dirfd, _bytes(from_path), to_dirfd, _bytes(to_path), flags), to_path or from_path)


class _MountAttr(ctypes.Structure):
    _fields_ = [("attr_set", c_uint64), ("attr_clr", c_uint64), ("propagation", c_uint64), ("userns_fd", c_uint64)]


_mount_setattr = _number("mount_setattr", c_int, c_char_p, c_uint, POINTER(_MountAttr), c_ulong)


def mount_setattr(
    dirfd: int, path: Path, flags: int, attr_set: int = 0, attr_clr: int = 0, propagation: int = 0, userns_fd: int = -1
) -> None:
    """mount_setattr(2)"""
    attributes = _MountAttr(attr_set, attr_clr, propagation, max(userns_fd, 0))
    _check(_mount_setattr(dirfd, _bytes(path), flags, byref(attributes), ctypes.sizeof(attributes)), path)


_fsopen = _number("fsopen", c_char_p, c_uint)


def fsopen(fstype: str, flags: int) -> int:
    """fsopen(2)"""
    return _check(_fsopen(_bytes(fstype), flags), fstype)


_fsconfig = _number("fsconfig", c_int, c_uint, c_char_p, c_char_p, c_int)


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None, aux: int = 0) -> None:
    """fsconfig(2)"""
    _check(_fsconfig(fd, command, _bytes(key), _bytes(value), aux), key)


_fsmount = _number("fsmount", c_int, c_uint, c_uint)


def fsmount(fd: int, flags: int, attributes: int) -> int:
    """fsmount(2)"""
    return _check(_fsmount(fd, flags, attributes))


# Processes and namespaces

_unshare = _prototype("unshare", c_int)


def unshare(flags: int) -> None:
    """unshare(2)"""
    _check(_unshare(flags))


_setns = _prototype("setns", c_int, c_int)


def setns(fd: int, nstype: int) -> None:
    """setns(2)"""
    _check(_setns(fd, nstype))


_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h


def namespace_kind(fd: int) -> int:
    """ioctl_ns(2), NS_GET_NSTYPE: the CLONE_NEW flag of a namespace, 0 for a file that is none."""
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        return 0


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


_clone3 = _number("clone3", POINTER(_CloneArgs), c_ulong)


def clone3(flags: int, cgroup_fd: int = -1) -> int:
    """clone3(2) as fork(2) does it: the child's pid in the parent, 0 in the child. No atfork handler runs.

    With `cgroup_fd` the child starts in that cgroup (version 2).
    """
    if cgroup_fd >= 0:
        flags |= CLONE_INTO_CGROUP
    exit_signal = 0 if flags & CLONE_PARENT else 17  # SIGCHLD; a sibling inherits its signal: clone(2), CLONE_PARENT
    arguments = _CloneArgs(flags=flags, exit_signal=exit_signal, cgroup=max(cgroup_fd, 0))
    return _check(_clone3(byref(arguments), ctypes.sizeof(arguments)), "clone3")


_sethostname = _prototype("sethostname", c_char_p, c_ulong)
_setdomainname = _prototype("setdomainname", c_char_p, c_ulong)


def sethostname(name: str) -> None:
    """sethostname(2)"""
    _check(_sethostname(os.fsencode(name), len(os.fsencode(name))), name)


def setdomainname(name: str) -> None:
    """setdomainname(2)"""
    _check(_setdomainname(os.fsencode(name), len(os.fsencode(name))), name)


_close_range = _prototype("close_range", c_uint, c_uint, c_int)


def close_range(first: int, last: int, flags: int = 0) -> None:
    """close_range(2)"""
    _check(_close_range(first, last, flags))


_socket = _prototype("socket", c_int, c_int, c_int)
_AF_INET, _SOCK_DGRAM, _SOCK_CLOEXEC = 2, 2, 0o2000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def interface_up(name: str) -> None:
    """netdevice(7), SIOCSIFFLAGS: set an interface up. By ctypes: `import socket` costs 5 ms at each start."""
    descriptor = _check(_socket(_AF_INET, _SOCK_DGRAM | _SOCK_CLOEXEC, 0), "socket")
    try:
        request = struct.pack("16sH22x", name.encode(), 0)
        _, flags = struct.unpack("16sH22x", fcntl.ioctl(descriptor, _SIOCGIFFLAGS, request))
        fcntl.ioctl(descriptor, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | _IFF_UP))
    finally:
        os.close(descriptor)


_pidfd_getfd = _number("pidfd_getfd", c_int, c_int, c_uint)


def pidfd_getfd(pidfd: int, targetfd: int) -> int:
    """pidfd_getfd(2): a copy of a descriptor of another process."""
    return _check(_pidfd_getfd(pidfd, targetfd, 0), "pidfd_getfd")


# Files

_openat2 = _number("openat2", c_int, c_char_p, c_void_p, c_ulong)


def openat2(dirfd: int, path: Path, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2)"""
    how = (c_uint64 * 3)(flags, mode, resolve)
    return _check(_openat2(dirfd, _bytes(path), ctypes.cast(how, c_void_p), ctypes.sizeof(how)), path)


_syncfs = _prototype("syncfs", c_int)


def syncfs(fd: int) -> None:
    """syncfs(2)"""
    _check(_syncfs(fd))


# Privileges

_prctl = _prototype("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2): what python-prctl has no function for; `processes` calls it for the rest."""
    return _check(_prctl(option, arg2, arg3, arg4, arg5), f"prctl option {option}")


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", c_uint32), ("pid", c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [("effective", c_uint32), ("permitted", c_uint32), ("inheritable", c_uint32)]


_capset = _prototype("capset", POINTER(_CapHeader), POINTER(_CapData))
_capget = _prototype("capget", POINTER(_CapHeader), POINTER(_CapData))
_LOW = 0xFFFFFFFF


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2): each set is a mask, bit N is capability N."""
    low = _CapData(effective & _LOW, permitted & _LOW, inheritable & _LOW)
    high = _CapData(effective >> 32, permitted >> 32, inheritable >> 32)
    _check(_capset(byref(_CapHeader(LINUX_CAPABILITY_VERSION_3, 0)), (_CapData * 2)(low, high)), "capset")


def capget(pid: int = 0) -> tuple[int, int, int]:
    """capget(2): effective, permitted, inheritable."""
    data = (_CapData * 2)()
    _check(_capget(byref(_CapHeader(LINUX_CAPABILITY_VERSION_3, pid)), data), "capget")
    low, high = data
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", c_char_p)]


_seccomp = _number("seccomp", c_uint, c_uint, POINTER(_SockFprog))


def seccomp_load(program: bytes, flags: int = 0) -> int | None:
    """seccomp(2), SECCOMP_SET_MODE_FILTER; with SECCOMP_FILTER_FLAG_NEW_LISTENER the listener's descriptor."""
    filters = _SockFprog(len(program) // 8, program)
    result = _check(_seccomp(SECCOMP_SET_MODE_FILTER, flags, byref(filters)), "seccomp filter")
    return result if flags & SECCOMP_FILTER_FLAG_NEW_LISTENER else None


_keyctl = _number("keyctl", c_int, c_char_p)


def keyctl_join_session_keyring(name: str) -> None:
    """keyctl(2), KEYCTL_JOIN_SESSION_KEYRING"""
    _check(_keyctl(KEYCTL_JOIN_SESSION_KEYRING, os.fsencode(name)), name)


# Files that change

_inotify_init = _prototype("inotify_init1", c_int)
_inotify_add_watch = _prototype("inotify_add_watch", c_int, c_char_p, c_uint)


def inotify_init() -> int:
    """inotify_init1(2): a descriptor that tells of the changes of files."""
    return _check(_inotify_init(os.O_CLOEXEC), "inotify_init1")


def inotify_add_watch(descriptor: int, path: str, mask: int) -> int:
    """inotify_add_watch(2)"""
    return _check(_inotify_add_watch(descriptor, os.fsencode(path), mask), path)


# Scheduling

_sched_setattr = _number("sched_setattr", c_int, c_void_p, c_uint)
_ioprio_set = _number("ioprio_set", c_int, c_int, c_int)
_personality = _prototype("personality", c_ulong)
_set_mempolicy = _number("set_mempolicy", c_int, c_void_p, c_ulong)
_IOPRIO_WHO_PROCESS = 1


def sched_setattr(
    policy: int, flags: int = 0, nice: int = 0, priority: int = 0, runtime: int = 0, deadline: int = 0, period: int = 0
) -> None:
    """sched_setattr(2) of the calling process: struct sched_attr"""
    attributes = struct.pack("=IIQiIQQQ", 48, policy, flags, nice, priority, runtime, deadline, period)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    _check(_sched_setattr(0, ctypes.cast(buffer, c_void_p), 0), "sched_setattr")


def ioprio_set(pid: int, ioprio: int) -> None:
    """ioprio_set(2) of one process"""
    _check(_ioprio_set(_IOPRIO_WHO_PROCESS, pid, ioprio), "ioprio_set")


def set_mempolicy(mode: int, nodes: int) -> None:
    """set_mempolicy(2); `nodes` has a bit for each node, and 0 is none"""
    words = max(1, -(-nodes.bit_length() // 64))
    mask = (c_uint64 * words)(*(nodes >> 64 * place & (1 << 64) - 1 for place in range(words)))
    # The kernel takes one bit off the number that it is told: get_nodes in its mm/mempolicy.c
    _check(_set_mempolicy(mode, ctypes.cast(mask, c_void_p) if nodes else None, 64 * words + 1), "set_mempolicy")


def personality(persona: int) -> None:
    """personality(2)"""
    _check(_personality(persona), "personality")


# Device rules on cgroup version 2

_bpf = _number("bpf", c_int, c_void_p, c_uint)


def bpf_load_device_program(program: bytes) -> int:
    """bpf(2), BPF_PROG_LOAD of a program of type BPF_PROG_TYPE_CGROUP_DEVICE."""
    instructions, licence = (
        ctypes.create_string_buffer(program, len(program)),
        ctypes.create_string_buffer(b"Apache-2.0"),
    )
    attributes = (c_uint64 * 16)()
    attributes[0] = BPF_PROG_TYPE_CGROUP_DEVICE | (len(program) // 8) << 32  # prog_type, insn_cnt
    attributes[1] = ctypes.addressof(instructions)
    attributes[2] = ctypes.addressof(licence)
    return _check(_bpf(BPF_PROG_LOAD, ctypes.cast(attributes, c_void_p), ctypes.sizeof(attributes)), "device program")


def bpf_attach_device_program(cgroup_fd: int, program_fd: int, replaced_fd: int = -1) -> None:
    """bpf(2), BPF_PROG_ATTACH to a cgroup; with `replaced_fd` in place of that program, at once."""
    flags = BPF_F_ALLOW_MULTI | (BPF_F_REPLACE if replaced_fd >= 0 else 0)
    _bpf_words(BPF_PROG_ATTACH, cgroup_fd, program_fd, BPF_CGROUP_DEVICE, flags, max(replaced_fd, 0))


def bpf_detach_device_program(cgroup_fd: int, program_fd: int) -> None:
    """bpf(2), BPF_PROG_DETACH"""
    _bpf_words(BPF_PROG_DETACH, cgroup_fd, program_fd, BPF_CGROUP_DEVICE)


def bpf_device_programs(cgroup_fd: int) -> list[int]:
    """bpf(2), BPF_PROG_QUERY and BPF_PROG_GET_FD_BY_ID: descriptors of the device programs attached to a cgroup."""
    found = (c_uint32 * 64)()
    address = ctypes.addressof(found)
    # target_fd, attach_type, query_flags, attach_flags, prog_ids (an address), prog_cnt
    answer = _bpf_words(BPF_PROG_QUERY, cgroup_fd, BPF_CGROUP_DEVICE, 0, 0, address & _LOW, address >> 32, len(found))
    return [_bpf_descriptor(identity) for identity in found[: answer[6]]]


def _bpf_descriptor(identity: int) -> int:
    attributes = (c_uint32 * 32)(identity)
    arguments = (ctypes.cast(attributes, c_void_p), ctypes.sizeof(attributes))
    return _check(_bpf(BPF_PROG_GET_FD_BY_ID, *arguments), "device program")


def _bpf_words(command: int, *words: int) -> Any:
    attributes = (c_uint32 * 32)(*words)
    _check(_bpf(command, ctypes.cast(attributes, c_void_p), ctypes.sizeof(attributes)), "device program")
    return attributes
