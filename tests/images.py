"""An image for tests, made of this machine's static busybox: no registry and no build is needed."""

import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from minicontainer import engine
from minicontainer.containers import Home, home, prepare
from minicontainer.image.store import Store
from minicontainer.oci.image import LAYER, ContainerConfig, Descriptor, ImageConfig, Platform

BUSYBOX = Path("/bin/busybox")
APPLETS = (
    "sh true false cat echo sleep id ls mount ps grep wget httpd hostname env touch dd kill stty tty head wc stat ip nc"
)
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home/web:/bin/sh\n"
GROUP = "root:x:0:\nweb:x:1000:\nlogs:x:1001:web\n"


def layer(files: Mapping[str, bytes | str | None]) -> bytes:
    """An uncompressed tar: bytes are a file's content, text a symbolic link's target, None a directory."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mode = 0o755
            if content is None:
                member.type = tarfile.DIRTYPE
                member.mode = 0o1777 if name == "tmp" else 0o755
            elif isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return whole.getvalue()


def busybox_files() -> dict[str, bytes | str | None]:
    directories = dict.fromkeys(("bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "home/web"))
    links = {f"bin/{name}": "busybox" for name in APPLETS.split()}
    etc = {"etc/passwd": PASSWD.encode(), "etc/group": GROUP.encode()}
    return {**directories, "bin/busybox": BUSYBOX.read_bytes(), **links, **etc}


def put(place: Home, name: str, config: ContainerConfig, *layers: bytes) -> Descriptor:
    """Put an image of these uncompressed layers into the store of `place`."""
    prepare(place)
    store = Store(f"{place.data}/oci")
    descriptors = tuple(Descriptor(LAYER, *store.put(data)) for data in layers)
    whole = ImageConfig(
        architecture=Platform.here().architecture,
        config=config,
        diff_ids=tuple(descriptor.digest for descriptor in descriptors),
    )
    descriptor = store.put_image(descriptors, whole)
    store.tag(name, descriptor)
    return descriptor


def busybox(root: str | os.PathLike[str], name: str = "docker.io/library/busybox:latest") -> Home:
    """A home below `root` whose store has busybox under `name`."""
    place = home(os.fspath(root))
    put(place, name, ContainerConfig(cmd=("sh",), env=("IMAGE=busybox",)), layer(busybox_files()))
    return place


@contextmanager
def busybox_home(root: str | os.PathLike[str]) -> Iterator[Home]:
    """The same, and afterwards no container of it is left, also when the test failed."""
    place = busybox(root)
    try:
        yield place
    finally:
        for one in engine.list_containers(place):
            engine.remove(place, one.id, force=True)
