"""What we build, others read: skopeo copies it with every digest verified, and sees the same config."""

import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from minicontainer import engine
from minicontainer.build import builder
from minicontainer.build.builder import Request
from minicontainer.build.progress import Progress

DOCKERFILE = """\
FROM scratch AS files
COPY --chown=3:4 a /deep/a
FROM scratch
ARG V=1
ENV PATH=/bin V=$V
COPY --from=files / /
EXPOSE 80 53/udp
VOLUME /v
USER 3:4
LABEL l="a b"
HEALTHCHECK --interval=5s CMD ["/bin/check"]
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/x"]
CMD ["y"]
"""


@pytest.mark.kernel("overlay")
@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo: ./dev setup installs it")
def test_skopeo_reads_and_verifies_what_we_built(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "a").write_text("content")
    (context / "Dockerfile").write_text(DOCKERFILE)
    home = engine.home(str(tmp_path / "data"))
    builder.build(home, Request(context=str(context), tags=("made:1",)), Progress(io.StringIO()))
    layout = f"oci:{home.data}/oci:docker.io/library/made:1"

    def skopeo(*words: str) -> str:
        done = subprocess.run(["skopeo", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    skopeo("copy", layout, f"dir:{tmp_path}/copied")
    assert json.loads(skopeo("inspect", "--config", layout))["config"] == {
        "User": "3:4",
        "ExposedPorts": {"53/udp": {}, "80/tcp": {}},
        "Env": ["PATH=/bin", "V=1"],
        "Entrypoint": ["/bin/x"],
        "Cmd": ["y"],
        "Volumes": {"/v": {}},
        "WorkingDir": "/",
        "Labels": {"l": "a b"},
        "StopSignal": "SIGINT",
    }
    [manifest] = [json.loads((tmp_path / "copied" / "manifest.json").read_text())]
    blob = tmp_path / "copied" / manifest["layers"][0]["digest"].removeprefix("sha256:")
    listed = subprocess.run(["tar", "tvzf", blob], capture_output=True, text=True, check=True).stdout
    assert "3/4" in listed and "deep/a" in listed
