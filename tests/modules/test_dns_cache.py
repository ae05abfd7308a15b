"""dns_cache: answers of name servers in a key-value store."""

from __future__ import annotations

from random import Random

import pytest

from opensipspy.cachedb import CacheError
from opensipspy.dbdrivers.cachedb_local import CachedbLocal
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore
from opensipspy.modules.dns_cache import DnsCache
from opensipspy.net.dns import DnsClient, DnsError, Record, Resolver, ResolverSettings, read_records, write_records
from tests.modules.asynchronous import in_loop


class Servers(DnsClient):
    """Name servers by heart."""

    def __init__(self, known: dict[tuple[str, str], list[Record] | None]) -> None:
        self.known = known
        self.asked: list[tuple[str, str]] = []

    async def query(self, name: str, kind: str) -> list[Record]:
        self.asked.append((name, kind))
        found = self.known.get((name, kind), [])
        if found is None:
            raise DnsError("no answer")
        return found


class Bench:
    """Resolvers of two servers, one after the other, with one store."""

    def __init__(self, known: dict[tuple[str, str], list[Record] | None]) -> None:
        self.core = FakeCore()
        self.core.add(CachedbLocal())
        self.servers = Servers(known)

    async def resolver(self, **params: int) -> Resolver:
        module = self.core.add(DnsCache(cachedb_url="local://", **params))
        await module.launch()
        made = Resolver(self.servers, ResolverSettings(), self.core.now, Random(1))
        made.store = self.core.dns_store
        return made


RECORDS = [
    Record("sip.example.org", 60.0, priority=10, weight=20, port=5060),
    Record("192.0.2.1", 30.5),
    Record("", 5, priority=1, weight=2, flags="u", service="E2U+sip", regexp="!^.*$!sip:a@b!\udc80"),
]


def test_records_survive_the_store() -> None:
    """All fields of all kinds, bytes that are no UTF-8 included."""
    found = read_records(write_records(RECORDS))
    for one, other in zip(RECORDS, found, strict=True):
        assert all(getattr(one, name) == getattr(other, name) for name in Record.__slots__)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '[["a"]]', '[["a",1,"b",0,0,"","",""]]', "[" + "[]," * 600 + "[]]", "x"]
)
def test_a_store_may_hold_anything(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's and our own
        read_records(text)


@in_loop
async def test_an_answer_is_asked_for_once() -> None:
    """The manual: successful answers are kept for their time to live, also for a server that starts later."""
    bench = Bench({("a.example", "A"): [Record("192.0.2.1", 60.0)]})
    one = await bench.resolver()
    assert [r.target for r in await one.records("a.example", "A")] == ["192.0.2.1"]
    bench.core.advance(20)
    two = await bench.resolver()
    assert [r.target for r in await two.records("a.example", "A")] == ["192.0.2.1"]
    assert two.queries == 0
    assert len(bench.servers.asked) == 1
    # What is left of the time counts in the second server's memory, too.
    bench.core.advance(41)
    await two.records("a.example", "A")
    assert len(bench.servers.asked) == 2


@in_loop
async def test_what_does_not_exist_is_remembered() -> None:
    """The manual: blacklist_timeout seconds for a failed query (RFC 2308)."""
    bench = Bench({})
    one = await bench.resolver(blacklist_timeout=100)
    assert await one.records("nowhere.example", "A") == []
    bench.core.advance(99)
    assert await (await bench.resolver(blacklist_timeout=100)).records("nowhere.example", "A") == []
    assert len(bench.servers.asked) == 1
    bench.core.advance(2)
    await one.records("nowhere.example", "A")
    assert len(bench.servers.asked) == 2


@in_loop
async def test_no_answer_is_not_kept() -> None:
    """A name server that is away must not make a name unreachable for an hour."""
    bench = Bench({("a.example", "A"): None})
    one = await bench.resolver()
    assert await one.records("a.example", "A") == []
    bench.servers.known["a.example", "A"] = [Record("192.0.2.1", 60.0)]
    bench.core.advance(3)
    assert len(await one.records("a.example", "A")) == 1


@in_loop
async def test_min_ttl() -> None:
    """The manual: an answer with a shorter life is kept for min_ttl seconds."""
    bench = Bench({("a.example", "A"): [Record("192.0.2.1", 5.0)]})
    one = await bench.resolver(min_ttl=300)
    await one.records("a.example", "A")
    bench.core.advance(290)
    await one.records("a.example", "A")
    await (await bench.resolver(min_ttl=300)).records("a.example", "A")
    assert len(bench.servers.asked) == 1


@pytest.mark.parametrize("value", ["", "x", "99999999999 nonsense", "-1 []", "9999999999999999 []", "99999999999 [[]]"])
@in_loop
async def test_nonsense_in_the_store(value: str) -> None:
    """Others may write there: what cannot be read counts as absent."""
    bench = Bench({("a.example", "A"): [Record("192.0.2.1", 5.0)]})
    one = await bench.resolver()
    await bench.core.cachedb("local://").store("dns:A:a.example", value)
    assert len(await one.records("a.example", "A")) == 1


@in_loop
async def test_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are looked up all the same."""
    bench = Bench({("a.example", "A"): [Record("192.0.2.1", 60.0)]})
    one = await bench.resolver()
    store = bench.core.cachedb("local://")

    async def away(*args: object) -> None:
        raise CacheError("gone")

    monkeypatch.setattr(store, "fetch", away)
    monkeypatch.setattr(store, "store", away)
    assert len(await one.records("a.example", "A")) == 1


@pytest.mark.parametrize(
    "params",
    [{}, {"cachedb_url": "redis://x"}, {"cachedb_url": "local://", "min_ttl": -1}],
    ids=["none", "driver", "ttl"],
)
@in_loop
async def test_parameters_that_cannot_be(params: dict[str, object]) -> None:
    core = FakeCore()
    core.add(CachedbLocal())
    with pytest.raises(ParamError):
        await core.add(DnsCache(**params)).launch()
