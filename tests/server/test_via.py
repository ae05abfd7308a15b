"""Which way replies go, and what our Via says, after the script's force_rport(), add_local_rport(), reply-to-via and
set_advertised_*(): on the bytes that leave, with and without a transaction."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensipspy.server.load import load
from opensipspy.server.options import Options
from tests.server.house import Peer, free_port, play, request, running
from tests.server.test_reload import answer

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

HEAD = """
socket=udp:127.0.0.1:{port}
disable_stateless_fwd=no
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "signaling.so"
"""
ANSWERS = ('sl_send_reply(200, "OK");', 't_reply(200, "OK");', 't_newtran(); send_reply(200, "OK");')
RELAYS = ('$du = "sip:127.0.0.1:{callee}"; t_relay();', 'forward("127.0.0.1:{callee}");')


def options(folder: Path, port: int, body: str) -> Options:
    made = Options()
    made.script = str(folder / "opensips.cfg")
    Path(made.script).write_text(HEAD.format(port=port) + "route {\n" + body + "\n}\n", encoding="utf-8")
    return made


def header(text: str, name: str) -> list[str]:
    return [line.partition(": ")[2] for line in text.split("\r\n") if line.startswith(name + ": ")]


@pytest.mark.parametrize("how", ANSWERS)
def test_force_rport_answers_the_source_port(loop: str, tmp_path: Path, how: str) -> None:
    """RFC 3581 §4, asked for by the script instead of the client."""
    port = free_port()

    async def scene() -> None:
        chosen = options(tmp_path, port, "force_rport(); " + how)
        async with running(load(chosen), chosen):  # type: ignore[arg-type]
            with Peer(port) as source, Peer(port) as named:
                source.send(request(via=f"SIP/2.0/UDP 127.0.0.1:{named.port}"))
                reply = await source.receive()
                assert f";rport={source.port}" in header(reply, "Via")[0]
                assert ";received=127.0.0.1" in header(reply, "Via")[0]
                assert named.nothing()

    play(loop, scene)


@pytest.mark.parametrize("how", ANSWERS)
def test_without_it_the_port_of_the_via_is_answered(loop: str, tmp_path: Path, how: str) -> None:
    """RFC 3261 §18.2.2."""
    port = free_port()

    async def scene() -> None:
        chosen = options(tmp_path, port, how)
        async with running(load(chosen), chosen):  # type: ignore[arg-type]
            with Peer(port) as source, Peer(port) as named:
                source.send(request(via=f"SIP/2.0/UDP 127.0.0.1:{named.port}"))
                reply = await named.receive()
                assert "rport" not in header(reply, "Via")[0]
                assert source.nothing()

    play(loop, scene)


@pytest.mark.parametrize("how", ANSWERS)
def test_reply_to_via_ignores_where_the_request_came_from(loop: str, tmp_path: Path, how: str) -> None:
    port = free_port()

    async def scene() -> None:
        chosen = options(tmp_path, port, 'set_via_handling("reply-to-via"); ' + how)
        async with running(load(chosen), chosen):  # type: ignore[arg-type]
            with Peer(port) as source, Peer(port) as named:
                source.send(request(via=f"SIP/2.0/UDP 127.0.0.1:{named.port};rport"))
                assert (await named.receive()).startswith("SIP/2.0 200")
                assert source.nothing()

    play(loop, scene)


@pytest.mark.parametrize("how", RELAYS)
def test_a_forwarded_reply_follows_force_rport(loop: str, tmp_path: Path, how: str) -> None:
    port = free_port()

    async def scene() -> None:
        with Peer(port) as source, Peer(port) as named, Peer(port) as callee:
            chosen = options(tmp_path, port, "force_rport(); " + how.format(callee=callee.port))
            async with running(load(chosen), chosen):  # type: ignore[arg-type]
                source.send(request(via=f"SIP/2.0/UDP 127.0.0.1:{named.port}"))
                forwarded = await callee.receive()
                assert f";rport={source.port}" in header(forwarded, "Via")[1]
                callee.send(answer(forwarded, 200, "OK"))
                assert (await source.receive()).startswith("SIP/2.0 200")
                assert named.nothing()

    play(loop, scene)


def test_a_relayed_reply_follows_reply_to_via(loop: str, tmp_path: Path) -> None:
    port = free_port()

    async def scene() -> None:
        with Peer(port) as source, Peer(port) as named, Peer(port) as callee:
            body = 'set_via_handling("reply-to-via"); ' + RELAYS[0].format(callee=callee.port)
            chosen = options(tmp_path, port, body)
            async with running(load(chosen), chosen):  # type: ignore[arg-type]
                source.send(request(via=f"SIP/2.0/UDP 127.0.0.1:{named.port};rport"))
                callee.send(answer(await callee.receive(), 200, "OK"))
                assert (await named.receive()).startswith("SIP/2.0 200")
                assert source.nothing()

    play(loop, scene)


@pytest.mark.parametrize("how", RELAYS)
def test_our_via_shows_what_the_script_advertises(loop: str, tmp_path: Path, how: str) -> None:
    port = free_port()

    async def scene() -> None:
        with Peer(port) as source, Peer(port) as callee:
            body = (
                'set_advertised_address("sip.example.net"); set_advertised_port("7060"); add_local_rport(); '
                + how.format(callee=callee.port)
            )
            chosen = options(tmp_path, port, body)
            async with running(load(chosen), chosen):  # type: ignore[arg-type]
                source.send(request())
                via = header(await callee.receive(), "Via")[0]
                assert via.startswith("SIP/2.0/UDP sip.example.net:7060;branch=z9hG4bK")
                assert via.endswith(";rport")

    play(loop, scene)
