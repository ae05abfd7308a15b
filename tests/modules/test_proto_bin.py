"""proto_bin: its parameters reach the connections, packets reach who asked for them, nonsense is counted."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from opensipspy import sip
from opensipspy.cluster import Packet, PacketWriter
from opensipspy.module.testing import FakeCore
from opensipspy.modules.proto_bin import ProtoBin
from opensipspy.net import BinTransport, TcpSettings
from opensipspy.server.listening import Listen, ListenError, parse_listen, plan
from opensipspy.server.transports import Transports
from opensipspy.sip import Peer, Socket
from tests.server.house import GLOBALS

PEER = Peer(sip.PROTO_BIN, "192.0.2.7", 40000, 1)
HERE = Socket(sip.PROTO_BIN, "192.0.2.1", 5555)


def settings(**params: Any) -> TcpSettings:
    made = Transports(SimpleNamespace(**GLOBALS), {"proto_bin": ProtoBin(**params)}, cast(Any, None), cast(Any, None))
    transport = made.make(sip.DEFAULT_LIMITS)[sip.PROTO_BIN]
    assert isinstance(transport, BinTransport)
    return transport.settings


def test_the_manual_s_defaults() -> None:
    made = settings()
    assert (made.max_postponed, made.max_chunks, made.send_timeout_s) == (1024, 32, 0.0)
    assert ProtoBin().default_port == 5555


def test_each_parameter_acts() -> None:
    assert ProtoBin(bin_port=5566).default_port == 5566
    assert settings(bin_max_msg_chunks=8).max_chunks == 8
    assert settings(bin_async_max_postponed_chunks=16).max_postponed == 16
    assert settings(bin_async=0, bin_send_timeout=250).send_timeout_s == 0.25
    assert settings(bin_async_local_write_timeout=5).send_timeout_s == 0.0


def test_listening_points_are_asked_for_by_name_only() -> None:
    ports = {sip.PROTO_UDP: 5060, sip.PROTO_BIN: 5555}
    assert [p.socket.text for p in plan([parse_listen("bin:127.0.0.1")], ports)] == ["bin:127.0.0.1:5555"]
    assert [p.socket.text for p in plan([parse_listen("bin:127.0.0.1:5566")], ports)] == ["bin:127.0.0.1:5566"]
    assert [p.socket.text for p in plan([Listen(0, "127.0.0.1")], ports)] == ["udp:127.0.0.1:5060"]
    with pytest.raises(ListenError, match="proto_bin"):
        plan([parse_listen("bin:127.0.0.1")], {sip.PROTO_UDP: 5060})


def test_no_uri_leads_to_a_bin_socket() -> None:
    """RFC 3261 §19.1.1: transport= names a transport of SIP."""
    assert sip.proto_number("bin") == sip.PROTO_NONE
    assert sip.parse_uri("sip:192.0.2.1:5555;transport=bin").proto == sip.PROTO_NONE


def test_packets_reach_who_asked_for_their_capability(caplog: pytest.LogCaptureFixture) -> None:
    core = FakeCore()
    module = core.add(ProtoBin())
    taken: list[tuple[int, int]] = []
    module.on_packet("mine", lambda packet, peer: taken.append((packet.kind, packet.number())))
    module.received(PacketWriter("mine", 4).number(9).data(), PEER, HERE)
    assert taken == [(4, 9)]
    with caplog.at_level(logging.WARNING):
        module.received(PacketWriter("other", 4).data(), PEER, HERE)
        module.received(PacketWriter("mine", 4).data(), PEER, HERE)
        module.received(PacketWriter("mine", 4).data()[:-1], PEER, HERE)
    assert module.dropped == 3
    assert len(caplog.records) == 1, "a flood is one line a second"
    assert "bin:192.0.2.7:40000 is dropped: nobody takes packets of 'other'" in caplog.text
    core.advance(2)
    with caplog.at_level(logging.WARNING):
        module.received(b"nonsense", PEER, HERE)
    assert "(2 before it, too)" in caplog.records[-1].getMessage()


def test_a_packet_knows_its_capability() -> None:
    assert Packet(PacketWriter("mine", 4).data()).capability == "mine"
