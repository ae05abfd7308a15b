"""proto_sctp: lets the server listen on SCTP, where the kernel has it."""

from __future__ import annotations

from opensipspy import sip
from opensipspy.module import Module, Param


class ProtoSctp(Module):
    """SIP over SCTP (RFC 4168): without it no `socket=sctp:...` can be opened.

    Each message is one SCTP message, unordered on stream 0; the kernel opens and keeps the associations, and closes
    those that are silent for ten minutes. `tcp_max_connections` limits them too. A kernel without SCTP (Linux: the
    module `sctp`) refuses the socket, and the server does not start.
    """

    protocol = sip.PROTO_SCTP

    sctp_port = Param(int, 5060, "Port of the SCTP listening points that name none.")

    @property
    def default_port(self) -> int:
        """The port of a listening point that names none."""
        return self.sctp_port
