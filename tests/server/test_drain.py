"""What becomes of calls while the server stops."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from opensipspy.server.load import load
from opensipspy.server.options import Options
from tests.server.house import Peer, free_port, play, request, running, settled
from tests.server.test_reload import answer

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

RELAY = """
log_level=3
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "tm.so"
route {{
	$du = "sip:127.0.0.1:{callee}";
	t_relay();
}}
"""
STOP_LIMIT_S = 5.0


def relaying(folder: Path, port: int, callee: Peer, setting: str = "") -> Options:
    options = Options()
    options.script = str(folder / "opensips.cfg")
    Path(options.script).write_text(setting + RELAY.format(port=port, callee=callee.port), encoding="utf-8")
    return options


def test_an_answer_that_comes_while_it_stops_still_reaches_the_caller(loop: str, tmp_path: Path) -> None:
    port = free_port()

    async def scene() -> None:
        with Peer(port) as caller, Peer(port) as callee:
            options = relaying(tmp_path, port, callee)
            async with running(load(options), options) as house:  # type: ignore[arg-type]
                caller.send(request("INVITE"))
                assert (await caller.receive()).startswith("SIP/2.0 100")
                invite = await callee.receive()
                callee.send(answer(invite, 180, "Ringing"))
                assert (await caller.receive()).startswith("SIP/2.0 180")
                house.server.stop()
                await settled(lambda: house.server.steps.draining)
                callee.send(answer(invite, 200, "OK"))
                assert (await caller.receive()).startswith("SIP/2.0 200")
                assert await asyncio.wait_for(house.task, STOP_LIMIT_S) == 0
                assert not any("were not answered" in line for line in house.log)

    play(loop, scene)


def test_health_checks_see_the_server_itself(loop: str, tmp_path: Path) -> None:
    """The status group `core` of OpenSIPS: 1 while it runs, -2 when it is told to end and takes no more."""
    port = free_port()

    async def scene() -> None:
        with Peer(port) as caller, Peer(port) as callee:
            options = relaying(tmp_path, port, callee)
            async with running(load(options), options) as house:  # type: ignore[arg-type]
                mi = house.server.core.mi
                running_now = {"Readiness": True, "Status": 1, "Details": "running"}
                assert await mi.call("sr_get_status", {"group": "core"}) == running_now
                caller.send(request("INVITE"))
                await callee.receive()
                house.server.stop()
                await settled(lambda: house.server.steps.draining)
                terminating = {"Readiness": False, "Status": -2, "Details": "terminating"}
                assert await mi.call("sr_get_status", {"group": "core"}) == terminating
                assert await asyncio.wait_for(house.task, STOP_LIMIT_S) == 0

    play(loop, scene)


def test_a_call_that_rings_on_does_not_hold_the_stop_up(loop: str, tmp_path: Path) -> None:
    port = free_port()

    async def scene() -> None:
        with Peer(port) as caller, Peer(port) as callee:
            options = relaying(tmp_path, port, callee)
            async with running(load(options), options) as house:  # type: ignore[arg-type]
                caller.send(request("INVITE"))
                await caller.receive()
                invite = await callee.receive()
                callee.send(answer(invite, 180, "Ringing"))
                assert (await caller.receive()).startswith("SIP/2.0 180")
                house.server.stop()
                assert await asyncio.wait_for(house.task, STOP_LIMIT_S) == 0
                assert any("1 transactions were not answered" in line for line in house.log)
                # Neither side is told anything that is not true.
                assert caller.nothing()
                assert callee.nothing()

    play(loop, scene)


def test_a_next_server_that_forwards_strays_passes_the_answer_of_a_ringing_call_on(loop: str, tmp_path: Path) -> None:
    """RFC 3261 §16.11: a reply without a transaction is forwarded by its second Via."""
    port = free_port()

    async def scene() -> None:
        with Peer(port) as caller, Peer(port) as callee:
            options = relaying(tmp_path, port, callee, "disable_stateless_fwd=no")
            via = f"SIP/2.0/UDP 127.0.0.1:{caller.port};rport"
            async with running(load(options), options):  # type: ignore[arg-type]
                caller.send(request("INVITE", via=via))
                await caller.receive()
                invite = await callee.receive()
            async with running(load(options), options):  # type: ignore[arg-type]
                callee.send(answer(invite, 200, "OK"))
                assert (await caller.receive()).startswith("SIP/2.0 200")

    play(loop, scene)


def test_a_stray_reply_is_dropped_unless_the_script_forwards_without_transactions(loop: str, tmp_path: Path) -> None:
    """RFC 6026 §8.9: what belongs to no transaction goes no further."""
    port = free_port()

    async def scene() -> None:
        with Peer(port) as caller, Peer(port) as callee:
            options = relaying(tmp_path, port, callee)
            async with running(load(options), options) as house:  # type: ignore[arg-type]
                vias = (
                    f"Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bKx\r\n"
                    f"Via: SIP/2.0/UDP 127.0.0.1:{caller.port};branch=z9hG4bKy\r\n"
                )
                callee.send(
                    answer(request().replace("Max-Forwards: 70\r\n", ""), 200, "OK").replace(
                        "Via: SIP/2.0/UDP 127.0.0.1:5999;rport;branch=z9hG4bK1\r\n", vias
                    )
                )
                await settled(lambda: house.stat("core:drop_replies") == 1)
                assert caller.nothing()

    play(loop, scene)
