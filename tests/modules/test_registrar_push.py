"""Push notifications (RFC 8599)."""

from __future__ import annotations

import asyncio
from typing import Any

from opensipspy.module.testing import request
from tests.modules.registration import House, bindings

PHONE = "sip:bob@192.0.2.4;pn-provider=fcm;pn-prid=token;pn-param=app"


def play(scenario: Any, usrloc: dict[str, Any] | None = None, **registrar: Any) -> None:
    async def run() -> None:
        async with House(usrloc=usrloc, registrar={"pn_enable": 1, **registrar}) as house:
            house.core.events.listen("E_UL_CONTACT_REFRESH", lambda _, params: house.refreshes.append(dict(params)))
            await scenario(house)

    asyncio.run(run())


def test_the_answer_tells_what_is_supported():
    """§5: Feature-Caps with +sip.pns, and when to refresh."""

    async def scenario(house: House) -> None:
        answer = await house.register(f"<{PHONE}>;+sip.pnsreg")
        assert 'Feature-Caps: *;+sip.pns="fcm";+sip.pnsreg="130"\r\n' in answer.headers
        assert (await house.dump())["bob@example.com"][0]["Flags"] == 4
        assert "Feature-Caps" not in (await house.register("<sip:bob@192.0.2.5>", cseq=2)).headers

    play(scenario)


def test_a_provider_that_is_not_supported_is_555():
    async def scenario(house: House) -> None:
        answer = await house.register(f"<{PHONE}>")
        assert (answer.code, answer.reason) == (555, "Push Notification Service Not Supported")
        assert await house.dump() == {}

    play(scenario, pn_providers="apns, webpush")


def test_a_phone_is_the_same_by_its_push_parameters():
    async def scenario(house: House) -> None:
        await house.register(f"<{PHONE}>")
        moved = PHONE.replace("192.0.2.4", "198.51.100.9:7000")
        assert list(bindings(await house.register(f"<{moved}>", callid="new"))) == [moved]

    play(scenario)


def test_lookup_wakes_a_sleeping_phone():
    """It returns 2: there is nobody to relay to yet."""

    async def scenario(house: House) -> None:
        await house.register(f"<{PHONE}>")
        assert (await house.lookup())[0] == 2
        told = house.refreshes[-1]
        assert (told["reason"], told["req_callid"], told["uri"]) == ("ini-INVITE", "call-1@example.com", PHONE)
        await house.register("<sip:bob@192.0.2.5>", callid="desk")
        result, run = await house.lookup()
        assert (result, run.ruri, run.branches) == (1, "sip:bob@192.0.2.5", [])

    play(scenario)


def test_a_phone_that_has_just_registered_is_called_at_once_without_its_push_parameters():
    async def scenario(house: House) -> None:
        await house.register(f"<{PHONE}>")
        house.core.advance(9)
        result, run = await house.lookup()
        assert (result, run.ruri) == (1, "sip:bob@192.0.2.4")
        house.core.advance(1)
        assert (await house.lookup())[0] == 2

    play(scenario, pn_skip_pn_interval=10)


def test_a_phone_that_does_not_refresh_is_woken_before_its_end():
    async def scenario(house: House) -> None:
        await house.register(f"<{PHONE}>;expires=600")
        house.core.advance(479)
        assert house.refreshes == []
        house.core.advance(2)
        assert [r["reason"] for r in house.refreshes] == ["reg-refresh"]

    play(scenario, usrloc={"contact_refresh_timer": 1})


def test_a_refreshed_phone_is_not_woken():
    async def scenario(house: House) -> None:
        await house.register(f"<{PHONE}>;expires=600")
        house.core.advance(400)
        await house.register(f"<{PHONE}>;expires=600", cseq=2)
        house.core.advance(300)
        assert house.refreshes == []

    play(scenario, usrloc={"contact_refresh_timer": 1})


def purr(headers: str) -> str:
    return headers.partition('+sip.pnspurr="')[2].partition('"')[0]


def test_a_request_in_a_dialog_waits_until_the_phone_is_back():
    """§6.2: the PURR in the Request-URI leads to the registration."""

    async def scenario(house: House) -> None:
        reference = purr((await house.register(f"<{PHONE}>")).headers)
        assert reference
        run = house.run(request("BYE", f"sip:bob@192.0.2.4;pn-purr={reference}"))
        waiting = asyncio.ensure_future(house.core.call("pn_process_purr", run, "location"))
        await asyncio.sleep(0)
        assert [r["reason"] for r in house.refreshes] == ["mid-BYE"]
        assert not waiting.done()
        await house.register(f"<{PHONE}>", cseq=2)
        assert await waiting == 1

    play(scenario, pn_enable_purr=1)


def test_the_wait_for_a_phone_ends():
    async def scenario(house: House) -> None:
        reference = purr((await house.register(f"<{PHONE}>")).headers)
        run = house.run(request("BYE", f"sip:bob@192.0.2.4;pn-purr={reference}"))
        waiting = asyncio.ensure_future(house.core.call("pn_process_purr", run, "location"))
        await asyncio.sleep(0)
        house.core.advance(6)
        assert await waiting == 1

    play(scenario, pn_enable_purr=1)


def test_a_request_without_a_known_reference_goes_on():
    async def scenario(house: House) -> None:
        await house.register(f"<{PHONE}>")
        for uri in ("sip:bob@192.0.2.4", "sip:bob@192.0.2.4;pn-purr=other"):
            assert await house.core.call("pn_process_purr", house.run(request("BYE", uri)), "location") == 2
        assert house.refreshes == []

    play(scenario, pn_enable_purr=1)
