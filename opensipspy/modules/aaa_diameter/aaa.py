"""Questions and records of other modules, `aaa_url` "diameter:FILE", as the C server asks them.

A question is a Multimedia-Auth-Request of the SIP application (RFC 4740 §8.7), a record an Accounting-Request
(RFC 6733 §9.7) of the type EVENT_RECORD; both carry the attributes side by side, by their names in the dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from opensipspy.aaa import VALUES, AaaClient, AaaError, AaaReply, AaaValue, Attributes, Ticket
from opensipspy.modules.aaa_diameter.api import Avps, DiameterApi, DiameterFailure, DiameterReply
from opensipspy.modules.aaa_diameter.dictionary import NUMBERS, Dictionary

SIP_APPLICATION: Final = 6
ACCOUNTING_APPLICATION: Final = 3
MULTIMEDIA_AUTH: Final = 286
ACCOUNTING: Final = 271
NO_STATE_MAINTAINED: Final = 1
EVENT_RECORD: Final = 1
SUCCESS: Final = 2001
METHOD: Final = "opensips-auth"


class DiameterClient(AaaClient):
    """The peer as a client of AAA. session: makes Session-Ids."""

    def __init__(self, peer: DiameterApi, dictionary: Dictionary, session: Callable[[], str]) -> None:
        self._peer = peer
        self._dictionary = dictionary
        self._session = session

    def check(self, names: Iterable[str]) -> None:
        missing = [name for name in names if self._dictionary.named(name) is None]
        if missing:
            raise AaaError(f"the dictionary has no AVP {', '.join(missing)} (extra-avps-file adds them)")

    def value(self, attribute: str, name: str) -> int:
        found = VALUES.get(attribute.lower(), {}).get(name.lower())
        if found is None:
            raise AaaError(f"there is no value {name} of {attribute}")
        return found

    def fitted(self, attributes: Attributes) -> tuple[Attributes, list[str]]:
        kept: list[tuple[str, AaaValue]] = []
        left: list[str] = []
        for name, value in attributes:
            try:
                self._avps([(name, value)])
            except AaaError:
                left.append(name)
            else:
                kept.append((name, value))
        return kept, left

    async def authenticate(self, attributes: Attributes) -> AaaReply:
        avps: Avps = [
            {"Session-Id": self._session()},
            {"Auth-Application-Id": SIP_APPLICATION},
            {"Auth-Session-State": NO_STATE_MAINTAINED},
            {"SIP-Method": METHOD},
        ]
        avps += [{"SIP-AOR": str(value)} for name, value in attributes if name == "User-Name"]
        avps += self._avps(attributes)
        reply = await self._ask(SIP_APPLICATION, MULTIMEDIA_AUTH, avps)
        if 3000 <= reply.result < 4000:
            # §7.1.3: the question did not reach who can answer it.
            raise AaaError(f"the peer answered with Result-Code {reply.result}")
        return AaaReply(reply.result == SUCCESS and not reply.is_error, _flat(reply.avps))

    def ticket(self) -> Ticket:
        # RFC 6733 §9.4: servers tell copies by Session-Id and Accounting-Record-Number; agents as §3 says.
        return Ticket({"session": self._session(), "end_to_end": self._peer.end_to_end()})

    async def account(self, attributes: Attributes, ticket: Ticket | None = None) -> AaaReply:
        ticket = ticket or self.ticket()
        avps: Avps = [
            {"Session-Id": str(ticket.marks.get("session") or self._session())},
            {"Accounting-Record-Type": EVENT_RECORD},
            {"Accounting-Record-Number": 0},
            {"Acct-Application-Id": ACCOUNTING_APPLICATION},
            *self._avps(attributes),
        ]
        end_to_end = int(ticket.marks.get("end_to_end", 0)) & 0xFFFFFFFF
        reply = await self._ask(ACCOUNTING_APPLICATION, ACCOUNTING, avps, end_to_end, ticket.again)
        if not 2000 <= reply.result < 3000:
            # §7.1.3, §7.1.4: it may go well when it is tried again.
            again = 3000 <= reply.result < 5000
            raise AaaError(f"the peer did not take the record: Result-Code {reply.result}", transient=again)
        return AaaReply(True, _flat(reply.avps))

    async def _ask(
        self, application: int, command: int, avps: Avps, end_to_end: int = 0, again: bool = False
    ) -> DiameterReply:
        try:
            return await self._peer.request(application, command, avps, end_to_end, again)
        except DiameterFailure as error:
            raise AaaError(str(error), error.timed_out or error.unreachable, error.sent) from error

    def _avps(self, attributes: Attributes) -> Avps:
        found: Avps = []
        for name, value in attributes:
            known = self._dictionary.named(name)
            if known is None:
                raise AaaError(f"the dictionary has no AVP {name}")
            if isinstance(value, bytes):
                value = value.decode("utf-8", "surrogateescape")
            if known.kind in NUMBERS:
                try:
                    value = int(value)
                except ValueError as error:
                    raise AaaError(f"the value of {name} is no number") from error
            elif known.kind != "time":
                value = str(value)
            found.append({known.name: value})
        return found


def _flat(avps: Avps) -> list[tuple[str, AaaValue]]:
    """What is no group, by its name."""
    return [(name, value) for avp in avps for name, value in avp.items() if isinstance(value, str | int | bytes)]
