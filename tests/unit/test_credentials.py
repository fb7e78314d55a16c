"""Credentials are where docker keeps them, and nobody else reads them."""

import json
import stat
import sys
from pathlib import Path

import pytest

from minicontainer.errors import Error
from minicontainer.registry import credentials
from minicontainer.registry.credentials import Credentials


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


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A helper that keeps what it is given in files, as those of docker do in a keychain."""
    program = tmp_path / "bin/docker-credential-files"
    program.parent.mkdir()
    program.write_text(
        f"""#!{sys.executable}
import json, pathlib, sys
kept = pathlib.Path({str(tmp_path)!r}) / "kept.json"
known = json.loads(kept.read_text()) if kept.exists() else {{}}
said = sys.stdin.read()
if sys.argv[1] == "get":
    if said not in known:
        print("credentials not found in native keychain")
        sys.exit(1)
    print(json.dumps(known[said]))
elif sys.argv[1] == "store":
    given = json.loads(said)
    known[given["ServerURL"]] = given
elif said == "locked":
    sys.exit("the keychain is locked")
else:
    del known[said]
kept.write_text(json.dumps(known))
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return tmp_path / "kept.json"


@pytest.mark.parametrize("form", [{"credsStore": "files"}, {"credHelpers": {"a.example": "files"}}])
def test_a_helper_keeps_the_credentials(config: Path, helper: Path, form: dict[str, object]) -> None:
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(form))
    assert credentials.load("a.example") is None
    credentials.save("a.example", Credentials("me", "secret"))
    assert "secret" in helper.read_text()
    assert "secret" not in config.read_text()
    assert credentials.load("a.example") == Credentials("me", "secret")
    assert credentials.erase("a.example")
    assert not credentials.erase("a.example")
    assert credentials.load("a.example") is None


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"credsStore": "absent"}, "docker-credential-absent, named in .*, is not installed"),
        ({"credsStore": "../../evil"}, "is not the name of a credential helper"),
    ],
)
def test_a_helper_that_cannot_be_asked_is_one_line(config: Path, form: dict[str, object], said: str) -> None:
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(form))
    with pytest.raises(Error, match=said):
        credentials.load("a.example")
