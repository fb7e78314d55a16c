"""Instance keys: what the credentials that an agent got for a join token may do: an agent's calls, for one instance.

Stands on `records`; `server` asks before an action and before a session, in the action's own transaction. A key is
bound to the container instance that is registered with it first, and to another one only when that is INACTIVE. In
Amazon ECS the signed identity document of the machine says whose registration it is, and the IAM role of its agents may
be held to one cluster. Ruled by docs/reference/miniecs.md, "Join tokens".
"""

from typing import Any

from msgspec.structs import replace

from miniecs import errors, records
from miniecs.model import ContainerInstance, InstanceStatus, key_of
from miniecs.records import Call
from miniecs.store import INSTANCE_KEYS, INSTANCES, InstanceKey, Transaction
from miniecs.wire import Shape

# An agent's calls.
ACTIONS = frozenset({
    "CreateCluster", "RegisterContainerInstance", "DeregisterContainerInstance", "DiscoverPollEndpoint",
    "SubmitTaskStateChange", "SubmitContainerStateChange", "GetAuthorizationToken",
})  # fmt: skip


def may(action: str, instance_name: str) -> None:
    """Raises AccessDeniedException if credentials got for a token are not for this action."""
    if action not in ACTIONS:
        raise errors.AccessDeniedException(
            f"the agent of {instance_name or 'an instance'} is not authorized to perform {action}"
        )


def check(call: Call, action: str, request: Shape) -> None:
    """Before an action. Who has no instance key may name any instance.

    Raises:
        AccessDeniedException: it is about a container instance, or a task on one, that is not the caller's.
    """
    key = call.transaction.get(INSTANCE_KEYS, call.caller)
    arn = _concerned(call, action, request)
    if key and arn and not _is_of(call.transaction, key, arn):
        raise _not_its_own(key, action, arn)


def bind(call: Call, action: str, answer: Any) -> None:
    """After an action: a container instance that was registered is its key's from now on.

    Raises:
        AccessDeniedException: it is another key's.
        InvalidParameterException: the key has one already.
    """
    key = call.transaction.get(INSTANCE_KEYS, call.caller)
    if key is None or action != "RegisterContainerInstance":
        return
    arn, before = answer.container_instance.container_instance_arn, key.container_instance_arn
    if arn == before:
        return
    if _owner(call.transaction, arn):
        raise _not_its_own(key, action, arn)
    if _is_there(call.transaction, before):
        raise errors.InvalidParameterException(
            f"these credentials are those of container instance {before}; try: aws ecs deregister-container-instance "
            f"--container-instance {before} --force, or another --data for another instance"
        )
    call.transaction.put(INSTANCE_KEYS, call.caller, replace(key, container_instance_arn=arn))


def check_session(transaction: Transaction, caller: str, arn: str) -> None:
    """Raises AccessDeniedException if a session is asked for an instance that is not the caller's."""
    key = transaction.get(INSTANCE_KEYS, caller)
    if key and arn and not _is_of(transaction, key, arn):
        raise _not_its_own(key, "Poll", arn)


def _not_its_own(key: InstanceKey, action: str, arn: str) -> errors.AccessDeniedException:
    return errors.AccessDeniedException(
        f"the agent of {key.instance_name or 'an instance'} is not authorized to perform {action} for {arn}: its "
        f"credentials are those of {key.container_instance_arn or 'no container instance yet'}"
    )


def _is_of(transaction: Transaction, key: InstanceKey, arn: str) -> bool:
    """A key from before keys were bound takes the instance of its name, if no other key has that."""
    if key.container_instance_arn:
        return arn == key.container_instance_arn
    instance = _instance(transaction, arn)
    return instance is not None and instance.ec2_instance_id == key.instance_name and not _owner(transaction, arn)


def _owner(transaction: Transaction, arn: str) -> str:
    """The id of the key that a container instance is bound to."""
    return next((name for name, key in transaction.items(INSTANCE_KEYS) if key.container_instance_arn == arn), "")


def _is_there(transaction: Transaction, arn: str) -> bool:
    instance = _instance(transaction, arn)
    return instance is not None and instance.status != InstanceStatus.INACTIVE


def _instance(transaction: Transaction, arn: str) -> ContainerInstance | None:
    return transaction.get(INSTANCES, key_of(arn)) if arn.startswith("arn:") else None


def _concerned(call: Call, action: str, request: Shape) -> str:
    """The container instance that a request is about; nothing if that is for the action to refuse."""
    match action:
        case "RegisterContainerInstance":
            return request.container_instance_arn or ""
        case "DeregisterContainerInstance" | "DiscoverPollEndpoint":
            name = request.container_instance
            instance = records.instance(call, records.cluster(call, request.cluster), name) if name else None
            return instance.container_instance_arn if instance else ""
        case "SubmitTaskStateChange" | "SubmitContainerStateChange":
            task = records.task(call, records.cluster(call, request.cluster), request.task or "")
            return task.container_instance_arn if task else ""
    return ""
