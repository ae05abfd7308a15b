"""SQLite: a database in one file, without a server.

Two connections. One lives in the event loop for short reads: a statement that SQLite answers from an index (its query
plan says so) takes 5 to 10 µs there, and 10 to 40 times as long through a thread. It never waits for a lock, and a
statement that turns out not to be short is broken off after `MAX_STEPS_IN_LOOP` steps of SQLite's machine, about half a
millisecond: the thread is asked then. Everything else goes to that one thread, too: scans, raw statements, and writes.
Writes that arrive while the thread is busy form the next batch, which is one hop and one COMMIT for all of them. The
file is put into WAL mode, where readers never wait for the writer and a read takes half the time.

The thread is our own and not aiosqlite's: aiosqlite hops once for each call and has no public way to run a batch.

A file that is missing, locked or on a full disk gives a transient DatabaseError. The file is never created here: an
empty database would hide that the path is wrong. A file that was replaced is noticed and opened anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from opensipspy.db import (
    NO_DEFAULT,
    VERSION_TABLE,
    Column,
    Condition,
    Database,
    DatabaseError,
    DbDriver,
    DbUrl,
    DbValue,
    OldTable,
    PreparedSelect,
    SqlText,
    Table,
    Write,
    literal,
    missing_tables,
    old_tables,
    sendable,
    sqlite_words,
)
from opensipspy.module import Module, Param

T = TypeVar("T")

MAX_WAITING_WRITES: Final = 10_000
MAX_ROWS_IN_LOOP: Final = 64
STEPS_BETWEEN_LOOKS: Final = 2_000
MAX_STEPS_IN_LOOP: Final = 20_000
MAX_STATEMENTS: Final = 512

# What may go away by itself: the operation can be tried again.
TRANSIENT: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CORRUPT,
    }
)
BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

SQL_TYPES: Final = {
    "binary": "BLOB",
    "char": "CHAR",
    "datetime": "DATETIME",
    "double": "DOUBLE",
    "float": "FLOAT",
    "int": "INTEGER",
    "string": "CHAR",
    "text": "TEXT",
    "unsigned int": "INTEGER",
    "unsigned long": "INTEGER",
    "unsigned short": "INTEGER",
}


class Options:
    """How connections are set up. busy_timeout: milliseconds. extensions: "path" or "path;entry point"."""

    __slots__ = ("busy_timeout", "extensions", "fetch_rows", "pragmas")

    def __init__(
        self,
        busy_timeout: int = 500,
        pragmas: Sequence[str] = (),
        extensions: Sequence[str] = (),
        fetch_rows: int = 10,
    ) -> None:
        self.busy_timeout = busy_timeout
        self.pragmas = tuple(pragmas)
        self.extensions = tuple(extensions)
        self.fetch_rows = fetch_rows


class DbSqlite(Module, DbDriver):
    """Keep tables in SQLite files."""

    name = "db_sqlite"
    kind = "sql"
    schemes = ("sqlite",)

    alloc_limit = Param(int, 10, "Rows fetched from a large result in one step.")
    busy_timeout = Param(int, 500, "How long a write waits for another program's lock; 0 not at all.", unit="ms")
    exec_pragma = Param(str, None, '"name=value": PRAGMA run on each connection, in order.', func=True)
    load_extension = Param(str, None, '"path" or "path;entry point" of an SQLite extension.', func=True)

    def __init__(self, **params: Any) -> None:
        self._pragmas: list[str] = []
        self._extensions: list[str] = []
        super().__init__(**params)

    def set_exec_pragma(self, value: str) -> None:
        """One more PRAGMA; a value that could hold a second statement is refused."""
        name, _, setting = value.partition("=")
        if not name.strip().replace("_", "").replace(".", "").isalnum() or ";" in setting or not setting.strip():
            raise ValueError("takes pragma-name=pragma-value")
        self._pragmas.append(f"{name.strip()}={setting.strip()}")

    def set_load_extension(self, value: str) -> None:
        """One more extension."""
        if not value.partition(";")[0].strip():
            raise ValueError("takes the path of a library")
        if not hasattr(sqlite3.Connection, "enable_load_extension"):
            raise ValueError("this Python was built without SQLite extensions")
        self._extensions.append(value)

    def open_database(self, url: DbUrl) -> SqliteDatabase:
        return SqliteDatabase(url, Options(self.busy_timeout, self._pragmas, self._extensions, self.alloc_limit))

    async def create_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[str]:
        path = file_path(url)
        options = Options(self.busy_timeout, self._pragmas, self._extensions, self.alloc_limit)
        return await asyncio.get_running_loop().run_in_executor(None, create_tables, url, path, tables, options)

    async def old_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[OldTable]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, outdated, url, file_path(url), tables, Options(self.busy_timeout))

    async def migrate_table(self, url: DbUrl, old: OldTable) -> int:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, migrate, url, file_path(url), old, Options(self.busy_timeout))


def file_path(url: DbUrl) -> Path:
    """The file of a URL, relative to the working directory of now. Raises DatabaseError."""
    if url.host or url.user:
        raise DatabaseError(f"{url}: an SQLite URL has no host: sqlite:///path or sqlite:path")
    text = url.path
    while text.startswith("//"):
        text = text[1:]
    if not text or text == ":memory:" or "\0" in text:
        raise DatabaseError(f"{url}: an SQLite URL names a file")
    return Path(text).absolute()


class SqliteDatabase(Database):
    """One file. Used by one event loop."""

    def __init__(self, url: DbUrl, options: Options | None = None) -> None:
        super().__init__(url)
        self._path = file_path(url)
        self._file = str(self._path)
        self._options = options or Options()
        self._steps = 0
        self._reader: sqlite3.Connection | None = None
        self._reader_file: tuple[int, int] = (0, 0)
        self._statements: dict[str, bool] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="db_sqlite")
        self._in_thread = _ThreadConnection(url, self._path, self._options)
        self._waiting: list[tuple[Sequence[Write], asyncio.Future[list[int]]]] = []
        self._busy = False
        self._closed = False
        self._prepared = self._thread.submit(self._in_thread.prepare)

    async def ready(self) -> None:
        await asyncio.wrap_future(self._prepared)

    # --- reading

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        sql, values = TEXT.select(table, columns, where, order, limit)
        args = bound_values(values)
        found = self.select_in_loop(sql, args) if where else None
        if found is None:
            found = await self._run(self._in_thread.query, sql, args)
        return found

    def prepare(
        self, table: str, columns: Sequence[str], conditions: Sequence[tuple[str, str]], limit: int = 0
    ) -> PreparedSelect:
        return PreparedSqlite(self, table, columns, conditions, limit)

    def select_in_loop(self, sql: str, args: Sequence[Any]) -> list[tuple[DbValue, ...]] | None:
        """The rows when an index leads to them; None when the thread has to do it, or to tell what is wrong."""
        try:
            reader = self._open_reader()
            if not self._statements.get(sql, False) and not self._is_short(reader, sql, args):
                return None
            self._steps = 0
            rows: list[tuple[DbValue, ...]] = reader.execute(sql, args).fetchmany(MAX_ROWS_IN_LOOP + 1)
        except (sqlite3.Error, OSError, OverflowError) as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                self._statements[sql] = False
            else:
                self._close_reader()
            return None
        if len(rows) > MAX_ROWS_IN_LOOP:
            return None
        if not self.available:
            self.note_success()
        return rows

    def _is_short(self, reader: sqlite3.Connection, sql: str, args: Sequence[Any]) -> bool:
        """Whether a statement's plan is for the loop, as noted before or found now."""
        if sql in self._statements:
            return False
        if len(self._statements) >= MAX_STATEMENTS:
            self._statements.clear()
        indexed = self._statements[sql] = uses_index(reader, sql, args)
        return indexed

    def _open_reader(self) -> sqlite3.Connection:
        status = os.stat(self._file)
        if self._reader is None or (status.st_dev, status.st_ino) != self._reader_file:
            self._close_reader()
            # Not a millisecond is waited in the loop: the thread is asked instead.
            self._reader = connect(self._path, self._options, 0)
            self._reader.set_progress_handler(self._takes_long, STEPS_BETWEEN_LOOKS)
            self._reader_file = (status.st_dev, status.st_ino)
        return self._reader

    def _takes_long(self) -> bool:
        """Called by SQLite at its work: True breaks the statement off."""
        self._steps += STEPS_BETWEEN_LOOKS
        return self._steps > MAX_STEPS_IN_LOOP

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._statements.clear()

    @property
    def backslashes(self) -> bool | None:
        return False

    async def raw(self, sql: str, args: Sequence[DbValue] = ()) -> list[tuple[DbValue, ...]]:
        return await self._run(self._in_thread.raw, sql, bound_values(args))

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        if self._closed:
            raise DatabaseError(f"{self.url}: closed")
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        except DatabaseError as error:
            if error.transient:
                self.note_failure(error)
            raise
        self.note_success()
        return result

    # --- writing

    async def execute(self, writes: Sequence[Write]) -> list[int]:
        if not writes:
            return []
        if self._closed:
            raise DatabaseError(f"{self.url}: closed")
        if len(self._waiting) >= MAX_WAITING_WRITES:
            raise DatabaseError(f"{self.url}: {MAX_WAITING_WRITES} writes are waiting already", transient=True)
        done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((writes, done))
        if not self._busy:
            self._next_batch()
        return await done

    def _next_batch(self) -> None:
        batch, self._waiting = self._waiting, []
        self._busy = True
        running = asyncio.get_running_loop().run_in_executor(
            self._thread, self._in_thread.write, [writes for writes, _ in batch]
        )
        running.add_done_callback(lambda finished: self._batch_done(batch, finished))

    def _batch_done(
        self,
        batch: list[tuple[Sequence[Write], asyncio.Future[list[int]]]],
        finished: asyncio.Future[list[list[int] | DatabaseError]],
    ) -> None:
        self._busy = False
        try:
            results = finished.result()
        except DatabaseError as error:
            if error.transient:
                self.note_failure(error)
            results = [error] * len(batch)
        except asyncio.CancelledError:
            results = [DatabaseError(f"{self.url}: stopped", transient=True)] * len(batch)
        else:
            self.note_success()
        for (_, done), result in zip(batch, results, strict=True):
            if done.done():
                continue
            if isinstance(result, DatabaseError):
                done.set_exception(result)
            else:
                done.set_result(result)
        if self._waiting:
            self._next_batch()

    async def close(self) -> None:
        if self._closed:
            return
        try:
            await super().close()
        finally:
            self._closed = True
            self._close_reader()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._in_thread.close)
            self._thread.shutdown(wait=False)


class PreparedSqlite(PreparedSelect):
    """A select whose SQL is made once."""

    __slots__ = ("_file", "_more", "_sql")

    def __init__(
        self,
        database: SqliteDatabase,
        table: str,
        columns: Sequence[str],
        conditions: Sequence[tuple[str, str]],
        limit: int,
    ) -> None:
        super().__init__(database, table, columns, conditions, limit)
        self._file = database
        where: list[Condition] = [(column, operator, "") for column, operator in conditions]
        self._sql, args = TEXT.select(table, columns, where, "", limit)
        self._more = args[len(where) :]

    def rows_now(self, *values: DbValue) -> list[tuple[DbValue, ...]] | None:
        # Without conditions it is a scan, and NULL is asked for in other words.
        if not values or None in values:
            return None
        try:
            args = [*map(bound, values), *self._more]
        except DatabaseError:
            return None  # `rows` tells it
        return self._file.select_in_loop(self._sql, args)


class _ThreadConnection:
    """The connection of the thread. Every method runs there and raises DatabaseError only."""

    def __init__(self, url: DbUrl, path: Path, options: Options) -> None:
        self._url = url
        self._path = path
        self._options = options
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] = (0, 0)

    def _open(self) -> sqlite3.Connection:
        status = os.stat(self._path)
        here = (status.st_dev, status.st_ino)
        if self._connection is None or here != self._file:
            self.close()
            self._connection = connect(self._path, self._options, self._options.busy_timeout)
            # Not on the reader in the loop: switching the mode takes a lock. Failing, the file stays as it is.
            with contextlib.suppress(sqlite3.OperationalError):
                self._connection.execute("PRAGMA journal_mode=WAL").fetchone()
            self._file = here
        return self._connection

    def prepare(self) -> None:
        """Have the file in WAL mode before it is asked for. What is wrong with it will be told to who asks."""
        with contextlib.suppress(sqlite3.Error, OSError):
            self._open()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _failed(self, error: Exception) -> DatabaseError:
        found = as_database_error(self._url, error)
        # A busy file is still ours; after anything else a fresh connection is the better start.
        if found.transient and getattr(error, "sqlite_errorcode", 0) & 0xFF not in BUSY:
            self.close()
        return found

    def query(self, sql: str, args: Sequence[Any]) -> list[tuple[DbValue, ...]]:
        try:
            cursor = self._open().execute(sql, args)
            cursor.arraysize = max(1, self._options.fetch_rows)
            rows: list[tuple[DbValue, ...]] = cursor.fetchall()
            cursor.close()
            return rows
        except (sqlite3.Error, sqlite3.Warning, OSError, OverflowError) as error:
            raise self._failed(error) from error

    def raw(self, sql: str, args: Sequence[Any]) -> list[tuple[DbValue, ...]]:
        rows = self.query(sql, args)
        if self._connection is not None and self._connection.in_transaction:
            self._connection.rollback()
            raise DatabaseError(f"{self._url}: a raw statement must not leave a transaction open")
        return rows

    def write(self, batch: Sequence[Sequence[Write]]) -> list[list[int] | DatabaseError]:
        """Each element of the batch is done whole or not at all; all that could be done is committed together."""
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
        except (sqlite3.Error, OSError) as error:
            raise self._failed(error) from error
        try:
            results = [self._write_one(connection, writes) for writes in batch]
            connection.execute("COMMIT")
        except Exception as error:
            # Whatever it was: nobody else's writes may end up in a transaction that was left open.
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise (error if isinstance(error, DatabaseError) else self._failed(error)) from error
        return results

    def _write_one(self, connection: sqlite3.Connection, writes: Sequence[Write]) -> list[int] | DatabaseError:
        several = len(writes) > 1
        if several:
            connection.execute("SAVEPOINT one")
        try:
            counts = []
            for write in writes:
                sql, args = TEXT.write(write)
                counts.append(connection.execute(sql, bound_values(args)).rowcount)
        except (sqlite3.Error, OverflowError, DatabaseError) as error:
            failure = error if isinstance(error, DatabaseError) else as_database_error(self._url, error)
            if failure.transient or not connection.in_transaction:
                raise  # the whole batch is undone
            if several:
                connection.execute("ROLLBACK TO one")
                connection.execute("RELEASE one")
            return failure
        if several:
            connection.execute("RELEASE one")
        return counts


def connect(path: Path, options: Options, busy_timeout_ms: int) -> sqlite3.Connection:
    """A connection to an existing file. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw",
        timeout=max(0, busy_timeout_ms) / 1000,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )
    try:
        connection.text_factory = _text
        connection.execute("PRAGMA synchronous=NORMAL")
        for pragma in options.pragmas:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        for extension in options.extensions:
            library, _, entry = extension.partition(";")
            connection.enable_load_extension(True)
            try:
                if entry:
                    connection.execute("SELECT load_extension(?, ?)", (library, entry))
                else:
                    connection.load_extension(library)
            finally:
                connection.enable_load_extension(False)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def as_database_error(url: DbUrl, error: Exception) -> DatabaseError:
    """What went wrong, for those who do not know SQLite."""
    if isinstance(error, FileNotFoundError):
        return DatabaseError(f"{url}: no such file; make it with `opensipspy db create`", transient=True)
    if isinstance(error, OSError):
        return DatabaseError(f"{url}: {error.strerror}", transient=True)
    code = getattr(error, "sqlite_errorcode", None)
    transient = isinstance(code, int) and code & 0xFF in TRANSIENT
    duplicate = code in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
    return DatabaseError(f"{url}: {sqlite_words(error)}", transient=transient, duplicate=duplicate)


def uses_index(connection: sqlite3.Connection, sql: str, args: Sequence[Any]) -> bool:
    """Whether the plan of a statement reads by keys only: no table is walked through, nothing is sorted."""
    plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", args).fetchall()
    return bool(plan) and all(str(step[3]).startswith("SEARCH") for step in plan)


# --- SQL


class SqliteText(SqlText):
    """Statements for SQLite: a name in double quotes that is no column would be a text there, one in backticks is a
    mistake."""

    quote = "`"


TEXT: Final = SqliteText()


def bound(value: DbValue) -> int | float | str | bytes | None:
    """A value as SQLite takes it. Text that is no UTF-8 becomes bytes, which `as_text` reads back."""
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    return sendable(value) if isinstance(value, str) else value


def bound_values(args: Sequence[DbValue]) -> list[Any]:
    return [bound(arg) for arg in args]


# --- tables


def column_sql(column: Column) -> str:
    if column.primary and column.autoincrement:
        return f"{TEXT.name(column.name)} INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL"
    kind = SQL_TYPES[column.type]
    if column.size is not None and kind in ("CHAR", "FLOAT", "DOUBLE"):
        kind = f"{kind}({column.size})"
    text = f"{TEXT.name(column.name)} {kind}"
    if column.primary:
        text += " PRIMARY KEY"
    if column.default is not NO_DEFAULT:
        text += f" DEFAULT {literal(column)}"
    return text if column.null else f"{text} NOT NULL"


def table_sql(table: Table) -> list[str]:
    """The statements that make a table and its indexes."""
    columns = ",\n    ".join(column_sql(column) for column in table.columns)
    statements = [f"CREATE TABLE {TEXT.name(table.name)} (\n    {columns}\n)"]
    for index in table.indexes:
        unique = "UNIQUE " if index.unique else ""
        names = ", ".join(TEXT.name(name) for name in index.columns)
        statements.append(
            f"CREATE {unique}INDEX {TEXT.name(f'{table.name}_{index.name}')} ON {TEXT.name(table.name)} ({names})"
        )
    return statements


def create_tables(url: DbUrl, path: Path, tables: Sequence[Table], options: Options) -> list[str]:
    """`DbDriver.create_tables`, in whatever thread. The file is readable by its owner only: it holds digests."""
    made = []
    connection: sqlite3.Connection | None = None
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = connect(path, options, options.busy_timeout)
        connection.execute("PRAGMA journal_mode=WAL").fetchone()
        connection.execute("BEGIN IMMEDIATE")
        there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if VERSION_TABLE.name not in there:
            for statement in table_sql(VERSION_TABLE):
                connection.execute(statement)
            made.append(VERSION_TABLE.name)
        versions = dict(connection.execute("SELECT table_name, table_version FROM version").fetchall())
        for table in missing_tables(url, tables, there, versions):
            for statement in table_sql(table):
                connection.execute(statement)
            connection.execute("INSERT OR REPLACE INTO version VALUES (?, ?)", (table.name, table.version))
            made.append(table.name)
        connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        raise as_database_error(url, error) from error
    finally:
        if connection is not None:
            connection.close()  # rolls back what was not committed
    return made


def outdated(url: DbUrl, path: Path, tables: Sequence[Table], options: Options) -> list[OldTable]:
    """`DbDriver.old_tables`, in whatever thread."""
    try:
        with contextlib.closing(connect(path, options, options.busy_timeout)) as connection:
            names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if VERSION_TABLE.name not in names:
                return []
            versions = dict(connection.execute("SELECT table_name, table_version FROM version").fetchall())
            found = []
            for table, version in old_tables(tables, versions, names):
                columns = [row[1] for row in connection.execute(f"PRAGMA table_info({TEXT.name(table.name)})")]
                [rows] = connection.execute(f"SELECT count(*) FROM {TEXT.name(table.name)}").fetchone()
                found.append(OldTable(table, version, columns, rows, names))
            return found
    except (sqlite3.Error, OSError) as error:
        raise as_database_error(url, error) from error


def migrate(url: DbUrl, path: Path, old: OldTable, options: Options) -> int:
    """`DbDriver.migrate_table`, in whatever thread and in one transaction."""
    table = old.table
    try:
        with contextlib.closing(connect(path, options, options.busy_timeout)) as connection:
            connection.execute("PRAGMA foreign_keys=OFF")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"ALTER TABLE {TEXT.name(table.name)} RENAME TO {TEXT.name(old.backup)}")
            indexes = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL",
                (old.backup,),
            ).fetchall()
            for [index] in indexes:  # their names are wanted by the new table
                connection.execute(f"DROP INDEX `{index.replace('`', '``')}`")
            for statement in table_sql(table):
                connection.execute(statement)
            rows = connection.execute(old.copy(TEXT, old.backup, table.name)).rowcount
            connection.execute("UPDATE version SET table_version = ? WHERE table_name = ?", (table.version, table.name))
            connection.execute("COMMIT")
            return rows
    except (sqlite3.Error, OSError) as error:
        raise as_database_error(url, error) from error
