"""Context: a directory that COPY and ADD take from, and what of it they take.

Between `patterns` (what is left out) and `copying` (which puts it in a rootfs). Nothing outside the directory is ever
named: `..` and symbolic links are resolved inside it, as if it were the root. Ruled by the Dockerfile reference, COPY.
"""

import errno
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from minicontainer import files
from minicontainer.build.patterns import Ignore, is_wildcard, matching, regex
from minicontainer.linux.flags import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from minicontainer.linux.syscalls import openat2

MAX_LINKS = 40  # as in path_resolution(7)
RACY_NS = 100_000_000  # a file changed this recently may change again without a new ctime: the clock's tick


class Entry(NamedTuple):
    """A file, directory or link below the tree's root (`source`) and below what COPY names (`target`)."""

    source: str
    target: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    signature: str  # changes whenever the content may have changed
    link: str = ""


class Source(NamedTuple):
    """One thing that COPY names: its own entry first, then all below it. `name` is as written."""

    name: str
    entries: tuple[Entry, ...]
    is_packed: bool = False  # ADD does not unpack it, though it is an archive

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.entries[0].mode)


class Digests:
    """Digests of contents by the signature of their files, kept in a file between builds."""

    def __init__(self, path: str = "") -> None:
        self.path, self.known, self.used = path, dict[str, str](), dict[str, str]()
        if path and os.path.exists(path):
            with suppress(ValueError), open(path, encoding="ascii") as file:  # half written before a power cut
                self.known = dict(json.load(file))

    def of(self, tree: "Tree", entry: Entry) -> str:
        digest = self.known.get(entry.signature) or self.used.get(entry.signature)
        if digest is None:
            with open(tree.open(entry), "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        changed = int(entry.signature.rpartition(":")[2])
        if time.time_ns() - changed > RACY_NS:
            self.used[entry.signature] = digest
        return digest

    def save(self) -> None:
        if self.path and self.used != self.known:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            files.write(self.path, json.dumps(self.used).encode())


class Tree:
    """A directory opened as if it were a root: a build context, or the rootfs of another stage."""

    def __init__(self, directory: str, ignore: Ignore | None = None) -> None:
        self.descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.ignore = ignore or Ignore()

    def close(self) -> None:
        os.close(self.descriptor)

    def sources(self, word: str, exclude: Ignore | None = None, parents: bool = False) -> list[Source]:
        """What `word`, which may have wildcards, names, but what `exclude` matches, seen from the source.

        With `parents` it is one source, a directory: where the path has `/./`, else the root, with what is below.

        Raises:
            FileNotFoundError: nothing has that name, and it has no wildcard.
        """
        if parents:
            found = [self._with_parents(word)]
        elif is_wildcard(word):
            found = [self._source(path) for path in self._matches(word)]
        else:
            found = [self._source(os.path.normpath(f"/{word}"))]
        return found if exclude is None else [kept for source in found if (kept := _without(source, exclude))]

    def open(self, entry: Entry) -> int:
        """A descriptor of the file; a directory on its way that has become a link since is an error."""
        return self._open(entry.source, os.O_RDONLY)

    def resolve(self, path: str) -> str:
        """The path without links, `.` and `..`, relative to the root; nothing resolves to outside of it."""
        pending, done, links = path.split("/")[::-1], list[str](), 0
        while pending:
            name = pending.pop()
            if name == "..":
                del done[-1:]
            elif name not in ("", "."):
                done.append(name)
                if stat.S_ISLNK(self._stat("/".join(done)).st_mode):
                    links += 1
                    target = os.readlink("/".join(done), dir_fd=self.descriptor)
                    done = [] if target.startswith("/") else done[:-1]
                    pending += target.split("/")[::-1]
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        return "/".join(done) or "."

    def _stat(self, path: str) -> os.stat_result:
        return os.stat(path, dir_fd=self.descriptor, follow_symlinks=False)

    def _source(self, path: str) -> Source:
        resolved = self.resolve(path)
        entries = tuple(self._walk(resolved, "", self._stat(resolved)))
        if not entries:
            raise FileNotFoundError(errno.ENOENT, "left out by .dockerignore", path.lstrip("/"))
        return Source(name=os.path.basename(path), entries=entries)

    def _with_parents(self, word: str) -> Source:
        """`dir/./sub/*.c`: from `dir`, what `sub/*.c` matches, and the directories on the way there."""
        pivot, found, rest = f"/{word}".rpartition("/./")
        if not found:
            pivot, rest = "/", word
        rest = os.path.normpath(f"/{rest}").lstrip("/") or "."
        pattern = re.compile("(?:.*)" if rest == "." else f"{regex(rest)}(?:/.*)?", re.DOTALL)
        top = self.resolve(os.path.normpath(pivot))
        entries = list(self._walk(top, "", self._stat(top)))
        matched = {entry.target for entry in entries if entry.target and pattern.fullmatch(entry.target)}
        if not matched and not is_wildcard(rest):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), word)
        wanted = {""} | matched
        for path in matched:
            while path := os.path.dirname(path):
                wanted.add(path)
        return Source(name=os.path.basename(pivot), entries=tuple(e for e in entries if e.target in wanted))

    def _walk(self, path: str, target: str, status: os.stat_result) -> Iterator[Entry]:
        """The entry of `path` and of all below it, in the order of their names, but what is left out."""
        left_out = path != "." and self.ignore.excludes(path)
        if not stat.S_ISDIR(status.st_mode):
            if not left_out and not stat.S_ISSOCK(status.st_mode):
                yield self._entry(path, target, status)
            return
        if left_out and not self.ignore.has_exceptions:
            return
        below = list(self._walk_below(path, target))
        if below or not left_out:
            yield self._entry(path, target, status)
            yield from below

    def _walk_below(self, path: str, target: str) -> Iterator[Entry]:
        for name, status in self._children(path):
            yield from self._walk(name if path == "." else f"{path}/{name}", f"{target}/{name}".lstrip("/"), status)

    def _children(self, path: str) -> list[tuple[str, os.stat_result]]:
        directory = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(directory) as scanned:
                return sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in scanned)
        finally:
            os.close(directory)

    def _open(self, path: str, flags: int) -> int:
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW
        return openat2(self.descriptor, path, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)

    def _entry(self, path: str, target: str, status: os.stat_result) -> Entry:
        is_link = stat.S_ISLNK(status.st_mode)
        return Entry(
            source=path,
            target=target,
            mode=status.st_mode,
            uid=status.st_uid,
            gid=status.st_gid,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            signature=f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}",
            link=os.readlink(path, dir_fd=self.descriptor) if is_link else "",
        )

    def _matches(self, word: str) -> list[str]:
        """The paths that a word with wildcards matches, component by component."""
        found = ["/"]
        for component in os.path.normpath(f"/{word}").lstrip("/").split("/"):
            found = [f"{parent.rstrip('/')}/{name}" for parent in found for name in self._names(parent, component)]
        return [path for path in found if self._is_seen(path)]

    def _names(self, parent: str, component: str) -> list[str]:
        try:
            resolved = self.resolve(parent)
            if not stat.S_ISDIR(self._stat(resolved).st_mode):
                return []
        except FileNotFoundError:
            return []
        return matching(component, [name for name, _ in self._children(resolved)])

    def _is_seen(self, path: str) -> bool:
        try:
            resolved = self.resolve(path)
            return next(self._walk(resolved, "", self._stat(resolved)), None) is not None
        except FileNotFoundError:  # a link to nothing
            return False


def _without(source: Source, exclude: Ignore) -> Source | None:
    """What is left of a source; a directory stays for what is left in it, and when it is not excluded itself."""
    if not source.is_directory:
        return None if exclude.excludes(source.name) else source
    kept: list[Entry] = []
    needed: set[str] = set()
    for entry in reversed(source.entries):
        if not entry.target or entry.target in needed or not exclude.excludes(entry.target):
            kept.append(entry)
            needed.add(os.path.dirname(entry.target))
    return source._replace(entries=tuple(reversed(kept)))


def fingerprint(tree: Tree, sources: Iterable[Source], digests: Digests, owners: bool = False) -> str:
    """A digest of all that COPY would write: names, kinds, modes, contents; not when a file was changed."""
    whole = hashlib.sha256()
    for source in sources:
        whole.update(f"source {source.name!r} {source.is_directory}\n".encode())
        for entry in source.entries:
            content = digests.of(tree, entry) if stat.S_ISREG(entry.mode) else entry.link
            owner = f"{entry.uid}:{entry.gid}" if owners else ""
            whole.update(f"{entry.target!r} {entry.mode:o} {owner} {content!r}\n".encode())
    return whole.hexdigest()
