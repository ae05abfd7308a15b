"""Events reach who listens, and nobody waits for a slow or dead subscriber."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

import pytest

from opensipspy.events import Hub, SubscribeError, Transport


class Line(Transport):
    """Delivers at once, or when `gate` opens, or fails."""

    scheme = "line"

    def __init__(self) -> None:
        self.sent: list[tuple[str, Mapping[str, object]]] = []
        self.gate: asyncio.Event | None = None
        self.error: OSError | None = None
        self.forgotten: list[str] = []

    def parse(self, address: str) -> str:
        if not address:
            raise ValueError("an address is needed")
        return address.lower()

    def deliver(self, address: str, name: str, params: Mapping[str, object]) -> Awaitable[None] | None:
        if self.error is not None:
            raise self.error
        if self.gate is None:
            self.sent.append((address, params))
            return None
        return self._later(address, params)

    async def _later(self, address: str, params: Mapping[str, object]) -> None:
        assert self.gate is not None
        await self.gate.wait()
        self.sent.append((address, params))

    def forget(self, address: str) -> None:
        self.forgotten.append(address)


class Clock:
    now = 50.0


def make(**options: Any) -> tuple[Hub, Line, Clock]:
    clock, line = Clock(), Line()
    hub = Hub(now=lambda: clock.now, **options)
    hub.add_transport(line)
    hub.declare("E_A", [("x", "int")], module="m")
    return hub, line, clock


def test_listeners_and_subscribers_get_the_event() -> None:
    hub, line, _ = make()
    heard: list[Any] = []
    assert not hub.wanted("E_A")
    end = hub.listen("E_A", lambda name, params: heard.append((name, dict(params))))
    hub.subscribe("E_A", "line:One")
    assert hub.wanted("E_A")
    hub.raise_event("E_A", {"x": 1})
    assert heard == [("E_A", {"x": 1})]
    assert line.sent == [("one", {"x": 1})]
    end()
    end()
    hub.unsubscribe("E_A", "line:ONE")
    assert not hub.wanted("E_A")
    assert not hub.unsubscribe("E_A", "line:one")
    assert line.forgotten == ["one"]


def test_a_subscription_ends_at_its_expiry_unless_it_is_refreshed() -> None:
    hub, line, clock = make()
    hub.subscribe("E_A", "line:a", 60)
    clock.now += 50
    first = hub.subscribe("E_A", "line:a", 60)
    assert hub.subscriptions("E_A") == [first], "one subscription, not two"
    clock.now += 59
    hub.raise_event("E_A")
    clock.now += 1
    assert not hub.wanted("E_A")
    hub.raise_event("E_A")
    assert len(line.sent) == 1
    hub.subscribe("E_A", "line:a")
    clock.now += 1e9
    assert hub.wanted("E_A"), "without an expiry it stays"


@pytest.mark.parametrize(
    ("event", "socket", "reason"),
    [
        ("E_NO", "line:a", "not declared"),
        ("E_A", "line:", "an address is needed"),
        ("E_A", "other:a", "schemes: line"),
        ("E_A", "line", "no transport"),
    ],
)
def test_wrong_subscriptions_are_refused(event: str, socket: str, reason: str) -> None:
    with pytest.raises(SubscribeError, match=reason):
        make()[0].subscribe(event, socket)


def test_a_failing_listener_keeps_the_event_from_nobody(caplog: pytest.LogCaptureFixture) -> None:
    hub, line, _ = make()

    def fail(name: str, params: object) -> None:
        raise RuntimeError("broken listener")

    hub.listen("E_A", fail)
    hub.subscribe("E_A", "line:a")
    hub.raise_event("E_A", {"x": 2})
    assert line.sent == [("a", {"x": 2})]
    assert "broken listener" in caplog.text


def test_a_dead_subscriber_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    hub, line, _ = make()
    found = hub.subscribe("E_A", "line:a")
    line.error = ConnectionRefusedError(111, "refused")
    for _ in range(5):
        hub.raise_event("E_A")
    assert (found.failed, found.delivered) == (5, 0)
    assert caplog.text.count("refused") == 1
    line.error = None
    hub.raise_event("E_A")
    assert found.delivered == 1


def test_a_slow_subscriber_has_a_bounded_queue_and_others_are_not_held_up(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        hub, line, _ = make(queue_limit=3)
        quick = Line()
        quick.scheme = "quick"
        hub.add_transport(quick)
        line.gate = asyncio.Event()
        slow = hub.subscribe("E_A", "line:slow")
        hub.subscribe("E_A", "quick:q")
        for i in range(10):
            hub.raise_event("E_A", {"x": i})
        assert [params["x"] for _, params in quick.sent] == list(range(10))
        assert slow.dropped == 6
        assert slow.worker is not None
        line.gate.set()
        await slow.worker
        assert [params["x"] for _, params in line.sent] == [0, 1, 2, 3], "one under way, three queued, in order"
        assert slow.delivered == 4

    asyncio.run(scenario())
    assert caplog.text.count("too slow") == 1


def test_events_that_raise_themselves_end(caplog: pytest.LogCaptureFixture) -> None:
    hub, _, _ = make()
    count = [0]

    def again(name: str, params: object) -> None:
        count[0] += 1
        hub.raise_event("E_A")

    hub.listen("E_A", again)
    hub.raise_event("E_A")
    assert count == [8]
    assert "8 events inside each other" in caplog.text


def test_declarations_are_numbered_in_order() -> None:
    hub, line, _ = make()
    assert hub.declare("E_B").id == 1
    assert hub.declare("E_A").id == 0, "the same event"
    found = hub.event("E_A")
    assert found is not None
    assert found.params == (("x", "int"),)
    with pytest.raises(ValueError, match="exists already"):
        hub.add_transport(line)
