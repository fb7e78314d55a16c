"""iptables: batches of rules for the packet filter of kernels without nftables, by the commands that its tables have.

On the ground, beside `nftables`; `iptables_rules` is who calls it. Ruled by iptables-restore(8), iptables-save(8).
"""

import os

from minicontainer.errors import Error

DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/local/sbin")
TABLES = "/proc/net/ip_tables_names"  # of this network namespace; not there until the kernel's part is loaded


def is_installed() -> bool:
    return bool(_program("restore"))


def has_table(name: str) -> bool:
    """Whether anyone in this network namespace uses the table."""
    try:
        with open(TABLES, encoding="ascii") as file:
            return name in file.read().split()
    except FileNotFoundError:
        return False


def restore(batch: str) -> None:
    """Do what a batch says, beside the rules of others; a table's part all or not at all."""
    _call("restore", "--wait", "5", "--noflush", said=batch)


def save(table: str) -> str:
    """The chains and rules of a table."""
    return _call("save", "-t", table)


def _call(verb: str, *words: str, said: str = "") -> str:
    import subprocess  # 3 ms that only kernels without nftables pay

    program = _program(verb)
    if not program:
        raise Error("published ports need iptables on this kernel; try: apt-get install iptables, or --network host")
    done = subprocess.run([program, *words], input=said, capture_output=True, text=True)
    if done.returncode:
        raise Error(f"iptables refused {said.strip() or verb!r}: {done.stderr.strip() or 'no reason given'}")
    return done.stdout


def _program(verb: str) -> str:
    """The one for the kernel's own tables: Debian's iptables-restore is for nftables."""
    for name in (f"iptables-legacy-{verb}", f"iptables-{verb}"):
        for directory in DIRECTORIES:
            if os.access(f"{directory}/{name}", os.X_OK):
                return f"{directory}/{name}"
    return ""
