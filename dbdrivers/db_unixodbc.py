"""Any database with an ODBC driver, through unixODBC and pyodbc: the last part of the URL is the name of a DSN in
odbc.ini, or with `driver=` in its options a driver of odbcinst.ini (`unixodbc://user:password@host/name?driver=SQLite`).

ODBC waits, so that each connection has a thread of its own; a thread that hangs in a driver is left behind and ends
when the driver does. Values are always bound and never a part of the text. ODBC has no upsert that all databases
understand: InsertUpdate is an UPDATE and, when it found nothing, an INSERT; Replace is a DELETE by the unique keys that
the table's declaration names and an INSERT; both in one transaction. Tables are made with the database's own driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import queue
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from opensipspy.db import (
    Database,
    DatabaseError,
    DbDriver,
    DbUrl,
    DbValue,
    Delete,
    Insert,
    InsertUpdate,
    Limits,
    Link,
    LostError,
    PooledDatabase,
    Replace,
    SqlText,
    Table,
    Update,
    Write,
    as_db_value,
    check_single,
    sendable,
    without_values,
)
from opensipspy.module import Module, Param, StartError

T = TypeVar("T")

NEEDS: Final = "db_unixodbc needs the Python package pyodbc: pip install 'opensipspy[odbc]'"
DEFAULT_CONNECTIONS: Final = 10
CONNECT_S: Final = 5
QUERY_S: Final = 5
IDLE_S: Final = 1.0
"""After so long without work a connection is asked whether it lives, before a statement that is sent once only."""
CASE_INFO: Final = 28  # SQL_IDENTIFIER_CASE
LOWER_CASE: Final = 2  # SQL_IC_LOWER
QUOTE_INFO: Final = 29  # SQL_IDENTIFIER_QUOTE_CHAR

# SQLSTATEs (ISO 9075, ODBC 3): classes by two letters, single ones by five.
LOST_CLASSES: Final = ("08", "57")
LOST_STATES: Final = frozenset({"HYT00", "HYT01", "HY117", "01002"})
TRANSIENT_CLASSES: Final = ("40", "53", "28", "IM", "25")
DUPLICATE_STATES: Final = frozenset({"23505", "23000"})
DUPLICATE_WORDS: Final = ("duplicate", "unique")


class Worker:
    """A thread that does one thing after the other. A daemon: a hanging driver does not keep the server from ending."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def do(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """The result of a call in the thread."""
        done: asyncio.Future[T] = self._loop.create_future()

        def finish(result: T | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        def job() -> None:
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = function(*args)
            except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
                failure = error
            try:
                self._loop.call_soon_threadsafe(finish, result, failure)
            except RuntimeError:
                return  # the loop has ended, and nobody waits

        self._jobs.put(job)
        return done

    def end(self) -> None:
        """No more work after what is in the queue."""
        self._jobs.put(None)


def state_of(error: BaseException) -> str:
    """The SQLSTATE of an ODBC error, "" without one."""
    return str(error.args[0]) if error.args and isinstance(error.args[0], str) else ""


def reason(error: BaseException) -> str:
    """The words of an error, in one line."""
    words = error.args[1] if len(error.args) > 1 else error
    return " ".join(str(words).split()) or type(error).__name__


def refusal(error: BaseException) -> str:
    """What may be shown of an error that a statement ended with: names, never a value."""
    return f"SQLSTATE {state_of(error)[:5] or 'unknown'}: {without_values(reason(error)) or type(error).__name__}"


def connection_text(url: DbUrl) -> str:
    """What ODBC calls a connection string; braces keep what is in a value from being read as a further setting."""
    name = url.database
    if not name:
        raise DatabaseError(f"{url}: an ODBC URL names a DSN: unixodbc://user:password@host/dsn")
    options = dict(url.options)
    driver = options.pop("driver", "")
    parts = [("Driver", driver), ("Database", name)] if driver else [("DSN", name)]
    if driver and url.host:
        parts.append(("Server", url.host))
    if driver and url.port:
        parts.append(("Port", str(url.port)))
    if url.user:
        parts.append(("UID", url.user))
    if url.password:
        parts.append(("PWD", url.password))
    for key, value in options.items():
        if not key.replace("_", "").isalnum():
            raise DatabaseError(f"{url}: {key!r} is no name of an ODBC setting")
        parts.append((key, value))
    return ";".join(f"{key}={quoted(value)}" for key, value in parts)


def quoted(value: str) -> str:
    """A value of a connection string; not every driver takes braces around what needs none."""
    if value.replace("_", "").replace(".", "").replace("-", "").replace("/", "").isalnum():
        return value
    return "{" + value.replace("}", "}}") + "}"


class OdbcText(SqlText):
    """Statements with the quotes that the driver asks for."""

    backslashes = None

    def __init__(self, quote: str, lower: bool = False) -> None:
        """lower: the database keeps names that are written without quotes so."""
        self.quote = quote.strip()
        self._lower = lower

    def name(self, name: str) -> str:
        return super().name(name.lower() if self._lower else name)


class OdbcLink(Link):
    """A connection of pyodbc and its thread."""

    def __init__(self, url: DbUrl, keys: Callable[[str], Sequence[tuple[str, ...]]]) -> None:
        self._url = url
        self._keys = keys
        self._worker = Worker(f"db_unixodbc {url.database}")
        self._connection: Any = None
        self._text = OdbcText('"')
        self._error: type[Exception] = Exception
        self._gone = False
        self._used = time.monotonic()

    # --- in the thread

    def _open(self) -> None:
        client: Any = importlib.import_module("pyodbc")
        # The driver manager's own pool would hand out connections that are dead.
        client.pooling = False
        self._error = client.Error
        try:
            self._connection = client.connect(connection_text(self._url), timeout=CONNECT_S, autocommit=True)
            with contextlib.suppress(self._error):  # a driver without such a limit: the pool has one of its own
                self._connection.timeout = QUERY_S
            lower = self._connection.getinfo(CASE_INFO) == LOWER_CASE
            self._text = OdbcText(str(self._connection.getinfo(QUOTE_INFO) or ""), lower)
        except self._error as error:
            raise DatabaseError(f"{self._url}: {reason(error)}", transient=True) from error

    def _failure(self, error: Exception, harmless: bool = False) -> DatabaseError:
        state = state_of(error)
        text = f"{self._url}: {refusal(error)}"
        if state[:2] in LOST_CLASSES or state in LOST_STATES:
            self._gone = True
            return LostError(text, harmless=harmless)
        words = reason(error).lower()
        duplicate = state in DUPLICATE_STATES and (state == "23505" or any(word in words for word in DUPLICATE_WORDS))
        if not duplicate and state[:2] not in ("22", "23", "42", "07", "21", "HY", ""):
            return DatabaseError(text, transient=state[:2] in TRANSIENT_CLASSES)
        if state == "HY000" and not self._alive():
            self._gone = True
            return LostError(text, harmless=harmless)
        return DatabaseError(text, duplicate=duplicate)

    def _alive(self) -> bool:
        """Drivers also tell a lost connection as a general error."""
        try:
            self._connection.cursor().execute("SELECT 1").fetchall()
        except self._error:
            return False
        return True

    def _raw(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        if time.monotonic() - self._used > IDLE_S and not self._alive():
            self._gone = True
            raise LostError(f"{self._url}: the connection was lost", harmless=True)
        return self._query(sql, args)

    def _rows(self, sql: str, args: Sequence[DbValue]) -> tuple[list[tuple[DbValue, ...]], int]:
        """The rows of a statement, and how many it touched."""
        self._used = time.monotonic()
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql, [bound(arg) for arg in args])
            rows = []
            if cursor.description:
                rows = [tuple([as_db_value(value) for value in row]) for row in cursor.fetchall()]
            return rows, max(0, int(cursor.rowcount))
        finally:
            cursor.close()

    def _query(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        try:
            return self._rows(sql, args)[0]
        except (self._error, ValueError, TypeError, OverflowError, UnicodeError) as error:
            raise self._failure(error) from error

    def _write_all(self, writes: Sequence[Write]) -> list[int]:
        committing = False
        try:
            self._connection.autocommit = False
            try:
                counts = [self._write_one(write) for write in writes]
                committing = True
                self._connection.commit()
                # A driver that knows its connection to be dead may call the end of its transaction a success.
                if not self._alive():
                    self._gone = True
                    raise LostError(f"{self._url}: the connection was lost at the end of a write", harmless=False)
            except BaseException:
                try:
                    self._connection.rollback()
                except self._error:
                    self._gone = True
                raise
            finally:
                if not self._gone:
                    self._connection.autocommit = True
        except (self._error, ValueError, TypeError, OverflowError, UnicodeError) as error:
            raise self._failure(error, harmless=not committing) from error
        return counts

    def _write_one(self, write: Write) -> int:
        if isinstance(write, InsertUpdate):
            where = [(key, "=", write.row[key]) for key in write.keys if key in write.row]
            rest = {column: value for column, value in write.row.items() if column not in write.keys}
            if rest:
                found = self._touch(Update(write.table, rest, where))
            else:
                sql, args = self._text.select(write.table, (), where, "", 1)
                found = len(self._rows(sql, args)[0])
            return 1 if found else self._touch(Insert(write.table, write.row))
        if isinstance(write, Replace):
            for key in self._keys(write.table):
                values = [write.row.get(column) for column in key]
                if None not in values:
                    where = [(column, "=", value) for column, value in zip(key, values, strict=True)]
                    self._touch(Delete(write.table, where))
            return self._touch(Insert(write.table, write.row))
        return self._touch(write)

    def _touch(self, write: Write) -> int:
        sql, args = self._text.write(write)
        return self._rows(sql, args)[1]

    # --- the contract

    async def open(self) -> None:
        """Connect; raises DatabaseError."""
        await self._worker.do(self._open)

    @property
    def closed(self) -> bool:
        return self._gone

    async def query(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        return await self._worker.do(self._query, sql, args)

    async def select(self, build: Callable[[SqlText], tuple[str, list[DbValue]]]) -> list[tuple[DbValue, ...]]:
        """A statement in the quotes of this driver."""
        sql, args = build(self._text)
        return await self.query(sql, args)

    async def write(self, writes: Sequence[Write]) -> list[int]:
        return await self._worker.do(self._write_all, writes)

    async def raw(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        check_single(sql)
        return await self._worker.do(self._raw, sql, args)

    def kill(self) -> None:
        self._gone = True
        self._worker.do(self._close)
        self._worker.end()

    async def close(self) -> None:
        self._gone = True
        try:
            await self._worker.do(self._close)
        finally:
            self._worker.end()

    def _close(self) -> None:
        if self._connection is not None:
            try:
                self._connection.close()
            except self._error:
                return  # it was gone already


def bound(value: DbValue) -> Any:
    """A value as ODBC takes it: times to the second, text that is no UTF-8 as bytes."""
    if isinstance(value, datetime):
        return value.replace(microsecond=0)
    return sendable(value) if isinstance(value, str) else value


class OdbcDatabase(PooledDatabase):
    """A pool whose statements are written for the driver of the connection that runs them."""

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Any] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        async def ask(link: Link) -> list[tuple[DbValue, ...]]:
            assert isinstance(link, OdbcLink)
            return await link.select(lambda text: text.select(table, columns, where, order, limit))

        return await self._run(ask, True, f"a select from {table}")


class DbUnixodbc(Module, DbDriver):
    """Use databases that have an ODBC driver."""

    name = "db_unixodbc"
    kind = "sql"
    schemes = ("unixodbc",)

    auto_reconnect = Param(int, 1, "0: an operation that finds its connection dead fails; 1: it is tried on a new one.")
    use_escape_common = Param(int, 0, "Values are always bound here, so that there is nothing to escape.")

    def open_database(self, url: DbUrl) -> Database:
        if importlib.util.find_spec("pyodbc") is None:
            raise DatabaseError(NEEDS)
        connection_text(url)
        core = getattr(self, "core", None)
        connections = getattr(core.globals, "db_max_async_connections", 0) if core is not None else 0
        limits = Limits(
            connections=connections or DEFAULT_CONNECTIONS,
            connect_s=CONNECT_S + 1.0,
            query_s=QUERY_S + 1.0,
            query_attempts=2 if self.auto_reconnect else 1,
        )

        async def connect() -> Link:
            link = OdbcLink(url, self.unique_keys)
            try:
                await link.open()
            except BaseException:
                link.kill()
                raise
            return link

        return OdbcDatabase(url, SqlText(), limits, connect)

    async def create_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[str]:
        raise DatabaseError(f"{url}: make the tables by the database's own URL (mysql://, postgres://, sqlite:)")

    async def start(self) -> None:
        if importlib.util.find_spec("pyodbc") is None:
            raise StartError(NEEDS)
