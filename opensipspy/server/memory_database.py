"""A database of made-up rows: SQLite in memory, so that raw queries of scripts work too; nothing waits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from opensipspy.db import (
    NO_DEFAULT,
    VERSION_TABLE,
    Condition,
    Database,
    DatabaseError,
    Databases,
    DbUrl,
    DbValue,
    SqlText,
    Table,
    Write,
    literal,
    parse_url,
)
from opensipspy.server.answers import Answers

MOST_SHOWN: Final = 5

Told = Callable[[str, str, bool], None]


class MemoryDatabase(Database):
    """The rows of `Answers`, in the tables of the loaded modules. told(question, answer, whether it was given)."""

    def __init__(self, url: DbUrl, answers: Answers, tables: Sequence[Table], told: Told) -> None:
        super().__init__(url)
        self._text = SqlText()
        self._answers = answers
        self._told = told
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._tables = {table.name for table in tables}
        for table in (VERSION_TABLE, *tables):
            self._make(table)
        for name, rows in answers.tables.items():
            self._fill(name, rows)

    def _make(self, table: Table) -> None:
        columns = []
        for column in table.columns:
            kind = "INTEGER PRIMARY KEY" if column.autoincrement else ""
            default = "" if column.default is NO_DEFAULT or column.autoincrement else f" DEFAULT {literal(column)}"
            columns.append(f'"{column.name}" {kind}{default}')
        self._connection.execute(f'CREATE TABLE "{table.name}" ({", ".join(columns)})')
        keys = [index.columns for index in table.indexes if index.unique]
        keys += [tuple(c.name for c in table.columns if c.primary and not c.autoincrement)]
        for number, key in enumerate(key for key in keys if key):
            names = ", ".join(f'"{name}"' for name in key)
            self._connection.execute(f'CREATE UNIQUE INDEX "{table.name}_{number}" ON "{table.name}" ({names})')
        if table.version is not None:
            self._connection.execute('INSERT INTO "version" VALUES (?, ?)', (table.name, table.version))

    def _fill(self, name: str, rows: list[dict[str, Any]]) -> None:
        if name not in self._tables:
            names = dict.fromkeys(column for row in rows for column in row)
            listed = ", ".join(self._text.name(column) for column in names) or '"id"'
            self._connection.execute(f"CREATE TABLE {self._text.name(name)} ({listed})")
        for row in rows:
            marks = ", ".join("?" * len(row))
            listed = ", ".join(self._text.name(column) for column in row)
            self._ask(f"INSERT INTO {self._text.name(name)} ({listed}) VALUES ({marks})", list(row.values()))

    def _ask(self, sql: str, args: Sequence[Any]) -> sqlite3.Cursor:
        try:
            return self._connection.execute(sql, [bound(value) for value in args])
        except (sqlite3.Error, ValueError) as error:
            raise DatabaseError(str(error)) from error

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        sql, args = self._text.select(table, columns, where, order, limit)
        question = f"{', '.join(columns) or '*'} from {table}{conditions(where)}"
        try:
            rows = self._ask(sql, args).fetchall()
        except DatabaseError as error:
            self._told(question, str(error), False)
            raise
        if table != VERSION_TABLE.name:
            self._told(question, rows_text(rows), table in self._answers.tables)
        return rows

    async def execute(self, writes: Sequence[Write]) -> list[int]:
        counts = []
        for write in writes:
            sql, args = self._text.write(write)
            what = f"{type(write).__name__.lower()} {write.table}"
            row = getattr(write, "row", None)
            if row:
                what += " " + ", ".join(f"{name}={value!r}" for name, value in row.items())
            try:
                count = max(0, self._ask(sql, args).rowcount)
            except DatabaseError as error:
                self._told(what, str(error), False)
                raise
            self._told(what, f"{count} rows", True)
            counts.append(count)
        return counts

    async def raw(self, sql: str, args: Sequence[DbValue] = ()) -> list[tuple[DbValue, ...]]:
        rows = self._answers.query_for(sql)
        if rows is None:
            try:
                rows = self._ask(sql, args).fetchall()
            except DatabaseError as error:
                self._told(sql, f"no answer given, and {error}", False)
                raise
        self._told(sql, rows_text(rows), True)
        return rows

    async def close(self) -> None:
        await super().close()
        self._connection.close()


class MemoryDatabases(Databases):
    """Every URL is answered from memory, whatever its driver; URLs do not differ."""

    def __init__(self, answers: Answers, tables: Sequence[Table], told: Told) -> None:
        super().__init__()
        self._made: MemoryDatabase | None = None
        self._answers = answers
        self._all = {table.name: table for table in tables}
        self._note = told

    def get(self, url: str) -> Database:
        if self._made is None:
            try:
                parsed = parse_url(url)
            except ValueError as error:
                raise DatabaseError(str(error)) from error
            tables = [table for table in self._all.values() if table.name != VERSION_TABLE.name]
            self._made = MemoryDatabase(parsed, self._answers, tables, self._note)
        return self._made

    async def close(self) -> list[DatabaseError]:
        if self._made is not None:
            await self._made.close()
        return []


def bound(value: Any) -> Any:
    """A value as SQLite takes it."""
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, dict | list):
        raise ValueError(f"{value!r} is no value of a column")
    return value


def conditions(where: Sequence[Condition]) -> str:
    """Conditions as a reader wants them."""
    parts = [f"{column}{operator}{value!r}" for column, operator, value in where]
    return " where " + " and ".join(parts) if parts else ""


def rows_text(rows: Sequence[tuple[Any, ...]]) -> str:
    """The first rows of a result in one line."""
    if not rows:
        return "no rows"
    more = f" and {len(rows) - MOST_SHOWN} more" if len(rows) > MOST_SHOWN else ""
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}: " + ", ".join(map(repr, rows[:MOST_SHOWN])) + more
