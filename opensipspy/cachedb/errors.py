"""The one error that an operation on a key-value store ends with."""

from __future__ import annotations


class CacheError(OSError):
    """The store refused, or could not be reached.

    It is an OSError because script functions and management commands, which know nothing of stores, treat it as what
    it mostly is: something outside that does not answer. transient: the same operation may succeed later (server
    down, no answer in time); False for what stays wrong: a key that the protocol cannot carry, a counter that is no
    number. duplicate: a document with the same unique key exists already. The text never holds a password.
    """

    def __init__(self, reason: str, *, transient: bool = False, duplicate: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.transient = transient
        self.duplicate = duplicate
