"""Tar: what hostile and odd archives say, header by header, by tarfile where it can write them, else by hand."""

import io
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer.image import archives, tar
from minicontainer.image.archives import InvalidLayer, Member

END = bytes(1024)


def header(
    name: bytes = b"f", kind: bytes = b"0", size: int = 0, magic: bytes = b"ustar\x0000", **fields: bytes
) -> bytes:
    """A block by hand, its checksum right."""
    block = bytearray(512)
    places = {"mode": (100, b"0000644"), "uid": (108, b"0000000"), "gid": (116, b"0000000"), "mtime": (136, b"0" * 11),
              "link": (157, b""), "major": (329, b""), "minor": (337, b""), "prefix": (345, b"")}  # fmt: skip
    block[: len(name)] = name
    block[124:135] = b"%011o" % size
    block[156:157] = kind
    block[257:265] = magic
    for key, (place, otherwise) in places.items():
        value = fields.get(key, otherwise)
        block[place : place + len(value)] = value
    for key, value in fields.items():
        if key.startswith("at"):
            block[int(key[2:]) : int(key[2:]) + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def pax(*records: tuple[str, str], kind: bytes = b"x") -> bytes:
    text = b""
    for key, value in records:
        body = f" {key}={value}\n".encode("utf-8", "surrogateescape")
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        text += str(length).encode() + body
    return header(b"pax", kind, len(text)) + padded(text)


def members(data: bytes, size: int = 1 << 20) -> list[tuple[Member, bytes]]:
    """All members with their content, of a stream that gives so many bytes at a time."""
    return [(member, whole(member.size, content)) for member, content in tar.members(_Trickling(data, size))]


def whole(size: int, content: archives.Content) -> bytes:
    result = bytearray(size)
    for offset, piece in content:
        result[offset : offset + len(piece)] = piece
    return bytes(result)


class _Trickling:
    def __init__(self, data: bytes, size: int) -> None:
        self._stream, self._size = io.BytesIO(data), size

    def read(self, size: int = -1, /) -> bytes:
        return self._stream.read(min(self._size, size))


@given(st.integers(1, 3000), st.lists(st.binary(max_size=2000), max_size=4))
def test_chunks_of_any_size_give_the_same_members(size: int, contents: list[bytes]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number, content in enumerate(contents):
            member = tarfile.TarInfo(f"f{number}" * 60)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert [content for _, content in members(buffer.getvalue(), size)] == contents


def test_content_that_is_not_read_is_passed_over() -> None:
    data = header(b"a", size=700) + padded(b"x" * 700) + header(b"b") + END
    assert [member.name for member, _ in tar.members(io.BytesIO(data))] == [b"a", b"b"]


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_what_is_no_file_has_no_content_whatever_its_size_says(kind: bytes) -> None:
    found = members(header(b"a", kind, size=512, link=b"l", major=b"0000001", minor=b"0000003") + header(b"b") + END)
    assert [member.name for member, _ in found] == [b"a", b"b"]


def test_a_directory_of_the_oldest_format_has_a_slash_and_no_type() -> None:
    [(member, _)] = members(header(b"d/", b"\0", magic=bytes(8)) + END)
    assert (member.name, member.form) == (b"d", 0o040000)


def test_a_prefix_is_posix_and_a_time_is_gnus() -> None:
    [(posix, _)] = members(header(b"f", prefix=b"some/where") + END)
    [(gnu, _)] = members(header(b"f", magic=tar.GNU_MAGIC, prefix=b"14000000000") + END)
    assert (posix.name, gnu.name) == (b"some/where/f", b"f")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   644 \0", 0o644),
        (b"\0\0\0\0\0\0\0\0", 0),
        (b"\x80\0\0\0\0\0\x10\x01", 4097),
        (b"\xff" * 8, -1),
        (b"\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
    ],
)
def test_numbers_are_octal_or_of_base_256(field: bytes, value: int) -> None:
    assert tar.number(field) == value


@pytest.mark.parametrize("field", [b"9", b"0x1", b"one", b"\xfe\0\0"])
def test_what_is_no_number_is_refused_with_where_it_stands(field: bytes) -> None:
    with pytest.raises(InvalidLayer, match="header at 512"):
        members(header(b"a") + header(b"b", mode=field + bytes(8 - len(field))) + END)


def test_global_headers_are_for_all_that_follow_and_own_ones_win() -> None:
    data = pax(("uid", "7"), ("SCHILY.xattr.user.a", "x"), kind=b"g") + header(b"a")
    data += pax(("uid", "9")) + header(b"b") + header(b"c") + END
    found = [(member.uid, member.xattrs) for member, _ in members(data)]
    assert found == [(uid, (("user.a", b"x"),)) for uid in (7, 9, 7)]


def test_a_value_may_have_line_ends_equals_signs_and_any_bytes() -> None:
    value = "a=b\nc \udcff"
    [(member, _)] = members(pax(("SCHILY.xattr.user.a", value), ("path", "n\udce9")) + header() + END)
    assert member.xattrs == (("user.a", value.encode("utf-8", "surrogateescape")),)
    assert member.name == b"n\xe9"


@pytest.mark.parametrize("text", [b"9 a=b", b"3 a=b\n", b"99 a=b\n", b"6 ab\n\n", b"a=b\n", b"0 a=b\n", b"07 =b\n"])
def test_a_record_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidLayer, match="whose records are none"):
        members(header(b"pax", b"x", len(text)) + padded(text) + header() + END)


@pytest.mark.parametrize("kind", [b"x", b"L", b"K"])
def test_an_archive_does_not_end_after_an_extended_header(kind: bytes) -> None:
    with pytest.raises(InvalidLayer):
        members(header(b"pax", kind, 12) + padded(b"12 path=abc\n") + END)


def test_extended_headers_without_end_are_refused() -> None:
    with pytest.raises(InvalidLayer, match="more than 100 extended headers"):
        members(pax(("comment", "c")) * 200 + header() + END)


def old_sparse(pieces: list[tuple[int, int]], real: int, content: bytes) -> bytes:
    """GNU's oldest sparse format, with as many further blocks as it takes."""
    texts = [b"%011o\0%011o\0" % piece for piece in pieces]
    more = texts[4:]
    block = header(b"s", b"S", len(content), tar.GNU_MAGIC, at386=b"".join(texts[:4]), at482=b"\1" if more else b"\0",
                   at483=b"%011o\0" % real)  # fmt: skip
    while more:
        part, more = more[:21], more[21:]
        block += b"".join(part).ljust(504, b"\0") + (b"\1" if more else b"\0") + bytes(7)
    return block + padded(content)


@pytest.mark.parametrize("count", [1, 4, 5, 25, 26, 60])
def test_sparse_files_of_the_oldest_format(count: int) -> None:
    pieces = [(number * 100 + 50, 10) for number in range(count)]
    content = bytes(number % 251 + 1 for number in range(count * 10))
    [(member, found), (after, _)] = members(old_sparse(pieces, count * 100 + 70, content) + header(b"after") + END)
    assert member.size == count * 100 + 70
    assert b"".join(found[start : start + 10] for start, _ in pieces) == content
    assert found.count(b"\0") == member.size - len(content)
    assert after.name == b"after"


def _sparse_cases() -> Iterator[bytes]:
    yield old_sparse([(10, 10), (5, 10)], 100, b"x" * 20)  # not in order
    yield old_sparse([(95, 10)], 100, b"x" * 10)  # over the end
    yield old_sparse([(0, 20)], 100, b"x" * 10)  # more than there is
    yield pax(("GNU.sparse.map", "0,5,2,5"), ("GNU.sparse.size", "100")) + header(size=10) + padded(b"x" * 10)
    yield pax(("GNU.sparse.map", "0,5")) + header(size=5) + padded(b"x" * 5)  # of no size
    yield pax(("GNU.sparse.map", "a,b"), ("GNU.sparse.size", "9")) + header(size=5) + padded(b"x" * 5)
    yield pax(("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "9")) + header(size=512) + padded(b"99\n0\n")
    yield pax(("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "9")) + header(size=0)
    yield pax(("GNU.sparse.size", str(1 << 63)), ("GNU.sparse.map", "0,1")) + header(size=1) + padded(b"x")


@pytest.mark.parametrize("number", range(len(list(_sparse_cases()))))
def test_a_map_that_cannot_be_is_refused(number: int) -> None:
    with pytest.raises(InvalidLayer):
        members(list(_sparse_cases())[number] + END)


def test_the_signed_sum_of_old_tars_is_taken() -> None:
    block = bytearray(header(b"caf\xe9"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)
    [(member, _)] = members(bytes(block) + END)
    assert member.name == b"caf\xe9"
