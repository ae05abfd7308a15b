"""cachedb_couchbase with a client that only looks like the real one: no Couchbase server could be had.

The options and errors are those of the real package, so that names and types at least are right.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from opensipspy.cachedb import CacheError, Limits, parse_url
from opensipspy.dbdrivers.cachedb_couchbase import CachedbCouchbase, CouchbaseStore, server_url
from opensipspy.module import ParamError, StartError
from opensipspy.module.testing import FakeCore

URL = "couchbase:main://me:secret@127.0.0.1:11210,[::1]/bucket"
Scenario = Callable[[CouchbaseStore, "Server"], Awaitable[None]]


class Server:
    """What all clients share. away: every operation ends in a time-out."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.expiry: dict[str, float] = {}
        self.away = False
        self.asked: list[str] = []
        self.errors = importlib.import_module("couchbase.exceptions")

    def load(self, name: str) -> Any:
        if name != "acouchbase.cluster":
            return importlib.import_module(name)
        return SimpleNamespace(AsyncCluster=self)

    # --- the cluster

    async def connect(self, url: str, options: dict[str, Any]) -> Server:
        self.asked.append(url)
        self.check()
        return self

    def bucket(self, name: str) -> Server:
        assert name == "bucket"
        return self

    async def on_connect(self) -> None:
        self.check()

    def default_collection(self) -> Server:
        return self

    def binary(self) -> Server:
        return self

    async def close(self) -> None:
        self.asked.append("close")

    # --- the collection

    def check(self, key: str = "", *, there: bool = False) -> None:
        if self.away:
            raise self.errors.UnAmbiguousTimeoutException("no answer")
        if there and key not in self.documents:
            raise self.errors.DocumentNotFoundException(f"{key} is not there")

    def lasting(self, key: str, options: dict[str, Any]) -> None:
        if "expiry" in options:
            self.expiry[key] = options["expiry"].total_seconds()

    async def exists(self, key: str) -> object:
        self.check()
        return SimpleNamespace(exists=key in self.documents)

    async def get(self, key: str, options: dict[str, Any]) -> object:
        self.check(key, there=True)
        value = options["transcoder"].decode_value(self.documents[key], 0)
        return SimpleNamespace(content_as={bytes: value})

    async def upsert(self, key: str, value: bytes, options: dict[str, Any]) -> None:
        self.check()
        self.documents[key], flags = options["transcoder"].encode_value(value)
        assert flags == importlib.import_module("couchbase.transcoder").FMT_BYTES
        self.lasting(key, options)

    async def remove(self, key: str) -> None:
        self.check(key, there=True)
        del self.documents[key]

    async def increment(self, key: str, options: dict[str, Any], sign: int = 1) -> object:
        self.check()
        try:
            old = int(self.documents[key]) if key in self.documents else None
        except ValueError as error:
            raise self.errors.DeltaInvalidException("no number") from error
        new = options["initial"].value if old is None else max(0, old + sign * options["delta"].value)
        self.documents[key] = str(new).encode()
        self.lasting(key, options)
        return SimpleNamespace(content=new)

    async def decrement(self, key: str, options: dict[str, Any]) -> object:
        return await self.increment(key, options, -1)


def play(scenario: Scenario) -> None:
    pytest.importorskip("couchbase", reason="needs the package couchbase")

    async def run() -> None:
        server = Server()
        store = CouchbaseStore(parse_url(URL), Limits(1.0, 1.0), server.load)
        try:
            await scenario(store, server)
        finally:
            await store.close()
        assert server.asked[-1] == "close"

    asyncio.run(asyncio.wait_for(run(), 60))


def test_values_and_their_expiry() -> None:
    wild = b"caf\xe9 \xff\x00".decode("utf-8", "surrogateescape")

    async def scenario(store: CouchbaseStore, server: Server) -> None:
        assert await store.fetch("alice") is None
        for value in ("one", "", "Jürgen 漢字", wild, '{"json": 1}'):
            await store.store("alice", value)
            assert await store.fetch("alice") == value
        assert server.expiry == {}
        await store.store("alice", 5, 60)
        assert server.expiry == {"alice": 60.0}
        assert await store.remove("alice")
        assert not await store.remove("alice")
        assert server.asked == ["couchbase://127.0.0.1:11210,[::1]"]
        await store.ping()

    play(scenario)


def test_counters() -> None:
    async def scenario(store: CouchbaseStore, server: Server) -> None:
        assert await store.add("calls", 5, 30) == 5
        assert server.expiry == {"calls": 30.0}
        assert await store.add("calls", 2) == 7
        assert await store.sub("calls", 3) == 4
        assert await store.sub("calls", 9) == 0, "Couchbase counts from 0"
        assert await store.sub("new", 1) == 0
        assert await store.fetch_counter("calls") == 0
        assert await store.fetch_counter("none") is None
        await store.store("word", "x")
        for refused in (store.add("word", 1), store.fetch_counter("word")):
            with pytest.raises(CacheError) as caught:
                await refused
            assert not caught.value.transient

    play(scenario)


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "x" * 251, b"\xff".decode("utf-8", "surrogateescape")])
def test_keys_that_cannot_be_carried(key: str) -> None:
    async def scenario(store: CouchbaseStore, server: Server) -> None:
        await store.connect()
        for refused in (store.fetch(key), store.store(key, "x"), store.add(key, 1), store.remove(key)):
            with pytest.raises(CacheError) as caught:
                await refused
            assert not caught.value.transient
        assert server.documents == {}

    play(scenario)


def test_a_cluster_that_goes_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(store: CouchbaseStore, server: Server) -> None:
        await store.store("k", "v")
        server.away = True
        with pytest.raises(CacheError) as caught:
            await store.fetch("k")
        assert caught.value.transient
        assert "secret" not in str(caught.value)
        assert not store.available
        server.away = False
        while not store.available:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
        assert await store.fetch("k") == "v"

    play(scenario)
    told = [record.getMessage() for record in caplog.records]
    assert sum("is not available: " in text for text in told) == 1
    assert sum("is available again" in text for text in told) == 1


@pytest.mark.parametrize("url", ["couchbase://h/", "couchbase://h", "couchbase://h/a/b", "redis://h/bucket"])
def test_urls_that_cannot_be_right(url: str) -> None:
    with pytest.raises(ParamError):
        CachedbCouchbase(cachedb_url=url)


def test_the_servers_of_a_url() -> None:
    assert server_url(parse_url("couchbase://a,b:11210/x")) == "couchbase://a,b:11210"
    assert server_url(parse_url("couchbase:///x")) == "couchbase://localhost"


def test_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StartError, match=r"opensipspy\[couchbase\]"):
        asyncio.run(CachedbCouchbase().start())


def test_a_bucket_may_be_connected_later(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("couchbase", reason="needs the package couchbase")

    async def run() -> None:
        core = FakeCore()
        module = core.add(CachedbCouchbase(cachedb_url=URL, lazy_connect=1))
        await module.start()
        assert not core.cachedbs.open
        await core.cachedbs.close()

    asyncio.run(run())
