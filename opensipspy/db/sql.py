"""The text of statements, for the drivers that speak SQL.

Names are checked and quoted; values are never a part of the text but arguments beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import Final

from opensipspy.db.database import OPERATORS, Condition, DbValue, Delete, Insert, InsertUpdate, Replace, Update, Write
from opensipspy.db.errors import DatabaseError
from opensipspy.db.schema import INTEGER_TYPES, VERSION_TABLE, Column, Table
from opensipspy.db.url import DbUrl

Args = list[DbValue]

TRANSACTION_WORDS: Final = frozenset({"begin", "start", "commit", "rollback", "savepoint", "release", "end", "abort"})


class SqlText:
    """Writes statements for one kind of back-end. The base class writes standard SQL with `?` for arguments."""

    quote = '"'
    backslashes: bool | None = False
    """See `Database.backslashes`."""

    def mark(self, number: int) -> str:
        """What stands for the argument of this number, counted from 1."""
        return "?"

    def name(self, name: str) -> str:
        """An identifier; raises DatabaseError for one that cannot be a name of a table or a column."""
        if not name.replace("_", "").isalnum() or not name.isascii():
            raise DatabaseError(f"{name!r} is no name of a table or column")
        return f"{self.quote}{name}{self.quote}"

    def where(self, where: Sequence[Condition], args: Args) -> str:
        """The conditions with " WHERE " before them, "" without any; their values are appended to `args`."""
        parts = []
        for column, operator, value in where:
            if operator not in OPERATORS:
                raise DatabaseError(f"{operator!r} is no comparison")
            if value is None and operator in ("=", "!="):
                parts.append(f"{self.name(column)} IS {'NOT ' if operator == '!=' else ''}NULL")
            else:
                args.append(value)
                parts.append(f"{self.name(column)} {operator} {self.mark(len(args))}")
        return " WHERE " + " AND ".join(parts) if parts else ""

    def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition], order: str, limit: int
    ) -> tuple[str, Args]:
        """The statement and arguments of `Database.select`; without columns all of them."""
        args: Args = []
        names = ", ".join([self.name(column) for column in columns]) if columns else "*"
        sql = f"SELECT {names} FROM {self.name(table)}{self.where(where, args)}"
        if order:
            parts = []
            for item in order.split(","):
                column, _, direction = item.strip().partition(" ")
                if direction.strip().lower() not in ("", "asc", "desc"):
                    raise DatabaseError(f"{order!r} is no order")
                parts.append(f"{self.name(column)} {direction.strip()}".rstrip())
            sql += " ORDER BY " + ", ".join(parts)
        if limit > 0:
            args.append(limit)
            sql += f" LIMIT {self.mark(len(args))}"
        return sql, args

    def write(self, write: Write) -> tuple[str, Args]:
        """The statement and arguments of a write."""
        args: Args = []
        if isinstance(write, Delete):
            return f"DELETE FROM {self.name(write.table)}{self.where(write.where, args)}", args
        if not write.row:
            raise DatabaseError(f"a write to {write.table} without columns")
        if isinstance(write, Update):
            settings = []
            for column, value in write.row.items():
                args.append(value)
                settings.append(f"{self.name(column)} = {self.mark(len(args))}")
            conditions = self.where(write.where, args)
            return f"UPDATE {self.name(write.table)} SET {', '.join(settings)}{conditions}", args
        if isinstance(write, Insert):
            return f"INSERT {self.into(write, args)}", args
        if isinstance(write, Replace):
            return self.replace(write, args), args
        return self.insert_update(write, args), args

    def into(self, write: Insert | Replace | InsertUpdate, args: Args) -> str:
        """ "INTO table (columns) VALUES (...)" """
        args += write.row.values()
        names = ", ".join([self.name(column) for column in write.row])
        marks = ", ".join([self.mark(number) for number in range(1, len(write.row) + 1)])
        return f"INTO {self.name(write.table)} ({names}) VALUES ({marks})"

    def replace(self, write: Replace, args: Args) -> str:
        return f"REPLACE {self.into(write, args)}"

    def insert_update(self, write: InsertUpdate, args: Args) -> str:
        rest = [self.name(column) for column in write.row if column not in write.keys]
        settings = ", ".join([f"{name} = excluded.{name}" for name in rest])
        keys = ", ".join([self.name(key) for key in write.keys])
        action = f"DO UPDATE SET {settings}" if rest else "DO NOTHING"
        return f"INSERT {self.into(write, args)} ON CONFLICT ({keys}) {action}"


def numbered_marks(sql: str, sign: str = "$") -> str:
    """`?` as `$1`, `$2`...: outside of quoted texts, quoted names and comments."""
    out = []
    at = number = 0
    while at < len(sql):
        char = sql[at]
        if char == "?":
            number += 1
            out.append(f"{sign}{number}")
            at += 1
            continue
        end = _end_of_quoted(sql, at)
        out.append(sql[at:end])
        at = end
    return "".join(out)


def _end_of_quoted(sql: str, at: int) -> int:
    """Behind the text, name or comment that begins here; the next character when none does."""
    for begin, end in (("'", "'"), ('"', '"'), ("`", "`"), ("--", "\n"), ("/*", "*/")):
        if sql.startswith(begin, at):
            found = sql.find(end, at + len(begin))
            return len(sql) if found < 0 else found + len(end)
    return at + 1


def check_single(sql: str) -> None:
    """Raises DatabaseError for text that is more than one statement, or that begins or ends a transaction.

    For back-ends whose client would run all that stands in a text, so that an injected statement would be run, too.
    """
    word = re.match(r"\s*([A-Za-z]*)", sql)
    if word is not None and word[1].lower() in TRANSACTION_WORDS:
        raise DatabaseError(f"{word[1]}: a raw statement cannot be a part of a transaction")
    at = 0
    while at < len(sql):
        if sql[at] == ";" and sql[at + 1 :].strip("; \t\r\n"):
            raise DatabaseError("a raw statement is one statement only")
        at = _end_of_quoted(sql, at)


def literal(column: Column) -> str:
    """A column's default as SQL."""
    value = column.default
    if value is None:
        return "NULL"
    if column.type in INTEGER_TYPES:
        return str(int(str(value)))
    if column.type in ("float", "double"):
        return str(float(str(value)))
    return "'" + str(value).replace("'", "''") + "'"


def missing_tables(url: DbUrl, tables: Sequence[Table], there: Set[str], versions: Mapping[str, int]) -> list[Table]:
    """The tables that have to be made; raises DatabaseError when one is there in another version."""
    found = []
    for table in tables:
        if table.name == VERSION_TABLE.name:
            continue
        if table.name not in there:
            found.append(table)
        elif versions.get(table.name) != table.version:
            raise DatabaseError(
                f"{url}: table {table.name} is there in version {versions.get(table.name, 'unknown')},"
                f" {table.version} is needed; nothing was changed"
            )
    return found
