"""Records: what every action needs: the call it is made in, and finding what a request names.

Stands on `store`; the modules of `api` and the controller use it. Everywhere a name, an id or a full ARN is accepted.
Ruled by the ECS API reference, "Actions": common parameters, errors and pagination.
"""

import base64
import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from miniecs.errors import (
    ClientException,
    ClusterNotFoundException,
    ConflictException,
    InvalidParameterException,
    ServiceNotFoundException,
)
from miniecs.model import Cluster, ContainerInstance, Failure, Json, Service, Tag, Task, TaskDefinition, key_of, last
from miniecs.store import (
    CLUSTERS,
    INSTANCES,
    SERVICES,
    STOPPED_TASKS,
    TASK_DEFINITIONS,
    TASKS,
    TOKENS,
    Token,
    Transaction,
)
from miniecs.wire import Shape

T = TypeVar("T")
V = TypeVar("V", bound=msgspec.Struct)

TOKEN_SECONDS = 24 * 3600


class Account(NamedTuple):
    """Where ARNs say that things are."""

    region: str = "us-east-1"
    id: str = "000000000000"

    def arn(self, resource: str, service: str = "ecs") -> str:
        return f"arn:aws:{service}:{self.region}:{self.id}:{resource}"


class Call(NamedTuple):
    """What an action is given besides its request: time and chance among it, so that it can be replayed."""

    transaction: Transaction
    now: float
    rng: random.Random
    account: Account
    endpoint: str = ""  # as the caller reached us
    caller: str = ""  # the access key id
    secret: str = ""  # and its secret, for what we sign in turn

    def arn(self, resource: str) -> str:
        return self.account.arn(resource)

    def new_id(self) -> str:
        """32 hexadecimal digits, as in the ARN of a task."""
        return f"{self.rng.getrandbits(128):032x}"

    def new_deployment_id(self) -> str:
        return f"ecs-svc/{self.rng.randrange(10**18, 10**19)}"


# --- finding ---------------------------------------------------------------------------------------------------------


def cluster(call: Call, name: str | None) -> Cluster:
    """Raises ClusterNotFoundException, also if it is INACTIVE. No name is `default`."""
    found = call.transaction.get(CLUSTERS, last(name or "default"))
    if found is None or found.status != "ACTIVE":
        raise ClusterNotFoundException()
    return found


def _key(in_cluster: Cluster, name: str) -> str:
    """The key of something of a cluster that a request calls by name, id, short or long ARN."""
    parts = name.split("/")
    if name.startswith("arn:") and len(parts) > 2 and parts[1] != in_cluster.cluster_name:
        return ""  # an ARN of another cluster
    return f"{in_cluster.cluster_name}/{parts[-1]}"


def failure(call: Call, kind: str, name: str, reason: str = "MISSING") -> Failure:
    """Of something that a request calls by `name`: by the ARN that it has, or would have. `kind` is as in an ARN."""
    return Failure(arn=name if name.startswith("arn:") else call.arn(f"{kind}/{last(name)}"), reason=reason)


def service(call: Call, in_cluster: Cluster, name: str) -> Service:
    found = call.transaction.get(SERVICES, _key(in_cluster, name))
    if found is None:
        raise ServiceNotFoundException()
    return found


def instance(call: Call, in_cluster: Cluster, name: str) -> ContainerInstance | None:
    return call.transaction.get(INSTANCES, _key(in_cluster, name))


def task(call: Call, in_cluster: Cluster, name: str) -> Task | None:
    key = _key(in_cluster, name)
    return call.transaction.get(TASKS, key) or call.transaction.get(STOPPED_TASKS, key)


def task_definition(call: Call, name: str, active: bool = False) -> TaskDefinition:
    """`FAMILY` (its newest ACTIVE revision), `FAMILY:REVISION` or an ARN.

    Raises:
        ClientException: there is none, or it is not ACTIVE though it must be.
    """
    family, colon, revision = last(name).partition(":")
    if colon and not revision.isdecimal():
        raise ClientException(f"Invalid revision number. Number: {revision}")
    if revision:
        found = call.transaction.get(TASK_DEFINITIONS, definition_key(family, int(revision)))
    else:
        revisions = call.transaction.list(TASK_DEFINITIONS, family)
        found = next((one for one in reversed(revisions) if one.status == "ACTIVE"), None)
    if found is None:
        raise ClientException("TaskDefinition not found." if active else "Unable to describe task definition.")
    if active and found.status != "ACTIVE":
        raise ClientException("TaskDefinition is inactive")
    return found


def definition_key(family: str, revision: int) -> str:
    return f"{family}/{revision:08}"


def definition_of(transaction: Transaction, arn: str) -> TaskDefinition | None:
    family, _, revision = last(arn).partition(":")
    return transaction.get(TASK_DEFINITIONS, definition_key(family, int(revision)))


def tasks_of(transaction: Transaction, of: Service) -> list[Task]:
    """The tasks of a service that are not STOPPED."""
    in_cluster = key_of(of.service_arn).partition("/")[0]
    group = f"service:{of.service_name}"
    return [one for one in transaction.list(TASKS, in_cluster) if one.group == group]


# --- values ----------------------------------------------------------------------------------------------------------


def json(shape: Any) -> Json:
    """A structure of a request as the JSON document that it came as."""
    document: Json = msgspec.to_builtins(shape)
    return document


def jsons(shapes: Iterable[Any] | None) -> tuple[Json, ...]:
    return tuple(json(shape) for shape in shapes or ())


def value(shape: Any, kind: type[V]) -> V:
    """A structure of a request as the value of ours with the same members; what is absent takes our default."""
    found = {name: getattr(shape, name, None) for name in kind.__struct_fields__}
    return msgspec.convert({name: member for name, member in found.items() if member is not None}, kind)


def values(shapes: Iterable[Any] | None, kind: type[V]) -> tuple[V, ...]:
    return tuple(value(shape, kind) for shape in shapes or ())


def tags(shapes: Iterable[Any] | None) -> tuple[Tag, ...]:
    """Raises InvalidParameterException for what AWS does not take as tags."""
    found = {shape.key: Tag(key=shape.key or "", value=shape.value or "") for shape in shapes or ()}
    if len(found) > 50:
        raise InvalidParameterException("Too many tags: at most 50 are allowed.")
    for tag in found.values():
        if not 1 <= len(tag.key) <= 128 or len(tag.value) > 256:
            raise InvalidParameterException(
                f"Tag '{tag.key[:128]}': a key has 1 to 128 characters, a value at most 256."
            )
        if tag.key.lower().startswith("aws:"):
            raise InvalidParameterException(f"Tag '{tag.key}': keys that begin with 'aws:' are reserved.")
    return tuple(found.values())


def merged_tags(*groups: Iterable[Tag]) -> tuple[Tag, ...]:
    """A later group's value wins."""
    return tuple({tag.key: tag for group in groups for tag in group}.values())


# --- common parameters -----------------------------------------------------------------------------------------------


def at_most(names: Sequence[str], limit: int, what: str) -> None:
    if not names:
        raise InvalidParameterException(f"{what} cannot be empty.")
    if len(names) > limit:
        raise InvalidParameterException(f"{what} cannot have more than {limit} elements.")


def page(
    request: Shape, items: Iterable[T], key: Callable[[T], str], default: int = 100, descending: bool = False
) -> tuple[list[T], str | None]:
    """One page of a list and the token of the next. A token is the key it ended with, so inserts do not disturb it."""
    limit = default if request.max_results is None else request.max_results
    if not 1 <= limit <= 100:
        raise InvalidParameterException("maxResults must be between 1 and 100.")
    found = sorted(items, key=key, reverse=descending)
    if request.next_token:
        after = _token_key(request.next_token)
        found = [item for item in found if (key(item) < after if descending else key(item) > after)]
    if len(found) <= limit:
        return found, None
    return found[:limit], base64.urlsafe_b64encode(f"1:{key(found[limit - 1])}".encode()).decode()


def _token_key(token: str) -> str:
    try:
        version, _, key = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
    except ValueError:
        version, key = "", ""
    if version != "1":
        raise InvalidParameterException("Invalid token.")
    return key


def digest(request: Any) -> str:
    """Of what a request asks for, to tell the same again from another."""
    return hashlib.sha256(msgspec.json.encode(request, order="sorted")).hexdigest()


def answered_before(call: Call, key: str, request: Any) -> tuple[str, ...] | None:
    """What a request with this client token was answered; None if there was none within a day.

    Raises:
        ConflictException: there was one, with other arguments.
    """
    token = call.transaction.get(TOKENS, key)
    if token is None or call.now - token.created_at > TOKEN_SECONDS:
        return None
    if token.digest != digest(request):
        raise ConflictException("The client token was used before with other arguments.", resourceIds=list(token.arns))
    return token.arns


def remember_answer(call: Call, key: str, request: Any, arns: Sequence[str]) -> None:
    call.transaction.put(TOKENS, key, Token(digest=digest(request), arns=tuple(arns), created_at=call.now))
