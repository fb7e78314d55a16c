"""A stand-in for the engine behind its spawner, so that the agent's decisions can be tested without a kernel."""
# ruff: noqa: A002  # the engine calls a container's id `id`

import asyncio
from typing import Any, NamedTuple

from minicontainer.containers import Container as Made
from minicontainer.containers import Network, Options
from minicontainer.errors import ContainerNotFound, Error, ImageNotFound, NameInUse


class Digested(NamedTuple):
    """An image's descriptor, as far as it is looked at."""

    digest: str


class StandIn:
    """The engine's promises without a kernel: containers that run until they are told to end."""

    def __init__(self) -> None:
        self.pid = 0
        self.containers: dict[str, Made] = {}
        self.calls: list[tuple[str, str]] = []
        self.failures: dict[str, Exception] = {}
        self.ends: dict[str, asyncio.Event] = {}
        self.gates: dict[str, asyncio.Event] = {}  # a function waits here, if there is one
        self.health = 0

    async def call(self, function: str, /, **arguments: Any) -> Any:
        wanted: Options | None = arguments.get("options")
        self.calls.append(
            (function, wanted.name if wanted else str(arguments.get("id") or arguments.get("path") or ""))
        )
        if gate := self.gates.get(function):
            await gate.wait()
        await asyncio.sleep(0)
        if failure := self.failures.get(function):
            raise failure
        return await getattr(self, f"_{function}")(**arguments)

    async def watch(self, container: Made, /) -> None:
        await self.ends.setdefault(container.name, asyncio.Event()).wait()

    def end(self, name: str, exit_code: int, oom_killed: bool = False) -> None:
        made = self.containers[name]._replace(
            status="exited", exit_code=exit_code, oom_killed=oom_killed, finished_at=9.0
        )
        self.containers[name] = made
        self.ends.setdefault(name, asyncio.Event()).set()

    def did(self, function: str) -> list[str]:
        return [name for called, name in self.calls if called == function]

    def _find(self, name_or_id: str) -> Made:
        for made in self.containers.values():
            if name_or_id in (made.id, made.name):
                return made
        raise ContainerNotFound(name_or_id)

    async def _repair(self) -> None:
        pass

    async def _image(self, reference: str) -> Digested:
        raise ImageNotFound(reference)

    async def _pull(self, reference: str, plain_http: bool, credentials: object, unpack: bool) -> Digested:
        return Digested(f"sha256:{reference}")

    async def _make_group(self, path: str, **limits: Any) -> None:
        pass

    async def _remove_group(self, path: str) -> None:
        pass

    async def _create(self, options: Options) -> Made:
        if options.name in self.containers:
            raise NameInUse(options.name, self.containers[options.name].id)
        made = Made(
            id=f"id-{options.name}", name=options.name, image=options.image, image_id="", options=options, created=1.0
        )
        self.containers[options.name] = made
        return made

    async def _start(self, id: str) -> Made:
        made = self._find(id)
        if made.status != "created":
            raise Error("already started")
        network = Network(address="172.18.0.2")
        made = made._replace(status="running", started_at=2.0, network=network, ports=made.options.ports)
        self.containers[made.name] = made
        return made

    async def _inspect(self, id: str) -> Made:
        return self._find(id)

    async def _stop(self, id: str, timeout: float) -> None:
        self.end(self._find(id).name, 143)

    async def _remove(self, id: str, force: bool, volumes: bool) -> None:
        del self.containers[self._find(id).name]

    async def _exec(self, id: str, command: tuple[str, ...]) -> int:
        return self.health
