"""Runs: plan RUN: an `engine` run on the layers so far, with the mounts that it asks for.

Between `workbench` and `steps`; `run_mounts` says what a mount is, `cache_mounts` keeps what outlives the build.
What a mount shows is no part of the layer, nor is the place it was mounted on, unless it was there. Ruled by the
Dockerfile reference, RUN; where that is silent, by what BuildKit does.
"""

import os
import posixpath
import stat
from contextlib import ExitStack
from typing import Any

from minicontainer import files
from minicontainer.build import agent_socket, cache_mounts, copying, stages
from minicontainer.build.cache import drop_unchanged
from minicontainer.build.context import Tree, fingerprint
from minicontainer.build.copies import sources, tell
from minicontainer.build.dockerfile import Heredoc, Instruction, heredoc
from minicontainer.build.expansion import expand
from minicontainer.build.progress import Step
from minicontainer.build.run_mounts import RunMount, run_mounts
from minicontainer.build.stages import Refused, State
from minicontainer.build.workbench import Earlier, Overlay, Plan, Work, Workbench
from minicontainer.containers import Options, Volume
from minicontainer.errors import Error
from minicontainer.image import layers
from minicontainer.linux.flags import CAPABILITIES
from minicontainer.linux.syscalls import capget

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
NETWORKS = {"": "", "default": "", "none": "none", "host": "host"}
INSECURE = "security.insecure"


def plan(bench: Workbench, instruction: Instruction, work: Work, step: Step, earlier: Earlier) -> Plan:
    """The step of a RUN.

    Raises:
        Refused, Error: it cannot be done as it is written.
    """
    config = work.state.config
    script, text = _script(instruction)
    words = stages.shell_or_exec(instruction, config, text)
    if not words:
        raise Refused("there is no command to execute")
    options = bench.request.run._replace(
        command=words,
        entrypoint=(),
        env=stages.run_environment(work.state, bench.scope),
        workdir=config.working_dir or "/",
        user=config.user,
        network=_network(bench, instruction, work.state),
    )
    options, security = _security(bench, instruction, work.state, options)
    mounts = [_Mount(bench, mount, earlier) for mount in run_mounts(instruction, work.state, bench.scope)]
    arguments = [f"{name}={value}" for name, value in work.state.arguments.items()]
    told = f"|{len(arguments)} {' '.join(arguments)} " if arguments else ""
    return Plan(
        inputs={
            "command": words,
            "environment": _without_proxies(options.env),
            "working directory": options.workdir,
            "user": options.user,
            "network": options.network,
            "script": script,
            "security": security,
            "mounts": [mount.inputs for mount in mounts],
        },
        make=lambda overlay: _run(bench, overlay, options, script, mounts, step),
        history=f"RUN {told}{' '.join(words)}",
    )


def _network(bench: Workbench, instruction: Instruction, state: State) -> str:
    network = expand(instruction.flag("network"), state.variables, bench.scope.escape)
    if network not in NETWORKS:
        raise Refused(f"--network={network} is none of default, none, host")
    return NETWORKS[network] or bench.request.network


def _security(bench: Workbench, instruction: Instruction, state: State, options: Options) -> tuple[Options, str]:
    """--security=insecure: every capability, no filter of system calls, the host's ids; only when it is allowed."""
    security = expand(instruction.flag("security"), state.variables, bench.scope.escape) or "sandbox"
    if security not in ("sandbox", "insecure"):
        raise Refused(f"--security={security} is none of sandbox, insecure")
    if security == "sandbox":
        return options, security
    if INSECURE not in bench.request.allowed:
        raise Refused(f"--security=insecure is not allowed; to allow it: build --allow {INSECURE}")
    _, permitted, _ = capget()
    held = tuple(name for number, name in enumerate(CAPABILITIES) if permitted >> number & 1)
    open_ = ("seccomp=unconfined", "no-new-privileges=false")
    return options._replace(userns="host", cap_add=held, security_opt=open_), security


def _run(
    bench: Workbench,
    overlay: Overlay,
    options: Options,
    script: Heredoc | None,
    mounts: "list[_Mount]",
    step: Step,
) -> None:
    from minicontainer import engine  # a third of the start-up, which a cached build does without

    with bench.place() as place, ExitStack() as undo:
        if script:
            files.write(f"{place}/{script.name}", script.content.encode(), mode=0o755)
            os.chmod(f"{place}/{script.name}", 0o755)
            volume = Volume(source=f"{place}/{script.name}", target=f"{SCRIPTS}/{script.name}", read_only=True)
            options = options._replace(volumes=(volume,))
        for number, mount in enumerate(mounts):
            options = mount.prepare(options, f"{place}/mount-{number}", undo, step)
        new = _new_places(overlay, [mount.asked.target for mount in mounts])
        layers, explain = engine.Layers(*overlay), bench.request.explain
        code = engine.run(
            bench.home, options, layers=layers, output=step.output, explain=explain, afterwards=bench.ends
        )
        drop_unchanged(overlay.upper, overlay.lowers, new)
    if code:
        shown = options.command[-1] if len(options.command) == 3 else " ".join(options.command)
        raise Refused(f"the command {shown!r} failed with exit code {code}")


def _new_places(overlay: Overlay, targets: list[str]) -> list[str]:
    """What a run has to make so that something can be mounted on it, the deepest first."""
    wanted = set(MOUNT_POINTS)
    for target in filter(None, targets):
        path = target.lstrip("/")
        while path:
            wanted.add(path)
            path = posixpath.dirname(path)
    missing = [path for path in wanted if not _exists(overlay.lowers, path)]
    return sorted(missing, key=lambda path: (-path.count("/"), path))


def _exists(lowers: tuple[str, ...], path: str) -> bool:
    return any(os.path.lexists(f"{lower}/{path}") for lower in lowers)


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


# --- mounts ----------------------------------------------------------------------------------------------------------


class _Mount:
    """A mount of one RUN: `inputs` is what the step depends on, `prepare` makes it for the container."""

    def __init__(self, bench: Workbench, asked: RunMount, earlier: Earlier) -> None:
        self.bench, self.asked = bench, asked
        self.other: Work | None = None
        self.directory = ""
        if asked.type == "bind" or (asked.type == "cache" and asked.stage):
            self._find(earlier)
        content = layers.chain_id(self.other.diff_ids) if self.other and self.other.layers else ""
        self.first: tuple[Any, ...] = (content, self._print())  # what it shows at first
        self.inputs = (*asked, *self.first)  # a secret is there by its name: its content is in no key

    def _find(self, earlier: Earlier) -> None:
        name, bench = self.asked.stage, self.bench
        if not name:
            self.directory = bench.request.context
        elif name in bench.request.contexts:
            found = bench.context(name)
            self.other, self.directory = (found, "") if isinstance(found, Work) else (None, found)
        elif self.asked.type != "cache" or name != "scratch":
            self.other = earlier(name) or bench.image(name)

    def _print(self) -> str:
        if not self.directory:
            return ""
        taken = sources(self.bench.tree(self.directory), self.asked.source or ".", self.bench.told(self.directory))
        return fingerprint(taken[0][0], [source for _, source in taken], self.bench.digests)

    def prepare(self, options: Options, place: str, undo: ExitStack, step: Step) -> Options:
        """The options with this mount; what it needs lies at `place`."""
        table = {"bind": self._bind, "cache": self._cache, "tmpfs": self._tmpfs, "secret": self._secret,
                 "ssh": self._ssh}  # fmt: skip
        return table[self.asked.type](options, place, undo, step)

    def _with(self, options: Options, source: str, read_only: bool, overlay: tuple[str, ...] = ()) -> Options:
        volume = Volume(source=source, target=self.asked.target, read_only=read_only, layers=overlay)
        return options._replace(volumes=(*options.volumes, volume))

    def _bind(self, options: Options, place: str, undo: ExitStack, step: Step) -> Options:
        """Files of the context are copied, so that they are whose COPY would make them; a stage is an overlay."""
        del undo  # the place goes with its step
        if self.other:
            path = self._resolved()
            return self._with(options, path, self.asked.read_only, self.bench.lowers(self.other))
        self._copy_context(place, step)
        return self._with(options, f"{place}/content", self.asked.read_only)

    def _resolved(self) -> str:
        """The path of the source in the other's files, with no link left in it."""
        assert self.other is not None
        source = self.asked.source or "."
        with self.bench.changes(self.other) as theirs:

            def child() -> list[str]:
                tree = Tree(self.bench.mount(theirs))
                try:
                    path = tree.resolve(source)
                    os.stat(path, dir_fd=tree.descriptor, follow_symlinks=False)
                except (FileNotFoundError, NotADirectoryError):
                    raise Error(f"{source} is not in --mount=from={self.asked.stage}") from None
                return [path]

            return copying.isolated(child)[0]

    def _copy_context(self, place: str, step: Step) -> None:
        os.mkdir(place)
        taken = sources(self.bench.tree(self.directory), self.asked.source or ".", self.bench.told(self.directory))

        def child() -> list[str]:
            os.chroot(place)
            os.chdir("/")
            return copying.place(taken, copying.Copy(destination="/content"))

        tell(step, copying.isolated(child))

    def _cache(self, options: Options, place: str, undo: ExitStack, step: Step) -> Options:
        del place  # it outlives the build
        asked, data = self.asked, self.bench.home.data

        def fill(directory: str) -> None:
            if asked.stage and (self.other or self.directory):
                self._copy_first(directory, step)
            os.chown(directory, asked.uid, asked.gid)
            os.chmod(directory, asked.mode)

        key = cache_mounts.key(asked.id, *self.first, asked.source, asked.mode, asked.uid, asked.gid)
        directory = undo.enter_context(cache_mounts.held(data, key, asked.id, asked.sharing, fill))
        return self._with(options, directory, asked.read_only)

    def _copy_first(self, directory: str, step: Step) -> None:
        """What a new cache begins with: the files that `from` names."""
        with self.bench.changes(self.other) as theirs:

            def child() -> list[str]:
                tree = Tree(self.bench.mount(theirs)) if self.other else self.bench.tree(self.directory)
                taken = sources(tree, self.asked.source or ".", f"--mount=from={self.asked.stage}")
                os.chroot(directory)
                os.chdir("/")
                return copying.place(taken, copying.Copy(destination="/", keep_owner=self.other is not None))

            tell(step, copying.isolated(child))

    def _tmpfs(self, options: Options, place: str, undo: ExitStack, step: Step) -> Options:
        del place, undo, step  # it is memory
        size = f",size={self.asked.size}" if self.asked.size else ""
        return options._replace(tmpfs=(*options.tmpfs, f"{self.asked.target}:exec{size}"))

    def _secret(self, options: Options, place: str, undo: ExitStack, step: Step) -> Options:
        del undo, step  # the place goes with its step
        asked = self.asked
        content = self._secret_content()
        if content is None:
            if asked.required:
                raise Refused(f"secret {asked.id} is required and was not given; try: --secret id={asked.id},src=PATH")
            return options
        if asked.env:
            options = options._replace(env=(*options.env, f"{asked.env}={content.decode(errors='surrogateescape')}"))
        if not asked.target:
            return options
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chown(place, asked.uid, asked.gid)
        os.chmod(place, asked.mode)
        return self._with(options, place, read_only=True)

    def _secret_content(self) -> bytes | None:
        secret = self.bench.request.secrets.get(self.asked.id)
        if secret is None:
            return None
        if secret.variable:
            return os.environb.get(os.fsencode(secret.variable))
        try:
            with open(secret.file, "rb") as file:
                return file.read()
        except OSError as error:
            raise Refused(f"secret {self.asked.id}: {secret.file}: {error.strerror}") from None

    def _ssh(self, options: Options, place: str, undo: ExitStack, step: Step) -> Options:
        del step  # it copies nothing
        asked = self.asked
        agent = self.bench.request.agents.get(asked.id)
        if agent is None:
            if asked.required:
                raise Refused(f"ssh agent {asked.id} is required and was not given; try: --ssh {asked.id}")
            return options
        if not os.path.exists(agent) or not stat.S_ISSOCK(os.stat(agent).st_mode):
            raise Refused(f"ssh agent {asked.id}: {agent} is not the socket of an agent; try: eval $(ssh-agent)")
        undo.enter_context(agent_socket.joined(place, agent, asked.mode, asked.uid, asked.gid))
        options = options._replace(env=(*options.env, f"SSH_AUTH_SOCK={asked.target}"))
        return self._with(options, place, read_only=False)
