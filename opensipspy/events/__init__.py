"""Events: declaration, subscription, delivery."""

from .hub import Hub

__all__ = ["Hub"]
