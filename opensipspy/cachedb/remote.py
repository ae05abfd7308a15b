"""Stores behind a network: limits of time, and coming back after the server was away.

An operation that fails because its connection is gone is done once more when doing it twice does no harm. While the
server is away one task tries to reach it, less and less often, and every operation fails at once instead of waiting;
the log has one line when it goes and one when it is back. An operation without an answer in time counts as a server
that is away until it answers a ping, so that a stalled server holds nobody else.

Operations run in tasks of their own, so that script coroutines, which run without one, may await them.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from opensipspy.cachedb.errors import CacheError
from opensipspy.cachedb.store import CacheDb
from opensipspy.cachedb.url import CacheUrl

LOG: Final = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WAITING: Final = 10_000
"""Operations that may be under way at once."""
FIRST_RETRY_S: Final = 0.1
LONGEST_RETRY_S: Final = 5.0
CLOSE_S: Final = 1.0
"""How long a server may take to say good-bye."""


class Limits:
    """connect_s, query_s: seconds; slow_s: operations that take longer are logged, 0 none."""

    __slots__ = ("connect_s", "query_s", "slow_s")

    def __init__(self, connect_s: float = 5.0, query_s: float = 5.0, slow_s: float = 0.0) -> None:
        self.connect_s = connect_s
        self.query_s = query_s
        self.slow_s = slow_s


class RemoteCacheDb(CacheDb):
    """A store whose server may be away. Used by one event loop."""

    def __init__(self, url: CacheUrl, limits: Limits) -> None:
        super().__init__(url)
        self.limits = limits
        self._opening: asyncio.Task[None] | None = None
        self._connected = False
        self._returning: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._clients = 0  # how many were let go

    # --- what a driver does

    @abstractmethod
    async def open_client(self) -> None:
        """Make a client and exchange a greeting with the server."""

    @abstractmethod
    async def close_client(self) -> None:
        """Let go of the client and its connections; harmless when there is none."""

    @abstractmethod
    async def greet(self) -> None:
        """Ask the server for a sign of life, over the client."""

    @abstractmethod
    def explain(self, error: Exception) -> CacheError | None:
        """What an error of the client library means: transient when the server may be away. None: not foreseen."""

    # --- the contract

    async def connect(self) -> None:
        if self._returning is not None or self._closed:
            raise self._away()
        if not self._connected:
            await self._run(self._opened())

    async def ping(self) -> None:
        await self.ask(self.greet, "a ping")

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        pending = [task for task in (self._returning, self._opening) if task is not None]
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=CLOSE_S)
        for task in (*pending, *self._tasks):
            task.cancel()
        if pending or self._tasks:
            await asyncio.wait({*pending, *self._tasks})
        await self._let_go()
        slow = set(self._closing)
        for task in slow:
            task.cancel()
        if slow:
            await asyncio.wait(slow)

    # --- an operation

    def _away(self) -> CacheError:
        return CacheError(f"{self.url}: {'closed' if self._closed else 'not available'}", transient=True)

    async def ask(self, work: Callable[[], Awaitable[T]], what: str, *, repeatable: bool = True) -> T:
        """The result of `work()`, in its own task and within the limit of time.

        repeatable: doing it twice does no harm.
        """
        self.operations += 1
        if self._closed or self._returning is not None:
            self.failures += 1
            raise self._away()
        if len(self._tasks) >= MAX_WAITING:
            self.failures += 1
            raise CacheError(f"{self.url}: {MAX_WAITING} operations are waiting already", transient=True)
        return await self._run(self._attempt(work, what, repeatable))

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        task: asyncio.Task[T] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled() and self._closed:
                raise self._away() from None
            raise

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may have gone away

    async def _attempt(self, work: Callable[[], Awaitable[T]], what: str, repeatable: bool) -> T:
        loop = asyncio.get_running_loop()
        left = 2 if repeatable else 1
        while True:
            left -= 1
            try:
                await self._opened()
            except CacheError:
                self.failures += 1
                raise
            begun = loop.time()
            clients = self._clients
            try:
                async with asyncio.timeout(self.limits.query_s):
                    result = await work()
            except TimeoutError as error:
                self.failures += 1
                failure = CacheError(f"{self.url}: no answer to {what} in {self.limits.query_s:g} s", transient=True)
                self._lost(failure)
                raise failure from error
            except CacheError:
                self.failures += 1
                raise
            except Exception as error:
                explained = self._explained(error, what)
                if not explained.transient and clients != self._clients:
                    # The client was let go under this operation; what it says of that is no answer of the server.
                    explained = self._away()
                if explained.transient and left > 0 and self._returning is None:
                    continue
                self.failures += 1
                if explained.transient:
                    self._lost(explained)
                raise explained from error
            taken = loop.time() - begun
            if self.limits.slow_s and taken > self.limits.slow_s:
                self.slow += 1
                LOG.warning("%s: %s took %d us", self.url, what, taken * 1e6)
            return result

    def _explained(self, error: Exception, what: str) -> CacheError:
        """What an error means. One that the driver does not know, as from an answer of a kind that no server gives, is
        told with all that helps to find out; the store goes on."""
        explained = self.explain(error)
        if explained is None:
            if self._returning is None:  # else the log was told when it went away
                LOG.error("%s: %s ended with an error that is not foreseen", self.url, what, exc_info=error)
            explained = CacheError(f"{self.url}: {what}: {type(error).__name__}")
        return explained

    # --- connections

    async def _opened(self) -> None:
        """Return once there is a client; those who come together share one attempt."""
        if self._connected:
            return
        if self._returning is not None or self._closed:
            raise self._away()
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open(), name=f"connect to {self.url}")
            self._opening.add_done_callback(self._opening_ended)
        await asyncio.shield(self._opening)

    def _opening_ended(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()

    async def _open(self) -> None:
        try:
            await self._open_once()
        except CacheError as error:
            self._lost(error)
            raise
        self._connected = True

    async def _open_once(self) -> None:
        try:
            async with asyncio.timeout(self.limits.connect_s):
                await self.open_client()
        except TimeoutError:
            await self._let_go()
            raise CacheError(f"{self.url}: no connection in {self.limits.connect_s:g} s", transient=True) from None
        except CacheError:
            await self._let_go()
            raise
        except Exception as error:
            await self._let_go()
            raise self._explained(error, "the greeting") from error

    async def _let_go(self) -> None:
        """Close the client. One that takes long goes on by itself: cut short it would leave its connections behind."""
        self._clients += 1
        task = asyncio.get_running_loop().create_task(self._close_quietly(), name=f"close {self.url}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        await asyncio.wait((task,), timeout=CLOSE_S)

    async def _close_quietly(self) -> None:
        try:
            await self.close_client()
        except Exception as error:  # noqa: BLE001 - a client that cannot even be closed is left behind
            LOG.debug("%s: closing: %s", self.url, error)

    # --- away and back

    def _lost(self, error: CacheError) -> None:
        if self._closed or self._returning is not None:
            return
        self._connected = False
        self.available = False
        LOG.error("key-value store %s is not available: %s", self.url, error)
        if self.watcher is not None:
            self.watcher(str(self.url), False, error.reason)
        self._returning = asyncio.get_running_loop().create_task(self._return(), name=f"reconnect to {self.url}")

    async def _return(self) -> None:
        await self._let_go()
        delay = FIRST_RETRY_S
        while True:
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_RETRY_S)
            try:
                await self._open_once()
            except CacheError:
                continue  # the log was told when it began
            self._connected = True
            self._returning = None
            self.available = True
            LOG.warning("key-value store %s is available again", self.url)
            if self.watcher is not None:
                self.watcher(str(self.url), True, "")
            return
