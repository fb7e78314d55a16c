"""reports: tables for people, docker's JSON for programs."""

import io
import json
from typing import Any

import pytest

from minicontainer import reports
from minicontainer.arguments import UsageError
from minicontainer.containers import CREATED, EXITED, RUNNING, Container, Network, Options, Port, Volume
from minicontainer.runtime.cgroups import Usage

NOW = 1_000_000.0


def container(**more: Any) -> Container:
    fields: dict[str, Any] = {
        "id": "ab" * 32,
        "name": "web",
        "image": "busybox:1",
        "image_id": "sha256:00",
        "options": Options(image="busybox:1", labels={"tier": "front"}, volumes=(Volume("/a", "/b", True),)),
        "created": NOW - 7200,
        "command": ("httpd", "-f", "-p", "80", "-h", "/srv/www"),
        "ports": (Port(80, 8080),),
    }
    return Container(**{**fields, **more})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"status": CREATED}, "Created"),
        ({"status": RUNNING, "started_at": NOW - 61}, "Up 1 minute"),
        ({"status": EXITED, "finished_at": NOW - 3, "exit_code": 7}, "Exited (7) 3 seconds ago"),
        (
            {"status": EXITED, "finished_at": NOW - 86400 * 3, "exit_code": 137, "oom_killed": True},
            "Exited (137, out of memory) 3 days ago",
        ),
    ],
)
def test_a_status_says_since_when_and_why(more: dict[str, Any], said: str) -> None:
    assert reports.status(container(**more), NOW) == said


def test_a_row_is_short_for_people_and_whole_when_asked_for() -> None:
    short = reports.container_row(container(status=RUNNING), NOW, whole=False)
    assert short["ID"] == "abababababab"
    assert short["Command"] == '"httpd -f -p 80 -h /…"'
    assert short["Ports"] == "0.0.0.0:8080->80/tcp"
    assert (short["RunningFor"], short["CreatedAt"]) == ("2 hours ago", "1970-01-12 11:46:40 +0000 UTC")
    whole = reports.container_row(container(), NOW, whole=True)
    assert whole["ID"] == "ab" * 32
    assert whole["Command"].endswith('/srv/www"')
    assert whole["Ports"] == ""  # it does not run


def test_a_table_is_aligned_and_json_is_an_object_a_line() -> None:
    rows = [{"A": "1", "B": "long"}, {"A": "22", "B": "x"}]
    out = io.StringIO()
    reports.show(rows, {"A": "FIRST", "B": "SECOND"}, None, out)
    assert out.getvalue() == "FIRST   SECOND\n1       long\n22      x\n"
    out = io.StringIO()
    reports.show(rows, {"A": "FIRST"}, "json", out)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == rows
    with pytest.raises(UsageError, match="--format"):
        reports.show(rows, {}, "{{.ID}}", out)


@pytest.mark.parametrize(
    ("filter_text", "accepted"),
    [
        ("name=we", True),
        ("name=db", False),
        ("id=abab", True),
        ("id=cd", False),
        ("status=created", True),
        ("status=running", False),
        ("ancestor=busybox", True),
        ("ancestor=busybox:1", True),
        ("label=tier", True),
        ("label=tier=front", True),
        ("label=tier=back", False),
    ],
)
def test_filters(filter_text: str, accepted: bool) -> None:
    assert reports.filter_of(filter_text)(container()) is accepted


@pytest.mark.parametrize("text", ["name", "colour=red", ""])
def test_a_filter_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="known are: name, id, status, ancestor, label"):
        reports.filter_of(text)


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0B"), (999, "999B"), (1500, "1.5kB"), (2_010_000, "2.01MB"), (5_000_000_000, "5GB")]
)
def test_sizes(count: int, said: str) -> None:
    assert reports.size(count) == said


@pytest.mark.parametrize(
    ("text", "moment"),
    [("10m", NOW - 600), ("1.5h", NOW - 5400), ("123.5", 123.5), ("1970-01-01T00:00:10Z", 10), ("1970-01-02", 86400)],
)
def test_moments(text: str, moment: float) -> None:
    assert reports.moment(text, NOW) == moment


def test_a_moment_that_is_none() -> None:
    with pytest.raises(UsageError, match="--since 'yesterday'"):
        reports.moment("yesterday", NOW)


def test_inspect_speaks_dockers_words() -> None:
    network = Network(address="172.18.0.2", prefix=16, gateway="172.18.0.1", mac="02:42:ac:12:00:02")
    shown = reports.container_json(container(status=EXITED, exit_code=137, oom_killed=True, network=network))
    assert shown["Name"] == "web"
    assert shown["State"]["OOMKilled"]
    assert (shown["State"]["Status"], shown["State"]["ExitCode"]) == ("exited", 137)
    assert shown["State"]["StartedAt"] == "0001-01-01T00:00:00Z"
    assert (shown["Path"], shown["Args"][0]) == ("httpd", "-f")
    assert shown["NetworkSettings"]["IPAddress"] == "172.18.0.2"
    assert shown["NetworkSettings"]["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}
    assert shown["HostConfig"]["Binds"] == ["/a:/b:ro"]
    json.dumps(shown)


def test_what_a_container_uses() -> None:
    limited = container(options=Options(image="i", memory=64_000_000))
    row = reports.usage_row(limited, Usage(memory_bytes=1_000_000, cpu_ns=5, pids=3), 12.345)
    assert (row["CPUPerc"], row["MemUsage"], row["PIDs"]) == ("12.35%", "1MB / 64MB", "3")
