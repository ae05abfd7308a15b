"""The parameter `partition` of modules that keep several sets of data: "name: db_url = ...; table_name = ..."."""

from __future__ import annotations

from collections.abc import Sequence


def parse_partition(text: str, known: Sequence[str] = ("db_url", "table_name")) -> tuple[str, dict[str, str], str]:
    """(name, properties, word): the word is what follows the colon alone, as in "default: pstn". Raises ValueError."""
    name, colon, rest = text.partition(":")
    name = name.strip()
    if not name:
        raise ValueError(f'"{text.strip()}" has no partition name before the colon')
    found: dict[str, str] = {}
    parts = [part for part in (item.strip() for item in rest.split(";")) if part] if colon else []
    for part in parts:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals and len(parts) == 1:
            return name, {}, key
        if key not in known:
            raise ValueError(f'"{key}" is no property of a partition: {", ".join(known)} are')
        if not value:
            raise ValueError(f"the property {key} of partition {name} is empty")
        found[key] = value
    return name, found, ""
