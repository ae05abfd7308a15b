"""Stores behind a network, with a made-up back-end: who waits, what is tried again, what the log says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from opensipspy.cachedb import CacheError, Limits, RemoteCacheDb, parse_url, remote


class Away(Exception):
    """The back-end cannot be reached."""


class Backend(RemoteCacheDb):
    """away: nothing works. silent: nothing is answered. breaks: so many operations lose their connection."""

    def __init__(self, **limits: float) -> None:
        super().__init__(parse_url("test:g://me:secret@h/"), Limits(**limits))
        self.away = False
        self.silent = False
        self.nonsense = False
        self.breaks = 0
        self.opened = 0
        self.asked = 0
        self.slow_close: asyncio.Event | None = None
        self.closed = 0
        self.let_go = asyncio.Event()

    async def open_client(self) -> None:
        self.opened += 1
        await self.greet()

    async def close_client(self) -> None:
        self.let_go.set()
        if self.slow_close is not None:
            await self.slow_close.wait()
            self.closed += 1

    async def greet(self) -> None:
        await self._answer()

    def explain(self, error: Exception) -> CacheError | None:
        if isinstance(error, Away):
            return CacheError(f"{self.url}: away", transient=True)
        return CacheError("refused") if isinstance(error, ValueError) else None

    async def _answer(self) -> None:
        if self.silent:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        if self.away:
            raise Away
        if self.nonsense:
            raise IndexError

    async def fetch(self, key: str) -> str | None:
        async def work() -> str:
            self.asked += 1
            await self._answer()
            if self.breaks:
                self.breaks -= 1
                raise Away
            if key == "under way":
                await self.let_go.wait()
            if key in ("bad", "under way"):
                raise ValueError
            if key == "bug":
                raise KeyError(key)
            return key

        return await self.ask(work, "GET", repeatable=key != "once")

    async def store(self, key: str, value: str | int, expire_s: int = 0) -> None:
        raise NotImplementedError

    async def remove(self, key: str) -> bool:
        raise NotImplementedError

    async def add(self, key: str, amount: int, expire_s: int = 0) -> int:
        raise NotImplementedError


def play(backend: Backend, scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        try:
            await scenario()
        finally:
            await backend.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.setattr(remote, "FIRST_RETRY_S", 0.01)
    return Backend(query_s=0.05, connect_s=0.05)


def test_those_who_come_together_share_one_connection(backend: Backend) -> None:
    async def scenario() -> None:
        assert await asyncio.gather(*(backend.fetch(f"k{n}") for n in range(50))) == [f"k{n}" for n in range(50)]
        assert backend.opened == 1
        assert (backend.operations, backend.failures) == (50, 0)

    play(backend, scenario)


def test_what_does_no_harm_is_done_once_more(backend: Backend) -> None:
    async def scenario() -> None:
        backend.breaks = 1
        assert await backend.fetch("k") == "k"
        assert backend.available
        backend.breaks = 1
        with pytest.raises(CacheError):
            await backend.fetch("once")

    play(backend, scenario)


def test_a_refusal_is_no_outage(backend: Backend) -> None:
    async def scenario() -> None:
        with pytest.raises(CacheError, match="refused"):
            await backend.fetch("bad")
        assert backend.available
        assert backend.failures == 1

    play(backend, scenario)


def test_an_operation_whose_client_is_closed_under_it_found_the_server_away(backend: Backend) -> None:
    async def scenario() -> None:
        await backend.connect()
        other = asyncio.create_task(backend.fetch("under way"))
        await asyncio.sleep(0)
        backend.silent = True
        with pytest.raises(CacheError, match="no answer"):
            await backend.fetch("once")
        with pytest.raises(CacheError) as caught:
            await other
        assert caught.value.transient

    backend.limits.query_s = 1.0
    play(backend, scenario)


def test_what_nobody_foresaw_is_not_hidden(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with pytest.raises(CacheError, match="KeyError"):
            await backend.fetch("bug")
        assert backend.available

    play(backend, scenario)
    [record] = [record for record in caplog.records if "not foreseen" in record.getMessage()]
    assert record.exc_info


def test_a_server_that_answers_nonsense_is_tried_until_it_does_not(backend: Backend) -> None:
    async def scenario() -> None:
        await backend.fetch("k")
        backend.away = True
        with pytest.raises(CacheError):
            await backend.fetch("k")
        backend.away, backend.nonsense = False, True
        opened = backend.opened
        while backend.opened < opened + 2:  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.005)
        backend.nonsense = False
        while not backend.available:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert await backend.fetch("k") == "k"

    play(backend, scenario)


def test_an_outage_is_said_once_and_nobody_waits(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        await backend.fetch("k")
        backend.away = True
        results = await asyncio.gather(*(backend.fetch("k") for _ in range(20)), return_exceptions=True)
        assert all(isinstance(r, CacheError) and r.transient for r in results)
        asked = backend.asked
        for _ in range(10):
            with pytest.raises(CacheError, match="not available"):
                await backend.fetch("k")
        assert backend.asked == asked
        backend.away = False
        while not backend.available:  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.005)
        assert await backend.fetch("k") == "k"

    with caplog.at_level(logging.WARNING):
        play(backend, scenario)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "secret" not in caplog.text


def test_silence_is_an_outage(backend: Backend) -> None:
    async def scenario() -> None:
        await backend.fetch("k")
        backend.silent = True
        with pytest.raises(CacheError, match="no answer to GET"):
            await backend.fetch("k")
        with pytest.raises(CacheError, match="not available"):
            await backend.fetch("k")
        backend.silent = False
        while not backend.available:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    play(backend, scenario)


def test_a_connection_that_hangs_is_given_up(backend: Backend) -> None:
    async def scenario() -> None:
        backend.silent = True
        with pytest.raises(CacheError, match="no connection in"):
            await backend.connect()
        with pytest.raises(CacheError, match="not available"):
            await backend.connect()

    play(backend, scenario)


def test_so_many_may_wait_and_no_more(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_WAITING", 5)

    async def scenario() -> None:
        results = await asyncio.gather(*(backend.fetch("k") for _ in range(8)), return_exceptions=True)
        assert [isinstance(result, CacheError) for result in results] == [False] * 5 + [True] * 3

    play(backend, scenario)


def test_one_who_goes_away_leaves_the_others(backend: Backend) -> None:
    async def scenario() -> None:
        first = asyncio.ensure_future(backend.fetch("a"))
        second = asyncio.ensure_future(backend.fetch("b"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == "b"

    play(backend, scenario)


def test_a_client_that_closes_slowly_is_not_cut_short(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CLOSE_S", 0.01)

    async def scenario() -> None:
        await backend.fetch("k")
        backend.slow_close = asyncio.Event()
        backend.silent = True
        with pytest.raises(CacheError):
            await backend.fetch("k")
        backend.silent = False
        while not backend.available:  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.005)
        assert backend.closed == 0
        backend.slow_close.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert backend.closed == 1

    play(backend, scenario)


def test_slow_operations_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    backend = Backend(slow_s=1e-9)

    async def scenario() -> None:
        await backend.fetch("k")
        assert backend.slow == 1

    play(backend, scenario)
    assert "GET took" in caplog.text
