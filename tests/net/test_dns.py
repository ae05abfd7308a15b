"""RFC 3263: from a host to addresses, with a made-up name server and a made-up clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.net import DnsClient, DnsError, NotFound, Place, Record, Resolver, ResolverSettings, dns, parse_hosts

UDP, TCP, TLS = sip.PROTO_UDP, sip.PROTO_TCP, sip.PROTO_TLS


class Zone(DnsClient):
    """Answers from a dict; a value that is an exception is raised."""

    def __init__(self, records: dict[tuple[str, str], list[Record] | Exception]) -> None:
        self.records = records
        self.asked: list[tuple[str, str]] = []

    async def query(self, name: str, kind: str) -> list[Record]:
        self.asked.append((name, kind))
        await asyncio.sleep(0)
        found = self.records.get((name, kind), [])
        if isinstance(found, Exception):
            raise found
        return found


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def resolver(
    records: dict[tuple[str, str], list[Record] | Exception], hosts: str = "", **settings: Any
) -> tuple[Resolver, Zone, Clock]:
    zone, clock = Zone(records), Clock()
    made = Resolver(zone, ResolverSettings(**settings), clock, Random(1), parse_hosts(hosts))
    return made, zone, clock


def locate(made: Resolver, *args: Any) -> list[Place]:
    async def main() -> list[Place]:
        found = made.locate(*args)
        return found if isinstance(found, list) else await found

    return asyncio.run(main())


def a(address: str, ttl: float = 60) -> Record:
    return Record(address, ttl)


def srv(target: str, port: int, priority: int = 0, weight: int = 0) -> Record:
    return Record(target, 60, priority=priority, weight=weight, port=port)


def naptr(target: str, service: str, order: int = 0) -> Record:
    return Record(target, 60, priority=order, flags="s", service=service)


def test_an_address_needs_no_question() -> None:
    """RFC 3263 §4.1 and §4.2: a numeric host means UDP, or TLS for sips, on the default port."""
    made, zone, _ = resolver({})
    assert made.locate("192.0.2.1") == [Place(UDP, "192.0.2.1", 5060)]
    assert made.locate("[2001:db8::1]", 5070, TCP) == [Place(TCP, "2001:db8::1", 5070)]
    assert made.locate("192.0.2.1", 0, 0, True) == [Place(TLS, "192.0.2.1", 5061)]
    assert zone.asked == []


def test_a_port_means_an_address_look_up_only() -> None:
    """RFC 3263 §4.2: with an explicit port there is no SRV query."""
    made, zone, _ = resolver({("example.com", "A"): [a("192.0.2.1"), a("192.0.2.2")]})
    assert locate(made, "Example.com", 5070) == [Place(UDP, "192.0.2.1", 5070), Place(UDP, "192.0.2.2", 5070)]
    assert zone.asked == [("example.com", "A")]


def test_naptr_then_srv_then_a() -> None:
    """RFC 3263 §4.1: the NAPTR of lowest order with a transport that we have decides."""
    made, _, _ = resolver(
        {
            ("example.com", "NAPTR"): [
                naptr("_sips._tcp.example.com", "SIPS+D2T", 10),
                naptr("_sip._tcp.example.com", "SIP+D2T", 20),
                naptr("_sip._udp.example.com", "SIP+D2U", 30),
            ],
            ("_sip._tcp.example.com", "SRV"): [srv("b.example.com", 5061, 2), srv("a.example.com", 5060, 1)],
            ("_sip._udp.example.com", "SRV"): [srv("a.example.com", 5060)],
            ("a.example.com", "A"): [a("192.0.2.1")],
            ("b.example.com", "A"): [a("192.0.2.2")],
        }
    )
    assert locate(made, "example.com") == [
        Place(TCP, "192.0.2.1", 5060),
        Place(TCP, "192.0.2.2", 5061),
        Place(UDP, "192.0.2.1", 5060),
    ]


def test_naptr_of_a_sips_uri() -> None:
    """RFC 3263 §4.1: NAPTR is asked for a sips: URI too, and its services of that scheme decide where TLS leads."""
    records: dict[tuple[str, str], list[Record] | Exception] = {
        ("example.com", "NAPTR"): [
            naptr("_sip._udp.example.com", "SIP+D2U", 10),
            naptr("_sips._tcp.provider.example", "SIPS+D2T", 20),
        ],
        ("_sip._udp.example.com", "SRV"): [srv("a.example.com", 5060)],
        ("_sips._tcp.example.com", "SRV"): [srv("old.example.com", 5061)],
        ("_sips._tcp.provider.example", "SRV"): [srv("a.example.com", 5071)],
        ("a.example.com", "A"): [a("192.0.2.1")],
        ("old.example.com", "A"): [a("192.0.2.2")],
    }
    with_tls = (UDP, TLS)
    made, _, _ = resolver(records, protocols=with_tls)
    assert locate(made, "example.com", 0, 0, True) == [Place(TLS, "192.0.2.1", 5071)]
    made, _, _ = resolver(records, protocols=with_tls)
    assert locate(made, "example.com", 0, TCP, True) == [Place(TLS, "192.0.2.2", 5061)], "a transport: SRV at once"
    del records["example.com", "NAPTR"]
    made, _, _ = resolver(records, protocols=with_tls)
    assert locate(made, "example.com", 0, 0, True) == [Place(TLS, "192.0.2.2", 5061)]


def test_of_thousands_of_records_the_best_are_kept() -> None:
    """RFC 2782: those of lower priority numbers are the ones to contact."""
    many = [srv(f"h{n}.example.com", 5060, 5000 - n) for n in range(5000)]
    made, _, _ = resolver({("_sip._udp.example.com", "SRV"): many, ("h4999.example.com", "A"): [a("192.0.2.1")]})
    kept = asyncio.run(made.records("_sip._udp.example.com", "SRV"))
    assert len(kept) == 512
    assert kept[0].target == "h4999.example.com"


def test_without_naptr_srv_of_each_of_our_protocols() -> None:
    """RFC 3263 §4.1, last paragraphs."""
    made, zone, _ = resolver(
        {("_sip._tcp.example.com", "SRV"): [srv("a.example.com", 5090)], ("a.example.com", "A"): [a("192.0.2.1")]}
    )
    assert locate(made, "example.com") == [Place(TCP, "192.0.2.1", 5090)]
    assert ("_sip._udp.example.com", "SRV") in zone.asked


def test_without_any_service_record_the_name_itself() -> None:
    made, _, _ = resolver({("example.com", "A"): [a("192.0.2.1")]})
    assert locate(made, "example.com") == [Place(UDP, "192.0.2.1", 5060)]
    assert locate(made, "example.com", 0, TCP) == [Place(TCP, "192.0.2.1", 5060)]


def test_a_name_that_leads_nowhere_is_not_found() -> None:
    made, _, _ = resolver({})
    with pytest.raises(NotFound):
        locate(made, "example.com")
    with pytest.raises(NotFound):
        made.locate("")


def test_srv_target_root_means_no_service() -> None:
    """RFC 2782: a target of "." says that the service is decidedly not there."""
    made, _, _ = resolver(
        {("_sip._udp.example.com", "SRV"): [srv(".", 0)], ("example.com", "A"): [a("192.0.2.1")]}, try_naptr=False
    )
    assert locate(made, "example.com", 0, UDP) == [Place(UDP, "192.0.2.1", 5060)]


def test_srv_weights_share_the_load() -> None:
    """RFC 2782: inside one priority the chance is the weight."""
    records = [srv("a.example.com", 5060, 1, 90), srv("b.example.com", 5060, 1, 10)]
    made, _, _ = resolver(
        {
            ("_sip._udp.example.com", "SRV"): records,
            ("a.example.com", "A"): [a("192.0.2.1")],
            ("b.example.com", "A"): [a("192.0.2.2")],
        }
    )
    first = Counter(locate(made, "example.com", 0, UDP)[0].address for _ in range(300))
    assert first["192.0.2.1"] > 3 * first["192.0.2.2"] > 0


def test_answers_are_kept_for_their_time_to_live() -> None:
    made, zone, clock = resolver({("example.com", "A"): [a("192.0.2.1", 60)]})
    locate(made, "example.com", 5060)
    assert isinstance(made.locate("example.com", 5060), list), "a cached name must not wait"
    clock.now += 61
    locate(made, "example.com", 5060)
    assert len(zone.asked) == 2


def test_that_there_is_nothing_is_kept_too() -> None:
    """RFC 2308: negative answers are cached, for a short while."""
    made, zone, clock = resolver({})
    for _ in range(3):
        with pytest.raises(NotFound):
            locate(made, "example.com", 5060)
    assert len(zone.asked) == 1
    clock.now += 31
    with pytest.raises(NotFound):
        locate(made, "example.com", 5060)
    assert len(zone.asked) == 2


def test_servers_that_fail_are_asked_again_soon() -> None:
    made, zone, clock = resolver({("example.com", "A"): DnsError("timed out")})
    with pytest.raises(NotFound):
        locate(made, "example.com", 5060)
    zone.records[("example.com", "A")] = [a("192.0.2.1")]
    clock.now += 3
    assert locate(made, "example.com", 5060) == [Place(UDP, "192.0.2.1", 5060)]
    assert made.failures == 1


def test_one_question_for_all_who_wait() -> None:
    made, zone, _ = resolver({("example.com", "A"): [a("192.0.2.1")]})

    async def main() -> list[list[Place]]:
        waits = [made.locate("example.com", 5060) for _ in range(20)]
        return [found if isinstance(found, list) else await found for found in waits]

    assert all(found == [Place(UDP, "192.0.2.1", 5060)] for found in asyncio.run(main()))
    assert len(zone.asked) == 1


def test_the_hosts_file_comes_first() -> None:
    made, zone, _ = resolver({}, "127.0.0.1 localhost pbx # me\n::1 localhost\nnonsense line\n")
    assert made.locate("PBX", 5060) == [Place(UDP, "127.0.0.1", 5060)]
    assert made.locate("localhost") == [Place(UDP, "127.0.0.1", 5060)]
    assert zone.asked == []


def test_aaaa_only_when_allowed_and_reachable() -> None:
    """`dns_try_ipv6` asks for AAAA when there is no A; a server without IPv6 sockets has no use for it."""
    records: dict[tuple[str, str], list[Record] | Exception] = {("example.com", "AAAA"): [a("2001:db8::1")]}
    made, _, _ = resolver(records, v6=True, try_ipv6=True)
    assert locate(made, "example.com", 5060) == [Place(UDP, "2001:db8::1", 5060)]
    for settings in ({"v6": True}, {"v6": False, "try_ipv6": True}):
        made, _, _ = resolver(records, **settings)
        with pytest.raises(NotFound):
            locate(made, "example.com", 5060)
    made, _, _ = resolver(records, v4=False, v6=True)
    assert locate(made, "example.com", 5060) == [Place(UDP, "2001:db8::1", 5060)]


def test_a_zone_cannot_make_us_ask_without_end() -> None:
    many = [srv(f"h{n}.example.com", 5060, n) for n in range(1000)]
    records: dict[tuple[str, str], list[Record] | Exception] = {("_sip._udp.example.com", "SRV"): many}
    records |= {(f"h{n}.example.com", "A"): [a("192.0.2.1")] for n in range(1000)}
    made, zone, _ = resolver(records)
    assert len(locate(made, "example.com", 0, UDP)) == 32
    assert len(zone.asked) < 50


def test_thousands_of_equal_servers_cost_no_more_than_some() -> None:
    """RFC 2782: all of one priority; only as many are drawn as would be tried, however long the answer is."""

    class Counting(Random):
        drawn = 0

        def randint(self, a: int, b: int) -> int:
            self.drawn += 1
            return super().randint(a, b)

    many = [srv(f"h{n}.example.com", 5060, 1, n % 7) for n in range(5000)]
    records: dict[tuple[str, str], list[Record] | Exception] = {("_sip._udp.example.com", "SRV"): many}
    records |= {(f"h{n}.example.com", "A"): [a("192.0.2.1")] for n in range(5000)}
    counting = Counting(1)
    zone = Zone(records)
    found = locate(Resolver(zone, ResolverSettings(), Clock(), counting), "example.com", 0, UDP)
    assert len(found) == counting.drawn == 32
    assert len(zone.asked) == 33


def test_servers_that_say_nothing_cost_the_time_of_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 3263 §4 asks one after the other; when no answer comes, what may follow is asked meanwhile."""
    monkeypatch.setattr(dns, "SLOW_S", 0.0)

    class Silent(Zone):
        waiting = 0
        most = 0

        async def query(self, name: str, kind: str) -> list[Record]:
            self.asked.append((name, kind))
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            if self.most < 4:
                await gate.wait()
            gate.set()
            self.waiting -= 1
            raise DnsError("timed out")

    gate = asyncio.Event()
    zone = Silent({})
    with pytest.raises(NotFound):
        locate(Resolver(zone, ResolverSettings(protocols=(UDP, TCP)), Clock(), Random(1)), "example.com")
    names = ("_sip._udp.example.com", "_sip._tcp.example.com")
    assert set(zone.asked) == {("example.com", "NAPTR"), *((name, "SRV") for name in names), ("example.com", "A")}
    assert (zone.most, len(zone.asked)) == (4, 4), "all at once, and each once"


def test_a_slow_search_that_is_given_up_leaves_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CANCEL while a name server is silent."""
    monkeypatch.setattr(dns, "SLOW_S", 0.0)

    class Silent(Zone):
        async def query(self, name: str, kind: str) -> list[Record]:
            self.asked.append((name, kind))
            if len(self.asked) > 1:
                second.set()
            await asyncio.Event().wait()
            return []

        async def close(self) -> None:
            pass

    second = asyncio.Event()

    async def main() -> None:
        zone = Silent({})
        made = Resolver(zone, ResolverSettings(), Clock(), Random(1))
        found = made.locate("example.com")
        assert not isinstance(found, list)
        task = asyncio.ensure_future(found)
        await second.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await made.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_srv_targets_without_addresses_are_limited_too() -> None:
    many = [srv(f"h{n}.example.com", 5060, n) for n in range(1000)]
    made, zone, _ = resolver({("_sip._udp.example.com", "SRV"): many})
    with pytest.raises(NotFound):
        locate(made, "example.com", 0, UDP)
    assert len(zone.asked) < 100


def test_a_zone_whose_servers_say_nothing_leaves_room_for_others() -> None:
    """Whoever sends requests to thousands of names of his own, which nobody answers for, keeps no other name from being
    found."""

    full = asyncio.Event()

    class Silent(Zone):
        async def query(self, name: str, kind: str) -> list[Record]:
            if name.endswith(".silent.example"):
                self.asked.append((name, kind))
                if len(self.asked) == 256:
                    full.set()
                await asyncio.Event().wait()
            return await super().query(name, kind)

    async def scene() -> None:
        zone = Silent({("good.example.com", "A"): [a("192.0.2.1")]})
        made = Resolver(zone, ResolverSettings(), Clock(), Random(1), {})
        waiting = [asyncio.ensure_future(made.records(f"x{n}.silent.example", "A")) for n in range(2000)]
        await full.wait()
        assert [r.target for r in await made.records("good.example.com", "A")] == ["192.0.2.1"]
        await made.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(result, NotFound) for result in results) == 2000 - 256
        # Those that are over make room again.
        assert await made.records("other.example", "A") == []

    asyncio.run(scene())


def test_flush_forgets() -> None:
    made, zone, _ = resolver({("example.com", "A"): [a("192.0.2.1")]})
    locate(made, "example.com", 5060)
    made.flush()
    locate(made, "example.com", 5060)
    assert len(zone.asked) == 2


def test_records_of_a_name_are_kept() -> None:
    """Asked for once, then from the cache until they are too old."""
    record = Record("", 60.0, priority=1, flags="u", service="E2U", regexp="!a!b!")
    found, zone, _ = resolver({("example.com", "NAPTR"): [record]})

    async def ask() -> list[str]:
        return [record.regexp for record in await found.records("example.com", "NAPTR")]

    assert asyncio.run(ask()) == ["!a!b!"]
    assert asyncio.run(ask()) == ["!a!b!"]
    assert zone.asked == [("example.com", "NAPTR")]
