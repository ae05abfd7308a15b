"""What fills the memory: the management commands `mem:*` write this to the log."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from typing import Final

from opensipspy.server.figures import KIB, peak_bytes, resident_bytes
from opensipspy.server.logs import TO_PYTHON

LOG: Final = logging.getLogger("opensipspy.memory")
MOST_KINDS: Final = 20


def kinds_of_objects(most: int = MOST_KINDS) -> list[tuple[str, int]]:
    """The kinds of objects that are most in number, of those that the garbage collector knows."""
    counted = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    return counted.most_common(most)


def dump(level: int) -> None:
    """Write to the log, at one of the levels that scripts know, what the process holds."""
    at = TO_PYTHON[level]
    LOG.log(at, "memory: %d KiB now, %d KiB at most", resident_bytes() // KIB, peak_bytes() // KIB)
    for kind, count in kinds_of_objects():
        # One text for each: lines that repeat are left out.
        LOG.log(at, f"memory: {count} of {kind}")
