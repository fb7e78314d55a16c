"""Archives: whatever bytes come, members or one clear error; never a hang, never anything else."""

import gzip
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicontainer import archives, layers
from minicontainer.archives import InvalidLayer


def tar(*members: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def file(name: str, size: int = 0, **pax: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.pax_headers = size, pax
    return member


def names(data: bytes) -> list[str]:
    return [member.name for _, member in archives.members(io.BytesIO(data))]


def test_members_come_in_order() -> None:
    assert names(tar(file("a", 3), file("b"), file("c" * 300, 1000))) == ["a", "b", "c" * 300]


@pytest.mark.parametrize("data", [b"", bytes(512), bytes(1024), bytes(10240), tar()])
def test_an_archive_of_nothing_is_an_archive(data: bytes) -> None:
    assert names(data) == []


def test_an_archive_without_its_end_mark_is_taken() -> None:
    assert names(tar(file("a", 512))[: 512 + 512]) == ["a"]


@pytest.mark.parametrize("cut", [100, 600, 1100, 1500])
def test_an_archive_that_ends_too_early_is_refused(cut: int) -> None:
    with pytest.raises((InvalidLayer, tarfile.TarError)):
        names(tar(file("a", 600), file("b", 600))[:cut])


def test_a_broken_header_in_the_middle_is_not_the_end() -> None:
    data = bytearray(tar(file("a"), file("b"), file("c")))
    data[512 + 150] ^= 1  # in the checksum of the second
    with pytest.raises(InvalidLayer, match="header at 512"):
        names(bytes(data))


def _header(kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_an_extended_header_of_a_gigabyte_is_refused_unread(kind: bytes) -> None:
    with pytest.raises(InvalidLayer, match="header of"):
        names(_header(kind, 1 << 30) + bytes(1024))


def test_a_chain_of_extended_headers_is_refused() -> None:
    with pytest.raises(InvalidLayer):
        names(_header(b"x", 0) * 5000)


@pytest.mark.parametrize("size", [-1, -(1 << 40)])
def test_a_negative_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidLayer):
        names(_header(tarfile.REGTYPE, size) + bytes(1024))


@pytest.mark.parametrize("pax", [{"size": "-5"}, {"uid": str(1 << 33)}, {"path": "a\0b"}, {"linkpath": "a\0b"}])
def test_fields_out_of_bounds_are_refused(pax: dict[str, str]) -> None:
    with pytest.raises((InvalidLayer, tarfile.TarError)):
        member = file("a")
        member.pax_headers = pax
        names(tar(member))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b", (b"a", b"b")),
        ("./a//b/", (b"a", b"b")),
        ("/a", (b"a",)),
        ("../../a", (b"a",)),
        ("a/../../b", (b"b",)),
        ("a/b/..", (b"a",)),
        (".", ()),
        ("/", ()),
        ("caf\udce9", (b"caf\xe9",)),
        ("...", (b"...",)),
    ],
)
def test_a_path_is_resolved_inside_the_root(name: str, expected: tuple[bytes, ...]) -> None:
    assert archives.components(name) == expected


@given(st.text(alphabet="ab./\udc80", max_size=30))
def test_no_component_is_ever_special(name: str) -> None:
    assert not {b"", b".", b".."} & set(archives.components(name))
    assert not any(b"/" in part for part in archives.components(name))


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1", 10**9),
        ("1.5", 1_500_000_000),
        ("1234567890.123456789", 1234567890123456789),
        ("1.0000000019", 1_000_000_001),
        ("-1.5", -1_500_000_000),
        ("-0.25", -250_000_000),
        ("nan", 7 * 10**9),
        ("1e9", 7 * 10**9),
        ("9" * 18, 2**62),
        ("-" + "9" * 18, -(2**62)),
    ],
)
def test_times_have_nanoseconds_and_bounds(text: str, nanoseconds: int) -> None:
    member = file("a", mtime=text)
    member.mtime = 7
    assert archives.times(member) == (nanoseconds, nanoseconds)


@given(st.integers(min_value=-(2**61), max_value=2**61))
def test_a_time_survives_the_archive(nanoseconds: int) -> None:
    status = os.stat_result((stat.S_IFREG | 0o644, 0, 0, 1, 0, 0, 0, 0, 0, 0), {"st_mtime_ns": nanoseconds})
    member = archives.member(b"a", status)
    if nanoseconds % 10**9:
        assert archives.times(member)[1] == nanoseconds
    else:
        assert member.mtime == nanoseconds // 10**9


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_are_members_or_refused(data: bytes) -> None:
    try:
        names(data)
    except (InvalidLayer, tarfile.TarError):
        return


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_spoilt_archive_is_unpacked_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """A byte changed, with the checksum mended, so that the change reaches the fields behind it."""
    whole = bytearray(tar(file("a", 700, comment="c"), file("b" * 120, 10, mtime="1.5")))
    position = data.draw(st.integers(min_value=0, max_value=len(whole) - 1))
    whole[position] = data.draw(st.integers(min_value=0, max_value=255))
    start = position // 512 * 512
    if not start + 148 <= position < start + 156:
        block = bytes(whole[start : start + 148]) + b" " * 8 + bytes(whole[start + 156 : start + 512])
        whole[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    try:
        for archive, member in archives.members(io.BytesIO(bytes(whole))):
            if member.isreg() and member.size < 1 << 20:
                content = archive.extractfile(member)
                assert content is not None
                content.raw.read(member.size)  # type: ignore[attr-defined]
    except (InvalidLayer, tarfile.TarError):
        return


@given(st.binary(max_size=2000), st.sampled_from([1, 3, 100, 1 << 20]))
def test_a_stream_is_the_same_compressed_or_not(content: bytes, size: int) -> None:
    plain = b"plain" + content  # not by chance the first bytes of a compressed stream
    for stream in (plain, gzip.compress(plain)):
        reader = archives.decompressed(io.BytesIO(stream))
        read = b""
        while data := reader.read(size):
            read += data
        assert read == plain


@given(st.binary(max_size=200), st.integers(min_value=0, max_value=200))
def test_a_spoilt_compressed_stream_is_read_or_refused(tail: bytes, cut: int) -> None:
    reader = archives.decompressed(io.BytesIO(gzip.compress(os.urandom(100))[:cut] + tail))
    try:
        while reader.read(100):
            continue
    except InvalidLayer as error:
        assert "\n" not in str(error)


def test_the_chain_id_is_that_of_the_specification() -> None:
    one, two = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    assert layers.chain_id([one]) == one
    assert layers.chain_id([one, two]) != layers.chain_id([two, one])
    assert layers.chain_id([one, two]) == "sha256:" + __import__("hashlib").sha256(f"{one} {two}".encode()).hexdigest()
