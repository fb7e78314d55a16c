"""Side by side: stages of a build that need nothing of each other, each in a process of its own.

Between `progress` and `builder`, which says what may begin. A build forks and may have no second thread: so a child
builds a stage, and what it has to tell comes through a pipe: its steps as they happen, and at the end what it has made,
or what went wrong. What children make on the disk they find of each other by the cache. None outlives the build.
"""

import gc
import io
import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from minicontainer.build.dockerfile import BuildError
from minicontainer.build.progress import Progress, Step
from minicontainer.linux.processes import set_pdeathsig

AT_ONCE = max(4, os.cpu_count() or 1)  # a stage that fetches waits for others' computers, not for ours
AGAIN = 5.0  # seconds: Python drops what a signal raises while it collects an object, so it is sent again


class Made(NamedTuple):
    """The result of the stage of that number."""

    number: int
    result: Any


class _Child(NamedTuple):
    """Who builds a stage; `begun` gets an entry when what the stage begins with is there."""

    number: int
    image: str
    pid: int
    steps: dict[int, Step]
    begun: list[bool]


class Crew:
    """The children that build now. Leaving it ends those that are left."""

    def __init__(self, teller: Progress) -> None:
        self.teller = teller
        self.children: dict[Connection, _Child] = {}

    def has_room_for(self, image: str) -> bool:
        """Whether another may begin with that image: not while one of them may be pulling it."""
        begins = {child.image for child in self.children.values() if not child.begun}
        return len(self.children) < AT_ONCE and (not image or image not in begins)

    def start(self, number: int, image: str, build: Callable[[Progress], Any]) -> None:
        """Build a stage in a child; `build` gets whom to tell of the steps."""
        reader, writer = Pipe(duplex=False)
        parent = os.getpid()
        if (pid := os.fork()) == 0:
            _build_and_exit(writer, parent, build)
        writer.close()
        self.children[reader] = _Child(number, image, pid, {}, [])

    def wait(self) -> list[Made]:
        """Pass on what the children tell, until one has made its stage, or another may begin: the stages made.

        Raises:
            BuildError: one of them has failed.
        """
        made: list[Made] = []
        changed = False
        while not changed:
            for pipe in wait(list(self.children)):
                assert isinstance(pipe, Connection)
                what, number, value = self._received(pipe)
                child = self.children[pipe]
                if what == "made":
                    made.append(Made(child.number, value))
                    self._gone(pipe)
                changed |= what == "made" or (what == "end" and not child.begun)
                self._tell(child, what, number, value)
        return made

    def _received(self, pipe: Connection) -> tuple[str, int, Any]:
        try:
            message: tuple[str, int, Any] = pipe.recv()
        except EOFError:
            message = ("bug", 0, "it died")
        if message[0] == "failed":
            raise message[2]
        if message[0] == "bug":
            raise RuntimeError(f"in the child that builds stage {self.children[pipe].number}:\n{message[2]}")
        return message

    def _tell(self, child: _Child, what: str, number: int, value: Any) -> None:
        """What happened to a step of a child, as if it had been one of ours."""
        match what:
            case "begin":
                step = child.steps[number] = self.teller.step(value)
                self.teller.begin(step)
            case "line":
                child.steps[number].output(f"{value}\n".encode())
            case "end":
                child.begun.append(True)
                step = child.steps[number]
                step.cached, failed = value
                self.teller.end(step, failed)
            case "say":
                self.teller.say(value)

    def _gone(self, pipe: Connection) -> None:
        os.waitpid(self.children.pop(pipe).pid, 0)
        pipe.close()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        while self.children:
            for child in self.children.values():
                os.kill(child.pid, signal.SIGTERM)
            again = time.monotonic() + AGAIN
            while self.children and (left := again - time.monotonic()) > 0:
                for pipe in wait(list(self.children), left):
                    assert isinstance(pipe, Connection)
                    self._unheard(pipe)

    def _unheard(self, pipe: Connection) -> None:
        """By its bytes: where one message ends is not known any more when an exception came in the middle of it."""
        if not os.read(pipe.fileno(), 1 << 16):
            self._gone(pipe)


class _Relay(Progress):
    """Tells the parent."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(io.StringIO())
        self.pipe = pipe

    def begin(self, step: Step) -> None:
        self.pipe.send(("begin", step.number, step.label))

    def line(self, step: Step, text: str) -> None:
        self.pipe.send(("line", step.number, text))

    def end(self, step: Step, failed: bool) -> None:
        self.pipe.send(("end", step.number, (step.cached, failed)))

    def say(self, text: str) -> None:
        self.pipe.send(("say", 0, text))


def _build_and_exit(pipe: Connection, parent: int, build: Callable[[Progress], Any]) -> NoReturn:
    try:
        gc.freeze()  # what is the parent's garbage is not taken away a second time
        set_pdeathsig(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died before it could have been told
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, which gets it too, says when to end
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # an exception: what is half done is undone
        pipe.send(("made", 0, build(_Relay(pipe))))
    except BuildError as error:
        pipe.send(("failed", 0, error))
    except KeyboardInterrupt:
        os._exit(1)
    except BaseException:  # noqa: BLE001 - the edge of a process: the parent raises it again
        pipe.send(("bug", 0, traceback.format_exc()))
    finally:
        os._exit(0)
