"""File modes: `--chmod` of COPY and ADD, octal (`755`) or symbolic (`u=rwX,go-w`), as chmod(1) reads it (pure).

On the ground: `copying` gives each file its mode by it. No umask takes part, as in BuildKit.
"""

import re

CLASSES = {"u": 6, "g": 3, "o": 0}  # how far the bits of a class stand to the left
BITS = {"r": 4, "w": 2, "x": 1}
CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)")
ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")


def is_mode(text: str) -> bool:
    """Whether `changed` understands it."""
    return bool(re.fullmatch(r"[0-7]{1,4}", text)) or all(CLAUSE.fullmatch(clause) for clause in text.split(","))


def changed(text: str, mode: int, is_directory: bool) -> int:
    """The permission bits that a file of the permission bits `mode` has after chmod."""
    if re.fullmatch(r"[0-7]{1,4}", text):
        return int(text, 8)
    for clause in text.split(","):
        match = CLAUSE.fullmatch(clause)
        assert match is not None, text
        whom = "ugo" if not match[1] or "a" in match[1] else match[1]
        for action, what in ACTION.findall(match[2]):
            mode = _apply(mode, whom, action, what, is_directory)
    return mode


def _apply(mode: int, whom: str, action: str, what: str, is_directory: bool) -> int:
    wanted = 0
    for name in whom:
        wanted |= _bits(what, mode, is_directory) << CLASSES[name]
    if "s" in what:
        wanted |= (0o4000 if "u" in whom else 0) | (0o2000 if "g" in whom else 0)
    if "t" in what and "o" in whom:
        wanted |= 0o1000
    if action == "+":
        return mode | wanted
    if action == "-":
        return mode & ~wanted
    cleared = sum(7 << CLASSES[name] for name in set(whom))
    cleared |= 0o1000 if "o" in whom else 0
    if not is_directory:  # a directory keeps these unless they are taken by name: chmod(1)
        cleared |= (0o4000 if "u" in whom else 0) | (0o2000 if "g" in whom else 0)
    return mode & ~cleared | wanted


def _bits(what: str, mode: int, is_directory: bool) -> int:
    """The three bits of one class. A letter of a class copies its bits; X is x where a directory is, or x already."""
    if what in CLASSES:
        return mode >> CLASSES[what] & 7
    found = 0
    for letter in what:
        if letter in BITS:
            found |= BITS[letter]
        elif letter == "X" and (is_directory or mode & 0o111):
            found |= 1
    return found
