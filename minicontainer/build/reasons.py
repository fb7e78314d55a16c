"""Reasons: why a step was cached, or was not: which of the things that it depends on has changed.

Beside `cache`, which needs no reason: here the inputs of each step's last time are kept, by its place in its
Dockerfile, so that `build --explain` can say what is different. Nothing of it decides anything.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from minicontainer import files

SHORT = 60  # characters of a value that is shown


class Reasons:
    """What is known of one step: `slot` is its place in its Dockerfile."""

    def __init__(self, data: str, slot: str) -> None:
        self.path = f"{data}/cache/build/reasons/{hashlib.sha256(slot.encode()).hexdigest()}"
        self.key, self.before = "", None
        with suppress(FileNotFoundError, ValueError), open(self.path, encoding="utf-8") as file:
            self.key, self.before = json.load(file)

    def told(self, now: Mapping[str, Any], cached: bool, asked: bool) -> str:
        """One line: cached or not, and why."""
        if not asked:
            return "not cached: it was not to be: --no-cache or --no-cache-filter"
        if cached:
            return f"cached: nothing has changed: {', '.join(name for name in now if now[name])}"
        if self.before is None:
            return "not cached: nothing is known of this step: it is new, or was pruned"
        changed = list(differences(self.before, now))
        return f"not cached: {'; '.join(changed) or 'nothing has changed, but its layer is gone'}"

    def remember(self, key: str, now: Mapping[str, Any]) -> None:
        if key != self.key:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            files.write(self.path, json.dumps([key, now]).encode())


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What is different, a phrase each."""
    for name in dict.fromkeys([*now, *before]):
        was, is_ = before.get(name), now.get(name)
        if was == is_:
            continue
        if name == "layers below" or name.startswith("files of "):
            yield f"the {name} are others"
        elif name == "environment":
            yield from _named(_pairs(was), _pairs(is_), "environment: ")
        elif name == "sources":
            yield from _sources(was or [], is_ or [])
        elif isinstance(was, Mapping) and isinstance(is_, Mapping):
            yield from _named(was, is_, f"{name}: ")
        else:
            yield f"{name}: was {_short(was)}, is {_short(is_)}"


def _pairs(entries: Any) -> dict[str, str]:
    return {name: value for name, _, value in (str(entry).partition("=") for entry in entries or ())}


def _named(was: Mapping[str, Any], is_: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name in dict.fromkeys([*is_, *was]):
        if was.get(name) != is_.get(name):
            yield f"{prefix}{name} was {_short(was.get(name))}, is {_short(is_.get(name))}"


def _sources(was: list[Any], is_: list[Any]) -> Iterator[str]:
    before, after = dict(was), dict(is_)
    for name in dict.fromkeys([*after, *before]):
        if name not in before or name not in after:
            yield f"{name or 'the context'} is {'new' if name in after else 'gone'}"
        elif before[name] != after[name]:
            yield f"{name or 'the context'} has changed"
    if list(before) != list(after) and set(before) == set(after):
        yield "the sources stand in another order"


def _short(value: Any) -> str:
    text = "unset" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
