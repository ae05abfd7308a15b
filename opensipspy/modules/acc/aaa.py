"""Records for AAA servers: those of a call in order, again while no server answers, and never lost without a line.

With a `Spool` those that wait for longer than a moment are on disk too, and after a stop the next start sends them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from opensipspy.aaa import AaaClient, AaaError
from opensipspy.module import CancelHandle, Core
from opensipspy.sip import (
    M_ACK,
    M_BYE,
    M_CANCEL,
    M_INFO,
    M_INVITE,
    M_MESSAGE,
    M_NOTIFY,
    M_OPTIONS,
    M_PRACK,
    M_PUBLISH,
    M_REFER,
    M_REGISTER,
    M_SUBSCRIBE,
    M_UPDATE,
    method_number,
)

from .record import Record
from .spool import Attributes, Spool, Waiting

START, STOP, ALIVE, FAILED = "Start", "Stop", "Alive", "Failed"
STATUS_TYPES: Final = (START, STOP, ALIVE, FAILED)
FIXED: Final = (
    "Acct-Status-Type",
    "Service-Type",
    "Sip-Response-Code",
    "Sip-Method",
    "Event-Timestamp",
    "Sip-From-Tag",
    "Sip-To-Tag",
    "Acct-Session-Id",
    "Sip-Call-Setuptime",
    "Sip-Call-Created",
)
# The values of Sip-Method in OpenSIPS' dictionary.
METHODS: Final = {
    M_INVITE: 1,
    M_CANCEL: 2,
    M_ACK: 4,
    M_BYE: 8,
    M_INFO: 16,
    M_OPTIONS: 32,
    M_UPDATE: 64,
    M_REGISTER: 128,
    M_MESSAGE: 256,
    M_SUBSCRIBE: 512,
    M_NOTIFY: 1024,
    M_PRACK: 2048,
    M_REFER: 4096,
    M_PUBLISH: 8192,
}
OTHER_METHOD: Final = 16384
DELAY: Final = "Acct-Delay-Time"
"""RFC 2866 §5.2: how long a record has been waiting for a server."""
LANES: Final = 64
"""Records under way at a time; those of one call follow each other."""
MAX_WAITING: Final = 50_000
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
KEEP_S: Final = 1.0
"""How often records that wait are written down, those that are older than this."""
SESSION: Final = "Acct-Session-Id"


def _has(client: AaaClient, attribute: str) -> bool:
    try:
        client.check((attribute,))
    except AaaError:
        return False
    return True


def _session(waiting: Waiting) -> object:
    return next((value for name, value in waiting.attributes if name == SESSION), "")


def _step_aside(lane: deque[Waiting]) -> None:
    """Put the records of the first one's call behind those of other calls."""
    call = _session(lane[0])
    order = sorted(lane, key=lambda waiting: _session(waiting) == call)
    lane.clear()
    lane.extend(order)


def status_type(record: Record) -> str:
    """What a record tells of its call: Start, Stop, Alive (something within it) or Failed."""
    method = method_number(record.method)
    if method == M_INVITE and not record.in_dialog and 200 <= int(record.sip_code) < 300:
        return START
    if method in (M_BYE, M_CANCEL):
        return STOP
    return ALIVE if record.in_dialog else FAILED


class Reports:
    """Records on their way to the servers. lost: told of a record that none will have, as a line, and why."""

    def __init__(
        self,
        core: Core,
        client: AaaClient,
        service_type: int,
        line: Callable[[Record], str],
        lost: Callable[[str, str], None],
        spool: Spool | None = None,
    ) -> None:
        self._core = core
        self._client = client
        self._line = line
        self._lost = lost
        # Raises AaaError when the dictionary lacks one.
        self._service = service_type if service_type >= 0 else client.value("Service-Type", "Sip-Session")
        self._status = {name: client.value("Acct-Status-Type", name) for name in STATUS_TYPES}
        self._delay = _has(client, DELAY)
        self._lanes: list[deque[Waiting]] = [deque() for _ in range(LANES)]
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._pause_s = FIRST_PAUSE_S
        self._again: asyncio.Future[None] | None = None
        self._stopped = False
        self._taken = 0
        self.waiting = 0
        self._spool = spool
        # Records that are not in the journal, oldest first, and since when; in it, by number; and done, but not there.
        self._fresh: deque[tuple[float, Waiting]] = deque()
        self._kept: dict[int, Waiting] = {}
        self._done: list[int] = []
        self._keeping: asyncio.Task[None] | None = None
        self._ticking: CancelHandle | None = None
        self._broken = False

    async def start(self) -> None:
        """Take the records of the last run. Raises SpoolError."""
        if self._spool is None:
            return
        found = await asyncio.to_thread(self._spool.open)
        if self._spool.unread:
            self._core.log.error("acc: %d lines of %s cannot be read", self._spool.unread, self._spool.path)
        if found:
            self._core.log.warning("acc: %d records of the last run go to the AAA servers now", len(found))
        for waiting in found:
            self._kept[waiting.number] = waiting
            self._enter(waiting)
        self._ticking = self._core.every(KEEP_S, self._tick)

    @property
    def kept(self) -> int:
        """How many of the records that wait are on disk."""
        return len(self._kept)

    def send(self, record: Record, more: list[tuple[str, str | int | None]]) -> bool:
        """Take a record, whose extra attributes are in `more`; False when too many wait, and it is lost."""
        if self._stopped or self.waiting >= MAX_WAITING:
            self._lost(self._line(record), f"{self.waiting} records wait for AAA servers")
            return False
        found, changed = self._client.fitted(self._attributes(record, more))
        if changed:
            names = ", ".join(sorted(set(changed)))
            self._core.log.warning("acc: the record of %.80s: cut or left out: %s", record.callid, names)
        waiting = Waiting(list(found), record.time, self._client.ticket(), record, "")
        if self._spool is not None:
            self._fresh.append((self._core.now(), waiting))
        self._enter(waiting)
        return True

    def _enter(self, waiting: Waiting) -> None:
        number = hash(_session(waiting)) % LANES
        self._lanes[number].append(waiting)
        self.waiting += 1
        if number not in self._tasks:
            self._tasks[number] = self._core.spawn(self._drain(number), "acc: records for AAA servers")

    def _attributes(self, record: Record, more: list[tuple[str, str | int | None]]) -> Attributes:
        found: list[tuple[str, str | int | None]] = [
            ("Acct-Status-Type", self._status[status_type(record)]),
            ("Service-Type", self._service),
            ("Sip-Response-Code", int(record.sip_code)),
            ("Sip-Method", METHODS.get(method_number(record.method), OTHER_METHOD)),
            ("Event-Timestamp", int(record.time)),
            ("Sip-From-Tag", record.from_tag),
            ("Sip-To-Tag", record.to_tag),
            (SESSION, record.callid),
            ("Sip-Call-Setuptime", record.setuptime),
            ("Sip-Call-Created", int(record.created)),
            *more,
        ]
        return [(name, value) for name, value in found if value is not None and value != ""]

    async def _drain(self, number: int) -> None:
        lane = self._lanes[number]
        try:
            while lane and not self._stopped:
                before = self._taken
                if await self._send(lane[0]):
                    self._over(lane.popleft())
                elif self._taken != before:
                    # The servers are there, and take others: those behind must not wait for this one.
                    _step_aside(lane)
        finally:
            del self._tasks[number]

    def _over(self, waiting: Waiting) -> None:
        self.waiting -= 1
        waiting.done = True
        if waiting.number and self._kept.pop(waiting.number, None) is not None:
            self._done.append(waiting.number)

    async def _send(self, waiting: Waiting) -> bool:
        """Whether the record is done with: taken by a server, or refused for good."""
        attributes = waiting.attributes
        delay = int(self._core.time() - waiting.time)
        if delay > 0 and self._delay:
            attributes = [*attributes, (DELAY, delay)]
        try:
            await self._client.account(attributes, waiting.ticket)
        except AaaError as error:
            if error.transient:
                waiting.ticket.again = waiting.ticket.again or error.sent
                await self._pause()
                return False
            self._lost(self._described(waiting), str(error))
        self._pause_s = FIRST_PAUSE_S
        self._taken += 1
        return True

    def _described(self, waiting: Waiting) -> str:
        """A record as a line of the log."""
        if not waiting.line and waiting.record is not None:
            waiting.line = self._line(waiting.record)
        return waiting.line

    async def _pause(self) -> None:
        """Until the servers may be asked again: one pause for all lanes."""
        if self._again is None:
            self._again = asyncio.get_running_loop().create_future()
            self._core.call_later(self._pause_s, self._resume)
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        await asyncio.shield(self._again)

    def _resume(self) -> None:
        again, self._again = self._again, None
        if again is not None and not again.done():
            again.set_result(None)

    # --- on disk

    def _tick(self) -> None:
        if self._keeping is not None or self._spool is None:
            return
        records = []
        limit = self._core.now() - KEEP_S
        while self._fresh and (self._fresh[0][1].done or self._fresh[0][0] <= limit):
            _, waiting = self._fresh.popleft()
            if not waiting.done:
                records.append(waiting)
        if records or self._done or self._spool.crowded:
            self._keeping = self._core.spawn(self._keep(self._spool, records), "acc: journal of records")

    async def _keep(self, spool: Spool, records: list[Waiting]) -> None:
        """Write records down, and that others are over."""
        done, self._done = self._done, []
        try:
            refused = await asyncio.to_thread(self._keep_now, spool, records, done, len(self._kept))
        except OSError as error:
            if not self._broken:
                self._core.log.error("acc: %s: %s; records wait in memory only", spool.path, error.strerror)
            self._broken = True
            self._done = done + self._done
            self._fresh.extendleft((0.0, waiting) for waiting in reversed(records))
        else:
            if self._broken:
                self._core.log.warning("acc: %s: records are written again", spool.path)
            self._broken = False
            if refused:
                self._core.log.error("acc: %s has no room for %d records", spool.path, len(refused))
            for waiting in records:
                if waiting.number and waiting.done:
                    self._done.append(waiting.number)
                elif waiting.number:
                    self._kept[waiting.number] = waiting
        finally:
            self._keeping = None

    def _keep_now(self, spool: Spool, records: list[Waiting], done: list[int], left: int) -> list[Waiting]:
        for waiting in records:
            self._described(waiting)
        refused = spool.keep(records, done, left)
        if spool.crowded:
            try:
                spool.rewrite([waiting for waiting in (*list(self._kept.values()), *records) if waiting.number])
            except OSError as error:
                # All is in the old one, which can still be written to.
                self._core.log.warning("acc: %s cannot be written anew: %s", spool.path, error.strerror)
        return refused

    async def stop(self) -> None:
        """What waits now is kept on disk for the next start; without a journal it is lost."""
        self._stopped = True
        if self._ticking is not None:
            self._ticking.cancel()
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        try:
            if self._spool is not None:
                await self._keep_rest(self._spool)
        finally:
            for lane in self._lanes:
                while lane:
                    waiting = lane.popleft()
                    if not waiting.number:
                        self._lost(self._described(waiting), "the server stops")
            self.waiting = 0

    async def _keep_rest(self, spool: Spool) -> None:
        if self._keeping is not None:
            await asyncio.wait((self._keeping,))
        await self._keep(spool, [waiting for _, waiting in self._fresh if not waiting.done])
        if self._kept:
            self._core.log.warning("acc: %d records wait in %s for AAA servers", len(self._kept), spool.path)
        await asyncio.to_thread(spool.close)
