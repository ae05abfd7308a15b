"""proto_tcp: its parameters reach the connections."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from opensipspy import sip
from opensipspy.modules.proto_tcp import ProtoTcp
from opensipspy.net import TcpSettings, TcpTransport
from opensipspy.server.transports import Transports
from tests.server.house import GLOBALS


def settings(globals_: dict[str, Any] = GLOBALS, **params: Any) -> TcpSettings:
    made = Transports(SimpleNamespace(**globals_), {"proto_tcp": ProtoTcp(**params)}, cast(Any, None), cast(Any, None))
    transport = made.make(sip.DEFAULT_LIMITS)[sip.PROTO_TCP]
    assert isinstance(transport, TcpTransport)
    return transport.settings


def test_the_manual_s_defaults() -> None:
    made = settings()
    assert (made.max_postponed, made.max_chunks, made.crlf_pingpong, made.send_timeout_s) == (32, 4, True, 0.0)
    assert ProtoTcp().default_port == 5060


def test_each_parameter_acts() -> None:
    assert ProtoTcp(tcp_port=5065).default_port == 5065
    assert settings(tcp_max_msg_chunks=8).max_chunks == 8
    assert settings(tcp_max_msg_chunks=0).max_chunks == 0
    assert not settings(tcp_crlf_pingpong=0).crlf_pingpong
    assert settings(tcp_async_max_postponed_chunks=16).max_postponed == 16
    assert settings(tcp_async=0, tcp_send_timeout=250).send_timeout_s == 0.25


def test_the_global_parameters_act_too() -> None:
    values = {
        **GLOBALS,
        "tcp_connect_timeout": 300,
        "tcp_connection_lifetime": 7,
        "tcp_max_msg_time": 2,
        "tcp_max_connections": 100,
    }
    made = settings(values)
    assert (made.connect_timeout_s, made.lifetime_s, made.message_time_s) == (0.3, 7, 2)
    assert (made.max_connections, made.max_per_source) == (100, 25)
