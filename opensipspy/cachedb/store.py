"""What modules and scripts ask of a key-value store.

Keys and values are text: UTF-8 with `surrogateescape`, so that any bytes of a message come back as they were. Counters
are whole numbers in the same key space. `expire_s` is in whole seconds, 0 keeps a key for ever.

Operations of remote stores await plain futures only, so that script coroutines, which run without a task, may call
them. A store in our own memory is an `InstantCacheDb`: it also answers without being awaited.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final

from opensipspy.cachedb.errors import CacheError
from opensipspy.cachedb.url import CacheUrl

CacheValue = int | str | None
Pairs = Mapping[str, CacheValue]
"""Names and values of one entry of a map; None removes a name."""
Map = dict[str, dict[str, str | int]]

NUMBER: Final = re.compile(rb"[+-]?[0-9]{1,64}")
LARGEST_COUNTER: Final = 2**63 - 1
SMALLEST_COUNTER: Final = -(2**63)


def to_bytes(text: str) -> bytes:
    """The octets of a key or value."""
    return text.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    """The text of octets that a store gave back."""
    return data.decode("utf-8", "surrogateescape")


def to_counter(text: str | bytes | int) -> int:
    """The number that a value stands for; raises CacheError when it stands for none."""
    if not isinstance(text, int):
        digits = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        if NUMBER.fullmatch(digits) is None:
            raise CacheError("the value is no whole number")
    number = int(text)
    if not SMALLEST_COUNTER <= number <= LARGEST_COUNTER:
        raise CacheError("the counter does not fit into 64 bits")
    return number


Watcher = Callable[[str, bool, str], None]
"""Told of a store that is lost or comes back: its URL without the password, whether it is available, and why not."""


class CacheDb(ABC):
    """One store behind one URL, shared by all that name it. Every operation raises `CacheError` only."""

    maps = False
    """Whether the operations `map_*` work."""

    def __init__(self, url: CacheUrl) -> None:
        self.url = url
        self.available = True
        self.watcher: Watcher | None = None
        # For the statistics; slow: took longer than the operator wants.
        self.operations = 0
        self.failures = 0
        self.slow = 0

    @abstractmethod
    async def fetch(self, key: str) -> str | None:
        """The value of a key, None when there is none."""

    @abstractmethod
    async def store(self, key: str, value: str | int, expire_s: int = 0) -> None:
        """Keep a value in place of any other."""

    @abstractmethod
    async def remove(self, key: str) -> bool:
        """Forget a key. True when it was there, as far as the back-end tells."""

    @abstractmethod
    async def add(self, key: str, amount: int, expire_s: int = 0) -> int:
        """Add to a counter in one step, from 0 when there is none; returns the new value."""

    async def sub(self, key: str, amount: int, expire_s: int = 0) -> int:
        """Subtract from a counter in one step; returns the new value."""
        return await self.add(key, -amount, expire_s)

    async def fetch_counter(self, key: str) -> int | None:
        """The value of a counter, None when there is none."""
        value = await self.fetch(key)
        return None if value is None else to_counter(value)

    async def raw_query(self, query: str) -> list[list[CacheValue]]:
        """Run a query in the store's own language; rows of values."""
        raise CacheError(f"{self.url}: {self.url.scheme} has no raw queries")

    async def map_get(self, key: str) -> Map:
        """All entries of a map by their subkey."""
        raise CacheError(f"{self.url}: {self.url.scheme} keeps no maps")

    async def map_set(self, key: str, subkey: str, pairs: Pairs) -> None:
        """Set names and values of one entry of a map; other names of the entry stay."""
        raise CacheError(f"{self.url}: {self.url.scheme} keeps no maps")

    async def map_remove(self, key: str, subkey: str = "") -> None:
        """Remove an entry of a map; without a subkey the whole map."""
        raise CacheError(f"{self.url}: {self.url.scheme} keeps no maps")

    async def truncate(self) -> None:
        """Forget every key."""
        raise CacheError(f"{self.url}: {self.url.scheme} cannot be emptied")

    async def connect(self) -> None:  # noqa: B027 - most stores have nothing to do
        """Reach the back-end now, so that the first operation need not; CacheError when it is away."""

    async def ping(self) -> None:
        """Ask the back-end for a sign of life."""
        await self.fetch("opensipspy:ping")

    async def close(self) -> None:  # noqa: B027 - most stores have nothing to do
        """Let go of the back-end; the object is not used again."""


class InstantCacheDb(CacheDb):
    """A store that answers at once. Its plain functions are for callers that must not wait."""

    @abstractmethod
    def fetch_now(self, key: str) -> str | None:
        """As `fetch`."""

    @abstractmethod
    def store_now(self, key: str, value: str | int, expire_s: int = 0) -> None:
        """As `store`."""

    @abstractmethod
    def remove_now(self, key: str) -> bool:
        """As `remove`."""

    @abstractmethod
    def add_now(self, key: str, amount: int, expire_s: int = 0) -> int:
        """As `add`."""

    @abstractmethod
    def fetch_counter_now(self, key: str) -> int | None:
        """As `fetch_counter`."""

    async def fetch(self, key: str) -> str | None:
        return self.fetch_now(key)

    async def store(self, key: str, value: str | int, expire_s: int = 0) -> None:
        self.store_now(key, value, expire_s)

    async def remove(self, key: str) -> bool:
        return self.remove_now(key)

    async def add(self, key: str, amount: int, expire_s: int = 0) -> int:
        return self.add_now(key, amount, expire_s)

    async def fetch_counter(self, key: str) -> int | None:
        return self.fetch_counter_now(key)
