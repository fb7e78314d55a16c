"""Sqlite: the store that keeps its promise in one file.

Stands on `store`. The records are in memory, one table holds them on disk; a transaction's changes go to a single
writer thread, which commits what has gathered meanwhile in one go (group commit). What `transact` acknowledges is on
the disk: WAL, synchronous=FULL. Ruled by sqlite.org/wal.html and sqlite.org/pragma.html.
"""

import asyncio
import os
import queue
import sqlite3
import threading
from typing import NamedTuple

import msgspec

from miniecs.errors import Error
from miniecs.store import KINDS, Change, MemoryStore

SCHEMA_VERSION = 1
GROUP = 1_000  # transactions in one commit, at most
SCHEMA = """
CREATE TABLE IF NOT EXISTS record (kind TEXT, key TEXT, value BLOB NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID
"""
PUT = "INSERT INTO record VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
DELETE = "DELETE FROM record WHERE kind = ? AND key = ?"


class Commit(NamedTuple):
    """One transaction on its way to the disk."""

    changes: tuple[Change, ...]
    done: "asyncio.Future[None]"
    loop: asyncio.AbstractEventLoop


class SqliteStore(MemoryStore):
    """Open it inside a running event loop's thread; `close` waits for the last commit."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._connection = _open(path)
        for kind, key, value in self._connection.execute("SELECT kind, key, value FROM record"):
            if kind in KINDS:
                self.records.set(kind, key, msgspec.json.decode(value, type=KINDS[kind].type))
        self._commits: queue.SimpleQueue[Commit | None] = queue.SimpleQueue()
        self._last: asyncio.Future[None] | None = None
        self.failure: BaseException | None = None
        self._writer = threading.Thread(target=self._write, name="sqlite-writer", daemon=True)
        self._writer.start()

    async def close(self) -> None:
        self._commits.put(None)
        await asyncio.to_thread(self._writer.join)
        self._connection.close()

    async def _commit(self, changes: tuple[Change, ...]) -> None:
        if changes:
            loop = asyncio.get_running_loop()
            self._last = loop.create_future()
            self._commits.put(Commit(changes, self._last, loop))
        elif self._last is None or self._last.done():
            return
        await asyncio.shield(self._last)  # a caller that goes away takes nothing back

    def _write(self) -> None:
        """The writer thread: gather, commit, tell."""
        ended = False
        while not ended:
            gathered = [self._commits.get()]
            while len(gathered) < GROUP and not self._commits.empty():
                gathered.append(self._commits.get())
            ended = None in gathered
            commits = [commit for commit in gathered if commit]
            try:
                if not self.failure:
                    self._apply(commits)
            except (sqlite3.Error, OSError) as error:
                # Memory is ahead of the disk now: nothing may be acknowledged any more, and the server must end.
                self.failure = error
            if commits:
                commits[0].loop.call_soon_threadsafe(self._tell, commits)

    def _apply(self, commits: list[Commit]) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        for commit in commits:
            for change in commit.changes:
                if change.after is None:
                    connection.execute(DELETE, (change.kind, change.key))
                else:
                    connection.execute(PUT, (change.kind, change.key, msgspec.json.encode(change.after)))
        connection.execute("COMMIT")

    def _tell(self, commits: list[Commit]) -> None:
        for commit in commits:
            if not self.failure:
                self._publish(commit.changes)
            if commit.done.cancelled():
                continue
            if self.failure:
                commit.done.set_exception(Error(f"the store cannot be written: {self.failure}"))
            else:
                commit.done.set_result(None)


def _open(path: str) -> sqlite3.Connection:
    """Raises Error if the file is another server's now, or another version's."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise Error(
                f"{path} was written by another version of miniecs (schema {version}, ours is {SCHEMA_VERSION})"
            )
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(SCHEMA)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        connection.close()
        if "locked" in str(error):
            raise Error(f"{path} is in use by another server; try: another --data") from None
        raise Error(f"{path}: {error}") from None
    except BaseException:
        connection.close()
        raise
    return connection
