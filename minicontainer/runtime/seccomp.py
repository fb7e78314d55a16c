"""Seccomp: a profile as tables, compiled to BPF once by libseccomp, and kept by its digest.

Stands between the spec's `linux.seccomp` and seccomp(2). Ruled by runtime-spec config-linux.md (Seccomp), seccomp(2),
seccomp_rule_add(3). Loading a compiled profile costs one read and one call; libseccomp is imported only to compile.
"""

import errno
import os
import struct
from contextlib import suppress

from minicontainer import files
from minicontainer.errors import Error
from minicontainer.linux.flags import (
    SECCOMP_FILTER_FLAG_LOG,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    SECCOMP_FILTER_FLAG_TSYNC,
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
)
from minicontainer.oci.runtime import Seccomp, SeccompArgument, SeccompRule
from minicontainer.values import Any

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": SECCOMP_FILTER_FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}  # fmt: skip
ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}  # fmt: skip
COMPARE = {"NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"}
_INSTRUCTION = 8  # bytes: struct sock_filter
_SOME_VERSION = "1"  # of what compile_profile makes: part of the digest

# What a program in a container needs; everything else gets EPERM. From what docker's and podman's profiles allow
# without a capability, less io_uring, namespaces and mounts, keyrings, the clock, modules, bpf, perf and userfaultfd.
ALLOWED = tuple(
    """
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
    fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait
    futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
    getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname
    getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl
    ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64
    madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2
    mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap
    name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc
    pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6
    pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir
    rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
    semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area
    set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid
    setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4
    sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat
    sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat
    utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev arch_prctl modify_ldt chroot ptrace
    process_vm_readv process_vm_writev
    """.split()  # noqa: SIM905  # a list of 330 quoted lines reads worse
)
# clone without any namespace: CLONE_NEW* but CLONE_NEWTIME, which shares its bits with the exit signal.
_NAMESPACES = 0x7E020000
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_VSOCK = 40
NOTIFY = "SCMP_ACT_NOTIFY"
ACTIONS = (
    NOTIFY,
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
)
_ACT_NOTIFY = 0x7FC00000  # seccomp.h, which pyseccomp may not name
_UNKNOWN = -1  # __NR_SCMP_ERROR of seccomp.h
_X32_BIT = 0x40000000  # __X32_SYSCALL_BIT of asm/unistd.h
_RET_ERRNO = 0x00050000  # SECCOMP_RET_ERRNO of linux/seccomp.h
# Classic BPF, linux/filter.h: load a word, return, and the jumps
_LOAD, _RETURN, _JUMP_EQ, _JUMP_GT, _JUMP_GE = 0x20, 0x06, 0x15, 0x25, 0x35


def default_profile() -> Seccomp:
    """What `minicontainer run` gives a container."""
    allow = "SCMP_ACT_ALLOW"

    def when(name: str, op: str, value: int, value_two: int = 0) -> SeccompRule:
        argument = SeccompArgument(argument=0, value=value, op=f"SCMP_CMP_{op}", value_two=value_two)
        return SeccompRule(names=(name,), action=allow, args=(argument,))

    return Seccomp(
        default_action="SCMP_ACT_ERRNO",
        default_errno_ret=errno.EPERM,
        architectures=ARCHITECTURES.get(os.uname().machine, ()),
        syscalls=(
            SeccompRule(names=ALLOWED, action=allow),
            *(when("personality", "EQ", value) for value in _PERSONALITIES),
            when("socket", "LT", _AF_VSOCK),
            when("socket", "GT", _AF_VSOCK),
            when("clone", "MASKED_EQ", _NAMESPACES, 0),
            # Its arguments cannot be looked at: the C library falls back to clone on ENOSYS.
            SeccompRule(names=("clone3",), action="SCMP_ACT_ERRNO", errno_ret=errno.ENOSYS),
        ),
    )


def program(profile: Seccomp, directory: str) -> bytes:
    """The profile as BPF: from `directory` when it is there, whole, else compiled and put there."""
    # Only a container with a profile needs a digest: 1 ms. `_sha256` of CPython alone would do, and is not public.
    import hashlib

    digest = hashlib.sha256(repr((_SOME_VERSION, os.uname().machine, profile)).encode()).hexdigest()
    path = f"{directory}/{digest}"
    with suppress(FileNotFoundError), open(path, "rb") as file:
        kept = file.read()
        if kept and len(kept) % _INSTRUCTION == 0:
            return kept
    compiled = compile_profile(profile)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    files.write(path, compiled, durable=True)  # a power cut would leave it empty, and no container could be started
    return compiled


def notifies(profile: Seccomp) -> bool:
    """Whether an agent is to answer for the kernel.

    Raises:
        Error: there is no way to it, or it would have to let the runtime tell of it first.
    """
    names = {name for rule in profile.syscalls if rule.action == NOTIFY for name in rule.names}
    if profile.default_action == NOTIFY or "write" in names:
        raise Error(f"linux.seccomp: {NOTIFY} cannot be for the default action nor for write, by which it is set up")
    if not names:
        return False
    if not profile.listener_path:
        raise Error(f"linux.seccomp: {NOTIFY} needs listenerPath, the socket of an agent")
    return True


def check(profile: Seccomp) -> None:
    """Refuse what config-linux.md does not allow in a profile."""
    if profile.listener_metadata and not profile.listener_path:
        raise Error("linux.seccomp.listenerMetadata needs listenerPath")
    given = [("linux.seccomp.defaultErrnoRet", profile.default_action, profile.default_errno_ret)]
    for place, rule in enumerate(profile.syscalls):
        given.append((f"linux.seccomp.syscalls[{place}].errnoRet", rule.action, rule.errno_ret))
        if not rule.names:
            raise Error(f"linux.seccomp.syscalls[{place}].names is empty")
    for field, action, number in given:
        if number is not None and action not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
            raise Error(f"{field}: the action {action} returns no errno")


def load_flags(profile: Seccomp) -> int:
    """The flags of seccomp(2) that the profile names."""
    unknown = set(profile.flags) - set(FLAGS)
    if unknown:
        raise Error(f"linux.seccomp.flags: {', '.join(sorted(unknown))} is not supported by this runtime")
    flags = sum(FLAGS[name] for name in set(profile.flags))
    if not notifies(profile):
        return flags & ~SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV  # it is of a listener, and refused without one
    # One thread: nothing to synchronise, and the kernel refuses both at once.
    return flags & ~SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_NEW_LISTENER


def compile_profile(profile: Seccomp) -> bytes:
    """The profile as BPF, by libseccomp. A call that this libseccomp does not know gets the default action."""
    import pyseccomp  # 47 ms, and needed only for a profile never seen before

    filters = pyseccomp.SyscallFilter(_action(pyseccomp, profile.default_action, profile.default_errno_ret))
    for name in profile.architectures:
        architecture = getattr(pyseccomp.Arch, name.removeprefix("SCMP_ARCH_"), None)
        if architecture is None:
            raise Error(f"linux.seccomp.architectures: {name} is not known to libseccomp here")
        if not filters.exist_arch(architecture):
            filters.add_arch(architecture)
    default = (profile.default_action, profile.default_errno_ret)
    for rule in profile.syscalls:
        if (rule.action, rule.errno_ret) == default:
            continue  # it says what is so without it, and libseccomp refuses it
        action = _action(pyseccomp, rule.action, rule.errno_ret)
        for name in rule.names:
            _add(pyseccomp, filters, action, name, rule)
    compiled = _export(filters)
    if profile.default_action in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG"):
        return compiled
    return unknown_calls(pyseccomp, profile) + compiled


def unknown_calls(pyseccomp: Any, profile: Seccomp) -> bytes:
    """A prologue: a call newer than all that the profile names gets ENOSYS, so that the C library falls back."""
    names = {name for rule in profile.syscalls for name in rule.names}
    prologue = b""
    for architecture in profile.architectures or ("SCMP_ARCH_NATIVE",):
        token = getattr(pyseccomp.Arch, architecture.removeprefix("SCMP_ARCH_")) or pyseccomp.system_arch()
        newest = max((pyseccomp.resolve_syscall(token, name) for name in names), default=_UNKNOWN)
        if newest < 0 or token == pyseccomp.Arch.X32:
            continue  # x32 has the token of x86_64 for the kernel, and its numbers begin at _X32_BIT
        prologue += b"".join(
            (
                _bpf(_LOAD, 0, 0, 4),  # seccomp_data.arch
                _bpf(_JUMP_EQ, 0, 4, token),
                _bpf(_LOAD, 0, 0, 0),  # seccomp_data.nr
                _bpf(_JUMP_GE, 2, 0, _X32_BIT),
                _bpf(_JUMP_GT, 0, 1, newest),
                _bpf(_RETURN, 0, 0, _RET_ERRNO | errno.ENOSYS),
            )
        )
    return prologue


def _bpf(code: int, when: int, otherwise: int, value: int) -> bytes:
    """struct sock_filter"""
    return struct.pack("<HBBI", code, when, otherwise, value)


def _add(pyseccomp: Any, filters: Any, action: int, name: str, rule: SeccompRule) -> None:
    if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) == _UNKNOWN:
        return  # newer than this libseccomp
    places = [argument.argument for argument in rule.args]
    # libseccomp ands the conditions of one rule, and takes one for each argument: alternatives are rules of their own.
    groups = [rule.args] if len(set(places)) == len(places) else [(argument,) for argument in rule.args]
    for group in groups:
        filters.add_rule(action, name, *(_argument(pyseccomp, argument) for argument in group))


def _argument(pyseccomp: Any, argument: SeccompArgument) -> Any:
    op = argument.op.removeprefix("SCMP_CMP_")
    if op not in COMPARE:
        raise Error(f"linux.seccomp: the operator {argument.op} is not known; try: SCMP_CMP_EQ")
    values = (argument.value, argument.value_two) if op == "MASKED_EQ" else (argument.value,)
    return pyseccomp.Arg(argument.argument, getattr(pyseccomp, op), *values)


def _action(pyseccomp: Any, name: str, errno_ret: int | None) -> int:
    number = errno.EPERM if errno_ret is None else errno_ret
    known = {
        "SCMP_ACT_ALLOW": pyseccomp.ALLOW,
        "SCMP_ACT_ERRNO": pyseccomp.ERRNO(number),
        "SCMP_ACT_KILL": pyseccomp.KILL,
        "SCMP_ACT_KILL_THREAD": pyseccomp.KILL,
        "SCMP_ACT_KILL_PROCESS": pyseccomp.KILL_PROCESS,
        "SCMP_ACT_LOG": pyseccomp.LOG,
        "SCMP_ACT_TRACE": pyseccomp.TRACE(number),
        "SCMP_ACT_TRAP": pyseccomp.TRAP,
        NOTIFY: _ACT_NOTIFY,
    }
    if name not in known:
        raise Error(f"linux.seccomp: the action {name} is not supported by this runtime")
    return int(known[name])


def _export(filters: Any) -> bytes:
    # seccomp_export_bpf(3) writes to a file descriptor.
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with open(descriptor, "w+b") as file:
        filters.export_bpf(file)
        file.seek(0)
        return file.read()
