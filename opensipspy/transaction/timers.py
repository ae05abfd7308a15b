"""Timers of the machines: a wheel of 10 ms buckets that holds the machines themselves.

A machine sits in one bucket at most: the one of its nearest timer, or an earlier one when a timer was moved forward.
Moving a timer forward (each provisional response does it) then costs two assignments, and the wheel puts the machine
where it belongs when the old bucket comes up. Taking a machine out really takes it out, so an ended transaction leaves
nothing behind. No cost depends on how many machines wait.
"""

from __future__ import annotations

import heapq
from typing import Final

from mypy_extensions import mypyc_attr

TICKS_PER_SECOND: Final = 100
NEVER: Final = -1.0
# Half a microsecond: a deadline that falls on a tick is due on that tick, however its sum was rounded.
SLACK: Final = 5e-7


@mypyc_attr(allow_interpreted_subclasses=True, acyclic=True)
class Timed:
    """Something with two timers: `resend_at` and `end_at`, absolute seconds, NEVER when not running."""

    __slots__ = ("end_at", "resend_at", "resend_s", "tick")

    def __init__(self) -> None:
        self.resend_at: float = NEVER
        self.resend_s: float = 0.0
        self.end_at: float = NEVER
        self.tick: int = 0


class Wheel:
    """The pending timers of one layer."""

    __slots__ = ("_buckets", "ticks")

    def __init__(self) -> None:
        self._buckets: dict[int, set[Timed]] = {}
        # Of the buckets, a heap; always the same list.
        self.ticks: list[int] = []

    def arm(self, machine: Timed) -> None:
        """Note that a timer of the machine was started or moved; stopped ones are NEVER."""
        at = machine.end_at
        if machine.resend_at != NEVER and (at == NEVER or machine.resend_at < at):
            at = machine.resend_at
        if at == NEVER:
            if machine.tick:
                self.disarm(machine)
            return
        tick = int((at - SLACK) * TICKS_PER_SECOND) + 1
        if machine.tick:
            if machine.tick <= tick:
                return
            self._buckets[machine.tick].discard(machine)
        machine.tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {machine}
            heapq.heappush(self.ticks, tick)
        else:
            bucket.add(machine)

    def disarm(self, machine: Timed) -> None:
        """Stop both timers and forget the machine."""
        machine.resend_at = NEVER
        machine.end_at = NEVER
        if machine.tick:
            self._buckets[machine.tick].discard(machine)
            machine.tick = 0

    def due(self, now: float) -> list[Timed]:
        """Take out the machines whose bucket has come, earliest first; the caller arms them again."""
        limit = int((now + SLACK) * TICKS_PER_SECOND)
        found: list[Timed] = []
        while self.ticks and self.ticks[0] <= limit:
            for machine in self._buckets.pop(heapq.heappop(self.ticks)):
                machine.tick = 0
                found.append(machine)
        return found

    def next_wake(self) -> float | None:
        """When `due` has something to do, seconds of the same clock; None when nothing is pending."""
        while self.ticks:
            tick = self.ticks[0]
            if self._buckets[tick]:
                return tick / TICKS_PER_SECOND
            del self._buckets[tick]
            heapq.heappop(self.ticks)
        return None

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())
