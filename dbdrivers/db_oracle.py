"""Oracle, through python-oracledb in its thin mode, which needs no client libraries.

A URL is `oracle://user:password@host:port/service`. Names are written without quotes, as in OpenSIPS's own scripts for
Oracle, so that the server reads them in capitals. Values are bound. Oracle keeps an empty text as NULL. InsertUpdate is
an UPDATE and, when it found nothing, an INSERT; Replace is a DELETE by the unique keys that the table's declaration
names and an INSERT; both in one transaction.

No Oracle server could be had for tests: the statements and the handling of errors are tested with a stand-in for the
client library, and nothing more.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final

from opensipspy.db import (
    Condition,
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
    numbered_marks,
    sendable,
    without_values,
)
from opensipspy.module import Module, Param, ParamError, StartError

NEEDS: Final = "db_oracle needs the Python package oracledb: pip install 'opensipspy[oracle]'"
DEFAULT_PORT: Final = 1521
DEFAULT_CONNECTIONS: Final = 10
IDLE_S: Final = 1.0
"""After so long without work a connection is asked whether it lives, before a statement that is sent once only."""

# Numbers of ORA- and DPY- errors.
GONE: Final = frozenset({28, 1012, 1033, 1034, 1089, 1090, 1092, 3113, 3114, 3135, 4011, 12537, 12541, 12570, 12571})
TRANSIENT: Final = frozenset(
    {54, 60, 257, 1013, 1017, 1536, 1653, 1654, 8177, 12505, 12514, 12516, 12520, 28000, 28001}
)
DUPLICATE: Final = 1
CLIENT_PREFIX: Final = "DPY-"


class OracleText(SqlText):
    """Names without quotes, numbered marks, and Oracle's own way to say LIMIT."""

    quote = ""

    def mark(self, number: int) -> str:
        return f":{number}"

    def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition], order: str, limit: int
    ) -> tuple[str, list[DbValue]]:
        sql, args = super().select(table, columns, where, order, 0)
        return (f"{sql} FETCH FIRST {int(limit)} ROWS ONLY" if limit > 0 else sql), args


TEXT: Final = OracleText()


def bound(value: DbValue) -> Any:
    """A value as Oracle takes it: times to the second."""
    if isinstance(value, datetime):
        return value.replace(microsecond=0)
    return sendable(value) if isinstance(value, str) else value


class OracleLink(Link):
    """A connection of oracledb."""

    def __init__(self, url: DbUrl, keys: Any) -> None:
        self._url = url
        self._keys = keys
        self._client: Any = None
        self._connection: Any = None
        self._gone = False
        self._used = asyncio.get_running_loop().time()

    async def open(self) -> None:
        """Connect; raises DatabaseError."""
        client = self._client = importlib.import_module("oracledb")
        try:
            self._connection = await client.connect_async(
                user=self._url.user,
                password=self._url.password,
                host=self._url.host or "localhost",
                port=self._url.port or DEFAULT_PORT,
                service_name=self._url.database,
            )
        except (client.Error, OSError) as error:
            raise DatabaseError(f"{self._url}: {words(error)}", transient=True) from error

    @property
    def closed(self) -> bool:
        return self._gone or self._connection is None

    def _failure(self, error: Exception, harmless: bool = False) -> DatabaseError:
        found = error.args[0] if error.args else None
        number = getattr(found, "code", 0) or 0
        client = str(getattr(found, "full_code", "")).startswith(CLIENT_PREFIX)
        text = f"{self._url}: {refusal(error)}"
        if (number in GONE and not client) or isinstance(error, OSError) or getattr(found, "isrecoverable", False):
            self._gone = True
            return LostError(text, harmless=harmless)
        return DatabaseError(
            text,
            transient=not client and number in TRANSIENT,
            duplicate=not client and number == DUPLICATE,
        )

    async def _execute(self, sql: str, args: Sequence[DbValue]) -> tuple[list[tuple[DbValue, ...]], int]:
        """The rows of a statement, and how many it touched."""
        self._used = asyncio.get_running_loop().time()
        with self._connection.cursor() as cursor:
            await cursor.execute(sql, [bound(arg) for arg in args])
            rows = []
            if cursor.description:
                rows = [tuple([as_db_value(value) for value in row]) for row in await cursor.fetchall()]
            return rows, max(0, int(cursor.rowcount))

    async def query(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        try:
            return (await self._execute(sql, args))[0]
        except (self._client.Error, OSError, ValueError, TypeError) as error:
            raise self._failure(error, harmless=True) from error

    async def raw(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        check_single(sql)
        sent = False
        try:
            if asyncio.get_running_loop().time() - self._used > IDLE_S:
                await self._connection.ping()
            sent = True
            rows = (await self._execute(numbered_marks(sql.rstrip("; \n"), ":"), args))[0]
            await self._connection.commit()
        except (self._client.Error, OSError, ValueError, TypeError) as error:
            raise self._failure(error, harmless=not sent) from error
        return rows

    async def write(self, writes: Sequence[Write]) -> list[int]:
        committing = False
        try:
            try:
                counts = [await self._write_one(write) for write in writes]
                committing = True
                await self._connection.commit()
            except BaseException:
                if not committing:
                    await self._connection.rollback()
                raise
        except (self._client.Error, OSError, ValueError, TypeError) as error:
            raise self._failure(error, harmless=not committing) from error
        return counts

    async def _write_one(self, write: Write) -> int:
        if isinstance(write, InsertUpdate):
            where = [(key, "=", write.row[key]) for key in write.keys if key in write.row]
            rest = {column: value for column, value in write.row.items() if column not in write.keys}
            if rest:
                found = await self._touch(Update(write.table, rest, where))
            else:
                found = len((await self._execute(*TEXT.select(write.table, (), where, "", 1)))[0])
            return 1 if found else await self._touch(Insert(write.table, write.row))
        if isinstance(write, Replace):
            for key in self._keys(write.table):
                values = [write.row.get(column) for column in key]
                if None not in values:
                    where = [(column, "=", value) for column, value in zip(key, values, strict=True)]
                    await self._touch(Delete(write.table, where))
            return await self._touch(Insert(write.table, write.row))
        return await self._touch(write)

    async def _touch(self, write: Write) -> int:
        sql, args = TEXT.write(write)
        return (await self._execute(sql, args))[1]

    def kill(self) -> None:
        self._gone = True
        if self._connection is not None:
            # The client has no way to let go at once; what it does to say good-bye may take its time.
            asyncio.get_running_loop().create_task(self.close(), name="close a connection to Oracle").add_done_callback(
                lambda task: None if task.cancelled() else task.exception()
            )

    async def close(self) -> None:
        self._gone = True
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close()
            except (self._client.Error, OSError) as error:
                raise self._failure(error) from error


def words(error: BaseException) -> str:
    """The words of an error, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def refusal(error: BaseException) -> str:
    """What may be shown of an error that a statement ended with: names, never a value."""
    code = str(getattr(error.args[0] if error.args else None, "full_code", ""))
    if not code and isinstance(error, OSError):
        return words(error)
    return without_values(words(error)) or code or type(error).__name__


def seconds(module: str, name: str, value: object) -> float:
    """A parameter "fixedpoint": 0, or 0.1 to 10 seconds. Raises ParamError."""
    try:
        number = float(str(value))
    except ValueError:
        number = -1.0
    if number and not 0.1 <= number <= 10.0:
        raise ParamError(module, name, "is 0, or 0.1 to 10 seconds")
    return number


class OracleDatabase(PooledDatabase):
    """A pool that knows what Oracle answers to."""

    def __init__(self, url: DbUrl, text: OracleText, limits: Limits, connect: Callable[[], Awaitable[Link]]) -> None:
        super().__init__(url, text, limits, connect)
        self._sign_of_life = "SELECT 1 FROM DUAL"


class DbOracle(Module, DbDriver):
    """Keep tables in Oracle."""

    name = "db_oracle"
    kind = "sql"
    schemes = ("oracle",)

    reconnect = Param(str, "0.2", "How long making a connection may take; 0 without limit.", unit="s")
    timeout = Param(str, "3.0", "How long an operation may take; 0 without limit.", unit="s")

    def set_param(self, name: str, value: object) -> None:
        if name in ("reconnect", "timeout"):
            seconds(self.name, name, value)
            value = str(value)
        super().set_param(name, value)

    def open_database(self, url: DbUrl) -> Database:
        if importlib.util.find_spec("oracledb") is None:
            raise DatabaseError(NEEDS)
        if not url.database:
            raise DatabaseError(f"{url}: an Oracle URL names a service: oracle://user:password@host/service")
        core = getattr(self, "core", None)
        connections = getattr(core.globals, "db_max_async_connections", 0) if core is not None else 0
        limits = Limits(
            connections=connections or DEFAULT_CONNECTIONS,
            connect_s=seconds(self.name, "reconnect", self.reconnect) or None,
            query_s=seconds(self.name, "timeout", self.timeout) or None,
        )

        async def connect() -> Link:
            link = OracleLink(url, self.unique_keys)
            await link.open()
            return link

        return OracleDatabase(url, TEXT, limits, connect)

    async def create_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[str]:
        raise DatabaseError(f"{url}: make the tables with OpenSIPS's scripts for Oracle")

    async def start(self) -> None:
        if importlib.util.find_spec("oracledb") is None:
            raise StartError(NEEDS)
        await asyncio.to_thread(importlib.import_module, "oracledb")
