"""Counts of what a transport took in and let out, and how fast it comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Datagrams between two looks at the clock, and how many a second are fast.
WINDOW: Final = 64
FAST_PER_S: Final = 2500
# How long a listener rests, far below anything that a timer of SIP's or a caller would notice, and how many datagrams
# found at once are so many that it need not.
REST_S: Final = 0.0005
PLENTY: Final = 8


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


class Pace:
    """Whether datagrams come so fast that a wake-up for each costs more than the work on it.

    A wake-up costs several microseconds of system time, as much as answering a request. Above FAST_PER_S a listener
    that found only a few datagrams rests REST_S before it takes the next ones together. The loop does nothing else in
    that time: so there is no rest while there is plenty to do, none below that rate, where nobody would gain, and
    none directly after that of another listener.
    """

    __slots__ = ("_clock", "_count", "_fast", "_last", "_rested", "_since", "_sleep", "rests")

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._count: int = 0
        self._fast: bool = False
        self._since: float = 0.0
        self._rested: float = 0.0
        self._last: object = None
        self.rests: bool = False

    def took(self, datagrams: int) -> None:
        """`datagrams` were taken at once."""
        self._count += datagrams
        if self._count >= WINDOW:
            now = self._clock()
            self._fast = (now - self._since) * FAST_PER_S < self._count
            self._since = now
            self._count = 0
        self.rests = self._fast and datagrams < PLENTY

    def rest(self, listener: object) -> None:
        """Wait a moment before `listener` takes what has come."""
        now = self._clock()
        if self._last is listener or now - self._rested >= REST_S:
            self._sleep(REST_S)
            self._last = listener
            self._rested = now + REST_S
