"""Explain: the plan of a container, printed and not run.

Stands above the runtime and the engine, whose own steps these are: `runtime` would execute what is shown here. Each
step is answered by something harmless, so that the plan goes on: a descriptor by one that only names a path, a child by
a word. Of an image the layers are really stacked, in a mount namespace that ends at once, since the plan depends on
what is in them.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping

from minicontainer import engine, rootless, supervisor
from minicontainer.arguments import Parsed
from minicontainer.containers import Home, Options
from minicontainer.files import Descriptors
from minicontainer.linux import procfs
from minicontainer.oci.runtime import Spec, Status
from minicontainer.plan import Explain, Plan, Result, explain_on
from minicontainer.runtime import cgroups, checks, creation, init, rootfs, states
from minicontainer.values import Any


class Later(int):
    """A number that is known only when the step before has run, shown by its name."""

    def __new__(cls, name: str) -> "Later":
        made = super().__new__(cls, 0)
        made.name = name
        return made

    name: str

    def __str__(self) -> str:
        return self.name

    def __format__(self, _: str) -> str:
        return self.name


CHILD = Later("CHILD")
_PATH_ALONE = os.O_PATH | os.O_CLOEXEC
# Call: what stands in for it. All others are answered by None.
STAND_INS: Mapping[str, Callable[..., Any]] = {
    "open_tree": lambda _, path, __: os.open(path, _PATH_ALONE),
    "open": lambda *_: os.open(os.devnull, _PATH_ALONE),
    "new_mount": lambda *_: os.open(os.devnull, _PATH_ALONE),
    "clone3": lambda *_: CHILD,
    "clone_joined": lambda *_: CHILD,
    "user_namespace": lambda *_: os.open(os.devnull, _PATH_ALONE),
    "enter_directory": lambda *_: True,
    "find_program": lambda arguments, _: arguments[0] if arguments else "",
}  # fmt: skip


def explain(home: Home, parsed: Parsed) -> int:
    """`minicontainer explain BUNDLE|IMAGE [COMMAND...]`"""
    what, *command = parsed.words
    shown = explain_on(1, "creator")
    if os.path.isfile(f"{what}/{states.CONFIG}"):
        show_bundle(what, shown, tuple(command))
        return 0
    if os.geteuid() != 0:
        rootless.enter(home)
    container = engine.create(home, Options(image=what, command=tuple(command), network="none"))
    sys.stdout.flush()
    try:
        supervisor.rehearse(home, container, shown, lambda bundle: show_bundle(bundle, shown))
    finally:
        engine.remove(home, container.id, force=True, volumes=True)
    return 0


def show_bundle(bundle: str, shown: Explain, command: tuple[str, ...] = ()) -> None:
    """What `minicontainer-runtime run` would do with a bundle, up to execve."""
    bundle = os.path.abspath(bundle)
    _, spec = states.read_spec(f"{bundle}/{states.CONFIG}")
    if command:
        spec = spec._replace(process=spec.process._replace(args=command))
    checks.check(spec, spec.process.terminal)
    found = cgroups.hierarchies()
    container_id = os.path.basename(bundle)
    state = states.new_state(spec, container_id, bundle, found)._replace(status=Status.CREATING)
    if state.cgroups:
        _rehearse(cgroups.make(state.cgroups, spec.linux.resources, found.version2), shown)
    tree, bound = _rehearse(rootfs.open_trees(spec, state.rootfs, bundle), shown)
    child = _child(spec, f"_ses.{container_id}")
    later = {"cgroup", "ipc", "time"} if child.mapped else {"cgroup", "time"}  # these are unshared: `init`
    born = {one.type for one in spec.linux.namespaces if not one.path} - later
    with Descriptors() as opened:
        joins = creation.joins_by_path(opened, spec)
        flags = sum(checks.NAMESPACES[kind][0] for kind in born)
        _rehearse(creation.clone(flags, joins, -1, creation.clocks(spec)), shown)
    link = init.Pipes(orders=Later("ORDERS"), report=Later("REPORT"))
    devices = None
    if spec.linux.net_devices:
        from minicontainer.runtime import net_devices  # few containers ask for it

        devices = net_devices.steps(CHILD, spec.linux.net_devices, Later("NETWORK"), [])
    _rehearse(creation.settle(CHILD, spec, state, child.mapped, bound, link, devices), shown)
    view = creation.cgroup_view(spec, state, found)
    inside = shown._replace(who="init")
    _rehearse(init.arrive(child), inside)
    hooked = creation.hosted(spec, state)
    house = init.House(spec, tree, bound, view, hooks=hooked)
    _rehearse(init.build(child, house), inside, set(state.cgroups.values()))
    if hooked is not None:
        _rehearse(creation.host_hooks(spec, state, CHILD, link), shown)
    program, environment = _rehearse(init.strip(child), inside)
    _rehearse(init.leave(child, program, environment, hooked), inside)


def _child(spec: Spec, keyring: str) -> init.Child:
    profile = spec.linux.seccomp
    with tempfile.TemporaryDirectory() as cache, Descriptors() as opened:
        filter_of = creation.filter_of(profile, cache)
        asked = creation.asked_of(opened, spec.process, spec)
    return init.Child(
        process=spec.process,
        pipes=init.Pipes(orders=Later("ORDERS"), report=Later("REPORT"), start=Later("FIFO")),
        mapped=any(one.type == "user" and not one.path for one in spec.linux.namespaces),
        console=Later("CONSOLE"),
        keyring=keyring,
        filter=filter_of,
        last_capability=procfs.cap_last_cap(),
        asked=asked,
    )


def _rehearse(steps: "Plan[Result]", shown: Explain, made: Collection[str] = ()) -> Result:
    """Print each step and do none of them; what is `made` by steps before these is not there."""
    outcome, reason = None, ""
    try:
        while True:
            step = steps.send(outcome)
            shown.show(step, step.why == reason)
            reason = step.why
            stand_in = STAND_INS.get(step.call.__name__)
            if any(path in step.arguments for path in made):
                stand_in = STAND_INS["open"]
            outcome = stand_in(*step.arguments) if stand_in else None
    except StopIteration as stop:
        result: Result = stop.value
        return result
