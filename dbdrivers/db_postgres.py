"""PostgreSQL, through asyncpg.

Statements are prepared once for each connection and their arguments are bound in binary form. PostgreSQL is strict
about types where others are not (a text for an integer column), so arguments are converted to what the statement's
parameters are. PostgreSQL has no REPLACE: it is a DELETE by the table's unique keys and an INSERT in one transaction.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
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
    numbered_marks,
    octets,
    old_tables,
    one_line,
    without_values,
)
from opensipspy.module import Module, Param, StartError, Wants
from opensipspy.module.tls import TlsDomains

DEFAULT_PORT: Final = 5432
MAX_PREPARED: Final = 256
"""Statements kept prepared on a connection."""
DEFAULT_CONNECTIONS: Final = 10
NEEDS: Final = "db_postgres needs the Python package asyncpg: pip install 'opensipspy[postgres]'"

SQL_TYPES: Final = {
    "binary": "BYTEA",
    "char": "CHAR",
    "datetime": "TIMESTAMP WITHOUT TIME ZONE",
    "double": "DOUBLE PRECISION",
    "float": "REAL",
    "int": "INTEGER",
    "string": "VARCHAR",
    "text": "TEXT",
    "unsigned int": "INTEGER",
    "unsigned long": "BIGINT",
    "unsigned short": "INTEGER",
}
# What may go away by itself, by class or code (PostgreSQL, appendix A): connections, resources, operator intervention,
# rolled back transactions, locks, wrong accounts, a database that is not there yet, a server that only reads.
TRANSIENT: Final = ("08", "28", "40", "53", "57", "58", "3D000", "55P03", "25006")
# Classes and codes whose words hold no value: those above, wrong transactions, missing tables and rights.
HARMLESS: Final = (*TRANSIENT, "0A", "25", "2B", "3F", "42501", "42P01", "42P07")
# What the client library says of an argument that does not fit, behind the argument itself.
MISFIT: Final = re.compile(r"\((value out of \w+ range|expected \w+, got \w+|an? (?:[a-z-]+ ){1,4}is required)\)$")
# The server ends the connection, which may take a moment to show.
GONE: Final = ("08", "57P01", "57P02", "57P03", "57P05")
DUPLICATE: Final = "23505"
UNIQUE_KEYS: Final = """
SELECT array_agg(a.attname::text ORDER BY k.place)
FROM pg_index i, LATERAL unnest(i.indkey) WITH ORDINALITY AS k(number, place), pg_attribute a
WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
  AND a.attrelid = i.indrelid AND a.attnum = k.number
GROUP BY i.indexrelid ORDER BY i.indexrelid
"""


class PostgresText(SqlText):
    """Statements with `$1`, `$2`...; names are quoted as PostgreSQL keeps those that OpenSIPS writes without quotes."""

    def mark(self, number: int) -> str:
        return f"${number}"

    def name(self, name: str) -> str:
        return super().name(name.lower())


TEXT: Final = PostgresText()


class DbPostgres(Module, DbDriver):
    """Keep tables in PostgreSQL."""

    name = "db_postgres"
    kind = "sql"
    schemes = ("postgres", "postgresql")
    wants = (Wants("tls_mgm"),)

    exec_query_threshold = Param(int, 0, "Operations that take longer are logged; 0 none.", unit="us")
    max_db_queries = Param(int, 2, "How often an operation is tried when its connection breaks.")
    timeout = Param(int, 5, "Longest wait for a connection and for an answer; negative waits for ever.", unit="s")
    use_tls = Param(
        int,
        0,
        "1 uses TLS where the server has it; by ?tls_domain=NAME of tls_mgm or tls_ca=FILE (tls_cert, tls_key) always.",
    )

    async def start(self) -> None:
        if importlib.util.find_spec("asyncpg") is None:
            raise StartError(NEEDS)
        await asyncio.to_thread(importlib.import_module, "asyncpg")

    def open_database(self, url: DbUrl) -> PooledDatabase:
        limit = float(self.timeout) if self.timeout >= 0 else None
        core = getattr(self, "core", None)
        limits = Limits(
            connections=getattr(core.globals, "db_max_async_connections", 0) or DEFAULT_CONNECTIONS
            if core is not None
            else DEFAULT_CONNECTIONS,
            connect_s=limit,
            query_s=limit,
            query_attempts=self.max_db_queries if self.max_db_queries > 0 else 2,
            slow_s=max(0, self.exec_query_threshold) / 1e6,
        )
        return PooledDatabase(url, TEXT, limits, self._connector(url))

    def _connector(self, url: DbUrl, database: str = "") -> Callable[[], Awaitable[PostgresLink]]:
        name = database or url.database
        if not name or "\0" in name:
            raise DatabaseError(f"{url}: a PostgreSQL URL names a database: postgres://user:password@host/name")
        tls = self._tls(url)

        async def connect() -> PostgresLink:
            return await open_link(url, name, tls())

        return connect

    def _tls(self, url: DbUrl) -> Callable[[], ssl.SSLContext | str | bool]:
        """What a new connection uses: tls_mgm is asked for each, as it may have been told other certificates."""
        if not self.use_tls:
            return lambda: False
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
            if getattr(error.__cause__, "sqlstate", "") != "3D000":
                raise
            server = await self._connector(url, "postgres")()
            try:
                await server.command(f'CREATE DATABASE "{url.database.replace(chr(34), chr(34) * 2)}"')
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


def tls_of(url: DbUrl) -> ssl.SSLContext | str:
    """What asyncpg takes as `ssl`. Raises DatabaseError for files that cannot be read."""
    authority = url.options.get("tls_ca", "")
    if not authority:
        return "prefer"
    try:
        context = ssl.create_default_context(cafile=authority)
        if url.options.get("tls_cert"):
            context.load_cert_chain(url.options["tls_cert"], url.options.get("tls_key") or None)
    except (OSError, ssl.SSLError) as error:
        raise DatabaseError(f"{url}: TLS: {error}") from error
    return context


async def open_link(url: DbUrl, database: str, tls: ssl.SSLContext | str | bool) -> PostgresLink:
    """A connection; raises DatabaseError."""
    try:
        import asyncpg
    except ImportError as error:
        raise DatabaseError(NEEDS) from error
    try:
        connection = await asyncpg.connect(
            host=url.options.get("unix_socket") or url.host or "localhost",
            port=url.port or DEFAULT_PORT,
            user=url.user or None,
            password=url.password or None,
            database=database,
            ssl=tls,
            timeout=None,
            statement_cache_size=0,
            server_settings={
                "application_name": "opensipspy",
                "client_encoding": "utf-8",
                # So that it is known how a value within quotes is escaped, see `Database.backslashes`.
                "standard_conforming_strings": "on",
            },
        )
    except asyncpg.PostgresError as error:
        if str(error.sqlstate or "").startswith(GONE):
            raise DatabaseError(f"{url}: {reason(error)}", transient=True) from error
        raise RefusedError(f"{url}: {reason(error)}") from error
    except (asyncpg.InterfaceError, OSError, ValueError) as error:
        raise DatabaseError(f"{url}: {reason(error)}", transient=True) from error
    return PostgresLink(url, connection, asyncpg)


def reason(error: Exception) -> str:
    """The words of an error, in one line. They may hold values once statements were sent."""
    return one_line(getattr(error, "message", None) or error) or type(error).__name__


def refusal(error: Exception) -> str:
    """What may be shown of an error that a statement ended with: names, never a value."""
    words = reason(error)
    if words.startswith("invalid input for query argument"):  # the client library's; the value follows
        why = MISFIT.search(str(error))
        return f"{words.partition(':')[0]}{f': {why[1]}' if why else ''}"
    code = str(getattr(error, "sqlstate", None) or "")
    if not code or code.startswith(HARMLESS):
        return words
    # The server may speak any language; that an error is of a column or table it tells beside its words too.
    shown = without_values(words) or f"{type(error).__name__.removesuffix('Error')} ({code})"
    places = [(place, getattr(error, f"{place}_name", None)) for place in ("table", "column", "constraint")]
    return " ".join([shown, *(f'{place} "{name}"' for place, name in places if name and f'"{name}"' not in shown)])


class Prepared:
    """A prepared statement, and how its arguments and columns are converted."""

    __slots__ = ("binders", "columns", "statement")

    def __init__(self, statement: Any) -> None:
        self.statement = statement
        self.binders: list[Callable[[Any], object]] = [
            BINDERS.get(kind.name, as_is) for kind in statement.get_parameters()
        ]
        self.columns: list[Callable[[Any], Any]] = [
            READERS.get(column.type.name, as_db_value) for column in statement.get_attributes()
        ]

    def bound(self, args: Sequence[DbValue]) -> list[object]:
        """Raises ValueError for a value that its column cannot hold."""
        if len(args) != len(self.binders):
            raise ValueError(f"{len(self.binders)} arguments are needed, {len(args)} were given")
        return [None if arg is None else bind(arg) for bind, arg in zip(self.binders, args, strict=True)]

    def rows(self, records: Sequence[Any]) -> list[tuple[DbValue, ...]]:
        readers = self.columns
        if all(read is as_is for read in readers):
            return [tuple(record) for record in records]
        return [
            tuple([None if v is None else read(v) for read, v in zip(readers, record, strict=True)])
            for record in records
        ]


class PostgresLink(Link):
    """A connection of asyncpg."""

    def __init__(self, url: DbUrl, connection: Any, asyncpg: Any) -> None:
        self._url = url
        self._connection = connection
        self._prepared: OrderedDict[str, Prepared] = OrderedDict()
        self._keys: dict[str, list[list[str]]] = {}
        self._confused = asyncpg.InternalClientError
        self._errors = (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            OSError,
            ValueError,
            TypeError,
            OverflowError,
        )
        # Prepared for a table that has changed since.
        self._stale = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)

    @property
    def closed(self) -> bool:
        return bool(self._connection.is_closed())

    def kill(self) -> None:
        if not self.closed:
            self._connection.terminate()

    async def close(self) -> None:
        try:
            await self._connection.close()
        except self._errors as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception, harmless: bool = False) -> DatabaseError:
        text = f"{self._url}: {refusal(error)}"
        if self.closed or isinstance(error, OSError):
            return LostError(text, harmless=harmless)
        code = str(getattr(error, "sqlstate", None) or "")
        if code.startswith(GONE) or isinstance(error, self._confused):
            return LostError(text, harmless=harmless)
        return DatabaseError(text, transient=code.startswith(TRANSIENT), duplicate=code == DUPLICATE)

    async def _statement(self, sql: str) -> Prepared:
        found = self._prepared.get(sql)
        if found is None:
            found = Prepared(await self._connection.prepare(sql))
            self._prepared[sql] = found
            if len(self._prepared) > MAX_PREPARED:
                self._prepared.popitem(last=False)
        else:
            self._prepared.move_to_end(sql)
        return found

    async def command(self, sql: str) -> None:
        """A statement without arguments and rows."""
        try:
            await self._connection.execute(sql)
        except self._errors as error:
            raise self._failure(error) from error

    async def query(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        try:
            try:
                return await self._fetch(sql, args)
            except self._stale:
                self._prepared.clear()
                return await self._fetch(sql, args)
        except self._errors as error:
            raise self._failure(error, harmless=True) from error

    async def _fetch(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        prepared = await self._statement(sql)
        return prepared.rows(await prepared.statement.fetch(*prepared.bound(args)))

    async def raw(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        sent = False
        try:
            prepared = Prepared(await self._connection.prepare(numbered_marks(sql) if args else sql))
            bound = prepared.bound(args)
            sent = True
            rows = prepared.rows(await prepared.statement.fetch(*bound))
            if self._connection.is_in_transaction():
                await self._connection.execute("ROLLBACK")
                raise DatabaseError(f"{self._url}: a raw statement must not leave a transaction open")
        except self._errors as error:
            raise self._failure(error, harmless=not sent) from error
        return rows

    async def write(self, writes: Sequence[Write]) -> list[int]:
        committing = len(writes) == 1 and not isinstance(writes[0], Replace)
        try:
            if committing:
                return [await self._write(writes[0])]
            await self._connection.execute("BEGIN")
            try:
                counts = [await self._write(write) for write in writes]
                committing = True
                await self._connection.execute("COMMIT")
            except (*self._errors, DatabaseError):
                if not self.closed:
                    await self._connection.execute("ROLLBACK")
                raise
        except self._stale as error:
            # Nothing was done; on another connection it is prepared afresh.
            raise LostError(f"{self._url}: {refusal(error)}", harmless=True) from error
        except self._errors as error:
            raise self._failure(error, harmless=not committing) from error
        return counts

    async def _write(self, write: Write) -> int:
        if isinstance(write, Replace):
            await self._make_room(write)
            sql, args = TEXT.write(Insert(write.table, write.row))
        else:
            sql, args = TEXT.write(write)
        prepared = await self._statement(sql)
        await prepared.statement.fetch(*prepared.bound(args))
        count = str(prepared.statement.get_statusmsg()).rpartition(" ")[2]
        touched = int(count) if count.isdigit() else 0
        return min(touched, 1) if isinstance(write, Insert | InsertUpdate | Replace) else touched

    async def _make_room(self, write: Replace) -> None:
        """Remove the rows that have one of the row's unique keys."""
        keys = self._keys.get(write.table)
        if keys is None:
            rows = await self._connection.fetch(UNIQUE_KEYS, TEXT.name(write.table))
            keys = self._keys[write.table] = [list(row[0]) for row in rows]
        conditions = []
        args: list[DbValue] = []
        row = {column.lower(): value for column, value in write.row.items()}
        for key in keys:
            values = [row.get(column) for column in key]
            if any(value is None for value in values):
                continue  # NULL is equal to nothing, and a default is not known here
            parts = []
            for column, value in zip(key, values, strict=True):
                args.append(value)
                parts.append(f"{TEXT.name(column)} = ${len(args)}")
            conditions.append(" AND ".join(parts))
        if conditions:
            sql = f"DELETE FROM {TEXT.name(write.table)} WHERE ({') OR ('.join(conditions)})"
            prepared = await self._statement(sql)
            await prepared.statement.fetch(*prepared.bound(args))


# --- values


def as_is(value: Any) -> Any:
    return value


def to_int(value: DbValue) -> int:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str | bytes):
        try:
            return int(value)
        except ValueError:
            pass  # its words show the value
    raise ValueError("a value for an integer column is no whole number")


def to_float(value: DbValue) -> float:
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass  # its words show the value
    raise ValueError("a value for a column of numbers is none")


def to_decimal(value: DbValue) -> Decimal:
    try:
        return Decimal(str(value))
    except InvalidOperation as error:
        raise ValueError("a value for a column of numbers is none") from error


def to_text(value: DbValue) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode()
    return value.isoformat(" ", "seconds") if isinstance(value, datetime) else str(value)


def to_bytes(value: DbValue) -> bytes:
    return value if isinstance(value, bytes) else octets(to_text(value))


def to_bool(value: DbValue) -> bool:
    return value.strip().lower() in ("1", "t", "true", "y", "yes", "on") if isinstance(value, str) else bool(value)


def to_time(value: DbValue) -> datetime:
    """Local time to the second. Numbers are seconds since 1970."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        elif isinstance(value, int | float):
            value = datetime.fromtimestamp(value)
    except (ValueError, OverflowError, OSError):
        pass  # its words show the value
    if not isinstance(value, datetime):
        raise ValueError("a value for a column of times is none")
    if value.tzinfo is not None:
        value = value.astimezone().replace(tzinfo=None)
    return value.replace(microsecond=0)


def to_zoned_time(value: DbValue) -> datetime:
    return to_time(value).astimezone()


def short_float(value: float) -> float:
    """A number of 32 bits without the digits that it never had."""
    return float(f"{value:.7g}")


BINDERS: Final[dict[str, Callable[[Any], object]]] = {
    "bool": to_bool,
    "bpchar": to_text,
    "bytea": to_bytes,
    "float4": to_float,
    "float8": to_float,
    "int2": to_int,
    "int4": to_int,
    "int8": to_int,
    "json": to_text,
    "jsonb": to_text,
    "name": to_text,
    "numeric": to_decimal,
    "oid": to_int,
    "text": to_text,
    "timestamp": to_time,
    "timestamptz": to_zoned_time,
    "varchar": to_text,
}
READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "bpchar": as_is,
    "bytea": as_is,
    "float4": short_float,
    "float8": as_is,
    "int2": as_is,
    "int4": as_is,
    "int8": as_is,
    "name": as_is,
    "text": as_is,
    "timestamp": as_is,
    "varchar": as_is,
}


# --- tables


def column_sql(column: Column) -> str:
    if column.primary and column.autoincrement:
        kind = "BIGSERIAL" if column.type == "unsigned long" else "SERIAL"
        return f"{TEXT.name(column.name)} {kind} PRIMARY KEY NOT NULL"
    kind = SQL_TYPES[column.type]
    if column.size is not None and column.type in ("char", "string"):
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
        # Index names share one space with tables.
        name = TEXT.name(f"{table.name}_{index.name}")
        statements.append(f"CREATE {unique}INDEX {name} ON {TEXT.name(table.name)} ({names})")
    return statements


async def create_tables(url: DbUrl, link: PostgresLink, tables: Sequence[Table]) -> list[str]:
    """`DbDriver.create_tables`, in one transaction."""
    made = []
    await link.command("BEGIN")
    # Two that create at the same time take turns.
    await link.command("SELECT pg_advisory_xact_lock(1869639033)")
    rows = await link.query("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()", ())
    there = {as_text(row[0]) for row in rows}
    if VERSION_TABLE.name not in there:
        for statement in table_sql(VERSION_TABLE):
            await link.command(statement)
        made.append(VERSION_TABLE.name)
    found = await link.query("SELECT table_name, table_version FROM version", ())
    for table in missing_tables(url, tables, there, {as_text(name): as_int(version) for name, version in found}):
        for statement in table_sql(table):
            await link.command(statement)
        await link.query("DELETE FROM version WHERE table_name = $1", (table.name,))
        await link.query("INSERT INTO version VALUES ($1, $2)", (table.name, table.version))
        made.append(table.name)
    await link.command("COMMIT")
    return made


async def outdated(link: PostgresLink, tables: Sequence[Table]) -> list[OldTable]:
    """`DbDriver.old_tables`."""
    rows = await link.query("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()", ())
    names = {as_text(row[0]) for row in rows}
    if VERSION_TABLE.name not in names:
        return []
    rows = await link.query("SELECT table_name, table_version FROM version", ())
    versions = {as_text(name): as_int(version) for name, version in rows}
    found = []
    for table, version in old_tables(tables, versions, names):
        columns = await link.query(
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_schema = current_schema() AND table_name = $1",
            (table.name,),
        )
        [(count,)] = await link.query(f"SELECT count(*) FROM {TEXT.name(table.name)}", ())
        found.append(OldTable(table, version, [as_text(row[0]) for row in columns], as_int(count), names))
    return found


def cast_sql(column: Column, expression: str) -> str:
    kind = SQL_TYPES[column.type]
    # By way of text, which every type can be read from.
    return f"CAST(CAST({expression} AS TEXT) AS {kind})" if kind != "BYTEA" else expression


async def migrate(link: PostgresLink, old: OldTable) -> int:
    """`DbDriver.migrate_table`, in one transaction."""
    table = old.table
    await link.command("BEGIN")
    await link.command(f"ALTER TABLE {TEXT.name(table.name)} RENAME TO {TEXT.name(old.backup)}")
    indexes = await link.query(
        "SELECT quote_ident(c.relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE i.indrelid = $1::text::regclass "
        "AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid)",
        (TEXT.name(old.backup),),
    )
    for [index] in indexes:  # their names are wanted by the new table
        await link.command(f"DROP INDEX {as_text(index)}")
    for statement in table_sql(table):
        await link.command(statement)
    await link.command(old.copy(TEXT, old.backup, table.name, cast_sql))
    [(count,)] = await link.query(f"SELECT count(*) FROM {TEXT.name(table.name)}", ())
    for column in table.columns:
        if column.autoincrement:
            name = TEXT.name(column.name)
            await link.command(
                f"SELECT setval(pg_get_serial_sequence('{TEXT.name(table.name)}', '{column.name}'), "
                f"coalesce(max({name}), 0) + 1, false) FROM {TEXT.name(table.name)}"
            )
    await link.query("UPDATE version SET table_version = $1 WHERE table_name = $2", (table.version, table.name))
    await link.command("COMMIT")
    return as_int(count)
