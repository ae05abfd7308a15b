"""cachedb_dynamodb beside the conformance suite, with a stand-in for DynamoDB."""

from __future__ import annotations

import asyncio

import pytest

from opensipspy.cachedb import CacheError
from opensipspy.dbdrivers.cachedb_dynamodb import CachedbDynamodb, kind_of
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore
from tests.dbdrivers.dynamodb_stub import DynamodbStub


@pytest.mark.parametrize("url", ["dynamodb://h/", "dynamodb:///table", "dynamodb://h/t?colour=x", "redis://h/t"])
def test_urls_that_cannot_be_right_are_refused(url: str) -> None:
    with pytest.raises(ParamError):
        CachedbDynamodb(cachedb_url=url)


def test_urls_of_the_manual() -> None:
    for url in ("dynamodb://localhost:8000/table1", "dynamodb:///table2?region=central-1;key=k;val=v"):
        assert CachedbDynamodb(cachedb_url=url).script_urls()[0].database in ("table1", "table2")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("5", "N"),
        ("-5", "N"),
        ("0", "N"),
        ("05", "S"),
        ("-0", "S"),
        ("", "S"),
        ("-", "S"),
        ("1.0", "S"),
        ("9" * 40, "S"),
    ],
)
def test_only_what_comes_back_the_same_is_a_number(text: str, kind: str) -> None:
    assert kind_of(text) == kind


def test_errors_of_the_service_pass_or_stay(dynamodb_server: DynamodbStub, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        core = FakeCore()
        url = dynamodb_server.url("g")
        module = core.add(CachedbDynamodb(cachedb_url=[url, url.replace("/keys", "/others")]))
        await module.start()
        store = core.cachedb(url)
        await store.store("k", "v")
        with pytest.raises(CacheError) as caught:
            await core.cachedb(url.replace("/keys", "/others")).fetch("k")
        dynamodb_server.failing = 500
        with pytest.raises(CacheError) as caught:
            await store.fetch("k")
        assert caught.value.transient
        assert not store.available
        dynamodb_server.failing = 0
        while not store.available:  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.02)
        assert await store.fetch("k") == "v"
        for wild in ("\udcff", ""):
            with pytest.raises(CacheError) as caught:
                await store.store(wild, "x")
            assert not caught.value.transient
        await core.cachedbs.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    assert "s3cret" not in caplog.text
