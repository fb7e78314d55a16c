"""Layer workers: processes that unpack layers side by side, since one interpreter is one core.

Stands between `layer_blobs`, which unpacks one layer, and `snapshots`, which wants many. Workers are forked before this
process has threads, as fork(2) in a process with threads may deadlock; each gets one job at a time through a socket,
and with it the descriptor that holds the layer's lock, so that the lock is held as long as anybody writes.
A job and its answers are lines of JSON; file names in it are bytes as `os.fsdecode` has them.
"""

import json
import os
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from minicontainer.errors import Error
from minicontainer.image import layer_blobs
from minicontainer.image.changesets import Limits, Path
from minicontainer.image.layer_blobs import Progress
from minicontainer.image.store import Store
from minicontainer.linux import processes
from minicontainer.oci.image import Descriptor

TELL_SECONDS = 0.1  # between two words of a worker on how far it is
MESSAGE = 1 << 16


class Job(NamedTuple):
    """A layer to be unpacked into a directory, by who holds its lock."""

    descriptor: Descriptor
    diff_id: str
    staging: str
    lock: int


class Broken(Exception):
    """A worker failed by a bug of ours, or was killed."""


class _Worker:
    def __init__(self, pid: int, line: socket.socket) -> None:
        self.pid, self.line, self.heard = pid, line, b""
        self.job: Job | None = None


class Workers:
    """At most `count` processes; none at all when this process has threads: then jobs are done here, one by one."""

    def __init__(self, store: Store, count: int, limits: Limits, progress: Progress | None) -> None:
        self._store, self._limits, self._progress = store, limits, progress
        self._waiting: list[Job] = []
        self._done: dict[str, list[Path]] = {}
        self._workers: list[_Worker] = []
        if count > 1 and threading.active_count() == 1:
            for _ in range(min(count, os.cpu_count() or 1)):
                self._workers.append(self._start())

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid:
            theirs.close()
            return _Worker(pid, ours)
        try:
            processes.set_pdeathsig(signal.SIGKILL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            ours.close()
            for worker in self._workers:
                worker.line.close()
            _serve(theirs, self._store, self._limits)
        finally:
            os._exit(1)

    def submit(self, job: Job) -> None:
        """Have the layer unpacked; the largest of those that wait goes first."""
        self._waiting.append(job)
        self._waiting.sort(key=lambda one: -one.descriptor.size)
        self._hand_out()

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.job is None and self._waiting:
                worker.job = self._waiting.pop(0)
                message = [worker.job.descriptor.to_json(), worker.job.diff_id, worker.job.staging]
                socket.send_fds(worker.line, [json.dumps(message).encode() + b"\n"], [worker.job.lock])

    def turn(self, seconds: float = 0) -> None:
        """Hear what the workers say, waiting for it so long."""
        busy = {worker.line: worker for worker in self._workers if worker.job}
        for line in select.select(list(busy), [], [], seconds)[0]:
            self._hear(busy[line])
        self._hand_out()

    def finish(self) -> dict[str, list[Path]]:
        """Wait for all jobs: by diff_id, the directories that the layer only implies.

        Raises:
            Error, OSError: a layer could not be unpacked.
        """
        while not self._workers and self._waiting:
            job = self._waiting.pop(0)
            self._done[job.diff_id] = layer_blobs.unpack(
                self._store, job.descriptor, job.diff_id, job.staging, self._progress, self._limits
            )
        while any(worker.job for worker in self._workers):
            self.turn(60)
        return self._done

    def _hear(self, worker: _Worker) -> None:
        data = worker.line.recv(MESSAGE)
        if not data:
            raise Broken(f"a process that unpacked {worker.job and worker.job.diff_id} is gone")
        *lines, worker.heard = (worker.heard + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if "bytes" in answer and worker.job and self._progress:
                blob = worker.job.descriptor
                self._progress("unpack", blob.digest, answer["bytes"], blob.size)
            elif "implied" in answer and worker.job:
                self._done[worker.job.diff_id] = [tuple(map(os.fsencode, path)) for path in answer["implied"]]
                worker.job = None
            elif "error" in answer:
                raise Error(answer["error"])
            elif "errno" in answer:
                raise OSError(answer["errno"], os.strerror(answer["errno"]), answer["path"])
            elif "bug" in answer:
                raise Broken(answer["bug"])

    def close(self) -> None:
        """End the workers, at whatever they stand."""
        while self._workers:
            worker = self._workers.pop()
            if worker.job:
                os.kill(worker.pid, signal.SIGKILL)
            worker.line.close()  # an idle one ends by itself
            os.waitpid(worker.pid, 0)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(line: socket.socket, store: Store, limits: Limits) -> None:
    """A worker's life: a job, its answer, the next job."""

    def answer(words: dict[str, Any]) -> None:
        line.sendall(json.dumps(words).encode() + b"\n")

    while True:
        message, descriptors, _, _ = socket.recv_fds(line, MESSAGE, 1)
        if not message:
            os._exit(0)
        blob, diff_id, staging = json.loads(message)
        try:
            implied = layer_blobs.unpack(store, Descriptor.from_json(blob), diff_id, staging, _telling(answer), limits)
            answer({"implied": [[os.fsdecode(part) for part in path] for path in implied]})
        except Error as error:
            answer({"error": str(error)})
        except OSError as error:
            answer({"errno": error.errno or 0, "path": os.fsdecode(error.filename or staging)})
        except Exception:  # noqa: BLE001 - the edge of a process: the parent raises it again
            answer({"bug": traceback.format_exc()})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _telling(answer: Callable[[dict[str, Any]], None]) -> Progress:
    """Progress that is told seldom, and at the end."""
    told = [0.0]

    def progress(_event: str, _digest: str, done: int, total: int) -> None:
        if done >= total or time.monotonic() - told[0] > TELL_SECONDS:
            told[0] = time.monotonic()
            answer({"bytes": done})

    return progress
