"""Events: declaration, subscription with expiry, delivery that never waits for a subscriber."""

from .hub import DEFAULT_EXPIRE_S, EventDecl, Hub, Listener, SubscribeError, Subscription, Transport

__all__ = ["DEFAULT_EXPIRE_S", "EventDecl", "Hub", "Listener", "SubscribeError", "Subscription", "Transport"]
