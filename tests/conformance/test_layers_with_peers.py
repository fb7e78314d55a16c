"""Our layers beside GNU tar and skopeo: what they make we unpack, what we make they unpack, to the same tree."""

import gzip
import io
import os
import stat
import subprocess
from pathlib import Path

import pytest

from minicontainer.image import layer_blobs, layers, snapshots
from minicontainer.image.store import Store
from minicontainer.oci.image import LAYER, LAYER_GZIP, LAYER_ZSTD, Descriptor, ImageConfig

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def sample(top: Path) -> Path:
    """A tree with one of each thing that a layer may hold."""
    (top / "usr/bin").mkdir(parents=True)
    (top / "usr/bin/tool").write_bytes(os.urandom(300_000))
    os.chmod(top / "usr/bin/tool", 0o4755)
    os.chown(top / "usr/bin/tool", 0, 42)
    os.chmod(top / "usr/bin/tool", 0o6755)
    (top / "usr/bin/ping").write_bytes(b"ping")
    os.setxattr(top / "usr/bin/ping", "security.capability", CAPABILITY)
    os.setxattr(top / "usr/bin/ping", "user.note", b"\0\xff binary")
    os.link(top / "usr/bin/ping", top / "usr/bin/ping6")
    os.symlink("usr/bin", top / "bin")
    os.symlink("/nowhere/at all", top / "dangling")
    (top / "tmp").mkdir()
    os.chmod(top / "tmp", 0o1777)
    (top / ("deep/" * 40)).mkdir(parents=True)
    (top / ("deep/" * 40) / "file").write_text("deep")
    (top / ("n" * 255)).write_text("long name")
    (top / os.fsdecode(b"latin\xe9")).write_text("bytes")
    (top / "snow ☃").write_text("unicode")
    (top / "empty").touch()
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(top / "snow ☃", 3_000_000, 4_000_000)
    os.utime(top / "empty", ns=(0, 1_600_000_000_123_456_789))
    os.utime(top / "dangling", ns=(0, 987_654_321), follow_symlinks=False)
    os.utime(top / "usr", ns=(0, 1_500_000_000_000_000_001))
    return top


def census(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for parent, directories, names in os.walk(top):
        for name in [*directories, *names]:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            attributes = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns)
            found[os.path.relpath(path, top)] = (*attributes, content, xattrs)
    return found


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("form", ["posix", "gnu"])
def test_what_gnu_tar_packs_we_unpack(tmp_path: Path, form: str) -> None:
    (tmp_path / "source").mkdir()
    source = sample(tmp_path / "source")
    xattrs = ["--xattrs", "--xattrs-include=*"] if form == "posix" else []
    run("tar", "-C", str(source), f"--format={form}", "--numeric-owner", *xattrs, "-cf", f"{tmp_path}/made.tar", ".")
    target = tmp_path / "target"
    target.mkdir()
    with open(tmp_path / "made.tar", "rb") as stream:
        layers.apply(stream, str(target))
    ours, theirs = census(target), census(source)
    if form == "gnu":  # which keeps whole seconds and no xattrs

        def coarse(whole: tuple[object, ...]) -> tuple[object, ...]:
            assert isinstance(whole[4], int)
            return (*whole[:4], whole[4] // 10**9, whole[5])

        assert {name: coarse(whole) for name, whole in ours.items()} == {
            name: coarse(whole) for name, whole in theirs.items()
        }
    else:
        assert ours == theirs
    assert (target / "usr/bin/ping").stat().st_ino == (target / "usr/bin/ping6").stat().st_ino


@pytest.mark.kernel("overlay")
def test_what_we_pack_gnu_tar_unpacks(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = sample(tmp_path / "source")
    with open(tmp_path / "made.tar", "wb") as file:
        layers.diff(str(source), file)
    target = tmp_path / "target"
    target.mkdir()
    unpack = ["tar", "-C", str(target), "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]
    run(*unpack, f"{tmp_path}/made.tar")
    assert census(target) == census(source)
    assert "usr/bin/ping6 link to usr/bin/ping" in run("tar", "-tvf", f"{tmp_path}/made.tar")


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    ("options", "media_type"),
    [
        (["--dest-decompress"], LAYER),
        (["--dest-compress-format=zstd", "--dest-compress"], LAYER_ZSTD),
        (["--dest-compress-format=gzip", "--dest-compress"], LAYER_GZIP),
    ],
)
def test_images_of_each_compression_that_skopeo_makes(tmp_path: Path, options: list[str], media_type: str) -> None:
    (tmp_path / "source").mkdir()
    source = sample(tmp_path / "source")
    store = Store(f"{tmp_path}/a")
    descriptor, diff_id = layer_blobs.commit(store, str(source))
    config = ImageConfig(architecture="amd64", diff_ids=(diff_id,))
    store.tag("web", store.put_image([descriptor], config))
    plain_layers = "--dest-decompress" in options
    target = f"dir:{tmp_path}/b" if plain_layers else f"oci:{tmp_path}/b:web"
    run("skopeo", "copy", *options, f"oci:{store.root}:web", target)
    if plain_layers:  # only skopeo's own form of directory keeps layers plain; give the blob a manifest ourselves
        names = [name for name in os.listdir(tmp_path / "b") if len(name) == 64]
        plain = next(name for name in names if f"sha256:{name}" == diff_id)
        other = Store(f"{tmp_path}/c")
        digest, size = other.put((tmp_path / "b" / plain).read_bytes())
        found = other.put_image([Descriptor(media_type=LAYER, digest=digest, size=size)], config)
    else:
        other = Store(f"{tmp_path}/b")
        found = other.resolve("web")
    manifest = other.manifest(found)
    if "--dest-compress-format=zstd" not in options:  # skopeo may reuse the gzip blob that it has been given
        assert manifest.layers[0].media_type == media_type
    (lower,) = snapshots.unpack(str(tmp_path / "data"), other, manifest, other.config(manifest))
    assert census(Path(lower)) == census(source)


@pytest.mark.kernel("overlay")
def test_the_same_changes_make_the_same_layer(tmp_path: Path) -> None:
    made = []
    for number in range(2):
        top = tmp_path / str(number)
        top.mkdir()
        for name in ("b", "a", "c") if number else ("c", "b", "a"):
            (top / name).write_text(name)
            os.utime(top / name, (1, 1))
        store = Store(f"{tmp_path}/store{number}")
        made.append(layer_blobs.commit(store, str(top)))
    assert made[0] == made[1]
    descriptor, diff_id = made[0]
    assert diff_id.startswith("sha256:")
    with Store(f"{tmp_path}/store0").open(descriptor.digest) as file:
        assert gzip.decompress(file.read())[:1] == b"a"


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("name", [".wh.gone", ".wh..wh..opq", "d/.wh.x"])
def test_a_file_with_the_name_of_a_whiteout_is_not_packed_as_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / name).touch()
    with pytest.raises(layers.InvalidLayer, match="whiteout"):
        layers.diff(str(tmp_path), io.BytesIO())
