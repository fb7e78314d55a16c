"""Bundle files: config.json, and the files of /etc that a container has of its own, written beside its rootfs.

Stands between `bundle`, which decides what is in them, and `supervisor`, which has mounted the rootfs: who the process
runs as is looked up there. Ruled by runtime-spec, bundle.md.
"""

import os

from minicontainer import apparmor, bundle, files, json_documents
from minicontainer.bundle import Account
from minicontainer.containers import Container
from minicontainer.linux import flags, syscalls
from minicontainer.oci.image import ContainerConfig
from minicontainer.oci.runtime import ConsoleSize, spec_to_json
from minicontainer.runtime import seccomp


def write(container: Container, console_size: ConsoleSize | None) -> Account:
    """Write them all; who the process runs as."""
    place, options = container.bundle, container.options
    with open(f"{place}/image.json", "rb") as file:
        image = ContainerConfig.from_json(json_documents.loads(file.read()))
    people, groups = (read_inside(f"{place}/rootfs", f"etc/{name}") for name in ("passwd", "group"))
    account = bundle.account(options.user or image.user, people, groups)
    profile = seccomp.default_profile() if bundle.security(options).confined else None
    spec = bundle.spec(container, image, account, profile)
    process = apparmor.confined(spec.process)
    if options.tty:
        process = process._replace(console_size=console_size)
    spec = spec._replace(process=process)
    files.write(f"{place}/config.json", json_documents.dumps(spec_to_json(spec)))
    write_etc(container)
    return account


def write_etc(container: Container) -> None:
    """In place, not by rename: the container's mounts are of these very files."""
    options = container.options
    texts = {
        "hosts": bundle.hosts(container, _text("/etc/hosts") if options.network == "host" else ""),
        "hostname": bundle.hostname(container) + "\n",
        "resolv.conf": bundle.resolv_conf(_text("/etc/resolv.conf"), options),
    }
    for name, text in texts.items():
        descriptor = os.open(f"{container.bundle}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)


def read_inside(rootfs: str, path: str, limit: int = 1 << 20) -> str:
    """A text file of a root file system that nobody trusts: its symbolic links lead nowhere else; absent is empty."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = syscalls.openat2(root, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, resolve=flags.RESOLVE_IN_ROOT)
        with open(found, "rb") as file:
            return (file.read(limit) or b"").decode(errors="replace")
    except OSError:  # absent, or something that is no file, or a pipe: as if the image had none
        return ""
    finally:
        os.close(root)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""
