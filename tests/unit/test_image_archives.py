"""image_archives: what `save` writes is both docker's and OCI's; `load` reads both, and distrusts them."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from minicontainer.containers import Home, home
from minicontainer.errors import Error, ImageNotFound
from minicontainer.image import image_archives, oci_layouts
from minicontainer.image.image_archives import InvalidArchive
from minicontainer.image.store import Store
from minicontainer.oci.image import INDEX, ContainerConfig, Descriptor, ImageConfig, Index, Platform, encode
from minicontainer.oci.image import LAYER as LAYER_TAR
from tests import images

CONFIG = ContainerConfig(cmd=("sh",), labels={"a": "b"})
LAYER = images.layer({"file": b"content"})


@pytest.fixture
def place(tmp_path: Path) -> Home:
    made = home(f"{tmp_path}/one")
    images.put(made, "docker.io/library/web:1", CONFIG, LAYER, images.layer({"other": b"more"}))
    return made


def saved(place: Home, *names: str) -> bytes:
    out = io.BytesIO()
    image_archives.save(Store(f"{place.data}/oci"), names, out)
    return out.getvalue()


def other(tmp_path: Path) -> Store:
    return Store(f"{tmp_path}/other")


def archive(files: dict[str, bytes | str]) -> bytes:
    """A tar of files; text is a symbolic link."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                made.addfile(member)
            else:
                member.size = len(content)
                made.addfile(member, io.BytesIO(content))
    return whole.getvalue()


def config_of(*layers: bytes) -> bytes:
    digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    return json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": digests}}
    ).encode()


def test_what_is_saved_is_loaded_the_same(place: Home, tmp_path: Path) -> None:
    store = other(tmp_path)
    assert image_archives.load(store, io.BytesIO(saved(place, "web:1"))) == ["docker.io/library/web:1"]
    before = Store(f"{place.data}/oci").resolve("web:1")
    assert store.resolve("web:1").digest == before.digest
    assert store.config(store.manifest(store.resolve("web:1"))).config == CONFIG


def test_saving_is_deterministic(place: Home) -> None:
    assert saved(place, "web:1") == saved(place, "web:1")


def test_the_archive_is_dockers_and_ocis_at_once(place: Home) -> None:
    with tarfile.open(fileobj=io.BytesIO(saved(place, "web:1"))) as made:
        names = made.getnames()
        assert names[:2] == ["oci-layout", "index.json"]
        entry = json.loads(made.extractfile("manifest.json").read())[0]  # type: ignore[union-attr]
        assert entry["RepoTags"] == ["web:1"]
        assert set(entry["Layers"]) | {entry["Config"]} <= set(names)
        assert len(names) == len(set(names))


def test_an_image_by_its_id_has_no_name_in_the_archive(place: Home, tmp_path: Path) -> None:
    digest = Store(f"{place.data}/oci").resolve("web:1").digest
    assert image_archives.load(other(tmp_path), io.BytesIO(saved(place, digest))) == [digest]


def test_several_images_and_a_layer_that_they_share(place: Home, tmp_path: Path) -> None:
    images.put(place, "docker.io/library/db:1", CONFIG, LAYER)
    found = image_archives.load(other(tmp_path), io.BytesIO(saved(place, "web:1", "db:1")))
    assert found == ["docker.io/library/web:1", "docker.io/library/db:1"]


@pytest.mark.parametrize("form", ["archive", "layout"])
def test_of_an_image_for_several_platforms_one_is_loaded(tmp_path: Path, form: str) -> None:
    store, target = Store(f"{tmp_path}/many"), other(tmp_path)
    machines = [Platform(architecture="amd64", os="linux"), Platform(architecture="arm64", os="linux")]
    layer = Descriptor(LAYER_TAR, *store.put(LAYER))
    made = [store.put_image([layer], ImageConfig(one.architecture, diff_ids=(layer.digest,))) for one in machines]
    digest, size = store.put(encode(Index(manifests=tuple(made))))
    store.tag("docker.io/library/many:1", Descriptor(INDEX, digest, size))
    if form == "archive":
        out = io.BytesIO()
        image_archives.save(store, ["many:1"], out)
        image_archives.load(target, io.BytesIO(out.getvalue()), machines[1])
    else:
        oci_layouts.load(target, store.root, machines[1])
    assert target.resolve("many:1").digest == made[1].digest
    absent = Platform(architecture="s390x", os="linux")
    with pytest.raises(Error, match="is not for linux/s390x; it is for linux/amd64, linux/arm64"):
        oci_layouts.load(Store(f"{tmp_path}/none"), store.root, absent)
    assert Store(f"{tmp_path}/none").names() == []


def test_a_compressed_archive_is_read(place: Home, tmp_path: Path) -> None:
    assert image_archives.load(other(tmp_path), io.BytesIO(gzip.compress(saved(place, "web:1"))))


def test_dockers_old_format_with_links_between_layers(tmp_path: Path) -> None:
    config = config_of(LAYER, LAYER)
    manifest = [{"Config": "abc.json", "RepoTags": ["old:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    data = archive(
        {
            "a/layer.tar": LAYER,
            "b/layer.tar": "../a/layer.tar",
            "abc.json": config,
            "manifest.json": json.dumps(manifest).encode(),
        }
    )
    store = other(tmp_path)
    assert image_archives.load(store, io.BytesIO(data)) == ["docker.io/library/old:1"]
    made = store.manifest(store.resolve("old:1"))
    assert made.config.digest == f"sha256:{hashlib.sha256(config).hexdigest()}"
    assert [layer.digest for layer in made.layers] == [f"sha256:{hashlib.sha256(LAYER).hexdigest()}"] * 2


def test_a_layer_that_is_compressed_says_so(tmp_path: Path) -> None:
    manifest = [{"Config": "c", "RepoTags": None, "Layers": ["l"]}]
    data = archive({"l": gzip.compress(LAYER), "c": config_of(LAYER), "manifest.json": json.dumps(manifest).encode()})
    store = other(tmp_path)
    [digest] = image_archives.load(store, io.BytesIO(data))
    assert store.manifest(store.resolve(digest)).layers[0].media_type.endswith("+gzip")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"readme": b"x"}, "neither index.json nor manifest.json"),
        ({}, "neither index.json nor manifest.json"),
        ({"manifest.json": b"{}x"}, "manifest.json is not docker's"),
        ({"manifest.json": b'[{"Layers": []}]'}, "manifest.json is not docker's"),
        ({"manifest.json": b'[{"Config": "c", "Layers": ["l"]}]'}, "does not have it"),
        ({"manifest.json": b'[{"Config": "c", "Layers": []}]', "c": "c"}, "does not have it"),
    ],
)
def test_an_archive_of_something_else_is_refused(files: dict[str, bytes | str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArchive, match=said):
        image_archives.load(other(tmp_path), io.BytesIO(archive(files)))
    assert other(tmp_path).names() == []


def test_an_archive_that_lacks_a_layer_gives_nothing_a_name(place: Home, tmp_path: Path) -> None:
    whole = saved(place, "web:1")
    out = io.BytesIO()
    layer = f"blobs/sha256/{hashlib.sha256(LAYER).hexdigest()}"
    with tarfile.open(fileobj=io.BytesIO(whole)) as source, tarfile.open(fileobj=out, mode="w") as target:
        for member in source:
            if member.name != layer:
                target.addfile(member, source.extractfile(member))
    with pytest.raises(InvalidArchive, match="does not have it"):
        image_archives.load(other(tmp_path), io.BytesIO(out.getvalue()))
    assert other(tmp_path).names() == []


@pytest.mark.parametrize("cut", [100, 3000])
def test_an_archive_that_is_cut_short_gives_nothing_a_name(place: Home, tmp_path: Path, cut: int) -> None:
    with pytest.raises(Error):
        image_archives.load(other(tmp_path), io.BytesIO(saved(place, "web:1")[:cut]))
    assert other(tmp_path).names() == []


def test_an_image_that_is_not_there_cannot_be_saved(place: Home) -> None:
    with pytest.raises(ImageNotFound):
        saved(place, "absent")
