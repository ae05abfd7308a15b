"""script_trace() on a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.house import House, Peer, free_port, request, settled
from tests.server.test_reload import HEAD, reloading

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

SCRIPT = (
    HEAD
    + """
route {{
	$var(a) = 1;
	if ($rU == "traced")
		script_trace(1, "$rm a=$var(a)", "me");
	$var(a) = 2;
	if ($var(a) == 2) {{
		route(inner);
	}}
	script_trace();
	$var(a) = 4;
	sl_send_reply(200, "OK");
}}
route[inner] {{
	$var(a) = 3;
	xlog("inner\\n");
}}
"""
)


def test_each_statement_of_the_message_is_logged_with_values(loop: str, tmp_path: Path) -> None:
    port = free_port()
    first = HEAD.count("\n") + 1

    async def scene(house: House, write: Callable[[str], None]) -> None:
        with Peer(port) as peer:
            peer.send(request(ruri="sip:plain@127.0.0.1", branch="z9hG4bKa"))
            await peer.receive()
            assert not any("Script Trace" in line for line in house.log)
            peer.send(request(ruri="sip:traced@127.0.0.1", branch="z9hG4bKb"))
            await peer.receive()
        await settled(lambda: any("Script Trace" in line for line in house.log))
        traced = [line.partition("opensips.cfg:")[2] for line in house.log if "[Script Trace]" in line]
        assert traced == [
            f"{first + 5}][me][assign equal] -> (OPTIONS a=1)",
            f"{first + 6}][me][core if] -> (OPTIONS a=2)",
            f"{first + 7}][me][core route] -> (OPTIONS a=2)",
            f"{first + 14}][me][assign equal] -> (OPTIONS a=2)",
            f"{first + 15}][me][core xlog] -> (OPTIONS a=3)",
            f"{first + 9}][me][core script_trace] -> (OPTIONS a=3)",
        ]

    reloading(loop, tmp_path, SCRIPT.format(port=port), scene)


def test_a_script_without_it_is_compiled_without_it(loop: str, tmp_path: Path) -> None:
    text = HEAD.format(port=free_port()) + "route { exit; }\n"

    async def scene(house: House, write: Callable[[str], None]) -> None:
        assert "_trace" not in house.core.program.main.code.co_names

    reloading(loop, tmp_path, text, scene)
