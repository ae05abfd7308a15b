"""proto_tls: its parameters reach the connections; certificates are tls_mgm's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from opensipspy import sip
from opensipspy.modules.proto_tls import ProtoTls
from opensipspy.modules.tls_mgm import TlsMgm
from opensipspy.net import TlsTransport
from opensipspy.server.errors import StartError
from opensipspy.server.transports import Transports, tls_choices
from tests.server.house import GLOBALS


def transport(**params: Any) -> TlsTransport:
    modules = {"proto_tls": ProtoTls(**params), "tls_mgm": TlsMgm()}
    made = Transports(SimpleNamespace(**GLOBALS), modules, cast(Any, None), cast(Any, None))
    found = made.make(sip.DEFAULT_LIMITS)[sip.PROTO_TLS]
    assert isinstance(found, TlsTransport)
    return found


def test_each_parameter_acts() -> None:
    made = transport().settings
    assert (made.max_chunks, made.max_postponed, made.crlf_pingpong, made.send_timeout_s) == (4, 32, True, 0.0)
    assert ProtoTls().default_port == 5061
    assert ProtoTls(tls_port=5062).default_port == 5062
    assert transport(tls_max_msg_chunks=8).settings.max_chunks == 8
    assert transport(tls_async_max_postponed_chunks=5).settings.max_postponed == 5
    assert not transport(tls_crlf_pingpong=0).settings.crlf_pingpong
    assert transport(tls_async=0, tls_send_timeout=250).settings.send_timeout_s == 0.25


def test_a_handshake_has_the_time_that_the_script_gives_it() -> None:
    """Where the script says nothing, 100 ms would be too short for a peer on another continent."""
    assert transport().settings.handshake_time_s == GLOBALS["tcp_max_msg_time"]
    assert transport(tls_handshake_timeout=300).settings.handshake_time_s == 0.3


def test_tls_mgm_is_needed() -> None:
    made = Transports(SimpleNamespace(**GLOBALS), {"proto_tls": ProtoTls()}, cast(Any, None), cast(Any, None))
    with pytest.raises(StartError, match="tls_mgm"):
        made.make(sip.DEFAULT_LIMITS)


@pytest.mark.parametrize("text", ["dom", "$avp(dom)", "$bavp(dom)"])
def test_the_names_of_the_avps(text: str) -> None:
    assert tls_choices(TlsMgm(client_sip_domain_avp=text)) == ("dom", "")
    assert tls_choices(TlsMgm(client_tls_domain_avp=text)) == ("", "dom")
    assert tls_choices(None) == ("", "")
