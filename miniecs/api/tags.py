"""Tags: on all that can have them. Ruled by API_TagResource and its kin."""

from typing import Any

from msgspec.structs import replace

from miniecs import errors, records
from miniecs.model import Tag, key_of, last
from miniecs.records import Call
from miniecs.store import CLUSTERS, INSTANCES, SERVICES, STOPPED_TASKS, TASK_DEFINITIONS, TASKS, Kind
from miniecs.wire import Answer, Shape

KINDS: dict[str, tuple[Kind[Any], ...]] = {
    "cluster": (CLUSTERS,),
    "service": (SERVICES,),
    "task": (TASKS, STOPPED_TASKS),
    "container-instance": (INSTANCES,),
    "task-definition": (TASK_DEFINITIONS,),
}


def tag_resource(call: Call, request: Shape) -> Answer:
    kind, key, resource = _find(call, request.resource_arn)
    given = records.tags(request.tags)
    merged = records.merged_tags(resource.tags, given)
    if len(merged) > 50:
        raise errors.InvalidParameterException("Too many tags: at most 50 are allowed.")
    call.transaction.put(kind, key, replace(resource, tags=merged))
    return Answer()


def untag_resource(call: Call, request: Shape) -> Answer:
    kind, key, resource = _find(call, request.resource_arn)
    left: tuple[Tag, ...] = tuple(tag for tag in resource.tags if tag.key not in request.tag_keys)
    call.transaction.put(kind, key, replace(resource, tags=left))
    return Answer()


def list_tags_for_resource(call: Call, request: Shape) -> Answer:
    return Answer(tags=_find(call, request.resource_arn)[2].tags)


def _find(call: Call, arn: str) -> tuple[Kind[Any], str, Any]:
    parts = arn.split(":", 5)
    word = parts[5].partition("/")[0] if len(parts) == 6 else ""
    if parts[0] != "arn" or word not in KINDS:
        raise errors.InvalidParameterException(f"Invalid ARN: {arn}")
    for kind in KINDS[word]:
        key = _key(word, arn)
        resource = call.transaction.get(kind, key)
        if resource is not None:
            return kind, key, resource
    raise errors.InvalidParameterException(f"The specified {word} was not found.")


def _key(word: str, arn: str) -> str:
    if word == "cluster":
        return last(arn)
    if word == "task-definition":
        family, _, revision = last(arn).partition(":")
        return records.definition_key(family, int(revision) if revision.isdecimal() else 0)
    return key_of(arn)
