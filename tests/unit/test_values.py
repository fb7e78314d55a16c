"""Our NamedTuple does what typing's does, as far as it is used."""

import pickle
import typing

import pytest

from minicontainer import values


class Point(values.NamedTuple):
    """A class with methods, a default and a factory."""

    x: int
    y: int = 2
    name: str = ""

    @property
    def sum(self) -> int:
        return self.x + self.y

    @classmethod
    def origin(cls) -> "Point":
        return cls(x=0, y=0)


class Typed(typing.NamedTuple):
    x: int
    y: int = 2
    name: str = ""


@pytest.mark.parametrize("arguments, named", [((1,), {}), ((1, 3, "n"), {}), ((), {"x": 1}), ((1,), {"name": "n"})])
def test_it_is_made_as_typings_is(arguments: tuple[typing.Any, ...], named: dict[str, typing.Any]) -> None:
    ours, theirs = Point(*arguments, **named), Typed(*arguments, **named)
    assert ours == theirs == tuple(ours)
    assert (ours.x, ours.y, ours.name) == (theirs.x, theirs.y, theirs.name)
    assert hash(ours) == hash(theirs)


@pytest.mark.parametrize(
    "arguments, named", [((), {}), ((1, 2, "", 4), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((), {"y": 1})]
)
def test_it_refuses_what_typings_refuses(arguments: tuple[typing.Any, ...], named: dict[str, typing.Any]) -> None:
    for kind in (Point, Typed):
        with pytest.raises(TypeError):
            kind(*arguments, **named)


def test_it_tells_its_fields_as_typings_does() -> None:
    assert Point._fields == Typed._fields
    assert Point._field_defaults == Typed._field_defaults
    assert Point(1)._asdict() == Typed(1)._asdict()
    assert repr(Point(1)) == repr(Typed(1)).replace("Typed", "Point")
    assert Point.__doc__ == "A class with methods, a default and a factory."
    assert Point.__annotations__ == {"x": int, "y": int, "name": str}


def test_change_is_a_new_value() -> None:
    one = Point(1)
    assert one._replace(y=5) == (1, 5, "")
    assert one == (1, 2, "")
    assert type(one._replace()) is Point
    with pytest.raises(TypeError):
        one._replace(z=1)
    with pytest.raises(AttributeError):
        one.x = 2  # type: ignore[misc]  # the point of the test


def test_methods_and_factories_stay() -> None:
    assert Point(1).sum == 3
    assert Point.origin() == (0, 0, "")
    assert Point._make([1, 2, "n"]).name == "n"


def test_it_is_matched_by_place_and_pickled() -> None:
    match Point(1, name="n"):
        case Point(x, 2, name=name):
            assert (x, name) == (1, "n")
        case _:
            pytest.fail("no match")
    assert pickle.loads(pickle.dumps(Point(7))) == Point(7)
    assert type(pickle.loads(pickle.dumps(Point(7)))) is Point


def test_an_alias_takes_its_parameter() -> None:
    parameter = values.TypeVar("parameter")
    assert list[parameter][int] == list[int]  # type: ignore[valid-type]  # at run time it is one
