"""What a store promises, kept by the one in memory and the one in a file; and a file after kill -9."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniecs.errors import Error
from miniecs.model import Cluster
from miniecs.sqlite import SqliteStore
from miniecs.store import CLUSTERS, COUNTERS, TOKENS, Change, Counter, MemoryStore, Store, Token, Transaction

Scenario = Callable[[Store], Awaitable[None]]


def token(name: str) -> Token:
    return Token(digest=name, arns=(name,), created_at=1.0)


def keep(*names: str) -> Callable[[Transaction], None]:
    def decide(transaction: Transaction) -> None:
        for name in names:
            transaction.put(TOKENS, name, token(name))

    return decide


def names(transaction: Transaction, partition: str = "") -> list[str]:
    return [key for key, _ in transaction.items(TOKENS, partition)]


async def a_transaction_sees_what_it_wrote_and_so_do_those_after(store: Store) -> None:
    def decide(transaction: Transaction) -> list[str]:
        keep("a/1", "b/1")(transaction)
        transaction.delete(TOKENS, "a/1")
        transaction.delete(TOKENS, "never/there")
        return names(transaction)

    assert await store.transact(decide) == ["b/1"]
    assert await store.read(names) == ["b/1"]


async def a_transaction_that_raises_wrote_nothing(store: Store) -> None:
    await store.transact(keep("a/1", "a/2"))

    def decide(transaction: Transaction) -> None:
        transaction.put(TOKENS, "a/1", token("other"))
        transaction.delete(TOKENS, "a/2")
        transaction.put(TOKENS, "a/2", token("again"))
        transaction.put(TOKENS, "c/9", token("new"))
        raise KeyError

    with pytest.raises(KeyError):
        await store.transact(decide)
    found = await store.read(lambda transaction: transaction.list(TOKENS))
    assert [one.digest for one in found] == ["a/1", "a/2"]


async def a_list_is_in_the_order_of_keys_and_by_partition(store: Store) -> None:
    await store.transact(keep("b/2", "a/9", "b/10", "a"))
    assert await store.read(names) == ["a", "a/9", "b/10", "b/2"]
    assert await store.read(lambda transaction: names(transaction, "b")) == ["b/10", "b/2"]
    assert await store.read(lambda transaction: names(transaction, "c")) == []


async def a_watch_sees_whole_transactions_in_their_order(store: Store) -> None:
    await store.transact(keep("before"))
    watch = store.watch()
    await store.transact(keep("a", "b"))
    await store.transact(lambda transaction: transaction.delete(TOKENS, "a"))
    await store.read(names)
    assert await asyncio.wait_for(watch.changes(), 5) == [
        Change("token", "a", None, token("a")),
        Change("token", "b", None, token("b")),
        Change("token", "a", token("a"), None),
    ]
    store.unwatch(watch)
    await store.transact(keep("c"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watch.changes(), 0.01)


async def a_counter_only_rises(store: Store) -> None:
    assert [await store.transact(lambda transaction: transaction.next("n")) for _ in range(3)] == [1, 2, 3]
    assert await store.read(lambda transaction: transaction.get(COUNTERS, "n")) == Counter(value=3)


async def many_at_once_are_serial(store: Store) -> None:
    numbers = await asyncio.gather(*(store.transact(lambda transaction: transaction.next("n")) for _ in range(200)))
    assert sorted(numbers) == list(range(1, 201))


SCENARIOS: list[Scenario] = [
    a_transaction_sees_what_it_wrote_and_so_do_those_after,
    a_transaction_that_raises_wrote_nothing,
    a_list_is_in_the_order_of_keys_and_by_partition,
    a_watch_sees_whole_transactions_in_their_order,
    a_counter_only_rises,
    many_at_once_are_serial,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_every_engine_keeps_the_promise(scenario: Scenario, engine: str, tmp_path: Path) -> None:
    async def play() -> None:
        store: Store = MemoryStore() if engine == "memory" else SqliteStore(str(tmp_path / "state"))
        await scenario(store)
        await store.close()

    asyncio.run(play())


# --- in a file -------------------------------------------------------------------------------------------------------

WRITES = st.lists(st.tuples(st.sampled_from(["a/1", "a/2", "b/1", "c"]), st.booleans()), max_size=12)


@given(WRITES)
@settings(max_examples=25, deadline=None)
def test_what_was_written_is_read_again(writes: list[tuple[str, bool]]) -> None:
    async def play(path: str) -> tuple[list[tuple[str, Token]], list[tuple[str, Token]]]:
        store = SqliteStore(path)
        for key, kept in writes:
            await store.transact(keep(key) if kept else lambda transaction, key=key: transaction.delete(TOKENS, key))
        before = await store.read(lambda transaction: list(transaction.items(TOKENS)))
        await store.close()
        again = SqliteStore(path)
        after = await again.read(lambda transaction: list(transaction.items(TOKENS)))
        await again.close()
        return before, after

    path = f"/tmp/miniecs-test-{os.getpid()}.sqlite"
    try:
        before, after = asyncio.run(play(path))
    finally:
        for suffix in ("", "-wal", "-shm"):
            Path(path + suffix).unlink(missing_ok=True)
    assert before == after


def test_all_kinds_of_values_survive(tmp_path: Path) -> None:
    cluster = Cluster(cluster_arn="arn", cluster_name="c", settings=({"name": "x"},), created_at=1.25)

    async def play() -> Cluster | None:
        store = SqliteStore(str(tmp_path / "state"))
        await store.transact(lambda transaction: transaction.put(CLUSTERS, "c", cluster))
        await store.close()
        again = SqliteStore(str(tmp_path / "state"))
        found = await again.read(lambda transaction: transaction.get(CLUSTERS, "c"))
        await again.close()
        return found

    assert asyncio.run(play()) == cluster


def test_a_file_is_one_server_s(tmp_path: Path) -> None:
    async def play() -> None:
        store = SqliteStore(str(tmp_path / "state"))
        with pytest.raises(Error, match="is in use by another server"):
            SqliteStore(str(tmp_path / "state"))
        await store.close()

    asyncio.run(play())


def test_a_file_of_another_version_or_of_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"something else altogether, and long enough" * 100)
    with pytest.raises(Error, match="state"):
        SqliteStore(str(path))
    assert path.read_bytes().startswith(b"something else")


WRITER = """
import asyncio, sys
from miniecs.sqlite import SqliteStore
from miniecs.store import TOKENS, Token

async def main():
    store = SqliteStore(sys.argv[1])
    async def one(worker):
        for number in range(1_000_000):
            key = f"w/{worker}-{number:06}"
            token = Token(digest=key, arns=(), created_at=0.0)
            def both(transaction):
                transaction.put(TOKENS, key, token)
                transaction.put(TOKENS, "twin/" + key, token)
            await store.transact(both)
            print(key, flush=True)
    await asyncio.gather(*(one(worker) for worker in range(8)))

asyncio.run(main())
"""


def test_after_kill_9_all_that_was_acknowledged_is_there_and_nothing_is_half(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        acknowledged = {writer.stdout.readline().strip() for _ in range(100)}
        writer.send_signal(signal.SIGKILL)
        acknowledged |= {line.strip() for line in writer.stdout if line.endswith("\n")}
        writer.wait()

        async def read() -> tuple[set[str], set[str]]:
            store = SqliteStore(path)
            found = await store.read(lambda t: ({k for k, _ in t.items(TOKENS, "w")}, names(t, "twin")))
            await store.close()
            return found[0], {key.removeprefix("twin/") for key in found[1]}

        kept, twins = asyncio.run(read())
        assert len(acknowledged) >= 100 and acknowledged <= kept
        assert kept == twins


def test_a_disk_that_cannot_be_written_is_told_and_nothing_is_acknowledged_any_more(tmp_path: Path) -> None:
    async def play() -> None:
        store = SqliteStore(str(tmp_path / "state"))
        watch = store.watch()
        await store.transact(keep("good"))
        store._connection.execute("PRAGMA max_page_count = 1")  # as a full disk would have it
        with pytest.raises(Error, match="cannot be written"):
            await store.transact(keep(*(f"much/{number}" for number in range(2000))))
        with pytest.raises(Error, match="cannot be written"):
            await store.transact(keep("more"))
        assert store.failure
        assert [change.key for change in await watch.changes()] == ["good"]
        await store.close()

    asyncio.run(play())
