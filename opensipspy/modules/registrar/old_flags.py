"""Flags of save() and lookup() as older OpenSIPS wrote them, one letter each, and what says it today."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

SAVE: Final[Mapping[str, str]] = {
    "m": "memory-only",
    "r": "no-reply",
    "c": "max-contacts=",
    "f": "force-registration",
    "M": "matching-mode=",
    "p0": "path-off",
    "p1": "path-lazy",
    "p2": "path-strict",
    "v": "path-received",
    "o": "only-request-contacts",
    "s": "socket-header",
    "e": "min-expires=",
    "E": "max-expires=",
}
LOOKUP: Final[Mapping[str, str]] = {
    "b": "no-branches",
    "B": "to-branches-only",
    "r": "branch",
    "m": "method-filtering",
    "i": "case-insensitive",
    "e": "extended-regexp",
    "g": "global",
    "y": "max-ping-latency=",
    "Y": "sort-by-latency",
}
_ONE: Final = re.compile(r"([A-Za-z])([0-9]*)")


def unknown_flag(word: str, old: Mapping[str, str]) -> ValueError:
    """The error for a word that is no flag; it says how the word is written today when it holds old letters only."""
    said: list[str] = []
    at = 0
    while at < len(word):
        one = _ONE.match(word, at)
        now = "" if one is None else old.get(one[0]) or old.get(one[1], "")
        if one is None or not now or (one[2] and not now.endswith("=") and one[0] not in old):
            return ValueError(f"unknown flag {word!r}")
        said.append(now + one[2] if now.endswith("=") else now)
        at = one.end()
    return ValueError(f"unknown flag {word!r}: letters are not taken any more, write {','.join(said)}")
