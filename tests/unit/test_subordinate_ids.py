"""Subordinate ids as subuid(5) writes them, and what is said when the kernel forbids it."""

import pytest

from minicontainer import subordinate_ids
from minicontainer.errors import Error

TABLE = "root:1:1\nperson:100000:65536\nother:200000:65536\n1000:300000:70000\nbroken\nodd:x:y\n"


@pytest.mark.parametrize(
    ("person", "uid", "wanted"),
    [("person", 7, (100000, 65536)), ("nobody", 1000, (300000, 70000)), ("other", 1000, (200000, 65536))],
)
def test_the_first_range_of_a_person_is_theirs(person: str, uid: int, wanted: tuple[int, int]) -> None:
    assert subordinate_ids.subordinate(person, uid, TABLE, "/etc/subuid") == wanted


@pytest.mark.parametrize("person", ["stranger", "broken", "odd", "root", ""])
def test_who_has_none_or_too_few_is_told_the_command(person: str) -> None:
    with pytest.raises(Error, match=r"/etc/subgid .*usermod --add-subuids") as raised:
        subordinate_ids.subordinate(person, 5, TABLE, "/etc/subgid")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "value", "command"), subordinate_ids.FORBIDDEN)
def test_a_kernel_that_forbids_it_is_named_with_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, command: str
) -> None:
    monkeypatch.setattr(subordinate_ids, "_read", lambda path: f"{value}\n" if path == f"/proc/sys/{name}" else "")
    said = str(subordinate_ids.refused(PermissionError(1, "no")))
    assert name.replace("/", ".") in said and said.endswith(f"try: {command}")


def test_another_refusal_is_said_by_the_kernel_s_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subordinate_ids, "_read", lambda _: "")
    assert "EPERM" in str(subordinate_ids.refused(PermissionError(1, "no")))
