"""context: what COPY may take, and that nothing outside the context is ever named."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicontainer.build import context
from minicontainer.build.context import Digests, Entry, Tree, fingerprint
from minicontainer.build.patterns import parse_ignore


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A context beside a secret that no COPY may reach."""
    (tmp_path / "secret").write_text("secret")
    inside = tmp_path / "context"
    (inside / "src" / "deep").mkdir(parents=True)
    (inside / "a.txt").write_text("a")
    (inside / "b.txt").write_text("b")
    (inside / "src" / "main.c").write_text("main")
    (inside / "src" / "deep" / "x").write_text("x")
    (inside / "link").symlink_to("src/main.c")
    (inside / "dirlink").symlink_to("/src")
    (inside / "out").symlink_to("../secret")
    (inside / "far").symlink_to(tmp_path / "secret")
    (inside / "loop").symlink_to("loop")
    return inside


def taken(directory: Path, word: str, ignore: str = "") -> dict[str, list[str]]:
    tree = Tree(str(directory), parse_ignore(ignore))
    try:
        return {source.name: [entry.target for entry in source.entries] for source in tree.sources(word)}
    finally:
        tree.close()


def test_a_file_is_taken_by_its_name(directory: Path) -> None:
    assert taken(directory, "a.txt") == {"a.txt": [""]}
    assert taken(directory, "/a.txt") == {"a.txt": [""]}
    assert taken(directory, "./src/../a.txt") == {"a.txt": [""]}


def test_a_directory_is_taken_with_all_below_it_in_order(directory: Path) -> None:
    assert taken(directory, "src") == {"src": ["", "deep", "deep/x", "main.c"]}
    assert taken(directory, "src/") == taken(directory, "src")


def test_the_whole_context_is_taken_by_a_dot(directory: Path) -> None:
    everything = taken(directory, ".")[""]
    assert everything[:3] == ["", "a.txt", "b.txt"]
    assert "src/deep/x" in everything and "link" in everything


def test_a_link_that_is_named_is_followed_and_keeps_its_name(directory: Path) -> None:
    tree = Tree(str(directory))
    [source] = tree.sources("link")
    assert (source.name, source.entries[0].source) == ("link", "src/main.c")
    assert [entry.target for entry in tree.sources("dirlink")[0].entries] == ["", "deep", "deep/x", "main.c"]
    tree.close()


def test_a_link_below_a_directory_stays_a_link(directory: Path) -> None:
    tree = Tree(str(directory))
    links = {entry.target: entry.link for entry in tree.sources(".")[0].entries if stat.S_ISLNK(entry.mode)}
    assert links["link"] == "src/main.c"
    assert links["dirlink"] == "/src"
    tree.close()


@pytest.mark.parametrize(
    "word", ["../secret", "out", "far", "src/../../secret", "../../../../../etc/passwd", "missing"]
)
def test_nothing_outside_the_context_is_reached(directory: Path, word: str) -> None:
    with pytest.raises(FileNotFoundError):
        taken(directory, word)


def test_dots_in_front_stay_in_the_context(directory: Path) -> None:
    assert taken(directory, "../../a.txt") == {"a.txt": [""]}


def test_a_loop_of_links_is_an_error(directory: Path) -> None:
    with pytest.raises(OSError, match="symbolic links"):
        taken(directory, "loop")


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("[b]*", ["b.txt"]),
        ("s*/m*", ["main.c"]),
        ("src/*", ["deep", "main.c"]),
        ("dirlink/m*", ["main.c"]),
        ("no*", []),
        ("a.txt/*", []),
        ("missing/*", []),
    ],
)
def test_wildcards_take_what_matches(directory: Path, word: str, names: list[str]) -> None:
    assert list(taken(directory, word)) == names


def test_what_dockerignore_leaves_out_is_not_there(directory: Path) -> None:
    assert "src" not in taken(directory, ".", "src")[""]
    assert list(taken(directory, "*.txt", "b.txt")) == ["a.txt"]
    with pytest.raises(FileNotFoundError, match="dockerignore"):
        taken(directory, "src", "src")
    with pytest.raises(FileNotFoundError, match="dockerignore"):
        taken(directory, "link", "src/main.c")


def test_an_exception_takes_the_directories_above_it_in_again(directory: Path) -> None:
    assert taken(directory, ".", "*\n!src/deep/x")[""] == ["", "src", "src/deep", "src/deep/x"]


def test_a_directory_whose_content_is_left_out_is_taken_empty(directory: Path) -> None:
    assert taken(directory, "src", "src/*") == {"src": [""]}


def test_a_socket_is_passed_over(directory: Path) -> None:
    os.mknod(directory / "src" / "socket", stat.S_IFSOCK | 0o600)
    assert "socket" not in taken(directory, "src")["src"]


def test_a_directory_that_became_a_link_is_not_followed(directory: Path) -> None:
    tree = Tree(str(directory))
    [source] = tree.sources("src/main.c")
    (directory / "src").rename(directory / "moved")
    (directory / "src").symlink_to("moved")
    with pytest.raises(OSError):
        tree.open(source.entries[0])
    tree.close()


def printed(directory: Path, digests: Digests | None = None, owners: bool = False) -> str:
    tree = Tree(str(directory))
    try:
        return fingerprint(tree, tree.sources("."), digests or Digests(), owners)
    finally:
        tree.close()


def test_the_fingerprint_is_of_names_modes_and_contents_not_times(directory: Path) -> None:
    before = printed(directory)
    os.utime(directory / "a.txt", (1, 1))
    assert printed(directory) == before
    (directory / "a.txt").write_text("A")
    changed = printed(directory)
    assert changed != before
    (directory / "a.txt").chmod(0o755)
    assert printed(directory) != changed


def test_the_fingerprint_has_owners_when_they_are_copied(directory: Path) -> None:
    assert printed(directory) != printed(directory, owners=True)


def test_digests_are_kept_between_builds(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "RACY_NS", -1)
    digests = Digests(str(tmp_path / "cache" / "digests"))
    first = printed(directory, digests)
    digests.save()
    again = Digests(str(tmp_path / "cache" / "digests"))
    assert again.known == digests.used != {}
    monkeypatch.setattr(Tree, "open", lambda *_: pytest.fail("a file was read again"))
    assert printed(directory, again) == first


def test_a_digest_of_a_file_changed_just_now_is_not_kept(directory: Path, tmp_path: Path) -> None:
    (directory / "a.txt").write_text("new")
    digests = Digests(str(tmp_path / "digests"))
    tree = Tree(str(directory))
    digests.of(tree, tree.sources("a.txt")[0].entries[0])
    assert digests.used == {}
    tree.close()


names = st.sampled_from(["a", "b", "..", ".", "", "up", "abs", "src"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(names, min_size=1, max_size=8))
def test_no_path_resolves_to_outside(tmp_path: Path, parts: list[str]) -> None:
    inside = tmp_path / "context"
    if not inside.exists():
        (inside / "src" / "b").mkdir(parents=True)
        (inside / "a").symlink_to("../..")
        (inside / "src" / "up").symlink_to("../../src/b")
        (inside / "src" / "abs").symlink_to("/../../../etc")
    tree = Tree(str(inside))
    try:
        resolved = tree.resolve("/".join(parts))
        assert (inside / resolved).resolve().is_relative_to(inside.resolve())
    except FileNotFoundError:
        pass
    finally:
        tree.close()


def test_an_entry_is_a_value() -> None:
    assert Entry("a", "", stat.S_IFREG | 0o644, 0, 0, 1, 2, "s").link == ""
