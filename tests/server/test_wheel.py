"""Timers: what is armed fires once, in order, never early; what is cancelled never does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from opensipspy.server.wheel import TICK_S, Wheel


def fire(wheel: Wheel, now: float) -> list[object]:
    """What is due at `now`, as the arguments the calls were armed with."""
    fired: list[object] = []
    for timer in wheel.due(now):
        fn, args = timer.take()
        if fn is not None:
            fn(*args)
            fired.extend(args)
    return fired


def ignore(*args: object) -> None:
    """The call itself is not looked at."""


def test_a_timer_fires_at_its_time_and_once() -> None:
    wheel = Wheel()
    wheel.add(100.0, 0.5, ignore, ("a",))
    assert fire(wheel, 100.49) == []
    assert fire(wheel, 100.5 + TICK_S) == ["a"]
    assert fire(wheel, 200.0) == []
    assert len(wheel) == 0


def test_timers_fire_in_the_order_of_their_times() -> None:
    wheel = Wheel()
    for delay in (3.0, 1.0, 2.0):
        wheel.add(0.0, delay, ignore, (delay,))
    assert fire(wheel, 10.0) == [1.0, 2.0, 3.0]


def test_a_cancelled_timer_is_forgotten_at_once() -> None:
    """A transaction that ends early must not be kept in memory by its timers."""
    wheel = Wheel()
    timer = wheel.add(0.0, 32.0, ignore, (object(),))
    assert timer.pending
    timer.cancel()
    timer.cancel()
    assert not timer.pending
    assert timer.args == ()
    assert len(wheel) == 0
    assert wheel.next_wake() == -1.0
    assert fire(wheel, 100.0) == []


def test_a_timer_may_cancel_another_of_the_same_tick() -> None:
    wheel = Wheel()
    fired: list[str] = []
    second = None

    def first() -> None:
        fired.append("first")
        assert second is not None
        second.cancel()

    wheel.add(0.0, 1.0, first, ())
    second = wheel.add(0.0, 1.0, fired.append, ("second",))
    for timer in wheel.due(2.0):
        fn, args = timer.take()
        if fn is not None:
            fn(*args)
    assert fired == ["first"]


def test_next_wake_is_the_earliest_pending_timer() -> None:
    wheel = Wheel()
    assert wheel.next_wake() == -1.0
    wheel.add(0.0, 5.0, ignore, ())
    early = wheel.add(0.0, 1.0, ignore, ())
    assert 1.0 <= wheel.next_wake() <= 1.0 + 2 * TICK_S
    early.cancel()
    assert 5.0 <= wheel.next_wake() <= 5.0 + 2 * TICK_S


def test_a_negative_delay_fires_at_the_next_turn() -> None:
    wheel = Wheel()
    wheel.add(50.0, -3.0, ignore, ("now",))
    assert fire(wheel, 50.0 + TICK_S) == ["now"]


def test_far_timers_share_ticks() -> None:
    """However many registrations expire in the coming hour, the heap holds one entry a second."""
    wheel = Wheel()
    for number in range(10_000):
        wheel.add(0.0, 3600.0 + number / 10_000, ignore, (number,))
    assert len(wheel._ticks) <= 3


@given(st.lists(st.floats(min_value=0.0, max_value=4000.0), max_size=50), st.floats(min_value=0.0, max_value=1e6))
def test_no_timer_is_early_and_none_more_than_its_coarseness_late(delays: list[float], start: float) -> None:
    wheel = Wheel()
    for delay in delays:
        wheel.add(start, delay, ignore, (delay,))
    seen: list[object] = []
    while (at := wheel.next_wake()) >= 0.0:
        for delay in fire(wheel, at + TICK_S / 2):
            assert isinstance(delay, float)
            coarse = TICK_S if delay < 10 else 0.1 if delay < 300 else 1.0
            assert start + delay - 1e-6 <= at + TICK_S / 2
            assert at <= start + delay + 2 * coarse + 1e-6
            seen.append(delay)
    assert sorted(seen) == sorted(delays)  # type: ignore[type-var]
