"""The sample images: they build, and do what their pages say.

Those on Debian need mmdebstrap, the packages' mirror and some minutes: they are built and run with LONG=1.
"""

import http.server
import io
import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicontainer import engine
from minicontainer.build import builder
from minicontainer.build.builder import Request
from minicontainer.build.progress import Progress
from minicontainer.containers import Home

IMAGES = Path(__file__).parents[2] / "images"
TASK = {
    "Cluster": "demo",
    "TaskARN": "arn:aws:ecs:us-east-1:012345678901:task/demo/0a1b2c",
    "Family": "web",
    "Revision": "7",
    "AvailabilityZone": "us-east-1a",
    "Containers": [{"Name": "web", "Labels": {"com.amazonaws.ecs.cluster": "other"}}],
    "ContainerInstanceARN": "arn:aws:ecs:us-east-1:012345678901:container-instance/demo/ffee",
}


class Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(TASK if self.path == "/v4/id/task" else {}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A store with the images on busybox, built as the demo builds them."""
    context = tmp_path_factory.mktemp("context") / "busybox"
    shutil.copytree(IMAGES / "busybox", context)
    shutil.copy("/bin/busybox", context / "busybox")
    home = engine.home(str(tmp_path_factory.mktemp("data")))
    for directory, tag in ((context, "busybox"), (IMAGES / "web", "web"), (IMAGES / "hungry", "hungry"),
                           (IMAGES / "cron", "cron")):  # fmt: skip
        request = Request(context=str(directory), tags=(tag,), network="none")
        builder.build(home, request, Progress(io.StringIO()))
    return home


@pytest.fixture
def served(home: Home) -> Iterator[Home]:
    yield home
    for container in engine.list_containers(home):
        engine.remove(home, container.id, force=True)


def fetch(path: str) -> tuple[str, str]:
    """(content type, text) of the page, as soon as it is served."""
    deadline = time.monotonic() + 5
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:8080{path}", timeout=5) as answer:
                return answer.headers["Content-Type"], answer.read().decode()
        except OSError:
            assert time.monotonic() < deadline, "nobody serves"
            time.sleep(0.05)


def serve_web(home: Home, env: tuple[str, ...]) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    container = engine.create(home, engine.Options(image="web", network="host", env=env))
    engine.start(home, container.id)


@pytest.mark.kernel("overlay")
def test_the_page_says_task_and_instance(served: Home) -> None:
    serve_web(served, ("ECS_CONTAINER_METADATA_URI_V4=http://127.0.0.1:9051/v4/id",))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 9051), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kind, text = fetch("/cgi-bin/whoami")
    values = dict(line.split("=", 1) for line in text.splitlines())
    assert kind == "text/plain"
    assert values["task"] == TASK["TaskARN"]
    assert values["instance"] == TASK["ContainerInstanceARN"]
    assert (values["cluster"], values["definition"], values["zone"]) == ("demo", "web:7", "us-east-1a")
    kind, page = fetch("/")
    assert kind.startswith("text/html")
    assert "Served by task 0a1b2c" in page and str(TASK["ContainerInstanceARN"]) in page


@pytest.mark.kernel("overlay")
def test_the_page_is_served_without_a_task_too(served: Home) -> None:
    serve_web(served, ())
    assert "task=none" in fetch("/cgi-bin/whoami")[1]
    assert fetch("/cgi-bin/health")[1] == "ok\n"


@pytest.mark.kernel("overlay")
def test_hungry_is_killed_at_its_limit(served: Home) -> None:
    container = engine.create(served, engine.Options(image="hungry", network="none", memory=24 << 20))
    engine.start(served, container.id)
    assert engine.wait(served, container.id) == 137
    assert engine.inspect(served, container.id).oom_killed
    eaten = [record.text for record in engine.read_logs(served, container.id)]
    assert eaten[0] == "1 MiB eaten\n" and 10 < len(eaten) < 24


@pytest.mark.kernel("overlay")
def test_the_base_has_a_shell_users_and_a_place_for_files(served: Home) -> None:
    said = bytearray()
    command = ("sh", "-c", "id -un; stat -c %a /tmp; test -x /usr/bin/env && wget --help 2>&1 | head -n 1")
    options = engine.Options(image="busybox", command=command, network="none")
    assert engine.run(served, options, output=said.extend) == 0
    assert said.decode().split()[:2] == ["root", "1777"]
    assert os.path.isdir(served.data)


def wait_for(home: Home, container_id: str, text: str) -> str:
    """The log, as soon as it has the text."""
    deadline = time.monotonic() + 20
    while True:
        said = "".join(record.text for record in engine.read_logs(home, container_id))
        if text in said:
            return said
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


@pytest.mark.kernel("overlay")
def test_the_clock_starts_and_the_words_of_a_job_are_in_the_log(served: Home) -> None:
    """The minute is not waited for: the job is run beside the clock, with the same output."""
    container = engine.create(served, engine.Options(image="cron", network="none"))
    engine.start(served, container.id)
    wait_for(served, container.id, "crond (busybox")
    assert engine.exec(served, container.id, ("sh", "-c", "job > /proc/1/fd/1")) == 0
    assert re.search(r"job: \d\d:\d\d:\d\d as root", wait_for(served, container.id, "job:"))


def test_every_image_says_what_it_is() -> None:
    for directory in sorted(IMAGES.iterdir()):
        page = (directory / "README.md").read_text()
        assert page.startswith(f"# {directory.name}\n"), directory
        assert f"images/{directory.name}" in page and (directory / "Dockerfile").exists()


DEBIAN = {  # image: what is asked of it while it runs, and what it answers; of `go`, what it says by itself
    "php": (("php", "-r", "include '/srv/index.php';"), "PHP 8"),
    "nginx": (("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"),
              "Served by nginx"),
    "redis": (("redis-cli", "set", "a", "1"), "OK"),
    "python": (("python3", "-c", "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/').read())"),
               "visit 1 to"),
    "go": ((), "hello from linux/"),
}  # fmt: skip

if os.environ.get("LONG"):

    @pytest.fixture(scope="module")
    def debian(tmp_path_factory: pytest.TempPathFactory) -> Home:
        """A store with images/debian, whose files mmdebstrap makes."""
        subprocess.run([IMAGES / "debian" / "rootfs"], check=True)
        home = engine.home(str(tmp_path_factory.mktemp("debian")))
        request = Request(context=str(IMAGES / "debian"), tags=("debian",), network="none")
        builder.build(home, request, Progress(io.StringIO()))
        (IMAGES / "debian" / "rootfs.tar").unlink()
        return home

    @pytest.mark.parametrize("name", DEBIAN)
    def test_an_image_on_debian_runs(debian: Home, name: str) -> None:
        request = Request(context=str(IMAGES / name), tags=(name,), network="host", contexts={"apt": "/etc/apt"})
        builder.build(debian, request, Progress(io.StringIO()))
        container = engine.create(debian, engine.Options(image=name, network="none"))
        engine.start(debian, container.id)
        words, answer = DEBIAN[name]
        try:
            if not words:
                assert answer in wait_for(debian, container.id, answer)
                return
            deadline = time.monotonic() + 30
            while answer not in (said := asked(debian, container.id, words)):
                assert time.monotonic() < deadline, said
                time.sleep(0.5)
        finally:
            engine.remove(debian, container.id, force=True)

    def asked(home: Home, container_id: str, words: tuple[str, ...]) -> str:
        reader, writer = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        with open(reader, "rb") as said:
            engine.exec(home, container_id, words, streams=(null, writer, writer))
            os.close(null)
            os.close(writer)
            return said.read().decode(errors="replace")
