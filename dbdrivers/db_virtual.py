"""One URL in front of several databases: `virtual://set`, by failover, in parallel or in turn.

A database that fails is left alone until a probe has reached it again. What fails because the statement itself is wrong
(an unknown column, a key that exists) fails everywhere, so no other database is asked then.

PARALLEL writes and raw statements go to every database that can be used, one after the other's beginning, and succeed
when one of them succeeds; a database that was away has missed them. Reads ask one database only, in all three ways.

FAILOVER and ROUND redo what fails on the next database. Of a write whose answer is missing, as the connection broke or
the server was silent, nobody knows whether it was done: databases of their own have it twice then, once each. The
next is asked whether it has the new rows before it gets them, so that nodes of one cluster have them once. A raw
statement may do anything, a SELECT too (`SELECT nextval('s')`): when its answer is missing it fails, and is not
redone; when it was certainly not done, it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from opensipspy.db import Condition, Database, DatabaseError, DbDriver, DbUrl, DbValue, Table, Write
from opensipspy.management.registry import Json
from opensipspy.module import MiError, Module, Param, Timer, mi_command

LOG: Final = logging.getLogger(__name__)
T = TypeVar("T")

MODES: Final = frozenset({"FAILOVER", "PARALLEL", "ROUND"})
MOST_SETS: Final = 64
MOST_MEMBERS: Final = 32
NOT_FOUND: Final = 404
PROBE_S: Final = 5.0


class Member:
    """A real database of a set. can: it answers; may: the operator lets it be used; failures: in a row."""

    __slots__ = ("can", "database", "failures", "ignore_retries", "may", "url")

    def __init__(self, url: str) -> None:
        self.url = url
        self.database: Database | None = None
        self.can = True
        self.may = True
        self.failures = 0
        self.ignore_retries = False

    @property
    def usable(self) -> bool:
        return self.can and self.may and self.database is not None


class VirtualSet:
    """A named set of databases and how it is used."""

    __slots__ = ("members", "mode", "name", "next", "opened")

    def __init__(self, name: str, mode: str) -> None:
        self.name = name
        self.mode = mode
        self.members: list[Member] = []
        self.next = 0
        self.opened: VirtualDatabase | None = None


class VirtualDatabase(Database):
    """The database behind `virtual://set`. Its members are shared with modules that name them, and closed by others."""

    def __init__(self, url: DbUrl, group: VirtualSet) -> None:
        super().__init__(url)
        self._set = group
        self._closed = False

    def _candidates(self) -> list[Member]:
        """The databases to try, in their order."""
        if self._closed:
            raise DatabaseError(f"{self.url}: closed")
        members = self._set.members
        if self._set.mode == "ROUND":
            start = self._set.next % len(members)
            self._set.next = start + 1
            members = members[start:] + members[:start]
        found = [member for member in members if member.usable]
        if not found:
            raise DatabaseError(f"{self.url}: none of its databases is available", transient=True)
        return found

    async def _first(self, work: Callable[[Database], Awaitable[T]], *, redo: bool = True) -> T:
        """The answer of the first database that has one. redo: also after one that may have done the work."""
        failure: DatabaseError | None = None
        for member in self._candidates():
            assert member.database is not None
            try:
                result = await work(member.database)
            except DatabaseError as error:
                if not error.transient:
                    raise
                self.failed(member, error)
                if error.uncertain and not redo:
                    raise
                failure = error
            else:
                self.succeeded(member)
                return result
        assert failure is not None
        raise failure

    def failed(self, member: Member, error: DatabaseError) -> None:
        """Leave the database alone until a probe reaches it."""
        if member.can:
            member.can = False
            LOG.error("%s: left out is %s", self.url, error)
        member.failures += 1
        if not any(other.usable for other in self._set.members):
            self.note_failure(error)

    def succeeded(self, member: Member) -> None:
        member.failures = 0
        self.note_success()

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        return await self._first(lambda database: database.select(table, columns, where, order, limit))

    @property
    def backslashes(self) -> bool | None:
        kinds = {member.database.backslashes for member in self._set.members if member.database is not None}
        return kinds.pop() if len(kinds) == 1 else None

    async def raw(self, sql: str, args: Sequence[DbValue] = ()) -> list[tuple[DbValue, ...]]:
        if self._set.mode == "PARALLEL":
            return await self._all(lambda database: database.raw(sql, args))
        return await self._first(lambda database: database.raw(sql, args), redo=False)

    async def execute(self, writes: Sequence[Write]) -> list[int]:
        if self._set.mode == "PARALLEL":
            return await self._all(lambda database: database.execute(writes))
        uncertain = False

        async def write(database: Database) -> list[int]:
            nonlocal uncertain
            if uncertain and await database.are_there(writes):
                return [1] * len(writes)
            try:
                return await database.execute(writes)
            except DatabaseError as error:
                uncertain = uncertain or error.uncertain
                raise

        try:
            return await self._first(write)
        except DatabaseError as error:
            error.uncertain = uncertain
            raise

    async def _all(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Ask every database; the answer of the first of them that has one."""
        members = self._candidates()
        running = [asyncio.ensure_future(_coroutine(work, member.database)) for member in members if member.database]
        # A future, and no coroutine: scripts wait without a task of their own.
        await asyncio.gather(*running, return_exceptions=True)
        done: list[T] = []
        failure: BaseException | None = None
        for member, task in zip(members, running, strict=True):
            error = task.exception()
            if error is None:
                self.succeeded(member)
                done.append(task.result())
                continue
            if isinstance(error, DatabaseError) and error.transient:
                self.failed(member, error)
            elif isinstance(error, DatabaseError):
                LOG.error("%s: one refused what others may have done: %s", self.url, error.reason)
                failure = error
                continue
            failure = failure or error
        if done:
            return done[0]
        assert failure is not None
        raise failure

    async def ping(self) -> None:
        await self._first(lambda database: database.ping())

    async def close(self) -> None:
        if self._closed:
            return
        try:
            await super().close()
        finally:
            self._closed = True


async def _coroutine(work: Callable[[Database], Awaitable[T]], database: Database) -> T:
    return await work(database)


class DbVirtual(Module, DbDriver):
    """Use several databases as one."""

    name = "db_virtual"
    kind = "sql"
    schemes = ("virtual",)

    db_urls = Param(
        str,
        None,
        '"define NAME FAILOVER|PARALLEL|ROUND" begins a set, each URL after it is one of its databases.',
        func=True,
    )
    db_probe_time = Param(int, 10, "How often databases that failed are probed.", unit="s")
    db_max_consec_retrys = Param(
        int, 10, "After so many failures in a row a database stays out until db_virtual:set lets it in."
    )

    probing = Timer("db_probe_time", "probe")

    def __init__(self, **params: Any) -> None:
        self.sets: list[VirtualSet] = []
        super().__init__(**params)

    def set_db_urls(self, value: str) -> None:
        """A set's beginning or one of its databases."""
        words = value.split()
        if words and words[0].lower() == "define":
            if len(words) != 3 or words[2].upper() not in MODES:
                raise ValueError("takes define NAME FAILOVER|PARALLEL|ROUND")
            if any(known.name == words[1] for known in self.sets):
                raise ValueError(f"defines the set {words[1]} twice")
            if len(self.sets) >= MOST_SETS:
                raise ValueError(f"takes {MOST_SETS} sets at most")
            self.sets.append(VirtualSet(words[1], words[2].upper()))
            return
        if not self.sets:
            raise ValueError("a URL comes after define NAME MODE")
        if value.strip().lower().startswith("virtual:"):
            raise ValueError("a set cannot hold a set")
        if len(self.sets[-1].members) >= MOST_MEMBERS:
            raise ValueError(f"takes {MOST_MEMBERS} databases in a set at most")
        self.sets[-1].members.append(Member(value.strip()))

    # --- the driver

    def open_database(self, url: DbUrl) -> Database:
        name = url.host or url.path.strip("/")
        for group in self.sets:
            if group.name.lower() == name.lower():
                if not group.members:
                    raise DatabaseError(f"{url}: the set has no database")
                for member in group.members:
                    member.database = self.core.database(member.url)
                group.opened = VirtualDatabase(url, group)
                return group.opened
        raise DatabaseError(f"{url}: no set of this name is defined by db_urls")

    async def create_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[str]:
        raise DatabaseError(f"{url}: make the tables in each of its databases, by their own URLs")

    # --- coming back

    async def probe(self) -> None:
        """Ask the databases that failed for a sign of life."""
        lost = [(group, member) for group in self.sets for member in group.members if not member.can]
        await asyncio.gather(*(self._probe_one(group, member) for group, member in lost))

    async def _probe_one(self, group: VirtualSet, member: Member) -> None:
        if member.database is None or (member.failures > self.db_max_consec_retrys and not member.ignore_retries):
            return
        try:
            async with asyncio.timeout(PROBE_S):
                await member.database.ping()
        except (DatabaseError, TimeoutError):
            return  # told when it was left out
        member.can = True
        LOG.warning("virtual:%s: %s is used again", group.name, member.database.url)
        if group.opened is not None and member.may:
            group.opened.note_success()

    # --- management

    @mi_command("db_virtual:get", aliases=("db_get",))
    def mi_get(self) -> Json:
        """The sets and their databases: `can`: it answers, `may`: it is allowed, `r_rec`: failures are not counted."""
        return {
            "SETS": [
                {
                    "index": index,
                    "name": group.name,
                    "mode": group.mode,
                    "DBS": [
                        {
                            "index": place,
                            "name": str(member.database.url) if member.database else member.url.partition(":")[0],
                            "can": int(member.can),
                            "may": int(member.may),
                            "r_rec": int(member.ignore_retries),
                        }
                        for place, member in enumerate(group.members)
                    ],
                }
                for index, group in enumerate(self.sets)
            ]
        }

    @mi_command(
        "db_virtual:set",
        aliases=("db_set",),
        params=(
            ("set_index", "db_url_index", "may_use_db_flag"),
            ("set_index", "db_url_index", "may_use_db_flag", "ingore_retries"),
        ),
        types={"set_index": "int", "db_url_index": "int", "may_use_db_flag": "int", "ingore_retries": "int"},
    )
    def mi_set(
        self, set_index: int, db_url_index: int, may_use_db_flag: int, ingore_retries: int | None = None
    ) -> Json:
        """Allow (1) or forbid (0) the use of a database; the fourth parameter forgets its failures, 1 counts none."""
        if not 0 <= set_index < len(self.sets):
            raise MiError(NOT_FOUND, f"there is no set {set_index}")
        members = self.sets[set_index].members
        if not 0 <= db_url_index < len(members):
            raise MiError(NOT_FOUND, f"set {set_index} has no database {db_url_index}")
        member = members[db_url_index]
        member.may = bool(may_use_db_flag)
        if ingore_retries is not None:
            member.ignore_retries = bool(ingore_retries)
            member.failures = 0
        return "OK"
