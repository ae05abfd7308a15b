"""proto_tls: lets the server listen on TLS and open TLS connections; `tls_mgm` holds the certificates."""

from __future__ import annotations

from opensipspy import sip
from opensipspy.management import Json
from opensipspy.module import Param, mi_command
from opensipspy.module.tracing import TracedTransport


class ProtoTls(TracedTransport):
    """SIP over TLS (RFC 3261 §26.2.1): without it no `socket=tls:...` can be opened."""

    protocol = sip.PROTO_TLS
    requires = ("tls_mgm",)

    cert_check_on_conn_reusage = Param(
        int, 0, "1: a connection that we opened carries only messages for which its TLS domain would be chosen again."
    )
    tls_async = Param(int, 1, "Connect and write without blocking. The server never blocks, whatever the value.")
    tls_async_max_postponed_chunks = Param(
        int, 32, "How many messages may wait for a connection that cannot take them before it is closed."
    )
    tls_crlf_drop = Param(int, 0, "Ignore single CRLFs between messages; they are never an error here.")
    tls_crlf_pingpong = Param(int, 1, "Answer a CRLFCRLF keep-alive with CRLF (RFC 5626 §4.4.1).")
    tls_handshake_timeout = Param(
        int, 100, "How long a handshake may take. Where it is not set, tcp_max_msg_time counts instead.", unit="ms"
    )
    tls_max_msg_chunks = Param(
        int, 4, "In how many pieces a message may arrive; a connection that brings more is closed. 0: any number."
    )
    tls_port = Param(int, 5061, "Port of the TLS listening points that name none.")
    tls_send_timeout = Param(
        int,
        100,
        "How long a connection may stay unable to take data that waits for it, when tls_async is 0.",
        unit="ms",
    )

    @property
    def default_port(self) -> int:
        """The port of a listening point that names none."""
        return self.tls_port

    @mi_command("tls:trace", aliases=("tls_trace",), params=((), ("trace_mode",)))
    def trace(self, trace_mode: str | None = None) -> Json:
        """Switch tracing "on" or "off"; without `trace_mode`, say which it is."""
        return self.switch_tracing(trace_mode)
