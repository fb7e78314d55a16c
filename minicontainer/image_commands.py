"""Image commands: each a function of the command line's table: parsed flags in, `engine` called, results printed.

Stands between `cli` and `engine`.
"""

import getpass
import os
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from minicontainer import engine, reports
from minicontainer.arguments import Parsed, UsageError
from minicontainer.bundle import label_filter
from minicontainer.containers import Home
from minicontainer.errors import Error
from minicontainer.image import image_archives, oci_layouts
from minicontainer.image import images as image_functions
from minicontainer.logs import parse_time
from minicontainer.oci.image import Descriptor, History, ImageConfig, Platform
from minicontainer.oci.reference import DEFAULT_REGISTRY, Reference
from minicontainer.registry import client
from minicontainer.registry.bars import Progress
from minicontainer.registry.credentials import Credentials

HISTORY_HEADS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
COMMAND_WIDTH = 45


class NothingNamed(Error):
    exit_code = 1

    def __init__(self, name: str) -> None:
        super().__init__(f"no container and no image {name}; try: minicontainer ps --all, or minicontainer images")


def images(home: Home, parsed: Parsed) -> int:
    wanted = parsed.words[0] if parsed.words else ""
    filters = [_filter(text) for text in parsed.filter]
    rows = []
    for name, descriptor, manifest, config in engine.images(home):
        repository, tag = _repository_and_tag(name)
        if wanted and wanted not in (repository, f"{repository}:{tag}"):
            continue
        if not all(accepted(f"{repository}:{tag}", config) for accepted in filters):
            continue
        digits = manifest.config.digest
        rows.append(
            {
                "Repository": repository,
                "Tag": tag,
                "ID": digits if parsed.no_trunc else digits.partition(":")[2][:12],
                "CreatedSince": _since(config.created),
                "CreatedAt": config.created,
                "Digest": descriptor.digest,
                "Size": reports.size(sum(layer.size for layer in manifest.layers)),
            }
        )
    if parsed.quiet:
        print("".join(f"{row}\n" for row in dict.fromkeys(row["ID"] for row in rows)), end="")
    else:
        heads = reports.DIGEST_HEADS if parsed.digests else reports.IMAGE_HEADS
        reports.show(rows, heads, parsed.format, sys.stdout)
    return 0


def _filter(text: str) -> Callable[[str, ImageConfig], bool]:
    """Whether an image of a name and config is one that --filter wants."""
    key, _, value = text.partition("=")
    match key:
        case "dangling" if value in ("true", "false"):
            return lambda name, _: (name == "<none>:<none>") == (value == "true")
        case "reference" if value:
            return lambda name, _: any(fnmatchcase(one, value) for one in (name, name.rpartition(":")[0]))
        case "label" if value:
            return lambda _, config: label_filter(config.config.labels, value)
    raise UsageError(f"--filter {text!r}: dangling=true, reference=PATTERN or label=KEY[=VALUE] is expected")


def _repository_and_tag(name: str) -> tuple[str, str]:
    if not name:
        return "<none>", "<none>"
    reference = Reference.parse(name)
    repository = reference._replace(tag="", digest="").familiar().removesuffix(":latest")
    return repository, reference.tag or "<none>"


def rmi(home: Home, parsed: Parsed) -> int:
    code = 0
    for name in parsed.words:
        try:
            print("".join(f"{line}\n" for line in engine.remove_image(home, name, parsed.force)), end="")
        except Error as error:  # the others go nevertheless
            print(f"minicontainer: {error}", file=sys.stderr)
            code = 1
    return code


def history(home: Home, parsed: Parsed) -> int:
    """The steps of an image, the last first; `<missing>` where no image is known to end."""
    store = engine.open_store(home)
    manifest = store.manifest(store.resolve(parsed.words[0]))
    config = store.config(manifest)
    sizes = iter([layer.size for layer in manifest.layers])
    rows: list[dict[str, str]] = []
    for step in config.history:
        made = 0 if step.empty_layer else next(sizes, 0)
        rows.insert(0, _step_row(step, made, parsed.no_trunc))
    if not rows:  # of an image that tells no history
        rows = [_step_row(History(created=config.created), size, parsed.no_trunc) for size in sizes][::-1]
    if rows:
        rows[0]["ID"] = manifest.config.digest if parsed.no_trunc else manifest.config.digest[7:19]
    if parsed.quiet:
        print("".join(f"{row['ID']}\n" for row in rows), end="")
    else:
        reports.show(rows, HISTORY_HEADS, parsed.format, sys.stdout)
    return 0


def _step_row(step: History, made: int, whole: bool) -> dict[str, str]:
    command = " ".join(step.created_by.split())
    return {
        "ID": "<missing>",
        "CreatedSince": _since(step.created),
        "CreatedBy": command if whole or len(command) <= COMMAND_WIDTH else command[: COMMAND_WIDTH - 1] + "…",
        "Size": reports.size(made),
        "Comment": step.comment,
    }


def _since(created: str) -> str:
    made = parse_time(created.replace("+00:00", "Z")) if created.endswith(("Z", "+00:00")) else 0.0
    return f"{reports.age(time.time() - made)} ago" if made > 0 else "unknown"


def tag(home: Home, parsed: Parsed) -> int:
    source, name = parsed.words
    engine.tag(home, source, name)
    return 0


def repaired(home: Home) -> None:
    """Mend what commands before this one have left, and say so."""
    done = image_functions.repair(home)
    if done:
        print(done, file=sys.stderr)


def pull(home: Home, parsed: Parsed) -> int:
    repaired(home)
    name = parsed.words[0]
    descriptor = engine.pull(
        home,
        name,
        plain_http=parsed.plain_http,
        progress=Progress(sys.stderr, parsed.quiet),
        unpack=True,
        platform=_platform(parsed.platform),
        all_platforms=parsed.all_platforms,
    )
    print(Reference.parse(name) if not parsed.quiet else descriptor.digest)
    return 0


def pull_shown(home: Home, name: str, *, quiet: bool = False, plain_http: bool = False) -> Descriptor:
    """Pull with progress on stderr, also unpack: the next command will want the layers."""
    return engine.pull(home, name, plain_http=plain_http, progress=Progress(sys.stderr, quiet), unpack=True)


def push(home: Home, parsed: Parsed) -> int:
    descriptor = engine.push(
        home,
        parsed.words[0],
        plain_http=parsed.plain_http,
        progress=Progress(sys.stderr, parsed.quiet),
        platform=_platform(parsed.platform),
    )
    print(descriptor.digest)
    return 0


def _platform(text: str | None) -> Platform | None:
    return Platform.parse(text) if text else None


def login(_: Home, parsed: Parsed) -> int:
    user, password = parsed.username, parsed.password
    if parsed.password_stdin:
        password = sys.stdin.read().rstrip("\n")
    if not user and sys.stdin.isatty():
        user = input("Username: ")
    if password is None and sys.stdin.isatty():
        password = getpass.getpass("Password: ")
    if not user or not password:
        raise UsageError("login needs --username, and the password by --password-stdin")
    client.login(_registry(parsed), Credentials(user=user, password=password), plain_http=parsed.plain_http)
    print("Login Succeeded")
    return 0


def logout(_: Home, parsed: Parsed) -> int:
    had = client.logout(_registry(parsed))
    print(f"{'Removed' if had else 'No'} login credentials for {_registry(parsed)}")
    return 0


def _registry(parsed: Parsed) -> str:
    return parsed.words[0] if parsed.words else DEFAULT_REGISTRY


def load(home: Home, parsed: Parsed) -> int:
    repaired(home)
    store, platform = engine.open_store(home), _platform(parsed.platform)
    if parsed.input and os.path.isdir(parsed.input):
        names = oci_layouts.load(store, parsed.input, platform)
    elif parsed.input:
        with open(parsed.input, "rb") as file:
            names = image_archives.load(store, file, platform)
    else:
        if sys.stdin.isatty():
            raise UsageError("an archive is expected on stdin; try: minicontainer load --input FILE")
        names = image_archives.load(store, sys.stdin.buffer, platform)
    for name in names:
        print(f"Loaded image{' ID' if name.startswith('sha256:') else ''}: {_familiar(name)}")
    return 0


def _familiar(name: str) -> str:
    return name if name.startswith("sha256:") else Reference.parse(name).familiar()


def save(home: Home, parsed: Parsed) -> int:
    if parsed.format not in (None, "docker-archive", "oci-archive", "oci-dir"):
        expected = "docker-archive or oci-archive (one file is both), or oci-dir"
        raise UsageError(f"--format {parsed.format!r}: {expected} is expected")
    store, platform = engine.open_store(home), _platform(parsed.platform)
    if parsed.format == "oci-dir":
        if not parsed.output:
            raise UsageError("--format oci-dir wants a directory; try: --output DIR")
        image_archives.save_layout(store, parsed.words, parsed.output, platform)
        return 0
    if not parsed.output:
        if sys.stdout.isatty():
            raise UsageError("an archive does not belong on a terminal; try: minicontainer save --output FILE")
        image_archives.save(store, parsed.words, sys.stdout.buffer, platform)
        return 0
    half = f"{parsed.output}.{os.getpid()}.new"
    try:
        with open(half, "xb") as file:
            image_archives.save(store, parsed.words, file, platform)
        os.rename(half, parsed.output)
    except BaseException:
        if os.path.exists(half):
            os.unlink(half)
        raise
    return 0


def image_inspect(home: Home, parsed: Parsed) -> int:
    for name in parsed.words:
        engine.image(home, name)  # it is there, or that is said of an image
    reports.show_documents([inspected(home, name) for name in parsed.words], parsed.format, sys.stdout)
    return 0


def inspected(home: Home, name: str) -> dict[str, Any]:
    """What `docker inspect` says of an image, as far as it exists here."""
    store = engine.open_store(home)
    try:
        descriptor = store.resolve(name)
    except Error:
        raise NothingNamed(name) from None
    manifest = store.manifest(descriptor)
    config = store.config(manifest)
    names = [Reference.parse(known) for known, other in store.names() if other.digest == descriptor.digest]
    repositories = dict.fromkeys(name._replace(tag="", digest=descriptor.digest).familiar() for name in names)
    return {
        "Id": manifest.config.digest,
        "RepoTags": [name.familiar() for name in names],
        "RepoDigests": list(repositories),
        "Digest": descriptor.digest,
        "Author": config.author,
        "Created": config.created,
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": sum(layer.size for layer in manifest.layers),
        "Config": config.config.to_json(),
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
    }
