"""Records for AAA servers: those of a call in order, again while no server answers, and never lost without a line."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from opensipspy.aaa import AaaClient, AaaError, AaaValue
from opensipspy.module import Core
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

Attributes = list[tuple[str, AaaValue]]
Waiting = tuple[Attributes, Record]


def _has(client: AaaClient, attribute: str) -> bool:
    try:
        client.check((attribute,))
    except AaaError:
        return False
    return True


def status_type(record: Record) -> str:
    """What a record tells of its call: Start, Stop, Alive (something within it) or Failed."""
    method = method_number(record.method)
    if method == M_INVITE and not record.in_dialog and 200 <= int(record.sip_code) < 300:
        return START
    if method in (M_BYE, M_CANCEL):
        return STOP
    return ALIVE if record.in_dialog else FAILED


class Reports:
    """Records on their way to the servers. lost: told of a record that none will have, and why."""

    def __init__(self, core: Core, client: AaaClient, service_type: int, lost: Callable[[Record, str], None]):
        self._core = core
        self._client = client
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
        self.waiting = 0

    def send(self, record: Record, more: list[tuple[str, str | int | None]]) -> bool:
        """Take a record, whose extra attributes are in `more`; False when too many wait, and it is lost."""
        if self._stopped or self.waiting >= MAX_WAITING:
            self._lost(record, f"{self.waiting} records wait for AAA servers")
            return False
        found, changed = self._client.fitted(self._attributes(record, more))
        if changed:
            names = ", ".join(sorted(set(changed)))
            self._core.log.warning("acc: the record of %.80s: cut or left out: %s", record.callid, names)
        number = hash(record.callid) % LANES
        self._lanes[number].append((list(found), record))
        self.waiting += 1
        if number not in self._tasks:
            self._tasks[number] = self._core.spawn(self._drain(number), "acc: records for AAA servers")
        return True

    def _attributes(self, record: Record, more: list[tuple[str, str | int | None]]) -> Attributes:
        found: list[tuple[str, str | int | None]] = [
            ("Acct-Status-Type", self._status[status_type(record)]),
            ("Service-Type", self._service),
            ("Sip-Response-Code", int(record.sip_code)),
            ("Sip-Method", METHODS.get(method_number(record.method), OTHER_METHOD)),
            ("Event-Timestamp", int(record.time)),
            ("Sip-From-Tag", record.from_tag),
            ("Sip-To-Tag", record.to_tag),
            ("Acct-Session-Id", record.callid),
            ("Sip-Call-Setuptime", record.setuptime),
            ("Sip-Call-Created", int(record.created)),
            *more,
        ]
        return [(name, value) for name, value in found if value is not None and value != ""]

    async def _drain(self, number: int) -> None:
        lane = self._lanes[number]
        try:
            while lane and not self._stopped:
                if await self._send(*lane[0]):
                    lane.popleft()
                    self.waiting -= 1
        finally:
            del self._tasks[number]

    async def _send(self, attributes: Attributes, record: Record) -> bool:
        """Whether the record is done with: taken by a server, or refused for good."""
        delay = int(self._core.time() - record.time)
        if delay > 0 and self._delay:
            attributes = [*attributes, (DELAY, delay)]
        try:
            await self._client.account(attributes)
        except AaaError as error:
            if error.transient:
                await self._pause()
                return False
            self._lost(record, str(error))
        self._pause_s = FIRST_PAUSE_S
        return True

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

    async def stop(self) -> None:
        """What waits now is lost."""
        self._stopped = True
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for lane in self._lanes:
            while lane:
                self._lost(lane.popleft()[1], "the server stops")
        self.waiting = 0
