"""How much text the operator's own columns take, asked of servers that refuse a row for a character too much.

Without it a peer would stay out of the accounts by a long User-Agent that the script adds to its records.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from opensipspy.db import Database, DatabaseError, DbValue, as_int, as_text
from opensipspy.db.database import spelt

QUESTION: Final = (
    "SELECT column_name, character_maximum_length FROM information_schema.columns"
    " WHERE table_name = ? AND character_maximum_length IS NOT NULL AND table_schema = "
)
MYSQL: Final = "DATABASE()"
POSTGRES: Final = "ANY (current_schemas(false))"
SCHEMAS: Final = {"mysql": MYSQL, "postgres": POSTGRES, "postgresql": POSTGRES}
MOST_TABLES: Final = 64
"""The script names tables: no more of them are looked up."""


class Widths:
    """The widths of text columns, by table; none are known of back-ends that cut by themselves or never refuse."""

    def __init__(self, database: Database, log: logging.Logger) -> None:
        self._database = database
        self._log = log
        self._tables: dict[str, dict[str, int]] = {}
        self._asking: set[str] = set()
        self._told: set[tuple[str, str]] = set()

    def claim(self, table: str) -> bool:
        """Whether a table's columns should be asked for now, which the caller has to do with `learn`."""
        if (
            table in self._tables
            or table in self._asking
            or self._database.url.scheme not in SCHEMAS
            or len(self._tables) + len(self._asking) >= MOST_TABLES
        ):
            return False
        self._asking.add(table)
        return True

    async def learn(self, table: str) -> None:
        """Ask for the columns of a table that was claimed; a later record does it again when no answer came."""
        try:
            rows = await self._database.raw(QUESTION + SCHEMAS[self._database.url.scheme], (table,))
            self._tables[table] = {as_text(name): as_int(width) for name, width in rows}
        except (DatabaseError, ValueError) as error:
            self._log.info("acc: the columns of table %s are not known: %s", table, error)
        finally:
            self._asking.discard(table)

    def fitted(self, table: str, row: Mapping[str, DbValue]) -> dict[str, DbValue]:
        """The row with texts that their columns can hold."""
        widths = self._tables.get(table, {})
        found = dict(row)
        for column, value in row.items():
            width = widths.get(column)
            if width is None or not isinstance(value, str):
                continue
            # What is no text to the server is spelt out, and longer then.
            text = value if value.isascii() and "\0" not in value else str(spelt(value))
            if len(text) <= width:
                continue
            found[column] = text[:width]
            if (table, column) not in self._told:
                self._told.add((table, column))
                self._log.warning("acc: longer values of column %s of table %s are cut to %d", column, table, width)
        return found
