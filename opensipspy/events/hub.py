"""The event hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class Hub:
    """Declared events and their subscribers."""

    def declare(self, name: str, params: Sequence[tuple[str, str]] = (), *, module: str = "") -> None:
        """Make an event known."""

    def wanted(self, name: str) -> bool:
        """Whether anybody listens."""
        return False

    def raise_event(self, name: str, params: Mapping[str, object] | None = None) -> None:
        """Tell every subscriber."""
