"""Runs the coroutines of routes in place, without a task.

A route that may wait is a coroutine. Most of its runs wait for nothing, so it is stepped where the message is
handled; only when it yields a future does it leave that place, and the future's call-back goes on with it. This is the
protocol that asyncio's tasks speak with futures (`_asyncio_future_blocking`); it is the same on every kind of loop.

How many runs wait at once, and for how long, is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

# A run that has waited this long in all is given up; modules' own time-outs are far below.
LONGEST_WAIT_S: Final = 60.0
MOST_SUSPENDED: Final = 20_000


class Cancellable(Protocol):
    def cancel(self) -> object: ...


class TooManySuspended(Exception):
    """As many routes wait as the limits allow; one more would have to."""


class WaitedTooLong(TimeoutError):
    """Thrown into a route whose wait exceeds the limit."""


class Stepper:
    """Steps coroutines and keeps the suspended ones."""

    def __init__(
        self,
        call_soon: Callable[..., object],
        call_later: Callable[..., Cancellable],
        *,
        most_suspended: int = MOST_SUSPENDED,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        self._call_soon = call_soon
        self._call_later = call_later
        self.most_suspended = most_suspended
        self.longest_wait_s = longest_wait_s
        self.suspended: set[Suspended] = set()
        # For the statistics.
        self.suspensions = 0
        self.refused = 0
        self.timed_out = 0

    def start(
        self,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any], None],
        failed: Callable[[BaseException], None],
    ) -> bool:
        """Step until the end or the first real wait. True when it has ended; `done` or `failed` follows in any case."""
        try:
            yielded = coroutine.send(None)
        except StopIteration as stop:
            done(stop.value)
            return True
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - told to whoever started it
            failed(error)
            return True
        return not self.suspend(coroutine, yielded, done, failed)

    def suspend(
        self,
        coroutine: Coroutine[Any, Any, Any],
        yielded: Any,
        done: Callable[[Any], None],
        failed: Callable[[BaseException], None],
    ) -> bool:
        """Keep a coroutine that has been stepped and yielded. False when the limit forbids it; `failed` was told."""
        if len(self.suspended) >= self.most_suspended:
            self.refused += 1
            self._abandon(coroutine, failed, TooManySuspended(f"{self.most_suspended} routes wait already"))
            return False
        self.suspensions += 1
        waiting = Suspended(self, coroutine, done, failed)
        self.suspended.add(waiting)
        waiting.timer = self._call_later(self.longest_wait_s, waiting.expire)
        waiting.wait_for(yielded)
        return True

    def _abandon(
        self, coroutine: Coroutine[Any, Any, Any], failed: Callable[[BaseException], None], reason: Exception
    ) -> None:
        try:
            coroutine.throw(reason)
        except StopIteration:
            pass
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
            failed(error)
            return
        else:
            coroutine.close()
        failed(reason)

    def cancel_all(self) -> None:
        """End every suspended run, as the server does when it stops."""
        for waiting in list(self.suspended):
            waiting.throw(asyncio.CancelledError())


class Suspended:
    """A coroutine that waits for a future."""

    __slots__ = ("_coroutine", "_done", "_failed", "_future", "_owner", "timer")

    def __init__(
        self,
        owner: Stepper,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._owner = owner
        self._coroutine = coroutine
        self._done = done
        self._failed = failed
        self._future: Any = None
        self.timer: Cancellable | None = None

    def wait_for(self, yielded: Any) -> None:
        """Go on when what the coroutine yielded is done."""
        if yielded is None:
            # A bare yield, as of sleep(0): one turn of the loop.
            self._future = None
            self._owner._call_soon(self._turn)
            return
        blocking = getattr(yielded, "_asyncio_future_blocking", None)
        if blocking is None:
            self.throw(RuntimeError(f"a route waited for {yielded!r}, which is no future"))
            return
        yielded._asyncio_future_blocking = False
        self._future = yielded
        yielded.add_done_callback(self._wake)

    def _wake(self, future: Any) -> None:
        if future is self._future:
            self._step()

    def _turn(self) -> None:
        if self in self._owner.suspended:
            self._step()

    def _step(self, error: BaseException | None = None) -> None:
        self._future = None
        try:
            yielded = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration as stop:
            self._end()
            self._done(stop.value)
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001
            self._end()
            self._failed(raised)
        else:
            self.wait_for(yielded)

    def throw(self, error: BaseException) -> None:
        """Raise `error` where the coroutine waits."""
        if self not in self._owner.suspended:
            return
        if self._future is not None:
            self._future.remove_done_callback(self._wake)
        self._step(error)

    def expire(self) -> None:
        """The wait has exceeded the limit. A route that catches this and waits on is not asked a second time."""
        self._owner.timed_out += 1
        self.throw(WaitedTooLong(f"gave up after {self._owner.longest_wait_s:.0f} s"))
        if self in self._owner.suspended:
            self._end()
            if self._future is not None:
                self._future.remove_done_callback(self._wake)
            self._coroutine.close()
            self._failed(WaitedTooLong("waited on after its time was over"))

    def _end(self) -> None:
        self._owner.suspended.discard(self)
        if self.timer is not None:
            self.timer.cancel()
