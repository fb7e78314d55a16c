"""logs: docker's json-file records; whole lines, bounded files, and a reader that misses nothing while it follows."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from minicontainer import logs
from minicontainer.logs import Log, Record


def texts(path: Path, **wanted: float) -> list[str]:
    return [record.text for record in logs.read(str(path), **wanted)]  # type: ignore[arg-type]


def ends_after(calls: int) -> Callable[[float], bool]:
    remaining = iter([False] * calls)
    return lambda seconds: next(remaining, True)


def test_a_line_is_a_record_in_dockers_format(tmp_path: Path) -> None:
    log = Log(f"{tmp_path}/log")
    log.append("stdout", b"hello\n")
    log.close()
    [line] = (tmp_path / "log").read_text().splitlines()
    record = json.loads(line)
    assert (record["log"], record["stream"]) == ("hello\n", "stdout")
    assert record["time"].endswith("Z")


def test_a_line_that_comes_in_parts_is_one_record(tmp_path: Path) -> None:
    log = Log(f"{tmp_path}/log")
    log.append("stdout", b"one ")
    log.append("stderr", b"other\n")
    log.append("stdout", b"line\ntwo\nthr")
    log.close()
    assert texts(tmp_path / "log") == ["other\n", "one line\n", "two\n", "thr"]


def test_a_very_long_line_is_cut_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    log = Log(f"{tmp_path}/log")
    whole = b"x" * (3 * logs.LINE_LIMIT + 5) + b"\n"
    log.append("stdout", whole)
    log.close()
    parts = texts(tmp_path / "log")
    assert "".join(parts).encode() == whole
    assert max(map(len, parts)) == logs.LINE_LIMIT


def test_what_is_no_text_is_recorded_all_the_same(tmp_path: Path) -> None:
    log = Log(f"{tmp_path}/log")
    log.append("stdout", b'\xff\x00"\\\r\n')
    log.close()
    assert texts(tmp_path / "log") == ['�\x00"\\\r\n']


def test_a_carriage_return_ends_no_line(tmp_path: Path) -> None:
    log = Log(f"{tmp_path}/log")
    log.append("stdout", b"10%\r20%\r30%\n")
    log.close()
    assert texts(tmp_path / "log") == ["10%\r20%\r30%\n"]


def test_a_full_file_becomes_the_older_one_and_there_are_never_more_than_two(tmp_path: Path) -> None:
    log = Log(f"{tmp_path}/log", limit=400)
    for number in range(20):
        log.append("stdout", f"line {number}\n".encode())
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]
    assert all((tmp_path / name).stat().st_size <= 400 for name in ("log", "log.1"))
    found = texts(tmp_path / "log")
    assert found == [f"line {number}\n" for number in range(20 - len(found), 20)]


def test_an_older_log_is_appended_to(tmp_path: Path) -> None:
    for word in ("one\n", "two\n"):
        log = Log(f"{tmp_path}/log")
        log.append("stdout", word.encode())
        log.close()
    assert texts(tmp_path / "log") == ["one\n", "two\n"]


def test_the_last_lines_and_those_from_a_time_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [{"log": f"{second}\n", "stream": "stdout", "time": logs.format_time(second)} for second in range(5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert texts(path, tail=2) == ["3\n", "4\n"]
    assert texts(path, tail=0) == []
    assert texts(path, since=3.0) == ["3\n", "4\n"]


def test_a_record_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    log = Log(f"{tmp_path}/log")
    log.append("stdout", b"whole\n")
    os.write(log.file, b'{"log":"ha')
    assert texts(tmp_path / "log") == ["whole\n"]


def test_no_log_yet_is_an_empty_log(tmp_path: Path) -> None:
    assert texts(tmp_path / "log") == []
    assert list(logs.follow(f"{tmp_path}/log", ends_after(2))) == []


def test_who_follows_sees_what_was_and_what_comes_also_over_a_rotation(tmp_path: Path) -> None:
    path = f"{tmp_path}/log"
    log = Log(path, limit=2000)
    log.append("stdout", b"before\n")
    seen: list[str] = []
    done = threading.Event()

    def write() -> None:
        for number in range(60):
            log.append("stdout", f"{number}\n".encode())
            deadline = time.monotonic() + 10
            while len(seen) < number - 10 and time.monotonic() < deadline:  # two rotations ahead, a file is lost
                done.wait(0.001)
            done.wait(0.002)
        log.close()
        done.set()

    writer = threading.Thread(target=write)
    for record in logs.follow(path, lambda seconds: done.wait(0.001)):
        if not seen:
            writer.start()
        seen.append(record.text)
    writer.join()
    assert seen == ["before\n", *(f"{number}\n" for number in range(60))]


def test_who_follows_from_the_last_line_starts_there(tmp_path: Path) -> None:
    log = Log(f"{tmp_path}/log")
    log.append("stdout", b"one\ntwo\n")
    assert [record.text for record in logs.follow(f"{tmp_path}/log", ends_after(1), tail=1)] == ["two\n"]


@pytest.mark.parametrize("seconds", [0.0, 1.5, 1_700_000_000.25])
def test_times_are_read_as_they_are_written(seconds: float) -> None:
    assert logs.parse_time(logs.format_time(seconds)) == seconds
    assert logs.parse_time("1970-01-01T00:01:00Z") == 60.0


def test_a_record_of_docker_is_read() -> None:
    line = '{"log":"x\\n","stream":"stderr","time":"2026-01-02T03:04:05.123456789Z"}'
    record = Record.from_line(line)
    assert (record.stream, record.text) == ("stderr", "x\n")
    assert logs.format_time(record.time).startswith("2026-01-02T03:04:05.12345")
