"""Command: `minicontainer build`: what was asked becomes a request, and what came of it is told.

Above `builder`, below `cli`. The image's id goes to stdout with --quiet, progress and errors to stderr.
"""

import json
import sys

from minicontainer import files, run_options
from minicontainer.arguments import Parsed, UsageError
from minicontainer.build import options, outputs, shared_cache
from minicontainer.build.builder import BuildError, build, check
from minicontainer.build.live_view import LiveView
from minicontainer.build.progress import PLAIN, Progress
from minicontainer.build.stages import Refused, parse_platform
from minicontainer.build.workbench import Request
from minicontainer.containers import Home, Options
from minicontainer.image.store import Store
from minicontainer.oci import image
from minicontainer.oci.image import Descriptor, Platform
from minicontainer.oci.reference import Reference
from minicontainer.plan import explain_on

RULER = "-" * 20  # around an excerpt, as BuildKit has it
NETWORKS = {"": "bridge", "default": "bridge", "bridge": "bridge", "none": "none", "host": "host"}


def build_image(home: Home, parsed: Parsed) -> int:
    """Build the image that the command line asks for, or check its Dockerfile."""
    asked = request(parsed)
    mode = "quiet" if parsed.quiet else parsed.progress or ("plain" if asked.explain else "auto")
    teller = _progress(mode)
    try:
        if parsed.check:
            return _check(home, asked)
        descriptor = build(home, asked, teller)
    except BuildError as error:
        teller.close()
        if error.excerpt:
            print(f"{RULER}\n{error.excerpt}\n{RULER}", file=sys.stderr)
        raise
    else:
        _tell(home, parsed, asked, descriptor, teller)
        return 0
    finally:
        teller.close()


def _progress(mode: str) -> Progress:
    """How the steps are shown: by the name that --progress takes."""
    if mode == "auto":
        mode = "tty" if sys.stderr.isatty() else "plain"
    if mode == "tty":
        return LiveView(sys.stderr)
    if mode not in PLAIN:
        raise UsageError(f"--progress {mode}: it is one of auto, tty, {', '.join(PLAIN)}")
    return PLAIN[mode](sys.stderr)


def _check(home: Home, asked: Request) -> int:
    found, any_found = check(home, asked)
    print("\n".join(found) if found else "no findings")
    return int(any_found)


def _tell(home: Home, parsed: Parsed, asked: Request, descriptor: Descriptor, teller: Progress) -> None:
    """What came of it: files for programs, a line for people."""
    store = Store(f"{home.data}/oci")
    is_index = descriptor.media_type in image.INDEXES
    image_id = descriptor.digest if is_index else store.manifest(descriptor, descriptor.platform).config.digest
    if parsed.iidfile:
        files.write(parsed.iidfile, image_id.encode(), mode=0o644)
    if parsed.metadata_file:
        metadata = {
            "containerimage.config.digest": image_id,
            "containerimage.descriptor": descriptor.to_json(),
            "containerimage.digest": descriptor.digest,
            "image.name": ",".join(str(Reference.parse(tag)) for tag in asked.tags),
        }
        files.write(parsed.metadata_file, json.dumps(metadata, indent=2).encode(), mode=0o644)
    for one in asked.outputs:
        for name in dict.fromkeys([*asked.tags, *one.names]) if one.push else ():
            from minicontainer.image import images  # HTTP and TLS cost 50 ms

            images.push(home, name)
    if any(one.dest == "-" for one in asked.outputs):
        return
    if parsed.quiet:
        print(image_id)
    else:
        names = " ".join(Reference.parse(tag).familiar() for tag in asked.tags) or "(no name; give one with --tag)"
        teller.say(f"built {image_id[:19]} {names}")


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
        build_args=dict(pair for text in parsed.build_arg if (pair := options.from_environment(text))),
        target=parsed.target or "",
        labels=dict(options.pair(text) for text in parsed.label),
        contexts=dict(options.pair(text) for text in parsed.build_context),
        network=NETWORKS[network],
        no_cache=parsed.no_cache,
        no_cache_filter=frozenset(name.lower() for text in parsed.no_cache_filter for name in text.split(",")),
        pull=parsed.pull,
        platforms=_platforms(parsed.platform or ""),
        cache_from=tuple(shared_cache.place("--cache-from", text) for text in parsed.cache_from),
        cache_to=tuple(shared_cache.place("--cache-to", text) for text in parsed.cache_to),
        outputs=tuple(outputs.output(text) for text in parsed.output),
        secrets=dict(options.secret(text) for text in parsed.secret),
        agents=dict(options.agent(text) for text in parsed.ssh),
        allowed=frozenset(options.entitlement(text) for text in parsed.allow),
        explain=explain_on(2, "creator", pause=parsed.step) if parsed.explain or parsed.step else None,
        run=_run_options(parsed),
    )


def _platforms(text: str) -> tuple[Platform, ...]:
    try:
        return tuple(parse_platform(one.strip()) for one in text.split(",") if one.strip())
    except Refused as refused:
        raise UsageError(str(refused)) from None


def _run_options(parsed: Parsed) -> Options:
    return Options(
        image="",
        shm_size=run_options.size("--shm-size", parsed.shm_size or "64m"),
        ulimits=tuple(run_options.ulimit(text) for text in parsed.ulimit),
        cgroup_parent=parsed.cgroup_parent or "",
        extra_hosts=tuple(run_options.extra_host(text) for text in parsed.add_host),
    )
