"""Drivers by scheme, stores by URL, and the names that scripts have for them."""

from __future__ import annotations

import asyncio

import pytest

from opensipspy.cachedb import CacheDb, CacheDbDriver, CacheDbs, CacheError, CacheUrl


class Store(CacheDb):
    """Keeps nothing."""

    closed = False

    async def fetch(self, key: str) -> str | None:
        return None

    async def store(self, key: str, value: str | int, expire_s: int = 0) -> None:
        pass

    async def remove(self, key: str) -> bool:
        return False

    async def add(self, key: str, amount: int, expire_s: int = 0) -> int:
        return amount

    async def connect(self) -> None:
        if self.url.host == "away":
            raise CacheError("away", transient=True)

    async def close(self) -> None:
        self.closed = True
        if self.url.host == "stuck":
            raise CacheError("stuck")


class Driver(CacheDbDriver):
    schemes = ("test",)

    def open_store(self, url: CacheUrl) -> Store:
        return Store(url)


def stores(*urls: str) -> CacheDbs:
    driver = Driver()
    for url in urls:
        driver.set_cachedb_url(url)
    found = CacheDbs()
    found.add(driver)
    return found


def test_the_same_url_is_the_same_store() -> None:
    found = stores("test:g://h/")
    assert found.get("test:g://h/") is found.get("test:g://h/")
    assert found.named("test:g") is found.get("test:g://h/")
    assert found.get("test://other/") is not found.named("test:g")


def test_scripts_know_what_a_parameter_names() -> None:
    found = stores("test:g://h/", "test://one/", "test://two/")
    assert [name for name in ("test", "test:g", "test:x", "redis", "") if found.known(name)] == ["test", "test:g"]
    assert found.named("test").url.host == "two"
    with pytest.raises(LookupError):
        found.named("test:x")


def test_bad_urls_and_missing_drivers_are_told() -> None:
    with pytest.raises(CacheError, match="did you mean test"):
        stores().get("tset://h/")
    with pytest.raises(CacheError, match=r'loadmodule "cachedb_redis.so"'):
        stores().get("redis://:secret@h/")
    with pytest.raises(CacheError):
        stores().get("nonsense")
    with pytest.raises(ValueError, match="begins with test:"):
        stores("redis://h/")


def test_what_a_store_cannot_do_it_says() -> None:
    store = stores("test://h/").named("test")

    async def run() -> None:
        for work in (store.raw_query("x"), store.map_get("k"), store.map_set("k", "s", {}), store.truncate()):
            with pytest.raises(CacheError):
                await work
        assert await store.sub("k", 3) == -3

    asyncio.run(run())


def test_all_are_connected_and_closed() -> None:
    driver = Driver()
    for url in ("test:a://away/", "test:b://h/", "test:c://stuck/"):
        driver.set_cachedb_url(url)
    found = CacheDbs()
    found.add(driver)
    assert [str(error) for error in asyncio.run(driver.connect_all(found.get))] == ["away"]
    opened = found.open
    assert [str(error) for error in asyncio.run(found.close())] == ["stuck"]
    assert all(isinstance(store, Store) and store.closed for store in opened)
    assert not found.open
