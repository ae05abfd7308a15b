"""The databases and key-value stores of a running server, for its management commands and statistics."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from opensipspy.cachedb import CacheDbs
from opensipspy.db import Databases
from opensipspy.management import CacheControl, Statistics, StatusReports

READY: Final = 1
AWAY: Final = -1


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


def report_back_end(status: StatusReports, group: str, name: str, available: bool, reason: str) -> None:
    """Show in the status reports whether a back-end answers; `name` is its URL without the password."""
    known = name in (status.group(group) or {})
    status.set_status(group, READY if available else AWAY, reason or "available", name)
    if known:
        status.report(group, f"not available: {reason}" if not available else "available again", name)


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


def count_queries(stats: Statistics, databases: Databases) -> None:
    """The statistics of the group `sql`."""
    stats.computed(
        "sql",
        "sql_total_queries",
        lambda: sum(database.queries for database in databases.open),
        help="Operations that SQL servers answered.",
    )
    stats.computed(
        "sql",
        "sql_slow_queries",
        lambda: sum(database.slow_queries for database in databases.open),
        help="Operations of SQL servers that took longer than their exec_query_threshold.",
    )
