"""The wheel: nothing early, nothing late, nothing left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from opensipspy.transaction.timers import NEVER, Timed, Wheel


def timed(wheel: Wheel, end_at: float, resend_at: float = NEVER) -> Timed:
    machine = Timed()
    machine.end_at = end_at
    machine.resend_at = resend_at
    wheel.arm(machine)
    return machine


def test_the_nearest_timer_counts() -> None:
    """A machine sits in the bucket of the timer that is due first."""
    wheel = Wheel()
    machine = timed(wheel, 30.0, 0.5)
    assert wheel.next_wake() == 0.5
    assert wheel.due(0.49) == []
    assert wheel.due(0.5) == [machine]
    assert wheel.next_wake() is None


def test_a_timer_moved_forward_is_put_right_when_its_old_time_comes() -> None:
    """Each provisional response moves timer C: that has to be cheap."""
    wheel = Wheel()
    machine = timed(wheel, 1.0)
    machine.end_at = 5.0
    wheel.arm(machine)
    assert wheel.due(1.0) == [machine]
    wheel.arm(machine)
    assert wheel.due(4.99) == []
    assert wheel.due(5.0) == [machine]


def test_a_timer_moved_back_fires_at_its_new_time() -> None:
    """An earlier deadline takes the machine out of its bucket."""
    wheel = Wheel()
    machine = timed(wheel, 120.0)
    machine.end_at = 1.0
    wheel.arm(machine)
    assert wheel.due(1.0) == [machine]
    assert wheel.due(200.0) == []


def test_a_machine_without_timers_is_let_go() -> None:
    """Nothing keeps an ended transaction in memory."""
    wheel = Wheel()
    machine = timed(wheel, 9.0)
    machine.end_at = NEVER
    wheel.arm(machine)
    assert len(wheel) == 0
    assert wheel.next_wake() is None
    wheel.disarm(machine)
    assert machine.tick == 0


@given(st.lists(st.floats(0.0, 50.0), min_size=1, max_size=30))
def test_each_timer_fires_within_a_tick_after_its_time(times: list[float]) -> None:
    """10 ms is the resolution; never early, in order."""
    wheel = Wheel()
    machines = [timed(wheel, at) for at in times]
    seen: list[Timed] = []
    at = wheel.next_wake()
    while at is not None:
        for machine in wheel.due(at):
            assert machine.end_at - 1e-6 <= at <= machine.end_at + 0.01 + 1e-6
            seen.append(machine)
        at = wheel.next_wake()
    assert sorted(id(m) for m in seen) == sorted(id(m) for m in machines)
