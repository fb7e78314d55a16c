"""Build command: `minicontainer build`: what was asked becomes a request, and what came of it is told.

Above `build`, below `cli`. The image's id goes to stdout with --quiet, progress and errors to stderr.
"""

import sys

from minicontainer import build_options, files, run_options
from minicontainer.arguments import Parsed, UsageError
from minicontainer.build import build
from minicontainer.containers import Home, Options
from minicontainer.oci.reference import Reference
from minicontainer.plan import explain_on
from minicontainer.progress import MODES, progress
from minicontainer.store import Store
from minicontainer.workbench import Request

NETWORKS = {"": "bridge", "default": "bridge", "bridge": "bridge", "none": "none", "host": "host"}


def build_image(home: Home, parsed: Parsed) -> int:
    """Build the image that the command line asks for."""
    asked = request(parsed)
    mode = "quiet" if parsed.quiet else parsed.progress or ("plain" if asked.explain else "auto")
    if mode not in MODES:
        raise UsageError(f"--progress {mode}: it is one of {', '.join(MODES)}")
    teller = progress(mode, sys.stderr)
    descriptor = build(home, asked, teller)
    image_id = Store(f"{home.data}/oci").manifest(descriptor).config.digest
    if parsed.iidfile:
        files.write(parsed.iidfile, image_id.encode(), mode=0o644)
    if parsed.quiet:
        print(image_id)
    else:
        names = " ".join(Reference.parse(tag).familiar() for tag in asked.tags) or "(no name; give one with --tag)"
        teller.say(f"built {image_id[:19]} {names}")
    return 0


def request(parsed: Parsed) -> Request:
    """What the command line asks for.

    Raises:
        Error: a value cannot be read.
    """
    if (network := parsed.network or "") not in NETWORKS:
        raise UsageError(f"--network {network}: it is one of bridge, default, none, host")
    for tag in parsed.tag:
        Reference.parse(tag)
    return Request(
        context=parsed.words[0],
        dockerfile=parsed.file or "",
        tags=parsed.tag,
        build_args=dict(pair for text in parsed.build_arg if (pair := build_options.from_environment(text))),
        target=parsed.target or "",
        labels=dict(build_options.pair(text) for text in parsed.label),
        contexts=dict(build_options.pair(text) for text in parsed.build_context),
        network=NETWORKS[network],
        no_cache=parsed.no_cache,
        pull=parsed.pull,
        secrets=dict(build_options.secret(text) for text in parsed.secret),
        agents=dict(build_options.agent(text) for text in parsed.ssh),
        allowed=frozenset(build_options.entitlement(text) for text in parsed.allow),
        explain=explain_on(2, "creator", pause=parsed.step) if parsed.explain or parsed.step else None,
        run=_run_options(parsed),
    )


def _run_options(parsed: Parsed) -> Options:
    return Options(
        image="",
        shm_size=run_options.size("--shm-size", parsed.shm_size or "64m"),
        ulimits=tuple(run_options.ulimit(text) for text in parsed.ulimit),
        cgroup_parent=parsed.cgroup_parent or "",
        extra_hosts=tuple(run_options.extra_host(text) for text in parsed.add_host),
    )
