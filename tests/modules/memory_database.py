"""A database in memory for the tests of modules: rows are dicts, and it can be away."""

from __future__ import annotations

from collections.abc import Sequence

from opensipspy.db import Condition, Database, DatabaseError, DbValue, Insert, Write, parse_url


class MemoryDatabase(Database):
    """tables: name -> rows. versions: name -> version. away: every call fails until it is False again.

    asked: (table, columns, where) of each select. refuses: writes fail for good.
    """

    def __init__(self, tables: dict[str, list[dict[str, DbValue]]] | None = None, **versions: int) -> None:
        super().__init__(parse_url("memory:test"))
        self.tables = tables or {}
        self.versions = versions
        self.away = False
        self.refuses = False
        self.asked: list[tuple[str, tuple[str, ...], tuple[Condition, ...]]] = []

    def _reach(self) -> None:
        if self.away:
            error = DatabaseError("gone", transient=True)
            self.note_failure(error)
            raise error
        self.note_success()

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        self._reach()
        if table == "version":
            return [(self.versions[str(value)],) for _, _, value in where if value in self.versions]
        self.asked.append((table, tuple(columns), tuple(where)))
        if table not in self.tables:
            raise DatabaseError(f"no such table: {table}")
        rows = [row for row in self.tables[table] if all(row.get(column) == value for column, _, value in where)]
        return [tuple(row[column] for column in columns) for row in rows[: limit or None]]

    async def execute(self, writes: Sequence[Write]) -> list[int]:
        self._reach()
        if self.refuses:
            raise DatabaseError("does not fit")
        for write in writes:
            assert isinstance(write, Insert)
            self.tables.setdefault(write.table, []).append(dict(write.row))
        return [1] * len(writes)

    async def raw(self, sql: str, args: Sequence[DbValue] = ()) -> list[tuple[DbValue, ...]]:
        self._reach()
        return []
