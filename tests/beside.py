"""Bundles that several runtimes are given, and what each makes of them: the same on us as on runc and on crun.

A case is an edit of a config.json and what a shell in the container says. Its outcome is that the runtime refuses it,
or the exit status and the lines that were said. The page docs/conformance.md explains each difference.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from minicontainer.linux import flags, procfs, syscalls
from tests import bundles
from tests.bundles import Json

ROOT = str(Path(__file__).parents[1])
OURS = [sys.executable, "-m", "minicontainer.runtime.main"]
BEGIN = "begun"
LOOK = """
grep -E "Cap|NoNew|Secc|Groups|Sig(Ign|Blk)|Umask|Uid|Gid" /proc/self/status
cat /proc/self/limits /proc/self/oom_score_adj
cut -d" " -f4-6,7- /proc/self/mountinfo | grep -v /sys/fs/cgroup | sort
for path in /proc/kcore /proc/keys /proc/acpi /sys/firmware /proc/sys /proc/bus; do ls -ld $path; done 2>&1
ls -ld / /dev /dev/* /dev/pts/* /proc /sys
cat /proc/self/cgroup; env | sort; hostname; ip addr
echo x > /proc/sys/kernel/hostname; touch /x /dev/x; mknod /dev/disk b 254 0
"""
# The files of both versions: who has none says nothing.
LIMITS = """
for file in memory.max memory.high memory.low memory.swap.max pids.max cpu.max cpu.weight cpuset.cpus cpuset.mems \
    memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes pids/pids.max \
    cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares cpuset/cpuset.cpus; do
    test -e /sys/fs/cgroup/$file && echo $file $(cat /sys/fs/cgroup/$file)
done
"""
MOUNTS = "cut -d' ' -f5,6,7 /proc/self/mountinfo | grep ' ' | grep '^/m' | sed 's/:[0-9]*//'"


class Case(NamedTuple):
    edit: Callable[[Json], None]
    script: str = LOOK
    alone: bool = False  # a peer kills all processes that it sees: it is to see no other


class Outcome(NamedTuple):
    ran: bool  # the program was started
    status: int
    lines: list[str]


def _set(path: str, value: Any) -> Callable[[Json], None]:
    """An edit: what is at a dotted path is `value`; None removes it, and a list is added to the list that is there."""

    def edit(config: Json) -> None:
        *parents, last = path.split(".")
        at = config
        for name in parents:
            at = at.setdefault(name, {})
        if value is None:
            at.pop(last, None)
        elif isinstance(value, list) and isinstance(at.get(last), list):
            at[last] = [*at[last], *value]
        elif isinstance(value, dict) and isinstance(at.get(last), dict):
            at[last] |= value
        else:
            at[last] = value

    return edit


def _all(*edits: Callable[[Json], None]) -> Callable[[Json], None]:
    def edit(config: Json) -> None:
        for one in edits:
            one(config)

    return edit


def _without(*kinds: str) -> Callable[[Json], None]:
    """An edit: without these namespaces, and what belongs to them."""

    def edit(config: Json) -> None:
        config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] not in kinds]
        if "uts" in kinds:
            del config["hostname"]

    return edit


def _joined(kind: str, path: str) -> Callable[[Json], None]:
    return _all(_without(kind), _set("linux.namespaces", [{"type": kind, "path": path}]))


def _mount(destination: str, source: str, kind: str, *options: str) -> Callable[[Json], None]:
    one = {"destination": destination, "source": source, "type": kind, "options": list(options)}
    return _set("mounts", [one])


def _capabilities(sets: tuple[str, ...], *names: str) -> Callable[[Json], None]:
    return _set("process.capabilities", {name: list(names) for name in sets})


def _limits(**resources: Any) -> Callable[[Json], None]:
    def edit(config: Json) -> None:
        config["linux"]["resources"] |= resources
        config["mounts"].append({"destination": "/sys/fs/cgroup", "source": "cgroup", "type": "cgroup"})

    return edit


def _seccomp(action: str, *names: str, **more: Any) -> Callable[[Json], None]:
    rule = {"names": list(names), "action": action, **more}
    return _set("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})


def _hook(point: str, script: str, **more: Any) -> Callable[[Json], None]:
    return _set(f"hooks.{point}", [{"path": "/bin/sh", "args": ["sh", "-c", script], **more}])


def _device(**fields: Any) -> Callable[[Json], None]:
    return _set("linux.devices", [{"path": "/dev/one", "type": "c", "major": 1, "minor": 5, **fields}])


HELD = ("bounding", "effective", "permitted")
EVERY = (*HELD, "inheritable", "ambient")
STAT = "ls -l /dev/one | cut -c 1-40; head -c 1 /dev/one | wc -c"
CASES = {
    "plain": Case(_set("process.cwd", "/bin")),
    "shared cgroup namespace": Case(_without("cgroup"), LOOK.replace("cat /proc/self/cgroup", "true")),
    "user": Case(
        _all(
            _set("process.user", {"uid": 1000, "gid": 1000, "additionalGids": [5, 6], "umask": 0o77}),
            _set("process.noNewPrivileges", False),
            _set("process.oomScoreAdj", 500),
            _set("process.rlimits", [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]),
        )
    ),
    "readonly": Case(
        _all(
            _set("root.readonly", True),
            _set("linux.rootfsPropagation", "rprivate"),
            _mount("/etc/host", "/etc/hostname", "bind", "bind", "ro", "nosuid"),
            _mount("/tmp/deep", "tmpfs", "tmpfs", "size=4k", "nodev", "noatime"),
        )
    ),
    "ambient": Case(
        _all(
            _capabilities(EVERY, "CAP_KILL", "CAP_NET_RAW", "CAP_CHECKPOINT_RESTORE"),
            _set("process.user", {"uid": 7, "gid": 8}),
        )
    ),
    "everything": Case(
        _all(
            _capabilities(HELD, *(f"CAP_{name}" for name in ("SYS_ADMIN", "SYS_PTRACE", "MKNOD", "NET_ADMIN",
                                                            "SYS_CHROOT", "DAC_OVERRIDE"))),
            lambda config: config["linux"].update(maskedPaths=[], readonlyPaths=[]),
            _set("linux.sysctl", {"net.ipv4.ip_forward": "1"}),
        )
    ),
    "user namespace": Case(bundles.user_namespace),
    # process
    "no capabilities": Case(_set("process.capabilities", None), "grep Cap /proc/self/status"),
    "capability: unknown": Case(_capabilities(HELD, "CAP_FLY"), "grep Cap /proc/self/status"),
    "capability: ambient without inheritable": Case(
        _capabilities((*HELD, "ambient"), "CAP_KILL"), "grep Cap /proc/self/status"
    ),
    "personality": Case(_set("linux.personality", {"domain": "LINUX32"}), "cat /proc/self/personality"),
    "cwd: missing": Case(_set("process.cwd", "/not/there"), "pwd; ls -ld /not /not/there | cut -c 1-10"),
    "cwd: relative": Case(_set("process.cwd", "bin"), "pwd"),
    "arguments: none": Case(_set("process", {"args": []}), ""),
    "environment: HOME of a user": Case(_set("process.user", {"uid": 1000, "gid": 0}), "echo $HOME; id"),
    "environment: no PATH": Case(
        _set("process", {"env": ["A=b"], "args": ["/bin/sh", "-c", "echo begun; env"]})
    ),
    "environment: twice": Case(_set("process.env", ["A=b", "A=c"]), "echo $A"),
    "environment: no equals sign": Case(_set("process.env", ["LONELY"]), "env | grep LON"),
    "rlimit: unknown": Case(_set("process.rlimits", [{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]), "true"),
    "rlimit: twice": Case(_set("process.rlimits", [{"type": "RLIMIT_CORE", "soft": n, "hard": n} for n in (1, 2)]),
                          "ulimit -c"),
    "rlimit: soft above hard": Case(_set("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]), "true"),
    "oom score: too large": Case(_set("process.oomScoreAdj", 1001), "cat /proc/self/oom_score_adj"),
    "user: -1": Case(_set("process.user", {"uid": -1, "gid": 0}), "id"),
    "scheduler": Case(_set("process.scheduler", {"policy": "SCHED_BATCH", "nice": 5}),
                      "cut -d' ' -f19,41 /proc/self/stat"),
    "io priority": Case(_set("process.ioPriority", {"class": "IOPRIO_CLASS_IDLE", "priority": 0}), "true"),
    # namespaces
    "pid: the host's": Case(_without("pid"), "test $$ -gt 1 && echo host"),
    "network: the host's": Case(_without("network"), "ip addr | head -1"),
    "names and ipc: the host's": Case(_without("uts", "ipc"), "hostname >/dev/null; ls /proc/sys/fs/mqueue"),
    "mount: the host's": Case(_without("mount"), "true"),
    "joined: network of process 1": Case(_joined("network", "/proc/1/ns/net"), "ip addr | head -1"),
    "joined: no namespace": Case(_joined("network", "/etc/passwd"), "true"),
    "joined: not there": Case(_joined("network", "/proc/1/ns/none"), "true"),
    "joined: of another kind": Case(_joined("network", "/proc/1/ns/uts"), "true"),
    "namespace: twice": Case(_set("linux.namespaces", [{"type": "pid"}]), "true"),
    "namespace: unknown": Case(_set("linux.namespaces", [{"type": "space"}]), "true"),
    "time namespace": Case(_all(_set("linux.namespaces", [{"type": "time"}]),
                                _set("linux.timeOffsets", {"boottime": {"secs": 864000}})),
                           "test $(cut -d. -f1 /proc/uptime) -gt 864000 && echo later"),
    "mappings without a user namespace": Case(
        _set("linux.uidMappings", [{"containerID": 0, "hostID": 1, "size": 1}]), "id"
    ),
    "user namespace without mappings": Case(_set("linux.namespaces", [{"type": "user"}]), "id"),
    "hostname without a namespace": Case(_all(_without("uts"), _set("hostname", "mine")), "true"),
    "domain name": Case(_set("domainname", "example"), "cat /proc/sys/kernel/domainname"),
    # kernel settings
    "sysctl": Case(_set("linux.sysctl", {"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"}),
                   "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax"),
    "sysctl: of the host": Case(_set("linux.sysctl", {"vm.swappiness": "60"}), "true"),
    "sysctl: without its namespace": Case(_all(_without("network"), _set("linux.sysctl", {"net.ipv4.ip_forward": "1"})),
                                          "true"),
    "sysctl: not there": Case(_set("linux.sysctl", {"net.nothing": "1"}), "true"),
    # root and mounts
    "root: not there": Case(_set("root.path", "nowhere"), "true"),
    "masked and read-only": Case(_all(_set("linux.maskedPaths", ["/etc", "/bin/dd"]),
                                      _set("linux.readonlyPaths", ["/home", "/tmp"])),
                                 "ls /etc; cat /bin/dd; touch /tmp/x"),
    **{f"propagation: {kind}": Case(_set("linux.rootfsPropagation", kind),
                                    "grep ' / / ' /proc/self/mountinfo | cut -d' ' -f7 | sed 's/:[0-9]*//'")
       for kind in ("shared", "slave", "private", "unbindable", "rslave")},
    "propagation: unknown": Case(_set("linux.rootfsPropagation", "odd"), "true"),
    **{f"bind: {options}": Case(_mount("/m", "/usr/share", "bind", *options.split()), MOUNTS)
       for options in ("rbind ro", "bind rshared", "bind nosuid nodev noexec", "rbind rro", "bind nosymfollow")},
    "bind: of a file, over what is not there": Case(_mount("/m/a/b", "/etc/hostname", "bind", "bind"), MOUNTS),
    "bind: of what is not there": Case(_mount("/m", "/nonexistent", "bind", "bind"), "true"),
    "bind: an unknown option": Case(_mount("/m", "/etc", "bind", "bind", "oddity"), "true"),
    "tmpfs: options": Case(_mount("/m", "tmpfs", "tmpfs", "size=64k", "mode=700", "noexec"),
                           f"{MOUNTS}; ls -ld /m | cut -c 1-10"),
    "tmpfs: with what is below it": Case(_mount("/etc", "tmpfs", "tmpfs", "tmpcopyup"), "ls /etc"),
    "tmpfs: an unknown option": Case(_mount("/m", "tmpfs", "tmpfs", "oddity=3"), "true"),
    "mount: an unknown file system": Case(_mount("/m", "none", "oddfs"), "true"),
    "mount: relative destination": Case(_mount("m", "tmpfs", "tmpfs"), "grep -c ' /m ' /proc/self/mountinfo"),
    "mount: a destination that climbs": Case(_mount("/../../m", "tmpfs", "tmpfs"),
                                             "grep -c ' /m ' /proc/self/mountinfo"),
    "mount: over /proc": Case(_mount("/proc/sys", "tmpfs", "tmpfs"), "true"),
    # devices
    "device": Case(_device(fileMode=0o640, uid=3, gid=4), STAT),
    "device: allowed": Case(_all(_device(), _set("linux.resources.devices", [
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"}])), STAT),
    "device: a pipe": Case(_device(type="p"), "ls -l /dev/one | cut -c 1-10"),
    "device: of an unknown type": Case(_device(type="x"), "true"),
    "device: outside /dev": Case(_device(path="/one"), "ls -l /one | cut -c 1-10"),
    # cgroups
    "limits: memory": Case(_limits(memory={"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20}), LIMITS),
    "limits: memory, swap below it": Case(_limits(memory={"limit": 64 << 20, "swap": 32 << 20}), LIMITS),
    "limits: memory, swap alone": Case(_limits(memory={"swap": 32 << 20}), LIMITS),
    "limits: memory, none": Case(_limits(memory={"limit": -1, "swap": -1}), LIMITS),
    "limits: cpu": Case(_limits(cpu={"shares": 512, "quota": 25000, "period": 50000}), LIMITS),
    "limits: cpu, a period alone": Case(_limits(cpu={"period": 50000}), LIMITS),
    "limits: cpu, a quota alone": Case(_limits(cpu={"quota": 50000}), LIMITS),
    "limits: cpu, no quota": Case(_limits(cpu={"quota": -1}), LIMITS),
    "limits: cpuset": Case(_limits(cpu={"cpus": "0", "mems": "0"}), LIMITS),
    "limits: cpuset that is not there": Case(_limits(cpu={"cpus": "99"}), "true"),
    "limits: pids": Case(_limits(pids={"limit": 33}), LIMITS),
    "limits: pids, none": Case(_limits(pids={"limit": -1}), LIMITS),
    "limits: pids, 0": Case(_limits(pids={"limit": 0}), LIMITS),
    "limits: block weight": Case(_limits(blockIO={"weight": 100}), "true"),
    "limits: unified": Case(_limits(unified={"pids.max": "44"}), LIMITS),
    "limits: unified, unknown": Case(_limits(unified={"odd.max": "44"}), "true"),
    "limits: huge pages": Case(_limits(hugepageLimits=[{"pageSize": "2MB", "limit": 0}]), "true"),
    "cgroup: absolute": Case(_set("linux.cgroupsPath", "/beside/box"), "true"),
    "cgroup: relative": Case(_set("linux.cgroupsPath", "beside/box"), "true"),
    "cgroup: climbs": Case(_set("linux.cgroupsPath", "/beside/../../other"), "true"),
    "cgroup: the root": Case(_set("linux.cgroupsPath", "/"), "true", alone=True),
    # seccomp
    "seccomp: an errno": Case(_seccomp("SCMP_ACT_ERRNO", "mkdir", "mkdirat", errnoRet=95), "mkdir /y"),
    "seccomp: kill": Case(_seccomp("SCMP_ACT_KILL_PROCESS", "mkdir", "mkdirat"), "mkdir /y; echo $?"),
    "seccomp: an argument": Case(
        _seccomp("SCMP_ACT_ERRNO", "kill", args=[{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]),
        "kill -10 $$; trap 'echo got' 12; kill -12 $$",
    ),
    "seccomp: an unknown call": Case(_seccomp("SCMP_ACT_ERRNO", "no_such_call", "mkdir"), "mkdir /y"),
    "seccomp: an unknown action": Case(_seccomp("SCMP_ACT_ODD", "mkdir"), "true"),
    "seccomp: an unknown architecture": Case(
        _all(_seccomp("SCMP_ACT_ERRNO", "mkdir"), _set("linux.seccomp", {"architectures": ["SCMP_ARCH_ODD"]})), "true"
    ),
    # hooks
    "hook: fails before the start": Case(_hook("prestart", "exit 3"), "true"),
    "hook: fails in createRuntime": Case(_hook("createRuntime", "exit 3"), "true"),
    "hook: fails in startContainer": Case(_hook("startContainer", "exit 3"), "true"),
    "hook: fails after the start": Case(  # what it says may be lost: it is stopped
        _all(_hook("poststart", "exit 3"), _set("process", {"args": ["sleep", "5"]}))
    ),
    "hook: its time is up": Case(_hook("createRuntime", "sleep 30", timeout=1), "true"),
    "hook: in the container": Case(_hook("startContainer", "echo $0 $PATH $A; grep -c ociVersion", env=["A=b"]),
                                   "true"),
    # what a host has or has not
    "AppArmor": Case(_set("process.apparmorProfile", "docker-default"), "true"),
    "SELinux": Case(_set("process.selinuxLabel", "system_u:system_r:container_t:s0"), "true"),
    "SELinux: of mounts": Case(_set("linux.mountLabel", "system_u:object_r:container_file_t:s0"), "true"),
    "Intel RDT": Case(_set("linux.intelRdt", {"closID": "one", "l3CacheSchema": "L3:0=f"}), "true"),
    "network device": Case(_set("linux.netDevices", {"nothing0": {}}), "true"),
    "memory policy": Case(_set("linux.memoryPolicy", {"mode": "MPOL_INTERLEAVE", "nodes": "0"}),
                          "head -n 1 /proc/self/numa_maps"),
    "an unknown property": Case(_set("process.oddity", 3), "true"),
    "a property of a wrong type": Case(_set("process.args", "sh"), "true"),
    "another version of the specification": Case(_set("ociVersion", "9.0.0"), "true"),
}  # fmt: skip


_STRICT = "else it would do something other than its author believes"
_OLDER = "it is older than this part of the specification"
# What a case becomes with us, with the peers that make something else of it, and why.
DIFFERENCES = {
    "personality": (("runc",), "is set", _OLDER),
    "scheduler": (("runc", "crun"), "is set", _OLDER),
    "time namespace": (("runc",), "is made", _OLDER),
    "domain name": (("runc",), "is set", _OLDER),
    "memory policy": (("runc", "crun"), "is set, or refused by a kernel without nodes", f"{_OLDER} and ignores it"),
    "network device": (("runc", "crun"), "is refused", f"the host has none of that name; {_OLDER} and ignores it"),
    "propagation: unbindable": (("runc",), "is done", "the specification; runc fails on mounts of its own"),
    "propagation: unknown": (("crun",), "is refused", _STRICT),
    "bind: bind rshared": (("crun",), "is shared in the container", "crun makes it private again"),
    "bind: bind nosymfollow": (("crun",), "is done", "crun takes the word and does nothing"),
    "mappings without a user namespace": (("runc", "crun"), "is refused", _STRICT),
    "mount: the host's": (("crun",), "is refused", "crun makes its mounts on the host and leaves them"),
    "mount: over /proc": (("runc", "crun"), "is refused", "masks and labels live there; runc refuses some places only"),
    "cgroup: climbs": (("runc",), "is refused", "it asks for what it cannot have; runc cuts it"),
    "cgroup: the root": (("runc", "crun"), "is refused", "processes are there: at the end crun kills them"),
    "cwd: relative": (("crun",), "is refused", "the specification: it is absolute"),
    "environment: no equals sign": (("crun",), "is refused", "the specification: as environ(7) of POSIX"),
    "rlimit: twice": (("crun",), "is refused", "the specification"),
    "namespace: twice": (("crun",), "is refused", "the specification"),
    "device: of an unknown type": (("crun",), "is refused", "crun makes a file of no type"),
    "hook: fails before the start": (("crun",), "is refused with status 1", "as runc; crun's status is 255"),
    "hook: fails in createRuntime": (("crun",), "is refused with status 1", "as runc; crun's status is 255"),
    "hook: fails after the start": (("crun",), "ends the container", "the specification, as runc; crun goes on"),
    "AppArmor": (("crun",), "is refused", "the host has none: a wall that was asked for would not be there"),
    "SELinux": (("crun",), "is refused", "as AppArmor"),
    "SELinux: of mounts": (("crun",), "is refused", "as AppArmor"),
    "Intel RDT": (("crun",), "is refused", "not built; crun ignores it where there is none"),
    "an unknown property": (("runc", "crun"), "is refused", "a typing mistake would make a container weaker"),
    "another version of the specification": (("runc",), "is refused", "what a later version says is not known"),
}  # fmt: skip
# Lines that are said in many cases with us, or with crun in their place: what differs, and why.
LINES = {
    "who owns /dev/null": (r"^crw-rw-rw- .* 1,   3 _ ",
        "crun gives the standard streams, here that device, to the container's user"),
    "what lies over masked files": (r"^/null /proc/", "crun binds the host's /dev/null, we and runc the container's"),
    "the super block of /sys": (r"^/ /sys\S* r[ow],", "crun makes the mount read-only, we what is mounted, too"),
    "flags of bound devices": (r"^/(full|null|random|tty|urandom|zero) /dev/",
        "crun adds nosuid and noexec to the devices that it binds into a user namespace"),
    "HOME of a user without an entry": (r"^HOME=/$", "as runc; crun sets none"),
}  # fmt: skip
# Those that are run on crun in CI, where each takes a second: what differs, and all that a program sees.
QUICK = frozenset(DIFFERENCES) | {name for name, case in CASES.items() if case.script == LOOK}


def compare(peer: str, name: str, ours: Outcome, theirs: Outcome) -> None:
    """Fail unless both are the same, or differ in what is explained and differ there indeed."""
    if peer in DIFFERENCES.get(name, ((),))[0]:
        assert ours != theirs, f"{name}: {peer} does the same now: the explanation has to go"
        return
    patterns = [re.compile(pattern) for pattern, _ in LINES.values()] if peer == "crun" else []
    left = [
        [line for line in one.lines if not any(pattern.search(line) for pattern in patterns)] for one in (ours, theirs)
    ]
    assert (ours.ran, ours.status, left[0]) == (theirs.ran, theirs.status, left[1])


def table() -> str:
    """What docs/conformance.md says of all this."""
    rows = [f"| {name} | {what} | {' and '.join(peers)} | {why} |" for name, (peers, what, why) in DIFFERENCES.items()]
    lines = [f"| {name} | crun | {why} |" for name, (_, why) in LINES.items()]
    return "\n".join([
        "| case | with us it | otherwise with | why |", "|---|---|---|---|", *rows, "",
        "| what a program sees | otherwise with | why |", "|---|---|---|", *lines,
    ])  # fmt: skip


def call(runtime: list[str], directory: Path, *arguments: str, alone: bool = False) -> tuple[int, str]:
    """Run a command of a runtime: its status and all that it says; a file takes it, as a container may outlive it."""
    if alone:
        runtime = [
            "setsid",
            "--wait",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "sh",
            "-c",
            '"$@"; exit $?',
            "sh",
            *runtime,
        ]
    with (directory / "said").open("w+") as said:
        done = subprocess.run(
            [*runtime, "--root", str(directory / "states"), *arguments],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, "PYTHONPATH": ROOT},
            check=False,
        )
        said.seek(0)
        return done.returncode, said.read()


def seen(runtime: list[str], directory: Path, case: Case) -> Outcome:
    """What a runtime makes of a case, less what differs between any two runs: device numbers, dates, counts."""
    bundles.bundle(directory, "sh", "-c", f"echo {BEGIN}\n{case.script}", edit=case.edit)
    (directory / "rootfs/bin/sort").unlink(missing_ok=True)
    (directory / "rootfs/bin/sort").symlink_to("busybox")
    name = f"beside-{os.getpid()}"
    status, said = call(runtime, directory, "run", name, alone=case.alone)
    call(runtime, directory, "delete", "--force", name, alone=case.alone)
    _remove(directory / "rootfs")
    if BEGIN not in said.splitlines():
        return Outcome(ran=False, status=status, lines=[])
    said = re.sub(r"\b0:\d+\b|\w{3} +\d+ \d\d:\d\d", "_", said)
    said = re.sub(r"(?m)^(d.{9}) +\d+", r"\1", said)
    said = re.sub(r"(?m)^(.* root) +65534(.* /dev/mqueue)$", r"\1     0    \2", said)  # runc leaves its group unmapped
    said = re.sub(r"(?m)^time=.*\n|^.*level=warning.*\n|^minicontainer-runtime: .*\n", "", said)  # warnings
    # How long a directory is depends on its file system, and on what ran in it before.
    said = re.sub(r"(?m)^(d\S+\s+\S+\s+\S+\s+)\d+", r"\1", said.replace(",nr_inodes=1", ""))
    # Sorted: runc copies output and errors through pipes of its own, in any order.
    return Outcome(ran=True, status=status, lines=sorted(said.splitlines()))


def _remove(rootfs: Path) -> None:
    """Without what a runtime has left mounted there: crun does, if there is no mount namespace."""
    left = [entry.target for entry in procfs.mountinfo() if entry.target.startswith(str(rootfs))]
    for target in reversed(left):
        syscalls.umount(target, flags.MNT_DETACH)
    shutil.rmtree(rootfs)
