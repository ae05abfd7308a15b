"""What requests mean for the connections that are opened for them, and how connections are found and closed."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.management import MiError, Registry, TcpCommands, TcpControl
from opensipspy.module.testing import make_run, request
from opensipspy.net import SocketOptions, UdpTransport, socket_options
from opensipspy.server.core import chosen
from opensipspy.sip import Peer, Socket
from tests.server.house import free_port, play, settled

MESSAGE = b"OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n"


def test_the_branch_s_word_goes_before_the_message_s() -> None:
    """client_sip_domain_avp and client_tls_domain_avp: $bavp takes precedence over $avp of the same name."""
    run = make_run(request("INVITE", "sip:x@y"))
    assert chosen(run, "dom") == chosen(run, "") == ""
    run.avps["dom"] = ["old", "atlanta.com"]
    assert chosen(run, "dom") == "atlanta.com"
    branches: list[Any] = [SimpleNamespace(avps=None), SimpleNamespace(avps={"dom": ["biloxi.com"]})]
    run.transaction = SimpleNamespace(branches=branches)
    run.branch_index = 0
    assert chosen(run, "dom") == "atlanta.com"
    run.branch_index = 1
    assert chosen(run, "dom") == "biloxi.com"


def test_the_words_of_a_socket() -> None:
    options = socket_options({"proxy": 1})
    assert options is not None
    assert (options.allow_proxy, options.send_proxy) == (True, True)
    options = socket_options({"allow_proxy": 1})
    assert options is not None
    assert (options.allow_proxy, options.send_proxy) == (True, False)
    assert socket_options({"tag": 1}) is None


class Control(TcpControl):
    """Two connections of one address, over TCP and over TLS."""

    def __init__(self) -> None:
        self.open = {(1, "tcp"), (2, "tls")}

    def connections(self, proto: str | None) -> list[dict[str, Any]]:
        return [{"ID": number} for number, _ in sorted(self.open)]

    def close(self, address: str, port: int) -> int:
        return self._close({entry for entry in self.open if (address, port) == ("192.0.2.1", 5060)})

    def close_of(self, proto: str, address: str, port: int) -> int:
        return self._close({entry for entry in self.open if entry[1] == proto and address in ("192.0.2.1", "::1")})

    def close_connection(self, number: int) -> bool:
        return self._close({entry for entry in self.open if entry[0] == number}) > 0

    def _close(self, entries: set[tuple[int, str]]) -> int:
        self.open -= entries
        return len(entries)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("192.0.2.1:5060", []),
        ("tls:192.0.2.1:5060", [1]),
        ("TCP:[::1]:5060", [2]),
        ("2", [1]),
    ],
)
def test_connections_are_closed_by_id_or_address(text: str, left: list[int]) -> None:
    """tcp:close takes what tcp:list shows: an ID, or an end, with its protocol or without."""

    async def scene() -> None:
        registry = Registry()
        control = Control()
        TcpCommands(registry, control).register()
        assert await registry.call("tcp:close", {"ipport": text}) == "OK"
        assert [entry["ID"] for entry in control.connections(None)] == left
        for wrong in ("9", "udp:192.0.2.1:5060", "ws:192.0.2.1:5060", "tls:192.0.2.1"):
            with pytest.raises(MiError):
                await registry.call("tcp:close", {"ipport": wrong})

    play("asyncio", scene)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_datagram_may_say_for_whom_it_is(loop: str) -> None:
    """allow_proxy_protocol on UDP: each datagram brings its header, or none; a false one is dropped."""

    async def scene() -> None:
        received: list[tuple[bytes, Peer]] = []
        transport = UdpTransport(lambda data, peer, _: received.append((data, peer)), asyncio.get_running_loop())
        at = Socket(sip.PROTO_UDP, "127.0.0.1", free_port())
        transport.configure(at, SocketOptions(allow_proxy=True))
        transport.bind(at)
        transport.serve()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", at.port))
            client.send(b"PROXY UDP4 192.0.2.1 192.0.2.2 5070 5060\r\n" + MESSAGE)
            await settled(lambda: len(received) == 1)
            facts = transport.proxied(received[0][1])
            assert facts is not None
            assert (facts["src_ip"], facts["src_port"]) == ("192.0.2.1", 5070)
            client.send(b"PROXY UDP4 x y 1 2\r\n" + MESSAGE)
            client.send(MESSAGE)
            await settled(lambda: len(received) == 2)
            assert transport.proxied(received[1][1]) is None
        assert {data for data, _ in received} == {MESSAGE}
        assert transport.traffic.dropped_in == 1
        await transport.close()

    play(loop, scene)
