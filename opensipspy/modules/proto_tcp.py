"""proto_tcp: lets the server listen on TCP and open TCP connections."""

from __future__ import annotations

from opensipspy import sip
from opensipspy.management import Json
from opensipspy.module import Param, mi_command
from opensipspy.module.tracing import TracedTransport


class ProtoTcp(TracedTransport):
    """SIP over TCP (RFC 3261 §18): without it no `socket=tcp:...` can be opened."""

    protocol = sip.PROTO_TCP

    tcp_port = Param(int, 5060, "Port of the TCP listening points that name none.")
    tcp_send_timeout = Param(
        int, 100, "How long a connection may stay unable to take data that waits for it before it is closed.", unit="ms"
    )
    tcp_max_msg_chunks = Param(
        int, 4, "In how many pieces a message may arrive; a connection that brings more is closed. 0: any number."
    )
    tcp_crlf_pingpong = Param(int, 1, "Answer a CRLFCRLF keep-alive with CRLF (RFC 5626 §4.4.1).")
    tcp_crlf_drop = Param(int, 0, "Ignore single CRLFs between messages; they are never an error here.")
    tcp_async = Param(int, 1, "Connect and write without blocking. The server never blocks, whatever the value.")
    tcp_async_max_postponed_chunks = Param(
        int, 32, "How many messages may wait for a connection that cannot take them before it is closed."
    )
    tcp_async_local_write_timeout = Param(
        int,
        10,
        "How long the C server tries to write at once; writing is handed to the system at once here.",
        unit="ms",
    )

    @property
    def default_port(self) -> int:
        """The port of a listening point that names none."""
        return self.tcp_port

    @mi_command("tcp:trace", aliases=("tcp_trace",), params=((), ("trace_mode",)))
    def trace(self, trace_mode: str | None = None) -> Json:
        """Switch tracing "on" or "off"; without `trace_mode`, say which it is."""
        return self.switch_tracing(trace_mode)
