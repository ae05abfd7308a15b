"""MongoDB, through pymongo. The URL is MongoDB's own, with the collection: `mongodb:group://host:port/database.collection`.

A key is a document: its `_id`, the value in `opensips`, a counter in `opensips_counter`, the fields that OpenSIPS uses,
and beside them the time when it expires in `opensips_expires` (with a TTL index, made at the first key that expires).
`map_*` keep the entries of a map in `opensips_map` of the document. Octets that are no UTF-8 are refused: MongoDB keeps
text.

Beside keys it keeps documents, for `db_cachedb`: the collections of the same database.

A raw query is a command of MongoDB in JSON; the documents of `find` and `aggregate` come back as rows of JSON, the
number of `count` as a number, and the whole answer of another command as one row.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from json import JSONDecodeError
from typing import Any, Final
from urllib.parse import quote, unquote

from opensipspy.cachedb import (
    FILTERS,
    LARGEST_COUNTER,
    SMALLEST_COUNTER,
    AddDocument,
    CacheDbDriver,
    CacheError,
    CacheUrl,
    CacheValue,
    Cell,
    DocumentStore,
    DocumentWrite,
    Filter,
    Limits,
    Map,
    Pairs,
    RemoteCacheDb,
    RemoveDocuments,
    json_of,
    to_counter,
)
from opensipspy.module import Module, Param, StartError

VALUE: Final = "opensips"
COUNTER: Final = "opensips_counter"
EXPIRES: Final = "opensips_expires"
MAP: Final = "opensips_map"
TIMEOUT_S: Final = 5.0
LONGEST_S: Final = 2**32
"""A key that expires later has no date that MongoDB's drivers can read."""
MAX_ROWS: Final = 10_000
MAX_QUERY: Final = 1 << 20
MAX_DEPTH: Final = 100
DUPLICATE: Final = 11000
NUMBERS: Final = "opensips_numbers"
"""The collection that holds the last number given to a document of each collection."""
TRIES: Final = 20
"""How often a transaction that another one disturbed is tried."""
NO_TRANSACTIONS: Final = frozenset({20, 263})
"""Codes of a server that stands alone: it has none."""
NOTHING: Final[dict[str, Any]] = {"_id": {"$in": []}}
Step = Callable[[Any], Awaitable[list[int]]]
"""Some of the writes, in a session or (None) without one; how many documents each touched."""
COMPARISONS: Final = {"=": "$eq", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}


class MongodbStore(RemoteCacheDb, DocumentStore):
    """A collection behind a URL; as a store of documents, all collections of its database."""

    maps = True

    def __init__(self, url: CacheUrl, limits: Limits, wall: Callable[[], float]) -> None:
        super().__init__(url, limits)
        self._wall = wall
        self._client: Any = None
        self._pymongo: Any = None
        self._json: Any = None
        self._indexed = False
        self._transactions = True

    # --- the client

    async def open_client(self) -> None:
        self._pymongo = importlib.import_module("pymongo")
        self._json = importlib.import_module("bson.json_util")
        limit_ms = int(self.limits.query_s * 1000)
        self._client = self._pymongo.AsyncMongoClient(
            server_url(self.url),
            serverSelectionTimeoutMS=int(self.limits.connect_s * 1000),
            connectTimeoutMS=int(self.limits.connect_s * 1000),
            socketTimeoutMS=limit_ms,
            retryWrites=False,
            appname="opensipspy",
        )
        await self.greet()

    async def close_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                await client.close()
            except asyncio.CancelledError:
                # It was saying good-bye to a server that does not answer; now it only lets go.
                await client.close()
                raise

    async def greet(self) -> None:
        await self._database.command("ping")

    @property
    def _database(self) -> Any:
        if self._client is None:
            raise ConnectionError("the connection was closed")
        return self._client[self.url.database.partition(".")[0]]

    @property
    def _collection(self) -> Any:
        return self._database[self.url.database.partition(".")[2]]

    def explain(self, error: Exception) -> CacheError | None:
        errors = self._pymongo.errors
        # The words of a refusal may hold what was refused.
        text = f"{self.url}: {type(error).__name__}"
        if isinstance(error, errors.OperationFailure):
            name = (error.details or {}).get("codeName", "refused")
            text = f"{self.url}: error {error.code}: {name if str(name).isidentifier() else 'refused'}"
        if isinstance(error, errors.ConnectionFailure | OSError):
            text = f"{self.url}: {' '.join(str(error).split())[:300] or type(error).__name__}"
        if isinstance(error, errors.ConnectionFailure | errors.ProtocolError | OSError):
            return CacheError(text, transient=True)
        if isinstance(error, errors.OperationFailure) and error.code == DUPLICATE:
            return CacheError(f"{self.url}: a document with the same unique key exists", duplicate=True)
        if isinstance(error, errors.PyMongoError | ValueError | TypeError | OverflowError):
            return CacheError(text)
        return None

    # --- the contract

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)

    def _until(self, expire_s: int) -> dict[str, datetime]:
        return {EXPIRES: self._now() + timedelta(seconds=min(expire_s, LONGEST_S))} if expire_s > 0 else {}

    def _checked(self, *texts: str) -> None:
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise CacheError(f"{self.url}: MongoDB keeps text, and these octets are none") from None

    async def _find(self, key: str) -> dict[str, Any] | None:
        self._checked(key)
        found = await self.ask(lambda: self._collection.find_one({"_id": key}), "find")
        if found is None:
            return None
        expires = found.get(EXPIRES)
        if isinstance(expires, datetime) and expires.replace(tzinfo=UTC) <= self._now():
            return None
        return dict(found)

    async def fetch(self, key: str) -> str | None:
        found = await self._find(key)
        value = None if found is None else found.get(VALUE, found.get(COUNTER))
        return None if value is None else str(value)

    async def fetch_counter(self, key: str) -> int | None:
        found = await self._find(key)
        value = None if found is None else found.get(COUNTER, found.get(VALUE))
        return None if value is None else to_counter(value)

    async def store(self, key: str, value: str | int, expire_s: int = 0) -> None:
        text = str(value)
        self._checked(key, text)
        document: dict[str, Any] = {VALUE: text, **self._until(expire_s)}
        if is_number(text):
            document[COUNTER] = int(text)

        async def work() -> None:
            if expire_s > 0:
                await self._index()
            await self._collection.replace_one({"_id": key}, document, upsert=True)

        await self.ask(work, "update")

    async def _index(self) -> None:
        """Let the server remove what has expired."""
        if not self._indexed:
            await self._collection.create_index(EXPIRES, expireAfterSeconds=0)
            self._indexed = True

    async def remove(self, key: str) -> bool:
        self._checked(key)
        result = await self.ask(lambda: self._collection.delete_one({"_id": key}), "delete")
        return bool(result.deleted_count)

    async def add(self, key: str, amount: int, expire_s: int = 0) -> int:
        self._checked(key)
        change: dict[str, Any] = {"$inc": {COUNTER: amount}, "$unset": {VALUE: ""}}
        if expire_s > 0:
            change["$set"] = self._until(expire_s)

        async def work() -> int:
            if expire_s > 0:
                await self._index()
            # A document that is there and does not fit makes the upsert a duplicate: it has expired, or is no number,
            # or another one made it a moment ago.
            for _ in range(3):
                now = self._now()
                living = {"$or": [{EXPIRES: {"$exists": False}}, {EXPIRES: {"$gt": now}}]}
                number = {"$or": [{COUNTER: {"$exists": True}}, {VALUE: {"$exists": False}}]}
                try:
                    found = await self._collection.find_one_and_update(
                        {"_id": key, "$and": [living, number]}, change, upsert=True, return_document=True
                    )
                except self._pymongo.errors.OperationFailure as error:
                    if error.code != DUPLICATE:
                        raise
                    await self._collection.delete_one({"_id": key, EXPIRES: {"$lte": now}})
                    continue
                if found is None:  # no MongoDB does this; whether it counted is not known, so that it is not repeated
                    raise CacheError(f"{self.url}: the server did not tell the count")
                return int(found[COUNTER])
            raise CacheError(f"{self.url}: the value is no whole number")

        return await self.ask(work, "update", repeatable=False)

    async def raw_query(self, query: str) -> list[list[CacheValue]]:
        if len(query) > MAX_QUERY:
            raise CacheError(f"{self.url}: a raw query has at most {MAX_QUERY} characters")
        await self.connect()
        try:
            command = self._json.loads(json_of(query))
        except (ValueError, TypeError, RecursionError) as error:
            why = error.msg if isinstance(error, JSONDecodeError) else type(error).__name__
            raise CacheError(f"{self.url}: the raw query is no JSON: {why}") from error
        if not isinstance(command, dict) or not command:
            raise CacheError(f"{self.url}: a raw query is a JSON object, a command of MongoDB")
        return await self.ask(lambda: self._command(command), "a raw query", repeatable=False)

    async def _command(self, command: dict[str, Any]) -> list[list[CacheValue]]:
        name = next(iter(command))
        if name in ("find", "aggregate"):
            if name == "aggregate":
                command.setdefault("cursor", {})
            rows: list[list[CacheValue]] = []
            async with await self._database.cursor_command(command) as cursor:
                async for document in cursor:
                    rows.append([self._json.dumps(document)])
                    if len(rows) >= MAX_ROWS:
                        break
            return rows
        answer = await self._database.command(command)
        errors = answer.get("writeErrors")
        if errors:
            if errors[0].get("code") == DUPLICATE:
                raise CacheError(f"{self.url}: a document with the same unique key exists", duplicate=True)
            raise CacheError(f"{self.url}: a write failed with error {errors[0].get('code', 0)}")
        if name == "count":
            return [[int(answer["n"])]]
        return [[self._json.dumps(answer)]]

    async def map_get(self, key: str) -> Map:
        found = await self._find(key)
        entries = (found or {}).get(MAP, {})
        return {unescaped(subkey): {unescaped(n): v for n, v in pairs.items()} for subkey, pairs in entries.items()}

    async def map_set(self, key: str, subkey: str, pairs: Pairs) -> None:
        self._checked(key, subkey, *pairs, *(value for value in pairs.values() if isinstance(value, str)))
        place = f"{MAP}.{escaped(subkey)}"
        setting = {f"{place}.{escaped(name)}": value for name, value in pairs.items() if value is not None}
        gone = {f"{place}.{escaped(name)}": "" for name, value in pairs.items() if value is None}
        change = {word: fields for word, fields in (("$set", setting), ("$unset", gone)) if fields}
        if change:
            await self.ask(lambda: self._collection.update_one({"_id": key}, change, upsert=True), "update")

    async def map_remove(self, key: str, subkey: str = "") -> None:
        self._checked(key, subkey)
        place = f"{MAP}.{escaped(subkey)}" if subkey else MAP
        await self.ask(lambda: self._collection.update_one({"_id": key}, {"$unset": {place: ""}}), "update")

    async def truncate(self) -> None:
        await self.ask(lambda: self._collection.delete_many({}), "delete")

    # --- documents

    async def find_documents(
        self,
        collection: str,
        fields: Sequence[str],
        where: Sequence[Filter] = (),
        order: Sequence[tuple[str, bool]] = (),
        limit: int = 0,
    ) -> list[dict[str, Cell]]:
        query = self._query(where)
        shown = {"_id": 0, **{self._name(field): 1 for field in fields}}
        sorting = [(self._name(field), -1 if descending else 1) for field, descending in order]
        self._name(collection)

        async def work() -> list[dict[str, Cell]]:
            cursor = self._database[collection].find(query, shown, limit=max(0, limit), sort=sorting or None)
            async with cursor:
                return [document async for document in cursor]

        return await self.ask(work, f"a find in {collection}")

    async def write_documents(self, writes: Sequence[DocumentWrite]) -> list[int]:
        if not writes:
            return []
        steps = self._steps(writes)
        together = len(writes) > 1 or any(isinstance(write, AddDocument) and write.replaced for write in writes)

        async def work() -> list[int]:
            if together and self._transactions:
                try:
                    return await self._transaction(steps)
                except self._pymongo.errors.OperationFailure as error:
                    if error.code not in NO_TRANSACTIONS:
                        raise
                    self._transactions = False
            return [count for step in steps for count in await step(None)]

        return await self.ask(work, f"{len(writes)} writes, {writes[0].collection} first", repeatable=False)

    async def _transaction(self, steps: Sequence[Step]) -> list[int]:
        for left in reversed(range(TRIES)):
            try:
                async with self._client.start_session() as session, await session.start_transaction():
                    return [count for step in steps for count in await step(session)]
            except self._pymongo.errors.PyMongoError as error:
                if not left or not error.has_error_label("TransientTransactionError"):
                    raise
        raise AssertionError("unreachable")

    def _steps(self, writes: Sequence[DocumentWrite]) -> list[Step]:
        """New documents of one collection that follow each other travel together."""
        steps: list[Step] = []
        for adding, group in groupby(writes, lambda w: w.collection if isinstance(w, AddDocument) else ""):
            some = list(group)
            if (
                adding
                and len(some) > 1
                and not any(isinstance(write, AddDocument) and write.replaced for write in some)
            ):
                steps.append(self._add_many(adding, some))
            else:
                steps += [self._step(write) for write in some]
        return steps

    def _add_many(self, collection: str, writes: Sequence[DocumentWrite]) -> Step:
        self._name(collection)
        documents = [self._document(write.document) for write in writes if isinstance(write, AddDocument)]

        async def add(session: Any) -> list[int]:
            try:
                await self._database[collection].insert_many([dict(d) for d in documents], session=session)
            except self._pymongo.errors.BulkWriteError as error:
                first = (error.details or {}).get("writeErrors", [{}])[0]
                raise self._pymongo.errors.OperationFailure(first.get("errmsg", ""), first.get("code")) from error
            return [1] * len(documents)

        return add

    def _step(self, write: DocumentWrite) -> Step:
        """What does a write, in a session or without one. Raises CacheError for a write that cannot be right."""
        self._name(write.collection)
        if isinstance(write, RemoveDocuments):
            query = self._query(write.where)

            async def remove(session: Any) -> list[int]:
                result = await self._database[write.collection].delete_many(query, session=session)
                return [int(result.deleted_count)]

            return remove
        document = self._document(write.document)
        if isinstance(write, AddDocument):
            older = [self._query(filters) for filters in write.replaced]

            async def add(session: Any) -> list[int]:
                collection = self._database[write.collection]
                if older:
                    await collection.delete_many({"$or": older}, session=session)
                # A copy: pymongo adds the _id, and a transaction may begin again.
                await collection.insert_one(dict(document), session=session)
                return [1]

            return add
        query = self._query(write.where)
        change: dict[str, Any] = {"$set": document} if document else {}
        if write.otherwise is None:

            async def update(session: Any) -> list[int]:
                result = await self._database[write.collection].update_many(query, change, session=session)
                return [int(result.matched_count)]

            return update
        rest = {name: value for name, value in self._document(write.otherwise).items() if name not in document}
        if rest:
            change["$setOnInsert"] = rest

        async def upsert(session: Any) -> list[int]:
            collection = self._database[write.collection]
            for left in (2, 1, 0):
                try:
                    await collection.update_one(query, change, upsert=True, session=session)
                    break
                except self._pymongo.errors.OperationFailure as error:
                    # Another one may have added it a moment ago; within a transaction there is no second attempt.
                    if error.code != DUPLICATE or session is not None or not left:
                        raise
            return [1]

        return upsert

    async def next_numbers(self, collection: str, count: int) -> int:
        async def work() -> int:
            for left in (2, 1, 0):
                try:
                    found = await self._database[NUMBERS].find_one_and_update(
                        {"_id": collection}, {"$inc": {"last": count}}, upsert=True, return_document=True
                    )
                    return int(found["last"]) - count + 1
                except self._pymongo.errors.OperationFailure as error:
                    if error.code != DUPLICATE or not left:
                        raise
            raise AssertionError("unreachable")

        return await self.ask(work, "an update")

    async def make_collection(
        self, collection: str, unique: Sequence[Sequence[str]], indexes: Sequence[Sequence[str]]
    ) -> None:
        self._name(collection)

        async def work() -> None:
            if collection not in await self._database.list_collection_names():
                await self._database.create_collection(collection)
            for columns in unique:
                await self._database[collection].create_index([(self._name(name), 1) for name in columns], unique=True)
            for columns in indexes:
                await self._database[collection].create_index([(self._name(name), 1) for name in columns])

        await self.ask(work, f"making {collection}")

    async def collections(self) -> set[str]:
        async def work() -> set[str]:
            return set(await self._database.list_collection_names())

        return await self.ask(work, "listCollections")

    def _name(self, name: str) -> str:
        """A field or collection whose name means nothing else to MongoDB; raises CacheError."""
        if not name.isascii() or not name.replace("_", "").isalnum():
            raise CacheError(f"{self.url}: {name!r} is no name of a collection or field")
        return name

    def _document(self, document: Any) -> dict[str, Cell]:
        self._checked(*(value for value in document.values() if isinstance(value, str)))
        return {self._name(name): value for name, value in document.items()}

    def _query(self, where: Sequence[Filter]) -> dict[str, Any]:
        """A filter of MongoDB in which values are only ever operands."""
        self._checked(*(value for _, _, value in where if isinstance(value, str)))
        parts = [self._part(self._name(field), operator, value) for field, operator, value in where]
        return {"$and": parts} if parts else {}

    def _part(self, field: str, operator: str, value: Cell) -> dict[str, Any]:
        if operator not in FILTERS:
            raise CacheError(f"{self.url}: {operator!r} is no comparison")
        if operator == "!=":
            return {field: {"$nin": [value, None]}}
        if value is None:
            return {field: {"$eq": None}} if operator == "=" else NOTHING
        if operator == "like":
            return {field: {"$regex": pattern_of(str(value)), "$options": "s"}}
        return {field: {COMPARISONS[operator]: value}}


class CachedbMongodb(CacheDbDriver, Module):
    """Keep keys and values in MongoDB.

    Tested against SecantusDB, which speaks MongoDB's protocol; no MongoDB server could be had for the tests.
    """

    name = "cachedb_mongodb"
    kind = "cachedb"
    schemes = ("mongodb",)

    cachedb_url = Param(str, None, "mongodb:group://host:port/database.collection, several times.", func=True)
    exec_threshold = Param(int, 0, "Operations that take longer are logged; 0 none.", unit="us")

    async def start(self) -> None:
        await asyncio.to_thread(importlib.import_module, "pymongo")
        for url in self._urls:
            try:
                importlib.import_module("pymongo.uri_parser").parse_uri(server_url(url), validate=True)
            except (ValueError, importlib.import_module("pymongo.errors").PyMongoError) as error:
                raise StartError(f"{url}: {error}") from error
        await self.connect_all(self.core.cachedb)

    def check_url(self, url: CacheUrl) -> None:
        database, _, collection = url.database.partition(".")
        if not database or not collection:
            raise CacheError("the path of a MongoDB URL is database.collection")

    def open_store(self, url: CacheUrl) -> MongodbStore:
        self.check_url(url)
        return MongodbStore(url, Limits(TIMEOUT_S, TIMEOUT_S, max(0, self.exec_threshold) / 1e6), self.core.time)


def server_url(url: CacheUrl) -> str:
    """The URL as MongoDB's drivers know it: without group and collection."""
    rest = url.text.partition("://")[2]
    before, found, after = rest.rpartition("/" + quote(url.database, safe=".")) if url.database else (rest, "", "")
    database = url.database.partition(".")[0]
    return f"mongodb://{before if found else rest}/{database}{after if found else ''}"


def pattern_of(like: str) -> str:
    """The regular expression of what LIKE matches: `%` is any text, `_` any character."""
    return "^" + "".join(".*" if c == "%" else "." if c == "_" else re.escape(c) for c in like) + "$"


def is_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return (
        digits.isascii() and digits.isdigit() and len(digits) < 20 and SMALLEST_COUNTER <= int(text) <= LARGEST_COUNTER
    )


def escaped(name: str) -> str:
    """A field's name without dots and dollars, which mean something to MongoDB; never empty."""
    return quote(name, safe=" @:;,+=/?!()[]{}<>|'\"").replace(".", "%2E") or "%"


def unescaped(name: str) -> str:
    return "" if name == "%" else unquote(name)
