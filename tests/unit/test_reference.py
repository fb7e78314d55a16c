"""References: docker's short forms, what is refused, and that reading and spelling are inverse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer.oci.reference import InvalidReference, Reference, is_digest, is_repository, is_tag

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", ("docker.io", "library/web", "latest", "")),
        ("web:1", ("docker.io", "library/web", "1", "")),
        ("me/web", ("docker.io", "me/web", "latest", "")),
        ("docker.io/web", ("docker.io", "library/web", "latest", "")),
        ("index.docker.io/library/web", ("docker.io", "library/web", "latest", "")),
        ("localhost/web", ("localhost", "web", "latest", "")),
        ("localhost:5000/web:v1.2-3_4", ("localhost:5000", "web", "v1.2-3_4", "")),
        ("127.0.0.1:5000/web:1", ("127.0.0.1:5000", "web", "1", "")),
        ("[::1]:5000/a/b", ("[::1]:5000", "a/b", "latest", "")),
        ("quay.example/a/b/c__d.e-f", ("quay.example", "a/b/c__d.e-f", "latest", "")),
        ("Host/web", ("Host", "web", "latest", "")),
        (f"web@{DIGEST}", ("docker.io", "library/web", "", DIGEST)),
        (f"web:1@{DIGEST}", ("docker.io", "library/web", "1", DIGEST)),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(text: str, expected: tuple[str, str, str, str]) -> None:
    assert tuple(Reference.parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("docker.io/library/web:latest", "web:latest"),
        ("docker.io/me/web:1", "me/web:1"),
        ("example.org/web:1", "example.org/web:1"),
        (f"docker.io/library/web@{DIGEST}", f"web@{DIGEST}"),
        ("docker.io/library/localhost/x:1", "library/localhost/x:1"),
    ],
)
def test_the_familiar_form_leaves_out_what_is_understood(text: str, familiar: str) -> None:
    assert Reference.parse(text).familiar() == familiar


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "repository"),
        ("Web", "lower-case"),
        ("we b", "lower-case"),
        ("web:", "tag"),
        ("web:-1", "tag"),
        ("web:" + "a" * 129, "tag"),
        ("web@sha256:abc", "digest"),
        ("web@", "digest"),
        ("web@md5:" + "a" * 32, "digest"),
        ("web@sha256:" + "A" * 64, "digest"),
        ("/web", "lower-case"),
        ("a//b", "lower-case"),
        ("a/../b", "lower-case"),
        ("-x.org/web", "registry"),
        ("x.org:port/web", "registry"),
        ("x..org/web", "registry"),
        ("a" * 64, "image id"),
        ("x.org/" + "a" * 255, "longer"),
        ("a" * 10_000, "too long"),
        ("web\n", "lower-case"),
        ("web:1\n", "tag"),
    ],
)
def test_what_is_no_reference_is_refused_by_the_part_that_is_wrong(text: str, says: str) -> None:
    with pytest.raises(InvalidReference, match=says) as raised:
        Reference.parse(text)
    assert "\n" not in str(raised.value)


_component = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,2})[a-z0-9]{1,4}){0,2}", fullmatch=True)
_repository = st.lists(_component, min_size=2, max_size=4).map("/".join)
_registry = st.sampled_from(["docker.io", "localhost", "localhost:1", "a.example:5000", "[::1]:2", "127.0.0.1:80"])
_tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(_registry, _repository, _tag, st.sampled_from(["", DIGEST]))
def test_spelling_and_reading_are_inverse(registry: str, repository: str, tag: str, digest: str) -> None:
    reference = Reference(registry=registry, repository=repository, tag=tag, digest=digest)
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar()) == reference


@given(st.text(alphabet=st.sampled_from("abz09.:/@-_ALs%\n[]é"), max_size=40))
def test_whatever_is_read_is_safe_and_can_be_read_again(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(reference)) == reference
    assert is_repository(reference.repository)
    assert reference.tag or reference.digest
    assert ".." not in reference.repository.split("/")


@given(st.text(max_size=80))
def test_what_is_a_digest_or_a_tag_can_be_a_file_name(text: str) -> None:
    if is_digest(text) or is_tag(text):
        assert "/" not in text
        assert text not in (".", "..")
        assert text.isascii()


@pytest.mark.parametrize(("algorithm", "digits"), [("sha256", 64), ("sha384", 96), ("sha512", 128)])
def test_a_digest_has_the_length_of_its_algorithm(algorithm: str, digits: int) -> None:
    assert is_digest(f"{algorithm}:{'a' * digits}")
    assert not is_digest(f"{algorithm}:{'a' * (digits - 1)}")
    assert not is_digest(f"{algorithm}:{'g' * digits}")
    assert not is_digest(f"{algorithm}:../{'a' * (digits - 3)}")
