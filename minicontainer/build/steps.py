"""Steps: carry out the instructions that touch files, RUN COPY ADD WORKDIR, each into a layer.

Below `builder`, which walks the stages. A step is planned first: what its result depends on says whether the cache has
it. If not, its plan changes the upper directory of an overlay on the layers so far, which becomes the next layer.
Ruled by the Dockerfile reference.
"""

import posixpath
from typing import NamedTuple

from minicontainer.build import copies, copying, runs
from minicontainer.build import reasons as build_reasons
from minicontainer.build.dockerfile import Instruction
from minicontainer.build.expansion import expand
from minicontainer.build.progress import Step
from minicontainer.build.workbench import Earlier, Overlay, Plan, Work, Workbench
from minicontainer.oci.image import History


class How(NamedTuple):
    """How a stage's steps are taken. `earlier` gives the stage that --from names."""

    earlier: Earlier
    keep_blob: bool
    use_cache: bool
    slot: str = ""  # the place of the step in its Dockerfile, for `reasons`


def carry_out(bench: Workbench, instruction: Instruction, work: Work, step: Step, how: "How") -> Work:
    """The work with the instruction's layer."""
    table = {"RUN": runs.plan, "WORKDIR": _workdir}
    plan = table.get(instruction.keyword, copies.plan)(bench, instruction, work, step, how.earlier)
    inputs = bench.cache.inputs(
        () if plan.linked else work.diff_ids, {"instruction": instruction.keyword, **plan.inputs}
    )
    key = bench.cache.key(inputs)
    with bench.step_lock(key):
        layer = bench.cached(key) if how.use_cache else None
        step.cached = layer is not None
        reasons = build_reasons.Reasons(bench.home.data, how.slot)
        if bench.request.explain:
            step.output(f"{reasons.told(inputs, step.cached, how.use_cache)}\n".encode())
        if layer is None:
            with bench.changes(None if plan.linked else work) as overlay:
                plan.make(overlay)
                layer = bench.cache.commit(overlay.upper, bench.now(), how.keep_blob)
            bench.cache.put(key, layer)
    reasons.remember(key, inputs)
    bench.taken[key] = layer
    entry = History(
        created=layer.created, created_by=plan.history, comment="minicontainer", empty_layer=not layer.diff_id
    )
    grown = (*work.layers, layer) if layer.diff_id else work.layers
    return work._replace(
        layers=grown, history=(*work.history, entry), created=layer.created, state=plan.state or work.state
    )


def _workdir(bench: Workbench, instruction: Instruction, work: Work, step: Step, earlier: Earlier) -> Plan:
    del step, earlier  # it says nothing and needs no other stage
    config = work.state.config
    path = expand(instruction.arguments[0], work.state.variables, bench.scope.escape)
    path = posixpath.join("/", config.working_dir, path)
    path = posixpath.normpath(path).replace("//", "/")

    def make(overlay: Overlay) -> None:
        def child() -> list[str]:
            bench.enter(overlay)
            return copying.make_workdir(path, config.user)

        copying.isolated(child)

    state = work.state._replace(config=config._replace(working_dir=path))
    return Plan(inputs={"path": path, "user": config.user}, make=make, history=f"WORKDIR {path}", state=state)
