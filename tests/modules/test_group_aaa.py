"""group: membership that FreeRADIUS knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from opensipspy.dbdrivers.aaa_radius import AaaRadius
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.group import Group
from opensipspy.script.run import Run
from tests.backends import FreeradiusServer

USERS = (
    'alice@example.com Sip-Group == "ld", Service-Type == 12, Acct-Session-Id == "call-7", Auth-Type := Accept\n'
    '\tSIP-AVP += "tariff:gold"\n\n'
    'bob Sip-Group == "local", Auth-Type := Accept\n'
)


@pytest.fixture(scope="module")
def radius() -> Iterator[FreeradiusServer]:
    if FreeradiusServer.programs() is None:
        pytest.skip("FreeRADIUS is missing: apt-get install freeradius")
    server = FreeradiusServer()
    server.prepare(USERS)
    try:
        server.start()
        yield server
    finally:
        server.stop()


Ask = Callable[[str, str], Awaitable[int]]


def play(url: str, scenario: Callable[[FakeCore, Run], Awaitable[None]], use_domain: int = 1) -> None:
    async def body() -> None:
        core = FakeCore()
        driver = core.add(AaaRadius())
        module = core.add(Group(aaa_url=url, use_domain=use_domain))
        await module.start()
        from_alice = request(call_id="call-7", from_="<sip:alice@example.com>;tag=1", to="<sip:bob@example.org>")
        await scenario(core, make_run(from_alice, core=core))
        await module.stop()
        await driver.stop()

    asyncio.run(body())


def test_members_that_the_server_knows(radius: FreeradiusServer) -> None:
    """The manual: User-Name is user@domain, Service-Type is Group-Check, and SIP-AVPs of the reply become AVPs."""

    async def scenario(core: FakeCore, run: Run) -> None:
        assert await core.call("aaa_is_user_in", run, "From", "ld") == 1
        assert run.avps == {"tariff": ["gold"]}
        assert await core.call("aaa_is_user_in", run, "From", "local") == -12
        assert await core.call("aaa_is_user_in", run, "From", "l" * 300) == -12
        assert await core.call("aaa_is_user_in", run, "From", "") == -1
        assert await core.call("aaa_is_user_in", run, "sip:alice@example.com", "ld") == 1
        assert await core.call("aaa_is_user_in", run, "sip:example.com", "ld") == -1
        assert await core.call("aaa_is_user_in", run, "Credentials", "ld") == -4
        assert await core.call("db_is_user_in", run, "From", "ld") == -5

    play(radius.url, scenario)


def test_without_domain(radius: FreeradiusServer) -> None:
    """use_domain=0: User-Name is the user alone."""

    async def scenario(core: FakeCore, run: Run) -> None:
        assert await core.call("aaa_is_user_in", run, "To", "local") == 1
        assert await core.call("aaa_is_user_in", run, "From", "local") == -12

    play(radius.url, scenario, use_domain=0)


def test_one_back_end_is_needed() -> None:
    """Without aaa_url a database is; an AAA URL that cannot be is told at start."""
    with pytest.raises(ParamError, match="db_url"):
        asyncio.run(FakeCore().add(Group()).start())
    with pytest.raises(ParamError, match="aaa_radius"):
        asyncio.run(FakeCore().add(Group(aaa_url="radius:x")).start())
