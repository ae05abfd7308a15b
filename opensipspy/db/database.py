"""What modules ask of a database: reads and writes of one table, raw queries, and writes that nobody waits for.

A write is data (`Insert`, `Update`, ...), so that many of them travel to the back-end as one batch in one transaction.
`write_later` takes writes at once and keeps them, in order, until the back-end has them: a bounded queue that is
retried with back-off while the database is away and emptied by `flush` when the server stops.

Methods await plain futures only, so that script coroutines, which run without a task, may call them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from opensipspy.db.errors import DatabaseError
from opensipspy.db.url import DbUrl

LOG: Final = logging.getLogger(__name__)

DbValue = None | int | float | str | bytes | datetime
Row = Mapping[str, DbValue]
Condition = tuple[str, str, DbValue]
"""(column, operator, value): the operator is one of `OPERATORS`; `=` and `!=` with None ask for NULL."""

OPERATORS: Final = frozenset({"=", "!=", "<", "<=", ">", ">=", "like"})

Watcher = Callable[[str, bool, str], None]
"""Told of a back-end that is lost or comes back: its URL without the password, whether it is available, and why not."""

LONE: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Halves of pairs that stand for no byte."""

MAX_QUEUED_WRITES: Final = 100_000
MAX_BATCH: Final = 500
MOST_LOOKED_FOR: Final = 10
"""Rows by which a batch is recognized whose answer was lost."""
FIRST_RETRY_S: Final = 0.1
LONGEST_RETRY_S: Final = 10.0


class Insert:
    """A new row."""

    __slots__ = ("row", "table")

    def __init__(self, table: str, row: Row) -> None:
        self.table = table
        self.row = row


class Update:
    """New values for the rows that meet every condition."""

    __slots__ = ("row", "table", "where")

    def __init__(self, table: str, row: Row, where: Sequence[Condition]) -> None:
        self.table = table
        self.row = row
        self.where = tuple(where)


class Delete:
    """No more rows that meet every condition; without a condition the table is emptied."""

    __slots__ = ("table", "where")

    def __init__(self, table: str, where: Sequence[Condition] = ()) -> None:
        self.table = table
        self.where = tuple(where)


class Replace:
    """The row in place of any that has the same unique key."""

    __slots__ = ("row", "table")

    def __init__(self, table: str, row: Row) -> None:
        self.table = table
        self.row = row


class InsertUpdate:
    """A new row, or the new values for the row with the same `keys` (columns of a unique key)."""

    __slots__ = ("keys", "row", "table")

    def __init__(self, table: str, row: Row, keys: Sequence[str]) -> None:
        self.table = table
        self.row = row
        self.keys = tuple(keys)


Write = Insert | Update | Delete | Replace | InsertUpdate


class PreparedSelect:
    """One select that is asked again and again with other values, each for a condition, in their order."""

    __slots__ = ("_columns", "_conditions", "_database", "_limit", "_table")

    def __init__(
        self, database: Database, table: str, columns: Sequence[str], conditions: Sequence[tuple[str, str]], limit: int
    ) -> None:
        self._database = database
        self._table = table
        self._columns = tuple(columns)
        self._conditions = tuple(conditions)
        self._limit = limit

    def rows_now(self, *values: DbValue) -> list[tuple[DbValue, ...]] | None:
        """The rows where they can be had without waiting; None when `rows` has to be asked."""
        return None

    async def rows(self, *values: DbValue) -> list[tuple[DbValue, ...]]:
        """As `Database.select`."""
        where = [(column, operator, value) for (column, operator), value in zip(self._conditions, values, strict=True)]
        return await self._database.select(self._table, self._columns, where, limit=self._limit)


def spelt(value: DbValue) -> DbValue:
    r"""A value whose text every back-end can hold: what is no UTF-8 and NUL as `\xHH`."""
    if not isinstance(value, str):
        return value
    data = value.encode("utf-8", "surrogatepass" if LONE.search(value) else "surrogateescape")
    return data.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


class Database(ABC):
    """One database behind one URL, shared by all modules that name it. Every operation raises `DatabaseError` only."""

    def __init__(self, url: DbUrl) -> None:
        self.url = url
        self.available = True
        self.version_table = "version"
        self.buffered_writes = 0
        self.flush_s = 0.0
        self.lost_writes = 0
        """Queued writes that the back-end refused for good."""
        self.queries = 0
        """Operations that a server answered; of drivers with connections to one (`sql_total_queries`)."""
        self.slow_queries = 0
        """Those that took longer than the driver's exec_query_threshold."""
        self.watcher: Watcher | None = None
        self._queue: deque[Write] = deque()
        # So many writes at the queue's beginning were sent, and their answer was lost.
        self._uncertain = 0
        # So many are with the back-end now.
        self._under_way = 0
        self._writer: asyncio.Task[None] | None = None
        self._enough = asyncio.Event()

    @property
    def backslashes(self) -> bool | None:
        """Whether a backslash within quotes of a raw statement is an escape; None where that is not known."""
        return None

    # --- what a driver does

    @abstractmethod
    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        """Rows that meet every condition. order: a column, "column desc" or several with commas; limit 0 is none."""

    def prepare(
        self, table: str, columns: Sequence[str], conditions: Sequence[tuple[str, str]], limit: int = 0
    ) -> PreparedSelect:
        """A select for the hot path. conditions: (column, operator); the values come with each question."""
        return PreparedSelect(self, table, columns, conditions, limit)

    @abstractmethod
    async def execute(self, writes: Sequence[Write]) -> list[int]:
        """Do all of the writes or none, in one transaction. Returns the rows each of them touched."""

    @abstractmethod
    async def raw(self, sql: str, args: Sequence[DbValue] = ()) -> list[tuple[DbValue, ...]]:
        """Any statement in the back-end's own language; `?` stands for an argument.

        What it does is not known, also where it begins with SELECT: it is sent again only where the server certainly
        has not had it. What may be asked twice is a `select`.
        """

    async def ready(self) -> None:  # noqa: B027 - most drivers have nothing to wait for
        """Wait for what the driver does by itself when a database is opened; never for a server."""

    async def ping(self) -> None:
        """Ask the back-end for a sign of life."""
        await self.raw("SELECT 1")

    async def close(self) -> None:
        """Write what is queued, then let go of the back-end; the object is not used again.

        Raises DatabaseError, with the number of writes that are lost, when the back-end does not take them. Whoever
        loses patience and cancels finds the number in the log.
        """
        try:
            await self.flush()
        except DatabaseError as error:
            raise DatabaseError(f"{error.reason} ({self._loss()})", transient=error.transient) from error
        except asyncio.CancelledError:
            self.tell_lost()
            raise

    def tell_lost(self) -> None:
        """One line for the writes that are queued, when nobody will write them any more."""
        if self._queue:
            LOG.critical("%s: no answer in the time that there is to stop (%s)", self.url, self._loss())

    def _loss(self) -> str:
        perhaps = max(self._uncertain, self._under_way)
        return f"lost writes: {len(self._queue)}" + (f"; {perhaps} of them may have been done" if perhaps else "")

    # --- one write at a time

    async def insert(self, table: str, row: Row) -> None:
        await self.execute((Insert(table, row),))

    async def insert_many(self, table: str, rows: Sequence[Row]) -> None:
        await self.execute([Insert(table, row) for row in rows])

    async def update(self, table: str, row: Row, where: Sequence[Condition]) -> int:
        """Returns the number of rows changed."""
        return (await self.execute((Update(table, row, where),)))[0]

    async def delete(self, table: str, where: Sequence[Condition] = ()) -> int:
        """Returns the number of rows removed."""
        return (await self.execute((Delete(table, where),)))[0]

    async def replace(self, table: str, row: Row) -> None:
        await self.execute((Replace(table, row),))

    async def insert_update(self, table: str, row: Row, keys: Sequence[str]) -> None:
        await self.execute((InsertUpdate(table, row, keys),))

    async def table_version(self, table: str) -> int:
        """The version of a table's layout; 0 when the `version` table does not name it."""
        rows = await self.select(self.version_table, ("table_version",), (("table_name", "=", table),), limit=1)
        value = rows[0][0] if rows else 0
        return value if isinstance(value, int) else 0

    async def check_version(self, table: str, version: int) -> None:
        """Raises DatabaseError when the table is missing or has another layout."""
        found = await self.table_version(table)
        if found != version:
            if found:
                what = f"has version {found}, {version} is needed: see `opensipspy db migrate`"
            else:
                what = "is not there: see `opensipspy db create`"
            raise DatabaseError(f"{self.url}: table {table} {what}")

    # --- writes that nobody waits for

    @property
    def queued(self) -> int:
        """Writes that the back-end does not have yet."""
        return len(self._queue)

    def write_later(self, *writes: Write) -> None:
        """Take the writes and return at once; raises DatabaseError when too many are waiting already.

        With `buffered_writes`, so many are gathered before they travel together, for `flush_s` seconds at most.
        """
        if len(self._queue) + len(writes) > MAX_QUEUED_WRITES:
            raise DatabaseError(f"{self.url}: {len(self._queue)} writes are waiting already", transient=True)
        self._queue.extend(writes)
        if len(self._queue) >= self.buffered_writes:
            self._enough.set()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_queue(), name=f"writes to {self.url}")

    async def flush(self) -> None:
        """Try once to write all that is queued; raises DatabaseError when the database does not take it."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait((self._writer,))
        # In a task of its own: who waits for it may lose patience, while the batch under way is still looked after.
        writer = self._writer = asyncio.get_running_loop().create_task(self._drain(), name=f"writes to {self.url}")
        writer.add_done_callback(lambda task: None if task.cancelled() else task.exception())
        await asyncio.wait((writer,))
        if self._writer is writer:
            self._writer = None
        await writer

    async def _drain(self) -> None:
        while self._queue:
            await self._write_some()

    async def _write_queue(self) -> None:
        delay = FIRST_RETRY_S
        held_up = False
        while self._queue:
            if len(self._queue) < self.buffered_writes:
                self._enough.clear()
                try:
                    async with asyncio.timeout(self.flush_s or None):
                        await self._enough.wait()
                except TimeoutError:
                    pass  # few, but old enough
            try:
                await self._write_some()
                delay = FIRST_RETRY_S
                if held_up:
                    held_up = False
                    LOG.warning("%s: queued writes are taken again", self.url)
            except DatabaseError as error:
                # Of a back-end that is away, note_failure told the log.
                if self.available and not held_up:
                    held_up = True
                    LOG.error("%s: %d writes are waiting: %s", self.url, len(self._queue), error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_RETRY_S)

    async def _write_some(self) -> None:
        """Write the oldest of the queue. A write that can never succeed is dropped with a line in the log."""
        if self._uncertain:
            sent = [self._queue[i] for i in range(self._uncertain)]
            there = await self.are_there(sent)
            self._uncertain = 0
            if there:
                self._forget(len(sent))
                return
        batch = [self._queue[i] for i in range(min(MAX_BATCH, len(self._queue)))]
        try:
            # Shielded: a cancelled wait must not leave it open whether the batch has been written.
            running = asyncio.ensure_future(self.execute(batch))
            self._under_way = len(batch)
            try:
                await asyncio.shield(running)
            except asyncio.CancelledError:
                while not running.done():
                    with contextlib.suppress(asyncio.CancelledError):  # however often
                        await asyncio.wait((running,))
                failure = None if running.cancelled() else running.exception()
                if running.cancelled() or (isinstance(failure, DatabaseError) and failure.uncertain):
                    self._uncertain = len(batch)
                elif failure is None:
                    self._forget(len(batch))
                raise
            finally:
                self._under_way = 0
            self._forget(len(batch))
        except DatabaseError as error:
            if error.transient:
                self._uncertain = len(batch) if error.uncertain else 0
                raise
            if len(batch) > 1:
                await self._one_by_one(len(batch))
            else:
                await self._rescue(batch[0], error)

    async def are_there(self, batch: Sequence[Write]) -> bool:
        """Whether a batch, which is written as a whole or not at all, was written: its new rows are there.

        Every other kind of write may be done twice without harm, so a batch without new rows counts as not written.
        """
        new = [write for write in batch if isinstance(write, Insert)]
        if not new:
            return False
        step = max(1, len(new) // MOST_LOOKED_FOR)
        for write in reversed(new[::-step][:MOST_LOOKED_FOR]):
            where = [(column, "=", value) for column, value in write.row.items()]
            if not await self.select(write.table, list(write.row)[:1], where, limit=1):
                return False
        return True

    async def _one_by_one(self, count: int) -> None:
        for _ in range(count):
            write = self._queue[0]
            try:
                await self.execute((write,))
            except DatabaseError as error:
                if error.transient:
                    self._uncertain = 1 if error.uncertain else 0
                    raise
                await self._rescue(write, error)
            else:
                self._forget(1)

    async def _rescue(self, write: Write, refused: DatabaseError) -> None:
        """A row with text that the back-end cannot hold is worth more with that text spelt out than not at all.

        A caller must not stay out of the accounts because of a byte in a name. Other refused writes are given up.
        """
        if not isinstance(write, Insert):
            self._give_up(write, refused)
            return
        row = {column: spelt(value) for column, value in write.row.items()}
        if row == dict(write.row):
            self._give_up(write, refused)
            return
        try:
            await self.execute((Insert(write.table, row),))
        except DatabaseError as error:
            if error.transient:
                raise
            self._give_up(write, refused)
        else:
            self._forget(1)

    def _give_up(self, write: Write, error: DatabaseError) -> None:
        self._forget(1)
        self.lost_writes += 1
        # Values stay out of the log: they may be passwords.
        LOG.error("%s: a write to table %s is lost (%d so far): %s", self.url, write.table, self.lost_writes, error)

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._queue.popleft()

    # --- one line of log for each change of state

    def note_failure(self, error: DatabaseError) -> None:
        """The driver could not reach the back-end."""
        if self.available:
            self.available = False
            LOG.error("database %s is not available: %s", self.url, error)
            if self.watcher is not None:
                self.watcher(str(self.url), False, error.reason)

    def note_success(self) -> None:
        """The back-end answered."""
        if not self.available:
            self.available = True
            LOG.warning("database %s is available again", self.url)
            if self.watcher is not None:
                self.watcher(str(self.url), True, "")
