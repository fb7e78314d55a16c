"""References: the names that people give images, `registry/repository:tag@digest`.

A value without I/O; `registry` asks it where to go, `store` keeps images under its full form. Ruled by the grammar of
distribution-spec, "Pulling manifests", and by docker's short forms (`web` means `docker.io/library/web:latest`).
"""

import re

from minicontainer.errors import Error
from minicontainer.values import NamedTuple

DEFAULT_REGISTRY = "docker.io"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
NAME_LENGTH = 255  # registry and repository together

DIGEST_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}  # algorithm: hexadecimal digits, descriptor.md

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_HEXADECIMAL = re.compile(r"[0-9a-f]+")


class InvalidReference(Error):
    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"invalid reference {text!r}: {reason}; a reference is [registry/]repository[:tag][@digest]")


class Reference(NamedTuple):
    """An image by name: at least one of `tag` and `digest` is not empty."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read a reference as docker does: a first component with a dot, a colon or `localhost` is a registry.

        Raises:
            InvalidReference: the text is not one; the message says which part.
        """
        if _HEXADECIMAL.fullmatch(text) and len(text) == DIGEST_LENGTHS["sha256"]:
            raise InvalidReference(text, "64 hexadecimal digits would be taken for an image id")
        if len(text) > NAME_LENGTH * 3:
            raise InvalidReference(text[:40] + "…", "too long")
        name, _, digest = text.partition("@")
        if "@" in text and not is_digest(digest):
            raise InvalidReference(text, f"{digest!r} is not a digest like sha256:<64 hexadecimal digits>")
        registry, rest = _split_registry(name)
        repository, colon, tag = rest.partition(":")
        if colon and not is_tag(tag):
            raise InvalidReference(text, f"{tag!r} is not a tag of up to 128 letters, digits, '_', '.' and '-'")
        if not is_repository(repository):
            raise InvalidReference(
                text, f"repository {repository!r} is not lower-case words parted by '/', '.', '_' or '-'"
            )
        if not _REGISTRY.fullmatch(registry):
            raise InvalidReference(text, f"{registry!r} is not a registry like example.org:5000")
        if registry == DEFAULT_REGISTRY and "/" not in repository:
            repository = f"{DEFAULT_NAMESPACE}/{repository}"
        if len(registry) + 1 + len(repository) > NAME_LENGTH:
            raise InvalidReference(text[:40] + "…", f"longer than {NAME_LENGTH} characters")
        return cls(registry=registry, repository=repository, tag=tag or ("" if digest else DEFAULT_TAG), digest=digest)

    def __str__(self) -> str:
        return _spelled(f"{self.registry}/{self.repository}", self.tag, self.digest)

    def familiar(self) -> str:
        """The short form that people type: without the registry and namespace that are understood."""
        name = self.repository
        if name.count("/") == 1:
            name = name.removeprefix(f"{DEFAULT_NAMESPACE}/")
        first, slash, _ = name.partition("/")
        if self.registry != DEFAULT_REGISTRY or (slash and _is_registry(first)):  # it would be taken for a registry
            name = f"{self.registry}/{self.repository}"
        return _spelled(name, self.tag, self.digest)


def is_repository(text: str) -> bool:
    return _REPOSITORY.fullmatch(text) is not None and len(text) <= NAME_LENGTH


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether `text` is `algorithm:hex` of an algorithm that we can verify; so safe in a path: descriptor.md."""
    algorithm, _, digits = text.partition(":")
    return len(digits) == DIGEST_LENGTHS.get(algorithm) and _HEXADECIMAL.fullmatch(digits) is not None


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not _is_registry(first):
        return DEFAULT_REGISTRY, name
    return (DEFAULT_REGISTRY if first == f"index.{DEFAULT_REGISTRY}" else first), rest


def _is_registry(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost" or first != first.lower()


def _spelled(name: str, tag: str, digest: str) -> str:
    return name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
