"""Images as directories, and overlays of them with the ids of a user namespace."""

import gzip
import hashlib
import io
import os
import signal
import stat
import tarfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from minicontainer.errors import Error
from minicontainer.image import layer_blobs, overlays, snapshots
from minicontainer.image.changesets import Limits
from minicontainer.image.store import Store
from minicontainer.linux import syscalls
from minicontainer.linux.flags import CLONE_NEWUSER, MNT_DETACH, MS_REMOUNT
from minicontainer.oci.image import LAYER_GZIP, Descriptor, ImageConfig, Manifest
from minicontainer.oci.runtime import IdMapping

HOST = 100_000
MAPPING = (
    (IdMapping(container_id=0, host_id=HOST, size=65536),),
    (IdMapping(container_id=0, host_id=HOST, size=65536),),
)


class Chain(NamedTuple):
    """Directories as a container has them."""

    data: str
    lowers: tuple[str, ...]
    upper: str
    work: str
    target: str


def layer(store: Store, files: dict[str, bytes]) -> tuple[Descriptor, str]:
    """A layer of files; a name that ends in / is a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.mode = 0o755 if name.endswith("/") else 0o644
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    digest, size = store.put(gzip.compress(buffer.getvalue(), mtime=0))
    with store.writer() as writer:
        writer.write(buffer.getvalue())
        diff_id, _ = writer.commit()
    return Descriptor(media_type=LAYER_GZIP, digest=digest, size=size), diff_id


def image(data: Path, *contents: dict[str, bytes]) -> tuple[Store, Manifest, ImageConfig]:
    store = Store(f"{data}/oci")
    made = [layer(store, files) for files in contents]
    config = ImageConfig(architecture="amd64", diff_ids=tuple(diff_id for _, diff_id in made))
    manifest = store.manifest(store.put_image([descriptor for descriptor, _ in made], config))
    return store, manifest, config


def chain(data: Path, *contents: dict[str, bytes]) -> Chain:
    lowers = snapshots.unpack(str(data), *image(data, *contents))
    upper, work, target = (str(data / "containers/c" / name) for name in ("upper", "work", "rootfs"))
    for directory in (upper, work, target):
        os.makedirs(directory)
    return Chain(str(data), lowers, upper, work, target)


def in_user_namespace(directory: str, script: str) -> str:
    """What a shell in the directory says, as root of a user namespace with MAPPING."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.chdir(directory)  # its parents are not for everybody
        namespace = overlays.userns_fd(*MAPPING)
        syscalls.setns(namespace, CLONE_NEWUSER)
        os.setgid(0)
        os.setuid(0)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.execv("/bin/sh", ["sh", "-ec", script])
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    os.wait()
    return said


@pytest.mark.kernel("overlay")
def test_an_image_is_unpacked_once_and_the_topmost_layer_comes_first(tmp_path: Path) -> None:
    store, manifest, config = image(tmp_path, {"a": b"1", "d/": b""}, {"a": b"2"})
    lowers = snapshots.unpack(str(tmp_path), store, manifest, config)
    assert [Path(lower, "a").read_bytes() for lower in lowers] == [b"2", b"1"]
    before = [os.stat(lower).st_ino for lower in lowers]
    assert snapshots.unpack(str(tmp_path), store, manifest, config) == lowers
    assert [os.stat(lower).st_ino for lower in lowers] == before
    assert os.listdir(tmp_path / "staging") == []


@pytest.mark.kernel("overlay")
def test_what_a_crash_left_in_staging_is_not_taken_for_a_layer(tmp_path: Path) -> None:
    store, manifest, config = image(tmp_path, {"a": b"1"})
    left = tmp_path / "staging" / config.diff_ids[0].replace(":", "-")
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    (lower,) = snapshots.unpack(str(tmp_path), store, manifest, config)
    assert os.listdir(lower) == ["a"]


@pytest.mark.kernel("overlay")
def test_processes_that_unpack_at_once_get_one_directory(tmp_path: Path) -> None:
    store, manifest, config = image(tmp_path, *({f"f{number}": os.urandom(200_000)} for number in range(4)))
    children = []
    for _ in range(4):
        if (child := os.fork()) == 0:
            lowers = snapshots.unpack(str(tmp_path), store, manifest, config)
            os._exit(0 if all(len(os.listdir(lower)) == 1 for lower in lowers) else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert os.listdir(tmp_path / "staging") == []


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("wrong", ["diff_id", "digest", "size", "count", "media type"])
def test_a_layer_that_is_not_what_was_announced_is_refused_and_not_kept(tmp_path: Path, wrong: str) -> None:
    store, manifest, config = image(tmp_path, {"a": b"1"})
    announced = manifest.layers[0]
    match wrong:
        case "diff_id":
            config = config._replace(diff_ids=("sha256:" + "0" * 64,))
        case "digest":
            path = store.blob_path(announced.digest)
            Path(path).write_bytes(Path(path).read_bytes() + b"\0")
            manifest = manifest._replace(layers=(announced._replace(size=announced.size + 1),))
        case "size":
            manifest = manifest._replace(layers=(announced._replace(size=announced.size - 1),))
        case "count":
            config = config._replace(diff_ids=config.diff_ids * 2)
        case "media type":
            manifest = manifest._replace(layers=(announced._replace(media_type="text/plain"),))
    with pytest.raises(Error):
        snapshots.unpack(str(tmp_path), store, manifest, config)
    assert list(tmp_path.glob("layers/*/*/diff")) == []
    assert not (tmp_path / "staging").exists() or os.listdir(tmp_path / "staging") == []


@pytest.mark.kernel("overlay")
def test_a_layer_twice_in_a_chain_and_an_opaque_root_mount(tmp_path: Path) -> None:
    same = {"a": b"1"}
    made = chain(tmp_path, same, {"b": b"2"}, same)
    assert len(made.lowers) == 2
    overlays.mount(made.lowers, made.upper, made.work, made.target, None)
    assert sorted(os.listdir(made.target)) == ["a", "b"]
    other = tmp_path / "other"
    lowers = snapshots.unpack(str(other), *image(other, {"below": b""}, {".wh..wh..opq": b"", "top": b""}))
    assert [os.listdir(lower) for lower in lowers] == [["top"]]


@pytest.mark.kernel("overlay")
def test_the_root_looks_as_in_the_image(tmp_path: Path) -> None:
    made = chain(tmp_path, {"./": b"", "a": b""})
    os.chmod(made.lowers[0], 0o711)
    os.chown(made.lowers[0], 7, 8)
    overlays.mount(made.lowers, made.upper, made.work, made.target, None)
    root = os.stat(made.target)
    assert (stat.S_IMODE(root.st_mode), root.st_uid, root.st_gid) == (0o711, 7, 8)


@pytest.mark.kernel("overlay")
def test_many_layers_and_awkward_names_mount(tmp_path: Path) -> None:
    made = chain(tmp_path / "with:colon,comma\\and back", *({f"f{number}": b"x"} for number in range(60)))
    for mapping in (None, MAPPING):
        overlays.mount(made.lowers, made.upper, made.work, made.target, mapping)
        assert len(os.listdir(made.target)) == 60
        syscalls.umount(made.target, MNT_DETACH)


@pytest.mark.kernel("overlay")
def test_with_a_mapping_what_is_0_on_disk_is_root_in_the_user_namespace_and_back(tmp_path: Path) -> None:
    made = chain(tmp_path, {"d/": b"", "d/f": b"below", "gone": b"", "e/": b"", "e/x": b""})
    overlays.mount(made.lowers, made.upper, made.work, made.target, MAPPING)
    assert os.stat(f"{made.target}/d/f").st_uid == HOST
    said = in_user_namespace(
        made.target,
        "stat -c '%u %g' d/f; echo more >> d/f; echo new > new; chown 33:34 new;"
        " rm gone; rm -r e; mkdir e; mkfifo p; stat -c '%u %g' new e p",
    )
    assert said.splitlines() == ["0 0", "33 34", "0 0", "0 0"]
    on_disk = {name: os.lstat(f"{made.upper}/{name}") for name in ("d", "d/f", "new", "gone", "e", "p")}
    owners = {name: (found.st_uid, found.st_gid) for name, found in on_disk.items()}
    assert owners == {"d": (0, 0), "d/f": (0, 0), "new": (33, 34), "gone": (0, 0), "e": (0, 0), "p": (0, 0)}
    assert Path(made.upper, "d/f").read_text() == "belowmore\n"
    assert stat.S_ISCHR(on_disk["gone"].st_mode)
    assert os.getxattr(f"{made.upper}/e", "trusted.overlay.opaque") == b"y"
    assert Path(made.lowers[0], "d/f").read_text() == "below"


@pytest.mark.kernel("overlay")
def test_a_mount_with_a_mapping_leaves_one_mount_and_our_credentials(tmp_path: Path) -> None:
    made = chain(tmp_path, {"a": b""}, {"b": b""})
    descriptors, before = os.listdir("/proc/self/fd"), syscalls.capget()
    overlays.mount(made.lowers, made.upper, made.work, made.target, MAPPING)
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        below = [line.split()[4] for line in mounts if str(tmp_path) in line.split()[4]]
    assert below == [made.target]
    assert (os.geteuid(), os.getegid(), syscalls.capget()) == (0, 0, before)
    assert os.listdir("/proc/self/fd") == descriptors
    Path(made.data, "containers/c/log").write_text("the real directory is ours to write to")


@pytest.mark.kernel("overlay")
def test_a_failed_mount_leaves_nothing(tmp_path: Path) -> None:
    made = chain(tmp_path, {"a": b""})
    descriptors = os.listdir("/proc/self/fd")
    os.rmdir(made.work)
    with pytest.raises(OSError):
        overlays.mount(made.lowers, made.upper, made.work, made.target, MAPPING)
    assert (os.geteuid(), os.getegid()) == (0, 0)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert os.listdir("/proc/self/fd") == descriptors
    no_root = ((IdMapping(container_id=1, host_id=HOST, size=10),),) * 2
    with pytest.raises(Error, match="no root"):
        overlays.mount(made.lowers, made.upper, made.work, made.target, no_root)


@pytest.mark.kernel("overlay")
def test_a_capability_set_in_the_user_namespace_is_one_of_the_image(tmp_path: Path) -> None:
    made = chain(tmp_path, {"ping": b""})
    overlays.mount(made.lowers, made.upper, made.work, made.target, MAPPING)
    capability = "0x0100000200200000000000000000000000000000"
    set_it = f"import os; os.setxattr('ping', 'security.capability', bytes.fromhex('{capability[2:]}'))"
    assert in_user_namespace(made.target, f'/usr/bin/python3 -c "{set_it}"') == ""
    assert os.getxattr(f"{made.upper}/ping", "security.capability") == bytes.fromhex(capability[2:])


@pytest.mark.kernel("overlay")
def test_what_a_container_wrote_is_committed_as_a_layer_and_unpacks_again(tmp_path: Path) -> None:
    made = chain(tmp_path, {"d/": b"", "d/f": b"below", "gone": b""})
    overlays.mount(made.lowers, made.upper, made.work, made.target, MAPPING)
    in_user_namespace(made.target, "rm gone; echo x > d/new; rm -r d; mkdir d; echo y > d/again")
    store = Store(f"{made.data}/oci")
    descriptor, diff_id = layer_blobs.commit(store, made.upper)
    assert layer_blobs.commit(store, made.upper) == (descriptor, diff_id)
    _, manifest, config = image(tmp_path, {"d/": b"", "d/f": b"below", "gone": b""})
    manifest = manifest._replace(layers=(*manifest.layers, descriptor))
    config = config._replace(diff_ids=(*config.diff_ids, diff_id))
    lowers = snapshots.unpack(made.data, store, manifest, config)
    syscalls.umount(made.target, MNT_DETACH)
    for directory in ("upper2", "work2"):
        os.mkdir(f"{made.data}/containers/c/{directory}")
    base = f"{made.data}/containers/c"
    overlays.mount(lowers, f"{base}/upper2", f"{base}/work2", made.target, None)
    assert os.listdir(made.target) == ["d"]
    assert os.listdir(f"{made.target}/d") == ["again"]


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.kernel("overlay")
def test_many_layers_are_unpacked_side_by_side_and_no_process_is_left(tmp_path: Path) -> None:
    contents = [{f"f{number}": os.urandom(50_000), "tmp/": b"", "tmp/x": b"x"} for number in range(9)]
    told: list[tuple[str, str, int, int]] = []
    store, manifest, config = image(tmp_path, *contents)
    lowers = snapshots.unpack(str(tmp_path), store, manifest, config, lambda *said: told.append(said))
    assert [sorted(os.listdir(lower)) for lower in lowers] == [[f"f{number}", "tmp"] for number in reversed(range(9))]
    assert {(said[1], said[2]) for said in told} >= {(layer.digest, layer.size) for layer in manifest.layers}
    assert _children() == []


@pytest.mark.kernel("overlay")
def test_a_directory_that_layers_only_imply_looks_as_in_the_lowest_that_says_how(tmp_path: Path) -> None:
    """They are unpacked at the same time, and still see what stands below them."""
    store = Store(f"{tmp_path}/oci")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("tmp")
        member.type, member.mode, member.uid = tarfile.DIRTYPE, 0o1777, 7
        archive.addfile(member)
    blobs = [buffer.getvalue()]
    for name in ("tmp/a", "tmp/b"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(name))
        blobs.append(buffer.getvalue())
    put = [store.put(gzip.compress(blob, mtime=0)) for blob in blobs]
    config = ImageConfig("amd64", diff_ids=tuple(f"sha256:{hashlib.sha256(blob).hexdigest()}" for blob in blobs))
    manifest = store.manifest(store.put_image([Descriptor(LAYER_GZIP, *one) for one in put], config))
    for lower in snapshots.unpack(str(tmp_path), store, manifest, config):
        found = os.stat(f"{lower}/tmp")
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o1777, 7)


@pytest.mark.kernel("overlay")
def test_one_bad_layer_of_many_leaves_none_with_a_name(tmp_path: Path) -> None:
    store, manifest, config = image(tmp_path, *({f"f{number}": os.urandom(50_000)} for number in range(4)))
    config = config._replace(diff_ids=(*config.diff_ids[:3], "sha256:" + "0" * 64))
    with pytest.raises(Error, match="the diff_id has another digest"):
        snapshots.unpack(str(tmp_path), store, manifest, config)
    assert list(tmp_path.glob("layers/*/*/diff")) == []
    assert os.listdir(tmp_path / "staging") == []
    assert _children() == []


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("at", [0, 20, 2000, 45_000])  # the magic, the header, the data, behind the end
def test_a_blob_that_the_disk_has_spoilt_is_said_by_its_digest(tmp_path: Path, at: int) -> None:
    store, manifest, config = image(tmp_path, {"f": os.urandom(40_000)})
    layer = manifest.layers[0]
    with open(store.blob_path(layer.digest), "r+b") as file:
        file.seek(min(at, layer.size - 1))
        spoilt = bytes([file.read(1)[0] ^ 0xFF])
        file.seek(-1, os.SEEK_CUR)
        file.write(spoilt)
    with pytest.raises(Error, match=f"{layer.digest}: the layer has another digest, sha256:"):
        snapshots.unpack(str(tmp_path), store, manifest, config)
    assert os.listdir(tmp_path / "staging") == []


@pytest.mark.kernel("overlay")
def test_an_error_in_a_layer_says_which_layer(tmp_path: Path) -> None:
    store, manifest, config = image(tmp_path, {"f": b"1"})
    digest, size = store.put(b"this is no archive".ljust(1024))
    manifest = manifest._replace(layers=(manifest.layers[0]._replace(digest=digest, size=size),))
    with pytest.raises(Error, match=f"invalid image: {digest}: invalid layer: "):
        snapshots.unpack(str(tmp_path), store, manifest, config)


@pytest.mark.kernel("overlay")
def test_a_process_with_threads_unpacks_without_forking(tmp_path: Path) -> None:
    store, manifest, config = image(tmp_path, {"a": b"1"}, {"b": b"2"}, {"c": b"3"})
    found: list[tuple[str, ...]] = []
    thread = threading.Thread(target=lambda: found.append(snapshots.unpack(str(tmp_path), store, manifest, config)))
    thread.start()
    thread.join()
    assert [os.listdir(lower) for lower in found[0]] == [["c"], ["b"], ["a"]]


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize(
    ("limits", "said"),
    [(Limits(unpacked=1 << 20), "more than 1048576 bytes unpacked; the limit `unpacked`"), (Limits(entries=1), "more")],
)
def test_a_layer_over_a_limit_leaves_nothing(tmp_path: Path, limits: Limits, said: str) -> None:
    store, manifest, config = image(tmp_path, {"zeros": bytes(8 << 20), "b": b""})
    with pytest.raises(Error, match=said):
        layer_blobs.unpack(store, manifest.layers[0], config.diff_ids[0], f"{tmp_path}/staging/x", limits=limits)
    assert os.listdir(tmp_path / "staging") == []
    assert threading.active_count() == 1


@pytest.mark.kernel("overlay")
def test_a_full_disk_while_unpacking_says_so_and_gives_the_space_back(tmp_path: Path) -> None:
    store, manifest, config = image(tmp_path, {"a": os.urandom(3 << 20)}, {"b": os.urandom(3 << 20)})
    small = tmp_path / "small"
    small.mkdir()
    syscalls.mount("tmpfs", str(small), "tmpfs", 0, "size=4m")
    with pytest.raises(OSError, match="No space left"):
        snapshots.unpack(str(small), store, manifest, config)
    assert os.listdir(small / "staging") == []
    assert os.statvfs(small).f_bfree * os.statvfs(small).f_bsize > 3 << 20
    syscalls.mount("tmpfs", str(small), "tmpfs", MS_REMOUNT, "size=16m")
    assert len(snapshots.unpack(str(small), store, manifest, config)) == 2


@pytest.mark.kernel("overlay")
def test_who_is_killed_while_unpacking_leaves_neither_processes_nor_locks(tmp_path: Path) -> None:
    store, manifest, config = image(tmp_path, *({f"f{number}": os.urandom(4 << 20)} for number in range(4)))
    for number in range(8):
        child = os.fork()
        if child == 0:
            snapshots.unpack(str(tmp_path), store, manifest, config)
            os._exit(0)
        time.sleep(0.01 * number)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    lowers = snapshots.unpack(str(tmp_path), store, manifest, config)  # no lock is held, nothing half is in the way
    assert [os.path.getsize(f"{lower}/{os.listdir(lower)[0]}") for lower in lowers] == [4 << 20] * 4
    assert os.listdir(tmp_path / "staging") == []
