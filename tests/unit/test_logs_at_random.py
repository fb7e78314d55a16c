"""logs, whatever is written in whatever pieces: nothing is lost, nothing is mixed, no reader trips."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicontainer import logs
from minicontainer.logs import Log

PIECES = st.lists(
    st.tuples(
        st.sampled_from(["stdout", "stderr"]), st.binary(max_size=40).map(lambda data: data.replace(b"\r", b"\n"))
    ),
    max_size=30,
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def written(path: str, pieces: list[tuple[str, bytes]], limit: int = logs.LIMIT) -> None:
    log = Log(path, limit)
    for stream, data in pieces:
        log.append(stream, data)
    log.close()


@QUICK
@given(PIECES)
def test_each_stream_comes_back_whole_and_in_order(pieces: list[tuple[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        written(f"{directory}/log", pieces)
        records = list(logs.read(f"{directory}/log"))
    for stream in ("stdout", "stderr"):
        whole = b"".join(data for name, data in pieces if name == stream)
        wanted = "".join(line.decode(errors="replace") for line in logs._split(whole))
        assert "".join(record.text for record in records if record.stream == stream) == wanted


@QUICK
@given(PIECES)
def test_each_record_is_a_line_that_any_json_reader_takes(pieces: list[tuple[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        written(f"{directory}/log", pieces)
        lines = Path(directory, "log").read_text().splitlines()
    for line in lines:
        record = json.loads(line)
        assert set(record) == {"log", "stream", "time"}
        assert record["log"].count("\n") <= 1


@QUICK
@given(PIECES, st.integers(0, 200))
def test_a_file_cut_anywhere_is_read_up_to_the_last_whole_record(pieces: list[tuple[str, bytes]], cut: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "log")
        written(str(path), pieces)
        whole = path.read_bytes()
        path.write_bytes(whole[: max(0, len(whole) - cut)])
        kept = path.read_bytes().count(b"\n")
        assert len(list(logs.read(str(path)))) == kept


@QUICK
@given(PIECES, st.integers(100, 600))
def test_two_files_hold_the_end_and_never_more_than_the_limit(pieces: list[tuple[str, bytes]], limit: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        written(f"{directory}/all", pieces)
        written(f"{directory}/log", pieces, limit)
        texts = [record.text for record in logs.read(f"{directory}/all")]
        kept = [record.text for record in logs.read(f"{directory}/log")]
        largest = max((len(line) for line in Path(directory, "all").read_bytes().splitlines(keepends=True)), default=0)
        assert texts[len(texts) - len(kept) :] == kept
        for name in ("log", "log.1"):
            path = Path(directory, name)
            assert not path.exists() or path.stat().st_size <= limit + 30 * largest


@pytest.mark.parametrize("tail", [0, 1, 5, 100])
def test_the_last_lines_over_both_files(tmp_path: Path, tail: int) -> None:
    written(f"{tmp_path}/log", [("stdout", f"line {number}\n".encode()) for number in range(20)], limit=900)
    everything = [record.text for record in logs.read(f"{tmp_path}/log")]
    assert (tmp_path / "log.1").exists()
    last = [record.text for record in logs.read(f"{tmp_path}/log", tail=tail)]
    assert last == everything[max(0, len(everything) - tail) :]
