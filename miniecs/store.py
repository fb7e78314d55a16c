"""Store: what a store promises, and the one that keeps its records in memory.

Stands on `model`; `api` and `controller` write through it, everything reads through it. The promise is narrow, so that
other engines can keep it: a transaction is a function of a consistent view whose writes all happen or none do; when
`transact` returns they are durable; a watch then sees them in order. Ruled by nothing but this page.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from miniecs.model import Cluster, ContainerInstance, Service, Task, TaskDefinition, Value

T = TypeVar("T")
R = TypeVar("R")


class Kind(msgspec.Struct, Generic[T], frozen=True):
    """A kind of record: its name in the store, and its class. A key is `PARTITION/REST`, or has no slash."""

    name: str
    type: type[T]


class Decision(Value, frozen=True, kw_only=True):
    """Why a task stands where it stands, or why it stands nowhere: what `placement` found, as it was then."""

    at: float
    placement: dict[str, Any]


class Token(Value, frozen=True, kw_only=True):
    """A client token that was used, so that the same request again has the same answer."""

    digest: str
    arns: tuple[str, ...]
    created_at: float


class Counter(Value, frozen=True, kw_only=True):
    value: int = 0


class JoinToken(Value, frozen=True, kw_only=True):
    """What an agent may trade once for credentials: only the digest of its secret half is kept."""

    digest: str
    created_at: float
    expires_at: float
    revoked: bool = False


class InstanceKey(Value, frozen=True, kw_only=True):
    """The credentials that an agent got for a join token. The secret is kept, since signatures are verified with it."""

    secret_access_key: str
    instance_name: str
    token_id: str
    created_at: float
    container_instance_arn: str = ""  # the one it may act for; empty until that is registered


# What is kept, and under which key.
CLUSTERS = Kind("cluster", Cluster)  # NAME
INSTANCES = Kind("container-instance", ContainerInstance)  # CLUSTER/ID
TASK_DEFINITIONS = Kind("task-definition", TaskDefinition)  # FAMILY/REVISION, eight digits
SERVICES = Kind("service", Service)  # CLUSTER/NAME
TASKS = Kind("task", Task)  # CLUSTER/ID, until it is STOPPED
STOPPED_TASKS = Kind("stopped-task", Task)  # CLUSTER/ID
DECISIONS = Kind("decision", Decision)  # CLUSTER/ID of a task, CLUSTER/service:NAME
TOKENS = Kind("token", Token)  # OPERATION/CLUSTER/TOKEN
COUNTERS = Kind("counter", Counter)  # NAME
JOIN_TOKENS = Kind("join-token", JoinToken)  # ID, the token's first half
INSTANCE_KEYS = Kind("instance-key", InstanceKey)  # ACCESS KEY ID
KINDS: dict[str, Kind[Any]] = {
    kind.name: kind
    for kind in (
        CLUSTERS,
        INSTANCES,
        TASK_DEFINITIONS,
        SERVICES,
        TASKS,
        STOPPED_TASKS,
        DECISIONS,
        TOKENS,
        COUNTERS,
        JOIN_TOKENS,
        INSTANCE_KEYS,
    )
}


class Change(NamedTuple):
    """One record that a transaction changed; `before` or `after` is None if it was not there."""

    kind: str
    key: str
    before: Any
    after: Any


class Transaction:
    """A consistent view, and the writes of one transaction on it."""

    def __init__(self, records: "Records") -> None:
        self._records = records
        self.changes: list[Change] = []

    def get(self, kind: Kind[T], key: str) -> T | None:
        found: T | None = self._records.partition(kind.name, key).get(key)
        return found

    def list(self, kind: Kind[T], partition: str = "") -> list[T]:
        """The records of one partition, or all, in the order of their keys."""
        return [value for _, value in self.items(kind, partition)]

    def items(self, kind: Kind[T], partition: str = "") -> Sequence[tuple[str, T]]:
        """The same with their keys."""
        return sorted(self._records.items(kind.name, partition), key=lambda item: item[0])

    def put(self, kind: Kind[T], key: str, value: T) -> None:
        self._change(kind.name, key, value)

    def delete(self, kind: Kind[Any], key: str) -> None:
        """Remove a record; an absent one is no error."""
        self._change(kind.name, key, None)

    def next(self, counter: str) -> int:
        """The next number of a counter that never goes back."""
        value = (self.get(COUNTERS, counter) or Counter()).value + 1
        self.put(COUNTERS, counter, Counter(value=value))
        return value

    def undo(self) -> None:
        """Take the writes back, the last one first."""
        while self.changes:
            change = self.changes.pop()
            self._records.set(change.kind, change.key, change.before)

    def _change(self, kind: str, key: str, value: Any) -> None:
        before = self._records.set(kind, key, value)
        if before is not value:
            self.changes.append(Change(kind, key, before, value))


class Watch:
    """The durable changes since it was made, in their order."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Sequence[Change]] = asyncio.Queue()

    def publish(self, changes: Sequence[Change]) -> None:
        self._queue.put_nowait(changes)

    async def changes(self) -> list[Change]:
        """All changes that came since the last call; waits for one."""
        found = list(await self._queue.get())
        while not self._queue.empty():
            found += self._queue.get_nowait()
        return found


class Store(Protocol):
    """The promise."""

    async def transact(self, decide: Callable[[Transaction], R]) -> R:
        """Call `decide` with a transaction; commit what it wrote unless it raises. May call it again on a conflict."""
        ...

    async def read(self, decide: Callable[[Transaction], R]) -> R:
        """The same for a function that writes nothing; what it saw is durable when this returns."""
        ...

    def watch(self) -> Watch: ...

    def unwatch(self, watch: Watch) -> None: ...

    async def close(self) -> None: ...


class Records:
    """Records in memory by kind, partition and key: the state of a store, without durability."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in KINDS}

    def partition(self, kind: str, key: str) -> dict[str, Any]:
        return self._kinds[kind].get(key.partition("/")[0], {})

    def items(self, kind: str, partition: str) -> Iterator[tuple[str, Any]]:
        partitions = self._kinds[kind]
        for name in [partition] if partition else list(partitions):
            yield from partitions.get(name, {}).items()

    def set(self, kind: str, key: str, value: Any) -> Any:
        """Put a record, or remove it with None; the one that was there."""
        partitions, name = self._kinds[kind], key.partition("/")[0]
        if value is None:
            before = partitions.get(name, {}).pop(key, None)
            if not partitions.get(name, True):
                del partitions[name]
            return before
        records = partitions.setdefault(name, {})
        before = records.get(key)
        records[key] = value
        return before


class MemoryStore:
    """Keeps the promise but for durability: for tests and the simulator; and the ground of the durable ones."""

    def __init__(self) -> None:
        self.records = Records()
        self._watches: list[Watch] = []

    async def transact(self, decide: Callable[[Transaction], R]) -> R:
        transaction = Transaction(self.records)
        try:
            result = decide(transaction)  # synchronous: nothing else runs meanwhile, so transactions are serial
        except BaseException:
            transaction.undo()
            raise
        await self._commit(tuple(transaction.changes))
        return result

    async def read(self, decide: Callable[[Transaction], R]) -> R:
        return await self.transact(decide)

    def watch(self) -> Watch:
        watch = Watch()
        self._watches.append(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        self._watches.remove(watch)

    async def close(self) -> None:
        """Nothing is open."""

    async def _commit(self, changes: tuple[Change, ...]) -> None:
        """Make the changes durable, then show them. Without changes: wait until what was seen is durable."""
        self._publish(changes)

    def _publish(self, changes: tuple[Change, ...]) -> None:
        if changes:
            for watch in self._watches:
                watch.publish(changes)
