"""sql_cacher: rows of SQL tables, kept near and asked for by `$sql_cached_value(id:column:key)`.

With full caching (`on_demand=0`) the whole table is read before the server serves, again `reload_interval` seconds
before `full_caching_expire` is over, and at the command `sql_cacher:reload`; a reload that fails leaves the old rows
until they expire. With `on_demand=1` a row is read when it is first asked for and kept for `expire` seconds.

Rows are answered from memory, so that reading the variable never waits, and are also stored in the key-value store
that `cachedb_url` names, by `id:key` as a JSON list, for other servers. A variable cannot wait for a server: on demand,
a row comes at once from SQLite, when the key's column has an index; from others the first question for a key gives NULL
and fetches the row for the next. Use full caching there, where that matters.

`columns` has to be given: the columns of a table that no module declares are not known here.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote

from opensipspy.cachedb import CacheDb, CacheError, InstantCacheDb
from opensipspy.db import Condition, Database, DatabaseError, DbValue, as_text
from opensipspy.management import MiError
from opensipspy.module import Module, NoExpand, Param, StartError, mi_command, script_function, variable
from opensipspy.script.run import Run, Value

FIELDS: Final = ("id", "db_url", "cachedb_url", "table", "key", "key_type", "columns", "on_demand", "expire")
NEEDED: Final = ("id", "db_url", "cachedb_url", "table", "key")
DEFAULT_EXPIRE_S: Final = 3600
SMALLEST_INT: Final = -(2**31)
LARGEST_INT: Final = 2**31 - 1
MOST_ON_DEMAND: Final = 100_000
"""Rows of one entry that are kept on demand."""
MOST_PENDING: Final = 1000
"""Rows of one entry that are being fetched."""
STORED_AT_ONCE: Final = 256
MAX_STORE_KEY: Final = 200
GROUP: Final = "sql_cacher"
NO_DATA: Final = -2
LOADING: Final = -1
READY: Final = 1
RELOADING: Final = 2

Row = tuple[Value, ...]


class Spec:
    """One `cache_table`."""

    __slots__ = ("cachedb_url", "columns", "db_url", "expire_s", "id", "int_key", "key", "on_demand", "table")

    def __init__(self, text: str, delimiter: str, columns_delimiter: str) -> None:
        """Raises ValueError."""
        fields: dict[str, str] = {}
        for part in text.split(delimiter):
            if not part.strip():
                continue
            name, equals, value = part.partition("=")
            name = name.strip()
            if not equals or name not in FIELDS:
                raise ValueError(f"{name!r} is none of {', '.join(FIELDS)}")
            if name in fields:
                raise ValueError(f"{name} is given twice")
            fields[name] = value.strip()
        missing = [name for name in NEEDED if not fields.get(name)]
        if missing:
            raise ValueError(f"{missing[0]}= is missing")
        self.id = fields["id"]
        self.db_url = fields["db_url"]
        self.cachedb_url = fields["cachedb_url"]
        self.table = fields["table"]
        self.key = fields["key"]
        if fields.get("key_type", "string") not in ("string", "int"):
            raise ValueError("key_type is string or int")
        self.int_key = fields.get("key_type") == "int"
        self.columns = tuple(c.strip() for c in fields.get("columns", "").split(columns_delimiter) if c.strip())
        if not self.columns:
            raise ValueError("columns= is missing: the columns of the table are not known here")
        if fields.get("on_demand", "0") not in ("0", "1"):
            raise ValueError("on_demand is 0 or 1")
        self.on_demand = fields.get("on_demand") == "1"
        expire = fields.get("expire", str(DEFAULT_EXPIRE_S))
        if not (expire.isascii() and expire.isdigit() and 0 < int(expire) < 2**31):
            raise ValueError("expire is a number of seconds above 0")
        self.expire_s = int(expire)


class CachedTable:
    """The rows of one entry."""

    def __init__(
        self, spec: Spec, database: Database, store: CacheDb, now: Callable[[], float], life_s: float, convert: Any
    ) -> None:
        self.spec = spec
        self.database = database
        self.store = store
        self.rows: dict[str, tuple[float, Row]] = {}
        self.pending: set[str] = set()
        self.loading = asyncio.Lock()
        self._now = now
        self._life_s = life_s
        self._convert = convert

    def get(self, key: str) -> Row | None:
        found = self.rows.get(key)
        if found is None:
            return None
        if found[0] <= self._now():
            del self.rows[key]
            return None
        return found[1]

    def keep(self, key: str, row: Row) -> None:
        if self.spec.on_demand and len(self.rows) >= MOST_ON_DEMAND and key not in self.rows:
            del self.rows[next(iter(self.rows))]
        self.rows[key] = self._now() + self._life_s, row

    def store_key(self, key: str) -> str:
        """Without what some stores cannot have in a key; a long one is its hash."""
        name = quote(f"{self.spec.id}:{key}", safe=":@;=+,!$'()*/?&", errors="surrogateescape")
        if len(name) <= MAX_STORE_KEY:
            return name
        return f"{quote(self.spec.id)[:64]}:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"

    async def store_row(self, key: str, row: Row) -> None:
        await self.store.store(self.store_key(key), json.dumps(row), int(self._life_s))

    async def stored_row(self, key: str) -> Row | None:
        """Raises CacheError."""
        text = await self.store.fetch(self.store_key(key))
        if text is None:
            return None
        try:
            values = json.loads(text)
        except ValueError:
            return None
        fits = isinstance(values, list) and len(values) == len(self.spec.columns)
        return tuple(values) if fits and all(v is None or isinstance(v, int | str) for v in values) else None

    def _where(self, key: str) -> Sequence[Condition] | None:
        if not self.spec.int_key:
            return ((self.spec.key, "=", key),)
        try:
            return ((self.spec.key, "=", int(key)),)
        except ValueError:
            return None

    async def select(self, key: str) -> Row | None:
        """Raises DatabaseError."""
        where = self._where(key)
        if where is None:
            return None
        rows = await self.database.select(self.spec.table, self.spec.columns, where, limit=1)
        return self._convert(rows[0]) if rows else None

    async def select_all(self, at_once: int) -> dict[str, Row]:
        """The whole table, `at_once` rows a query. Raises DatabaseError."""
        found: dict[str, Row] = {}
        last: DbValue = None
        while True:
            where: Sequence[Condition] = () if last is None else ((self.spec.key, ">", last),)
            rows = await self.database.select(
                self.spec.table, (self.spec.key, *self.spec.columns), where, order=self.spec.key, limit=at_once
            )
            for row in rows:
                if row[0] is not None:
                    found[as_text(row[0])] = self._convert(row[1:])
            if len(rows) < at_once or rows[-1][0] in (None, last):
                return found
            last = rows[-1][0]


class SqlCacher(Module):
    """Keep rows of SQL tables near, for a variable that gives their columns."""

    name = "sql_cacher"

    bigint_to_str = Param(int, 0, "1 gives numbers beyond 32 bits as text.")
    cache_table = Param(str, None, "id, db_url, cachedb_url, table, key, columns ... as name=value.", repeated=True)
    columns_delimiter = Param(str, " ", "Between the columns of cache_table.")
    full_caching_expire = Param(int, 86400, "How long rows of full caching are kept.", unit="s")
    pvar_delimiter = Param(str, ":", "Between the parts of the variable's name.")
    reload_interval = Param(int, 60, "How long before they expire rows of full caching are read again.", unit="s")
    spec_delimiter = Param(str, "\n", "Between the parts of cache_table.")
    sql_fetch_nr_rows = Param(int, 100, "Rows that are read at once.")

    def __init__(self, **params: Any) -> None:
        self._specs: dict[str, Spec] | None = None
        self._tables: dict[str, CachedTable] = {}
        self._waiting_told = False
        super().__init__(**params)

    def specs(self) -> dict[str, Spec]:
        """The entries by id; raises ValueError for one that cannot be right."""
        if self._specs is None:
            for delimiter in (self.spec_delimiter, self.columns_delimiter, self.pvar_delimiter):
                if len(delimiter) != 1:
                    raise ValueError("a delimiter is one character")
            specs: dict[str, Spec] = {}
            for text in self.cache_table:
                spec = Spec(text, self.spec_delimiter, self.columns_delimiter)
                if spec.id in specs:
                    raise ValueError(f"two entries have the id {spec.id}")
                specs[spec.id] = spec
            self._specs = specs
        return self._specs

    # --- life

    async def start(self) -> None:
        try:
            specs = self.specs()
        except ValueError as error:
            raise StartError(f"cache_table: {error}") from error
        for spec in specs.values():
            try:
                database = self.core.database(spec.db_url)
                store = self.core.cachedb(spec.cachedb_url)
            except (DatabaseError, CacheError) as error:
                raise StartError(f"cache_table {spec.id}: {error}") from error
            life_s = spec.expire_s if spec.on_demand else max(1, self.full_caching_expire)
            table = CachedTable(spec, database, store, self.core.now, float(life_s), self._converted)
            self._tables[spec.id] = table
            if not spec.on_demand:
                self._set_status(spec.id, NO_DATA)
                # A database that is away now is asked again later; until then there are no values.
                await self.load(table)
        pause = max(1, self.full_caching_expire - max(0, self.reload_interval))
        if any(not spec.on_demand for spec in specs.values()):
            self._timers.append(self.core.every(float(pause), self._reload_all))

    def _reload_all(self) -> None:
        for table in self._tables.values():
            if not table.spec.on_demand:
                self.core.spawn(self.load(table), f"sql_cacher {table.spec.id}")

    def _set_status(self, id: str, status: int) -> None:
        reports = self.core.status
        if id in (reports.group(GROUP) or {}):
            reports.set_status(GROUP, status, identifier=id)
        else:
            reports.add(GROUP, id, status)

    def _report(self, id: str, text: str) -> None:
        self.core.status.report(GROUP, text, id)

    async def load(self, table: CachedTable) -> bool:
        """Read a whole table; False when the database did not give it."""
        id = table.spec.id
        async with table.loading:
            self._set_status(id, RELOADING if table.rows else LOADING)
            self._report(id, "starting DB data loading")
            try:
                found = await table.select_all(max(1, self.sql_fetch_nr_rows))
            except DatabaseError as error:
                self._report(id, "DB data loading failed, discarding")
                self._set_status(id, READY if table.rows else NO_DATA)
                self.core.log.error("sql_cacher: %s is not loaded: %s", id, error)
                return False
            table.rows.clear()
            for key, row in found.items():
                table.keep(key, row)
            self._report(id, "DB data loading successfully completed")
            self._report(id, f"{len(found)} records loaded")
            self._set_status(id, READY)
            await self._store_all(table, found)
            return True

    async def _store_all(self, table: CachedTable, rows: dict[str, Row]) -> None:
        items = list(rows.items())
        for start in range(0, len(items), STORED_AT_ONCE):
            some = items[start : start + STORED_AT_ONCE]
            results = await asyncio.gather(*(table.store_row(*item) for item in some), return_exceptions=True)
            for result in results:
                if isinstance(result, CacheError):
                    self.core.log.error("sql_cacher: rows of %s are kept in memory only: %s", table.spec.id, result)
                    return
                if isinstance(result, BaseException):
                    raise result

    def _converted(self, row: Sequence[DbValue]) -> Row:
        return tuple([self._value(value) for value in row])

    def _value(self, value: DbValue) -> Value:
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, int):
            beyond = self.bigint_to_str and not SMALLEST_INT <= value <= LARGEST_INT
            return str(value) if beyond else value
        return None if value is None else as_text(value)

    # --- what the script asks

    def parse_cached_name(self, text: str) -> tuple[str, int, str]:
        """(id, number of the column, key) of the variable's inner name. Raises ValueError."""
        id, first, rest = text.partition(self.pvar_delimiter)
        column, second, key = rest.partition(self.pvar_delimiter)
        if not first or not second:
            raise ValueError(f"the name is id{self.pvar_delimiter}column{self.pvar_delimiter}key")
        spec = self.specs().get(id)
        if spec is None:
            raise ValueError(f"no cache_table has the id {id}")
        if column not in spec.columns:
            raise ValueError(f"{id} has no column {column}; it has {', '.join(spec.columns)}")
        return id, spec.columns.index(column), key

    @variable("$sql_cached_value", name_arg=True, parse_name="parse_cached_name")
    def sql_cached_value(self, run: Run, name: tuple[str, int, str], index: Any) -> Value:
        """The column of the row whose key it is; NULL without such a row."""
        id, column, key = name
        table = self._tables.get(id)
        if table is None:
            return None
        row = table.get(key)
        if row is None and table.spec.on_demand:
            row = self._demand(table, key)
        return None if row is None else row[column]

    def _demand(self, table: CachedTable, key: str) -> Row | None:
        """The row, when it can be had without waiting; else it is fetched for the next who asks."""
        if isinstance(table.store, InstantCacheDb):
            try:
                answered, row = at_once(table.select(key))
            except DatabaseError as error:
                self.core.log.error("sql_cacher: %s: %s", table.spec.id, error)
                return None
            if answered:
                if row is not None:
                    table.keep(key, row)
                    self.core.spawn(self._store_all(table, {key: row}), f"sql_cacher {table.spec.id}")
                return row
        if not self._waiting_told:
            self._waiting_told = True
            self.core.log.warning(
                "sql_cacher: %s is cached on demand from a server: the first question for a key gives NULL",
                table.spec.id,
            )
        if key not in table.pending and len(table.pending) < MOST_PENDING:
            table.pending.add(key)
            self.core.spawn(self._fetch(table, key), f"sql_cacher {table.spec.id}")
        return None

    async def _fetch(self, table: CachedTable, key: str, anew: bool = False) -> Row | None:
        """Read a row into memory, from the store when it is there. anew: from the database. Logs what goes wrong."""
        try:
            row = None
            if not anew:
                try:
                    row = await table.stored_row(key)
                except CacheError as error:
                    self.core.log.error("sql_cacher: %s: %s", table.spec.id, error)
            if row is None:
                row = await table.select(key)
                if row is not None:
                    await self._store_all(table, {key: row})
            if row is not None:
                table.keep(key, row)
            return row
        except DatabaseError as error:
            self.core.log.error("sql_cacher: %s: %s", table.spec.id, error)
            if anew:
                raise
            return None
        finally:
            table.pending.discard(key)

    @script_function()
    def sql_cache_dump(self, run: Run, caching_id: str, columns: str, result_avps: Annotated[str, NoExpand()]) -> int:
        """Put columns of all cached rows into AVPs, the first row on top; returns their number, -2 without rows."""
        table = self._tables.get(caching_id)
        wanted = [column.strip() for column in columns.split(",")]
        names = [name.strip() for name in result_avps.split(",")]
        if table is None:
            self.core.log.error("sql_cache_dump: no cache_table has the id %s", caching_id)
            return -1
        unknown = [column for column in wanted if column not in table.spec.columns]
        wrong = [name for name in names if not (name.startswith("$avp(") and name.endswith(")") and len(name) > 6)]
        if unknown or wrong or len(wanted) != len(names):
            self.core.log.error("sql_cache_dump(%s): %s do not fit %s", caching_id, result_avps, columns)
            return -1
        rows = [row for row in map(table.get, list(table.rows)) if row is not None]
        if not rows:
            return -2
        for column, name in zip(wanted, names, strict=True):
            number = table.spec.columns.index(column)
            run.avps[name[5:-1]] = [row[number] for row in reversed(rows)]
        return len(rows)

    # --- management

    @mi_command("sql_cacher:reload", aliases=("sql_cacher_reload",), params=(("id",), ("id", "key")))
    async def mi_reload(self, id: str, key: str | None = None) -> str:
        """Read a table again, or one of its rows; on demand without a key: forget all rows."""
        table = self._tables.get(id)
        if table is None:
            raise MiError(404, "Entry not found")
        if key is None and table.spec.on_demand:
            keys = list(table.rows)
            table.rows.clear()
            try:
                for old in keys:
                    await table.store.remove(table.store_key(old))
            except CacheError as error:
                raise MiError(500, "Failed to invalidate the cache", str(error)) from error
            return "OK"
        if key is None:
            if not await self.load(table):
                raise MiError(500, "Failed to load table")
            return "OK"
        try:
            row = await self._fetch(table, key, anew=True)
        except DatabaseError as error:
            raise MiError(500, "Failed to reload the key", str(error)) from error
        if row is None:
            table.rows.pop(key, None)
            try:
                await table.store.remove(table.store_key(key))
            except CacheError as error:
                raise MiError(500, "Failed to remove the key", str(error)) from error
        return "OK"


def at_once(work: Coroutine[Any, Any, Row | None]) -> tuple[bool, Row | None]:
    """(True, the result) of work that does not wait; otherwise it is given up and the answer is (False, None)."""
    try:
        waits_for = work.send(None)
    except StopIteration as ended:
        return True, ended.value
    work.close()
    cancel = getattr(waits_for, "cancel", None)
    if cancel is not None:
        cancel()
    return False, None
