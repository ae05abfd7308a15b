"""proto_ws: its parameters reach the connections."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from opensipspy import sip
from opensipspy.modules.proto_ws import ProtoWs
from opensipspy.net import TcpSettings
from opensipspy.net.ws import WsTransport
from opensipspy.server.transports import Transports, yes
from tests.server.house import GLOBALS


def settings(**params: Any) -> TcpSettings:
    made = Transports(SimpleNamespace(**GLOBALS), {"proto_ws": ProtoWs(**params)}, cast(Any, None), cast(Any, None))
    found = made.make(sip.DEFAULT_LIMITS)[sip.PROTO_WS]
    assert isinstance(found, WsTransport)
    return found.settings


def test_each_parameter_acts() -> None:
    assert ProtoWs().default_port == 80
    assert ProtoWs(ws_port=8080).default_port == 8080
    assert settings().max_chunks == 4
    assert settings(ws_max_msg_chunks=0).max_chunks == 0
    assert settings().handshake_time_s == GLOBALS["tcp_max_msg_time"]
    assert settings(ws_handshake_timeout=300).handshake_time_s == 0.3
    assert settings(ws_send_timeout=400).send_timeout_s == 0.4


def test_require_origin_takes_words_too() -> None:
    """The manual's own example is `no`."""
    assert yes(ProtoWs().require_origin)
    assert not yes(ProtoWs(require_origin="no").require_origin)
    assert not yes(ProtoWs(require_origin=0).require_origin)
