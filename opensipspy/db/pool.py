"""Databases behind a network: a pool of connections, limits of time, and coming back after the server was away.

What fails because a connection is gone is done again on another one when it cannot have had an effect. While the server
is away, one task tries to reach it, less and less often, and every operation fails at once instead of waiting.

Operations run in tasks of their own, so that script coroutines, which run without one, may await them.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from opensipspy.db.database import Condition, Database, DbValue, Write
from opensipspy.db.errors import DatabaseError, RefusedError
from opensipspy.db.sql import SqlText
from opensipspy.db.url import DbUrl

LOG: Final = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WAITING: Final = 10_000
FIRST_RETRY_S: Final = 0.1
LONGEST_RETRY_S: Final = 5.0
REFUSED_S: Final = 5.0
"""How long the connections that there are do, after the server refused another."""
CLOSE_S: Final = 1.0
"""How long a server may take to say good-bye."""


class LostError(DatabaseError):
    """The connection is gone. harmless: what was asked for has certainly not been done."""

    def __init__(self, reason: str, *, harmless: bool) -> None:
        super().__init__(reason, transient=True, uncertain=not harmless)
        self.harmless = harmless


class Limits:
    """connections: at most so many at once. connect_s, query_s: seconds; None is no limit. connect_attempts,
    query_attempts: how often one operation tries. slow_s: operations that take longer are logged; 0 none."""

    __slots__ = ("connect_attempts", "connect_s", "connections", "query_attempts", "query_s", "slow_s")

    def __init__(
        self,
        *,
        connections: int = 10,
        connect_s: float | None = 5.0,
        query_s: float | None = 5.0,
        connect_attempts: int = 1,
        query_attempts: int = 2,
        slow_s: float = 0.0,
    ) -> None:
        self.connections = max(1, connections)
        self.connect_s = connect_s
        self.query_s = query_s
        self.connect_attempts = max(1, connect_attempts)
        self.query_attempts = max(1, query_attempts)
        self.slow_s = slow_s


class Link(ABC):
    """One connection. Its methods raise DatabaseError only, LostError when the connection is of no use any more."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether the connection is known to be gone."""

    @abstractmethod
    async def query(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        """The rows of a statement with arguments."""

    @abstractmethod
    async def write(self, writes: Sequence[Write]) -> list[int]:
        """All of the writes or none; the rows each touched."""

    @abstractmethod
    async def raw(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        """The rows of any statement with `?` for arguments; it leaves no transaction open."""

    @abstractmethod
    def kill(self) -> None:
        """Let go of the connection at once."""

    @abstractmethod
    async def close(self) -> None:
        """End the connection as the server likes it."""


class PooledDatabase(Database):
    """A database whose server may be away. Used by one event loop."""

    def __init__(
        self,
        url: DbUrl,
        text: SqlText,
        limits: Limits,
        connect: Callable[[], Awaitable[Link]],
        changed: Callable[[DbUrl, bool], None] | None = None,
    ) -> None:
        """connect: opens a connection, raising DatabaseError. changed(url, available): called when that changes."""
        super().__init__(url)
        self._text = text
        self._sign_of_life = "SELECT 1"
        self._limits = limits
        self._connect = connect
        self._changed = changed
        self._idle: list[Link] = []
        self._opened = 0
        # While the server refuses another connection: how many there may be, and until when.
        self._most = limits.connections
        self._most_until = 0.0
        self._refusal: DatabaseError | None = None
        self._refusal_told = False
        self._waiters: deque[asyncio.Future[Link | None]] = deque()
        self._tasks: set[asyncio.Task[object]] = set()
        self._returning: asyncio.Task[None] | None = None
        self._closed = False

    # --- the contract

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        sql, args = self._text.select(table, columns, where, order, limit)
        return await self._run(lambda link: link.query(sql, args), True, f"a select from {table}")

    async def execute(self, writes: Sequence[Write]) -> list[int]:
        if not writes:
            return []
        return await self._run(lambda link: link.write(writes), False, f"{len(writes)} writes, {writes[0].table} first")

    @property
    def backslashes(self) -> bool | None:
        return self._text.backslashes

    async def raw(self, sql: str, args: Sequence[DbValue] = ()) -> list[tuple[DbValue, ...]]:
        # Whatever it begins with: SELECT nextval('s'), SELECT f() or WITH x AS (DELETE ...) change data.
        return await self._run(lambda link: link.raw(sql, args), False, "a raw statement")

    async def ping(self) -> None:
        await self._run(lambda link: link.raw(self._sign_of_life, ()), True, "a sign of life")

    async def close(self) -> None:
        if self._closed:
            return
        try:
            await super().close()
        finally:
            self._closed = True
            if self._returning is not None:
                self._returning.cancel()
                await asyncio.wait((self._returning,))
            if self._tasks:
                await asyncio.wait(set(self._tasks), timeout=CLOSE_S)
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(set(self._tasks))
            links, self._idle = self._idle, []
            await asyncio.gather(*(self._say_good_bye(link) for link in links))

    @staticmethod
    async def _say_good_bye(link: Link) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await link.close()
        except (TimeoutError, DatabaseError):
            link.kill()

    # --- an operation

    async def _run(self, work: Callable[[Link], Awaitable[T]], repeatable: bool, what: str) -> T:
        if self._closed:
            raise DatabaseError(f"{self.url}: closed")
        if self._returning is not None:
            raise DatabaseError(f"{self.url}: not available", transient=True)
        task: asyncio.Task[T] = asyncio.get_running_loop().create_task(self._attempt(work, repeatable, what))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await task

    def _ended(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may have gone away

    async def _attempt(self, work: Callable[[Link], Awaitable[T]], repeatable: bool, what: str) -> T:
        loop = asyncio.get_running_loop()
        left = self._limits.query_attempts
        fresh = False
        while True:
            left -= 1
            link = await self._acquire(fresh)
            fresh = True
            begun = loop.time()
            try:
                async with asyncio.timeout(self._limits.query_s):
                    result = await work(link)
            except TimeoutError:
                self._drop(link)
                raise DatabaseError(
                    f"{self.url}: no answer to {what} in {self._limits.query_s} s",
                    transient=True,
                    uncertain=not repeatable,
                ) from None
            except LostError as error:
                self._drop(link)
                if left <= 0 or not (repeatable or error.harmless):
                    raise
            except DatabaseError:
                self._release(link)
                raise
            except Exception as error:
                self._drop(link)
                if left <= 0 or not repeatable:
                    raise self._unreadable(error, uncertain=not repeatable) from error
            except BaseException:
                self._drop(link)
                raise
            else:
                self._release(link)
                if self._returning is None:  # else an answer from before the server went
                    self.note_success()
                if self._refusal is not None:
                    if not self._refusal_told:
                        LOG.error("database %s gives no further connection: %s", self.url, self._refusal)
                    self._refusal, self._refusal_told = None, True
                taken = loop.time() - begun
                self.queries += 1
                if self._limits.slow_s and taken > self._limits.slow_s:
                    self.slow_queries += 1
                    LOG.warning("%s: %s took %d us", self.url, what, taken * 1e6)
                return result

    # --- connections

    async def _acquire(self, fresh: bool = False) -> Link:
        """fresh: after one was lost, as others that lie idle may have been lost with it."""
        while True:
            if fresh and self._idle:
                self._idle.pop(0).kill()
                self._opened -= 1
                link = await self._acquire_new()
                if link is not None:
                    return link
            fresh = False
            while self._idle:
                link = self._idle.pop()
                if not link.closed:
                    return link
                self._opened -= 1
                link.kill()
            if self._opened < self._allowed():
                link = await self._acquire_new()
                if link is not None:
                    return link
                continue
            given = await self._wait()
            if given is not None and not given.closed:
                return given
            if given is not None:
                self._opened -= 1
                given.kill()

    def _allowed(self) -> int:
        """How many connections there may be now."""
        if asyncio.get_running_loop().time() < self._most_until:
            return max(1, self._most)
        return self._limits.connections

    async def _acquire_new(self) -> Link | None:
        """A new connection; None when the server refuses another beside those that there are."""
        self._opened += 1
        try:
            return await self._open()
        except RefusedError as error:
            self._opened -= 1
            if not self._opened:
                self._wake()
                self._lost(error)
                raise
            self._most = self._opened
            self._most_until = asyncio.get_running_loop().time() + REFUSED_S
            self._refusal = error
            return None
        except BaseException:
            self._opened -= 1
            self._wake()
            raise

    async def _wait(self) -> Link | None:
        """A connection that became free; None when there is room for a new one."""
        if len(self._waiters) >= MAX_WAITING:
            raise DatabaseError(f"{self.url}: {MAX_WAITING} operations are waiting already", transient=True)
        waiter: asyncio.Future[Link | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._limits.query_s):
                return await waiter
        except TimeoutError:
            if waiter.done() and not waiter.cancelled():
                self._give_back(waiter.result())
            raise DatabaseError(
                f"{self.url}: all {self._limits.connections} connections are busy", transient=True
            ) from None
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._give_back(waiter.result())
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _give_back(self, link: Link | None) -> None:
        if link is None:
            self._wake()
        else:
            self._release(link)

    async def _open(self) -> Link:
        left = self._limits.connect_attempts
        while True:
            left -= 1
            try:
                link = await self._open_once()
                self._refusal_told = False
                return link
            except RefusedError:
                raise  # the server answered
            except DatabaseError as error:
                if left <= 0 or self._returning is not None:
                    self._lost(error)
                    raise

    async def _open_once(self) -> Link:
        try:
            async with asyncio.timeout(self._limits.connect_s):
                return await self._connect()
        except TimeoutError:
            raise DatabaseError(f"{self.url}: no connection in {self._limits.connect_s} s", transient=True) from None
        except DatabaseError:
            raise
        except Exception as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception, *, uncertain: bool = False) -> DatabaseError:
        """Client libraries stumble over garbled answers in ways of their own. Their words may show the bytes."""
        return DatabaseError(
            f"{self.url}: an answer that cannot be read ({type(error).__name__})", transient=True, uncertain=uncertain
        )

    def _release(self, link: Link) -> None:
        if link.closed or self._closed:
            self._drop(link)
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(link)
                return
        self._idle.append(link)

    def _drop(self, link: Link) -> None:
        link.kill()
        self._opened -= 1
        self._wake()

    def _wake(self) -> None:
        """Let one that waits open a connection of its own."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    # --- away and back

    def _lost(self, error: DatabaseError) -> None:
        self.note_failure(error)
        if self._returning is None and not self._closed:
            self._returning = asyncio.get_running_loop().create_task(self._return(), name=f"reconnect to {self.url}")
            # Nobody waits for a server that is away.
            while self._waiters:
                waiter = self._waiters.popleft()
                if not waiter.done():
                    waiter.set_exception(DatabaseError(f"{self.url}: not available", transient=True))

    async def _return(self) -> None:
        delay = FIRST_RETRY_S
        while True:
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_RETRY_S)
            try:
                link = await self._open_once()
            except DatabaseError:
                continue  # note_failure told the log when it began
            self._returning = None
            self._opened += 1
            self._release(link)
            self.note_success()
            return

    def note_failure(self, error: DatabaseError) -> None:
        was = self.available
        super().note_failure(error)
        if was and self._changed is not None:
            self._changed(self.url, False)

    def note_success(self) -> None:
        was = self.available
        super().note_success()
        if not was and self._changed is not None:
            self._changed(self.url, True)
