"""memcached, through emcache. The URL is `memcached:group://host:port,host:port/`; keys are spread over the hosts.

A key has at most 250 octets, none of them a space or a control character: others are refused here, so that no key can
carry a command. A counter never goes below 0 and has no sign; a value has at most the server's item size (1 MB unless
it was started with `-I`).
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Final

from opensipspy.cachedb import (
    CacheDbDriver,
    CacheError,
    CacheUrl,
    Limits,
    RemoteCacheDb,
    to_bytes,
    to_counter,
    to_text,
)
from opensipspy.module import Module, Param, StartError

DEFAULT_PORT: Final = 11211
MAX_KEY: Final = 250
LONGEST_S: Final = 30 * 86400
"""Longer times are taken for seconds since 1970."""
LATEST: Final = 2**31 - 1
"""The last second that all of its versions know."""
TIMEOUT_S: Final = 5.0
CONNECTIONS: Final = 4
TRIES: Final = 5
NEEDS: Final = "cachedb_memcached needs the Python package emcache: pip install 'opensipspy[memcached]'"


class MemcachedStore(RemoteCacheDb):
    """Servers of memcached behind a URL."""

    def __init__(self, url: CacheUrl, limits: Limits, wall: Callable[[], float]) -> None:
        super().__init__(url, limits)
        self._wall = wall
        self._client: Any = None
        self._emcache: Any = None

    async def open_client(self) -> None:
        self._emcache = emcache = importlib.import_module("emcache")
        hosts = self.url.hosts or (("localhost", 0),)
        self._addresses = [emcache.MemcachedHostAddress(host, port or DEFAULT_PORT) for host, port in hosts]
        # A connection that cannot be made is waited for in the background by emcache: see first whether there is one.
        for address in self._addresses:
            _, writer = await asyncio.open_connection(address.address, address.port)
            writer.close()
            await writer.wait_closed()
        self._client = await emcache.create_client(
            self._addresses,
            timeout=self.limits.query_s,
            connection_timeout=self.limits.connect_s,
            max_connections=CONNECTIONS,
        )
        await self.greet()

    async def close_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def greet(self) -> None:
        for address in self._addresses:
            await self._live.version(address)

    @property
    def _live(self) -> Any:
        if self._client is None:
            raise ConnectionError("the connection was closed")
        return self._client

    def explain(self, error: Exception) -> CacheError | None:
        emcache = self._emcache
        text = f"{self.url}: {' '.join(str(error).split())[:300] or type(error).__name__}"
        if isinstance(error, emcache.ClusterNoAvailableNodes | OSError | asyncio.IncompleteReadError):
            return CacheError(text, transient=True)
        if isinstance(error, emcache.CommandError | emcache.StorageCommandError | ValueError):
            return CacheError(f"{self.url}: {type(error).__name__}")  # its words may hold what was refused
        return None

    def _name(self, key: str) -> bytes:
        name = to_bytes(key)
        if not name or len(name) > MAX_KEY or any(octet <= 32 or octet == 127 for octet in name):
            raise CacheError(f"{self.url}: a key has 1 to {MAX_KEY} octets without spaces and control characters")
        return name

    def _until(self, expire_s: int) -> int:
        if expire_s <= LONGEST_S:
            return max(0, expire_s)
        return min(int(self._wall()) + expire_s, LATEST)

    async def fetch(self, key: str) -> str | None:
        name = self._name(key)
        item = await self.ask(lambda: self._live.get(name), "get")
        # Counters that have become shorter are padded with spaces.
        return None if item is None else to_text(item.value)

    async def store(self, key: str, value: str | int, expire_s: int = 0) -> None:
        name = self._name(key)
        data = to_bytes(str(value))
        await self.ask(lambda: self._live.set(name, data, exptime=self._until(expire_s)), "set")

    async def remove(self, key: str) -> bool:
        name = self._name(key)

        async def work() -> bool:
            try:
                await self._live.delete(name)
            except self._emcache.NotFoundCommandError:
                return False
            return True

        return await self.ask(work, "delete")

    async def add(self, key: str, amount: int, expire_s: int = 0) -> int:
        name = self._name(key)
        until = self._until(expire_s)

        async def work() -> int:
            for _ in range(TRIES):
                try:
                    if amount >= 0:
                        value = await self._live.increment(name, amount)
                    else:
                        value = await self._live.decrement(name, -amount)
                except self._emcache.NotFoundCommandError:
                    first = max(0, amount)
                    try:
                        await self._live.add(name, b"%d" % first, exptime=until)
                    except self._emcache.NotStoredStorageCommandError:
                        continue  # another one was quicker
                    return first
                except ValueError as error:  # emcache looks for a number in whatever the server says
                    raise CacheError(f"{self.url}: the value is no whole number, or the amount too large") from error
                if until:
                    await self._live.touch(name, until)
                return to_counter(value)
            raise CacheError(f"{self.url}: the counter comes and goes", transient=True)

        return await self.ask(work, "incr", repeatable=False)

    async def fetch_counter(self, key: str) -> int | None:
        value = await self.fetch(key)
        return None if value is None else to_counter(value.strip())

    async def truncate(self) -> None:
        async def work() -> None:
            for address in self._addresses:
                await self._live.flush_all(address)

        await self.ask(work, "flush_all")


class CachedbMemcached(CacheDbDriver, Module):
    """Keep keys and values in memcached."""

    name = "cachedb_memcached"
    kind = "cachedb"
    schemes = ("memcached",)

    cachedb_url = Param(str, None, "memcached:group://host:port,host:port/; may be given several times.", func=True)
    exec_threshold = Param(int, 0, "Operations that take longer are logged; 0 none.", unit="us")

    async def start(self) -> None:
        if importlib.util.find_spec("emcache") is None:
            raise StartError(NEEDS)
        await asyncio.to_thread(importlib.import_module, "emcache")
        await self.connect_all(self.core.cachedb)

    def open_store(self, url: CacheUrl) -> MemcachedStore:
        limits = Limits(TIMEOUT_S, TIMEOUT_S, max(0, self.exec_threshold) / 1e6)
        return MemcachedStore(url, limits, self.core.time)
