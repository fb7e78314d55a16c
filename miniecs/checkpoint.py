"""Checkpoint: what an agent keeps on disk, so that it goes on where it was killed.

Stands between `transitions` (a task's record) and `agent`. One small file for the agent and one for each task, each
replaced as a whole: rename(2). What was promised to the control plane is on the disk before the promise: fsync(2).
"""

import fcntl
import os
from pathlib import Path

import msgspec

from miniecs.errors import Error
from miniecs.journal import warn
from miniecs.transitions import TaskRecord

REMEMBERED = 1000  # stopped tasks: a task id runs at most once, also when an old payload is late


class Identity(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Who this container instance is to the control plane."""

    cluster: str
    client_token: str
    container_instance_arn: str = ""
    finished: tuple[str, ...] = ()  # ARNs of tasks that have stopped and are forgotten, newest last


class Checkpoint:
    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self.tasks = self.directory / "tasks"
        self.tasks.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = open(self.directory / "agent.lock", "ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Error(f"another agent uses {directory}; try: a --data directory for each") from None

    def close(self) -> None:
        """Let another have it."""
        self._lock.close()

    def identity(self) -> Identity | None:
        try:
            return msgspec.json.decode((self.directory / "agent.json").read_bytes(), type=Identity)
        except FileNotFoundError:
            return None

    def save_identity(self, identity: Identity) -> None:
        _write(self.directory / "agent.json", msgspec.json.encode(identity), durable=True)

    def records(self) -> list[TaskRecord]:
        """What was running. A record that a power cut left broken is no more: its containers are none either."""
        found = []
        for path in sorted(self.tasks.glob("*.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=TaskRecord))
            except msgspec.DecodeError as error:
                warn("task record broken, passed over", file=path, error=error)
                path.unlink()
        return found

    def save(self, record: TaskRecord, durable: bool = False) -> None:
        """Keep a task's record. Not durable, it outlives the agent but not the computer, as its containers do."""
        _write(self._path(record), msgspec.json.encode(record), durable)

    def forget(self, record: TaskRecord) -> None:
        self._path(record).unlink(missing_ok=True)

    def _path(self, record: TaskRecord) -> Path:
        return self.tasks / f"{record.task.id}.json"


def remember(identity: Identity, arn: str) -> Identity:
    """The identity with one more stopped task; the oldest are dropped."""
    return msgspec.structs.replace(identity, finished=(*identity.finished, arn)[-REMEMBERED:])


def _write(path: Path, data: bytes, durable: bool) -> None:
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(descriptor)
    temporary.rename(path)
    if durable:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
