"""Container commands: each a function of the command line's table: parsed flags in, `engine` called, results printed.

Stands between `cli` and `engine`.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from minicontainer import engine, run_options
from minicontainer.arguments import Parsed, UsageError
from minicontainer.containers import CREATED, RUNNING, Container, Home, Options, Volume
from minicontainer.containers import rename as rename_container
from minicontainer.errors import ContainerNotFound, Error, ImageNotFound
from minicontainer.linux import procfs
from minicontainer.plan import Explain, explain_on
from minicontainer.runtime.states import WrongStatus
from minicontainer.values import Any

SAMPLE = 0.5  # seconds that the use of CPU is measured over


class NotPublished(Error):
    exit_code = 1


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
        engine.remove(home, container.id, force=True, volumes=True)
    except ContainerNotFound:
        return


def create(home: Home, parsed: Parsed) -> int:
    print(_create(home, parsed).id)
    return 0


def _create(home: Home, parsed: Parsed) -> Container:
    options = run_options.options(parsed)
    options = options._replace(volumes=(*options.volumes, *_volumes_from(home, parsed.volumes_from, options)))
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


def _volumes_from(home: Home, words: Sequence[str], options: Options) -> Iterator[Volume]:
    """The volumes of other containers, unless the flags put something else there."""
    taken = {volume.target for volume in options.volumes}
    for name, colon, mode in (word.partition(":") for word in words):
        if mode not in ("ro", "rw") and colon:
            raise UsageError(f"--volumes-from {name}:{mode}: CONTAINER[:ro] is expected")
        try:
            other = engine.inspect(home, name)
        except ContainerNotFound as error:
            raise Error(f"--volumes-from: {error}") from None  # 125, as every flag of `run` that cannot be
        for volume in other.options.volumes:
            if volume.target not in taken:
                yield volume._replace(anonymous=False, read_only=volume.read_only or mode == "ro")


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
    if parsed.attach or parsed.interactive:
        from minicontainer import foreground

        if len(parsed.words) > 1:
            raise UsageError("start --attach takes one container")
        return foreground.start(home, engine.inspect(home, parsed.words[0]), _explain(parsed))
    return _each(parsed, lambda name: engine.start(home, name, explain=_explain(parsed)))


def stop(home: Home, parsed: Parsed) -> int:
    seconds = None if parsed.time is None else _seconds(parsed.time)
    return _each(parsed, lambda name: engine.stop(home, name, seconds, parsed.signal or ""))


def restart(home: Home, parsed: Parsed) -> int:
    _seal_for(home, parsed.words)
    seconds = None if parsed.time is None else _seconds(parsed.time)

    def again(name: str) -> None:
        engine.stop(home, name, seconds, parsed.signal or "")
        engine.start(home, name)

    return _each(parsed, again)


def pause(home: Home, parsed: Parsed) -> int:
    from minicontainer.runtime import operations

    return _each(parsed, lambda name: operations.pause(home.runtime, engine.running(home, name).id))


def unpause(home: Home, parsed: Parsed) -> int:
    from minicontainer.runtime import cgroups, operations

    def go_on(name: str) -> None:
        container = engine.running(home, name)
        if not cgroups.is_frozen(container.cgroups):
            raise WrongStatus(f"container {container.name} is not paused")
        operations.resume(home.runtime, container.id)

    return _each(parsed, go_on)


def rename(home: Home, parsed: Parsed) -> int:
    name, new = parsed.words
    if not run_options.NAME.fullmatch(new):
        raise UsageError(f"{new!r}: a letter or digit, then letters, digits, and _.- are expected")
    rename_container(home, engine.inspect(home, name), new)
    return 0


def top(home: Home, parsed: Parsed) -> int:
    from minicontainer.runtime import cgroups
    from minicontainer.runtime import reports as runtime_reports

    name, *arguments = parsed.words
    pids = cgroups.processes(engine.running(home, name).cgroups)
    # What is added makes no difference to -ef, and all of it to `-o pid,comm`, which selects nobody: ps(1)
    runtime_reports.show_processes(pids, [*(arguments or ["-ef"]), "-p", ",".join(map(str, pids or {0}))])
    return 0


def kill(home: Home, parsed: Parsed) -> int:
    return _each(parsed, lambda name: engine.kill(home, name, parsed.signal or "KILL"))


def rm(home: Home, parsed: Parsed) -> int:
    return _each(parsed, lambda name: engine.remove(home, name, parsed.force, parsed.volumes))


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
    env = run_options.environment(parsed.env_file, parsed.env, os.environ)
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
    last = 1 if parsed.latest else None if parsed.last is None else _seconds(parsed.last)
    everything = parsed.all or last is not None or any(text.startswith("status=") for text in parsed.filter)
    found = [
        container
        for container in engine.list_containers(home)
        if (everything or container.status == RUNNING) and all(accept(container) for accept in filters)
    ][:last]
    if parsed.quiet:
        for container in found:
            print(container.id if parsed.no_trunc else container.id[:12])
        return 0
    now, whole = time.time(), parsed.no_trunc
    rows = [reports.container_row(container, now, whole, paused=_is_paused(container)) for container in found]
    reports.show(rows, reports.CONTAINER_HEADS, parsed.format, sys.stdout)
    return 0


def _is_paused(container: Container) -> bool:
    from minicontainer.runtime import cgroups

    return container.status == RUNNING and cgroups.is_frozen(container.cgroups)


def logs(home: Home, parsed: Parsed) -> int:
    from minicontainer import reports
    from minicontainer.logs import format_time

    tail = None if parsed.tail in (None, "all") else _seconds(parsed.tail)
    since = 0.0 if parsed.since is None else reports.moment(parsed.since, time.time())
    until = None if parsed.until is None else reports.moment(parsed.until, time.time(), "--until")
    for record in engine.read_logs(home, parsed.words[0], follow=parsed.follow, tail=tail, since=since):
        if until is not None and record.time > until:
            break
        stream = sys.stderr if record.stream == "stderr" else sys.stdout
        stream.write(f"{format_time(record.time)} {record.text}" if parsed.timestamps else record.text)
        stream.flush()
    return 0


def inspect(home: Home, parsed: Parsed) -> int:
    from minicontainer import reports

    if parsed.type not in (None, "container", "image"):
        raise UsageError(f"--type {parsed.type!r}: container or image is expected")
    found = [_inspected(home, name, parsed.type) for name in parsed.words]
    reports.show_documents(found, parsed.format, sys.stdout)
    return 0


def _inspected(home: Home, name: str, kind: str | None) -> dict[str, Any]:
    from minicontainer import reports

    if kind != "image":
        try:
            container = engine.inspect(home, name)
            return reports.container_json(container, paused=_is_paused(container))
        except ContainerNotFound:
            if kind:
                raise
    from minicontainer import image_commands

    return image_commands.inspected(home, name)


def port(home: Home, parsed: Parsed) -> int:
    """All that are published, or where the one that is asked for is."""
    name, *asked = parsed.words
    wanted = "".join(asked) + ("" if not asked or "/" in asked[0] else "/tcp")
    found = 0
    for one in engine.inspect(home, name).ports:
        inner, outer = f"{one.container_port}/{one.protocol}", f"{one.host_ip or '0.0.0.0'}:{one.host_port}"
        if not asked or inner == wanted:
            print(outer if asked else f"{inner} -> {outer}")
            found += 1
    if asked and not found:
        raise NotPublished(f"container {name} publishes no port {wanted}; try: minicontainer port {name}")
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
