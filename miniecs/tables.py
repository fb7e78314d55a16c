"""Tables: what `miniecs explain` and `miniecs status` show to people.

Stands on the ground: documents in, text out. Ruled by `explain`, which makes the documents.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

Document = dict[str, Any]


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[number]) for row in [list(heads), *cells]) for number in range(len(heads))]
    numeric = [all(isinstance(row[number], int | float) for row in rows) and bool(rows) for number in range(len(heads))]
    lines = [
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip()
        for row in [list(heads), *cells]
    ]
    return "\n".join(lines)


def status(document: Document) -> str:
    return "\n\n".join(_cluster(one) for one in document["clusters"]) or "no clusters; try: aws ecs create-cluster"


def join_tokens(document: Sequence[Document]) -> str:
    if not document:
        return "no join tokens; try: miniecs token create"
    rows = [
        (one["id"], one["status"], time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(one["expires_at"])))
        for one in document
    ]
    return table(("TOKEN", "STATUS", "EXPIRES"), rows)


def _cluster(document: Document) -> str:
    parts = [f"cluster {document['cluster']}"]
    if document["instances"]:
        rows = [
            (
                one["instance"],
                one["status"] if one["connected"] else f"{one['status']}, agent not connected",
                one["cpu"],
                one["memory"],
                " ".join(one["ports"]) or "-",
                one["tasks"],
            )
            for one in document["instances"]
        ]
        parts.append(table(("INSTANCE", "STATUS", "CPU", "MEMORY", "PORTS", "TASKS"), rows))
    if document["services"]:
        rows = [
            (one["service"], one["status"], one["desired"], one["running"], one["pending"], one["taskDefinition"])
            for one in document["services"]
        ]
        parts.append(table(("SERVICE", "STATUS", "DESIRED", "RUNNING", "PENDING", "TASK DEFINITION"), rows))
        parts += [f"{one['service']} lacks room: {one['shortage']}" for one in document["services"] if one["shortage"]]
    if document["tasks"]:
        parts.append(_tasks(document["tasks"]))
    return "\n\n".join(parts)


def _tasks(tasks: Sequence[Document]) -> str:
    rows = [
        (
            one["task"],
            one["group"],
            one["taskDefinition"],
            one["status"] if one["desired"] == "RUNNING" else f"{one['status']}, to be {one['desired']}",
            one["instance"],
            " ".join(one["ports"]) or "-",
        )
        for one in tasks
    ]
    return table(("TASK", "GROUP", "TASK DEFINITION", "STATUS", "INSTANCE", "PORTS"), rows)


def explanation(document: Document) -> str:
    return "\n".join(_explained(document))


def _explained(document: Document) -> Iterator[str]:
    if document["kind"] == "task":
        yield f"task {document['arn']}"
        yield f"{document['taskDefinition']}, {document['group']}: {document['lastStatus']}"
        if document["stoppedReason"]:
            yield f"stopped: {document['stoppedReason']} ({document['stopCode']})"
            yield from _ends(document["containers"])
        yield from _timeline(document["timeline"])
    else:
        yield f"service {document['arn']}"
        counts = f"desired {document['desiredCount']}, running {document['runningCount']}"
        yield f"{document['taskDefinition']}: {document['status']}, {counts}, pending {document['pendingCount']}"
        if document["shortage"]:
            yield f"a task cannot be placed: {document['shortage']}"
        yield from (f"{_clock(event['at'])}  {event['message']}" for event in document["events"])
        if document["tasks"]:
            yield f"\n{_tasks(document['tasks'])}"
    if document["placement"]:
        yield from _placement(document["placement"], document["decidedAt"])


def _ends(containers: Sequence[Document]) -> Iterator[str]:
    for one in containers:
        code = "" if one["exitCode"] is None else f" exit code {one['exitCode']}"
        reason = f" {one['reason']}" if one["reason"] else ""
        if code or reason:
            yield f"  container {one['name']}:{code}{reason}"


def _timeline(events: Sequence[Document]) -> Iterator[str]:
    for number, event in enumerate(events):
        since = f"  +{event['at'] - events[0]['at']:.3f} s" if number else ""
        yield f"  {_clock(event['at'])}  {event['event']}{since}"


def _placement(placement: Document, decided_at: float) -> Iterator[str]:
    needs = placement["needs"]
    wanted = [f"{needs.get('cpu', 0)} CPU units", f"{needs.get('memory', 0)} MiB"]
    ports = needs.get("ports") or []
    wanted += [f"port {port}" for port in ports]
    yield f"\ndecided {_clock(decided_at)}: needs {', '.join(wanted)}; strategy {placement['strategy']}\n"
    rows = [
        (
            one["label"],
            f"{needs.get('cpu', 0)} of {one['cpu_free']}",
            f"{needs.get('memory', 0)} of {one['memory_free']}",
            f"taken: {' '.join(one['ports_taken'])}" if one.get("ports_taken") else ("free" if ports else "-"),
            one.get("detail") or "fits",
            " ".join(f"{score:g}" for score in one.get("scores") or ()) or "-",
            one.get("rank") or "-",
            "chosen" if one["arn"] == placement.get("chosen") else "",
        )
        for one in placement["candidates"]
    ]
    if not rows:
        yield "the cluster has no container instance"
        return
    heads = ("INSTANCE", "CPU NEEDED OF FREE", "MEMORY NEEDED OF FREE", "PORTS", "VERDICT", "SCORES", "RANK", "")
    yield table(heads, rows)
    hidden = placement["considered"] - len(placement["candidates"])
    if hidden:
        yield f"and {hidden} more"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at * 1000) % 1000:03}"
