"""Addresses: where the ports of a container instance's tasks are reached. An address is one machine.

Stands on the store; `api/container_instances` asks when an instance registers, `server` when its session begins. Amazon
ECS has this from EC2, where no two machines have one address. Ruled by docs/reference/miniecs.md, "Join tokens".
"""

import ipaddress
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from miniecs import errors
from miniecs.model import Attribute, ContainerInstance, InstanceStatus, key_of
from miniecs.store import INSTANCES, Transaction

ADDRESS = "miniecs.advertise-address"  # the attribute


def claim(
    transaction: Transaction, attributes: Iterable[Attribute], endpoint: str, arn: str
) -> Iterator[ContainerInstance]:
    """The silent instances with the address that an instance is to register with: the caller knows if one is itself.

    Raises:
        InvalidParameterException: nobody else could reach this one, or an instance that is connected has the address.
    """
    address = _address(attributes)
    if not address or _is_local(address, endpoint):
        return
    for other in _others(transaction, address, arn):
        if other.agent_connected:
            raise _is_taken(other, address)
        yield other


def check(transaction: Transaction, arn: str) -> None:
    """When an instance comes back to hold a session: its address may have gone to another one meanwhile.

    Raises:
        InvalidParameterException: an instance that is connected has it.
    """
    mine = transaction.get(INSTANCES, key_of(arn)) if arn.startswith("arn:") else None
    address = _address(mine.attributes) if mine else ""
    if not address or ipaddress.ip_address(address).is_loopback:
        return
    for other in _others(transaction, address, arn):
        if other.agent_connected:
            raise _is_taken(other, address)


def _others(transaction: Transaction, address: str, arn: str) -> list[ContainerInstance]:
    return [
        other
        for other in transaction.list(INSTANCES)
        if other.container_instance_arn != arn
        and other.status != InstanceStatus.INACTIVE
        and _address(other.attributes) == address
    ]


def _is_taken(other: ContainerInstance, address: str) -> errors.InvalidParameterException:
    return errors.InvalidParameterException(
        f"{other.ec2_instance_id or other.container_instance_arn} is connected and has the address {address}; "
        "try: miniecs agent --advertise-address, one of its own for each machine"
    )


def _address(attributes: Iterable[Attribute]) -> str:
    return next((one.value or "" for one in attributes if one.name == ADDRESS), "")


def _is_local(address: str, endpoint: str) -> bool:
    """Whether it is of the control plane's own machine, which is the agent's too then.

    Raises:
        InvalidParameterException: it is no address, or one that only the agent's machine can reach.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise errors.InvalidParameterException(f"the advertised address {address!r} is no IP address.") from None
    host = urlsplit(endpoint).hostname or ""
    local = host == "localhost" or host.startswith("127.")
    if parsed.is_unspecified or (parsed.is_loopback and not local):
        raise errors.InvalidParameterException(
            f"no other machine reaches the advertised address {address}; try: miniecs agent --advertise-address"
        )
    return parsed.is_loopback
