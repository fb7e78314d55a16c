"""Wire: botocore's service models compiled into typed values, and the JSON 1.1 protocol on them.

Stands on `errors`; `server` decodes requests and encodes answers with it. A shape becomes a msgspec class the first
time an operation needs it, so what reaches an action is right by construction: types, required members, enums, lengths.
Query/XML and REST-JSON differ in `decode` and `encode` only; the classes serve them too.
Ruled by the service models that AWS publishes (botocore/data) and the AWS JSON 1.1 protocol of smithy.io.
"""

import re
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import msgspec
from botocore import xform_name
from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, StringShape, StructureShape
from botocore.model import Shape as ModelShape

from miniecs import errors

SERVICES = ("ecs", "ecr")  # botocore's names
# What the ECS agent sends beyond the published model: it is in the agent's own copy of the model.
PRIVATE_MEMBERS = {"RegisterContainerInstanceRequest": {"clientToken": str}}
VALIDATION_ERRORS: dict[str, type[errors.AwsError]] = {
    "ecs": errors.InvalidParameterException,
    "ecr": errors.InvalidParameterException,
}
SCALARS: dict[str, Any] = {
    "string": str,
    "integer": Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)],
    "long": Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    "boolean": bool,
    "float": float,
    "double": float,
    "timestamp": float,  # epoch seconds with fraction
    "blob": bytes,  # base64 in JSON
}


class Shape(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A structure of a service model; a member that is absent is None."""

    if TYPE_CHECKING:  # the members come from the model

        def __getattr__(self, name: str) -> Any: ...


class Answer:
    """What an action answers: the members of its output, by their names in snake_case."""

    def __init__(self, **members: object) -> None:
        self.__dict__.update(members)


class Operation(msgspec.Struct, frozen=True):
    """One operation of a service, and the classes of its two shapes."""

    service: str
    name: str
    input: type[Shape]
    output: type[Shape]

    @property
    def action(self) -> str:
        """The function that does it: `CreateCluster` is `create_cluster`."""
        return str(xform_name(self.name))

    def decode(self, body: bytes) -> Shape:
        """A request in JSON 1.1 as a value.

        Raises:
            errors.SerializationException: no JSON, or a member of another type.
            errors.InvalidParameterException: a member is missing, no word of its enum, or out of range.
        """
        try:
            return msgspec.json.decode(body or b"{}", type=self.input)
        except msgspec.ValidationError as error:
            raise _refusal(self, str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise errors.SerializationException(f"the request body is no JSON: {error}") from None

    def encode(self, answer: object) -> bytes:
        """An answer in JSON 1.1: members of the model only, and absent rather than null."""
        return msgspec.json.encode(msgspec.convert(answer, self.output, from_attributes=True))


def operation(target: str) -> Operation:
    """The operation of an `X-Amz-Target`: `PREFIX.NAME`.

    Raises:
        errors.UnknownOperationException: no service of ours has it.
    """
    prefix, _, name = target.partition(".")
    service = _prefixes().get(prefix)
    if service is None or name not in service_model(service).operation_names:
        raise errors.UnknownOperationException(f"unknown operation {target or '(no X-Amz-Target)'}")
    return _operation(service, name)


@cache
def service_model(service: str) -> ServiceModel:
    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


@cache
def _prefixes() -> dict[str, str]:
    return {service_model(service).metadata["targetPrefix"]: service for service in SERVICES}


@cache
def _operation(service: str, name: str) -> Operation:
    model: OperationModel = service_model(service).operation_model(name)
    return Operation(
        service, name, *(_structure_of(service, shape) for shape in (model.input_shape, model.output_shape))
    )


# --- shapes to classes -----------------------------------------------------------------------------------------------


def _structure_of(service: str, shape: StructureShape | None) -> type[Shape]:
    return _structure(service, shape.name) if shape else Shape


@cache
def _structure(service: str, name: str) -> type[Shape]:
    shape = service_model(service).shape_for(name)
    fields: list[tuple[str, Any, Any] | tuple[str, Any]] = []
    names = {}
    for member, target in shape.members.items():
        field = xform_name(member)
        names[field] = member
        kind = _kind(service, target)
        fields.append((field, kind) if member in shape.required_members else (field, kind | None, None))
    for member, kind in PRIVATE_MEMBERS.get(name, {}).items():
        names[xform_name(member)] = member
        fields.append((xform_name(member), kind | None, None))
    made = msgspec.defstruct(name, fields, bases=(Shape,), rename=names, kw_only=True, omit_defaults=True)
    return cast(type[Shape], made)


def _kind(service: str, shape: ModelShape) -> Any:
    """The type of a member: nested structures are classes of their own."""
    if isinstance(shape, StructureShape):
        return _structure(service, shape.name)
    if isinstance(shape, ListShape):
        return list[_kind(service, shape.member)]  # type: ignore[misc]  # a type made at run time
    if isinstance(shape, MapShape):
        return dict[str, _kind(service, shape.value)]  # type: ignore[misc]  # a type made at run time
    if isinstance(shape, StringShape) and shape.enum:
        return Literal[tuple(shape.enum)]
    kind = SCALARS[shape.type_name]
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if kind is str and (low or high):
        return Annotated[str, msgspec.Meta(min_length=low, max_length=high)]
    if shape.type_name in ("integer", "long") and (low is not None or high is not None):
        return Annotated[int, msgspec.Meta(ge=low, le=high)]
    return kind


# --- refusals --------------------------------------------------------------------------------------------------------


def _refusal(operation: Operation, said: str) -> errors.AwsError:
    """The AWS error for what msgspec says about a request; the text names the member."""
    invalid = VALIDATION_ERRORS.get(operation.service, errors.ValidationException)
    what, _, path = said.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", what):
        return invalid(f"{'.'.join(filter(None, (path, missing[1])))} can not be missing or null.")
    if what.endswith("got `null`"):
        return invalid(f"{path} can not be missing or null.")
    if what.startswith("Invalid enum value"):
        words = _enum_at(operation, path)
        return invalid(f"{_spaced(path)} should be one of [{','.join(words)}]")
    if re.match(r"Expected `(int|str)` (<|>|of length)", what):
        return invalid(f"{path} is out of range: {what[0].lower()}{what[1:].replace('`', '')}")
    return errors.SerializationException(f"{path or 'the request'}: {what[0].lower()}{what[1:].replace('`', '')}")


def _enum_at(operation: Operation, path: str) -> list[str]:
    shape: Any = service_model(operation.service).operation_model(operation.name).input_shape
    for part in re.findall(r"\w+|\[[^]]*\]", path):
        shape = (
            shape.members[part]
            if isinstance(shape, StructureShape)
            else (shape.member if isinstance(shape, ListShape) else shape.value)
        )
    return list(shape.enum)


def _spaced(path: str) -> str:
    """`launchType` as ECS says it in a text: `launch type`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", path).lower()
