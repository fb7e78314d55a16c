"""Workbench: what the steps of one build share: its images, layers, trees, and a directory for what is half made.

Below `copies` and `runs`, which plan the steps, and `steps`, which takes them. It dies with its
build: what lies on it is removed then, or by the next build when this one was killed.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from minicontainer import files
from minicontainer.build import shared_cache, stages
from minicontainer.build.cache import Cache, Layer
from minicontainer.build.context import Digests, Tree
from minicontainer.build.options import Secret
from minicontainer.build.outputs import Output
from minicontainer.build.patterns import Ignore, parse_ignore
from minicontainer.build.stages import Scope, State
from minicontainer.containers import Home, Options
from minicontainer.errors import Error, ImageNotFound
from minicontainer.image import oci_layouts, overlays, snapshots
from minicontainer.image.store import Store
from minicontainer.oci import image
from minicontainer.oci.image import Descriptor, History, ImageConfig, Manifest, Platform
from minicontainer.plan import Explain

DOCKER_IMAGE = "docker-image://"


class Request(NamedTuple):
    """What was asked of a build. `contexts` are the named ones: a directory, docker-image://, oci-layout://, a URL.

    `context_name`, `dockerfile_name`: what people call them, when they are files that this build made.
    """

    context: str
    dockerfile: str = ""
    context_name: str = ""
    dockerfile_name: str = ""
    tags: tuple[str, ...] = ()
    build_args: Mapping[str, str] = {}
    target: str = ""
    labels: Mapping[str, str] = {}
    contexts: Mapping[str, str] = {}
    network: str = "bridge"
    no_cache: bool = False
    no_cache_filter: frozenset[str] = frozenset()  # stages by name
    pull: bool = False
    platforms: tuple[Platform, ...] = ()  # this machine's, when none is said
    outputs: tuple[Output, ...] = ()  # a name in the store, when none is said
    cache_from: tuple[shared_cache.Place, ...] = ()
    cache_to: tuple[shared_cache.Place, ...] = ()
    secrets: Mapping[str, Secret] = {}
    agents: Mapping[str, str] = {}  # --ssh: an id, and the socket of an agent
    allowed: frozenset[str] = frozenset()  # --allow: entitlements
    explain: Explain | None = None  # of what each RUN asks the kernel for, and of the cache
    run: Options = Options(image="")  # what every RUN has of --add-host, --shm-size, --ulimit, --cgroup-parent


class Work(NamedTuple):
    """A stage so far: its files as layers, the lowest first, what it says of itself, and how it came to be."""

    state: State
    layers: tuple[Layer, ...] = ()
    history: tuple[History, ...] = ()
    created: str = ""
    on_build: tuple[str, ...] = ()

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return tuple(layer.diff_id for layer in self.layers)


class Overlay(NamedTuple):
    """The directories of one overlay: what is below, what changes, and what the kernel needs beside it."""

    lowers: tuple[str, ...]
    upper: str
    work: str


class Plan(NamedTuple):
    """A step before it is taken: what its result depends on, how to make it, and what is told of it."""

    inputs: Mapping[str, Any]
    make: Callable[[Overlay], None]
    history: str
    state: State | None = None
    linked: bool = False  # the layer is made without those below it


Earlier = Callable[[str], Work | None]  # the earlier stage of that name or number


class Workbench:
    """`scratch` is a directory of the build's own."""

    def __init__(
        self,
        home: Home,
        store: Store,
        request: Request,
        scope: Scope,
        platform: Platform,
        scratch: str,
        undo: ExitStack,
    ) -> None:
        self.home, self.store, self.request, self.scope = home, store, request, scope
        self.scratch, self.undo = scratch, undo
        self.ends = undo  # of containers whose RUN is done: the next step need not wait for it
        self.platform = platform
        self.epoch = source_date(request)
        self.cache = Cache(home.data, store, self.epoch)
        context = hashlib.sha256(os.path.realpath(request.context).encode()).hexdigest()
        lasting = f"{home.data}/cache/build/digests/{context[:16]}"
        self.digests = Digests("" if request.context_name else lasting)
        self.trees: dict[str, Tree] = {}
        self.taken: dict[str, Layer] = {}  # the steps of this build, by their keys
        found = (shared_cache.fetch(place, scratch) for place in request.cache_from)
        self.imported = [one for one in found if one is not None]

    def now(self) -> str:
        when = datetime.fromtimestamp(time.time() if self.epoch is None else self.epoch, UTC)
        return when.isoformat(timespec="microseconds" if self.epoch is None else "seconds").replace("+00:00", "Z")

    # Images and layers

    def cached(self, key: str) -> Layer | None:
        """What the step of that key made, here or where a shared cache was written."""
        if (layer := self.cache.get(key)) is not None:
            return layer
        for one in self.imported:
            if (layer := one.take(key, self.store)) is not None:
                self.cache.put(key, layer)
                return layer
        return None

    def step_lock(self, key: str) -> AbstractContextManager[int]:
        """Two stages of this build, side by side, may have the same step: the second finds what the first has made."""
        os.makedirs(f"{self.scratch}/locks", mode=0o700, exist_ok=True)
        return files.lock(f"{self.scratch}/locks/{key}")

    def image(self, name: str, platform: Platform | None = None) -> Work:
        """An image of the store, or of another layout; pulled when it is not there, or when --pull was asked for."""
        if name.startswith(oci_layouts.SCHEME):
            manifest = self.store.manifest(oci_layouts.take(self.store, name), platform or self.platform)
            config = self.store.config(manifest)
        else:
            manifest, config = self._find(name.removeprefix(DOCKER_IMAGE), platform or self.platform)
        made = zip(config.diff_ids, manifest.layers, strict=True)
        container = config.config._replace(on_build=(), env=config.config.env or (stages.PATH,))
        return Work(
            state=State(config=container, author=config.author),
            layers=tuple(Layer(diff_id=diff_id, created="", descriptor=layer) for diff_id, layer in made),
            history=config.history,
            created=config.created or self.now(),
            on_build=config.config.on_build,
        )

    def _find(self, name: str, platform: Platform) -> tuple[Manifest, ImageConfig]:
        try:
            if self.request.pull:
                raise ImageNotFound(name)
            return self._read(self.store.resolve(name), platform)
        except ImageNotFound:
            return self._read(self._pull(name, platform), platform)
        except Error as error:  # it is here for other platforms
            try:
                return self._read(self._pull(name, platform), platform)
            except Error:
                raise error from None

    def _read(self, descriptor: Descriptor, platform: Platform) -> tuple[Manifest, ImageConfig]:
        manifest = self.store.manifest(descriptor, platform)
        return manifest, self.store.config(manifest)

    def _pull(self, name: str, platform: Platform) -> Descriptor:
        from minicontainer import engine  # a third of the start-up, which a cached build does without

        try:
            return engine.pull(self.home, name, platform=platform)
        except Error as error:
            raise Error(f"image {name} cannot be pulled: {error}") from error

    def lowers(self, work: Work) -> tuple[str, ...]:
        """The unpacked layers, the topmost first; below nothing an empty directory, for overlay wants one."""
        if not work.layers:
            return (self.empty(),)
        paths = [snapshots.diff_directory(self.home.data, layer.diff_id) for layer in reversed(work.layers)]
        if all(map(os.path.isdir, paths)):
            return tuple(dict.fromkeys(paths))
        blobs = tuple(self.cache.blob(layer) for layer in work.layers)
        config = ImageConfig(architecture=self.platform.architecture, diff_ids=work.diff_ids)
        manifest = Manifest(config=Descriptor(media_type=image.CONFIG, digest="", size=0), layers=blobs)
        return snapshots.unpack(self.home.data, self.store, manifest, config)

    def empty(self) -> str:
        os.makedirs(f"{self.scratch}/empty", mode=0o755, exist_ok=True)
        return f"{self.scratch}/empty"

    @contextmanager
    def changes(self, work: Work | None) -> Iterator[Overlay]:
        """An overlay's directories on the work's layers; what is left of them afterwards is removed."""
        with self.place() as place:
            for name in ("upper", "work"):
                os.makedirs(f"{place}/{name}", mode=0o755)
            lowers = self.lowers(work) if work else (self.empty(),)
            yield Overlay(lowers=lowers, upper=f"{place}/upper", work=f"{place}/work")

    @contextmanager
    def place(self) -> Iterator[str]:
        """A directory that is gone afterwards."""
        place = self.lasting_place()
        try:
            yield place
        finally:
            files.remove_tree(place)

    def enter(self, overlay: Overlay) -> None:
        """Make the overlay the root of this process: a child with a mount namespace of its own."""
        self.mount(overlay)
        os.chroot(f"{overlay.work}/../root")
        os.chdir("/")

    def mount(self, overlay: Overlay) -> str:
        target = os.path.normpath(f"{overlay.work}/../root")
        os.makedirs(target, exist_ok=True)
        overlays.mount(overlay.lowers, overlay.upper, overlay.work, target, None)
        return target

    def lasting_place(self) -> str:
        """A directory that is gone with the build."""
        place = tempfile.mkdtemp(dir=self.scratch)
        os.chmod(place, 0o755)
        return place

    # Trees

    def context(self, name: str) -> "str | Work":
        """The named context: a directory, or the files of an image."""
        where = self.request.contexts[name]
        return self.image(where) if where.startswith((DOCKER_IMAGE, oci_layouts.SCHEME)) else where

    def told(self, directory: str) -> str:
        """What people call the context of that directory."""
        name = self.request.context_name if directory == self.request.context else ""
        return f"the context {name or directory}"

    def tree(self, directory: str) -> Tree:
        """A build context, opened once."""
        if directory not in self.trees:
            of = self.request.dockerfile or os.path.join(self.request.context, "Dockerfile")
            ignore = read_ignore(directory, of if directory == self.request.context else "")
            self.opened(directory, Tree(directory, ignore))
        return self.trees[directory]

    def opened(self, key: str, tree: Tree) -> Tree:
        self.trees[key] = tree
        self.undo.callback(tree.close)
        return tree


def source_date(request: Request) -> int | None:
    """SOURCE_DATE_EPOCH: reproducible-builds.org.

    Raises:
        Error: it is no number.
    """
    text = request.build_args.get("SOURCE_DATE_EPOCH") or os.environ.get("SOURCE_DATE_EPOCH")
    if text and not text.isdecimal():
        raise Error(f"SOURCE_DATE_EPOCH={text}: it is a number of seconds since 1970")
    return int(text) if text else None


def read_ignore(directory: str, of: str = "") -> Ignore:
    """The `.dockerignore` of the Dockerfile `of`, or of the context."""
    for path in (f"{of}.dockerignore" if of else "", os.path.join(directory, ".dockerignore")):
        if path and os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                return parse_ignore(file.read())
    return Ignore()
