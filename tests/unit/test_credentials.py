"""Credentials are where docker keeps them, and nobody else reads them."""

import json
import stat
from pathlib import Path

import pytest

from minicontainer import credentials
from minicontainer.credentials import Credentials
from minicontainer.errors import Error


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path / "docker/config.json"


def test_what_is_saved_is_loaded_and_erased(config: Path) -> None:
    assert credentials.load("example.org") is None
    credentials.save("example.org", Credentials(user="me", password="a:b é"))
    assert credentials.load("example.org") == ("me", "a:b é")
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert credentials.erase("example.org")
    assert not credentials.erase("example.org")
    assert credentials.load("example.org") is None


def test_the_rest_of_docker_s_configuration_stays(config: Path) -> None:
    config.parent.mkdir()
    config.write_text(json.dumps({"psFormat": "x", "auths": {"other": {"auth": "dTpw"}}}))
    credentials.save("example.org", Credentials(user="me", password="p"))
    kept = json.loads(config.read_text())
    assert kept["psFormat"] == "x"
    assert credentials.load("other") == ("u", "p")


def test_docker_s_own_registry_has_a_key_of_its_own(config: Path) -> None:
    credentials.save("docker.io", Credentials(user="me", password="p"))
    assert list(json.loads(config.read_text())["auths"]) == ["https://index.docker.io/v1/"]
    assert credentials.load("docker.io") == ("me", "p")


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": []}', '{"auths": {"x": {"auth": "%%"}}}'])
def test_a_broken_configuration_is_one_line_with_its_path(config: Path, text: str) -> None:
    config.parent.mkdir()
    config.write_text(text)
    with pytest.raises(Error, match=r"config\.json"):
        credentials.load("x")


@pytest.mark.parametrize("entry", [{}, {"auth": ""}, "x", {"auth": "bm9jb2xvbg=="}])
def test_an_entry_without_credentials_is_anonymous(config: Path, entry: object) -> None:
    config.parent.mkdir()
    config.write_text(json.dumps({"auths": {"x": entry}}))
    assert credentials.load("x") is None
