"""Status reports: is a part of the server ready, why not, and what has happened to it lately.

A group (usually a module) has identifiers (a partition, a connection); each has a status number (negative: not ready,
0: unknown yet, positive: ready), a text, and the last reports.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from opensipspy.management.registry import Json

MAIN: Final = "main"
"""The identifier of a group that has no parts."""
REPORTS_KEPT: Final = 200

STATUS_READY: Final = 1
STATUS_NO_DATA: Final = -1
STATUS_LOADING: Final = -2


class Identifier:
    """One part whose status is known."""

    __slots__ = ("details", "name", "reports", "status")

    def __init__(self, name: str, status: int, details: str) -> None:
        self.name = name
        self.status = status
        self.details = details
        self.reports: deque[tuple[int, str]] = deque(maxlen=REPORTS_KEPT)

    @property
    def ready(self) -> bool:
        return self.status >= 0

    def as_json(self, *, named: bool = True) -> dict[str, Json]:
        shown: dict[str, Json] = {"Name": self.name} if named else {}
        shown["Readiness"] = self.ready
        shown["Status"] = self.status
        if self.details:
            shown["Details"] = self.details
        return shown


class StatusReports:
    """All groups of one server.

    time: wall clock, seconds since 1970. changed: told (group, identifier, status, details, old status) of changes.
    """

    def __init__(
        self,
        time: Callable[[], float],
        changed: Callable[[str, str, int, str, int], None] | None = None,
    ) -> None:
        self._time = time
        self._changed = changed
        self._groups: dict[str, dict[str, Identifier]] = {}

    def add(self, group: str, identifier: str = MAIN, status: int = 0, details: str = "") -> Identifier:
        """Make an identifier known; a known one is left as it is."""
        members = self._groups.setdefault(group, {})
        found = members.get(identifier)
        if found is None:
            found = members[identifier] = Identifier(identifier, status, details)
        return found

    def remove(self, group: str, identifier: str) -> None:
        """Forget an identifier."""
        self._groups.get(group, {}).pop(identifier, None)

    def set_status(self, group: str, status: int, details: str = "", identifier: str = MAIN) -> None:
        """Note a status; listeners hear of it when the number or the text is another one."""
        found = self.add(group, identifier)
        old, old_details = found.status, found.details
        found.status, found.details = status, details
        if self._changed is not None and (old, old_details) != (status, details):
            self._changed(group, identifier, status, details, old)

    def report(self, group: str, text: str, identifier: str = MAIN) -> None:
        """Note what happened; the last 200 are kept."""
        self.add(group, identifier).reports.append((int(self._time()), text))

    def group(self, name: str) -> dict[str, Identifier] | None:
        return self._groups.get(name)

    def groups(self) -> dict[str, dict[str, Identifier]]:
        return self._groups
