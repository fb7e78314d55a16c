"""Image commands: each a function of the command line's table: parsed flags in, `engine` called, results printed.

Stands between `cli` and `engine`.
"""

import getpass
import os
import sys
import time
from typing import Any

from minicontainer import engine, image_archives, registry, reports
from minicontainer.arguments import Parsed, UsageError
from minicontainer.bars import Progress
from minicontainer.containers import Home
from minicontainer.credentials import Credentials
from minicontainer.errors import Error
from minicontainer.logs import parse_time
from minicontainer.oci.image import Descriptor, Platform
from minicontainer.oci.reference import Reference


class NothingNamed(Error):
    exit_code = 1

    def __init__(self, name: str) -> None:
        super().__init__(f"no container and no image {name}; try: minicontainer ps --all, or minicontainer images")


def images(home: Home, parsed: Parsed) -> int:
    wanted = parsed.words[0] if parsed.words else ""
    rows = []
    for name, _, manifest, config in engine.images(home):
        reference = Reference.parse(name)
        repository = reference._replace(tag="", digest="").familiar().removesuffix(":latest")
        if wanted and wanted not in (repository, f"{repository}:{reference.tag}"):
            continue
        digits = manifest.config.digest
        made = parse_time(config.created.replace("+00:00", "Z")) if config.created.endswith(("Z", "+00:00")) else 0.0
        rows.append(
            {
                "Repository": repository,
                "Tag": reference.tag or "<none>",
                "ID": digits if parsed.no_trunc else digits.partition(":")[2][:12],
                "CreatedSince": f"{reports.age(time.time() - made)} ago" if made > 0 else "unknown",
                "Size": reports.size(sum(layer.size for layer in manifest.layers)),
            }
        )
    if parsed.quiet:
        print("".join(f"{row}\n" for row in dict.fromkeys(row["ID"] for row in rows)), end="")
    else:
        reports.show(rows, reports.IMAGE_HEADS, parsed.format, sys.stdout)
    return 0


def rmi(home: Home, parsed: Parsed) -> int:
    for name in parsed.words:
        for line in engine.remove_image(home, name, parsed.force):
            print(line)
    return 0


def tag(home: Home, parsed: Parsed) -> int:
    source, name = parsed.words
    engine.tag(home, source, name)
    return 0


def pull(home: Home, parsed: Parsed) -> int:
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
    registry.login(parsed.words[0], Credentials(user=user, password=password), plain_http=parsed.plain_http)
    print("Login Succeeded")
    return 0


def logout(_: Home, parsed: Parsed) -> int:
    had = registry.logout(parsed.words[0])
    print(f"{'Removed' if had else 'No'} login credentials for {parsed.words[0]}")
    return 0


def load(home: Home, parsed: Parsed) -> int:
    if parsed.input:
        with open(parsed.input, "rb") as file:
            names = image_archives.load(engine.open_store(home), file)
    else:
        if sys.stdin.isatty():
            raise UsageError("an archive is expected on stdin; try: minicontainer load --input FILE")
        names = image_archives.load(engine.open_store(home), sys.stdin.buffer)
    for name in names:
        print(f"Loaded image: {_familiar(name)}")
    return 0


def _familiar(name: str) -> str:
    return name if name.startswith("sha256:") else Reference.parse(name).familiar()


def save(home: Home, parsed: Parsed) -> int:
    if parsed.format not in (None, "docker-archive", "oci-archive"):
        raise UsageError(f"--format {parsed.format!r}: docker-archive or oci-archive is expected (one file is both)")
    store = engine.open_store(home)
    if not parsed.output:
        if sys.stdout.isatty():
            raise UsageError("an archive does not belong on a terminal; try: minicontainer save --output FILE")
        image_archives.save(store, parsed.words, sys.stdout.buffer)
        return 0
    half = f"{parsed.output}.{os.getpid()}.new"
    try:
        with open(half, "xb") as file:
            image_archives.save(store, parsed.words, file)
        os.rename(half, parsed.output)
    except BaseException:
        if os.path.exists(half):
            os.unlink(half)
        raise
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
    tags = [Reference.parse(known).familiar() for known, other in store.names() if other.digest == descriptor.digest]
    return {
        "Id": manifest.config.digest,
        "RepoTags": tags,
        "Digest": descriptor.digest,
        "Created": config.created,
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": sum(layer.size for layer in manifest.layers),
        "Config": config.config.to_json(),
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
    }
