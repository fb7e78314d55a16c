"""Nodes: the lab's machines as vagrant/nodes.yaml lists them, the one source for Vagrant and for the light lab.

On the ground of the lab. Ruled by the comment at the head of nodes.yaml.
"""

import ipaddress
from pathlib import Path
from typing import NamedTuple

import yaml

from miniecs.errors import Error

TABLE = Path(__file__).with_name("nodes.yaml")


class Node(NamedTuple):
    """One machine; the first of the table is the manager."""

    name: str
    address: str
    cpus: int
    memory: int  # MiB


def nodes(workers: int, table: Path = TABLE) -> list[Node]:
    """The manager and so many workers.

    Raises:
        Error: the table has not so many, or a row of it is wrong.
    """
    rows = _rows(table)
    if not 1 <= workers < len(rows):
        raise Error(f"{workers} workers: {table.name} lists 1 to {len(rows) - 1}; try: a row more in {table}")
    return rows[: workers + 1]


def _rows(table: Path) -> list[Node]:
    rows: list[Node] = []
    try:
        for row in yaml.safe_load(table.read_text()):
            node = Node(**row)
            ipaddress.IPv4Address(node.address)
            other = next((one for one in rows if node.name == one.name or node.address == one.address), None)
            if other:
                raise ValueError(f"{other.name} has its name or its address, {node.address}, too")
            rows.append(node)
    except (TypeError, ValueError, yaml.YAMLError) as error:
        said = str(error).splitlines()[0].replace("Node.__new__() ", "")
        raise Error(f"{table.name}, row {len(rows) + 1}: {said}; try: a row as the others in {table}") from None
    return rows
