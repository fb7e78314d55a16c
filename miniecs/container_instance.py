"""Container instance: what this computer offers a cluster, as the body of its registration.

Stands below `agent`. Ruled by API_RegisterContainerInstance and the developer guide's lists of attributes.
"""

import argparse
import contextlib
import json
import os
import platform
import socket
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from miniecs.acs import AGENT_VERSION
from miniecs.checkpoint import Identity
from miniecs.client import default_region

RESERVED_PORTS = ("22", "2375", "2376", "51678", "51679")
PULL_BEHAVIORS = ("default", "always", "prefer-cached")


class Settings(NamedTuple):
    """What the command line asks for."""

    endpoint: str
    cluster: str
    data: str
    region: str
    cpu: int
    memory: int
    advertise_address: str
    availability_zone: str
    instance_name: str
    attributes: tuple[tuple[str, str], ...]
    keep_stopped: float
    pull_behavior: str
    join_token: str = ""


# --- the command line ---


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `miniecs agent`."""
    parser.add_argument("--endpoint", required=True, metavar="URL", help="the control plane: http://HOST:PORT")
    parser.add_argument("--cluster", default="default", help="the cluster to join (default: %(default)s)")
    parser.add_argument(
        "--data",
        default="/var/lib/miniecs/agent",
        metavar="DIR",
        help="what the agent remembers, and its images and containers (default: %(default)s)",
    )
    parser.add_argument(
        "--cpu", type=int, metavar="UNITS", help="CPU units to offer, 1024 for a vCPU (default: the machine's)"
    )
    parser.add_argument("--memory", type=int, metavar="MIB", help="memory to offer (default: the machine's)")
    parser.add_argument(
        "--advertise-address",
        metavar="IP",
        help="where this instance's ports are reached (default: the address that faces the control plane)",
    )
    parser.add_argument("--availability-zone", metavar="ZONE", help="default: the region's zone a")
    parser.add_argument("--instance-name", metavar="NAME", help="shown as ec2InstanceId (default: the host's name)")
    parser.add_argument(
        "--attribute",
        action="append",
        default=[],
        type=_attribute,
        metavar="NAME=VALUE",
        help="for placement; may be repeated",
    )
    parser.add_argument("--region", help="default: as the AWS tools find it, or us-east-1")
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--join-token", metavar="TOKEN", help="trade it for credentials of its own, once (miniecs token create)"
    )
    token.add_argument(
        "--join-token-file", metavar="FILE", help="the same, read from a file: it is in no list of processes"
    )
    parser.add_argument(
        "--keep-stopped",
        type=float,
        default=60,
        metavar="SECONDS",
        help="how long a stopped task's containers and logs stay (default: %(default)s)",
    )
    parser.add_argument(
        "--image-pull-behavior",
        choices=PULL_BEHAVIORS,
        default="default",
        help="default: ask the registry, fall back on the image that is here",
    )


def _attribute(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def settings(arguments: argparse.Namespace) -> Settings:
    region = arguments.region or default_region()
    return Settings(
        endpoint=arguments.endpoint.rstrip("/"),
        cluster=arguments.cluster,
        data=os.path.abspath(arguments.data),
        region=region,
        cpu=arguments.cpu or (os.cpu_count() or 1) * 1024,
        memory=arguments.memory or _machine_memory(),
        advertise_address=arguments.advertise_address or _facing_address(arguments.endpoint),
        availability_zone=arguments.availability_zone or f"{region}a",
        instance_name=arguments.instance_name or socket.gethostname(),
        attributes=tuple(arguments.attribute),
        keep_stopped=arguments.keep_stopped,
        pull_behavior=arguments.image_pull_behavior,
        join_token=arguments.join_token or _read(arguments.join_token_file),
    )


def _read(path: str | None) -> str:
    """The token in a file; none if it is not there any more: it is needed only until the agent has joined."""
    with contextlib.suppress(FileNotFoundError):
        return open(path).read().strip() if path else ""
    return ""


# --- the registration ---


def registration(chosen: Settings, identity: Identity) -> dict[str, Any]:
    """The body of RegisterContainerInstance."""
    document = {
        "instanceId": chosen.instance_name,
        "availabilityZone": chosen.availability_zone,
        "privateIp": chosen.advertise_address,
        "region": chosen.region,
        "instanceType": "miniecs",
        "architecture": platform.machine(),
    }
    body: dict[str, Any] = {
        "cluster": chosen.cluster,
        "clientToken": identity.client_token,
        "instanceIdentityDocument": json.dumps(document),
        "totalResources": [
            {"name": "CPU", "type": "INTEGER", "integerValue": chosen.cpu},
            {"name": "MEMORY", "type": "INTEGER", "integerValue": chosen.memory},
            {"name": "PORTS", "type": "STRINGSET", "stringSetValue": list(RESERVED_PORTS)},
            {"name": "PORTS_UDP", "type": "STRINGSET", "stringSetValue": []},
        ],
        "attributes": [
            {"name": name, "value": value} if value else {"name": name} for name, value in attributes(chosen)
        ],
        "versionInfo": {
            "agentVersion": AGENT_VERSION,
            "agentHash": "",
            "dockerVersion": f"minicontainer: {AGENT_VERSION}",
        },
    }
    if identity.container_instance_arn:
        body["containerInstanceArn"] = identity.container_instance_arn
    return body


ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "arm64"}
CAPABILITIES = (  # what a task definition's requiresAttributes may ask for and this agent does
    *(f"com.amazonaws.ecs.capability.docker-remote-api.1.{minor}" for minor in range(17, 45)),
    "com.amazonaws.ecs.capability.ecr-auth",
    "com.amazonaws.ecs.capability.logging-driver.json-file",
    "ecs.capability.container-health-check",
    "ecs.capability.container-ordering",
    "ecs.capability.ecr-endpoint",
    "ecs.capability.pid-ipc-namespace-sharing.none",
    "ecs.capability.task-cpu-mem-limit",
)


def attributes(chosen: Settings) -> list[tuple[str, str]]:
    """What placement can ask about this instance; the command line has the last word."""
    named = {
        "ecs.os-type": "linux",
        "ecs.cpu-architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "ecs.availability-zone": chosen.availability_zone,
        "miniecs.advertise-address": chosen.advertise_address,
        "miniecs.instance-name": chosen.instance_name,
        **dict.fromkeys(CAPABILITIES, ""),
        **dict(chosen.attributes),
    }
    return sorted(named.items())


# --- the computer ---


def _machine_memory() -> int:
    """MiB, as `free` shows them."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20


def _facing_address(endpoint: str) -> str:
    """Our address on the way to the control plane; no packet is sent: connect(2) of a datagram socket."""
    url = urlsplit(endpoint)
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((url.hostname or "127.0.0.1", url.port or 80))
        return str(probe.getsockname()[0])
    return "127.0.0.1"
