"""Storage: what builds keep on the disk for the next ones, and how it is given back.

Above `cache` (steps), `cache_mounts` and `remotes` (downloads): `builder prune` and `builder du`. Never in use:
a step that a build is about to take is read whole before, and its layer is kept by the session of the store.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from minicontainer import engine, files, reports
from minicontainer.arguments import Parsed, UsageError
from minicontainer.build import cache as build_cache
from minicontainer.build import cache_mounts
from minicontainer.build.cache import Entry
from minicontainer.containers import Home
from minicontainer.image import images, snapshots
from minicontainer.run_options import size

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Record(NamedTuple):
    """One thing that is kept. `shared`: an image has the same layer, so that nothing is given back."""

    kind: str
    name: str
    size: int
    used: float
    shared: bool
    remove: Callable[[], bool]


def records(home: Home) -> list[Record]:
    """What there is, the longest unused first."""
    needed = {diff_id for _, _, _, config in images.images(home) for diff_id in config.diff_ids}
    found = [_step(home, entry, needed) for entry in build_cache.entries(home.data)]
    found += [_mount(cache) for cache in cache_mounts.caches(home.data)]
    found += list(_downloads(f"{home.data}/cache/build/remote"))
    return sorted(found, key=lambda record: (record.used, record.name))


def _step(home: Home, entry: Entry, needed: Iterable[str]) -> Record:
    diff_id = entry.layer.diff_id
    directory = snapshots.diff_directory(home.data, diff_id) if diff_id else ""
    return Record("step", diff_id, disk_size(directory), entry.used, diff_id in needed, partial(_unlink, entry.path))


def _mount(cache: cache_mounts.CacheMount) -> Record:
    size = disk_size(cache.directory)
    return Record("mount", cache.id, size, cache.used, False, partial(cache_mounts.remove, cache))


def _downloads(directory: str) -> Iterator[Record]:
    with suppress(FileNotFoundError):
        for name in os.listdir(directory):
            path = f"{directory}/{name}"
            found = os.lstat(path)
            yield Record("download", name, found.st_blocks * 512, found.st_mtime, False, partial(_unlink, path))


def _unlink(path: str) -> bool:
    with suppress(FileNotFoundError):
        os.unlink(path)
    return True


def disk_size(directory: str) -> int:
    """The bytes of disk that a directory takes; none when there is none."""
    total = 0
    for parent, directories, names in os.walk(directory) if directory else ():
        for name in [*directories, *names]:
            with suppress(FileNotFoundError):
                total += os.lstat(f"{parent}/{name}").st_blocks * 512
    return total


def prune(
    home: Home, *, everything: bool = False, older: float = 0, keep: int = 0, now: float | None = None
) -> tuple[int, int]:
    """Remove what was not used for `older` seconds, until at most `keep` bytes are left; how many, and their bytes.

    Steps whose layers are an image's stay, unless `everything` is to go.
    """
    found = records(home)
    left = sum(record.size for record in found if not record.shared)
    count, freed = 0, 0
    limit = (time.time() if now is None else now) - older
    for record in found:
        if record.used > limit or (keep and left <= keep) or (record.shared and not everything):
            continue
        if record.remove():
            count += 1
            freed += 0 if record.shared else record.size
            left -= 0 if record.shared else record.size
    if everything and not older and not keep:
        for name in ("reasons", "digests"):
            files.remove_tree(f"{home.data}/cache/build/{name}")
    images.sweep(home, engine.list_containers(home))
    return count, freed


# --- the commands ----------------------------------------------------------------------------------------------------


def builder(home: Home, parsed: Parsed) -> int:
    """`minicontainer builder prune|du`."""
    match parsed.words[0]:
        case "prune":
            older = sum(_until(text) for text in parsed.filter)
            keep = size("--keep-storage", parsed.keep_storage or "0")
            count, freed = prune(home, everything=parsed.all, older=older, keep=keep)
            print(f"removed {count} {'entry' if count == 1 else 'entries'}, {reports.size(freed)}")
        case "du":
            _print_usage(records(home))
        case word:
            raise UsageError(f"builder: {word} is none of prune, du; try: minicontainer builder --help")
    return 0


def _until(text: str) -> float:
    """`until=24h`: seconds."""
    name, _, value = text.partition("=")
    if name != "until" or not value[:-1].isdecimal() or value[-1] not in UNITS:
        raise UsageError(f"--filter {text}: until=24h is expected, with one of {' '.join(UNITS)}")
    return int(value[:-1]) * UNITS[value[-1]]


def _print_usage(found: list[Record]) -> None:
    for record in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.used))
        note = "shared with an image" if record.shared else ""
        print(f"{record.kind:9}{reports.size(record.size):>9}  {used}  {record.name[:40]:40}  {note}".rstrip())
    whole = sum(record.size for record in found)
    own = sum(record.size for record in found if not record.shared)
    print(f"in all {reports.size(whole)}, of which {reports.size(own)} would be given back")
