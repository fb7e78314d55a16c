"""A control plane without sockets, processes or a clock: actions and the controller on a store in memory."""

import json
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from miniecs import lifecycle, server, wire
from miniecs.controller import Controller
from miniecs.lifecycle import Report
from miniecs.model import ContainerInstance, Service, Task, TaskStatus, key_of
from miniecs.records import Account, Call
from miniecs.store import INSTANCES, SERVICES, STOPPED_TASKS, TASKS, MemoryStore, Transaction

T = TypeVar("T")
TARGETS = {"ecs": "AmazonEC2ContainerServiceV20141113", "ecr": "AmazonEC2ContainerRegistry_V20150921"}


def finish(work: Coroutine[Any, Any, T]) -> T:
    """The result of what never waits."""
    try:
        work.send(None)
    except StopIteration as stopped:
        result: T = stopped.value
        return result
    raise AssertionError("it waits")


class World:
    """Time stands still unless a test moves it; chance is a seed."""

    def __init__(self, seed: int = 1) -> None:
        self.endpoint = "http://here"
        self.now = 1_000_000.0
        self.rng = random.Random(seed)
        self.store = MemoryStore()
        self.controller = Controller(self.store, lambda: self.now, self.rng)
        self.watch = self.store.watch()

    def transact(self, decide: Callable[[Transaction], T]) -> T:
        return finish(self.store.transact(decide))

    def ask(self, operation: str, /, api: str = "ecs", **members: Any) -> Any:
        """One request through the wire and its action, and the answer's JSON."""
        found = wire.operation(f"{TARGETS[api]}.{operation}")
        request = found.decode(json.dumps(members).encode())
        act = server._action_of(found)

        def decide(transaction: Transaction) -> bytes:
            call = Call(transaction, self.now, self.rng, Account(), self.endpoint, "AKIA", "secret")
            return found.encode(act(call, request))

        return json.loads(self.transact(decide))

    def cluster(self, name: str = "default") -> "World":
        self.ask("CreateCluster", clusterName=name)
        return self

    def instance(self, name: str, cpu: int = 1024, memory: int = 1024, zone: str = "", **members: Any) -> str:
        """A container instance whose agent is connected: its ARN."""
        answer = self.ask(
            "RegisterContainerInstance",
            instanceIdentityDocument=json.dumps({"instanceId": name, "availabilityZone": zone}),
            totalResources=[
                {"name": "CPU", "type": "INTEGER", "integerValue": cpu},
                {"name": "MEMORY", "type": "INTEGER", "integerValue": memory},
            ],
            **members,
        )
        arn = str(answer["containerInstance"]["containerInstanceArn"])
        finish(self.controller.connected(arn))
        return arn

    def define(self, family: str = "web", cpu: int = 256, memory: int = 256, **changes: Any) -> str:
        container = {"name": "web", "image": "web", "cpu": cpu, "memory": memory, **changes}
        answer = self.ask("RegisterTaskDefinition", family=family, containerDefinitions=[container])
        return str(answer["taskDefinition"]["taskDefinitionArn"])

    def settle(self) -> None:
        """Let the controller react until it has nothing more to do."""
        self.controller.note(_drain(self.controller._watch))
        while self.controller._dirty:
            for key in sorted(self.controller._dirty):
                self.controller._dirty.discard(key)
                finish(self.controller._reconcile(key))
            self.controller.note(_drain(self.controller._watch))

    def tasks(self, stopped: bool = False) -> list[Task]:
        return self.transact(lambda transaction: transaction.list(STOPPED_TASKS if stopped else TASKS))

    def task(self, arn: str) -> Task:
        key = key_of(arn)
        found = self.transact(lambda transaction: transaction.get(TASKS, key) or transaction.get(STOPPED_TASKS, key))
        assert found
        return found

    def instances(self) -> list[ContainerInstance]:
        return self.transact(lambda transaction: transaction.list(INSTANCES))

    def service(self, name: str = "web") -> Service:
        found = self.transact(lambda transaction: transaction.get(SERVICES, f"default/{name}"))
        assert found
        return found

    def report(self, task: Task, status: TaskStatus, reason: str = "", /, **container: Any) -> Task:
        """What an agent says of a task."""

        def decide(transaction: Transaction) -> Task:
            current = transaction.get(TASKS, key_of(task.task_arn)) or transaction.get(
                STOPPED_TASKS, key_of(task.task_arn)
            )
            assert current
            current = lifecycle.report(transaction, current, [Report(name="web", **container)] if container else [])
            return lifecycle.move(transaction, current, status, self.now, reason)

        return self.transact(decide)

    def obey(self) -> None:
        """Every agent does what it is asked: starts what is wanted, stops what is not."""
        for task in self.tasks():
            self.report(task, TaskStatus.RUNNING if task.is_wanted else TaskStatus.STOPPED)
        self.settle()


def _drain(watch: Any) -> list[Any]:
    found: list[Any] = []
    while not watch._queue.empty():
        found += watch._queue.get_nowait()
    return found
