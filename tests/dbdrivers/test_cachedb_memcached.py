"""cachedb_memcached beside the conformance suite."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from opensipspy.cachedb import CacheDb, CacheError
from opensipspy.dbdrivers.cachedb_memcached import CachedbMemcached
from opensipspy.module.testing import FakeCore
from tests.backends import MemcachedServer


def play(url: str, scenario: Callable[[CacheDb], Awaitable[None]]) -> None:
    async def run() -> None:
        core = FakeCore()
        module = core.add(CachedbMemcached(cachedb_url=url))
        try:
            await module.start()
            await scenario(core.cachedb(url))
        finally:
            await core.cachedbs.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_counters_stop_at_zero_and_have_no_spaces(memcached_server: MemcachedServer) -> None:
    async def scenario(store: CacheDb) -> None:
        await store.truncate()
        assert await store.sub("down", 3) == 0
        assert await store.add("n", 100) == 100
        assert await store.sub("n", 95) == 5
        assert await store.fetch_counter("n") == 5
        assert await store.sub("n", 95) == 0

    play(memcached_server.url("g"), scenario)


@pytest.mark.parametrize("key", ["", "x" * 251, "é" * 126, "a b", "a\r\nset b 0 0 1", "\x7f", "\0"])
def test_keys_that_the_protocol_cannot_carry(memcached_server: MemcachedServer, key: str) -> None:
    async def scenario(store: CacheDb) -> None:
        with pytest.raises(CacheError, match="1 to 250 octets"):
            await store.store(key, "x")
        assert store.available

    play(memcached_server.url("g"), scenario)


def test_a_value_that_is_too_large_is_refused(memcached_server: MemcachedServer) -> None:
    async def scenario(store: CacheDb) -> None:
        with pytest.raises(CacheError):
            await store.store("large", "x" * (17 << 20))
        await store.store("small", "x")
        assert await store.fetch("small") == "x"

    play(memcached_server.url("g"), scenario)


def test_keys_are_spread_over_servers(memcached_server: MemcachedServer) -> None:
    other = MemcachedServer()
    try:
        other.start()
        both = f"memcached:two://127.0.0.1:{memcached_server.port},127.0.0.1:{other.port}/"

        async def scenario(store: CacheDb) -> None:
            await store.truncate()
            for number in range(60):
                await store.store(f"key{number}", str(number))
            assert [await store.fetch(f"key{n}") for n in range(60)] == [str(n) for n in range(60)]

        play(both, scenario)

        async def half(store: CacheDb) -> None:
            found = [await store.fetch(f"key{n}") for n in range(60)]
            assert 0 < sum(value is not None for value in found) < 60

        play(other.url("one"), half)
    finally:
        other.stop()
