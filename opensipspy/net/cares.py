"""Name servers through c-ares (aiodns). Imported when the first name has to be looked up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import aiodns
import pycares

from opensipspy.net.dns import DnsClient, DnsError, Record

# c-ares statuses that are an answer: the name, or records of that kind, do not exist.
NO_DATA: Final = 1
NOT_FOUND: Final = 4
# c-ares keeps for an hour that a name has no records, whatever the zone says; after so long it is to ask again.
NOTHING_S: Final = 10.0


class CaresClient(DnsClient):
    """A `DnsClient` on the system's resolv.conf, or on the name servers given."""

    def __init__(
        self,
        servers: list[str] | None = None,
        tries: int = 0,
        timeout_s: float = 0.0,
        most_servers: int = 0,
        **options: Any,
    ) -> None:
        if tries > 0:
            options["tries"] = tries
        if timeout_s > 0:
            options["timeout"] = timeout_s
        self._resolver = aiodns.DNSResolver(
            nameservers=servers[:most_servers] if servers and most_servers > 0 else servers, **options
        )
        if most_servers > 0 and not servers:
            self._resolver.nameservers = list(self._resolver.nameservers)[:most_servers]
        self._forgetting: asyncio.TimerHandle | None = None

    async def query(self, name: str, kind: str) -> list[Record]:
        try:
            name = name if name.isascii() else name.encode("idna").decode("ascii")
            result = await self._resolver.query_dns(name, kind)
        except aiodns.error.DNSError as error:
            if error.args and error.args[0] in (NO_DATA, NOT_FOUND):
                self._forget_later()
                return []
            raise DnsError(str(error.args[-1])) from error
        except (ValueError, UnicodeError) as error:
            # A name that no server could have: a label that is empty or too long.
            raise DnsError(str(error)) from error
        return chained(name, kind, result.answer)

    def _forget_later(self) -> None:
        """How long nothing is believed is for the caller to decide: c-ares' own memory is emptied."""
        if self._forgetting is None:
            self._forgetting = asyncio.get_running_loop().call_later(NOTHING_S, self._forget)

    def _forget(self) -> None:
        self._forgetting = None
        channel = getattr(self._resolver, "_channel", None)
        if isinstance(channel, pycares.Channel):
            channel.reinit()

    async def close(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()
        await self._resolver.close()


def chained(name: str, kind: str, answers: Sequence[pycares.DNSRecord]) -> list[Record]:
    """The records of a name and of those that its CNAMEs lead to; what an answer holds of other names is no answer.

    All live as long as the shortest link of the chain (RFC 1034 §3.6.2): who moves the name changes the CNAME.
    """
    aliases: dict[str, tuple[str, int]] = {}
    for answer in answers:
        if isinstance(answer.data, pycares.CNAMERecordData):
            aliases.setdefault(folded(answer.name), (folded(answer.data.cname), answer.ttl))
    owners = {folded(name)}
    least: float = float("inf")
    at = folded(name)
    while at in aliases:
        at, ttl = aliases[at]
        least = min(least, ttl)
        if at in owners:
            break
        owners.add(at)
    found = []
    for answer in answers:
        record = made(answer.data, min(answer.ttl, least), kind) if folded(answer.name) in owners else None
        if record is not None:
            found.append(record)
    return found


def folded(name: str) -> str:
    return name.rstrip(".").lower()


def made(data: object, ttl: float, kind: str) -> Record | None:
    """A `Record` of one answer; None for one of another kind, as the CNAMEs on the way are."""
    if kind == "A" and isinstance(data, pycares.ARecordData):
        return Record(data.addr, ttl)
    if kind == "AAAA" and isinstance(data, pycares.AAAARecordData):
        return Record(data.addr, ttl)
    if kind == "SRV" and isinstance(data, pycares.SRVRecordData):
        return Record(data.target, ttl, priority=data.priority, weight=data.weight, port=data.port)
    if kind == "TXT" and isinstance(data, pycares.TXTRecordData):
        return Record(data.data.decode("utf-8", "surrogateescape"), ttl)
    if kind == "NAPTR" and isinstance(data, pycares.NAPTRRecordData):
        return Record(
            data.replacement,
            ttl,
            priority=data.order,
            weight=data.preference,
            flags=data.flags,
            service=data.service,
            regexp=data.regexp,
        )
    return None
