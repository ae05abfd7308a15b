"""proto_wss: SIP over WebSocket over TLS; `tls_mgm` holds the certificates. Needs the extra `ws` (websockets)."""

from __future__ import annotations

from opensipspy import sip
from opensipspy.management import Json
from opensipspy.module import Param, mi_command
from opensipspy.module.tracing import TracedTransport


class ProtoWss(TracedTransport):
    """SIP over secure WebSocket (RFC 7118): without it no `socket=wss:...` can be opened."""

    protocol = sip.PROTO_WSS
    requires = ("tls_mgm",)

    cert_check_on_conn_reusage = Param(
        int, 0, "1: a connection that we opened carries only messages for which its TLS domain would be chosen again."
    )
    require_origin = Param(
        (int, str), 1, "1, or yes: a handshake needs the header Origin, which all browsers send. 0, or no: it does not."
    )
    wss_handshake_timeout = Param(
        int, 100, "How long the WebSocket handshake may take, after that of TLS; see below.", unit="ms"
    )
    wss_max_msg_chunks = Param(
        int, 4, "In how many pieces a message may arrive; a connection that brings more is closed. 0: any number."
    )
    wss_port = Param(int, 443, "Port of the WebSocket listening points that name none.")
    wss_resource = Param(str, "/", "What our own connections ask for.")
    wss_send_timeout = Param(
        int, 100, "How long a connection may stay unable to take data that waits for it before it is closed.", unit="ms"
    )
    wss_tls_handshake_timeout = Param(
        int,
        100,
        "How long the TLS handshake may take; both limits are added up. Where none is set, tcp_max_msg_time counts.",
        unit="ms",
    )

    @property
    def default_port(self) -> int:
        """The port of a listening point that names none."""
        return self.wss_port

    @mi_command("wss:trace", aliases=("wss_trace",), params=((), ("trace_mode",)))
    def trace(self, trace_mode: str | None = None) -> Json:
        """Switch tracing "on" or "off"; without `trace_mode`, say which it is."""
        return self.switch_tracing(trace_mode)
