"""When listeners rest before they look."""

from __future__ import annotations

from opensipspy.net.traffic import FAST_PER_S, PLENTY, REST_S, WINDOW, Pace


class Time:
    """A clock that goes on only when it is told to, or when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def paced(time: Time, per_s: float) -> Pace:
    """After two windows of datagrams that came singly at that rate."""
    pace = Pace(time, time.sleep)
    for _ in range(2 * WINDOW):
        time.now += 1 / per_s
        pace.took(1)
    return pace


def test_below_a_fast_rate_nobody_rests() -> None:
    assert not paced(Time(), FAST_PER_S / 2).rests
    assert paced(Time(), FAST_PER_S * 2).rests


def test_the_rest_ends_with_the_rush() -> None:
    time = Time()
    pace = paced(time, FAST_PER_S * 2)
    for _ in range(2 * WINDOW):
        time.now += 1 / 200
        pace.took(1)
    assert not pace.rests


def test_who_finds_plenty_does_not_rest() -> None:
    pace = paced(Time(), FAST_PER_S * 2)
    pace.took(PLENTY)
    assert not pace.rests
    pace.took(PLENTY - 1)
    assert pace.rests


def test_listeners_rest_in_turn_not_one_after_the_other() -> None:
    time = Time()
    pace = paced(time, FAST_PER_S * 2)
    first, second = object(), object()
    pace.rest(first)
    pace.rest(second)
    assert time.slept == [REST_S]
    pace.rest(first)
    assert time.slept == [REST_S] * 2
    time.now += 2 * REST_S
    pace.rest(second)
    assert time.slept == [REST_S] * 3
