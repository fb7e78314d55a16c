"""--cache-to and --cache-from: what one machine has built, another one does not build again."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from minicontainer import engine
from minicontainer.arguments import UsageError
from minicontainer.build import shared_cache
from minicontainer.build.cache import Layer
from minicontainer.build.shared_cache import Place, fetch
from minicontainer.build.stages import PATH
from minicontainer.image.store import Store
from minicontainer.oci import image
from minicontainer.oci.image import ContainerConfig, Descriptor, Manifest
from minicontainer.registry import client
from tests import images, registries
from tests.kernel.test_dockerfiles import Files, World, home, place, world

__all__ = ["place", "world"]  # the fixtures

TEXT = (
    "FROM base AS made\nRUN seq 100 > /shared && echo 1 > /one\nRUN true\n"
    "FROM base\nCOPY a /a\nCOPY --from=made /shared /b\nRUN cat /a /b > /c\n"
)
FILES: Files = {"a": "A"}
EPOCH = {"SOURCE_DATE_EPOCH": "1000000000"}


def another(world: World, tmp_path: Path, number: int = 0) -> World:
    """A machine that has built nothing yet."""
    fresh = home(str(tmp_path / f"machine-{number}"))
    layer = images.layer(images.busybox_files())
    images.put(fresh, "docker.io/library/base:latest", ContainerConfig(env=(PATH, "BASE=1")), layer)
    context = tmp_path / f"context-{number}"
    context.mkdir()
    return World(fresh, context)


def exchange(world: World, tmp_path: Path, where: Place) -> None:
    first = world.build(TEXT, FILES, no_cache=True, build_args=EPOCH, cache_to=(where,), cache_from=(where,))
    other = another(world, tmp_path)
    built = other.build(TEXT, FILES, build_args=EPOCH, cache_from=(where,))
    assert (built.cached, built.digest) == (5, first.digest)  # and nothing was unpacked for it
    assert other.build(TEXT, build_args=EPOCH).cached == 5  # and from now on without
    changed = another(world, tmp_path, 1).build(TEXT, {"a": "B"}, build_args=EPOCH, cache_from=(where,))
    assert (changed.cached, changed.tree["c"][:7]) == (2, "f 644 B")


@pytest.mark.kernel("overlay")
def test_by_a_directory(world: World, tmp_path: Path) -> None:
    exchange(world, tmp_path, Place("local", str(tmp_path / "shared")))
    listed = subprocess.run(["ls", tmp_path / "shared"], capture_output=True, text=True, check=True).stdout.split()
    assert {"blobs", "index.json", "oci-layout"} <= set(listed)


@pytest.mark.kernel("overlay")
def test_by_a_registry(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with registries.running(str(tmp_path / "registry")) as running:
        (tmp_path / "docker").mkdir()
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
        auth = {"username": registries.USER, "password": registries.PASSWORD}
        text = base64.b64encode(f"{auth['username']}:{auth['password']}".encode()).decode()
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {running.host: {"auth": text}}}))
        exchange(world, tmp_path, Place("registry", f"{running.host}/team/cache:latest"))


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("asked", ["--cache-to", "--build-arg"])
def test_by_the_image_itself(world: World, tmp_path: Path, asked: str) -> None:
    """Its own layers, not those of other stages: as BuildKit's inline cache, `min`."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    inline = {"cache_to": (shared_cache.INLINE,), "build_args": EPOCH}
    if asked == "--build-arg":
        inline = {"build_args": {**EPOCH, "BUILDKIT_INLINE_CACHE": "1"}}
    with registries.serving(tmp_path / "served") as (host, _):
        where = f"{host}/team/app:1"
        first = world.build(TEXT, FILES, tags=(where,), **inline)
        client.push(engine.open_store(world.home), where, where)
        from_there = Place("registry", where)
        other = another(world, tmp_path)
        built = other.build(TEXT, FILES, cache_from=(from_there,), **inline)
        assert (built.cached, built.digest) == (4, first.digest)  # of five: the other stage has a layer of its own
        changed = another(world, tmp_path, 1).build(TEXT, {"a": "B"}, build_args=EPOCH, cache_from=(from_there,))
        assert (changed.cached, changed.tree["c"][:7]) == (1, "f 644 B")
        plain = world.build(TEXT, FILES, tags=(where,), build_args=EPOCH)
        assert plain.digest != first.digest  # an image that was not asked to says nothing of how it came to be
        client.push(engine.open_store(world.home), where, where)
        fresh = another(world, tmp_path, 2)
        assert fresh.build(TEXT, FILES, build_args=EPOCH, cache_from=(from_there,)).cached == 0  # and is no error


@pytest.mark.kernel("overlay")
def test_the_layers_of_steps_that_are_gone_go_too(world: World, tmp_path: Path) -> None:
    where = Place("local", str(tmp_path / "shared"))
    world.build(TEXT, FILES, no_cache=True, cache_to=(where,))
    count = len(list(Store(where.where).digests()))
    world.build("FROM base\nRUN echo 1 > /alone\n", no_cache=True, cache_to=(where,))
    assert len(list(Store(where.where).digests())) == 3 < count  # a layer, the config, the manifest


@pytest.mark.kernel("overlay")
def test_a_blob_that_was_changed_is_not_taken(world: World, tmp_path: Path) -> None:
    where = Place("local", str(tmp_path / "shared"))
    world.build(TEXT, FILES, no_cache=True, cache_to=(where,))
    store = Store(where.where)
    for descriptor in store.manifest(store.resolve(shared_cache.NAME)).layers:
        Path(store.blob_path(descriptor.digest)).write_bytes(b"x" * descriptor.size)
    said = another(world, tmp_path).refused(TEXT, FILES, cache_from=(where,))
    assert "the content has another digest" in said


# --- without a kernel


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type=local,src=/d", Place("local", "/d")),
        ("type=local,dest=/d,mode=max", Place("local", "/d")),
        ("type=registry,ref=r:5/a", Place("registry", "r:5/a:latest")),
        ("r:5/a:b", Place("registry", "r:5/a:b")),
        ("type=inline", shared_cache.INLINE),
    ],
)
def test_a_place(text: str, expected: Place) -> None:
    assert shared_cache.place("--cache-to", text) == expected


@pytest.mark.parametrize("text", ["type=local", "type=registry", "type=gha,ref=x", "type=local,name=x"])
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--cache-to type="):
        shared_cache.place("--cache-to", text)


def written(tmp_path: Path, document: Any, media_type: str = shared_cache.CONFIG) -> Place:
    """A layout whose cache says what is given."""
    store = Store(str(tmp_path / "layout"))
    config = Descriptor(media_type, *store.put(json.dumps(document).encode()))
    store.tag(shared_cache.NAME, Descriptor(image.MANIFEST, *store.put(image.encode(Manifest(config, ())))))
    return Place("local", str(tmp_path / "layout"))


def test_a_cache_that_is_not_there_yet_is_none(tmp_path: Path) -> None:
    assert fetch(Place("local", str(tmp_path / "none")), str(tmp_path)) is None
    assert not (tmp_path / "none").exists()


def test_a_step_that_changed_no_file_is_shared_too(tmp_path: Path) -> None:
    found = fetch(written(tmp_path, {"steps": {"k": {"diff_id": "", "created": "now", "layer": ""}}}), str(tmp_path))
    assert found is not None
    assert found.take("k", Store(str(tmp_path / "own"))) == Layer("", "now")
    assert found.take("other", Store(str(tmp_path / "own"))) is None


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"steps": []},
        {"steps": {"k": {}}},
        {"steps": {"k": {"diff_id": "sha256:1", "created": "", "layer": ""}}},
        {"steps": {"k": {"diff_id": "sha256:" + "1" * 64, "created": "", "layer": "sha256:" + "2" * 64}}},
    ],
)
def test_a_cache_that_is_damaged_is_named(tmp_path: Path, document: Any) -> None:
    with pytest.raises(Exception, match=r"layout: the build cache is damaged: .*; try: another --cache-to"):
        fetch(written(tmp_path, document), str(tmp_path))


def test_what_is_no_cache_is_named(tmp_path: Path) -> None:
    where = written(tmp_path, {}, "application/vnd.cncf.helm.config.v1+json")
    with pytest.raises(Exception, match=r"layout: is not a build cache, but application/vnd.cncf.helm"):
        fetch(where, str(tmp_path))
