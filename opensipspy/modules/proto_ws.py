"""proto_ws: lets the server speak SIP over WebSocket, as browsers do. Needs the extra `ws` (websockets)."""

from __future__ import annotations

from opensipspy import sip
from opensipspy.management import Json
from opensipspy.module import Param, mi_command
from opensipspy.module.tracing import TracedTransport


class ProtoWs(TracedTransport):
    """SIP over WebSocket (RFC 7118): without it no `socket=ws:...` can be opened.

    A client that has no address of its own names itself by a host that ends in `.invalid`; what goes there goes over
    its connection for as long as that is open. Messages are never compressed.
    """

    protocol = sip.PROTO_WS

    require_origin = Param(
        (int, str), 1, "1, or yes: a handshake needs the header Origin, which all browsers send. 0, or no: it does not."
    )
    ws_handshake_timeout = Param(
        int, 100, "How long a handshake may take. Where it is not set, tcp_max_msg_time counts instead.", unit="ms"
    )
    ws_max_msg_chunks = Param(
        int, 4, "In how many pieces a message may arrive; a connection that brings more is closed. 0: any number."
    )
    ws_port = Param(int, 80, "Port of the WebSocket listening points that name none.")
    ws_resource = Param(str, "/", "What our own connections ask for.")
    ws_send_timeout = Param(
        int, 100, "How long a connection may stay unable to take data that waits for it before it is closed.", unit="ms"
    )

    @property
    def default_port(self) -> int:
        """The port of a listening point that names none."""
        return self.ws_port

    @mi_command("ws:trace", aliases=("ws_trace",), params=((), ("trace_mode",)))
    def trace(self, trace_mode: str | None = None) -> Json:
        """Switch tracing "on" or "off"; without `trace_mode`, say which it is."""
        return self.switch_tracing(trace_mode)
