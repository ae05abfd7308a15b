"""Drivers by the scheme of their URL, and the databases that are open."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import ClassVar, Final

from opensipspy.db.database import Database, Watcher
from opensipspy.db.errors import DatabaseError
from opensipspy.db.migration import OldTable
from opensipspy.db.schema import VERSION_TABLE, Table
from opensipspy.db.url import DbUrl, parse_url

FLUSH_S: Final = 0.5
"""How long all databases are waited for together at the end, before each in its turn."""


class DbDriver(ABC):
    """A back-end: what a module of `dbdrivers/` is beside being a module."""

    schemes: ClassVar[Sequence[str]] = ()
    """The URL schemes that the driver serves."""

    declared: Mapping[str, Table] = MappingProxyType({})
    """The tables that the loaded modules declare, for back-ends that keep no keys or columns of their own."""

    @abstractmethod
    def open_database(self, url: DbUrl) -> Database:
        """The database of a URL; it connects when first used. Raises DatabaseError for a URL that cannot be right."""

    @abstractmethod
    async def create_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[str]:
        """Make the database and those of the tables that are missing, with their version rows.

        Returns the names of the tables made. Raises DatabaseError when a table is there in another version: nothing is
        changed then, and existing tables never are.
        """

    def unique_keys(self, table: str) -> list[tuple[str, ...]]:
        """The unique keys of a declared table, its primary key first; none of a table that nobody declares."""
        found = VERSION_TABLE if table == VERSION_TABLE.name else self.declared.get(table)
        if found is None:
            return []
        primary = tuple(column.name for column in found.columns if column.primary)
        keys = [index.columns for index in found.indexes if index.unique]
        return [primary, *keys] if primary else keys

    async def old_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[OldTable]:
        """Those of the tables that are there in another version. Raises DatabaseError."""
        raise DatabaseError(f"{url}: tables of {url.scheme} cannot be upgraded")

    async def migrate_table(self, url: DbUrl, old: OldTable) -> int:
        """Make the table in its new layout with the rows of the old one, which is kept as `old.backup`.

        Returns the number of rows. Raises DatabaseError; the table is as it was then.
        """
        raise DatabaseError(f"{url}: tables of {url.scheme} cannot be upgraded")


class Databases:
    """The databases of one server: modules that name the same URL share one `Database`."""

    def __init__(self) -> None:
        self._drivers: dict[str, DbDriver] = {}
        self._open: dict[str, Database] = {}
        self._tables: dict[str, Table] = {}
        self._version_table = VERSION_TABLE.name
        self._buffered_writes = 0
        self._flush_s = 0.0
        self._watcher: Watcher | None = None

    def watch(self, watcher: Watcher) -> None:
        """Tell of each database when it is opened, lost, and available again."""
        self._watcher = watcher

    def configure(self, *, version_table: str = "", buffered_writes: int = 0, flush_s: float = 0.0) -> None:
        """The globals db_version_table, query_buffer_size (rows) and query_flush_time (seconds; 0: no limit)."""
        self._version_table = version_table or VERSION_TABLE.name
        self._buffered_writes = buffered_writes
        self._flush_s = flush_s

    def add(self, driver: DbDriver) -> None:
        """Let the driver serve its schemes."""
        driver.declared = self._tables
        for scheme in driver.schemes:
            self._drivers[scheme] = driver

    def declare(self, tables: Sequence[Table]) -> None:
        """The tables of a loaded module, for the drivers."""
        for table in tables:
            self._tables.setdefault(table.name, table)

    def get(self, url: str) -> Database:
        """The database behind a URL; raises DatabaseError for a bad URL and for one whose driver is not loaded."""
        found = self._open.get(url)
        if found is None:
            try:
                parsed = parse_url(url)
            except ValueError as error:
                raise DatabaseError(str(error)) from error
            driver = self._drivers.get(parsed.scheme)
            if driver is None:
                near = get_close_matches(parsed.scheme, list(self._drivers), n=1)
                hint = f"did you mean {near[0]}?" if near else f'loadmodule "db_{parsed.scheme}.so" is missing?'
                raise DatabaseError(f"no driver for {parsed.scheme} URLs is loaded ({hint})")
            found = driver.open_database(parsed)
            found.version_table = self._version_table
            found.buffered_writes = self._buffered_writes
            found.flush_s = self._flush_s
            found.watcher = self._watcher
            if self._watcher is not None:
                self._watcher(str(found.url), found.available, "")
            self._open[url] = found
        return found

    @property
    def open(self) -> list[Database]:
        """The databases in use."""
        return list(self._open.values())

    async def close(self) -> list[DatabaseError]:
        """Flush and close all of them; returns what went wrong, for the log.

        The last that was opened comes first: it may stand on others, which were opened for it. What is queued leaves
        at the same time for all, so that one that does not answer takes no time from the others.
        """
        failures = []
        waiting = list(self._open.values())
        flushing = [asyncio.ensure_future(database.flush()) for database in waiting if database.queued]
        for task in flushing:  # what went wrong is told by close()
            task.add_done_callback(lambda task: None if task.cancelled() else task.exception())
        try:
            if flushing:
                await asyncio.wait(flushing, timeout=FLUSH_S)
            while waiting:
                try:
                    await waiting.pop().close()
                except DatabaseError as error:
                    failures.append(error)
        except asyncio.CancelledError:
            for database in waiting:
                database.tell_lost()
            raise
        finally:
            self._open.clear()
        return failures
