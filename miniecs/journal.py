"""Journal: what a daemon writes on stderr: one line for each event, with its keys.

Stands on the ground: `task stopped arn=… reason="Essential container in task exited" exit=137`. Ruled by this project's
style, rule 15.
"""

import logging
import re
import sys
import time

log = logging.getLogger("miniecs")
PLAIN = re.compile(r"[^\s\"'=]+")


def open_journal(level: int = logging.INFO) -> None:
    """Write the events of this process, and of the libraries it uses, to stderr."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    target = logging.StreamHandler(sys.stderr)
    target.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[target], force=True)
    log.setLevel(level)


def tell(event: str, **keys: object) -> None:
    """Something happened."""
    log.info("%s", line(event, **keys))


def warn(event: str, **keys: object) -> None:
    """Something happened that a person may want to look at."""
    log.warning("%s", line(event, **keys))


def line(event: str, **keys: object) -> str:
    """An event and its keys as one line, whatever is in the values; a key without a value is left out."""
    return " ".join([event, *(f"{name}={_shown(value)}" for name, value in keys.items() if value not in (None, ""))])


def _shown(value: object) -> str:
    text = f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    if PLAIN.fullmatch(text) and text.isprintable():
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in escaped) + '"'
