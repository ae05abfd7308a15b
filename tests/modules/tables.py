"""A module on real SQLite tables: made in a folder of the test, filled with SQL, seen through a FakeCore."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from opensipspy.db import Database, Table, parse_url
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.module import Module
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.script.run import Run
from opensipspy.sip import Peer

URL = "sqlite:test"


def make_tables(path: Path, *tables: Table) -> None:
    asyncio.run(DbSqlite().create_tables(parse_url(f"sqlite:{path}"), list(tables)))


def change(path: Path, sql: str, rows: Sequence[Sequence[object]] = ((),)) -> None:
    connection = sqlite3.connect(path)
    connection.executemany(sql, rows)
    connection.commit()
    connection.close()


class House:
    """A core with the module under test."""

    def __init__(self, core: FakeCore) -> None:
        self.core = core
        self.run: Run = make_run(request(), core=core)

    def new(self, source: Peer | None = None, **message: Any) -> Run:
        self.run = make_run(request(**message), core=self.core, source=source)
        return self.run

    async def ask(self, function: str, *args: Any) -> int:
        """Call a script function for the newest run."""
        result = self.core.call(function, self.run, *args)
        return int(await result if inspect.isawaitable(result) else result)

    async def mi(self, command: str, **params: Any) -> Any:
        return await self.core.mi_call(command, params)


def play(
    database: Path | Database, module: Callable[[], Module], scenario: Callable[[House], Coroutine[Any, Any, None]]
) -> None:
    """Start the module on a database, run the scenario, stop. Further tables of the same URL are the same file."""

    async def run() -> None:
        db = (
            DbSqlite(busy_timeout=10).open_database(parse_url(f"sqlite:{database}"))
            if isinstance(database, Path)
            else database
        )
        core = FakeCore(databases={URL: db})
        tested = core.add(module())
        await tested.launch()
        try:
            await scenario(House(core))
            await core.settle()
        finally:
            await tested.shutdown()
            await db.close()

    asyncio.run(run())
