"""oci_layouts: an image of another layout comes into the store whole, or not at all."""

from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.image import oci_layouts
from minicontainer.image.store import Store
from minicontainer.oci.image import LAYER, ContainerConfig, Descriptor, ImageConfig, Platform


def layout(directory: Path, *names: str) -> Store:
    """A layout with an image for each name, each of another content."""
    made = Store(str(directory))
    for name in names:
        digest, size = made.put(name.encode())
        config = ImageConfig(
            architecture=Platform.here().architecture, config=ContainerConfig(env=(f"N={name}",)), diff_ids=(digest,)
        )
        made.tag(name, made.put_image([Descriptor(LAYER, digest, size)], config))
    return made


def taken(tmp_path: Path, name: str) -> str:
    store = Store(str(tmp_path / "store"))
    return store.config(store.manifest(oci_layouts.take(store, name))).config.env[0]


def test_an_image_by_its_tag_its_digest_or_because_it_is_the_only_one(tmp_path: Path) -> None:
    many = layout(tmp_path / "many", "docker.io/library/a:1", "latest", "b")
    layout(tmp_path / "one", "c")
    assert taken(tmp_path, f"oci-layout://{tmp_path}/many:b") == "N=b"
    assert taken(tmp_path, f"oci-layout://{tmp_path}/many:1") == "N=docker.io/library/a:1"
    assert taken(tmp_path, f"oci-layout://{tmp_path}/many") == "N=latest"
    assert taken(tmp_path, f"oci-layout://{tmp_path}/one") == "N=c"
    digest = dict(many.names())["b"].digest
    assert taken(tmp_path, f"oci-layout://{tmp_path}/many@{digest}") == "N=b"
    assert taken(tmp_path, f"oci-layout://{tmp_path}/many:ignored@{digest}") == "N=b"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    layout(tmp_path / "many", "a", "b")
    with pytest.raises(Error, match=r"many:c: no such image in the layout; it has a, b"):
        taken(tmp_path, f"oci-layout://{tmp_path}/many:c")
    with pytest.raises(Error, match=r"many: no such image in the layout; it has a, b"):
        taken(tmp_path, f"oci-layout://{tmp_path}/many")
    with pytest.raises(Error, match=r"none: is not an OCI layout: there is no index.json"):
        taken(tmp_path, f"oci-layout://{tmp_path}/none")


def test_a_blob_is_verified_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    made = layout(tmp_path / "bad", "a")
    [layer] = made.manifest(made.resolve("a")).layers
    Path(made.blob_path(layer.digest)).write_bytes(b"b")
    with pytest.raises(Error, match="the content has another digest"):
        taken(tmp_path, f"oci-layout://{tmp_path}/bad")
    Path(made.blob_path(layer.digest)).unlink()
    with pytest.raises(Error, match=f"blob {layer.digest} is not in the layout"):
        taken(tmp_path, f"oci-layout://{tmp_path}/bad")
