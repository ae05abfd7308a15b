"""One domain's contacts: a dict in memory with its copy in SQL, or SQL alone.

Working modes: MEMORY writes no row. WRITE_THROUGH writes the rows first and changes memory when the database has them,
so that what was answered 200 is on disk. WRITE_BACK changes memory at once and writes what became of each contact at
the next timer run, one row per contact however often it changed. SQL_ONLY keeps nothing in memory.

While a change waits for the database its AOR is held, so that two registrations of one user happen one after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from opensipspy.db import Condition, Database, DatabaseError, DbValue, Delete, InsertUpdate, Write
from opensipspy.management import Counter
from opensipspy.modules.usrloc.api import (
    CS_DIRTY,
    CS_SYNC,
    EXPIRE,
    FL_MEM,
    Change,
    Contact,
    Domain,
    Record,
    StoreError,
)
from opensipspy.modules.usrloc.memory import Notify, Records
from opensipspy.modules.usrloc.rows import Rows

LOG: Final = logging.getLogger(__name__)

MEMORY: Final = 0
WRITE_THROUGH: Final = 1
WRITE_BACK: Final = 2
SQL_ONLY: Final = 3

FLUSH_BATCH: Final = 500
SLICE: Final = 2000


class AorLocks:
    """Who changes an AOR now, and who waits for it, first come first served. Awaits plain futures only."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[str, deque[asyncio.Future[None]]] = {}

    def held(self, aor: str) -> bool:
        return aor in self._held

    async def acquire(self, aor: str) -> None:
        waiting = self._held.get(aor)
        if waiting is None:
            self._held[aor] = deque()
            return
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(aor)
            raise

    def release(self, aor: str) -> None:
        waiting = self._held[aor]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._held[aor]


class DomainStore(Domain):
    """The contacts of one domain. `newest_first`: order by time instead of q."""

    def __init__(
        self,
        name: str,
        mode: int,
        rows: Rows,
        *,
        database: Database | None,
        clock: Callable[[], float],
        new_id: Callable[[], int],
        notify: Notify,
        newest_first: bool = False,
        max_delete: int = 10,
    ) -> None:
        self.name = name
        self.mode = mode
        self.rows = rows
        self.database = database
        self.waits_to_write = mode in (WRITE_THROUGH, SQL_ONLY)
        self.waits_to_read = mode == SQL_ONLY
        self.contacts = Counter(f"{name}-contacts", no_reset=True, help="Contacts in memory.")
        self.expired = Counter(f"{name}-expires", help="Contacts that ran out.")
        self.skipped_rows = 0
        self.loaded = mode not in (WRITE_THROUGH, WRITE_BACK)
        self._memory = Records(
            self, self.contacts, notify, new_id, newest_first=newest_first, write_back=mode == WRITE_BACK
        )
        self._records = self._memory.by_aor
        self._pending = self._memory.pending
        self._locks = AorLocks()
        self._clock = clock
        self._notify = notify
        self._max_delete = max(1, max_delete)

    # --- reading

    @property
    def users(self) -> int:
        """AORs in memory."""
        return len(self._records)

    def get(self, aor: str) -> Record | None:
        return self._records.get(aor)

    def records(self) -> Iterator[Record]:
        return iter(self._records.values())

    async def find(self, aor: str) -> Record | None:
        if self.mode != SQL_ONLY:
            return self._records.get(aor)
        found = await self._select(self._where(aor))
        return found.get(aor)

    async def all_records(self) -> list[Record]:
        if self.mode != SQL_ONLY:
            return list(self._records.values())
        return list((await self._select(())).values())

    def _where(self, aor: str) -> list[Condition]:
        user, domain = self.rows.split(aor)
        where: list[Condition] = [(self.rows.column["username"], "=", user)]
        if self.rows.use_domain:
            where.append((self.rows.column["domain"], "=", domain))
        return where

    async def _select(self, where: Sequence[Condition]) -> dict[str, Record]:
        assert self.database is not None
        try:
            rows = await self.database.select(self.name, self.rows.columns, where)
        except DatabaseError as error:
            raise StoreError(str(error)) from error
        found: dict[str, Record] = {}
        now = self._clock()
        for aor, contact, _ in self._read_rows(rows, None):
            if contact.valid(now):
                record = found.get(aor)
                if record is None:
                    record = found[aor] = Record(aor)
                self._memory.place(record, contact)
        return found

    def _read_rows(
        self, rows: Iterable[Sequence[DbValue]], regenerate: Callable[[], int] | None
    ) -> Iterator[tuple[str, Contact, bool]]:
        """The usable rows; the others are counted, and the first of them is told to the log."""
        seen: set[int] = set()
        skipped, first = 0, ""
        for row in rows:
            try:
                aor, contact, renewed = self.rows.read(row, regenerate)
                if contact.contact_id in seen:
                    if regenerate is None:
                        raise ValueError("contact_id is used twice; see regen_broken_contactid")
                    contact.contact_id, renewed = regenerate(), True
            except ValueError as error:
                skipped += 1
                first = first or str(error)
                continue
            seen.add(contact.contact_id)
            yield aor, contact, renewed
        if skipped and not self.skipped_rows:
            LOG.warning("table %s: %d rows are skipped; the first: %s", self.name, skipped, first)
        self.skipped_rows += skipped

    # --- changing

    @asynccontextmanager
    async def changing(self, aor: str) -> AsyncIterator[Record | None]:
        await self._locks.acquire(aor)
        try:
            yield await self.find(aor)
        finally:
            self._locks.release(aor)

    async def commit(self, change: Change) -> None:
        if change.memory_only and self.mode != SQL_ONLY:
            self._apply(change)
            return
        if self.mode in (WRITE_THROUGH, SQL_ONLY):
            assert self.database is not None
            self._memory.number(change)
            try:
                await self.database.execute(self._writes(change))
            except DatabaseError as error:
                raise StoreError(str(error)) from error
            for contact in (*change.inserts, *(new for _, new in change.updates)):
                contact.state = CS_SYNC
        self._apply(change)

    def commit_now(self, change: Change) -> None:
        assert change.memory_only or not self.waits_to_write
        if self.mode == SQL_ONLY:
            self._apply(change)
        else:
            self._memory.apply(change)

    def _writes(self, change: Change) -> list[Write]:
        writes: list[Write] = [self._delete(c.contact_id) for c in change.deletes]
        writes += [self._upsert(change.aor, new) for _, new in change.updates]
        writes += [self._upsert(change.aor, new) for new in change.inserts]
        return writes

    def _upsert(self, aor: str, contact: Contact) -> Write:
        return InsertUpdate(self.name, self.rows.row(aor, contact), (self.rows.column["contact_id"],))

    def _delete(self, contact_id: int) -> Write:
        return Delete(self.name, ((self.rows.column["contact_id"], "=", contact_id),))

    def _apply(self, change: Change) -> None:
        if self.mode == SQL_ONLY:
            self._memory.number(change)
            self._memory.tell(change)
        else:
            self._memory.apply(change)

    # --- write-back

    @property
    def pending(self) -> int:
        """Contacts whose row is not as they are."""
        return len(self._pending)

    async def flush(self) -> None:
        """Write what became of each contact since the last time. Raises StoreError; the rest stays for the next."""
        while self._pending:
            assert self.database is not None
            batch: list[tuple[int, str, Contact | None]] = []
            removed = 0
            for contact_id, (aor, contact) in self._pending.items():
                if contact is None:
                    removed += 1
                    if removed > self._max_delete and len(batch) >= self._max_delete:
                        break
                batch.append((contact_id, aor, contact))
                if len(batch) >= FLUSH_BATCH:
                    break
            writes: list[Write] = []
            for contact_id, aor, contact in batch:
                if contact is None:
                    writes.append(self._delete(contact_id))
                else:
                    contact.state = CS_DIRTY  # from now on there may be a row to delete
                    writes.append(self._upsert(aor, contact))
            try:
                await self.database.execute(writes)
            except DatabaseError as error:
                raise StoreError(str(error)) from error
            for contact_id, aor, contact in batch:
                if self._pending.get(contact_id, (aor, self))[1] is contact:
                    del self._pending[contact_id]
                    if contact is not None:
                        contact.state = CS_SYNC

    # --- time

    async def expire(self) -> None:
        """Remove the contacts whose time has run out, and their rows."""
        now = int(self._clock())
        if self.mode == SQL_ONLY:
            assert self.database is not None
            try:
                count = await self.database.delete(self.name, self._expired_rows(now))
            except DatabaseError as error:
                raise StoreError(str(error)) from error
            self.expired.inc(count)
            return
        aors = list(self._records)
        for start in range(0, len(aors), SLICE):
            for aor in aors[start : start + SLICE]:
                record = self._records.get(aor)
                if record is not None and not self._locks.held(aor):
                    self._expire_record(record, now)
            if len(aors) > start + SLICE:
                await asyncio.sleep(0)

    def _expire_record(self, record: Record, now: int) -> None:
        over = [c for c in record.contacts if c.expires and c.expires <= now]
        if not over:
            return
        change = Change(record.aor)
        change.deletes = over
        for contact in over:
            self._notify(EXPIRE, self, record.aor, contact)
            if self.mode == WRITE_THROUGH and not contact.flags & FL_MEM:
                self._write_later(self._delete(contact.contact_id))
        self.expired.inc(len(over))
        self._apply(change)

    def _expired_rows(self, now: int) -> list[Condition]:
        column = self.rows.column["expires"]
        return [(column, "<=", now), (column, "!=", 0)]

    def _write_later(self, *writes: Write) -> None:
        assert self.database is not None
        try:
            self.database.write_later(*writes)
        except DatabaseError as error:
            # The row goes at the next load, which leaves out what has run out.
            LOG.error("table %s: a row stays: %s", self.name, error)

    # --- the whole table

    async def load(self, regenerate: Callable[[], int] | None = None) -> int:
        """Take the contacts of the table into memory; returns how many. Raises StoreError."""
        if self.loaded:
            return 0
        assert self.database is not None
        try:
            rows = await self.database.select(self.name, self.rows.columns)
        except DatabaseError as error:
            raise StoreError(str(error)) from error
        now = int(self._clock())
        count = 0
        for aor, contact, renewed in self._read_rows(rows, regenerate):
            if not contact.valid(now):
                continue
            record = self._records.get(aor)
            if record is None:
                record = self._records[aor] = Record(aor)
            elif any(c.contact_id == contact.contact_id for c in record.contacts):
                continue
            self._memory.place(record, contact)
            count += 1
            if renewed:
                self._write_later(
                    Delete(self.name, [*self._where(aor), (self.rows.column["contact"], "=", contact.uri)]),
                    self._upsert(aor, contact),
                )
        self.contacts.inc(count)
        self.loaded = True
        self._write_later(Delete(self.name, self._expired_rows(now)))
        return count

    async def synchronize(self, aor: str | None = None) -> None:
        """Make the table (or the rows of one AOR) what memory holds. Raises StoreError."""
        assert self.database is not None
        if aor is None:
            writes: list[Write] = [Delete(self.name)]
            records = list(self._records.values())
        else:
            writes = [Delete(self.name, self._where(aor))]
            record = self._records.get(aor)
            records = [record] if record is not None else []
        kept = [(r.aor, c) for r in records for c in r.contacts if not c.flags & FL_MEM]
        for owner, contact in kept:
            writes.append(self._upsert(owner, contact))
        try:
            await self.database.execute(writes)
        except DatabaseError as error:
            raise StoreError(str(error)) from error
        for _, contact in kept:
            waiting = self._pending.get(contact.contact_id)
            if waiting is not None and waiting[1] is contact:
                del self._pending[contact.contact_id]
            contact.state = CS_SYNC
