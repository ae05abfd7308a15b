"""MySQL and MariaDB, through asyncmy.

Every statement is prepared by the server and its arguments are bound in binary form: the client library would also let
several statements stand in one text, which a prepared statement cannot hold. Updates count the rows that were found,
as other back-ends do, and not only those that changed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
import struct
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final

from opensipspy.db import (
    NO_DEFAULT,
    VERSION_TABLE,
    Column,
    DatabaseError,
    DbDriver,
    DbUrl,
    DbValue,
    Insert,
    InsertUpdate,
    Limits,
    Link,
    LostError,
    OldTable,
    PooledDatabase,
    RefusedError,
    Replace,
    SqlText,
    Table,
    Write,
    as_db_value,
    as_int,
    as_text,
    literal,
    missing_tables,
    old_tables,
    one_line,
    sendable,
    without_values,
)
from opensipspy.module import Event, Module, Param, StartError, Wants
from opensipspy.module.tls import TlsDomains

DEFAULT_PORT: Final = 3306
MAX_PREPARED: Final = 256
"""Statements kept prepared on a connection."""
DEFAULT_CONNECTIONS: Final = 10
TIMES: Final = 3
"""timeout_interval counts as often for an answer."""
NEEDS: Final = "db_mysql needs the Python package asyncmy: pip install 'opensipspy[mysql]'"

SQL_TYPES: Final = {
    "binary": "BLOB",
    "char": "CHAR",
    "datetime": "DATETIME",
    "double": "DOUBLE",
    "float": "FLOAT",
    "int": "INT",
    "string": "VARCHAR",
    "text": "TEXT",
    "unsigned int": "INT UNSIGNED",
    "unsigned long": "BIGINT UNSIGNED",
    "unsigned short": "SMALLINT UNSIGNED",
}
SIZED: Final = frozenset({"char", "float", "double", "string"})

# Error numbers of the server and of the client library.
TRANSIENT: Final = frozenset(
    {
        1021,  # disk full
        1037,  # out of memory
        1040,  # too many connections
        1041,
        1044,  # no access to the database
        1045,  # no access for the user
        1049,  # no such database
        1053,  # the server shuts down
        1077,
        1078,
        1079,
        1114,  # table full
        1158,  # errors of the network, up to 1161
        1159,
        1160,
        1161,
        1203,  # too many connections of the user
        1205,  # waited too long for a lock
        1213,  # deadlock
        1226,  # limit of the user
        1290,  # read only
        1317,  # interrupted
        1836,  # read only
        1927,  # killed
        2002,
        2003,
        2006,
        2013,
        2014,
        2055,
        3024,  # ran for too long
    }
)
# Errors whose words hold no value, beside those above: the names of accounts, tables, columns and keys only.
HARMLESS: Final = frozenset(
    {
        1046,  # no database chosen
        1048,  # column cannot be null
        1050,  # table exists
        1091,
        1136,  # columns do not match values
        1142,  # not allowed for the account, up to 1143
        1143,
        1146,  # no such table
        1227,
        1264,  # out of range for its column
        1265,  # cut for its column
        1364,  # no default
        1370,
        1406,  # too long for its column
        1451,  # foreign keys
        1452,
        3819,  # checks: MySQL and MariaDB
        4025,
    }
)
GONE: Final = frozenset({1053, 1927, 2002, 2003, 2006, 2013, 2014, 2055})
DUPLICATE: Final = frozenset({1022, 1062, 1169, 1586})
CLIENT_ERRORS: Final = 2000
"""From here on the errors are the client's."""
UNPREPARABLE: Final = 1295
LEAST_INTEGER: Final = -(1 << 63)
MOST_INTEGER: Final = (1 << 64) - 1
NO_DATABASE: Final = 1049
FLOAT_COLUMN: Final = 4
# Types whose values arrive as they are meant: integers, DOUBLE, times, texts and blobs.
PLAIN_COLUMNS: Final = frozenset({1, 2, 3, 5, 7, 8, 9, 12, 13, 15, 249, 250, 251, 252, 253, 254})


class MysqlText(SqlText):
    """Statements as MySQL spells them."""

    quote = "`"
    backslashes = True

    def insert_update(self, write: InsertUpdate, args: list[DbValue]) -> str:
        into = self.into(write, args)
        rest = [self.name(column) for column in write.row if column not in write.keys]
        first = self.name(next(iter(write.row)))
        settings = ", ".join([f"{name} = VALUES({name})" for name in rest]) or f"{first} = {first}"
        return f"INSERT {into} ON DUPLICATE KEY UPDATE {settings}"


TEXT: Final = MysqlText()


class DbMysql(Module, DbDriver):
    """Keep tables in MySQL or MariaDB."""

    name = "db_mysql"
    kind = "sql"
    schemes = ("mysql",)
    wants = (Wants("tls_mgm"),)

    exec_query_threshold = Param(int, 0, "Operations that take longer are logged; 0 none.", unit="us")
    max_db_queries = Param(int, 2, "How often an operation is tried when its connection breaks.")
    max_db_retries = Param(int, 3, "How often an operation tries to connect.")
    ps_max_col_size = Param(int, 1024, "Taken for compatibility: columns are read whole.", unit="bytes")
    timeout_interval = Param(int, 2, "Longest wait for a connection; three times that for an answer.", unit="s")
    use_tls = Param(
        int, 0, "1 uses TLS, by ?tls_domain=NAME of tls_mgm in a URL, or verified by tls_ca=FILE (tls_cert, tls_key)."
    )

    connection_changed = Event(
        "E_MYSQL_CONNECTION",
        params=(("url", "string"), ("status", "string")),
        help='A server was lost ("disconnected") or came back ("connected"). The URL is without its password.',
    )

    async def start(self) -> None:
        if importlib.util.find_spec("asyncmy") is None:
            raise StartError(NEEDS)
        await asyncio.to_thread(importlib.import_module, "asyncmy")

    def open_database(self, url: DbUrl) -> PooledDatabase:
        core = getattr(self, "core", None)
        interval = float(self.timeout_interval) if self.timeout_interval > 0 else 2.0
        limits = Limits(
            connections=getattr(core.globals, "db_max_async_connections", 0) or DEFAULT_CONNECTIONS
            if core is not None
            else DEFAULT_CONNECTIONS,
            connect_s=interval,
            query_s=TIMES * interval,
            connect_attempts=self.max_db_retries if self.max_db_retries > 0 else 3,
            query_attempts=self.max_db_queries if self.max_db_queries > 0 else 2,
            slow_s=max(0, self.exec_query_threshold) / 1e6,
        )
        return PooledDatabase(url, TEXT, limits, self._connector(url), self._connection_changed)

    def _connection_changed(self, url: DbUrl, available: bool) -> None:
        if getattr(self, "core", None) is not None:
            self.connection_changed(url=str(url), status="connected" if available else "disconnected")

    def _connector(self, url: DbUrl, *, database: bool = True) -> Callable[[], Awaitable[MysqlLink]]:
        if not url.database or "\0" in url.database:
            raise DatabaseError(f"{url}: a MySQL URL names a database: mysql://user:password@host/name")
        tls = self._tls(url)

        async def connect() -> MysqlLink:
            return await open_link(url, url.database if database else None, tls())

        return connect

    def _tls(self, url: DbUrl) -> Callable[[], ssl.SSLContext | None]:
        """What a new connection uses: tls_mgm is asked for each, as it may have been told other certificates."""
        if not self.use_tls:
            return lambda: None
        domain = url.options.get("tls_domain", "")
        if not domain:
            context = tls_of(url)
            return lambda: context
        core = getattr(self, "core", None)
        if core is None:
            raise DatabaseError(f"{url}: tls_domain needs a server with the module tls_mgm; tls_ca=FILE works without")
        return lambda: tls_domain(url, core, domain)

    async def create_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[str]:
        connect = self._connector(url)
        try:
            link = await connect()
        except DatabaseError as error:
            if number_of(error.__cause__) != NO_DATABASE:
                raise
            server = await self._connector(url, database=False)()
            try:
                name = url.database.replace("`", "``")
                await server.raw(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4", ())
            finally:
                await server.close()
            link = await connect()
        try:
            return await create_tables(url, link, tables)
        finally:
            await link.close()

    async def old_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[OldTable]:
        link = await self._connector(url)()
        try:
            return await outdated(link, tables)
        finally:
            await link.close()

    async def migrate_table(self, url: DbUrl, old: OldTable) -> int:
        link = await self._connector(url)()
        try:
            return await migrate(link, old)
        finally:
            await link.close()


def tls_domain(url: DbUrl, core: Any, name: str) -> ssl.SSLContext:
    """The context of a client domain of tls_mgm; raises DatabaseError."""
    try:
        domains: TlsDomains = core.api("tls_mgm", TlsDomains)
        return domains.client_context(name)
    except LookupError as error:
        raise DatabaseError(f"{url}: no client domain {name} of the module tls_mgm") from error


def tls_of(url: DbUrl) -> ssl.SSLContext:
    """Raises DatabaseError for files that cannot be read."""
    authority = url.options.get("tls_ca", "")
    try:
        context = ssl.create_default_context(cafile=authority or None)
        if not authority:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if url.options.get("tls_cert"):
            context.load_cert_chain(url.options["tls_cert"], url.options.get("tls_key") or None)
    except (OSError, ssl.SSLError) as error:
        raise DatabaseError(f"{url}: TLS: {error}") from error
    return context


def number_of(error: BaseException | None) -> int:
    """The number of a MySQL error, 0 when it has none."""
    number = error.args[0] if error is not None and error.args else 0
    return number if isinstance(number, int) else 0


def reason(error: Exception) -> str:
    """The words of an error, in one line. They may hold values once statements were sent."""
    return one_line(error.args[1] if len(error.args) > 1 else error) or type(error).__name__


def refusal(error: Exception) -> str:
    """What may be shown of an error that a statement ended with: names, never a value."""
    number = number_of(error)
    if number in TRANSIENT or number in HARMLESS or not number:
        return reason(error)
    return f"error {number}: {without_values(reason(error)) or name_of(number)}"


def name_of(number: int) -> str:
    """What MySQL calls an error, "refused" for one that is not known."""
    names = importlib.import_module("asyncmy.constants.ER")
    return next((name for name, value in vars(names).items() if value == number), "refused").lower().replace("_", " ")


async def open_link(url: DbUrl, database: str | None, tls: ssl.SSLContext | None) -> MysqlLink:
    """A connection; raises DatabaseError."""
    try:
        import asyncmy
        from asyncmy.constants import CLIENT
    except ImportError as error:
        raise DatabaseError(NEEDS) from error
    client: Any = asyncmy
    connection = client.Connection(
        host=url.host or "localhost",
        port=url.port or DEFAULT_PORT,
        unix_socket=url.options.get("unix_socket") or None,
        user=url.user or None,
        password=url.password,
        database=database,
        charset="utf8mb4",
        autocommit=True,
        client_flag=CLIENT.FOUND_ROWS,
        # So that it is known how a value within quotes is escaped, see `Database.backslashes`.
        init_command="SET SESSION sql_mode = REPLACE(@@sql_mode, 'NO_BACKSLASH_ESCAPES', '')",
        ssl=tls,
        program_name="opensipspy",
    )
    link = MysqlLink(url, connection, client.errors)
    try:
        await connection.connect()
    except link.errors as error:
        connection.close()
        if 0 < number_of(error) < CLIENT_ERRORS and isinstance(error, client.errors.MySQLError):
            raise RefusedError(f"{url}: {reason(error)}") from error
        raise DatabaseError(f"{url}: {reason(error)}", transient=True) from error
    except BaseException:
        connection.close()
        raise
    return link


class MysqlLink(Link):
    """A connection of asyncmy."""

    def __init__(self, url: DbUrl, connection: Any, errors: Any) -> None:
        self._url = url
        self._connection = connection
        self._prepared: OrderedDict[str, Any] = OrderedDict()
        # A broken stream shows in whatever the library was doing with it.
        self.errors = (
            errors.MySQLError,
            OSError,
            EOFError,
            ValueError,
            TypeError,
            OverflowError,
            RuntimeError,
            IndexError,
            struct.error,
        )
        self._server_error = errors.MySQLError

    @property
    def closed(self) -> bool:
        # The stream of a connection that lies idle ends without the connection noticing.
        return not self._connection.connected or bool(self._connection._stream_broken)

    def kill(self) -> None:
        self._prepared.clear()
        self._connection.close()

    async def close(self) -> None:
        try:
            await self._connection.ensure_closed()
        except self.errors as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception, harmless: bool = False) -> DatabaseError:
        number = number_of(error)
        # The server answers with its own kind of error; after any other the stream cannot be trusted, and its words
        # may be the bytes that could not be read.
        if not isinstance(error, self._server_error | OSError):
            return LostError(f"{self._url}: an answer that cannot be read ({type(error).__name__})", harmless=harmless)
        text = f"{self._url}: {refusal(error)}"
        if self.closed or number in GONE or not number or isinstance(error, OSError):
            return LostError(text, harmless=harmless)
        return DatabaseError(text, transient=number in TRANSIENT, duplicate=number in DUPLICATE)

    async def _statement(self, sql: str) -> Any:
        found = self._prepared.get(sql)
        if found is None:
            found = await self._connection.prepare(sql)
            self._prepared[sql] = found
            if len(self._prepared) > MAX_PREPARED:
                _, oldest = self._prepared.popitem(last=False)
                await oldest.close()
        else:
            self._prepared.move_to_end(sql)
        return found

    async def query(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        try:
            return rows_of(await (await self._statement(sql)).execute(bound(args)))
        except self.errors as error:
            raise self._failure(error, harmless=True) from error

    async def raw(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        prepared = False
        try:
            try:
                statement = await self._connection.prepare(sql)
            except self._server_error as error:
                if number_of(error) != UNPREPARABLE or args:
                    raise
                # One statement, as the server has just said; some kinds can only be sent as a text.
                prepared = True
                await self._connection.query(sql)
                rows: list[tuple[DbValue, ...]] = []
            else:
                if statement.parameter_count != len(args):
                    await statement.close()
                    raise DatabaseError(f"{self._url}: {statement.parameter_count} arguments are needed")
                prepared = True
                result = await statement.execute(bound(args))
                rows = rows_of(result)
                await statement.close()
            if self._connection.get_transaction_status():
                await self._connection.rollback()
                raise DatabaseError(f"{self._url}: a raw statement must not leave a transaction open")
        except self.errors as error:
            raise self._failure(error, harmless=not prepared) from error
        return rows

    async def write(self, writes: Sequence[Write]) -> list[int]:
        committing = len(writes) == 1
        try:
            if committing:
                return [await self._write(writes[0])]
            await self._connection.begin()
            try:
                counts = [await self._write(write) for write in writes]
                committing = True
                await self._connection.commit()
            except (*self.errors, DatabaseError):
                if not self.closed:
                    await self._connection.rollback()
                raise
        except self.errors as error:
            raise self._failure(error, harmless=not committing) from error
        return counts

    async def _write(self, write: Write) -> int:
        sql, args = TEXT.write(write)
        values = bound(args)
        result = await (await self._statement(sql)).execute(values)
        touched = int(result.affected_rows)
        return min(touched, 1) if isinstance(write, Insert | InsertUpdate | Replace) else touched


# --- values


def bound(args: Sequence[DbValue]) -> list[int | float | str | bytes | datetime | None]:
    """Values as the library takes them: text that is no UTF-8 as bytes, times to the second. Raises DatabaseError."""
    return [arg if arg is None or isinstance(arg, bytes | float) else _bound(arg) for arg in args]


def _bound(value: int | str | datetime) -> int | str | bytes | datetime:
    if isinstance(value, int):
        if not LEAST_INTEGER <= value <= MOST_INTEGER:
            raise DatabaseError("a number has more than 64 bits")
        return int(value)
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            value = value.astimezone().replace(tzinfo=None)
        return value.replace(microsecond=0)
    return sendable(str(value))


def rows_of(result: Any) -> list[tuple[DbValue, ...]]:
    """The rows of a result."""
    rows: Sequence[tuple[Any, ...]] = result.rows or ()
    kinds = [column[1] for column in result.description or ()]
    if all(kind in PLAIN_COLUMNS for kind in kinds):
        return list(rows)
    return [
        tuple(
            [
                float(f"{value:.7g}") if kind == FLOAT_COLUMN and value is not None else as_db_value(value)
                for kind, value in zip(kinds, row, strict=True)
            ]
        )
        for row in rows
    ]


# --- tables


def column_sql(column: Column) -> str:
    kind = SQL_TYPES[column.type]
    if column.type in SIZED and column.size is not None:
        kind = f"{kind}({column.size})"
    elif column.type == "binary" and column.size is None:
        kind = "LONGBLOB"
    text = f"{TEXT.name(column.name)} {kind}"
    if column.autoincrement:
        text += " AUTO_INCREMENT"
    if column.primary:
        text += " PRIMARY KEY"
    if column.default is not NO_DEFAULT:
        text += f" DEFAULT {literal(column)}"
    return text if column.null else f"{text} NOT NULL"


def table_sql(table: Table) -> str:
    """The statement that makes a table and its indexes."""
    parts = [column_sql(column) for column in table.columns]
    for index in table.indexes:
        names = ", ".join(TEXT.name(name) for name in index.columns)
        parts.append(f"{'UNIQUE ' if index.unique else ''}KEY {TEXT.name(index.name)} ({names})")
    body = ",\n    ".join(parts)
    return f"CREATE TABLE {TEXT.name(table.name)} (\n    {body}\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"


async def create_tables(url: DbUrl, link: MysqlLink, tables: Sequence[Table]) -> list[str]:
    """`DbDriver.create_tables`. MySQL ends a transaction at each CREATE, so everything is checked before."""
    made = []
    there = {as_text(row[0]) for row in await link.raw("SHOW TABLES", ())}
    if VERSION_TABLE.name not in there:
        await link.raw(table_sql(VERSION_TABLE), ())
        made.append(VERSION_TABLE.name)
    found = await link.query("SELECT table_name, table_version FROM version", ())
    for table in missing_tables(url, tables, there, {as_text(name): as_int(version) for name, version in found}):
        await link.raw(table_sql(table), ())
        await link.query("REPLACE INTO version VALUES (?, ?)", (table.name, table.version))
        made.append(table.name)
    return made


async def outdated(link: MysqlLink, tables: Sequence[Table]) -> list[OldTable]:
    """`DbDriver.old_tables`."""
    names = {as_text(row[0]) for row in await link.raw("SHOW TABLES", ())}
    if VERSION_TABLE.name not in names:
        return []
    rows = await link.query("SELECT table_name, table_version FROM version", ())
    versions = {as_text(name): as_int(version) for name, version in rows}
    found = []
    for table, version in old_tables(tables, versions, names):
        columns = await link.raw(f"SHOW COLUMNS FROM {TEXT.name(table.name)}", ())
        [(count,)] = await link.query(f"SELECT count(*) FROM {TEXT.name(table.name)}", ())
        found.append(OldTable(table, version, [as_text(row[0]) for row in columns], as_int(count), names))
    return found


async def migrate(link: MysqlLink, old: OldTable) -> int:
    """`DbDriver.migrate_table`. MySQL has no transaction for this: the new table is filled beside the old one, and both
    change their names in one step."""
    table = old.table
    aside = f"{table.name}_new"
    fresh = Table(aside, table.version, table.columns, table.indexes)
    await link.raw(f"DROP TABLE IF EXISTS {TEXT.name(aside)}", ())
    try:
        await link.raw(table_sql(fresh), ())
        await link.raw(old.copy(TEXT, table.name, aside), ())
        [(count,)] = await link.query(f"SELECT count(*) FROM {TEXT.name(aside)}", ())
        await link.raw(
            f"RENAME TABLE {TEXT.name(table.name)} TO {TEXT.name(old.backup)}, "
            f"{TEXT.name(aside)} TO {TEXT.name(table.name)}",
            (),
        )
    except DatabaseError:
        if not link.closed:
            await link.raw(f"DROP TABLE IF EXISTS {TEXT.name(aside)}", ())
        raise
    await link.query("UPDATE version SET table_version = ? WHERE table_name = ?", (table.version, table.name))
    return as_int(count)
