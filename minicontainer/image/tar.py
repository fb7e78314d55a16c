"""Tar: the members of an archive, read fast and with suspicion, from a stream that is read once.

Stands beside `archives`, whose reading by the standard library's tarfile is the readable reference: property tests
compare the two. Ruled by pax (POSIX.1-2017, "pax Interchange Format"), GNU tar's manual ("Basic Tar Format") and
star's SCHILY.xattr. Names are bytes from end to end; nothing is held but one chunk and the headers of one member.
"""

import functools
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from minicontainer.image.archives import (
    FORMS,
    HEADER_LIMIT,
    PAX_XATTR,
    Content,
    InvalidLayer,
    Member,
    Reader,
    bounded,
    checked,
    nanoseconds,
)

BLOCK = 512
CHUNK = 1 << 20
HEADERS_LIMIT = 100  # extended headers before one member: each format needs four at most
# name, mode, uid, gid, size, mtime, checksum, type, link, magic, (names of owners), major, minor, prefix
HEADER = struct.Struct("100s8s8s8s12s12s8ss100s8s64x8s8s155s12x")
CHECKSUM = slice(148, 156)
HEADERS_ALONE = b"123456"  # types that have no content, whatever their size says: links, devices, directories, FIFOs
GNU_MAGIC = b"ustar  \0"
SPARSE = struct.Struct("12s12s")
PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")
NO_BLOCK = bytes(BLOCK)

Records = dict[bytes, bytes]
Map = list[tuple[int, int]]  # of a sparse file: offset and size of each piece that the archive holds


class Source:
    """A stream as chunks, handed out without a copy where that can be."""

    def __init__(self, stream: Reader) -> None:
        self._read = stream.read
        self._chunk, self._at, self._size = memoryview(b""), 0, 0
        self._before = 0  # bytes in the chunks that are gone

    @property
    def position(self) -> int:
        return self._before + self._at

    def _fill(self) -> bool:
        data = self._read(CHUNK)
        self._before += self._size
        self._chunk, self._at, self._size = memoryview(data), 0, len(data)
        return bool(data)

    def take(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end of the stream."""
        start, end = self._at, self._at + size
        if end <= self._size:
            self._at = end
            return bytes(self._chunk[start:end])
        return b"".join(self.pieces(size))

    def view(self, size: int, padding: int) -> memoryview | None:
        """The next `size` bytes, and past the padding, when all of that is in the chunk."""
        start, end = self._at, self._at + size
        if end + padding > self._size:
            return None
        self._at = end + padding
        return self._chunk[start:end]

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes in pieces, fewer at the end of the stream."""
        while size > 0 and (self._at < self._size or self._fill()):
            piece = self._chunk[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece


class _Data:
    """What is left of a member's content in the stream."""

    def __init__(self, source: Source, size: int) -> None:
        self._source, self.left = source, size

    def pieces(self, size: int) -> Iterator[memoryview]:
        for piece in self._source.pieces(min(size, self.left)):
            self.left -= len(piece)
            yield piece

    def take(self, size: int) -> bytes:
        return b"".join(self.pieces(size))


class _Header(NamedTuple):
    """A block as it stands there: numbers read, names as bytes."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    type: bytes
    link: bytes
    major: int
    minor: int


def members(stream: Reader) -> Iterator[tuple[Member, Content]]:
    """Each member with its content, which is to be read before the next is asked for, or is passed over.

    Raises:
        InvalidLayer: a header is broken or out of bounds, or the archive ends too early.
    """
    source = Source(stream)
    shared: Records = {}  # of global headers, for all members to come
    own: Records = {}
    sparse: Map = []  # that a PAX header of the next member tells piece by piece
    headers = 0
    while (block := _next_block(source)) is not None:
        header = _header(block, source)
        kind = header.type
        if kind in b"xgXLK":
            headers += 1
            data = _extension(source, header, headers)
            if kind == b"L":
                own.setdefault(b"path", data.partition(b"\0")[0])
            elif kind == b"K":
                own.setdefault(b"linkpath", data.partition(b"\0")[0])
            elif kind == b"g":
                shared.update(_records(data, header, []))
            else:
                own = _records(data, header, sparse) | own  # of two that say the same, the first: as tarfile has it
            continue
        old = _old_sparse(block, source) if kind == b"S" else None
        yield from _one(source, header, shared, own, old or (sparse, -1))
        own, sparse, headers = {}, [], 0
    if own or sparse:
        raise InvalidLayer(f"header at {source.position}", "the archive ends after an extended header")


def _next_block(source: Source) -> bytes | None:
    block = source.take(BLOCK)
    if not block or block == NO_BLOCK:  # the end mark; many archives end without one, as by every tar
        return None
    if len(block) < BLOCK:
        raise InvalidLayer(f"header at {source.position - len(block)}", "truncated header")
    return block


def _header(block: bytes, source: Source) -> _Header:
    name, mode, uid, gid, size, mtime, checksum, kind, link, magic, major, minor, prefix = HEADER.unpack(block)
    try:
        if number(checksum) != _sum(block) and number(checksum) != _signed_sum(block):
            raise ValueError("bad checksum")
        name = name.partition(b"\0")[0]
        if kind == b"\0" and name.endswith(b"/"):  # the format before POSIX had no type for directories
            kind = b"5"
        if prefix[0] and magic != GNU_MAGIC and kind != b"L" and kind != b"K":  # GNU's old format has times there
            name = prefix.partition(b"\0")[0] + b"/" + name
        return _Header(
            name, number(mode), number(uid), number(gid), number(size), number(mtime), kind,
            link.partition(b"\0")[0], number(major), number(minor),
        )  # fmt: skip
    except ValueError as error:
        raise InvalidLayer(f"header at {source.position - BLOCK}", str(error)) from error


def _sum(block: bytes) -> int:
    """The sum of the header's bytes, its checksum taken as blanks: the low half of Adler-32 is one more than a sum.

    (Modulo 65521, which 256 bytes cannot reach. Python's own `sum` would be a fifth of the time of a small file.)
    """
    halves = (block[:148], block[156:256], block[256:])
    return sum([(zlib.adler32(half) & 0xFFFF) - 1 for half in halves], 8 * 32)


def _signed_sum(block: bytes) -> int:
    """As some old tars counted it."""
    return sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 8 * 32


@functools.lru_cache(maxsize=4096)
def number(field: bytes) -> int:
    """A field as octal digits, or in GNU's base 256 when its first bit says so."""
    if field[0] == 0o200:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0o377:
        return int.from_bytes(field[1:], "big") - (1 << 8 * (len(field) - 1))
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def _extension(source: Source, header: _Header, count: int) -> bytes:
    if not 0 <= header.size <= HEADER_LIMIT:
        raise InvalidLayer(header.name, f"a header of {header.size} bytes")
    if count > HEADERS_LIMIT:
        raise InvalidLayer(header.name, f"more than {HEADERS_LIMIT} extended headers in a row")
    size = header.size + -header.size % BLOCK
    data = source.take(size)  # with the padding, which is to be empty
    if len(data) < size:
        raise InvalidLayer(header.name, "the archive ends in the middle of a header")
    return data


def _skip(source: Source, size: int, name: bytes) -> None:
    for piece in source.pieces(size):
        size -= len(piece)
    if size > 0:
        raise InvalidLayer(name, "the archive ends in the middle of it: unexpected end of data")


def _records(data: bytes, header: _Header, sparse: Map) -> Records:
    """The records of a PAX header; those that tell the pieces of a sparse file come more than once (format 0.0)."""
    found: Records = {}
    position = 0
    while position < len(data) and data[position]:
        match = PAX_RECORD.match(data, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1] != 0x0A:
            raise InvalidLayer(header.name, "a PAX header whose records are none")
        key, value = match[2], data[match.end() : end - 1]
        if key == b"GNU.sparse.offset":
            sparse.append((_decimal(value, header.name), 0))
        elif key == b"GNU.sparse.numbytes" and sparse:
            sparse[-1] = (sparse[-1][0], _decimal(value, header.name))
        else:
            found[key] = value
        position = end
    return found


def _decimal(text: bytes, name: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise InvalidLayer(name, f"{text[:40]!r} is not a number")
    return int(text)


# One member


def _one(
    source: Source, header: _Header, shared: Records, own: Records, sparse: tuple[Map, int]
) -> Iterator[tuple[Member, Content]]:
    """The member of a header, told by what the extended headers said; then to the end of its content."""
    name, _, uid, gid, size, mtime, kind, link, _, _ = header
    mtime = bounded(mtime * 10**9)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    pieces, real = sparse
    if own or shared:
        records = shared | own if shared else own
        name, link = records.get(b"path", name), records.get(b"linkpath", link)
        name = records.get(b"GNU.sparse.name", name)
        uid, gid = _integer(records.get(b"uid"), uid), _integer(records.get(b"gid"), gid)
        size = _integer(own.get(b"size"), size)
        if b"mtime" in records:
            mtime = nanoseconds(records[b"mtime"].decode("latin-1"))
        xattrs = tuple(
            (key[len(PAX_XATTR) :].decode("utf-8", "surrogateescape"), value)
            for key, value in records.items()
            if key.startswith(PAX_XATTR.encode())
        )
    if size < 0:
        raise InvalidLayer(name, f"a size of {size} bytes")
    form = FORMS.get(kind, stat.S_IFREG)
    stored = 0 if kind in HEADERS_ALONE else size
    data = _Data(source, stored)
    is_sparse = bool(pieces) or real >= 0 or any(key.startswith(b"GNU.sparse.") for key in own)
    if is_sparse:
        pieces, real = _pax_sparse(own, data, name, (pieces, real))
        size = real
    member = checked(
        Member(name.rstrip(b"/"), form, header.mode, uid, gid, size, mtime, link, header.major, header.minor, xattrs)
    )
    padding = -stored % BLOCK
    if not stored:
        yield member, ()
    elif not is_sparse and (view := source.view(stored, padding)) is not None:
        yield member, ((0, view),)
    else:
        yield member, _content(member, data, pieces if is_sparse else [(0, stored)])
        _skip(source, data.left + padding, name)


def _integer(text: bytes | None, otherwise: int) -> int:
    """A number of a PAX header; one that is none counts as 0, as the reference has it."""
    if text is None:
        return otherwise
    try:
        return int(text)
    except ValueError:
        return 0


def _content(member: Member, data: _Data, stored: Map) -> Content:
    """The content as pieces, each with its offset in the file."""
    offset = 0
    for start, size in stored:
        if start < offset or start + size > member.size:
            raise InvalidLayer(member.name, "a sparse file whose pieces are not in order, or outside of it")
        offset = start
        for piece in data.pieces(size):
            yield offset, piece
            offset += len(piece)
        if offset != start + size:
            raise InvalidLayer(member.name, "the archive ends in the middle of the file")


# Sparse files: GNU tar's manual, "Storing Sparse Files"


def _old_sparse(block: bytes, source: Source) -> tuple[Map, int]:
    """The oldest format: four pieces in the header, further ones in blocks that follow."""
    real = number(block[483:495])
    found = _sparse_pieces(block[386:482])
    more = block[482]
    while more:
        block = source.take(BLOCK)
        if len(block) < BLOCK or len(found) > HEADER_LIMIT:
            raise InvalidLayer(f"header at {source.position}", "a map of a sparse file without an end")
        found += _sparse_pieces(block[:504])
        more = block[504]
    return found, real


def _sparse_pieces(data: bytes) -> Map:
    try:
        pieces = [(number(offset), number(size)) for offset, size in SPARSE.iter_unpack(data)]
    except ValueError as error:
        raise InvalidLayer("sparse file", f"its map is broken: {error}") from error
    return [piece for piece in pieces if piece[1] > 0]


def _pax_sparse(records: Records, data: _Data, name: bytes, said: tuple[Map, int]) -> tuple[Map, int]:
    """The formats 0.0 (a record for each number), 0.1 (a record for all) and 1.0 (before the content)."""
    pieces, real = said
    if real < 0:
        size = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size"))
        if size is None:
            raise InvalidLayer(name, "a sparse file that does not say its size")
        real = _decimal(size, name)
    if b"GNU.sparse.map" in records:
        numbers = [_decimal(text, name) for text in records[b"GNU.sparse.map"].split(b",")]
        pieces = list(zip(numbers[::2], numbers[1::2], strict=False))
    elif records.get(b"GNU.sparse.major") == b"1":
        pieces = _map_before_content(data, name)
    return [piece for piece in pieces if piece[1] > 0], real


def _map_before_content(data: _Data, name: bytes) -> Map:
    """Format 1.0: a count, then offset and size of each piece, a line each, filled up to whole blocks."""
    text = data.take(BLOCK)
    count = _decimal(text.partition(b"\n")[0], name)
    while text and text.count(b"\n") < 1 + 2 * count:
        text += data.take(BLOCK)
        if len(text) > HEADER_LIMIT or (not data.left and text.count(b"\n") < 1 + 2 * count):
            raise InvalidLayer(name, "a map of a sparse file without an end")
    numbers = [_decimal(line, name) for line in text.split(b"\n")[1 : 1 + 2 * count]]
    return list(zip(numbers[::2], numbers[1::2], strict=True))
