"""Fields: JSON documents to values and back, each field checked, and refused by its name if it is not known.

Stands between `json_documents` and the specification's values; does no I/O. Ruled by RFC 8259. A field that is not
honoured is refused by its name, unless it is empty and so asks for nothing.
"""

from collections.abc import Callable, Mapping

from minicontainer.errors import Error
from minicontainer.values import Any, TypeVar

# Names that are not camelCase by the rule: field, JSON
_ODD_NAMES = {
    "container_id": "containerID",
    "host_id": "hostID",
    "disable_oom_killer": "disableOOMKiller",
    "argument": "index",
    "io_class": "class",
    "class_id": "classID",
    "block_io": "blockIO",
    "throttle_read_iops_device": "throttleReadIOPSDevice",
    "throttle_write_iops_device": "throttleWriteIOPSDevice",
    "exec_cpu_affinity": "execCPUAffinity",
}
_ODD_FIELDS = {name: field for field, name in _ODD_NAMES.items()}
# Accepted and without effect, as with the other runtimes: the kernel no longer has what they set.
_WITHOUT_EFFECT = {
    f"{where}.memory.{name}" for where in ("linux.resources", "resources") for name in ("kernel", "kernelTCP")
} | {"linux.resources.memory.useHierarchy", "resources.memory.useHierarchy"}


class Unsupported(Error):
    """config.json asks for something that this runtime does not do."""


Value = TypeVar("Value", bound=tuple[Any, ...])
Parser = Callable[[Any, str], Any]


def to_json(value: Any) -> Any:
    """The JSON of any of these values; what is empty is left out, since it asks for nothing."""
    if isinstance(value, tuple):
        if hasattr(value, "_fields"):
            named = {_camel(name): getattr(value, name) for name in value._fields}
            return {name: to_json(item) for name, item in named.items() if item not in (None, (), "", {})}
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {name: to_json(item) for name, item in value.items()}
    return value


def _camel(field: str) -> str:
    if field in _ODD_NAMES:
        return _ODD_NAMES[field]
    first, *others = field.split("_")
    return first + "".join(map(str.capitalize, others))


def _snake(name: str) -> str:
    if name in _ODD_FIELDS:
        return _ODD_FIELDS[name]
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def parser(kind: type[Value], **parsers: Parser) -> Callable[[Any, str], Value]:
    """A parser of a JSON object into `kind`: a field has a parser of its own or the plain type it is annotated with."""

    def parse(json: Any, where: str) -> Value:
        if not isinstance(json, dict):
            raise Error(f"config.json: {where or 'the document'} must be an object, and is {json!r}")
        fields = {}
        for name, value in json.items():
            field, place = _snake(name), f"{where}.{name}" if where else name
            if value is None:
                continue
            if field in parsers:
                fields[field] = parsers[field](value, place)
            elif field in kind.__annotations__:
                fields[field] = _plain(value, kind.__annotations__[field], place)
            elif not _is_empty(value) and place not in _WITHOUT_EFFECT:
                raise Unsupported(f"config.json: {place} is not supported by this runtime; try: remove it")
        try:
            return kind(**fields)
        except TypeError:
            missing = [_camel(name) for name in kind._fields if name not in fields and name not in kind._field_defaults]  # type: ignore[attr-defined]  # a bound of tuple hides NamedTuple's attributes
            raise Error(f"config.json: {where or 'the document'} lacks {', '.join(missing)}") from None

    return parse


def _plain(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Error(f"config.json: {where} is {value!r}, which is not of the type {getattr(kind, '__name__', kind)}")
    return value


def _is_empty(value: Any) -> bool:
    """An object or list of nothing but empty values asks for nothing."""
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    if isinstance(value, list):
        return all(map(_is_empty, value))
    return value in (None, "", 0, False)


def list_of(parse: Parser) -> Parser:
    def parse_list(json: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(json, list):
            raise Error(f"config.json: {where} must be a list, and is {json!r}")
        return tuple(parse(value, f"{where}[{place}]") for place, value in enumerate(json))

    return parse_list


def text(value: Any, where: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Error(f"config.json: {where} must be a string without NUL, and is {value!r}")
    return value


def integer(value: Any, where: str) -> int:
    return int(_plain(value, int, where))


def unsigned(bits: int, less: int = 0) -> Parser:
    """A parser of a number of so many bits without a sign; so many of the highest numbers as `less` mean nothing."""
    highest = (1 << bits) - 1 - less

    def parse_unsigned(value: Any, where: str) -> int:
        number = integer(value, where)
        if not 0 <= number <= highest:
            raise Error(f"config.json: {where} is {number}, which is not between 0 and {highest}")
        return number

    return parse_unsigned


def by_name(parse: Parser) -> Parser:
    """A parser of an object whose names are data."""

    def parse_by_name(value: Any, where: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise Error(f"config.json: {where} must be an object, and is {value!r}")
        return {text(name, where): parse(item, f"{where}.{name}") for name, item in value.items()}

    return parse_by_name
