"""How sharing tags are written."""

from __future__ import annotations

from typing import Final

LONGEST_TAG: Final = 64


def parse_tag(text: str) -> tuple[str, int]:
    """Name and cluster of "name/cluster". Raises ValueError."""
    name, slash, number = (part.strip() for part in text.partition("/"))
    if not slash or not 0 < len(name) <= LONGEST_TAG:
        raise ValueError(f"{text!r} is no sharing tag, as name/1 is one")
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        raise ValueError(f"{text!r}: {number!r} is no number of a cluster")
    return name, int(number)
