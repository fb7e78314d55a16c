"""Other worlds to test in: a pure cgroup v2 machine with a kernel of its own, by user-mode-linux, in seconds."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNEL = "/usr/bin/linux.uml"


def version2(
    command: str, directory: Path, seconds: float, systemd: bool = False, kernel: tuple[str, ...] = ()
) -> tuple[str, int]:
    """Run a shell command of this checkout in a user-mode-linux machine whose cgroups are all v2.

    `directory` takes its files; the first process is a script, or systemd; `kernel`: more words for its kernel. Returns
    what the console showed, and the exit status (-1: the command did not end).
    """
    disk, script = directory / "disk.ext4", directory / "command.sh"
    script.write_text(command + "\n")
    with disk.open("wb") as file:
        file.truncate(1 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
    machine = [
        KERNEL,
        "mem=768M",
        f"uml_dir={directory}/",
        f"ubd0={disk}",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        "quiet",
    ]
    machine += [
        "con=null",
        "con0=null,fd:1",
        f"init={ROOT}/tests/version2_init.sh",
        f"command={script}",
        f"directory={ROOT}",
        f"first={'systemd' if systemd else 'script'}",
        *kernel,
    ]
    # UML has a process for each of the guest's: they are ended as the session that they are.
    with subprocess.Popen(
        machine, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=False)
            said, _ = process.communicate()
    console = said.decode(errors="replace").replace("\r", "")
    status = re.search(r"^exit status (\d+)$", console, re.MULTILINE)
    return console, int(status[1]) if status else -1
