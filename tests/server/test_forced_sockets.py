"""Where a request leaves from, and over which protocol, when the script names a socket or a bond of sockets: on the
bytes that a phone with a UDP and a TCP port hears."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from opensipspy import sip
from opensipspy.server.load import load
from opensipspy.server.options import Options
from tests.server.house import Peer, free_port, play, request, running

SCRIPT = """
socket=udp:127.0.0.1:{port}
socket=tcp:127.0.0.1:{port}
socket=udp:127.0.0.1:{second}
socket=bond:both {{ "udp:127.0.0.1:{second}", "tcp:127.0.0.1:{port}" }}
socket=bond:stream {{ "tcp:127.0.0.1:{port}" }}
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "signaling.so"
route {{
    $socket_out = "{out}";
    xlog("leaves by $socket_out of $socket_out(proto)\\n");
    {relay};
}}
"""
# What is asked for, the Request-URI's parameters, how it is sent on; then the protocol, and which of our ports.
CASES = (
    ("udp:127.0.0.1:{port}", "", "t_relay()", "UDP", "port"),
    ("udp:127.0.0.1:{second}", "", "t_relay()", "UDP", "second"),
    ("tcp:127.0.0.1:{port}", "", "t_relay()", "TCP", "port"),
    ("tcp:127.0.0.1:{port}", ";transport=udp", "t_relay()", "TCP", "port"),
    ("udp:127.0.0.1:{second}", ";transport=tcp", "t_relay()", "UDP", "second"),
    ("tcp:127.0.0.1:{port}", "", 't_relay(, "udp:127.0.0.1:{phone}")', "UDP", "port"),
    ("bond:both", "", "t_relay()", "UDP", "second"),
    ("bond:both", ";transport=tcp", "t_relay()", "TCP", "port"),
    ("bond:both", ";transport=tcp", "forward()", "TCP", "port"),
    ("bond:stream", "", "t_relay()", "UDP", "port"),
    ("bond:nobody", ";transport=tcp", "t_relay()", "TCP", "port"),
)


class Phone:
    """One port, for datagrams and for connections."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.port = 0
        self._work = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Phone:
        server = await asyncio.start_server(self._connected, "127.0.0.1", free_port())
        self.port = server.sockets[0].getsockname()[1]
        self._work.callback(server.close)
        datagrams = self._work.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.bind(("127.0.0.1", self.port))
        datagrams.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(datagrams, lambda: self.heard.put_nowait(datagrams.recv(65535)))
        self._work.callback(loop.remove_reader, datagrams)
        return self

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._work.callback(writer.close)
        self.heard.put_nowait(await reader.readuntil(b"\r\n\r\n"))

    async def __aexit__(self, *_: object) -> None:
        await self._work.aclose()


def write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("out", "params", "relay", "proto", "port"), CASES)
def test_the_socket_decides_over_which_protocol_and_from_where(
    tmp_path: Path, out: str, params: str, relay: str, proto: str, port: str
) -> None:
    """Core manual, $socket_out, and bonds in `socket`; as OpenSIPS, where the socket counts more than the URI."""
    ports = {"port": free_port(), "second": free_port()}

    async def scene() -> None:
        async with Phone() as phone:
            chosen = Options()
            chosen.script = str(tmp_path / "opensips.cfg")
            given = {**ports, "phone": phone.port}
            text = SCRIPT.format(**ports, out=out.format(**given), relay=relay.format(**given))
            write(chosen.script, text)
            async with running(load(chosen), chosen) as house:  # type: ignore[arg-type]
                with Peer(ports["port"]) as source:
                    source.send(request(ruri=f"sip:bob@127.0.0.1:{phone.port}{params}"))
                    heard = (await asyncio.wait_for(phone.heard.get(), 30)).decode()
                via = next(line for line in heard.split("\r\n") if line.startswith("Via: "))
                assert via.startswith(f"Via: SIP/2.0/{proto} 127.0.0.1:{ports[port]};")
                if out == "bond:both":
                    assert any("leaves by bond:both of <null>" in line for line in house.log)
                if out == "bond:nobody":
                    assert any("no listening socket matches 'bond:nobody'" in line for line in house.log)

    play("asyncio", scene)


def test_a_sips_uri_never_leaves_unprotected() -> None:
    """RFC 3261 §26.2.2: whatever socket the script names."""
    plain, secure = (sip.Socket(proto, "192.0.2.1", 5060) for proto in (sip.PROTO_UDP, sip.PROTO_TLS))
    assert sip.forced_proto(plain, "sips:a@example.com") == sip.PROTO_NONE
    assert sip.forced_proto(secure, "SIPS:a@example.com") == sip.PROTO_TLS
    assert sip.forced_proto(plain, "sip:a@example.com;transport=tls") == sip.PROTO_UDP
    assert sip.forced_proto(sip.bond("both", [plain, secure]), "sip:a@example.com") == sip.PROTO_NONE
    assert sip.forced_proto(None, "sip:a@example.com") == sip.PROTO_NONE
