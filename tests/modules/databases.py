"""A SQLite database with one empty table, for modules that read one."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from opensipspy.db import Database, Table, parse_url
from opensipspy.dbdrivers.db_sqlite import DbSqlite


@asynccontextmanager
async def database_with(table: Table) -> AsyncIterator[Database]:
    """The database; its file is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        url = parse_url(f"sqlite:{Path(folder) / 'tables.sqlite'}")
        driver = DbSqlite()
        await driver.create_tables(url, [table])
        database = DbSqlite(busy_timeout=10).open_database(url)
        try:
            yield database
        finally:
            await database.close()
