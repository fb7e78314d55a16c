"""Inspection: the truth about containers, also after anything of ours was killed.

Stands between the records and `engine`. A record says what its writer knew last; a supervisor that is gone without
having written the end makes an orphan, which is mended by whoever looks first.
"""
# ruff: noqa: A002  # a container's id is called `id` here as in every document

import os
import signal
import time
from contextlib import suppress

from minicontainer import containers, files
from minicontainer.containers import EXITED, Container, Home, Network
from minicontainer.errors import ContainerNotFound
from minicontainer.runtime import operations

KILLED = 128 + signal.SIGKILL


def inspect(home: Home, id: str) -> Container:
    """The truth about one container, by name, id or the beginning of an id.

    Raises:
        ContainerNotFound: there is none.
    """
    container = containers.read(home, containers.find(home, id))
    return _mend(home, container) if _is_orphan(container) else container


def list_containers(home: Home) -> list[Container]:
    """Every container, the youngest first; not one that has ended and goes by itself."""
    found = []
    for container_id in containers.ids(home):
        with suppress(ContainerNotFound):  # half made, or removed meanwhile
            one = inspect(home, container_id)
            if one.status != EXITED or not one.options.remove:
                found.append(one)
    return sorted(found, key=lambda container: (-container.created, container.id))


def _is_orphan(container: Container) -> bool:
    return bool(container.supervisor_pid) and container.status != EXITED and not containers.alive(container)


def _mend(home: Home, container: Container) -> Container:
    """The supervisor was killed: take away what it held, and write down how the container ended."""
    with files.lock(f"{container.bundle}/mend.lock"):
        container = containers.read(home, container.id)
        if not _is_orphan(container):
            return container  # another was faster
        operations.delete(home.runtime, container.id, force=True)
        if container.network.namespace:
            _release(container.network)
        said = _said(container)
        container = containers.write(
            home,
            container._replace(
                status=EXITED,
                exit_code=KILLED if said is None else said,
                error="" if said is not None else "the supervisor was killed",
                finished_at=time.time(),
                pid=0,
            ),
            was=container.status,
        )
    if container.options.remove:
        containers.remove(home, container)
    return container


def _said(container: Container) -> int | None:
    """The exit status, if the supervisor came as far as to write it."""
    with suppress(FileNotFoundError), open(f"{container.bundle}/exit", "rb") as file:
        lines = file.read().split()
        return int(lines[-1]) if lines else None
    return None


def repair(home: Home) -> None:
    """Find the truth after anything was killed: mend every orphan, and take away what nobody has any more."""
    containers.prepare(home)
    list_containers(home)
    with files.lock(f"{home.data}/containers.lock"):
        for container_id in containers.ids(home):
            try:
                containers.read(home, container_id)
            except ContainerNotFound:
                files.remove_tree(home.container(container_id))
        for directory in ("names", "ids"):
            for link in os.listdir(f"{home.data}/{directory}"):
                path = f"{home.data}/{directory}/{link}"
                if not os.path.isdir(home.container(os.readlink(path))):
                    os.unlink(path)
        files.remove_tree(f"{home.data}/removed")
    from minicontainer.network import bridge  # why here: as below

    bridge.repair()


def _release(given: Network) -> None:
    """Not left to the kernel: it removes the links of a dead network namespace in its own time."""
    from minicontainer.network import bridge  # why here: who looks at containers seldom meets one that was killed

    bridge.release(given)
