"""Disk usage: what takes space, and how it is given back: `system df`, `system prune`, `image prune`.

Above `engine` and `build.storage`. Ruled by docker's commands of these names: their words, their output.
"""

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from minicontainer import engine, reports, volumes
from minicontainer.arguments import Parsed, UsageError
from minicontainer.build import storage
from minicontainer.build.storage import disk_size
from minicontainer.bundle import label_filter
from minicontainer.containers import CREATED, RUNNING, Container, Home
from minicontainer.errors import Error
from minicontainer.image import images
from minicontainer.image.store import Store
from minicontainer.image_commands import repaired
from minicontainer.logs import parse_time
from minicontainer.oci.image import Descriptor

HEADS = {"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Usage(NamedTuple):
    """One kind of thing: how many, how many of them in use, bytes in all, bytes that can be given back."""

    kind: str
    total: int
    active: int
    size: int
    reclaimable: int

    def row(self) -> dict[str, str]:
        share = f" ({100 * self.reclaimable // self.size}%)" if self.size else ""
        reclaimable = reports.size(self.reclaimable) + share
        return {
            "Type": self.kind,
            "TotalCount": str(self.total),
            "Active": str(self.active),
            "Size": reports.size(self.size),
            "Reclaimable": reclaimable,
        }


def usage(home: Home) -> list[Usage]:
    held = engine.list_containers(home)
    kept = storage.records(home)
    own = [record for record in kept if not record.shared]
    freed = sum(record.size for record in own)
    builds = Usage("Build Cache", len(kept), 0, freed, freed)
    return [_of_images(home, held), _of_containers(held), _of_volumes(home, held), builds]


def _of_images(home: Home, held: list[Container]) -> Usage:
    """Blobs, and layers unpacked, each counted once; what only images without a container need can go."""
    store = engine.open_store(home)
    used = {container.image_id for container in held}
    everything: dict[str, int] = {}
    needed: set[str] = set()
    active = set()
    for entry in store.entries():
        parts, config = _parts(home, store, entry)
        everything |= parts
        if config in used:
            active.add(entry.digest)
            needed |= set(parts)
    size = sum(everything.values())
    count = len({entry.digest for entry in store.entries()})
    return Usage("Images", count, len(active), size, size - sum(everything[part] for part in needed))


def _parts(home: Home, store: Store, entry: Descriptor) -> tuple[dict[str, int], str]:
    """What an image has on the disk, with its bytes; and its id."""
    found, config = {}, ""
    for digest in store.needed_by([entry]):
        if store.has(digest):
            found[digest] = store.size(digest)
    with suppress(Error):  # it is for another platform, or no image
        manifest = store.manifest(entry)
        config = manifest.config.digest
        for diff_id in store.config(manifest).diff_ids:
            directory = f"{home.data}/layers/{diff_id.replace(':', '/')}"
            found[directory] = disk_size(directory)
    return found, config


def _of_containers(held: list[Container]) -> Usage:
    sizes = {container.id: disk_size(container.upper) for container in held}
    ended = [container.id for container in held if container.status not in (RUNNING, CREATED)]
    freed = sum(sizes[name] for name in ended)
    return Usage("Containers", len(held), len(held) - len(ended), sum(sizes.values()), freed)


def _of_volumes(home: Home, held: list[Container]) -> Usage:
    sizes = {one.name: disk_size(one.path) for one in volumes.all_of(home)}
    unused = [size for name, size in sizes.items() if not volumes.users(held, name)]
    return Usage("Local Volumes", len(sizes), len(sizes) - len(unused), sum(sizes.values()), sum(unused))


# --- giving back -----------------------------------------------------------------------------------------------------


def prune_images(home: Home, unused: bool, filters: Iterable[str] = ()) -> list[str]:
    """Remove images that have no name, or with `unused` those that no container needs: lines as of `rmi`."""
    store = engine.open_store(home)
    held = engine.list_containers(home)
    used = {container.image_id for container in held}
    wanted = [_filter(text) for text in filters]
    lines = []
    for digest in dict.fromkeys(entry.digest for entry in store.entries()):
        entry = next(entry for entry in store.entries() if entry.digest == digest)
        named = any(other.digest == digest for _, other in store.names())
        _, config = _id_and_time(store, entry)
        if (named and not unused) or config in used or not all(_fits(store, entry, one) for one in wanted):
            continue
        lines += images.forget(store, digest)
    lines += [f"Deleted: {digest}" for digest in images.sweep(home, held)]
    return lines


def _id_and_time(store: Store, entry: Descriptor) -> tuple[float, str]:
    with suppress(Error):
        manifest = store.manifest(entry)
        created = store.config(manifest).created.replace("+00:00", "Z")
        return (parse_time(created) if created.endswith("Z") else 0.0), manifest.config.digest
    return 0.0, ""


def _filter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    ours = equals and (name == "label" or (name == "until" and value[:-1].isdecimal() and value[-1] in UNITS))
    if not ours:
        raise UsageError(f"--filter {text}: until=24h or label=KEY[=VALUE] is expected")
    return name, value


def _fits(store: Store, entry: Descriptor, wanted: tuple[str, str]) -> bool:
    name, value = wanted
    if name == "until":
        return _id_and_time(store, entry)[0] < time.time() - int(value[:-1]) * UNITS[value[-1]]
    with suppress(Error):
        return label_filter(store.config(store.manifest(entry)).config.labels, value)
    return False


# --- the commands ----------------------------------------------------------------------------------------------------


def system_df(home: Home, parsed: Parsed) -> int:
    reports.show([one.row() for one in usage(home)], HEADS, parsed.format, sys.stdout)
    return 0


def image_prune(home: Home, parsed: Parsed) -> int:
    what = "all images without at least one container associated to them" if parsed.all else "all dangling images"
    if not agreed(parsed.force, [what]):
        return 0
    repaired(home)
    before = _total(home)
    _tell("Deleted Images", prune_images(home, parsed.all, parsed.filter))
    print(f"Total reclaimed space: {reports.size(max(0, before - _total(home)))}")
    return 0


def system_prune(home: Home, parsed: Parsed) -> int:
    every = "all images without at least one container associated to them" if parsed.all else "all dangling images"
    if not agreed(parsed.force, ["all stopped containers", every, "unused build cache"]):
        return 0
    engine.repair(home)
    repaired(home)
    before = _total(home)
    ended = [one for one in engine.list_containers(home) if one.status not in (RUNNING, CREATED)]
    for container in ended:
        engine.remove(home, container.id)
    _tell("Deleted Containers", [container.id for container in ended])
    count, _ = storage.prune(home, everything=parsed.all)
    _tell("Deleted build cache objects", [str(count)] if count else [])
    _tell("Deleted Images", prune_images(home, parsed.all))
    print(f"Total reclaimed space: {reports.size(max(0, before - _total(home)))}")
    return 0


def _total(home: Home) -> int:
    return sum(one.size for one in usage(home))


def agreed(force: bool, what: list[str]) -> bool:
    if force:
        return True
    sys.stdout.write("WARNING! This will remove:\n" + "".join(f"  - {one}\n" for one in what))
    sys.stdout.write("Are you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    answer = sys.stdin.readline().strip().lower()
    if not answer:
        print()
    return answer in ("y", "yes")


def _tell(title: str, lines: list[str]) -> None:
    if lines:
        print(f"{title}:\n" + "".join(f"{line}\n" for line in lines))
