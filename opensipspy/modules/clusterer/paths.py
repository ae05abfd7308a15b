"""Ways through the cluster: from who has a link to whom to the next hop for each node. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

# So late may a copy of an update come, over many nodes.
LATEST_S: Final = 60


def next_hops(
    linked: Iterable[int],
    neighbours: Mapping[int, Iterable[int]],
    priority: Callable[[int], int],
    *,
    through_others: bool = True,
) -> dict[int, int]:
    """Node -> the neighbour that packets for it go to, for all nodes that can be reached.

    linked: who we have a link to. neighbours: who the others say they have one to. Of ways of the same length, the one
    over the neighbour with the lowest priority counts, then that with the lowest number.
    """
    found: dict[int, int] = {node: node for node in linked}
    if not through_others:
        return found
    nearest = sorted(found, key=lambda node: (priority(node), node))
    while nearest:
        reached: list[int] = []
        for node in nearest:
            for other in neighbours.get(node, ()):
                if other not in found:
                    found[other] = found[node]
                    reached.append(other)
        # Sorted by the first hop, so that the better one gets to the nodes behind first.
        nearest = sorted(reached, key=lambda node: (priority(found[node]), found[node], node))
    return found


def is_newer(seen: tuple[int, int], number: int, at: int) -> bool:
    """Whether an update comes after the one that was seen: numbers grow, and begin anew at 0 when a node restarts.

    seen: number and time of the last one. A first one from the time of the last is a copy that was late; one from long
    before it is of a node whose clock was set back.
    """
    if number == 0:
        return seen[0] < 0 or at > seen[1] or at < seen[1] - LATEST_S
    return number > seen[0]
