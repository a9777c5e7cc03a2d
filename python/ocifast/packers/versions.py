"""The order of versions (uapi-group.org, "Version Format Specification")."""

from __future__ import annotations

import re
from itertools import zip_longest

from ocifast.patterns import pattern

__all__ = ["compare_versions"]

_PARTS = pattern(r"(?P<separator>[~^.-])|(?P<digits>[0-9]+)|(?P<letters>[A-Za-z]+)|(?P<other>.)", re.DOTALL)
_RANKS = {"~": 0, "": 1, "-": 2, "^": 3, ".": 4}


def compare_versions(first: str, second: str) -> int:
    """Which of two versions is newer.

    Returns:
        Less than 0 when the first is older, more when it is newer, 0 when nothing tells them apart.
    """
    for one, other in zip_longest(_parts(first), _parts(second), fillvalue=("end", "")):
        if one == other:
            continue
        ranks = _rank(one), _rank(other)
        if ranks[0] != ranks[1]:
            return ranks[0] - ranks[1]
        if one[0] == "digits" and int(one[1]) != int(other[1]):
            return 1 if int(one[1]) > int(other[1]) else -1
        if one[0] == "letters":
            return 1 if one[1] > other[1] else -1
    return 0


def _parts(version: str) -> list[tuple[str, str]]:
    return [(found.lastgroup or "", found[0]) for found in _PARTS.finditer(version) if found.lastgroup != "other"]


def _rank(part: tuple[str, str]) -> int:
    """Separators come before letters, letters before digits, in the order of the specification."""
    kind, text = part
    if kind in ("end", "separator"):
        return _RANKS[text]
    return 6 if kind == "digits" else 5
