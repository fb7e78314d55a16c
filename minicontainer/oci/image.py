"""Images: descriptor, index, manifest and image config as values.

No I/O: `store` reads and writes them, `registry` moves them, `build` makes them, `bundle` runs them. Ruled by
image-spec (descriptor.md, manifest.md, image-index.md, config.md) and docker's schema 2, with other names for the same.
A document is hostile until it is a value: each field has its type, or the document is refused by the field's name.
"""

import os
from collections.abc import Callable, Mapping, Sequence

from minicontainer import json_documents
from minicontainer.errors import Error
from minicontainer.oci.reference import is_digest
from minicontainer.values import Any, NamedTuple, TypeVar

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEXES = (INDEX, DOCKER_MANIFEST_LIST)
MANIFESTS = (MANIFEST, DOCKER_MANIFEST)
CONFIGS = (CONFIG, DOCKER_CONFIG)
LAYERS = (LAYER, LAYER_GZIP, LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP)

REF_NAME = "org.opencontainers.image.ref.name"  # annotations.md: the name of an image in a layout's index.json
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}  # uname(2): GOARCH

T = TypeVar("T")


class InvalidImage(Error):
    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"invalid image: {what}: {reason}")


class Platform(NamedTuple):
    architecture: str
    os: str = "linux"
    variant: str = ""

    @classmethod
    def here(cls) -> "Platform":
        machine = os.uname().machine
        return cls(architecture=ARCHITECTURES.get(machine, machine))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Platform":
        text = _field(value, "platform", str, "")
        return cls(architecture=text("architecture"), os=text("os"), variant=text("variant"))

    def to_json(self) -> dict[str, Any]:
        return _without_empty({"architecture": self.architecture, "os": self.os, "variant": self.variant})

    @classmethod
    def parse(cls, text: str) -> "Platform":
        """As people write it: `linux/arm64`, `linux/arm/v7`, or the architecture alone."""
        parts = text.lower().split("/")
        if len(parts) > 3 or not all(part.replace("_", "").isalnum() for part in parts):
            raise Error(f"platform {text!r} is not OS/ARCHITECTURE[/VARIANT], like linux/arm64 or linux/arm/v7")
        operating_system, architecture, variant = (*parts, "")[:3] if len(parts) > 1 else ("linux", parts[0], "")
        return cls(ARCHITECTURES.get(architecture, architecture), operating_system, variant)

    def fits(self, wanted: "Platform") -> bool:
        """Whether what is made for this platform runs on the one `wanted`, which may leave the variant open."""
        same = (self.os, self.architecture) == (wanted.os, wanted.architecture)
        return same and (not wanted.variant or self.variant == wanted.variant)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(NamedTuple):
    """Content by its digest: descriptor.md."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = {}
    urls: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: Any) -> "Descriptor":
        _require(isinstance(value, dict), "descriptor", "is not an object")
        media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
        _require(isinstance(media_type, str), "descriptor", "mediaType is not a string")
        _require(
            isinstance(digest, str) and is_digest(digest), "descriptor", f"digest {digest!r} is not one we can verify"
        )
        _require(type(size) is int and 0 <= size < 1 << 63, "descriptor", f"size {size!r} is not a number of bytes")
        platform = Platform.from_json(_object(value, "platform", "descriptor"))
        return cls(
            media_type=media_type,
            digest=digest,
            size=size,
            platform=platform if any(platform) else None,
            annotations=_string_map(value, "annotations", "descriptor"),
            urls=_strings(value, "urls", "descriptor"),
        )

    def to_json(self) -> dict[str, Any]:
        optional = {"urls": list(self.urls), "annotations": dict(self.annotations)}
        if self.platform:
            optional["platform"] = self.platform.to_json()
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size} | _without_empty(optional)


class Index(NamedTuple):
    """Manifests, one for each platform: image-index.md; docker's manifest list."""

    manifests: tuple[Descriptor, ...]
    media_type: str = INDEX
    annotations: Mapping[str, str] = {}

    @classmethod
    def from_json(cls, value: Any, media_type: str = INDEX) -> "Index":
        _require_document(value, media_type, "index", forbidden=("config", "layers"))
        return cls(
            manifests=_descriptors(value, "manifests", "index"),
            media_type=media_type,
            annotations=_string_map(value, "annotations", "index"),
        )

    def to_json(self) -> dict[str, Any]:
        manifests = [descriptor.to_json() for descriptor in self.manifests]
        head = {"schemaVersion": 2, "mediaType": self.media_type, "manifests": manifests}
        return head | _without_empty({"annotations": dict(self.annotations)})

    def choose(self, platform: Platform) -> Descriptor | None:
        """The first manifest for `platform`; one that names no platform fits any."""
        for descriptor in self.manifests:
            if descriptor.platform is None or descriptor.platform.fits(platform):
                return descriptor
        return None


class Manifest(NamedTuple):
    """A config and the layers in order, the lowest first: manifest.md."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = MANIFEST
    annotations: Mapping[str, str] = {}

    @classmethod
    def from_json(cls, value: Any, media_type: str = MANIFEST) -> "Manifest":
        _require_document(value, media_type, "manifest", forbidden=("manifests", "fsLayers"))
        return cls(
            config=Descriptor.from_json(value.get("config")),
            layers=_descriptors(value, "layers", "manifest"),
            media_type=media_type,
            annotations=_string_map(value, "annotations", "manifest"),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        } | _without_empty({"annotations": dict(self.annotations)})


class HealthCheck(NamedTuple):
    """How to ask a container whether it is well; durations in nanoseconds, 0 is the default."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "HealthCheck":
        number = _field(value, "Healthcheck", int, 0)
        return cls(
            test=_strings(value, "Test", "Healthcheck"),
            interval=number("Interval"),
            timeout=number("Timeout"),
            start_period=number("StartPeriod"),
            start_interval=number("StartInterval"),
            retries=number("Retries"),
        )

    def to_json(self) -> dict[str, Any]:
        return _without_empty(
            {
                "Test": list(self.test),
                "Interval": self.interval,
                "Timeout": self.timeout,
                "StartPeriod": self.start_period,
                "StartInterval": self.start_interval,
                "Retries": self.retries,
            }
        )


class ContainerConfig(NamedTuple):
    """What a container of the image runs, and as whom: config.md, "config". None means: not said, ask the parent."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str = ""
    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    stop_signal: str = ""
    healthcheck: HealthCheck | None = None
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] = ()
    other: Mapping[str, Any] = {}  # fields of newer documents, kept as they are

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ContainerConfig":
        text = _field(value, "config", str, "")
        health = value.get("Healthcheck")
        return cls(
            env=_strings(value, "Env", "config"),
            entrypoint=_strings(value, "Entrypoint", "config") if value.get("Entrypoint") is not None else None,
            cmd=_strings(value, "Cmd", "config") if value.get("Cmd") is not None else None,
            working_dir=text("WorkingDir"),
            user=text("User"),
            exposed_ports=_keys(value, "ExposedPorts", "config"),
            volumes=_keys(value, "Volumes", "config"),
            labels=_string_map(value, "Labels", "config"),
            stop_signal=text("StopSignal"),
            healthcheck=HealthCheck.from_json(health) if isinstance(health, dict) else None,
            shell=_strings(value, "Shell", "config") if value.get("Shell") is not None else None,
            on_build=_strings(value, "OnBuild", "config"),
            other={key: item for key, item in value.items() if key not in _CONTAINER_FIELDS},
        )

    def to_json(self) -> dict[str, Any]:
        present = {
            "Entrypoint": None if self.entrypoint is None else list(self.entrypoint),
            "Cmd": None if self.cmd is None else list(self.cmd),
            "Shell": None if self.shell is None else list(self.shell),
            "Healthcheck": None if self.healthcheck is None else self.healthcheck.to_json(),
        }
        filled = {
            "User": self.user,
            "ExposedPorts": {port: {} for port in self.exposed_ports},
            "Env": list(self.env),
            "Volumes": {volume: {} for volume in self.volumes},
            "WorkingDir": self.working_dir,
            "Labels": dict(self.labels),
            "StopSignal": self.stop_signal,
            "OnBuild": list(self.on_build),
        }
        known = _without_empty(filled) | {key: item for key, item in present.items() if item is not None}
        return known | dict(self.other)


_CONTAINER_FIELDS = {
    "Env", "Entrypoint", "Cmd", "WorkingDir", "User", "ExposedPorts", "Volumes", "Labels", "StopSignal",
    "Healthcheck", "Shell", "OnBuild",
}  # fmt: skip


class History(NamedTuple):
    """One step of how the image was made; `empty_layer` when it made no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False

    @classmethod
    def from_json(cls, value: Any) -> "History":
        _require(isinstance(value, dict), "image config", "an entry of history is not an object")
        text = _field(value, "history", str, "")
        return cls(
            created=text("created"),
            created_by=text("created_by"),
            author=text("author"),
            comment=text("comment"),
            empty_layer=value.get("empty_layer") is True,
        )

    def to_json(self) -> dict[str, Any]:
        return _without_empty(self._asdict())


class ImageConfig(NamedTuple):
    """What an image is: its platform, its layers by diff_id, and how to run it: config.md."""

    architecture: str
    os: str = "linux"
    created: str = ""
    author: str = ""
    variant: str = ""
    config: ContainerConfig = ContainerConfig()
    diff_ids: tuple[str, ...] = ()
    history: tuple[History, ...] = ()
    other: Mapping[str, Any] = {}

    @classmethod
    def from_json(cls, value: Any) -> "ImageConfig":
        _require(isinstance(value, dict), "image config", "is not an object")
        text = _field(value, "image config", str, "")
        rootfs, history = value.get("rootfs"), value.get("history") or []
        _require(isinstance(rootfs, dict) and rootfs.get("type") == "layers", "image config", "rootfs is not of layers")
        diff_ids = _strings(rootfs, "diff_ids", "rootfs")
        _require(all(map(is_digest, diff_ids)), "image config", "a diff_id is not a digest that we can verify")
        _require(isinstance(history, list), "image config", "history is not a list")
        return cls(
            architecture=text("architecture"),
            os=text("os"),
            created=text("created"),
            author=text("author"),
            variant=text("variant"),
            config=ContainerConfig.from_json(_object(value, "config", "image config")),
            diff_ids=diff_ids,
            history=tuple(map(History.from_json, history)),
            other={key: item for key, item in value.items() if key not in _CONFIG_FIELDS},
        )

    def to_json(self) -> dict[str, Any]:
        head = {"created": self.created, "author": self.author, "architecture": self.architecture}
        head |= {"os": self.os, "variant": self.variant}
        return (
            _without_empty(head)
            | {"config": self.config.to_json(), "rootfs": {"type": "layers", "diff_ids": list(self.diff_ids)}}
            | _without_empty({"history": [entry.to_json() for entry in self.history]})
            | dict(self.other)
        )


_CONFIG_FIELDS = {"architecture", "os", "created", "author", "variant", "config", "rootfs", "history"}


def parse(data: bytes, what: str) -> Any:
    """JSON as UTF-8, as the specification wants it; `what` names the document when it is not."""
    try:
        return json_documents.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidImage(what, f"is not JSON: {error}") from error


def encode(value: "Index | Manifest | ImageConfig") -> bytes:
    """The same value always gives the same bytes, and so the same digest."""
    import json  # why here: a container of an image that is here writes none

    return json.dumps(value.to_json(), separators=(",", ":"), ensure_ascii=False).encode()


def _require(condition: bool, what: str, reason: str) -> None:
    if not condition:
        raise InvalidImage(what, reason)


def _require_document(value: Any, media_type: str, what: str, forbidden: Sequence[str]) -> None:
    """A document that could be read as an index and as a manifest is neither: CVE-2021-41190."""
    _require(isinstance(value, dict), what, "is not an object")
    _require(value.get("schemaVersion") == 2, what, "schemaVersion is not 2")
    said = value.get("mediaType") or media_type
    _require(said == media_type, what, f"says it is {said!r} and was announced as {media_type!r}")
    for field in forbidden:
        _require(field not in value, what, f"has the field {field!r} of another kind of document")


def _descriptors(value: Mapping[str, Any], key: str, what: str) -> tuple[Descriptor, ...]:
    _require(isinstance(value.get(key), list), what, f"{key} is not a list")
    return tuple(map(Descriptor.from_json, value[key]))


def _field(value: Mapping[str, Any], what: str, kind: type[T], default: T) -> Callable[[str], T]:
    def read(key: str) -> T:
        item = value.get(key)
        if item is None:
            return default
        if type(item) is not kind:
            raise InvalidImage(what, f"{key} is not of type {kind.__name__}")
        return item

    return read


def _strings(value: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    items = value.get(key) or []
    _require(
        isinstance(items, list) and all(isinstance(item, str) for item in items),
        what,
        f"{key} is not a list of strings",
    )
    return tuple(items)


def _string_map(value: Mapping[str, Any], key: str, what: str) -> dict[str, str]:
    items = _object(value, key, what)
    _require(all(isinstance(item, str) for item in items.values()), what, f"{key} has a value that is not a string")
    return items


def _keys(value: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    return tuple(_object(value, key, what))


def _object(value: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    items = value.get(key) or {}
    _require(isinstance(items, dict), what, f"{key} is not an object")
    return dict(items)


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}
