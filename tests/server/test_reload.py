"""core:reload_routes on a running server: the routes are exchanged as a whole, or not at all."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from opensipspy.management import MiError
from opensipspy.script.program import Program
from opensipspy.server.load import load
from opensipspy.server.options import Options
from tests.server.house import House, Peer, free_port, play, request, running, settled

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

HEAD = """
log_level=3
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
"""
PLAIN = HEAD + 'route {{ sl_send_reply({code}, "{text}"); }}\n'

Scene = Callable[[House, Callable[[str], None]], Coroutine[Any, Any, None]]


def reloading(loop: str, folder: Path, text: str, scene: Scene) -> None:
    """Play a scene on the server of a script that the scene may write anew."""
    path = folder / "opensips.cfg"

    def write(new: str) -> None:
        path.write_text(new, encoding="utf-8")

    async def inside() -> None:
        write(text)
        options = Options()
        options.script = str(path)
        async with running(load(options), options) as house:  # type: ignore[arg-type]
            await scene(house, write)

    play(loop, inside)


async def reload(house: House) -> Any:
    return await house.core.mi.call("core:reload_routes", None)


def test_the_next_message_takes_the_new_routes(loop: str, tmp_path: Path) -> None:
    port = free_port()

    async def scene(house: House, write: Callable[[str], None]) -> None:
        with Peer(port) as peer:
            peer.send(request(branch="z9hG4bKa"))
            assert (await peer.receive()).startswith("SIP/2.0 200 old")
            write(PLAIN.format(port=port, code=404, text="new"))
            assert await reload(house) == "OK"
            peer.send(request(branch="z9hG4bKb"))
            assert (await peer.receive()).startswith("SIP/2.0 404 new")

    reloading(loop, tmp_path, PLAIN.format(port=port, code=200, text="old"), scene)


def test_a_broken_script_is_refused_with_its_findings_and_nothing_changes(loop: str, tmp_path: Path) -> None:
    port = free_port()
    broken = HEAD.format(port=port) + (
        'route {\n\tsetflag("leaked");\n\tsl_send_repply(200, "x");\n\troute(nowhere);\n}\n'
    )

    async def scene(house: House, write: Callable[[str], None]) -> None:
        before = house.core.program
        write(broken)
        with pytest.raises(MiError) as caught:
            await reload(house)
        assert caught.value.code == 500
        findings = str(caught.value.data)
        for expected in ("opensips.cfg:9:", "sl_send_reply", "opensips.cfg:10:", "nowhere"):
            assert expected in findings
        assert house.core.program is before
        assert house.core.flags.known("message", "leaked") == 0
        with Peer(port) as peer:
            peer.send(request())
            assert (await peer.receive()).startswith("SIP/2.0 200 old")

    reloading(loop, tmp_path, PLAIN.format(port=port, code=200, text="old"), scene)


def test_a_script_that_is_gone_is_refused(loop: str, tmp_path: Path) -> None:
    async def scene(house: House, write: Callable[[str], None]) -> None:
        (tmp_path / "opensips.cfg").unlink()
        with pytest.raises(MiError) as caught:
            await reload(house)
        assert "No such file" in str(caught.value.data)

    reloading(loop, tmp_path, PLAIN.format(port=free_port(), code=200, text="old"), scene)


def test_a_call_ends_on_the_routes_it_began_with(loop: str, tmp_path: Path) -> None:
    port, callee_port = free_port(), free_port()
    script = (
        HEAD
        + """
route {{
	if ($rU == "new") {{ sl_send_reply(200, "{version}"); exit; }}
	t_on_failure("busy");
	t_on_reply("answers");
	$du = "sip:127.0.0.1:{callee}";
	t_relay();
}}
onreply_route[answers] {{ route(told); }}
route[told] {{ xlog("reply seen by {version}\\n"); }}
failure_route[busy] {{ t_reply(480, "failed on {version}"); }}
"""
    )

    async def scene(house: House, write: Callable[[str], None]) -> None:
        with Peer(port) as caller, Peer(port) as callee:
            await reload_during_call(house, write, caller, callee)

    async def reload_during_call(house: House, write: Callable[[str], None], caller: Peer, callee: Peer) -> None:
        write(script.format(port=port, callee=callee.port, version="old"))
        await reload(house)
        caller.send(request("INVITE", ruri="sip:b@127.0.0.1"))
        assert (await caller.receive()).startswith("SIP/2.0 100")
        invite = await callee.receive()
        write(script.format(port=port, callee=callee.port, version="new"))
        await reload(house)
        caller.send(request(ruri="sip:new@127.0.0.1", branch="z9hG4bKother", call_id="other"))
        assert (await caller.receive()).startswith("SIP/2.0 200 new")
        callee.send(answer(invite, 486, "Busy Here"))
        assert (await caller.receive()).startswith("SIP/2.0 480 failed on old")
        assert any("reply seen by old" in line for line in house.log)

    reloading(loop, tmp_path, script.format(port=port, callee=callee_port, version="none"), scene)


def answer(invite: str, code: int, reason: str) -> str:
    """A reply to a request as it came (RFC 3261 §8.2.6.2)."""
    kept = [
        line + (";tag=callee" if line.startswith("To:") else "")
        for line in invite.partition("\r\n\r\n")[0].split("\r\n")[1:]
        if line.split(":")[0] in ("Via", "From", "To", "Call-ID", "CSeq")
    ]
    return "\r\n".join([f"SIP/2.0 {code} {reason}", *kept, "Content-Length: 0", "", ""])


def test_timer_and_event_routes_are_exchanged_too(loop: str, tmp_path: Path) -> None:
    port = free_port()
    script = (
        HEAD.format(port=port)
        + """
route {{ exit; }}
startup_route {{ xlog("startup {v}\\n"); }}
timer_route[{timer}, 1] {{ xlog("tick {v}\\n"); }}
timer_route[kept, 1] {{ xlog("kept {v}\\n"); }}
event_route[E_MINE] {{ xlog("event {v}\\n"); }}
"""
    )

    async def scene(house: House, write: Callable[[str], None]) -> None:
        house.core.events.declare("E_MINE")
        write(script.format(v="two", timer="b"))
        await reload(house)
        timers = house.core.pending_timers
        house.core.events.raise_event("E_MINE", {})
        assert [line.split("event ")[1].strip() for line in house.log if "event " in line] == ["two"]
        await settled(lambda: any("tick two" in line for line in house.log))
        await settled(lambda: any("kept two" in line for line in house.log))
        assert not any("tick one" in line or "startup two" in line for line in house.log)
        for _ in range(3):
            await reload(house)
        assert house.core.pending_timers == timers
        write(HEAD.format(port=port) + "route { exit; }\n")
        await reload(house)
        assert not house.core.events.wanted("E_MINE")
        assert house.core.pending_timers == timers - 2

    reloading(loop, tmp_path, script.format(v="one", timer="a"), scene)


def test_changes_beside_the_routes_are_said_to_wait_for_the_next_start(loop: str, tmp_path: Path) -> None:
    port = free_port()

    async def scene(house: House, write: Callable[[str], None]) -> None:
        def said() -> bool:
            return any("only routes are loaded again" in line for line in house.log)

        await reload(house)
        assert not said()
        write(
            PLAIN.format(port=port, code=200, text="x").replace("route {", 'modparam("tm", "fr_timeout", 5)\nroute {')
        )
        await reload(house)
        assert said()

    reloading(loop, tmp_path, PLAIN.format(port=port, code=200, text="x"), scene)


def test_a_route_that_a_parameter_names_must_stay(loop: str, tmp_path: Path) -> None:
    port = free_port()
    head = HEAD.format(port=port) + 'modparam("tm", "local_request_route", "seen")\nroute { exit; }\n'

    async def scene(house: House, write: Callable[[str], None]) -> None:
        write(head)
        with pytest.raises(MiError) as caught:
            await reload(house)
        assert "route[seen]" in str(caught.value.data)

    reloading(loop, tmp_path, head + 'route[seen] { xlog("seen\\n"); }\n', scene)


def test_two_hundred_reloads_leave_nothing_behind(loop: str, tmp_path: Path) -> None:
    text = PLAIN.format(port=free_port(), code=200, text="old") + (
        'timer_route[t, 60] { xlog("x\\n"); }\nevent_route[E_MINE] { xlog("$var(a)\\n"); }\n'
    )

    async def scene(house: House, write: Callable[[str], None]) -> None:
        programs: list[weakref.ref[Program]] = []
        for _ in range(10):
            await reload(house)
        gc.collect()
        timers, things = house.core.pending_timers, len(gc.get_objects())
        for _ in range(200):
            await reload(house)
            programs.append(weakref.ref(house.core.program))
        gc.collect()
        assert sum(ref() is not None for ref in programs) == 1
        assert house.core.pending_timers == timers
        assert len(gc.get_objects()) - things < 2000

    reloading(loop, tmp_path, text, scene)
