"""Counts of what a transport took in and let out."""

from __future__ import annotations


class Traffic:
    """Counts of one transport, read by the statistics."""

    __slots__ = ("dropped_in", "dropped_out", "received", "refused", "send_errors", "sent")

    def __init__(self) -> None:
        self.received: int = 0
        self.sent: int = 0
        self.send_errors: int = 0
        self.dropped_in: int = 0
        self.dropped_out: int = 0
        self.refused: int = 0
