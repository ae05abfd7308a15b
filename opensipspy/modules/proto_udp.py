"""proto_udp: lets the server listen on UDP."""

from __future__ import annotations

from opensipspy import sip
from opensipspy.module import Module, Param


class ProtoUdp(Module):
    """SIP over UDP (RFC 3261 §18): without it no `socket=udp:...` can be opened."""

    protocol = sip.PROTO_UDP

    udp_port = Param(int, 5060, "Port of the UDP listening points that name none.")

    @property
    def default_port(self) -> int:
        """The port of a listening point that names none."""
        return self.udp_port
