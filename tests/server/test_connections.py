"""Requests and replies that must not open a connection (`tcp_no_new_conn_bflag`, `tcp_no_new_conn_rplflag`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.house import PATIENCE_S, House, Peer, free_port, request, settled
from tests.server.test_reload import reloading

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

SCRIPT = """
log_level=3
socket=udp:127.0.0.1:{port}
socket=tcp:127.0.0.1:{port}
tcp_no_new_conn_bflag=QUIET
tcp_no_new_conn_rplflag=STAY
tcp_connect_timeout=2000
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "sl.so"
loadmodule "tm.so"
route {{
	if ($rU == "quiet") setbflag("QUIET");
	if ($rU == "bye") {{ setflag("STAY"); tcp_close_conn("tcp:$si:$sp"); t_reply(200, "OK"); exit; }}
	$du = "sip:127.0.0.1:{callee};transport=tcp";
	if (!t_relay("no-auto-477")) sl_send_reply(499, "t_relay $retcode");
}}
"""


def test_a_branch_with_the_flag_uses_open_connections_only(loop: str, tmp_path: Path) -> None:
    port, callee_port = free_port(), free_port()

    async def scene(house: House, write: Callable[[str], None]) -> None:
        arrived: asyncio.Queue[bytes] = asyncio.Queue()
        opened = 0

        async def callee(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal opened
            opened += 1
            while data := await reader.read(65536):
                arrived.put_nowait(data)
            writer.close()

        server = await asyncio.start_server(callee, "127.0.0.1", callee_port)
        with Peer(port) as caller:

            def send(user: str, number: int) -> None:
                caller.send(request(ruri=f"sip:{user}@127.0.0.1", branch=f"z9hG4bK{number}", call_id=str(number)))

            send("quiet", 1)
            assert (await caller.receive()).startswith("SIP/2.0 499 t_relay -6")
            assert opened == 0
            send("open", 2)
            assert b"sip:open@" in await asyncio.wait_for(arrived.get(), PATIENCE_S)
            send("quiet", 3)
            assert b"sip:quiet@" in await asyncio.wait_for(arrived.get(), PATIENCE_S)
            assert opened == 1
        server.close()

    reloading(loop, tmp_path, SCRIPT.format(port=port, callee=callee_port), scene)


def test_a_reply_with_the_flag_does_not_call_back(loop: str, tmp_path: Path) -> None:
    """RFC 3261 §18.2.2 would open a connection to the Via's port when the request's own is gone."""
    port, via_port = free_port(), free_port()

    async def scene(house: House, write: Callable[[str], None]) -> None:
        called = 0

        async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal called
            called += 1
            writer.close()

        server = await asyncio.start_server(back, "127.0.0.1", via_port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        text = request(ruri="sip:bye@127.0.0.1", via=f"SIP/2.0/TCP 127.0.0.1:{via_port}")
        writer.write(text.encode())
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        await settled(lambda: any("none is to be opened" in line for line in house.log))
        assert called == 0
        writer.close()
        server.close()

    reloading(loop, tmp_path, SCRIPT.format(port=port, callee=free_port()), scene)
