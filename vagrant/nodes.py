"""Nodes: the lab's machines as vagrant/nodes.yaml lists them, the one source for Vagrant and for the light lab.

On the ground of the lab. Ruled by the comment at the head of nodes.yaml.
"""

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
        Error: the table has not so many.
    """
    rows = [Node(**row) for row in yaml.safe_load(table.read_text())]
    if not 1 <= workers < len(rows):
        raise Error(f"{workers} workers: {table.name} lists 1 to {len(rows) - 1}; try: a row more in {table}")
    return rows[: workers + 1]
