"""Values: NamedTuple and the few words of `typing` that the runtime's start needs, without loading `typing`.

The ground of everything. To a type checker these are `typing`'s own. At run time they are stand-ins that do the same
for what is used here: `typing` and 40 of its NamedTuples take a tenth of a container's start (docs/performance.md).
"""

import sys
from collections.abc import Iterable
from operator import itemgetter

TYPE_CHECKING = False

if TYPE_CHECKING or sys.version_info >= (3, 14):  # 3.14 keeps annotations in another way, and has a quicker typing
    from typing import Any as Any
    from typing import NamedTuple as NamedTuple
    from typing import NoReturn as NoReturn
    from typing import TypeVar as TypeVar
else:
    Any = NoReturn = object

    class TypeVar:
        """A parameter of an alias, as in `Plan[None]`."""

        def __init__(self, name: str, **_: object) -> None:
            self.__name__ = name

        def __typing_subst__(self, argument: object) -> object:
            return argument

    class _Fields(type):
        """Makes of a class with annotations a tuple with names."""

        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, object]) -> type:
            if not bases:
                return type.__new__(cls, name, bases, body)
            fields = tuple(body.get("__annotations__", ()))
            body["_field_defaults"] = {field: body[field] for field in fields if field in body}
            body |= {field: property(itemgetter(place)) for place, field in enumerate(fields)}
            body |= {"_fields": fields, "__match_args__": fields, "__slots__": ()}
            return type.__new__(type, name, (_Named,), body)

    class NamedTuple(metaclass=_Fields):
        """typing.NamedTuple"""

    class _Named(tuple):
        __slots__ = ()

        def __new__(cls, *given: object, **named: object) -> "_Named":
            if named or len(given) != len(cls._fields):
                given = cls._complete(given, named)
            return tuple.__new__(cls, given)

        @classmethod
        def _complete(cls, given: tuple[object, ...], named: dict[str, object]) -> tuple[object, ...]:
            rest = cls._fields[len(given) :]
            values = cls._field_defaults | named
            missing = [field for field in rest if field not in values]
            unknown = [field for field in named if field not in rest]
            if missing or unknown or len(given) > len(cls._fields):
                raise TypeError(f"{cls.__name__}: missing {missing}, unknown or given twice {unknown}, given {given}")
            return (*given, *(values[field] for field in rest))

        @classmethod
        def _make(cls, values: Iterable[object]) -> "_Named":
            return cls(*values)

        def _replace(self, **changed: object) -> "_Named":
            return type(self)(**self._asdict() | changed)

        def _asdict(self) -> dict[str, object]:
            return dict(zip(self._fields, self, strict=True))

        def __getnewargs__(self) -> tuple[object, ...]:
            return tuple(self)

        def __repr__(self) -> str:
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"
