"""Keys and values in a table of an SQL database: `cachedb`, or the one that `db_table` names.

A URL is `sql:NAME-` and the URL of the database, as in `sql:1st-mysql://user:password@host/name`; scripts call its
store `sql:1st-mysql`. The SQL driver of that database has to be loaded too. Text that the table's columns cannot hold
(octets that are no UTF-8, NUL in PostgreSQL, more than the column's size in MySQL) is refused by the database.

Counters are changed only where they are still what was read, and tried again otherwise, so that servers that share
the table lose no count.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from opensipspy.cachedb import CacheDb, CacheDbDriver, CacheError, CacheUrl, to_counter
from opensipspy.db import Column, Database, DatabaseError, DbValue, Index, Table, as_int, as_text, auto_id
from opensipspy.module import Module, Param, Timer

TRIES: Final = 200
"""How often a counter is read and changed when others are quicker."""

LATEST: Final = 2**31 - 1


class Names(NamedTuple):
    """Of the table and its columns."""

    table: str
    key: str
    value: str
    counter: str
    expires: str


class SqlStore(CacheDb):
    """A table behind a URL."""

    def __init__(self, url: CacheUrl, database: Database, names: Names, wall: Any) -> None:
        super().__init__(url)
        self._database = database
        self._names = names
        self._wall = wall

    def _failure(self, error: DatabaseError) -> CacheError:
        self.failures += 1
        return CacheError(str(error), transient=error.transient)

    def _until(self, expire_s: int) -> int:
        # The column of the C server's schema has 32 bits without a sign; PostgreSQL's of them one less.
        return min(int(self._wall()) + expire_s, LATEST) if expire_s > 0 else 0

    async def _row(self, key: str) -> tuple[str, int, int] | None:
        """(value, counter, expires) of a key that has not expired."""
        names = self._names
        columns = (names.value, names.counter, names.expires)
        self.operations += 1
        try:
            rows = await self._database.select(names.table, columns, ((names.key, "=", key),), limit=1)
        except DatabaseError as error:
            raise self._failure(error) from error
        if not rows:
            return None
        expires = as_int(rows[0][2])
        if expires and expires <= self._wall():
            return None
        return as_text(rows[0][0]), as_int(rows[0][1]), expires

    async def fetch(self, key: str) -> str | None:
        row = await self._row(key)
        return None if row is None else row[0]

    async def store(self, key: str, value: str | int, expire_s: int = 0) -> None:
        names = self._names
        text = str(value)
        number = int(text) if is_number(text) else 0
        row: dict[str, DbValue] = {
            names.key: key,
            names.value: text,
            names.counter: number,
            names.expires: self._until(expire_s),
        }
        self.operations += 1
        try:
            await self._database.insert_update(names.table, row, (names.key,))
        except DatabaseError as error:
            raise self._failure(error) from error

    async def remove(self, key: str) -> bool:
        self.operations += 1
        try:
            return bool(await self._database.delete(self._names.table, ((self._names.key, "=", key),)))
        except DatabaseError as error:
            raise self._failure(error) from error

    async def add(self, key: str, amount: int, expire_s: int = 0) -> int:
        names = self._names
        for _ in range(TRIES):
            row = await self._row(key)
            try:
                if row is None:
                    await self._database.delete(
                        names.table,
                        ((names.key, "=", key), (names.expires, "!=", 0), (names.expires, "<=", int(self._wall()))),
                    )
                    number = to_counter(amount)
                    new: dict[str, DbValue] = {names.key: key, names.value: str(number), names.counter: number}
                    await self._database.insert(names.table, {**new, names.expires: self._until(expire_s)})
                    return amount
                value, counter, expires = row
                # A counter that the C server wrote has no text.
                old = to_counter(value) if value else counter
                number = to_counter(old + amount)
                changed: dict[str, DbValue] = {names.value: str(number), names.counter: number}
                changed[names.expires] = self._until(expire_s) or expires
                where = ((names.key, "=", key), (names.value, "=", value), (names.counter, "=", counter))
                if not amount or await self._database.update(names.table, changed, where):
                    return number
            except DatabaseError as error:
                if not error.duplicate:
                    raise self._failure(error) from error
        raise CacheError(f"{self.url}: others change the counter all the time", transient=True)

    async def fetch_counter(self, key: str) -> int | None:
        row = await self._row(key)
        if row is None:
            return None
        return to_counter(row[0]) if row[0] else row[1]

    async def truncate(self) -> None:
        try:
            await self._database.delete(self._names.table)
        except DatabaseError as error:
            raise self._failure(error) from error

    async def expire(self) -> None:
        """Remove the rows whose time is over."""
        names = self._names
        await self._database.delete(names.table, ((names.expires, "!=", 0), (names.expires, "<=", int(self._wall()))))


class CachedbSql(CacheDbDriver, Module):
    """Keep keys and values in a table of an SQL database."""

    name = "cachedb_sql"
    kind = "cachedb"
    schemes = ("sql",)
    tables = (
        Table(
            "cachedb",
            2,
            (
                auto_id(),
                Column("keyname", "string", 255),
                Column("value", "text", 512),
                Column("counter", "int", 10, default="0"),
                Column("expires", "unsigned int", 10, default="0"),
            ),
            (Index("cachedbsql_keyname_idx", ("keyname",), unique=True),),
        ),
    )

    cache_clean_period = Param(int, 60, "How often expired rows are removed.", unit="s")
    cachedb_url = Param(str, None, '"sql:NAME-" and the URL of a database.', repeated=True, func=True)
    counter_column = Param(str, "counter", "The column of counters.")
    db_table = Param(str, "cachedb", "The table.")
    expires_column = Param(str, "expires", "The column of the time when a row expires, seconds since 1970.")
    key_column = Param(str, "keyname", "The column of keys.")
    value_column = Param(str, "value", "The column of values.")

    cleaning = Timer("cache_clean_period", "clean")

    async def start(self) -> None:
        for url in self._urls:
            # A URL that no loaded driver serves is found now, not at the first call.
            self.core.cachedb(url.text)

    def check_url(self, url: CacheUrl) -> None:
        if "-" not in url.group:
            raise CacheError("the URL looks like sql:NAME-mysql://user:password@host/database")

    def open_store(self, url: CacheUrl) -> SqlStore:
        self.check_url(url)
        scheme = url.group.partition("-")[2]
        database = self.core.database(scheme + "://" + url.text.partition("://")[2])
        names = Names(self.db_table, self.key_column, self.value_column, self.counter_column, self.expires_column)
        return SqlStore(url, database, names, self.core.time)

    async def clean(self) -> None:
        """Remove expired rows."""
        for url in self._urls:
            store = self.core.cachedb(url.text)
            if isinstance(store, SqlStore):
                try:
                    await store.expire()
                except DatabaseError as error:
                    self.core.log.error("cachedb_sql: expired rows stay: %s", error)


def is_number(text: str) -> bool:
    """Whether a text is what a counter looks like, and fits its column."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 10
