"""Events: who declares them, who listens, and how a slow listener is kept from holding up the one who raises.

A listener is either a callable of this process (event routes, other modules), called at once, or a subscription to an
address such as `udp:10.0.0.5:8888`, carried by the `Transport` of its scheme. Delivery that cannot be done at once goes
through a queue of the subscription; when it is full the newest event is dropped and counted: nobody waits for a
subscriber. A subscription ends at its expiry and is refreshed by subscribing again to the same address.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

LOG: Final = logging.getLogger(__name__)

QUEUE_LIMIT: Final = 1000
"""Events that may wait for one subscriber."""
SUBSCRIBER_LIMIT: Final = 1000
"""Subscriptions to one event."""
DEPTH_LIMIT: Final = 8
"""Events raised by listeners of events, one inside the other."""
DEFAULT_EXPIRE_S: Final = 3600
"""Expiry of a subscription made by a management command that names none."""

Params = Mapping[str, object]
Listener = Callable[[str, Params], object]


class SubscribeError(ValueError):
    """The event, the scheme or the address of a subscription is wrong, or there are too many."""


class EventDecl:
    """A declared event. `id` counts from 0 in the order of declaration; params are (name, "int" | "string" | "")."""

    __slots__ = ("id", "module", "name", "params")

    def __init__(self, id: int, name: str, params: Sequence[tuple[str, str]], module: str) -> None:
        self.id = id
        self.name = name
        self.params = tuple(params)
        self.module = module


class Transport(ABC):
    """Carries events to addresses of one scheme."""

    scheme: str

    @abstractmethod
    def parse(self, address: str) -> str:
        """The address in its one canonical spelling, without the scheme; raises ValueError when it is none."""

    @abstractmethod
    def deliver(self, address: str, name: str, params: Params) -> Awaitable[None] | None:
        """Send one event. What is returned is awaited before the next one to this subscriber; raises OSError."""

    def forget(self, address: str) -> None:  # noqa: B027 - most transports keep nothing per address
        """The last subscription to the address has ended."""


class Subscription:
    """One address that wants one event. `expires_at` is on the hub's clock, None for never."""

    __slots__ = (
        "address",
        "delivered",
        "dropped",
        "event",
        "expire_s",
        "expires_at",
        "failed",
        "failing",
        "queue",
        "transport",
        "worker",
    )

    def __init__(self, event: str, transport: Transport, address: str) -> None:
        self.event = event
        self.transport = transport
        self.address = address
        self.expire_s = 0
        self.expires_at: float | None = None
        self.queue: deque[Params] = deque()
        self.worker: asyncio.Task[Any] | None = None
        self.delivered = 0
        self.dropped = 0
        self.failed = 0
        self.failing = False

    @property
    def socket(self) -> str:
        """The address as it was subscribed: `scheme:address`."""
        return f"{self.transport.scheme}:{self.address}"


class Hub:
    """The declared events of one server and who listens to them.

    now: a clock that only goes forward, seconds. spawn: starts a delivery in the background (`core.spawn`).
    """

    def __init__(
        self,
        now: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]] | None = None,
        *,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._now = now
        self._spawn = spawn or _create_task
        self._queue_limit = queue_limit
        self._events: dict[str, EventDecl] = {}
        self._transports: dict[str, Transport] = {}
        self._listeners: dict[str, list[Listener]] = {}
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._depth = 0

    # --- declarations

    def declare(self, name: str, params: Sequence[tuple[str, str]] = (), *, module: str = "") -> EventDecl:
        """Make an event known; a second declaration of a name is the same event."""
        found = self._events.get(name)
        if found is None:
            found = self._events[name] = EventDecl(len(self._events), name, params, module)
        return found

    def events(self) -> list[EventDecl]:
        return list(self._events.values())

    def event(self, name: str) -> EventDecl | None:
        return self._events.get(name)

    def add_transport(self, transport: Transport) -> None:
        """Carry events of `transport.scheme`; raises ValueError when the scheme is taken."""
        if transport.scheme in self._transports:
            raise ValueError(f"a transport for {transport.scheme}: exists already")
        self._transports[transport.scheme] = transport

    # --- listening

    def listen(self, name: str, listener: Listener) -> Callable[[], None]:
        """Call `listener(name, params)` for each event of that name; returns what ends it.

        The event may be declared later, by a module that is loaded after the listener.
        """
        self._listeners.setdefault(name, []).append(listener)

        def end() -> None:
            left = self._listeners.get(name, [])
            if listener in left:
                left.remove(listener)
            if not left:
                self._listeners.pop(name, None)

        return end

    def subscribe(self, name: str, socket: str, expire_s: int | None = None) -> Subscription:
        """Send each event of that name to `scheme:address`; a known address is refreshed. None never expires.

        Raises SubscribeError.
        """
        if name not in self._events:
            raise SubscribeError(f"event {name} is not declared")
        transport, address = self._address(socket)
        subscriptions = self._alive(name)
        found = next((s for s in subscriptions if s.transport is transport and s.address == address), None)
        if found is None:
            if len(subscriptions) >= SUBSCRIBER_LIMIT:
                raise SubscribeError(f"event {name} has {SUBSCRIBER_LIMIT} subscribers already")
            found = Subscription(name, transport, address)
            self._subscriptions.setdefault(name, []).append(found)
        found.expire_s = expire_s or 0
        found.expires_at = None if expire_s is None else self._now() + expire_s
        return found

    def unsubscribe(self, name: str, socket: str) -> bool:
        """End a subscription; False when there is none."""
        found = self.subscription(name, socket)
        if found is None:
            return False
        self._end(found)
        return True

    def subscription(self, name: str, socket: str) -> Subscription | None:
        """The living subscription of an address; raises SubscribeError when the address is none."""
        transport, address = self._address(socket)
        alive = self._alive(name)
        return next((s for s in alive if s.transport is transport and s.address == address), None)

    def subscriptions(self, name: str) -> list[Subscription]:
        """The living subscriptions to an event."""
        return list(self._alive(name))

    def _address(self, socket: str) -> tuple[Transport, str]:
        scheme, colon, rest = socket.partition(":")
        transport = self._transports.get(scheme)
        if not colon or transport is None:
            known = ", ".join(sorted(self._transports)) or "none loaded"
            raise SubscribeError(f"no transport for {socket!r} (schemes: {known})")
        try:
            return transport, transport.parse(rest)
        except ValueError as error:
            raise SubscribeError(f"{socket!r}: {error}") from error

    def _alive(self, name: str) -> list[Subscription]:
        subscriptions = self._subscriptions.get(name)
        if not subscriptions:
            return []
        now = self._now()
        for expired in [s for s in subscriptions if s.expires_at is not None and s.expires_at <= now]:
            self._end(expired)
        return self._subscriptions.get(name, [])

    def _end(self, subscription: Subscription) -> None:
        left = self._subscriptions[subscription.event]
        left.remove(subscription)
        if not left:
            del self._subscriptions[subscription.event]
        subscription.queue.clear()
        transport, address = subscription.transport, subscription.address
        if not any(
            s.transport is transport and s.address == address for kept in self._subscriptions.values() for s in kept
        ):
            transport.forget(address)

    # --- raising

    def wanted(self, name: str) -> bool:
        """Whether anybody listens: ask before collecting parameters."""
        return name in self._listeners or (name in self._subscriptions and bool(self._alive(name)))

    def raise_event(self, name: str, params: Params | None = None) -> None:
        """Tell everybody who listens. A listener that fails is logged and does not keep it from the others."""
        if self._depth >= DEPTH_LIMIT:
            LOG.warning("event %s is not raised: %d events inside each other", name, DEPTH_LIMIT)
            return
        self._depth += 1
        try:
            given = dict(params or {})
            for listener in list(self._listeners.get(name, ())):
                try:
                    listener(name, given)
                except Exception:
                    LOG.exception("a listener of event %s failed", name)
            for subscription in list(self._alive(name)):
                self._offer(subscription, given)
        finally:
            self._depth -= 1

    def _offer(self, subscription: Subscription, params: Params) -> None:
        """Deliver at once when that takes no waiting and nothing is queued, else through the queue."""
        if subscription.worker is not None:
            if len(subscription.queue) >= self._queue_limit:
                if subscription.dropped == 0:
                    LOG.warning(
                        "subscriber %s of %s is too slow, events are dropped", subscription.socket, subscription.event
                    )
                subscription.dropped += 1
                return
            subscription.queue.append(params)
            return
        try:
            pending = subscription.transport.deliver(subscription.address, subscription.event, params)
        except OSError as error:
            self._failure(subscription, error)
            return
        if pending is None:
            self._success(subscription)
            return
        name = f"event {subscription.event} to {subscription.socket}"
        subscription.worker = self._spawn(self._drain(subscription, pending), name)

    async def _drain(self, subscription: Subscription, pending: Awaitable[None] | None) -> None:
        try:
            while True:
                try:
                    if pending is not None:
                        await pending
                    self._success(subscription)
                except OSError as error:
                    self._failure(subscription, error)
                except Exception:
                    subscription.failed += 1
                    LOG.exception("event %s to %s", subscription.event, subscription.socket)
                pending = None
                if not subscription.queue:
                    return
                params = subscription.queue.popleft()
                try:
                    pending = subscription.transport.deliver(subscription.address, subscription.event, params)
                except OSError as error:
                    self._failure(subscription, error)
        finally:
            subscription.worker = None

    @staticmethod
    def _success(subscription: Subscription) -> None:
        subscription.delivered += 1
        if subscription.failing:
            subscription.failing = False
            LOG.info("subscriber %s of %s is reached again", subscription.socket, subscription.event)

    @staticmethod
    def _failure(subscription: Subscription, error: OSError) -> None:
        subscription.failed += 1
        if not subscription.failing:
            # Once per change of state: a dead subscriber of a busy event would fill the log.
            subscription.failing = True
            LOG.warning("subscriber %s of %s: %s", subscription.socket, subscription.event, error)


def _create_task(coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro, name=name)
