"""Whose bytes are worked on next, when more have come over connections than one round of the event loop should take.

A peer may send as much as the network carries, and each message costs a run of the script. So that it takes the time of
others only in small parts, a few small reads in a round are worked on at once, and everything beyond waits, a slice of
each connection after the other, for TURN_S of each round. Who waits is not read from: its own kernel holds it up.
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


class Waiting(Protocol):
    """Something that has more to do than there was time for."""

    def work_on(self) -> bool:
        """Do a small part of it; False when nothing is left."""


class Turns:
    """The queue of all connections of a server."""

    __slots__ = ("_at_once", "_loop", "_planned", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Waiting] = deque()
        self._planned = False
        self._at_once = 0

    @property
    def waiting(self) -> int:
        """How many connections wait."""
        return len(self._waiting)

    def allows(self) -> bool:
        """Whether one more small read may be worked on at once in this round."""
        if self._waiting or self._at_once >= READS_AT_ONCE:
            return False
        if not self._at_once:
            self._loop.call_soon(self._next_round)
        self._at_once += 1
        return True

    def _next_round(self) -> None:
        self._at_once = 0

    def wait(self, connection: Waiting) -> None:
        """Let a connection work on what it has when its turn comes."""
        self._waiting.append(connection)
        if not self._planned:
            self._planned = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        waiting = self._waiting
        until = time.monotonic() + TURN_S
        while waiting:
            connection = waiting.popleft()
            if connection.work_on():
                waiting.append(connection)
            if time.monotonic() >= until:
                break
        self._planned = bool(waiting)
        if self._planned:
            self._loop.call_soon(self._work)
