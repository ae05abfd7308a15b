"""Tables that modules keep in memory: read at the start, read again on command, replaced only as a whole.

    self.rules = TableCache(self.core, database, "dialplan", 5, COLUMNS, Rules, Rules.add)
    await self.rules.start()           # waits for a database that is away in the background
    self.rules.data.find(...)          # plain reading, nothing waits
    await self.rules.load()            # a management command: the old data serve until the new are whole

A row that cannot be used is skipped; the log has one line for each load with the table, the row and the reason.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from opensipspy.db import Condition, Database, DatabaseError, DbValue, as_int, as_text
from opensipspy.module.core import CancelHandle, Core
from opensipspy.module.declarations import ParamError
from opensipspy.module.module import Module, StartError

LOG: Final = logging.getLogger(__name__)

T = TypeVar("T")
Cells = Sequence[DbValue]

LONGEST_CELL: Final = 4096
MOST_ROWS: Final = 5_000_000
# Messages are handled between two such portions of a table.
PORTION_ROWS: Final = 500
PORTION_S: Final = 0.002
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 60.0


def open_database(module: Module, url: str | None, param: str = "db_url") -> Database:
    """The database of a module; the script's `db_default_url` when it names none. Raises ParamError."""
    url = url or getattr(module.core.globals, "db_default_url", None)
    if not url:
        raise ParamError(module.name, param, "is needed")
    try:
        return module.core.database(url)
    except DatabaseError as error:
        raise ParamError(module.name, param, str(error)) from error


def own_or_default_url(module: Module, default: str) -> str:
    """`db_url` when the script sets it, else `db_default_url`, else the documented default."""
    if module.given("db_url"):
        return default
    return getattr(module.core.globals, "db_default_url", None) or default


def cell_text(value: DbValue, name: str, *, null: str | None = None, most: int = LONGEST_CELL) -> str:
    """The text of a cell. null: what NULL stands for, None when it is not allowed. Raises ValueError."""
    if value is None:
        if null is None:
            raise ValueError(f"{name} is NULL")
        return null
    text = as_text(value)
    if len(text) > most:
        raise ValueError(f"{name} has {len(text)} characters, {most} are allowed")
    if "\0" in text:
        raise ValueError(f"{name} holds a NUL character")
    return text


def cell_int(value: DbValue, name: str, lowest: int, highest: int, *, null: int | None = None) -> int:
    """The number of a cell. null: what NULL stands for, None when it is not allowed. Raises ValueError."""
    if value is None:
        if null is None:
            raise ValueError(f"{name} is NULL")
        return null
    try:
        number = as_int(value)
    except ValueError:
        raise ValueError(f"{name} is no number") from None
    if not lowest <= number <= highest:
        raise ValueError(f"{name} is {number}, not {lowest} to {highest}")
    return number


class TableCache(Generic[T]):
    """The rows of one table in the shape that a module works with.

    make: an empty shape. add: takes one row, its first cell being the first of `columns`, or raises ValueError before
    anything has changed. finish: called once with the whole shape before it serves. key: whether the first column
    identifies the row in the log; else rows are counted. changed: told of each step of a load, for status reports.
    """

    def __init__(
        self,
        core: Core,
        database: Database,
        table: str,
        version: int,
        columns: Sequence[str],
        make: Callable[[], T],
        add: Callable[[T, Cells], None],
        *,
        finish: Callable[[T], None] | None = None,
        where: Sequence[Condition] = (),
        order: str = "",
        key: bool = True,
        changed: Callable[[str], None] | None = None,
    ) -> None:
        self.data = make()
        self.loaded = False
        self.rows = 0
        self.skipped = 0
        self.database = database
        self.table = table
        self._core = core
        self._version = version
        self._columns = tuple(columns)
        self._make = make
        self._add = add
        self._finish = finish
        self._where = tuple(where)
        self._order = order
        self._key = key
        self._changed = changed
        self._checked = False
        self.loading = False
        self._retry: CancelHandle | None = None
        self._delay = FIRST_RETRY_S

    async def start(self) -> None:
        """Load for the first time. A database that is away is asked again in the background, nothing is known so far.

        Raises StartError when waiting would not help, as for a table that is not there.
        """
        try:
            await self.load()
        except DatabaseError as error:
            if not error.transient:
                raise StartError(str(error)) from error
            LOG.error("table %s is empty until the database answers: %s", self.table, error)
            self._again()

    def stop(self) -> None:
        """No further tries."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    async def load(self) -> None:
        """Read the table; raises DatabaseError, and what served before goes on serving."""
        if self.loading:
            raise DatabaseError(f"table {self.table} is being read already", transient=True)
        self.loading = True
        self._tell("starting DB data loading")
        try:
            if not self._checked:
                await self.database.check_version(self.table, self._version)
                self._checked = True
            rows = await self.database.select(self.table, self._columns, self._where, self._order)
            if len(rows) > MOST_ROWS:
                raise DatabaseError(f"table {self.table} has {len(rows)} rows, {MOST_ROWS} are allowed")
            await self._take(rows)
        except DatabaseError:
            self.loading = False
            self._tell("DB data loading failed, discarding")
            raise
        finally:
            self.loading = False
        self._tell("DB data loading successfully completed")
        self._tell(f"{self.rows} rules loaded ({self.skipped} discarded)")

    async def _take(self, rows: Sequence[Cells]) -> None:
        data = self._make()
        skipped, first = 0, ""
        pause_at = time.perf_counter() + PORTION_S
        for number, row in enumerate(rows, 1):
            try:
                self._add(data, row)
            except ValueError as error:
                skipped += 1
                if not first:
                    where = f"{self._columns[0]} {as_text(row[0])[:40]}" if self._key else f"row {number}"
                    first = f"{where}: {error}"
            if not number % PORTION_ROWS or time.perf_counter() > pause_at:
                await asyncio.sleep(0)
                pause_at = time.perf_counter() + PORTION_S
        if self._finish is not None:
            self._finish(data)
        self.data = data
        self.rows = len(rows) - skipped
        self.skipped = skipped
        self.loaded = True
        self.stop()
        if skipped:
            LOG.warning("table %s: %d of %d rows are skipped; the first: %s", self.table, skipped, len(rows), first)

    def _tell(self, text: str) -> None:
        if self._changed is not None:
            self._changed(text)

    def _again(self) -> None:
        self._retry = self._core.call_later(self._delay, self._try)
        self._delay = min(2 * self._delay, LONGEST_RETRY_S)

    def _try(self) -> None:
        self._retry = None
        self._core.spawn(self._load_late(), f"load {self.table}")

    async def _load_late(self) -> None:
        try:
            await self.load()
        except DatabaseError as error:
            # The database told the log that it is away; anything else is news.
            if not error.transient:
                LOG.error("table %s is still empty: %s", self.table, error)
            if not self.loaded:
                self._again()
        else:
            LOG.warning("table %s is loaded now: %d rows", self.table, self.rows)
