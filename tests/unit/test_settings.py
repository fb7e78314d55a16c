"""Settings: one file, its keys known by name, what is wrong in it said in one line."""

from pathlib import Path

import pytest

from minicontainer.image.changesets import Limits
from minicontainer.registry import settings
from minicontainer.registry.settings import InvalidSettings, RegistrySettings


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINICONTAINER_CONFIG", str(tmp_path / "config.toml"))
    return tmp_path / "config.toml"


def test_no_file_is_no_settings(config: Path) -> None:
    assert not config.exists()
    assert settings.limits() == Limits()
    assert settings.registry("example.org") == RegistrySettings()


def test_limits_are_numbers_or_sizes(config: Path) -> None:
    config.write_text('[limits]\nunpacked = "10GiB"\nratio = 50\nname = "1k"\n')
    assert settings.limits() == Limits(unpacked=10 << 30, ratio=50, name=1024)


def test_a_registry_has_a_table_of_its_own(config: Path) -> None:
    config.write_text('[registry."a.example:5000"]\nmirrors = ["m.example"]\ninsecure = true\nca = "/ca.pem"\n')
    assert settings.registry("a.example:5000") == RegistrySettings(("m.example",), True, "/ca.pem")
    assert settings.registry("b.example") == RegistrySettings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limits = 3", "limits is not a table"),
        ("[limits]\nsize = 3", "limits knows no size"),
        ('[limits]\nratio = "many"', "limits: ratio is 'many'"),
        ("[limits]\nratio = -1", "limits: ratio is -1"),
        ("[limits]\nratio = true", "limits: ratio is True"),
        ('[registry."a"]\nmirror = "b"', "registry a knows no mirror"),
        ('[registry."a"]\nmirrors = "b"', "mirrors of registry a is not a list"),
        ('[registry."a"]\ninsecure = "yes"', "registry a: insecure is true or false"),
        ("what is this", "is not TOML"),
        ("\udcff", "is not TOML"),
    ],
)
def test_what_is_wrong_is_said_with_the_files_name(config: Path, text: str, said: str) -> None:
    config.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidSettings) as refused:
        settings.limits()
        settings.registry("a")
    assert said in str(refused.value)
    assert str(config) in str(refused.value)
    assert "\n" not in str(refused.value)
