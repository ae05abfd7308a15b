"""Tables of an older layout: what is new in them, what goes, and the statement that takes their rows over.

A table is never altered in place: the old one is kept under another name (`subscriber_v6`), a new one is made and the
columns that both have are copied. NULL becomes the default of a column that takes none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from opensipspy.db.schema import INTEGER_TYPES, NO_DEFAULT, Column, Table
from opensipspy.db.sql import SqlText, literal


class OldTable:
    """A table that is there in an older version. backup: the name under which it is kept."""

    __slots__ = ("backup", "columns", "rows", "table", "version")

    def __init__(self, table: Table, version: int, columns: Sequence[str], rows: int, names: Collection[str]) -> None:
        """columns: those that are there, in whatever case. names: of all tables of the database."""
        self.table = table
        self.version = version
        self.columns = {name.lower(): name for name in columns}
        self.rows = rows
        number = 1
        self.backup = f"{table.name}_v{version}"
        while self.backup in names:
            number += 1
            self.backup = f"{table.name}_v{version}_{number}"

    @property
    def kept(self) -> list[Column]:
        """The columns that the old and the new table have."""
        return [column for column in self.table.columns if column.name.lower() in self.columns]

    @property
    def added(self) -> list[str]:
        return [column.name for column in self.table.columns if column.name.lower() not in self.columns]

    @property
    def dropped(self) -> list[str]:
        new = {column.name.lower() for column in self.table.columns}
        return [name for lower, name in self.columns.items() if lower not in new]

    @property
    def too_new(self) -> bool:
        """Whether a newer program made it: it is left alone."""
        return self.version > (self.table.version or 0)

    def plan(self) -> str:
        """One line for the operator."""
        if self.too_new:
            return f"{self.table.name}: version {self.version} is newer than {self.table.version}; left alone"
        changes = [f"version {self.version} to {self.table.version}, {self.rows} rows"]
        if self.added:
            changes.append(f"new columns {', '.join(self.added)}")
        if self.dropped:
            changes.append(f"without the columns {', '.join(self.dropped)}")
        return f"{self.table.name}: {'; '.join(changes)}; the old table is kept as {self.backup}"

    def copy(self, text: SqlText, source: str, target: str, cast: Callable[[Column, str], str] | None = None) -> str:
        """The statement that copies the rows. cast: an expression's own as one of a column's type."""
        columns = self.kept
        expressions = []
        for column in columns:
            name = text.name(self.columns[column.name.lower()])
            expression = cast(column, name) if cast else name
            expressions.append(expression if column.null else f"COALESCE({expression}, {instead_of_null(column)})")
        names = ", ".join(text.name(column.name) for column in columns)
        return f"INSERT INTO {text.name(target)} ({names}) SELECT {', '.join(expressions)} FROM {text.name(source)}"


def instead_of_null(column: Column) -> str:
    """What a column that takes no NULL holds instead, as SQL."""
    if column.default is not NO_DEFAULT and column.default is not None:
        return literal(column)
    if column.type in INTEGER_TYPES or column.type in ("float", "double"):
        return "0"
    return "'1970-01-01 00:00:00'" if column.type == "datetime" else "''"


def old_tables(tables: Sequence[Table], versions: dict[str, int], names: Collection[str]) -> list[tuple[Table, int]]:
    """Those of the tables that are there in another version, with that version."""
    return [
        (table, versions[table.name])
        for table in tables
        if table.name in names and table.name in versions and versions[table.name] != table.version
    ]
