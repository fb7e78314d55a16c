"""Mount options: the words of a mount's `options`, sorted by what they are for.

On the ground, beside the constants; `rootfs` carries them out. Pure. Ruled by runtime-spec config.md (Linux mount
options), mount(8), mount_setattr(2).
"""

from minicontainer.linux.flags import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)
from minicontainer.values import NamedTuple

ATTRIBUTES = {  # option: (attributes to clear, attributes to set); with an r before it, for the whole tree
    "ro": (0, MOUNT_ATTR_RDONLY),
    "rw": (MOUNT_ATTR_RDONLY, 0),
    "nosuid": (0, MOUNT_ATTR_NOSUID),
    "suid": (MOUNT_ATTR_NOSUID, 0),
    "nodev": (0, MOUNT_ATTR_NODEV),
    "dev": (MOUNT_ATTR_NODEV, 0),
    "noexec": (0, MOUNT_ATTR_NOEXEC),
    "exec": (MOUNT_ATTR_NOEXEC, 0),
    "noatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME),
    "atime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_RELATIME),
    "relatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_RELATIME),
    "norelatime": (0, 0),  # what the kernel chooses without it is relatime, too: mount(2)
    "strictatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_STRICTATIME),
    "nostrictatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_RELATIME),
    "nodiratime": (0, MOUNT_ATTR_NODIRATIME),
    "diratime": (MOUNT_ATTR_NODIRATIME, 0),
    "nosymfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    "symfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
}  # fmt: skip
PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}  # fmt: skip
OWN_OPTIONS = {"bind", "rbind", "idmap", "ridmap", "tmpcopyup", "defaults"}
# What is so anyway, or is not said, or what fsconfig(2) has no word for.
WITHOUT_EFFECT = {"async", "loud", "silent", "nolazytime", "nomand", "noiversion", "iversion", "acl", "noacl"}


class MountOptions(NamedTuple):
    """The options of a mount, sorted by what they are for."""

    clear: int = 0
    set: int = 0
    recursive_clear: int = 0
    recursive_set: int = 0
    propagation: tuple[int, ...] = ()
    bind: bool = False
    rbind: bool = False
    idmap: bool = False
    ridmap: bool = False
    tmpcopyup: bool = False
    data: tuple[str, ...] = ()


def parse_options(options: tuple[str, ...]) -> MountOptions:
    """Sort mount options by what they are for; what is in no table is data for the file system."""
    parsed = MountOptions()
    for option in options:
        if option in ATTRIBUTES:
            clear, add = ATTRIBUTES[option]
            parsed = parsed._replace(clear=parsed.clear & ~add | clear, set=parsed.set & ~clear | add)
        elif option in PROPAGATION:
            parsed = parsed._replace(propagation=(*parsed.propagation, PROPAGATION[option]))
        elif option.startswith("r") and option[1:] in ATTRIBUTES:
            clear, add = ATTRIBUTES[option[1:]]
            parsed = parsed._replace(
                recursive_clear=parsed.recursive_clear & ~add | clear,
                recursive_set=parsed.recursive_set & ~clear | add,
            )
        elif option not in OWN_OPTIONS | WITHOUT_EFFECT:
            parsed = parsed._replace(data=(*parsed.data, option))
    asked = {name: name in options for name in ("bind", "rbind", "idmap", "ridmap", "tmpcopyup")}
    return parsed._replace(**asked)  # type: ignore[arg-type]  # the names are those of flags


def context_of(label: str, fstype: str) -> tuple[str, ...]:
    """The option by which SELinux gives all files of a file system one context, where they have none of their own."""
    return (f"context={label}",) if label and fstype not in ("proc", "sysfs", "mqueue") else ()
