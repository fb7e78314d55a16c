"""Context sources: what a build may take files from, whatever it comes as, made a directory.

Below `builder`. A context is a directory, an archive (a file, stdin, or by URL) or a git repository; what is no archive
is a Dockerfile alone. An archive is unpacked in a child whose root is the directory it goes to. Ruled by docker's
command line.
"""

import codecs
import os
import shutil
import sys
import tarfile
import tempfile
from typing import IO

from minicontainer.build import copying, remotes
from minicontainer.build.context import Tree
from minicontainer.build.dockerfile import BuildError, Dockerfile, parse
from minicontainer.build.workbench import Request
from minicontainer.errors import Error

STDIN = "-"
DOCKERFILES = ("Dockerfile", "dockerfile")


def prepared(request: Request, scratch: str, stdin: IO[bytes] | None = None) -> Request:
    """The request with directories for all contexts, and a Dockerfile that is a file.

    Raises:
        BuildError: one of them is not there, or cannot be read.
    """
    try:
        return _prepared(request, scratch, stdin or sys.stdin.buffer)
    except BuildError:
        raise
    except Error as error:
        raise BuildError(str(error)) from None


def _prepared(request: Request, scratch: str, stdin: IO[bytes]) -> Request:
    if request.context == STDIN and request.dockerfile == STDIN:
        raise BuildError("stdin cannot be both, the context and the Dockerfile")
    places = {name: _fetched(where, scratch) for name, where in request.contexts.items()}
    request = request._replace(contexts=places)
    if request.dockerfile == STDIN:
        request = request._replace(dockerfile=_spooled(stdin, scratch), dockerfile_name="Dockerfile")
    if request.context == STDIN:
        return _of_file(request, _spooled(stdin, scratch), "stdin", scratch)
    if remotes.is_git(request.context):
        return _inside(request, _checked_out(request.context, scratch), request.context)
    if remotes.is_remote(request.context):
        place = tempfile.mkdtemp(dir=scratch)
        return _of_file(
            request, remotes.fetch_file(request.context, place, f"{scratch}/kept"), request.context, scratch
        )
    if os.path.isfile(request.context):
        if not _is_archive(request.context):
            raise BuildError(f"{request.context}: the build context is a file, and no archive; try: its directory")
        return _of_file(request, request.context, request.context, scratch)
    if not os.path.isdir(request.context):
        raise BuildError(f"{request.context}: the build context is not a directory")
    return request._replace(dockerfile=request.dockerfile or _default(request.context))


def read_dockerfile(request: Request) -> Dockerfile:
    """The parsed file of a prepared request; it need not be in the context.

    Raises:
        BuildError: it is not there, no text, or cannot be parsed.
    """
    path, name = request.dockerfile, request.dockerfile_name or os.path.normpath(request.dockerfile)
    try:
        with open(path, "rb") as file:
            return parse(_text(file.read(), name), name)
    except FileNotFoundError:
        other = os.path.join(os.path.dirname(path), "Containerfile")
        raise BuildError(f"{name}: no such file; try: --file {other if os.path.exists(other) else 'PATH'}") from None
    except IsADirectoryError:
        raise BuildError(f"{name}: not a Dockerfile: it is a directory") from None


def _text(data: bytes, name: str) -> str:
    """A Dockerfile is UTF-8, as its reference says."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BuildError(f"{name}: not a Dockerfile: it is UTF-16; try: iconv -f UTF-16 -t UTF-8")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        raise BuildError(f"{name}:{line}: not a Dockerfile: the byte 0x{byte:02x} is not UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise BuildError(f"{name}:{line}: not a Dockerfile: it has a NUL byte")
    return text


def _default(directory: str) -> str:
    """The Dockerfile of a directory: docker takes it in lower case too."""
    there = (name for name in DOCKERFILES if os.path.exists(os.path.join(directory, name)))
    return os.path.join(directory, next(there, DOCKERFILES[0]))


def _fetched(where: str, scratch: str) -> str:
    """A named context: an image stays what it is, a repository becomes a directory."""
    if not remotes.is_remote(where):
        return where
    if remotes.is_git(where):
        return _checked_out(where, scratch)
    place = tempfile.mkdtemp(dir=scratch)
    return _unpacked(remotes.fetch_file(where, place, f"{scratch}/kept"), where, scratch)


def _checked_out(url: str, scratch: str) -> str:
    """The directory of a repository that the URL names; a link in it leads nowhere else."""
    place = tempfile.mkdtemp(dir=scratch)
    inside = remotes.fetch_git(url, place)
    tree = Tree(place)
    try:
        return os.path.normpath(os.path.join(place, tree.resolve(inside)))
    except FileNotFoundError:
        raise BuildError(f"{url}: there is no such directory in it") from None
    finally:
        tree.close()


def _spooled(stdin: IO[bytes], scratch: str) -> str:
    descriptor, path = tempfile.mkstemp(dir=scratch)
    with open(descriptor, "wb") as file:
        shutil.copyfileobj(stdin, file, 1 << 20)
    return path


def _of_file(request: Request, path: str, name: str, scratch: str) -> Request:
    """A context that came as one file: an archive, or else a Dockerfile without a context."""
    if _is_archive(path):
        return _inside(request, _unpacked(path, name, scratch), name)
    if request.dockerfile:
        raise BuildError(f"{name}: is no archive, so there is no {request.dockerfile} in it")
    empty = tempfile.mkdtemp(dir=scratch)
    return request._replace(context=empty, context_name=name, dockerfile=path, dockerfile_name="Dockerfile")


def _inside(request: Request, directory: str, name: str) -> Request:
    """The Dockerfile of such a context is in it; one that came by stdin is not."""
    if not os.path.isdir(directory):
        raise BuildError(f"{name}: there is no such directory in it")
    os.chmod(directory, 0o755)
    if not request.dockerfile_name:
        path = os.path.join(directory, request.dockerfile) if request.dockerfile else _default(directory)
        if os.path.commonpath((os.path.realpath(path), os.path.realpath(directory))) != os.path.realpath(directory):
            raise BuildError(f"{request.dockerfile}: is not in the context {name}")
        request = request._replace(dockerfile=path, dockerfile_name=request.dockerfile or os.path.basename(path))
    return request._replace(context=directory, context_name=name)


def _is_archive(path: str) -> bool:
    try:
        with tarfile.open(path, mode="r:*") as archive:
            return archive.next() is not None
    except (tarfile.TarError, EOFError, OSError):
        return False


def _unpacked(path: str, name: str, scratch: str) -> str:
    place = tempfile.mkdtemp(dir=scratch)
    os.chmod(place, 0o755)

    def child() -> list[str]:
        with open(path, "rb") as file:
            os.chroot(place)
            os.chdir("/")
            if not copying.unpack(file, name, "/"):
                raise BuildError(f"{name}: is no archive")
        return []

    copying.isolated(child)
    return place
