"""Fields: JSON to values and back, and the words by which a wrong one is refused."""

import pytest

from minicontainer.errors import Error
from minicontainer.oci import fields
from minicontainer.oci.fields import Unsupported, by_name, integer, list_of, parser, text, to_json
from minicontainer.values import NamedTuple


class Wheel(NamedTuple):
    size: int
    maker_name: str = ""


class Car(NamedTuple):
    container_id: int = 0
    wheels: tuple[Wheel, ...] = ()
    owners: dict[str, str] = {}
    fast: bool = False


wheel = parser(Wheel, maker_name=text)
car = parser(Car, wheels=list_of(wheel), owners=by_name(text))


def test_names_are_camel_case_and_some_are_odd() -> None:
    json = {"containerID": 3, "wheels": [{"size": 1, "makerName": "x"}], "owners": {"a.b": "c"}}
    value = car(json, "")
    assert value == Car(container_id=3, wheels=(Wheel(size=1, maker_name="x"),), owners={"a.b": "c"})
    assert to_json(value) == json | {"fast": False}


@pytest.mark.parametrize(
    ("json", "said"),
    [
        ([], "the document must be an object"),
        ({"wheels": {}}, "wheels must be a list"),
        ({"wheels": [{"size": 1}, {"size": "big"}]}, r"wheels\[1\].size is 'big'"),
        ({"wheels": [{}]}, r"wheels\[0\] lacks size"),
        ({"wheels": [{"size": 1, "makerName": "a\0b"}]}, r"wheels\[0\].makerName must be a string without NUL"),
        ({"owners": {"a": 1}}, "owners.a must be a string"),
        ({"fast": 1}, "fast is 1, which is not of the type bool"),
        ({"containerID": True}, "containerID is True, which is not of the type int"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(json: object, said: str) -> None:
    with pytest.raises(Error, match=f"config.json: {said}"):
        car(json, "")


def test_an_unknown_field_is_refused_unless_it_asks_for_nothing() -> None:
    assert car({"roof": None, "doors": [], "trunk": {"size": 0}}, "") == Car()
    with pytest.raises(Unsupported, match=r"there\.roof is not supported"):
        car({"roof": "open"}, "there")


def test_a_number_is_a_number() -> None:
    assert integer(7, "x") == 7
    with pytest.raises(Error, match="x is '7'"):
        integer("7", "x")


def test_every_odd_name_is_odd_both_ways() -> None:
    for field, name in fields._ODD_NAMES.items():
        assert fields._camel(field) == name
        assert fields._snake(name) == field
