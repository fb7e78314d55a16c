"""Build steps: carry out the instructions that touch files, FROM RUN COPY ADD WORKDIR, each into a layer.

Below `build`, which walks the stages. A RUN is an `engine` run on the layers so far, and COPY a child with a mount
namespace of its own; the upper directory of their overlay becomes the next layer. Ruled by the Dockerfile reference.
"""

import errno
import hashlib
import os
import posixpath
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from minicontainer import copying, files, layers, overlays, snapshots, stages
from minicontainer.build_cache import Cache, Layer, drop_unchanged
from minicontainer.containers import Home, Options, Volume
from minicontainer.context import Digests, Source, Tree, fingerprint
from minicontainer.dockerfile import Heredoc, Instruction, heredoc
from minicontainer.errors import Error, ImageNotFound
from minicontainer.expansion import expand, expand_document
from minicontainer.oci import image
from minicontainer.oci.image import Descriptor, History, ImageConfig, Manifest, Platform
from minicontainer.patterns import Ignore, parse_ignore
from minicontainer.progress import Step
from minicontainer.stages import Refused, Scope, State
from minicontainer.store import Store

DOCKER_IMAGE = "docker-image://"
MOUNT_POINTS = (
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "etc",
    "dev",
    "proc",
    "sys",
)  # made for a run, not by it
SCRIPTS = "/dev/pipes"  # where a RUN finds its here-document that is a script
REMOTE = re.compile(r"(https?|ftp|git|ssh)://|git@[\w.-]+:")
NETWORKS = {"": "", "default": "", "none": "none", "host": "host"}


class Request(NamedTuple):
    """What was asked of a build. `contexts` are the named ones: a directory, or docker-image://REFERENCE."""

    context: str
    dockerfile: str = ""
    tags: tuple[str, ...] = ()
    build_args: Mapping[str, str] = {}
    target: str = ""
    labels: Mapping[str, str] = {}
    contexts: Mapping[str, str] = {}
    network: str = "bridge"
    no_cache: bool = False
    pull: bool = False


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


class Steps:
    """What the steps of one build share. `scratch` is a directory of the build's own."""

    def __init__(self, home: Home, store: Store, request: Request, scope: Scope, scratch: str, undo: ExitStack) -> None:
        self.home, self.store, self.request, self.scope = home, store, request, scope
        self.scratch, self.undo = scratch, undo
        self.platform = Platform.here()
        epoch = request.build_args.get("SOURCE_DATE_EPOCH") or os.environ.get("SOURCE_DATE_EPOCH")
        self.epoch = int(epoch) if epoch else None
        self.cache = Cache(home.data, store, self.epoch)
        context = hashlib.sha256(os.path.realpath(request.context).encode()).hexdigest()
        self.digests = Digests(f"{home.data}/cache/build/digests/{context[:16]}")
        self.trees: dict[str, Tree] = {}
        self.numbers = iter(range(1 << 30))

    def carry_out(
        self, instruction: Instruction, work: Work, step: Step, keep_blob: bool, stage: Callable[[str], Work | None]
    ) -> Work:
        """The work with the instruction's layer. `stage` gives the earlier stage that COPY --from names."""
        table = {"RUN": self._run, "WORKDIR": self._workdir}
        if instruction.keyword in table:
            plan = table[instruction.keyword](instruction, work, step)
        else:
            plan = self._copy(instruction, work, step, stage)
        key = self.cache.key(work.diff_ids, plan.inputs)
        layer = None if self.request.no_cache else self.cache.get(key)
        step.cached = layer is not None
        if layer is None:
            with self._changes(work) as overlay:
                plan.make(overlay)
                layer = self.cache.commit(overlay.upper, self.now(), keep_blob)
            self.cache.put(key, layer)
        entry = History(
            created=layer.created, created_by=plan.history, comment="minicontainer", empty_layer=not layer.diff_id
        )
        grown = (*work.layers, layer) if layer.diff_id else work.layers
        return work._replace(
            layers=grown, history=(*work.history, entry), created=layer.created, state=plan.state or work.state
        )

    def now(self) -> str:
        when = datetime.fromtimestamp(time.time() if self.epoch is None else self.epoch, UTC)
        return when.isoformat(timespec="microseconds" if self.epoch is None else "seconds").replace("+00:00", "Z")

    # Images and layers

    def image(self, name: str) -> Work:
        """An image of the store; pulled when it is not there, or when --pull was asked for."""
        manifest, config = self._find(name.removeprefix(DOCKER_IMAGE))
        made = zip(config.diff_ids, manifest.layers, strict=True)
        container = config.config._replace(on_build=(), env=config.config.env or (stages.PATH,))
        return Work(
            state=State(config=container, author=config.author),
            layers=tuple(Layer(diff_id=diff_id, created="", descriptor=layer) for diff_id, layer in made),
            history=config.history,
            created=config.created or self.now(),
            on_build=config.config.on_build,
        )

    def _find(self, name: str) -> tuple[Manifest, ImageConfig]:
        try:
            if self.request.pull:
                raise ImageNotFound(name)
            descriptor = self.store.resolve(name)
        except ImageNotFound:
            descriptor = self._pull(name)
        manifest = self.store.manifest(descriptor, self.platform)
        return manifest, self.store.config(manifest)

    def _pull(self, name: str) -> Descriptor:
        from minicontainer import engine  # as in _run_in

        try:
            return engine.pull(self.home, name)
        except Error as error:
            raise Error(f"image {name} cannot be pulled: {error}") from error

    def _lowers(self, work: Work) -> tuple[str, ...]:
        """The unpacked layers, the topmost first; below nothing an empty directory, for overlay wants one."""
        if not work.layers:
            empty = f"{self.scratch}/empty"
            os.makedirs(empty, mode=0o755, exist_ok=True)
            return (empty,)
        paths = [snapshots.diff_directory(self.home.data, layer.diff_id) for layer in reversed(work.layers)]
        if all(map(os.path.isdir, paths)):
            return tuple(paths)
        blobs = tuple(self.cache.blob(layer) for layer in work.layers)
        config = ImageConfig(architecture=self.platform.architecture, diff_ids=work.diff_ids)
        manifest = Manifest(config=Descriptor(media_type=image.CONFIG, digest="", size=0), layers=blobs)
        return snapshots.unpack(self.home.data, self.store, manifest, config)

    @contextmanager
    def _changes(self, work: Work | None) -> Iterator[Overlay]:
        """An overlay's directories on the work's layers; what is left of them afterwards is removed."""
        place = f"{self.scratch}/{next(self.numbers)}"
        for name in ("upper", "work"):
            os.makedirs(f"{place}/{name}", mode=0o755)
        try:
            yield Overlay(lowers=self._lowers(work) if work else (), upper=f"{place}/upper", work=f"{place}/work")
        finally:
            files.remove_tree(place)

    def _enter(self, overlay: Overlay) -> None:
        """Make the overlay the root of this process: a child with a mount namespace of its own."""
        self._mount(overlay)
        os.chroot(f"{overlay.work}/../root")
        os.chdir("/")

    def _mount(self, overlay: Overlay) -> str:
        target = os.path.normpath(f"{overlay.work}/../root")
        os.makedirs(target, exist_ok=True)
        overlays.mount(overlay.lowers, overlay.upper, overlay.work, target, None)
        return target

    # WORKDIR

    def _workdir(self, instruction: Instruction, work: Work, _: Step) -> "Plan":
        config = work.state.config
        path = expand(instruction.arguments[0], work.state.variables, self.scope.escape)
        if not path:
            raise Refused("is empty after expansion")
        path = posixpath.join("/", config.working_dir, path)
        path = posixpath.normpath(path).replace("//", "/")

        def make(overlay: Overlay) -> None:
            def child() -> list[str]:
                self._enter(overlay)
                return copying.make_workdir(path, config.user)

            copying.isolated(child)

        state = work.state._replace(config=config._replace(working_dir=path))
        return Plan(inputs=("WORKDIR", path, config.user), make=make, history=f"WORKDIR {path}", state=state)

    # COPY and ADD

    def _copy(self, instruction: Instruction, work: Work, step: Step, stage: Callable[[str], Work | None]) -> "Plan":
        variables, escape = work.state.variables, self.scope.escape
        *words, destination = (expand(word, variables, escape) for word in instruction.arguments)
        copy = _destination(instruction, destination, work.state, escape)
        if len(words) > 1 and not copy.is_directory:
            raise Refused(f"with more than one source, the destination must be a directory: {destination}/")
        for word in words:
            if instruction.keyword == "ADD" and REMOTE.match(word):
                raise Refused(f"{word}: a URL is not fetched yet; fetch it before, and COPY it")
        name = expand(instruction.flag("from"), variables, escape)
        if name and (name not in self.request.contexts or self.request.contexts[name].startswith(DOCKER_IMAGE)):
            other = stage(name) or self.image(self.request.contexts.get(name, name))
            copy = copy._replace(keep_owner=True)
            inputs: tuple[Any, ...] = ("COPY", copy, words, layers.chain_id(other.diff_ids) if other.layers else "")
            return Plan(
                inputs, lambda overlay: self._copy_from(name, other, words, copy, overlay, step), instruction.text
            )
        taken = self._taken(instruction, words, self.request.contexts.get(name, self.request.context), variables)
        prints = [fingerprint(tree, [source], self.digests) for tree, source in taken]

        def make(overlay: Overlay) -> None:
            def child() -> list[str]:
                self._enter(overlay)
                return copying.place(taken, copy)

            _tell(step, copying.isolated(child))

        return Plan(inputs=("COPY", copy, prints), make=make, history=instruction.text)

    def _copy_from(
        self, name: str, other: Work, words: list[str], copy: copying.Copy, overlay: Overlay, step: Step
    ) -> None:
        with self._changes(other) as theirs:

            def child() -> list[str]:
                tree = Tree(self._mount(theirs))
                taken = [pair for word in words for pair in _sources(tree, word, f"--from={name}")]
                self._enter(overlay)
                return copying.place(taken, copy)

            _tell(step, copying.isolated(child))

    def _taken(
        self, instruction: Instruction, words: list[str], directory: str, variables: Mapping[str, str]
    ) -> list[tuple[Tree, Source]]:
        """The sources in the order of the words: files of the context, and here-documents."""
        taken: list[tuple[Tree, Source]] = []
        documents = iter(instruction.heredocs)
        for word, written in zip(words, instruction.arguments, strict=False):
            if instruction.heredocs and heredoc(written, self.scope.escape):
                tree = self._inline(next(documents), variables)
                taken += _sources(tree, "*", "the here-document")
            else:
                tree = self._tree(directory)
                taken += _sources(tree, word, f"the context {directory}")
        return taken

    def _tree(self, directory: str) -> Tree:
        """A build context, opened once."""
        if directory not in self.trees:
            of = self.request.dockerfile or os.path.join(self.request.context, "Dockerfile")
            ignore = read_ignore(directory, of if directory == self.request.context else "")
            self._opened(directory, Tree(directory, ignore))
        return self.trees[directory]

    def _inline(self, document: Heredoc, variables: Mapping[str, str]) -> Tree:
        """A directory with the here-document as its only file."""
        place = f"{self.scratch}/{next(self.numbers)}"
        os.makedirs(place)
        content = document.content
        if document.expand:
            content = expand_document(content, variables, self.scope.escape)
        files.write(f"{place}/{posixpath.basename(document.name)}", content.encode(), mode=0o644)
        os.chmod(f"{place}/{posixpath.basename(document.name)}", 0o644)
        return self._opened(place, Tree(place))

    def _opened(self, key: str, tree: Tree) -> Tree:
        self.trees[key] = tree
        self.undo.callback(tree.close)
        return tree

    # RUN

    def _run(self, instruction: Instruction, work: Work, step: Step) -> "Plan":
        config = work.state.config
        script, text = _script(instruction)
        words = stages.shell_or_exec(instruction, config, text)
        network = instruction.flag("network")
        if network not in NETWORKS:
            raise Refused(f"--network={network} is none of default, none, host")
        options = Options(
            image="",
            command=words,
            entrypoint=(),
            env=stages.run_environment(work.state, self.scope),
            workdir=config.working_dir or "/",
            user=config.user,
            network=NETWORKS[network] or self.request.network,
        )
        arguments = [f"{name}={value}" for name, value in sorted(work.state.arguments.items())]
        inputs = ("RUN", words, _without_proxies(options.env), options.workdir, options.user, options.network, script)
        told = f"|{len(arguments)} {' '.join(arguments)} " if arguments else ""
        return Plan(
            inputs=inputs,
            make=lambda overlay: self._run_in(overlay, options, script, step),
            history=f"RUN {told}{' '.join(words)}",
        )

    def _run_in(self, overlay: Overlay, options: Options, script: Heredoc | None, step: Step) -> None:
        from minicontainer import engine  # a third of the start-up, which a cached build does without

        if script:
            path = f"{overlay.work}/../{script.name}"
            files.write(path, script.content.encode(), mode=0o755)
            os.chmod(path, 0o755)
            volume = Volume(source=os.path.normpath(path), target=f"{SCRIPTS}/{script.name}", read_only=True)
            options = options._replace(volumes=(volume,))
        new = [path for path in MOUNT_POINTS if not _exists(overlay.lowers, path)]
        code = engine.run(self.home, options, layers=engine.Layers(*overlay), output=step.output)
        drop_unchanged(overlay.upper, overlay.lowers, new)
        if code:
            shown = options.command[-1] if len(options.command) == 3 else " ".join(options.command)
            raise Refused(f"the command {shown!r} failed with exit code {code}")


class Plan(NamedTuple):
    """A step before it is taken: what its result depends on, how to make it, and what is told of it."""

    inputs: tuple[Any, ...]
    make: Callable[[Overlay], None]
    history: str
    state: State | None = None


def read_ignore(directory: str, of: str = "") -> Ignore:
    """The `.dockerignore` of the Dockerfile `of`, or of the context."""
    for path in (f"{of}.dockerignore" if of else "", os.path.join(directory, ".dockerignore")):
        if path and os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                return parse_ignore(file.read())
    return Ignore()


def _sources(tree: Tree, word: str, where: str) -> list[tuple[Tree, Source]]:
    try:
        return [(tree, source) for source in tree.sources(word)]
    except (FileNotFoundError, NotADirectoryError) as error:
        why = "" if error.errno == errno.ENOENT and "dockerignore" not in str(error) else f": {error.strerror}"
        raise Error(f"{word} is not in {where}{why}") from None


def _destination(instruction: Instruction, destination: str, state: State, escape: str) -> copying.Copy:
    mode = expand(instruction.flag("chmod"), state.variables, escape)
    if mode and not re.fullmatch(r"[0-7]{3,4}", mode):
        raise Refused(f"--chmod={mode}: only octal modes, like 755, are understood yet")
    path = posixpath.join("/", state.config.working_dir, destination)
    return copying.Copy(
        destination=posixpath.normpath(path).replace("//", "/"),
        is_directory=destination.endswith("/") or posixpath.basename(destination) in ("", ".", ".."),
        owner=expand(instruction.flag("chown"), state.variables, escape),
        mode=int(mode, 8) if mode else None,
        extract=instruction.keyword == "ADD",
    )


def _script(instruction: Instruction) -> tuple[Heredoc | None, str]:
    """What the shell is told for a RUN with here-documents, and the document that is a script of its own."""
    if not instruction.heredocs:
        return None, ""
    first, text = instruction.heredocs[0], instruction.arguments[0]
    if heredoc(text) is None:  # more than a lone here-document: the shell reads them itself
        return None, text + "".join(f"\n{document.content}{document.name}" for document in instruction.heredocs)
    if first.content.startswith("#!"):
        return first, f"{SCRIPTS}/{first.name}"
    return None, first.content


def _without_proxies(env: tuple[str, ...]) -> list[str]:
    """A proxy is the way, not the goal: it is no part of what a RUN depends on."""
    return [entry for entry in env if entry.partition("=")[0] not in stages.PROXIES]


def _exists(lowers: tuple[str, ...], path: str) -> bool:
    return any(os.path.lexists(f"{lower}/{path}") for lower in lowers)


def _tell(step: Step, notices: list[str]) -> None:
    for notice in notices:
        step.output(f"{notice}\n".encode())
