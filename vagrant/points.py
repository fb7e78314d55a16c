"""Points: what an exercise's `check` says: for each point what it saw, what it expected, where to look, its worth.

The check scripts in docs/labs stand on it, and `exercises` prints it. A check looks with the eyes of a learner: by
commands on the machines (./dev lab ssh), and by the ECS API with the environment of ./dev lab env.
"""

import base64
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

RIGHT, WRONG, AWAY = 0, 1, 2  # how a check ends; AWAY: it could not look
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ANSWER = re.compile(r"^([a-z][a-z0-9_]*) *=(.*)$", re.MULTILINE)


class Point(NamedTuple):
    what: str
    points: int  # what it is worth
    right: bool
    observed: str
    expected: str
    look: str  # where to look if it is wrong


class Sheet:
    """The points of one check, in order."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def point(
        self, points: int, what: str, observed: object, expected: object, look: str, right: bool | None = None
    ) -> bool:
        """One more; it is right if `observed` is `expected`, or as `right` says."""
        saw, wanted = str(observed).strip() or "nothing", str(expected)
        found = Point(what, points, saw == wanted if right is None else right, saw, wanted, look)
        self.points.append(found)
        return found.right

    def answer(self, points: int, name: str, truth: object, expected: str, look: str) -> bool:
        """A point for an answer of the learner's; `expected` says what is asked for, and does not give it away."""
        given = answers().get(name, "")
        return self.point(
            points, f"answer {name}", given or "no answer", expected, look, right=bool(given) and given == str(truth)
        )

    def end(self) -> NoReturn:
        """Print what was found, and end as a check ends."""
        print(json.dumps({"points": [point._asdict() for point in self.points]}))
        sys.exit(RIGHT if all(point.right for point in self.points) else WRONG)


# --- what a check looks at -------------------------------------------------------------------------------------------


def answers() -> dict[str, str]:
    """The learner's answers file: a line `name = value` for each."""
    path = Path(os.environ["ANSWERS"])
    text = path.read_text() if path.exists() else ""
    return {name: value.strip() for name, value in ANSWER.findall(text)}


def facts(machine: str, script: str) -> dict[str, str]:
    """What a shell script on a machine prints, as lines `name=value`."""
    lines = on(machine, script).decode(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition("=") for line in lines)}


def on(machine: str, script: str) -> bytes:
    """What a shell script prints on a machine; the check ends if the machine is away."""
    command = [sys.executable, "-m", "vagrant.lab", "ssh", machine, "sh"]
    done = subprocess.run(command, input=script.encode(), capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [
            f"{machine}: exit status {done.returncode}"
        ]
        print(said[-1].removeprefix("lab: "), file=sys.stderr)
        sys.exit(AWAY)
    return done.stdout


def ecs() -> Any:
    """A client of the lab's control plane."""
    import boto3  # here: a quarter of a second, that each `./dev lab` would take, and only checks need
    from botocore.config import Config  # here: the same

    return boto3.client("ecs", config=Config(retries={"total_max_attempts": 3}, connect_timeout=10, read_timeout=30))


def in_registry(name: str, tag: str, method: str = "HEAD") -> bool:
    """Whether the lab's registry has the image; with DELETE, it has it no more. Distribution-spec: manifests."""
    keys = f"{os.environ['AWS_ACCESS_KEY_ID']}:{os.environ['AWS_SECRET_ACCESS_KEY']}"
    headers = {"Authorization": f"Basic {base64.b64encode(keys.encode()).decode()}", "Accept": MANIFEST}
    url = f"{os.environ['AWS_ENDPOINT_URL']}/v2/{name}/manifests/{tag}"
    try:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=30).close()
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.NOT_FOUND:
            return False
        raise
    return True


def machines(client: Any) -> dict[str, str]:
    """The machine's name for each container instance, by ARN."""
    arns = client.list_container_instances()["containerInstanceArns"]
    found = client.describe_container_instances(containerInstances=arns)["containerInstances"] if arns else []
    return {one["containerInstanceArn"]: one["ec2InstanceId"] for one in found}


def tasks(client: Any, **which: str) -> list[dict[str, Any]]:
    """The tasks of a family, a service or a starter; with desiredStatus=STOPPED those that are over. Oldest first."""
    arns = [arn for page in client.get_paginator("list_tasks").paginate(**which) for arn in page["taskArns"]]
    found = []
    for begin in range(0, len(arns), 100):
        found += client.describe_tasks(tasks=arns[begin : begin + 100])["tasks"]
    return sorted(found, key=lambda task: task["createdAt"])
