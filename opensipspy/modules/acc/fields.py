"""Extra fields and call legs: which tags exist, and under which names each back-end writes them."""

from __future__ import annotations

from typing import Final

from opensipspy.script.run import Value

BACKENDS: Final = ("log", "db", "evi", "aaa")
MAX_LEGS: Final = 64


class Fields:
    """The tags of extra_fields or of leg_fields. names: for each back-end, (tag, name it is written under)."""

    def __init__(self) -> None:
        self.tags: set[str] = set()
        self.names: dict[str, list[tuple[str, str]]] = {backend: [] for backend in BACKENDS}

    def add(self, definition: str) -> None:
        """One "backend: tag->name; tag" definition; events are meant without a back-end. Raises ValueError."""
        backend, colon, pairs = definition.partition(":")
        if not colon:
            backend, pairs = "evi", definition
        backend = backend.strip().lower()
        if backend not in self.names:
            raise ValueError(f'"{backend}" is no accounting back-end: those are {", ".join(BACKENDS)}')
        for pair in pairs.split(";"):
            tag, arrow, name = (part.strip() for part in pair.partition("->"))
            if not tag and not arrow:
                continue
            name = name if arrow else tag
            if not tag or not name or not all(c.isalnum() or c in "_-." for c in tag + name):
                raise ValueError(f'"{pair.strip()}" is not of the form tag->name or tag')
            if any(known == name for _, known in self.names[backend]):
                raise ValueError(f"{backend}: {name} is written twice")
            self.tags.add(tag)
            self.names[backend].append((tag, name))

    def check(self, tag: str) -> str:
        """A tag that a script names. Raises ValueError when it was not defined."""
        tag = tag.strip()
        if tag not in self.tags:
            known = ", ".join(sorted(self.tags)) or "none"
            raise ValueError(f'"{tag}" is no tag of this accounting; defined: {known}')
        return tag


class Context:
    """What is to be accounted for one transaction.

    plain, failed, missed: masks of back-ends (1 << its place in BACKENDS). created: seconds since 1970. legs: values by
    tag, the current one last. done: the final response was accounted. early: a provisional one was.
    """

    __slots__ = ("created", "done", "early", "extra", "failed", "legs", "missed", "plain", "started", "table")

    def __init__(self, created: float) -> None:
        self.created = created
        self.plain = 0
        self.failed = 0
        self.missed = 0
        self.table = ""
        self.extra: dict[str, Value] = {}
        self.legs: list[dict[str, Value]] = [{}]
        self.started = False
        self.done = False
        self.early = False
