"""A database behind an HTTP server, by OpenSIPS's protocol of the module of this name.

Reads are GET requests, writes POST requests with a form; values are percent-encoded, NULL is `%00`. The reply's first
line has the types of the columns, each further line a row. Each write is a request of its own: several writes that go
together are not one transaction, and how many rows a write touched is not told, so that 1 is taken. Raw statements,
REPLACE and INSERT ... UPDATE are sent only when the server is said to have them (`cap_*`). Credentials of the URL are
sent when the server asks for them, by Digest rather than Basic.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import re
from base64 import b64encode
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote

from opensipspy.db import (
    OPERATORS,
    Condition,
    Database,
    DatabaseError,
    DbDriver,
    DbUrl,
    DbValue,
    Delete,
    Insert,
    InsertUpdate,
    Replace,
    SqlText,
    Table,
    Update,
    Write,
    octets,
)
from opensipspy.module import Module, Param, ParamError, StartError

T = TypeVar("T")

NEEDS: Final = "db_http needs the Python package aiohttp: pip install 'opensipspy[http]'"
MOST_BYTES: Final = 64 * 1024 * 1024
MOST_CELLS: Final = 1_000_000
LARGE: Final = 64 * 1024
"""Characters of an answer that is read beside the event loop: others do not wait for it."""
MOST_CONNECTIONS: Final = 20
TRANSIENT: Final = frozenset({408, 425, 429, 502, 503, 504})
UNAUTHORIZED: Final = 401
OK: Final = 200
NULL: Final = "%00"
NAMES: Final = SqlText()

Form = list[tuple[str, str]]


class Dialect:
    """The characters that the server and we have agreed upon."""

    __slots__ = ("field", "quote", "row", "value")

    def __init__(self, field: str = ";", row: str = "\n", quote: str = "|", value: str = ",") -> None:
        self.field = field
        self.row = row
        self.quote = quote
        self.value = value

    def rows(self, text: str) -> list[list[str]]:
        """The cells of a reply. Raises ValueError."""
        rows: list[list[str]] = []
        row: list[str] = []
        cell: list[str] = []
        special = re.compile("[" + re.escape(self.field + self.row + self.quote) + "]")
        cells = at = 0
        while (found := special.search(text, at)) is not None:
            start = found.start()
            if start > at:
                cell.append(text[at:start])
            at = start + 1
            char = text[start]
            if char == self.quote:
                at = self._quoted(text, at, cell)
                continue
            cells += 1
            if cells > MOST_CELLS:
                raise ValueError(f"there are more than {MOST_CELLS} cells")
            row.append("".join(cell))
            cell.clear()
            if char == self.row:
                rows.append(row)
                row = []
        if at < len(text):
            cell.append(text[at:])
        if cell or row:
            row.append("".join(cell))
            rows.append(row)
        return rows

    def _quoted(self, text: str, at: int, cell: list[str]) -> int:
        """Read on behind a quote; returns where its text ends. Raises ValueError."""
        while (end := text.find(self.quote, at)) >= 0:
            cell.append(text[at:end])
            at = end + 1
            if not text.startswith(self.quote, at):
                return at
            cell.append(self.quote)
            at += 1
        raise ValueError("a quote is not closed")


def value_of(kind: str, text: str) -> DbValue:
    """A cell as the type that the reply says. Raises ValueError."""
    if kind in ("string", "str"):
        return text
    if kind == "blob":
        return octets(text)
    if not text:
        return None
    try:
        if kind in ("int", "integer", "bigint"):
            return int(text)
        if kind == "double":
            return float(text)
        if kind == "date":
            return datetime.fromisoformat(text)
    except ValueError:  # its words show the value
        raise ValueError(f"a cell is no {kind}") from None
    raise ValueError(f"{kind[:20]!r} is no type of a column")


def encoded(value: DbValue) -> str:
    """A value in a form."""
    if value is None:
        return NULL
    if isinstance(value, bytes):
        return quote(value, safe="")
    if isinstance(value, datetime):
        value = value.isoformat(" ", "seconds")
    return quote(octets(str(value)), safe="")


class HttpDatabase(Database):
    """One URL. Used by one event loop."""

    def __init__(self, url: DbUrl, driver: DbHttp) -> None:
        super().__init__(url)
        host = f"[{url.host}]" if ":" in url.host else url.host
        if not host:
            raise DatabaseError(f"{url}: names no server")
        port = f":{url.port}" if url.port else ""
        self._base = f"{'https' if driver.SSL else 'http'}://{host}{port}{url.path.rstrip('/')}/"
        self._driver = driver
        self._dialect = Dialect(
            driver.field_delimiter, driver.row_delimiter, driver.quote_delimiter, driver.value_delimiter
        )
        self._client: Any = None
        self._session: Any = None
        self._credentials: dict[str, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    # --- requests

    def _joined(self, parts: Sequence[str]) -> str:
        return self._dialect.value.join(parts)

    def _names(self, columns: Sequence[str]) -> str:
        for column in columns:
            NAMES.name(column)
        return self._joined(columns)

    def _where(self, where: Sequence[Condition]) -> Form:
        if not where:
            return []
        for _, operator, _ in where:
            if operator not in OPERATORS:
                raise DatabaseError(f"{operator!r} is no comparison")
        return [
            ("k", self._names([column for column, _, _ in where])),
            ("op", self._joined([quote(operator, safe="") for _, operator, _ in where])),
            ("v", self._joined([encoded(value) for _, _, value in where])),
        ]

    def _form(self, write: Write) -> Form:
        if isinstance(write, Delete):
            return [*self._where(write.where), ("query_type", "delete")]
        if not write.row:
            raise DatabaseError(f"a write to {write.table} without columns")
        names = self._names(list(write.row))
        values = self._joined([encoded(value) for value in write.row.values()])
        if isinstance(write, Update):
            return [*self._where(write.where), ("uk", names), ("uv", values), ("query_type", "update")]
        return [("k", names), ("v", values), ("query_type", self._kind(write))]

    def _kind(self, write: Insert | Replace | InsertUpdate) -> str:
        if isinstance(write, Insert):
            return "insert"
        if isinstance(write, Replace):
            if not self._driver.cap_replace:
                raise DatabaseError(f"{self.url}: the server has no replace (cap_replace)")
            return "replace"
        if not self._driver.cap_insert_update:
            raise DatabaseError(f"{self.url}: the server has no insert_update (cap_insert_update)")
        return "insert_update"

    def _open(self) -> Any:
        if self._closed:
            raise DatabaseError(f"{self.url}: closed")
        if self._session is None:
            client = self._client = importlib.import_module("aiohttp")
            middlewares: tuple[Any, ...] = ()
            if self.url.user:
                middlewares = (client.DigestAuthMiddleware(self.url.user, self.url.password),)
            self._session = client.ClientSession(
                connector=client.TCPConnector(limit=MOST_CONNECTIONS),
                timeout=client.ClientTimeout(total=self._driver.timeout / 1000 or None),
                middlewares=middlewares,
                cookie_jar=client.DummyCookieJar(),
            )
        return self._session

    async def _ask(self, method: str, table: str, form: Form) -> str:
        """The body of the server's answer. Raises DatabaseError."""
        session = self._open()
        client = self._client
        text = "&".join(f"{name}={value}" for name, value in form)
        yarl = importlib.import_module("yarl")
        headers = dict(self._credentials)
        if method == "POST":
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        target = yarl.URL(self._base + (f"{table}/?{text}" if method == "GET" else table), encoded=True)
        try:
            for attempt in (1, 2):
                async with session.request(
                    method,
                    target,
                    data=text.encode() if method == "POST" else None,
                    headers=headers,
                    expect100=method == "POST" and len(text) > 1024 and not self._driver.disable_expect,
                    allow_redirects=False,
                ) as response:
                    asks_basic = "basic" in response.headers.get("WWW-Authenticate", "").lower()
                    if response.status == UNAUTHORIZED and asks_basic and attempt == 1 and self.url.user:
                        account = f"{self.url.user}:{self.url.password}".encode()
                        self._credentials["Authorization"] = f"Basic {b64encode(account).decode()}"
                        headers |= self._credentials
                        continue
                    body = await self._read(response)
                    if response.status != OK:
                        # What else the server says may repeat what it was sent.
                        raise DatabaseError(f"{self.url}: {response.status}", transient=response.status in TRANSIENT)
                    return body
        except TimeoutError:
            raise DatabaseError(f"{self.url}: no answer in {self._driver.timeout} ms", transient=True) from None
        except (client.ClientError, OSError, ValueError) as error:
            why = f": {error}" if isinstance(error, OSError) else ""  # others tell the address, and the values in it
            raise DatabaseError(f"{self.url}: {type(error).__name__}{why}", transient=True) from error
        raise DatabaseError(f"{self.url}: the account is refused")

    async def _read(self, response: Any) -> str:
        parts = []
        size = 0
        async for part in response.content.iter_chunked(65536):
            size += len(part)
            if size > MOST_BYTES:
                raise DatabaseError(f"{self.url}: an answer of more than {MOST_BYTES} bytes")
            parts.append(part)
        return b"".join(parts).decode("utf-8", "surrogateescape")

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """The client wants a task, and scripts run in none."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            result = await task
        except DatabaseError as error:
            if error.transient:
                self.note_failure(error)
            raise
        self.note_success()
        return result

    async def _rows(self, text: str) -> list[tuple[DbValue, ...]]:
        if len(text) <= LARGE:
            return self._rows_of(text)
        return await asyncio.get_running_loop().run_in_executor(None, self._rows_of, text)

    def _rows_of(self, text: str) -> list[tuple[DbValue, ...]]:
        if not text:
            return []
        try:
            kinds, *rows = self._dialect.rows(text)
            found = []
            for row in rows:
                if len(row) != len(kinds):
                    raise ValueError(f"a row of {len(row)} cells under {len(kinds)} types")
                found.append(tuple([value_of(kind, cell) for kind, cell in zip(kinds, row, strict=True)]))
        except ValueError as error:
            raise DatabaseError(f"{self.url}: an answer that cannot be read: {error}") from error
        return found

    # --- the contract

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        NAMES.name(table)
        form = self._where(where)
        if columns:
            form.append(("c", self._names(columns)))
        if order:
            NAMES.select(table, (), (), order, 0)  # refuses what is no order
            form.append(("o", quote(order, safe="")))
        rows = await self._rows(await self._run(self._ask("GET", table, form)))
        return rows[:limit] if limit else rows

    async def execute(self, writes: Sequence[Write]) -> list[int]:
        forms = []
        for write in writes:
            NAMES.name(write.table)
            forms.append((write.table, self._form(write)))
        for table, form in forms:
            await self._run(self._ask("POST", table, form))
        return [1] * len(forms)

    async def raw(self, sql: str, args: Sequence[DbValue] = ()) -> list[tuple[DbValue, ...]]:
        if not self._driver.cap_raw_query:
            raise DatabaseError(f"{self.url}: the server has no raw queries (cap_raw_query)")
        if args:
            raise DatabaseError(f"{self.url}: a raw query of this protocol takes no arguments beside it")
        form = [("q", quote(sql, safe="")), ("query_type", "custom")]
        return await self._rows(await self._run(self._ask("GET", "", form)))

    async def ping(self) -> None:
        await self.table_version("version")

    async def close(self) -> None:
        if self._closed:
            return
        try:
            await super().close()
        finally:
            self._closed = True
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(set(self._tasks))
            if self._session is not None:
                await self._session.close()


class DbHttp(Module, DbDriver):
    """Use a database behind an HTTP server."""

    name = "db_http"
    kind = "sql"
    schemes = ("http", "https")

    SSL = Param(int, 0, "1: speak HTTPS, also for URLs that begin with http:.")
    cap_insert_update = Param(int, 0, "1: the server has insert_update.")
    cap_last_inserted_id = Param(int, 0, "1: the server answers an insert with its id; nothing asks for it here.")
    cap_raw_query = Param(int, 0, "1: the server takes raw queries.")
    cap_replace = Param(int, 0, "1: the server has replace.")
    disable_expect = Param(int, 0, "1: no Expect: 100-continue before bodies of more than 1024 bytes.")
    field_delimiter = Param(str, ";", "Between the fields of a reply.")
    quote_delimiter = Param(str, "|", "Around fields of a reply that hold a delimiter.")
    row_delimiter = Param(str, "\n", "Behind each row of a reply.")
    value_delimiter = Param(str, ",", "Between the values of one variable of a request.")
    timeout = Param(int, 30000, "How long a request may take.", unit="ms")

    def set_param(self, name: str, value: object) -> None:
        if name.endswith("_delimiter") and (not isinstance(value, str) or len(value) != 1):
            raise ParamError(self.name, name, "is one character")
        super().set_param(name, value)

    def open_database(self, url: DbUrl) -> HttpDatabase:
        if importlib.util.find_spec("aiohttp") is None:
            raise DatabaseError(NEEDS)
        return HttpDatabase(url, self)

    async def create_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[str]:
        raise DatabaseError(f"{url}: tables are made at the server")

    async def start(self) -> None:
        if importlib.util.find_spec("aiohttp") is None:
            raise StartError(NEEDS)
