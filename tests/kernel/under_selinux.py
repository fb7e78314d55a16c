"""Containers with SELinux contexts: run by `test_security_modules.py` in a machine whose kernel has SELinux.

The policy is the smallest that can forbid something: two domains, of which one may not read files of one type.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import bundles
from tests.bundles import OURS, RUNC, Json, call

SELINUX = Path("/sys/fs/selinux")
# The kernel's own, in the order of its numbers: security/selinux/include/initial_sid_to_string.h
SIDS = ["kernel", "security", "unlabeled", "fs", "file", "file_labels", "init", "any_socket", "port", "netif", "netmsg",
        "node", "igmp_packet", "icmp_socket", "tcp_socket", "sysctl_modprobe", "sysctl", "sysctl_fs", "sysctl_kernel",
        "sysctl_net", "sysctl_net_unix", "sysctl_vm", "sysctl_dev", "kmod", "policy", "scmp_packet",
        "devnull"]  # fmt: skip
FILE, SECRET = "system_u:object_r:host_t:s0", "system_u:object_r:secret_t:s0"
HOST, BOX = "system_u:system_r:host_t:s0-s0:c1,c2", "system_u:system_r:box_t:s0:c1,c2"
FILES = "system_u:object_r:box_file_t:s0:c1,c2"
POLICY = """
class process
class file
class dir
{sids}
class process {{ transition dyntransition }}
class file {{ read open execute entrypoint }}
class dir {{ read search }}
sensitivity s0;
dominance {{ s0 }}
category c1;
category c2;
level s0:c1.c2;
mlsconstrain file {{ read }} ( h1 dom h2 );
policycap nnp_nosuid_transition;
type host_t;
type box_t;
type box_file_t;
type secret_t;
allow host_t {{ host_t box_t box_file_t secret_t }}:{{ file dir }} *;
allow host_t {{ host_t box_t }}:process *;
allow box_t {{ host_t box_t box_file_t }}:{{ file dir }} *;
allow box_t box_t:process *;
role object_r;
role system_r;
role system_r types {{ host_t box_t }};
user system_u roles {{ system_r object_r }} level s0 range s0 - s0:c1.c2;
{contexts}
fs_use_xattr ext4 {file};
{filesystems}
""".format(
    sids="\n".join(f"sid {name}" for name in SIDS),
    contexts="\n".join(f"sid {name} {HOST.replace('-', ' - ') if name == 'kernel' else FILE}" for name in SIDS),
    file=FILE,
    filesystems="\n".join(f"fs_use_trans {name} {FILE};" for name in ("devpts", "mqueue", "tmpfs")),
)
LOOK = "cat /proc/self/attr/current; echo; cat /secret 2>&1"  # one stream: runc copies two in any order
FORBIDDEN = f"{BOX}\ncat: can't open '/secret': Permission denied\n"


@pytest.fixture(scope="module", autouse=True)
def policy(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Load it. Nothing takes it away again: the machine ends with its tests."""
    directory = tmp_path_factory.mktemp("policy")
    (directory / "policy.conf").write_text(POLICY)
    subprocess.run(["mount", "-t", "selinuxfs", "selinuxfs", SELINUX], check=True)
    compiled = directory / "policy"
    subprocess.run(["checkpolicy", "-M", "-U", "allow", "-c", "33", "-o", compiled, f"{compiled}.conf"], check=True)
    (SELINUX / "load").write_bytes(compiled.read_bytes())
    (SELINUX / "enforce").write_text("1")
    assert Path("/proc/self/attr/current").read_text().rstrip("\0") == HOST


def _labelled(
    directory: Path, *args: str, label: str = BOX, edit: bundles.Edit | None = None, **process: object
) -> Path:
    def all_of(json_of: Json) -> None:
        if edit is not None:
            edit(json_of)
        json_of["process"] |= {"selinuxLabel": label, **process}
        json_of["linux"]["mountLabel"] = FILES

    made = Path(bundles.bundle(directory, *args, edit=all_of))
    secret = made / "rootfs/secret"
    secret.write_text("secret\n")
    os.setxattr(secret, "security.selinux", SECRET.encode())
    return made


@pytest.mark.parametrize("process", bundles.PROCESSES.values(), ids=bundles.PROCESSES)
def test_a_context_holds_as_it_does_with_runc(tmp_path: Path, process: Json) -> None:
    made = _labelled(tmp_path, "sh", "-c", LOOK, **process)
    said = [call(runtime, made, "run", "--bundle", str(made), "box") for runtime in (OURS, RUNC)]
    assert [one.text.replace("\0", "") for one in said] == [FORBIDDEN, FORBIDDEN]
    assert said[0].status == said[1].status == 1


def test_a_context_holds_in_a_user_namespace(tmp_path: Path) -> None:
    made = _labelled(tmp_path, "sh", "-c", LOOK, edit=bundles.user_namespace)
    os.chown(made / "rootfs/secret", bundles.BASE, bundles.BASE)
    said = call(OURS, made, "run", "--bundle", str(made), "box")
    assert said.text.replace("\0", "") == FORBIDDEN


def test_files_of_its_mounts_have_the_label_of_mounts_as_with_runc(tmp_path: Path) -> None:
    """Of masked directories, too; a directory of message queues is labelled by itself."""

    def masks(json_of: Json) -> None:
        json_of["linux"]["maskedPaths"] = ["/proc/fs", "/proc/bus"]

    paths = ("dev", "dev/shm", "dev/pts", "dev/null", "dev/mqueue", "proc/fs", "proc/bus", "proc/1", "sys", "secret")
    made = _labelled(tmp_path, "sleep", "100", edit=masks)
    found = []
    for runtime in (OURS, RUNC):
        assert call(runtime, made, "run", "--detach", "--bundle", str(made), "box").status == 0
        try:
            root = f"/proc/{json.loads(call(runtime, made, 'state', 'box').text)['pid']}/root"
            found.append([_label(f"{root}/{path}") for path in paths if os.path.exists(f"{root}/{path}")])
        finally:
            call(runtime, made, "delete", "--force", "box")
    assert found[0] == found[1]
    assert found[0].count(FILES) >= 6
    assert found[0][-1] == SECRET


def _label(path: str) -> str:
    return os.getxattr(path, "security.selinux").decode().rstrip("\0")


def test_exec_has_the_context_of_the_container_or_its_own(tmp_path: Path) -> None:
    made = _labelled(tmp_path, "sleep", "100")
    assert call(OURS, made, "run", "--detach", "--bundle", str(made), "box").status == 0
    try:
        assert call(OURS, made, "exec", "box", "sh", "-c", LOOK).text.replace("\0", "") == FORBIDDEN
        own = call(OURS, made, "exec", "--process-label", BOX.replace(",c2", ""), "box", "sh", "-c", LOOK)
        assert own.text.startswith(BOX.replace(",c2", "\0"))
    finally:
        call(OURS, made, "delete", "--force", "box")


def test_the_session_keyring_is_one_that_the_context_may_use(tmp_path: Path) -> None:
    made = _labelled(tmp_path, "true")
    said = call(OURS, made, "--explain", "run", "--bundle", str(made), "box").text
    assert said.index(f'attr/"keycreate", "{BOX}"') < said.index("KEYCTL_JOIN_SESSION_KEYRING")


def test_what_is_no_context_of_the_policy_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    made = _labelled(tmp_path, "true", label="system_u:system_r:nowhere_t:s0")
    said = call(OURS, made, "create", "--bundle", str(made), "box")
    assert said.status == call(RUNC, made, "create", "--bundle", str(made), "box").status == 1
    assert "process.selinuxLabel 'system_u:system_r:nowhere_t:s0' is no context of this host's policy" in said.text
    assert list((tmp_path / "states").glob("box*")) == []
