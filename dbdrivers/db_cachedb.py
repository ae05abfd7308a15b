"""Tables kept as collections of documents in a key-value store: `cachedb://mongodb:group`.

The name is that of a store which `cachedb_url` of this module gives; MongoDB is the one store that can do it. A row is
a document. Documents have no layout of their own: for tables that a loaded module declares, values are converted to the
types of the columns, unknown columns and NULLs where none may be are refused, defaults are filled in, and numbered
columns are numbered (the last numbers are in the collection `opensips_numbers`). Other collections take what they are
given.

The version of each table is a document `{table_name, table_version}` of the collection `version`, or of what the global
parameter db_version_table names. It is made by hand, as everything else comes with the first write; unique keys hold
only where such an index was made, too. Several writes at once are one transaction where the server has them (a replica
set, a cluster), else one after the other. There is no SQL, so raw statements fail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from opensipspy.cachedb import (
    AddDocument,
    CacheDb,
    CacheError,
    CacheUrl,
    ChangeDocuments,
    DocumentStore,
    DocumentWrite,
    Filter,
    RemoveDocuments,
)
from opensipspy.cachedb import parse_url as parse_store_url
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
    Delete,
    InsertUpdate,
    Replace,
    SqlText,
    Table,
    Update,
    Write,
    as_db_value,
    as_float,
    as_int,
    as_text,
    missing_tables,
    octets,
)
from opensipspy.module import Module, Param

T = TypeVar("T")

TEXT: Final = SqlText()
INTEGERS: Final = frozenset({"int", "unsigned int", "unsigned long", "unsigned short"})
FRACTIONS: Final = frozenset({"float", "double"})


class DocumentDatabase(Database):
    """The collections of a store."""

    def __init__(self, url: DbUrl, store: CacheDb, driver: DbDriver) -> None:
        """Raises DatabaseError for a store that keeps no documents. driver: knows the declared tables."""
        super().__init__(url)
        if not isinstance(store, DocumentStore):
            raise DatabaseError(f"{url}: {store.url.scheme} keeps no tables; MongoDB does")
        self._store: DocumentStore = store
        self._pings = store
        self._driver = driver

    def _columns(self, table: str) -> dict[str, Column]:
        """The columns of a declared table; none of another one."""
        TEXT.name(table)
        if table in (VERSION_TABLE.name, self.version_table):
            return {column.name: column for column in VERSION_TABLE.columns}
        declared = self._driver.declared.get(table)
        return {column.name: column for column in declared.columns} if declared else {}

    async def _asked(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except CacheError as error:
            reason = f"{self.url}: {error.reason}"
            raise DatabaseError(reason, transient=error.transient, duplicate=error.duplicate) from error
        finally:
            self.available = self._pings.available  # the log is told by the store

    # --- the contract

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        known = self._columns(table)
        names = [named(known, column) for column in columns] or list(known)
        filters = filters_of(known, where)
        found = await self._asked(self._store.find_documents(table, names, filters, order_of(known, order), limit))
        if not names:
            names = list({name: None for document in found for name in document})
        return [tuple([as_db_value(document.get(name)) for name in names]) for document in found]

    async def execute(self, writes: Sequence[Write]) -> list[int]:
        numbers = await self._numbers(writes)
        changes = [self._change(write, numbers) for write in writes]
        return await self._asked(self._store.write_documents(changes)) if changes else []

    async def raw(self, sql: str, args: Sequence[DbValue] = ()) -> list[tuple[DbValue, ...]]:
        raise DatabaseError(f"{self.url}: documents have no SQL; cache_raw_query() asks the store in its own language")

    async def ping(self) -> None:
        await self._asked(self._pings.ping())

    # --- writes

    def _numbered(self, write: Write) -> str:
        """The column that the new row of a write gets a number in; "" when there is none."""
        if isinstance(write, Update | Delete):
            return ""
        for column in self._columns(write.table).values():
            if column.autoincrement and write.row.get(column.name) is None:
                return column.name
        return ""

    async def _numbers(self, writes: Sequence[Write]) -> dict[str, int]:
        """The first new number for each table, of as many as its writes may need."""
        counts: dict[str, int] = {}
        for write in writes:
            if self._numbered(write):
                counts[write.table] = counts.get(write.table, 0) + 1
        return {table: await self._asked(self._store.next_numbers(table, n)) for table, n in counts.items()}

    def _change(self, write: Write, numbers: dict[str, int]) -> DocumentWrite:
        known = self._columns(write.table)
        if isinstance(write, Delete):
            return RemoveDocuments(write.table, filters_of(known, write.where))
        if not write.row:
            raise DatabaseError(f"{self.url}: a write to {write.table} without columns")
        row = {named(known, name): cast(known.get(name), name, value) for name, value in write.row.items()}
        if isinstance(write, Update):
            refuse_nulls(known, row)
            return ChangeDocuments(write.table, row, filters_of(known, write.where))
        whole = self._whole(write, known, row, numbers)
        if isinstance(write, InsertUpdate):
            keys: list[Filter] = [(key, "=", row.get(key)) for key in write.keys]
            return ChangeDocuments(write.table, row, keys, whole)
        older: list[list[Filter]] = []
        if isinstance(write, Replace):
            for key in self._driver.unique_keys(write.table):
                if all(whole.get(name) is not None for name in key):
                    older.append([(name, "=", whole[name]) for name in key])
        return AddDocument(write.table, whole, older)

    def _whole(
        self, write: Write, known: Mapping[str, Column], row: Mapping[str, DbValue], numbers: dict[str, int]
    ) -> dict[str, DbValue]:
        """The row with its number and its defaults."""
        whole: dict[str, DbValue] = {}
        for name, column in known.items():
            if name not in row and not column.autoincrement:
                default = None if column.default is NO_DEFAULT else column.default
                whole[name] = cast(column, name, default)  # type: ignore[arg-type]
        whole.update(row)
        number = self._numbered(write)
        if number:
            whole[number] = numbers[write.table]
            numbers[write.table] += 1
        refuse_nulls(known, whole)
        return whole


def named(known: Mapping[str, Column], name: str) -> str:
    """A column's name; raises DatabaseError for what cannot be one, or is none of a declared table."""
    TEXT.name(name)
    if known and name not in known:
        raise DatabaseError(f"no column {name}")
    return name


def refuse_nulls(known: Mapping[str, Column], row: Mapping[str, DbValue]) -> None:
    for name, value in row.items():
        if value is None and name in known and not known[name].null:
            raise DatabaseError(f"column {name} takes no NULL")


def filters_of(known: Mapping[str, Column], where: Sequence[Condition]) -> list[Filter]:
    return [(named(known, name), operator, cast(known.get(name), name, value)) for name, operator, value in where]


def order_of(known: Mapping[str, Column], order: str) -> list[tuple[str, bool]]:
    """(column, descending) of "a, b desc"; raises DatabaseError."""
    found = []
    for item in order.split(",") if order else ():
        column, _, direction = item.strip().partition(" ")
        direction = direction.strip().lower()
        if direction not in ("", "asc", "desc"):
            raise DatabaseError(f"{order!r} is no order")
        found.append((named(known, column), direction == "desc"))
    return found


def cast(column: Column | None, name: str, value: DbValue) -> DbValue:
    """A value as its column keeps it; raises DatabaseError for what the column cannot hold."""
    if isinstance(value, datetime):
        value = value.replace(microsecond=0)
    if column is None or value is None:
        return value
    try:
        if column.type in INTEGERS:
            return as_int(value)
        if column.type in FRACTIONS:
            return as_float(value)
        if column.type == "datetime":
            return (
                value if isinstance(value, datetime) else datetime.fromisoformat(as_text(value)).replace(microsecond=0)
            )
    except ValueError as error:
        raise DatabaseError(f"column {name} is of type {column.type}: the value is none") from error
    text = as_text(value)
    return octets(text) if column.type == "binary" else text


class DbCachedb(Module, DbDriver):
    """Keep tables as documents in a key-value store, which MongoDB is able to do.

    Tested against SecantusDB, which speaks MongoDB's protocol; no MongoDB server could be had for the tests.
    """

    name = "db_cachedb"
    kind = "sql"
    schemes = ("cachedb",)

    cachedb_url = Param(
        str, None, "The store mongodb:group://host:port/database.collection, for cachedb://mongodb:group.", func=True
    )

    def __init__(self, **params: Any) -> None:
        # Before the parameters are set.
        self._stores: dict[str, CacheUrl] = {}
        self._open_store: Callable[[str], CacheDb] | None = None
        super().__init__(**params)

    def set_cachedb_url(self, text: str) -> None:
        """One occurrence of the parameter; raises ValueError."""
        url = parse_store_url(text)
        self._stores[url.name] = url

    def open_database(self, url: DbUrl) -> DocumentDatabase:
        name = url.path.strip("/")
        found = self._stores.get(name)
        if found is None:
            raise DatabaseError(f"{url}: no cachedb_url of db_cachedb is for the store {name!r}")
        try:
            store = (self._open_store or self.core.cachedb)(found.text)
        except CacheError as error:
            raise DatabaseError(f"{url}: {error.reason}") from error
        return DocumentDatabase(url, store, self)

    def work_alone(self, open_store: Callable[[str], CacheDb]) -> None:
        """Without a server (`opensipspy db`): how the store of a URL is opened."""
        self._open_store = open_store

    async def create_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[str]:
        if self._open_store is None and getattr(self, "core", None) is None:
            raise DatabaseError(f"{url}: the store is needed: --store mongodb:group://host:port/database.collection")
        self.declared = {table.name: table for table in tables} | dict(self.declared)
        database = self.open_database(url)
        return await make_collections(database, url, tables)


async def make_collections(database: DocumentDatabase, url: DbUrl, tables: Sequence[Table]) -> list[str]:
    """`DbDriver.create_tables` within a server."""
    store = database._store
    there = await database._asked(store.collections())
    versions = await database.select(database.version_table, ("table_name", "table_version"))
    made = [] if database.version_table in there else [database.version_table]
    await database._asked(store.make_collection(database.version_table, [("table_name",)], []))
    for table in missing_tables(url, tables, there, {as_text(name): as_int(version) for name, version in versions}):
        primary = [tuple(column.name for column in table.columns if column.primary)]
        unique = [index.columns for index in table.indexes if index.unique]
        # Two over the same columns are one for a store that names them by their columns.
        others = [index.columns for index in table.indexes if not index.unique and index.columns not in unique]
        await database._asked(store.make_collection(table.name, [key for key in primary + unique if key], others))
        await database.insert_update(
            database.version_table, {"table_name": table.name, "table_version": table.version}, ("table_name",)
        )
        made.append(table.name)
    return made
