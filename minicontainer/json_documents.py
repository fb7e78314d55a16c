"""JSON documents: text to values and back, without loading `json`.

The ground of everything. Ruled by RFC 8259. `json` and the regular expressions behind it take a tenth of a container's
start to load (docs/performance.md); what does the work in it is a module in C, which is asked directly here.
"""

from _json import encode_basestring_ascii, make_encoder, make_scanner

from minicontainer.values import Any

_BLANK = " \t\n\r"


class _Rules:
    """What the scanner asks: json.JSONDecoder."""

    strict = True
    object_hook = object_pairs_hook = parse_constant = None
    parse_float = float
    parse_int = int


def loads(text: bytes) -> Any:
    """The value of a document.

    Raises:
        ValueError: it is not JSON; the text says where.
    """
    try:
        decoded = text.decode()
        scan: Any = make_scanner(_Rules)  # type: ignore[arg-type]  # typeshed names json.JSONDecoder; any object will do
        value, end = scan(decoded, len(decoded) - len(decoded.lstrip(_BLANK)))
        if not decoded[end:].strip(_BLANK):
            return value
    except (StopIteration, SystemError, TypeError, UnicodeDecodeError):
        end = 0  # not JSON (the C module cannot say so without the library), NaN, or not UTF-8: it says what is wrong
    import json  # why here: not needed when all is well

    return json.loads(text)


def dumps(value: dict[str, Any] | list[Any]) -> bytes:
    """The document of a value, on one line."""
    encode = make_encoder({}, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, False)
    return "".join(encode(value, 0)).encode()


def _refuse(value: object) -> Any:
    raise TypeError(f"{value!r} has no place in JSON")
