"""Timers for everything that waits, thousands at a time: one dict of ticks and a heap of the ticks in use.

A transaction arms several timers and cancels nearly all of them, so adding and cancelling must cost no search. Each
tick holds its timers in a dict, from which a cancelled one is taken at once and frees what it refers to. Long delays
are rounded up to coarser ticks, which bounds the number of ticks however far ahead timers lie. No clock is read here:
the caller hands `now` in, in seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

TICK_S: Final = 0.01
# (delays from, seconds; length of a tick in basic ticks)
FAR_S: Final = 10.0
FAR_TICKS: Final = 10
VERY_FAR_S: Final = 300.0
VERY_FAR_TICKS: Final = 100


class Timer:
    """A pending call. `cancel` forgets it; harmless when it has happened."""

    __slots__ = ("_bucket", "args", "fn")

    def __init__(self, fn: Callable[..., object], args: tuple[Any, ...], bucket: dict[Timer, None]) -> None:
        self.fn: Callable[..., object] | None = fn
        self.args: tuple[Any, ...] = args
        self._bucket: dict[Timer, None] | None = bucket

    def cancel(self) -> None:
        """Forget the call and what it refers to."""
        bucket = self._bucket
        if bucket is not None:
            bucket.pop(self, None)
            self._bucket = None
        self.fn = None
        self.args = ()

    @property
    def pending(self) -> bool:
        """Whether the call is still to come."""
        return self._bucket is not None

    def take(self) -> tuple[Callable[..., object] | None, tuple[Any, ...]]:
        """The call, for the wheel that is about to make it; the timer holds nothing after."""
        fn, args = self.fn, self.args
        self._bucket = None
        self.fn = None
        self.args = ()
        return fn, args


class Wheel:
    """Timers by tick. Times are seconds of one clock that only goes forward."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Timer, None]] = {}
        self._ticks: list[int] = []

    def add(self, now: float, delay_s: float, fn: Callable[..., object], args: tuple[Any, ...]) -> Timer:
        """Arrange `fn(*args)` for the first tick that is not before `now + delay_s`."""
        if delay_s < 0.0:
            delay_s = 0.0
        # int() rounds down; the tick after the exact moment is never early.
        tick = int((now + delay_s) / TICK_S) + 1
        if delay_s >= VERY_FAR_S:
            tick = (tick // VERY_FAR_TICKS + 1) * VERY_FAR_TICKS
        elif delay_s >= FAR_S:
            tick = (tick // FAR_TICKS + 1) * FAR_TICKS
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = {}
            self._buckets[tick] = bucket
            heapq.heappush(self._ticks, tick)
        timer = Timer(fn, args, bucket)
        bucket[timer] = None
        return timer

    def due(self, now: float) -> list[Timer]:
        """Take the timers whose tick has come, earliest first; call `take()` on each when its turn comes.

        They stay cancellable until then: a timer may cancel another one of the same list.
        """
        found: list[Timer] = []
        current = int(now / TICK_S)
        ticks = self._ticks
        while ticks and ticks[0] <= current:
            bucket = self._buckets.pop(heapq.heappop(ticks))
            found.extend(bucket)
        return found

    def next_wake(self) -> float:
        """When `due` has to be asked again, in seconds of the clock; -1.0 when no timer is pending."""
        ticks = self._ticks
        while ticks:
            if self._buckets[ticks[0]]:
                return ticks[0] * TICK_S
            # All timers of this tick were cancelled.
            del self._buckets[heapq.heappop(ticks)]
        return -1.0

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())
