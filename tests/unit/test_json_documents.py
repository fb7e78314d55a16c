"""Our door to JSON says what the library says."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from minicontainer import json_documents

SCALARS = (
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False, allow_infinity=False) | some.text()
)
VALUES = some.recursive(SCALARS, lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner), max_leaves=20)


@given(VALUES)
def test_a_value_is_read_as_the_library_reads_it(value: Any) -> None:
    text = json.dumps(value).encode()
    assert json_documents.loads(text) == json.loads(text)
    assert json_documents.loads(b" \n" + text + b"\t\r\n") == value


@given(some.dictionaries(some.text(), VALUES) | some.lists(VALUES))
def test_a_document_is_written_as_the_library_writes_it(value: Any) -> None:
    assert json_documents.dumps(value) == json.dumps(value).encode()


@given(some.binary(max_size=30))
def test_what_is_not_json_is_refused_with_the_librarys_words(text: bytes) -> None:
    def outcome(loads: Any) -> str:
        try:
            return repr(loads(text))
        except ValueError as error:
            return str(error)

    assert outcome(json_documents.loads) == outcome(json.loads)


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": 1} x', b"[1,]", b"'a'", b"\xff", b'{"a" 1}', b'"a\nb"'])
def test_a_broken_document_says_where(text: bytes) -> None:
    with pytest.raises(ValueError) as ours:
        json_documents.loads(text)
    with pytest.raises(ValueError) as theirs:
        json.loads(text)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("text", ["{", '{"a": 1,', "[1", '"a'])
def test_a_broken_document_says_where_also_while_the_library_is_not_loaded(text: str) -> None:
    script = "import sys\nfrom minicontainer import json_documents\njson_documents.loads(sys.argv[1].encode())"
    done = subprocess.run([sys.executable, "-c", script, text], capture_output=True, text=True, check=False)
    assert "JSONDecodeError" in done.stderr.splitlines()[-1], done.stderr


def test_what_has_no_place_in_json_is_refused() -> None:
    with pytest.raises(TypeError, match="no place in JSON"):
        json_documents.dumps({"a": object()})
    with pytest.raises(ValueError, match="Out of range"):
        json_documents.dumps([float("nan")])
