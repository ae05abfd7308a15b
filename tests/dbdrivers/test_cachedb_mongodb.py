"""cachedb_mongodb beside the conformance suite: raw queries and URLs, against SecantusDB."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from opensipspy.cachedb import CacheError, parse_url
from opensipspy.dbdrivers.cachedb_mongodb import CachedbMongodb, MongodbStore, escaped, server_url, unescaped
from opensipspy.module import ParamError, StartError
from opensipspy.module.testing import FakeCore
from tests.backends import SecantusServer


def play(url: str, scenario: Callable[[MongodbStore], Awaitable[None]]) -> None:
    async def run() -> None:
        core = FakeCore()
        module = core.add(CachedbMongodb(cachedb_url=url))
        try:
            await module.start()
            store = core.cachedb(url)
            assert isinstance(store, MongodbStore)
            await scenario(store)
        finally:
            await core.cachedbs.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mongodb:g://h:27017/db.col", "mongodb://h:27017/db"),
        ("mongodb://a,b:27017/db.col.more?replicaSet=x", "mongodb://a,b:27017/db?replicaSet=x"),
        ("mongodb:g://me:p%40w@h/db.col?a=1", "mongodb://me:p%40w@h/db?a=1"),
    ],
)
def test_urls_lose_group_and_collection(text: str, found: str) -> None:
    assert server_url(parse_url(text)) == found


def test_urls_that_cannot_be_right_are_refused() -> None:
    for url in ("mongodb://h/", "mongodb://h/db", "redis://h/db.col"):
        with pytest.raises(ParamError):
            CachedbMongodb(cachedb_url=url)

    async def run() -> None:
        module = FakeCore().add(CachedbMongodb(cachedb_url="mongodb://h/db.col?tls=perhaps"))
        with pytest.raises(StartError):
            await module.start()

    asyncio.run(run())


@pytest.mark.parametrize("name", ["a.b", "$where", "", "%", "a%2Eb", "ключ", "x y"])
def test_names_of_fields_come_back(name: str) -> None:
    assert "." not in escaped(name)
    assert not escaped(name).startswith("$")
    assert unescaped(escaped(name)) == name


def test_raw_queries(mongodb_server: SecantusServer) -> None:
    async def ask(store: MongodbStore, command: dict[str, Any]) -> list[Any]:
        return [row[0] for row in await store.raw_query(json.dumps(command))]

    async def scenario(store: MongodbStore) -> None:
        people = [{"name": f"p{n}", "age": n} for n in range(150)]
        [answer] = await ask(store, {"insert": "people", "documents": people})
        assert json.loads(answer)["n"] == 150
        assert await ask(store, {"count": "people", "query": {"age": {"$lt": 10}}}) == [10]
        await ask(store, {"update": "people", "updates": [{"q": {"name": "p3"}, "u": {"$inc": {"age": 100}}}]})
        [found] = await ask(store, {"find": "people", "filter": {"name": "p3"}, "projection": {"_id": 0}})
        assert json.loads(found) == {"name": "p3", "age": 103}
        assert len(await ask(store, {"find": "people"})) == 150
        sums = {"aggregate": "people", "pipeline": [{"$group": {"_id": None, "n": {"$sum": 1}}}]}
        assert json.loads((await ask(store, sums))[0])["n"] == 150
        assert await ask(store, {"find": "people", "filter": {"name": "nobody"}}) == []
        for wrong in ("", "{", "[]", "{}", '{"nosuchcommand": 1}', '{"find": 7}'):
            with pytest.raises(CacheError) as caught:
                await store.raw_query(wrong)
            assert not caught.value.transient
        await ask(store, {"drop": "people"})

    play(mongodb_server.url("g"), scenario)


def test_octets_that_are_no_text_are_refused(mongodb_server: SecantusServer) -> None:
    wild = b"\xff".decode("utf-8", "surrogateescape")

    async def scenario(store: MongodbStore) -> None:
        for refused in (store.store("k", wild), store.store(wild, "x"), store.fetch(wild), store.add(wild, 1)):
            with pytest.raises(CacheError, match="MongoDB keeps text"):
                await refused

    play(mongodb_server.url("g"), scenario)
