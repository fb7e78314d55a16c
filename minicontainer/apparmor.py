"""AppArmor: the profile that a container has unless it asks for another, loaded into the kernel when first needed.

Stands between `bundle_files` and apparmor_parser(8). Ruled by apparmor.d(5). It is one more wall behind those that each
host has: what it forbids, a container with all of its default walls cannot do either.
"""

import os

from minicontainer.errors import Error
from minicontainer.linux import procfs
from minicontainer.oci.runtime import Process
from minicontainer.runtime import labels

NAME = "minicontainer-default"
_LOADED = "/sys/kernel/security/apparmor/profiles"
_PARSER = "/sbin/apparmor_parser"
# `deny` goes before what is allowed. What is left to write below /proc/sys/kernel is the ipc and uts namespaces' own.
PROFILE = f"""
profile {NAME} flags=(attach_disconnected,mediate_deleted) {{
  file, network, capability, umount,
  signal (receive) peer=unconfined,
  signal (send, receive) peer={NAME},
  ptrace (read, trace, readby, tracedby) peer={NAME},

  deny mount,
  deny /proc/{{acpi,asound,bus,driver,fs,irq,scsi,tty}}/** wkl,
  deny /proc/{{kcore,keys,sysrq-trigger,timer_list}} rwkl,
  deny /proc/sys/{{abi,debug,dev,fs,user,vm}}/** wkl,
  deny /proc/sys/kernel/{{[^dhms]**,d[^o]**,h[^o]**,ho[^s]**,m[^s]**,ms[^g]**,s[^eh]**,se[^m]**,sh[^m]**}} wkl,
  deny /sys/{{[^f]**,f[^s]**,fs/[^c]**,fs/c[^g]**}} wkl,
  deny /sys/firmware/** rwkl,
  deny /sys/devices/virtual/powercap/** rwkl,
  deny /sys/kernel/security/** rwkl,
}}
"""


def confined(process: Process) -> Process:
    """The process with our profile, where the host can have it and nothing else is asked for.

    Raises:
        Error: the kernel does not take the profile.
    """
    if process.apparmor_profile or not labels.has_apparmor() or not _may_load():
        return process
    if not _is_loaded():
        import subprocess  # once in a boot

        done = subprocess.run(
            [_PARSER, "--replace", "--skip-cache"], input=PROFILE, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = " ".join(done.stderr.split())
            raise Error(f"AppArmor does not take {NAME}: {said}; try: --security-opt apparmor=unconfined")
    return process._replace(apparmor_profile=NAME)


def _may_load() -> bool:
    """Root of the host, with the package `apparmor`; a person's containers have none, as with docker and podman."""
    return os.geteuid() == 0 and not procfs.in_user_namespace() and os.access(_PARSER, os.X_OK)


def _is_loaded() -> bool:
    try:
        with open(_LOADED, encoding="utf-8", errors="replace") as file:
            return any(line.startswith(f"{NAME} ") for line in file)
    except OSError:  # no securityfs is mounted: load it again, which changes nothing
        return False
