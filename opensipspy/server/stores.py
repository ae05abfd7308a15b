"""The key-value stores of a running server, for its management commands and statistics."""

from __future__ import annotations

from collections.abc import Awaitable

from opensipspy.cachedb import CacheDbs
from opensipspy.management import CacheControl, Statistics


class NamedStores(CacheControl):
    """`CacheControl` on the stores that scripts name."""

    def __init__(self, stores: CacheDbs) -> None:
        self._stores = stores

    def fetch(self, system: str, key: str) -> Awaitable[str | None]:
        return self._stores.named(system).fetch(key)

    def store(self, system: str, key: str, value: str, expire_s: int) -> Awaitable[None]:
        return self._stores.named(system).store(key, value, expire_s)

    async def remove(self, system: str, key: str) -> None:
        await self._stores.named(system).remove(key)


def count_stores(stats: Statistics, stores: CacheDbs) -> None:
    """The statistics of the group `cdb`."""
    stats.computed(
        "cdb",
        "cdb_total_queries",
        lambda: sum(store.operations for store in stores.open),
        help="Operations asked of key-value stores.",
    )
    stats.computed(
        "cdb",
        "cdb_slow_queries",
        lambda: sum(store.slow for store in stores.open),
        help="Operations of key-value stores that took longer than their exec_threshold.",
    )
