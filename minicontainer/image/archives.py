"""Archives: what a member of a tar stream is, compression, and reading and writing by the standard library.

The ground that `tar`, the fast reader, and `layers` stand on. `members` here is the readable reference: tarfile in
stream mode, with what it leaves open closed; property tests hold the fast reader to it.
Ruled by pax (POSIX.1-2017), GNU tar's and star's extensions (SCHILY.xattr), and xattr(7).
"""

import gzip
import io
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from minicontainer.errors import Error

CHUNK = 1 << 17  # tarfile copies what is left of a chunk at each header
HEADER_LIMIT = 1 << 20  # of a long name or a PAX header: a file name and its xattrs are far smaller
PRIVATE_XATTRS = ("trusted.overlay.", "user.overlay.")  # overlayfs' own language: an image may not speak it
TIME_LIMIT = 1 << 62  # nanoseconds, a hundred years from 1970: further ones do not fit into a file's status
PAX_XATTR = "SCHILY.xattr."
TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
FORMS = {kind: form for form, kind in TYPES.items()} | {tarfile.LNKTYPE: 0}  # every other type is a file: POSIX


class Reader(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class InvalidLayer(Error):
    def __init__(self, name: bytes | str, reason: str) -> None:
        super().__init__(f"invalid layer: {os.fsdecode(name)[:200]!r}: {reason}")


class Member(NamedTuple):
    """One entry of an archive, whatever format told it. `form` is that of a file status; 0 is a hard link."""

    name: bytes
    form: int
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0  # nanoseconds
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


Content = Iterable[tuple[int, bytes | memoryview]]  # pieces of a file, each with its offset


# Compression


def decompressed(stream: Reader) -> Reader:
    """What a gzip or zstd stream holds, or the stream as it is when it is neither: its first bytes tell."""
    start = stream.read(4)
    whole = cast(BinaryIO, _Joined(start, stream))
    if start[:2] == b"\x1f\x8b":
        return _Decompressed(_gunzip(whole))
    if start == b"\x28\xb5\x2f\xfd":
        return _Decompressed(_unzstd(whole))
    return whole


def _gunzip(file: BinaryIO) -> Reader:
    try:
        from isal import igzip  # optional: twice the speed of the standard library's zlib
    except ImportError:
        return cast(Reader, gzip.GzipFile(fileobj=file))
    return cast(Reader, igzip.IGzipFile(fileobj=file))  # type: ignore[no-untyped-call]  # isal has no annotations here


def _unzstd(file: BinaryIO) -> Reader:
    try:
        import zstandard  # optional: the standard library of Python 3.11 has no zstd
    except ImportError:
        raise Error("a layer is compressed by zstd; try: pip install 'minicontainer[fast]'") from None
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


class _Joined(io.RawIOBase):
    """A stream whose start was read already."""

    def __init__(self, start: bytes, rest: Reader) -> None:
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self._start:
            data, self._start = self._start[: len(buffer)], self._start[len(buffer) :]
        else:
            data = self._rest.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Decompressed:
    """Reads through a decompressor; what its library raises becomes one error of ours."""

    def __init__(self, file: Reader) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._file.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile, _isal_error(), _zstd_error()) as error:
            raise InvalidLayer("compressed data", str(error)) from error


def _isal_error() -> type[Exception]:
    try:
        from isal import isal_zlib  # optional, as above, and asked for only when something was raised
    except ImportError:
        return EOFError
    return cast(type[Exception], isal_zlib.error)


def _zstd_error() -> type[Exception]:
    try:
        from zstandard import ZstdError  # optional, as above
    except ImportError:
        return EOFError
    return ZstdError


# Reading


def members(stream: Reader) -> Iterator[tuple[Member, Content]]:
    """Each member of an uncompressed archive with its content, which is to be read before the next is asked for.

    Raises:
        InvalidLayer: a header is broken or out of bounds, or the archive ends too early.
    """
    try:
        archive = tarfile.open(fileobj=cast(Any, stream), mode="r|", bufsize=CHUNK, tarinfo=_Member, encoding="utf-8")
        while (found := archive.next()) is not None:
            cast(Any, archive).members.clear()  # tarfile keeps every member; a layer may have millions
            member = _member(found)
            yield member, _content(archive, found) if member.form == stat.S_IFREG else ()
    except tarfile.TarError as error:
        raise InvalidLayer("archive", str(error)) from error


def _member(found: tarfile.TarInfo) -> Member:
    headers = found.pax_headers
    return checked(
        Member(
            name=os.fsencode(found.name).rstrip(b"/"),
            form=0 if found.islnk() else FORMS.get(found.type, stat.S_IFREG),  # other types are files: POSIX
            mode=found.mode,
            uid=found.uid,
            gid=found.gid,
            size=found.size,
            mtime=nanoseconds(str(headers["mtime"])) if "mtime" in headers else bounded(int(found.mtime) * 10**9),
            link=os.fsencode(found.linkname),
            major=found.devmajor,
            minor=found.devminor,
            xattrs=tuple(
                (key.removeprefix(PAX_XATTR), text.encode("utf-8", "surrogateescape"))  # as tarfile has decoded it
                for key, text in headers.items()
                if key.startswith(PAX_XATTR)
            ),
        )
    )


def _content(archive: tarfile.TarFile, found: tarfile.TarInfo) -> Content:
    file = cast(io.RawIOBase, cast(Any, archive.extractfile(found)).raw)  # a stream cannot seek back for a buffer
    sparse: list[tuple[int, int]] | None = getattr(found, "sparse", None)
    for offset, size in sparse if sparse is not None else [(0, found.size)]:
        file.seek(offset)
        while size:
            try:
                data = file.read(min(size, CHUNK))
            except tarfile.ReadError:
                data = b""
            if not data:
                raise InvalidLayer(found.name, "the archive ends in the middle of the file")
            yield offset, data
            offset, size = offset + len(data), size - len(data)


class _Member(tarfile.TarInfo):
    """A header read with suspicion: tarfile ends quietly at a broken one, and reads extended ones of any size."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_Member":
        try:
            return super().fromtarfile(tarfile)
        except (_header_error("InvalidHeaderError"), _header_error("TruncatedHeaderError")) as error:
            raise InvalidLayer(f"header at {tarfile.offset}", str(error)) from error
        except (ValueError, IndexError, OverflowError, RecursionError) as error:  # a field that is no number, and such
            raise InvalidLayer(f"header at {tarfile.offset}", str(error)) from error
        except _header_error("EmptyHeaderError") as error:
            raise _header_error("EOFHeaderError")("no end mark") from error  # tolerated, as by every tar

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        extended = self.type in (b"x", b"g", b"X", b"L", b"K")
        if self.size < 0 or (extended and self.size > HEADER_LIMIT):
            raise InvalidLayer(self.name, f"a header of {self.size} bytes")
        return cast(tarfile.TarInfo, super()._proc_member(archive))  # type: ignore[misc]  # tarfile's documented hook


def _header_error(name: str) -> type[Exception]:
    return cast(type[Exception], getattr(tarfile, name))  # public names in the source that the stubs leave out


def checked(member: Member) -> Member:
    """A member whose fields are in bounds."""
    if b"\0" in member.name or b"\0" in member.link:
        raise InvalidLayer(member.name, "a name with a NUL")
    if not (0 <= member.uid < 1 << 32 and 0 <= member.gid < 1 << 32):
        raise InvalidLayer(member.name, f"owner {member.uid}:{member.gid} is out of range")
    if not 0 <= member.size < 1 << 63:
        raise InvalidLayer(member.name, f"a size of {member.size} bytes")
    return member


def components(name: bytes) -> tuple[bytes, ...]:
    """The path as the container would resolve it lexically: `..` at the root is the root, path_resolution(7)."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return tuple(parts)


def nanoseconds(text: str) -> int:
    """A PAX time, of which a float would lose the last digits; one that is none counts as 0."""
    if not re.fullmatch(r"-?\d{1,18}(\.\d+)?", text, re.ASCII):
        return 0
    whole, _, fraction = text.partition(".")
    rest = int(fraction[:9].ljust(9, "0")) if fraction else 0
    return bounded(int(whole) * 10**9 + (-rest if whole.startswith("-") else rest))


def bounded(time: int) -> int:
    return max(-TIME_LIMIT, min(time, TIME_LIMIT))


# Writing


def member(path: bytes, found: os.stat_result) -> tarfile.TarInfo:
    """The header for a file of that status: numbers alone, no names of users, which differ from image to image."""
    result = tarfile.TarInfo(os.fsdecode(path))
    result.type = TYPES[stat.S_IFMT(found.st_mode)]
    result.mode = stat.S_IMODE(found.st_mode)
    result.uid, result.gid = found.st_uid, found.st_gid
    result.size = found.st_size if result.isreg() else 0
    result.mtime, nanoseconds = divmod(found.st_mtime_ns, 10**9)
    if nanoseconds:
        result.pax_headers = {"mtime": _decimal(found.st_mtime_ns)}
    if result.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        result.devmajor, result.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
    return result


def marker(path: bytes) -> tarfile.TarInfo:
    """An empty file that is a sign to who applies the layer: a whiteout, an opaque marker."""
    result = tarfile.TarInfo(os.fsdecode(path))
    result.mode = 0
    return result


def pax_xattrs(path: str) -> dict[str, str]:
    """The xattrs of a file as PAX records, overlayfs' own left out."""
    return {
        PAX_XATTR + name: os.getxattr(path, name, follow_symlinks=False).decode("utf-8", "surrogateescape")
        for name in sorted(os.listxattr(path, follow_symlinks=False))
        if not name.startswith(PRIVATE_XATTRS)
    }


def _decimal(nanoseconds: int) -> str:
    """Seconds as PAX wants them; a time before 1970 has its minus before the whole."""
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    return f"{'-' if nanoseconds < 0 else ''}{seconds}.{rest:09}".rstrip("0")
