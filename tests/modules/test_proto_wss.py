"""proto_wss: its parameters reach the connections."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from opensipspy import sip
from opensipspy.modules.proto_wss import ProtoWss
from opensipspy.modules.tls_mgm import TlsMgm
from opensipspy.net import TcpSettings
from opensipspy.net.ws import WssTransport
from opensipspy.server.transports import Transports
from tests.server.house import GLOBALS


def settings(**params: Any) -> TcpSettings:
    modules = {"proto_wss": ProtoWss(**params), "tls_mgm": TlsMgm()}
    made = Transports(SimpleNamespace(**GLOBALS), modules, cast(Any, None), cast(Any, None))
    found = made.make(sip.DEFAULT_LIMITS)[sip.PROTO_WSS]
    assert isinstance(found, WssTransport)
    return found.settings


def test_each_parameter_acts() -> None:
    assert ProtoWss().default_port == 443
    assert ProtoWss(wss_port=8443).default_port == 8443
    assert settings(wss_max_msg_chunks=9).max_chunks == 9
    assert settings(wss_send_timeout=400).send_timeout_s == 0.4
    assert settings().handshake_time_s == GLOBALS["tcp_max_msg_time"]
    # What is not set counts with its default in the sum of the two.
    assert settings(wss_tls_handshake_timeout=300).handshake_time_s == 0.4
    assert settings(wss_tls_handshake_timeout=300, wss_handshake_timeout=200).handshake_time_s == 0.5
