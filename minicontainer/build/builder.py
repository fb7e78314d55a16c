"""Builder: a Dockerfile to an OCI image in the store.

Above everything that it uses: `dockerfile` reads, `stages` decides, `steps` carries out what touches files,
`cache` remembers. An image gets its name when all of it is there: a build that fails leaves no image, no
container and no directory. Ruled by the Dockerfile reference and image-spec, config.md.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from minicontainer import files
from minicontainer.build import checks, context_sources, dockerfile, shared_cache, stages
from minicontainer.build import outputs as build_outputs
from minicontainer.build.cache import Layer
from minicontainer.build.dockerfile import BuildError, Dockerfile, Instruction
from minicontainer.build.expansion import ExpansionError
from minicontainer.build.outputs import Output
from minicontainer.build.progress import Progress
from minicontainer.build.stages import Refused, Stage, State
from minicontainer.build.steps import How, carry_out
from minicontainer.build.workbench import Request, Work, Workbench, read_ignore, source_date
from minicontainer.containers import Home
from minicontainer.errors import Error
from minicontainer.image.store import Store
from minicontainer.oci import image
from minicontainer.oci.image import Descriptor, History, ImageConfig, Index, Platform
from minicontainer.oci.reference import Reference

__all__ = ["BuildError", "Request", "build"]


def build(home: Home, request: Request, teller: Progress) -> Descriptor:
    """Build the image, give it its names, and write what else was asked for.

    Raises:
        BuildError: the Dockerfile, or what it asks for, cannot be built; the text has file, line and instruction.
    """
    tags = [str(Reference.parse(tag)) for tag in request.tags]
    with ExitStack() as undo:
        store = Store(f"{home.data}/oci")
        undo.enter_context(store.session())
        scratch = undo.enter_context(_scratch_directory(home))
        request = context_sources.prepared(request, scratch)
        parsed = context_sources.read_dockerfile(request)
        found = _for_each_platform(home, store, parsed, request, teller, scratch, undo)
        outputs = request.outputs or (Output(type="image"),)
        for one in outputs:
            names = list(dict.fromkeys([*tags, *one.names]))
            if one.keeps:
                for tag in names or [""]:
                    store.tag(tag, found)
            else:
                place = build_outputs.Place(store, home.data, scratch)
                build_outputs.write(place, found, one, names, source_date(request))
    return found


def _for_each_platform(
    home: Home, store: Store, parsed: Dockerfile, request: Request, teller: Progress, scratch: str, undo: ExitStack
) -> Descriptor:
    """The image, or with several --platform the index of their images."""
    made = []
    for platform in request.platforms or (Platform.here(),):
        scope = stages.scope(parsed, request.build_args, Platform.here(), request.target, platform)
        bench = Workbench(home, store, request, scope, platform, scratch, undo)
        made.append(_Builder(parsed, bench, teller).build())
    if len(made) == 1:
        return made[0]
    digest, size = store.put(image.encode(Index(manifests=tuple(made))))
    return Descriptor(media_type=image.INDEX, digest=digest, size=size)


def check(home: Home, request: Request) -> tuple[list[str], bool]:
    """What the checks find in the Dockerfile, a line each; and whether there was anything."""
    with ExitStack() as undo:
        store = Store(f"{home.data}/oci")
        scratch = undo.enter_context(_scratch_directory(home))
        request = context_sources.prepared(request, scratch)
        parsed = context_sources.read_dockerfile(request)
        platform = (request.platforms or (Platform.here(),))[0]
        scope = stages.scope(parsed, request.build_args, Platform.here(), request.target, platform)
        found = _checked(store, parsed, stages.stages(parsed, scope), scope, request)
        return [warned.told(parsed.name) for warned in found], bool(found)


def _checked(
    store: Store, parsed: Dockerfile, all_stages: tuple[Stage, ...], scope: stages.Scope, request: Request
) -> list[checks.Warned]:
    def about(name: str) -> tuple[str, dict[str, str]] | None:
        try:
            config = store.config(store.manifest(store.resolve(request.contexts.get(name, name))))
        except Error:
            return None  # it is not here, or is for other machines
        platform = Platform(config.architecture, config.os, config.variant)
        return str(platform), stages.environment(config.config)

    ignore = read_ignore(request.context, request.dockerfile)
    return checks.check(parsed, all_stages, scope, checks.Known(ignore, about))


@contextmanager
def _scratch_directory(home: Home) -> Iterator[str]:
    """A directory of this build's own; those of builds that were killed are removed first, with their containers."""
    parent = f"{home.data}/cache/build/work"
    os.makedirs(parent, mode=0o700, exist_ok=True)
    with ExitStack() as undo:
        with files.lock(f"{home.data}/cache/build/lock"):
            for name in os.listdir(parent):
                _remove_dead(home, f"{parent}/{name}")
            path = tempfile.mkdtemp(dir=parent)
            undo.callback(files.remove_tree, path)
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, held)
            fcntl.flock(held, fcntl.LOCK_EX)
        os.chmod(path, 0o755)  # the ids of a RUN must reach what is mounted in it; its parent is root's alone
        yield path


def _remove_dead(home: Home, path: str) -> None:
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_orphans(home, path)
        files.remove_tree(path)
    except BlockingIOError:
        return  # its build is alive
    finally:
        os.close(held)


def _remove_orphans(home: Home, path: str) -> None:
    """The RUN of a build that was killed goes on without it: until now."""
    from minicontainer import engine  # as in `runs`

    for container in engine.list_containers(home):
        if container.upper.startswith(f"{path}/"):
            engine.remove(home, container.id, force=True)


class _Builder:
    """Walks the stages that are wanted, instruction by instruction."""

    def __init__(self, parsed: Dockerfile, bench: Workbench, teller: Progress) -> None:
        self.parsed, self.bench, self.teller = parsed, bench, teller
        self.request, self.scope = bench.request, bench.scope
        self.stages = stages.stages(parsed, self.scope)
        self.done: dict[int, Work] = {}

    def build(self) -> Descriptor:
        warned = self._check()
        wanted = stages.wanted(self.parsed, self.stages, self.request.target)
        self._say_what_is_not_used()
        final = [wanted[-1].number]  # the stages whose layers are in the image
        while (base := self.stages[final[-1]].base) is not None:
            final.append(base)
        self._build_all(wanted, final)
        self.bench.digests.save()
        for place in (one for one in self.request.cache_to if one != shared_cache.INLINE):
            shared_cache.send(place, self.bench.cache, self.bench.taken, self.bench.scratch)
        for one in warned:
            self.teller.say(f"warning: {one.told(self.parsed.name)}")
        return self._export(self.done[wanted[-1].number], wanted[-1].platform)

    def _build_all(self, wanted: Sequence[Stage], final: Collection[int]) -> None:
        """Each stage when those that it needs are done: one here, several at a time in processes of their own."""
        waiting, crew = list(wanted), None
        with ExitStack() as undo:
            while waiting or (crew and crew.children):
                ready = [stage for stage in waiting if stages.needs(self.stages, stage) <= self.done.keys()]
                if not (crew and crew.children) and (len(ready) == 1 or self.request.explain):
                    waiting.remove(stage := ready[0])
                    self.done[stage.number] = self._stage(stage, keep_blobs=stage.number in final)
                    continue
                if crew is None:
                    from minicontainer.build.side_by_side import Crew  # 10 ms, which stages in a row do without

                    crew = undo.enter_context(Crew(self.teller))
                for stage in ready:
                    image_name = stage.image if stage.base is None else ""
                    if crew.has_room_for(image_name):
                        waiting.remove(stage)
                        crew.start(stage.number, image_name, partial(self._apart, stage, stage.number in final))
                for number, (work, taken, used) in crew.wait():
                    self.done[number] = work
                    self.bench.taken.update(taken)
                    self.bench.digests.used.update(used)

    def _apart(self, stage: Stage, keep_blobs: bool, teller: Progress) -> tuple[Work, dict[str, Layer], dict[str, str]]:
        """In a child: the stage, and what the parent has to know of how it came to be."""
        self.teller = teller
        with ExitStack() as self.bench.ends:
            return self._stage(stage, keep_blobs), self.bench.taken, self.bench.digests.used

    def _check(self) -> list[checks.Warned]:
        """What the checks find; nobody looks when nothing is shown.

        Raises:
            BuildError: they found something, and the file says `check=error=true`.
        """
        as_errors = checks.wanted(self.parsed).error
        if not self.teller.shows and not as_errors:
            return []
        found = _checked(self.bench.store, self.parsed, self.stages, self.scope, self.request)
        if found and as_errors:
            lines = self.parsed.lines
            shown = dockerfile.excerpt(lines, found[0].line, found[0].line)
            raise BuildError(f"{found[0].told(self.parsed.name)} (an error by the directive check)", shown)
        return found

    def _say_what_is_not_used(self) -> None:
        for name, value in self.parsed.directives:
            if name == "syntax":
                self.teller.say(f"{self.parsed.name}: directive {name}={value} is read and not followed")
        declared = {
            word.partition("=")[0]
            for instruction in self.parsed.instructions
            if instruction.keyword == "ARG"
            for word in instruction.arguments
        }
        known = declared | stages.PROXIES | {"SOURCE_DATE_EPOCH", shared_cache.INLINE_ARGUMENT}
        for name in sorted(set(self.request.build_args) - known):
            self.teller.say(f"{self.parsed.name}: --build-arg {name}: no ARG {name} asks for it")

    def _stage(self, stage: Stage, keep_blobs: bool) -> Work:
        begin = stage.begin
        with self._naming(begin), self.teller.step(f"[{stage.label}] {begin.text}") as step:
            work = self._begin(stage)
            step.cached = stage.base is not None
            triggers = [self._trigger(begin, text) for text in work.on_build]
        work = work._replace(state=work.state._replace(cmd_is_ours=False), on_build=())
        instructions = [*triggers, *stage.instructions]
        count = sum(not stages.is_metadata(instruction) for instruction in instructions)
        number = 0
        use_cache = not self.request.no_cache and stage.name not in self.request.no_cache_filter
        how = How(earlier=self._earlier(stage), keep_blob=keep_blobs, use_cache=use_cache)
        context = self.request.context_name or os.path.realpath(self.request.context)
        slot = f"{context}/{self.parsed.name}/{self.bench.platform}/{stage.number}"
        for instruction in instructions:
            with self._naming(instruction):
                if stages.is_metadata(instruction):
                    work = self._metadata(instruction, work)
                    continue
                number += 1
                with self.teller.step(f"[{stage.label} {number}/{count}] {_summary(instruction)}") as step:
                    work = carry_out(self.bench, instruction, work, step, how._replace(slot=f"{slot}/{number}"))
        return work

    def _begin(self, stage: Stage) -> Work:
        if stage.base is not None:
            base = self.done[stage.base]
            return base._replace(
                on_build=base.state.config.on_build,
                state=base.state._replace(config=base.state.config._replace(on_build=())),
            )
        if stage.image in self.request.contexts:
            found = self.bench.context(stage.image)
            if isinstance(found, str):
                raise Refused(f"the build context {stage.image} is a directory: only COPY --from can use it")
            return found
        if stage.image == "scratch":
            return Work(state=State(config=stages.SCRATCH))
        return self.bench.image(stage.image, stage.platform)

    def _trigger(self, begin: Instruction, text: str) -> Instruction:
        """An ONBUILD of the base image: it is carried out as if it stood in the line of FROM."""
        [_, instruction] = dockerfile.parse(f"FROM scratch\n{text}", "ONBUILD").instructions
        return instruction._replace(line=begin.line, last=begin.last)

    def _metadata(self, instruction: Instruction, work: Work) -> Work:
        state = stages.apply(instruction, work.state, self.scope)
        entry = History(created=work.created, created_by=instruction.text, comment="minicontainer", empty_layer=True)
        return work._replace(state=state, history=(*work.history, entry))

    def _earlier(self, stage: Stage) -> Callable[[str], Work | None]:
        def find(name: str) -> Work | None:
            other = stages.find(self.stages, name, stage.number)
            if other is None and name.isdigit():
                raise Refused(f"--from={name}: no stage before this one has that number")
            if other is None and name.lower() == stage.name:
                raise Refused(f"--from={name} is the stage itself")
            if other is None:
                return None
            if other.number not in self.done:  # only a trigger of the base image names a stage that nobody foresaw
                self.done[other.number] = self._stage(other, keep_blobs=False)
            return self.done[other.number]

        return find

    @contextmanager
    def _naming(self, instruction: Instruction) -> Iterator[None]:
        """What goes wrong inside is told with the file, the line and the instruction."""
        try:
            yield
        except BuildError:
            raise
        except (Refused, ExpansionError, Error) as error:
            raise stages.refuse(self.parsed, instruction, error) from error
        except OSError as error:
            said = f"{error.strerror}: {os.fsdecode(error.filename)}" if error.filename else error.strerror
            raise stages.refuse(self.parsed, instruction, said) from error

    def _export(self, work: Work, platform: Platform | None) -> Descriptor:
        blobs = [self.bench.cache.blob(layer) for layer in work.layers]
        platform = platform or self.bench.platform
        is_inline = shared_cache.INLINE in self.request.cache_to or (
            self.request.build_args.get(shared_cache.INLINE_ARGUMENT) in ("1", "true")
        )
        config = ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            created=work.created or self.bench.now(),
            author=work.state.author,
            config=work.state.config._replace(labels={**work.state.config.labels, **self.request.labels}),
            diff_ids=work.diff_ids,
            history=work.history,
            other=shared_cache.inline(dict(zip(work.diff_ids, blobs, strict=True)), self.bench.taken)
            if is_inline
            else {},
        )
        return self.bench.store.put_image(blobs, config)


def _summary(instruction: Instruction) -> str:
    """The instruction as written, on one line; of a here-document its first line."""
    text = " ".join(instruction.text.split())
    if not instruction.heredocs:
        return text
    first = instruction.heredocs[0].content.strip().partition("\n")[0]
    return f"{text} ({first[:60]}...)"
