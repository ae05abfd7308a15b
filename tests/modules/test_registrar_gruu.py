"""Globally routable user agent URIs (RFC 5627)."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from opensipspy import sip
from opensipspy.modules.registrar.gruu import open_temporary, public_gruu, temporary_gruu
from tests.modules.registration import House

INSTANCE = "<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6>"
A = "sip:bob@192.0.2.4"
B = "sip:bob@192.0.2.5"
WITH_INSTANCE = f'<{A}>;+sip.instance="{INSTANCE}"'


def play(scenario: Any, **registrar: Any) -> None:
    async def run() -> None:
        async with House(registrar={"disable_gruu": 0, **registrar}) as house:
            await scenario(house)

    asyncio.run(run())


async def gruus(house: House, **options: Any) -> tuple[str, str]:
    answer = await house.register(WITH_INSTANCE, headers="Supported: gruu\r\n", **options)
    line = next(line for line in answer.headers.split("\r\n") if line.startswith("Contact: "))
    for contact in sip.parse_name_addr_list(line.removeprefix("Contact: ")):
        if contact.uri == A:
            return contact.param("pub-gruu") or "", contact.param("temp-gruu") or ""
    raise AssertionError(line)


def test_a_phone_that_supports_gruu_gets_both():
    """§5.2: pub-gruu and temp-gruu in the Contact of the 200."""

    async def scenario(house: House) -> None:
        public, temporary = await gruus(house)
        assert public == "sip:bob@example.com;gr=urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
        assert temporary.startswith("sip:tgruu.")
        assert temporary.endswith("@example.com;gr")
        assert "bob" not in temporary
        assert "gruu" not in (await house.register(WITH_INSTANCE, cseq=2)).headers, "not without Supported"

    play(scenario)


def test_gruus_lead_to_their_phone_only():
    """§6.1: no other branch is made."""

    async def scenario(house: House) -> None:
        await house.register(f"<{B}>;q=1", callid="other")
        for uri in await gruus(house):
            result, run = await house.lookup(uri)
            assert (result, run.ruri, run.branches) == (1, A, [])

    play(scenario)


def test_a_new_call_id_ends_older_temporary_gruus():
    """§3.2."""

    async def scenario(house: House) -> None:
        public, first = await gruus(house, callid="one")
        _, second = await gruus(house, callid="one", cseq=2)
        assert first != second
        assert (await house.lookup(first))[0] == 1
        await gruus(house, callid="two")
        assert (await house.lookup(first))[0] == -1
        assert (await house.lookup(public))[0] == 1

    play(scenario)


def test_an_invented_or_altered_temporary_gruu_finds_nobody():
    async def scenario(house: House) -> None:
        _, temporary = await gruus(house)
        user = temporary.removeprefix("sip:").partition("@")[0]
        last = "A" if user[10] != "A" else "B"
        for wrong in (user[:10] + last + user[11:], "tgruu.", "tgruu.AAAA", "tgruu.%00", "tgruu." + "A" * 5000):
            assert (await house.lookup(f"sip:{wrong}@example.com;gr"))[0] in (-1, -3)

    play(scenario)


def test_an_instance_that_is_no_urn_gets_no_gruu():
    """What a phone sends must not break the Contact header of the answer."""

    async def scenario(house: House) -> None:
        for instance in ('urn:\\"x', "", "<>", "a b", "x;y=1"):
            answer = await house.register(
                f'<{A}>;+sip.instance="{instance}"', callid=instance, headers="Supported: gruu\r\n"
            )
            assert answer.code == 200
            assert "gruu=" not in answer.headers
            line = next(line for line in answer.headers.split("\r\n") if line.startswith("Contact: "))
            assert len(sip.parse_name_addr_list(line.removeprefix("Contact: "))) == 1

    play(scenario)


def test_a_public_gruu_escapes_the_user():
    assert public_gruu('b"b@example.com', "urn:x:1") == "sip:b%22b@example.com;gr=urn:x:1"


def test_gruus_are_off_by_default():
    async def scenario(house: House) -> None:
        answer = await house.register(WITH_INSTANCE, headers="Supported: gruu\r\n")
        assert "gruu=" not in answer.headers

    play(scenario, disable_gruu=1)


def test_a_temporary_gruu_is_read_only_with_its_secret():
    uri = temporary_gruu("bob@example.com", INSTANCE, "call", "example.com", "secret", Random(1))
    user = uri.removeprefix("sip:").partition("@")[0]
    meant = open_temporary(user, "secret")
    assert meant is not None
    assert (meant.aor, meant.callid) == ("bob@example.com", "call")
    assert public_gruu(meant.aor, meant.instance) == public_gruu("bob@example.com", INSTANCE)
    assert open_temporary(user, "other") is None
