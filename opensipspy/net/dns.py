"""From a SIP URI's host to addresses: RFC 3263, with a small cache, without ever blocking.

The order of look-ups is written once as a generator that asks for records and is told them. As long as the answers
are in the cache it runs through at once, which is the common case on the path of a message; at the first one that is
not, the rest happens in a coroutine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Sequence
from random import Random
from typing import Final

from opensipspy import sip
from opensipspy.module import DnsStore

CACHE_ENTRIES: Final = 4096
# A record's own time to live counts between these bounds, in seconds.
LEAST_TTL_S: Final = 1.0
MOST_TTL_S: Final = 86400.0
NOT_THERE_TTL_S: Final = 30.0
FAILED_TTL_S: Final = 2.0
# After so long without an answer, the questions that may follow are asked too.
SLOW_S: Final = 1.0
# What one destination may lead to, however many records its owner publishes.
MOST_TARGETS: Final = 32
MOST_NAPTR: Final = 16
MOST_ASKED: Final = 64
# Questions that may be open at a time: in all, and of one zone, whose servers may say nothing on purpose.
MOST_OPEN: Final = 1024
MOST_OPEN_OF_ZONE: Final = 256
MOST_STORED: Final = 512
STORED_TYPES: Final = [str, float, int, int, int, str, str, str]
STORED_TYPES_INT_TTL: Final = [str, int, *STORED_TYPES[2:]]

# NAPTR services (RFC 3263 §4.1, RFC 7118 §5): service -> transport.
NAPTR_SERVICES: Final = {
    "SIP+D2U": sip.PROTO_UDP,
    "SIP+D2T": sip.PROTO_TCP,
    "SIPS+D2T": sip.PROTO_TLS,
    "SIP+D2S": sip.PROTO_SCTP,
    "SIP+D2W": sip.PROTO_WS,
    "SIPS+D2W": sip.PROTO_WSS,
}
# SRV owner names of the transports (RFC 3263 §4.1); WebSocket has none of its own.
SRV_PREFIXES: Final = {
    sip.PROTO_UDP: "_sip._udp.",
    sip.PROTO_TCP: "_sip._tcp.",
    sip.PROTO_TLS: "_sips._tcp.",
    sip.PROTO_SCTP: "_sip._sctp.",
}


class Record:
    """One answer. Which attributes count depends on the kind that was asked for.

    A and AAAA: target (an address). TXT: target (the text). SRV: priority, weight, port, target. NAPTR: order as
    priority, preference as weight, flags, service, regexp, target (the replacement).
    """

    __slots__ = ("flags", "port", "priority", "regexp", "service", "target", "ttl", "weight")

    def __init__(
        self,
        target: str,
        ttl: float = 0.0,
        *,
        priority: int = 0,
        weight: int = 0,
        port: int = 0,
        flags: str = "",
        service: str = "",
        regexp: str = "",
    ) -> None:
        self.target: str = target
        self.ttl: float = ttl
        self.priority: int = priority
        self.weight: int = weight
        self.port: int = port
        self.flags: str = flags
        self.service: str = service
        self.regexp: str = regexp


def name_servers(text: str) -> list[str]:
    """The servers of a comma list of ADDRESS, ADDRESS:PORT or [IPV6]:PORT. Raises ValueError with the wrong item."""
    servers = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        host, separator, port = item.rpartition(":")
        if not separator or (item.count(":") > 1 and not host.endswith("]")):
            host, port = item, "53"
        try:
            address = ipaddress.ip_address(host[1:-1] if host[:1] + host[-1:] == "[]" else host)
        except ValueError:
            raise ValueError(f"{item!r} is no address of a name server") from None
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{item!r} has no port of a name server")
        servers.append(f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}")
    return servers


class DnsError(Exception):
    """The servers gave no answer, neither yes nor no."""


class DnsClient(ABC):
    """Asks name servers."""

    @abstractmethod
    async def query(self, name: str, kind: str) -> list[Record]:
        """Records of kind "A", "AAAA", "SRV", "NAPTR" or "TXT"; [] when the name has none. Raises DnsError."""

    async def close(self) -> None:  # noqa: B027 - many clients have nothing to give up
        """Give up what is being asked."""


def write_records(records: Sequence[Record]) -> str:
    """The records of one answer as text, for a store."""
    return json.dumps(
        [[r.target, r.ttl, r.priority, r.weight, r.port, r.flags, r.service, r.regexp] for r in records],
        separators=(",", ":"),
    )


def read_records(text: str) -> list[Record]:
    """The records of such a text. Raises ValueError: others may write to a store, too."""
    rows = json.loads(text)
    if not isinstance(rows, list) or len(rows) > MOST_STORED:
        raise ValueError("no list of records")
    found = []
    for row in rows:
        if not isinstance(row, list) or list(map(type, row)) not in (STORED_TYPES, STORED_TYPES_INT_TTL):
            raise ValueError("a record has other fields")
        target, ttl, priority, weight, port, flags, service, regexp = row
        found.append(
            Record(
                target, ttl, priority=priority, weight=weight, port=port, flags=flags, service=service, regexp=regexp
            )
        )
    return found


class Place:
    """An address to send to."""

    __slots__ = ("address", "port", "proto")

    def __init__(self, proto: int, address: str, port: int) -> None:
        self.proto: int = proto
        self.address: str = address
        self.port: int = port

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and (self.proto, self.address, self.port) == (
            other.proto,
            other.address,
            other.port,
        )

    def __hash__(self) -> int:
        return hash((self.proto, self.address, self.port))

    def __repr__(self) -> str:
        return f"Place({sip.proto_name(self.proto)}:{self.address}:{self.port})"


class NotFound(Exception):
    """The host leads to no address."""


Question = tuple[str, str]
Search = Generator[Question, list[Record], list[Place]]
Asked = dict[Question, asyncio.Future[list[Record]]]


class ResolverSettings:
    """protocols: transports that we can send with, in the order of our preference. v4, v6: families we can send to.

    try_ipv6: ask for AAAA when there is no A, as the script's `dns_try_ipv6` says. try_naptr: `dns_try_naptr`.
    """

    def __init__(
        self,
        *,
        protocols: Sequence[int] = (sip.PROTO_UDP, sip.PROTO_TCP),
        v4: bool = True,
        v6: bool = False,
        try_ipv6: bool = False,
        try_naptr: bool = True,
    ) -> None:
        self.protocols = tuple(protocols)
        self.v4 = v4
        self.v6 = v6
        self.try_ipv6 = try_ipv6
        self.try_naptr = try_naptr


class Resolver:
    """Finds places for hosts; one for a server."""

    def __init__(
        self,
        client: DnsClient,
        settings: ResolverSettings,
        now: Callable[[], float],
        random: Random,
        hosts: dict[str, list[str]] | None = None,
    ) -> None:
        self.settings = settings
        self.queries = 0
        self.failures = 0
        self._client = client
        self._now = now
        self._random = random
        # Where answers are kept beside our own memory; None for nowhere.
        self.store: DnsStore | None = None
        self._hosts = hosts or {}
        self._cache: dict[Question, tuple[float, list[Record]]] = {}
        self._asking: dict[Question, asyncio.Future[list[Record]]] = {}
        # How many of them are of a zone.
        self._open: dict[str, int] = {}

    def locate(
        self, host: str, port: int = 0, proto: int = 0, secure: bool = False
    ) -> list[Place] | Awaitable[list[Place]]:
        """Places for a URI's host in the order to try them; proto 0 when the URI names no transport.

        secure: the URI is a `sips:` one. Raises NotFound, at once or when awaited.
        """
        meanwhile: Asked = {}
        found = self._run(self._search(host, port, proto, secure), meanwhile)
        if isinstance(found, list) or port:
            return found
        return self._impatiently(found, meanwhile, self._likely(host, proto, secure))

    def addresses(self, host: str, family: int = 0) -> list[str] | Awaitable[list[str]]:
        """Addresses of a host name; family 4, 6, or 0 for what we can send to. [] when there is none."""
        found = self._run(self._plain_search(host, family))
        if isinstance(found, list):
            return [place.address for place in found]

        async def later() -> list[str]:
            return [place.address for place in await found]

        return later()

    async def records(self, name: str, kind: str) -> list[Record]:
        """The records of a name, from the cache or asked for, as DnsClient.query() has them. Raises NotFound."""
        question = (name, kind)
        known = self._known(question)
        return await self._ask(question) if known is None else known

    def flush(self) -> None:
        """Forget every cached answer."""
        self._cache.clear()

    async def close(self) -> None:
        for future in self._asking.values():
            future.cancel()
        await self._client.close()

    # -- running a search

    def _run(self, search: Search, meanwhile: Asked | None = None) -> list[Place] | Awaitable[list[Place]]:
        try:
            question = next(search)
            while True:
                known = self._known(question)
                if known is None:
                    return self._go_on(search, question, {} if meanwhile is None else meanwhile)
                question = search.send(known)
        except StopIteration as stop:
            places: list[Place] = stop.value
            return places

    async def _go_on(self, search: Search, question: Question, meanwhile: Asked) -> list[Place]:
        try:
            while True:
                known = self._known(question)
                if known is None:
                    asked = meanwhile.get(question)
                    known = await (self._ask(question) if asked is None else asyncio.shield(asked))
                question = search.send(known)
        except StopIteration as stop:
            places: list[Place] = stop.value
            return places

    async def _impatiently(
        self, search: Awaitable[list[Place]], meanwhile: Asked, likely: list[Question]
    ) -> list[Place]:
        """Wait for a search; when it is slow, what it may ask later is asked now, so that servers that say nothing
        cost the time of one question and not of each."""
        going_on = asyncio.ensure_future(search)
        try:
            done, _ = await asyncio.wait((going_on,), timeout=SLOW_S)
            for question in likely if not done else ():
                if len(self._asking) < MOST_ASKED and self._known(question) is None:
                    meanwhile[question] = self._asking.get(question) or self._begin(question)
            return await going_on
        finally:
            going_on.cancel()

    def _likely(self, host: str, proto: int, secure: bool) -> list[Question]:
        """What a search without a port may come to ask if nobody has anything to say about the name."""
        name = host.strip("[]").rstrip(".").lower()
        if is_literal(name) or "." not in name:
            return []
        protocols = (sip.PROTO_TLS,) if secure else (proto,) if proto else self.settings.protocols
        prefixes = [SRV_PREFIXES[p] for p in protocols if p in SRV_PREFIXES]
        found = [(prefix + name, "SRV") for prefix in prefixes]
        if self.settings.v4:
            found.append((name, "A"))
        if self.settings.v6 and (self.settings.try_ipv6 or not self.settings.v4):
            found.append((name, "AAAA"))
        return found

    def _known(self, question: Question) -> list[Record] | None:
        name, kind = question
        if kind in ("A", "AAAA"):
            static = self._hosts.get(name)
            if static is not None:
                return [Record(address) for address in static if (":" in address) == (kind == "AAAA")]
        entry = self._cache.get(question)
        if entry is None:
            return None
        if entry[0] <= self._now():
            del self._cache[question]
            return None
        return entry[1]

    async def _ask(self, question: Question) -> list[Record]:
        """Ask the servers once, however many wait for the same answer."""
        asked = self._asking.get(question)
        if asked is None:
            if len(self._asking) >= MOST_OPEN or self._open.get(zone(question[0]), 0) >= MOST_OPEN_OF_ZONE:
                raise NotFound(f"{question[0]}: too many names are being looked up")
            asked = self._begin(question)
        # A waiter that is given up must not end the question of the others.
        return await asyncio.shield(asked)

    def _begin(self, question: Question) -> asyncio.Future[list[Record]]:
        asked = asyncio.ensure_future(self._query(question))
        self._asking[question] = asked
        owner = zone(question[0])
        self._open[owner] = self._open.get(owner, 0) + 1

        def ended(future: asyncio.Future[list[Record]]) -> None:
            self._asking.pop(question, None)
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]
            if not future.cancelled():
                # Perhaps nobody waits for it any more.
                future.exception()

        asked.add_done_callback(ended)
        return asked

    async def _query(self, question: Question) -> list[Record]:
        stored = await self._stored(question)
        if stored is not None:
            records, ttl = stored
        else:
            self.queries += 1
            try:
                records = await self._client.query(*question)
                if len(records) > MOST_STORED:
                    # An owner who publishes thousands, for many names, is not to fill our memory.
                    records = sorted(records, key=lambda record: record.priority)[:MOST_STORED]
            except DnsError:
                # No server spoke: that is no fact about the name, so no store is told.
                self.failures += 1
                records = []
                ttl = FAILED_TTL_S
            else:
                ttl = min((record.ttl for record in records), default=NOT_THERE_TTL_S)
                ttl = min(max(ttl, LEAST_TTL_S), MOST_TTL_S)
                if self.store is not None:
                    ttl = await self.store.keep(*question, write_records(records), ttl if records else None)
        if len(self._cache) >= CACHE_ENTRIES:
            self._cache.pop(next(iter(self._cache)))
        self._cache[question] = (self._now() + ttl, records)
        return records

    async def _stored(self, question: Question) -> tuple[list[Record], float] | None:
        """What the store knows, with the seconds for which it is true."""
        found = await self.store.fetch(*question) if self.store is not None else None
        if found is None:
            return None
        try:
            return read_records(found[0]), found[1]
        except ValueError:
            return None

    # -- RFC 3263

    def _search(self, host: str, port: int, proto: int, secure: bool) -> Search:
        name = host.strip("[]").rstrip(".").lower()
        if not name:
            raise NotFound("the host is empty")
        named = proto
        if secure:
            proto = sip.PROTO_WSS if proto in (sip.PROTO_WS, sip.PROTO_WSS) else sip.PROTO_TLS
        if is_literal(name):
            chosen = proto or sip.PROTO_UDP
            return [Place(chosen, name, port or sip.default_port(chosen))]
        if port:
            # RFC 3263 §4.2: a port given means an address look-up, with the default transport.
            chosen = proto or sip.PROTO_UDP
            return (yield from self._at_address(name, port, chosen, required=True))
        services = yield from self._services(name, proto if named else 0, secure)
        places: list[Place] = []
        for owner, transport in services:
            records = yield (owner, "SRV")
            for record in self._srv_order(records):
                if record.target in ("", "."):
                    continue
                places += yield from self._at_address(record.target.lower(), record.port, transport, required=False)
                if len(places) >= MOST_TARGETS:
                    return places[:MOST_TARGETS]
        if places:
            return places
        chosen = proto or sip.PROTO_UDP
        return (yield from self._at_address(name, sip.default_port(chosen), chosen, required=True))

    def _services(
        self, name: str, proto: int, secure: bool
    ) -> Generator[Question, list[Record], list[tuple[str, int]]]:
        """SRV owner names with their transports, from NAPTR or, without, one for each transport we have (§4.1)."""
        if proto:
            prefix = SRV_PREFIXES.get(proto)
            return [] if prefix is None or "." not in name else [(prefix + name, proto)]
        # A name without a dot is of this network: it has no service records worth waiting for.
        if "." not in name:
            return []
        known = set(self.settings.protocols)
        if self.settings.try_naptr:
            records = yield (name, "NAPTR")
            found = []
            for record in sorted(records, key=lambda r: (r.priority, r.weight))[:MOST_NAPTR]:
                service = record.service.upper()
                # A sips: URI takes services of that scheme only; a sip: one may be upgraded.
                transport = NAPTR_SERVICES.get(service, 0) if service.startswith("SIPS") or not secure else 0
                if transport in known and record.flags.lower() == "s" and record.target:
                    found.append((record.target.rstrip(".").lower(), transport))
            if found:
                return found
        if secure:
            return [(SRV_PREFIXES[sip.PROTO_TLS] + name, sip.PROTO_TLS)]
        return [
            (SRV_PREFIXES[p] + name, p) for p in self.settings.protocols if p in SRV_PREFIXES and p != sip.PROTO_TLS
        ]

    def _srv_order(self, records: Sequence[Record]) -> list[Record]:
        """The first MOST_TARGETS by priority, and inside one priority drawn by weight (RFC 2782)."""
        ordered: list[Record] = []
        for priority in sorted({record.priority for record in records}):
            left = [record for record in records if record.priority == priority]
            left.sort(key=lambda record: record.weight > 0)
            total = sum(record.weight for record in left)
            while left:
                if len(ordered) == MOST_TARGETS:
                    # Somebody else's answer may hold thousands.
                    return ordered
                drawn = self._random.randint(0, total)
                running = 0
                for index, record in enumerate(left):
                    running += record.weight
                    if running >= drawn:
                        ordered.append(left.pop(index))
                        total -= record.weight
                        break
        return ordered

    def _at_address(self, name: str, port: int, proto: int, *, required: bool) -> Search:
        if is_literal(name):
            return [Place(proto, name, port)]
        places = yield from self._plain_search(name, 0)
        if not places and required:
            raise NotFound(f"{name} has no address")
        return [Place(proto, place.address, port) for place in places[:MOST_TARGETS]]

    def _plain_search(self, host: str, family: int) -> Search:
        name = host.strip("[]").rstrip(".").lower()
        if is_literal(name):
            return [Place(0, name, 0)]
        settings = self.settings
        found: list[Record] = []
        if family == 4 or (not family and settings.v4):
            found = yield (name, "A")
        if family == 6 or (not family and not found and settings.v6 and (settings.try_ipv6 or not settings.v4)):
            found = yield (name, "AAAA")
        return [Place(0, record.target, 0) for record in found]


def zone(name: str) -> str:
    """The last two labels of a name: whose it is, near enough."""
    return ".".join(name.rsplit(".", 2)[-2:])


def is_literal(text: str) -> bool:
    """Whether a host without brackets is an IPv4 or IPv6 address."""
    if ":" not in text and not text[-1:].isdigit():
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def parse_hosts(text: str) -> dict[str, list[str]]:
    """The names of a hosts file (hosts(5)), lower case, with their addresses in the order of the file."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        if len(fields) < 2 or not is_literal(fields[0]):
            continue
        for name in fields[1:]:
            addresses = found.setdefault(name.lower(), [])
            if fields[0] not in addresses:
                addresses.append(fields[0])
    return found
