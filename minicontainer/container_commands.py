"""Container commands: each a function of the command line's table: parsed flags in, `engine` called, results printed.

Stands between `cli` and `engine`.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from minicontainer import engine, run_options
from minicontainer.arguments import Parsed, UsageError
from minicontainer.containers import CREATED, RUNNING, Container, Home
from minicontainer.errors import ContainerNotFound, Error, ImageNotFound
from minicontainer.linux import procfs
from minicontainer.plan import Explain, explain_on
from minicontainer.values import Any

SAMPLE = 0.5  # seconds that the use of CPU is measured over


def run(home: Home, parsed: Parsed) -> int:
    options = run_options.options(parsed)
    if options.tty and not parsed.detach and options.interactive and not os.isatty(0):
        raise Error("the input is not a terminal, and -it wants one; try: -i alone")
    explain = _explain(parsed)
    _seal(options.userns)
    container = _create(home, parsed)
    try:
        if parsed.detach:
            engine.start(home, container.id, explain=explain)
            print(container.id)
            return 0
        from minicontainer import foreground

        return foreground.start(home, container, explain)
    except (Error, OSError):
        _forget(home, container)  # it never ran: its name must be free for the next try
        raise


def _seal(userns: str) -> None:
    """A container with the host's user ids could write to the interpreter that starts it (CVE-2019-5736): `sealing`."""
    if userns == "host" and not procfs.in_user_namespace():
        from minicontainer.runtime import sealing

        sealing.seal_interpreter(sys.orig_argv)


def _seal_for(home: Home, names: Sequence[str]) -> None:
    for name in names:
        with suppress(ContainerNotFound):  # it is said when its turn comes
            _seal(engine.inspect(home, name).options.userns)


def _forget(home: Home, container: Container) -> None:
    try:
        engine.remove(home, container.id, force=True)
    except ContainerNotFound:
        return


def create(home: Home, parsed: Parsed) -> int:
    print(_create(home, parsed).id)
    return 0


def _create(home: Home, parsed: Parsed) -> Container:
    options = run_options.options(parsed)
    when = parsed.pull or "missing"
    if when not in ("missing", "always", "never"):
        raise UsageError(f"--pull {when!r}: missing, always or never is expected")
    if when == "never":
        engine.image(home, options.image)
    elif when == "always" or not _is_here(home, options.image):
        from minicontainer import image_commands

        image_commands.pull_shown(home, options.image)
    if parsed.cidfile and os.path.exists(parsed.cidfile):
        raise Error(f"{parsed.cidfile} exists; try: another --cidfile, or remove it")
    container = engine.create(home, options)
    if container.options.network != options.network == "bridge" and container.options.network == "none":
        from minicontainer.network import slirp

        print(f"minicontainer: no network: {slirp.missing()}", file=sys.stderr)
    if parsed.cidfile:
        with open(parsed.cidfile, "x", encoding="ascii") as file:
            file.write(container.id)
    return container


def _is_here(home: Home, image: str) -> bool:
    try:
        engine.image(home, image)
    except ImageNotFound:
        return False
    return True


def _explain(parsed: Parsed) -> Explain | None:
    return explain_on(2, "creator", pause=parsed.step) if parsed.explain or parsed.step else None


def start(home: Home, parsed: Parsed) -> int:
    _seal_for(home, parsed.words)
    if parsed.attach:
        from minicontainer import foreground

        if len(parsed.words) > 1:
            raise UsageError("start --attach takes one container")
        return foreground.start(home, engine.inspect(home, parsed.words[0]), _explain(parsed))
    return _each(parsed, lambda name: engine.start(home, name, explain=_explain(parsed)))


def stop(home: Home, parsed: Parsed) -> int:
    seconds = None if parsed.time is None else _seconds(parsed.time)
    return _each(parsed, lambda name: engine.stop(home, name, seconds))


def restart(home: Home, parsed: Parsed) -> int:
    _seal_for(home, parsed.words)
    seconds = None if parsed.time is None else _seconds(parsed.time)

    def again(name: str) -> None:
        engine.stop(home, name, seconds)
        engine.start(home, name)

    return _each(parsed, again)


def kill(home: Home, parsed: Parsed) -> int:
    return _each(parsed, lambda name: engine.kill(home, name, parsed.signal or "KILL"))


def rm(home: Home, parsed: Parsed) -> int:
    return _each(parsed, lambda name: engine.remove(home, name, force=parsed.force))


def wait(home: Home, parsed: Parsed) -> int:
    for name in parsed.words:
        print(engine.wait(home, name), flush=True)
    return 0


def _each(parsed: Parsed, action: Callable[[str], object]) -> int:
    """Do it to all, tell each failure, and fail when one did: what docker does with several names."""
    code = 0
    for name in parsed.words:
        try:
            action(name)
            print(name, flush=True)
        except Error as error:
            if len(parsed.words) == 1:
                raise
            print(f"minicontainer: {error}", file=sys.stderr)
            code = 1
    return code


def exec_(home: Home, parsed: Parsed) -> int:
    name, *command = parsed.words
    env = run_options.environment((), parsed.env, os.environ)
    container = engine.inspect(home, name)
    _seal(container.options.userns)
    place, user = parsed.workdir or "", parsed.user or ""
    explain = _explain(parsed)
    if parsed.detach:
        return engine.exec(home, container.id, command, env=env, workdir=place, user=user, detach=True, explain=explain)
    if parsed.tty and parsed.interactive and not os.isatty(0):
        raise Error("the input is not a terminal, and -it wants one; try: -i alone")
    from minicontainer import foreground

    return foreground.execute(
        home,
        container,
        tuple(command),
        env,
        place,
        user,
        parsed.interactive,
        parsed.tty,
        explain,
    )


def ps(home: Home, parsed: Parsed) -> int:
    from minicontainer import reports

    filters = [reports.filter_of(text) for text in parsed.filter]
    everything = parsed.all or any(text.startswith("status=") for text in parsed.filter)
    found = [
        container
        for container in engine.list_containers(home)
        if (everything or container.status == RUNNING) and all(accept(container) for accept in filters)
    ]
    if parsed.quiet:
        for container in found:
            print(container.id if parsed.no_trunc else container.id[:12])
        return 0
    rows = [reports.container_row(container, time.time(), parsed.no_trunc) for container in found]
    reports.show(rows, reports.CONTAINER_HEADS, parsed.format, sys.stdout)
    return 0


def logs(home: Home, parsed: Parsed) -> int:
    from minicontainer import reports
    from minicontainer.logs import format_time

    tail = None if parsed.tail in (None, "all") else _seconds(parsed.tail)
    since = 0.0 if parsed.since is None else reports.moment(parsed.since, time.time())
    for record in engine.read_logs(home, parsed.words[0], follow=parsed.follow, tail=tail, since=since):
        stream = sys.stderr if record.stream == "stderr" else sys.stdout
        stream.write(f"{format_time(record.time)} {record.text}" if parsed.timestamps else record.text)
        stream.flush()
    return 0


def inspect(home: Home, parsed: Parsed) -> int:
    import json

    from minicontainer import reports

    found = []
    for name in parsed.words:
        try:
            found.append(reports.container_json(engine.inspect(home, name)))
        except ContainerNotFound:
            from minicontainer import image_commands

            found.append(image_commands.inspected(home, name))
    print(json.dumps(found, indent=4))
    return 0


def port(home: Home, parsed: Parsed) -> int:
    for one in engine.inspect(home, parsed.words[0]).ports:
        print(f"{one.container_port}/{one.protocol} -> {one.host_ip or '0.0.0.0'}:{one.host_port}")
    return 0


def stats(home: Home, parsed: Parsed) -> int:
    """Once, or again and again until Ctrl-C or until none of the named containers runs any more."""
    from minicontainer import reports

    names = [engine.inspect(home, name).id for name in parsed.words]
    while True:
        rows = _usage(home, names)
        if not parsed.no_stream and parsed.format is None and os.isatty(1):
            sys.stdout.write("\x1b[H\x1b[2J")  # the table stays in its place: console_codes(4)
        reports.show(rows, reports.USAGE_HEADS, parsed.format, sys.stdout)
        sys.stdout.flush()
        if parsed.no_stream or (names and not rows):
            return 0


def _usage(home: Home, names: Sequence[str]) -> list[dict[str, Any]]:
    """What each running container uses, CPU as the share of one in half a second."""
    from minicontainer import reports

    chosen = [one for one in engine.list_containers(home) if not names or one.id in names]
    began, before = time.monotonic(), {}
    for container in chosen:
        if container.id in names and container.status == RUNNING and not container.cgroups:
            engine.statistics(home, container.id)  # says why there are none
        with suppress(Error):  # it does not run
            before[container.id] = container, engine.statistics(home, container.id)
    time.sleep(SAMPLE)
    rows = []
    for container, first in before.values():
        with suppress(Error):  # it has ended meanwhile
            usage = engine.statistics(home, container.id)
            cpu = (usage.cpu_ns - first.cpu_ns) / 1e9 / (time.monotonic() - began) * 100
            rows.append(reports.usage_row(container, usage, cpu))
    return rows


def prune(home: Home, _: Parsed) -> int:
    engine.repair(home)
    for container in engine.list_containers(home):
        if container.status not in (RUNNING, CREATED):
            engine.remove(home, container.id)
            print(container.id)
    for name in engine.remove_unused(home):
        print(name)
    return 0


def _seconds(text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{text!r}: a whole number is expected")
    return int(text)
