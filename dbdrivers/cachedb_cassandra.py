"""Apache Cassandra and ScyllaDB, through cassandra-driver: `cassandra:group://host[,host]/keyspace.table[.counters]`.

A key is a row of the table, made beforehand: the columns `opensipskey` (text, the primary key) and `opensipsval` (text
or blob). Cassandra keeps counters in tables of their own: the third part of the path names one with the columns
`opensipskey` (text) and `opensipsval` (counter); without it there are no counters. A counter of Cassandra does not
expire and does not go with cache_remove() (a removed one cannot be used again), and its new value is read after the
change, so that two servers that count at once may both see the sum.

The driver has its own thread for the network; nothing of it runs in the server's thread but the end of an operation.

No Cassandra server could be had for the tests: a stub of the native protocol (v4), written beside this driver from the
protocol's document, shows that requests are well formed and answers understood, not that Cassandra agrees.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import re
from typing import Any, Final

from opensipspy.cachedb import (
    CacheDbDriver,
    CacheError,
    CacheUrl,
    Limits,
    RemoteCacheDb,
    quoted_of,
    to_bytes,
    to_counter,
    to_text,
)
from opensipspy.module import Module, Param, ParamError, StartError

DEFAULT_PORT: Final = 9042
KEY: Final = "opensipskey"
VALUE: Final = "opensipsval"
PROTOCOL: Final = 4
SERVER_CODE: Final = re.compile(r"code=[0-9a-f]{4} \[[\w ]+\]")
COLUMN: Final = re.compile(r'Received an argument of invalid type for column "\w+"')
"""Of Cassandra 2.2 and later."""
WRITE_LEVELS: Final = frozenset(
    {"all", "each_quorum", "quorum", "local_quorum", "one", "two", "three", "local_one", "any"}
)
READ_LEVELS: Final = frozenset(
    {"all", "quorum", "local_quorum", "one", "two", "three", "local_one", "serial", "local_serial"}
)
NEEDS: Final = "cachedb_cassandra needs the Python package cassandra-driver: pip install 'opensipspy[cassandra]'"


class Settings:
    """Of all stores of the module. retries: how often an operation that may be repeated is tried again."""

    __slots__ = ("limits", "read_level", "retries", "write_level")

    def __init__(self, limits: Limits, read_level: str, write_level: str, retries: int) -> None:
        self.limits = limits
        self.read_level = read_level
        self.write_level = write_level
        self.retries = retries


class CassandraStore(RemoteCacheDb):
    """A table, and perhaps one of counters, behind a URL."""

    def __init__(self, url: CacheUrl, settings: Settings) -> None:
        super().__init__(url, settings.limits)
        self._settings = settings
        self._keyspace, self._table, self._counters = names_of(url)
        self._cluster: Any = None
        self._session: Any = None
        self._library: Any = None
        self._binary = False
        self._statements: dict[str, Any] = {}

    # --- the client

    async def open_client(self) -> None:
        # The library connects and prepares by waiting in the thread that asks.
        cluster, session, statements = await asyncio.to_thread(self._connect)
        self._cluster, self._session, self._statements = cluster, session, statements
        self._binary = is_binary(statements["fetch"])

    def _connect(self) -> tuple[Any, Any, dict[str, Any]]:
        self._library = importlib.import_module("cassandra")
        library = importlib.import_module("cassandra.cluster")
        policies = importlib.import_module("cassandra.policies")
        profile = library.ExecutionProfile(
            load_balancing_policy=policies.RoundRobinPolicy(),
            # Repeating is decided here, where it is known what may be done twice.
            retry_policy=policies.FallthroughRetryPolicy(),
            request_timeout=self.limits.query_s,
            row_factory=importlib.import_module("cassandra.query").tuple_factory,
        )
        account = None
        if self.url.user:
            account = importlib.import_module("cassandra.auth").PlainTextAuthProvider(self.url.user, self.url.password)
        cluster = library.Cluster(
            [host for host, _ in self.url.hosts] or ["localhost"],
            port=self.url.port or DEFAULT_PORT,
            protocol_version=PROTOCOL,
            auth_provider=account,
            connect_timeout=self.limits.connect_s,
            control_connection_timeout=self.limits.connect_s,
            execution_profiles={library.EXEC_PROFILE_DEFAULT: profile},
            schema_metadata_enabled=False,
            token_metadata_enabled=False,
        )
        try:
            session = cluster.connect()
            statements = {name: self._prepared(session, name, text) for name, text in self._texts().items()}
        except BaseException:
            cluster.shutdown()
            raise
        return cluster, session, statements

    def _texts(self) -> dict[str, str]:
        table = f'"{self._keyspace}"."{self._table}"'
        texts = {
            "fetch": f'SELECT "{VALUE}", "{KEY}" FROM {table} WHERE "{KEY}" = ?',
            "store": f'INSERT INTO {table} ("{KEY}", "{VALUE}") VALUES (?, ?) USING TTL ?',
            "remove": f'DELETE FROM {table} WHERE "{KEY}" = ?',
        }
        if self._counters:
            counters = f'"{self._keyspace}"."{self._counters}"'
            texts["count"] = f'UPDATE {counters} SET "{VALUE}" = "{VALUE}" + ? WHERE "{KEY}" = ?'
            texts["counter"] = f'SELECT "{VALUE}" FROM {counters} WHERE "{KEY}" = ?'
        return texts

    def _prepared(self, session: Any, name: str, text: str) -> Any:
        statement = session.prepare(text)
        reads = name in ("fetch", "counter")
        level = self._settings.read_level if reads else self._settings.write_level
        statement.consistency_level = getattr(self._library.ConsistencyLevel, level.upper())
        return statement

    async def close_client(self) -> None:
        cluster, self._cluster, self._session = self._cluster, None, None
        if cluster is not None:
            await asyncio.to_thread(cluster.shutdown)

    async def greet(self) -> None:
        await self._execute("SELECT release_version FROM system.local")

    def explain(self, error: Exception) -> CacheError | None:
        text = f"{self.url}: {words(error)}"
        library = self._library
        if library is None:
            return CacheError(NEEDS) if isinstance(error, ImportError) else None
        protocol = importlib.import_module("cassandra.protocol")
        away = (
            protocol.OverloadedErrorMessage,
            protocol.IsBootstrappingErrorMessage,
            importlib.import_module("cassandra.cluster").NoHostAvailable,
            importlib.import_module("cassandra.connection").ConnectionException,
            library.OperationTimedOut,
            library.Unavailable,
            library.Timeout,
            OSError,
        )
        if isinstance(error, away):
            return CacheError(text, transient=True)
        if isinstance(error, library.DriverException | protocol.ErrorMessage | ValueError | TypeError | UnicodeError):
            return CacheError(text)
        return None

    async def _execute(self, statement: Any, values: tuple[Any, ...] | None = None) -> list[Any]:
        """The rows of a statement, brought from the library's thread."""
        if self._session is None:
            raise ConnectionError("the connection was closed")
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[list[Any]] = loop.create_future()

        def finish(rows: list[Any] | None, error: Exception | None) -> None:
            if ended.done():
                return
            if error is not None:
                ended.set_exception(error)
            else:
                ended.set_result(list(rows or ()))

        def tell(rows: list[Any] | None, error: Exception | None) -> None:
            try:
                loop.call_soon_threadsafe(finish, rows, error)
            except RuntimeError:
                return  # the loop ended meanwhile: nobody waits any more

        asked = self._session.execute_async(statement, values)
        asked.add_callbacks(lambda rows: tell(rows, None), lambda error: tell(None, error))
        return await ended

    async def _asked(self, name: str, values: tuple[Any, ...], *, repeatable: bool = True) -> list[Any]:
        """An operation, tried again (query_retries) while servers are overloaded and it may be repeated."""
        left = self._settings.retries if repeatable else 0

        async def work() -> list[Any]:
            nonlocal left
            while True:
                try:
                    return await self._execute(self._statements[name], values)
                except (self._library.Unavailable, self._library.Timeout):
                    if left <= 0:
                        raise
                    left -= 1

        return await self.ask(work, name, repeatable=repeatable)

    # --- the contract

    def _name(self, key: str) -> str:
        try:
            key.encode()
        except UnicodeEncodeError:
            raise CacheError(f"{self.url}: the column of keys holds text, and these octets are none") from None
        if not key:
            raise CacheError(f"{self.url}: a key of Cassandra is not empty")
        return key

    def _value(self, value: str) -> str | bytes:
        if self._binary:
            return to_bytes(value)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise CacheError(f"{self.url}: the column of values holds text, and these octets are none") from None
        return value

    async def fetch(self, key: str) -> str | None:
        rows = await self._asked("fetch", (self._name(key),))
        value = rows[0][0] if rows else None
        if value is None and self._counters:
            counter = await self.fetch_counter(key)
            return None if counter is None else str(counter)
        return to_text(value) if isinstance(value, bytes) else value

    async def store(self, key: str, value: str | int, expire_s: int = 0) -> None:
        await self.connect()  # tells the type of the column
        await self._asked("store", (self._name(key), self._value(str(value)), max(0, expire_s)))

    async def remove(self, key: str) -> bool:
        """True also when there was none: Cassandra does not tell."""
        await self._asked("remove", (self._name(key),))
        return True

    async def add(self, key: str, amount: int, expire_s: int = 0) -> int:
        self._need_counters()
        await self._asked("count", (amount, self._name(key)), repeatable=False)
        return await self.fetch_counter(key) or 0

    async def fetch_counter(self, key: str) -> int | None:
        self._need_counters()
        rows = await self._asked("counter", (self._name(key),))
        value = rows[0][0] if rows else None
        return None if value is None else to_counter(value)

    def _need_counters(self) -> None:
        if not self._counters:
            raise CacheError(f"{self.url}: the URL names no table of counters (keyspace.table.counters)")

    async def raw_query(self, query: str) -> list[list[str | int | None]]:
        text = quoted_of(query)
        rows = await self.ask(lambda: self._execute(text), "a raw query", repeatable=False)
        return [[each if each is None or isinstance(each, int) else text_of(each) for each in row] for row in rows]

    async def truncate(self) -> None:
        for table in (self._table, self._counters):
            if table:
                text = f'TRUNCATE "{self._keyspace}"."{table}"'
                await self.ask(lambda text=text: self._execute(text), "truncate")  # type: ignore[misc]


class CachedbCassandra(CacheDbDriver, Module):
    """Keep keys and values in Cassandra. Tested with a stub of its protocol only."""

    name = "cachedb_cassandra"
    kind = "cachedb"
    schemes = ("cassandra",)

    cachedb_url = Param(str, None, "cassandra:group://host[,host]/keyspace.table[.counters], several times.", func=True)
    connect_timeout = Param(int, 5000, "Longest wait for a connection.", unit="ms")
    exec_threshold = Param(int, 0, "Operations that take longer are logged; 0 none.", unit="us")
    query_retries = Param(int, 2, "How often an operation is tried again that too few servers answered.")
    query_timeout = Param(int, 5000, "Longest wait for an answer.", unit="ms")
    rd_consistency_level = Param(str, "one", "How many servers have to agree on what is read.")
    wr_consistency_level = Param(str, "one", "How many servers have to take what is written.")

    async def start(self) -> None:
        for name, levels in (("rd_consistency_level", READ_LEVELS), ("wr_consistency_level", WRITE_LEVELS)):
            if getattr(self, name).lower() not in levels:
                raise ParamError(self.name, name, f"is one of {', '.join(sorted(levels))}")
        if importlib.util.find_spec("cassandra") is None:
            raise StartError(NEEDS)
        await asyncio.to_thread(importlib.import_module, "cassandra.cluster")
        # It tells of each attempt to reach a server; the store has one line when it goes and one when it is back.
        logging.getLogger("cassandra").setLevel(logging.CRITICAL)
        await self.connect_all(self.core.cachedb)

    def check_url(self, url: CacheUrl) -> None:
        names_of(url)

    def open_store(self, url: CacheUrl) -> CassandraStore:
        self.check_url(url)
        limits = Limits(
            self.connect_timeout / 1000 if self.connect_timeout > 0 else 5.0,
            self.query_timeout / 1000 if self.query_timeout > 0 else 5.0,
            max(0, self.exec_threshold) / 1e6,
        )
        levels = self.rd_consistency_level.lower(), self.wr_consistency_level.lower()
        return CassandraStore(url, Settings(limits, *levels, max(0, self.query_retries)))


def words(error: BaseException) -> str:
    """What may be shown of an error: a server's words may hold the value that it refused."""
    text = str(error)
    if isinstance(error, OSError):
        return " ".join(text.split())[:300] or type(error).__name__
    code = SERVER_CODE.search(text)
    column = COLUMN.match(text)
    found = code[0] if code else column[0] if column else ""
    return f"{type(error).__name__}: {found}" if found else type(error).__name__


def names_of(url: CacheUrl) -> tuple[str, str, str]:
    """(keyspace, table, table of counters or ""); raises CacheError."""
    parts = url.database.split(".")
    if not 2 <= len(parts) <= 3 or not all(part.isascii() and part.replace("_", "").isalnum() for part in parts):
        raise CacheError("the path of a Cassandra URL is keyspace.table or keyspace.table.counters")
    return parts[0], parts[1], parts[2] if len(parts) == 3 else ""


def is_binary(statement: Any) -> bool:
    """Whether the column of values holds octets and no text."""
    columns: Any = statement.result_metadata or ()
    return bool(columns) and columns[0][3].typename == "blob"


def text_of(value: Any) -> str:
    return to_text(value) if isinstance(value, bytes) else str(value)
