"""Attacks from inside a container, by system calls, files and processes: each is tried, and each must fail.

Every wall is tried twice where it matters: with user ids of the container's own, and with the host's (`userns`),
where root inside is root outside and only the other walls stand.
"""

import errno
import os
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicontainer import bundle, engine
from minicontainer.containers import Home, Volume
from minicontainer.errors import Error
from minicontainer.linux import procfs
from minicontainer.linux.flags import CAPABILITIES
from minicontainer.oci.runtime import Process
from minicontainer.runtime import creation, operations
from tests import attacks, bundles, images
from tests.attacks import shell
from tests.kernel.test_engine import eventually, leftovers

pytestmark = pytest.mark.kernel("overlay")
BOTH = pytest.mark.parametrize("userns", ["", "host"])
SYSCALL = attacks.member("syscall", attacks.program("syscall")) if os.geteuid() == 0 else None
ELEVEN = sum(1 << CAPABILITIES.index(name) for name in bundle.CAPABILITIES)
REFUSED = {errno.EPERM, errno.ENOSYS, errno.EACCES}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with images.busybox_home(tmp_path / "data") as made:
        if SYSCALL:
            attacks.image(made, attacks.tar(SYSCALL))
        yield made
    assert [one for one in leftovers(made) if one.startswith(made.data)] == []  # links and tables are the host's here


def disk() -> tuple[int, int]:
    """A block device of this machine."""
    fields = Path("/proc/partitions").read_text().split()
    return int(fields[4]), int(fields[5])


# --- system calls ----------------------------------------------------------------------------------------------------

NEWUSER, NEWNS, NEWCGROUP, NEWPID, NEWTIME = 0x10000000, 0x00020000, 0x02000000, 0x20000000, 0x80
CALLS = {  # numbers of x86-64: asm/unistd_64.h
    "mount": "165 @none @/tmp @tmpfs 0 0",
    "mount: bind of the root": "165 @/ @/tmp 0 0x5000 0",
    "mount: remount for writing": "165 0 @/proc/sys 0 0x1020 0",
    "umount of /proc/sys": "166 @/proc/sys 2",
    "umount of a mask": "166 @/proc/keys 2",
    "pivot_root": "155 @/ @/",
    "fsopen": "430 @proc 0",
    "fsmount": "432 0 0 0",
    "fspick": "433 -100 @/proc 0",
    "open_tree": "428 -100 @/ 1",
    "move_mount": "429 -100 @/proc -100 @/tmp 0",
    "mount_setattr": "442 -100 @/proc/sys 0 & 32",
    "unshare: user": f"272 {NEWUSER}",
    "unshare: mount": f"272 {NEWNS}",
    "unshare: cgroup": f"272 {NEWCGROUP}",
    "unshare: pid": f"272 {NEWPID}",
    "unshare: time": f"272 {NEWTIME}",
    "clone: user": f"56 {NEWUSER | 17} 0 0 0 0",
    "clone: mount": f"56 {NEWNS | 17} 0 0 0 0",
    "clone3": "435 & 88",
    "setns": "308 0 0",
    "io_uring_setup": "425 8 &",
    "io_uring_enter": "426 0 0 0 0 0 0",
    "io_uring_register": "427 0 0 0 0",
    "AF_VSOCK": "41 40 1 0",
    "keyctl": "250 0 -3 1",
    "add_key": "248 @user @name & 4 -4",
    "request_key": "249 @user @name 0 0",
    "bpf": "321 5 & 128",
    "perf_event_open": "298 & 0 -1 -1 0",
    "userfaultfd": "323 0",
    "kexec_load": "246 0 0 0 0",
    "kexec_file_load": "320 0 0 0 @ 0",
    "init_module": "175 & 4096 @",
    "finit_module": "313 0 @ 0",
    "delete_module": "176 @ext4 0",
    "reboot": "169 0xfee1dead 672274793 0 0",
    "swapon": "167 @/tmp 0",
    "acct": "163 @/tmp/acct",
    "settimeofday": "164 & 0",
    "clock_settime": "227 0 &",
    "adjtimex: set the clock": "159 &",
    "open_by_handle_at": "304 -100 & 0",
    "fanotify_init": "300 0 0",
    "syslog": "103 3 & 100",
    "iopl": "172 3",
    "ioperm": "173 0 1 1",
    "quotactl": "179 0 0 0 0",
    "lookup_dcookie": "212 0 & 100",
    "nfsservctl": "180 0 0 0",
    "vhangup": "153",
    "personality: no randomisation": "135 0x40000",
    "personality: read implies execute": "135 0x400000",
    "move_pages of the host": "279 1 0 0 0 0 0",
    "kcmp": "312 1 1 0 0 0",
    "sethostname": "170 @owned 5",
    "setdomainname": "171 @owned 5",
    "chroot to the host by /proc": "161 @/proc/1/root/../../../../../nonesuch",
    "lsm_set_self_attr": "460 0 0 0 0",
    "io_uring_setup, x32": "x32 425 8 &",
    "unshare: user, x32": f"x32 272 {NEWUSER}",
    "mount, x32": "x32 165 @none @/tmp @tmpfs 0 0",
    "keyctl, x32": "x32 250 0 -3 1",
    "mount, int 0x80": "80 21 @none @/tmp @tmpfs 0 0",
    "umount2, int 0x80": "80 52 @/proc/sys 2",
    "unshare: user, int 0x80": f"80 310 {NEWUSER}",
    "clone: user, int 0x80": f"80 120 {NEWUSER | 17} 0 0 0 0",
    "setns, int 0x80": "80 346 0 0",
    "io_uring_setup, int 0x80": "80 425 8 &",
    "keyctl, int 0x80": "80 288 0 -3 1",
    "bpf, int 0x80": "80 357 5 & 128",
    "userfaultfd, int 0x80": "80 374 0",
    "AF_VSOCK, int 0x80": "80 359 40 1 0",
    "personality, int 0x80": "80 136 0x40000",
    "init_module, int 0x80": "80 128 & 4096 @",
    "kexec_load, int 0x80": "80 283 0 0 0 0",
}
HARMLESS = {"adjtimex: set the clock", "chroot to the host by /proc"}  # reads, or what is not there
if os.geteuid() == 0 and not attacks.has_entry_of_i386():  # there they are other calls, which the test has above
    HARMLESS |= {name for name in CALLS if name.endswith("int 0x80")}


def _answers(home: Home, calls: dict[str, str], **more: object) -> dict[str, str]:
    """What the kernel says to each call, made by one container: "made", the number of an error, or "died"."""
    return told(shell(home, script_of(calls), image="trap", **more), calls)


def script_of(calls: dict[str, str]) -> str:
    lines = []
    for words in calls.values():
        arguments = words if words.split()[0] in ("x32", "80") else f"64 {words}"
        quoted = " ".join(f"'{word}'" for word in arguments.split())
        lines.append(f"/syscall {quoted} 2>/dev/null || echo died")
    return "\n".join(lines)


def told(text: str, calls: dict[str, str]) -> dict[str, str]:
    said = [word for word in text.split() if word in ("made", "died") or word.isdecimal()]
    assert len(said) == len(calls)
    return dict(zip(calls, said, strict=True))


@BOTH
def test_no_dangerous_system_call_is_made_by_any_entry_of_the_kernel(home: Home, userns: str) -> None:
    wanted = {name: words for name, words in CALLS.items() if name not in HARMLESS}
    answers = _answers(home, wanted, userns=userns)
    made = {name: said for name, said in answers.items() if said != "died" and said not in map(str, REFUSED)}
    assert made == {}
    entered = [name for name in answers if "int 0x80" in name or "x32" in name]
    assert len(entered) > 10 or not attacks.has_entry_of_i386()


def test_it_is_the_filter_that_refuses_since_without_it_the_kernel_answers_otherwise(home: Home) -> None:
    """The control of the test above: calls whose arguments are nonsense, so that nothing comes of them."""
    names = ("fsmount", "io_uring_setup", "move_mount", "AF_VSOCK", "unshare: user")
    calls = {name: CALLS[name] for name in names}
    closed = _answers(home, calls)
    opened = _answers(home, calls, security_opt=("seccomp=unconfined",))
    assert {closed[name] for name in names} <= {str(errno.EPERM), str(errno.ENOSYS)}
    assert opened["unshare: user"] == "made"
    assert sum(opened[name] != closed[name] for name in names) >= 3


@BOTH
def test_without_the_filter_the_other_walls_still_stand(home: Home, userns: str) -> None:
    names = (
        "mount", "mount: bind of the root", "mount: remount for writing", "umount of /proc/sys", "umount of a mask",
        "unshare: mount", "setns", "fsopen", "bpf", "reboot", "swapon", "syslog", "init_module", "kexec_load", "acct",
        "open_by_handle_at", "iopl", "clock_settime", "sethostname", "settimeofday", "delete_module",
    )  # fmt: skip
    answers = _answers(home, {name: CALLS[name] for name in names}, userns=userns, security_opt=("seccomp=unconfined",))
    harmless = {str(errno.EINVAL), str(errno.ENOSYS), str(errno.EBADF), str(errno.EPERM), str(errno.EACCES)}
    assert {name: said for name, said in answers.items() if said not in harmless} == {}


@BOTH
def test_a_further_process_has_the_same_filter(home: Home, userns: str) -> None:
    one = attacks.start(home, "sleep 60", image="trap", userns=userns)
    for name in ("mount", "unshare: user", "io_uring_setup", "keyctl", "mount, int 0x80", "mount, x32"):
        words = CALLS[name].split()
        words = words if words[0] in ("x32", "80") else ["64", *words]
        _, said = attacks.further(home, one, "/syscall", *words)
        assert said.strip() in map(str, REFUSED), name
    engine.remove(home, one.id, force=True)


# --- privileges ------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("user", ["", "web", "4242:4242"])
def test_the_capabilities_are_the_eleven_and_a_user_has_none(home: Home, userns: str, user: str) -> None:
    one = attacks.start(home, "sleep 60", userns=userns, user=user)
    held = 0 if user else ELEVEN
    wanted = {"CapInh": 0, "CapPrm": held, "CapEff": held, "CapBnd": ELEVEN, "CapAmb": 0}
    status = procfs.status(one.pid)
    assert {name: int(status[name], 16) for name in wanted} == wanted
    _, said = attacks.further(home, one, "cat", "/proc/self/status")
    for name, bits in {**wanted, "NoNewPrivs": 1, "Seccomp": 2}.items():
        assert re.search(rf"{name}:\t(\w+)", said)[1] in (f"{bits:016x}", str(bits)), name  # type: ignore[index]
    engine.remove(home, one.id, force=True)


@BOTH
def test_a_set_user_id_program_and_one_with_capabilities_give_nothing(home: Home, userns: str) -> None:
    program = images.BUSYBOX.read_bytes()
    every = struct.pack("<5I", 0x02000001, 0x7F7F7F7F, 0, 0x7F, 0)  # struct vfs_cap_data of linux/capability.h
    capable = attacks.member("capable/busybox", program)
    capable[0].pax_headers = {"SCHILY.xattr.security.capability": every.decode("ascii")}
    attacks.image(home, attacks.tar(attacks.member("setuid/busybox", program, mode=0o6755), capable), name="setuid")
    script = "stat -c %a /setuid/busybox; /setuid/busybox cat /proc/self/status; /capable/busybox cat /proc/self/status"
    said = shell(home, script, image="setuid", user="web", userns=userns)
    assert said.startswith("6755\n")
    assert set(re.findall(r"Cap(?:Eff|Prm):\t(\w+)", said)) == {"0" * 16}
    assert set(re.findall(r"Uid:\t(.*)", said)) == {"1000\t1000\t1000\t1000"}
    assert set(re.findall(r"NoNewPrivs:\t(.*)", said)) == {"1"}


@pytest.mark.parametrize(
    "user", ["4294967296", "2147483648", "4294967295", "65536", "-1", "9" * 5000, "0:4294967296", "0:2147483648"]
)
def test_a_number_that_overflows_is_no_user(home: Home, user: str) -> None:
    """CVE-2024-40635: a number of more than 31 bits became root."""
    with pytest.raises(Error) as raised:
        attacks.run(home, "id", user=user)
    assert "\n" not in str(raised.value)
    one = attacks.start(home, "sleep 60")
    with pytest.raises(Error):
        attacks.further(home, one, "id", user=user)
    engine.remove(home, one.id, force=True)


def test_the_image_s_own_passwd_gives_no_id_outside_the_range(home: Home) -> None:
    lines = b"big:x:4294967296:0::/:\nnegative:x:-1:0::/:\nword:x:root:0::/:\nlong:x:" + b"9" * 5000 + b":0::/:\n"
    attacks.image(home, attacks.tar(attacks.member("etc/passwd", lines, mode=0o644)), name="users")
    for name in ("big", "negative", "word", "long"):
        with pytest.raises(Error, match="id"):
            attacks.run(home, "id", image="users", user=name)


def test_ids_and_files_on_the_host_are_the_container_s_own(home: Home, tmp_path: Path) -> None:
    """Root inside writes as root on disk through its volume alone, and is nobody everywhere else."""
    os.chmod(tmp_path, 0o755)
    secret = tmp_path / "secret"
    secret.write_text("the host's")
    secret.chmod(0o600)
    one = attacks.start(home, "touch /mine; sleep 60", user="web")
    status = procfs.status(one.pid)
    assert status["Uid"].split() == [str(one.id_base + 1000)] * 4
    assert status["Groups"].split() == [str(one.id_base + 1001)]
    for root in (f"/proc/{one.pid}/root/proc", f"/proc/{one.pid}/root/etc"):
        assert os.path.isdir(root)
    engine.remove(home, one.id, force=True)


# --- the interpreter and descriptors ---------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", ["self", "1", "thread-self"])
def test_the_program_of_a_process_is_not_open_for_writing(home: Home, userns: str, name: str) -> None:
    before = os.stat(os.path.realpath("/proc/self/exe"))
    shell(home, f"echo overwritten >/proc/{name}/exe; dd if=/dev/zero of=/proc/{name}/exe count=1", userns=userns)
    after = os.stat(os.path.realpath("/proc/self/exe"))
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


def _loader_image(home: Home) -> None:
    """An image whose program is the one that starts it, and whose dynamic loader is the attacker's: CVE-2019-5736."""
    loader = attacks.member("lib64/ld-linux-x86-64.so.2", attacks.program("loader"))
    escape = attacks.member("escape", type=b"2", linkname="/proc/self/exe")
    attacks.image(home, attacks.tar(loader, escape), name="loader")


def test_the_interpreter_cannot_be_overwritten_by_the_image_s_dynamic_loader(home: Home) -> None:
    _loader_image(home)
    _, said = attacks.run(home, "/escape", image="loader")
    assert said == f"touch {errno.EACCES}\n"


def test_the_interpreter_cannot_be_overwritten_by_a_further_process(home: Home) -> None:
    _loader_image(home)
    one = attacks.start(home, "sleep 60", image="loader")
    assert attacks.further(home, one, "/escape")[1] == f"touch {errno.EACCES}\n"
    engine.remove(home, one.id, force=True)


SPY = """
while :; do for p in /proc/[0-9]*; do
  for f in $p/exe $p/cwd $p/root $p/fd/*; do
    t=$(readlink $f 2>/dev/null) || continue
    case $t in /bin/busybox|/|pipe:*|/dev/null|/proc/*|'socket:'*|anon_inode*) ;; *) echo "$f $t";; esac
  done
done; done
"""


@BOTH
def test_who_enters_cannot_be_looked_into(home: Home, userns: str) -> None:
    """Between setns and execve the host's descriptors, program and directory are still those of the process."""
    one = attacks.start(home, SPY, userns=userns)
    for _ in range(12):
        assert attacks.further(home, one, "true") == (0, "")
    found = [record.text for record in engine.read_logs(home, one.id)]
    engine.remove(home, one.id, force=True)
    assert [text for text in found if "[" not in text] == []


@BOTH
def test_no_descriptor_of_the_host_is_open_in_a_container(home: Home, userns: str) -> None:
    leak = os.open("/", os.O_RDONLY)
    os.dup2(leak, 60, inheritable=True)
    one = attacks.start(home, "sleep 60", userns=userns)
    assert sorted(os.listdir(f"/proc/{one.pid}/fd")) == ["0", "1", "2"]
    _, said = attacks.further(home, one, "ls", "/proc/self/fd")
    assert set(said.split()) == {"0", "1", "2", "3"}  # the last is that of /proc/self/fd
    engine.remove(home, one.id, force=True)


@BOTH
@pytest.mark.parametrize("rest", ["", "/../../../.."])
def test_a_working_directory_is_no_way_to_a_descriptor_of_the_host(home: Home, userns: str, rest: str) -> None:
    """CVE-2024-21626: /proc/self/fd/N as a directory while N is still one of the host's."""
    os.dup2(os.open("/", os.O_RDONLY), 9, inheritable=True)
    for number in (*range(3, 13), 60):
        with pytest.raises((Error, OSError)):
            attacks.run(home, "sh", "-c", "cat etc/shadow; ls", workdir=f"/proc/self/fd/{number}{rest}", userns=userns)
    one = attacks.start(home, "sleep 60", userns=userns)
    for number in (*range(3, 13), 60):
        with pytest.raises((Error, OSError)):
            attacks.further(home, one, "ls", workdir=f"/proc/self/fd/{number}{rest}")
    engine.remove(home, one.id, force=True)


@pytest.mark.parametrize("mapped", [False, True])
def test_no_directory_is_made_behind_a_descriptor_of_the_host(tmp_path: Path, mapped: bool) -> None:
    """A working directory that is missing is made: not by way of a descriptor that the caller has open."""
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    os.dup2(os.open(outside, os.O_RDONLY), 50, inheritable=True)
    for rest in ("", "/made", "/made/below", "/../made"):

        def edit(config: bundles.Json, path: str = f"/proc/self/fd/50{rest}") -> None:
            config["process"]["cwd"] = path
            if mapped:
                bundles.user_namespace(config)

        with pytest.raises((Error, OSError)):
            bundles.run(tmp_path, "ls", edit=edit)
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "made").exists()
    root, name = str(tmp_path / "states"), f"cwd-{os.getpid()}"
    creation.create(root, name, bundles.bundle(tmp_path, "sleep", "60"))
    operations.start(root, name)
    try:
        for rest in ("", "/made"):
            with pytest.raises((Error, OSError)):
                creation.execute(root, name, Process(args=("ls",), env=("PATH=/bin",), cwd=f"/proc/self/fd/50{rest}"))
    finally:
        operations.delete(root, name, force=True)
    assert list(outside.iterdir()) == []


# --- what /proc, /sys and /dev give ----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("path", [path for path in bundle.MASKED_PATHS if os.path.exists(path)])
def test_a_masked_path_is_empty_and_cannot_be_uncovered(home: Home, userns: str, path: str) -> None:
    read = f"if [ -d {path} ]; then ls -A {path}; echo x >{path}/x; else head -c 9 {path}; fi"
    script = f"{read}; busybox umount {path}; busybox rm {path}"
    said = shell(home, script, userns=userns)
    errors = [line for line in said.splitlines() if not re.match(r"(sh|umount|rm|head): ", line)]
    assert errors == []


def _setting(path: str) -> str:
    """What a setting is; some are not there, some cannot be read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError as error:
        return str(error)


SETTINGS = """
/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hostname
/proc/sys/kernel/domainname /proc/sys/vm/panic_on_oom /proc/sys/vm/overcommit_memory
/proc/sys/kernel/randomize_va_space /proc/sys/net/ipv4/ip_forward /proc/sys/fs/binfmt_misc/register
/proc/sys/fs/suid_dumpable /proc/sys/kernel/sysrq /proc/sysrq-trigger
/proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/power/state
/sys/kernel/mm/transparent_hugepage/enabled
/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory/release_agent
/sys/fs/cgroup/memory/notify_on_release /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids/cgroup.procs
/sys/fs/cgroup/devices/devices.allow /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory.max
/sys/fs/cgroup/pids.max /sys/fs/cgroup/cgroup.procs
""".split()  # noqa: SIM905  # a list of quoted lines reads worse


@BOTH
def test_no_setting_of_the_host_can_be_written(home: Home, userns: str) -> None:
    """Opened for writing and not written to: were it to succeed, this machine would be the victim."""
    before = [_setting(path) for path in SETTINGS if not path.endswith("procs")]
    script = "; ".join(f"( : >>{path} ) 2>&1 && echo opened {path}" for path in SETTINGS)
    said = shell(home, f"{script}; true", userns=userns).splitlines()
    assert [line for line in said if line.startswith("opened")] == []
    assert len(said) >= len(SETTINGS) - 5  # a shell says why for each
    assert [_setting(path) for path in SETTINGS if not path.endswith("procs")] == before


@BOTH
def test_no_cgroup_is_made_mounted_or_given_a_release_agent(home: Home, userns: str) -> None:
    """CVE-2022-0492: a hierarchy mounted for writing, and a program of the host's that it starts."""
    script = """
    for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/made 2>/dev/null && echo made $d; done
    for o in memory rdma net_cls cpuset; do mount -t cgroup -o $o x /tmp 2>/dev/null && echo mounted $o; done
    mount -t cgroup2 x /tmp 2>/dev/null && echo mounted 2
    find /sys/fs/cgroup -name release_agent
    for f in $(find /sys/fs/cgroup -type f); do (: >>$f) 2>/dev/null && echo open $f; done; true"""
    assert shell(home, script.replace("find ", "busybox find "), userns=userns) == ""


@BOTH
def test_the_cgroup_seen_is_the_container_s_own_root(home: Home, userns: str) -> None:
    said = shell(home, "cat /proc/self/cgroup", userns=userns)
    assert {line.split(":", 2)[2] for line in said.splitlines()} == {"/"}


@BOTH
@pytest.mark.parametrize("add", [(), ("MKNOD",)])
def test_no_block_device_can_be_made_or_opened(home: Home, userns: str, add: tuple[str, ...]) -> None:
    major, minor = disk()
    script = f"""
    for n in '{major} {minor}' '7 0' '8 0' '254 0' '259 0'; do
      busybox mknod /tmp/disk b $n 2>/dev/null && {{ head -c 1 /tmp/disk >/dev/null 2>&1 && echo read $n; }}
      busybox rm -f /tmp/disk
    done
    for n in '1 1' '1 2' '1 4' '10 200' '10 229' '108 0' '5 3'; do
      busybox mknod /tmp/char c $n 2>/dev/null && {{ (: </tmp/char) 2>/dev/null && echo opened $n; }}
      busybox rm -f /tmp/char
    done; true"""
    assert shell(home, script, userns=userns, cap_add=add) == ""


@BOTH
@pytest.mark.parametrize("mode", ["r", "w"])
def test_a_device_that_the_image_brings_is_dead(home: Home, userns: str, mode: str) -> None:
    major, minor = disk()
    nodes = [
        attacks.member("disk", type=b"4", devmajor=major, devminor=minor, mode=0o666),
        attacks.member("mem", type=b"3", devmajor=1, devminor=1, mode=0o666),
        attacks.member("kmsg", type=b"3", devmajor=1, devminor=11, mode=0o666),
    ]
    try:
        attacks.image(home, attacks.tar(*nodes), name="nodes")
        script = "; ".join(f"(: {'<' if mode == 'r' else '>>'} /{name}) 2>/dev/null && echo open {name}" for name in
                           ("disk", "mem", "kmsg"))  # fmt: skip
        said = shell(home, f"{script}; echo tried", image="nodes", userns=userns)
        assert said == "tried\n"
    except Error as refused:
        assert "\n" not in str(refused)


@BOTH
def test_the_devices_are_the_usual_ones_and_no_other(home: Home, userns: str) -> None:
    said = shell(home, "busybox find /dev -type c; busybox find /dev -type b", userns=userns).split()
    names = {"null", "zero", "full", "random", "urandom", "tty", "pts/ptmx"}
    assert {path.removeprefix("/dev/") for path in said} == names


@BOTH
def test_the_list_of_mounts_names_no_directory_of_another_world(home: Home, userns: str) -> None:
    lines = shell(home, "cat /proc/self/mountinfo", userns=userns).splitlines()
    places = [line.split()[4] for line in lines]
    assert places[0] == "/"
    assert all(place == "/" or place.split("/")[1] in ("proc", "sys", "dev", "etc") for place in places)
    assert not any("shared:" in line for line in lines)
    for line in lines:
        place, options = line.split()[4:6]
        if place.startswith(("/proc", "/sys")):
            assert {"nosuid", "nodev", "noexec"} <= set(options.split(",")) or place in bundle.MASKED_PATHS, line


# --- the root, the host's processes, and limits ----------------------------------------------------------------------


@BOTH
def test_a_second_chroot_leads_nowhere(home: Home, userns: str) -> None:
    script = """
    mkdir /jail /jail/bin; busybox cp /bin/busybox /jail/bin/
    busybox chroot /jail /bin/busybox sh -c '
      cd ../../../../../../..; for i in 1 2 3 4 5 6 7 8 9; do cd ..; done
      /bin/busybox ls; /bin/busybox chroot . /bin/busybox ls /'"""
    said = shell(home, script, userns=userns).split()
    assert set(said) <= {"bin", "proc", "sys", "dev", "etc", "home", "jail", "root", "tmp", "run", "var"}


@BOTH
def test_no_process_of_the_host_is_seen_joined_traced_or_killed(home: Home, userns: str) -> None:
    victim = os.fork()
    if victim == 0:
        time.sleep(60)
        os._exit(0)
    calls = {
        "kill": f"62 {victim} 9",
        "ptrace: attach": f"101 16 {victim} 0 0",
        "ptrace: seize": f"101 0x4206 {victim} 0 0",
        "pidfd_open": f"434 {victim} 0",
        "tgkill": f"234 {victim} {victim} 9",
        "prlimit": f"302 {victim} 7 & 0",
        "setns by pidfd": f"308 {victim} {NEWNS}",
        "sched_setaffinity": f"203 {victim} 8 &",
        "setpriority": f"141 0 {victim} 19",
    }
    answers = _answers(home, calls, userns=userns)
    said = shell(home, f"(kill -9 {victim}; ls -d /proc/[0-9]* | wc -l) 2>/dev/null", userns=userns)
    assert os.waitpid(victim, os.WNOHANG) == (0, 0)
    os.kill(victim, 9)
    os.waitpid(victim, 0)
    assert {name: code for name, code in answers.items() if code not in ("3", "1", "14")} == {}
    assert int(said.split()[-1]) <= 4


@BOTH
def test_all_processes_that_can_be_killed_are_the_container_s(home: Home, userns: str) -> None:
    other = attacks.start(home, "sleep 60", userns=userns)
    shell(home, "kill -9 -1; busybox killall -9 sleep; busybox killall5 -9; true", userns=userns)
    assert engine.inspect(home, other.id).status == "running"
    engine.remove(home, other.id, force=True)


@pytest.mark.parametrize("kind", ["mnt", "pid", "net", "ipc", "uts", "user", "cgroup"])
@BOTH
def test_a_namespace_of_the_first_process_is_the_container_s(home: Home, userns: str, kind: str) -> None:
    said = shell(home, f"busybox readlink /proc/1/ns/{kind}", userns=userns).strip()
    same = said == os.readlink(f"/proc/self/ns/{kind}")
    assert said.startswith(f"{kind}:[")
    assert same == (userns == "host" and kind == "user")


@BOTH
def test_a_fork_bomb_ends_at_the_limit(home: Home, userns: str) -> None:
    one = attacks.start(home, "bomb() { bomb & bomb & }; bomb & exec sleep 60", pids_limit=24, userns=userns)
    directory = Path(one.cgroups.get("pids") or next(iter(one.cgroups.values())))
    eventually(lambda: "max 0" not in (directory / "pids.events").read_text())
    assert int((directory / "pids.current").read_text()) <= 24
    engine.remove(home, one.id, force=True)
    assert not directory.exists()


@BOTH
def test_memory_cannot_be_taken_by_way_of_a_tmpfs(home: Home, userns: str) -> None:
    script = "dd if=/dev/zero of=/dev/shm/fill bs=1M count=60; echo survived"
    status, said = attacks.run(home, "sh", "-c", script, memory=20 << 20, userns=userns)
    assert status == 137 or "survived" in said
    assert "60+0 records out" not in said


@BOTH
def test_the_shared_memory_is_limited_without_a_limit_of_memory_too(home: Home, userns: str) -> None:
    said = shell(home, "dd if=/dev/zero of=/dev/shm/fill bs=1M count=3", userns=userns, shm_size=1 << 20)
    assert "No space left" in said


@BOTH
def test_a_read_only_volume_stays_so(home: Home, userns: str, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "below").mkdir(parents=True)
    script = (
        "mount -o remount,rw /v; mount -o remount,rw,bind /v; busybox umount /v; touch /v/x /v/below/x; echo x >>/v/y"
    )
    shell(home, script, userns=userns, volumes=(Volume(str(shared), "/v", read_only=True),))
    assert sorted(path.name for path in shared.rglob("*")) == ["below"]


@BOTH
def test_a_read_only_root_stays_so(home: Home, userns: str) -> None:
    script = "mount -o remount,rw /; mount -o remount,rw,bind /; touch /x && echo written; echo x >/etc/hosts; true"
    assert "written" not in shell(home, script, userns=userns, read_only=True)


@BOTH
def test_the_host_s_name_is_not_the_container_s_to_change(home: Home, userns: str) -> None:
    before = os.uname().nodename
    shell(home, "hostname owned; echo owned >/proc/sys/kernel/hostname; busybox sysctl -w kernel.hostname=owned",
          userns=userns)  # fmt: skip
    assert os.uname().nodename == before
