"""Images' documents: what goes in comes out, what is not of its type is refused by its field."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck as Check
from hypothesis import given, settings
from hypothesis import strategies as st

from minicontainer.oci import image
from minicontainer.oci.image import (
    ContainerConfig,
    Descriptor,
    HealthCheck,
    History,
    ImageConfig,
    Index,
    InvalidImage,
    Manifest,
    Platform,
)

DIGEST = "sha256:" + "a" * 64
AMD64, ARM7 = Platform(architecture="amd64"), Platform(architecture="arm", variant="v7")


def descriptor(**fields: Any) -> dict[str, Any]:
    return {"mediaType": image.LAYER, "digest": DIGEST, "size": 3} | fields


def manifest(**fields: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "config": descriptor(mediaType=image.CONFIG), "layers": [descriptor()]} | fields


def config(**fields: Any) -> dict[str, Any]:
    rootfs = {"type": "layers", "diff_ids": [DIGEST]}
    return {"architecture": "amd64", "os": "linux", "rootfs": rootfs} | fields


def test_a_descriptor_keeps_platform_annotations_and_urls() -> None:
    whole = descriptor(
        platform={"architecture": "arm", "os": "linux", "variant": "v7"},
        annotations={"a": "b"},
        urls=["https://example.org/x"],
    )
    assert Descriptor.from_json(whole).to_json() == whole
    assert Descriptor.from_json(whole).platform == ARM7
    assert str(ARM7) == "linux/arm/v7"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"digest": "sha256:../../etc/passwd"}, "digest"),
        ({"digest": None}, "digest"),
        ({"digest": "sha1:" + "a" * 40}, "digest"),
        ({"size": -1}, "size"),
        ({"size": "3"}, "size"),
        ({"size": True}, "size"),
        ({"size": 1 << 63}, "size"),
        ({"mediaType": 3}, "mediaType"),
        ({"annotations": "x"}, "annotations"),
        ({"annotations": {"a": 1}}, "annotations"),
        ({"urls": "x"}, "urls"),
    ],
)
def test_a_descriptor_with_a_field_of_another_type_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidImage, match=says):
        Descriptor.from_json(descriptor(**wrong))


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_what_is_no_object_is_refused(value: Any) -> None:
    for kind in (Descriptor, Index, Manifest, ImageConfig):
        with pytest.raises(InvalidImage):
            kind.from_json(value)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"schemaVersion": 1}, "schemaVersion"),
        ({"mediaType": image.INDEX}, "announced"),
        ({"manifests": []}, "manifests"),
        ({"layers": None}, "layers"),
        ({"layers": [3]}, "descriptor"),
        ({"config": None}, "descriptor"),
    ],
)
def test_a_manifest_that_could_be_read_otherwise_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidImage, match=says):
        Manifest.from_json(manifest(**wrong))


def test_an_index_that_could_be_a_manifest_is_refused() -> None:
    for field in ("layers", "config"):
        with pytest.raises(InvalidImage, match=field):
            Index.from_json({"schemaVersion": 2, "manifests": [], field: []})


def test_docker_names_the_same_documents_otherwise() -> None:
    read = Manifest.from_json(manifest(mediaType=image.DOCKER_MANIFEST), image.DOCKER_MANIFEST)
    assert read.to_json()["mediaType"] == image.DOCKER_MANIFEST
    listed = Index.from_json({"schemaVersion": 2, "manifests": []}, image.DOCKER_MANIFEST_LIST)
    assert listed.media_type == image.DOCKER_MANIFEST_LIST


def test_an_index_offers_the_first_that_fits() -> None:
    def offer(platform: Platform | None, size: int) -> Descriptor:
        return Descriptor(media_type=image.MANIFEST, digest=DIGEST, size=size, platform=platform)

    arm6 = Platform(architecture="arm", variant="v6")
    index = Index(manifests=(offer(arm6, 1), offer(ARM7, 2), offer(AMD64, 3), offer(AMD64, 4)))
    assert getattr(index.choose(AMD64), "size", None) == 3
    assert getattr(index.choose(ARM7), "size", None) == 2
    assert getattr(index.choose(Platform(architecture="arm")), "size", None) == 1
    assert index.choose(Platform(architecture="s390x")) is None
    assert index.choose(Platform(architecture="amd64", os="windows")) is None
    assert Index(manifests=(offer(None, 5),)).choose(AMD64) is not None
    assert Index.from_json(index.to_json()) == index


WHOLE = ContainerConfig(
    env=("A=1",),
    entrypoint=("/e",),
    cmd=(),
    working_dir="/w/",
    user="1:2",
    exposed_ports=("80/tcp",),
    volumes=("/v",),
    labels={"a": "b"},
    stop_signal="SIGUSR1",
    healthcheck=HealthCheck(test=("CMD", "x"), interval=1, timeout=2, start_period=3, start_interval=4, retries=5),
    shell=("/bin/sh",),
    on_build=("RUN x",),
    other={"ArgsEscaped": True},
)


def test_an_image_config_keeps_all_its_fields_and_those_that_we_do_not_know() -> None:
    whole = ImageConfig(
        architecture="arm64",
        created="2024-01-01T00:00:00Z",
        author="me",
        variant="v8",
        config=WHOLE,
        diff_ids=(DIGEST,),
        history=(History(created="x", created_by="y", comment="z", author="w", empty_layer=True), History()),
        other={"os.version": "1", "moby.x": [1]},
    )
    assert ImageConfig.from_json(json.loads(image.encode(whole))) == whole


def test_an_empty_command_is_not_an_absent_one() -> None:
    assert ContainerConfig.from_json({"Cmd": [], "Entrypoint": None}) == ContainerConfig(cmd=(), entrypoint=None)
    assert ContainerConfig(cmd=()).to_json() == {"Cmd": []}
    assert ContainerConfig.from_json({"Env": None, "Volumes": None, "Labels": None}) == ContainerConfig()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rootfs": None}, "rootfs"),
        ({"rootfs": {"type": "other", "diff_ids": []}}, "rootfs"),
        ({"rootfs": {"type": "layers", "diff_ids": ["x"]}}, "diff_id"),
        ({"rootfs": {"type": "layers", "diff_ids": "x"}}, "diff_ids"),
        ({"architecture": 3}, "architecture"),
        ({"history": {"a": 1}}, "history"),
        ({"history": [3]}, "history"),
        ({"history": [{"created_by": 3}]}, "created_by"),
        ({"config": ["x"]}, "config"),
        ({"config": {"Env": [1]}}, "Env"),
        ({"config": {"Cmd": "sh"}}, "Cmd"),
        ({"config": {"User": 0}}, "User"),
        ({"config": {"Labels": {"a": None}}}, "Labels"),
        ({"config": {"ExposedPorts": ["80"]}}, "ExposedPorts"),
        ({"config": {"Healthcheck": {"Interval": "1s"}}}, "Interval"),
    ],
)
def test_an_image_config_with_a_field_of_another_type_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidImage, match=says):
        ImageConfig.from_json(config(**wrong))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": "\xe9"}'])
def test_what_is_no_json_is_refused_by_the_name_of_the_document(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="the document"):
        image.parse(data, "the document")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_fields = st.sampled_from(
    [
        *config(),
        *manifest(),
        *descriptor(),
        "history",
        "config",
        "manifests",
        "annotations",
        "platform",
        "urls",
        "mediaType",
    ]
)


@settings(deadline=None, suppress_health_check=[Check.too_slow])  # a busy computer is no failure
@given(st.dictionaries(_fields, _json, max_size=5))
def test_any_json_is_a_value_or_refused(fields: dict[str, Any]) -> None:
    for kind, whole in ((Descriptor, descriptor), (Manifest, manifest), (ImageConfig, config)):
        try:
            value = kind.from_json(whole(**fields))
        except InvalidImage:
            continue
        assert kind.from_json(json.loads(json.dumps(value.to_json()))) == value


def test_the_same_value_gives_the_same_bytes() -> None:
    one = ImageConfig(architecture="amd64", config=WHOLE)
    assert image.encode(one) == image.encode(one._replace())
    assert "é".encode() in image.encode(one._replace(author="é"))
