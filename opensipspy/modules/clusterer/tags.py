"""Sharing tags: names of which each is active on one node of a cluster, so that modules know whose turn it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from opensipspy.cluster import parse_tag

MOST_TAGS: Final = 1024
ACTIVE: Final = "active"
BACKUP: Final = "backup"


class Tag:
    """announce: nodes that come later have to be told that the tag is active here. told: those that know."""

    __slots__ = ("active", "announce", "cluster_id", "name", "told")

    def __init__(self, name: str, cluster_id: int, active: bool = False) -> None:
        self.name = name
        self.cluster_id = cluster_id
        self.active = active
        self.announce = active
        self.told: set[int] = set()

    @property
    def state(self) -> str:
        return ACTIVE if self.active else BACKUP


class Tags:
    """All sharing tags of this node. tell: sends news of an active one to a node; whether it left.

    changed: told of each tag that became active or backup, and why.
    """

    def __init__(self, tell: Callable[[int, int, str], bool], changed: Callable[[Tag, str], None]) -> None:
        self.known: dict[tuple[int, str], Tag] = {}
        self._tell = tell
        self._changed = changed

    def define(self, name: str, cluster_id: int, active: bool) -> None:
        """A tag of the script."""
        self.known[cluster_id, name] = Tag(name, cluster_id, active)

    def find(self, name: str, cluster_id: int) -> Tag | None:
        """A tag; an unknown one becomes known as backup. None when there are too many."""
        found = self.known.get((cluster_id, name))
        if found is None and len(self.known) < MOST_TAGS:
            found = self.known[cluster_id, name] = Tag(name, cluster_id)
        return found

    def keep(self, clusters: set[int]) -> list[Tag]:
        """Forget the tags of other clusters; which they were."""
        gone = [tag for tag in self.known.values() if tag.cluster_id not in clusters]
        for tag in gone:
            del self.known[tag.cluster_id, tag.name]
        return gone

    def activate(self, name: str, cluster_id: int, nodes: list[int], reason: str) -> bool:
        """Make a tag active here and tell all nodes; False when there are too many tags."""
        tag = self.find(name, cluster_id)
        if tag is None:
            return False
        was_active, tag.active = tag.active, True
        for node_id in nodes:
            if tag.announce and node_id in tag.told:
                continue
            if self._tell(cluster_id, node_id, name):
                tag.told.add(node_id)
            else:
                # It is told as soon as it can be reached.
                tag.announce = True
        if not was_active:
            self._changed(tag, reason)
        return True

    def active_elsewhere(self, name: str, cluster_id: int, source: int) -> bool:
        """Another node has a tag active: this one steps down. False when there are too many tags."""
        tag = self.find(name, cluster_id)
        if tag is None:
            return False
        was_active, tag.active = tag.active, False
        tag.announce = False
        tag.told.clear()
        if was_active:
            self._changed(tag, f"cluster broadcast from {source}")
        return True

    def node_came(self, cluster_id: int, node_id: int) -> None:
        """A node can be reached: it gets to know what is active here."""
        for tag in list(self.known.values()):
            news = tag.announce and tag.cluster_id == cluster_id and node_id not in tag.told
            if news and self._tell(cluster_id, node_id, tag.name):
                tag.told.add(node_id)


def parse_definition(text: str) -> tuple[str, int, bool]:
    """Name, cluster and whether it is active, of "name/cluster=active" or "=backup". Raises ValueError."""
    tag, equals, state = text.partition("=")
    state = state.strip()
    if not equals or state not in (ACTIVE, BACKUP):
        raise ValueError(f"{text!r} does not say =active or =backup")
    return (*parse_tag(tag), state == ACTIVE)
