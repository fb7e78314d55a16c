"""Remotes: files and git repositories that ADD and a build context name by URL.

Between `files` and the builder. A file is fetched by HTTP, and kept: the next build asks the server whether it has
changed. A repository is fetched by git(1), which must be there. Ruled by the Dockerfile reference, ADD, and RFC 9110.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from minicontainer import files
from minicontainer.errors import Error

FILE = re.compile(r"https?://")
GIT = re.compile(r"(git|ssh)://|git@[\w.-]+:|https?://[^#?]+\.git(#|\?|$)")
TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20


class Asked(NamedTuple):
    """What the flags of ADD ask of a URL."""

    checksum: str = ""
    keep_git_dir: bool = False
    keep_packed: bool = True


def is_remote(word: str) -> bool:
    return is_git(word) or FILE.match(word) is not None


def is_git(word: str) -> bool:
    return GIT.match(word) is not None


# --- files -----------------------------------------------------------------------------------------------------------


def fetch_file(url: str, place: str, kept: str, asked: Asked = Asked()) -> str:
    """Put the file of the URL into the directory `place`, under the URL's own name; `kept` is for the next time.

    Raises:
        Error: it cannot be had, or its content is not of the checksum.
    """
    name = os.path.basename(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
    if not name:
        raise Error(f"{url}: the URL names no file")
    os.makedirs(kept, mode=0o700, exist_ok=True)
    memory = f"{kept}/{hashlib.sha256(url.encode()).hexdigest()}"
    target = f"{place}/{name}"
    headers = _fetch(url, target, memory)
    with open(target, "rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if asked.checksum and asked.checksum != digest:
        raise Error(f"{url}: the checksum is {digest}, not {asked.checksum}")
    when = 0.0
    with suppress(TypeError, ValueError):  # none, or no date
        when = parsedate_to_datetime(headers.get("Last-Modified", "")).timestamp()
    os.chmod(target, 0o600)
    os.utime(target, (when, when))
    return target


def _fetch(url: str, target: str, memory: str) -> Mapping[str, str]:
    """Fetch to `target`, from `memory` when the server says that nothing has changed: the headers of then."""
    import urllib.error  # as below
    import urllib.request  # HTTP and TLS cost 50 ms, and most builds fetch nothing

    known: dict[str, str] = {}
    with suppress(FileNotFoundError, ValueError), open(f"{memory}.json", encoding="utf-8") as file:
        known = json.load(file)
    request = urllib.request.Request(url, headers={"User-Agent": "minicontainer"})
    for asks, said in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified")):
        if known.get(said) and os.path.exists(memory):
            request.add_header(asks, known[said])
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            _download(answer, url, target)
            headers = {name: answer.headers[name] for name in ("ETag", "Last-Modified") if answer.headers[name]}
    except urllib.error.HTTPError as error:
        if error.code == 304:
            shutil.copyfile(memory, target)
            return known
        raise Error(f"{url}: the server says {error.code} {error.reason}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Error(f"{url}: {getattr(reason, 'strerror', None) or reason}") from None
    if headers:
        shutil.copyfile(target, f"{memory}.{os.getpid()}")
        with suppress(FileNotFoundError):  # the old description goes first: never the new content under it
            os.unlink(f"{memory}.json")
        os.rename(f"{memory}.{os.getpid()}", memory)
        files.write(f"{memory}.json", json.dumps(headers).encode())
    return headers


def _download(answer: object, url: str, target: str) -> None:
    size, length = 0, answer.headers["Content-Length"]  # type: ignore[attr-defined]  # urllib types its answers not
    with open(target, "wb") as file:
        while data := answer.read(CHUNK):  # type: ignore[attr-defined]  # as above
            size += file.write(data)
    if length is not None and size != int(length):
        raise Error(f"{url}: {size} bytes came, {length} were announced")


# --- git -------------------------------------------------------------------------------------------------------------


def fetch_git(url: str, place: str, asked: Asked = Asked()) -> str:
    """Check out `URL#REF:SUBDIRECTORY` into the directory `place`: the subdirectory, empty for the whole.

    Raises:
        Error: it cannot be had, git is not there, or the commit is not that of the checksum.
    """
    repository, _, fragment = url.partition("#")
    ref, _, inside = fragment.partition(":")
    if shutil.which("git") is None:
        raise Error(f"{url}: needs git; try: apt-get install git")
    _git(url, "init", "--quiet", place)
    _git(url, "-C", place, "fetch", "--quiet", "--depth=1", "--no-tags", repository, ref or "HEAD")
    _git(url, "-C", place, "-c", "advice.detachedHead=false", "checkout", "--quiet", "FETCH_HEAD")
    commit = _git(url, "-C", place, "rev-parse", "HEAD")
    if asked.checksum and not commit.startswith(asked.checksum):
        raise Error(f"{url}: the commit is {commit}, not {asked.checksum}")
    if os.path.exists(f"{place}/.gitmodules"):
        _git(url, "-C", place, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
    if not asked.keep_git_dir:
        files.remove_tree(f"{place}/.git")
    return os.path.normpath(f"/{inside}").lstrip("/")


def _git(url: str, *words: str) -> str:
    """Run git without a prompt, and without what the caller's own configuration says."""
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, env=env, umask=0o022)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it failed"])[-1]
        raise Error(f"{url}: git {next(w for w in words if not w.startswith(('-', '/')))}: {last}")
    return done.stdout.strip()
