"""Couchbase, through its official client (`acouchbase`): `couchbase:group://user:password@host[:port][,host]/bucket`.

A key is a document of the bucket's default collection whose content is the value itself, as octets; counters are
Couchbase's own, which do not go below 0. The time-out of an operation is `timeout`.

No Couchbase server could be had for the tests: they show what is asked of the client, by one that only looks like it.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from opensipspy.cachedb import (
    CacheDbDriver,
    CacheError,
    CacheUrl,
    Limits,
    RemoteCacheDb,
    to_bytes,
    to_counter,
    to_text,
)
from opensipspy.module import Module, Param, StartError

DEFAULT_TIMEOUT_S: Final = 3.0
CONNECT_S: Final = 10.0
LONGEST_KEY: Final = 250
MESSAGE: Final = re.compile(r"message=([a-z_]{1,60} \(\d{1,4}\))")
BINARY: Final = 3 << 24 | 2
"""Flags of a document that is neither JSON nor text."""
NEEDS: Final = "cachedb_couchbase needs the Python package couchbase: pip install 'opensipspy[couchbase]'"

Import = Callable[[str], Any]


class Octets:
    """Values as they are (the client's own transcoder refuses counters, and what the C server wrote)."""

    def encode_value(self, value: bytes) -> tuple[bytes, int]:
        return value, BINARY

    def decode_value(self, value: bytes, flags: int) -> bytes:
        return bytes(value)


class CouchbaseStore(RemoteCacheDb):
    """A bucket behind a URL."""

    def __init__(self, url: CacheUrl, limits: Limits, load: Import) -> None:
        """load: imports a module of the client."""
        super().__init__(url, limits)
        self._load = load
        self._errors: Any = None
        self._options: Any = None
        self._cluster: Any = None
        self._collection: Any = None
        self._octets = Octets()

    # --- the client

    async def open_client(self) -> None:
        self._errors = self._load("couchbase.exceptions")
        self._options = self._load("couchbase.options")
        account = self._load("couchbase.auth").PasswordAuthenticator(self.url.user, self.url.password)
        timeouts = self._options.ClusterTimeoutOptions(
            kv_timeout=timedelta(seconds=self.limits.query_s), connect_timeout=timedelta(seconds=self.limits.connect_s)
        )
        options = self._options.ClusterOptions(account, timeout_options=timeouts)
        self._cluster = await self._load("acouchbase.cluster").AsyncCluster.connect(server_url(self.url), options)
        bucket = self._cluster.bucket(self.url.database)
        await bucket.on_connect()
        self._collection = bucket.default_collection()
        await self.greet()

    async def close_client(self) -> None:
        cluster, self._cluster, self._collection = self._cluster, None, None
        if cluster is not None:
            await cluster.close()

    async def greet(self) -> None:
        await self._live.exists("opensipspy:ping")

    @property
    def _live(self) -> Any:
        if self._collection is None:
            raise ConnectionError("the connection was closed")
        return self._collection

    def explain(self, error: Exception) -> CacheError | None:
        text = f"{self.url}: {words(error)}"
        errors = self._errors
        if isinstance(error, ImportError):
            return CacheError(NEEDS)
        if errors is None:
            return None
        away = (
            errors.TimeoutException,
            errors.AmbiguousTimeoutException,
            errors.UnAmbiguousTimeoutException,
            errors.ServiceUnavailableException,
            errors.RequestCanceledException,
            errors.InternalServerFailureException,
            OSError,
        )
        if isinstance(error, away):
            return CacheError(text, transient=True)
        if isinstance(error, errors.CouchbaseException | ValueError | TypeError | UnicodeError):
            return CacheError(text)
        return None

    # --- the contract

    def _key(self, key: str) -> str:
        try:
            length = len(key.encode())
        except UnicodeEncodeError:
            raise CacheError(f"{self.url}: keys of Couchbase are text, and these octets are none") from None
        if not 0 < length <= LONGEST_KEY:
            raise CacheError(f"{self.url}: a key of Couchbase has 1 to {LONGEST_KEY} octets")
        if any(character <= " " or character == "\x7f" for character in key):
            raise CacheError(f"{self.url}: a key of Couchbase has no spaces and no control characters")
        return key

    def _lasting(self, expire_s: int) -> dict[str, Any]:
        return {"expiry": timedelta(seconds=expire_s)} if expire_s > 0 else {}

    async def fetch(self, key: str) -> str | None:
        name = self._key(key)

        async def work() -> str | None:
            try:
                found = await self._live.get(name, self._options.GetOptions(transcoder=self._octets))
            except self._errors.DocumentNotFoundException:
                return None
            return to_text(found.content_as[bytes])

        return await self.ask(work, "get")

    async def fetch_counter(self, key: str) -> int | None:
        value = await self.fetch(key)
        return None if value is None else to_counter(value)

    async def store(self, key: str, value: str | int, expire_s: int = 0) -> None:
        name, data = self._key(key), to_bytes(str(value))

        async def work() -> None:
            options = self._options.UpsertOptions(transcoder=self._octets, **self._lasting(expire_s))
            await self._live.upsert(name, data, options)

        await self.ask(work, "upsert")

    async def remove(self, key: str) -> bool:
        name = self._key(key)

        async def work() -> bool:
            try:
                await self._live.remove(name)
            except self._errors.DocumentNotFoundException:
                return False
            return True

        return await self.ask(work, "remove")

    async def add(self, key: str, amount: int, expire_s: int = 0) -> int:
        """A counter that does not exist begins with the amount, a negative amount with 0."""
        name = self._key(key)

        async def work() -> int:
            counters = self._live.binary()
            kind = self._options.DecrementOptions if amount < 0 else self._options.IncrementOptions
            options = kind(
                delta=self._options.DeltaValue(abs(amount)),
                initial=self._options.SignedInt64(max(0, amount)),
                **self._lasting(expire_s),
            )
            change = counters.decrement if amount < 0 else counters.increment
            return int((await change(name, options)).content)

        return await self.ask(work, "a counter", repeatable=False)


class CachedbCouchbase(CacheDbDriver, Module):
    """Keep keys and values in Couchbase. Tested without a server, by a client that only looks like the real one."""

    name = "cachedb_couchbase"
    kind = "cachedb"
    schemes = ("couchbase",)

    cachedb_url = Param(
        str, None, "couchbase:group://user:password@host[:port][,host]/bucket, several times.", func=True
    )
    exec_threshold = Param(int, 0, "Operations that take longer are logged; 0 none.", unit="us")
    lazy_connect = Param(int, 0, "1 connects to a bucket at its first use.")
    timeout = Param(int, 3_000_000, "Longest wait for an answer.", unit="us")

    async def start(self) -> None:
        if importlib.util.find_spec("couchbase") is None:
            raise StartError(NEEDS)
        # A thread: the library is large.
        await asyncio.to_thread(importlib.import_module, "acouchbase.cluster")
        if not self.lazy_connect:
            await self.connect_all(self.core.cachedb)

    def check_url(self, url: CacheUrl) -> None:
        if not url.database or "/" in url.database:
            raise CacheError("the path of a Couchbase URL is the bucket")

    def open_store(self, url: CacheUrl) -> CouchbaseStore:
        self.check_url(url)
        query_s = self.timeout / 1e6 if self.timeout > 0 else DEFAULT_TIMEOUT_S
        limits = Limits(CONNECT_S, query_s, max(0, self.exec_threshold) / 1e6)
        return CouchbaseStore(url, limits, importlib.import_module)


def words(error: BaseException) -> str:
    """What may be shown of an error: the client tells the key, and what the server said, with it."""
    if isinstance(error, OSError):
        return " ".join(str(error).split())[:300] or type(error).__name__
    found = MESSAGE.search(str(error))
    return f"{type(error).__name__}: {found[1]}" if found else type(error).__name__


def server_url(url: CacheUrl) -> str:
    """What the client calls its servers."""
    hosts = [
        (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
        for host, port in url.hosts or (("localhost", 0),)
    ]
    return "couchbase://" + ",".join(hosts)
