"""Whose bytes are worked on next, when more have come over connections than one round of the event loop should take.

A peer may send as much as the network carries, and each message costs a run of the script. So that it takes the time of
others only in small parts, a few small reads in a round are worked on at once, and everything beyond waits, a slice of
each connection after the other, for TURN_S of each round. Those who have no more than a slice come first, mostly: a
peer that says little hardly notices hundreds that flood. Who waits is not read from: its own kernel holds it up.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, Protocol

# Octets of one connection that are worked on together: about ten requests.
SLICE_BYTES: Final = 4096
READS_AT_ONCE: Final = 8
TURN_S: Final = 0.002
# Slices of those who have little, before one of those who have much.
LITTLE_BEFORE_MUCH: Final = 8


class Waiting(Protocol):
    """Something that has more to do than there was time for."""

    def work_on(self) -> bool:
        """Do a small part of it; False when nothing is left."""


class Turns:
    """The queue of all connections of a server."""

    __slots__ = ("_at_once", "_in_a_row", "_little", "_loop", "_much", "_planned")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._little: deque[Waiting] = deque()
        self._much: deque[Waiting] = deque()
        # How many of the first kind had their turn since one of the second.
        self._in_a_row = 0
        self._planned = False
        self._at_once = 0

    @property
    def waiting(self) -> int:
        """How many connections wait."""
        return len(self._little) + len(self._much)

    def allows(self) -> bool:
        """Whether one more small read may be worked on at once in this round."""
        if self._planned or self._at_once >= READS_AT_ONCE:
            return False
        if not self._at_once:
            self._loop.call_soon(self._next_round)
        self._at_once += 1
        return True

    def _next_round(self) -> None:
        self._at_once = 0

    def wait(self, connection: Waiting, *, little: bool) -> None:
        """Let a connection work on what it has when its turn comes; little: it is no more than a slice."""
        (self._little if little else self._much).append(connection)
        if not self._planned:
            self._planned = True
            self._loop.call_soon(self._work)

    def _next(self) -> Waiting:
        if self._little and (self._in_a_row < LITTLE_BEFORE_MUCH or not self._much):
            self._in_a_row += 1
            return self._little.popleft()
        self._in_a_row = 0
        return self._much.popleft()

    def _work(self) -> None:
        until = time.monotonic() + TURN_S
        while self._little or self._much:
            connection = self._next()
            if connection.work_on():
                self._much.append(connection)
            if time.monotonic() >= until:
                break
        self._planned = bool(self._little or self._much)
        if self._planned:
            self._loop.call_soon(self._work)
