"""peering: FreeRADIUS as the broker of a community of providers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from opensipspy.dbdrivers.aaa_radius import AaaRadius
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.peering import Peering
from tests.backends import FreeradiusServer

USERS = (
    'peer.example Service-Type == 21, Sip-Uri-User == "bob", Sip-From-Tag == "a1", SIP-Call-Id == "c-1", '
    'Auth-Type := Accept\n\tSIP-AVP += "prh:hash@12"\n\n'
    'here.example Service-Type == 22, SIP-Request-Hash == "hash@12", Auth-Type := Accept\n'
    '\tSIP-AVP += "from_peer#1"\n\n'
    "other.example Service-Type == 99, Auth-Type := Accept\n"
)


@pytest.fixture(scope="module")
def radius() -> Iterator[FreeradiusServer]:
    if FreeradiusServer.programs() is None:
        pytest.skip("FreeRADIUS is missing: apt-get install freeradius")
    server = FreeradiusServer()
    server.prepare(USERS)
    with (server.folder / "radiusclient.conf").open("a", encoding="utf-8") as file:
        file.write("dictionary client-dictionary\n")
    (server.folder / "client-dictionary").write_text(
        "ATTRIBUTE SIP-Call-Id 232 string\nATTRIBUTE SIP-Request-Hash 233 string\n", encoding="utf-8"
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


def play(url: str, scenario: Callable[[FakeCore], Awaitable[None]], **params: int) -> None:
    async def body() -> None:
        core = FakeCore()
        driver = core.add(AaaRadius())
        await core.add(Peering(aaa_url=url, **params)).start()
        await scenario(core)
        await driver.stop()

    asyncio.run(body())


def test_a_destination(radius: FreeradiusServer) -> None:
    """The manual: User-Name is the Request-URI's host; the hash comes as a SIP-AVP."""

    async def scenario(core: FakeCore) -> None:
        run = make_run(request(ruri="sip:bob@peer.example", call_id="c-1"), core=core)
        assert await core.call("verify_destination", run) == 1
        assert run.avps == {"prh": ["hash@12"]}
        run = make_run(request(ruri="sip:bob@stranger.example", call_id="c-1"), core=core)
        assert await core.call("verify_destination", run) == -1
        assert run.avps == {}
        run = make_run(request(ruri="sip:bob@peer.example", call_id="c-1", from_="<sip:x@example.com>"), core=core)
        assert await core.call("verify_destination", run) == -1

    play(radius.url, scenario)


def test_a_source(radius: FreeradiusServer, caplog: pytest.LogCaptureFixture) -> None:
    """The manual: the value of P-Request-Hash goes to the broker; without the header nobody is asked."""

    async def scenario(core: FakeCore) -> None:
        for lines, result in (
            ("P-Request-Hash: hash@12", 1),
            ("P-Request-Hash: forged@12", -1),
            ("P-Request-Hash: " + "x" * 300, -1),
            ("", -1),
        ):
            run = make_run(request(ruri="sip:bob@here.example", headers=lines), core=core)
            assert await core.call("verify_source", run) == result
            assert run.avps == ({"from_peer": [1]} if result == 1 else {})

    play(radius.url, scenario)
    assert caplog.text.count("the request has no P-Request-Hash") == 1
    assert caplog.text.count("has 300 octets, more than 253") == 1


def test_service_types(radius: FreeradiusServer) -> None:
    """The manual: both Service-Types can be others than the dictionary's."""

    async def scenario(core: FakeCore) -> None:
        run = make_run(request(ruri="sip:bob@other.example", headers="P-Request-Hash: x"), core=core)
        assert await core.call("verify_destination", run) == 1
        assert await core.call("verify_source", run) == 1

    play(radius.url, scenario, verify_destination_service_type=99, verify_source_service_type=99)


def test_the_dictionary_has_to_know_the_attributes(tmp_path: Path) -> None:
    """One line names what is missing."""
    (tmp_path / "conf").write_text("authserver 127.0.0.1:1812:hushhush\n", encoding="utf-8")
    core = FakeCore()
    core.add(AaaRadius())
    with pytest.raises(ParamError, match="no attribute SIP-Call-Id, SIP-Request-Hash"):
        asyncio.run(core.add(Peering(aaa_url=f"radius:{tmp_path}/conf")).start())
    with pytest.raises(ParamError, match="is needed"):
        asyncio.run(core.add(Peering()).start())
