"""The link to a neighbour: pings that are answered in time keep it up. Pure; the time is handed in."""

from __future__ import annotations

from typing import Final

UP: Final = "Up"
PROBING: Final = "Probe"
DOWN: Final = "Down"

LONG_AGO: Final = float("-inf")


class LinkTimes:
    """Seconds: between pings, until a ping counts as lost, and until one that is down is tried again."""

    __slots__ = ("interval_s", "rest_s", "timeout_s")

    def __init__(self, interval_s: float, timeout_s: float, rest_s: float) -> None:
        self.interval_s = interval_s
        self.timeout_s = timeout_s
        self.rest_s = rest_s


class Link:
    """States: up; probing, while pings are sent one after the other; down, until `rest_s` have passed or it is heard.

    A ping and `retries` more are sent before a link that was not up is down. One that is up and misses an answer is
    probed at once, and not used meanwhile.
    """

    __slots__ = ("_answered_at", "_left", "_pinged_at", "_times", "retries", "state")

    def __init__(self, times: LinkTimes, retries: int) -> None:
        self.retries = retries
        self.state = PROBING
        self._times = times
        self._pinged_at = LONG_AGO
        self._answered_at = LONG_AGO
        self._left = retries + 1

    @property
    def up(self) -> bool:
        return self.state == UP

    def tick(self, now: float) -> bool:
        """Let time pass; whether a ping has to be sent now. The state may be another one afterwards."""
        waited = now - self._pinged_at
        times = self._times
        if self.state == UP:
            if self._answered_at >= self._pinged_at:
                if waited < times.interval_s:
                    return False
            elif waited < times.timeout_s:
                return False
            else:
                return self._probe(now, self.retries)
        elif self.state == PROBING:
            if waited < times.timeout_s:
                return False
            return self._probe(now, self._left)
        elif waited < times.rest_s:
            return False
        else:
            return self._probe(now, self.retries + 1)
        self._pinged_at = now
        return True

    def _probe(self, now: float, left: int) -> bool:
        if left <= 0:
            self.state = DOWN
            return False
        self.state = PROBING
        self._left = left - 1
        self._pinged_at = now
        return True

    def restart(self) -> None:
        """Ask anew: the next tick sends a ping."""
        self.state = PROBING
        self._left = self.retries + 1
        self._pinged_at = LONG_AGO

    def answered(self, now: float) -> bool:
        """An answer has come; whether the link is up by that."""
        self._answered_at = now
        if self.state == UP:
            return False
        if self._pinged_at == LONG_AGO:
            # Nothing was asked since it was to be asked anew.
            return False
        self.state = UP
        return True

    def disable(self) -> None:
        """Down for as long as nobody restarts it."""
        self.state = DOWN
