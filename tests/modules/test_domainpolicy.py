"""Policies of domains: NAPTR records and the table's rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensipspy.module import LocateError, Naptr
from opensipspy.modules.domainpolicy import POLICY_TABLE, DomainPolicy, expanded
from opensipspy.script.patterns import PatternCache
from tests.modules.memory_database import MemoryDatabase
from tests.modules.tables import URL, House, change, make_tables, play

FED, STD = "!^.*$!http://fed.example/x!", "!^(.*)$!http://std.example/\\1!"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "policy.sqlite"
    make_tables(path, POLICY_TABLE)
    change(
        path,
        "INSERT INTO domainpolicy (rule, type, att, val, description) VALUES (?, ?, ?, ?, '')",
        [
            ("known.example", "dom", "portoverride", "5070"),
            ("plain.example", "dom", None, None),
            ("http://fed.example/x", "fed", "domainprefix", "inbound"),
            ("http://fed.example/x", "fed", "transportoverride", "tls"),
            ("http://std.example/b.example", "std", "domainsuffix", "peer.example"),
        ],
    )
    return path


def record(order: int, regexp: str = FED, service: str = "D2P+SIP:fed", flags: str = "u", to: str = "") -> Naptr:
    return Naptr(order, 10, flags, service, regexp, to)


@pytest.mark.parametrize(
    ("records", "result", "avps"),
    [
        ({}, 2, {}),
        ({"b.example": [record(10, service="E2U+sip")]}, 2, {}),
        ({"b.example": [record(10)]}, 1, {"domainprefix": ["inbound"], "transportoverride": ["tls"]}),
        ({"b.example": [record(10, STD, "d2p+sip:STD")]}, 1, {"domainsuffix": ["peer.example"]}),
        ({"b.example": [record(10, "!^.*$!http://other.example/!")]}, -1, {}),
        ({"b.example": [record(10, service="D2P+SIP:new")]}, -1, {}),
        ({"b.example": [record(10, "nonsense")]}, -1, {}),
        ({"b.example": [record(10, "!(!x!")]}, -1, {}),
        ({"b.example": [record(10, flags="s")]}, -1, {}),
        # Both of one order have to be ours, and the next order counts only when the first is not.
        ({"b.example": [record(10), record(10, "!^.*$!http://other.example/!")]}, -1, {}),
        (
            {"b.example": [record(20, STD, "D2P+SIP:std"), record(10)]},
            1,
            {"domainprefix": ["inbound"], "transportoverride": ["tls"]},
        ),
        (
            {"b.example": [record(10, "!^.*$!http://other.example/!"), record(20, STD, "D2P+SIP:std")]},
            1,
            {"domainsuffix": ["peer.example"]},
        ),
        (
            {"b.example": [record(10, "", "D2P+SIP", "", "Known.example.")]},
            1,
            {"domainreplacement": ["known.example"], "portoverride": ["5070"]},
        ),
        ({"b.example": [record(10, "", "D2P+SIP", "", "b.example")]}, -2, {}),
        ({"b.example": [record(10, "", "D2P+SIP", "", "c.example"), record(10)]}, -2, {}),
        ({"b.example": LocateError("no answer")}, -2, {}),
    ],
)
def test_published_policies(
    table: Path, records: dict[str, list[Naptr] | Exception], result: int, avps: dict[str, list[str]]
) -> None:
    async def scenario(house: House) -> None:
        house.core.naptrs.update(records)
        house.new(ruri="sip:x@B.example")
        assert await house.ask("dp_can_connect") == result
        assert house.run.avps == avps

    play(table, lambda: DomainPolicy(db_url=URL), scenario)


def test_domains_that_the_table_names(table: Path) -> None:
    async def scenario(house: House) -> None:
        house.new(ruri="sip:x@known.example;transport=tcp")
        assert await house.ask("dp_can_connect") == 1
        assert await house.ask("dp_apply_policy") == 1
        assert house.run.dst_uri == "sip:known.example:5070;transport=tcp"
        house.new(ruri="sip:x@plain.example")
        assert await house.ask("dp_can_connect") == 1
        assert await house.ask("dp_apply_policy") == 2
        assert house.run.dst_uri == ""

    play(table, lambda: DomainPolicy(db_url=URL), scenario)


def test_destinations_from_attributes(table: Path) -> None:
    async def scenario(house: House) -> None:
        run = house.new(ruri="sip:x@b.example:5080")
        run.avps.update(
            {
                "pre": ["in"],
                "domainreplacement": ["c.example"],
                "domainsuffix": ["peer"],
                "transportoverride": ["tls"],
                "sendsocket": ["udp:127.0.0.1:5060"],
            }
        )
        assert await house.ask("dp_apply_policy") == 1
        assert run.dst_uri == "sip:in.c.example.peer:5080;transport=tls"
        assert run.socket_out is house.core.sockets[0]
        for name, value in (("domainsuffix", 5), ("domainsuffix", "a\r\nb"), ("portoverride", "")):
            run = house.new(ruri="sip:x@b.example")
            run.avps[name] = [value]
            assert await house.ask("dp_apply_policy") == -1
            assert run.dst_uri == ""

    play(table, lambda: DomainPolicy(db_url=URL, domain_prefix_avp="$avp(pre)"), scenario)


def test_a_database_that_is_away() -> None:
    database = MemoryDatabase({}, domainpolicy=3)
    database.away = True

    async def scenario(house: House) -> None:
        house.new()
        assert await house.ask("dp_can_connect") == -2

    play(database, lambda: DomainPolicy(db_url=URL), scenario)


@pytest.mark.parametrize(
    ("regexp", "made"),
    [
        ("!^.*$!x!", "x"),
        ("!^(.*)\\.org$!\\1/\\0!", "a/a.org"),
        ("!^b!x!", None),
        ("!^.*$!\\5!", None),
        ("x!y!z!", None),
        ("!a!", None),
        ("!^.*$!" + "y" * 300 + "!", None),
    ],
)
def test_expressions_of_records(regexp: str, made: str | None) -> None:
    assert expanded(regexp, "a.org", PatternCache()) == made
