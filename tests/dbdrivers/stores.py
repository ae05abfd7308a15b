"""Real key-value stores for tests: one kind of store, its server, and playing a scenario on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from opensipspy.cachedb import CacheDb, CacheDbDriver, RemoteCacheDb
from opensipspy.db import DbDriver, parse_url
from opensipspy.module import Module
from opensipspy.module.testing import FakeCore
from tests.backends import BackendServer

Scenario = Callable[[CacheDb], Coroutine[Any, Any, None]]


class RealClock(FakeCore):
    """A core whose seconds are those of the event loop, for stores whose servers have clocks of their own."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()


# Its client waits for a connection to a dead server as long as it may.
BRIEF = ("cachedb_memcached",)


class StoreKind:
    """A driver with its server. own_clock: the server measures expiry itself, so tests wait for it.

    wants: which of "octets" (values that are no UTF-8), "nul", "spaces" (keys with them), "signs" (negative counters)
    and "large" (10 MB) the back-end can do. lacks: "truncate" when it cannot be emptied.
    """

    def __init__(
        self,
        driver: type[Module],
        url: str,
        server: BackendServer | None,
        *,
        own_clock: bool = True,
        wants: str = "octets nul spaces signs large",
        lacks: str = "",
        sql: tuple[type[Any], str] | None = None,
        **params: Any,
    ) -> None:
        self.driver = driver
        self.url = url
        self.server = server
        self.own_clock = own_clock
        self.wants = wants.split()
        self.lacks = lacks.split()
        self.sql = sql
        self.params = params

    def open(self) -> tuple[FakeCore, CacheDb]:
        core = FakeCore()
        # Servers compare what they are told with their own clocks.
        core.wall = time.time()
        if self.sql is not None:
            kind, url = self.sql
            sql_driver = core.add(kind())
            assert isinstance(sql_driver, DbDriver)
            core.databases[url] = sql_driver.open_database(parse_url(url))
        module = core.add(self.driver(cachedb_url=self.url, **self.params))
        assert isinstance(module, CacheDbDriver)
        store = core.cachedb(self.url)
        if isinstance(store, RemoteCacheDb) and "query_timeout" not in self.params and self.driver.name not in BRIEF:
            # Much at a time takes long on a loaded machine.
            store.limits.query_s = 60.0
        return core, store

    def play(self, scenario: Callable[[CacheDb, FakeCore], Coroutine[Any, Any, None]]) -> None:
        """Run a scenario on an empty store."""

        async def run() -> None:
            core, store = self.open()
            try:
                if "truncate" not in self.lacks:
                    await store.truncate()
                await scenario(store, core)
            finally:
                await core.cachedbs.close()
                for database in core.databases.values():
                    await database.close()

        asyncio.run(asyncio.wait_for(run(), 60.0))
