"""E_PROFILING_SCRIPT: what routes a run goes through, and when, for whoever subscribes; nothing for nobody."""

from __future__ import annotations

from typing import Any, cast

from opensipspy.server.load import load
from opensipspy.server.options import Options
from opensipspy.server.profiling import EVENT
from tests.server.house import Peer, free_port, play, request, running, settled

SCRIPT = """
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "cfgutils.so"
route {{
	route(answer, 200);
}}
route[answer] {{
	async(usleep(1000), later);
}}
route[later] {{
	sl_send_reply(200, "OK");
	return(7);
}}
"""


def script() -> tuple[Any, Options]:
    options = Options()
    options.script, options.text = "-", SCRIPT.format(port=free_port())
    return cast(Any, load(options)), options


def test_routes_are_told_as_they_begin_and_end() -> None:
    async def scene() -> None:
        loaded, options = script()
        plain = [route.fn for route in loaded.program.all_routes()]
        async with running(loaded, options) as house:
            told: list[dict[str, object]] = []
            end = house.core.events.listen(EVENT, lambda name, params: told.append(dict(params)))
            house.server.profiler.look()
            with Peer(house.port) as peer:
                peer.send(request())
                assert (await peer.receive()).startswith("SIP/2.0 200")
                await settled(lambda: bool(told) and told[-1]["verb"] == "end")
                assert [(each["verb"], each["name"], each["depth"]) for each in told] == EXPECTED
                assert {each["session"] for each in told} == {1}
                assert [each["line"] for each in told if each["verb"] == "enter"] == [6, 9, 12]
                assert told[-1]["status"] == told[-2]["status"]
                times = [(cast(int, each["sec"]), cast(int, each["usec"])) for each in told]
                assert times == sorted(times)
                end()
                house.server.profiler.look()
                assert [route.fn for route in loaded.program.all_routes()] == plain
                told.clear()
                peer.send(request(call_id="2"))
                await peer.receive()
                assert told == []

    play("asyncio", scene)


EXPECTED = [
    ("start", "<root>", 0),
    ("enter", "<root>", 1),
    ("enter", "answer", 2),
    ("enter", "later", 3),
    ("exit", "later", 2),
    ("exit", "answer", 1),
    ("exit", "<root>", 0),
    ("end", "<root>", 0),
]


def test_an_event_route_may_listen_without_hearing_itself() -> None:
    listener = 'if ($param(verb) == "start") {{ xlog("L_NOTICE", "begun $param(name)\\n"); }}'
    text = f"{SCRIPT}event_route[E_PROFILING_SCRIPT] {{{{ {listener} }}}}\n"

    async def scene() -> None:
        options = Options()
        options.script, options.text = "-", text.format(port=free_port())
        async with running(cast(Any, load(options)), options) as house:
            house.server.profiler.look()
            with Peer(house.port) as peer:
                peer.send(request())
                await peer.receive()
            await settled(lambda: any("begun <root>" in line for line in house.log))
            assert sum("begun" in line for line in house.log) == 1

    play("asyncio", scene)
